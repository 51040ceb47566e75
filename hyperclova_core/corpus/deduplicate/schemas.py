"""The narrow tables of duplicate detection: what stands in each column, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

SKETCH_SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("node", pa.int64()),
        ("exact", pa.binary()),
        ("content", pa.int64()),
        ("wording", pa.int64()),
        ("numbers", pa.binary()),
        ("tier", pa.int32()),
        ("length", pa.int64()),
        ("invisible", pa.int32()),
        ("earliest", pa.int64()),
        ("signature", pa.binary()),
        ("fingerprints", pa.binary()),
        ("items", pa.string()),
    ]
)
"""A document as comparison sees it.

`node` is the leading 64 bits of `exact`, the 128-bit hash of its form: documents of one form are one node of the graph.
`content` (all letters and digits), `wording` (the form without numbers) and `numbers` (uint32 a number) say what documents of
one cluster differ in; `length` is the form's, `invisible` counts characters that nobody sees.
`signature` (uint16 a permutation) is null for a short text, `fingerprints` (uint64 a fingerprint) where containment is not asked
for; `items` names the evaluation items in it, null where there is none.
"""
SURVIVAL_ORDER = [
    ("tier", "ascending"),
    ("length", "descending"),
    ("invisible", "ascending"),
    ("earliest", "ascending"),
    ("doc_id", "ascending"),
]
"""Of two documents of a cluster the one that comes first is the better one."""
UNKNOWN_TIME = 2**62
"""`earliest` of a document without a time: later than any."""

BANDS_SCHEMA = pa.schema([("key", pa.int64()), ("node", pa.int64())])
EDGES_SCHEMA = pa.schema([("left", pa.int64()), ("right", pa.int64()), ("similarity", pa.float64())])
GROUPS_SCHEMA = pa.schema([("node", pa.int64()), ("anchor", pa.int64()), ("similarity", pa.float64())])
"""A form with the form that stands for its cluster."""
LABELS_SCHEMA = pa.schema([("node", pa.int64()), ("component", pa.int64())])
FORMS_SCHEMA = pa.schema(
    [
        ("node", pa.int64()),
        ("exact", pa.binary()),
        ("length", pa.int64()),
        ("signature", pa.binary()),
        ("doc_id", pa.string()),
        ("origin", pa.string()),
    ]
)
"""A form; `origin` is the night (fingerprint of its output) that kept or dropped the document `doc_id` of that form."""
MEMBERS_SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("node", pa.int64()),
        ("content", pa.int64()),
        ("wording", pa.int64()),
        ("numbers", pa.binary()),
        ("source", pa.string()),
        ("tier", pa.int32()),
        ("length", pa.int64()),
        ("invisible", pa.int32()),
        ("earliest", pa.int64()),
        ("cluster_id", pa.string()),
        ("published", pa.bool_()),
        ("removed", pa.bool_()),
        ("origin", pa.string()),
    ]
)
"""A document as the index knows it; `published`: a night kept it. A removed one whose `origin` is TOMBSTONE stays removed."""
TOMBSTONE = "tombstone"

AS_SKETCHED = [name for name in MEMBERS_SCHEMA.names if name in SKETCH_SCHEMA.names]
"""What the index knows of a document as its sketch said it."""
DOCUMENTS_SCHEMA = pa.schema([field for field in SKETCH_SCHEMA if field.name not in ("signature", "fingerprints")])
CLUSTER_MEMBERS_SCHEMA = pa.schema(
    [*(field for field in MEMBERS_SCHEMA if field.name != "removed"), pa.field("old", pa.bool_())]
)
"""A document of a cluster, of the incoming documents or (`old`, with what the index knows of it) of a night before."""
DECIDED_SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("keep", pa.bool_()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("cluster_id", pa.string()),
        ("cluster_size", pa.int32()),
        ("signals", pa.map_(pa.string(), pa.float64())),
    ]
)
INCOMING_SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("survivor", pa.string()),
        ("cluster_id", pa.string()),
        ("cluster_size", pa.int32()),
        ("reason", pa.string()),
        ("similarity", pa.float64()),
    ]
)
"""A document of a cluster: who survives it (itself, perhaps), why it falls where another does, and how alike they are."""
CONTAINED_SCHEMA = pa.schema([("doc_id", pa.string()), ("container", pa.string()), ("share", pa.float64())])
LOG_SCHEMA = pa.schema([("cluster_id", pa.string()), ("became", pa.string()), ("why", pa.string())])
"""An old cluster that was `merged` into another, or of which part was `split` off."""
PROMOTED_SCHEMA = pa.schema([("doc_id", pa.string()), ("cluster_id", pa.string()), ("in_place_of", pa.string())])
"""An old document that is published now, in place of one that is gone (empty: of none that is known)."""
INCOMING = "incoming"
"""The place of the texts that are being deduplicated."""

INDEX = {
    "forms": FORMS_SCHEMA,
    "bands": BANDS_SCHEMA,
    "edges": EDGES_SCHEMA,
    "labels": LABELS_SCHEMA,
    "members": MEMBERS_SCHEMA,
}
INDEX_ORDER = {
    "forms": ("node",),
    "bands": ("key", "node"),
    "edges": ("left", "right"),
    "labels": ("node",),
    "members": ("doc_id",),
}
"""What each table of the history index is sorted by; the first column divides it into files."""


@dataclass(frozen=True)
class TextPlace:
    """Where texts can be read: for each bucket the files that may hold a document, and the table of lines that were cut before
    texts were compared."""

    files: Sequence[Sequence[str]]
    boilerplate: str | None


Nodes = npt.NDArray[np.int64]


READ = ["doc_id", "text", "source", "source_tier", "url", "published_at"]
