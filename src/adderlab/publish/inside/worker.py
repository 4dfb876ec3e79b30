"""Runs a stranger's submission and answers the parent's requests, one JSON object a line.

Whatever is said from here on is said beside the stranger's code and can be forged by it. The parent
believes only answers that it can check: sums, which this process never learns.

Requests are ``{"do": ...}``:

literals  count the numbers in the file's text; asked before any of its code runs
load      run the file and ``build_model``: metadata, the tensors it holds
add       ``add`` on pairs: answers, one for each
trace     the same, and what the model's modules were called with
greedy    drive one module greedily on a batch of prompts: the tokens it answers
steer     ``add`` while the module's output is replaced by chosen tokens
scramble  overwrite every weight with noise
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import operator
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from .watching import Watch, count_literals, first_tensor, is_real, walk

_SHOWN = 300
_DEPTH = 6
_WATCHED = {
    "network": ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"),
    "process": (
        "os.fork",
        "os.forkpty",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.spawn",
        "subprocess.Popen",
        "os.kill",
    ),
    "file": (
        "os.remove",
        "os.rename",
        "os.mkdir",
        "os.rmdir",
        "os.link",
        "os.symlink",
        "os.truncate",
        "os.chmod",
        "os.chown",
    ),
}
Sender = Callable[[dict[str, Any]], None]
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def main(arguments: str) -> None:
    """Set the limits, then answer requests until there are no more.

    ``arguments`` is a JSON object: ``submission`` and ``scratch`` (paths), ``packages`` (folders to
    import from), ``memory``, ``file_bytes`` (bytes), ``seconds`` (of computing), ``requests`` and
    ``replies`` (descriptors).
    """
    serve(json.loads(arguments), lambda: Submission)


def serve(settings: dict[str, Any], prepare: Callable[[], Callable[[str], Any]]) -> None:
    """``main`` with settings; ``prepare`` imports what is needed before anything is limited or watched,
    and gives what is made of the submission's path: its ``answer`` replies to a request."""
    sys.path += settings["packages"]
    os.chdir(settings["scratch"])
    _import_torch(settings["submission"])
    make = prepare()
    _set_limits(settings["memory"], settings["file_bytes"], settings["seconds"])
    send = _sender(settings["replies"])
    sys.addaudithook(_watcher(settings["scratch"], send))
    submission = make(settings["submission"])
    with os.fdopen(settings["requests"], "rb") as lines:
        for line in lines:
            send(submission.answer(json.loads(line)))


def _import_torch(submission: str) -> None:
    """PyTorch, for a file that names it, before anything is watched or limited.

    Its import does on its own what is forbidden to a submission (a CUDA build starts ldconfig to find
    libraries), and takes memory that is not the submission's.
    """
    with open(submission, "rb") as file:
        if b"torch" not in file.read():
            return
    with contextlib.suppress(ImportError, OSError):
        import torch

        torch.set_num_threads(1)
        # The limits allow no further thread. OpenMP would end the process of a file that asks for some.
        vars(torch)["set_num_threads"] = lambda count: None


