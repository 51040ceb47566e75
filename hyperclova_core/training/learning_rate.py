"""Sizes of the global batches, and the learning rate, as functions of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate


@dataclass(frozen=True)
class BatchPlan:
    """How many samples each step takes.

    Args:
        samples: of the whole training; what does not fill a last batch is left out.
        full: size of a batch after the ramp.
        start, increment, ramp: the first batch, by how much batches grow, and over how many samples (Megatron-LM's
            --rampup-batch-size); `start` 0: no ramp.
    """

    samples: int
    full: int
    start: int = 0
    increment: int = 1
    ramp: int = 0

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """All sizes that occur, in order.

        Raises:
            ValueError: the ramp does not end at the full batch.
        """
        if not self.start:
            return (self.full,)
        if self.start > self.full or (self.full - self.start) % self.increment:
            raise ValueError(
                f"a batch that starts at {self.start} and grows by {self.increment} does not reach {self.full}"
            )
        return tuple(range(self.start, self.full + 1, self.increment))

    @cached_property
    def _levels(self) -> tuple[tuple[int, int, int], ...]:
        """(first step, first sample, size) of each level of the ramp; the last is the full batch."""
        growing = self.sizes[:-1]
        steps = [max(1, round(self.ramp / max(1, len(growing)) / size)) for size in growing]
        firsts = [0, *accumulate(steps)]
        samples = [0, *accumulate(count * size for count, size in zip(steps, growing, strict=True))]
        return tuple(zip(firsts, samples, self.sizes, strict=True))

    @cached_property
    def steps(self) -> int:
        """Optimizer steps that the samples are enough for."""
        for (first, sample, size), following in zip(self._levels, [*self._levels[1:], None], strict=True):
            if following is None or following[1] > self.samples:
                return first + max(0, self.samples - sample) // size
        raise AssertionError

    def at(self, step: int) -> tuple[int, int]:
        """First sample and size of a step's batch."""
        first, sample, size = next(level for level in reversed(self._levels) if level[0] <= step)
        return sample + (step - first) * size, size


def learning_rate(
    done: int,
    samples: int,
    peak: float,
    warmup_share: float,
    final_share: float,
    kind: str = "cosine",
    decay_share: float = 0.2,
) -> float:
    """The rate of the step that ends with `done` of `samples` read.

    Linear warm-up, then a cosine to a share of the peak (Brown 2020, appendix B), or the peak until a linear decay at the end
    (warm-up, stable, decay: Hu 2024, MiniCPM).
    """
    warmup = samples * warmup_share
    if done < warmup:
        return peak * done / warmup
    if kind == "wsd":
        decay = samples * decay_share
        progress = max(0.0, 1 - (samples - done) / decay)
        return peak * (1 - (1 - final_share) * min(1.0, progress))
    progress = min(1.0, (done - warmup) / max(1e-9, samples - warmup))
    return peak * (final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * progress)))
