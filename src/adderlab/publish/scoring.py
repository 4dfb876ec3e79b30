"""Asking a submission for sums by its own rule, and scoring the answers; only this process knows the
sums.

The score is that of the file's own ``add``. Where watching has shown the model's rule, most pairs are
answered by the model in batches, and ``add`` is asked again for those that could differ: answers of a
form that was not seen before, wrong ones, and those where the model nearly chose otherwise.

The rule, how a file asks its model and reads its answers, is concluded from traces of ``add``. From the
tokens that each call of the model got, and the token it answered, follows which calls make the answer's
digits, in which order, what the calls around them answer, and, for models that decode greedily from a
fixed prompt, the prompt's rule. Then the model can be driven in batches, without ``add``. Only what was
seen is concluded. An answer of any other form (an end token that is missing or early, a token that is
no digit) has no value here: what it means is for ``add`` to say."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from adderlab.evaluation.exact import Miss, Score, SuiteReport
from adderlab.evaluation.suites import Suite
from adderlab.publish.sandbox import Ended, Sandbox
from adderlab.publish.verification import Disagreement
from adderlab.task.addition import PUBLISHED, SUM_DIGITS, Addition, from_digits

Progress = Callable[[str, int, int], None]
"""(stage, done, of all)."""
_BATCH = 1000
_CHUNK_SECONDS = 1.0
_WORTH_ANOTHER = 5.0
"""Seconds of ``add`` from which on another process is started for it: that takes a few."""
_MOST_FAILURES = 10
_WRONG_AGAIN, _CLOSE_AGAIN = 200, 50
"""Pairs of each suite for which ``add`` is asked after the batches: wrong ones, and the closest."""


def _nothing(done: int) -> None:
    """Nobody wants to know."""


@dataclass(kw_only=True)
class Answerer:
    """Asks the submission: through ``add``, or in batches where the model's rule is known."""

    sandbox: Sandbox
    seconds_per_pair: float
    """Of ``add``; measured as it goes."""
    addition: Addition = PUBLISHED
    batched: tuple[Prompt, Reading] | None = None
    another: Callable[[], Sandbox | None] = lambda: None
    """Starts the submission once more, in a process of its own; None if that fails."""
    cores: int = 1
    disagreements: list[Disagreement] = field(default_factory=list)
    by_add: int = 0
    """Pairs of the suites that ``add`` was asked for."""
    ended: Ended | None = None
    """How the submission ended before it had answered everything."""
    _others: list[Sandbox] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def how(self) -> str:
        """How the pairs were asked, for people."""
        if self.batched:
            return (
                "the model in batches, by the file's own rule; "
                f"add itself for {self.by_add:,} pairs that could differ"
            )
        processes = "" if not self._others else f", {1 + len(self._others)} processes"
        speed = 1 / max(self.seconds_per_pair, 1e-9)
        return f"add, one pair at a time ({speed:,.0f} a second{processes})"

    def add(self, pairs: list[Pair], on_answers: Callable[[int], None] = _nothing) -> list[Any]:
        """Answers of ``add``, an int or a text that says what came instead. Raises ``Ended``."""
        answers: list[Any] = [None] * len(pairs)
        self._add(pairs, range(len(pairs)), answers, on_answers)
        return answers

    def by_batches(self, pairs: list[Pair], on_answers: Callable[[int], None] = _nothing) -> list[Any]:
        """Answers of the model itself, driven greedily on prompts made here; None where only ``add`` can
        say what it answered. Raises ``Ended``."""
        answers: list[Any] = [None] * len(pairs)
        self._batches(pairs, answers, on_answers)
        return answers

    def answer(self, pairs: list[Pair], on_answers: Callable[[int], None] = _nothing) -> list[Any]:
        """The file's answers, as fast as it is known to work; None from where the submission ended."""
        answers: list[Any] = [None] * len(pairs)
        try:
            if self.batched is None:
                self._add(pairs, range(len(pairs)), answers, on_answers)
            else:
                leads = self._batches(pairs, answers, on_answers)
                self._ask_again(pairs, answers, leads, on_answers)
        except Ended as end:
            self.ended = end
        return answers

    def _add(
        self,
        pairs: list[Pair],
        indices: range | list[int],
        answers: list[Any],
        on_answers: Callable[[int], None],
    ) -> None:
        """Fill in the answers of ``add`` to some of the pairs, on all cores where that is worth it."""
        if len(indices) * self.seconds_per_pair > _WORTH_ANOTHER and not self._others:
            started = (self.another() for _ in range(self.cores - 1))
            self._others = [sandbox for sandbox in started if sandbox is not None]
        rest = iter(indices)
        done = 0
        failed = threading.Event()

        def work(sandbox: Sandbox) -> None:
            try:
                while not failed.is_set() and ask_some(sandbox):
                    pass
            except BaseException:
                failed.set()
                raise

        def ask_some(sandbox: Sandbox) -> bool:
            nonlocal done
            with self._lock:
                size = max(1, min(1000, int(_CHUNK_SECONDS / max(self.seconds_per_pair, 1e-5))))
                chunk = list(itertools.islice(rest, size))
            if not chunk:
                return False
            started = time.monotonic()
            asked = [pairs[index] for index in chunk]
            reply = sandbox.ask("add", sandbox.limits.answer_seconds, pairs=asked)
            for index, answer in zip(chunk, _list(reply, "answers", len(chunk)), strict=True):
                # None is what was not answered; a process that says so shall not profit.
                answers[index] = "nothing" if answer is None else answer
            with self._lock:
                done += len(chunk)
                self.seconds_per_pair = (time.monotonic() - started) / len(chunk)
                on_answers(done)
            return True

        if not self._others:
            work(self.sandbox)
            return
        with ThreadPoolExecutor(1 + len(self._others)) as pool:
            for each in [pool.submit(work, sandbox) for sandbox in (self.sandbox, *self._others)]:
                each.result()

    def _batches(
        self, pairs: list[Pair], answers: list[Any], on_answers: Callable[[int], None]
    ) -> list[float]:
        """Fill in the model's own answers; returns by how much each was chosen at least."""
        assert self.batched is not None
        prompt, reading = self.batched
        leads: list[float] = []
        for start in range(0, len(pairs), _BATCH):
            chunk = pairs[start : start + _BATCH]
            reply = self.sandbox.ask(
                "greedy",
                10 * self.sandbox.limits.answer_seconds,
                module=prompt.module,
                library=prompt.library,
                dtype=prompt.dtype,
                at_once=prompt.at_once,
                prompts=[prompt.tokens(a, b) for a, b in chunk],
                steps=reading.num_calls - prompt.skipped,
            )
            for i, row in enumerate(_list(reply, "tokens", len(chunk))):
                if isinstance(row, list):
                    answers[start + i] = reading.value([None] * prompt.skipped + row)
            leads += [_number(lead) for lead in _list(reply, "leads", len(chunk))]
            on_answers(len(leads))
        return leads

    def _ask_again(
        self,
        pairs: list[Pair],
        answers: list[Any],
        leads: list[float],
        on_answers: Callable[[int], None],
    ) -> None:
        """Where ``add`` could answer otherwise than the model in batches, it is ``add`` that counts."""
        unread = [i for i, answer in enumerate(answers) if answer is None]
        read = len(pairs) - len(unread)
        self._add(pairs, unread, answers, lambda done: on_answers(read + done))
        self.by_add += len(unread)
        first = set(unread)
        wrong = [i for i, (a, b) in enumerate(pairs) if answers[i] != a + b and i not in first]
        wrong = wrong[:_WRONG_AGAIN]
        first.update(wrong)
        close = [i for i in sorted(range(len(pairs)), key=leads.__getitem__) if i not in first]
        # On from the closest, for as long as there is one among them that add answers otherwise.
        self._compare(pairs, wrong, answers)
        for start in range(0, len(close), _CLOSE_AGAIN):
            if not self._compare(pairs, close[start : start + _CLOSE_AGAIN], answers):
                return

    def _compare(self, pairs: list[Pair], indices: list[int], answers: list[Any]) -> bool:
        """Put the answers of ``add`` in the place of the batches'; whether one is another."""
        before = [answers[i] for i in indices]
        self._add(pairs, indices, answers, _nothing)
        self.by_add += len(indices)
        found = [
            Disagreement(
                a=pairs[i][0], b=pairs[i][1], batched=str(old)[:80], by_add=str(answers[i])[:80]
            )
            for i, old in zip(indices, before, strict=True)
            if answers[i] != old
        ]
        self.disagreements += found
        return bool(found)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _list(reply: dict[str, Any], key: str, length: int) -> list[Any]:
    found = reply.get(key)
    if not isinstance(found, list) or len(found) != length:
        raise Ended(str(reply.get("error", "it did not answer every pair"))[:300])
    return found


