"""The plan in words and tables."""

from __future__ import annotations

from collections.abc import Sequence

from hyperclova_core.training.planner.devices import GIGA
from hyperclova_core.training.planner.estimate import micro_batches
from hyperclova_core.training.planner.published import HYPERCLOVA_DAYS, errors, hyperclova_utilisation
from hyperclova_core.training.planner.search import Candidate, Plan

HEAD = (
    "pipeline",
    "tensor",
    "data",
    "micro",
    "activation_checkpointing",
    "GB",
    "weights+grads+optimizer+activations",
    "step s",
    "comm s",
    "bubble %",
    "MFU %",
    "days",
    "GPU-hours",
    "",
)


def rows(plan: Plan, tokens: float, top: int) -> list[tuple[str, ...]]:
    """The best layouts, and some that do not fit, as rows under `HEAD`."""
    found = [_row(plan, candidate, tokens, candidate.behind or "best") for candidate in plan.fitting[:top]]
    return found + [_row(plan, candidate, tokens, candidate.why_not) for candidate in plan.falling[: max(2, top // 3)]]


def _row(plan: Plan, candidate: Candidate, tokens: float, words: str) -> tuple[str, ...]:
    layout, time = candidate.layout, candidate.time
    days = plan.days(candidate, tokens)
    memory = candidate.memory
    parts = (memory.weights, memory.gradients, memory.optimizer, memory.activations + memory.logits)
    return (
        str(layout.pipeline),
        str(layout.tensor),
        str(layout.data),
        str(layout.micro_batch_size),
        layout.activation_checkpointing,
        f"{memory.total / GIGA:.0f}",
        "+".join(f"{part / GIGA:.1f}" for part in parts),
        f"{time.total:.2f}",
        f"{time.tensor + time.pipeline + time.data:.2f}",
        f"{100 * time.bubble / time.total:.1f}",
        f"{100 * candidate.utilisation(plan.device):.1f}",
        f"{days:.1f}",
        f"{24 * days * plan.devices:,.0f}",
        words,
    )


def table(rows: Sequence[Sequence[str]], head: Sequence[str] = HEAD) -> str:
    """Rows as aligned text."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [
            cell.ljust(width) if column == len(head) - 1 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def snippet(plan: Plan, name: str) -> str:
    """The best layout as a recipe says it."""
    layout = plan.fitting[0].layout
    names = ("pipeline", "tensor", "data", "micro_batch_size", "activation_checkpointing")
    parts = ", ".join(f"{name}: {getattr(layout, name)}" for name in names)
    accumulation = micro_batches(plan.task, layout)
    return f"- {{name: {name}, parallel: {{{parts}}}}}   # {accumulation} micro-batches a step"


def published_table() -> str:
    """How far the planner is off at published points."""
    body = [
        (
            point.name,
            f"{point.seconds:.2f}",
            f"{ours:.2f}",
            f"{100 * error:+.1f}",
            "fitted" if "selective" in point.name else "predicted",
        )
        for point, ours, error in errors()
    ]
    text = table(body, ("Megatron-LM on A100-80G", "step s, published", "ours", "error %", ""))
    return (
        f"{text}\n"
        f"HyperCLOVA 82B, 1,024 A100, 150 B tokens in {HYPERCLOVA_DAYS} days: {100 * hyperclova_utilisation():.1f} % of the peak by the same FLOPs."
    )
