"""Files as people have them, one for each way in which a referee went wrong on published submissions.

Each is small, honest unless it says otherwise, and has one right answer.
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from adderlab.cli.main import main
from adderlab.evaluation import suites
from adderlab.publish import sandbox as sandboxes
from adderlab.publish import verify as module
from adderlab.publish.counting import Claim, Counts, Literals, count, judge_claim, outside_the_count
from adderlab.publish.sandbox import Limits, Sandbox
from adderlab.publish.verification import Verification
from adderlab.publish.verify import verify
from adderlab.publish.watching import traced_pairs
from helpers.submissions import InProcess, calculator, needs_bubblewrap, write

QUICK = Limits(seconds=120, load_seconds=60, answer_seconds=30, memory_mib=2000)
Check = Callable[..., Verification]


@pytest.fixture(autouse=True)
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The edge cases and 10 random pairs instead of 10,010; submissions leave no trace."""
    board = suites.adderboard()
    short = suites.Group(name="random", a_BJ=board.groups[1].a_BJ[:10], b_BJ=board.groups[1].b_BJ[:10])
    suite = suites.Suite(name="adderboard", groups=(board.groups[0], short))
    monkeypatch.setattr(module, "adderboard", lambda: suite)
    monkeypatch.setattr(module, "_COMPARED", 12)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Verify code without a process of its own."""
    monkeypatch.setattr(module, "Sandbox", InProcess)

    def run(code: str, **settings) -> Verification:  # type: ignore[no-untyped-def]
        return verify(write(tmp_path, code), sandbox="limits", strata_pairs=1, prove=False, **settings)

    return run


def right(result: Verification) -> Verification:
    """Nothing is held against it."""
    assert (result.verdict, result.rejections, result.failure) == ("qualified", (), None)
    return result


def counted(result: Verification) -> dict[str, int]:
    assert result.count.counts is not None
    return result.count.counts.named()


# Counts.

DEEP = "self.deep = nested(7, nn.Linear({size}, 10))"
NESTED = """
def nested(depth, module):
    for i in range(depth):
        module = nn.ModuleDict({"layer": nn.ModuleList([module])})
    return module
"""


def with_member(member: str, params: int, extra: str = "") -> str:
    """The calculator with one more member in its model."""
    code = calculator(params=params).replace("super().__init__()", f"super().__init__(); {member}")
    return code.replace("class Model", f"{extra}\nclass Model", 1)


def held_by(folder: Path, code: str) -> tuple[Counts, Claim]:
    """What is counted once the file is loaded, and what becomes of its claim."""
    box = InProcess(write(folder, code), QUICK, "limits")
    literals, loaded = Literals.of(box.ask("literals", 30)), box.ask("load", 30)
    counts = count(loaded["numbers"], literals)
    return counts, judge_claim(loaded["metadata"]["params"], counts)


def test_what_lies_deep_is_counted(check: Check, tmp_path: Path) -> None:
    result = check(with_member(DEEP.format(size=108), 100, NESTED))
    assert counted(result)["unique parameters"] == 1100
    assert (result.verdict, result.count.confirmed) == ("rejected", False)
    assert result.rejections[0].startswith("it says 100 parameters, but holds 1,100")
    counts, claim = held_by(tmp_path, with_member(DEEP.format(size=108), 1100, NESTED))
    assert counts.parameters == 1100 and claim.confirmed


def test_masks_are_no_numbers_of_the_model(tmp_path: Path) -> None:
    mask = "self.register_buffer('mask', torch.tril(torch.ones(34, 34)))"
    counts, claim = held_by(tmp_path, with_member(mask, 10))
    assert (counts.parameters, counts.with_buffers, counts.masks) == (10, 10, 1156)
    assert claim.confirmed and outside_the_count(counts) == []


def test_a_state_dict_kept_beside_the_model_is_no_second_model(tmp_path: Path) -> None:
    code = calculator().replace(
        "return Model(), metadata(10)",
        """model = Model()
    model.kept = model.state_dict()
    global LOADED
    LOADED = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return model, metadata(10)""",
    )
    counts, claim = held_by(tmp_path, code)
    assert counts.with_others == 10 and claim.confirmed


@pytest.mark.parametrize(
    ("claimed", "convention"), [(10, "distinct"), (18, "nonzero"), (20, "unique"), (22, "buffers")]
)
def test_every_convention_is_known(claimed: int, convention: str, tmp_path: Path) -> None:
    more = "self.more = nn.Parameter(torch.arange(10.0)); self.b = nn.Buffer(torch.tensor([7.0, 8.0]))"
    _, claim = held_by(tmp_path, with_member(more, claimed))
    assert claim.confirmed and not claim.false and convention in claim.sentence


def test_another_convention_is_a_note_and_no_rejection(check: Check) -> None:
    frozen = "self.frozen = nn.Parameter(torch.rand(10), requires_grad=False)"
    result = right(check(with_member(frozen, 10)))
    assert result.count.confirmed and "trainable" in result.count.claim
    assert counted(result)["unique parameters"] == 20


def test_a_claim_that_is_no_number_is_no_lie(check: Check) -> None:
    result = right(check(calculator().replace("metadata(10)", "metadata('ten')")))
    assert result.count.confirmed is None and "'ten'" in result.count.claim


# Watching.

PLAIN = (
    calculator()
    .replace("class Model(nn.Module):", "class Model:")
    .replace("super().__init__()", "self.table = [[0.5, 0.25], {'more': [1.5, 2.5, 3.5]}]")
    .replace("nn.Parameter(", "(")
    .replace("model(tokens)", "model.forward(tokens)")
)
"""A class of its own with tensors and lists, called by ``forward``."""

NUMPY = """
import numpy as np

