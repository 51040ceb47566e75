"""Percentiles within groups, exactly, however large a group is.

SQL's percent_rank is a window: all rows of a group go through one task, and a source may have a billion. Here values are counted, the counts
are sorted by ranges, what lies before each range is summed up, and ranks are joined back: no task holds more than a range.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.stages.kinds import StageContext
from hyperclova_core.foundation.stages.spark_frames import Batches, Written, materialized, over_files

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

WINDOW_ROWS = 20_000_000
"""Up to so many documents a window is quicker: it needs no sums and no join. The result is the same."""
_BELOW, _COUNT, _ALL = "__below", "__count", "__all"


def with_percent_rank(
    rows: DataFrame, group: str, order: tuple[str, ...], name: str, context: StageContext
) -> DataFrame:
    """`rows` with a column `name`: rows of the group that come before, by the rows of the group less one (0 for a row alone); null where the
    first column of `order` is.

    Args:
        order: columns; without nulls but in the first. Rows that are equal in all of them have one rank.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    known = F.col(order[0]).isNotNull()
    if context.documents <= WINDOW_ROWS:
        # a row without a value is a group of its own: all of them together would be the largest
        alone = F.when(~known, F.col("doc_id"))
        ranked = F.percent_rank().over(Window.partitionBy(group, alone).orderBy(*order))
        return rows.withColumn(name, F.when(known, ranked))
    keys = (group, *order)
    counts = rows.where(known).groupBy(*keys).agg(F.count("*").alias(_COUNT))
    spread = counts.repartitionByRange(*keys).sortWithinPartitions(*keys)
    written = materialized(context, spread, f"ranks-{name}")
    before, sums = _before(written, group, context)
    schema = pa.schema([*(written.schema.field(key) for key in keys), (_BELOW, pa.int64()), (_ALL, pa.int64())])

    def read(path: str, number: int) -> Batches:
        running = dict(before[number])
        for batch in _batches(path):
            values, held = batch.column(group).to_pylist(), batch.column(_COUNT).to_numpy()
            below = np.empty(len(values), np.int64)
            for low, high in _stretches(values):
                total = np.cumsum(held[low:high])
                below[low:high] = running.get(values[low], 0) + total - held[low:high]
                running[values[low]] = running.get(values[low], 0) + int(total[-1])
            whole = pa.array([sums[value] for value in values], pa.int64())
            yield pa.RecordBatch.from_arrays(
                [*(batch.column(key) for key in keys), pa.array(below), whole], schema=schema
            )

    ranks = over_files(context, written.paths, read, schema)
    share = F.when(F.col(_ALL) > 1, F.col(_BELOW) / (F.col(_ALL) - 1)).otherwise(F.lit(0.0))
    found = rows.join(ranks, list(keys), "left")
    return found.withColumn(name, F.when(known, share)).drop(_BELOW, _ALL)


def with_group_size(rows: DataFrame, group: str, name: str, context: StageContext) -> DataFrame:
    """`rows` with a column `name`: rows of the group."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    if context.documents <= WINDOW_ROWS:
        return rows.withColumn(name, F.count("*").over(Window.partitionBy(group)))
    return rows.join(F.broadcast(rows.groupBy(group).agg(F.count("*").alias(name))), group)


def _before(written: Written, group: str, context: StageContext) -> tuple[list[dict[str, int]], dict[str, int]]:
    """For each file, how many rows of each of its groups lie in files before it; rows of each group. Files are ranges of (group, value), so
    both are as many as files and groups, not as their product."""
    schema = pa.schema([("file", pa.int32()), ("group", pa.string()), ("rows", pa.int64())])

    def read(path: str, number: int) -> Batches:
        held: dict[str, int] = {}
        for batch in _batches(path):
            values, counts = batch.column(group).to_pylist(), batch.column(_COUNT).to_numpy()
            for low, high in _stretches(values):
                held[values[low]] = held.get(values[low], 0) + int(counts[low:high].sum())
        rows = [
            pa.array([number] * len(held), pa.int32()),
            pa.array(list(held)),
            pa.array(list(held.values()), pa.int64()),
        ]
        yield pa.RecordBatch.from_arrays(rows, schema=schema)

    found = over_files(context, written.paths, read, schema).toArrow().sort_by("file").to_pylist()
    before: list[dict[str, int]] = [{} for _ in written.paths]
    sums: dict[str, int] = {}
    for row in found:
        before[row["file"]][row["group"]] = sums.get(row["group"], 0)
        sums[row["group"]] = sums.get(row["group"], 0) + row["rows"]
    return before, sums


def _batches(path: str) -> Batches:
    with storage.open_parquet(path) as file:
        yield from file.iter_batches(batch_size=65_536)


def _stretches(values: list[str]) -> Iterator[tuple[int, int]]:
    """(first, behind the last) of each run of equal values."""
    low = 0
    for high in range(1, len(values) + 1):
        if high == len(values) or values[high] != values[low]:
            yield low, high
            low = high
