"""Candidates: documents that share a band of their signatures.

Band rows (key, node) are brought together by ranges of the key and sorted; a bucket (all nodes of one key) lies together then,
and is read as a stream: no pair explosion, no list of a bucket in the JVM. Up to `pair_bucket` nodes all pairs are candidates,
above it each node with the bucket's first only. The sorted rows are, as they are, the runs of the history index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hyperclova_core.corpus.deduplicate.config import DeduplicateConfig
from hyperclova_core.corpus.deduplicate.schemas import BANDS_SCHEMA
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.manifest import Table
from hyperclova_core.foundation.datasets.parquet_writer import HASHES, write_table
from hyperclova_core.foundation.jit import compiled
from hyperclova_core.foundation.sorted_lookup import among
from hyperclova_core.foundation.stages.kinds import StageContext
from hyperclova_core.foundation.stages.spark_frames import (
    Batches,
    Grouping,
    Written,
    grouped,
    matrix,
    part_of,
    written_rows,
)
from hyperclova_core.foundation.stages.units import FileUnit, RowsResult

PAIRS_SCHEMA = pa.schema([("left", pa.int64()), ("right", pa.int64()), ("size", pa.int64())])
"""A candidate; left = right with a `size`: a bucket above the cap, and its first node."""
ROWS_A_RUN = 1 << 20
"""Rows of a run of the index: how many files it has follows from its rows, never from the cluster."""


@dataclass(frozen=True)
class Candidates:
    """Pairs to verify and buckets above the cap (PAIRS_SCHEMA, a pair once a part), and the sorted runs where asked for."""

    found: Written
    bands: Table | None


@dataclass(frozen=True)
class BandSettings:
    """What workers need to know.

    Attributes:
        small, cap: nodes a bucket up to which all pairs are candidates, and above which it is a template.
        skip: a file with nodes that are left out (they are in the index already); None: all are taken.
    """

    bands: int
    rows: int
    small: int
    cap: int
    skip: str | None


def find_candidates(
    sketches: Sequence[str],
    signed: int,
    config: DeduplicateConfig,
    context: StageContext,
    index: Sequence[str] | None = None,
    skip: str | None = None,
) -> Candidates:
    """Pairs of forms that share a band, among themselves and (where there is an index) with its forms.

    Args:
        sketches: files with node, signature, items; a document that has items, or no signature, takes no part.
        signed: how many signatures they hold.
        index: the sorted runs of a history index; None: without history, and no runs are written.
        skip: a file with the nodes that are left out.
    """
    rows = signed * config.bands
    parts = max(1, -(-rows // ROWS_A_RUN))
    settings = BandSettings(config.bands, config.rows, config.pair_bucket, config.max_bucket, skip)
    if index is None:
        grouping = Grouping("pairs", _explode, BANDS_SCHEMA, _match, PAIRS_SCHEMA, ("key", "node"), settings)
        return Candidates(grouped(context, sketches, grouping, rows, config.driver_rows, parts), None)
    grouping = Grouping("bands", _explode, BANDS_SCHEMA, _once, BANDS_SCHEMA, ("key", "node"), settings)
    runs = _runs(grouped(context, sketches, grouping, rows, config.driver_rows, parts), parts, context)
    units = [
        FileUnit(path=storage.join(context.target.root(False), entry.path), number=number)
        for number, entry in enumerate(runs.files)
    ]
    folder = storage.join(context.target.root(True), context.attempt_path, "materialized", "matched")
    context.scrap.folders.append(folder)
    assert context.engine is not None
    # the index's runs are looked through side by side; what they hold of the incoming documents' keys is little
    mine = [unit.path for unit in units]
    lookups = [FileUnit(path=path, number=number) for number, path in enumerate(index)]
    hits = context.engine.map_units(partial(_lookup_unit, runs=mine, folder=folder), lookups, RowsResult)
    old = [result.path for result in hits if result.rows]
    match = partial(_match_unit, index=old, settings=settings, folder=folder)
    found = context.engine.map_units(match, units, RowsResult)
    paths = sorted(result.path for result in found if result.rows)
    return Candidates(Written(context, PAIRS_SCHEMA, paths, sum(result.rows for result in found)), runs)


def _runs(sorted_rows: Written, parts: int, context: StageContext) -> Table:
    """Sorted rows as files of the index, one a range of the key that has rows."""
    root, prefix = context.target.root(False), f"{context.attempt_path}/index/bands"
    entries = []
    for path in sorted_rows.paths:
        table = storage.read_parquet(path).cast(BANDS_SCHEMA)
        numbers = part_of(table.column("key").to_numpy(), parts)
        for part in np.unique(numbers).tolist():
            start, end = np.searchsorted(numbers, part), np.searchsorted(numbers, part, side="right")
            rows = table.slice(int(start), int(end - start))
            entries.append(write_table(root, f"{prefix}/run-{part:05d}.parquet", rows, part, layout=HASHES))
    return Table(files=tuple(sorted(entries, key=lambda entry: entry.path)))


def _lookup_unit(unit: FileUnit, *, runs: list[str], folder: str) -> RowsResult:
    """The rows of a run of the index that have a key of the incoming documents' runs."""

    def rows() -> Batches:
        for path in runs:
            keys, nodes = rows_of_keys(unit.path, storage.read_parquet(path, ["key"]).column("key").to_numpy())
            yield pa.RecordBatch.from_arrays([pa.array(keys), pa.array(nodes)], schema=BANDS_SCHEMA)

    return written_rows(folder, f"old-{unit.number:05d}", BANDS_SCHEMA, rows())


