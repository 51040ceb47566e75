"""From verified edges to clusters: connected components, then split so that every member resembles its survivor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hyperclova_core.corpus.deduplicate.signatures import similarity

Rank = tuple[int, int, int, str]


@dataclass(frozen=True)
class Member:
    """A document in a cluster: the survivor it gives way to, and how similar it is to it."""

    doc_id: str
    survivor: str
    cluster_id: str
    similarity: float


def connected_components(edges: list[tuple[str, str]]) -> list[list[str]]:
    """Components of two or more nodes, sorted inside and among themselves."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components as components

    if not edges:
        return []
    nodes = sorted({node for edge in edges for node in edge})
    index = {node: number for number, node in enumerate(nodes)}
    left = np.fromiter((index[a] for a, _ in edges), np.int64, len(edges))
    right = np.fromiter((index[b] for _, b in edges), np.int64, len(edges))
    graph = coo_array((np.ones(len(edges), np.int8), (left, right)), shape=(len(nodes), len(nodes)))
    _, labels = components(graph, directed=False)
    groups: defaultdict[int, list[str]] = defaultdict(list)
    for node, label in zip(nodes, labels, strict=True):
        groups[int(label)].append(node)
    return sorted(groups.values())


def split_by_survivor(
    component: list[str], ranks: Mapping[str, Rank], minima: Mapping[str, npt.NDArray[np.uint32]], threshold: float
) -> list[Member]:
    """Clusters inside one component: the best-ranked document survives, those like it join it, the rest go on alike.

    A chain a~b~c whose ends differ does not let c be dropped for a: c must match what is kept in its place.
    """
    waiting = sorted(component, key=lambda doc_id: ranks[doc_id])
    members: list[Member] = []
    while waiting:
        survivor, others = waiting[0], waiting[1:]
        alike = [survivor]
        scores = {survivor: 1.0}
        if others:
            block = np.stack([minima[doc_id] for doc_id in others])
            values = similarity(block, np.broadcast_to(minima[survivor], block.shape))
            for doc_id, value in zip(others, values, strict=True):
                if value >= threshold:
                    alike.append(doc_id)
                    scores[doc_id] = float(value)
        cluster_id = min(alike)
        members.extend(Member(doc_id, survivor, cluster_id, scores[doc_id]) for doc_id in alike)
        gone = set(alike)
        waiting = [doc_id for doc_id in others if doc_id not in gone]
    return members
