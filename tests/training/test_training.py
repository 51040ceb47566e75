"""Training: schedule, data and layers by themselves; then real ranks: parity of layouts, bitwise resume, refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import parse
from hyperclova_core.foundation.errors import ConfigError, DataError
from hyperclova_core.jobs.backends import JobStatus, LocalBackend, wait
from hyperclova_core.jobs.spec import TrainJobSpec
from hyperclova_core.tokens.megatron import ShardWriter
from hyperclova_core.training.config import JobConfig, TrainConfig
from hyperclova_core.training.data import Samples, TokenStream
from hyperclova_core.training.export import load_model
from hyperclova_core.training.schedule import learning_rate
from hyperclova_core.training.sizes import SIZES
from hyperclova_core.training.stage import PROGRAM

VOCABULARY = 256


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two shards of learnable Markov text."""
    folder = tmp_path_factory.mktemp("shards")
    generator = np.random.Generator(np.random.PCG64(5))
    prefixes = []
    for number in range(2):
        prefix = str(folder / f"train-{number:05d}")
        with ShardWriter(prefix, VOCABULARY) as writer:
            for _ in range(60):
                ids = [int(generator.integers(1, VOCABULARY))]
                for noise in generator.integers(0, 5, 149):
                    ids.append((ids[-1] * 5 + int(noise) + 17) % (VOCABULARY - 1) + 1)
                writer.add(np.asarray([*ids, 0]))
        prefixes.append(prefix)
    return prefixes


def test_the_schedule_warms_up_and_ends_at_its_share() -> None:
    rates = [learning_rate(step, 100, 1.0, 0.1, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_published_sizes_are_what_their_names_say() -> None:
    for name, said in (("350M", 350e6), ("760M", 760e6), ("1.3B", 1.3e9), ("13B", 13e9), ("39B", 39e9), ("82B", 82e9)):
        assert SIZES[name].parameters(51_200, 2048) == pytest.approx(said, rel=0.05)
    for name, said in (("15k", 15e3), ("115k", 115e3), ("450k", 450e3), ("1.5M", 1.5e6)):
        assert SIZES[name].non_embedding_parameters == pytest.approx(said, rel=0.05)


def test_each_sample_is_seen_once_an_epoch_and_depends_on_seed_and_id_alone(shards: list[str]) -> None:
    stream = TokenStream(shards, VOCABULARY)
    samples = Samples(stream, 32, seed=1, window=50)
    whole = stream.slice(0, stream.tokens)
    slices = {tuple(whole[start : start + 33]) for start in range(0, samples.count * 32, 32)}
    assert {tuple(samples[index]) for index in range(samples.count)} == slices
    again = Samples(stream, 32, seed=1, window=50)
    assert (again[77] == samples[77]).all()
    other = Samples(stream, 32, seed=2, window=50)
    assert any((other[index] != samples[index]).any() for index in range(5))
    epochs = [tuple(samples[index + samples.count]) for index in range(samples.count)]
    assert set(epochs) == slices
    one = list(samples.micro_batches(16, 8, 2, 0, 1))
    two = [b for rank in (0, 1) for b in samples.micro_batches(16, 8, 2, rank, 2)]
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(one, two, strict=True))


def test_an_id_beyond_the_vocabulary_is_found_with_its_document(shards: list[str], tmp_path: Path) -> None:
    with ShardWriter(str(tmp_path / "bad"), 1000) as writer:
        writer.add(np.arange(100))
        writer.add(np.asarray([5, 999, 7]))
    with pytest.raises(DataError, match=r"999 is beyond the vocabulary of 256") as caught:
        TokenStream([*shards, str(tmp_path / "bad")], VOCABULARY)
    assert "bad.bin, document 1, token 101" in caught.value.where


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"global_batch": 10}, "micro_batch may be"),
        (
            {
                "size": {
                    "name": "x",
                    "shape": {"layers": 2, "width": 30, "heads": 3, "learning_rate": 0.1},
                    "parallel": {"tensor": 2},
                }
            },
            "do not divide among 2",
        ),
        ({"size": {"name": "15k", "parallel": {"pipeline": 3}}}, "cannot fill 3 pipeline stages"),
        ({"tokens": 100}, "less than one batch"),
        ({"stepz": 1}, "unknown key"),
    ],
)
def test_layouts_that_would_train_wrongly_are_refused(change: dict[str, Any], message: str) -> None:
    data = {
        "size": {"name": "15k", "parallel": {"data": 2, "micro_batch": 4}},
        "global_batch": 16,
        "context": 32,
        **change,
    }
    with pytest.raises(ConfigError) as caught:
        parse(TrainConfig, data, "test")
    assert message in caught.value.why


