"""Published trainings that the planner is held against, and how far off it is."""

from __future__ import annotations

from dataclasses import dataclass

from hyperclova_core.training.model.sizes import SIZES, ModelSize
from hyperclova_core.training.planner.devices import DEVICES
from hyperclova_core.training.planner.estimate import Layout, Task, model_flops, step_time


@dataclass(frozen=True)
class Published:
    """A point: what was trained how, and the seconds of a step."""

    name: str
    task: Task
    layout: Layout
    seconds: float
    source: str


def _megatron(
    name: str,
    heads: int,
    hidden_size: int,
    layers: int,
    pipeline: int,
    batch: int,
    micro: int,
    interleave: int,
    both: tuple[float, float],
) -> list[Published]:
    task = Task(ModelSize(layers=layers, hidden_size=hidden_size, heads=heads, learning_rate=1e-4), 51_200, 2048, batch)
    source = "Korthikanti 2022, table 5"
    full = Layout(pipeline, 8, 1, micro, "block", False, interleave, scatter=True)
    selective = Layout(pipeline, 8, 1, micro, "attention", True, interleave, scatter=True)
    return [
        Published(f"{name}, all recomputed", task, full, both[0], source),
        Published(f"{name}, selective", task, selective, both[1], source),
    ]


MEGATRON: tuple[Published, ...] = (
    *_megatron("22B", 64, 6144, 48, 1, 4, 4, 1, (1.42, 1.10)),
    *_megatron("175B", 96, 12288, 96, 8, 64, 1, 3, (18.13, 13.75)),
    *_megatron("530B", 128, 20480, 105, 35, 280, 1, 3, (49.05, 37.83)),
    *_megatron("1T", 160, 25600, 128, 64, 512, 1, 1, (94.42, 71.49)),
)
"""On A100-80G, tensor parallel 8, data parallel 1 (arXiv 2205.05198, tables 3 and 5)."""

HYPERCLOVA_DAYS, HYPERCLOVA_TOKENS, HYPERCLOVA_DEVICES = 13.4, 150e9, 1024
"""82B on 1,024 A100 (Kim 2021, as secondary sources quote it); its layout was not published."""
HYPERCLOVA = Task(SIZES["82B"], 51_200, 2048, 1024)


def errors() -> list[tuple[Published, float, float]]:
    """(point, seconds we say, relative error) of each."""
    found = []
    for point in MEGATRON:
        ours = step_time(point.task, point.layout, DEVICES["a100-80g"]).total
        found.append((point, ours, ours / point.seconds - 1))
    return found


def hyperclova_utilisation() -> float:
    """Share of the peak that 13.4 days mean."""
    steps = HYPERCLOVA_TOKENS / (HYPERCLOVA.sequence_length * HYPERCLOVA.global_batch_size)
    return (
        model_flops(HYPERCLOVA)
        * steps
        / (HYPERCLOVA_DAYS * 86_400 * HYPERCLOVA_DEVICES * DEVICES["a100-80g"].bf16_flops)
    )
