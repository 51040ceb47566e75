"""Winnowing (Schleimer, Wilkerson, Aiken 2003): of every `window` shingles in a row one hash is kept, the smallest, so that
two texts that share a passage of window + shingle - 1 letters share a fingerprint for certain."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hyperclova_core.corpus.deduplicate.signatures import mixed
from hyperclova_core.foundation.compiled import compiled


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


@compiled(allocates=True)
def winnowed(hashes: npt.NDArray[np.uint64], window: int) -> npt.NDArray[np.uint64]:
    """The fingerprints: the smallest hash of every `window` hashes in a row (the rightmost of equals), each place once."""
    out = np.empty(hashes.size + 1, np.uint64)
    count, last = 0, -1
    smallest = -1
    for end in range(window, hashes.size + 1):
        start = end - window
        if smallest < start:
            smallest = start
            for index in range(start, end):
                if hashes[index] <= hashes[smallest]:
                    smallest = index
        elif hashes[end - 1] <= hashes[smallest]:
            smallest = end - 1
        if smallest != last:
            out[count] = hashes[smallest]
            count += 1
            last = smallest
    return out[:count]