def job(shards: list[str], folder: Path, steps: int = 10, **parts: Any) -> JobConfig:
    parallel = {"micro_batch": 2, **parts.pop("parallel", {})}
    shape = {"layers": 2, "width": 32, "heads": 2, "learning_rate": 0.01}
    train = {
        "size": {"name": "test", "shape": shape, "parallel": parallel},
        "context": 32,
        "global_batch": 8,
        "tokens": 10 * 8 * 32,
        "gradient_clipping": 0.5,
        "evaluate_every": 5,
        "log_every": 1,
        "seed": 11,
        **parts.pop("train", {}),
    }
    return JobConfig.model_validate(
        {
            "train": train,
            "shards": shards,
            "validation_shards": shards[1:],
            "tokenizer": "none",
            "vocabulary": VOCABULARY,
            "padded_vocabulary": VOCABULARY,
            "output": str(folder),
            "validation_bytes_per_token": 2.0,
            **parts,
        }
    )


def launch(config: JobConfig) -> tuple[JobStatus, TrainJobSpec]:
    spec = TrainJobSpec(
        "test",
        PROGRAM,
        config.model_dump(mode="json"),
        config.output,
        config.train.size.parallel.processes,
        grace_seconds=20,
    )
    backend = LocalBackend()
    backend.submit(spec)
    status = wait(backend, spec)
    return status, spec


def losses(config: JobConfig) -> list[float]:
    status, _ = launch(config)
    assert status.state == "succeeded", storage.read_bytes(f"{config.output}/job.log").decode()[-3000:]
    rows = [json.loads(line) for line in Path(config.output, "metrics.jsonl").read_text().splitlines()]
    norms[config.output] = [row["gradient_norm"] for row in rows]
    return [row["loss"] for row in rows]


norms: dict[str, list[float]] = {}
LAYOUTS = {"dp2": {"data": 2}, "tp2": {"tensor": 2}, "pp2": {"pipeline": 2}}


@pytest.fixture(scope="module")
def single(shards: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[JobConfig, list[float]]:
    config = job(shards, tmp_path_factory.mktemp("single"))
    return config, losses(config)


@pytest.mark.ranks
def test_one_process_learns_and_exports_what_it_trained(
    single: tuple[JobConfig, list[float]], shards: list[str]
) -> None:
    config, found = single
    assert found[0] == pytest.approx(math.log(VOCABULARY), rel=0.02)
    assert found[-1] < found[0] - 0.04
    model = load_model(f"{config.output}/model")
    samples = Samples(TokenStream(shards[1:], VOCABULARY), 32, 11, 1)
    batches = min(samples.count, config.train.validation_sequences) // 8
    with torch.no_grad():
        values = []
        for batch in range(batches):
            for inputs, targets in samples.micro_batches(batch * 8, 8, 8, 0, 1):
                logits = model(inputs)
                values.append(
                    float(torch.nn.functional.cross_entropy(logits.view(-1, VOCABULARY), targets.reshape(-1)))
                )
    result = storage.read_json(f"{config.output}/result.json")
    assert np.mean(values) == pytest.approx(result["validation_loss"], rel=1e-5)
    assert result["validation_bits_per_byte"] == pytest.approx(result["validation_loss"] / math.log(2) / 2.0)


@pytest.mark.ranks
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_computes_what_one_process_computes(
    layout: str, single: tuple[JobConfig, list[float]], shards: list[str], tmp_path: Path
) -> None:
    config = job(shards, tmp_path, parallel=LAYOUTS[layout])
    found = losses(config)
    assert np.abs(np.asarray(found) - np.asarray(single[1])).max() < 1e-5
    assert norms[config.output] == pytest.approx(norms[single[0].output], rel=1e-3)
    ours, theirs = (
        load_model(f"{config.output}/model").state_dict(),
        load_model(f"{single[0].output}/model").state_dict(),
    )
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-4) for name in theirs)


@pytest.mark.ranks
def test_a_stopped_training_resumes_to_the_bit(
    single: tuple[JobConfig, list[float]], shards: list[str], tmp_path: Path
) -> None:
    config = job(shards, tmp_path, stop_after=4)
    status, _ = launch(config)
    assert (status.state, status.exit_code) == ("failed", 75)
    assert losses(job(shards, tmp_path)) == single[1]


@pytest.mark.ranks
def test_a_rank_that_fails_says_why(shards: list[str], tmp_path: Path) -> None:
    config = job(shards, tmp_path, train={"context": 4096, "global_batch": 8, "tokens": 10 * 8 * 4096})
    status, _ = launch(config)
    assert status.exit_code == 65
    assert "shorter than one" in status.explain()


@pytest.mark.ranks
def test_a_checkpoint_of_other_data_is_refused(single: tuple[JobConfig, list[float]], shards: list[str]) -> None:
    config = JobConfig.model_validate({**single[0].model_dump(), "shards": shards[::-1]})
    status, _ = launch(config)
    assert status.exit_code == 65
    assert "another training" in status.explain()
