"""Runs a stranger's submission and answers the parent's requests, one JSON object a line.

Whatever is said from here on is said beside the stranger's code and can be forged by it. The parent
believes only answers that it can check: sums, which this process never learns.

Requests are ``{"do": ...}``:

literals  count the numbers in the file's text; asked before any of its code runs
load      run the file and ``build_model``: metadata, what holds numbers
add       ``add`` on pairs: answers, one for each
trace     the same, and what the model was called with
greedy    drive the model greedily on a batch of prompts: the tokens it answers
steer     ``add`` while what the model answers is replaced by chosen tokens
without   ``add`` without the model
scramble  overwrite every weight with noise
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import inspect
import json
import operator
import os
import re
import resource
import signal
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from typing import Any

from . import holding
from .watching import Watch, greedy, greedy_at_once, sites

_SHOWN = 300
_OPEN_FILES = 64
"""Each could hold as much memory as a file may have, and no limit on memory counts that."""
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
_STANDARD = os.path.dirname(os.__file__)
_LOOKS_FOR_LIBRARIES = tuple(os.path.join(_STANDARD, name) for name in ("ctypes/util.py", "platform.py"))
Sender = Callable[[dict[str, Any]], None]
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def main(arguments: str) -> None:
    """Set the limits, then answer requests until there are no more.

    ``arguments`` is a JSON object: ``submission`` (path), ``model`` and ``add`` (names in it),
    ``scratch`` (a folder), ``packages`` (folders to import from), ``memory``, ``file_bytes`` (bytes),
    ``seconds`` (of computing), ``requests`` and ``replies`` (descriptors).
    """
    settings = json.loads(arguments)
    serve(settings, lambda: lambda path: Submission(path, settings["model"], settings["add"]))


def serve(settings: dict[str, Any], prepare: Callable[[], Callable[[str], Any]]) -> None:
    """``main`` with settings; ``prepare`` imports what is needed before anything is limited or watched,
    and gives what is made of the submission's path: its ``answer`` replies to a request."""
    folder = os.path.dirname(settings["submission"])
    # Its own folder comes last: nothing there takes the place of a library.
    sys.path += [*settings["packages"], folder]
    # Without a look whether files can be written there: with ``limits`` none can.
    tempfile.tempdir = settings["scratch"]
    os.chdir(folder)
    _import_libraries(folder)
    make = prepare()
    _set_limits(settings["memory"], settings["file_bytes"], settings["seconds"])
    send = _sender(settings["replies"])
    sys.addaudithook(_watcher((settings["scratch"], folder), send))
    submission = make(settings["submission"])
    with os.fdopen(settings["requests"], "rb") as lines:
        for line in lines:
            send(submission.answer(json.loads(line)))


def _import_libraries(folder: str) -> None:
    """PyTorch and MLX, where a file names them, before anything is watched or limited.

    Their imports do on their own what is forbidden to a submission (a CUDA build starts ldconfig to
    find libraries, MLX starts a thread), and take memory that is not the submission's.
    """
    text = b"".join(_python_files(folder))
    if b"torch" in text:
        with contextlib.suppress(ImportError, OSError):
            import torch

            torch.set_num_threads(1)
            # The limits allow no further thread. OpenMP would end the process of a file that asks for
            # some.
            vars(torch)["set_num_threads"] = lambda count: None
    if b"mlx" in text:
        with contextlib.suppress(ImportError, OSError):
            mlx = importlib.import_module("mlx.core")
            mlx.set_default_device(mlx.cpu)
            mlx.eval(mlx.zeros(1) + 1)  # its thread starts with the first computation


def _python_files(folder: str) -> Iterator[bytes]:
    for place, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".py"):
                with contextlib.suppress(OSError), open(os.path.join(place, name), "rb") as file:
                    yield file.read()


def _set_limits(memory: int, file_bytes: int, seconds: int) -> None:
    """Limits that the code of this process cannot raise again."""
    # Address space and not RLIMIT_DATA, which does not count shared mappings.
    _limit("RLIMIT_AS", _address_space() + memory)
    _limit("RLIMIT_CPU", seconds)
    _limit("RLIMIT_FSIZE", file_bytes)
    _limit("RLIMIT_NOFILE", _OPEN_FILES)
    _grant_what_cannot_be_had()
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


