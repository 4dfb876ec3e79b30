"""Publishing: a model as a file for others, and anyone's file checked in a sandbox."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from adderlab.api.models import ModelLike, load
from adderlab.engine.select import single_threaded
from adderlab.publish import export as exports
from adderlab.publish import verify as verifications
from adderlab.publish.export import Exported, Kind
from adderlab.publish.model_card import SUITES
from adderlab.publish.sandbox import Limits
from adderlab.publish.scoring import Progress
from adderlab.publish.verification import Verification


@single_threaded()
def export(
    model: ModelLike,
    *,
    to: Kind,
    output: str | os.PathLike[str],
    name: str | None = None,
    author: str | None = None,
    certificate: str | os.PathLike[str] | None = None,
    prove: bool = True,
    suites: Sequence[str] = SUITES,
) -> Exported:
    """Measure a model, ask the prover about it, and write it for others; it is compared first.

    ``to``: "adderboard" (one Python file that needs torch alone, and the text of the board's issue
    form), "safetensors" or "onnx" (one file and a model card), "hub-folder" (``output`` is a folder).
    ``name``: default the zoo's, ``author``: git's. ``certificate``: of ``prove`` for these weights;
    without one the prover is asked for up to a minute, unless ``prove`` is false. ``suites``: pairs on
    which the accuracy is measured.

    Raises ``UsageError`` for a wrong setting or a model that the format cannot hold, ``Failure`` if what
    was made does not compute what the model computes; nothing is written then. Source:
    docs/publishing.md.
    """
    return exports.export(
        load(model),
        to=to,
        output=Path(output),
        name=name,
        author=author,
        certificate=None if certificate is None else Path(certificate),
        prove=prove,
        suites=tuple(suites),
    )


@single_threaded()
def verify(
    submission: str | os.PathLike[str],
    *,
    sandbox: Literal["bubblewrap", "limits"] = "bubblewrap",
    seconds: float = 1800.0,
    answer_seconds: float = 30.0,
    memory_mib: int = 4096,
    pairwise: bool = False,
    strata: int | None = None,
    prove: bool = True,
    certificate: str | os.PathLike[str] | None = None,
    progress: Progress = lambda *_: None,
) -> Verification:
    """Run anyone's AdderBoard submission, a Python file with ``build_model`` and ``add``, in a sandbox.

    ``sandbox``: "limits" bounds time, memory and output alone, for a container of your own. ``seconds``
    is for everything, ``answer_seconds`` for one answer. ``pairwise``: ask every pair through ``add``,
    also where the model can be driven in batches. ``strata``: pairs of each stratum, by default 1,000
    in batches and 10 through ``add``. ``prove``: decide all 10^20 pairs; ``certificate``: write a
    proof there, which ``check`` holds against the file. ``progress`` gets (stage, done, of all).

    Whatever is wrong with the submission is a verdict. Raises ``UsageError`` for a missing file, a wrong
    setting or a sandbox that is not here. Source: docs/publishing.md.
    """
    return verifications.verify(
        Path(submission),
        sandbox=sandbox,
        limits=Limits(seconds=seconds, answer_seconds=answer_seconds, memory_mib=memory_mib),
        pairwise=pairwise,
        strata_pairs=strata,
        prove=prove,
        certificate=None if certificate is None else Path(certificate),
        progress=progress,
    )
