"""The micro-batch that a pipeline stage works on: known to every layer, and to a layer that computes forwards again.

Random choices in a layer are functions of (seed, sample, place), not of a generator's state: the same at every layout, for every
tensor-parallel rank that must agree, and when activations are computed a second time; a checkpoint has no state to keep.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass
class MicroBatch:
    """Samples `first` to `first + count`, counted over the whole training.

    Args:
        marks: where end-of-document marks are among the inputs, of shape (count, tokens), when documents are to be kept apart.
    """

    first: int = 0
    count: int = 1
    seed: int = 0
    marks: torch.Tensor | None = None
    _derived: dict[str, torch.Tensor] = field(default_factory=dict)

    def positions(self) -> torch.Tensor | None:
        """Places in their own document, of shape (count, tokens), or None where documents are not kept apart. A document begins
        with the mark before it, as when the model writes."""
        if self.marks is None:
            return None
        if "positions" not in self._derived:
            places = torch.arange(self.marks.size(1), device=self.marks.device)
            self._derived["positions"] = places - torch.where(self.marks, places, 0).cummax(1).values
        return self._derived["positions"]

    def mask(self) -> torch.Tensor | None:
        """Who may attend to whom, of shape (count, 1, tokens, tokens), or None where it is the causal mask alone."""
        if self.marks is None:
            return None
        if "mask" not in self._derived:
            document = self.marks.long().cumsum(1)
            causal = torch.ones(document.size(1), document.size(1), dtype=torch.bool, device=document.device).tril()
            self._derived["mask"] = ((document[:, :, None] == document[:, None, :]) & causal)[:, None]
        return self._derived["mask"]

    def seed_of(self, sample: int, *place: str) -> int:
        """A seed for one sample (counted in this micro-batch) at one place of the model."""
        text = "/".join((str(self.seed), str(self.first + sample), *place))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


_NOW = MicroBatch()


def current() -> MicroBatch:
    """The micro-batch that goes forwards now."""
    return _NOW


def enter(batch: MicroBatch) -> None:
    """Name the micro-batch that goes forwards next."""
    global _NOW
    _NOW = batch


def dropout(x: torch.Tensor, rate: float, batch: MicroBatch, place: str) -> torch.Tensor:
    """Drop values of x (count, tokens, hidden_size), each sample by a generator of its own: equal on all ranks that hold the sample."""
    if rate == 0.0:
        return x
    kept = []
    for sample in range(x.size(0)):
        generator = torch.Generator(x.device).manual_seed(batch.seed_of(sample, place))
        kept.append(torch.rand(x.shape[1:], generator=generator, device=x.device) >= rate)
    return x * torch.stack(kept) / (1 - rate)


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """The default generators start from `seed`, and go back to where they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
