"""Stages that compare documents, in one Spark session: duplicates, percentiles, selection; same bytes at any partitioning."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hyperclova_core.corpus.deduplicate.config import DeduplicateConfig
from hyperclova_core.corpus.deduplicate.stage import deduplicate
from hyperclova_core.corpus.enrich import EnrichConfig, enrich
from hyperclova_core.corpus.ingest.config import SourceConfig
from hyperclova_core.corpus.select import SelectConfig, select
from hyperclova_core.foundation.datasets.dataset import Dataset, Target
from hyperclova_core.foundation.stages import percent_ranks
from hyperclova_core.foundation.stages.engines import SparkEngine
from hyperclova_core.foundation.stages.kinds import StageContext
from hyperclova_core.korean.hangul import comparison_form
from tests.conftest import ingested, run_function, write_lines


@pytest.mark.spark
def test_duplicates_of_the_portal_fall_to_one_survivor(
    portal: Dataset, tmp_path: Path, spark_engine: SparkEngine
) -> None:
    dataset = run_function(deduplicate, DeduplicateConfig(), portal, tmp_path, spark_engine)
    counters = dataset.manifest.counters
    assert counters.rejected == {"exact_duplicate": 3, "near_duplicate": 2}
    kept = {row["doc_id"]: row for row in dataset.read("documents").to_pylist()}
    for row in dataset.read("rejected").to_pylist():
        survivor = row["detail"].removeprefix("survivor ")
        assert survivor in kept
        assert row["cluster_id"] == kept[survivor]["cluster_id"]
        assert row["cluster_size"] == kept[survivor]["cluster_size"] >= 2
        similar = dict(row["signals"])["duplicate_similarity"]
        assert similar == 1.0 if row["reason"] == "exact_duplicate" else 0.5 <= similar < 1
        # the survivor is the better of the two: the longer text, then the earlier
        assert len(comparison_form(kept[survivor]["text"])) >= len(comparison_form(row["text"]))
    assert all(
        row["cluster_size"] == 1
        for row in kept.values()
        if row["cluster_id"] == row["doc_id"] and row["source"] == "review"
    )


@pytest.mark.spark
def test_neither_partitions_nor_the_way_to_percentiles_change_a_byte(
    portal: Dataset, tmp_path: Path, spark_engine: SparkEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = defaultdict(set)
    for partitions in (1, 7, 40):
        # by windows, and by counts in ranges as for a corpus that no window holds
        monkeypatch.setattr(percent_ranks, "WINDOW_ROWS", 0 if partitions == 7 else 1 << 30)
        spark_engine.spark().conf.set("spark.sql.shuffle.partitions", str(partitions))
        folder = tmp_path / str(partitions)
        duplicates = run_function(deduplicate, DeduplicateConfig(), portal, folder / "d", spark_engine)
        enriched = run_function(
            enrich, EnrichConfig(categories={"cafe": "생활"}), duplicates, folder / "e", spark_engine
        )
        chosen = run_function(
            select, SelectConfig(min_percentile=0.1, min_source_documents=10), enriched, folder / "s", spark_engine
        )
        for name, dataset in (("d", duplicates), ("e", enriched), ("s", chosen)):
            results[name].add(
                (dataset.manifest.digest, *(entry.checksum for entry in dataset.table("documents").files))
            )
    spark_engine.spark().conf.set("spark.sql.shuffle.partitions", "3")
    assert {name: len(values) for name, values in results.items()} == {"d": 1, "e": 1, "s": 1}


@pytest.mark.spark
def test_threads_are_rebuilt_and_percentiles_lie_within_a_source(
    portal: Dataset, tmp_path: Path, spark_engine: SparkEngine
) -> None:
    dataset = run_function(enrich, EnrichConfig(categories={"comment": "댓글"}), portal, tmp_path, spark_engine)
    rows = dataset.read("documents").to_pylist()
    thread = sorted((row["turn"], row["source_id"]) for row in rows if row["thread_id"] == "cafe-thread-1")
    assert thread == [(0, "cafe-001"), (1, "cafe-002"), (2, "cafe-003"), (3, "cafe-004")]
    news = sorted((row["popularity"], row["source_id"]) for row in rows if row["source"] == "news")
    assert news[0][0] == 0.0
    assert news[-1] == (1.0, "news-001")
    assert all(row["popularity"] is None for row in rows if row["source_id"] == "cafe-020")
    kin = {row["source_id"]: row["reliability"] for row in rows if row["source"] == "kin"}
    assert kin["kin-002"] > kin["kin-006"], "an accepted answer is more reliable than one that was not"
    assert {row["category"] for row in rows if row["source"] == "comment"} == {"댓글"}


@pytest.mark.spark
def test_selection_drops_the_least_of_large_sources_only(
    portal: Dataset, tmp_path: Path, spark_engine: SparkEngine
) -> None:
    dataset = run_function(
        select, SelectConfig(min_percentile=0.2, min_source_documents=20), portal, tmp_path, spark_engine
    )
    by_source = dataset.manifest.counters.by_source
    assert by_source["cafe"]["rejected"] == pytest.approx(0.2 * by_source["cafe"]["in"], abs=1.5)
    assert "rejected" not in by_source["news"]
    buckets = {dict(row["signals"])["selection_bucket"] for row in dataset.read("documents").to_pylist()}
    assert buckets == {0.0, 1.0, 2.0}


@pytest.mark.spark
def test_an_empty_bucket_is_no_trouble(tmp_path: Path, spark_engine: SparkEngine) -> None:
    path = write_lines(
        tmp_path / "a.jsonl", [{"id": "1", "text": "문서가 하나뿐인 말뭉치입니다. 다른 문서는 없습니다."}]
    )
    dataset = ingested(tmp_path / "in", SourceConfig(name="x", paths=(str(path),)), buckets=8)
    assert (
        run_function(deduplicate, DeduplicateConfig(), dataset, tmp_path / "d", spark_engine).manifest.counters.kept
        == 1
    )


@pytest.mark.spark
def test_percentiles_by_ranges_are_those_of_the_definition(
    tmp_path: Path, spark_engine: SparkEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ties, nulls, a source of one, and one whose values lie in several ranges."""
    generator = np.random.default_rng(5)
    count = 4000
    source = np.where(np.arange(count) < 3500, "large", "small")
    source[-1] = "alone"
    value = np.round(generator.normal(size=count), 1)
    known = generator.random(count) > 0.2
    known[-1] = True
    table = pa.table(
        {
            "doc_id": [f"{n:05d}" for n in range(count)],
            "source": source,
            "value": pa.array(value, mask=~known),
        }
    )
    context = StageContext("t", "1", 0, 1, "a", Target(str(tmp_path)), "f", spark_engine, documents=count)
    monkeypatch.setattr(percent_ranks, "WINDOW_ROWS", 0)
    files: list[int] = []
    original = percent_ranks.materialized
    monkeypatch.setattr(
        percent_ranks, "materialized", lambda *asked: files.append(len((made := original(*asked)).paths)) or made
    )
    session = spark_engine.spark()
    adaptive = session.conf.get("spark.sql.adaptive.enabled")
    session.conf.set("spark.sql.adaptive.enabled", "false")
    session.conf.set("spark.sql.shuffle.partitions", "5")
    try:
        frame = session.createDataFrame(table)
        found = percent_ranks.with_percent_rank(frame, "source", ("value",), "rank", context)
        unique = percent_ranks.with_percent_rank(found, "source", ("value", "doc_id"), "place", context)
        rows = unique.toArrow().sort_by("doc_id").to_pylist()
    finally:
        session.conf.set("spark.sql.adaptive.enabled", str(adaptive))
        session.conf.set("spark.sql.shuffle.partitions", "3")
    assert min(files) > 1, "one range proves little"
    for name in ("large", "small", "alone"):
        mine = [n for n in range(count) if source[n] == name and known[n]]
        ordered = np.sort(value[mine])
        for n in mine:
            below = int(np.searchsorted(ordered, value[n]))
            assert rows[n]["rank"] == (below / (len(mine) - 1) if len(mine) > 1 else 0.0)
        places = sorted(rows[n]["place"] for n in mine)
        assert places == [at / max(1, len(mine) - 1) for at in range(len(mine))]
    assert all(rows[n]["rank"] is None and rows[n]["place"] is None for n in range(count) if not known[n])
