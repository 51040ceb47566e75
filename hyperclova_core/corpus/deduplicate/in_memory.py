"""Deduplicating what one process can know of: a batch, or a night's documents together with what they touch of the index.

Rows a document, a form, a pair are numpy columns here (some 100 bytes a document); texts and signatures stay in files and are
read by keys, in workers. What the night touches of the index (the forms it repeats or resembles, their components, their
documents) is fetched by keys, put beside the incoming ones, and goes the same way as a batch. So clusters are those that one
batch of all documents would have, while no old text is read but those of pairs in the grey zone. What differs from a batch
is who survives: a document that an earlier night published stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hyperclova_core.corpus.deduplicate.clusters.connected_components import components_of
from hyperclova_core.corpus.deduplicate.clusters.decisions import decisions_of
from hyperclova_core.corpus.deduplicate.clusters.survivors import ResolvedClusters, assign_groups, resolve_clusters
from hyperclova_core.corpus.deduplicate.config import DeduplicateConfig
from hyperclova_core.corpus.deduplicate.containment.contained import contained_in, find_contained
from hyperclova_core.corpus.deduplicate.history.index import Index
from hyperclova_core.corpus.deduplicate.history.index_lookup import (
    check_against,
    collision,
    known_to,
    refused_of,
    removed_from,
    standing_of,
    touched_by,
)
from hyperclova_core.corpus.deduplicate.minhash.lsh_banding import Candidates, find_candidates
from hyperclova_core.corpus.deduplicate.minhash.verify import (
    compared,
    in_grey_zone,
    shingles_of,
    signatures_of,
    verify_grey_zone,
)
from hyperclova_core.corpus.deduplicate.result import Found
from hyperclova_core.corpus.deduplicate.schemas import (
    AS_SKETCHED,
    CLUSTER_MEMBERS_SCHEMA,
    CONTAINED_SCHEMA,
    EDGES_SCHEMA,
    GROUPS_SCHEMA,
    INCOMING,
    LABELS_SCHEMA,
    SURVIVAL_ORDER,
    Nodes,
    TextPlace,
)
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.parquet_writer import write_table
from hyperclova_core.foundation.stages.kinds import StageContext
from hyperclova_core.foundation.stages.spark_frames import matrix

if TYPE_CHECKING:
    from hyperclova_core.corpus.deduplicate.prepared import Prepared


@dataclass(frozen=True)
class Comparison:
    """What is compared with what.

    Attributes:
        documents: DOCUMENTS_SCHEMA of the incoming ones, sorted by doc_id; fresh: which of them take part.
        new_nodes: forms that the index does not know, ascending; new_rows: the row of each one's best document.
        index: of the nights before; None: the incoming documents are all there are.
        places: where texts lie, by night.
    """

    prepared: Prepared
    documents: pa.Table
    fresh: npt.NDArray[np.bool_]
    new_nodes: Nodes
    new_rows: npt.NDArray[np.int64]
    index: Index | None
    places: Mapping[str, TextPlace]
    config: DeduplicateConfig
    context: StageContext

    def first_documents(self, wanted: Nodes) -> dict[int, str]:
        """New node → doc_id of its best document, of those that are wanted."""
        mine = np.isin(self.new_nodes, wanted)
        ids = self.documents.column("doc_id").take(pa.array(self.new_rows[mine])).to_pylist()
        return dict(zip(self.new_nodes[mine].tolist(), ids, strict=True))


def compare_in_memory(
    prepared: Prepared, index: Index | None, forbidden: frozenset[str], config: DeduplicateConfig, context: StageContext
) -> Found:
    """Compare all documents, and settle the clusters.

    Args:
        index: of the nights before; None: the incoming documents are all there are.
        forbidden: doc_ids that were removed for good.

    Raises:
        DataError: two different forms have one key.
    """
    documents = prepared.table()
    known = known_to(index, documents)
    refused = refused_of(documents, known, forbidden)
    removed = removed_from(index, documents, known, forbidden, refused)
    clean = pc.is_null(documents.column("items")).to_numpy(zero_copy_only=False)
    fresh = clean & np.array([reason is None for reason in refused], np.bool_)
    nodes, rows = _forms(documents, fresh, context)
    there = index.scan("forms", "node", nodes) if index else None
    new = np.ones(len(nodes), np.bool_)
    if there is not None and there.num_rows:
        check_against(documents, nodes, rows, there, context)
        new = ~np.isin(nodes, there.column("node").to_numpy())
    places = {**(index.places() if index else {}), INCOMING: prepared.place}
    comparison = Comparison(prepared, documents, fresh, nodes[new], rows[new], index, places, config, context)
    new_nodes = comparison.new_nodes

    candidates = _candidates(comparison)
    pairs, templates = _pairs(comparison, candidates)
    edges, counts = _edges(comparison, pairs)

    old_labels, old_edges, old_members = touched_by(index, edges, new_nodes, there, removed)
    cluster_members = pa.concat_tables([old_members, _as_cluster_members(documents, fresh, removed)])
    alive = np.unique(cluster_members.column("node").to_numpy())
    orphans = _around_the_dead(pa.concat_tables([old_edges, edges]), alive, config.pair_bucket)
    if orphans.num_rows:
        more, _ = _edges(comparison, orphans)
        edges = pa.concat_tables([edges, more])
    graph = _alive(pa.concat_tables([old_edges, edges]), alive)
    ends = components_of(graph.column("left").to_numpy(), graph.column("right").to_numpy())
    labels = pa.table(list(ends), schema=LABELS_SCHEMA)
    groups = _groups(comparison, labels, graph, cluster_members)
    cluster_members = _of_several(cluster_members, groups, removed)
    resolved = resolve_clusters(cluster_members, groups, removed, context.fingerprint, config.numbers)
    contained = _contained(comparison, resolved)
    return Found(
        documents=documents,
        fresh=fresh,
        refused=refused,
        new_nodes=new_nodes,
        new_rows=comparison.new_rows,
        candidates=candidates,
        templates=templates,
        edges=edges,
        labels=labels,
        old_labels=old_labels,
        cluster_members=cluster_members,
        resolved=resolved,
        standing=standing_of(index, documents, refused, known, resolved),
        contained=contained,
        removed=removed,
        places=places,
        counts=counts,
    )


def _forms(
    documents: pa.Table, fresh: npt.NDArray[np.bool_], context: StageContext
) -> tuple[Nodes, npt.NDArray[np.int64]]:
    """Distinct nodes, ascending, and the row of each one's best document."""
    rows = np.flatnonzero(fresh)
    node = documents.column("node").to_numpy()[rows]
    names = ("tier", "length", "invisible", "earliest")
    tier, length, invisible, earliest = (documents.column(name).to_numpy()[rows] for name in names)
    order = np.lexsort((rows, earliest, invisible, -length, tier, node))  # rows are sorted by doc_id
    sorted_nodes = node[order]
    first = np.append(True, sorted_nodes[1:] != sorted_nodes[:-1])[: len(order)]
    # documents of one node have one 128-bit hash, or the node says too little
    halves = np.frombuffer(b"".join(documents.column("exact").to_pylist()), "<u8").reshape(-1, 2)[rows][order, 1]
    unequal = ~first[1:] & (halves[1:] != halves[:-1]) if len(order) else np.zeros(0, np.bool_)
    if unequal.any():
        at = int(rows[order][int(np.flatnonzero(unequal)[0]) + 1])
        raise collision(context, documents.column("doc_id")[at].as_py())
    return sorted_nodes[first], rows[order][first]


