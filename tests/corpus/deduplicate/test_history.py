"""Night after night: the clusters of one batch, published survivors that stay, and documents that leave for good."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hyperclova_core.cli.main import cli
from hyperclova_core.corpus.deduplicate.config import BoilerplateConfig, ContainmentConfig, DeduplicateConfig
from hyperclova_core.corpus.deduplicate.history.index import open_index
from hyperclova_core.corpus.deduplicate.schemas import INDEX
from hyperclova_core.foundation.corpora.retention import reachable
from hyperclova_core.foundation.corpora.versions import TOMBSTONES, write_tombstones
from hyperclova_core.foundation.datasets.dataset import Dataset, Target
from hyperclova_core.foundation.errors import ConfigError, DataError
from hyperclova_core.foundation.stages.engines import LocalEngine, SparkEngine
from hyperclova_core.foundation.stages.kinds import StageContext
from hyperclova_core.foundation.warehouse import Warehouse
from hyperclova_core.pipeline import history as chain
from tests.conftest import write_lines
from tests.corpus.deduplicate.test_stage import some_texts, weather
from tests.corpus.deduplicate.texts import (
    as_sets,
    clusters_of,
    dataset,
    edited,
    id_of,
    kept,
    next_index,
    reasons,
    run,
    text,
    words,
)

CONFIG = DeduplicateConfig(boilerplate=BoilerplateConfig(enabled=False), containment=ContainmentConfig(action="off"))


class Nights:
    """A corpus that grows in a folder."""

    def __init__(self, folder: Path, config: DeduplicateConfig = CONFIG, engine: Any = None) -> None:
        self.folder, self.config, self.engine = folder, config, engine
        self.index = next_index(folder, config)
        self.made: list[Dataset] = []

    def add(self, texts: dict[str, Any], buckets: int = 2, removed: tuple[str, ...] = ()) -> Dataset:
        """One more night."""
        number = len(self.made)
        beside = {"history": self.index}
        if removed:
            import pyarrow as pa

            table = pa.table({"doc_id": sorted(removed), "reason": ["asked"] * len(removed)}, TOMBSTONES)
            beside["tombstones-0"] = write_tombstones(Warehouse(str(self.folder)), table)
        documents = dataset(self.folder / f"night{number}", texts, buckets)
        made = run(documents, self.folder, self.config, self.engine, **beside).dataset
        self.index = next_index(self.folder, self.config, self.index, made)
        self.made.append(made)
        return made

    def members(self) -> dict[str, dict[str, Any]]:
        """doc_id → row, as the index knows it now."""
        target = Target(str(self.folder / "look"), "restricted")
        context = StageContext("t", "1", 0, 1, "a", target, "f", LocalEngine())
        rows = open_index(self.index, self.config, context)
        import pyarrow as pa

        from hyperclova_core.corpus.deduplicate.history.index import newest_rows
        from hyperclova_core.foundation import storage

        parts = []
        for part, path in enumerate(rows.files["members"]):
            table = storage.read_parquet(path)
            parts.append(table.append_column("part", pa.array([part] * table.num_rows, pa.int32())))
        found = newest_rows(pa.concat_tables(parts), "doc_id").to_pylist()
        return {row["doc_id"]: row for row in found if not row["removed"]}


@pytest.mark.parametrize("nights", [2, 5])
def test_nights_come_to_the_clusters_of_one_batch(tmp_path: Path, nights: int) -> None:
    texts = some_texts()
    batch = run(dataset(tmp_path / "all", texts), tmp_path / "all", CONFIG).dataset
    growing = Nights(tmp_path / "nights")
    names = sorted(texts, key=lambda name: hash_of(name))
    for night in range(nights):
        growing.add({name: texts[name] for name in names[night::nights]})
    wanted = {id_of(name): cluster for name, cluster in clusters_of(batch).items()}
    found = {doc_id: row["cluster_id"] for doc_id, row in growing.members().items()}
    assert as_sets(found) == as_sets(wanted)
    published = [row["cluster_id"] for row in growing.members().values() if row["published"]]
    assert set(published) == set(found.values()), "each cluster has a published document"


def hash_of(name: str) -> str:
    return id_of(name)[::-1]


@pytest.mark.spark
def test_a_night_gives_the_same_bytes_however_it_is_worked_on(tmp_path: Path, spark_engine: SparkEngine) -> None:
    texts = some_texts()
    found = []
    for name, engine, settings in (
        ("a", LocalEngine(), {}),
        ("b", spark_engine, {}),
        ("c", spark_engine, {"driver_rows": 0}),
    ):
        growing = Nights(tmp_path / name, CONFIG.model_copy(update=settings), engine)
        for night in range(2):
            growing.add({key: texts[key] for key in sorted(texts)[night::2]})
        manifests = [made.manifest for made in growing.made] + [growing.index.manifest]
        found.append(
            [[m.digest, {n: [e.checksum for e in t.files] for n, t in sorted(m.tables.items())}] for m in manifests]
        )
    assert found[0] == found[1] == found[2]


def test_a_night_is_compared_with_all_before_and_what_was_published_stays(tmp_path: Path) -> None:
    growing = Nights(tmp_path)
    growing.add({"old": edited(1, 5), "else": text(2)})
    second = growing.add({"better": text(1) + " 더 긴 글", "copy": edited(1, 5).replace(" ", ""), "new": text(3)})
    assert kept(second) == {"new"}
    assert reasons(second) == {"better": "near_duplicate", "copy": "exact_duplicate"}
    for row in second.read("rejected").to_pylist():
        assert (dict(row["signals"])["duplicate_similarity"] == 1.0) == (row["source_id"] == "copy")
        assert row["detail"] == f"survivor {id_of('old')}"
        assert row["cluster_id"] == id_of("old")
        assert row["cluster_size"] == 3
    third = growing.add({"again": text(1)})
    assert reasons(third) == {"again": "near_duplicate"}
    assert third.read("rejected").to_pylist()[0]["cluster_size"] == 4


def test_a_page_that_says_other_numbers_today_is_no_unchanged_page(tmp_path: Path) -> None:
    """One id, one wording: another day's report takes the place of the old one, and an exact copy of the old one is new again."""
    growing = Nights(tmp_path)
    monday, tuesday = weather("3월 4일", "11", "30"), weather("3월 5일", "17", "80")
    assert kept(growing.add({"page": monday, "else": text(2)})) == {"page", "else"}
    assert reasons(growing.add({"page": monday})) == {"page": "unchanged"}
    assert kept(growing.add({"page": tuesday})) == {"page"}
    other = growing.add({"copy": tuesday.replace(" ", ""), "archive": monday})
    assert kept(other) == {"archive"}
    assert reasons(other) == {"copy": "exact_duplicate"}
    again = growing.add({"archive copy": monday + "."})
    assert reasons(again) == {"archive copy": "exact_duplicate"}
    assert again.read("rejected").to_pylist()[0]["detail"] == f"survivor {id_of('archive')}"


