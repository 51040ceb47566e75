"""What a comparison found."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hyperclova_core.corpus.deduplicate.clusters.survivors import ResolvedClusters
from hyperclova_core.corpus.deduplicate.minhash.lsh_banding import Candidates
from hyperclova_core.corpus.deduplicate.schemas import Nodes, TextPlace


@dataclass
class Found:
    """What was found out about the incoming documents (and, with an index, of the old ones they touch).

    Attributes:
        documents: DOCUMENTS_SCHEMA of the incoming documents, sorted by doc_id.
        fresh: which of them take part; refused: why others do not (null: an evaluation item is in it).
        forms: node → row of its best document, of the forms that are new.
        cluster_members: CLUSTER_MEMBERS_SCHEMA, the documents of clusters of more than one, old and new; resolved: what became of them.
        standing: INCOMING_SCHEMA of documents that came again unchanged: the clusters they are in.
        labels: LABELS_SCHEMA of all touched nodes; edges: the new ones.
    """

    documents: pa.Table
    fresh: npt.NDArray[np.bool_]
    refused: list[str | None]
    new_nodes: Nodes
    new_rows: npt.NDArray[np.int64]
    candidates: Candidates
    templates: list[tuple[int, int, str]]
    edges: pa.Table
    labels: pa.Table
    old_labels: pa.Table
    cluster_members: pa.Table
    resolved: ResolvedClusters
    standing: pa.Table
    contained: pa.Table
    removed: pa.Table
    places: dict[str, TextPlace]
    counts: dict[str, float] = field(default_factory=dict)
