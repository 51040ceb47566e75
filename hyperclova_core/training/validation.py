"""Validation: the same first sequences of the held-out shards each time; loss and bits per byte, of all and of each source."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from hyperclova_core.foundation import storage
from hyperclova_core.training.config import JobConfig
from hyperclova_core.training.data.samples import Samples
from hyperclova_core.training.data.token_stream import TokenStream
from hyperclova_core.training.health.watchdog import moved
from hyperclova_core.training.model.micro_batch import MicroBatch
from hyperclova_core.training.model.tensor_parallel import tensor_group

MOST_SOURCES = 12


@dataclass(frozen=True)
class ValidationResult:
    """Loss in nats a token and bits a byte (None where bytes are unknown), of all tokens and by source (with its tokens)."""

    loss: float
    bits_per_byte: float | None
    by_source: dict[str, tuple[float, float | None, int]]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"loss": self.loss, "bits_per_byte": self.bits_per_byte, "by_source": self.by_source}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> ValidationResult:
        """What `to_dict` gave."""
        by_source = {name: (float(loss), bits, int(tokens)) for name, (loss, bits, tokens) in data["by_source"].items()}
        return ValidationResult(data["loss"], data["bits_per_byte"], by_source)

    def values(self) -> dict[str, float]:
        """As metrics; of sources only the largest, so that a run has few keys."""
        found = {"validation_loss": self.loss}
        if self.bits_per_byte is not None:
            found["validation_bits_per_byte"] = self.bits_per_byte
        for name, (loss, bits, _) in sorted(self.by_source.items(), key=lambda item: -item[1][2])[:MOST_SOURCES]:
            found[f"validation_loss/{name}"] = loss
            if bits is not None:
                found[f"validation_bits_per_byte/{name}"] = bits
        return found


class Sources:
    """Which source each token of a stream is of, and how many bytes of text it stands for (those of its document, spread evenly)."""

    def __init__(self, stream: TokenStream, provenance: tuple[str, ...]) -> None:
        names: list[str] = []
        firsts, sources, shares = [], [], []
        for shard, path in enumerate(provenance):
            table = storage.read_parquet(path, ["source", "first_token", "tokens", "bytes"])
            firsts.append(table["first_token"].to_numpy() + stream.starts[shard])
            coded = table["source"].combine_chunks().dictionary_encode()
            for name in coded.dictionary.to_pylist():
                if name not in names:
                    names.append(name)
            own = np.asarray([names.index(name) for name in coded.dictionary.to_pylist()], np.int64)
            sources.append(own[coded.indices.to_numpy()])
            shares.append(table["bytes"].to_numpy() / np.maximum(table["tokens"].to_numpy(), 1))
        order = np.argsort(np.concatenate(firsts), kind="stable")
        self._firsts = np.concatenate(firsts)[order]
        self._sources = np.concatenate(sources)[order]
        self._shares = np.concatenate(shares)[order]
        # in the order of their names: ranks and attempts agree
        self.names = sorted(names)
        self._sources = np.asarray([self.names.index(name) for name in names], np.int64)[self._sources]

    def of(self, starts: npt.NDArray[np.int64], length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Source numbers and bytes of tokens `start` to `start + length`, each of shape (starts, length)."""
        places = starts[:, None] + np.arange(length)
        owners = np.searchsorted(self._firsts, places, side="right") - 1
        return self._sources[owners], self._shares[owners]


class Validation:
    """Evaluates on all ranks together."""

    def __init__(self, job: JobConfig, data_rank: int) -> None:
        train = job.train
        self._job, self._rank = job, data_rank
        tokenizer = job.tokenizer_identity if dist.get_rank() == 0 else None
        self.stream = TokenStream(job.validation_shards, job.vocabulary, tokenizer, int(job.cache_gigabytes * 1e9))
        self.samples = Samples(self.stream, train.sequence_length, train.seed, 1)
        self._sources = Sources(self.stream, job.validation_provenance) if job.validation_provenance else None
        at_once = train.size.parallel.micro_batch_size * train.size.parallel.data
        # the same sequences at every layout: what fills the last round is evaluated and not counted
        self.count = min(self.samples.count, train.validation_sequences)
        self._rounds = -(-self.count // at_once)

    def _first(self, number: int) -> int:
        micro = self._job.train.size.parallel.micro_batch_size
        return (self._rank * self._rounds + number) * micro

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        micro = self._job.train.size.parallel.micro_batch_size
        for number in range(self._rounds):
            moved(f"validation, micro-batch {number}")
            block = torch.from_numpy(self.samples.batch(self._first(number), micro))
            yield block[:, :-1].contiguous(), block[:, 1:].contiguous()

    def run(self, engine: Any, marks_of: Any) -> ValidationResult:
        """Evaluate.

        Args:
            marks_of: gives the end-of-document marks of a range of samples (see `MicroBatch`), or None.
        """
        train, loss = self._job.train, engine.module.loss_fn
        micro = train.size.parallel.micro_batch_size
        loss.by_token = []
        before = engine.micro_batch_at
        engine.micro_batch_at = lambda number: MicroBatch(
            self._first(number), micro, train.seed, marks_of(self.samples, self._first(number), micro)
        )
        try:
            engine.eval_batch(self._batches(), num_micro_batches=self._rounds, bcast_loss=False, reduce_output=None)
            found, loss.by_token = loss.by_token, None
        finally:
            engine.micro_batch_at, loss.by_token = before, None
        names = self._sources.names if self._sources is not None else [""]
        sums = np.zeros((len(names), 3))  # nats, tokens, bytes
        if engine.is_last_stage() and tensor_group().rank == 0:
            for number, losses in enumerate(found):
                counted = max(0, min(micro, self.count - self._first(number)))
                starts = self.samples.places(self._first(number), counted)
                values = losses[:counted].double().cpu().numpy()
                if self._sources is None:
                    sums[0] += values.sum(), values.size, values.size * (self._job.validation_bytes_per_token or 0.0)
                else:
                    owners, shares = self._sources.of(starts + 1, train.sequence_length)
                    for column, weights in enumerate((values, np.ones_like(values), shares)):
                        sums[:, column] += np.bincount(owners.ravel(), weights.ravel(), len(names))
        total = torch.from_numpy(sums).to(engine.device)
        dist.all_reduce(total)
        return _result(names, total.cpu().numpy())


def _result(names: list[str], sums: npt.NDArray[np.float64]) -> ValidationResult:
    def both(nats: float, tokens: float, size: float) -> tuple[float, float | None, int]:
        return nats / tokens, nats / math.log(2) / size if size else None, int(tokens)

    by_source = {name: both(*row) for name, row in zip(names, sums.tolist(), strict=True) if name and row[1]}
    loss, bits, _ = both(*sums.sum(0).tolist())
    return ValidationResult(loss, bits, by_source)
