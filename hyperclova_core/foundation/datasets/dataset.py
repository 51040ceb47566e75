"""Datasets: tables of files made visible by one manifest object.

A dataset folder holds `manifest.json` (the commit), `attempt.json` (who, when: not part of the content), the files
of the attempt that was committed, and records of finished units. What is raw, rejected or quarantined lies in the
*restricted folder*, which the manifest names.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import socket
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.documents import DOCUMENT_SCHEMA
from hyperclova_core.foundation.errors import DataError, TransientError
from hyperclova_core.foundation.hashing import ContentHasher, fingerprint

MANIFEST = "manifest.json"
ATTEMPT = "attempt.json"
EXPIRED = "expired.json"
FORMAT = 2
UNSEALED_FORMAT = 1
RESTORE = "restore it from a backup, or remove the dataset's folder and run the stage again"


class FileEntry(Config):
    """One file of a table. `path` is relative to the table's root; `checksum` is over bytes, `digest` over rows."""

    path: str
    rows: int
    bytes: int
    checksum: str
    digest: str
    bucket: int | None = None
    text_bytes: int = 0


class Table(Config):
    """The files of one table, in order; `restricted` says under which root they lie."""

    files: tuple[FileEntry, ...] = ()
    restricted: bool = False

    @property
    def rows(self) -> int:
        """Rows over all files."""
        return sum(entry.rows for entry in self.files)

    @property
    def bytes(self) -> int:
        """Bytes on disk over all files."""
        return sum(entry.bytes for entry in self.files)


class InputReference(Config):
    """A dataset or file set that was read."""

    fingerprint: str
    digest: str
    uri: str = ""


class Counters(Config):
    """What went in and what became of it; `custom` holds a stage's own numbers."""

    rows_in: int = 0
    fan_out: int = 0
    kept: int = 0
    rejected: dict[str, int] = Field(default_factory=dict)
    quarantined: dict[str, int] = Field(default_factory=dict)
    text_bytes_in: int = 0
    text_bytes_kept: int = 0
    rejected_bytes: dict[str, int] = Field(default_factory=dict, description="reason → UTF-8 bytes of text")
    quarantined_bytes: dict[str, int] = Field(default_factory=dict, description="reason → raw bytes")
    by_source: dict[str, dict[str, int]] = Field(default_factory=dict)
    custom: dict[str, float] = Field(default_factory=dict)

    def check_conservation(self, stage: str) -> None:
        """Rows in + declared fan-out = kept + rejected + quarantined.

        Raises:
            DataError: rows appeared or vanished, which is a bug of the stage.
        """
        out = self.kept + sum(self.rejected.values()) + sum(self.quarantined.values())
        if self.rows_in + self.fan_out != out:
            raise DataError(
                f"Stage {stage} does not conserve its documents",
                where=stage,
                why=f"{self.rows_in} in + {self.fan_out} made != {self.kept} kept + {sum(self.rejected.values())} rejected"
                f" + {sum(self.quarantined.values())} quarantined",
                remedy="this is a bug of the stage: nothing was committed; please report it with the stage's log",
            )


class Manifest(Config):
    """The one object whose presence is the commit."""

    format: int = FORMAT
    stage: str
    stage_version: str
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, InputReference]
    tables: dict[str, Table]
    counters: Counters
    digest: str
    buckets: int = 1
    restricted_folder: str = "restricted"
    info: dict[str, Any] = Field(default_factory=dict)
    seal: str = Field("", description="hash over all the rest: an edit by hand shows")

    def sealed(self) -> Manifest:
        """The same with its seal."""
        plain = json.loads(storage.pretty_json(self.model_dump()))
        return self.model_copy(update={"seal": _seal(plain)})


def _seal(data: Mapping[str, Any]) -> str:
    return fingerprint({key: value for key, value in data.items() if key != "seal"})


@dataclass(frozen=True)
class Target:
    """Where a stage writes: a dataset folder, and the restricted folder (relative to it) for raw and dropped data."""

    uri: str
    restricted_folder: str = "restricted"

    @property
    def restricted_uri(self) -> str:
        """The restricted folder as a path."""
        return storage.normalized(storage.join(self.uri, self.restricted_folder))

    def root(self, restricted: bool) -> str:
        """The folder below which a table's files lie."""
        return self.restricted_uri if restricted else self.uri


