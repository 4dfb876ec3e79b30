"""The one-file submission: the model itself, readable, exact, and never taken for what it is not."""

import ast
import json
import re
from types import ModuleType

import pytest
import torch
from torch import Tensor

from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.models.config import ModelConfig, resized
from adderlab.models.transformer import Transformer
from adderlab.models.zoo import PRESETS, get_preset
from adderlab.publish.export import load_source
from adderlab.publish.model_card import Credits
from adderlab.publish.submission import MARK, read_submission, submission_source
from adderlab.runs.checkpoints import load_checkpoint
from adderlab.task.addition import LAYOUTS, NUMERALS, PUBLISHED, Layout, pairs_from_ints
from helpers.golden import FOLDER
from helpers.models import random_config, random_model
from helpers.paths import ROOT

CREDITS = Credits(name="it", author="me")


def written(config: ModelConfig, seed: int = 0) -> tuple[Transformer, str, ModuleType]:
    """A random model, its submission's source, and that as a module."""
    model = random_model(config, seed, spread=0.5).float()
    source = submission_source(config, params_of(model), CREDITS)
    return model, source, load_source(source)


def params_of(model: Transformer) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def assert_is_the_model(config: ModelConfig, seed: int = 0) -> None:
    """Logits bit for bit, the greedy answers, the count; and the file can be read back."""
    model, source, module = written(config, seed)
    theirs, metadata = module.build_model()
    layout, task = config.token_layout, config.addition
    generator = torch.Generator().manual_seed(seed)
    tokens_BP = torch.randint(layout.vocab_size, (3, layout.num_positions), generator=generator)
    with torch.no_grad():
        assert torch.equal(theirs(tokens_BP), model(tokens_BP))
    assert metadata["params"] == sum(p.numel() for p in model.parameters())
    size = {} if task == PUBLISHED else {"columns": task.columns, "base": task.base}
    assert set(metadata) == {"name", "author", "params", "architecture", "tricks", *size}
    assert metadata == metadata | size

    a, b = 9876543210 % task.limit, 1029384756 % task.limit
    prompt_BT = layout.encode_prompt(*pairs_from_ints([(a, b)], task)).long()
    assert module.encode(a, b) == prompt_BT[0].tolist()
    answer_BI = model.generate(prompt_BT)[:, : task.sum_digits]
    assert torch.equal(module.generate(theirs, prompt_BT, task.sum_digits), answer_BI.long())
    text = layout.answer_text(answer_BI[0])
    wanted = int(text, task.base) if set(text) <= set(NUMERALS[: task.base]) else -1
    assert module.add(theirs, a, b) == wanted

    read = read_submission(source)
    assert read is not None and read.config == config and read.credits == CREDITS
    for name, tensor in params_of(model).items():
        assert torch.equal(read.params[name], tensor)
    assert_readable(source)


def assert_readable(source: str) -> None:
    code = source.split("\nWEIGHTS = ")[0]
    assert max(map(len, code.splitlines())) <= 110
    decided = re.sub(r"if max\(answer\) > \d+:", "", code)
    assert " if " not in decided, "specialised: nothing to decide"
    tree = ast.parse(source)
    defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    used |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    assert defined - used <= {"__init__", "forward", "build_model", "add"}, "every function is used"
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert imported <= used, "every import is used"
    read = set(re.findall(r"(?:self|layer)\.(\w+)", code))
    for name in re.findall(r'^ +"(\w+)": \(', source.split("\nWEIGHTS = ")[1], re.MULTILINE):
        assert name in read, f"the weight {name} is used"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_written_exactly(name: str) -> None:
    assert_is_the_model(PRESETS[name].config)


@pytest.mark.parametrize("columns, base", [(3, 10), (7, 2), (2, 16), (1, 3), (18, 10)])
def test_other_sizes_are_written_exactly(columns: int, base: int) -> None:
    # Learned positions, rotary ones, a spiral, a fixed circle, and pair tokens.
    for name in ("456p", "122p", "67p", "7p", "1644p"):
        if name != "1644p" or base < 16:
            assert_is_the_model(resized(PRESETS[name].config, columns=columns, base=base))


@pytest.mark.parametrize("seed", range(60))
def test_every_combination_of_parts_is_written_exactly(seed: int) -> None:
    assert_is_the_model(random_config(seed), seed)


def test_shared_norms_and_layers() -> None:
    assert_is_the_model(ModelConfig(n_layer=2, share_norms="all", norm="rms"))
    assert_is_the_model(ModelConfig(n_layer=3, tie_qkv="kv", share_norms="block", repeat_mix=True))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_has_its_prompt(layout: Layout) -> None:
    _, _, module = written(ModelConfig(layout=layout.name))
    pairs = [(0, 0), (1, 9999999999), (1234567890, 9876543210), (5, 60)]
    prompts = layout.encode_prompt(*pairs_from_ints(pairs)).tolist()
    assert [module.encode(a, b) for a, b in pairs] == prompts


def test_a_token_that_is_no_digit_is_no_number() -> None:
    _, _, module = written(get_preset("456p").config)

    def always_plus(tokens: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.full_like(tokens, 10), 14)

    assert module.add(always_plus, 1, 2) == -1


def test_extreme_weights_are_exact() -> None:
    config = get_preset("45p").config
    model = random_model(config, 0).float()
    params = params_of(model)
    for value in (0.0, -0.0, 1e-45, -3.4e38, 1 / 3, 2.0**-126):
        params["token_emb.radius"] = torch.tensor(value)
        read = read_submission(submission_source(config, params, CREDITS))
        assert read is not None
        back = read.params["token_emb.radius"]
        assert back.item() == torch.tensor(value).item() and back.signbit() == (str(value)[0] == "-")


