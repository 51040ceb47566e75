"""Which steps are not taken, and when training goes back: a rule over loss and gradient norm, the same on every rank."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hyperclova_core.training.config import SpikeConfig


@dataclass(frozen=True)
class Spike:
    """A value beyond the rule.

    Args:
        measure: `loss` or `gradient_norm`; bound: mean of the window plus the deviations allowed.
    """

    step: int
    measure: str
    value: float
    bound: float


class SpikeGuard:
    """Watches steps. A value over mean + n deviations of the last steps is a spike (after OLMo's SkipStepOptimizer: 6 of 128).

    Spikes enter the window too: after a lasting change of level the rule finds the new one normal within some steps, instead of
    skipping all that follow.
    """

    def __init__(self, config: SpikeConfig, state: Mapping[str, Any] | None = None) -> None:
        self.config = config
        state = state or {}
        self._losses: deque[float] = deque(state.get("losses", ()), config.window)
        self._norms: deque[float] = deque(state.get("norms", ()), config.window)
        self._skipped: deque[int] = deque(state.get("skipped", ()))
        self._calm = int(state.get("calm", 0))
        self.rewinds = int(state.get("rewinds", 0))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {
            "losses": list(self._losses),
            "norms": list(self._norms),
            "skipped": list(self._skipped),
            "calm": self._calm,
            "rewinds": self.rewinds,
        }

    def judge(self, step: int, loss: float, norm: float) -> Spike | None:
        """Take note of a step's values; what is wrong with them, or None where the step is to be taken."""
        spike = None
        if self.config.enabled:
            for measure, value, window in (("loss", loss, self._losses), ("gradient_norm", norm, self._norms)):
                bound = bound_of(window, self.config)
                if spike is None and value > bound:
                    spike = Spike(step, measure, value, bound)
        self._losses.append(loss)
        self._norms.append(norm)
        if spike is not None:
            self._skipped.append(step)
            self._calm = 0
        else:
            self._calm += 1
            if self._calm >= self.config.window:  # that stretch is behind: goings back are counted anew
                self.rewinds = 0
        return spike

    def went_back(self, rewinds: int) -> None:
        """Training stands at an earlier step, whose state this guard has."""
        self.rewinds, self._calm = rewinds, 0

    def first_of_many(self, step: int) -> int | None:
        """The first of so many skipped steps within the window that training goes back, or None."""
        while self._skipped and self._skipped[0] <= step - self.config.window:
            self._skipped.popleft()
        return self._skipped[0] if len(self._skipped) >= self.config.rewind_after else None


def bound_of(values: Iterable[float], config: SpikeConfig) -> float:
    """The largest value that is no spike; infinite while half of the window is not there yet."""
    known = list(values)
    if 2 * len(known) < config.window:
        return math.inf
    mean = math.fsum(known) / len(known)
    variance = math.fsum((value - mean) ** 2 for value in known) / len(known)
    return mean + config.deviations * math.sqrt(variance)