@dataclass(frozen=True)
class Dataset:
    """A committed dataset, opened for reading."""

    uri: str
    manifest: Manifest
    attempt: Mapping[str, Any] = field(default_factory=dict)
    expired: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Stage and the head of the fingerprint: enough for a person."""
        return f"{self.manifest.stage}@{self.manifest.fingerprint[:12]}"

    def root(self, table: str) -> str:
        """The folder below which a table's files lie."""
        return Target(self.uri, self.manifest.restricted_folder).root(self.table(table).restricted)

    def table(self, name: str) -> Table:
        """A table by name.

        Raises:
            DataError: the dataset has none of that name.
        """
        if name not in self.manifest.tables:
            raise DataError(
                f"The dataset has no table `{name}`",
                where=self.uri,
                why=f"it has {', '.join(sorted(self.manifest.tables)) or 'none'}",
                remedy="give a dataset of another stage",
            )
        return self.manifest.tables[name]

    def files(self, table: str = "documents") -> list[str]:
        """Paths of a table's files, in order.

        Raises:
            DataError: there is no such table, or its files have passed their time to live.
        """
        if table in self.expired.get("tables", ()):
            raise DataError(
                f"Table `{table}` has passed its time to live",
                where=self.uri,
                why=f"its files were removed at {self.expired.get('at')}",
                remedy="run the stage again from the sources if they may still be kept",
            )
        return self._paths(table)

    def _paths(self, table: str) -> list[str]:
        root = self.root(table)
        return [storage.join(root, entry.path) for entry in self.table(table).files]

    def read(self, table: str = "documents", columns: list[str] | None = None) -> pa.Table:
        """A whole table in memory: for narrow columns and small tables."""
        parts = [storage.read_parquet(path, columns) for path in self.files(table)]
        if not parts:
            return DOCUMENT_SCHEMA.empty_table() if table == "documents" else pa.table({})
        return pa.concat_tables(parts)

    def batches(
        self, table: str = "documents", columns: list[str] | None = None, rows: int = 1024
    ) -> Iterator[pa.RecordBatch]:
        """A table streamed in order."""
        for path in self.files(table):
            with storage.open_parquet(path) as file:
                yield from file.iter_batches(batch_size=rows, columns=columns)

    def verify(self, checksums: bool = False) -> None:
        """Sizes of all files, and their checksums on request.

        Raises:
            DataError: naming the first file that is missing, truncated or altered.
        """
        names = sorted(set(self.manifest.tables) - set(self.expired.get("tables", ())))
        pairs = [
            (path, entry)
            for name in names
            for path, entry in zip(self._paths(name), self.manifest.tables[name].files, strict=True)
        ]
        check_sizes(((path, entry.bytes) for path, entry in pairs), {self.root(name) for name in names})
        for path, entry in pairs if checksums else ():
            if file_checksum(path) != entry.checksum:
                raise DataError(
                    "A file of a dataset was altered",
                    where=path,
                    why="its checksum differs from the manifest's",
                    remedy=RESTORE,
                )


def check_sizes(expected: Iterable[tuple[str, int]], roots: Iterable[str]) -> None:
    """Every file is there with its size; an object store is asked by listing, not object by object.

    Raises:
        DataError: naming the first file that is missing or has another size.
    """
    listed = {
        path: size
        for root in sorted(roots)
        if storage.is_remote(root)
        for path, size, _ in storage.list_objects(storage.join(root, "attempts"))
    }
    for path, size in expected:
        found: int | None = listed.get(path)
        if not storage.is_remote(path):
            with suppress(FileNotFoundError, NotADirectoryError):
                found = storage.size(path)
        if found is None:
            raise DataError("A file of a dataset is missing", where=path, why="the manifest names it", remedy=RESTORE)
        if found != size:
            raise DataError(
                "A file of a dataset has the wrong size",
                where=path,
                why=f"{found} bytes instead of {size}",
                remedy=RESTORE,
            )


def file_checksum(path: str) -> str:
    """128-bit hash of a file's bytes."""
    hasher = hashlib.blake2b(digest_size=16)
    with storage.open_binary(path) as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def read_manifest(uri: str) -> Manifest | None:
    """The manifest of a dataset folder, or None where nothing is committed.

    Raises:
        DataError: it is there but damaged or edited.
    """
    path = storage.join(uri, MANIFEST)
    try:
        data = storage.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return manifest_from(data, path)


