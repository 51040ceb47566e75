"""The history index, as the night reads it: what all nights before left of their documents, without a text.

A version is a dataset with five sorted tables; the tables of the versions it builds on (`parts` in its manifest) come before
its own, and of two rows of one key the later counts. Nothing is ever changed in place.

| table | sorted by | what |
|---|---|---|
| forms | node | a form's hash, length, signature, and where the text of one of its documents was kept |
| bands | key | (key, node) of every band of every form |
| edges | left | verified pairs |
| labels | node | component of every node that has an edge |
| members | doc_id | documents: form, rank, cluster, whether published, whether removed |
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hyperclova_core.corpus.deduplicate.config import DeduplicateConfig
from hyperclova_core.corpus.deduplicate.schemas import INDEX, INDEX_ORDER, TextPlace
from hyperclova_core.corpus.deduplicate.text.comparison_form import signature_version
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.dataset import Dataset, open_dataset
from hyperclova_core.foundation.datasets.manifest import read_manifest
from hyperclova_core.foundation.datasets.parquet_writer import write_table
from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.foundation.stages.kinds import StageContext
from hyperclova_core.foundation.stages.units import FileUnit, RowsResult


def comparable(config: DeduplicateConfig) -> dict[str, Any]:
    """What must be the same in an index and in the night that reads it."""
    version = signature_version(config.shingle_characters, config.permutations, config.short_below)
    return {
        "sig_version": version,
        "bands": config.bands,
        "rows": config.rows,
        "threshold": config.threshold,
        "grey_zone": config.grey_zone,
        "representative": config.representative,
        "pair_bucket": config.pair_bucket,
    }


@dataclass(frozen=True)
class Index:
    """An opened version of the history index."""

    dataset: Dataset
    files: Mapping[str, list[str]]
    context: StageContext

    @property
    def version(self) -> int:
        """0 before the first night."""
        return int(self.dataset.manifest.info["version"])

    @property
    def rows(self) -> dict[str, int]:
        """Rows a table, over all parts."""
        return dict(self.dataset.manifest.info["rows"])

    def scan(self, table: str, column: str, values: npt.NDArray[Any] | Sequence[str]) -> pa.Table:
        """The rows of a table whose `column` is among `values`, of all parts, with their `part`: the later, the newer. Only
        files and row groups that may hold one are read, in the engine's workers."""
        assert self.context.engine is not None
        schema = INDEX[table].append(pa.field("part", pa.int32()))
        wanted = pa.array(values, INDEX[table].field(column).type)
        if not len(wanted) or not self.files[table]:
            return schema.empty_table()
        wanted = wanted.unique().sort()
        root = self.context.target.root(True)
        paths = [f"{self.context.attempt_path}/scans/{table}-{column}-{len(self.context.scrap.files)}.parquet"]
        # the values lie in a file, so that a large night does not travel inside each task
        write_table(root, paths[0], pa.table({"value": wanted}))
        values_path = storage.join(root, paths[0])
        self.context.scrap.files.append(values_path)
        units = [FileUnit(path=path, number=part) for part, path in enumerate(self.files[table])]
        work = partial(_scan_unit, table=table, column=column, values=values_path, context=self.context.for_workers())
        found = [result.path for result in self.context.engine.map_units(work, units, RowsResult) if result.rows]
        self.context.scrap.files.extend(found)
        parts = [storage.read_parquet(path).cast(schema) for path in found]
        return pa.concat_tables(parts) if parts else schema.empty_table()

    def newest(self, table: str, column: str, values: npt.NDArray[Any] | Sequence[str]) -> pa.Table:
        """As `scan`, but only rows that are still true: the newest of their key."""
        key = INDEX_ORDER[table][0]
        rows = self.scan(table, column, values)
        if column != key:
            rows = self.scan(table, key, rows.column(key).unique())
        return _of_values(newest_rows(rows, key), column, values)

    def places(self) -> dict[str, TextPlace]:
        """Where the texts of earlier nights lie, as far as they are still there."""
        found = {}
        for fingerprint, uri in sorted(self.dataset.manifest.info["origins"].items()):
            # beside the index first: a warehouse may have moved since the night
            beside = storage.normalized(storage.join(self.dataset.uri, "..", "..", "deduplicate", fingerprint))
            place = place_of_night(beside, fingerprint) or place_of_night(uri, fingerprint)
            if place is not None:
                found[fingerprint] = place
        return found


