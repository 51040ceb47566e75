"""What a tokenizer does to texts, by source: bytes a token, fertility, and what it cannot say (nothing)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from hyperclova_core.tokens.encoder.worker_encoder import column_encoder
from hyperclova_core.tokens.tokenizer.tokenizer import Tokenizer


def fertility_report(tokenizer: Tokenizer, texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """By leaf and over all: documents, bytes, tokens, bytes a token, tokens a word between spaces (fertility), and texts that do not
    come back as they were (unknown-free: 0)."""
    encoder = column_encoder(tokenizer)
    rows: dict[str, dict[str, float]] = {}
    for leaf, documents in sorted(texts.items()):
        encoded = encoder.encode(pa.array(documents, pa.string()))
        ends = np.cumsum(encoded.lengths)
        lost = sum(
            tokenizer.decode(encoded.ids[end - size : end].tolist()) != text
            for text, end, size in zip(documents[:64], ends.tolist(), encoded.lengths.tolist(), strict=False)
        )
        rows[leaf] = {
            "documents": len(documents),
            "bytes": sum(len(text.encode()) for text in documents),
            "words": sum(len(text.split()) for text in documents),
            "tokens": int(encoded.lengths.sum()),
            "not_lossless": lost,
        }
    rows["all"] = {
        name: sum(row[name] for row in rows.values())
        for name in ("documents", "bytes", "words", "tokens", "not_lossless")
    }
    for row in rows.values():
        row["bytes_per_token"] = round(row["bytes"] / max(1, row["tokens"]), 4)
        row["fertility"] = round(row["tokens"] / max(1, row["words"]), 4)
    return {
        "kind": tokenizer.kind,
        "vocabulary_size": tokenizer.vocabulary_size,
        "all": rows.pop("all"),
        "by_leaf": rows,
    }