class Model:
    def __init__(self):
        self.weights = {"digit": np.arange(10.0)}

    def __call__(self, tokens):
        digit = self.weights["digit"]
        powers = 10.0 ** np.arange(9, -1, -1)
        total = (digit[tokens[:, :10]] * powers).sum(-1) + (digit[tokens[:, 10:20]] * powers).sum(-1)
        wanted = np.floor(total / 10.0 ** (tokens.shape[1] - 20)) % 10
        return -(digit - wanted[:, None]) ** 2

def build_model():
    return Model(), {"name": "it", "author": "me", "params": 10, "architecture": "x", "tricks": []}

def add(model, a, b):
    tokens = np.array([[int(c) for c in f"{a:010d}{b:010d}"]])
    for _ in range(11):
        tokens = np.concatenate([tokens, model(tokens).argmax(-1)[:, None]], 1)
    return int("".join(map(str, tokens[0, :19:-1])))
"""

LISTS = NUMPY.replace("np.arange(10.0)", "[float(i) for i in range(10)]").replace(
    'digit = self.weights["digit"]', 'digit = np.array(self.weights["digit"])'
)

FUNCTIONS = (
    calculator()
    .replace("class Model(nn.Module):", "class Weights(nn.Module):")
    .replace("    def number(self, tokens):", "def number(self, tokens):")
    .replace("    def forward(self, tokens):", "def logits(self, tokens):")
    .replace("self.number(", "number(self, ")
    .replace("return Model()", "return Weights()")
    .replace("model(tokens)[", "logits(model, tokens)[")
)
"""A torch module that only holds the weights: its forward is a function of the file."""

INLINE = """
import torch

def build_model():
    model = [torch.arange(10.0, dtype=torch.float64)]
    return model, {"name": "it", "author": "me", "params": 10, "architecture": "x", "tricks": []}

def add(model, a, b):
    answer = carry = 0
    for place in range(11):
        x, y = a // 10**place % 10, b // 10**place % 10
        total = int(model[0][x] + model[0][y] + carry)
        answer, carry = answer + total % 10 * 10**place, total // 10
    return answer
