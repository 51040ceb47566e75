"""The mixer's laws, and shards that hold exactly what was planned, with the way back to each document."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperclova_core.corpus.mix import Candidate, MixConfig, choose, is_validation, make_plan, wanted_shares
from hyperclova_core.foundation.datasets import Dataset, Target
from hyperclova_core.foundation.engines import LocalEngine
from hyperclova_core.foundation.errors import ConfigError, DataError
from hyperclova_core.foundation.runner import StageRequest, execute, plan_stage
from hyperclova_core.foundation.stages import definition_of
from hyperclova_core.tokens.megatron import Shard
from hyperclova_core.tokens.mix_stage import mix
from hyperclova_core.tokens.serialize import SerializeConfig, check_composition, serialize, shard_prefixes
from hyperclova_core.tokens.tokenizer import MorphemeTokenizer
from hyperclova_core.tokens.train_stage import TokenizerConfig, tokenizer_folder, train_tokenizer

SIZES = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 10_000), min_size=1)


@given(SIZES, st.floats(0.1, 3), st.floats(0.5, 4), st.floats(0.05, 1))
def test_a_plan_fills_the_budget_within_the_caps(
    sizes: dict[str, int], temperature: float, epochs: float, part: float
) -> None:
    budget = max(1, int(sum(sizes.values()) * epochs * part) - len(sizes))
    config = MixConfig(budget_tokens=budget, temperature=temperature, max_epochs=epochs)
    plan = make_plan(sizes, dict.fromkeys(sizes, 1), config)
    assert abs(sum(leaf.target_tokens for leaf in plan.leaves) - budget) <= len(sizes)
    for leaf in plan.leaves:
        assert leaf.target_tokens <= int(leaf.available_tokens * epochs) + 1
        assert leaf.shortage_tokens == max(0, leaf.wanted_tokens - int(leaf.available_tokens * epochs))
    assert abs(sum(leaf.weight for leaf in plan.leaves) - 1) < 1e-6


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 50)), min_size=1, max_size=60),
    st.integers(1, 500),
    st.integers(0, 3),
)
def test_a_larger_budget_keeps_earlier_choices(documents: list[tuple[str, int]], budget: int, seed: int) -> None:
    candidates = [Candidate(f"{number:032x}", source, tokens) for number, (source, tokens) in enumerate(documents)]
    available = Counter[str]()
    for candidate in candidates:
        available[candidate.source] += candidate.tokens
    counts = Counter(candidate.source for candidate in candidates)

    def chosen(tokens: int) -> set[tuple[str, int]]:
        config = MixConfig(budget_tokens=min(tokens, sum(available.values())), max_epochs=1)
        return {(item.doc_id, item.copy) for item in choose(candidates, make_plan(available, counts, config), seed)}

    small, large = chosen(budget), chosen(budget * 2)
    lost = small - large
    assert sum(c.tokens for c in candidates if (c.doc_id, 0) in lost) <= 2 * max(c.tokens for c in candidates)


def test_epoch_copies_are_spread_and_targets_met() -> None:
    candidates = [Candidate(f"{number:032x}", "a", 10) for number in range(100)]
    plan = make_plan({"a": 1000}, {"a": 100}, MixConfig(budget_tokens=2500, max_epochs=4))
    chosen = choose(candidates, plan, 1)
    assert sum(item.tokens for item in chosen) == 2500
    copies = Counter(item.doc_id for item in chosen)
    assert set(copies.values()) == {2, 3}
    assert len({(item.doc_id, item.copy) for item in chosen}) == len(chosen)
    places = [index for index, item in enumerate(chosen) if item.copy == 0]
    assert 100 < np.mean(places) < 150
    assert [item.key for item in chosen] == sorted(item.key for item in chosen)


def test_a_shortage_is_an_error_or_a_recorded_respread() -> None:
    config = {"budget_tokens": 1000, "weights": {"a": 0.5, "b": 0.5}, "max_epochs": 1}
    plan = make_plan({"a": 100, "b": 2000}, {"a": 1, "b": 1}, MixConfig(**config))
    a, b = plan.leaves
    assert (a.target_tokens, a.shortage_tokens) == (100, 400)
    assert (b.target_tokens, b.respread_tokens) == (900, 400)
    with pytest.raises(DataError, match="a lacks 400 tokens"):
        make_plan({"a": 100, "b": 2000}, {"a": 1, "b": 1}, MixConfig(**config, on_shortage="error"))
    with pytest.raises(DataError, match="smaller than the budget"):
        make_plan({"a": 100, "b": 200}, {"a": 1, "b": 1}, MixConfig(**config))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1.0}, "without a weight"),
        ({"a": -1.0, "b": 1.0}, "not usable"),
        ({"a": 0.3, "b": 0.3}, "do not sum to 1"),
    ],
)
def test_weights_that_cannot_be_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        wanted_shares({"a": 10, "b": 10}, MixConfig(weights=weights, normalise=False))


def test_validation_goes_by_cluster() -> None:
    held = [is_validation(5, f"cluster-{number}", 0.1) for number in range(5000)]
    assert 0.08 < np.mean(held) < 0.12
    assert held == [is_validation(5, f"cluster-{number}", 0.1) for number in range(5000)]


def stage(function: object, config: object, inputs: dict[str, Dataset], folder: Path) -> Dataset:
    request = StageRequest(definition_of(function), config, lambda _: Target(str(folder)), inputs, seed=3, buckets=2)  # type: ignore[arg-type]
    return execute(plan_stage(request), LocalEngine()).dataset


@pytest.fixture(scope="module")
def made(portal: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    folder = tmp_path_factory.mktemp("tokens")
    tokenizer = stage(
        train_tokenizer, TokenizerConfig(vocabulary_size=800), {"documents": portal}, folder / "tokenizer"
    )
    inputs = {"documents": portal, "tokenizer": tokenizer}
    mixed = stage(mix, MixConfig(budget_tokens=12_000, max_epochs=3, validation_share=0.1), inputs, folder / "mix")
    shards = stage(serialize, SerializeConfig(shard_tokens=4000), {**inputs, "mix": mixed}, folder / "shards")
    return {**inputs, "mix": mixed, "serialize": shards, "folder": folder}  # type: ignore[dict-item]


def test_shards_hold_what_was_planned_in_order(made: dict[str, Dataset], portal: Dataset) -> None:
    texts = {row["doc_id"]: row["text"] for row in portal.read("documents").to_pylist()}
    tokenizer = MorphemeTokenizer.load(tokenizer_folder(made["tokenizer"]))
    selection = made["mix"].read("selection").to_pylist()
    provenance = made["serialize"].read("provenance").to_pylist()
    order = [(row["doc_id"], row["copy"]) for row in selection]
    assert [(row["doc_id"], row["copy"]) for row in provenance] == order
    prefixes = [*shard_prefixes(made["serialize"], "train"), *shard_prefixes(made["serialize"], "validation")]
    shards = {prefix.rsplit("/", 1)[-1]: Shard(prefix) for prefix in prefixes}
    assert len(shard_prefixes(made["serialize"], "train")) > 2
    for row in provenance:
        shard = shards[row["shard"]]
        ids = shard.document(row["document"])
        assert (ids == shard.ids[row["first_token"] : row["first_token"] + row["tokens"]]).all()
        assert ids[-1] == 0
        assert tokenizer.decode(ids[:-1].tolist()) == texts[row["doc_id"]]
        assert row["bytes"] == len(texts[row["doc_id"]].encode())
    emitted = made["serialize"].manifest.info["composition"]
    assert {row["source"] for row in emitted} == {"cafe", "comment", "kin", "news", "review"}
    assert all(abs(row["emitted_tokens"] - row["planned_tokens"]) <= 300 for row in emitted)


def test_no_document_and_no_cluster_is_on_both_sides(made: dict[str, Dataset]) -> None:
    selection = made["mix"].read("selection").to_pylist()
    train = {row["doc_id"] for row in selection if row["split"] == "train"}
    held = {row["doc_id"] for row in selection if row["split"] == "validation"}
    assert held
    assert not train & held


def test_a_composition_that_is_off_is_refused(made: dict[str, Dataset]) -> None:
    plan = made["mix"].manifest.info["plan"]
    selection = made["mix"].read("selection")
    with pytest.raises(DataError, match="not what was planned"):
        check_composition(plan, {"cafe": 1}, selection)


def test_bytes_do_not_depend_on_buckets(made: dict[str, Dataset], tmp_path: Path) -> None:
    from tests.conftest import ingested, portal_sources

    other = ingested(tmp_path / "in", *portal_sources(), buckets=8)
    mixed = stage(
        mix,
        MixConfig(budget_tokens=12_000, max_epochs=3, validation_share=0.1),
        {"documents": other, "tokenizer": made["tokenizer"]},
        tmp_path / "mix",
    )
    shards = stage(
        serialize,
        SerializeConfig(shard_tokens=4000),
        {"documents": other, "tokenizer": made["tokenizer"], "mix": mixed},
        tmp_path / "shards",
    )
    ours = [entry.checksum for entry in shards.table("shards").files]
    assert ours == [entry.checksum for entry in made["serialize"].table("shards").files]
