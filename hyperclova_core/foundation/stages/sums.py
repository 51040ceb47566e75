"""Sums by key over many files, for a driver that wants the sums alone: each key is summed by one task, whatever the number of files.

A worker leaves a file of partial sums. Few of them are read by the driver itself; of many, rows are brought together by their place first
(`exchange`), so the driver reads each key once.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pyarrow as pa

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.parquet_writer import write_table
from hyperclova_core.foundation.stages.exchange import RangeUnit, buckets_of, exchange
from hyperclova_core.foundation.stages.kinds import StageContext
from hyperclova_core.foundation.stages.units import UnitResult
from hyperclova_core.foundation.stages.work_units import run_units

FEW_FILES = 32
"""So many files are read by the driver itself."""
PARTS = 64
READ_AT_ONCE = 16
PLACE = "doc_id"
"""What rows are brought together by: eight hex digits, equal for equal keys."""


def has_places(files: int) -> bool:
    """Whether workers must say the place of each row: their files are many."""
    return files > FEW_FILES


def with_places(table: pa.Table, places: Sequence[str]) -> pa.Table:
    """Partial sums with the place of each row, by place."""
    return table.append_column(PLACE, pa.array(places, pa.string())).sort_by(PLACE)


def summed(
    context: StageContext,
    files: Sequence[tuple[str, str]],
    schema: pa.Schema,
    keys: Sequence[str],
    name: str,
) -> pa.Table:
    """The sums of all columns of `schema` that are no keys, a row a key, in no order.

    Args:
        files: (address, digest of its rows) of Parquet files with the columns of `schema`, and the place where `has_places` says so.
        name: of the folder where what lies between is written.
    """
    if not has_places(len(files)):
        parts = [storage.read_parquet(path, schema.names) for path, _ in files]
        return _folded(pa.concat_tables([schema.empty_table(), *(part.cast(schema) for part in parts)]), keys)
    placed = schema.append(pa.field(PLACE, pa.string()))
    waiting = exchange(context, files, placed, PARTS, name)
    work = partial(_sum_unit, schema=placed, keys=tuple(keys), name=name, context=context.for_workers())
    results, _ = run_units(context, work, waiting.units(), f"sum-{name}", UnitResult)
    paths = [path for result in results for path in result.files]
    context.scrap.files.extend(paths)
    return pa.concat_tables([schema.empty_table(), *(part.cast(schema) for part in read_all(paths))])


def read_all(paths: Sequence[str]) -> list[pa.Table]:
    """Small tables, read side by side: one after the other, requests to an object store are what costs."""
    with ThreadPoolExecutor(READ_AT_ONCE) as pool:
        return list(pool.map(storage.read_parquet, paths))


def _sum_unit(
    unit: RangeUnit, *, schema: pa.Schema, keys: tuple[str, ...], name: str, context: StageContext
) -> UnitResult:
    root, paths = context.target.root(True), []
    for part, rows in buckets_of(unit, schema):
        path = f"{context.attempt_path}/exchange-{name}/sums-{part:05d}.parquet"
        write_table(root, path, _folded(rows.drop_columns([PLACE]), keys))
        paths.append(storage.join(root, path))
    return UnitResult(files=tuple(paths))


def _folded(table: pa.Table, keys: Sequence[str]) -> pa.Table:
    """Equal keys together, columns in their order."""
    values = [column for column in table.column_names if column not in keys]
    sums = table.group_by(list(keys)).aggregate([(column, "sum") for column in values])
    return sums.rename_columns({f"{column}_sum": column for column in values}).select(table.column_names)