"""
"""Nothing is called: its numbers are read in ``add`` itself."""


def test_functions_are_functions() -> None:
    assert "\ndef logits(self, tokens):" in FUNCTIONS and "nn.Parameter" in FUNCTIONS


@pytest.mark.parametrize(
    ("code", "parameters"),
    [(PLAIN, 15), (NUMPY, 10), (LISTS, 10), (FUNCTIONS, 10)],
    ids=["plain class", "numpy", "lists", "functions"],
)
def test_models_of_every_kind_are_counted_and_watched(code: str, parameters: int, check: Check) -> None:
    result = right(check(code))
    assert counted(result)["unique parameters"] == parameters
    assert result.watched.verdict == "from the model"
    assert any("digit for digit" in finding for finding in result.watched.findings)
    assert any("every weight overwritten" in finding for finding in result.watched.findings)


def test_numpy_models_are_driven_in_batches_too(check: Check) -> None:
    assert right(check(NUMPY)).score.how.startswith("the model in batches")


def test_a_model_that_nobody_calls_is_judged_by_its_weights(check: Check) -> None:
    result = right(check(INLINE))
    assert result.watched.verdict == "from the model"
    assert result.watched.findings[0] == "no call of its model was seen while it adds"


def test_what_cannot_be_watched_is_said_and_held_against_nobody(check: Check) -> None:
    fixed = INLINE.replace(
        "torch.arange(10.0, dtype=torch.float64)", "tuple(i * 1.0 for i in range(10))"
    )
    result = right(check(fixed))
    assert result.watched.verdict == "could not be watched"
    assert "it holds no weights that could be overwritten" in result.watched.findings
    assert not any("correct" in finding for finding in result.watched.findings), "no claim is made"


def test_sums_without_any_number_are_not_a_models(check: Check) -> None:
    nothing = "def build_model(): return object(), {'params': 1}\ndef add(m, a, b): return a + b\n"
    result = check(nothing)
    assert result.verdict == "rejected" and result.watched.verdict == "not from the model"
    assert "holds no number at all" in result.rejections[0]


def test_all_digits_in_one_call_are_no_cheat(check: Check) -> None:
    code = (
        calculator()
        .replace(
            """    for _ in range(11):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], 1)
""",
            """    tokens = torch.cat([tokens, model.all(tokens).argmax(-1)], 1)
