"""Spark frames over a dataset's files, and sorted tables out of frames. Python workers read and write the files (so S3 needs
no Hadoop jars, and no text crosses to the JVM); the JVM shuffles and sorts narrow rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.stages.kinds import StageContext
from hyperclova_core.foundation.stages.units import FileUnit, RowsResult

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Batches = Iterator[pa.RecordBatch]
ROWS_A_FILE = 1 << 21
"""Rows of a file of a sorted table: the number of files follows from the number of rows, never from the cluster."""


def spark_schema(schema: pa.Schema) -> Any:
    """The Spark schema of an Arrow schema."""
    from pyspark.sql.pandas.types import from_arrow_schema

    return from_arrow_schema(schema)


def over_files(
    context: StageContext, paths: Sequence[str], read: Callable[[str, int], Batches], schema: pa.Schema
) -> DataFrame:
    """A frame of what `read(path, number)` yields for each file, one partition a file."""
    assert context.engine is not None
    names = list(paths)

    def run(batches: Batches) -> Batches:
        for batch in batches:
            for index in batch.column(0).to_pylist():
                yield from read(names[index], index)

    rows = context.engine.spark().range(0, len(names), 1, numPartitions=max(1, len(names)))
    return rows.mapInArrow(run, spark_schema(schema))


def of_table(context: StageContext, table: pa.Table) -> DataFrame:
    """A frame of a table in the driver's memory."""
    assert context.engine is not None
    return context.engine.spark().createDataFrame(table)


def read_columns(schema: pa.Schema) -> Callable[[str, int], Batches]:
    """A reader for `over_files`: the columns of `schema`."""

    def read(path: str, _: int) -> Batches:
        with storage.open_parquet(path) as file:
            for batch in file.iter_batches(batch_size=8192, columns=schema.names):
                yield batch.select(schema.names).cast(schema)

    return read


@dataclass(frozen=True)
class Written:
    """Rows in scratch files of a stage, whoever wrote them: read here, or as a frame without a past.

    Unlike a cache they outlive an executor, and the plans that follow stay small (the driver spends seconds on each query over
    nested caches, on their plans alone: docs/decisions/0009).
    """

    context: StageContext
    schema: pa.Schema
    paths: list[str]
    rows: int

    def table(self) -> pa.Table:
        """All rows in this process."""
        parts = [storage.read_parquet(path, self.schema.names).cast(self.schema) for path in self.paths]
        return pa.concat_tables(parts) if parts else self.schema.empty_table()

    def frame(self) -> DataFrame:
        """The rows in Spark."""
        assert self.context.engine is not None
        if not self.paths:
            return self.context.engine.spark().createDataFrame([], spark_schema(self.schema))
        return over_files(self.context, self.paths, read_columns(self.schema), self.schema)


def materialized(context: StageContext, frame: DataFrame, name: str) -> Written:
    """The rows of a frame written down. The files go when the stage has been committed."""
    from pyspark.sql.pandas.types import to_arrow_schema

    folder = storage.join(context.target.root(True), context.attempt_path, "materialized", name)
    schema = to_arrow_schema(frame.schema)

    def write(batches: Batches) -> Batches:
        from pyspark import TaskContext

        task = TaskContext.get()
        yield from write_rows(folder, f"part-{task.partitionId() if task else 0:06d}", schema, batches)

    found = frame.mapInArrow(write, "path string, rows long").toArrow().to_pylist()
    context.scrap.folders.append(folder)
    return _as_written(context, schema, [RowsResult(**row) for row in found])


def _as_written(context: StageContext, schema: pa.Schema, found: Sequence[RowsResult]) -> Written:
    paths = sorted(row.path for row in found if row.rows)
    return Written(context, schema, paths, sum(row.rows for row in found))


def written_rows(folder: str, name: str, schema: pa.Schema, batches: Batches) -> RowsResult:
    """As `write_rows`, for a unit of work."""
    (made,) = write_rows(folder, name, schema, batches)
    return RowsResult(**made.to_pylist()[0])


def write_rows(folder: str, name: str, schema: pa.Schema, batches: Batches) -> Batches:
    """Write batches to one scratch file; yields its path and the number of rows."""
    import pyarrow.parquet as pq

    storage.make_folder(folder)
    path, rows = storage.join(folder, f"{name}.parquet"), 0
    with (
        storage.replacing(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="lz4", use_dictionary=False) as writer,
    ):
        for batch in batches:
            rows += batch.num_rows
            writer.write_batch(batch.select(schema.names).cast(schema))
    yield pa.RecordBatch.from_pydict({"path": [path], "rows": [rows]})


@dataclass(frozen=True)
class Grouping:
    """Rows of many files brought together by key, and what is made of each group. Workers get it pickled within one
    application: functions of modules, plain values.

    Attributes:
        name: of the scratch folder.
        explode: (path, settings) → batches of `schema`: int64 columns, the first of them the key.
        reduce: (rows of whole groups, sorted by `order`, settings) → a batch of `result`.
        order: columns, the key first.
    """

    name: str
    explode: Callable[[str, Any], Batches]
    schema: pa.Schema
    reduce: Callable[[pa.Table, int, Any], pa.RecordBatch]
    result: pa.Schema
    order: tuple[str, ...]
    settings: Any = None


