"""A growing corpus reads as one: later parts supersede, tombstones remove, compaction changes no visible byte."""

from __future__ import annotations

import threading
from pathlib import Path

import pyarrow as pa
import pytest

from hyperclova_core.corpus.ingest.config import SourceConfig
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.corpora.retention import find_garbage, remove
from hyperclova_core.foundation.corpora.versions import Part, add_tombstones, compact, current, publish, read, versions
from hyperclova_core.foundation.datasets.dataset import Dataset
from hyperclova_core.foundation.datasets.document_schema import document_id
from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.foundation.stages.engines import LocalEngine
from hyperclova_core.foundation.warehouse import Warehouse
from tests.conftest import ingested, write_lines


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(str(tmp_path / "w"))


def increment(folder: Path, texts: dict[str, str], buckets: int) -> Dataset:
    path = write_lines(folder / "in.jsonl", [{"id": key, "text": text} for key, text in texts.items()])
    return ingested(folder / "out", SourceConfig(name="s", paths=(str(path),)), buckets=buckets)


def part_of(dataset: Dataset, run: str) -> Part:
    counters = dataset.manifest.counters
    return Part(
        kind="increment",
        uri=dataset.uri,
        digest=dataset.manifest.digest,
        documents=counters.kept,
        bytes=counters.text_bytes_kept,
        run=run,
    )


def texts_of(tables: object) -> dict[str, str]:
    table = pa.concat_tables(tables)
    assert table.column("doc_id").to_pylist() == sorted(table.column("doc_id").to_pylist())
    return dict(zip(table.column("source_id").to_pylist(), table.column("text").to_pylist(), strict=True))


def grow(warehouse: Warehouse, tmp_path: Path) -> dict[str, str]:
    nights = [
        ({f"d{n}": f"첫째 날의 글 {n}" for n in range(40)}, 4),
        ({f"d{n}": f"고쳐 쓴 글 {n}" for n in range(30, 50)}, 2),
        ({f"d{n}": f"셋째 날의 글 {n}" for n in range(45, 60)}, 8),
    ]
    expected: dict[str, str] = {}
    for number, (texts, buckets) in enumerate(nights):
        made = increment(tmp_path / f"night{number}", texts, buckets)
        publish(warehouse, "c", part_of(made, f"n{number}"), "night", [f"file{number}"])
        expected.update(texts)
    return expected


@pytest.mark.parametrize("buckets", [1, 2, 4, 16])
def test_the_parts_read_as_one_in_any_number_of_buckets(warehouse: Warehouse, tmp_path: Path, buckets: int) -> None:
    expected = grow(warehouse, tmp_path)
    version = current(warehouse, "c")
    assert version is not None
    assert version.version == 3
    assert version.files == ("file0", "file1", "file2")
    assert texts_of(read(version, buckets)) == expected


def test_compaction_keeps_what_is_seen_and_removes_what_is_buried(warehouse: Warehouse, tmp_path: Path) -> None:
    expected = grow(warehouse, tmp_path)
    gone = [document_id("s", key, None, b"") for key in ("d3", "d46")]
    assert add_tombstones(warehouse, "c", gone, "asked for").version == 4
    for key in ("d3", "d46"):
        del expected[key]
    before = current(warehouse, "c")
    assert before is not None
    assert texts_of(read(before)) == expected
    version, outcome = compact(warehouse, "c", LocalEngine())
    counters = outcome.dataset.manifest.counters
    assert (counters.rows_in, counters.kept) == (75, len(expected))
    assert counters.rejected == {"removed": 3, "superseded": 14}
    assert [part.kind for part in version.parts] == ["base", "tombstones"]
    assert texts_of(read(version)) == expected
    again, reused = compact(warehouse, "c", LocalEngine())
    assert reused.dataset.manifest.counters.rejected == {}
    # what was removed does not come back with the next crawl
    made = increment(tmp_path / "later", {"d3": "다시 온 글", "d60": "새 글"}, 4)
    later = publish(warehouse, "c", part_of(made, "n9"), "night")
    assert texts_of(read(later)) == {**expected, "d60": "새 글"}
    assert later.version == again.version + 1


