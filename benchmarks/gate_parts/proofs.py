"""The same verdicts on records/best, and certificates that are still accepted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from checkouts import Pair
from gate_parts.answers import differences, pick
from gate_parts.check import Check, compared, same_code, succeeded

PROOF_KEYS = (
    "verdict",
    "failing_pairs",
    "counterexample",
    "margin.bound",
    "margin.witness",
    "margin.pair",
    "leaves",
    "cells",
)
CHECK_KEYS = ("accepted", "margin", "witness", "leaves", "cells", "fp32.covered", "fp32.margin")


def check_proofs(pair: Pair) -> Iterator[Check]:
    for folder in sorted((pair.old.root / "records" / "best").iterdir()):
        model, stored = folder / "model.pt", folder / "model.cert.json.gz"
        if not model.is_file():
            continue
        fresh = pair.old.folder / f"{folder.name}.cert.json"
        old, new = pair.run("prove", model, "--json", "-o", fresh.name)
        answers = [pick(each.document, PROOF_KEYS) for each in (old, new)]
        problems = succeeded(old, new) or differences(*answers)
        verdict, bound, leaves = (answers[0][key] for key in ("verdict", "margin.bound", "leaves"))
        note = f"{verdict}, margin at least {bound}, {leaves} leaves"
        yield compared(f"{folder.name}: a fresh proof", problems, note)
        # The floating-point question takes most of the time and does not depend on the certificate.
        name = f"{folder.name}: the old tree's fresh certificate"
        yield check_certificate(pair, name, fresh, model, "--real-only")
        yield check_certificate(pair, f"{folder.name}: the certificate on record", stored, model)


def check_certificate(pair: Pair, name: str, certificate: Path, model: Path, *options: str) -> Check:
    old, new = pair.run("check", certificate, model, "--json", *options)
    before, now = (pick(each.document, CHECK_KEYS) for each in (old, new))
    if not before["accepted"]:
        # Tables of float64 may differ between processors, and a certificate names the hash of its own.
        reason = (old.document or {}).get("reason") or old.complaint
        if now["accepted"]:
            return compared(name, [], f"accepted now; not before: {reason}")
        return compared(name, same_code(old, new), f"ACCEPTED BY NEITHER TREE: {reason}")
    return compared(name, same_code(old, new) + differences(before, now), "accepted")
