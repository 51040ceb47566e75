"""Second half of serializing: runs are merged into Megatron shards in the training order, with the way back to each document.

A shard holds the documents whose first token lies in its stretch of the whole corpus, so every shard can be written by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.manifest import FileEntry
from hyperclova_core.foundation.datasets.parquet_writer import Layout, TableWriter, abandoned_on_error
from hyperclova_core.foundation.errors import TransientError
from hyperclova_core.foundation.stages.kinds import StageContext
from hyperclova_core.foundation.stages.units import UnitResult, WorkUnit
from hyperclova_core.tokens.serialize.megatron_format import ShardWriter
from hyperclova_core.tokens.serialize.staging import ROWS_A_BATCH, STAGED_SCHEMA, StagedRun, place_rows, unpacked
from hyperclova_core.tokens.special_tokens import id_type

WINDOW_TOKENS = 1 << 21
"""Ids that are put into order at once."""
PROVENANCE_SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("content_hash", pa.string()),
        ("copy", pa.int32()),
        ("shard", pa.string()),
        ("document", pa.int64()),
        ("first_token", pa.int64()),
        ("tokens", pa.int64()),
        ("bytes", pa.int64()),
    ]
)
"""Which document lies where: `first_token` counts from the start of the shard, `tokens` includes the end-of-document."""
PROVENANCE_LAYOUT = Layout(
    rows=1 << 16,
    level=1,
    repeated=("source", "shard"),
    counted=("document", "first_token", "tokens", "bytes"),
    bounds=("document", "first_token"),
)


@dataclass
class _Run:
    """The part of a run that goes into a shard: rows by key, and where their ids lie in the file."""

    ids: Any
    rows: pa.Table
    lengths: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    first: int
    places: npt.NDArray[np.int64]


class ShardUnit(WorkUnit):
    """A shard to write; `start`, `end` and `before` count the tokens of the split in the training order."""

    name: str
    split: str
    low: int = Field(description="first range of the training order that it is cut from")
    high: int = Field(description="last range")
    before: int = Field(description="tokens before the first range")
    start: int = Field(description="where its stretch of the corpus begins")
    end: int = Field(description="where its stretch ends")
    window: int = Field(description="tokens of a window of the check on the order")


class WrittenShard(UnitResult):
    """A shard that was written; one without documents has no files."""

    name: str
    split: str
    prefix: str = Field("", description="its path relative to the output, without .bin")
    documents: int = 0
    tokens: int = 0
    bytes: int = Field(0, description="UTF-8 bytes of its documents' texts")
    leaves: dict[str, int] = Field(default_factory=dict, description="leaf → tokens")
    windows: dict[int, dict[str, int]] = Field(default_factory=dict, description="window → leaf → tokens")
    shards: tuple[FileEntry, ...] = Field((), description=".bin and .idx")
    provenance: FileEntry | None = None


def write_shard(unit: ShardUnit, *, index: str, vocabulary: int, context: StageContext) -> WrittenShard:
    """Write one shard with its provenance.

    Args:
        index: file with all runs.
    """
    name, root = unit.name, context.target.root(False)
    prefix = f"{context.attempt_path}/shards/{name}"
    runs, first, positions = _merged(index, unit, id_type(vocabulary))
    if not runs:  # a document that is longer than a stretch leaves the next one empty: there is no shard of that number
        return WrittenShard(name=name, split=unit.split)
    provenance = TableWriter(root, f"{prefix}.provenance.parquet", PROVENANCE_SCHEMA, layout=PROVENANCE_LAYOUT)
    windows: dict[int, dict[str, int]] = {}
    by_leaf: dict[str, int] = {}
    documents = size = 0
    with abandoned_on_error(provenance), ShardWriter(storage.join(root, prefix), vocabulary) as writer:
        for ids, lengths, rows in _windows(runs, positions, id_type(vocabulary)):
            starts = writer.tokens + np.cumsum(lengths) - lengths
            writer.add_many(ids, lengths)
            count = len(lengths)
            provenance.write(
                pa.RecordBatch.from_arrays(
                    [
                        *(_column(rows, column) for column in ("doc_id", "source", "content_hash", "copy")),
                        pa.repeat(pa.scalar(name), count),
                        pa.array(np.arange(documents, documents + count)),
                        pa.array(starts),
                        pa.array(lengths),
                        _column(rows, "bytes"),
                    ],
                    schema=PROVENANCE_SCHEMA,
                )
            )
            documents += count
            size += int(rows.column("bytes").to_numpy().sum())
            _tally(rows.column("leaf"), lengths, (first + starts) // unit.window, by_leaf, windows)
        provenance_entry = provenance.close()
    shards = writer.entries(root, prefix, documents)
    return WrittenShard(
        files=tuple(storage.join(root, entry.path) for entry in (*shards, provenance_entry)),
        name=name,
        split=unit.split,
        prefix=prefix,
        documents=documents,
        tokens=writer.tokens,
        bytes=size,
        leaves=by_leaf,
        windows=windows,
        shards=tuple(shards),
        provenance=provenance_entry,
    )


def _column(rows: pa.Table, name: str) -> pa.Array:
    column = rows.column(name).combine_chunks()
    return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column


def _merged(index: str, unit: ShardUnit, dtype: Any) -> tuple[list[_Run], int, npt.NDArray[np.int64]]:
    """The runs cut to what is this shard's, its first token in the corpus, and the tokens before each document in it (and all)."""
    low, high = unit.low, unit.high
    parts: list[tuple[StagedRun, int, int, int]] = []
    for run in (StagedRun.model_validate(said) for said in storage.read_json(index)):
        if run.split != unit.split:
            continue
        documents, tokens = unpacked(run.documents), unpacked(run.tokens)
        at, rows = int(documents[:low].sum()), int(documents[low : high + 1].sum())
        if rows:
            parts.append((run, at, rows, int(tokens[:low].sum())))
    if not parts:
        return [], unit.start, np.zeros(1, np.int64)
    tables = [_rows(run.rows, first, rows) for run, first, rows, _ in parts]
    keys = np.concatenate([table.column("key").to_numpy() for table in tables])
    lengths = np.concatenate([table.column("tokens").to_numpy() for table in tables])
    order = np.argsort(keys, kind="stable")  # runs follow the buckets, so equal keys stay in the order of doc_id
    ordered = lengths[order]
    starts = unit.before + np.cumsum(ordered) - ordered
    inside = (starts >= unit.start) & (starts < unit.end)
    if not inside.any():
        return [], unit.start, np.zeros(1, np.int64)
    place = np.full(len(order), -1, np.int64)
    place[order[inside]] = np.arange(int(inside.sum()))
    runs, at = [], 0
    for (run, _, rows, before), table in zip(parts, tables, strict=True):
        mine = place[at : at + rows]
        chosen = np.flatnonzero(mine >= 0)  # one stretch: rows are by key
        at += rows
        if not len(chosen):
            continue
        sizes = table.column("tokens").to_numpy()
        cut = slice(int(chosen[0]), int(chosen[-1]) + 1)
        ends = np.cumsum(sizes[cut])
        first = before + int(sizes[: cut.start].sum())
        rows_cut = table.slice(cut.start, cut.stop - cut.start)
        runs.append(_Run(_ids(run, dtype), rows_cut, sizes[cut], ends, first, mine[cut]))
    inner = ordered[inside]
    return runs, int(starts[inside][0]), np.concatenate([[0], np.cumsum(inner)])