def _grant_what_cannot_be_had() -> None:
    """Libraries (mlx-lm) ask for more open files when they are imported, and end if they are refused.
    They get as many as there are."""
    original = resource.setrlimit

    def setrlimit(kind: int, limits: tuple[int, int]) -> None:
        if kind == resource.RLIMIT_NOFILE:
            hard = resource.getrlimit(kind)[1]
            limits = min(limits[0], hard), min(limits[1], hard)
        original(kind, limits)

    vars(resource)["setrlimit"] = setrlimit


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


def _watcher(allowed: tuple[str, ...], send: Sender) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that reports, once a kind, what is tried. It refuses nothing: see ``sandbox.py``.

    Files below the folders ``allowed`` may be written, as far as they can be. What an installed library
    does while it is imported, or Python to find a library, is not the submission's doing.
    """
    kinds = {event: kind for kind, events in _WATCHED.items() for event in events}
    reported: set[str] = set()
    folder = os.path.join(allowed[-1], "")

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        kind = kinds.get(event)
        if event == "open":
            name, _, flags = arguments
            kind = "file" if isinstance(flags, int) and flags & _WRITES else None
        if kind is None or kind in reported:
            return
        if kind == "file":
            name = os.path.abspath(_text(arguments[0]))
            if name == os.devnull or name in allowed or name.startswith(allowed_below):
                return
        if _by_a_library(sys._getframe(1), folder):
            return
        reported.add(kind)
        send({"tried": kind, "how": f"{event} {_text(arguments[0]) if arguments else ''}"[:_SHOWN]})

    allowed_below = tuple(os.path.join(each, "") for each in allowed)
    return watch


def _by_a_library(frame: types.FrameType | None, folder: str) -> bool:
    """Whether the running code is a library being imported, or Python looking for one."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(folder):
            return False
        if name in _LOOKS_FOR_LIBRARIES or name == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _text(value: Any) -> str:
    return os.fsdecode(value) if isinstance(value, (str, bytes)) else repr(value)[:_SHOWN]