def _candidates(comparison: Comparison) -> Candidates:
    prepared, index, context = comparison.prepared, comparison.index, comparison.context
    skip = None
    if index is not None:
        root, path = context.target.root(True), f"{context.attempt_path}/materialized/skipped.parquet"
        others = np.setdiff1d(comparison.documents.column("node").to_numpy(), comparison.new_nodes)
        write_table(root, path, pa.table({"node": others}))
        skip = storage.join(root, path)
        context.scrap.files.append(skip)
    runs = index.files["bands"] if index else None
    signed = min(prepared.signed, len(comparison.new_nodes))
    return find_candidates(prepared.sketches, signed, comparison.config, context, runs, skip)


def _pairs(comparison: Comparison, candidates: Candidates) -> tuple[pa.Table, list[tuple[int, int, str]]]:
    """Distinct pairs, and templates: (node, size of the largest bucket, a doc_id)."""
    found = candidates.found.table()
    left, right, size = (found.column(name).to_numpy() for name in ("left", "right", "size"))
    largest: dict[int, int] = {}
    for node, number in zip(left[left == right].tolist(), size[left == right].tolist(), strict=True):
        largest[node] = max(number, largest.get(node, 0))
    order = np.lexsort((right, left))
    order = order[left[order] != right[order]]
    left, right = left[order], right[order]
    once = np.append(True, (left[1:] != left[:-1]) | (right[1:] != right[:-1]))[: len(left)]
    pairs = pa.table([pa.array(left[once]), pa.array(right[once])], names=["left", "right"])
    ids = comparison.first_documents(np.array(sorted(largest), np.int64))
    if comparison.index is not None and largest:
        old = comparison.index.scan("forms", "node", np.array(sorted(set(largest) - set(ids)), np.int64))
        ids.update(zip(old.column("node").to_pylist(), old.column("doc_id").to_pylist(), strict=True))
    ordered = sorted(largest.items(), key=lambda item: (-item[1], item[0]))
    return pairs, [(node, number, ids.get(node, "")) for node, number in ordered]


