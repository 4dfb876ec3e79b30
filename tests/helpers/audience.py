"""A run made up for the dashboards."""

from typing import Any

from adderlab.report.sinks import Audience
from helpers.evaluations import evaluation


class Silent:
    """A view that notes what it is told."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def stepped(self, step: int, active: int) -> None:
        self.steps.append(step)

    def evaluated(self, evaluation: Any) -> None:
        self.steps.append(-evaluation.step)


def feed(audience: Audience) -> None:
    audience.stepped(1, 2)
    audience.evaluated(evaluation(100, (0, 1), [0.4, 0.0]))
    audience.evaluated(evaluation(200, (0, 1), [1.0, 0.2]))
    audience.close()
