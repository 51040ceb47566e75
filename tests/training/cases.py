"""Small trainings for tests: shards of learnable text, their jobs, and what came out."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hyperclova_core.tokens.serialize.megatron_format import ShardWriter
from hyperclova_core.training.config import JobConfig
from tests.training.forked_ranks import Ranks

VOCABULARY = 256
FAULTY = "tests.training.faulty_rank"


def markov(generator: np.random.Generator, length: int, choices: int = 5) -> list[int]:
    """Text whose next id is one of so many."""
    ids = [int(generator.integers(1, VOCABULARY))]
    for noise in generator.integers(0, choices, length - 1):
        ids.append((ids[-1] * 5 + int(noise) + 17) % (VOCABULARY - 1) + 1)
    return ids


def write_shards(
    folder: Path, count: int = 2, documents: int = 60, length: int = 150, noisy: Sequence[int] = (), choices: int = 5
) -> list[str]:
    """Shards of such documents, each with its end-of-document mark; those counted in `noisy` are random ids."""
    generator = np.random.Generator(np.random.PCG64(5))
    prefixes, number = [], 0
    for shard in range(count):
        prefix = str(folder / f"train-{shard:05d}")
        with ShardWriter(prefix, VOCABULARY) as writer:
            for _ in range(documents):
                ids = (
                    markov(generator, length, choices)
                    if number not in noisy
                    else generator.integers(1, VOCABULARY, length).tolist()
                )
                writer.add(np.asarray([*ids, 0]))
                number += 1
        prefixes.append(prefix)
    return prefixes


def job(shards: Sequence[str], folder: Path | str, **parts: Any) -> JobConfig:
    """Ten steps of a tiny model, clipped."""
    parallel = {"micro_batch_size": 2, **parts.pop("parallel", {})}
    shape = {"layers": 2, "hidden_size": 32, "heads": 2, "learning_rate": 0.01, **parts.pop("shape", {})}
    train = {
        "size": {"name": "test", "shape": shape, "parallel": parallel},
        "sequence_length": 32,
        "global_batch_size": 8,
        "tokens": 10 * 8 * 32,
        "gradient_clipping": 0.5,
        "evaluate_every": 5,
        "log_every": 1,
        "seed": 11,
        **parts.pop("train", {}),
    }
    return JobConfig.model_validate(
        {
            "train": train,
            "shards": shards,
            "validation_shards": shards[1:2],
            "tokenizer": "none",
            "vocabulary": VOCABULARY,
            "padded_vocabulary": VOCABULARY,
            "output": str(folder),
            "validation_bytes_per_token": 2.0,
            **parts,
        }
    )


class Outcome:
    """How a job's ranks ended, and what they left."""

    def __init__(self, config: JobConfig, codes: list[int]) -> None:
        self.config, self.codes = config, codes
        self.folder = Path(config.output)

    @property
    def log(self) -> str:
        """What all ranks printed."""
        return (self.folder / "job.log").read_text(errors="replace")

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of metrics."""
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]

    @property
    def losses(self) -> list[float]:
        """Training losses, step by step."""
        return [row["loss"] for row in self.rows]

    @property
    def norms(self) -> list[float]:
        """Gradient norms, step by step."""
        return [row["gradient_norm"] for row in self.rows]

    @property
    def causes(self) -> list[dict[str, Any]]:
        """What ranks wrote of why they ended, the first first."""
        found = [json.loads(path.read_text()) for path in self.folder.glob("cause-*.json")]
        return sorted(found, key=lambda cause: (cause["exit_code"] == 72, cause["time"]))

    @property
    def decisions(self) -> list[dict[str, Any]]:
        """Steps skipped, goings back."""
        path = self.folder / "decisions.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def weights(self) -> bytes:
        """The exported model, byte by byte."""
        return (self.folder / "model" / "model.safetensors").read_bytes()

    @property
    def steps_saved(self) -> list[int]:
        """Steps of complete checkpoints."""
        return sorted(int(path.parent.name[5:]) for path in self.folder.glob("checkpoints/step-*/manifest.json"))


def run(
    ranks: Ranks, config: JobConfig, fault: str = "", well: bool = True, environment: dict[str, str] | None = None
) -> Outcome:
    """Run a job; with a fault (see `faulty_rank`), or expecting it to end well."""
    program = FAULTY if fault else "hyperclova_core.training.rank"
    codes = ranks.run(
        config.model_dump(mode="json"),
        config.train.size.parallel.processes,
        program,
        {**({"TEST_FAULT": fault} if fault else {}), **(environment or {})},
    )
    outcome = Outcome(config, codes)
    if well:
        assert not any(codes), f"{codes}\n{outcome.log[-4000:]}"
    return outcome


def plain_torch(config: JobConfig) -> tuple[list[float], list[float]]:
    """Losses and gradient norms of the same training in a plain loop of torch, without DeepSpeed or any of our engine."""
    from hyperclova_core.training.data.samples import Samples
    from hyperclova_core.training.data.token_stream import TokenStream
    from hyperclova_core.training.learning_rate import learning_rate
    from hyperclova_core.training.model.gpt import WholeModel

    train = config.train
    model = WholeModel(train.size.model, config.padded_vocabulary, train.sequence_length, train.seed)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": train.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=train.betas, eps=train.epsilon)
    samples = Samples(
        TokenStream(config.shards, config.vocabulary), train.sequence_length, train.seed, train.shuffle_window
    )
    losses, norms = [], []
    for step in range(train.steps):
        first, size = train.batches.at(step)
        ids = torch.from_numpy(samples.batch(first, size))
        logits = model(ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, logits.size(-1)), ids[:, 1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), train.gradient_clipping or math.inf)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(
                first + size,
                train.batches.at(train.steps)[0],
                train.size.model.learning_rate,
                train.warmup_share,
                train.final_learning_rate_share,
                train.schedule,
                train.decay_share,
            )
        optimizer.step()
        losses.append(float(loss.detach()))
        norms.append(float(norm))
    return losses, norms