def manifest_from(data: Any, path: str) -> Manifest:
    """A manifest from its JSON value.

    Raises:
        DataError: it is damaged or was edited.
    """
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        raise DataError(
            "The manifest of a dataset is damaged",
            where=path,
            why=f"{error.error_count()} fields are not valid",
            remedy=RESTORE,
        ) from error
    sealed = manifest.format == UNSEALED_FORMAT or manifest.seal == _seal(data)
    if not sealed or manifest.digest != content_digest(manifest.tables, manifest.counters):
        raise DataError(
            "The manifest of a dataset was edited",
            where=path,
            why="its seal or digest does not match what it lists",
            remedy=RESTORE,
        )
    return manifest


def open_dataset(uri: str) -> Dataset:
    """A committed dataset; file sizes are checked.

    Raises:
        DataError: nothing is committed there, or it is damaged.
    """
    manifest = read_manifest(uri)
    if manifest is None:
        expired = _optional(storage.join(uri, EXPIRED))
        raise DataError(
            "No committed dataset here",
            where=uri,
            why=f"it passed its time to live at {expired['at']}" if expired else f"there is no {MANIFEST}",
            remedy="give the folder that a stage wrote (its --output), or run the stage first",
        )
    attempt, expired = _optional(storage.join(uri, ATTEMPT)), _optional(storage.join(uri, EXPIRED))
    dataset = Dataset(uri, manifest, attempt, expired if expired.get("attempt") == attempt.get("attempt") else {})
    dataset.verify()
    return dataset


def _optional(path: str) -> dict[str, Any]:
    try:
        value: dict[str, Any] = storage.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return value


def content_digest(tables: Mapping[str, Table], counters: Counters) -> str:
    """Identity of what a dataset says: rows and counters, without paths, layout, attempt or time."""
    return fingerprint(
        {
            "tables": {
                name: [[entry.rows, entry.digest, entry.bucket] for entry in table.files]
                for name, table in tables.items()
            },
            # bytes by reason say nothing that the rows of the tables do not
            "counters": counters.model_dump(exclude={"custom", "rejected_bytes", "quarantined_bytes"}),
        }
    )


def new_attempt() -> str:
    """A name for one try at writing a dataset."""
    return uuid.uuid4().hex[:16]


def commit(target: Target, manifest: Manifest, attempt: str, made_by: Mapping[str, Any]) -> tuple[Dataset, bool]:
    """Make a dataset visible. Of two writers one commits; the other gets the winner's dataset and False.

    Raises:
        TransientError: a file is gone before it was committed (such as by a clean-up that took this attempt for dead).
    """
    roots = {target.root(table.restricted) for table in manifest.tables.values()}
    expected = [
        (storage.join(target.root(table.restricted), entry.path), entry.bytes)
        for table in manifest.tables.values()
        for entry in table.files
    ]
    try:
        check_sizes(expected, roots)
    except DataError as error:
        if read_manifest(target.uri) is not None:
            return open_dataset(target.uri), False
        raise TransientError(
            "Files of this attempt are gone or damaged: nothing was committed",
            where=error.where,
            why=error.why,
            remedy="run the stage again; give `dataset gc --older-than` more days than a stage takes",
        ) from error
    data = storage.pretty_json(manifest.sealed().model_dump())
    created = storage.create_once(storage.join(target.uri, MANIFEST), data)
    if created:
        storage.write_json(storage.join(target.uri, ATTEMPT), _attempt_record(attempt, made_by))
    return open_dataset(target.uri), created


def _attempt_record(attempt: str, made_by: Mapping[str, Any]) -> dict[str, Any]:
    stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"attempt": attempt, "host": socket.gethostname(), "committed_at": stamp, **made_by}


def adopted(dataset: Dataset, made_by: Mapping[str, Any]) -> Dataset:
    """The dataset with a record of who made it: a writer that was killed between the commit and its record left none, and
    with it went the time to live; whoever finds it so vouches for it."""
    if dataset.attempt:
        return dataset
    storage.create_once(
        storage.join(dataset.uri, ATTEMPT), storage.pretty_json(_attempt_record(new_attempt(), made_by))
    )
    return open_dataset(dataset.uri)