def test_removed_texts_leave_the_disk_with_compaction_drop_and_gc(warehouse: Warehouse, tmp_path: Path) -> None:
    target = warehouse.target("ingest", "one")
    made = increment(tmp_path / "night", {"a": "지워 달라고 한 비밀스러운 글", "b": "남는 글"}, 1)
    for path in Path(made.uri).rglob("*"):
        if path.is_file():
            copy = Path(target.uri) / path.relative_to(made.uri)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    publish(warehouse, "c", part_of(made, "n").model_copy(update={"uri": target.uri}), "night")
    add_tombstones(warehouse, "c", [document_id("s", "a", None, b"")], "asked for")
    version, _ = compact(warehouse, "c", LocalEngine())
    for number in versions(warehouse, "c")[:-1]:
        storage.remove(f"{warehouse.uri}/refs/corpus/c/{number:06d}.json")
    remove(warehouse, find_garbage(warehouse, older_than=0, restricted_days=0))
    left = [path for path in Path(warehouse.uri).rglob("*.parquet") if "비밀" in str(_texts(path))]
    assert left == []
    assert list(texts_of(read(version))) == ["b"]


def _texts(path: Path) -> list[str]:
    table = storage.read_parquet(str(path))
    return table.column("text").to_pylist() if "text" in table.column_names else []


def test_a_retry_publishes_once_and_racing_nights_both_get_in(warehouse: Warehouse, tmp_path: Path) -> None:
    parts = [part_of(increment(tmp_path / f"n{n}", {f"x{n}": f"글 {n}"}, 1), f"n{n}") for n in range(6)]
    threads = [threading.Thread(target=publish, args=(warehouse, "c", part, "night")) for part in parts * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    version = current(warehouse, "c")
    assert version is not None
    assert version.version == 6
    assert sorted(part.run for part in version.parts) == [f"n{n}" for n in range(6)]
    assert versions(warehouse, "c") == [1, 2, 3, 4, 5, 6]


def test_wrong_ids_and_names_are_refused(warehouse: Warehouse) -> None:
    with pytest.raises(ConfigError, match="Not a doc_id"):
        add_tombstones(warehouse, "c", ["홍길동"], "r")
    with pytest.raises(ConfigError, match="no corpus c"):
        add_tombstones(warehouse, "c", ["0" * 32], "r")
    with pytest.raises(ConfigError, match="no corpus c"):
        compact(warehouse, "c", LocalEngine())


def test_of_two_racing_compactions_the_later_yields(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = grow(warehouse, tmp_path)
    from hyperclova_core.foundation.corpora import versions

    inner, raced = versions.execute, []

    def slow(plan: object, engine: object) -> object:
        if not raced:
            raced.append(True)
            versions.compact(warehouse, "c", LocalEngine(), buckets=16)
            late = increment(tmp_path / "late", {"d0": "그사이에 고친 글"}, 2)
            publish(warehouse, "c", part_of(late, "late"), "night")
            versions.compact(warehouse, "c", LocalEngine(), buckets=16)
        return inner(plan, engine)  # type: ignore[arg-type]

    monkeypatch.setattr(versions, "execute", slow)
    version, _ = versions.compact(warehouse, "c", LocalEngine())
    assert [part.kind for part in version.parts] == ["base"]
    assert texts_of(read(version)) == {**expected, "d0": "그사이에 고친 글"}


def test_a_retry_after_a_compaction_publishes_nothing_again(warehouse: Warehouse, tmp_path: Path) -> None:
    old = part_of(increment(tmp_path / "a", {"x": "옛 글"}, 1), "n0")
    publish(warehouse, "c", old, "night")
    publish(warehouse, "c", part_of(increment(tmp_path / "b", {"x": "새 글"}, 1), "n1"), "night")
    compacted, _ = compact(warehouse, "c", LocalEngine())
    assert publish(warehouse, "c", old, "night") == compacted
    assert texts_of(read(compacted)) == {"x": "새 글"}


def test_empty_buckets_and_nights_are_no_trouble(warehouse: Warehouse, tmp_path: Path) -> None:
    publish(warehouse, "c", part_of(increment(tmp_path / "a", {"x": "글"}, 8), "n0"), "night")
    version, _ = compact(warehouse, "c", LocalEngine())
    assert texts_of(read(version, 8)) == {"x": "글"}
