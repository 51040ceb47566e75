"""A whole dataset as one shard, for `hyperclova serialize`: every document once, in training order, memory bounded by ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hyperclova_core.corpus.mix import Candidate, training_order
from hyperclova_core.foundation.datasets import Dataset
from hyperclova_core.foundation.storage import local_path, replacing
from hyperclova_core.tokens.megatron import ShardWriter
from hyperclova_core.tokens.serialize import PROVENANCE_SCHEMA
from hyperclova_core.tokens.specials import EOD_ID
from hyperclova_core.tokens.tokenizer import MorphemeTokenizer


def write_single_shard(dataset: Dataset, tokenizer: str, prefix: str, seed: int) -> dict[str, Any]:
    """Write PREFIX.bin, PREFIX.idx and PREFIX.provenance.parquet; documents, tokens and bytes a token."""
    import pyarrow.parquet as pq

    encoder = MorphemeTokenizer.load(tokenizer)
    encoded: dict[str, tuple[npt.NDArray[np.int32], dict[str, Any]]] = {}
    for batch in dataset.batches("documents", ["doc_id", "source", "content_hash", "text"], rows=512):
        rows = batch.to_pylist()
        for row, new in zip(rows, encoder.encode_batch(row["text"] for row in rows), strict=True):
            details = {"source": row["source"], "content_hash": row["content_hash"], "bytes": len(row["text"].encode())}
            encoded[row["doc_id"]] = (np.asarray([*new, EOD_ID], np.int32), details)
    order = training_order(
        (Candidate(doc_id, details["source"], len(ids)) for doc_id, (ids, details) in encoded.items()), seed
    )
    provenance: list[dict[str, Any]] = []
    first = 0
    name = prefix.rsplit("/", 1)[-1]
    with ShardWriter(prefix, encoder.vocabulary_size) as writer:
        for number, chosen in enumerate(order):
            ids, details = encoded[chosen.doc_id]
            writer.add(ids)
            provenance.append(
                {
                    "doc_id": chosen.doc_id,
                    **details,
                    "copy": 0,
                    "shard": name,
                    "document": number,
                    "first_token": first,
                    "tokens": len(ids),
                }
            )
            first += len(ids)
    with replacing(f"{prefix}.provenance.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(provenance, PROVENANCE_SCHEMA), local_path(temporary), compression="zstd")
    size = sum(row["bytes"] for row in provenance)
    return {"documents": len(provenance), "tokens": first, "bytes_per_token": size / max(1, first - len(provenance))}