def _edges(comparison: Comparison, pairs: pa.Table) -> tuple[pa.Table, dict[str, float]]:
    """Verified edges of the pairs, and counts of what was compared."""
    if not pairs.num_rows:
        return EDGES_SCHEMA.empty_table(), {}
    config, context, index = comparison.config, comparison.context, comparison.index
    ends = np.union1d(pairs.column("left").to_numpy(), pairs.column("right").to_numpy())
    signatures = signatures_of(comparison.prepared.sketches, ends[np.isin(ends, comparison.new_nodes)], context)
    old = None
    if index is not None:
        old = index.scan("forms", "node", np.setdiff1d(ends, comparison.new_nodes))
        signatures = pa.concat_tables([signatures, old.select(signatures.column_names)])
    estimated = compared(pairs, signatures, config)
    doubtful = in_grey_zone(estimated, config)
    ids = comparison.first_documents(doubtful)
    wanted = [(node, doc_id, INCOMING) for node, doc_id in ids.items()]
    if old is not None:
        rows = zip(*(old.column(name).to_pylist() for name in ("node", "doc_id", "origin")), strict=True)
        grey = set(doubtful.tolist())
        wanted += [(node, doc_id, origin) for node, doc_id, origin in rows if node in grey]
    shingles = shingles_of(wanted, comparison.places, config, context, config.shingle_characters)
    edges = verify_grey_zone(estimated, shingles, config)
    grey_pairs = int((estimated.column("similarity").to_numpy() < config.threshold + config.grey_zone).sum())
    counts = {
        "pairs_compared": float(pairs.num_rows),
        "pairs_in_grey_zone": float(grey_pairs),
        "texts_not_there": float(len(doubtful) - len(shingles)),
        "edges": float(edges.num_rows),
    }
    return edges, counts


def _as_cluster_members(documents: pa.Table, fresh: npt.NDArray[np.bool_], removed: pa.Table) -> pa.Table:
    """Incoming documents; the new version of a published document is published too: it takes the place of the old one."""
    rows = documents.filter(pa.array(fresh, pa.bool_())).select(AS_SKETCHED)
    count = rows.num_rows
    rows = rows.append_column("old", pa.array(np.zeros(count, np.bool_)))
    before = removed.filter(removed.column("published")).column("doc_id").combine_chunks()
    rows = rows.append_column("published", pc.is_in(rows.column("doc_id"), value_set=before))
    for name in ("cluster_id", "origin"):
        rows = rows.append_column(name, pa.nulls(count, pa.string()))
    return rows.select(CLUSTER_MEMBERS_SCHEMA.names).cast(CLUSTER_MEMBERS_SCHEMA)


def _around_the_dead(edges: pa.Table, alive: Nodes, small: int) -> pa.Table:
    """Pairs that hold large groups together when a form that no document has any more was what they were compared with.

    Above `small` forms a bucket's forms are compared with its first only: where that one is gone, the rest would fall apart.
    They are compared with the first of those that live.
    """
    nodes, labels = components_of(edges.column("left").to_numpy(), edges.column("right").to_numpy())
    lives = np.isin(nodes, alive)
    roots, place, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    lost = np.bincount(place, weights=~lives, minlength=len(roots)) > 0
    wanted = (lost & (sizes > small))[place] & lives if len(nodes) else lives
    left, groups = nodes[wanted], labels[wanted]
    _, first, which = np.unique(
        groups, return_index=True, return_inverse=True
    )  # nodes ascend: the first is the smallest
    hubs = left[first][which] if len(left) else left
    pairs = [pa.array(hubs[hubs != left]), pa.array(left[hubs != left])]
    return pa.table(pairs, names=["left", "right"])


def _alive(edges: pa.Table, nodes: Nodes) -> pa.Table:
    """Edges both of whose forms some document has; each once."""
    left, right = edges.column("left").to_numpy(), edges.column("right").to_numpy()
    edges = edges.filter(pa.array(np.isin(left, nodes) & np.isin(right, nodes), pa.bool_()))
    edges = edges.sort_by([("left", "ascending"), ("right", "ascending")])
    left, right = edges.column("left").to_numpy(), edges.column("right").to_numpy()
    first = np.append(True, (left[1:] != left[:-1]) | (right[1:] != right[:-1]))[: len(left)]
    return edges.filter(pa.array(first, pa.bool_()))