def place_of_night(uri: str, fingerprint: str) -> TextPlace | None:
    """The texts that a night kept or dropped, if its output is there (and still the same)."""
    manifest = read_manifest(uri)
    if manifest is None or manifest.fingerprint != fingerprint:
        return None
    dataset = Dataset(uri, manifest)
    cut = dataset.files("boilerplate")[0] if manifest.tables["boilerplate"].rows else None
    sides = [
        [storage.join(dataset.root(table), entry.path) for entry in manifest.tables[table].files]
        for table in ("documents", "rejected")
    ]
    return TextPlace([list(pair) for pair in zip(*sides, strict=True)], cut)


def open_index(dataset: Dataset, config: DeduplicateConfig, context: StageContext) -> Index:
    """The index in a dataset of stage `history`.

    Raises:
        ConfigError: it was made with other parameters: its signatures cannot be compared with the night's.
    """
    info, wanted = dataset.manifest.info, comparable(config)
    known = info.get("comparable", {})
    different = sorted(key for key in wanted if known.get(key) != wanted[key])
    if different:
        raise ConfigError(
            "The history index was made with other parameters",
            where=dataset.uri,
            why="; ".join(f"{key}: {known.get(key)} there, {wanted[key]} here" for key in different),
            remedy="set `deduplicate` as it was, or begin a new index (another --history folder, another corpus name):"
            " texts have to be read again for it",
        )
    return Index(dataset, files_of(dataset), context)


def files_of(dataset: Dataset) -> dict[str, list[str]]:
    """The files of each table, those of older parts first. Versions lie side by side, wherever their folder was moved to.

    Raises:
        DataError: a part is missing or damaged.
    """
    beside = storage.normalized(storage.join(dataset.uri, ".."))
    chain = [*(open_dataset(storage.join(beside, part)) for part in dataset.manifest.info["parts"]), dataset]
    return {name: [path for part in chain for path in part.files(name)] for name in INDEX}


def _scan_unit(unit: FileUnit, *, table: str, column: str, values: str, context: StageContext) -> RowsResult:
    wanted = storage.read_parquet(values).column("value").combine_chunks()
    schema = INDEX[table]
    low, high = wanted[0].as_py(), wanted[-1].as_py()
    found = []
    with storage.open_parquet(unit.path) as file:
        at = file.schema_arrow.get_field_index(column)
        for number in range(file.num_row_groups):
            limits = file.metadata.row_group(number).column(at).statistics
            if limits is not None and limits.has_min_max and (limits.max < low or limits.min > high):
                continue
            there = file.read_row_group(number, columns=[column]).column(column)
            mask = pc.is_in(there, value_set=wanted)
            if pc.any(mask).as_py():
                found.append(file.read_row_group(number, columns=schema.names).filter(mask))
    if not found:
        return RowsResult()
    rows = pa.concat_tables(found).combine_chunks()
    rows = rows.append_column("part", pa.array([unit.number] * rows.num_rows, pa.int32()))
    root, path = context.target.root(True), f"{context.attempt_path}/scans/{uuid.uuid4().hex}.parquet"
    write_table(root, path, rows)
    return RowsResult(path=storage.join(root, path), rows=rows.num_rows)


def newest_rows(rows: pa.Table, key: str) -> pa.Table:
    """Of the rows of one key the one of the newest part."""
    if not rows.num_rows:
        return rows
    rows = rows.sort_by([(key, "ascending"), ("part", "descending")]).combine_chunks()
    keys = rows.column(key).combine_chunks()
    first = pc.not_equal(keys[1:], keys[:-1])
    return rows.filter(pa.concat_arrays([pa.array([True]), first]))


def _of_values(rows: pa.Table, column: str, values: npt.NDArray[Any] | Sequence[str] | pa.Array) -> pa.Table:
    if not rows.num_rows:
        return rows
    kind = rows.schema.field(column).type
    return rows.filter(pc.is_in(rows.column(column), value_set=pa.array(values, kind)))
