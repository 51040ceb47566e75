"""All layouts of a model on so many devices, the best first, and why the others fall."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.training.planner.devices import GIGA, Device
from hyperclova_core.training.planner.estimate import (
    Layout,
    Memory,
    StepTime,
    Task,
    efficiency,
    memory,
    micro_batches,
    step_time,
)

MICRO_BATCHES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Candidate:
    """A layout with what it costs.

    Args:
        why_not: empty where it fits; `behind` of the best: what costs it the most time beside the best, in words.
    """

    layout: Layout
    memory: Memory
    time: StepTime
    why_not: str = ""
    behind: str = ""

    def utilisation(self, device: Device) -> float:
        """Share of the devices' peak that the model's own FLOPs take."""
        return self.time.model_flops / (self.time.total * self.layout.devices * device.bf16_flops)


@dataclass(frozen=True)
class Plan:
    """What was found: fitting layouts, best first, and those that do not fit."""

    task: Task
    device: Device
    devices: int
    fitting: tuple[Candidate, ...]
    falling: tuple[Candidate, ...]

    def days(self, candidate: Candidate, tokens: float) -> float:
        """Days for a budget of tokens."""
        return tokens / (self.task.global_batch_size * self.task.sequence_length) * candidate.time.total / 86_400


def layouts(task: Task, devices: int, device: Device) -> Iterator[Layout]:
    """All layouts that divide: tensor parallelism within a node, as its collectives need the node's links."""
    for tensor in _divisors(devices):
        if tensor > device.in_node or task.model.heads % tensor or task.vocabulary % tensor:
            continue
        for pipeline in _divisors(devices // tensor):
            data = devices // tensor // pipeline
            if pipeline > task.model.layers or task.global_batch_size % data:
                continue
            for micro in MICRO_BATCHES:
                if (task.global_batch_size // data) % micro == 0:
                    for activation_checkpointing in ("none", "block"):
                        yield Layout(pipeline, tensor, data, micro, activation_checkpointing)


def plan(task: Task, devices: int, device: Device) -> Plan:
    """Plan.

    Raises:
        ConfigError: no layout divides at all.
    """
    candidates = [
        Candidate(layout, memory(task, layout), step_time(task, layout, device))
        for layout in layouts(task, devices, device)
    ]
    if not candidates:
        raise ConfigError(
            f"No layout of {devices} devices divides this model",
            where="--gpus",
            why=f"{task.model.heads} heads, {task.model.layers} layers and a batch of {task.global_batch_size} must divide among them",
            remedy="take a number of devices that shares factors with heads, layers and batch, such as a power of two",
        )
    fitting = sorted(
        (c for c in candidates if c.memory.total <= device.memory),
        key=lambda c: (c.time.total, c.layout.devices, c.memory.total),
    )
    falling = sorted((c for c in candidates if c.memory.total > device.memory), key=lambda c: c.memory.total)
    best = fitting[0] if fitting else None
    return Plan(
        task,
        device,
        devices,
        tuple(_compared(c, best, task) for c in fitting) if best else (),
        tuple(_refused(c, device) for c in falling),
    )


def _compared(candidate: Candidate, best: Candidate | None, task: Task) -> Candidate:
    if best is None or candidate is best:
        return candidate
    causes = {
        "recomputation": candidate.time.activation_checkpointing - best.time.activation_checkpointing,
        f"pipeline bubble ({micro_batches(task, candidate.layout)} micro-batches for {candidate.layout.pipeline} stages)": candidate.time.bubble
        - best.time.bubble,
        "tensor-parallel all-reduces": candidate.time.tensor - best.time.tensor,
        "gradients over the network": candidate.time.data - best.time.data,
        "activations between stages": candidate.time.pipeline - best.time.pipeline,
        f"narrow matrices ({100 * efficiency(task, candidate.layout):.0f} % of peak)": candidate.time.compute
        - best.time.compute,
        "the optimizer's memory traffic": candidate.time.optimizer - best.time.optimizer,
    }
    cause, seconds = max(causes.items(), key=lambda item: item[1])
    behind = f"+{100 * (candidate.time.total / best.time.total - 1):.1f} %: {cause} +{seconds:.2f} s"
    if candidate.time.total <= best.time.total * 1.0001:
        behind = "as fast; more memory"
    return Candidate(candidate.layout, candidate.memory, candidate.time, "", behind)


def _refused(candidate: Candidate, device: Device) -> Candidate:
    parts = {
        "weights, gradients and optimizer": candidate.memory.weights
        + candidate.memory.gradients
        + candidate.memory.optimizer,
        "activations": candidate.memory.activations,
        "logits": candidate.memory.logits,
    }
    largest = max(parts, key=lambda name: parts[name])
    why = f"needs {candidate.memory.total / GIGA:.0f} GB of {device.memory / GIGA:.0f}, {parts[largest] / GIGA:.0f} of it {largest}"
    return Candidate(candidate.layout, candidate.memory, candidate.time, why)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