def _groups(comparison: Comparison, labels: pa.Table, edges: pa.Table, cluster_members: pa.Table) -> pa.Table:
    """GROUPS_SCHEMA of every form in a component; anchors by the ranks of the documents, published or not."""
    if not labels.num_rows:
        return GROUPS_SCHEMA.empty_table()
    nodes = labels.column("node").to_numpy()
    rows = cluster_members.filter(
        pc.is_in(cluster_members.column("node"), value_set=labels.column("node").combine_chunks())
    )
    rows = rows.sort_by([("node", "ascending"), *SURVIVAL_ORDER])
    owner = rows.column("node").to_numpy()
    best = rows.filter(pa.array(np.append(True, owner[1:] != owner[:-1])[: len(owner)], pa.bool_()))
    component_of = dict(zip(nodes.tolist(), labels.column("component").to_pylist(), strict=True))
    components = pa.array([component_of[node] for node in best.column("node").to_pylist()], pa.int64())
    best = best.append_column("component", components)
    best = best.sort_by([("component", "ascending"), *SURVIVAL_ORDER])
    signatures = signatures_of(comparison.prepared.sketches, nodes, comparison.context)
    if comparison.index is not None:
        missing = np.setdiff1d(nodes, signatures.column("node").to_numpy())
        signatures = pa.concat_tables(
            [signatures, comparison.index.scan("forms", "node", missing).select(signatures.column_names)]
        )
    numbers = signatures.column("node").to_numpy()
    at = np.argsort(numbers)
    wanted = best.column("node").to_numpy()
    minima = signatures.column("signature").take(pa.array(at[np.searchsorted(numbers[at], wanted)]))
    return assign_groups(
        best.column("component").to_numpy(),
        wanted,
        matrix(minima, np.uint16, comparison.config.permutations),
        edges,
        component_of,
        comparison.config.representative,
    )


def _of_several(cluster_members: pa.Table, groups: pa.Table, removed: pa.Table) -> pa.Table:
    """The documents that may not be alone in their cluster, all old ones, and those after which an old cluster may be named."""
    nodes = cluster_members.column("node").to_numpy()
    _, places, counts = np.unique(nodes, return_inverse=True, return_counts=True)
    several = (counts[places] > 1) | np.isin(nodes, groups.column("node").to_numpy())
    again = pc.is_in(cluster_members.column("doc_id"), value_set=removed.column("doc_id").combine_chunks())
    mask = pa.chunked_array([pa.array(several, pa.bool_())])
    return cluster_members.filter(pc.or_(pc.or_(mask, cluster_members.column("old")), again))


def _contained(comparison: Comparison, resolved: ResolvedClusters) -> pa.Table:
    """Survivors of the incoming documents that lie in other survivors of the incoming documents."""
    config, context, documents = comparison.config, comparison.context, comparison.documents
    if config.containment.action == "off":
        return CONTAINED_SCHEMA.empty_table()
    incoming = resolved.incoming
    falls = incoming.filter(pc.not_equal(incoming.column("survivor"), incoming.column("doc_id"))).column("doc_id")
    stays = pc.invert(pc.is_in(documents.column("doc_id"), value_set=falls.combine_chunks()))
    kept = documents.column("node").to_numpy()[stays.to_numpy(zero_copy_only=False) & comparison.fresh]
    others = np.setdiff1d(documents.column("node").to_numpy(), np.intersect1d(kept, comparison.new_nodes))
    pairs = find_contained(comparison.prepared.sketches, comparison.prepared.fingerprints, others, config, context)
    if not pairs.num_rows:
        return CONTAINED_SCHEMA.empty_table()
    ends = np.union1d(pairs.column("node").to_numpy(), pairs.column("other").to_numpy())
    ids = comparison.first_documents(ends)
    lengths = documents.column("length").to_numpy()[comparison.new_rows].tolist()
    length = dict(zip(comparison.new_nodes.tolist(), lengths, strict=True))
    wanted = [(node, doc_id, INCOMING) for node, doc_id in ids.items()]
    shingles = shingles_of(wanted, comparison.places, config, context, config.containment.shingle_characters)
    facts = {node: (length[node], doc_id) for node, doc_id in ids.items()}
    return contained_in(pairs, shingles, facts, config.containment.threshold)


def decided(found: Found, config: DeduplicateConfig) -> pa.Table:
    """DECIDED_SCHEMA of incoming documents, sorted by doc_id."""
    return decisions_of(
        found.documents.select(["doc_id", "source", "items"]),
        pa.concat_tables([found.resolved.incoming, found.standing]),
        found.contained,
        found.refused,
        drop_contained=config.containment.action == "drop",
    )


def known_facts(found: Found) -> dict[str, Any]:
    """Counts of the night for its report."""
    old = found.cluster_members.column("old").to_numpy(zero_copy_only=False)
    return {
        "new_forms": len(found.new_nodes),
        "documents_touched": int(old.sum()),
        "documents_removed": found.removed.num_rows,
        "clusters_changed": len(found.resolved.log),
    }
