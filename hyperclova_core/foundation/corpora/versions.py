"""A corpus that grows: a base, dated increments and tombstones, read as one, compacted at a release.

A version is one small record, made with create-if-absent under the next number: of two publishers one gets the number,
the other looks again. Documents are never rewritten when others arrive (doc_id is a hash, so 1 % of new documents would
touch every bucket file); a later part's version of a document supersedes an earlier one's, and a tombstone removes a
document from all parts, those that are still to come too: what was removed does not come back with the next crawl.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, ValidationError

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.datasets.commit import commit, new_attempt
from hyperclova_core.foundation.datasets.dataset import Dataset, open_dataset
from hyperclova_core.foundation.datasets.document_schema import DOCUMENT_SCHEMA
from hyperclova_core.foundation.datasets.manifest import (
    Counters,
    Manifest,
    Table,
    content_digest,
    read_manifest,
)
from hyperclova_core.foundation.datasets.parquet_writer import TableWriter, abandoned_on_error, write_table
from hyperclova_core.foundation.errors import ConfigError, DataError
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.foundation.stages.counting import Tally
from hyperclova_core.foundation.stages.document_stages import bucket_path, merge_tallies
from hyperclova_core.foundation.stages.kinds import Artifact, Engine, StageContext, artifact_stage, definition_of
from hyperclova_core.foundation.stages.runner import Outcome, StageRequest, execute, plan_stage
from hyperclova_core.foundation.stages.units import TablesResult, WorkUnit
from hyperclova_core.foundation.stages.work_units import run_units
from hyperclova_core.foundation.warehouse import Warehouse

TOMBSTONES = pa.schema([pa.field("doc_id", pa.string(), nullable=False), pa.field("reason", pa.string())])


class Part(Config):
    """One dataset of a version, in the order of arrival."""

    kind: Literal["base", "increment", "tombstones"]
    uri: str
    digest: str
    documents: int
    bytes: int = 0
    run: str = ""
    drops: dict[str, int] = {}


class CorpusVersion(Config):
    """What a name stood for at a time. `documents` and `bytes` are what the parts hold, before what is superseded or
    removed is left out; after a compaction they are exact."""

    name: str
    version: int
    parts: tuple[Part, ...]
    digest: str
    documents: int
    bytes: int
    drops: int = 0
    files: tuple[str, ...] = ()
    runs: tuple[str, ...] = Field((), description="runs that ever published here, also what was compacted since")
    history: str = Field("", description="the history index of near-duplicates that goes with it")
    change: str = ""
    published_at: str = ""


def current(warehouse: Warehouse, name: str) -> CorpusVersion | None:
    """The newest version of a corpus, by number (not by time: clocks jump)."""
    numbers = versions(warehouse, name)
    return version_of(warehouse, name, numbers[-1]) if numbers else None


def versions(warehouse: Warehouse, name: str) -> list[int]:
    """Numbers of the versions that are kept, ascending."""
    names = storage.list_names(storage.join(warehouse.uri, "refs", "corpus", name))
    return sorted(int(item.removesuffix(".json")) for item in names)


def names(warehouse: Warehouse) -> list[str]:
    """All corpora of a warehouse."""
    return storage.list_names(storage.join(warehouse.uri, "refs", "corpus"))


def version_of(warehouse: Warehouse, name: str, number: int) -> CorpusVersion:
    """A version by number.

    Raises:
        DataError: there is none.
    """
    value = warehouse.reference(f"corpus/{name}/{number:06d}")
    if value is None:
        raise DataError(
            f"The corpus {name} has no version {number}",
            where=warehouse.uri,
            why=f"kept are {versions(warehouse, name) or 'none'}",
            remedy="see `hyperclova corpus list`",
        )
    try:
        return CorpusVersion.model_validate(value)
    except ValidationError as error:
        raise DataError(
            "The record of a corpus version is damaged",
            where=storage.join(warehouse.uri, "refs", "corpus", name, f"{number:06d}.json"),
            why=f"{error.error_count()} fields are not valid",
            remedy="restore it from a backup, or remove it: the version before it is current again",
        ) from error


def publish(
    warehouse: Warehouse,
    name: str,
    part: Part,
    change: str,
    files: Iterable[str] = (),
    history: tuple[str, str] | None = None,
) -> CorpusVersion:
    """Add a part; a part that is there already (a retry) gives the version that has it.

    Args:
        history: the index that the part was compared with, and the one that holds it too.

    Raises:
        DataError: the corpus goes with another index by now: the part was not compared with all that is published.
    """
    new_files = set(files)

    def add(before: CorpusVersion | None) -> tuple[tuple[Part, ...], set[str]] | None:
        parts = before.parts if before else ()
        # one run publishes once, whatever it is told to publish again, and also when it was compacted since
        if any(known.uri == part.uri and known.run == part.run for known in parts):
            return None
        if before is not None and part.run and part.run in before.runs:
            return None
        if history is not None and before is not None and before.history and before.history != history[0]:
            raise DataError(
                "Another night was published meanwhile",
                where=f"corpus {name} version {before.version}",
                why="this one was compared with an older version of the history index",
                remedy="trigger a new run: it takes the same files, and is compared with what is published now",
            )
        return (*parts, part), new_files | set(before.files if before else ())

    return _next(warehouse, name, add, change, history[1] if history else None)


def _next(warehouse: Warehouse, name: str, change_of: Any, change: str, history: str | None = None) -> CorpusVersion:
    while True:
        before = current(warehouse, name)
        changed = change_of(before)
        if changed is None:
            assert before is not None
            return before
        parts, files = changed
        made = CorpusVersion(
            name=name,
            version=(before.version if before else 0) + 1,
            parts=parts,
            digest=fingerprint([[part.kind, part.digest] for part in parts]),
            documents=sum(part.documents for part in parts if part.kind != "tombstones"),
            bytes=sum(part.bytes for part in parts),
            drops=sum(sum(part.drops.values()) for part in parts),
            files=tuple(sorted(files)),
            runs=tuple(sorted({*(before.runs if before else ()), *(part.run for part in parts if part.run)})),
            history=history or (before.history if before else ""),
            change=change,
            published_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        path = storage.join(warehouse.uri, "refs", "corpus", name, f"{made.version:06d}.json")
        if storage.create_once(path, storage.pretty_json(made.model_dump(mode="json"))):
            return made


def add_tombstones(warehouse: Warehouse, name: str, doc_ids: Iterable[str], reason: str) -> CorpusVersion:
    """Publish a version without some documents; the next compaction writes files without them.

    Raises:
        ConfigError: an id is not one, or there is no such corpus.
    """
    ids = sorted(set(doc_ids))
    wrong = [item for item in ids if len(item) != 32 or set(item) - set("0123456789abcdef")]
    if wrong or not ids:
        raise ConfigError(
            "Not a doc_id" if wrong else "No document to remove",
            where=f"corpus {name}",
            why=f"{wrong[0]!r} is not 32 hex digits" if wrong else "the list is empty",
            remedy="give the doc_id of documents, one a line",
        )
    if current(warehouse, name) is None:
        raise ConfigError(f"There is no corpus {name}", where=warehouse.uri, remedy="see `hyperclova corpus list`")
    dataset = write_tombstones(warehouse, pa.table({"doc_id": ids, "reason": [reason] * len(ids)}, TOMBSTONES))
    part = Part(kind="tombstones", uri=dataset.uri, digest=dataset.manifest.digest, documents=len(ids))
    return publish(warehouse, name, part, f"{len(ids)} documents removed: {reason}")


def write_tombstones(warehouse: Warehouse, table: pa.Table) -> Dataset:
    """Removed doc_ids with a reason (TOMBSTONES) as a dataset of their own."""
    identity = fingerprint({"stage": "tombstones", "version": "1", "rows": table.to_pylist()})
    target = warehouse.target("tombstones", identity)
    if read_manifest(target.uri) is not None:
        return open_dataset(target.uri)
    attempt = new_attempt()
    tables = {"tombstones": Table(files=(write_table(target.uri, f"attempts/{attempt}/tombstones.parquet", table),))}
    counters = Counters(rows_in=table.num_rows, kept=table.num_rows)
    manifest = Manifest(
        stage="tombstones",
        stage_version="1",
        fingerprint=identity,
        config={},
        inputs={},
        tables=tables,
        counters=counters,
        digest=content_digest(tables, counters),
        restricted_folder=target.restricted_folder,
    )
    return commit(target, manifest, attempt, {})[0]


class CompactConfig(Config):
    """How the parts are to be read: their kinds, in order."""

    kinds: tuple[str, ...]


def inputs_of(version: CorpusVersion) -> dict[str, Dataset]:
    """The parts opened, under names that keep their order."""
    return {f"part-{number:05d}": open_dataset(part.uri) for number, part in enumerate(version.parts)}


def read(version: CorpusVersion, buckets: int = 1) -> Iterator[pa.Table]:
    """The corpus as one, bucket by bucket: tables of DOCUMENT_SCHEMA sorted by doc_id."""
    files = _part_files(inputs_of(version), [part.kind for part in version.parts])
    for bucket in range(buckets):
        yield _merged(files, bucket, buckets)[0]


def compact(
    warehouse: Warehouse, name: str, engine: Engine, buckets: int | None = None
) -> tuple[CorpusVersion, Outcome]:
    """Write base, increments and tombstones as one new base, and publish it; tombstones stay for what is to come.

    Raises:
        ConfigError: there is no such corpus.
    """
    before = current(warehouse, name)
    if before is None:
        raise ConfigError(f"There is no corpus {name}", where=warehouse.uri, remedy="see `hyperclova corpus list`")
    inputs = inputs_of(before)
    documents = [dataset for dataset in inputs.values() if "documents" in dataset.manifest.tables]
    request = StageRequest(
        definition_of(compact_parts),
        CompactConfig(kinds=tuple(part.kind for part in before.parts)),
        lambda identity: warehouse.target("compact", identity),
        inputs,
        buckets=buckets or max(dataset.manifest.buckets for dataset in documents),
    )
    outcome = execute(plan_stage(request), engine)
    manifest = outcome.dataset.manifest
    base = Part(
        kind="base",
        uri=outcome.dataset.uri,
        digest=manifest.digest,
        documents=manifest.counters.kept,
        bytes=manifest.counters.text_bytes_kept,
    )
    compacted = before.parts

    def replace(now: CorpusVersion | None) -> tuple[tuple[Part, ...], set[str]] | None:
        assert now is not None
        if base in now.parts or any(part not in now.parts for part in compacted if part.kind != "tombstones"):
            return None  # done, or another compaction came first: what it wrote holds these parts already
        # what was published while the parts were written stays behind the new base
        later = [part for part in now.parts if part not in compacted or part.kind == "tombstones"]
        return (base, *later), set(now.files)

    return _next(warehouse, name, replace, f"compacted from version {before.version}"), outcome


@artifact_stage("compact", version="1")
def compact_parts(inputs: Mapping[str, Dataset], config: CompactConfig, context: StageContext) -> Artifact:
    """One documents dataset from all parts; superseded and removed documents are counted, and not kept anywhere."""
    assert context.engine is not None
    files = _part_files(inputs, list(config.kinds))
    read = fingerprint([[entry["checksum"] for entry in part["files"]] for part in files])
    units = [
        _CompactUnit(identity={"bucket": bucket, "buckets": context.buckets, "parts": read}, bucket=bucket)
        for bucket in range(context.buckets)
    ]
    work = partial(_compact_unit, files=files, context=context.for_workers())
    results, _ = run_units(context, work, units, "compact", TablesResult)
    entries = [result.tables["documents"] for result in results]
    return Artifact({"documents": entries}, merge_tallies(results).counters())


class _CompactUnit(WorkUnit):
    """A bucket of the compacted corpus."""

    bucket: int


def _compact_unit(unit: _CompactUnit, *, files: list[dict[str, Any]], context: StageContext) -> TablesResult:
    documents, superseded, removed = _merged(files, unit.bucket, context.buckets)
    tally = Tally()
    for part in (documents, superseded, removed):
        for batch in part.to_batches():
            tally.see_in(batch)
    root, path = context.target.root(False), bucket_path(context, "documents", unit.bucket)
    writer = TableWriter(root, path, DOCUMENT_SCHEMA, unit.bucket)
    with abandoned_on_error(writer):
        for batch in documents.to_batches():
            writer.write(batch)
            tally.see_kept(batch)
        entry = writer.close()
    for table, reason in ((superseded, "superseded"), (removed, "removed")):
        for batch in table.to_batches():
            tally.see_rejected(batch, [reason] * batch.num_rows)
    return TablesResult(files=(storage.join(root, path),), tables={"documents": entry}, counters=tally.counters())


def _part_files(inputs: Mapping[str, Dataset], kinds: list[str]) -> list[dict[str, Any]]:
    """What workers need to know of the parts, in order."""
    parts = []
    for (_, dataset), kind in zip(sorted(inputs.items()), kinds, strict=True):
        table = "tombstones" if kind == "tombstones" else "documents"
        entries = dataset.table(table).files
        files = [
            {"path": path, "bucket": entry.bucket or 0, "checksum": entry.checksum}
            for path, entry in zip(dataset.files(table), entries, strict=True)
        ]
        parts.append({"kind": kind, "buckets": dataset.manifest.buckets, "files": files})
    return parts


def _merged(parts: list[dict[str, Any]], bucket: int, buckets: int) -> tuple[pa.Table, pa.Table, pa.Table]:
    """(current, superseded, removed) documents of one of `buckets` buckets, each sorted by doc_id."""
    tables, buried = [], [pa.array([], pa.string())]
    for number, part in enumerate(parts):
        for file in part["files"]:
            if part["kind"] == "tombstones":
                buried.append(storage.read_parquet(file["path"], ["doc_id"]).column("doc_id").combine_chunks())
            elif _overlap(file["bucket"], part["buckets"], bucket, buckets):
                rows = storage.read_parquet(file["path"]).select(DOCUMENT_SCHEMA.names).cast(DOCUMENT_SCHEMA)
                rows = rows.filter(_inside(rows.column("doc_id"), bucket, buckets))
                tables.append(rows.append_column("part", pa.array([number] * rows.num_rows, pa.int32())))
    if not any(table.num_rows for table in tables):
        empty = DOCUMENT_SCHEMA.empty_table()
        return empty, empty, empty
    rows = pa.concat_tables(tables).sort_by([("doc_id", "ascending"), ("part", "descending")])
    ids = rows.column("doc_id").combine_chunks()
    first = pc.not_equal(ids, pa.concat_arrays([pa.array([""], pa.string()), ids[:-1]]))
    gone = pc.is_in(ids, value_set=pa.concat_arrays(buried))
    rows = rows.drop_columns(["part"])
    stays = pc.invert(gone)
    return (
        rows.filter(pc.and_(first, stays)),
        rows.filter(pc.and_(pc.invert(first), stays)),
        rows.filter(gone),
    )


def _overlap(one: int, of_one: int, other: int, of_other: int) -> bool:
    """Whether two buckets, of power-of-two numbers of buckets, share ids."""
    most = max(of_one, of_other)
    shift_one, shift_other = most // of_one, most // of_other
    return one * shift_one < (other + 1) * shift_other and other * shift_other < (one + 1) * shift_one


def _inside(ids: pa.ChunkedArray, bucket: int, buckets: int) -> pa.ChunkedArray:
    width = (1 << 32) // buckets
    low, high = f"{bucket * width:08x}", f"{(bucket + 1) * width:08x}"
    inside = pc.greater_equal(ids, low)
    return inside if bucket == buckets - 1 else pc.and_(inside, pc.less(ids, high))
