"""The mixture in stages, and shards that hold exactly what was planned, with the way back to each document."""

from __future__ import annotations

import errno
import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.dataset import Dataset, Target
from hyperclova_core.foundation.datasets.manifest import file_checksum
from hyperclova_core.foundation.errors import ConfigError, DataError, TransientError
from hyperclova_core.foundation.hashing import order_keys
from hyperclova_core.foundation.stages import sums as sums_module
from hyperclova_core.foundation.stages.engines import LocalEngine
from hyperclova_core.foundation.stages.kinds import definition_of
from hyperclova_core.foundation.stages.runner import StageRequest, execute, plan_stage
from hyperclova_core.foundation.storage import s3
from hyperclova_core.tokens.mixture.composition import check_composition, check_windows
from hyperclova_core.tokens.mixture.leaves import share_limit, validation_keys
from hyperclova_core.tokens.mixture.plan import MixConfig
from hyperclova_core.tokens.mixture.stage import mix
from hyperclova_core.tokens.serialize import megatron_format, merging, staging
from hyperclova_core.tokens.serialize import runs as runs_module
from hyperclova_core.tokens.serialize.megatron_format import Shard
from hyperclova_core.tokens.serialize.runs import RunSums, RunWriter, StagedRun
from hyperclova_core.tokens.serialize.shard_files import check_tokenizer, document_of, merge, read_side, split
from hyperclova_core.tokens.serialize.stage import SerializeConfig, serialize, shard_prefixes
from hyperclova_core.tokens.serialize.staging import training_keys
from hyperclova_core.tokens.tokenizer.tokenizer import Tokenizer, tokenizer_folder
from hyperclova_core.tokens.tokenizer_training.stage import TokenizerConfig, train_tokenizer
from hyperclova_core.training.data.token_stream import index_checksums
from tests.object_store import FaultProxy
from tests.tokens.trained import trained

MIX = MixConfig(budget_tokens=12_000, max_epochs=3, validation_share=0.1)


def stage(function: object, config: object, inputs: dict[str, Dataset], folder: Path, buckets: int = 2) -> Dataset:
    request = StageRequest(
        definition_of(function), config, lambda _: Target(str(folder)), inputs, seed=3, buckets=buckets
    )  # type: ignore[arg-type]
    return execute(plan_stage(request), LocalEngine()).dataset


