"""What the night has to do with the nights before: who comes again, who leaves, and which part of the index is touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hyperclova_core.corpus.deduplicate.clusters.survivors import ResolvedClusters
from hyperclova_core.corpus.deduplicate.history.index import Index
from hyperclova_core.corpus.deduplicate.schemas import (
    CLUSTER_MEMBERS_SCHEMA,
    EDGES_SCHEMA,
    INCOMING_SCHEMA,
    LABELS_SCHEMA,
    MEMBERS_SCHEMA,
    TOMBSTONE,
    Nodes,
)
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.stages.kinds import StageContext

REMOVED, UNCHANGED = "removed", "unchanged"


def known_to(index: Index | None, documents: pa.Table) -> pa.Table | None:
    """Rows of the index of incoming documents that were there before."""
    return index.newest("members", "doc_id", documents.column("doc_id").combine_chunks()) if index else None


def refused_of(documents: pa.Table, known: pa.Table | None, forbidden: frozenset[str]) -> list[str | None]:
    """Why a document is not looked at: it was removed for good, or it is there already and says the same."""
    refused: list[str | None] = [None] * documents.num_rows
    if known is None:
        return refused
    there = known.filter(pc.invert(known.column("removed")))
    tombs = known.filter(pc.and_(known.column("removed"), pc.equal(known.column("origin"), TOMBSTONE)))
    entombed = forbidden | set(tombs.column("doc_id").to_pylist())
    contents = dict(zip(there.column("doc_id").to_pylist(), there.column("content").to_pylist(), strict=True))
    rows = zip(*(documents.column(name).to_pylist() for name in ("doc_id", "content", "items")), strict=True)
    for row, (doc_id, content, items) in enumerate(rows):
        if items is None and doc_id in entombed:
            refused[row] = REMOVED
        elif items is None and contents.get(doc_id) == content:
            refused[row] = UNCHANGED
    return refused


def removed_from(
    index: Index | None,
    documents: pa.Table,
    known: pa.Table | None,
    forbidden: frozenset[str],
    refused: Sequence[str | None],
) -> pa.Table:
    """Documents of earlier nights (rows of the index) that leave their clusters: removed, or come again with another text."""
    if index is None or known is None:
        return MEMBERS_SCHEMA.empty_table()
    ids = documents.column("doc_id").to_pylist()
    same = [doc_id for doc_id, reason in zip(ids, refused, strict=True) if reason == UNCHANGED]
    replaced = known.filter(pc.invert(pc.is_in(known.column("doc_id"), value_set=pa.array(same, pa.string()))))
    asked = index.newest("members", "doc_id", sorted(forbidden))
    rows = pa.concat_tables([replaced, asked]).select(MEMBERS_SCHEMA.names)
    rows = rows.filter(pc.invert(rows.column("removed"))).sort_by("doc_id")
    ids = rows.column("doc_id").to_numpy(zero_copy_only=False)
    return rows.filter(pa.array(np.append(True, ids[1:] != ids[:-1])[: len(ids)], pa.bool_()))


def check_against(
    documents: pa.Table, nodes: Nodes, rows: npt.NDArray[np.int64], there: pa.Table, context: StageContext
) -> None:
    """Forms that the index holds have the hash they have there.

    Raises:
        DataError: two different forms have one key.
    """
    hashes = dict(zip(there.column("node").to_pylist(), there.column("exact").to_pylist(), strict=True))
    exact = documents.column("exact").take(pa.array(rows)).to_pylist()
    for node, value, row in zip(nodes.tolist(), exact, rows.tolist(), strict=True):
        if hashes.get(node, value) != value:
            raise collision(context, documents.column("doc_id")[row].as_py())


def touched_by(
    index: Index | None, edges: pa.Table, new_nodes: Nodes, there: pa.Table | None, removed: pa.Table
) -> tuple[pa.Table, pa.Table, pa.Table]:
    """(labels, edges, documents as CLUSTER_MEMBERS_SCHEMA) of the index that the night has to do with: whole components."""
    if index is None or there is None:
        return LABELS_SCHEMA.empty_table(), EDGES_SCHEMA.empty_table(), CLUSTER_MEMBERS_SCHEMA.empty_table()
    ends = np.concatenate([edges.column("left").to_numpy(), edges.column("right").to_numpy()])
    parts = [np.setdiff1d(ends, new_nodes), there.column("node").to_numpy(), removed.column("node").to_numpy()]
    nodes = np.unique(np.concatenate(parts))
    labels = index.newest("labels", "node", nodes)
    labels = labels.filter(pc.is_valid(labels.column("component")))
    # a form that no document had any more has no component, but its edges are known: it comes back to its neighbours
    again = np.setdiff1d(nodes, labels.column("node").to_numpy())
    links = [index.scan("edges", side, again) for side in ("left", "right")]
    around = [table.column(side).to_numpy() for table in links for side in ("left", "right")]
    beside = np.setdiff1d(np.concatenate(around), nodes)
    if len(beside):
        more = index.newest("labels", "node", beside)
        labels = pa.concat_tables([labels, more.filter(pc.is_valid(more.column("component")))])
        nodes = np.union1d(nodes, beside)
    labels = index.newest("labels", "component", labels.column("component").unique())
    nodes = np.union1d(nodes, labels.column("node").to_numpy())
    old_edges = index.scan("edges", "left", nodes).select(EDGES_SCHEMA.names)
    members = index.newest("members", "node", nodes)
    left = pc.is_in(members.column("doc_id"), value_set=removed.column("doc_id").combine_chunks())
    members = members.filter(pc.invert(pc.or_(members.column("removed"), left)))
    members = members.append_column("old", pa.array(np.ones(members.num_rows, np.bool_)))
    return (
        labels.select(LABELS_SCHEMA.names),
        old_edges,
        members.select(CLUSTER_MEMBERS_SCHEMA.names).cast(CLUSTER_MEMBERS_SCHEMA),
    )


def standing_of(
    index: Index | None,
    documents: pa.Table,
    refused: Sequence[str | None],
    known: pa.Table | None,
    resolved: ResolvedClusters,
) -> pa.Table:
    """The clusters, as they are now, of documents that came again and say the same."""
    if index is None or known is None or UNCHANGED not in refused:
        return INCOMING_SCHEMA.empty_table()
    ids = documents.column("doc_id").to_pylist()
    same = [doc_id for doc_id, reason in zip(ids, refused, strict=True) if reason == UNCHANGED]
    cluster = dict(zip(known.column("doc_id").to_pylist(), known.column("cluster_id").to_pylist(), strict=True))
    changed = resolved.changed
    cluster.update(zip(changed.column("doc_id").to_pylist(), changed.column("cluster_id").to_pylist(), strict=True))
    names = [cluster[doc_id] for doc_id in same]
    there = index.newest("members", "cluster_id", sorted(set(names)))
    there = there.filter(pc.invert(there.column("removed")))
    sizes = Counter(there.column("cluster_id").to_pylist())
    counts = [resolved.sizes.get(name, sizes[name]) for name in names]
    nothing = [None] * len(same)
    return pa.table([same, nothing, names, counts, nothing, nothing], schema=INCOMING_SCHEMA)


def collision(context: StageContext, doc_id: str) -> DataError:
    """Two forms share 64 bits: one pair is to be expected among some 6 thousand million forms."""
    return DataError(
        "Two different texts have one key of 64 bits",
        where=context.target.uri,
        why=f"document {doc_id} and another of the same key have different 128-bit hashes",
        remedy="leave one of the two documents out of this ingest, and say it in an issue: the key has to become wider",
    )
