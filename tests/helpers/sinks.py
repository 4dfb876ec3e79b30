"""A run made up for the dashboards."""

from collections.abc import Callable
from typing import Any

from adderlab.report.live import Dashboards
from helpers.evaluations import Followed, evaluation


def dashboards(sinks: dict[str, Any], log: Callable[[str], None]) -> Dashboards:
    """With these sinks, as if they had been opened."""
    made = Dashboards([], log)
    made.sinks = sinks
    return made


def feed(opened: Dashboards) -> None:
    followed = Followed(opened)
    opened.on_step((0, 1), 1, 2)
    followed.evaluate(evaluation(100, (0, 1), [0.4, 0.0]))
    followed.evaluate(evaluation(200, (0, 1), [1.0, 0.2]))
    opened.close()
