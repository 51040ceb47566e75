"""The learning rate: linear warm-up, then a cosine down to a share of the peak (Brown 2020, appendix B)."""

from __future__ import annotations

import math


def learning_rate(step: int, steps: int, peak: float, warmup_share: float, final_share: float) -> float:
    """The rate of step 0 … steps - 1."""
    warmup = max(1, round(steps * warmup_share))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return peak * (final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
