"""Worker processes: copies of this one that do one task after another and report to it.

Python runs one thread at a time. What trains a small model spends most of its time in it (evaluations,
proofs, files), so that threads side by side are as slow as one after the other. A copy made by ``fork``
starts within milliseconds, with everything that is loaded and compiled. ``share_out`` divides work among
copies, ``Worker`` is one of them.

A report is a call of the parent's that the worker waits for, so that the parent may do everything that
a thread would have done, and in the same order. A worker ends with its parent, however that ends, and
takes no signals: who asks for a stop asks the parent, and ``Flag`` passes it on.
"""

from __future__ import annotations

import contextlib
import functools
import io
import mmap
import os
import pickle
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from adderlab.errors import Failure, UsageError

Report = Callable[..., Any]
"""report(name, *arguments): what the parent is to hear; what it answers is returned."""
Work = Callable[[Any, Report], None]
"""Does one task."""


def usable_cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def can_fork() -> bool:
    """Whether a copy of this process can go on computing on the CPU. Elsewhere than on Linux system
    libraries do not bear it, nor does PyTorch once it has started threads for an accelerator."""
    return sys.platform == "linux" and not torch.cuda.is_available()


class Flag(threading.Event):
    """An event, once set for ever, that copies of this process made later see too."""

    def __init__(self) -> None:
        super().__init__()
        self._shared = mmap.mmap(-1, 1)

    def set(self) -> None:
        self._shared[0] = 1
        super().set()

    def is_set(self) -> bool:
        return self._shared[0] != 0


class Worker:
    """A copy of this process, made here, that does ``work``.

    Make all workers before any thread that may hold a lock, and use each from one thread.
    """

    def __init__(self, work: Work) -> None:
        self.core_seconds = 0.0
        """Processor time of the copy, up to its last word; once it has ended, all of it."""
        self._pipe, theirs = Pipe()
        # Only the parent holds the writing end: the copy sees it close when the parent ends.
        alive, self._alive = os.pipe()
        with warnings.catch_warnings():
            # Of threads here, as those of a live view: they hold no lock that the copy will take.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if self._pid:
            theirs.close()
            os.close(alive)
            _parents_ends.extend((self._alive, self._pipe.fileno()))
            return
        code = 1
        try:
            for end in (*_parents_ends, self._alive, self._pipe.fileno()):
                os.close(end)
            _parents_ends.clear()
            _serve(work, theirs, alive)
            code = 0
        except _Orphaned:
            pass
        finally:
            os._exit(code)

    def do(self, task: Any, hear: Report) -> None:
        """Have a task done. ``hear`` gets and answers every report, and what it raises ends the worker;
        what the task raises is raised here."""
        self._send(task)
        while True:
            kind, self.core_seconds, *said = self._receive()
            if kind == "report":
                self._send(hear(*said))
            elif kind == "raised":
                raise said[0]
            else:
                return

    def end(self) -> None:
        """Let the worker go, whatever it is doing, and wait until it has gone: the thread that uses it
        then gets a ``Failure``. A second call does nothing."""
        if self._alive >= 0:
            _parents_ends.remove(self._alive)
            os.close(self._alive)
            self._alive = -1
            with contextlib.suppress(ChildProcessError):
                used = os.wait4(self._pid, 0)[2]
                self.core_seconds = used.ru_utime + used.ru_stime

    def close(self) -> None:
        """``end``, and give the pipe back, which no thread may use any more."""
        self.end()
        _parents_ends.remove(self._pipe.fileno())
        self._pipe.close()

    def _send(self, what: Any) -> None:
        try:
            self._pipe.send_bytes(_packed(what))
        except OSError as error:
            raise _lost() from error

    def _receive(self) -> Any:
        try:
            return pickle.loads(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise _lost() from error


def check_threads(threads: int | None) -> None:
    """``UsageError`` for a number below 1; None: every core."""
    if threads is not None and threads < 1:
        raise UsageError(f"threads={threads}: it must be at least 1")


def sharing(threads: int | None) -> Callable[[Work, int, Report], None]:
    """``share_out`` by so many; raises as ``check_threads``."""
    check_threads(threads)
    return functools.partial(share_out, number=threads)


def share_out(work: Work, count: int, hear: Report, *, number: int | None = None) -> None:
    """Have tasks 0, 1, ..., count - 1 done by ``number`` copies of this process (None: one for each
    core), each the next task when it has done one. Where that would be one copy, or there can be none,
    they are done here.

    One report is heard at a time. Raises what the first of the tasks that failed raised, and what
    ``hear`` raises.
    """
    number = min(number or usable_cores(), count)
    if number == 1 or not can_fork():
        for task in range(count):
            work(task, hear)
        return
    lock, tasks, failed = threading.Lock(), iter(range(count)), {}

    def listen(*said: Any) -> Any:
        with lock:
            return hear(*said)

    def use(worker: Worker) -> None:
        while True:
            with lock:
                task = None if failed else next(tasks, None)
            if task is None:
                return
            try:
                worker.do(task, listen)
            except BaseException as error:
                with lock:
                    failed[task] = error
                return

    workers = [Worker(work) for _ in range(number)]
    threads = [threading.Thread(target=use, args=(worker,)) for worker in workers]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for worker in workers:
            worker.close()
    if failed:
        raise failed[min(failed)]


_parents_ends: list[int] = []
"""Of the pipes of all workers: a copy closes them, or would keep its siblings from seeing the end."""


def _lost() -> Failure:
    return Failure(
        "a worker process has ended, perhaps for want of memory: go on with fewer (threads=1)"
    )


class _Orphaned(BaseException):
    """The parent has closed the pipe, or is gone."""


def _serve(work: Work, pipe: Connection, alive: int) -> None:
    """What the copy does, until the parent closes the pipe."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, args=(alive,), daemon=True).start()
    # The threads that PyTorch computed with stayed behind, and it would wait for them for ever.
    torch.set_num_threads(1)

    def say(kind: str, *what: Any) -> None:
        try:
            # Its own time and that of the copies that it has waited for.
            spent = time.process_time() + sum(os.times()[2:4])
            pipe.send_bytes(_packed((kind, spent, *what)))
        except OSError as error:
            raise _Orphaned from error

    def heard() -> Any:
        try:
            return pickle.loads(pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise _Orphaned from error

    def report(name: str, *arguments: Any) -> Any:
        say("report", name, *arguments)
        return heard()

    while True:
        task = heard()
        try:
            work(task, report)
        except _Orphaned:
            raise
        except BaseException as error:
            say("raised", _portable(error))
        else:
            say("done")


def _end_with_the_parent(alive: int) -> None:
    os.read(alive, 1)
    os._exit(1)


def _portable(error: BaseException) -> BaseException:
    """The error, or one that says as much and can be sent."""
    error.add_note("".join(traceback.format_exception(error)))
    with contextlib.suppress(Exception):
        if type(pickle.loads(_packed(error))) is type(error):
            return error
    return RuntimeError("".join(traceback.format_exception(error)))


class _Pickler(pickle.Pickler):
    """Tensors by their numbers, a hundred times faster than as the files that PyTorch makes of them."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is Tensor and not value.requires_grad and value.device.type == "cpu":
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented


def _packed(what: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(what)
    return buffer.getvalue()
