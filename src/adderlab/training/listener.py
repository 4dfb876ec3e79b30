"""Whoever follows a run, a search, a rate or a sweep: the live view, JSON lines, dashboards, meters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adderlab.runs.records import SeedRecord
    from adderlab.training.measure import Evaluation


@dataclass(frozen=True, kw_only=True)
class Start:
    """Seeds that begin to train side by side, or go on."""

    folder: Path
    """Their run folder."""
    seeds: tuple[int, ...]
    steps: int
    """Optimiser steps of each seed at most, restarts included."""
    resumed: bool
    device: str
    engine: str
    label: str = ""
    """What they are part of, for people."""


class Listener:
    """Does nothing; a listener overrides what it wants to know of.

    A search calls it from its worker threads, one call at a time. What it raises ends the training.
    """

    def on_start(self, start: Start) -> None:
        """Seeds begin to train, or go on."""

    def on_step(self, seeds: tuple[int, ...], step: int, models: int) -> None:
        """``step`` steps of these seeds are done; ``models`` are training: one for each seed that has
        not ended, or all its restarts. Called often: be quick."""

    def on_evaluation(self, evaluation: Evaluation, records: tuple[SeedRecord, ...]) -> None:
        """Seeds were evaluated; ``records`` are theirs, in the evaluation's order."""

    def on_verdict(self, record: SeedRecord, verdict: str) -> None:
        """A proof is over (``verdict``: proved, refuted or undecided), or a search has decided without
        one (dropped, unproved); ``record`` knows of it."""

    def on_end(self, folder: Path, records: tuple[SeedRecord, ...], status: str) -> None:
        """All is over, proofs included; ``records`` are those of all seeds. ``status`` says how: done,
        stopped, or how a search ended."""

    def on_message(self, text: str) -> None:
        """A line for people."""


class Listeners(Listener):
    """Several listeners as one, called in order."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self.listeners = tuple(listeners)

    def on_start(self, start: Start) -> None:
        for each in self.listeners:
            each.on_start(start)

    def on_step(self, seeds: tuple[int, ...], step: int, models: int) -> None:
        for each in self.listeners:
            each.on_step(seeds, step, models)

    def on_evaluation(self, evaluation: Evaluation, records: tuple[SeedRecord, ...]) -> None:
        for each in self.listeners:
            each.on_evaluation(evaluation, records)

    def on_verdict(self, record: SeedRecord, verdict: str) -> None:
        for each in self.listeners:
            each.on_verdict(record, verdict)

    def on_message(self, text: str) -> None:
        for each in self.listeners:
            each.on_message(text)

    def on_end(self, folder: Path, records: tuple[SeedRecord, ...], status: str) -> None:
        for each in self.listeners:
            each.on_end(folder, records, status)
