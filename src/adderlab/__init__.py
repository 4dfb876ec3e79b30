"""adderlab: train, measure and prove tiny transformers that add two 10-digit numbers.

    import adderlab as al

    model = al.load("best.pt")
    proof = al.prove(model)

docs/api.md is a tour. Nothing heavy is imported before a name is used: ``import adderlab`` loads
neither PyTorch nor numpy.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adderlab.api.models import Inspection as Inspection
    from adderlab.api.models import Model as Model
    from adderlab.api.models import evaluate as evaluate
    from adderlab.api.models import inspect as inspect
    from adderlab.api.models import load as load
    from adderlab.api.models import predict as predict
    from adderlab.api.models import read as read
    from adderlab.api.presets import Zoo as Zoo
    from adderlab.api.presets import preset as preset
    from adderlab.api.presets import presets as presets
    from adderlab.api.presets import recipe as recipe
    from adderlab.api.presets import settings as settings
    from adderlab.api.proofs import attack as attack
    from adderlab.api.proofs import check as check
    from adderlab.api.proofs import export_theorem as export_theorem
    from adderlab.api.proofs import prove as prove
    from adderlab.api.proofs import prove_exhaustively as prove_exhaustively
    from adderlab.api.proofs import prove_window as prove_window
    from adderlab.api.proofs import repair as repair
    from adderlab.api.publishing import export as export
    from adderlab.api.publishing import verify as verify
    from adderlab.api.publishing import verify_folder as verify_folder
    from adderlab.api.reports import Comparison as Comparison
    from adderlab.api.reports import Figure as Figure
    from adderlab.api.reports import Replayed as Replayed
    from adderlab.api.reports import compare as compare
    from adderlab.api.reports import explore as explore
    from adderlab.api.reports import figures as figures
    from adderlab.api.reports import replay as replay
    from adderlab.api.reports import write_log as write_log
    from adderlab.api.reports import write_report as write_report
    from adderlab.api.studies import Sweep as Sweep
    from adderlab.api.studies import measure_rate as measure_rate
    from adderlab.api.studies import plan as plan
    from adderlab.api.studies import sweep as sweep
    from adderlab.api.training import Run as Run
    from adderlab.api.training import open_run as open_run
    from adderlab.api.training import resume as resume
    from adderlab.api.training import search as search
    from adderlab.api.training import train as train
    from adderlab.errors import Failure as Failure
    from adderlab.errors import UsageError as UsageError
    from adderlab.runs.records import SeedRecord as SeedRecord
    from adderlab.training.measure import Listener as Listener

__version__ = "0.2.0"

_HOMES = {
    "errors": ("UsageError", "Failure"),
    "runs.records": ("SeedRecord",),
    "training.measure": ("Listener",),
    "api.models": ("Model", "load", "read", "evaluate", "predict", "inspect", "Inspection"),
    "api.presets": ("presets", "preset", "recipe", "settings", "Zoo"),
    "api.training": ("Run", "train", "resume", "search", "open_run"),
    "api.studies": ("measure_rate", "sweep", "Sweep", "plan"),
    "api.proofs": (
        *("prove", "prove_exhaustively", "prove_window", "export_theorem"),
        *("check", "attack", "repair"),
    ),
    "api.publishing": ("export", "verify", "verify_folder"),
    "api.reports": (
        *("write_report", "explore", "compare", "Comparison", "figures", "Figure"),
        *("write_log", "replay", "Replayed"),
    ),
}
"""Module -> the public names it defines; the imports above tell type checkers and editors the same."""

_MODULE_OF = {name: f"adderlab.{module}" for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_MODULE_OF]  # pyrefly: ignore


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'adderlab' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