def _set_limits(memory: int, file_bytes: int, seconds: int) -> None:
    """Limits that the code of this process cannot raise again."""
    # Address space and not RLIMIT_DATA, which does not count shared mappings.
    _limit("RLIMIT_AS", _address_space() + memory)
    _limit("RLIMIT_CPU", seconds)
    _limit("RLIMIT_FSIZE", file_bytes)
    _limit("RLIMIT_NOFILE", 64)
    _limit("RLIMIT_CORE", 0)
    _limit("RLIMIT_MSGQUEUE", 0)
    # This process alone: no further one and no thread. Root is exempt (see ``sandbox.wall_around``).
    _limit("RLIMIT_NPROC", 1)
    # Writing beyond the limit is an error to the program, not its death.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # Memory that belongs to no process (System V segments, say) is not counted by any of these: if it
    # fills the machine, the kernel shall end this process first.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _address_space() -> int:
    """Bytes mapped by now; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def _limit(name: str, value: int) -> None:
    kind = getattr(resource, name, None)
    if kind is None:
        return
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    # macOS knows some of these limits and refuses to set them.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (value, value))


def _sender(descriptor: int) -> Sender:
    def send(reply: dict[str, Any]) -> None:
        view = memoryview(json.dumps(reply).encode() + b"\n")
        while view:
            view = view[os.write(descriptor, view) :]

    return send


def _watcher(scratch: str, send: Sender) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that reports, once a kind, what is tried. It refuses nothing: see ``sandbox.py``."""
    kinds = {event: kind for kind, events in _WATCHED.items() for event in events}
    reported: set[str] = set()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        kind = kinds.get(event)
        if event == "open":
            name, _, flags = arguments
            kind = "file" if isinstance(flags, int) and flags & _WRITES else None
        if kind is None or kind in reported:
            return
        if kind == "file":
            name = os.path.abspath(_text(arguments[0]))
            if name in (os.devnull, scratch) or name.startswith(os.path.join(scratch, "")):
                return
        reported.add(kind)
        send({"tried": kind, "how": f"{event} {_text(arguments[0]) if arguments else ''}"[:_SHOWN]})

    return watch


def _text(value: Any) -> str:
    return os.fsdecode(value) if isinstance(value, (str, bytes)) else repr(value)[:_SHOWN]