@pytest.fixture(scope="module")
def made(portal: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    folder = tmp_path_factory.mktemp("tokens")
    config = TokenizerConfig(vocabulary_size=800, memo_units=500)
    tokenizer = stage(train_tokenizer, config, {"documents": portal}, folder / "tokenizer")
    inputs = {"documents": portal, "tokenizer": tokenizer}
    mixed = stage(mix, MIX, inputs, folder / "mix")
    shards = stage(serialize, SerializeConfig(shard_tokens=4000), {**inputs, "mix": mixed}, folder / "shards")
    return {**inputs, "mix": mixed, "serialize": shards}


def expected_order(made: dict[str, Dataset], which: str) -> list[tuple[str, int]]:
    rows = [row for row in made["mix"].read("selection").to_pylist() if row["split"] == which]
    keyed = []
    for copy in range(4):
        taken = [row["doc_id"] for row in rows if row["copies"] > copy]
        keys = training_keys(pa.array(taken, pa.string()), 3, copy).tolist()
        keyed += [(key, doc_id, copy) for key, doc_id in zip(keys, taken, strict=True)]
    return [(doc_id, copy) for _, doc_id, copy in sorted(keyed)]


def test_shards_hold_what_was_planned_in_order(made: dict[str, Dataset], portal: Dataset) -> None:
    documents = {row["doc_id"]: row for row in portal.read("documents").to_pylist()}
    tokenizer = Tokenizer.load(tokenizer_folder(made["tokenizer"]))
    provenance = made["serialize"].read("provenance").to_pylist()
    order = [(row["doc_id"], row["copy"]) for row in provenance]
    assert order == expected_order(made, "train") + expected_order(made, "validation")
    prefixes = [*shard_prefixes(made["serialize"], "train"), *shard_prefixes(made["serialize"], "validation")]
    shards = {prefix.rsplit("/", 1)[-1]: Shard(prefix) for prefix in prefixes}
    assert len(shard_prefixes(made["serialize"], "train")) > 2
    for row in provenance:
        shard, document = shards[row["shard"]], documents[row["doc_id"]]
        ids = shard.document(row["document"])
        assert (ids == shard.ids[row["first_token"] : row["first_token"] + row["tokens"]]).all()
        assert ids[-1] == 0
        assert tokenizer.decode(ids[:-1].tolist()) == document["text"]
        assert row["bytes"] == len(document["text"].encode())
        assert (row["source"], row["content_hash"]) == (document["source"], document["content_hash"])
    info = made["serialize"].manifest.info
    assert {row["source"] for row in info["composition"]} == {"cafe", "comment", "kin", "news", "review"}
    assert all(abs(row["emitted_tokens"] - row["planned_tokens"]) <= 300 for row in info["composition"])
    assert info["tokens"]["train"] == sum(row["emitted_tokens"] for row in info["composition"])
    assert 0 <= info["order"]["ratio"] < 1


def test_a_manifest_says_what_shards_are(made: dict[str, Dataset], tmp_path: Path) -> None:
    """A training of 9,000 shards need not read 30 GB of indexes to know which they are."""
    known = index_checksums(made["serialize"].uri)
    prefixes = [*shard_prefixes(made["serialize"], "train"), *shard_prefixes(made["serialize"], "validation")]
    assert known == {f"{prefix}.idx": file_checksum(f"{prefix}.idx") for prefix in prefixes}
    assert index_checksums(str(tmp_path)) == {}, "shards of others: they are read"


def test_each_leaf_takes_the_prefix_of_its_documents_by_hash(made: dict[str, Dataset]) -> None:
    plan = {leaf["path"]: leaf for leaf in made["mix"].manifest.info["plan"]["leaves"]}
    rows = [row for row in made["mix"].read("selection").to_pylist() if row["split"] == "train"]
    for path, leaf in plan.items():
        mine = [row for row in rows if row["leaf"] == path]
        keys = order_keys(pa.array([row["doc_id"] for row in mine]), 3, "select").tolist()
        copies = [
            row["copies"]
            for _, row in sorted(zip(keys, mine, strict=True), key=lambda item: (item[0], item[1]["doc_id"]))
        ]
        assert copies == sorted(copies, reverse=True)
        assert copies[0] - copies[-1] <= 1
        taken = sum(row["tokens"] * row["copies"] for row in mine)
        assert abs(taken - leaf["target_tokens"]) <= max(row["tokens"] for row in mine) // 2 + 1


def test_a_larger_budget_and_a_grown_corpus_keep_earlier_choices(made: dict[str, Dataset], tmp_path: Path) -> None:
    inputs = {"documents": made["documents"], "tokenizer": made["tokenizer"]}
    chosen = []
    for budget in (2000, 3000, 4500):
        config = MIX.model_copy(update={"budget_tokens": budget, "max_epochs": 1})
        rows = stage(mix, config, inputs, tmp_path / str(budget)).read("selection").to_pylist()
        chosen.append({row["doc_id"] for row in rows if row["copies"] and row["split"] == "train"})
    assert len(chosen[0]) < len(chosen[1]) < len(chosen[2])
    assert len(chosen[0] - chosen[1]) <= 1
    assert len(chosen[1] - chosen[2]) <= 1


def test_copies_of_a_document_lie_apart(made: dict[str, Dataset]) -> None:
    order = expected_order(made, "train")
    places: dict[str, list[int]] = {}
    for at, (doc_id, _) in enumerate(order):
        places.setdefault(doc_id, []).append(at)
    gaps = [np.diff(sorted(at)).min() for at in places.values() if len(at) > 1]
    assert np.median(gaps) > len(order) / 20


def test_no_document_and_no_cluster_is_on_both_sides(made: dict[str, Dataset]) -> None:
    selection = made["mix"].read("selection").to_pylist()
    train = {row["doc_id"] for row in selection if row["split"] == "train"}
    held = {row["doc_id"] for row in selection if row["split"] == "validation"}
    assert held
    assert not train & held
    assert all(row["copies"] == 1 for row in selection if row["split"] == "validation")


def test_validation_goes_by_cluster() -> None:
    ids = pa.array([f"{number * 2654435761 % 2**128:032x}" for number in range(5000)])
    clusters = pa.array([ids[number // 2].as_py() if number % 3 else None for number in range(5000)])
    held = validation_keys(pa.table({"doc_id": ids, "cluster_id": clusters}), 5) < np.uint64(share_limit(0.1))
    assert 0.08 < np.mean(held) < 0.12
    by_cluster: dict[Any, set[bool]] = {}
    for cluster, doc_id, side in zip(clusters.to_pylist(), ids.to_pylist(), held.tolist(), strict=True):
        by_cluster.setdefault(cluster or doc_id, set()).add(side)
    assert all(len(sides) == 1 for sides in by_cluster.values())


def test_even_the_smallest_corpus_has_something_to_validate_on(made: dict[str, Dataset], tmp_path: Path) -> None:
    inputs = {"documents": made["documents"], "tokenizer": made["tokenizer"]}
    config = MIX.model_copy(update={"budget_tokens": None, "validation_share": 1e-9})
    mixed = stage(mix, config, inputs, tmp_path / "mix")
    assert Counter(row["split"] for row in mixed.read("selection").to_pylist())["validation"] >= 1


def test_a_composition_that_is_off_is_refused(made: dict[str, Dataset]) -> None:
    plan = made["mix"].manifest.info["plan"]
    with pytest.raises(DataError, match="not what was planned"):
        check_composition(plan, {"cafe": 1}, {"cafe": (1, 30)})
    leaf = {"leaves": [{"path": "a", "source": "a", "target_tokens": 1000, "epochs": 1.0}]}
    assert check_composition(leaf, {"a": 1400}, {"a": (1400, 900)})
    with pytest.raises(DataError, match="not what was planned"):
        check_composition(leaf, {"a": 1399}, {"a": (1400, 900)})


def test_an_order_that_is_not_mixed_is_refused_and_a_random_one_is_not() -> None:
    """Windows drawn at random stay below the bound in each of 300 tries; sources one after the other are refused."""
    generator = np.random.Generator(np.random.PCG64(1))
    sizes = generator.gamma(2, 50, 6000) + 5
    leaf = (np.arange(6000) % 10 == 0).astype(int)
    sums = {
        str(which): (
            float(sizes[leaf == which].sum()),
            float((sizes[leaf == which] ** 2).sum()),
            float(sizes[leaf == which].max()),
        )
        for which in (0, 1)
    }

    def windows(order: np.ndarray) -> dict[int, dict[str, int]]:
        found: dict[int, dict[str, int]] = {}
        place = ((np.cumsum(sizes[order]) - sizes[order]) / (sizes.sum() / 64)).astype(int)
        for number in range(64):
            inside = order[place == number]
            found[number] = {str(which): float(sizes[inside][leaf[inside] == which].sum()) for which in (0, 1)}  # type: ignore[misc]
        return found

    ratios = [check_windows(windows(generator.permutation(6000)), sums, 6000)["ratio"] for _ in range(300)]
    assert 0.1 < max(ratios) < 1
    with pytest.raises(DataError, match="not mixed"):
        check_windows(windows(np.argsort(leaf, kind="stable")), sums, 6000)


def test_bytes_do_not_depend_on_buckets_runs_and_windows(
    made: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.conftest import ingested, portal_sources

    other = ingested(tmp_path / "in", *portal_sources(), buckets=8)
    inputs = {"documents": other, "tokenizer": made["tokenizer"]}
    monkeypatch.setattr(sums_module, "FEW_FILES", 4)
    monkeypatch.setattr(staging, "RUN_TOKENS", 700)
    monkeypatch.setattr(staging, "ROWS", 7)
    monkeypatch.setattr(runs_module, "WINDOW_TOKENS", 500)
    mixed = stage(mix, MIX, inputs, tmp_path / "mix", 8)
    merged = []
    original = merging.merge_unit
    for most, stretch in ((1024, 1 << 26), (3, 900)):  # directly, and in two passes by small stretches
        monkeypatch.setattr(merging, "MOST_RUNS", most)
        monkeypatch.setattr(merging, "MERGED_TOKENS", stretch)
        monkeypatch.setattr(merging, "merge_unit", lambda unit, **more: merged.append(unit) or original(unit, **more))
        folder = tmp_path / f"shards{most}"
        shards = stage(serialize, SerializeConfig(shard_tokens=4000), {**inputs, "mix": mixed}, folder, 8)
        for table in ("shards", "sides"):
            ours = [entry.checksum for entry in shards.table(table).files]
            assert ours == [entry.checksum for entry in made["serialize"].table(table).files]
        assert shards.read("provenance").equals(made["serialize"].read("provenance"))
        assert shards.manifest.info["order"] == made["serialize"].manifest.info["order"]
        assert len({unit.name for unit in merged}) == (0 if most == 1024 else len(merged))
    assert len([unit for unit in merged if unit.split == "train"]) >= 3


def test_a_full_disk_at_the_end_of_a_run_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last rows of a run, and all of a short one, are written when it is closed."""
    none = np.zeros(runs_module.RANGES, np.int64)
    rows = pa.table({name: [0] for name in runs_module.STAGED_SCHEMA.names}).cast(runs_module.STAGED_SCHEMA)

    def full(self: RunWriter, least: int) -> None:
        if not least:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RunWriter, "_put_down", full)
    with (
        pytest.raises(TransientError, match="disk is full"),
        RunWriter(str(tmp_path / "run"), "train", RunSums(none, none, {}), True) as writer,
    ):
        writer.write(np.zeros(1, np.uint16), rows)
    assert list(tmp_path.iterdir()) == []


def test_groups_of_runs_are_neighbours_and_grow_with_the_root() -> None:
    """Groups of √R: what a shard opens, and what a group does, grows with the root of the number of runs."""
    for count in (1, 2, 5, 100, 1025, 33_000):
        runs = [StagedRun(split="train", ids=str(n), rows=str(n)) for n in range(count)]
        groups = merging.groups_of(runs)
        assert [run for group in groups for run in group] == runs, (
            "neighbours stay neighbours: equal keys keep their order"
        )
        assert max(len(groups), *(len(group) for group in groups)) <= math.ceil(math.sqrt(count))


def test_a_tokenizer_does_not_depend_on_buckets(
    made: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.conftest import ingested, portal_sources

    monkeypatch.setattr(sums_module, "FEW_FILES", 4)
    other = ingested(tmp_path / "in", *portal_sources(), buckets=8)
    config = TokenizerConfig(vocabulary_size=800, memo_units=500)
    again = stage(train_tokenizer, config, {"documents": other}, tmp_path / "tokenizer", 8)
    names = ("bpe.json", "memo.bin")
    sums = [
        {entry.path.rsplit("/", 1)[-1]: entry.checksum for entry in dataset.table("tokenizer").files}
        for dataset in (again, made["tokenizer"])
    ]
    assert [sums[0][name] for name in names] == [sums[1][name] for name in names]
    report = made["tokenizer"].manifest.counters.custom
    assert report["memo_units"] == 500
    assert 1 < report["bytes_per_token"] < 8
    assert report["fertility"] > 1


def test_a_sample_is_composed_as_the_mixture(made: dict[str, Dataset], tmp_path: Path) -> None:
    only = MixConfig(weights={"news": 1, "*": 0})
    config = TokenizerConfig(vocabulary_size=600, sample_bytes=100_000, mixture=only)
    dataset = stage(train_tokenizer, config, {"documents": made["documents"]}, tmp_path / "tokenizer")
    news = [row["text"] for row in made["documents"].read("documents").to_pylist() if row["source"] == "news"]
    assert dataset.manifest.info["sample_bytes"] == sum(len(text.encode()) for text in news)


def test_a_mixture_by_category_and_quality_comes_out_as_planned(made: dict[str, Dataset], tmp_path: Path) -> None:
    inputs = {"documents": made["documents"], "tokenizer": made["tokenizer"]}
    tree = {"news": {"weight": 2, "by": "tier"}, "cafe": {"weight": 1, "by": "quality"}, "*": 1}
    config = MixConfig(budget_tokens=4000, weights=tree, max_epochs=4)
    mixed = stage(mix, config, inputs, tmp_path / "mix")
    assert {leaf["path"] for leaf in mixed.manifest.info["plan"]["leaves"]} >= {"cafe/unknown", "kin"}
    shards = stage(serialize, SerializeConfig(), {**inputs, "mix": mixed}, tmp_path / "shards")
    emitted = {row["leaf"]: row["emitted_tokens"] for row in shards.manifest.info["composition"]}
    news = sum(tokens for leaf, tokens in emitted.items() if leaf.startswith("news/"))
    assert news / sum(emitted.values()) == pytest.approx(2 / 6, abs=0.05)


def test_another_tokenizer_than_the_plan_was_made_with_is_refused(made: dict[str, Dataset], tmp_path: Path) -> None:
    other = stage(
        train_tokenizer, TokenizerConfig(vocabulary_size=700), {"documents": made["documents"]}, tmp_path / "t"
    )
    inputs = {"documents": made["documents"], "tokenizer": other, "mix": made["mix"]}
    with pytest.raises(DataError, match="not the tokens it was planned with"):
        stage(serialize, SerializeConfig(), inputs, tmp_path / "shards")


def test_documents_are_looked_up_merged_and_split(made: dict[str, Dataset], portal: Dataset, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(tokenizer_folder(made["tokenizer"]))
    texts = {row["doc_id"]: row["text"] for row in portal.read("documents").to_pylist()}
    prefixes = shard_prefixes(made["serialize"], "train")
    row, text = document_of(prefixes[1], 2, tokenizer)
    assert text == texts[row["doc_id"]]
    with pytest.raises(DataError, match="has no document"):
        document_of(prefixes[1], 10_000, tokenizer)
    with pytest.raises(DataError, match="another tokenizer"):
        document_of(prefixes[1], 2, trained())
    with pytest.raises(DataError, match="another tokenizer"):
        check_tokenizer(prefixes[0], read_side(prefixes[0]), trained("byte"))
    whole = merge(prefixes, str(tmp_path / "whole"))
    assert whole["tokens"] == made["serialize"].manifest.info["tokens"]["train"]
    everything = [
        Shard(prefix).document(at).tolist() for prefix in prefixes for at in range(len(Shard(prefix).documents) - 1)
    ]
    merged = Shard(str(tmp_path / "whole"))
    assert [merged.document(at).tolist() for at in range(len(everything))] == everything
    parts = split(str(tmp_path / "whole"), 4000, str(tmp_path / "part"))
    assert len(parts) == len(prefixes)
    for part, prefix in zip(parts, prefixes, strict=True):
        for suffix in ("bin", "idx"):
            assert Path(f"{part}.{suffix}").read_bytes() == Path(f"{prefix}.{suffix}").read_bytes()
        row, text = document_of(part, 0, tokenizer)
        assert text == texts[row["doc_id"]]
    with pytest.raises(ConfigError, match="one of the inputs"):
        merge([parts[0]], parts[0])
    side = json.loads(Path(f"{parts[0]}.json").read_text())
    Path(f"{parts[0]}.json").write_text(json.dumps({**side, "tokenizer": "0" * 32}))
    with pytest.raises(ConfigError, match="different tokenizers"):
        merge(parts, str(tmp_path / "again"))
    with pytest.raises(DataError, match="No shard of this platform"):
        read_side(str(tmp_path / "absent"))


def test_a_full_disk_in_mid_shard_leaves_nothing_half_and_a_second_run_the_same(
    made: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {name: made[name] for name in ("documents", "tokenizer", "mix")}
    real = megatron_format.ShardWriter.add_many
    calls = [0]

    def full(self: Any, ids: Any, lengths: Any) -> None:
        calls[0] += 1
        if calls[0] == 3:
            import errno

            from hyperclova_core.foundation import storage

            with storage.explained(self._prefix):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, ids, lengths)

    monkeypatch.setattr(megatron_format.ShardWriter, "add_many", full)
    with pytest.raises(TransientError, match="disk is full"):
        stage(serialize, SerializeConfig(shard_tokens=4000), inputs, tmp_path / "shards")
    assert not list((tmp_path / "shards").rglob("manifest.json"))
    assert not [path for path in (tmp_path / "shards").rglob(".*") if path.is_file()]
    monkeypatch.undo()
    again = stage(serialize, SerializeConfig(shard_tokens=4000), inputs, tmp_path / "shards")
    assert again.manifest.digest == made["serialize"].manifest.digest
    assert not list((tmp_path / "shards").rglob("staged"))


def test_four_billion_tokens_in_one_shard(tmp_path: Path) -> None:
    """Sparse files: offsets beyond 2^32 bytes and tokens are reckoned in 64 bits, and a document behind them is found."""
    from hyperclova_core.tokens.serialize.megatron_format import index_bytes

    lengths = np.full(5, 900_000_000, np.int32)
    lengths[-1] = 7
    (tmp_path / "big.idx").write_bytes(index_bytes(lengths, np.arange(6, dtype=np.int64), np.uint16))
    total = int(lengths.sum(dtype=np.int64))
    with (tmp_path / "big.bin").open("wb") as file:
        file.truncate(total * 2)
        file.seek((total - 7) * 2)
        file.write(np.arange(1, 8, dtype=np.uint16).tobytes())
    shard = Shard(str(tmp_path / "big"))
    assert shard.tokens == 3_600_000_007
    assert shard.document(4).tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert shard.document_starts().tolist() == [0, 900_000_000, 1_800_000_000, 2_700_000_000, 3_600_000_000]
    assert len(shard.document(3)) == 900_000_000


def test_empty_documents_have_their_end_only(tmp_path: Path) -> None:
    from hyperclova_core.cli.main import main

    (tmp_path / "texts.jsonl").write_text(
        "".join(
            json.dumps({"id": str(at), "text": text}) + "\n" for at, text in enumerate(["하나", "   ", "둘 \x01 셋"])
        ),
        encoding="utf-8",
    )
    trained("morpheme", 900).save(str(tmp_path / "tokenizer"))
    arguments = ["serialize", str(tmp_path / "texts.jsonl"), "--tokenizer", str(tmp_path / "tokenizer")]
    main([*arguments, "--output", str(tmp_path / "out")])
    side = json.loads((tmp_path / "out.json").read_text())
    shard = Shard(str(tmp_path / "out"))
    assert side["documents"] == len(shard.documents) - 1 >= 2
    assert all(int(shard.document(at)[-1]) == 0 for at in range(side["documents"]))
    assert not [path for path in tmp_path.iterdir() if ".work" in path.name]


def test_documents_longer_than_a_stretch_and_leaves_with_one_long_document(tmp_path: Path) -> None:
    """A stretch in which no document begins has no shard; a leaf whose next document is too long stays short of its target."""
    from hyperclova_core.cli.main import main

    long, short = "아주 긴 문서입니다 " * 900, [f"짧은 글 {number} 번" for number in range(60)]
    lines = [json.dumps({"id": str(at), "text": text}) + "\n" for at, text in enumerate([long, *short])]
    (tmp_path / "texts.jsonl").write_text("".join(lines), encoding="utf-8")
    trained("morpheme", 900).save(str(tmp_path / "tokenizer"))
    arguments = ["serialize", str(tmp_path / "texts.jsonl"), "--tokenizer", str(tmp_path / "tokenizer")]
    main([*arguments, "--shard-tokens", "300", "--output", str(tmp_path / "part")])
    main([*arguments, "--output", str(tmp_path / "whole")])
    parts = sorted(str(path).removesuffix(".json") for path in tmp_path.glob("part-*.json"))
    assert len(parts) >= 2
    whole = Shard(str(tmp_path / "whole"))
    assert [token for part in parts for token in Shard(part).ids.tolist()] == whole.ids.tolist()
    assert split(str(tmp_path / "whole"), 300, str(tmp_path / "again")) == [
        part.replace("part", "again") for part in parts
    ]
    for part in parts:
        assert Path(f"{part}.bin").read_bytes() == Path(f"{part.replace('part', 'again')}.bin").read_bytes()
    with pytest.raises(ConfigError, match="output is the input"):
        split(parts[0], 10, str(tmp_path / "part"))
    with pytest.raises(ConfigError, match="another split"):
        split(str(tmp_path / "whole"), 1 << 30, str(tmp_path / "again"))
    assert Shard(parts[0]).ids.tolist() == Shard(parts[0].replace("part", "again")).ids.tolist()


def test_a_leaf_whose_next_document_is_too_long_is_left_short(made: dict[str, Dataset], tmp_path: Path) -> None:
    from tests.conftest import SourceConfig, ingested

    for name, texts in (
        ("small", [f"작은 글 {at} 번째" for at in range(400)]),
        ("long", ["긴 글의 문장 " * 150 + str(at) for at in range(12)]),
    ):
        lines = [json.dumps({"id": f"{name}{at}", "text": text}) + "\n" for at, text in enumerate(texts)]
        (tmp_path / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    sources = [SourceConfig(name=name, paths=(str(tmp_path / f"{name}.jsonl"),)) for name in ("small", "long")]
    inputs = {"documents": ingested(tmp_path / "in", *sources, buckets=2), "tokenizer": made["tokenizer"]}
    for budget in (2000, 3000):
        config = MixConfig(budget_tokens=budget, weights={"small": 9, "long": 1}, validation_share=0.01)
        mixed = stage(mix, config, inputs, tmp_path / f"mix{budget}")
        shards = stage(serialize, SerializeConfig(), {**inputs, "mix": mixed}, tmp_path / f"shards{budget}")
        assert {row["leaf"] for row in shards.manifest.info["composition"]} == {"small", "long"}


def test_a_damaged_index_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"")
    for content in (b"MMIDIDX\x00\x00", b"MMIDIDX\x00\x00" + b"\xff" * 40):
        (tmp_path / "x.idx").write_bytes(content)
        with pytest.raises(DataError, match="damaged"):
            Shard(str(tmp_path / "x"))


def test_a_shard_reads_its_own_rows_of_a_run_alone(
    faults: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an object store, too: 160 rows of 40,000 were ten megabytes once."""
    count = 40_000
    columns: dict[str, Any] = {"key": range(count), "tokens": [7] * count, "copy": [0] * count, "bytes": [9] * count}
    names = {name: [f"{name} {n:032x}" for n in range(count)] for name in ("doc_id", "source", "leaf", "content_hash")}
    table = pa.table({**columns, **names}).select(runs_module.STAGED_SCHEMA.names).cast(runs_module.STAGED_SCHEMA)
    sums = RunSums(*(np.bincount([0], [n], runs_module.RANGES).astype(np.int64) for n in (7 * count, count)), {})
    with RunWriter("s3://warehouse/one", "train", sums, True) as writer:
        for at in range(0, count, 700):  # batches stay whole, however it is given
            part = table.slice(at, 700)
            writer.write(np.arange(at, at + 7 * len(part), dtype=np.uint16), part)
    path, run = writer.run.rows, runs_module.OpenRun(writer.run, np.uint16)
    read: list[int] = []
    original = s3.read
    monkeypatch.setattr(s3, "read", lambda *asked: read.append(asked[2]) or original(*asked))
    assert run.rows(20_400, 160).equals(table.slice(20_400, 160))
    assert sum(read) < storage.size(path) / 10
    for first, rows in ((0, 1), (1023, 2), (count - 1, 1), (0, count)):
        assert run.rows(first, rows).equals(table.slice(first, rows))
