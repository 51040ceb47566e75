"""Rows from many files to many buckets, so that neither opens nor payloads grow with files × buckets.

Buckets are worked on in ranges. Few files are read by every range. Of many, groups of about √files are regrouped first: a group
leaves one file a range (a cell), and each range then reads its own cells alone: F + 2 √F √B + B opens in all, for F files and B
buckets. Which files a range reads lies in one object beside the output; a unit of work names that object and its range.

Rows need a `doc_id`, whose leading bits are the bucket. What a range reads may come in any order: whoever gathers it, sorts.
"""

from __future__ import annotations

import shutil
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.document_schema import bucket_of
from hyperclova_core.foundation.datasets.parquet_writer import PLAN, write_table
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.foundation.stages.kinds import StageContext
from hyperclova_core.foundation.stages.units import UnitResult, WorkUnit
from hyperclova_core.foundation.stages.work_units import run_units

DIRECT_FILES = 32
"""So many files are read by every range, without a level between."""
LEAST_RANGES = 64
"""Up to so many buckets are ranges of their own."""
HELD_BYTES = 256 << 20
"""Rows that a task holds before it writes them down."""
EVERY_RANGE = -1
READ_ROWS = 1024
_PLAN_SCHEMA = pa.schema([("range", pa.int32()), ("path", pa.string())])


@dataclass(frozen=True)
class Exchange:
    """Rows that wait to be gathered.

    Attributes:
        plan: address of the object that says which files each range reads.
        identity: of all rows: what is made of a range depends on it.
        ranges: a power of two, up to `buckets`.
        taken_over: units of the first level that an earlier attempt had finished.
    """

    plan: str
    identity: str
    ranges: int
    buckets: int
    taken_over: int = 0

    def units(self) -> list[RangeUnit]:
        """The work that gathers the rows, a unit a range."""
        return [
            RangeUnit(
                identity={"rows": self.identity, "range": number, "ranges": self.ranges, "buckets": self.buckets},
                plan=self.plan,
                number=number,
                ranges=self.ranges,
                buckets=self.buckets,
            )
            for number in range(self.ranges)
        ]


class RangeUnit(WorkUnit):
    """A range of buckets; which files it reads is in the plan."""

    plan: str
    number: int
    ranges: int
    buckets: int


class _GroupUnit(WorkUnit):
    """Some files, in the order of the plan, that are regrouped by range."""

    plan: str
    first: int
    count: int
    ranges: int
    index: int


class _Cells(UnitResult):
    """The cells of a group; they are its files, in this order."""

    numbers: tuple[int, ...] = Field(description="the range of each cell")


