"""The parts of deduplication by themselves: buckets, components, clusters, boilerplate, evaluation items, containment."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperclova_core.corpus.deduplicate.clusters.connected_components import components_of, stars
from hyperclova_core.corpus.deduplicate.clusters.survivors import assign, resolve_clusters
from hyperclova_core.corpus.deduplicate.config import (
    BoilerplateConfig,
    ContainmentConfig,
    DecontaminateConfig,
    DeduplicateConfig,
    EvaluationSet,
)
from hyperclova_core.corpus.deduplicate.containment.contained import contained_share
from hyperclova_core.corpus.deduplicate.containment.winnowing import winnowed
from hyperclova_core.corpus.deduplicate.minhash.lsh_banding import _pairs
from hyperclova_core.corpus.deduplicate.minhash.verify import MOST_SHINGLES, jaccard
from hyperclova_core.corpus.deduplicate.schemas import CLUSTER_MEMBERS_SCHEMA, GROUPS_SCHEMA, MEMBERS_SCHEMA
from hyperclova_core.corpus.deduplicate.text.boilerplate import Lines
from hyperclova_core.corpus.deduplicate.text.hashing import shingle_hashes
from hyperclova_core.foundation.datasets.dataset import Target
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.stages.engines import SparkEngine
from hyperclova_core.foundation.stages.kinds import StageContext
from tests.corpus.deduplicate.texts import dataset, id_of, kept, reasons, run, text, words


def bucketed(rows: list[tuple[int, int]], fresh: set[int], small: int, cap: int) -> list[tuple[int, int, int]]:
    rows = sorted(set(rows))
    keys, nodes = (np.array([row[at] for row in rows], np.int64) for at in (0, 1))
    new = np.array([row[1] in fresh for row in rows])
    return list(zip(*(values.tolist() for values in _pairs(keys, nodes, new, small, cap)), strict=True))


def test_up_to_a_size_all_pairs_above_it_stars_above_the_cap_a_template() -> None:
    rows = [(1, n) for n in range(4)] + [(2, n) for n in range(10, 16)] + [(3, 99)]
    everything = set(range(100))
    found = bucketed(rows, everything, small=4, cap=5)
    assert [pair[:2] for pair in found if pair[0] < 4] == list(itertools.combinations(range(4), 2))
    assert [pair for pair in found if pair[0] >= 10] == [(10, n, 0) for n in range(11, 16)] + [(10, 10, 6)]
    assert bucketed(rows, {3}, small=4, cap=5)[:3] == [(0, 3, 0), (1, 3, 0), (2, 3, 0)], (
        "old pairs were compared before"
    )


@pytest.mark.spark
def test_stars_find_the_components_that_scipy_finds(tmp_path: Path, spark_engine: SparkEngine) -> None:
    generator = np.random.default_rng(5)
    chain = [(n, n + 1) for n in range(1000, 1060)]
    star = [(2000, 2000 + n) for n in range(1, 40)]
    clique = list(itertools.combinations(range(3000, 3012), 2))
    wild = [tuple(int(v) for v in pair) for pair in generator.integers(-200, 200, (150, 2))]
    edges = [(a, b) for a, b in [*chain, *star, *clique, *wild] if a != b]
    edges = [edges[at] for at in generator.permutation(len(edges))]
    left, right = (np.array([edge[at] for edge in edges], np.int64) for at in (0, 1))
    context = StageContext("t", "1", 0, 1, "a", Target(str(tmp_path)), "f", spark_engine)
    frame = spark_engine.spark().createDataFrame(pa.table({"left": left, "right": right}))
    found = stars(frame, context).toArrow().sort_by("node")
    nodes, labels = components_of(left, right)
    assert found.column("node").to_pylist() == nodes.tolist()
    assert found.column("component").to_pylist() == labels.tolist()


def test_a_chain_does_not_drop_its_far_end() -> None:
    row = np.arange(100, dtype=np.uint16)
    second = np.where(row < 70, row, 1000 + row).astype(np.uint16)
    third = np.where(row < 30, row, np.where(row < 70, 2000 + row, 1000 + row)).astype(np.uint16)
    none = np.zeros(0, np.int64)
    zeros = np.zeros(3, np.int64)
    anchors, values = assign(
        zeros, np.array([7, 8, 9]), np.stack([row, second, third]), none, none, none, np.zeros(0), 0.5
    )
    assert anchors.tolist() == [7, 7, 9]
    assert values.tolist() == pytest.approx([1.0, 0.7, 1.0])
    # an edge's exact similarity counts before the estimate
    links = (np.zeros(1, np.int64), np.array([9]), np.array([7]), np.array([0.55]))
    assert assign(zeros, np.array([7, 8, 9]), np.stack([row, second, third]), *links, 0.5)[0].tolist() == [7, 7, 7]


def test_a_long_chain_is_split_in_a_moment_and_a_template_is_one_cluster() -> None:
    """16,000 forms, each like the next alone: every second one is an anchor, whichever order the edges come in."""
    count = 16_000
    nodes = np.arange(count, dtype=np.int64)
    signatures = np.random.default_rng(0).integers(0, 1 << 16, (count, 128)).astype(np.uint16)
    left, right = nodes[:-1], nodes[1:]
    order = np.random.default_rng(1).permutation(count - 1)
    zeros = np.zeros(count, np.int64)
    edges = (zeros[:-1], left[order], right[order], np.full(count - 1, 0.8))
    anchors, values = assign(zeros, nodes, signatures, *edges, 0.7)
    assert anchors.tolist() == (nodes // 2 * 2).tolist()
    assert set(values.tolist()) == {1.0, 0.8}
    # of a template not all pairs are made: its signatures tell, however many it has
    alike = np.tile(np.arange(128, dtype=np.uint16), (count, 1))
    assert set(assign(zeros, nodes, alike, *edges, 0.7)[0].tolist()) == {0}


@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=30), st.integers(0, 3))
def test_a_component_is_split_as_by_the_plain_rule(pairs: list[tuple[int, int]], seed: int) -> None:
    generator = np.random.default_rng(seed)
    nodes = generator.permutation(12).astype(np.int64)
    signatures = generator.integers(0, 3, (12, 8)).astype(np.uint16)
    edges = [(a, b, round(0.5 + 0.01 * n, 2)) for n, (a, b) in enumerate(pairs) if a != b]
    zeros = np.zeros(12, np.int64)
    left, right = (np.array([edge[at] for edge in edges], np.int64) for at in (0, 1))
    values = np.array([edge[2] for edge in edges], np.float64)
    found = assign(zeros, nodes, signatures, zeros[: len(edges)] if edges else left, left, right, values, 0.55)[0]
    known = {frozenset(edge[:2]): edge[2] for edge in edges}
    anchors: dict[int, int] = {}
    for first, node in enumerate(nodes.tolist()):
        if node in anchors:
            continue
        anchors[node] = node
        for other in range(first + 1, 12):
            name = int(nodes[other])
            alike = float((signatures[first] == signatures[other]).mean())
            if name not in anchors and known.get(frozenset((node, name)), alike) >= 0.55:
                anchors[name] = node
    assert found.tolist() == [anchors[node] for node in nodes.tolist()]


def cluster_members(*rows: tuple[str, int, bool, str | None, bool]) -> pa.Table:
    """(doc_id, node, old, cluster, published)"""
    base = {"source": "s", "tier": 0, "length": 50, "invisible": 0, "earliest": 0, "origin": "o", "numbers": b""}
    made = [
        {
            **base,
            "doc_id": doc_id,
            "node": node,
            "content": node,
            "wording": node,
            "old": old,
            "cluster_id": cluster,
            "published": published,
        }
        for doc_id, node, old, cluster, published in rows
    ]
    return pa.Table.from_pylist(made, CLUSTER_MEMBERS_SCHEMA)


def groups(**anchors: tuple[int, int]) -> pa.Table:
    rows = [{"node": node, "anchor": anchor, "similarity": 0.9} for node, anchor in anchors.values()]
    return pa.Table.from_pylist(rows, GROUPS_SCHEMA)


NOBODY = MEMBERS_SCHEMA.empty_table()


def test_an_old_cluster_keeps_its_id_and_its_published_survivor() -> None:
    made = resolve_clusters(
        cluster_members(("b", 1, True, "b", True), ("a", 2, False, None, False)),
        groups(x=(1, 1), y=(2, 1)),
        NOBODY,
        "n",
    )
    assert made.incoming.to_pylist()[0]["survivor"] == "b"
    assert made.incoming.to_pylist()[0]["cluster_id"] == "b", "a smaller doc_id of a newcomer changes nothing"
    assert made.changed.num_rows == made.log.num_rows == made.promoted.num_rows == 0


def test_two_old_clusters_that_a_newcomer_joins_become_one_and_both_stay_published() -> None:
    rows = cluster_members(("c", 1, True, "c", True), ("d", 2, True, "d", True), ("e", 3, False, None, False))
    made = resolve_clusters(rows, groups(x=(1, 1), y=(2, 1), z=(3, 1)), NOBODY, "n")
    assert made.log.to_pylist() == [{"cluster_id": "d", "became": "c", "why": "merged"}]
    (changed,) = made.changed.to_pylist()
    assert (changed["doc_id"], changed["cluster_id"], changed["published"]) == ("d", "c", True)
    assert made.incoming.to_pylist()[0]["survivor"] == "c"


def test_a_cluster_that_falls_apart_keeps_its_id_where_its_name_is_and_promotes_elsewhere() -> None:
    rows = cluster_members(("c", 1, True, "c", True), ("d", 2, True, "c", False), ("e", 2, True, "c", False))
    removed = pa.Table.from_pylist(
        [{"doc_id": "b", "cluster_id": "c", "published": True, "removed": False}], MEMBERS_SCHEMA
    )
    made = resolve_clusters(rows, groups(), removed, "n")
    assert made.log.to_pylist() == [{"cluster_id": "c", "became": "d", "why": "split"}]
    assert made.promoted.to_pylist() == [{"doc_id": "d", "cluster_id": "d", "in_place_of": "b"}]
    assert {(row["doc_id"], row["cluster_id"], row["published"]) for row in made.changed.to_pylist()} == {
        ("d", "d", True),
        ("e", "d", False),
    }


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 2), st.booleans()), min_size=1, max_size=12),
    st.permutations(range(6)),
)
def test_every_cluster_has_one_id_and_the_order_of_rows_says_nothing(
    rows: list[tuple[int, bool, int, bool]], anchors: list[int]
) -> None:
    table = cluster_members(
        *(
            (f"{at:02d}", node, old, f"old{cluster}" if old else None, old and published)
            for at, (node, old, cluster, published) in enumerate(rows)
        )
    )
    merged = pa.Table.from_pylist(
        [{"node": node, "anchor": anchors[node] // 2, "similarity": 0.8} for node in range(6)], GROUPS_SCHEMA
    )
    made = resolve_clusters(table, merged, NOBODY, "n")
    again = resolve_clusters(table.take(pa.array(list(reversed(range(len(rows)))))), merged, NOBODY, "n")
    assert made.incoming.equals(again.incoming)
    assert sorted(made.changed.to_pylist(), key=str) == sorted(again.changed.to_pylist(), key=str)
    assert len(made.sizes) == len({anchors[node] // 2 for node, *_ in rows}), "ids of clusters differ"
    assert sum(made.sizes.values()) == len(rows)


@given(st.text(alphabet="가나다라", min_size=40, max_size=200), st.integers(0, 100))
def test_a_shared_passage_shares_a_fingerprint(passage: str, at: int) -> None:
    width, window = 8, 16
    if len(passage) < width + window - 1:
        return
    outside = "마바사아자차카타파하" * 10
    whole = outside[:at] + passage + outside[at:]
    fingerprints = [
        set(winnowed(shingle_hashes(np.array([ord(c) for c in value], np.uint32), width), window).tolist())
        for value in (passage, whole)
    ]
    assert fingerprints[0] & fingerprints[1]


def test_sets_cut_to_their_smallest_hashes_estimate_the_whole() -> None:
    generator = np.random.default_rng(1)
    pool = np.unique(generator.integers(0, 2**63, 400_000).astype(np.uint64))
    one, other = pool[:300_000], pool[100_000:]
    truth = len(np.intersect1d(one, other)) / len(np.union1d(one, other))
    mixed = [np.unique((side * np.uint64(0x9E3779B97F4A7C15)) ^ (side >> np.uint64(7))) for side in (one, other)]
    assert jaccard(*(side[:MOST_SHINGLES] for side in mixed)) == pytest.approx(truth, abs=0.01)
    assert contained_share(mixed[0][:100], mixed[0]) == 1.0


FOOTER = "이 글의 저작권은 작성자에게 있으며 무단 전재와 재배포를 금지합니다"
MENU = "홈\n소개\n게시판\n찾아오는 길"


def test_boilerplate_is_cut_and_copies_are_not(tmp_path: Path) -> None:
    texts: dict[str, object] = {
        f"p{n}": {
            "text": f"{MENU}\n\n{text(n, 30)}\n{text(500 + n, 20)}\n\n{FOOTER}",
            "url": f"https://cafe.example/{n}",
        }
        for n in range(30)
    }
    article = f"{text(900, 40)}\n{text(901, 40)}"
    texts |= {f"a{n}": {"text": article, "url": f"https://cafe.example/a{n}"} for n in range(25)}
    texts |= {
        f"o{n}": {"text": f"{text(600 + n, 30)}\n{FOOTER}", "url": f"https://other.example/{n}"} for n in range(5)
    }
    config = DeduplicateConfig(boilerplate=BoilerplateConfig(min_documents=20, min_share=0.1))
    made = run(dataset(tmp_path, texts), tmp_path / "out", config).dataset
    rows = {row["source_id"]: row for row in made.read("documents").to_pylist()}
    assert len(kept(made)) == 36
    for n in range(30):
        assert rows[f"p{n}"]["text"] == f"{text(n, 30)}\n{text(500 + n, 20)}"
        assert dict(rows[f"p{n}"]["signals"])["boilerplate_bytes"] > len(FOOTER.encode())
    assert article in {row["text"] for row in rows.values()}, "a document of nothing but repeated lines is a copy"
    assert FOOTER in rows["o0"]["text"], "another site has its own lines"
    lines = made.read("boilerplate").to_pylist()
    assert {row["site"] for row in lines} == {"cafe.example"}
    assert {row["documents"] for row in lines} >= {30}
    from hyperclova_core.foundation.datasets.document_schema import content_hash

    assert rows["p0"]["content_hash"] == content_hash(rows["p0"]["text"])


def test_an_address_that_is_none_counts_for_its_source(tmp_path: Path) -> None:
    texts: dict[str, object] = {
        f"p{n}": {"text": f"{text(n, 30)}\n{FOOTER}", "url": "http://[not an address"} for n in range(25)
    }
    config = DeduplicateConfig(boilerplate=BoilerplateConfig(min_documents=20, min_share=0.1))
    made = run(dataset(tmp_path, texts), tmp_path / "out", config).dataset
    assert {row["site"] for row in made.read("boilerplate").to_pylist()} == {"s"}


def test_lines_and_paragraphs_have_their_own_hashes() -> None:
    lines = Lines(pa.array([f"{MENU}\n\n{FOOTER}", f"홈\n소개\n\n{FOOTER}", "", "\n\n"]))
    assert lines.text.tolist() == [0] * 6 + [1] * 4 + [3] * 2
    assert lines.hash[0] == lines.hash[6]
    assert lines.paragraph_hash[0] != lines.paragraph_hash[6]
    assert lines.paragraph_hash[5] == 0, "a paragraph of one line is that line"


def evaluation_set(folder: Path, name: str, rows: list[dict[str, str]]) -> EvaluationSet:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return EvaluationSet(name=name, path=str(path), column="document")


def test_documents_with_evaluation_items_fall_out_and_are_listed(tmp_path: Path) -> None:
    item, long_item = " ".join(words(1, 8)), " ".join(words(2, 20))
    sets = (
        evaluation_set(
            tmp_path,
            "nsmc",
            [
                {"id": "7", "document": item},
                {"id": "8", "document": "참 좋은 영화였습니다"},
                {"id": "9", "document": "굿"},
            ],
        ),
        evaluation_set(tmp_path, "other", [{"id": "a", "document": long_item}]),
    )
    part = " ".join(words(2, 20)[3:16])
    made = run(
        dataset(
            tmp_path,
            {
                "whole": f"{text(50)} {item} {text(51)}",
                "respaced": f"{text(52)} {item.replace(' ', '')} {text(53)}",
                "thirteen": f"{text(54)} {part} {text(55)}",
                "twelve": f"{text(56)} {' '.join(part.split()[:12])} {text(57)}",
                "short": "참 좋은, 영화였습니다!",
                "holds short": f"{text(58)} 참 좋은 영화였습니다 {text(59)}",
                "tiny": "굿",
            },
        ),
        tmp_path / "out",
        DeduplicateConfig(decontaminate=DecontaminateConfig(sets=sets)),
    ).dataset
    assert reasons(made) == dict.fromkeys(["whole", "respaced", "thirteen", "short"], "evaluation_item")
    listed = {(row["item"], row["doc_id"]) for row in made.read("contamination").to_pylist()}
    assert listed == {
        ("nsmc:7", id_of("whole")),
        ("nsmc:7", id_of("respaced")),
        ("other:a", id_of("thirteen")),
        ("nsmc:8", id_of("short")),
    }


def test_an_evaluation_set_that_is_not_there_or_not_as_said_is_an_error(tmp_path: Path) -> None:
    documents = dataset(tmp_path, {"a": text(1)})
    absent = EvaluationSet(name="nsmc", path=str(tmp_path / "absent.tsv"))
    with pytest.raises(DataError, match="cannot be read"):
        run(documents, tmp_path / "o", DeduplicateConfig(decontaminate=DecontaminateConfig(sets=(absent,))))
    wrong = evaluation_set(tmp_path, "wrong", [{"id": "1", "sentence": "문장"}])
    with pytest.raises(DataError, match=r"wrong.jsonl:1(.|\n)*no `document`"):
        run(documents, tmp_path / "o", DeduplicateConfig(decontaminate=DecontaminateConfig(sets=(wrong,))))


@pytest.mark.parametrize("action", ["report", "drop", "off"])
def test_a_document_quoted_whole_in_another_is_reported_or_dropped(tmp_path: Path, action: str) -> None:
    quoted = " ".join(words(1, 180))
    texts = {
        "quoted": quoted,
        "quoting": " ".join([*words(2, 600), quoted, *words(3, 600)]),
        "other": " ".join(words(4, 200)),
        "half": " ".join([*words(1, 180)[:60], *words(5, 120)]),
    }
    config = DeduplicateConfig(containment=ContainmentConfig(action=action))  # type: ignore[arg-type]
    made = run(dataset(tmp_path, texts), tmp_path / "out", config).dataset
    found = made.read("contained").to_pylist()
    assert reasons(made) == ({"quoted": "contained"} if action == "drop" else {})
    if action == "off":
        assert found == []
    else:
        assert found == [{"doc_id": id_of("quoted"), "container": id_of("quoting"), "share": 1.0}]
