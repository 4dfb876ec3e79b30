"""Publishing: a model as a file for others, and anyone's file checked in a sandbox."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from adderlab.api.models import ModelLike, load
from adderlab.engine.base import single_threaded
from adderlab.errors import UsageError
from adderlab.files.atomic import write_text
from adderlab.publish import export as exports
from adderlab.publish import folder as folders
from adderlab.publish import verify as verifications
from adderlab.publish.export import Exported, Kind
from adderlab.publish.folder import FileResult, FolderResult
from adderlab.publish.model_card import SUITES
from adderlab.publish.sandbox import Limits, require
from adderlab.publish.scoring import Progress
from adderlab.publish.verification import Verification
from adderlab.report.verified import verified_page


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
    form; of numbers of another size than ten digits a model card), "safetensors" or "onnx" (one file and
    a model card), "hub-folder" (``output`` is a folder).
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
    model: str = "build_model",
    add: str = "add",
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
    """Run anyone's AdderBoard submission, a Python file with ``build_model`` and ``add``, in a sandbox;
    or one for numbers of another size, which its metadata name as ``columns`` and ``base``.

    ``model`` and ``add`` name them where the file calls them otherwise: a function, a class or the model
    itself, and a function of (model, a, b) or (a, b) or a method of the model.
    ``sandbox``: "limits" bounds time, memory and output alone, for a container of your own. ``seconds``
    is for everything, ``answer_seconds`` for one answer. ``pairwise``: ask every pair through ``add``,
    also where the model can be driven in batches. ``strata``: pairs of each stratum, by default 1,000
    in batches and 10 through ``add``. ``prove``: decide all pairs; ``certificate``: write a
    proof there, which ``check`` holds against the file. ``progress`` gets (stage, done, of all).

    Whatever is wrong with the submission is a verdict. Raises ``UsageError`` for a missing file, a wrong
    setting or a sandbox that is not here. Source: docs/publishing.md.
    """
    return verifications.verify(
        Path(submission),
        names=(model, add),
        sandbox=sandbox,
        limits=Limits(seconds=seconds, answer_seconds=answer_seconds, memory_mib=memory_mib),
        pairwise=pairwise,
        strata_pairs=strata,
        prove=prove,
        certificate=None if certificate is None else Path(certificate),
        progress=progress,
    )


@single_threaded()
def verify_folder(
    folder: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    model: str = "build_model",
    add: str = "add",
    sandbox: Literal["bubblewrap", "limits"] = "bubblewrap",
    seconds: float = 1800.0,
    answer_seconds: float = 30.0,
    memory_mib: int = 4096,
    pairwise: bool = False,
    strata: int | None = None,
    prove: bool = True,
    on_result: Callable[[int, int, FileResult], None] = lambda *_: None,
    progress: Progress = lambda *_: None,
) -> FolderResult:
    """``verify`` every submission in a folder and below it, into one table; a second call goes on.

    A submission is a .py file that speaks of ``build_model``, or of what ``model`` names. ``output``: a
    folder for the results, by default results/verified/NAME: a JSON file for each submission, table.json
    and index.html. What lies there is kept for files, and data that they name, whose hash is the same,
    under the same settings; the others are checked anew. The settings are those of ``verify``.
    ``on_result`` gets (which, of all, result) of every file that was checked, ``progress`` (file and
    stage, done, of all).

    Raises ``UsageError`` for a folder without submissions, an output folder that holds something else, a
    wrong setting, or a sandbox that is not here. Source: docs/publishing.md.
    """
    path = Path(folder)
    if not path.is_dir():
        raise UsageError(f"there is no folder {path}")
    require(sandbox)
    limits = Limits(seconds=seconds, answer_seconds=answer_seconds, memory_mib=memory_mib)
    settings = {
        "names": [model, add],
        "sandbox": sandbox,
        "limits": dataclasses.asdict(limits),
        "pairwise": pairwise,
        "strata": strata,
        "prove": prove,
    }

    def check(file: Path, label: str) -> Verification:
        return verifications.verify(
            file,
            names=(model, add),
            sandbox=sandbox,
            limits=limits,
            pairwise=pairwise,
            strata_pairs=strata,
            prove=prove,
            progress=lambda stage, done, of: progress(f"{label}: {stage}", done, of),
        )

    result = folders.verify_folder(
        path,
        Path(output) if output is not None else Path("results") / "verified" / path.resolve().name,
        check,
        settings,
        named=model,
        on_result=on_result,
    )
    write_text(result.output / "index.html", verified_page(result))
    return result
