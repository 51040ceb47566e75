"""Rows from files to buckets: each row once, in its bucket, whatever the number of files, ranges and rows held; few opens, small payloads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperclova_core.corpus.ingest.config import SourceConfig
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.dataset import Target
from hyperclova_core.foundation.datasets.document_schema import bucket_of
from hyperclova_core.foundation.datasets.parquet_writer import write_table
from hyperclova_core.foundation.stages import exchange as module
from hyperclova_core.foundation.stages.engines import LocalEngine
from hyperclova_core.foundation.stages.exchange import buckets_of, exchange, ranges_of
from hyperclova_core.foundation.stages.kinds import StageContext
from tests.conftest import ingested, write_lines

SCHEMA = pa.schema([("doc_id", pa.string()), ("number", pa.int64())])


def context(folder: Path) -> StageContext:
    return StageContext("stage", "1", 0, 1, "a", Target(str(folder)), "fingerprint", LocalEngine())


def identity(number: int) -> str:
    return hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest()


def written(folder: Path, files: int, rows: int, ordered: bool = True) -> list[tuple[str, str]]:
    """Files with ids that lie anywhere; (address, digest) of each."""
    found = []
    for file in range(files):
        table = pa.table({"doc_id": [identity(file * rows + n) for n in range(rows)], "number": range(rows)})
        entry = write_table(str(folder), f"in-{file}.parquet", table.sort_by("doc_id") if ordered else table)
        found.append((storage.join(str(folder), entry.path), entry.digest))
    return found


@given(st.integers(1, 9), st.integers(0, 40), st.sampled_from([1, 2, 16, 256]), st.booleans(), st.booleans())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_row_comes_to_its_bucket_once(
    tmp_path_factory: pytest.TempPathFactory, files: int, rows: int, buckets: int, ordered: bool, little: bool
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DIRECT_FILES", 2)
        patch.setattr(module, "LEAST_RANGES", 4)
        patch.setattr(module, "HELD_BYTES", 500 if little else 1 << 20)
        waiting = exchange(context(folder), written(folder, files, rows, ordered), SCHEMA, buckets, "rows")
        found: dict[int, list[str]] = {}
        for unit in waiting.units():
            for bucket, table in buckets_of(unit, SCHEMA):
                assert bucket not in found
                found[bucket] = table.column("doc_id").to_pylist()
    assert sorted(found) == list(range(buckets))
    assert all(bucket_of(name, buckets) == bucket for bucket, names in found.items() for name in names)
    assert sorted(name for names in found.values() for name in names) == sorted(map(identity, range(files * rows)))


def test_opens_and_payloads_do_not_grow_with_files_times_buckets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda uri, *rest, **more: opened.append(uri) or function(uri, *rest, **more)

    monkeypatch.setattr(storage, "open_parquet", counted(storage.open_parquet))
    monkeypatch.setattr(storage, "read_parquet", counted(storage.read_parquet))
    files, buckets = 200, 4096
    waiting = exchange(context(tmp_path), written(tmp_path, files, 20), SCHEMA, buckets, "rows")
    units = waiting.units()
    assert sum(table.num_rows for unit in units for _, table in buckets_of(unit, SCHEMA)) == files * 20
    assert len(opened) < files + buckets, "not 200 × 4,096"
    assert max(len(unit.model_dump_json()) for unit in units) < 1000
    assert len(units) == ranges_of(buckets) == 64


def test_few_buckets_are_units_of_their_own_and_many_go_by_their_square_root() -> None:
    assert [ranges_of(buckets) for buckets in (1, 2, 64, 128, 4096, 8192, 32_768)] == [1, 2, 64, 64, 64, 128, 256]


def test_documents_are_the_same_by_one_level_and_by_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of a document that comes twice, and of two that conflict, in files that different tasks read."""
    for number in range(12):
        rows = [{"id": f"{number}-{item}", "text": f"문서 {number} 번의 {item} 번째 글입니다."} for item in range(30)]
        rows.append({"id": "same", "text": "여러 번 온 글입니다."})
        rows.append({"id": "conflict", "text": f"서로 다른 글 {number} 입니다."})
        write_lines(tmp_path / "in" / f"{number:02d}.jsonl", rows)
    source = SourceConfig(name="blog", paths=(str(tmp_path / "in" / "*.jsonl"),))
    monkeypatch.setattr("hyperclova_core.foundation.stages.source_stages.GROUP_FILES", 1)
    direct = ingested(tmp_path / "direct", source, buckets=16)
    monkeypatch.setattr(module, "DIRECT_FILES", 3)
    monkeypatch.setattr(module, "LEAST_RANGES", 4)
    monkeypatch.setattr(module, "HELD_BYTES", 2000)
    regrouped = ingested(tmp_path / "regrouped", source, buckets=16)
    assert regrouped.manifest.digest == direct.manifest.digest
    same = [[entry.digest for entry in made.table("documents").files] for made in (direct, regrouped)]
    assert same[0] == same[1]
    counters = regrouped.manifest.counters
    assert counters.rejected == {"same_document_twice": 11}
    assert counters.quarantined == {"conflicting_versions": 12}
    left = [path for path in Path(regrouped.uri).parent.rglob("*.parquet") if "exchange" in str(path)]
    assert not left, "what lay between is gone with the commit"


def test_sums_are_the_same_by_the_driver_and_by_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key is summed by one task; the driver reads as many rows as there are keys, not as many as files × keys."""
    from hyperclova_core.foundation.stages import sums

    schema = pa.schema([("key", pa.string()), ("tokens", pa.int64())])
    generator = np.random.default_rng(3)
    read: list[int] = []
    original = storage.read_parquet

    def counting(path: str, *more: Any, **others: Any) -> pa.Table:
        table = original(path, *more, **others)
        read.append(table.num_rows)
        return table

    found = []
    for placed in (False, True):
        here = context(tmp_path / str(placed))
        monkeypatch.setattr(sums, "FEW_FILES", 10 if placed else 100)
        files = []
        for number in range(50):
            keys = [f"key {value}" for value in np.unique(generator.integers(0, 300, 200))]
            table = pa.table([pa.array(keys), pa.array(np.arange(len(keys)) + number)], schema=schema)
            if placed:
                table = sums.with_places(table, [hashlib.sha256(key.encode()).hexdigest()[:8] for key in keys])
            entry = write_table(here.target.root(True), f"part-{number}.parquet", table)
            files.append((storage.join(here.target.root(True), f"part-{number}.parquet"), entry.digest))
        generator = np.random.default_rng(3)
        with monkeypatch.context() as patch:
            patch.setattr(sums.storage, "read_parquet", counting)
            read.clear()
            found.append(sums.summed(here, files, schema, ("key",), "test").sort_by("key"))
        assert (sum(read) <= 300 + 2 * 64) == placed, "keys, and which files each range has"
    assert found[0].equals(found[1])
    assert found[0].num_rows == 300
    assert sums.summed(context(tmp_path / "none"), [], schema, ("key",), "test").num_rows == 0
