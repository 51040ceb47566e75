"""BPE engines with one byte-level vocabulary on the same texts, for benchmarks/serialize.py (run in .venv-peers).

peer_bpe.py TOKENIZER_FOLDER TEXTS.jsonl
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import tiktoken
from tokenizers import Tokenizer

PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
BYTES = {chr(byte): byte for byte in PRINTABLE} | {chr(256 + at): byte for at, byte in enumerate(OTHERS)}
PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


def main() -> None:
    model = json.loads((Path(sys.argv[1]) / "tokenizer.json").read_text(encoding="utf-8"))
    model["added_tokens"] = []
    texts = [json.loads(line) for line in Path(sys.argv[2]).read_text(encoding="utf-8").split("\n") if line]
    texts = [text for text in texts if "[" not in text]
    size = sum(len(text.encode()) for text in texts) / 1e6
    huggingface = Tokenizer.from_str(json.dumps(model))
    names = {
        token["content"] for token in json.loads((Path(sys.argv[1]) / "tokenizer.json").read_text())["added_tokens"]
    }
    ranks = {
        bytes(BYTES[sign] for sign in token): index
        for token, index in model["model"]["vocab"].items()
        if token not in names
    }
    engine = tiktoken.Encoding("ours", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    rates, found = {}, {}
    for name, encode in (
        ("Hugging Face", lambda: [item.ids for item in huggingface.encode_batch(texts, add_special_tokens=False)]),
        ("tiktoken", lambda: [engine.encode_ordinary(text) for text in texts]),
    ):
        started = time.process_time()
        found[name] = encode()
        rates[name] = size / (time.process_time() - started)
    try:
        import gigatoken

        tokenizer = gigatoken.Tokenizer(huggingface)
        started = time.process_time()
        found["gigatoken"] = tokenizer.encode_batch_list(texts)
        rates["gigatoken"] = size / (time.process_time() - started)
    except Exception as error:  # noqa: BLE001 - a peer that cannot read this vocabulary is said to be so
        print(f"gigatoken  not measured: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
    same = {name: sum(a == b for a, b in zip(ids, found["Hugging Face"], strict=True)) for name, ids in found.items()}
    words = ", ".join(
        f"{name} {rate:.1f} ({same[name]} of {len(texts)} as Hugging Face)" for name, rate in rates.items()
    )
    print(f"BPE alone  byte-level, whole texts, MB per CPU-second: {words}")


if __name__ == "__main__":
    main()
