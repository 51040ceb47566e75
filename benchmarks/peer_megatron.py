"""The usual ways to make Megatron shards, one worker, for benchmarks/serialize.py (run in .venv-peers).

A: for each document, cut into pretokens and morphemes with mecab, encode with Hugging Face's tokenizers, append with Megatron's builder.
B: what Megatron-LM's tools/preprocess_data.py does: Hugging Face's tokenizers on the text, append with Megatron's builder.

    peer_megatron.py A|B TEXTS.jsonl TOKENIZER_FOLDER OUTPUT_PREFIX     → one line of JSON: seconds, bytes, tokens
"""

from __future__ import annotations

import json
import os
import sys
import time
import unicodedata
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
from tokenizers import Tokenizer

from hyperclova_core.tokens.pretokens.rules import PreTokenizer


def encoder_a(folder: Path):  # type: ignore[no-untyped-def]
    model = json.loads((folder / "bpe.json").read_text(encoding="utf-8"))
    rules = json.loads((folder / "hyperclova_tokenizer.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_str(json.dumps({**model, "added_tokens": [], "normalizer": None}))
    pre_tokenizer = PreTokenizer(rules["kind"], rules["classes"], rules["digits"], rules["placeholders"])
    placeholders = rules["placeholders"]

    def encode(text: str) -> list[int]:
        text = unicodedata.normalize("NFC", text)
        pieces = [piece for pretoken in pre_tokenizer.pretokens(text) for piece in pre_tokenizer.pieces(pretoken)]
        if not any(piece in placeholders for piece in pieces):
            return tokenizer.encode(pieces, is_pretokenized=True, add_special_tokens=False).ids
        ids: list[int] = []
        for piece in pieces:
            ids += (
                [placeholders[piece]] if piece in placeholders else tokenizer.encode([piece], is_pretokenized=True).ids
            )
        return ids

    return encode, len(model["model"]["vocab"])


def encoder_b(folder: Path):  # type: ignore[no-untyped-def]
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model["added_tokens"] = [token for token in model["added_tokens"] if not token["special"]]
    tokenizer = Tokenizer.from_str(json.dumps(model))
    return (lambda text: tokenizer.encode(text, add_special_tokens=False).ids), len(model["model"]["vocab"])


def main() -> None:
    mode, texts, folder, prefix = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
    encode, size = (encoder_a if mode == "A" else encoder_b)(folder)
    documents = [json.loads(line) for line in texts.open(encoding="utf-8")]
    encode("가나다 처음")
    started, cpu = time.perf_counter(), time.process_time()
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16 if size < 65_500 else np.int32)
    tokens = 0
    for text in documents:
        ids = [*encode(text), 0]
        tokens += len(ids)
        builder.add_document(torch.tensor(ids, dtype=torch.int64), [len(ids)])
    builder.finalize(f"{prefix}.idx")
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - started,
                "cpu": time.process_time() - cpu,
                "bytes": sum(len(text.encode()) for text in documents),
                "tokens": tokens,
            }
        )
    )


if __name__ == "__main__":
    main()