def evaluate(
    answerer: Answerer, suite: Suite, progress: Progress, per_group: int | None = None
) -> SuiteReport | None:
    """Exact match on a suite, or on the first ``per_group`` pairs of each group.

    If the submission ends, on the pairs that it answered until then; None if it answered none.
    """
    started = time.monotonic()
    task = answerer.addition
    groups = [(group.name, _pairs(group, per_group, task.base)) for group in suite.groups]
    total = sum(len(pairs) for _, pairs in groups)
    everything = [pair for _, pairs in groups for pair in pairs]
    answers = answerer.answer(everything, lambda done: progress(suite.name, min(done, total), total))
    scores: list[Score] = []
    misses: list[Miss] = []
    before = 0
    for name, pairs in groups:
        answered = [
            (pair, answer)
            for pair, answer in zip(pairs, answers[before : before + len(pairs)], strict=True)
            if answer is not None
        ]
        before += len(pairs)
        if answered:
            scores.append(_score(name, answered, task))
        misses += [
            Miss(group=name, a=a, b=b, answer=str(answer)[:80], right_sum=a + b)
            for (a, b), answer in answered
            if answer != a + b
        ]
    if not scores:
        return None
    return SuiteReport(
        suite=suite.name,
        groups=tuple(scores),
        failures=tuple(misses[:_MOST_FAILURES]),
        seconds=time.monotonic() - started,
    )