def _match_unit(unit: FileUnit, *, index: list[str], settings: BandSettings, folder: str) -> RowsResult:
    def matched() -> Batches:
        yield _match(storage.read_parquet(unit.path).cast(BANDS_SCHEMA), 0, settings, index)

    return written_rows(folder, f"pairs-{unit.number:05d}", PAIRS_SCHEMA, matched())


def _explode(path: str, settings: BandSettings) -> Batches:
    """(key, node) of every form in a sketch file, a row a band; a form that several documents have, once."""
    from hyperclova_core.corpus.deduplicate.minhash.signatures import band_keys

    skip = _skipped(settings.skip)
    seen: set[int] = set()
    with storage.open_parquet(path) as file:
        for batch in file.iter_batches(batch_size=8192, columns=["node", "signature", "items"]):
            batch = batch.filter(pc.and_(pc.is_valid(batch.column("signature")), pc.is_null(batch.column("items"))))
            nodes, first = np.unique(batch.column("node").to_numpy(), return_index=True)
            fresh = ~among(nodes, skip)
            fresh &= np.fromiter((node not in seen for node in nodes.tolist()), np.bool_, len(nodes))
            nodes, first = nodes[fresh], first[fresh]
            seen.update(nodes.tolist())
            if len(nodes):
                some = batch.column("signature").take(pa.array(first))
                minima = matrix(some, np.uint16, settings.bands * settings.rows)
                keys = band_keys(minima, settings.bands, settings.rows).ravel()
                yield pa.RecordBatch.from_arrays(
                    [pa.array(keys), pa.array(np.repeat(nodes, settings.bands))], schema=BANDS_SCHEMA
                )


@lru_cache(maxsize=2)
def _skipped(path: str | None) -> npt.NDArray[np.int64]:
    return np.unique(storage.read_parquet(path).column("node").to_numpy()) if path else np.zeros(0, np.int64)


def _once(chunk: pa.Table, part: int, settings: BandSettings) -> pa.RecordBatch:
    """Rows of a part, each once (a form may lie in several sketch files)."""
    keys, nodes = chunk.column("key").to_numpy(), chunk.column("node").to_numpy()
    once = np.append(True, (keys[1:] != keys[:-1]) | (nodes[1:] != nodes[:-1]))[: len(keys)]
    return pa.RecordBatch.from_arrays([pa.array(keys[once]), pa.array(nodes[once])], schema=BANDS_SCHEMA)


