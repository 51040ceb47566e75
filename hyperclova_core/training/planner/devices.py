"""Accelerators: what their makers say of them, for dense matrices."""

from __future__ import annotations

from dataclasses import dataclass

from hyperclova_core.foundation.errors import ConfigError

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True)
class Device:
    """One accelerator.

    Args:
        bf16_flops, fp32_flops: per second, dense matrices (fp32: of the tensor units, TF32, where there are).
        memory: bytes; bandwidth: bytes a second of it.
        link: bytes a second to the other devices of a node, one direction; in_node: devices of a node.
        network: bytes a second to other nodes, one direction, a device (one 200 or 400 Gbit/s adapter each, as makers' reference
            systems have).
        reached: share of its peak that matrix products reach, beside an A100's: Megatron-LM reports 47 % of an H100 where it
            reaches 56 % of an A100 (its README, 2 B to 462 B); newer ones are taken to be as H100s, unmeasured.
    """

    name: str
    bf16_flops: float
    fp32_flops: float
    memory: float
    bandwidth: float
    link: float
    network: float
    in_node: int = 8
    reached: float = 1.0


DEVICES: dict[str, Device] = {
    "v100-32g": Device("v100-32g", 125 * TERA, 15.7 * TERA, 32 * GIGA, 900 * GIGA, 150 * GIGA, 12.5 * GIGA),
    "a100-40g": Device("a100-40g", 312 * TERA, 156 * TERA, 40 * GIGA, 1555 * GIGA, 300 * GIGA, 25 * GIGA),
    "a100-80g": Device("a100-80g", 312 * TERA, 156 * TERA, 80 * GIGA, 2039 * GIGA, 300 * GIGA, 25 * GIGA),
    "h100": Device("h100", 989 * TERA, 494 * TERA, 80 * GIGA, 3350 * GIGA, 450 * GIGA, 50 * GIGA, reached=0.84),
    "h200": Device("h200", 989 * TERA, 494 * TERA, 141 * GIGA, 4800 * GIGA, 450 * GIGA, 50 * GIGA, reached=0.84),
    "b200": Device("b200", 2250 * TERA, 1100 * TERA, 180 * GIGA, 8000 * GIGA, 900 * GIGA, 50 * GIGA, reached=0.84),
    "l40s": Device("l40s", 362 * TERA, 183 * TERA, 48 * GIGA, 864 * GIGA, 32 * GIGA, 25 * GIGA),
    "rtx-4090": Device("rtx-4090", 165 * TERA, 82.6 * TERA, 24 * GIGA, 1008 * GIGA, 16 * GIGA, 3 * GIGA, 4),
}
"""From NVIDIA's data sheets (dense, without sparsity). V100's is fp16: it knows no bf16."""

_MARKS = (
    ("V100", "v100-32g"),
    ("A100-SXM4-40", "a100-40g"),
    ("A100-PCIE-40", "a100-40g"),
    ("A100", "a100-80g"),
    ("H200", "h200"),
    ("H100", "h100"),
    ("B200", "b200"),
    ("L40S", "l40s"),
    ("4090", "rtx-4090"),
)


def device_named(marketing: str) -> Device | None:
    """The device that a driver names so, or None."""
    for mark, name in _MARKS:
        if mark in marketing:
            return DEVICES[name]
    return None


def device(name: str) -> Device:
    """A device by our name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in DEVICES:
        raise ConfigError(
            f"There is no GPU {name} in the tables",
            where="--gpu",
            why=f"known are {', '.join(DEVICES)}",
            remedy="name the nearest",
        )
    return DEVICES[name]
