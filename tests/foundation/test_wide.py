"""Many tiny files into many buckets, against a store in memory: what is asked of it grows with files + buckets, not with their product.

`HYPERCLOVA_WIDE=100000,4096 pytest tests/foundation/test_wide.py` is the size of docs/scale.md.
"""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hyperclova_core.corpus.deidentify import DeidentifyConfig, deidentify
from hyperclova_core.corpus.ingest.config import IngestConfig, SourceConfig, find_files
from hyperclova_core.corpus.ingest.stage import ingest
from hyperclova_core.foundation.stages import work_units
from hyperclova_core.foundation.stages.engines import LocalEngine, SparkEngine
from hyperclova_core.foundation.stages.kinds import definition_of
from hyperclova_core.foundation.stages.runner import StageRequest, execute, plan_stage
from hyperclova_core.foundation.stages.units import WorkUnit
from hyperclova_core.foundation.warehouse import Warehouse
from tests.conftest import MOST_COLLECTED
from tests.memory_store import MemoryStore, in_memory

FILES, BUCKETS = (int(part) for part in os.environ.get("HYPERCLOVA_WIDE", "4000,512").split(","))
A_FILE, A_BUCKET = 3, 11
"""Requests of ingest: a look and a read of each file, and what a unit of 256 files costs; three tables a bucket, written and looked at, and what
lies between."""
DRIVER_BYTES = 1 << 30


def filled(store: MemoryStore) -> None:
    for number in range(FILES):
        line = {"id": str(number), "text": f"문서 {number}번입니다. 오늘은 {number * 7919}원어치의 사과를 샀다."}
        store.put_object(
            Bucket="w",
            Key=f"crawl/{number % 100:02d}/{number:06d}.jsonl",
            Body=json.dumps(line, ensure_ascii=False).encode() + b"\n",
        )
    store.asked.clear()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_requests_and_memory_grow_with_files_and_buckets_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    monkeypatch.setenv("HYPERCLOVA_SCRATCH", str(tmp_path))
    largest: list[int] = []
    original = work_units._check_payloads

    def watched(units: Sequence[WorkUnit], phase: str) -> None:
        largest.append(max((len(unit.model_dump_json()) for unit in units), default=0))
        original(units, phase)

    monkeypatch.setattr(work_units, "_check_payloads", watched)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    with in_memory() as store:
        filled(store)
        warehouse = Warehouse("s3://w/warehouse")
        config = IngestConfig(sources=(SourceConfig(name="crawl", paths=("s3://w/crawl",)),))
        files = find_files(config)
        assert sum(store.asked.values()) <= 2 + FILES / 1000, "one listing"
        request = StageRequest(
            definition_of(ingest), config, lambda name: warehouse.target("ingest", name), files=files, buckets=BUCKETS
        )
        made = execute(plan_stage(request), LocalEngine()).dataset
        asked = dict(store.asked)
        assert made.manifest.counters.kept == FILES
        assert sum(asked.values()) <= A_FILE * FILES + A_BUCKET * BUCKETS, asked
        store.asked.clear()
        following = StageRequest(
            definition_of(deidentify),
            DeidentifyConfig(),
            lambda name: warehouse.target("deidentify", name),
            {"documents": made},
            buckets=BUCKETS,
        )
        after = execute(plan_stage(following), LocalEngine()).dataset
        assert after.manifest.counters.kept == FILES
        assert sum(store.asked.values()) <= 2 * A_BUCKET * BUCKETS, dict(store.asked)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
    assert grown < DRIVER_BYTES, "the driver, its workers and the store in one process"
    assert largest
    assert max(largest) < work_units.PAYLOAD_BYTES
    table = (
        f"{FILES} files, {BUCKETS} buckets: ingest {sum(asked.values())} requests,"
        f" deidentify {sum(store.asked.values())}; {grown >> 20} MB more in memory; largest unit {max(largest)} bytes"
    )
    record_property("table", table)


@pytest.mark.spark
def test_the_guard_of_the_driver_fails_what_collects_many_rows(spark_engine: SparkEngine) -> None:
    frame = spark_engine.spark().range(MOST_COLLECTED + 1)
    for collects in (frame.collect, frame.toArrow, frame.toPandas, frame.toLocalIterator):
        with pytest.raises(AssertionError, match="to the driver"):
            collects()
    assert frame.count() == MOST_COLLECTED + 1
