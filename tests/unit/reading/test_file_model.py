"""Models of users' files: read once, compared call by call, stored without code, refused in one line."""

from pathlib import Path

import pytest
import torch

from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.models.config import ModelConfig
from adderlab.models.tables import tables, why_no_tables
from adderlab.models.transformer import build_model
from adderlab.reading.agreement import table_logits
from adderlab.reading.file_model import FileModel, layout_lines, read_file, read_module, reading_lines
from adderlab.reading.trace import record, run
from adderlab.runs.checkpoints import (
    Checkpoint,
    load_checkpoint,
    parameter_shapes,
    save_checkpoint,
    save_safetensors,
)
from helpers.models import random_model
from helpers.user_files import EXAMPLE, stated_file, variant

NAN = float("nan")


@pytest.fixture(scope="module")
def read() -> tuple[FileModel, dict[str, torch.Tensor]]:
    return read_file(EXAMPLE)


@pytest.fixture
def checkpoint(read: tuple[FileModel, dict[str, torch.Tensor]]) -> Checkpoint:
    config, params = read
    return Checkpoint(config=config, params=params, recipe={"lr": 0.1}, step=3, val_exact=NAN, seed=5)


def test_what_was_read(read: tuple[FileModel, dict[str, torch.Tensor]]) -> None:
    config, params = read
    assert (config.file, config.no_tables, config.double) == ("my_adder.py", None, False)
    assert list(params) == list(config.parameter_shapes()) == list(parameter_shapes(config))
    assert config.token_layout.a_positions == tuple(9 - j for j in range(10))
    agreement = config.live.agreement
    assert agreement is not None and agreement.precision == "float64" and agreement.batched
    assert agreement.calls >= 200 and agreement.difference < 1e-11 * agreement.scale
    assert hash(config) == hash(schema.from_dict(FileModel, schema.to_dict(config)))


def test_a_seed_is_a_pure_function_of_the_file(read: tuple[FileModel, dict[str, torch.Tensor]]) -> None:
    config, params = read
    state = torch.random.get_rng_state()
    first, again, other = (dict(build_model(config, seed).named_parameters()) for seed in (0, 0, 1))
    assert torch.equal(state, torch.random.get_rng_state())
    for name, tensor in params.items():
        assert torch.equal(first[name], tensor) and torch.equal(again[name], tensor)
    assert not torch.equal(other["position"], first["position"])


def test_tables_and_module_of_other_seeds_agree(read: tuple[FileModel, dict[str, torch.Tensor]]) -> None:
    config, _ = read
    module = build_model(config, 7).double()
    params = {name: tensor.detach()[None] for name, tensor in module.named_parameters()}
    tokens_BP = torch.randint(0, 12, (9, config.token_layout.num_positions))
    logits_BAV = module.answer_logits(tokens_BP).detach()
    torch.testing.assert_close(table_logits(tables(config, params), tokens_BP), logits_BAV)
    single = torch.cat([module.answer_logits(row[None]) for row in tokens_BP]).detach()
    torch.testing.assert_close(single, logits_BAV, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_checkpoints_come_back(checkpoint: Checkpoint, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{ending}"
    (save_checkpoint if ending == ".pt" else save_safetensors)(path, checkpoint)
    found = load_checkpoint(path)
    assert found.config == checkpoint.config and found.weights_sha256 == checkpoint.weights_sha256
    assert (found.seed, found.step, found.recipe) == (5, 3, {"lr": 0.1})
    assert all(torch.equal(found.params[name], tensor) for name, tensor in checkpoint.params.items())
    module = dict(found.module().named_parameters())
    assert all(torch.equal(module[name], tensor) for name, tensor in found.params.items())


def test_a_damaged_checkpoint_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(path, checkpoint)
    payload = torch.load(path, weights_only=True)
    payload["model_state"]["position"] = payload["model_state"]["position"][:5]
    torch.save(payload, path)
    with pytest.raises(Failure, match="shape"):
        load_checkpoint(path)


def test_a_checkpoint_alone_runs_nothing(tmp_path: Path) -> None:
    """Read in a process in which the file was named; then the code is forgotten."""
    from adderlab.reading import file_model

    ran = tmp_path / "ran"
    path = tmp_path / "noted.py"
    note = f"with open({str(ran)!r}, 'a') as file:\n    file.write('x')\n"
    path.write_text(f"{EXAMPLE.read_text()}\n\n{note}")
    config, params = read_file(path)
    saved = Checkpoint(config=config, params=params, recipe={}, step=0, val_exact=NAN)
    save_checkpoint(tmp_path / "model.pt", saved)
    del file_model._LIVE[config]
    before = ran.read_text()
    found = load_checkpoint(tmp_path / "model.pt")
    assert found.num_parameters == saved.num_parameters and found.weights_sha256 == saved.weights_sha256
    for use in (found.module, lambda: build_model(found.config, 0), lambda: tables(found.config, {})):
        with pytest.raises(UsageError, match=r"noted\.py"):
            use()
    assert ran.read_text() == before
    read_file(path)
    assert found.module() is not None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("counter", "call to call"),
        ("batch", "batch"),
        ("dropout", "dropout"),
        ("drawn", "no parameters"),
        ("outside", "outside tensor operations"),
    ],
)
def test_no_function_of_tokens_and_parameters_is_refused(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(Failure, match=words) as refusal:
        read_file(variant(name, tmp_path))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "words"),
    [("two layers", "second layer"), ("ahead", "ahead")],
)
def test_what_has_no_tables_says_why(name: str, words: str, tmp_path: Path) -> None:
    config, _ = read_file(variant(name, tmp_path))
    reason = why_no_tables(config)
    assert reason is not None and "\n" not in reason
    assert words in reason, reason
    module = build_model(config, 0)
    assert module(torch.zeros(1, 25, dtype=torch.int64)).shape == (1, 25, 12)