def ranges_of(buckets: int) -> int:
    """How many ranges buckets are worked on in: about their square root, where they are many."""
    if buckets <= LEAST_RANGES:
        return buckets
    return max(LEAST_RANGES, 1 << -(-(buckets.bit_length() - 1) // 2))


def exchange(
    context: StageContext, files: Sequence[tuple[str, str]], schema: pa.Schema, buckets: int, name: str
) -> Exchange:
    """Prepare that rows of files are gathered by ranges of buckets.

    Args:
        files: (address, digest of its rows) of Parquet files with the columns of `schema`, `doc_id` among them.
        name: of the folder beside the output where the level between is written.
    """
    ranges, identity = ranges_of(buckets), fingerprint([digest for _, digest in files])
    folder = f"{context.attempt_path}/exchange-{name}"
    if len(files) <= DIRECT_FILES:
        rows = [(EVERY_RANGE, path) for path, _ in files]
        return Exchange(_write_plan(context, f"{folder}/plan.parquet", rows), identity, ranges, buckets)
    listed = _write_plan(context, f"{folder}/files.parquet", [(EVERY_RANGE, path) for path, _ in files])
    size = max(DIRECT_FILES, int(np.ceil(np.sqrt(len(files)))))
    units = [
        _GroupUnit(
            identity={"rows": fingerprint([digest for _, digest in files[first : first + size]]), "ranges": ranges},
            plan=listed,
            first=first,
            count=min(size, len(files) - first),
            ranges=ranges,
            index=index,
        )
        for index, first in enumerate(range(0, len(files), size))
    ]
    work = partial(_regroup_unit, schema=schema, folder=folder, context=context.for_workers())
    groups, taken = run_units(context, work, units, f"regroup-{name}", _Cells)
    cells = [cell for group in groups for cell in zip(group.numbers, group.files, strict=True)]
    context.scrap.files.extend(path for _, path in cells)
    plan = _write_plan(context, f"{folder}/plan.parquet", sorted(cells))
    return Exchange(plan, identity, ranges, buckets, taken)


def _write_plan(context: StageContext, path: str, rows: Sequence[tuple[int, str]]) -> str:
    root = context.target.root(True)
    numbers, paths = [number for number, _ in rows], [path for _, path in rows]
    table = pa.table([pa.array(numbers, pa.int32()), pa.array(paths, pa.string())], schema=_PLAN_SCHEMA)
    write_table(root, path, table, layout=PLAN)
    address = storage.join(root, path)
    context.scrap.files.append(address)
    return address


def _regroup_unit(unit: _GroupUnit, *, schema: pa.Schema, folder: str, context: StageContext) -> _Cells:
    paths = storage.read_rows(unit.plan, unit.first, unit.count).column("path").to_pylist()
    root = context.target.root(True)
    held: defaultdict[int, list[pa.RecordBatch]] = defaultdict(list)
    cells: dict[int, str] = {}
    writers: dict[int, pq.ParquetWriter] = {}
    size = 0
    with ExitStack() as stack:

        def write_down() -> None:
            for number, batches in held.items():
                if number not in writers:
                    cells[number] = storage.join(root, f"{folder}/group-{unit.index:05d}/range-{number:05d}.parquet")
                    temporary = stack.enter_context(storage.replacing(cells[number]))
                    writers[number] = stack.enter_context(pq.ParquetWriter(temporary, schema, compression="lz4"))
                writers[number].write_table(pa.Table.from_batches(batches))
            held.clear()

        for path in paths:
            for batch in _batches(path, schema):
                for number, part in _parts(batch, unit.ranges):
                    held[number].append(part)
                size += batch.nbytes
                if size > HELD_BYTES:
                    write_down()
                    size = 0
        write_down()
    ordered = sorted(cells.items())
    return _Cells(files=tuple(path for _, path in ordered), numbers=tuple(number for number, _ in ordered))


def buckets_of(unit: RangeUnit, schema: pa.Schema) -> Iterator[tuple[int, pa.Table]]:
    """(bucket, its rows in no order) of all buckets of a range, one after the other; besides that one, `HELD_BYTES` of rows are in memory."""
    wanted = [("range", "in", [EVERY_RANGE, unit.number])]
    paths = storage.read_parquet(unit.plan, filters=wanted).column("path").to_pylist()
    share = unit.buckets // unit.ranges
    width = (1 << 32) // unit.ranges
    low, high = f"{unit.number * width:08x}", f"{(unit.number + 1) * width - 1:08x}g"  # no digit is above f
    spill = _Spill(schema)
    try:
        for path in paths:
            for batch in _batches(path, schema, low, high):
                for bucket, part in _parts(batch, unit.buckets):
                    spill.add(bucket, part)
        for bucket in range(unit.number * share, (unit.number + 1) * share):
            yield bucket, spill.take(bucket)
    finally:
        spill.close()


def _batches(path: str, schema: pa.Schema, low: str = "", high: str = "g") -> Iterator[pa.RecordBatch]:
    """The rows whose ids lie between; row groups that hold none are not read."""
    with storage.open_parquet(path) as file:
        at = file.schema_arrow.get_field_index("doc_id")
        for number in range(file.num_row_groups):
            limits = file.metadata.row_group(number).column(at).statistics
            if limits is not None and limits.has_min_max and (limits.max < low or limits.min > high):
                continue
            for batch in file.iter_batches(batch_size=READ_ROWS, row_groups=[number], columns=schema.names):
                rows = batch.select(schema.names).cast(schema)
                ids = rows.column("doc_id").to_pylist()
                if ids and min(ids) >= low and max(ids) <= high:
                    yield rows
                else:
                    yield rows.filter(pa.array([low <= name <= high for name in ids], pa.bool_()))


def _parts(batch: pa.RecordBatch, parts: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """A batch cut by the part that each row lies in."""
    numbers = np.array([bucket_of(name, parts) for name in batch.column("doc_id").to_pylist()], np.int64)
    for number in np.unique(numbers).tolist():
        mine = np.flatnonzero(numbers == number)
        if mine[-1] - mine[0] + 1 == len(mine):  # sorted rows: no copy
            yield number, batch.slice(int(mine[0]), len(mine))
        else:
            yield number, batch.take(pa.array(mine))


class _Spill:
    """Rows by bucket, in memory as long as they are few, else in files of this machine."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._held: defaultdict[int, list[pa.RecordBatch]] = defaultdict(list)
        self._writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
        self._folder: str | None = None
        self._size = 0

    def add(self, bucket: int, rows: pa.RecordBatch) -> None:
        self._held[bucket].append(rows)
        self._size += rows.nbytes
        if self._size > HELD_BYTES:
            self._write_down()

    def _write_down(self) -> None:
        if self._folder is None:
            self._folder = storage.scratch_folder("exchange", uuid.uuid4().hex)
        for bucket, batches in self._held.items():
            if bucket not in self._writers:
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                self._writers[bucket] = pa.ipc.new_stream(self._path(bucket), self._schema, options=options)
            for batch in batches:
                self._writers[bucket].write_batch(batch)
        self._held.clear()
        self._size = 0

    def _path(self, bucket: int) -> str:
        assert self._folder is not None
        return str(Path(self._folder) / f"{bucket:05d}.arrows")

    def take(self, bucket: int) -> pa.Table:
        """All rows of a bucket, which are forgotten."""
        batches = self._held.pop(bucket, [])
        table = pa.Table.from_batches(batches, self._schema)
        writer = self._writers.pop(bucket, None)
        if writer is None:
            return table
        writer.close()
        with pa.OSFile(self._path(bucket)) as file:
            spilled = pa.ipc.open_stream(file).read_all()
        Path(self._path(bucket)).unlink()
        return pa.concat_tables([spilled, table])

    def close(self) -> None:
        """Remove what is left."""
        for writer in self._writers.values():
            writer.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