def test_what_comes_again_unchanged_is_left_out_and_what_changed_is_new(tmp_path: Path) -> None:
    growing = Nights(tmp_path)
    growing.add({"a": text(1), "b": text(2), "c": edited(2, 4)})
    again = growing.add({"a": text(1), "b": text(5), "c": edited(2, 4)})
    assert reasons(again) == {"a": "unchanged", "c": "unchanged"}
    members = growing.members()
    assert members[id_of("b")]["cluster_id"] != members[id_of("c")]["cluster_id"]
    # b, which survived c, says something else now: c comes back beside it
    before = {row["source_id"] for row in growing.made[0].read("rejected").to_pylist()}
    assert kept(again) == {"b"} | before & {"c"}
    assert again.manifest.counters.fan_out == len(before & {"c"})
    assert members[id_of("c")]["published"]


def test_a_removed_document_takes_its_edges_with_it_and_the_next_is_promoted(tmp_path: Path) -> None:
    # a bridge in the middle of a chain whose ends are less alike than the threshold
    chain_of = {n: " ".join([*words(1, 60)[n * 8 :], *words(2, 60)[: n * 8]]) for n in range(3)}
    growing = Nights(tmp_path)
    first = growing.add(
        {"left": chain_of[0], "bridge": chain_of[1] + " 가장 긴 글", "right": chain_of[2], "x": text(9)}
    )
    assert kept(first) == {"bridge", "x"}
    second = growing.add({"y": text(8)}, removed=(id_of("bridge"),))
    assert kept(second) == {"left", "right", "y"}, "both come back: the bridge between them is gone"
    assert second.manifest.counters.fan_out == 2
    promoted = {row["doc_id"]: row["in_place_of"] for row in second.read("promoted").to_pylist()}
    assert promoted == {id_of("left"): id_of("bridge"), id_of("right"): id_of("bridge")}
    texts = {row["source_id"]: row["text"] for row in second.read("documents").to_pylist()}
    assert texts["left"] == chain_of[0]
    assert {row["why"] for row in second.read("cluster_log").to_pylist()} <= {"split"}
    members = growing.members()
    assert id_of("bridge") not in members
    assert members[id_of("left")]["cluster_id"] != members[id_of("right")]["cluster_id"]
    batch = run(
        dataset(tmp_path / "b", {"left": chain_of[0], "right": chain_of[2], "x": text(9), "y": text(8)}),
        tmp_path / "b",
        CONFIG,
    )
    assert as_sets({k: v["cluster_id"] for k, v in members.items()}) == as_sets(
        {id_of(k): v for k, v in clusters_of(batch.dataset).items()}
    )
    third = growing.add({"bridge": chain_of[1] + " 가장 긴 글"}, removed=(id_of("bridge"),))
    assert reasons(third) == {"bridge": "removed"}, "what was removed does not come back"


