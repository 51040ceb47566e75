"""The `history` stage: a version of the index is the one before with what a night found. Nothing is changed in place.

A night adds one small run a table. When the newest runs have grown as large as the one before them, they are merged (the
sizes of runs fall by half or more, so there are at most log2 of them, and a row is rewritten log2 times in its life); a merge
that reaches the first run leaves out what was removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from hyperclova_core.corpus.deduplicate.config import DeduplicateConfig
from hyperclova_core.corpus.deduplicate.history.index import comparable, newest_rows
from hyperclova_core.corpus.deduplicate.schemas import INDEX, INDEX_ORDER, TOMBSTONE
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.dataset import Dataset, open_dataset
from hyperclova_core.foundation.datasets.manifest import Counters, FileEntry
from hyperclova_core.foundation.datasets.parquet_writer import HASHES, write_table
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.foundation.sorted_lookup import among
from hyperclova_core.foundation.stages.kinds import Artifact, StageContext, artifact_stage
from hyperclova_core.foundation.stages.units import UnitResult, WorkUnit
from hyperclova_core.foundation.stages.work_units import run_units

ROWS_A_RUN = 1 << 21
SHRINK = 2


@artifact_stage("history", version="2")
def history(inputs: Mapping[str, Dataset], config: DeduplicateConfig, context: StageContext) -> Artifact:
    """The next version of the index: of `previous` and the output of `deduplicate` (`night`); without inputs, version 0."""
    previous, night = inputs.get("previous"), inputs.get("night")
    before: dict[str, Any] = previous.manifest.info if previous else {}
    parts: list[str] = [*before.get("parts", ()), *([previous.manifest.fingerprint] if previous else ())]
    sources: list[dict[str, list[str]]] = []
    rows = dict.fromkeys(INDEX, 0)
    if night is not None:
        sources.append({name: night.files(f"index_{name}") for name in INDEX})
        rows = {name: night.table(f"index_{name}").rows for name in INDEX}
    beside = storage.normalized(storage.join(context.target.uri, ".."))
    sizes = dict(before.get("sizes", {}))
    own = sum(rows.values())
    while parts and sizes.get(parts[-1], 0) <= SHRINK * own:
        merged = open_dataset(storage.join(beside, parts.pop()))
        sources.insert(0, {name: merged.files(name) for name in INDEX})
        own += sizes.pop(merged.manifest.fingerprint, 0)
    tables = _merged(sources, context, whole=not parts)
    written = {name: sum(entry.rows for entry in entries) for name, entries in tables.items()}
    sizes = {part: sizes[part] for part in parts}
    sizes[context.fingerprint] = sum(written.values())
    kept = {part: before["runs"][part] for part in parts}
    kept[context.fingerprint] = written
    origins = dict(before.get("origins", {}))
    if night is not None:
        origins[night.manifest.fingerprint] = night.uri
    info = {
        "version": before.get("version", -1) + 1,
        "comparable": comparable(config),
        "parts": parts,
        "sizes": sizes,
        "runs": kept,
        "rows": {name: sum(run[name] for run in kept.values()) for name in INDEX},
        "origins": origins,
    }
    documents = written["members"]
    return Artifact(dict(tables), Counters(rows_in=documents, kept=documents), info)


def _merged(sources: list[dict[str, list[str]]], context: StageContext, whole: bool) -> dict[str, list[FileEntry]]:
    """The tables of some runs, oldest first, as one run each.

    Args:
        whole: no older run is left: rows that only say that something is gone have nothing to say any more.
    """
    files = {name: [path for source in sources for path in source[name]] for name in INDEX}
    tables: dict[str, list[FileEntry]] = {}
    for name in ("members", "forms", "bands", "edges", "labels"):
        plan, total = _plan(context, name, files[name])
        ranges = max(1, -(-total // ROWS_A_RUN))
        identity = fingerprint(files[name])
        units = [
            _MergeUnit(
                identity={"table": name, "range": number, "of": ranges, "files": identity},
                table=name,
                plan=plan,
                range=number,
                ranges=ranges,
            )
            for number in range(ranges)
        ]
        members = [storage.join(context.target.root(False), entry.path) for entry in tables.get("members", [])]
        merge = partial(_merge_unit, members=members if whole else None, context=context.for_workers())
        results, _ = run_units(context, merge, units, f"merge-{name}", _MergeResult)
        tables[name] = [result.entry for result in results]
    return tables


def _plan(context: StageContext, table: str, paths: Sequence[str]) -> tuple[str, int]:
    """(address of the list of all files that are merged, oldest run first, with the least and greatest key of each; rows of all). A range opens
    only those that overlap it."""
    key = INDEX[table].field(INDEX_ORDER[table][0])
    rows, total = [], 0
    for number, path in enumerate(paths):
        with storage.open_parquet(path) as file:
            at = file.schema_arrow.get_field_index(key.name)
            groups = [file.metadata.row_group(index).column(at).statistics for index in range(file.num_row_groups)]
            total += file.metadata.num_rows
            if file.metadata.num_rows:
                first, last = min(group.min for group in groups), max(group.max for group in groups)
                rows.append({"number": number, "path": path, "first": first, "last": last})
    schema = pa.schema([("number", pa.int32()), ("path", pa.string()), ("first", key.type), ("last", key.type)])
    root, name = context.target.root(True), f"{context.attempt_path}/merge-{table}.parquet"
    write_table(root, name, pa.Table.from_pylist(rows, schema))
    context.scrap.files.append(storage.join(root, name))
    return storage.join(root, name), total


class _MergeUnit(WorkUnit):
    """A range of the key of one table of the index."""

    table: str
    plan: str = Field(description="the list of files (`_plan`)")
    range: int
    ranges: int


class _MergeResult(UnitResult):
    """The merged range."""

    entry: FileEntry


def _merge_unit(unit: _MergeUnit, *, members: Sequence[str] | None, context: StageContext) -> _MergeResult:
    """The newest rows of a range.

    Args:
        members: the merged members, where rows that only say that something is gone may go; None: they stay.
    """
    name, schema, order = unit.table, INDEX[unit.table], INDEX_ORDER[unit.table]
    low, high = _limits(schema.field(order[0]).type, unit.range, unit.ranges)
    parts = []
    for file in storage.read_parquet(unit.plan).to_pylist():
        if (low is not None and file["last"] < low) or (high is not None and file["first"] >= high):
            continue
        rows = _between(file["path"], order[0], low, high).select(schema.names).cast(schema)
        parts.append(rows.append_column("part", pa.array([file["number"]] * rows.num_rows, pa.int32())))
    table = pa.concat_tables(parts) if parts else schema.append(pa.field("part", pa.int32())).empty_table()
    if name in ("members", "labels", "forms"):
        table = newest_rows(table, order[0])
    if members is not None:
        table = _without_the_dead(table, name, members)
    table = table.select(schema.names).sort_by([(column, "ascending") for column in order])
    root, path = context.target.root(False), f"{context.attempt_path}/{name}/run-{unit.range:05d}.parquet"
    entry = write_table(root, path, table, layout=HASHES)
    return _MergeResult(files=(storage.join(root, path),), entry=entry)


def _limits(kind: pa.DataType, number: int, ranges: int) -> tuple[Any, Any]:
    """First value of a range, and of the one behind it (None: no limit)."""

    def bound(at: int) -> Any:
        if at in (0, ranges):
            return None
        value = at * (1 << 64) // ranges
        return f"{value:016x}" if pa.types.is_string(kind) else value - (1 << 63)

    return bound(number), bound(number + 1)


def _between(path: str, column: str, low: Any, high: Any) -> pa.Table:
    with storage.open_parquet(path) as file:
        at = file.schema_arrow.get_field_index(column)
        found = []
        for number in range(file.num_row_groups):
            limits = file.metadata.row_group(number).column(at).statistics
            if (low is None or limits.max >= low) and (high is None or limits.min < high):
                found.append(file.read_row_group(number))
        table = pa.concat_tables(found) if found else file.schema_arrow.empty_table()
    if low is not None:
        table = table.filter(pc.greater_equal(table.column(column), low))
    return table if high is None else table.filter(pc.less(table.column(column), high))


def _without_the_dead(table: pa.Table, name: str, members: Sequence[str]) -> pa.Table:
    """Without removed documents, forms that no document has any more, and what belongs to those."""
    if name == "members":
        entombed = pc.equal(table.column("origin"), TOMBSTONE)
        return table.filter(pc.or_(pc.invert(table.column("removed")), entombed))
    if name == "labels":
        return table.filter(pc.is_valid(table.column("component")))
    for column in {"forms": ("node",), "bands": ("node",), "edges": ("left", "right")}[name]:
        values = table.column(column).to_numpy()
        distinct, places = np.unique(values, return_inverse=True)
        seen = np.zeros(len(distinct), np.bool_)
        for path in members:  # a column at a time, a file at a time: no more than a run is in memory
            rows = storage.read_parquet(path, ["node", "removed"])
            nodes = np.unique(rows.filter(pc.invert(rows.column("removed"))).column("node").to_numpy())
            seen |= among(distinct, nodes)
        table = table.filter(pa.array(seen[places], pa.bool_()))
    return table
