"""Runs: encoded documents of one split, sorted by the training order, as two files: token ids, and a row a document.

What a run holds of each range of the training order, and of each leaf, is said in the metadata of its rows' file: whoever opens it can read
its own stretch alone, and nobody passes these sums around. Local files are opened for each read, so that a thousand runs need no thousand
file descriptors.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import TransientError
from hyperclova_core.foundation.jit import compiled
from hyperclova_core.foundation.records import Record

RANGES = 1024
"""Parts of the training order that runs keep sums of: a shard is put together from whole ranges, and pieces of two."""
ROWS_A_BATCH = 1024
"""Rows of a run that are read at once: a shard wants few of each run, where there are many."""
WINDOW_TOKENS = 1 << 21
"""Ids that are put into order at once."""
REMOTE_WINDOW_TOKENS = 1 << 25
"""The same where each piece of a run costs a request."""
READS_AT_ONCE = 16
STAGED_SCHEMA = pa.schema(
    [
        ("key", pa.uint64()),
        ("tokens", pa.int64()),
        ("doc_id", pa.string()),
        ("copy", pa.int32()),
        ("source", pa.string()),
        ("leaf", pa.string()),
        ("content_hash", pa.string()),
        ("bytes", pa.int64()),
    ]
)
LeafSums = dict[str, tuple[int, int, int]]
"""Leaf → tokens, sum of squares of tokens, most tokens of a document; whole numbers, so that sums of sums are the same in any order."""
Window = tuple[npt.NDArray[Any], npt.NDArray[np.int64], pa.Table]


class StagedRun(Record):
    """A run's files."""

    split: str
    ids: str = Field(description="file of the ids")
    rows: str = Field(description="file of STAGED_SCHEMA, a row a document, in the same order")


@dataclass(frozen=True)
class RunSums:
    """What a run holds: tokens and documents of each range of the training order, each of shape (RANGES,), and sums by leaf."""

    tokens: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int64]
    leaves: LeafSums

    def to_metadata(self) -> dict[str, str]:
        """As the metadata of a file: packed, for most of its numbers are small."""
        return {"tokens": _packed(self.tokens), "documents": _packed(self.documents), "leaves": json.dumps(self.leaves)}

    @staticmethod
    def from_metadata(metadata: Mapping[bytes, bytes]) -> RunSums:
        """What `to_metadata` said."""
        leaves = {name: (int(a), int(b), int(c)) for name, (a, b, c) in json.loads(metadata[b"leaves"]).items()}
        return RunSums(_unpacked(metadata[b"tokens"]), _unpacked(metadata[b"documents"]), leaves)