def _rows(path: str, first: int, count: int) -> pa.Table:
    """Some rows of a run: of its batches, `ROWS_A_BATCH` rows each, only those that hold them are read."""
    source = storage.open_ranges(path) if storage.is_remote(path) else pa.memory_map(str(storage.local_path(path)))
    with pa.ipc.open_file(source) as reader:
        low, high = first // ROWS_A_BATCH, (first + count - 1) // ROWS_A_BATCH
        batches = [reader.get_batch(number) for number in range(low, high + 1)]
    return pa.Table.from_batches(batches, STAGED_SCHEMA).slice(first - low * ROWS_A_BATCH, count)


def _ids(run: StagedRun, dtype: Any) -> Any:
    """The ids of a run.

    Raises:
        TransientError: some are lacking, because a machine stopped before they were on its disk.
    """
    path, size = run.ids, int(unpacked(run.tokens).sum()) * np.dtype(dtype).itemsize
    if storage.size(path) != size:
        raise TransientError(
            "A staged run of token ids is not whole",
            where=path,
            why=f"{storage.size(path)} bytes instead of {size}",
            remedy="run again: its unit is encoded anew",
        )
    if not storage.is_remote(path):
        return np.memmap(storage.local_path(path), dtype, "r")
    return storage.open_ranges(path)


def _read(ids: Any, first: int, count: int, dtype: Any) -> npt.NDArray[Any]:
    """Ids of a run, from disk or a range of an object."""
    if isinstance(ids, np.ndarray):
        return np.asarray(ids[first : first + count])
    width = np.dtype(dtype).itemsize
    ids.seek(first * width)
    return np.frombuffer(ids.read(count * width), dtype)


def _windows(
    runs: list[_Run], positions: npt.NDArray[np.int64], dtype: Any
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.int64], pa.Table]]:
    """(ids, length of each document, their rows) of stretches of the shard, in order."""
    total, row = len(positions) - 1, 0
    while row < total:
        last = max(row + 1, int(np.searchsorted(positions, positions[row] + WINDOW_TOKENS, side="right")) - 1)
        base = positions[row]
        out = np.empty(int(positions[last] - base), dtype)
        tables, where = [], []
        for run in runs:
            low, high = np.searchsorted(run.places, [row, last])
            if low == high:
                continue
            start = int(run.ends[low] - run.lengths[low])
            source = _read(run.ids, run.first + start, int(run.ends[high - 1]) - start, dtype)
            lengths = run.lengths[low:high]
            place_rows(source, np.cumsum(lengths) - lengths, lengths, out, positions[run.places[low:high]] - base)
            tables.append(run.rows.slice(low, high - low))
            where.append(run.places[low:high])
        order = np.argsort(np.concatenate(where), kind="stable")
        yield out, np.diff(positions[row : last + 1]), pa.concat_tables(tables).combine_chunks().take(pa.array(order))
        row = last


def _tally(
    leaves: pa.ChunkedArray,
    lengths: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    by_leaf: dict[str, int],
    windows: dict[int, dict[str, int]],
) -> None:
    table = pa.table({"leaf": leaves, "window": pa.array(places), "tokens": pa.array(lengths)})
    for row in table.group_by(["leaf", "window"]).aggregate([("tokens", "sum")]).to_pylist():
        by_leaf[row["leaf"]] = by_leaf.get(row["leaf"], 0) + row["tokens_sum"]
        window = windows.setdefault(row["window"], {})
        window[row["leaf"]] = window.get(row["leaf"], 0) + row["tokens_sum"]