def test_a_promotion_without_its_text_is_counted_and_loses_nothing_else(tmp_path: Path) -> None:
    growing = Nights(tmp_path)
    first = growing.add({"a": text(1) + " 더 긴 글", "b": text(1), "x": text(9)})
    for path in first.files("rejected"):
        Path(path).unlink()
    second = growing.add({"y": text(8)}, removed=(id_of("a"),))
    assert kept(second) == {"y"}
    assert second.manifest.counters.custom["promotions_without_text"] == 1


def test_an_index_of_other_parameters_is_refused(tmp_path: Path) -> None:
    growing = Nights(tmp_path)
    growing.add({"a": text(1)})
    other = CONFIG.model_copy(update={"shingle_characters": 7})
    with pytest.raises(ConfigError, match=r"other parameters(.|\n)*sig_version(.|\n)*begin a new index"):
        run(dataset(tmp_path / "n", {"b": text(2)}), tmp_path, other, None, history=growing.index)


def test_runs_are_merged_as_they_grow_and_merging_changes_nothing(tmp_path: Path) -> None:
    growing = Nights(tmp_path)
    texts = some_texts()
    for night in range(9):
        growing.add({name: texts[name] for name in sorted(texts)[night::9]})
    info = growing.index.manifest.info
    assert info["version"] == 9
    assert len(info["parts"]) <= 4, "at most log2 of the nights, not one a night"
    rows = {name: sum(run_rows[name] for run_rows in info["runs"].values()) for name in INDEX}
    assert rows == info["rows"]
    assert info["rows"]["members"] >= len(texts)
    for table in growing.index.manifest.tables.values():
        assert len(table.files) == 1, "not a file a partition a night"
    alive = reachable(Warehouse(str(tmp_path)), 0.0)
    assert alive == set(), "nothing is named yet"
    Warehouse(str(tmp_path)).set_reference("history/x", {"uri": growing.index.uri})
    alive = reachable(Warehouse(str(tmp_path)), 1e18)
    assert alive == {("history", part) for part in [*info["parts"], growing.index.manifest.fingerprint]}


