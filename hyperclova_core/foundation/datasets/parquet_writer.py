"""Writing a table's files: Parquet with checksums and a digest over rows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
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


GROUP_BYTES = 64 << 20
"""Text of a row group, at most, but for its last document: 4,096 documents of a megabyte would be 4 GB of memory in every task."""
PLAN = Layout(rows=1024)
"""Lists of which each task reads its own part."""


class TableWriter:
    """Writes one Parquet file of a table, streamed; `close` gives its manifest entry.

    Bytes depend on the rows alone: rows are regrouped to row groups of the layout's rows, or fewer where they hold `GROUP_BYTES` of text
    before; layout and schema are fixed. So much is in memory, however long documents are.
    """

    def __init__(
        self, root: str, path: str, schema: pa.Schema, bucket: int | None = None, layout: Layout = TEXTS
    ) -> None:
        self._root, self._path, self._schema, self._bucket = root, path, schema, bucket
        self._hasher = ContentHasher()
        self._group = layout.rows
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = self._pending_bytes = self._rows = self._text_bytes = 0
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
        sizes = np.zeros(batch.num_rows, np.int64)
        if "text" in self._schema.names:
            lengths = pc.fill_null(pc.binary_length(batch.column("text")), 0)
            sizes = lengths.to_numpy(zero_copy_only=False).astype(np.int64)
            self._text_bytes += int(sizes.sum())
        start = 0
        while start < batch.num_rows:
            room = self._group - self._pending_rows
            held = self._pending_bytes + np.cumsum(sizes[start : start + room])
            count = min(len(held), int(np.searchsorted(held, GROUP_BYTES)) + 1)
            self._pending.append(batch.slice(start, count))
            self._pending_rows += count
            self._pending_bytes = int(held[count - 1])
            start += count
            if self._pending_rows == self._group or self._pending_bytes >= GROUP_BYTES:
                self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._pending, self._schema).combine_chunks()
        self._hasher.update(table)
        with storage.explained(self._uri):
            self._writer.write_table(table, row_group_size=self._group)
        self._pending, self._pending_rows, self._pending_bytes = [], 0, 0

    def close(self) -> FileEntry:
        """Finish the file, give it its name, and describe it."""
        if self._pending_rows:
            self._flush()
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