class Submission:
    """The stranger's module and model."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.module: Any = None
        self.model: Any = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request; whatever the stranger's code raises is an error in it."""
        try:
            return getattr(self, request["do"])(request)
        except BaseException as error:
            return _error_reply(error)

    def literals(self, request: dict[str, Any]) -> dict[str, Any]:
        with open(self.path, encoding="utf-8") as file:
            return count_literals(file.read())

    def load(self, request: dict[str, Any]) -> dict[str, Any]:
        spec = importlib.util.spec_from_file_location("submission", self.path)
        assert spec is not None and spec.loader is not None
        self.module = importlib.util.module_from_spec(spec)
        sys.modules["submission"] = self.module
        spec.loader.exec_module(self.module)
        for name in ("build_model", "add"):
            if not callable(getattr(self.module, name, None)):
                return {"error": f"it has no function {name}"}
        built = self.module.build_model()
        if not isinstance(built, tuple) or len(built) != 2:
            return {"error": "build_model does not return (model, metadata)"}
        self.model, metadata = built
        if not isinstance(metadata, dict):
            return {"error": f"its metadata is a {type(metadata).__name__}, not a dict"}
        return {
            "metadata": {str(key)[:_SHOWN]: _plain(value) for key, value in metadata.items()},
            "numbers": self._numbers(),
        }

    def add(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"answers": [self._one(a, b) for a, b in request["pairs"]]}

    def _one(self, a: int, b: int) -> Any:
        try:
            return _integer(self.module.add(self.model, a, b))
        except MemoryError:
            raise
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:_SHOWN]

    def trace(self, request: dict[str, Any]) -> dict[str, Any]:
        with Watch(self._modules()) as watch:
            traces = []
            for a, b in request["pairs"]:
                watch.calls = []
                answer = self._one(a, b)
                traces.append({"answer": answer, "calls": watch.calls[:200], "count": len(watch.calls)})
        return {"traces": traces}

    def steer(self, request: dict[str, Any]) -> dict[str, Any]:
        """``tokens``: for every pair, what each call shall answer; None leaves a call alone."""
        answers: list[Any] = []
        replaced: list[int] = []
        with Watch(self._modules()) as watch:
            for (a, b), tokens in zip(request["pairs"], request["tokens"], strict=True):
                watch.forced, watch.replaced = list(tokens), 0
                answers.append(self._one(a, b))
                replaced.append(watch.replaced)
        return {"answers": answers, "replaced": replaced}

    def greedy(self, request: dict[str, Any]) -> dict[str, Any]:
        import torch

        module = dict(self._modules())[request["module"]]
        tokens = torch.tensor(request["prompts"], dtype=getattr(torch, request["dtype"]))
        start = tokens.shape[1]
        with torch.no_grad():
            for _ in range(request["steps"]):
                output = first_tensor(module(tokens), floating=True)
                last = output[:, -1] if output.ndim == 3 else output
                tokens = torch.cat([tokens, last.argmax(-1, keepdim=True).to(tokens.dtype)], 1)
        return {"tokens": tokens[:, start:].tolist()}

    def scramble(self, request: dict[str, Any]) -> dict[str, Any]:
        """Each tensor's finite numbers are shuffled and noise of their own size is added."""
        import torch

        generator = torch.Generator().manual_seed(request["seed"])
        count = 0
        with torch.no_grad():
            for tensor, _ in self._tensors():
                values = tensor.detach().clone().flatten()
                finite = values.isfinite()
                good = values[finite].float()
                if not len(good):
                    continue
                size = float(good.square().mean().sqrt()) or 1.0
                order = torch.randperm(len(good), generator=generator)
                noise = size * torch.randn(len(good), generator=generator)
                values[finite] = (good[order] + noise).to(values.dtype)
                tensor.detach().copy_(values.reshape(tensor.shape))
                count += tensor.numel()
        return {"numbers": count}

    def _modules(self) -> list[tuple[str, Any]]:
        """(name, module) of every torch module in the model, the outermost first."""
        torch = sys.modules.get("torch")
        if torch is None:
            return []
        found: dict[int, tuple[str, Any]] = {}
        for name, thing in walk(self.model, "", _DEPTH, torch):
            if isinstance(thing, torch.nn.Module):
                found.setdefault(id(thing), (name, thing))
        return list(found.values())

    def _tensors(self) -> Iterator[tuple[Any, str]]:
        """Every floating-point tensor in the model or the file's globals, with its kind."""
        torch = sys.modules.get("torch")
        if torch is None:
            return
        kinds: dict[int, str] = {}
        for _, module in self._modules():
            for kind, table in (("parameter", "_parameters"), ("buffer", "_buffers")):
                for tensor in vars(module).get(table, {}).values():
                    if tensor is not None:
                        kinds.setdefault(id(tensor), kind)
        seen: set[int] = set()
        for root in (self.model, vars(self.module)):
            for _, thing in walk(root, "", _DEPTH, torch):
                if not isinstance(thing, torch.Tensor) or id(thing) in seen or not is_real(thing):
                    continue
                seen.add(id(thing))
                yield thing, kinds.get(id(thing), "other")

    def _numbers(self) -> list[dict[str, Any]]:
        """Where each tensor's numbers lie, so that the parent can count each of them once."""
        return [
            {
                "kind": kind,
                "trained": bool(tensor.requires_grad),
                "shape": list(tensor.shape),
                "stride": list(tensor.stride()),
                "start": tensor.data_ptr(),
                "size": tensor.element_size(),
            }
            for tensor, kind in self._tensors()
        ]


def _integer(value: Any) -> Any:
    """The answer as an int where it is one; anything else as a text that says what it is."""
    if isinstance(value, float) and value == value // 1:
        return int(value)
    try:
        number = operator.index(value)
    except TypeError:
        return f"add returned a {type(value).__name__}, not an int"
    return number if abs(number) < 10**30 else "add returned a huge number"


def _plain(value: Any) -> Any:
    if isinstance(value, (bool, int, float, type(None))):
        return value
    if isinstance(value, (list, tuple)):
        return [str(item)[:_SHOWN] for item in value[:100]]
    return str(value)[: 10 * _SHOWN]


def _error_reply(error: BaseException) -> dict[str, Any]:
    text = f"{type(error).__name__}: {error}"[:_SHOWN]
    memory = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
    return {"error": text, "memory": memory, "exit": isinstance(error, (SystemExit, KeyboardInterrupt))}
