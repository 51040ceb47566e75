"""From components to clusters: a chain a~b~c whose ends differ must not let c be dropped for a.

In each component the form with the best rank is an anchor; forms as similar to it as the threshold asks join it, the rest go on
alike. Ranks are those of the documents themselves, so clusters depend on nothing but the documents: a night after many
comes to the same clusters as one batch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hyperclova_core.corpus.deduplicate.clusters.number_variants import EXACT, Differences, differences
from hyperclova_core.corpus.deduplicate.config import DeduplicateConfig, NumbersConfig
from hyperclova_core.corpus.deduplicate.schemas import (
    CLUSTER_MEMBERS_SCHEMA,
    GROUPS_SCHEMA,
    INCOMING_SCHEMA,
    LOG_SCHEMA,
    PROMOTED_SCHEMA,
    SURVIVAL_ORDER,
)
from hyperclova_core.foundation.hashing import digest_parts
from hyperclova_core.foundation.jit import compiled
from hyperclova_core.foundation.stages.spark_frames import Batches, grouped_chunks, matrix

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

MEMBERS = "node long, anchor long, similarity double"
MOST_COMPARED = 256
"""Anchors of a component that are compared with all of its nodes; those after them only with what shares an edge with them."""


def split_components(labels: DataFrame, edges: DataFrame, forms: DataFrame, config: DeduplicateConfig) -> DataFrame:
    """(node, anchor, similarity) of every node of a component.

    Args:
        labels: node, component.
        edges: left, right, similarity.
        forms: node, tier, length, invisible, earliest, doc_id (of the form's best document), signature.
    """
    from pyspark.sql import functions as F

    width, threshold = config.permutations, config.representative
    nodes = labels.join(forms, "node").select(
        "component",
        F.lit(0).alias("kind"),
        "tier",
        (-F.col("length")).alias("shorter"),
        "invisible",
        "earliest",
        "doc_id",
        F.col("node").alias("left"),
        F.lit(None).cast("long").alias("right"),
        F.lit(None).cast("double").alias("similarity"),
        "signature",
    )
    lines = edges.join(labels.withColumnRenamed("node", "left"), "left").select(
        "component",
        F.lit(1).alias("kind"),
        F.lit(0).alias("tier"),
        F.lit(0).cast("long").alias("shorter"),
        F.lit(0).alias("invisible"),
        F.lit(0).cast("long").alias("earliest"),
        F.lit("").alias("doc_id"),
        "left",
        "right",
        "similarity",
        F.lit(None).cast("binary").alias("signature"),
    )

    def split(batches: Batches) -> Batches:
        for chunk in grouped_chunks(batches, "component"):
            kind = chunk.column("kind").to_numpy()
            rows, links = chunk.filter(pa.array(kind == 0)), chunk.filter(pa.array(kind == 1))
            made = assign(
                rows.column("component").to_numpy(),
                rows.column("left").to_numpy(),
                matrix(rows.column("signature"), np.uint16, width),
                links.column("component").to_numpy(),
                links.column("left").to_numpy(),
                links.column("right").to_numpy(),
                links.column("similarity").to_numpy(),
                threshold,
            )
            yield pa.RecordBatch.from_arrays(
                [rows.column("left").combine_chunks(), pa.array(made[0]), pa.array(np.round(made[1], 4))],
                schema=GROUPS_SCHEMA,
            )

    together = nodes.unionByName(lines).repartition("component")
    ordered = together.sortWithinPartitions(
        "component", "kind", "tier", "shorter", "invisible", "earliest", "doc_id", "left", "right"
    )
    return ordered.mapInArrow(split, MEMBERS)


def assign_groups(
    components: npt.NDArray[np.int64],
    nodes: npt.NDArray[np.int64],
    signatures: npt.NDArray[np.uint16],
    edges: pa.Table,
    component_of: Mapping[int, int],
    threshold: float,
) -> pa.Table:
    """`assign` of nodes in this process, as a table of GROUPS_SCHEMA.

    Args:
        components, nodes, signatures: by component and, inside, by rank.
        edges: of EDGES_SCHEMA, in any order.
        component_of: node → component.
    """
    left = edges.column("left").to_numpy()
    owners = np.array([component_of[node] for node in left.tolist()], np.int64)
    order = np.argsort(owners, kind="stable")
    anchors, values = assign(
        components,
        nodes,
        signatures,
        owners[order],
        left[order],
        edges.column("right").to_numpy()[order],
        edges.column("similarity").to_numpy()[order],
        threshold,
    )
    return pa.table([pa.array(nodes), pa.array(anchors), pa.array(np.round(values, 4))], schema=GROUPS_SCHEMA)


@dataclass(frozen=True)
class ResolvedClusters:
    """What became of clusters: incoming documents (INCOMING_SCHEMA), old documents of which something changed (CLUSTER_MEMBERS_SCHEMA as
    they are now), old clusters that merged or fell apart (LOG_SCHEMA), and who is promoted (PROMOTED_SCHEMA)."""

    incoming: pa.Table
    changed: pa.Table
    log: pa.Table
    promoted: pa.Table
    sizes: Mapping[str, int]
    variants: int
    """Incoming documents that stay beside the survivor for their numbers."""


def resolve_clusters(
    cluster_members: pa.Table,
    groups: pa.Table,
    removed: pa.Table,
    origin: str,
    numbers: NumbersConfig = NumbersConfig(),  # noqa: B008 - frozen
) -> ResolvedClusters:
    """Clusters with their ids and survivors. Pure: a cluster is the documents whose forms share an anchor.

    The survivor is the best by (published, tier, length, fewest invisible characters, earliest, doc_id); where nobody is
    published any more, incoming documents go before old ones. A document that differs from the survivor in its numbers alone,
    and enough of them, stays too, the best of each content (`number_variants`). An old cluster keeps its id: it goes on in the
    group that holds the document the id names, else its published document, else most of its documents. Where two old
    clusters come together, the smaller id stays and the other is logged; where one falls apart, the rest gets new ids, logged
    too. A published document stays published; where a cluster has none left, the best of its documents is promoted.

    Args:
        cluster_members: CLUSTER_MEMBERS_SCHEMA.
        groups: GROUPS_SCHEMA; a node that is not in it stands for itself.
        removed: rows of the index of documents that left.
        numbers: which documents stay for their numbers.
        origin: names the night; new ids that would repeat an old one are made with it.
    """
    nodes = cluster_members.column("node").to_numpy()
    anchor, similarity = _anchors(nodes, groups)
    cluster_members = cluster_members.append_column("anchor", pa.array(anchor)).append_column(
        "similarity", pa.array(similarity)
    )
    cluster_members = cluster_members.append_column("first", pc.invert(cluster_members.column("published")))
    # where nobody is published any more, a text that is here goes before one that may be there no more
    rank = [("anchor", "ascending"), ("first", "ascending"), ("old", "ascending")]
    cluster_members = cluster_members.sort_by([*rank, *SURVIVAL_ORDER]).combine_chunks()
    anchor = cluster_members.column("anchor").to_numpy()
    starts = np.flatnonzero(np.append(True, anchor[1:] != anchor[:-1])[: len(anchor)])
    counts = np.diff(np.append(starts, len(anchor)))
    which = np.repeat(np.arange(len(starts)), counts)
    ids = cluster_members.column("doc_id").to_numpy(zero_copy_only=False).astype(object)
    least = np.minimum.reduceat(ids, starts) if len(starts) else ids
    old = cluster_members.column("old").to_numpy(zero_copy_only=False)
    before = set(removed.column("doc_id").to_pylist())
    names, log = _names(cluster_members, which, least, anchor[starts] if len(starts) else anchor, origin, before)
    best = np.repeat(starts, counts)
    node = cluster_members.column("node").to_numpy()
    same = node == node[best] if len(node) else np.zeros(0, np.bool_)
    cluster = names[which] if len(which) else names
    alike = cluster_members.column("similarity").to_numpy()
    # the anchor itself may fall to an old survivor: then the survivor's similarity to it is theirs
    values = np.where(same, 1.0, np.where(node == anchor, alike[best], alike)) if len(node) else alike
    found = differences(cluster_members, cluster_members.take(pa.array(best)), values, numbers)
    content = cluster_members.column("content").to_numpy()
    survivor, reason, values = _survivors(best, which, content, found)
    incoming = pa.table(
        [
            pa.array(ids[~old], pa.string()),
            pa.array(ids[survivor[~old]], pa.string()),
            pa.array(cluster[~old], pa.string()),
            pa.array(counts[which[~old]].astype(np.int32)),
            pa.array(reason[~old], pa.string()),
            pa.array(values[~old]),
        ],
        schema=INCOMING_SCHEMA,
    )
    published = cluster_members.column("published").to_numpy(zero_copy_only=False)
    kept = np.arange(len(ids)) == survivor
    was = cluster_members.column("cluster_id").to_numpy(zero_copy_only=False)
    promoted = old & kept & ~published
    changed = old & ((was != cluster) | promoted)
    now = cluster_members.set_column(
        cluster_members.schema.get_field_index("cluster_id"), "cluster_id", pa.array(cluster, pa.string())
    )
    now = now.set_column(now.schema.get_field_index("published"), "published", pa.array(published | promoted))
    lost = {
        row["cluster_id"]: row["doc_id"]
        for row in removed.select(["cluster_id", "doc_id", "published"]).to_pylist()
        if row["published"]
    }
    promotions = [
        {"doc_id": ids[row], "cluster_id": cluster[row], "in_place_of": lost.get(was[row], "")}
        for row in np.flatnonzero(promoted)
    ]
    return ResolvedClusters(
        incoming.sort_by("doc_id"),
        now.filter(pa.array(changed, pa.bool_())).select(CLUSTER_MEMBERS_SCHEMA.names),
        pa.Table.from_pylist(log, LOG_SCHEMA),
        pa.Table.from_pylist(promotions, PROMOTED_SCHEMA),
        dict(zip(names.tolist(), counts.tolist(), strict=True)),
        int(np.count_nonzero(~old & kept & (survivor != best))),
    )


def _survivors(
    best: npt.NDArray[np.int64], which: npt.NDArray[np.int64], content: npt.NDArray[np.int64], found: Differences
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.object_], npt.NDArray[np.float64]]:
    """(row of the survivor, reason, similarity) of each document; rows come by cluster and, inside, by rank.

    Of documents that stay for their numbers the best of each content does, and every copy of it falls to it.
    """
    survivor, reason, values = best.copy(), found.reason, found.similarity
    if not found.apart.any():
        return survivor, reason, values
    stays: dict[tuple[int, int], int] = {}
    for row in np.flatnonzero(found.apart).tolist():
        stays.setdefault((int(which[row]), int(content[row])), row)
    clusters = np.isin(which, np.unique(which[found.apart]))
    for row in np.flatnonzero(clusters & (content != content[best])).tolist():
        first = stays.get((int(which[row]), int(content[row])))
        if first is not None:
            survivor[row], reason[row], values[row] = first, EXACT, 1.0
    return survivor, reason, values


def _anchors(nodes: npt.NDArray[np.int64], groups: pa.Table) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    known = groups.column("node").to_numpy()
    anchor, similarity = nodes.copy(), np.ones(len(nodes))
    if len(known) and len(nodes):
        order = np.argsort(known)
        at = np.minimum(np.searchsorted(known[order], nodes), len(known) - 1)
        there = known[order][at] == nodes
        anchor[there] = groups.column("anchor").to_numpy()[order][at[there]]
        similarity[there] = groups.column("similarity").to_numpy()[order][at[there]]
    return anchor, similarity


def _names(
    cluster_members: pa.Table,
    which: npt.NDArray[np.int64],
    least: npt.NDArray[Any],
    anchors: npt.NDArray[np.int64],
    origin: str,
    before: set[str],
) -> tuple[npt.NDArray[Any], list[dict[str, str]]]:
    """The id of each cluster, and the log: only clusters with old documents take more than a look."""
    names = least.copy()
    rows = np.flatnonzero(cluster_members.column("old").to_numpy(zero_copy_only=False))
    some = cluster_members.take(pa.array(rows)).select(["doc_id", "cluster_id", "published"]).to_pylist()
    claims: defaultdict[str, dict[int, list[int]]] = defaultdict(dict)
    for row, place in zip(some, which[rows].tolist(), strict=True):
        claim = claims[row["cluster_id"]].setdefault(place, [0, 0, 0])
        claim[0] |= row["doc_id"] == row["cluster_id"]
        claim[1] |= row["published"]
        claim[2] += 1
    taken: defaultdict[int, list[str]] = defaultdict(list)
    parts: defaultdict[int, set[str]] = defaultdict(set)
    for cluster_id, found in sorted(claims.items()):
        winner = max(found, key=lambda place: (*found[place], -int(anchors[place])))
        taken[winner].append(cluster_id)
        for place in found:
            if place != winner:
                parts[place].add(cluster_id)
    log: list[dict[str, str]] = []
    for place, ids in sorted(taken.items()):
        names[place] = min(ids)
        log += [{"cluster_id": name, "became": names[place], "why": "merged"} for name in sorted(ids)[1:]]
    if claims or before:
        for place, name in enumerate(names.tolist()):
            # an old cluster has the name, or may have it from a night when the document said something else
            if place not in taken and (name in claims or name in before):
                names[place] = digest_parts("cluster", name, origin)
    for place, came_from in sorted(parts.items()):
        log += [{"cluster_id": name, "became": names[place], "why": "split"} for name in sorted(came_from)]
    return names, log


@compiled(allocates=True)
def assign(
    components: npt.NDArray[np.int64],
    nodes: npt.NDArray[np.int64],
    signatures: npt.NDArray[np.uint16],
    edge_components: npt.NDArray[np.int64],
    left: npt.NDArray[np.int64],
    right: npt.NDArray[np.int64],
    similarities: npt.NDArray[np.float64],
    threshold: float,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(anchor, similarity to it) of each node; nodes come by component and, inside, by rank, edges by component.

    Where an edge joins a node with the anchor, the edge's similarity counts, else that of the signatures. That is done for the
    first `MOST_COMPARED` anchors of a component (a template's copies, whose pairs are too many to be made, have one); a chain has an anchor every
    few nodes, and comparing all of them with all would be quadratic: from then on edges alone count.
    """
    anchors, values = np.empty(nodes.size, np.int64), np.zeros(nodes.size, np.float64)
    taken = np.zeros(nodes.size, np.bool_)
    known = np.empty(nodes.size, np.float64)
    start, edge_start = 0, 0
    for end in range(1, nodes.size + 1):
        if end < nodes.size and components[end] == components[start]:
            continue
        while edge_start < edge_components.size and edge_components[edge_start] < components[start]:
            edge_start += 1
        edge_end = edge_start
        while edge_end < edge_components.size and edge_components[edge_end] == components[start]:
            edge_end += 1
        place = {nodes[start]: start}
        for index in range(start, end):
            place[nodes[index]] = index
        # each node's neighbours, one after the other, in the order of the edges
        first_of = np.zeros(end - start + 1, np.int64)
        for edge in range(edge_start, edge_end):
            if left[edge] in place and right[edge] in place:
                first_of[place[left[edge]] - start + 1] += 1
                first_of[place[right[edge]] - start + 1] += 1
        first_of = np.cumsum(first_of)
        room = first_of[:-1].copy()
        neighbours, weights = np.empty(first_of[-1], np.int64), np.empty(first_of[-1], np.float64)
        for edge in range(edge_start, edge_end):
            if left[edge] in place and right[edge] in place:
                one, two = place[left[edge]] - start, place[right[edge]] - start
                neighbours[room[one]], weights[room[one]] = two + start, similarities[edge]
                room[one] += 1
                neighbours[room[two]], weights[room[two]] = one + start, similarities[edge]
                room[two] += 1
        known[start:end] = -1.0
        compared = 0
        for first in range(start, end):
            if taken[first]:
                continue
            anchors[first], values[first], taken[first] = nodes[first], 1.0, True
            mine = range(first_of[first - start], first_of[first - start + 1])
            for at in mine:
                known[neighbours[at]] = weights[at]
            compared += 1
            if compared > MOST_COMPARED:
                for at in mine:
                    other = neighbours[at]
                    if not taken[other] and known[other] >= threshold:
                        anchors[other], values[other], taken[other] = nodes[first], known[other], True
                    known[other] = -1.0
                continue
            for other in range(first + 1, end):
                if taken[other]:
                    continue
                value = known[other]
                if value < 0:
                    same = 0
                    for index in range(signatures.shape[1]):
                        same += signatures[first, index] == signatures[other, index]
                    value = same / signatures.shape[1]
                if value >= threshold:
                    anchors[other], values[other], taken[other] = nodes[first], value, True
            for at in mine:
                known[neighbours[at]] = -1.0
        start, edge_start = end, edge_end
    return anchors, values
