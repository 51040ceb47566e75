"""Containment: a document quoted whole inside another, which Jaccard similarity does not see.

Fingerprints by winnowing are shared by texts that share a passage. Of each document that is looked for, a few fingerprints (the
smallest) are probes: those that another document holds, too, make the two a candidate, and the share of its shingles that
the other holds is computed exactly from both texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hyperclova_core.corpus.deduplicate.config import DeduplicateConfig
from hyperclova_core.corpus.deduplicate.minhash.verify import MOST_SHINGLES
from hyperclova_core.corpus.deduplicate.schemas import CONTAINED_SCHEMA
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.parquet_writer import write_table
from hyperclova_core.foundation.jit import compiled
from hyperclova_core.foundation.sorted_lookup import among
from hyperclova_core.foundation.stages.kinds import StageContext
from hyperclova_core.foundation.stages.spark_frames import Batches, Grouping, grouped

PROBES = 8
_FINGERPRINTS = pa.schema(
    [("fingerprint", pa.int64()), ("node", pa.int64()), ("length", pa.int64()), ("probes", pa.int64())]
)
_PAIRS = pa.schema([("node", pa.int64()), ("other", pa.int64()), ("probes", pa.int64())])
PRINTS_A_PART = 1 << 21


@dataclass(frozen=True)
class FingerprintSettings:
    """What workers need to know: the shortest document that is looked for, in how many documents a fingerprint may be, and a
    file with the nodes that are left out (they fall to a survivor of their cluster)."""

    least: int
    most: int
    dropped: str


def find_contained(
    sketches: Sequence[str],
    fingerprints: int,
    dropped: npt.NDArray[np.int64],
    config: DeduplicateConfig,
    context: StageContext,
) -> pa.Table:
    """(node, other) candidates: documents of which another holds enough of the probed fingerprints.

    Args:
        sketches: files with node, length, fingerprints, items.
        fingerprints: how many fingerprints they hold.
        dropped: nodes that are not looked at.
    """
    if not fingerprints:
        return _PAIRS.empty_table().select(["node", "other"])
    root, path = context.target.root(True), f"{context.attempt_path}/materialized/dropped.parquet"
    write_table(root, path, pa.table({"node": dropped}))
    context.scrap.files.append(storage.join(root, path))
    settings = FingerprintSettings(
        config.containment.min_letters, config.containment.max_documents, storage.join(root, path)
    )
    grouping = Grouping(
        "fingerprints", _explode, _FINGERPRINTS, _match, _PAIRS, ("fingerprint", "length", "node"), settings
    )
    parts = max(1, -(-fingerprints // PRINTS_A_PART))
    pairs = grouped(context, sketches, grouping, fingerprints, config.driver_rows, parts).table()
    counted = pairs.group_by(["node", "other", "probes"]).aggregate([([], "count_all")])
    enough = pc.greater_equal(pc.multiply(counted.column("count_all"), 2), counted.column("probes"))
    return counted.filter(enough).select(["node", "other"]).sort_by([("node", "ascending"), ("other", "ascending")])


def contained_in(
    pairs: pa.Table,
    shingles: Mapping[int, npt.NDArray[np.uint64]],
    facts: Mapping[int, tuple[int, str]],
    threshold: float,
) -> pa.Table:
    """CONTAINED_SCHEMA: each document that another one holds, with the one that holds most of it.

    Args:
        shingles: node → sorted hashes of its shingles.
        facts: node → (length, doc_id). Of two that hold each other the shorter is the contained one.
    """
    best: dict[str, tuple[float, int, str]] = {}
    for node, other in zip(pairs.column("node").to_pylist(), pairs.column("other").to_pylist(), strict=True):
        if node not in shingles or other not in shingles:
            continue
        (length, doc_id), (other_length, container) = facts[node], facts[other]
        if (other_length, doc_id) < (length, container):
            continue
        share = round(contained_share(shingles[node], shingles[other]), 4)
        if share >= threshold:
            best[doc_id] = max(best.get(doc_id, (0.0, 0, "")), (share, other_length, container))
    rows = [{"doc_id": doc_id, "container": best[doc_id][2], "share": best[doc_id][0]} for doc_id in sorted(best)]
    return pa.Table.from_pylist(rows, CONTAINED_SCHEMA)


def contained_share(inside: npt.NDArray[np.uint64], outside: npt.NDArray[np.uint64]) -> float:
    """Share of the hashes of `inside` that `outside` holds; both sorted, and cut to their smallest where there are many:
    then over those that both would show."""
    if len(outside) >= MOST_SHINGLES:
        inside = inside[inside <= outside[-1]]
    if len(inside) >= MOST_SHINGLES:
        outside = outside[outside <= inside[-1]]
    return len(np.intersect1d(inside, outside, assume_unique=True)) / len(inside) if len(inside) else 0.0


def _explode(path: str, settings: FingerprintSettings) -> Batches:
    with storage.open_parquet(path) as file:
        for batch in file.iter_batches(batch_size=8192, columns=["node", "length", "fingerprints", "items"]):
            keep = pc.and_(pc.is_valid(batch.column("fingerprints")), pc.is_null(batch.column("items")))
            stays = pa.array(~among(batch.column("node").to_numpy(), _dropped(settings.dropped)))
            yield _exploded(batch.filter(pc.and_(keep, stays)), settings.least)


@lru_cache(maxsize=2)
def _dropped(path: str) -> npt.NDArray[np.int64]:
    return np.unique(storage.read_parquet(path).column("node").to_numpy())


def _exploded(batch: pa.RecordBatch, least: int) -> pa.RecordBatch:
    """A row a fingerprint; the probes of each document that is long enough are its smallest ones."""
    fingerprints = batch.column("fingerprints")
    counts = pc.binary_length(fingerprints).to_numpy(zero_copy_only=False).astype(np.int64) // 8
    values = np.frombuffer(b"".join(fingerprints.to_pylist()), np.uint64)
    owner = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((values, owner))
    values = values[order]
    once = np.append(True, (values[1:] != values[:-1]) | (owner[1:] != owner[:-1]))[: len(values)]
    values, owner = values[once], owner[once]
    held = np.bincount(owner, minlength=len(counts)).astype(np.int64)
    place = np.arange(len(values)) - np.repeat(np.cumsum(held) - held, held)
    length = batch.column("length").to_numpy()
    probes = np.where(length >= least, np.minimum(held, PROBES), 0)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(values.view(np.int64)),
            pa.array(batch.column("node").to_numpy()[owner]),
            pa.array(length[owner]),
            pa.array(np.where(place < PROBES, probes[owner], 0)),
        ],
        schema=_FINGERPRINTS,
    )


def _match(chunk: pa.Table, part: int, settings: FingerprintSettings) -> pa.RecordBatch:
    """(probed document, other document, its probes) of each fingerprint that few documents hold."""
    names = ("fingerprint", "node", "probes")
    fingerprints, nodes, probes = (chunk.column(name).to_numpy() for name in names)
    # rows of one form from several files lie side by side
    once = np.append(True, (fingerprints[1:] != fingerprints[:-1]) | (nodes[1:] != nodes[:-1]))[: len(fingerprints)]
    fingerprints, nodes, probes = fingerprints[once], nodes[once], probes[once]
    none = np.zeros(0, np.int64)
    room = _walk(fingerprints, nodes, probes, settings.most, none, none, none)
    made = [np.empty(room, np.int64) for _ in range(3)]
    _walk(fingerprints, nodes, probes, settings.most, *made)
    return pa.RecordBatch.from_arrays([pa.array(values) for values in made], schema=_PAIRS)


@compiled()
def _walk(
    fingerprints: npt.NDArray[np.int64],
    nodes: npt.NDArray[np.int64],
    probes: npt.NDArray[np.int64],
    most: int,
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
) -> int:
    count, start = 0, 0
    for end in range(1, fingerprints.size + 1):
        if end < fingerprints.size and fingerprints[end] == fingerprints[start]:
            continue
        if 1 < end - start <= most:
            for one in range(start, end):
                if probes[one]:
                    for other in range(start, end):
                        if other != one:
                            if left.size:
                                left[count], right[count], counts[count] = nodes[one], nodes[other], probes[one]
                            count += 1
        start = end
    return count
