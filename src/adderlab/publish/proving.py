"""Prover and checker in a process of their own, with limits, on numbers that a stranger gave.

What a sandboxed reading hands out fits its form (``handout``), but may be made to take all memory and
time that there is. So the checking process does not compute with it: it starts this program on a folder
of plain data, watches its time, and reads its answer. The program is ours and runs no code of the
stranger's; the limits are about numbers.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adderlab.checker.intervals import Interval
from adderlab.checker.model import model_from_tables
from adderlab.checker.verify import Report, check, check_document
from adderlab.errors import Failure, UsageError
from adderlab.files.schema import to_dict
from adderlab.models.tables import plain_form
from adderlab.proof.certificate import certificate, write_certificate
from adderlab.proof.problem import problem_from_tables
from adderlab.proof.prove import Progress, Proof, exact_tables, plain_config, prove_problem
from adderlab.proof.search import Limits
from adderlab.publish.handout import tables, take
from adderlab.publish.submission import read_submission
from adderlab.reading.reading import table_logits

LIMITS = Limits(seconds=60.0, union_seconds=15.0)
MEMORY_MIB = 8192
"""Address space beyond what PyTorch takes to start: the prover of a model of many heads takes a few
GiB, most take less than one."""
WEAKEST = 200
"""Pairs with the smallest margins that are told, for the file itself to be asked."""
CERTIFICATE = "certificate.json.gz"
_TABLE = "table "

Pair = tuple[int, int]
_Report = Callable[[str, int, int], None]
"""(stage, done, of all)."""


class NotComputed(Exception):
    """The prover came to no verdict. Why, in a few words."""


@dataclass(frozen=True, kw_only=True)
class Proved:
    """What prover and checker say of tables, or of the weights in a file that adderlab wrote."""

    verdict: str
    """proved, refuted or undecided; proved only if the checker accepted the certificate."""
    failing_pairs: int | Pair
    margin_bound: float | None
    margin: float
    pair: Pair
    """The smallest margin that was met, and where."""
    weakest: tuple[Pair, ...]
    checked: bool | None
    reason: str
    logits: NDArray[np.float64] | None = None
    """Of the tables, on the sequences that were asked for: (N, A, V)."""


def prove_apart(
    folder: Path,
    *,
    seconds: float,
    failing: Sequence[Pair],
    handed: tuple[Mapping[str, Any], Mapping[str, NDArray[np.float64]]] | None,
    sequences: Sequence[Sequence[int]] = (),
    source: str,
    sha256: str,
    on_progress: _Report,
) -> Proved:
    """Prove what was ``handed`` out (message, numbers), or the weights in ``source``; a process apart.

    ``folder``: an empty one, for the data and the certificate. ``failing``: pairs that the file was seen
    to fail on. ``sha256``: of the source. Raises ``NotComputed``.
    """
    if handed is None:
        (folder / "submission.py").write_text(source, encoding="utf-8")
    else:
        message, arrays = handed
        (folder / "message.json").write_text(json.dumps(message))
        # Under names that are no argument of numpy's.
        named = {f"{_TABLE}{name}": array for name, array in arrays.items()}
        np.savez(folder / "numbers.npz", **named)  # type: ignore[bad-argument-type]
    question = {"failing": failing, "sequences": sequences, "sha256": sha256}
    (folder / "question.json").write_text(json.dumps(question))
    command = [sys.executable, "-c", f"from {__name__} import main; main()", str(folder)]
    package = str(Path(__file__).parents[2])
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = {**os.environ, "PYTHONPATH": package, "CUDA_VISIBLE_DEVICES": "", **one_thread}
    with (folder / "errors").open("wb") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, cwd=folder, env=environment, text=True
        )
        out_of_time = threading.Event()

        def stop() -> None:
            out_of_time.set()
            process.kill()

        timer = threading.Timer(max(seconds, 0.1), stop)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                stage, done, total = json.loads(line)
                on_progress(stage, done, total)
            process.wait()
        finally:
            timer.cancel()
            process.kill()
            process.wait()
            process.stdout.close()
    if out_of_time.is_set():
        raise NotComputed(f"the prover was not done in {seconds:.0f} s")
    return _answer(folder)


def _answer(folder: Path) -> Proved:
    try:
        answer = json.loads((folder / "answer.json").read_text())
    except FileNotFoundError:
        last = (folder / "errors").read_text(errors="replace").strip().splitlines()[-1:]
        raise NotComputed(f"the prover ended early ({(last or ['no memory'])[0][:200]})") from None
    if "error" in answer:
        raise NotComputed(answer["error"])
    logits, failing = folder / "logits.npy", answer["failing_pairs"]
    return Proved(
        verdict=answer["verdict"],
        failing_pairs=failing if isinstance(failing, int) else (failing[0], failing[1]),
        margin_bound=answer["margin_bound"],
        margin=answer["margin"],
        pair=tuple(answer["pair"]),
        weakest=tuple(map(tuple, answer["weakest"])),
        checked=answer["checked"],
        reason=answer["reason"],
        logits=np.load(logits, allow_pickle=False) if logits.exists() else None,
    )


# In the process of its own.


def main() -> None:
    """``prove_apart``'s other side: the folder is the argument."""
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    question = json.loads((folder / "question.json").read_text())
    failing = [tuple(pair) for pair in question["failing"]]

    def report(stage: str, done: int, total: int) -> None:
        print(json.dumps([stage, done, total]), flush=True)

    _limit_memory()
    try:
        if (folder / "submission.py").exists():
            answer = _prove_weights(folder, failing, report)
        else:
            answer = _prove_tables(folder, question, failing, report)
    except (Failure, UsageError) as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": f"the prover needs more memory than {MEMORY_MIB} MiB for this model"}
    (folder / "answer.json").write_text(json.dumps(answer))


