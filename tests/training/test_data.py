"""Samples and shards: order, resuming at any layout, S3 through a bounded cache; schedules and batches; layers by themselves."""

from __future__ import annotations

import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import parse
from hyperclova_core.foundation.errors import ConfigError, DataError
from hyperclova_core.tokens.serialize.megatron_format import ShardWriter
from hyperclova_core.training.config import JobConfig, TrainConfig
from hyperclova_core.training.data.samples import Samples
from hyperclova_core.training.data.token_stream import BlockCache, RemoteIds, TokenStream
from hyperclova_core.training.learning_rate import BatchPlan, learning_rate
from hyperclova_core.training.model.gpt import WholeModel
from hyperclova_core.training.model.micro_batch import MicroBatch, current, dropout, enter
from hyperclova_core.training.model.sizes import SIZES
from hyperclova_core.training.model.tensor_parallel import alone, token_losses
from tests.object_store import FaultProxy
from tests.training.cases import VOCABULARY, job


def test_the_cosine_warms_up_and_ends_at_its_share() -> None:
    rates = [learning_rate(step + 1, 100, 1.0, 0.1, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert rates[54] == pytest.approx(0.1 + 0.9 * 0.5)


def test_wsd_is_stable_and_then_decays_linearly() -> None:
    rates = [learning_rate(done, 100, 1.0, 0.1, 0.0, "wsd", 0.2) for done in range(1, 101)]
    assert rates[9:80] == [1.0] * 71
    assert rates[89] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.0)
    longer = [learning_rate(done, 200, 1.0, 0.05, 0.0, "wsd", 0.1) for done in range(1, 101)]
    assert longer[:80] == rates[:80]


@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 8), st.integers(0, 500), st.integers(0, 4000))
def test_batches_follow_one_another_and_never_read_more_than_there_is(
    start: int, increment: int, levels: int, ramp: int, samples: int
) -> None:
    plan = BatchPlan(samples, start + increment * levels, start, increment, ramp)
    following = 0
    for step in range(plan.steps):
        first, size = plan.at(step)
        assert first == following
        assert size in plan.sizes
        following = first + size
    assert plan.at(plan.steps)[0] == following <= samples
    assert following + plan.at(plan.steps)[1] > samples, "another step would need more"


def test_published_sizes_are_what_their_names_say() -> None:
    for name, said in (("350M", 350e6), ("760M", 760e6), ("1.3B", 1.3e9), ("13B", 13e9), ("39B", 39e9), ("82B", 82e9)):
        assert SIZES[name].parameters(51_200, 2048) == pytest.approx(said, rel=0.05)
    for name, said in (("15k", 15e3), ("115k", 115e3), ("450k", 450e3), ("1.5M", 1.5e6)):
        assert SIZES[name].non_embedding_parameters == pytest.approx(said, rel=0.05)


@pytest.mark.parametrize("name", ["15k", "115k", "450k", "1.5M"])
def test_the_loss_before_the_first_step_is_that_of_guessing(name: str) -> None:
    model = WholeModel(SIZES[name], 2048, 64)
    ids = torch.randint(0, 2048, (4, 65), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        loss = float(token_losses(model(ids[:, :-1]), ids[:, 1:]).mean())
    assert loss == pytest.approx(math.log(2048), rel=0.02)


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
    assert (samples.batch(samples.count - 3, 7) == np.stack([samples[samples.count - 3 + n] for n in range(7)])).all()
    one = list(samples.micro_batches(16, 8, 2, 0, 1))
    two = [b for rank in (0, 1) for b in samples.micro_batches(16, 8, 2, rank, 2)]
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(one, two, strict=True))


def test_an_id_beyond_the_vocabulary_is_found_with_its_document(shards: list[str], tmp_path: Path) -> None:
    with ShardWriter(str(tmp_path / "bad"), 1000) as writer:
        writer.add(np.arange(100))
        writer.add(np.asarray([5, 999, 7]))
        writer.add(np.arange(40))
    stream = TokenStream([*shards, str(tmp_path / "bad")], VOCABULARY)
    samples = Samples(stream, 32, 0, 1)
    for find in (stream.check, lambda: [samples[index] for index in range(samples.count)]):
        with pytest.raises(DataError, match=r"999 is beyond the vocabulary of 256") as caught:
            find()
        assert "bad.bin, document 1, token 101" in caught.value.where
    parts = 0
    for part in range(3):
        try:
            stream.check(part, 3)
        except DataError:
            parts += 1
    assert parts == 1, "ranks share the work of looking"