""",
        )
        .replace(
            "    def forward(self",
            """    def all(self, tokens):
        rows = [self(torch.cat([tokens, tokens[:, :1].expand(-1, i)], 1)) for i in range(11)]
        return torch.stack([row[:, -1] for row in rows], 1)

    def forward(self""",
        )
    )
    result = right(check(code))
    assert result.watched.verdict == "from the model"
    assert any("called 1 times for an answer of 11 digits" in each for each in result.watched.findings)


# The file's own rule.

ENDING = (
    calculator()
    .replace(
        "logits = torch.cat([torch.full((len(tokens), 3), -1e3), logits], 1)",
        """
        logits = torch.cat([torch.full((len(tokens), 3), -1e3), logits], 1)
        if step >= 11:
            seven_or_end = torch.where((total % {every} == 0) & (total > 0), 10, 2)
            logits = 1e3 * nn.functional.one_hot(seven_or_end, 13).double()""",
    )
    .replace(
        "for _ in range(11):",
        "while tokens.shape[1] < 37 and (tokens.shape[1] < 24 or tokens[0, -1] != 2):",
    )
    .replace("tokens[0, -11:].tolist()", "tokens[0, 23:].tolist() if token != 2")
)
"""It goes on until its end token, which it forgets for some sums: then it answers more digits."""


def test_a_forgotten_end_token_costs_what_it_costs_on_the_board(check: Check) -> None:
    code = ENDING.replace("{every}", "50")
    expected = sum(
        (a + b) % 50 == 0 and a + b > 0
        for group in module.adderboard().groups
        for a, b in zip(_numbers(group.a_BJ), _numbers(group.b_BJ), strict=True)
    )
    assert expected > 2
    batched, pairwise = check(code), check(code, pairwise=True)
    for result in (batched, pairwise):
        board = result.score.board
        assert board is not None and (board.total.n, board.total.errors) == (20, expected)
    assert batched.score.how.startswith("the model in batches")
    assert pairwise.score.how.startswith("add, one pair at a time")
    never = right(check(ENDING.replace("{every}", "1e18")))
    assert never.score.how.startswith("the model in batches")


def _numbers(digits_BJ: torch.Tensor) -> list[int]:
    return [int("".join(map(str, reversed(row)))) for row in digits_BJ.tolist()]


# Files as people have them.


@needs_bubblewrap
def test_what_lies_beside_a_file_is_found_and_to_write_there_is_no_crime(tmp_path: Path) -> None:
    torch.save({"digit": torch.arange(10.0, dtype=torch.float64)}, tmp_path / "weights.pt")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "calculator_parts.py").write_text("START = 0.0\n")
    code = calculator().replace(
        "return Model()",
        """import sys
    sys.path.insert(0, "more")
    import calculator_parts
    model = Model()
    model.digit.data.fill_(calculator_parts.START)
    model.load_state_dict(torch.load("weights.pt", weights_only=True))
    try:
        open("cache.txt", "w")
    except OSError:
        return model""",
    )
    right(verify(write(tmp_path, code), limits=QUICK, strata_pairs=1, prove=False))
    assert not (tmp_path / "cache.txt").exists(), "and it cannot be done"


def test_a_folder_that_is_not_its_own_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    path = write(tmp_path, calculator())
    shown = tmp_path / "shown"
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "me")
    assert "it lies in" in str(sandboxes.copy_with_its_folder(path, shown))
    assert [each.name for each in shown.iterdir()] == [path.name]
    monkeypatch.undo()
    monkeypatch.setattr(sandboxes, "_MOST_BYTES", 10)
    assert "holds more than" in str(sandboxes.copy_with_its_folder(path, tmp_path / "too much"))


def test_a_file_with_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(module, "Sandbox", InProcess)
    code = (
        calculator()
        .replace("def build_model():", "def make():")
        .replace("Model(), metadata(10)", "Model()")
    )
    path = write(tmp_path, code.replace("def add(model, a, b)", "def total(model, a, b)"))
    options = ["--sandbox", "limits", "--strata", "1", "--no-prove"]
    assert main(["verify", str(path), *options]) == 1
    assert (
        "no function build_model; if another does that, name it: --model NAME" in capsys.readouterr().out
    )
    assert main(["verify", str(path), *options, "--model", "make", "--add", "total"]) == 0
    assert main(["verify", str(path), *options, "--model", "Model", "--add", "total"]) == 0
    code = code.replace("def add(model, a, b):", "MODEL = make()\n\ndef total(a, b, model=MODEL):")
    path.write_text(code)
    assert main(["verify", str(path), *options, "--model", "MODEL", "--add", "total"]) == 0
    out = capsys.readouterr().out
    assert "gives no number of parameters" in out and "metadata lacks" not in out


@needs_bubblewrap
def test_what_was_scored_when_time_runs_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 1)
    watched = 2 + len(traced_pairs())
    code = "import time\nCALLS = []\n" + NUMPY.replace(
        "    tokens =",
        f"""    CALLS.append(a)
    time.sleep(0.5 if len(CALLS) == 2 or len(CALLS) > {watched} else 0)
    tokens =""",
        1,
    )
    limits = Limits(seconds=8, load_seconds=8, answer_seconds=8)
    result = verify(write(tmp_path, code), limits=limits, strata_pairs=1, pairwise=True, prove=False)
    if result.score.board is None:
        pytest.skip("this machine is too busy to answer one pair in eight seconds")
    assert result.verdict == "failed" and "not done after 8 s" in str(result.failure)
    assert 0 < result.score.board.total.n < 20 and result.score.board.total.errors == 0
    assert any(
        f"in part: {result.score.board.total.n} of the board's 20" in line for line in result.describe()
    )


def test_a_library_may_ask_for_more_open_files(tmp_path: Path) -> None:
    """As mlx-lm does when it is imported."""
    path = write(
        tmp_path,
        """
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 4096))
        def build_model(): return object(), {}
        def add(model, a, b): return resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    """,
    )
    with Sandbox(path, QUICK, "limits") as box:
        assert "error" not in box.ask("load", 30)
        (files,) = box.ask("add", 30, pairs=[(1, 2)])["answers"]
    assert files == 64, "it gets what there is"


MLX = """
import mlx.core as mx
import mlx.nn as nn

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.digit = mx.arange(10).astype(mx.float32)
        self._fixed = mx.array([0.5, 0.25])

    def __call__(self, tokens):
        # Column by column, for float32 holds no ten digits.
        x, y = self.digit[tokens[:, 9::-1]], self.digit[tokens[:, 19:9:-1]]
        carry, step = mx.zeros(len(tokens)), tokens.shape[1] - 20
        for place in range(step):
            carry = ((x[:, place] + y[:, place] + carry) > 9.5).astype(mx.float32)
        total = carry if step == 10 else x[:, step] + y[:, step] + carry
        wanted = mx.where(total > 9.5, total - 10, total)
        return -((self.digit - wanted[:, None]) ** 2)

