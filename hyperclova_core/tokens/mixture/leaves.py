"""Where documents hang in the mixer's tree, and on which side of the split they are: whole columns at once."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hyperclova_core.foundation.hashing import order_keys
from hyperclova_core.tokens.mixture.plan import UNKNOWN, MixConfig

COLUMNS = ("source", "category", "quality", "source_tier", "language")


def paths_of(documents: pa.RecordBatch | pa.Table, config: MixConfig) -> pa.Array:
    """The path of each document, as a dictionary array of JSON-free strings parted by U+001F."""
    parts = []
    for name in COLUMNS:
        column = documents.column(name)
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if name == "quality":
            grades = column.to_numpy(zero_copy_only=False).astype(np.float64)
            low, high = config.quality_edges
            codes = np.where(np.isnan(grades), 3, (grades >= low).astype(np.int8) + (grades >= high))
            parts.append((codes.astype(np.int64), [config.quality_bucket(edge) for edge in (low - 1, low, high, None)]))
        else:
            coded = pc.dictionary_encode(pc.fill_null(column.cast(pa.string()), UNKNOWN))
            parts.append((coded.indices.to_numpy().astype(np.int64), coded.dictionary.to_pylist()))
    combined = np.zeros(len(documents.column(0)), np.int64)
    for codes, names in parts:
        combined = combined * len(names) + codes
    distinct, places = np.unique(combined, return_inverse=True)
    paths = []
    for number in distinct.tolist():
        values: dict[str, str] = {}
        for (_, names), column_name in zip(reversed(parts), reversed(COLUMNS), strict=True):
            number, at = divmod(number, len(names))
            values["tier" if column_name == "source_tier" else column_name] = names[at]
        paths.append("\x1f".join(config.path_of(values)))
    return pa.DictionaryArray.from_arrays(pa.array(places.astype(np.int32)), pa.array(paths, pa.string()))


def validation_keys(documents: pa.RecordBatch | pa.Table, seed: int) -> npt.NDArray[np.uint64]:
    """What decides whether a document is held out for validation: a hash of its near-duplicate cluster, so no copy crosses."""
    clusters = documents.column("cluster_id")
    return order_keys(pc.if_else(pc.is_valid(clusters), clusters, documents.column("doc_id")), seed, "validation")


def below(keys: npt.NDArray[np.uint64], limit: int) -> npt.NDArray[np.bool_]:
    """Which keys are below a limit between 0 and 2^64."""
    return np.ones(len(keys), np.bool_) if limit >= 1 << 64 else keys < np.uint64(limit)


def share_limit(share: float) -> int:
    """The limit that this share of all keys is below."""
    return int(share * 2**64)
