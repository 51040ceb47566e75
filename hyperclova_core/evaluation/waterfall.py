"""The waterfall: loss curves of all sizes against tokens and against compute, and where they cross."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperclova_core.foundation import storage


@dataclass(frozen=True)
class Curve:
    """One training: tokens, compute (FLOPs) and loss, each of shape (points,); validation points apart."""

    name: str
    non_embedding_parameters: int
    tokens: npt.NDArray[np.float64]
    flops: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    validation_tokens: npt.NDArray[np.float64]
    validation_loss: npt.NDArray[np.float64]


def curve_of(name: str, parameters: int, rows: Sequence[dict[str, Any]]) -> Curve:
    """A curve from the rows of a `metrics.jsonl`."""
    held = [row for row in rows if "validation_loss" in row]

    def column(source: Sequence[dict[str, Any]], key: str) -> npt.NDArray[np.float64]:
        return np.asarray([row[key] for row in source], np.float64)

    return Curve(
        name,
        parameters,
        column(rows, "tokens"),
        column(rows, "training_flops"),
        column(rows, "loss"),
        column(held, "tokens"),
        column(held, "validation_loss"),
    )


def smooth(values: npt.NDArray[np.float64], weight: float = 0.6) -> npt.NDArray[np.float64]:
    """Exponential moving average, corrected for its start (Kingma 2015)."""
    result, average = np.empty_like(values), 0.0
    for index, value in enumerate(values):
        average = weight * average + (1 - weight) * value
        result[index] = average / (1 - weight ** (index + 1))
    return result


def crossings(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Where the validation loss of a larger model comes to stay below a smaller one's, by interpolation on tokens.

    `tokens` is None where the larger is not below at the end, 0 where it was below all along.
    """
    found = []
    for small, large in itertools.combinations(sorted(curves, key=lambda curve: curve.non_embedding_parameters), 2):
        if len(small.validation_tokens) < 2 or len(large.validation_tokens) < 2:
            continue
        grid = np.unique(np.concatenate([small.validation_tokens, large.validation_tokens]))
        grid = grid[
            (grid >= max(small.validation_tokens[0], large.validation_tokens[0]))
            & (grid <= min(small.validation_tokens[-1], large.validation_tokens[-1]))
        ]
        gap = np.interp(grid, large.validation_tokens, large.validation_loss) - np.interp(
            grid, small.validation_tokens, small.validation_loss
        )
        at: float | None
        if gap[-1] >= 0:
            at = None
        else:
            above = np.flatnonzero(gap >= 0)
            if not len(above):
                at = 0.0
            else:
                last = int(above[-1])
                at = float(grid[last] + (grid[last + 1] - grid[last]) * gap[last] / (gap[last] - gap[last + 1]))
        found.append({"smaller": small.name, "larger": large.name, "tokens": at, "final_gap": round(float(gap[-1]), 4)})
    return found


def draw(curves: Sequence[Curve], path: str) -> None:
    """The figure: loss against tokens and against compute, one colour a size, dots for validation."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5), sharey=True)
    colours = pyplot.get_cmap("viridis")(np.linspace(0.05, 0.85, max(1, len(curves))))
    for curve, colour in zip(sorted(curves, key=lambda item: item.non_embedding_parameters), colours, strict=True):
        label = f"{curve.name} ({curve.non_embedding_parameters:,} parameters)"
        for axis, x in zip(axes, (curve.tokens, curve.flops), strict=True):
            axis.plot(x, curve.loss, color=colour, alpha=0.15)
            axis.plot(x, smooth(curve.loss), color=colour, label=label)
        flops = np.interp(curve.validation_tokens, curve.tokens, curve.flops)
        for axis, x in zip(axes, (curve.validation_tokens, flops), strict=True):
            axis.plot(
                x, curve.validation_loss, "o", color=colour, markersize=4, markeredgecolor="white", markeredgewidth=0.5
            )
    for axis, label in zip(axes, ("training tokens", "training compute (FLOPs)"), strict=True):
        axis.set_xscale("log")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("loss (nats per token), lines: training, dots: validation")
    axes[0].legend(frameon=False)
    figure.suptitle("Waterfall: loss of each model size")
    figure.tight_layout()
    with storage.replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def describe(found: Sequence[dict[str, Any]]) -> list[str]:
    """Crossings in words."""
    lines = []
    for item in found:
        if item["tokens"] is None:
            lines.append(
                f"{item['larger']} has not passed {item['smaller']} yet (behind by {item['final_gap']:.3f} nats)"
            )
        elif math.isclose(item["tokens"], 0.0):
            lines.append(
                f"{item['larger']} was ahead of {item['smaller']} all along (by {-item['final_gap']:.3f} nats at the end)"
            )
        else:
            lines.append(
                f"{item['larger']} passed {item['smaller']} at {item['tokens']:,.0f} tokens (ahead by {-item['final_gap']:.3f} nats at the end)"
            )
    return lines