def grouped(
    context: StageContext, paths: Sequence[str], grouping: Grouping, rows: int, limit: int, parts: int
) -> Written:
    """Group the rows of files by key: in this process where there are few, else by a shuffle in Spark. The result is the same.

    Args:
        rows: how many to expect; up to `limit` they are sorted here.
        parts: ranges of the key, each worked on as one (its number is given to `reduce`).
    """
    assert context.engine is not None
    folder = storage.join(context.target.root(True), context.attempt_path, "materialized", grouping.name)
    context.scrap.folders.append(folder)
    if rows <= limit:
        units = [FileUnit(path=path, number=number) for number, path in enumerate(paths)]
        work = partial(_explode_unit, grouping=grouping, folder=folder)
        found = [result for result in context.engine.map_units(work, units, RowsResult) if result.rows]
        sources = [result.path for result in found]
        made = list(write_rows(folder, "result", grouping.result, _reduced_here(sources, grouping, parts)))
        pa.default_memory_pool().release_unused()
        return _as_written(context, grouping.result, [RowsResult(**row) for row in made[0].to_pylist()])
    return _grouped_in_spark(context, paths, grouping, parts, folder)


def _explode_unit(unit: FileUnit, *, grouping: Grouping, folder: str) -> RowsResult:
    batches = grouping.explode(unit.path, grouping.settings)
    return written_rows(folder, f"rows-{unit.number:06d}", grouping.schema, batches)


def part_of(keys: npt.NDArray[np.int64], parts: int) -> npt.NDArray[np.int32]:
    """The range of the signed key that a row lies in, from the smallest up."""
    unsigned = (keys.view(np.uint64) ^ np.uint64(1 << 63)) >> np.uint64(32)
    return ((unsigned * np.uint64(parts)) >> np.uint64(32)).astype(np.int32)


def _reduced_here(paths: Sequence[str], grouping: Grouping, parts: int) -> Batches:
    """The groups of all rows of some files, a part after the other; besides the columns once, one part is in memory."""
    columns: dict[str, npt.NDArray[np.int64]] = {}
    for name in grouping.schema.names:
        pieces = [storage.read_parquet(path, [name]).column(name).to_numpy() for path in paths]
        columns[name] = np.concatenate(pieces) if pieces else np.zeros(0, np.int64)
    order = np.lexsort([columns[name] for name in reversed(grouping.order)])
    bounds = np.cumsum(np.bincount(part_of(columns[grouping.order[0]], parts), minlength=parts))
    start = 0
    for part, end in enumerate(bounds.tolist()):
        if end > start:
            mine = order[start:end]
            rows = [pa.array(columns[name][mine]) for name in grouping.schema.names]
            yield grouping.reduce(pa.table(rows, schema=grouping.schema), part, grouping.settings)
        start = end


def _grouped_in_spark(
    context: StageContext, paths: Sequence[str], grouping: Grouping, parts: int, folder: str
) -> Written:
    from pyspark.sql import functions as F

    numbered = grouping.schema.append(pa.field("part", pa.int32()))
    key = grouping.order[0]

    def read(path: str, _: int) -> Batches:
        for batch in grouping.explode(path, grouping.settings):
            number = pa.array(part_of(batch.column(key).to_numpy(), parts))
            yield pa.RecordBatch.from_arrays([*batch.columns, number], schema=numbered)

    def reduce(batches: Batches) -> Batches:
        for chunk in grouped_chunks(batches, key):
            part = chunk.column("part")[0].as_py()
            yield grouping.reduce(chunk.drop_columns(["part"]), part, grouping.settings)

    def run(batches: Batches) -> Batches:
        from pyspark import TaskContext

        task = TaskContext.get()
        yield from write_rows(folder, f"part-{task.partitionId() if task else 0:06d}", grouping.result, reduce(batches))

    rows = over_files(context, paths, read, numbered).repartitionById(parts, F.col("part"))
    ordered = rows.sortWithinPartitions(*grouping.order)
    found = ordered.mapInArrow(run, "path string, rows long").toArrow().to_pylist()
    return _as_written(context, grouping.result, [RowsResult(**row) for row in found])


def grouped_chunks(batches: Batches, key: str, rows: int = 1 << 17) -> Iterator[pa.Table]:
    """Tables of whole groups out of batches that are sorted by `key`: a group is never cut in two.

    Of a group that does not end, twice as many rows are awaited each time: however long it is, its rows are looked at twice at most.
    """
    waiting: list[pa.RecordBatch] = []
    count, enough = 0, rows
    for batch in batches:
        if batch.num_rows == 0:
            continue
        waiting.append(batch)
        count += batch.num_rows
        if count < enough:
            continue
        table = pa.Table.from_batches(waiting)
        values = table.column(key).to_numpy()
        end = int(np.flatnonzero(values != values[-1])[-1]) + 1 if values[0] != values[-1] else 0
        if end:
            yield table.slice(0, end)
            waiting = table.slice(end).combine_chunks().to_batches()
        count = table.num_rows - end
        enough = max(rows, 2 * count)
    if waiting:
        yield pa.Table.from_batches(waiting)


def matrix(column: pa.Array | pa.ChunkedArray, dtype: Any, width: int) -> npt.NDArray[Any]:
    """A column of equally long byte strings as a matrix, shape (rows, width); no row may be null."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], pa.binary())
    if len(array) == 0:
        return np.zeros((0, width), dtype)
    plain = array.cast(pa.binary()) if not pa.types.is_binary(array.type) else array
    offsets = np.frombuffer(plain.buffers()[1], np.int32)[plain.offset : plain.offset + len(plain) + 1]
    data = np.frombuffer(plain.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    return data.view(dtype).reshape(len(plain), width)


def binary_rows(values: npt.NDArray[Any]) -> pa.Array:
    """The rows of a matrix as byte strings."""
    flat = np.ascontiguousarray(values)
    size = flat.shape[1] * flat.itemsize
    offsets = np.arange(len(flat) + 1, dtype=np.int32) * size
    return pa.Array.from_buffers(pa.binary(), len(flat), [None, pa.py_buffer(offsets), pa.py_buffer(flat)])