def test_shards_in_s3_are_read_through_a_bounded_cache(
    object_store: FaultProxy, shards: list[str], tmp_path: Path, patient: None
) -> None:
    remote = []
    for prefix in shards:
        target = f"s3://warehouse/stream/{Path(prefix).name}"
        for suffix in ("bin", "idx"):
            storage.write_bytes(f"{target}.{suffix}", Path(f"{prefix}.{suffix}").read_bytes())
        remote.append(target)
        storage.write_json(f"{target}.json", {"tokenizer": "t"})
    local = TokenStream(shards, VOCABULARY)
    object_store.set_plan()
    with ThreadPoolExecutor(4) as pool:  # as many ranks of one machine, which begin together
        far, *_ = pool.map(lambda _: TokenStream(remote, VOCABULARY), range(4))
    asked = Counter(method.decode() for method, path in object_store.seen)
    assert asked["GET"] <= 4 + len(shards), "a listing a rank, and each index once for all of them"
    assert asked["HEAD"] <= len(shards), "nothing is asked of an object by itself, but what fetching it needs"
    TokenStream(remote, VOCABULARY, "t")
    with pytest.raises(DataError, match="another tokenizer"):
        TokenStream(remote, VOCABULARY, "other")
    assert far.identity() == local.identity()
    assert (far.slice(0, far.tokens) == local.slice(0, local.tokens)).all()
    cache = BlockCache(str(tmp_path), 0, block_bytes=1000)
    ids = RemoteIds(f"{remote[0]}.bin", np.uint16, cache)
    assert (
        np.concatenate([ids[start : start + 333] for start in range(0, len(ids), 333)]) == local.slice(0, len(ids))
    ).all()
    assert cache.fetched == math.ceil(2 * len(ids) / 1000), "read forwards, each block is fetched once"
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= cache.capacity + 1000
    assert len(ids[7:7]) == 0


def refused(change: dict[str, Any]) -> str:
    """Why a training is refused."""
    data = {
        "size": {"name": "15k", "parallel": {"data": 2, "micro_batch_size": 4}},
        "global_batch_size": 16,
        "sequence_length": 32,
        **change,
    }
    with pytest.raises(ConfigError) as caught:
        parse(TrainConfig, data, "test")
    return caught.value.why


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"global_batch_size": 10}, "micro_batch_size may be 1, 5"),
        ({"batch_ramp": {"start": 4, "increment": 4, "tokens": 100}}, "global_batch_size 4 is not micro_batch_size 4"),
        ({"batch_ramp": {"start": 8, "increment": 5, "tokens": 100}}, "does not reach 16"),
        (
            {
                "size": {
                    "name": "x",
                    "shape": {"layers": 2, "hidden_size": 30, "heads": 3, "learning_rate": 0.1},
                    "parallel": {"tensor": 2},
                }
            },
            "do not divide among 2",
        ),
        ({"size": {"name": "15k", "parallel": {"pipeline": 3}}}, "cannot fill 3 pipeline stages"),
        ({"tokens": 100}, "less than one batch"),
        ({"stepz": 1}, "unknown key"),
        ({"deepspeed": {"zero_optimization": {"stage": 0}}}, "leaves out parameters of every stage but the first"),
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, "while a pipeline accumulates them"),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, "ZeRO stage 3 is refused"),
        ({"deepspeed": {"pipeline": {"use_reentrant": True}}}, "trains the head only"),
        ({"deepspeed": {"activation_checkpointing": {"partition_activations": True}}}, "reentrant"),
        ({"deepspeed": {"fp16": {"enabled": True}}}, "precision to bf16 or fp32"),
        ({"deepspeed": {"train_batch_size": 3}}, "set by global_batch_size"),
        ({"deepspeed": {"optimizer": {"type": "AdamW"}}}, "would be compiled"),
        ({"schedule": "wsd", "decay_share": 0.95}, "more than the whole"),
    ],
)
def test_layouts_that_would_train_wrongly_are_refused(change: dict[str, Any], message: str) -> None:
    assert message in refused(change)


def test_a_vocabulary_that_does_not_divide_is_refused_with_one_that_does(shards: list[str]) -> None:
    data = job(shards, "out", parallel={"tensor": 2}).model_dump()
    with pytest.raises(ConfigError) as caught:
        parse(JobConfig, {**data, "padded_vocabulary": 257}, "test")
    assert "pad it to 512" in caught.value.why
    with pytest.raises(ConfigError) as caught:
        parse(JobConfig, {**data, "vocabulary": 300}, "test")
    assert "is larger than padded_vocabulary" in caught.value.why


def test_dropout_is_a_function_of_the_sample() -> None:
    x = torch.ones(4, 8, 16)
    whole = dropout(x, 0.25, MicroBatch(first=8, count=4, seed=3), "here")
    parts = [dropout(x[:2], 0.25, MicroBatch(first=first, count=2, seed=3), "here") for first in (8, 10)]
    assert torch.equal(whole, torch.cat(parts)), "whatever the micro-batch"
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole, dropout(x, 0.25, MicroBatch(first=8, count=4, seed=3), "there"))
    assert float((whole == 0).float().mean()) == pytest.approx(0.25, abs=0.05)
    assert float(whole.max()) == pytest.approx(1 / 0.75)


def test_documents_kept_apart_compute_what_each_computes_alone() -> None:
    model = WholeModel(SIZES["15k"], 128, 32).eval()
    generator = torch.Generator().manual_seed(1)
    documents = [
        torch.cat([torch.tensor([0]), torch.randint(1, 128, (length,), generator=generator)]) for length in (9, 1, 14)
    ]
    packed = torch.cat(documents)[None]
    batch = MicroBatch(marks=packed == 0)

    def logits(ids: torch.Tensor, micro: MicroBatch) -> torch.Tensor:
        before = current()
        with alone():
            enter(micro)
            x = model.positions(model.embedding(ids))
            for block in model.blocks:
                x = block(x)
        enter(before)
        return model.norm(x)

    with torch.no_grad():
        together = logits(packed, batch)[0]
        single = torch.cat([logits(document[None], MicroBatch())[0] for document in documents])
        attended = logits(packed, MicroBatch())[0]
    assert torch.allclose(together, single, atol=1e-5)
    assert not torch.allclose(together, attended, atol=1e-3)