def build_model():
    return Model(), {"name": "it", "author": "me", "params": 10, "architecture": "x", "tricks": []}

def add(model, a, b):
    tokens = mx.array([[int(c) for c in f"{a:010d}{b:010d}"]])
    for _ in range(11):
        tokens = mx.concatenate([tokens, model(tokens).argmax(-1)[:, None].astype(tokens.dtype)], 1)
    return int("".join(str(t) for t in tokens[0, 20:].tolist()[::-1]))
"""


@needs_bubblewrap
@pytest.mark.skipif(
    importlib.util.find_spec("mlx") is None, reason="needs mlx: pip install 'adderlab[mlx]'"
)
def test_mlx_files_run(tmp_path: Path) -> None:
    result = right(verify(write(tmp_path, MLX), limits=QUICK, strata_pairs=1, prove=False))
    assert counted(result)["unique parameters"] == 10 and counted(result)["with buffers"] == 12
    assert result.watched.verdict == "from the model"
    assert result.score.how.startswith("the model in batches")


# What libraries do on their own.


@pytest.mark.parametrize("mode", [pytest.param("bubblewrap", marks=needs_bubblewrap), "limits"])
def test_a_library_that_looks_for_libraries_is_not_the_submissions_doing(
    mode: sandboxes.Mode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch's CUDA build does: it imports cuda.bindings late, which asks ctypes for libraries."""
    library = tmp_path / "site-packages" / "bindings" / "__init__.py"
    library.parent.mkdir(parents=True)
    library.write_text(
        "import ctypes.util, subprocess\n"
        "found = ctypes.util.find_library('nothing-of-that-name')\n"
        "try:\n    subprocess.run(['/sbin/ldconfig', '-p'])\nexcept OSError:\n    pass\n"
    )
    monkeypatch.setattr(sandboxes, "packages", lambda: [str(tmp_path / "site-packages")])
    folder = tmp_path / "own"
    folder.mkdir()
    code = """
        import ctypes.util, tempfile
        def build_model():
            import bindings
            ctypes.util.find_library("nothing-of-that-name-either")
            return object(), {"place": tempfile.gettempdir()}
        def add(model, a, b):
            if a == 7:
                import subprocess
                subprocess.run(["/sbin/ldconfig"])
            return a + b
    """
    with Sandbox(write(folder, code), QUICK, mode) as box:
        loaded = box.ask("load", 30)
        assert "error" not in loaded and loaded["metadata"]["place"]
        assert box.tried == {}
        box.ask("add", 30, pairs=[(7, 2)])
        assert set(box.tried) == {"process"}, "that it does itself"