def _limit_memory() -> None:
    import resource  # which not every system has

    with contextlib.suppress(OSError, ValueError), open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + (MEMORY_MIB << 20),) * 2)


def _prove_weights(folder: Path, failing: list[Pair], report: _Report) -> dict[str, Any]:
    """The weights in a file that adderlab wrote: from the stored numbers on, none of its code run."""
    own = read_submission((folder / "submission.py").read_text(encoding="utf-8"))
    assert own is not None
    checkpoint = own.checkpoint()
    proof = prove_problem(
        problem_from_tables(exact_tables(checkpoint)),
        weights_sha256=checkpoint.weights_sha256,
        config=plain_config(checkpoint.config),
        limits=LIMITS,
        progress=_phases(report),
        failing=failing,
    )
    return _settled(
        folder,
        proof,
        lambda document: check_document(document, checkpoint, progress=_checking(report), fp32=False),
    )


def _prove_tables(
    folder: Path, question: Mapping[str, Any], failing: list[Pair], report: _Report
) -> dict[str, Any]:
    """What a reading handed out. The certificate names the file as ``adderlab prove`` of it would, so
    that ``adderlab check`` can hold it against the file, read again from its first operation on."""
    handout = take(json.loads((folder / "message.json").read_text()))
    with np.load(folder / "numbers.npz", allow_pickle=False) as archive:
        arrays = {name: archive[f"{_TABLE}{name}"] for name in handout.shapes}
    own = tables(handout, arrays)
    if question["sequences"]:
        np.save(folder / "logits.npy", table_logits(own, torch.tensor(question["sequences"])).numpy())
    form = handout.form
    config = {
        "sha256": question["sha256"],
        "token_layout": to_dict(form.layout),
        **handout.file,
    }
    proof = prove_problem(
        problem_from_tables(own),
        weights_sha256=handout.weights_sha256,
        config=config,
        limits=LIMITS,
        progress=_phases(report),
        failing=failing,
    )
    return _settled(
        folder,
        proof,
        lambda document: check(
            json.loads(json.dumps(document)),
            model_from_tables(form, {name: Interval(array) for name, array in arrays.items()}),
            form=json.loads(json.dumps(plain_form(form))),
            weights_sha256=handout.weights_sha256,
            config=config,
            progress=_checking(report),
        ),
    )


def _phases(report: _Report) -> Callable[[Progress], None]:
    return lambda at: report(f"proof: {at.phase}", at.done, at.total)


def _checking(report: _Report) -> Callable[[int, int], None]:
    return lambda done, total: report("proof: checker", done, total)


def _settled(
    folder: Path, proof: Proof, checked_by: Callable[[dict[str, Any]], Report]
) -> dict[str, Any]:
    """The answer; of a proof, once its certificate is kept and was given to the checker."""
    checked, verdict, reason = None, proof.verdict, proof.reason
    if verdict == "proved":
        document = certificate(proof)
        write_certificate(folder / CERTIFICATE, document)
        checked = checked_by(document)
    if checked is not None and not checked.accepted:
        verdict, reason = "undecided", f"the checker did not accept the certificate: {checked.reason}"
    pairs = dict.fromkeys((w.a, w.b) for w in proof.witnesses)
    return {
        "verdict": verdict,
        "failing_pairs": proof.failing_pairs,
        "margin_bound": proof.margin.bound,
        "margin": proof.margin.witness,
        "pair": proof.margin.pair,
        "weakest": list(pairs)[:WEAKEST],
        "checked": None if checked is None else checked.accepted,
        "reason": reason,
    }