def range_of(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """The part of the training order that a key lies in."""
    return (keys >> np.uint64(54)).astype(np.int64)


def total(sums: Sequence[RunSums]) -> RunSums:
    """Of several runs together."""
    leaves: LeafSums = {}
    for one in sums:
        for leaf, (size, squares, most) in one.leaves.items():
            before = leaves.get(leaf, (0, 0, 0))
            leaves[leaf] = (before[0] + size, before[1] + squares, max(before[2], most))
    tokens, documents = np.zeros(RANGES, np.int64), np.zeros(RANGES, np.int64)
    for one in sums:
        tokens += one.tokens
        documents += one.documents
    return RunSums(tokens, documents, leaves)


@compiled()
def place_rows(source, starts, lengths, target, places):  # type: ignore[no-untyped-def]
    """Copy rows of ids to their places."""
    for row in range(len(starts)):
        # unsigned, so no index may count from the end, and many ids are copied at once
        start, place = np.uint64(starts[row]), np.uint64(places[row])
        for at in range(np.uint64(lengths[row])):
            target[place + at] = source[start + at]


class RunWriter:
    """Writes a run whose sums are known before.

    Args:
        path: without suffix; durable: whether its files are synced.
    """

    def __init__(self, path: str, split: str, sums: RunSums, durable: bool) -> None:
        self.run = StagedRun(split=split, ids=f"{path}.ids", rows=f"{path}.rows")
        self._sums, self._durable, self._stack = sums, durable, ExitStack()
        self._waiting: list[pa.Table] = []

    def __enter__(self) -> RunWriter:
        with ExitStack() as stack:
            ids = stack.enter_context(storage.replacing(self.run.ids, self._durable))
            rows = stack.enter_context(storage.replacing(self.run.rows, self._durable))
            self._file: IO[bytes] = stack.enter_context(open(ids, "wb"))
            sink = stack.enter_context(pa.OSFile(rows, "wb"))
            schema = STAGED_SCHEMA.with_metadata(self._sums.to_metadata())
            self._rows = stack.enter_context(pa.ipc.new_file(sink, schema))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:  # what fails here is explained, and cleared away, as what failed before
            if error is not None:
                raise error
            self._put_down(0)

    def write(self, ids: npt.NDArray[Any], rows: pa.Table) -> None:
        """Documents that follow those before: their ids one behind the other, and their rows (STAGED_SCHEMA)."""
        self._file.write(np.ascontiguousarray(ids).view(np.uint8).data)
        self._waiting.append(rows)
        self._put_down(ROWS_A_BATCH)

    def _put_down(self, least: int) -> None:
        """Whole batches, of which a reader can tell the place of a row; what is left waits, unless it is the end."""
        rows = pa.concat_tables(self._waiting) if self._waiting else STAGED_SCHEMA.empty_table()
        if rows.num_rows < max(1, least):
            return
        count = rows.num_rows - rows.num_rows % ROWS_A_BATCH if least else rows.num_rows
        whole = rows.slice(0, count).replace_schema_metadata(None).combine_chunks()
        self._rows.write_table(whole, max_chunksize=ROWS_A_BATCH)
        self._waiting = [rows.slice(count)] if count < rows.num_rows else []


class OpenRun:
    """A run for reading: its sums, and stretches of its rows and ids.

    Raises:
        TransientError: ids are lacking, because a machine stopped before they were on its disk.
    """

    def __init__(self, run: StagedRun, dtype: Any) -> None:
        self.run, self._dtype = run, np.dtype(dtype)
        self._remote = storage.is_remote(run.rows)
        self._held = pa.ipc.open_file(storage.open_ranges(run.rows)) if self._remote else None
        with self._reader() as reader:
            self.sums = RunSums.from_metadata(reader.schema.metadata)
        size, there = int(self.sums.tokens.sum()) * self._dtype.itemsize, storage.size(run.ids)
        if there != size:
            raise TransientError(
                "A staged run of token ids is not whole",
                where=run.ids,
                why=f"{there} bytes instead of {size}",
                remedy="run again: its unit is encoded anew",
            )
        self._ids = storage.open_ranges(run.ids) if self._remote else None

    @contextmanager
    def _reader(self) -> Iterator[Any]:
        if self._held is not None:
            yield self._held
            return
        with pa.ipc.open_file(pa.memory_map(str(storage.local_path(self.run.rows)))) as reader:
            yield reader

    def rows(self, first: int, count: int) -> pa.Table:
        """Some rows: of the batches, `ROWS_A_BATCH` rows each, only those that hold them are read."""
        low, high = first // ROWS_A_BATCH, (first + count - 1) // ROWS_A_BATCH
        with self._reader() as reader:
            batches = [reader.get_batch(number) for number in range(low, high + 1)]
        table = pa.Table.from_batches(batches).replace_schema_metadata(None)
        return table.slice(first - low * ROWS_A_BATCH, count)

    def ids(self, first: int, count: int) -> npt.NDArray[Any]:
        """Some ids, of a local file or by a request for just these bytes."""
        width = self._dtype.itemsize
        if self._ids is None:
            return np.fromfile(storage.local_path(self.run.ids), self._dtype, count, offset=first * width)
        self._ids.seek(first * width)
        return np.frombuffer(self._ids.read(count * width), self._dtype)


@dataclass
class Slice:
    """The part of a run that is asked for: rows by key, where their ids lie in the file, and their places among those of all runs."""

    run: OpenRun
    rows: pa.Table
    lengths: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    first: int
    places: npt.NDArray[np.int64]


def opened(runs: Sequence[StagedRun], dtype: Any) -> list[OpenRun]:
    """Runs for reading, opened side by side where they lie in an object store."""
    with ThreadPoolExecutor(READS_AT_ONCE if any(storage.is_remote(run.rows) for run in runs) else 1) as pool:
        return list(pool.map(lambda run: OpenRun(run, dtype), runs))


def slices_of(
    runs: Sequence[OpenRun], ranges: tuple[int, int], before: int, stretch: tuple[int, int]
) -> tuple[list[Slice], int, npt.NDArray[np.int64]]:
    """Runs cut to the documents that begin in a stretch of the split.

    Args:
        ranges: first and last range of the training order that it is cut from; before: tokens before the first of them.
        stretch: first token, and the one behind the last.

    Returns:
        the parts, the first token of the first document, and the tokens before each document (and all), from there.
    """
    low, high = ranges
    parts: list[tuple[OpenRun, int, int, int]] = []
    for run in runs:
        documents, tokens = run.sums.documents, run.sums.tokens
        rows = int(documents[low : high + 1].sum())
        if rows:
            parts.append((run, int(documents[:low].sum()), rows, int(tokens[:low].sum())))
    if not parts:
        return [], stretch[0], np.zeros(1, np.int64)
    with ThreadPoolExecutor(READS_AT_ONCE if parts[0][0]._remote else 1) as pool:
        tables = list(pool.map(lambda part: part[0].rows(part[1], part[2]), parts))
    keys = np.concatenate([table.column("key").to_numpy() for table in tables])
    lengths = np.concatenate([table.column("tokens").to_numpy() for table in tables])
    order = np.argsort(keys, kind="stable")  # runs follow the buckets, so equal keys stay in the order of doc_id
    ordered = lengths[order]
    starts = before + np.cumsum(ordered) - ordered
    inside = (starts >= stretch[0]) & (starts < stretch[1])
    if not inside.any():
        return [], stretch[0], np.zeros(1, np.int64)
    place = np.full(len(order), -1, np.int64)
    place[order[inside]] = np.arange(int(inside.sum()))
    slices, at = [], 0
    for (run, _, rows, tokens_before), table in zip(parts, tables, strict=True):
        mine = place[at : at + rows]
        chosen = np.flatnonzero(mine >= 0)  # one stretch: rows are by key
        at += rows
        if not len(chosen):
            continue
        sizes = table.column("tokens").to_numpy()
        cut = slice(int(chosen[0]), int(chosen[-1]) + 1)
        ends = np.cumsum(sizes[cut])
        first = tokens_before + int(sizes[: cut.start].sum())
        slices.append(Slice(run, table.slice(cut.start, cut.stop - cut.start), sizes[cut], ends, first, mine[cut]))
    return slices, int(starts[inside][0]), np.concatenate([[0], np.cumsum(ordered[inside])])


def windows(slices: Sequence[Slice], positions: npt.NDArray[np.int64], dtype: Any) -> Iterator[Window]:
    """(ids, length of each document, their rows) of stretches of what slices hold together, in order."""
    remote = bool(slices) and slices[0].run._remote
    size = REMOTE_WINDOW_TOKENS if remote else WINDOW_TOKENS
    total_rows, row = len(positions) - 1, 0
    with ThreadPoolExecutor(READS_AT_ONCE if remote else 1) as pool:
        while row < total_rows:
            last = max(row + 1, int(np.searchsorted(positions, positions[row] + size, side="right")) - 1)
            base = positions[row]
            out = np.empty(int(positions[last] - base), dtype)
            wanted = []
            for part in slices:
                low, high = np.searchsorted(part.places, [row, last])
                if low != high:
                    wanted.append((part, int(low), int(high)))
            read = pool.map(_ids_of, wanted) if remote else map(_ids_of, wanted)
            for (part, low, high), source in zip(wanted, read, strict=True):
                lengths = part.lengths[low:high]
                place_rows(source, np.cumsum(lengths) - lengths, lengths, out, positions[part.places[low:high]] - base)
            where = np.concatenate([part.places[low:high] for part, low, high in wanted])
            rows = pa.concat_tables([part.rows.slice(low, high - low) for part, low, high in wanted])
            order = np.argsort(where, kind="stable")
            yield out, np.diff(positions[row : last + 1]), rows.combine_chunks().take(pa.array(order))
            row = last


def _ids_of(wanted: tuple[Slice, int, int]) -> npt.NDArray[Any]:
    part, low, high = wanted
    start = int(part.ends[low] - part.lengths[low])
    return part.run.ids(part.first + start, int(part.ends[high - 1]) - start)


def _packed(numbers: npt.NDArray[np.int64]) -> str:
    return base64.b64encode(zlib.compress(numbers.astype("<i8").tobytes(), 1)).decode("ascii")


def _unpacked(text: bytes) -> npt.NDArray[np.int64]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i8").astype(np.int64)
