"""One measured training in a process of its own: `plain` torch, or our `engine`; tokens per CPU-second on stdout as JSON.

Both train the same model on the same samples with the same optimizer, clipping and schedule, in fp32 on one thread.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
SIZES = {"1M": (4, 128, 4, 1024), "5M": (5, 256, 8, 4096)}
CONTEXT, BATCH, MICRO, WARM = 256, 16, 4, 3


def job(size: str, prefix: str, steps: int, output: str) -> Any:
    """The training."""
    from hyperclova_core.training.config import JobConfig

    layers, hidden_size, heads, vocabulary = SIZES[size]
    return JobConfig.model_validate(
        {
            "train": {
                "size": {
                    "name": size,
                    "shape": {"layers": layers, "hidden_size": hidden_size, "heads": heads, "learning_rate": 1e-3},
                    "parallel": {"micro_batch_size": MICRO},
                },
                "sequence_length": CONTEXT,
                "global_batch_size": BATCH,
                "tokens": steps * BATCH * CONTEXT,
                "log_every": 5,
                "dropout": float(os.environ.get("BENCH_DROPOUT", "0")),
                "evaluate_every": 10**6,
            },
            "shards": [prefix],
            "tokenizer": "none",
            "vocabulary": vocabulary,
            "padded_vocabulary": vocabulary,
            "output": output,
        }
    )


class Clock:
    """CPU seconds between the end of warm-up and the last step."""

    def __init__(self, steps: int) -> None:
        self._steps, self._done, self._start, self.seconds, self.wall = steps, 0, 0.0, 0.0, 0.0
        self._wall = 0.0

    def step(self) -> None:
        """One is done."""
        self._done += 1
        if self._done == WARM:
            self._start, self._wall = time.process_time(), time.perf_counter()
        elif self._done == self._steps:
            self.seconds, self.wall = time.process_time() - self._start, time.perf_counter() - self._wall


def plain(config: Any, clock: Clock) -> None:
    """The loop that anybody would write."""
    import torch

    from hyperclova_core.training.data.samples import Samples
    from hyperclova_core.training.data.token_stream import TokenStream
    from hyperclova_core.training.learning_rate import learning_rate
    from hyperclova_core.training.model.gpt import WholeModel

    torch.set_num_threads(1)
    train = config.train
    model = WholeModel(train.size.model, config.padded_vocabulary, train.sequence_length, train.seed)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": train.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=train.betas, fused=True)
    samples = Samples(
        TokenStream(config.shards, config.vocabulary), train.sequence_length, train.seed, train.shuffle_window
    )
    count = BATCH // MICRO
    for step in range(train.steps):
        total = 0.0
        for inputs, targets in samples.micro_batches(step * BATCH, BATCH, MICRO, 0, 1):
            logits = model(inputs)
            loss = torch.nn.functional.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1)) / count
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), train.gradient_clipping)
        rate = learning_rate((step + 1) * BATCH, train.steps * BATCH, train.size.model.learning_rate, 0.1, 0.1)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        clock.step()


def engine(config: Any, clock: Clock) -> None:
    """The product's own loop, with all that it watches and tells."""
    import logging

    from hyperclova_core.training.engine.engine import build_engine, start_processes
    from hyperclova_core.training.health.watchdog import Watchdog, store_of_ranks
    from hyperclova_core.training.loop import Stop, Training

    logging.disable(logging.INFO)
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    topology = start_processes(config.train)
    watch = Watchdog(600, lambda error: None, store_of_ranks()).start()

    class Counted(Training):
        """Tells the clock of each step."""

        def _take_step(self) -> Any:
            report = super()._take_step()
            clock.step()
            return report

    training = Counted(config, build_engine(config, topology), Stop(), watch)
    training.run()
    watch.stop()


def main() -> None:
    """`train_one.py plain|engine SIZE SHARD STEPS`."""
    kind, size, prefix, steps = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
    clock = Clock(steps)
    with tempfile.TemporaryDirectory() as folder:
        {"plain": plain, "engine": engine}[kind](job(size, prefix, steps, folder), clock)
    tokens = (steps - WARM) * BATCH * CONTEXT
    sys.stdout.write("\n" + json.dumps({"cpu": tokens / clock.seconds, "wall": tokens / clock.wall}) + "\n")


if __name__ == "__main__":
    main()