def _match(chunk: pa.Table, part: int, settings: BandSettings, index: Sequence[str] = ()) -> pa.RecordBatch:
    """Candidates among the rows of whole buckets, and between them and the runs of an index."""
    rows = _once(chunk, part, settings)
    keys, nodes = rows.column("key").to_numpy(), rows.column("node").to_numpy()
    fresh = np.ones(len(keys), np.bool_)
    if index:
        old = [rows_of_keys(path, keys) for path in index]
        all_keys = np.concatenate([keys, *(found[0] for found in old)])
        all_nodes = np.concatenate([nodes, *(found[1] for found in old)])
        fresh = np.arange(len(all_keys)) < len(keys)
        order = np.lexsort((all_nodes, all_keys))
        keys, nodes, fresh = all_keys[order], all_nodes[order], fresh[order]
    left, right, sizes = _pairs(keys, nodes, fresh, settings.small, settings.cap)
    # most pairs share several bands: once a part is enough
    order = np.lexsort((sizes, right, left))
    left, right, sizes = left[order], right[order], sizes[order]
    last = np.append((left[1:] != left[:-1]) | (right[1:] != right[:-1]), True)[: len(left)]
    columns = [pa.array(values[last]) for values in (left, right, sizes)]
    return pa.RecordBatch.from_arrays(columns, schema=PAIRS_SCHEMA)


def rows_of_keys(path: str, keys: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The rows of a sorted run whose key is among `keys` (sorted, with repeats); row groups beside them are not read."""
    wanted = keys[np.append(True, keys[1:] != keys[:-1])] if len(keys) else keys
    some_keys, some_nodes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    if not len(wanted):
        return some_keys[0], some_nodes[0]
    with storage.open_parquet(path) as file:
        groups = []
        for number in range(file.num_row_groups):
            limits = file.metadata.row_group(number).column(0).statistics
            if limits is None:  # a row group without rows
                continue
            at = int(np.searchsorted(wanted, limits.min))
            if at < len(wanted) and wanted[at] <= limits.max:
                groups.append(number)
        for start in range(0, len(groups), 64):
            table = file.read_row_groups(groups[start : start + 64])
            there, nodes = table.column("key").to_numpy(), table.column("node").to_numpy()
            at = np.searchsorted(wanted, there)
            at[at == len(wanted)] = 0
            same = wanted[at] == there
            some_keys.append(there[same])
            some_nodes.append(nodes[same])
    return np.concatenate(some_keys), np.concatenate(some_nodes)


def _pairs(
    keys: npt.NDArray[np.int64], nodes: npt.NDArray[np.int64], fresh: npt.NDArray[np.bool_], small: int, cap: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pairs of each bucket of rows sorted by (key, node), left < right; two nodes neither of which is fresh were paired
    before. A bucket above the cap gives (first node, first node, size) too."""
    none = np.zeros(0, np.int64)
    room = _walk(keys, nodes, fresh, small, cap, none, none, none)
    left, right, sizes = np.empty(room, np.int64), np.empty(room, np.int64), np.zeros(room, np.int64)
    _walk(keys, nodes, fresh, small, cap, left, right, sizes)
    return left, right, sizes


@compiled()
def _walk(
    keys: npt.NDArray[np.int64],
    nodes: npt.NDArray[np.int64],
    fresh: npt.NDArray[np.bool_],
    small: int,
    cap: int,
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
) -> int:
    count, start = 0, 0
    for end in range(1, keys.size + 1):
        if end < keys.size and keys[end] == keys[start]:
            continue
        size = end - start
        if size > 1:
            last = start + 1 if size > small else end - 1
            for one in range(start, last):
                for other in range(one + 1, end):
                    if (fresh[one] or fresh[other]) and nodes[one] != nodes[other]:
                        if left.size:
                            left[count] = nodes[one]
                            right[count] = nodes[other]
                        count += 1
            if size > cap:
                if left.size:
                    left[count] = nodes[start]
                    right[count] = nodes[start]
                    sizes[count] = size
                count += 1
        start = end
    return count
