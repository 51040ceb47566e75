"""Memory and time of one training step under a layout, from published formulas and two calibrated numbers.

Sources: activations, Korthikanti 2022 (arXiv 2205.05198, section 4); FLOPs of a step, the same, appendix A; pipeline bubble,
Narayanan 2021 (arXiv 2104.04473, section 2.2); ring all-reduce, 2 (n - 1) / n of the bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from hyperclova_core.training.model.sizes import ModelSize
from hyperclova_core.training.planner.devices import GIGA, Device

EFFICIENCY, HALF_WIDTH = 0.74, 340.0
"""Share of the device's peak that matrix products reach when they are wide, and the width of a rank's share (d / tensor) at which
they reach half of that. Fitted to the four rows of Korthikanti 2022, table 5, with sequence parallelism (published.py)."""
LINK_SHARE = 0.75
"""Share of a link's nominal bytes a second that collectives reach (nccl-tests on A100 and H100 systems: 70 to 80 %)."""
MEMORY_SHARE = 0.8
RESERVED = 3 * GIGA
"""The CUDA context, NCCL's buffers, libraries' workspaces."""
FRAGMENTATION = 1.05


@dataclass(frozen=True)
class Task:
    """What is trained: batches of `global_batch_size` sequences of `sequence_length` tokens, a padded vocabulary."""

    model: ModelSize
    vocabulary: int
    sequence_length: int
    global_batch_size: int


@dataclass(frozen=True)
class Layout:
    """How it is spread. `sequence_parallel`, `interleave` (pieces of a stage) and `scatter` (each tensor-parallel rank sends its part
    of an activation to the next stage) are for published points: our engine has none of them.

    Args:
        activation_checkpointing: `none`, or `block` (all activations but a block's input are computed again). Attention is fused
            (FlashAttention), so its scores are never kept; `attention` is Korthikanti's selective recomputation.
    """

    pipeline: int
    tensor: int
    data: int
    micro_batch_size: int
    activation_checkpointing: str = "none"
    sequence_parallel: bool = False
    interleave: int = 1
    scatter: bool = False

    @property
    def devices(self) -> int:
        """How many it takes."""
        return self.pipeline * self.tensor * self.data


@dataclass(frozen=True)
class Memory:
    """Bytes of the fullest device."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """With what is reserved and fragmented."""
        return RESERVED + FRAGMENTATION * (
            self.weights + self.gradients + self.optimizer + self.activations + self.logits
        )


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step, by cause; `model_flops` of the whole step."""

    compute: float
    activation_checkpointing: float
    tensor: float
    bubble: float
    pipeline: float
    data: float
    optimizer: float
    model_flops: float

    @property
    def total(self) -> float:
        """Seconds."""
        return (
            self.compute
            + self.activation_checkpointing
            + self.tensor
            + self.bubble
            + self.pipeline
            + self.data
            + self.optimizer
        )


def parameters_of_stage(task: Task, layout: Layout) -> float:
    """Parameters of the fullest pipeline stage's rank: its blocks, and the embedding that both ends hold."""
    model, ranks = task.model, layout.tensor
    hidden_size = model.hidden_size
    block = 12 * hidden_size**2 / ranks + 7 * hidden_size / ranks + 6 * hidden_size
    blocks = math.ceil(model.layers / layout.pipeline)
    return blocks * block + task.vocabulary * hidden_size / ranks + task.sequence_length * hidden_size


