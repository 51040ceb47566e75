"""Export: equal loss or nothing; sharded files; the card; validation by source; and the planner against published points."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from hyperclova_core.cli import planning
from hyperclova_core.cli import training as commands
from hyperclova_core.evaluation.generation import Cache, Sampling, choose, generate_ids, read_on
from hyperclova_core.foundation.errors import ConfigError, DataError
from hyperclova_core.training.config import JobConfig
from hyperclova_core.training.data.samples import Samples
from hyperclova_core.training.data.token_stream import TokenStream
from hyperclova_core.training.export import export
from hyperclova_core.training.model.gpt import WholeModel
from hyperclova_core.training.model.sizes import SIZES
from hyperclova_core.training.model.tensor_parallel import token_losses
from hyperclova_core.training.planner.devices import DEVICES, device
from hyperclova_core.training.planner.estimate import Layout, Task, memory, step_time
from hyperclova_core.training.planner.published import errors, hyperclova_utilisation
from hyperclova_core.training.planner.search import plan
from tests.training.cases import VOCABULARY, Outcome, job, run
from tests.training.forked_ranks import Ranks

SOURCES = ("blog", "news")


@pytest.fixture(scope="module")
def trained(ranks: Ranks, shards: list[str], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A model trained under pipeline × tensor parallelism, with sources of its validation known."""
    folder = tmp_path_factory.mktemp("trained")
    documents = TokenStream(shards[1:2], VOCABULARY).shards[0].document_starts()
    table = pa.table(
        {
            "doc_id": [f"{number:032x}" for number in range(len(documents))],
            "source": [SOURCES[number % 2] for number in range(len(documents))],
            "first_token": documents,
            "tokens": [151] * len(documents),
            "bytes": [151 * (3 if number % 2 else 2) for number in range(len(documents))],
        }
    )
    pq.write_table(table, folder / "provenance.parquet")
    card = {
        "recipe": "test",
        "corpus_digest": "c" * 32,
        "mixture": {"blog": 0.75, "news": 0.25},
        "licences": {"blog": "CC0-1.0"},
    }
    config = job(
        shards,
        folder / "out",
        parallel={"pipeline": 2, "tensor": 2},
        validation_provenance=[str(folder / "provenance.parquet")],
        card=card,
    )
    return run(ranks, config)