def test_a_night_that_another_overtook_is_told_so(tmp_path: Path) -> None:
    warehouse = Warehouse(str(tmp_path))
    first, done = chain.to_compare_with(warehouse, str(tmp_path / "x"), CONFIG)
    assert not done
    nights = [
        run(dataset(tmp_path / name, {name: text(n)}), tmp_path, CONFIG, None, history=first).dataset
        for n, name in enumerate("ab")
    ]
    chain.publish(warehouse, chain.next_version(warehouse, first, nights[0], CONFIG), nights[0])
    chain.publish(warehouse, chain.next_version(warehouse, first, nights[0], CONFIG), nights[0])
    with pytest.raises(DataError, match="Another night was published"):
        chain.publish(warehouse, chain.next_version(warehouse, first, nights[1], CONFIG), nights[1])
    assert chain.to_compare_with(warehouse, nights[0].uri, CONFIG) == (first, True)
    assert chain.to_compare_with(warehouse, str(tmp_path / "new"), CONFIG)[0].manifest.info["version"] == 1


def test_a_text_that_comes_back_after_its_last_document_left_finds_its_neighbours(tmp_path: Path) -> None:
    """Its form is in the index, without a component: the edges to those that came before and while it was away count."""
    texts = {f"t{n}": edited(1, 2 * n) for n in range(4)}
    filler = {
        f"f{n}": text(200 + n) for n in range(60)
    }  # a large first run: small ones after it are not merged into it
    for first, second in (("t0", "t1"), ("t1", "t0"), ("t2", "t3"), ("t3", "t2")):
        growing = Nights(tmp_path / f"{first}{second}")
        growing.add({first: texts[first], second: texts[second], **filler})
        growing.add({"x": text(9)}, removed=(id_of(first),))
        growing.add({"again": texts[first]})
        assert len(growing.index.manifest.info["parts"]) > 0
        found = {doc_id: row["cluster_id"] for doc_id, row in growing.members().items()}
        batch = run(
            dataset(
                tmp_path / f"b{first}",
                {"again": texts[first], second: texts[second], **filler, "x": text(9)},
            ),
            tmp_path / f"b{first}",
            CONFIG,
        ).dataset
        assert as_sets(found) == as_sets({id_of(name): value for name, value in clusters_of(batch).items()})


def test_the_command_keeps_an_index_and_a_command_given_twice_changes_nothing(tmp_path: Path) -> None:
    def command(*arguments: str, fails: bool = False) -> str:
        result = CliRunner().invoke(cli, ["deduplicate", *arguments])
        assert (result.exit_code != 0) == fails, result.output
        return f"{result.output}{result.exception or ''}"

    history = str(tmp_path / "index")
    first = write_lines(
        tmp_path / "a.jsonl", [{"id": "a", "text": text(1) + " 더 긴 글"}, {"id": "b", "text": text(1)}]
    )
    second = write_lines(
        tmp_path / "b.jsonl", [{"id": "c", "text": text(1).replace(" ", "")}, {"id": "d", "text": text(2)}]
    )
    night = (str(first), "--output", str(tmp_path / "one"), "--history", history)
    assert "history: version 1, 2 documents" in command(*night)
    assert "history" not in command(*night), "made already"
    clusters = str(tmp_path / "clusters.jsonl")
    out = command(str(second), "--output", str(tmp_path / "two"), "--history", history, "--clusters", clusters)
    assert "2 in, 1 kept" in out
    rows = {row["source_id"]: row for row in map(json.loads, Path(clusters).read_text().splitlines())}
    assert not rows["c"]["kept"]
    assert rows["c"]["similarity"] >= 0.7
    buried = tmp_path / "buried.txt"
    buried.write_text(f"{id_of('a', 'input')}\n")
    third = write_lines(tmp_path / "c.jsonl", [{"id": "e", "text": text(3)}])
    night = (str(third), "--output", str(tmp_path / "three"), "--history", history, "--tombstones", str(buried))
    assert "1 in, 2 kept" in command(*night), "b or c comes back"
    buried.write_text("홍길동\n")
    assert "Not a doc_id" in str(command(*night[:2], str(tmp_path / "four"), *night[3:], fails=True))
    lonely = (str(third), "--output", str(tmp_path / "five"), "--tombstones", str(buried))
    assert "without a history index" in str(command(*lonely, fails=True))


