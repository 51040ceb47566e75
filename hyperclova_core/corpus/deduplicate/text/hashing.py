"""Bytes of texts, and 64-bit hashes of what stands in them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hyperclova_core.foundation.jit import compiled


@compiled(inline=True)
def mixed(value: np.uint64) -> np.uint64:
    """A 64-bit finaliser (Stafford's Mix13): every bit of the result depends on every bit of the value."""
    value ^= value >> np.uint64(30)
    value *= np.uint64(0xBF58476D1CE4E5B9)
    value ^= value >> np.uint64(27)
    value *= np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def bytes_of(texts: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Arrow's own UTF-8 bytes of some texts, and where each begins and ends in them."""
    kind = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    _, offsets, data = texts.buffers()
    first = texts.offset
    starts = (
        np.frombuffer(offsets, kind)[first : first + len(texts) + 1].astype(np.int64)
        if len(texts)
        else np.zeros(1, np.int64)
    )
    return np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(1, np.uint8), starts


@compiled(allocates=True)
def shingle_hashes(points: npt.NDArray[np.uint32], width: int) -> npt.NDArray[np.uint64]:
    """64-bit hash of every shingle of a form, in order; shape (letters - width + 1,), empty for a shorter form."""
    count = points.size - width + 1
    if count <= 0:
        return np.zeros(0, np.uint64)
    out = np.empty(count, np.uint64)
    base = np.uint64(0x9E3779B97F4A7C15)
    top = np.uint64(1)
    for _ in range(width - 1):
        top *= base
    rolling = np.uint64(0)
    for position in range(points.size):
        rolling = rolling * base + np.uint64(points[position])
        if position >= width - 1:
            out[position - width + 1] = mixed(rolling)
            rolling -= np.uint64(points[position - width + 1]) * top
    return out