@pytest.mark.ranks
def test_the_exported_model_has_the_trainers_validation_loss_by_source_too(trained: Outcome, shards: list[str]) -> None:
    model = export.load_model(str(trained.folder / "model"))
    stream = TokenStream(shards[1:2], VOCABULARY)
    samples = Samples(stream, 32, 11, 1)
    count = min(samples.count, trained.config.train.validation_sequences)
    ids = torch.from_numpy(samples.batch(0, count))
    with torch.no_grad():
        losses = token_losses(model(ids[:, :-1]), ids[:, 1:]).double().numpy()
    result = json.loads((trained.folder / "result.json").read_text())
    assert losses.mean() == pytest.approx(result["validation_loss"], rel=1e-5)
    places = samples.places(0, count)[:, None] + 1 + np.arange(32)
    sources = np.asarray([(place // 151) % 2 for place in places.ravel()]).reshape(places.shape)
    total = 0.0
    for number, (name, rate) in enumerate(zip(SOURCES, (2.0, 3.0), strict=True)):
        loss, bits, tokens = result["validation_by_source"][name]
        own = losses[sources == number]
        assert tokens == own.size
        assert loss == pytest.approx(own.mean(), rel=1e-5)
        assert bits == pytest.approx(own.sum() / math.log(2) / (rate * own.size), rel=1e-5)
        total += rate * own.size
    assert result["validation_bits_per_byte"] == pytest.approx(losses.sum() / math.log(2) / total, rel=1e-5)
    assert trained.rows[-1]["validation_loss/blog"] == pytest.approx(result["validation_by_source"]["blog"][0])


@pytest.mark.ranks
def test_transformers_loads_it_and_the_card_says_what_it_is(trained: Outcome) -> None:
    from transformers import AutoModelForCausalLM

    folder = str(trained.folder / "model")
    theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.randint(0, VOCABULARY, (2, 32), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, export.load_model(folder)(ids), atol=1e-5)
    card = (trained.folder / "model" / "README.md").read_text()
    for words in (
        "| blog | 75.00 % |",
        "| blog | CC0-1.0 |",
        "c" * 32,
        "validation bits per byte",
        "10, 2,560 tokens read",
    ):
        assert words in card, card


@pytest.mark.ranks
def test_large_models_are_written_in_files_that_are_read_back(
    trained: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "FILE_BYTES", 40_000)
    export.export_checkpoint(str(trained.folder), str(tmp_path / "model"))
    files = sorted(path.name for path in (tmp_path / "model").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0].startswith("model-00001-of-")
    whole, parts = export.load_model(str(trained.folder / "model")), export.load_model(str(tmp_path / "model"))
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True))
    monkeypatch.undo()
    export.export_checkpoint(str(trained.folder), str(tmp_path / "model"))
    assert [path.name for path in (tmp_path / "model").glob("*.safetensors")] == ["model.safetensors"], (
        "older files are gone"
    )


@pytest.mark.ranks
def test_a_model_whose_loss_differs_is_not_exported(
    trained: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        export, "_TRANSPOSED", ("qkv.weight", "fc.weight", "out.weight")
    )  # proj is square: it loads the wrong way round
    with pytest.raises(DataError, match="not the trained one; nothing was exported"):
        export.export_checkpoint(str(trained.folder), str(tmp_path / "model"))
    assert not (tmp_path / "model").exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ranks
def test_the_command_exports_a_checkpoint(trained: Outcome, tmp_path: Path) -> None:
    output = str(tmp_path / "model")
    found = CliRunner().invoke(commands.export, [str(trained.folder / "checkpoints" / "step-10"), "--output", output])
    assert found.exit_code == 0, found.output
    assert (tmp_path / "model" / "config.json").exists()
    none = CliRunner().invoke(commands.export, [str(tmp_path), "--output", output])
    assert isinstance(none.exception, DataError)
    assert "No complete checkpoint here" in str(none.exception)


@pytest.fixture(scope="module")
def model() -> WholeModel:
    """An untrained model: what it writes is as good as chance, and the same each time."""
    return WholeModel(SIZES["15k"], VOCABULARY, 48, seed=3).eval()


def test_what_is_read_bit_by_bit_is_what_is_read_at_once(model: WholeModel) -> None:
    ids = torch.randint(1, VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(1))
    whole = model(ids)[:, -1]
    cache = Cache(len(model.blocks))
    none = torch.zeros(2, dtype=torch.long)
    read_on(model, ids[:, :7], none, 0, cache)
    read_on(model, ids[:, 7:8], none, 7, cache)
    assert torch.allclose(read_on(model, ids[:, 8:], none, 8, cache), whole, atol=1e-5)
    padded = torch.cat([torch.zeros(2, 5, dtype=torch.long), ids], 1)
    assert torch.allclose(read_on(model, padded, none + 5, 0, Cache(len(model.blocks))), whole, atol=1e-5)


def test_a_prompt_goes_on_alike_alone_and_in_a_batch(model: WholeModel) -> None:
    prompts = [[0, 5, 9], [0], [0, *range(1, 30)]]
    sampling = Sampling(max_tokens=30, temperature=1.0, top_k=50, top_p=0.9)
    together = generate_ids(model, prompts, sampling, [1, 2, 3], VOCABULARY)
    for prompt, seed, found in zip(prompts, (1, 2, 3), together, strict=True):
        assert generate_ids(model, [prompt], sampling, [seed], VOCABULARY)[0] == found
    assert together[2][1] in ("context is full", "end of document")
    assert len(together[2][0]) <= 48 - 30
    assert all(token < 100 for (token,) in [(t,) for t in generate_ids(model, [[0]], sampling, [1], 100)[0][0]])
    stopped = generate_ids(model, [[0]], sampling, [2], VOCABULARY, lambda row, ids: len(ids) == 4)[0]
    assert stopped == (together[1][0][:4], "stop text")


def test_choosing_keeps_to_temperature_top_k_and_top_p() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    generator = torch.Generator().manual_seed(0)

    def drawn(**how: float) -> list[float]:
        counts = [0.0] * 4
        for _ in range(2000):
            counts[choose(logits, Sampling(**how), generator)] += 1 / 2000  # type: ignore[arg-type]
        return counts

    assert drawn(temperature=0.0) == pytest.approx([1.0, 0, 0, 0])
    assert drawn(temperature=1.0) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.04)
    assert drawn(temperature=1.0, top_k=2) == pytest.approx([0.625, 0.375, 0, 0], abs=0.04)
    assert drawn(temperature=1.0, top_p=0.8) == pytest.approx([0.625, 0.375, 0, 0], abs=0.04)
    assert drawn(temperature=1.0, top_p=0.81) == pytest.approx([0.526, 0.316, 0.158, 0], abs=0.04)