def test_a_published_document_that_changes_a_little_stays_published(tmp_path: Path) -> None:
    growing = Nights(tmp_path)
    growing.add({"a": {"text": text(1), "published_at": "2020-01-01T00:00:00Z"}, "c": edited(1, 3)})
    first = kept(growing.made[0])
    (survivor,), (other,) = sorted(first), sorted({"a", "c"} - first)
    body = text(1) if survivor == "a" else edited(1, 3)
    again = growing.add({survivor: body + " 덧붙임"})
    assert kept(again) == {survivor}, "its new version takes its place"
    assert again.manifest.counters.fan_out == 0
    assert not growing.members()[id_of(other)]["published"]


def test_a_text_that_could_not_be_brought_back_does_not_take_others_with_it(tmp_path: Path) -> None:
    growing = Nights(tmp_path)
    first = growing.add({"a": text(1) + " 더 긴 글", "b": text(1), "x": text(9)})
    for path in first.files("rejected"):
        Path(path).unlink()
    growing.add({"y": text(8)}, removed=(id_of("a"),))
    assert not growing.members()[id_of("b")]["published"]
    third = growing.add({"again": text(1).replace(" ", "")})
    assert kept(third) == {"again"}, "nobody holds this text"
    assert kept(growing.add({"late": text(1)})) == set()


def test_what_was_removed_stays_removed_also_after_runs_were_merged(tmp_path: Path) -> None:
    growing = Nights(tmp_path)
    growing.add({"a": text(1), "b": text(2)})
    growing.add({"c": text(3)}, removed=(id_of("a"),))
    growing.add({f"d{n}": text(20 + n) for n in range(12)})
    assert growing.index.manifest.info["parts"] == []
    assert reasons(growing.add({"a": text(1)})) == {"a": "removed"}


def test_no_two_clusters_have_one_name_whatever_a_document_says_over_time(tmp_path: Path) -> None:
    growing = Nights(tmp_path)
    growing.add({"x": text(1), "y": edited(1, 2)})
    growing.add({"x": text(2)})
    growing.add({"x": text(3)})
    members = growing.members()
    assert members[id_of("x")]["cluster_id"] != members[id_of("y")]["cluster_id"]


def test_a_quotation_is_looked_for_among_what_survives(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"containment": ContainmentConfig(action="drop")})
    growing = Nights(tmp_path, config)
    body, extra = words(1, 600), words(2, 160)
    growing.add({"old": " ".join(body)})
    second = growing.add({"longer": " ".join([*body, *extra]), "extra": " ".join(extra)})
    assert reasons(second) == {"longer": "near_duplicate"}
    assert kept(second) == {"extra"}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_large_group_holds_together_when_the_form_it_was_compared_with_goes(tmp_path: Path, seed: int) -> None:
    """Above `pair_bucket` a bucket is a star: with its middle gone, the rest are compared with another one."""
    body = text(700 + seed, 120)
    alike = {f"n{n}": f"{body} {words(5000 + 100 * seed + n, 1)[0]}" for n in range(60)}
    growing = Nights(tmp_path)
    first = growing.add({**alike, **{f"f{n}": text(800 + n) for n in range(200)}})
    (survivor,) = kept(first) & set(alike)
    members = growing.members()
    hub = min(
        (row for row in members.values() if row["doc_id"] in {id_of(n) for n in alike}), key=lambda row: row["node"]
    )
    name = next(n for n in alike if id_of(n) == hub["doc_id"])
    second = growing.add({"x": text(9)}, removed=(id_of(name),))
    promoted = kept(second) - {"x"}
    assert len(promoted) == (1 if name == survivor else 0)
    clusters = {row["cluster_id"] for doc_id, row in growing.members().items() if doc_id in {id_of(n) for n in alike}}
    assert len(clusters) == 1
    third = growing.add({f"m{n}": f"{body} {words(9000 + n, 1)[0]}" for n in range(6)})
    assert kept(third) == set(), "newcomers find the group, whoever they share a band with"
