"""MinHash signatures (Broder 1997) of space-free character shingles, by u32 multiply-shift hashing, in one kernel."""

from __future__ import annotations

from functools import lru_cache

import numba
import numpy as np
import numpy.typing as npt

SEED = 1
_BASE = np.uint64(0x9E3779B97F4A7C15)


@lru_cache(maxsize=4)
def permutations(count: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Odd multipliers and addends, each of shape (count,); the same on every machine (PCG64 with a fixed seed)."""
    generator = np.random.Generator(np.random.PCG64(SEED))
    multipliers = generator.integers(0, 2**63, count, dtype=np.uint64) | np.uint64(1)
    return multipliers, generator.integers(0, 2**63, count, dtype=np.uint64)


@numba.njit(cache=True, nogil=True)
def _minima(
    points: npt.NDArray[np.uint32],
    offsets: npt.NDArray[np.int64],
    width: int,
    multipliers: npt.NDArray[np.uint64],
    addends: npt.NDArray[np.uint64],
    out: npt.NDArray[np.uint32],
) -> None:
    base = np.uint64(0x9E3779B97F4A7C15)
    top = np.uint64(1)
    for _ in range(width - 1):
        top *= base
    for document in range(offsets.size - 1):
        start, end = offsets[document], offsets[document + 1]
        for permutation in range(multipliers.size):
            out[document, permutation] = np.uint32(0xFFFFFFFF)
        if end - start < width:
            continue
        rolling = np.uint64(0)
        for position in range(start, start + width - 1):
            rolling = rolling * base + np.uint64(points[position])
        for position in range(start + width - 1, end):
            rolling = rolling * base + np.uint64(points[position])
            mixed = rolling
            mixed ^= mixed >> np.uint64(32)
            mixed *= np.uint64(0xD6E8FEB86659FD93)
            mixed ^= mixed >> np.uint64(29)
            mixed *= np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(32)
            for permutation in range(multipliers.size):
                value = np.uint32((mixed * multipliers[permutation] + addends[permutation]) >> np.uint64(32))
                if value < out[document, permutation]:
                    out[document, permutation] = value
            rolling -= np.uint64(points[position - width + 1]) * top


def signatures(forms: list[str], width: int, count: int) -> npt.NDArray[np.uint32]:
    """Minima of the shingles of each comparison form.

    Args:
        forms: texts as `comparison_form` gives them.
        width: characters a shingle.
        count: permutations.

    Returns:
        shape (len(forms), count); a form shorter than a shingle has 0xFFFFFFFF everywhere.
    """
    lengths = np.fromiter((len(form) for form in forms), dtype=np.int64, count=len(forms))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    points = np.frombuffer("".join(forms).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    out = np.empty((len(forms), count), np.uint32)
    multipliers, addends = permutations(count)
    _minima(points, offsets, width, multipliers, addends, out)
    return out


def band_keys(minima: npt.NDArray[np.uint32], bands: int, rows: int) -> npt.NDArray[np.int64]:
    """One 64-bit key a band, shape (documents, bands)."""
    parts = np.ascontiguousarray(minima).reshape(len(minima), bands, rows).astype(np.uint64)
    keys = np.zeros((len(minima), bands), np.uint64)
    with np.errstate(over="ignore"):
        for row in range(rows):
            keys = (keys ^ parts[:, :, row]) * _BASE
            keys ^= keys >> np.uint64(31)
    return keys.view(np.int64)


def similarity(left: npt.NDArray[np.uint32], right: npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
    """Share of equal minima, an unbiased estimate of the Jaccard similarity; shapes (n, count) → (n,)."""
    equal: npt.NDArray[np.float64] = (left == right).mean(axis=1)
    return equal