def test_float32_in_so_many_words_is_left_out(tmp_path: Path) -> None:
    config, _ = read_file(variant("float32", tmp_path))
    agreement = config.live.agreement
    assert agreement is not None and agreement.precision.startswith("float64 (")
    assert agreement.difference < 1e-11 * agreement.scale


def test_one_sequence_at_a_time(tmp_path: Path) -> None:
    config, _ = read_file(variant("one row", tmp_path))
    assert config.live.agreement is not None and not config.live.agreement.batched
    module = build_model(config, 0)
    tokens_BP = torch.randint(0, 12, (5, config.token_layout.num_positions))
    rows = torch.cat([module(row[None]) for row in tokens_BP])
    torch.testing.assert_close(module(tokens_BP), rows)
    asked = list(config.token_layout.query_positions)
    torch.testing.assert_close(module.answer_logits(tokens_BP), rows[:, asked], rtol=1e-4, atol=1e-4)


def test_the_end_token_is_learned(tmp_path: Path) -> None:
    layout = read_file(variant("end", tmp_path))[0].token_layout
    assert layout.end_decided and layout.num_decided == 12
    assert "without which an answer is wrong" in "".join(layout_lines(layout))


def test_a_named_layout_in_place_of_add(tmp_path: Path) -> None:
    config, _ = read_file(stated_file(tmp_path / "stated.py"))
    assert config.layout == "P13" and config.no_tables is None
    assert build_model(config, 0).own_sum(1, 2) is not None


def test_a_module_in_memory() -> None:
    model = random_model(ModelConfig(d_ff=4), seed=2).float()
    config, params = read_module(model, "P")
    assert config.in_memory and config.no_tables is None
    assert sum(map(torch.numel, params.values())) == sum(p.numel() for p in model.parameters())
    tokens = torch.randint(0, 14, (3, 33))
    found = build_model(config, 0)
    torch.testing.assert_close(found(tokens), model(tokens).detach(), rtol=1e-4, atol=1e-4)
    first = next(iter(dict(found.named_parameters())))
    with torch.no_grad():
        dict(found.named_parameters())[first].add_(1.0)
    assert torch.equal(dict(model.named_parameters())[first], params[first]), "a copy, not the module"


def test_parameters_that_float32_would_round_stay_float64(tmp_path: Path) -> None:
    text = EXAMPLE.read_text().replace("model = MyAdder()", "model = MyAdder().double()")
    (tmp_path / "double.py").write_text(text.replace("torch.randn(", "1 / 3 * torch.randn("))
    config, params = read_file(tmp_path / "double.py")
    # Drawn in float32, they are exact in it; only what is not is kept wider.
    assert config.double == any(not torch.equal(t.float().double(), t) for t in params.values())
    wide = {name: tensor.double() / 3 for name, tensor in params.items()}
    checkpoint = Checkpoint(
        config=schema.from_dict(FileModel, {**schema.to_dict(config), "double": True}),
        params=wide, recipe={}, step=0, val_exact=NAN,
    )  # fmt: skip
    save_checkpoint(tmp_path / "wide.pt", checkpoint)
    found = load_checkpoint(tmp_path / "wide.pt")
    assert all(torch.equal(found.params[name], tensor) for name, tensor in wide.items())
    assert found.weights_sha256 == checkpoint.weights_sha256


def test_what_is_said_of_a_reading(read: tuple[FileModel, dict[str, torch.Tensor]]) -> None:
    lines = "\n".join(reading_lines(read[0]))
    for word in ("a0 is the units", "1 head", "relu, square", "agreement", "float64"):
        assert word in lines, lines


def test_numbers_times_truth_values_are_no_float32() -> None:
    """0.3 where a position is the last: not what float32 makes of 0.3."""
    tokens = torch.tensor([[1, 2, 3]])
    trace = record(lambda own: 0.3 * (own > 2) + (own == 1) / 3, tokens, {})
    (wanted,) = trace.outputs
    found = run(trace, {}, tokens, {wanted.number})[wanted.number]
    assert found.dtype == torch.float64 and found.tolist() == [[1 / 3, 0.0, 0.3]]
