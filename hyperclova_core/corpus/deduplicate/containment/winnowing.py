"""Winnowing (Schleimer, Wilkerson, Aiken 2003): of every `window` shingles in a row one hash is kept, the smallest, so that
two texts that share a passage of window + shingle - 1 letters share a fingerprint for certain."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hyperclova_core.foundation.jit import compiled


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
