"""Writing a table's files: Parquet with checksums and a digest over rows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.manifest import FileEntry, file_checksum
from hyperclova_core.foundation.hashing import ContentHasher


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


PLAN = Layout(rows=1024)
"""Lists of which each task reads its own part."""


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
