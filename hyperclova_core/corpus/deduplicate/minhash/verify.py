"""Verification: no pair counts before its similarity is known.

All minima of both signatures are compared first. An estimate within the grey zone around the threshold is replaced by the
exact Jaccard similarity of the shingles, for which the two texts are read once more: what is taken from them is their
shingles' hashes. Of a form with more than `MOST_SHINGLES` different shingles the smallest hashes stand for all (bottom-k
sketch, Cohen & Kaplan 2007: the standard error is below 0.4 %).
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from hyperclova_core.corpus.deduplicate.config import DeduplicateConfig
from hyperclova_core.corpus.deduplicate.schemas import EDGES_SCHEMA, READ, Nodes, TextPlace
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.document_schema import bucket_of
from hyperclova_core.foundation.sorted_lookup import among
from hyperclova_core.foundation.stages.kinds import StageContext, Unit
from hyperclova_core.foundation.stages.spark_frames import Batches, matrix, written_rows
from hyperclova_core.foundation.stages.units import FileUnit, RowsResult, WorkUnit

MOST_SHINGLES = 1 << 16
SHINGLES_SCHEMA = pa.schema([("node", pa.int64()), ("shingles", pa.binary())])
SIGNATURES_SCHEMA = pa.schema([("node", pa.int64()), ("signature", pa.binary())])
Shingles = dict[int, npt.NDArray[np.uint64]]


def compared(pairs: pa.Table, signatures: pa.Table, config: DeduplicateConfig) -> pa.Table:
    """EDGES_SCHEMA with the estimated similarity of pairs that are alike enough to be kept or looked at again.

    Args:
        pairs: left, right.
        signatures: SIGNATURES_SCHEMA of both sides, each node once.
    """
    from hyperclova_core.corpus.deduplicate.minhash.signatures import similarity

    nodes = signatures.column("node").to_numpy()
    order = np.argsort(nodes)
    minima = matrix(signatures.column("signature"), np.uint16, config.permutations)[order]
    left, right = pairs.column("left").to_numpy(), pairs.column("right").to_numpy()
    values = np.zeros(len(left))
    for start in range(0, len(left), 1 << 16):
        part = slice(start, start + (1 << 16))
        sides = (minima[np.searchsorted(nodes[order], side[part])] for side in (left, right))
        values[part] = np.round(similarity(*sides), 4)
    enough = values >= config.threshold - config.grey_zone
    return pa.table([pa.array(column[enough]) for column in (left, right, values)], schema=EDGES_SCHEMA)


def verify_grey_zone(edges: pa.Table, shingles: Shingles, config: DeduplicateConfig) -> pa.Table:
    """Edges from the threshold on, those in the grey zone by their exact similarity where both texts are known."""
    left, right, values = (edges.column(name).to_pylist() for name in EDGES_SCHEMA.names)
    high = config.threshold + config.grey_zone
    for row, value in enumerate(values):
        if value < high and left[row] in shingles and right[row] in shingles:
            values[row] = round(jaccard(shingles[left[row]], shingles[right[row]]), 4)
    resolved = pa.table([left, right, values], schema=EDGES_SCHEMA)
    return resolved.filter(pc.greater_equal(resolved.column("similarity"), config.threshold))


def in_grey_zone(edges: pa.Table, config: DeduplicateConfig) -> npt.NDArray[np.int64]:
    """Nodes of the edges whose estimate is not enough to decide."""
    grey = edges.filter(pc.less(edges.column("similarity"), config.threshold + config.grey_zone))
    return np.union1d(grey.column("left").to_numpy(), grey.column("right").to_numpy())


def signatures_of(sketches: Sequence[str], nodes: npt.NDArray[np.int64], context: StageContext) -> pa.Table:
    """SIGNATURES_SCHEMA of some forms, each once, from the sketch files."""
    if not len(nodes):
        return SIGNATURES_SCHEMA.empty_table()
    wanted = np.unique(nodes)
    work = partial(_signatures_unit, wanted=wanted, folder=_scratch(context, "signatures"))
    found = _gathered(context, work, [FileUnit(path=path) for path in sketches], SIGNATURES_SCHEMA)
    numbers = found.column("node").to_numpy()
    _, first = np.unique(numbers, return_index=True)
    return found.take(pa.array(first))


def _signatures_unit(unit: FileUnit, *, wanted: Nodes, folder: str) -> RowsResult:
    def rows() -> Batches:
        with storage.open_parquet(unit.path) as file:
            for batch in file.iter_batches(batch_size=16_384, columns=["node", "signature", "items"]):
                mine = pa.array(among(batch.column("node").to_numpy(), wanted))
                mine = pc.and_(mine, pc.is_valid(batch.column("signature")))
                yield batch.filter(pc.and_(mine, pc.is_null(batch.column("items")))).select(SIGNATURES_SCHEMA.names)

    return written_rows(folder, uuid.uuid4().hex, SIGNATURES_SCHEMA, rows())


def _scratch(context: StageContext, name: str) -> str:
    folder = storage.join(context.target.root(True), context.attempt_path, "materialized", name)
    context.scrap.folders.append(folder)
    return folder


def _gathered(
    context: StageContext, work: Callable[[Unit], RowsResult], units: Sequence[Unit], schema: pa.Schema
) -> pa.Table:
    assert context.engine is not None
    found = [result.path for result in context.engine.map_units(work, units, RowsResult) if result.rows]
    parts = [storage.read_parquet(path).cast(schema) for path in found]
    return pa.concat_tables(parts).combine_chunks() if parts else schema.empty_table()


def shingles_of(
    wanted: Iterable[tuple[int, str, str]],
    places: Mapping[str, TextPlace],
    config: DeduplicateConfig,
    context: StageContext,
    width: int,
) -> Shingles:
    """Sorted distinct hashes of the shingles of some forms; a form whose text is there no more is left out.

    Args:
        wanted: (node, doc_id of one of its documents, place).
        width: letters a shingle.
    """
    jobs: defaultdict[tuple[str, int], dict[str, int]] = defaultdict(dict)
    for node, doc_id, name in wanted:
        if name in places:
            jobs[name, bucket_of(doc_id, len(places[name].files))][doc_id] = node
    units = [
        _TextsUnit(paths=tuple(places[name].files[bucket]), known=known, cut=places[name].boilerplate)
        for (name, bucket), known in sorted(jobs.items())
    ]
    if not units:
        return {}
    remaining = config.boilerplate.min_remaining
    work = partial(_shingles_unit, width=width, remaining=remaining, folder=_scratch(context, f"shingles-{width}"))
    found = _gathered(context, work, units, SHINGLES_SCHEMA)
    rows = zip(found.column("node").to_pylist(), found.column("shingles"), strict=True)
    return {node: np.frombuffer(value.as_buffer(), np.uint64) for node, value in rows if value.is_valid}


class _TextsUnit(WorkUnit):
    """Documents of one bucket whose texts are read again."""

    paths: tuple[str, ...] = Field(description="files where they may be")
    known: dict[str, int] = Field(description="doc_id → node")
    cut: str | None = Field(description="the table of lines that were cut from them")


def _shingles_unit(unit: _TextsUnit, *, width: int, remaining: int, folder: str) -> RowsResult:
    def rows() -> Batches:
        for path in unit.paths:
            for documents in documents_of(path, list(unit.known)):
                yield shingles_in(documents, unit.known, unit.cut, width, remaining)

    return written_rows(folder, uuid.uuid4().hex, SHINGLES_SCHEMA, rows())


def jaccard(one: npt.NDArray[np.uint64], other: npt.NDArray[np.uint64]) -> float:
    """Jaccard similarity of two sorted sets of hashes; of bottom-k sketches, the estimate over the smallest k of the union."""
    if not len(one) or not len(other):
        return 0.0
    if len(one) < MOST_SHINGLES and len(other) < MOST_SHINGLES:
        both = len(np.intersect1d(one, other, assume_unique=True))
        return both / (len(one) + len(other) - both)
    union = np.union1d(one, other)[:MOST_SHINGLES]
    both = len(np.intersect1d(np.intersect1d(one, other, assume_unique=True), union, assume_unique=True))
    return both / len(union)


def documents_of(path: str, ids: Sequence[str]) -> Batches:
    """The documents of a bucket file that have these ids (sorted), the columns `READ`; other row groups are not read."""
    if not storage.exists(path):
        return
    values = pa.array(ids, pa.string())
    with storage.open_parquet(path) as file:
        for number in range(file.num_row_groups):
            there = file.read_row_group(number, columns=["doc_id"]).column("doc_id")
            mask = pc.is_in(there, value_set=values)
            if pc.any(mask).as_py():
                yield from file.read_row_group(number, columns=READ).filter(mask).combine_chunks().to_batches()


def shingles_in(
    documents: pa.RecordBatch, nodes: Mapping[str, int], boilerplate: str | None, width: int, min_remaining: int
) -> pa.RecordBatch:
    """SHINGLES_SCHEMA of documents; null where the text is not the one that was compared (an older night cut other lines)."""
    from hyperclova_core.corpus.deduplicate.minhash.signatures import sketch
    from hyperclova_core.corpus.deduplicate.text.boilerplate import without_boilerplate
    from hyperclova_core.corpus.deduplicate.text.hashing import shingle_hashes

    texts = documents.column("text")
    if boilerplate is not None:
        texts, _ = without_boilerplate(documents, boilerplate, min_remaining)
    made = sketch(texts, width, 1, 0)
    numbers = [nodes[doc_id] for doc_id in documents.column("doc_id").to_pylist()]
    rows: list[Any] = []
    for row, node in enumerate(numbers):
        if int.from_bytes(made.exact[row][:8], "little", signed=True) != node:
            rows.append(None)  # the text is not the one that was compared (an older night cut other lines of it)
            continue
        hashes = np.unique(shingle_hashes(made.points[made.offsets[row] : made.offsets[row + 1]], width))
        rows.append(hashes[:MOST_SHINGLES].tobytes())
    return pa.RecordBatch.from_arrays(
        [pa.array(numbers, pa.int64()), pa.array(rows, pa.binary())], schema=SHINGLES_SCHEMA
    )
