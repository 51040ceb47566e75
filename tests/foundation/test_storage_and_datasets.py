"""Commits: one of many racing writers wins; damage of any kind is found and named."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets import parquet_writer
from hyperclova_core.foundation.datasets.commit import commit
from hyperclova_core.foundation.datasets.dataset import Target, open_dataset
from hyperclova_core.foundation.datasets.manifest import Counters, Manifest, Table, content_digest
from hyperclova_core.foundation.datasets.parquet_writer import write_table
from hyperclova_core.foundation.errors import ConfigError, DataError


def committed(folder: Path) -> Target:
    target = Target(str(folder))
    entry = write_table(target.uri, "attempts/a/numbers/part.parquet", pa.table({"n": list(range(100))}))
    tables, counters = {"numbers": Table(files=(entry,))}, Counters(rows_in=100, kept=100)
    manifest = Manifest(
        stage="numbers",
        stage_version="1",
        fingerprint="f",
        config={},
        inputs={},
        tables=tables,
        counters=counters,
        digest=content_digest(tables, counters),
    )
    commit(target, manifest, "a", {})
    return target


def test_one_of_many_racing_writers_wins(tmp_path: Path) -> None:
    path = str(tmp_path / "claims" / "name")
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda number: storage.create_once(path, str(number).encode()), range(64)))
    assert won.count(True) == 1
    assert storage.read_bytes(path) == str(won.index(True)).encode()
    assert storage.list_names(str(tmp_path / "claims")) == ["name"]


def test_a_second_commit_yields_to_the_first(tmp_path: Path) -> None:
    target = committed(tmp_path)
    manifest = open_dataset(target.uri).manifest
    dataset, created = commit(target, manifest, "b", {"run": "late"})
    assert not created
    assert dataset.attempt["attempt"] == "a"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda part: part.unlink(), "missing"),
        (lambda part: part.write_bytes(part.read_bytes()[:-10]), "wrong size"),
        (lambda part: part.write_bytes(bytes([part.read_bytes()[0] ^ 1]) + part.read_bytes()[1:]), "altered"),
    ],
)
def test_damaged_parts_are_named(tmp_path: Path, damage: object, message: str) -> None:
    target = committed(tmp_path)
    (part,) = (tmp_path / "attempts" / "a" / "numbers").iterdir()
    assert callable(damage)
    damage(part)
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(target.uri).verify(checksums=True)
    assert part.name in caught.value.where
    assert caught.value.remedy


def test_an_uncommitted_folder_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No committed dataset"):
        open_dataset(str(tmp_path))


def test_a_scheme_that_is_not_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gs://"):
        open_dataset("gs://bucket/prefix")


def test_the_bytes_of_a_table_do_not_depend_on_batches(tmp_path: Path) -> None:
    from hyperclova_core.foundation.datasets.parquet_writer import TableWriter

    table = pa.table({"n": list(range(10_000)), "text": [f"글 {n}" for n in range(10_000)]})
    entries = []
    for name, size in (("a", 7), ("b", 4096), ("c", 10_000)):
        writer = TableWriter(str(tmp_path), f"{name}.parquet", table.schema)
        for batch in table.to_batches(max_chunksize=size):
            writer.write(batch)
        entries.append(writer.close())
    assert len({entry.checksum for entry in entries}) == 1
    assert len({entry.digest for entry in entries}) == 1


def test_a_row_group_holds_bounded_text_however_the_rows_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_writer, "GROUP_BYTES", 10_000)
    texts = ["x" * (n * 37 % 4000) for n in range(200)]
    table = pa.table({"doc_id": [f"{n:032x}" for n in range(200)], "text": texts})
    entries = []
    for number, size in enumerate((1, 7, 200)):
        writer = parquet_writer.TableWriter(str(tmp_path), f"{number}.parquet", table.schema)
        for batch in table.to_batches(max_chunksize=size):
            writer.write(batch)
        entries.append(writer.close())
    assert len({(entry.checksum, entry.digest, entry.text_bytes) for entry in entries}) == 1
    with pq.ParquetFile(tmp_path / "0.parquet") as file:
        groups = [file.read_row_group(number).column("text").to_pylist() for number in range(file.num_row_groups)]
    assert len(groups) > 20
    assert all(sum(map(len, group[:-1])) < 10_000 for group in groups)
    assert all(sum(map(len, group)) >= 10_000 for group in groups[:-1])