def test_the_planner_is_near_published_steps() -> None:
    found = errors()
    assert len(found) == 8
    for point, _, error in found:
        assert abs(error) < 0.05, point.name
    assert hyperclova_utilisation() == pytest.approx(0.204, abs=0.002)


def test_a_plan_is_best_first_fits_and_says_why_others_fall() -> None:
    task = Task(SIZES["82B"], 51_200, 2048, 1024)
    found = plan(task, 1024, device("a100-80g"))
    assert found.fitting
    assert found.falling
    times = [candidate.time.total for candidate in found.fitting]
    assert times == sorted(times)
    assert all(candidate.memory.total <= 80e9 for candidate in found.fitting)
    assert all(candidate.behind for candidate in found.fitting[1:])
    assert all("needs" in candidate.why_not for candidate in found.falling)
    for candidate in (*found.fitting, *found.falling):
        layout = candidate.layout
        assert layout.devices == 1024
        assert 80 % layout.tensor == 0
        assert 1024 % (layout.data * layout.micro_batch_size) == 0
    best = found.fitting[0].layout
    config = {
        "size": {
            "name": "82B",
            "parallel": {
                k: getattr(best, k)
                for k in ("pipeline", "tensor", "data", "micro_batch_size", "activation_checkpointing")
            },
        }
    }
    JobConfig.model_validate(
        {
            "train": {**config, "tokens": 150_000_000_000, "sequence_length": 2048, "global_batch_size": 1024},
            "shards": ["x"],
            "tokenizer": "x",
            "vocabulary": 51_200,
            "padded_vocabulary": 51_200,
            "output": "x",
        }
    )
    with pytest.raises(ConfigError, match="No layout of 1021 devices"):
        plan(task, 1021, device("a100-80g"))
    with pytest.raises(ConfigError, match="There is no GPU"):
        device("a1000")


def test_memory_and_time_follow_the_published_formulas() -> None:
    model = SIZES["82B"]
    task = Task(model, 51_200, 2048, 1024)
    whole, again = Layout(8, 8, 16, 1), Layout(8, 8, 16, 1, "block")
    first = memory(task, whole)
    each = 2048 * model.hidden_size
    assert first.activations == pytest.approx(each * (10 + 24 / 8) * 8 * 8)
    assert memory(task, again).activations == pytest.approx(each * (2 * 8 * 8 + 13))
    assert first.optimizer == pytest.approx(12 / 16 / 2 * first.weights)
    slow, quick = step_time(task, again, DEVICES["a100-80g"]), step_time(task, whole, DEVICES["a100-80g"])
    assert slow.activation_checkpointing == pytest.approx(quick.compute / 3, rel=0.02)
    assert quick.bubble / (quick.compute + quick.tensor) == pytest.approx(7 / 64)


def test_the_plan_command_prints_tables() -> None:
    found = CliRunner().invoke(planning.plan, ["6.9B", "--gpus", "64", "--gpu", "h100", "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.output)[0]["why"] == "best"
    published = CliRunner().invoke(planning.plan, ["--published"])
    assert "530B, selective" in published.output
    none = CliRunner().invoke(planning.plan, ["82B", "--gpus", "8"])
    assert isinstance(none.exception, ConfigError)
    assert "fits on 8 a100-80g under no layout" in str(none.exception)
    own = CliRunner().invoke(planning.plan, ["12x768x12", "--gpus", "8", "--gpu", "l40s", "--global-batch-size", "64"])
    assert own.exit_code == 0, own.output
