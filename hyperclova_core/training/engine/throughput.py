"""How fast a training is, of what its device can do: FLOP/s against the device's peak, memory at most."""

from __future__ import annotations

import resource
import time

import torch

from hyperclova_core.training.planner.devices import device_named

MATMUL = 512
MATMUL_SECONDS = 0.2


def peak_flops(bf16: bool) -> tuple[float, str]:
    """FLOP/s that one process's device can do at most, and where the number is from: the maker's for dense matrices, or, on a CPU
    and on devices that are not known, the best of some matrix products that are done now."""
    if torch.cuda.is_available():
        known = device_named(torch.cuda.get_device_name())
        if known is not None:
            return known.bf16_flops if bf16 else known.fp32_flops, f"{known.name}, by its maker"
    return _measured(
        torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ), f"matrix products of {MATMUL}² measured at the start"


def _measured(device: torch.device) -> float:
    left, right = (torch.randn(MATMUL, MATMUL, device=device) for _ in range(2))
    best, until = float("inf"), time.perf_counter() + MATMUL_SECONDS
    while time.perf_counter() < until:
        started = time.perf_counter()
        product = left @ right
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2.0 * MATMUL**3 / best


def memory_bytes() -> float:
    """Most memory that this process has held: of the device on CUDA, else of the host."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