class Submission:
    """The stranger's module and model.

    ``model`` and ``add`` are the names of the two functions in the file; ``model`` may also name a class
    or an object, and ``add`` a method of the model.
    """

    def __init__(self, path: str, model: str = "build_model", add: str = "add") -> None:
        self.path = path
        self.names = model, add
        self.module: Any = None
        self.model: Any = None
        self.adder: Callable[[Any, int, int], Any] = lambda model, a, b: None
        self._targets: dict[str, Callable[[Any], Any]] = {}

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
        name, add = self.names
        if not hasattr(self.module, name):
            return {"error": f"it has no function {name}", "lacks": "model"}
        built = getattr(self.module, name)
        if isinstance(built, (types.FunctionType, type)) or name == "build_model":
            built = built()
        if isinstance(built, tuple) and len(built) == 2:
            self.model, metadata = built
        elif name == "build_model":
            return {"error": "build_model does not return (model, metadata)"}
        else:
            self.model, metadata = built, {}
        if not isinstance(metadata, dict):
            return {"error": f"its metadata is a {type(metadata).__name__}, not a dict"}
        adder = adder_of(self.module, self.model, add)
        if adder is None:
            return {"error": f"it has no function {add}", "lacks": "add"}
        self.adder = adder
        return {
            "metadata": {str(key)[:_SHOWN]: _plain(value) for key, value in metadata.items()},
            "numbers": holding.shown(self._held()),
        }

    def add(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"answers": [self._one(self.model, a, b) for a, b in request["pairs"]]}

    def without(self, request: dict[str, Any]) -> dict[str, Any]:
        """``add`` with something that is no model in its place."""
        return {"answers": [self._one(object(), a, b) for a, b in request["pairs"]]}

    def _one(self, model: Any, a: int, b: int) -> Any:
        try:
            return _integer(self.adder(model, a, b))
        except MemoryError:
            raise
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:_SHOWN]

    def trace(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._watch() as watch:
            traces = []
            for a, b in request["pairs"]:
                watch.calls = []
                answer = self._one(self.model, a, b)
                traces.append({"answer": answer, "calls": watch.calls[:200], "count": len(watch.calls)})
        self._targets |= watch.targets
        return {"traces": traces}

    def steer(self, request: dict[str, Any]) -> dict[str, Any]:
        """``tokens``: for every pair, what each call of the functions ``names`` shall answer; None
        leaves a call alone."""
        answers: list[Any] = []
        replaced: list[int] = []
        with self._watch() as watch:
            watch.names = frozenset(request["names"])
            for (a, b), tokens in zip(request["pairs"], request["tokens"], strict=True):
                watch.forced, watch.replaced = list(tokens), 0
                answers.append(self._one(self.model, a, b))
                replaced.append(watch.replaced)
        return {"answers": answers, "replaced": replaced}

    def greedy(self, request: dict[str, Any]) -> dict[str, Any]:
        torch = sys.modules.get("torch")
        target = self._targets[request["module"]]
        with contextlib.nullcontext() if torch is None else torch.no_grad():
            drive = greedy_at_once if request["at_once"] else greedy
            tokens, leads = drive(
                target, request["library"], request["dtype"], request["prompts"], request["steps"]
            )
        return {"tokens": tokens, "leads": leads}

    def scramble(self, request: dict[str, Any]) -> dict[str, Any]:
        return dict(holding.scramble(self._held(), request["seed"]))

    def _watch(self) -> Watch:
        own = self._own_modules()
        modules = holding.modules(self.model, {each.__name__ for each in own}.__contains__)
        return Watch(sites(modules, own, self.model, self.adder))

    def _own_modules(self) -> list[types.ModuleType]:
        """The file and what it imported from its own folder."""
        folder = os.path.join(os.path.dirname(self.path), "")
        return [
            module
            for module in list(sys.modules.values())
            if module is self.module or str(getattr(module, "__file__", "") or "").startswith(folder)
        ]

    def _held(self) -> Iterator[holding.Held]:
        own = self._own_modules()
        names = {each.__name__ for each in own}
        return holding.held(self.model, [vars(each) for each in own], names.__contains__)


def adder_of(module: Any, model: Any, name: str) -> Callable[[Any, int, int], Any] | None:
    """The function that adds; one of two arguments, or a method of the model, gets no model."""
    function = getattr(module, name, None)
    if callable(function):
        if name != "add" and _arguments(function) == 2:
            return lambda model, a, b: function(a, b)
        return function
    if name != "add" and callable(getattr(model, name, None)):
        return lambda model, a, b: getattr(model, name)(a, b)
    return None


def _arguments(function: Callable[..., Any]) -> int:
    """How many arguments it must get, by position."""
    needed = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return 3
    return sum(each.kind in needed and each.default is each.empty for each in parameters)


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


# Numbers written in the text.


_NUMBER = re.compile(r"[-+]?(0x[0-9a-f]*\.?[0-9a-f]+p[-+]?\d+|\d*\.\d+(e[-+]?\d+)?|\d+e[-+]?\d+)", re.I)
_PACKED = re.compile(r"[A-Za-z0-9+/=_-]{64,}")
_TABLE = 4
"""Floats in one list or text from which on they are a table of data, not constants of the code."""


def count_literals(text: str) -> dict[str, Any]:
    """Numbers written in a Python file; whole ones are structure and do not count.

    ``in_code``: floats among the code, ``in_tables``: how many floats in lists, tuples and texts
    of at least four, ``packed``: characters of long texts without spaces.

    Raises what ``ast.parse`` raises.
    """
    tree = ast.parse(text)
    in_code: list[float] = []
    in_tables = packed = 0
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.List, ast.Tuple, ast.Set, ast.Dict)) and id(node) not in inside:
            floats = [each for each in ast.walk(node) if _is_float(each)]
            if len(floats) >= _TABLE:
                in_tables += len(floats)
                inside |= {id(each) for each in ast.walk(node) if not isinstance(each, ast.Constant)}
                inside |= {id(each) for each in floats}
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in inside | prose:
            continue
        if isinstance(node.value, float):
            in_code.append(node.value)
        elif isinstance(node.value, (str, bytes)):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            in_tables += _numbers_in(text)
            packed += sum(len(run) for run in _PACKED.findall(text))
    return {"in_code": in_code, "in_tables": in_tables, "packed": packed}


def _numbers_in(text: str) -> int:
    """Floats in a text of nothing but numbers, or of at least four."""
    words = [word for word in re.split(r"[\s,;\[\]()]+", text) if word]
    numbers = sum(1 for word in words if _NUMBER.fullmatch(word))
    return numbers if numbers == len(words) or numbers >= _TABLE else 0


def _is_float(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, float)
