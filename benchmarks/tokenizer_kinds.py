"""Three kinds of tokenizer compared as HyperCLOVA's paper does, at a scale that a laptop reaches: the same small model on each.

    make bench-tokenizers [BENCH_MB=12] [VOCABULARY=4096]

All three are learnt on the same texts and read the same bytes once, in the same order; loss is given in bits per byte of held-out text, for
losses per token of different vocabularies do not compare. One thread.
"""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path

from hyperclova_core.tokens.encoder.worker_encoder import column_encoder

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from serialize import counted, texts_of

from hyperclova_core.tokens.tokenizer_training.learning import learn
from hyperclova_core.training.model.gpt import WholeModel
from hyperclova_core.training.model.sizes import ModelSize

MEGABYTES = float(os.environ.get("BENCH_MB", "12"))
VOCABULARY = int(os.environ.get("VOCABULARY", "4096"))
SIZE = ModelSize(layers=3, hidden_size=56, heads=4, learning_rate=8e-3)
CONTEXT, BATCH, WARM_UP = 128, 16, 50


def rate(step: int, steps: int) -> float:
    """Warm-up, then cosine to a tenth."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return 0.55 + 0.45 * math.cos(math.pi * (step - WARM_UP) / max(1, steps - WARM_UP))


def bits_per_byte(model: WholeModel, ids: torch.Tensor, size: int) -> float:
    """Of a held-out text."""
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, CONTEXT * BATCH):
            part = ids[start : start + CONTEXT * BATCH + 1]
            for at in range(0, len(part) - 1, CONTEXT):
                block = part[at : at + CONTEXT + 1]
                total += float(F.cross_entropy(model(block[None, :-1])[0], block[1:], reduction="sum"))
    return total / math.log(2) / size


def main() -> None:
    torch.set_num_threads(1)
    texts = texts_of(MEGABYTES)
    held, train = texts[::40], [text for at, text in enumerate(texts) if at % 40]
    held_bytes = sum(len(text.encode()) for text in held)
    train_bytes = sum(len(text.encode()) for text in train)
    words = sum(len(text.split()) for text in held)
    print(
        f"{train_bytes / 1e6:.1f} MB to read once, {held_bytes / 1e6:.2f} MB held out, vocabulary {VOCABULARY:,}, model {SIZE.layers} x {SIZE.width}"
    )
    print(f"{'kind':<11}{'bytes/token':>12}{'tokens/word':>12}{'tokens':>12}{'bits/byte':>11}{'seconds':>9}")
    for kind in ("morpheme", "byte", "character"):
        pretokens, often = counted(train, kind)
        tokenizer = learn(kind, VOCABULARY, 3, pretokens, often, {})
        encoder = column_encoder(tokenizer, memo=False)
        ids = torch.from_numpy(encoder.encode(pa.array(train), 0).ids.astype(np.int64))
        test = torch.from_numpy(encoder.encode(pa.array(held), 0).ids.astype(np.int64))
        model = WholeModel(SIZE, tokenizer.padded_vocabulary_size, CONTEXT, seed=1)
        optimizer = torch.optim.AdamW(model.parameters(), SIZE.learning_rate, (0.9, 0.95), weight_decay=0.1)
        steps = (len(ids) - 1) // (CONTEXT * BATCH)
        started = time.perf_counter()
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = SIZE.learning_rate * rate(step, steps)
            block = ids[step * CONTEXT * BATCH : (step + 1) * CONTEXT * BATCH + 1]
            inputs, targets = block[:-1].view(BATCH, CONTEXT), block[1:].view(BATCH, CONTEXT)
            loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        seconds = time.perf_counter() - started
        print(
            f"{kind:<11}{held_bytes / len(test):>12.3f}{len(test) / words:>12.3f}{len(ids):>12,}"
            f"{bits_per_byte(model, test, held_bytes):>11.4f}{seconds:>9.0f}"
        )


if __name__ == "__main__":
    main()