def memory(task: Task, layout: Layout) -> Memory:
    """Memory of the first or last stage's rank, whichever is fuller, in bf16 with fp32 accumulation and ZeRO-1.

    Weights 2 bytes; gradients 2 and their fp32 sum 4; master weights and two moments 12, divided among data-parallel ranks.
    """
    model, size = task.model, parameters_of_stage(task, layout)
    each = task.sequence_length * layout.micro_batch_size * model.hidden_size  # s b h
    ranks = layout.tensor
    whole = each * (34 / ranks if layout.sequence_parallel else 10 + 24 / ranks)
    kept = {"none": whole, "attention": whole, "block": 2.0 * each}[layout.activation_checkpointing]
    blocks = math.ceil(model.layers / layout.pipeline)
    in_flight = min(
        layout.pipeline, micro_batches(task, layout)
    )  # one forward, one backward: the first stage holds one a stage
    activations = kept * blocks * in_flight + (whole if layout.activation_checkpointing == "block" else 0.0)
    # bf16 logits, their fp32 copy and its gradient, of one micro-batch, on the last stage, which holds one in flight
    logits = task.sequence_length * layout.micro_batch_size * task.vocabulary / ranks * (2 + 4 + 4)
    last = kept * blocks + (whole if layout.activation_checkpointing == "block" else 0.0) + logits
    first = activations if layout.pipeline > 1 else last
    return Memory(
        weights=2 * size,
        gradients=6 * size,
        optimizer=12 * size / layout.data,
        activations=max(first, last) - (logits if last > first or layout.pipeline == 1 else 0.0),
        logits=logits if last > first or layout.pipeline == 1 else 0.0,
    )


def micro_batches(task: Task, layout: Layout) -> int:
    """Micro-batches a step."""
    return task.global_batch_size // (layout.data * layout.micro_batch_size)


def model_flops(task: Task) -> float:
    """FLOPs of a step without recomputation: 72 B s l h² (1 + s / 6h + V / 12 l h)."""
    model, s, v = task.model, task.sequence_length, task.vocabulary
    h, layers = model.hidden_size, model.layers
    return 72.0 * task.global_batch_size * s * layers * h**2 * (1 + s / (6 * h) + v / (12 * layers * h))


def efficiency(task: Task, layout: Layout) -> float:
    """Share of the peak that a rank's matrix products reach."""
    share = task.model.hidden_size / layout.tensor
    return EFFICIENCY * share / (share + HALF_WIDTH)


def step_time(task: Task, layout: Layout, device: Device) -> StepTime:
    """Time of a step."""
    model, count = task.model, micro_batches(task, layout)
    flops = model_flops(task)
    own = flops / layout.devices / (device.bf16_flops * device.reached * efficiency(task, layout))
    blocks_share = 1 / (
        1
        + task.vocabulary
        / (12 * model.layers * model.hidden_size)
        / (1 + task.sequence_length / (6 * model.hidden_size))
    )
    again = own * blocks_share / 3 if layout.activation_checkpointing == "block" else 0.0
    if layout.activation_checkpointing == "attention":
        again = own * blocks_share / 3 * (task.sequence_length / (6 * model.hidden_size))
    each = 2.0 * task.sequence_length * layout.micro_batch_size * model.hidden_size  # bytes of one activation
    blocks = math.ceil(model.layers / layout.pipeline)
    # two all-reduces forwards, two backwards, and two more where a block is computed again
    collectives = 4 + (2 if layout.activation_checkpointing == "block" else 0)
    tensor = count * blocks * collectives * ring(each, layout.tensor) / (device.link * LINK_SHARE)
    waiting = (layout.pipeline - 1) / (count * layout.interleave)
    sent = 0.0
    if layout.pipeline > 1:
        sent = 2 * (count + layout.pipeline - 1) * layout.interleave * each / (device.network * LINK_SHARE)
        if layout.scatter:
            sent /= layout.tensor
    size = parameters_of_stage(task, layout)
    in_node = layout.tensor * layout.data <= device.in_node
    rate = (device.link if in_node else device.network) * LINK_SHARE
    data = (ring(4 * size, layout.data) + ring(2 * size, layout.data) / 2) / rate
    # reads and writes of AdamW: gradient 4, master and moments 12 read and 12 written, weights 2 written
    optimizer = 30 * size / layout.data / (device.bandwidth * MEMORY_SHARE)
    return StepTime(
        compute=own,
        activation_checkpointing=again,
        tensor=tensor,
        bubble=waiting * (own + again + tensor),
        pipeline=sent,
        data=data,
        optimizer=optimizer,
        model_flops=flops,
    )


def ring(size: float, ranks: int) -> float:
    """Bytes that each of so many ranks sends in a ring all-reduce."""
    return 2 * (ranks - 1) / ranks * size