def _pairs(group: Any, most: int | None, base: int) -> list[Pair]:
    a_B, b_B = from_digits(group.a_BJ[:most], base), from_digits(group.b_BJ[:most], base)
    return list(zip(a_B.tolist(), b_B.tolist(), strict=True))


def _score(name: str, answered: list[tuple[Pair, Any]], task: Addition) -> Score:
    correct = [0] * task.sum_digits
    errors = 0
    for (a, b), answer in answered:
        errors += answer != a + b
        for i, same in enumerate(_same_digits(a + b, answer, task)):
            correct[i] += same
    return Score(name=name, n=len(answered), errors=errors, right_digits=tuple(correct))


def _same_digits(wanted: int, answer: Any, task: Addition) -> Iterator[bool]:
    number, base = answer if isinstance(answer, int) and answer >= 0 else None, task.base
    for i in range(task.sum_digits):
        yield number is not None and wanted // base**i % base == number // base**i % base


# The rule, concluded from traces.


Pair = tuple[int, int]
Tokens = list[int | None]
_MOST = 0.75


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Each digit of the answer is made by one call of the model; ``token_of`` says how it is written."""

    up: bool
    """Units first."""
    token_of: dict[int, int]
    lengths: tuple[int, ...] = (SUM_DIGITS,)
    """How many digits there were: always the same (eleven of ten columns), with zeros in front, or as
    many as the sum has."""
    before: tuple[int | None, ...] = ()
    """What the calls before the digits answer; None where that varies."""
    after: tuple[int | None, ...] = ()
    """And those after them, for example an end token."""
    addition: Addition = PUBLISHED

    @property
    def padded(self) -> bool:
        """Whether there are zeros in front."""
        return self.lengths == (self.addition.sum_digits,)

    @property
    def num_calls(self) -> int:
        """For one answer, at most."""
        return len(self.before) + max(self.lengths) + len(self.after)

    def tokens(self, answer: int) -> Tokens:
        """What the calls must answer for ``add`` to return ``answer``."""
        task = self.addition
        digits = _digits(answer, task.sum_digits if self.padded else _length(answer, task), task.base)
        order = digits if self.up else digits[::-1]
        return [*self.before, *(self.token_of[digit] for digit in order), *self.after]

    def value(self, tokens: Sequence[int | None]) -> int | None:
        """The number that the answered tokens stand for; None if they have not the form that was seen.

        A token of None is one that was not asked for.
        """
        start, length = len(self.before), self.addition.sum_digits
        if not self.padded:
            stop = self.after[0]
            if stop not in tokens[start:]:
                return None
            length = tokens.index(stop, start) - start
        end = start + length
        digit_of = {token: digit for digit, token in self.token_of.items()}
        digits = [-1 if token is None else digit_of.get(token, -1) for token in tokens[start:end]]
        if length not in self.lengths or len(digits) != length or -1 in digits:
            return None
        if not _same(self.before, tokens[:start]) or not _same(self.after, tokens[end:]):
            return None
        order = digits if self.up else digits[::-1]
        if not self.padded and length > 1 and order[-1] == 0:
            return None
        return sum(digit * self.addition.base**i for i, digit in enumerate(order))


def _same(wanted: tuple[int | None, ...], tokens: Sequence[int | None]) -> bool:
    """Whether the tokens begin with the wanted ones; None is anything."""
    if len(tokens) < len(wanted):
        return False
    return all(a is None or b is None or a == b for a, b in zip(wanted, tokens, strict=False))


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The token at each position: a constant, or a column's digits, ``constant + wa a_j + wb b_j``."""

    module: str
    """The watched function that is called with the tokens alone."""
    library: str
    dtype: str
    rules: tuple[tuple[int, int, int, int], ...]
    """(constant, wa, wb, j) for each position."""
    at_once: bool = False
    """Whether all its answers can be had from one call, as those of a causal model can."""
    skipped: int = 0
    """Calls before the first whose tokens the others go on from."""
    addition: Addition = PUBLISHED

    def tokens(self, a: int, b: int) -> list[int]:
        """The prompt of one pair."""
        x, y = (_digits(n, self.addition.columns, self.addition.base) for n in (a, b))
        return [constant + wa * x[j] + wb * y[j] for constant, wa, wb, j in self.rules]