@dataclass(frozen=True)
class Layout:
    """How rows lie in a Parquet file.

    Attributes:
        rows: of a row group.
        compression, level: the codec, and how hard it tries (None: as it does by itself).
        repeated: columns of few values, written by a dictionary.
        counted: columns of whole numbers, written by their differences (Parquet's DELTA_BINARY_PACKED).
        bounds: columns whose least and greatest values are kept for each row group; None: all.
    """

    rows: int = 4096
    compression: str = "zstd"
    level: int | None = None
    repeated: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()
    bounds: tuple[str, ...] | None = None


TEXTS = Layout()
HASHES = Layout(rows=65_536, compression="none")
"""Hashes do not compress, and their rows are small."""


class TableWriter:
    """Writes one Parquet file of a table, streamed; `close` gives its manifest entry.

    Bytes depend on the rows alone: rows are regrouped to fixed row groups, layout and schema are fixed.
    """

    def __init__(
        self, root: str, path: str, schema: pa.Schema, bucket: int | None = None, layout: Layout = TEXTS
    ) -> None:
        self._root, self._path, self._schema, self._bucket = root, path, schema, bucket
        self._hasher = ContentHasher()
        self._group = layout.rows
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = self._rows = self._text_bytes = 0
        self._uri = storage.join(root, path)
        self._temporary = storage.temporary_for(self._uri)
        with storage.explained(self._uri):
            self._writer = pq.ParquetWriter(
                self._temporary,
                schema,
                compression=layout.compression,
                compression_level=layout.level,
                use_dictionary=list(layout.repeated) or False,
                column_encoding=dict.fromkeys(layout.counted, "DELTA_BINARY_PACKED") or None,
                write_statistics=True if layout.bounds is None else list(layout.bounds),
                store_schema=True,
            )

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows; the batch has the writer's columns."""
        if batch.num_rows == 0:
            return
        batch = batch.select(self._schema.names).cast(self._schema)
        self._rows += batch.num_rows
        if "text" in self._schema.names:
            import pyarrow.compute as pc

            self._text_bytes += int(pc.sum(pc.binary_length(batch.column("text"))).as_py() or 0)
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        while self._pending_rows >= self._group:
            self._flush(self._group)

    def _flush(self, rows: int) -> None:
        table = pa.Table.from_batches(self._pending, self._schema)
        head = table.slice(0, rows).combine_chunks()
        self._hasher.update(head)
        with storage.explained(self._uri):
            self._writer.write_table(head, row_group_size=self._group)
        rest = table.slice(rows)
        self._pending, self._pending_rows = rest.to_batches(), rest.num_rows

    def close(self) -> FileEntry:
        """Finish the file, give it its name, and describe it."""
        if self._pending_rows:
            self._flush(self._pending_rows)
        with storage.explained(self._uri):
            self._writer.close()
        size, checksum = os.path.getsize(self._temporary), file_checksum(self._temporary)
        storage.install(self._temporary, self._uri, checksum)
        return FileEntry(
            path=self._path,
            rows=self._rows,
            bytes=size,
            checksum=checksum,
            digest=self._hasher.hexdigest(),
            bucket=self._bucket,
            text_bytes=self._text_bytes,
        )

    def abandon(self) -> None:
        """Close and remove what was written; the reason for it is on its way, and a full disk fails here again."""
        with suppress(OSError, pa.ArrowException):
            self._writer.close()
        Path(self._temporary).unlink(missing_ok=True)


@contextmanager
def abandoned_on_error(*writers: TableWriter) -> Iterator[None]:
    """A block that writes: when it fails, nothing half-written stays behind."""
    try:
        yield
    except BaseException:
        for writer in writers:
            writer.abandon()
        raise


def write_table(root: str, path: str, table: pa.Table, bucket: int | None = None, layout: Layout = TEXTS) -> FileEntry:
    """One Parquet file from a table in memory."""
    writer = TableWriter(root, path, table.schema, bucket, layout)
    with abandoned_on_error(writer):
        for batch in table.to_batches():
            writer.write(batch)
        return writer.close()


def plain_file_entry(root: str, path: str, rows: int = 0) -> FileEntry:
    """A manifest entry for a file that is not Parquet (a tokenizer, a shard, a figure)."""
    full = storage.join(root, path)
    checksum = file_checksum(full)
    return FileEntry(path=path, rows=rows, bytes=storage.size(full), checksum=checksum, digest=checksum)