def test_names_cannot_break_out_of_the_file() -> None:
    wild = Credits(name='a"""\nimport os\n"""', author="\\\"', \U0001f600 {x}\r\u2028")
    config = get_preset("36p").config
    params = params_of(random_model(config, 0).float())
    source = submission_source(config, params, wild)
    _, metadata = load_source(source).build_model()
    assert (metadata["name"], metadata["author"]) == (wild.name, wild.author)
    read = read_submission(source)
    assert read is not None and read.credits == wild


def test_the_same_model_gives_the_same_file() -> None:
    config = get_preset("456p").config
    params = params_of(random_model(config, 0).float())
    assert submission_source(config, params, CREDITS) == submission_source(config, params, CREDITS)


def altered() -> list[tuple[str, str, str]]:
    return [
        ("one operation", "x = x + self.mlp(", "x = x - self.mlp("),
        ("the loop", "range(steps)", "range(steps - 1)"),
        ("add", "return int(", "return a + b or int("),
        ("the count", "sum(p.numel() for p in model.parameters())", "7"),
        ("a new statement", "\nWEIGHTS = {", "\nprint()\nWEIGHTS = {"),
        ("the weights' reader", "float.fromhex(number)", "float.fromhex(number) + 1"),
        ("the configuration", '"qkv_rank": 3', '"qkv_rank": 2'),
        ("a setting", '"qkv_rank": 3', '"qkv_rang": 3'),
        ("the mark", MARK, MARK + "x"),
        ("a shape", '"ln1": ((7,)', '"ln1": ((8,)'),
        ("a weight's name", '"ln1": (', '"ln3": ('),
    ]


@pytest.mark.parametrize(("what", "old", "new"), altered(), ids=[what for what, _, _ in altered()])
def test_altered_files_are_refused(what: str, old: str, new: str) -> None:
    _, source, _ = written(get_preset("456p").config)
    assert old in source
    with pytest.raises(Failure, match="mark but"):
        read_submission(source.replace(old, new, 1))


def test_another_layout_of_the_text_is_still_ours() -> None:
    _, source, _ = written(get_preset("456p").config)
    changed = source.replace("\n\n\n", "\n\n").replace(
        "    x = x + self.mlp(", "    x = (x) + self.mlp("
    )
    head, rest = changed.split('"""', 2)[1:]
    assert read_submission(f'"""Another docstring."""\n# {len(head)}\n{rest}') is not None


def test_an_altered_weight_is_another_model_of_ours() -> None:
    config = get_preset("456p").config
    model, source, _ = written(config)
    number = re.search(r'"ln_f": \(\(7,\), """\s+(\S+)', source)
    assert number is not None
    read = read_submission(source.replace(number[1], "0x1p+3"))
    assert read is not None
    assert read.params["ln_f.weight"][0] == 8 != params_of(model)["ln_f.weight"][0]


@pytest.mark.parametrize("text", ["", "x = 1\n", "def add(model, a, b): return 1", "\0", "("])
def test_files_of_others_have_no_mark(text: str) -> None:
    assert read_submission(text) is None


def test_marks_with_rubbish_are_refused() -> None:
    config = json.dumps({"config": schema.to_dict(ModelConfig())})
    for rest in ("", "[]", "{}", '{"config": 3}', config, "9" * 10_000, "[" * 50_000):
        with pytest.raises(Failure, match="cannot be taken apart"):
            read_submission(f"x = 1\n{MARK}{rest}\n")


def test_an_unknown_part_is_refused_before_anything_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    class Newer(torch.nn.Module):
        pass

    from adderlab.publish import submission

    model = random_model(get_preset("456p").config, 0).float()
    model.block(0).mlp.fc1 = Newer()  # type: ignore[assignment]
    monkeypatch.setattr(submission, "skeleton", lambda config: model)
    with pytest.raises(UsageError, match="cannot write the part Newer"):
        submission_source(model.config, params_of(model), CREDITS)


@pytest.mark.parametrize(
    ("name", "weights_sha256"),
    [
        # What was then the record of the 7p; those of the others still are.
        ("7p", "239d6ebe7f13bdbd8a2864696f5a86db1d8a4a875d87d2fa952c0595e54ea6eb"),
        ("67p", None),
        ("74p", None),
    ],
    ids=["7p", "67p", "74p"],
)
def test_files_of_version_0_1_0_are_still_ours(name: str, weights_sha256: str | None) -> None:
    text = (FOLDER / "publish" / f"submission_0.1.0_{name}.txt").read_text()
    read = read_submission(text)
    assert read is not None and read.config == get_preset(name).config
    record = load_checkpoint(ROOT / "records" / "best" / name / "model.pt")
    assert read.checkpoint().weights_sha256 == (weights_sha256 or record.weights_sha256)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"tricks": [', '"tricks": [print("run"),'),
        ('"architecture": (', '"architecture": str('),
        ("    model = Adder().eval()", '    """Says."""; model = Adder()'),
    ],
    ids=["code among the tricks", "a call around the architecture", "code behind a docstring"],
)
def test_prose_hides_no_code(old: str, new: str) -> None:
    _, source, _ = written(get_preset("456p").config)
    assert old in source
    with pytest.raises(Failure, match="mark but"):
        read_submission(source.replace(old, new, 1))


def test_other_prose_is_the_same_model() -> None:
    _, source, _ = written(get_preset("456p").config)
    reworded = source.replace("RMS norm", "Root mean square norm").replace(
        "B_K = B_V", "one map for both"
    )
    assert reworded != source and read_submission(reworded) is not None