def _digits(value: int, count: int, base: int) -> list[int]:
    return [value // base**j % base for j in range(count)]


def _length(value: int, addition: Addition) -> int:
    """Digits of a number without zeros in front."""
    return len(addition.numeral(value))


def usual(pairs: list[Pair], traces: list[dict[str, Any]]) -> tuple[list[Pair], list[dict[str, Any]]]:
    """Those traces that have as many calls as most; all where there are not most.

    A file that now and then forgets its end token goes on: what it answers then is of no usual form.
    """
    (number, times), *_ = Counter(len(trace["calls"]) for trace in traces).most_common(1) or [(0, 0)]
    if times < _MOST * len(traces):
        return pairs, traces
    kept = [i for i, trace in enumerate(traces) if len(trace["calls"]) == number]
    return [pairs[i] for i in kept], [traces[i] for i in kept]


def find_reading(traces: list[dict[str, Any]], addition: Addition = PUBLISHED) -> Reading | None:
    """The reading under which every trace's answer is what its calls answered; None without one."""
    answers = [trace["answer"] for trace in traces]
    beyond = addition.base**addition.sum_digits
    if not traces or not all(isinstance(a, int) and 0 <= a < beyond for a in answers):
        return None
    calls = [trace["calls"] for trace in traces]
    if any("next" not in call for each in calls for call in each):
        return None
    answered = [[call["next"] for call in each] for each in calls]
    lengths = [addition.sum_digits] * len(answers)
    if len(set(map(len, answered))) > 1:
        lengths = [_length(answer, addition) for answer in answers]
    around = {len(tokens) - length for tokens, length in zip(answered, lengths, strict=True)}
    if len(around) != 1 or min(around) < 0:
        return None
    (around,) = around
    for first in range(around + 1):
        for up in (True, False):
            token_of = _token_of(answers, answered, lengths, first, up, addition.base)
            if token_of is None:
                continue
            found = Reading(
                up=up,
                token_of=token_of,
                lengths=tuple(sorted(set(lengths))),
                before=_constant([tokens[:first] for tokens in answered]),
                after=_constant([t[first + n :] for t, n in zip(answered, lengths, strict=True)]),
                addition=addition,
            )
            # Without one and the same token at the end nothing says where the digits end.
            if found.padded or (found.after and found.after[0] not in (None, *token_of.values())):
                return found
    return None


def _token_of(
    answers: list[int], answered: list[list[int]], lengths: list[int], first: int, up: bool, base: int
) -> dict[int, int] | None:
    """Digit -> token, if that is one and the same for all traces and distinct for all digits."""
    found: dict[int, int] = {}
    for answer, tokens, length in zip(answers, answered, lengths, strict=True):
        digits = _digits(answer, length, base)
        for digit, token in zip(digits if up else digits[::-1], tokens[first:], strict=False):
            if found.setdefault(digit, token) != token:
                return None
    return found if len(set(found.values())) == len(found) == base else None


def _constant(rows: list[list[int]]) -> tuple[int | None, ...]:
    """For each column its token if that is the same in all rows, else None."""
    return tuple(column[0] if len(set(column)) == 1 else None for column in zip(*rows, strict=True))


def find_prompt(pairs: list[Pair], traces: list[dict[str, Any]], reading: Reading) -> Prompt | None:
    """The rule of the prompt, if each call reads the last one's tokens and its answer; else None."""
    for skipped in range(len(reading.before) + 1):
        chains = [_greedy_prompt(trace["calls"][skipped:]) for trace in traces]
        prompts = [prompt for prompt in chains if prompt is not None]
        if len(prompts) == len(traces) and len(set(map(len, prompts))) == 1:
            break
    else:
        return None
    first = traces[0]["calls"][skipped]
    rules = [
        _rule([prompt[position] for prompt in prompts], pairs, reading.addition)
        for position in range(len(prompts[0]))
    ]
    known = tuple(rule for rule in rules if rule is not None)
    if len(known) != len(rules) or first.get("library") not in ("torch", "numpy", "mlx"):
        return None
    return Prompt(
        module=str(first["module"]),
        library=first["library"],
        dtype=str(first["dtype"]),
        rules=known,
        skipped=skipped,
        addition=reading.addition,
    )


def _greedy_prompt(calls: list[dict[str, Any]]) -> list[int] | None:
    tokens = None
    for call in calls:
        if not call.get("plain") or call["module"] != calls[0]["module"]:
            return None
        seen = call.get("tokens")
        if not (isinstance(seen, list) and len(seen) == 1 and isinstance(seen[0], list)):
            return None
        if tokens is not None and seen[0] != tokens:
            return None
        tokens = [*seen[0], call["next"]]
    return None if tokens is None else tokens[: len(tokens) - len(calls)]


def _rule(tokens: list[int], pairs: list[Pair], addition: Addition) -> tuple[int, int, int, int] | None:
    """The simplest rule that gives this position's token for every pair."""
    base = addition.base
    if len(set(tokens)) == 1:
        return tokens[0], 0, 0, 0
    for wa, wb in ((1, 0), (0, 1), (base, 1), (1, base)):
        for j in range(addition.columns):
            rests = {
                token - wa * (a // base**j % base) - wb * (b // base**j % base)
                for token, (a, b) in zip(tokens, pairs, strict=True)
            }
            if len(rests) == 1:
                return rests.pop(), wa, wb, j
    return None
