"""Running a source stage: one task a group of foreign files, then one task a range of buckets that gathers what belongs together.

Texts go from task to task through staging files (`exchange`), sorted by doc_id; none crosses to the JVM.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.datasets.document_schema import (
    DOCUMENT_SCHEMA,
    QUARANTINE_SCHEMA,
    RAW_KEPT_BYTES,
    REJECTED_SCHEMA,
)
from hyperclova_core.foundation.datasets.manifest import Table, file_checksum
from hyperclova_core.foundation.datasets.parquet_writer import PLAN, TableWriter, abandoned_on_error, write_table
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.foundation.stages.counting import Tally
from hyperclova_core.foundation.stages.document_stages import bucket_path, merge_tallies, rejected_batch
from hyperclova_core.foundation.stages.exchange import RangeUnit, buckets_of, exchange
from hyperclova_core.foundation.stages.guarded_source import GuardedSource
from hyperclova_core.foundation.stages.guarded_stage import trips_folder
from hyperclova_core.foundation.stages.kinds import SourceBatch, StageContext, StageDefinition, load_stage
from hyperclova_core.foundation.stages.units import SourceFile, TablesResult, UnitResult, WorkUnit, table_of
from hyperclova_core.foundation.stages.work_units import run_units
from hyperclova_core.foundation.storage import disk

GROUP_BYTES = 64 << 20
GROUP_FILES = 256
STAGED_TEXT_BYTES = 64 << 20
FILES_SCHEMA = pa.schema(
    [("source", pa.string()), ("name", pa.string()), ("bytes", pa.int64()), ("checksum", pa.string())]
)
"""The foreign files a source stage read: the roots of the lineage."""
_PLAN_SCHEMA = pa.schema([*FILES_SCHEMA, ("path", pa.binary())])
"""A path is bytes: a file name need not be text."""


class _ReadUnit(WorkUnit):
    """Some files of one source, in the order of the plan, read by one task."""

    plan: str
    first: int
    count: int
    index: int


class _ReadResult(TablesResult):
    """What was refused, and where the documents wait to be gathered."""

    staged: tuple[str, ...]
    staged_digest: tuple[str, ...]


class _Gathered(UnitResult):
    """The tables of each bucket of a range, in order."""

    buckets: tuple[TablesResult, ...]


def group_files(files: Sequence[SourceFile]) -> list[list[SourceFile]]:
    """Files in the order given, in groups of up to 64 MB or 256 files of one source: a task each."""
    groups: list[list[SourceFile]] = []
    total = 0
    for file in files:
        fits = groups and groups[-1][0].source == file.source and len(groups[-1]) < GROUP_FILES
        if not fits or total + file.bytes > GROUP_BYTES:
            groups.append([])
            total = 0
        groups[-1].append(file)
        total += file.bytes
    return groups


def describe_file(path: str, base: str, source: str, listed: tuple[int, str] | None = None) -> SourceFile:
    """A foreign file as the fingerprint sees it: its name below the source's folder, and its content.

    Args:
        listed: of an object: its bytes and what names its content (`storage.list_versions`), so that it need not be asked for.
    """
    if listed is not None:
        size, checksum = listed
        return SourceFile(path=path, name=path[len(base) :].lstrip("/"), source=source, bytes=size, checksum=checksum)
    return SourceFile(
        path=path,
        name=disk.readable_name(os.path.relpath(path, base)),
        source=source,
        bytes=storage.size(path),
        checksum=file_checksum(path),
    )


def run_source_stage(
    definition: StageDefinition, config: Config, files: Sequence[SourceFile], context: StageContext
) -> tuple[dict[str, Table], Tally, int]:
    """Read all files, regroup their records by bucket: tables, counts, and units taken over."""
    assert context.engine is not None
    shared: dict[str, Any] = {
        "reference": definition.reference,
        "config": config.model_dump(mode="json"),
        "context": context.for_workers(),
    }
    plan, groups = _write_plan(files, context), group_files(files)
    firsts = [0, *accumulate(len(group) for group in groups[:-1])]
    units = [
        _ReadUnit(
            identity={"files": fingerprint([[file.source, file.name, file.checksum] for file in group])},
            plan=plan,
            first=first,
            count=len(group),
            index=index,
        )
        for index, (first, group) in enumerate(zip(firsts, groups, strict=True))
    ]
    read, taken_read = run_units(context, partial(_read_unit, **shared), units, "read", _ReadResult)
    staged = [pair for result in read for pair in zip(result.staged, result.staged_digest, strict=True)]
    waiting = exchange(context, staged, DOCUMENT_SCHEMA, context.buckets, "documents")
    gather = partial(_gather_unit, context=context.for_workers())
    ranges, taken_gathered = run_units(context, gather, waiting.units(), "gather", _Gathered)
    gathered = [bucket for result in ranges for bucket in result.buckets]
    tally = merge_tallies(read)
    tally.kept = tally.text_bytes_kept = 0
    tally.merge(merge_tallies(gathered).counters())
    listed = write_table(
        context.target.root(True),
        f"{context.attempt_path}/files.parquet",
        pa.Table.from_pylist(
            sorted(
                (file.model_dump(include=set(FILES_SCHEMA.names)) for file in files),
                key=lambda row: (row["source"], row["name"], row["checksum"]),
            ),
            FILES_SCHEMA,
        ),
    )
    tables = {
        "documents": table_of(gathered, "documents", True),
        "files": Table(files=(listed,), restricted=True),
        "rejected": table_of([*read, *gathered], "rejected", True),
        "quarantine": table_of([*read, *gathered], "quarantine", True),
    }
    context.scrap.files.extend(path for path, _ in staged)
    context.scrap.folders.append(trips_folder(context))
    return tables, tally, taken_read + waiting.taken_over + taken_gathered


def _write_plan(files: Sequence[SourceFile], context: StageContext) -> str:
    """The list of all files, for the tasks: a unit names its part of it."""
    root, path = context.target.root(True), f"{context.attempt_path}/plan/files.parquet"
    rows = [{**file.model_dump(), "path": os.fsencode(file.path)} for file in files]
    write_table(root, path, pa.Table.from_pylist(rows, _PLAN_SCHEMA), layout=PLAN)
    context.scrap.files.append(storage.join(root, path))
    return storage.join(root, path)


def _planned(unit: _ReadUnit) -> list[SourceFile]:
    rows = storage.read_rows(unit.plan, unit.first, unit.count).to_pylist()
    return [SourceFile.model_validate({**row, "path": os.fsdecode(row["path"])}) for row in rows]


class _Staging:
    """Documents of one unit, flushed as Parquet files sorted by doc_id whenever enough text has gathered."""

    def __init__(self, root: str, path: str) -> None:
        self._root, self._path = root, path
        self._batches: list[pa.RecordBatch] = []
        self._bytes = 0
        self.paths: list[str] = []
        self.digests: list[str] = []

    def add(self, documents: pa.RecordBatch) -> None:
        if documents.num_rows == 0:
            return
        self._batches.append(documents)
        self._bytes += documents.nbytes
        if self._bytes >= STAGED_TEXT_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self._batches:
            return
        table = pa.Table.from_batches(self._batches, DOCUMENT_SCHEMA).sort_by("doc_id")
        path = f"{self._path}-{len(self.paths):04d}.parquet"
        writer = TableWriter(self._root, path, DOCUMENT_SCHEMA)
        with abandoned_on_error(writer):
            for batch in table.to_batches():
                writer.write(batch)
            entry = writer.close()
        self.paths.append(storage.join(self._root, path))
        self.digests.append(entry.digest)
        self._batches, self._bytes = [], 0


def _read_unit(unit: _ReadUnit, *, reference: str, config: dict[str, Any], context: StageContext) -> _ReadResult:
    definition = load_stage(reference)
    settings = definition.config.model_validate(config)
    root = context.target.root(restricted=True)
    name = f"unit-{unit.index:05d}"
    staging = _Staging(root, f"{context.attempt_path}/staging/{name}")
    rejected = TableWriter(root, f"{context.attempt_path}/rejected/{name}.parquet", REJECTED_SCHEMA)
    quarantine = TableWriter(root, f"{context.attempt_path}/quarantine/{name}.parquet", QUARANTINE_SCHEMA)
    tally = Tally()
    with abandoned_on_error(rejected, quarantine), GuardedSource(definition, settings, context) as source:
        for file in _planned(unit):
            with storage.fetched(file.path) as path:
                fetched = file.model_copy(update={"path": path})
                for batch in source.batches(fetched):
                    staging.add(batch.documents)
                    rejected.write(batch.rejected)
                    quarantine.write(batch.quarantine)
                    tally.see_in(batch.documents)
                    _count_dropped(tally, batch)
        staging.flush()
        entries = {"rejected": rejected.close(), "quarantine": quarantine.close()}
    return _ReadResult(
        files=(*staging.paths, *(storage.join(root, entry.path) for entry in entries.values())),
        staged=tuple(staging.paths),
        staged_digest=tuple(staging.digests),
        tables=entries,
        counters=tally.counters(),
    )


def _count_dropped(tally: Tally, batch: SourceBatch) -> None:
    dropped = batch.rejected.select(DOCUMENT_SCHEMA.names)
    tally.see_in(dropped)
    tally.see_rejected(dropped, batch.rejected.column("reason").to_pylist())
    for source in batch.quarantine.column("source").to_pylist():
        tally.rows_in += 1
        tally.by_source[source]["in"] += 1
    tally.see_all_quarantined(batch.quarantine)


def _gather_unit(unit: RangeUnit, *, context: StageContext) -> _Gathered:
    buckets = tuple(_gather(bucket, table, context) for bucket, table in buckets_of(unit, DOCUMENT_SCHEMA))
    return _Gathered(files=tuple(path for bucket in buckets for path in bucket.files), buckets=buckets)


def _gather(bucket: int, table: pa.Table, context: StageContext) -> TablesResult:
    """One document a doc_id: the tables of a bucket."""
    root = context.target.root(restricted=True)
    kept, same, conflicts = _resolve(table)
    tally = Tally()
    paths = {name: bucket_path(context, name, bucket) for name in ("documents", "rejected", "quarantine")}
    writers = {
        "documents": TableWriter(root, paths["documents"], DOCUMENT_SCHEMA, bucket),
        "rejected": TableWriter(root, paths["rejected"], REJECTED_SCHEMA, bucket),
        "quarantine": TableWriter(root, paths["quarantine"], QUARANTINE_SCHEMA, bucket),
    }
    with abandoned_on_error(*writers.values()):
        for batch in kept.to_batches():
            writers["documents"].write(batch)
            tally.see_kept(batch)
        contents = kept.select(["doc_id", "content_hash"]).to_pylist() if same.num_rows else []
        current = {row["doc_id"]: row["content_hash"] for row in contents}
        for batch in same.to_batches():
            rows = zip(batch.column("doc_id").to_pylist(), batch.column("content_hash").to_pylist(), strict=True)
            reasons = ["same_document_twice" if current[key] == digest else "older_version" for key, digest in rows]
            writers["rejected"].write(rejected_batch(batch, context.stage, reasons, [""] * batch.num_rows))
            tally.see_rejected(batch, reasons)
        for batch in conflicts.to_batches():
            writers["quarantine"].write(_conflicts(batch, context.stage))
            lengths = pc.binary_length(batch.column("text")).to_pylist()
            for source, length in zip(batch.column("source").to_pylist(), lengths, strict=True):
                tally.see_quarantined(source, "conflicting_versions", length)
        entries = {name: writer.close() for name, writer in writers.items()}
    files = tuple(storage.join(root, entry.path) for entry in entries.values())
    return TablesResult(files=files, tables=entries, counters=tally.counters())


def _resolve(table: pa.Table) -> tuple[pa.Table, pa.Table, pa.Table]:
    """(documents, rows that are left out, rows that conflict); one document a doc_id.

    The same id with one content is one document. With two contents the newest by `collected_at` is current; where that
    does not tell them apart, all rows conflict.
    """
    order = [("doc_id", "ascending"), ("content_hash", "ascending"), ("collected_at", "descending")]
    order += [
        (name, "ascending")
        for name in ("url", "title", "user_id", "thread_id", "reply_to", "category", "published_at", "license")
    ]
    table = table.take(pc.sort_indices(table, sort_keys=order))
    ids, hashes = table.column("doc_id").to_pylist(), table.column("content_hash").to_pylist()
    collected = table.column("collected_at").to_pylist()
    kept: list[int] = []
    left_out: list[int] = []
    conflicts: list[int] = []
    start = 0
    for end in range(1, len(ids) + 1):
        if end < len(ids) and ids[end] == ids[start]:
            continue
        times = [collected[index] for index in range(start, end) if collected[index] is not None]
        newest = [index for index in range(start, end) if times and collected[index] == max(times)]
        if hashes[start] == hashes[end - 1]:
            newest = [start]
        if len({hashes[index] for index in newest}) == 1:
            kept.append(newest[0])
            left_out.extend(index for index in range(start, end) if index != newest[0])
        else:
            conflicts.extend(range(start, end))
        start = end
    return (
        table.take(pa.array(kept, pa.int64())),
        table.take(pa.array(left_out, pa.int64())),
        table.take(pa.array(conflicts, pa.int64())),
    )


def _conflicts(documents: pa.RecordBatch, stage: str) -> pa.RecordBatch:
    rows = [
        {
            "stage": stage,
            "source": row["source"],
            "location": f"{row['source']}/{row['source_id']}",
            "offset": 0,
            "reason": "conflicting_versions",
            "detail": f"doc_id {row['doc_id']} came with two contents in one ingest; this one is {row['content_hash']}",
            "raw_bytes": len(row["text"].encode()),
            "raw": row["text"].encode()[:RAW_KEPT_BYTES],
        }
        for row in documents.to_pylist()
    ]
    return pa.RecordBatch.from_pylist(rows, QUARANTINE_SCHEMA)
