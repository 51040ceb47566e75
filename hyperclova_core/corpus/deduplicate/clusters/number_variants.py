"""What a document and its cluster's survivor differ in: nothing, numbers, or words.

Equal letters and digits are an exact duplicate. Equal wording (the same but for numbers, e-mail addresses and placeholders) is
near, for its own reason; and where enough of the numbers differ, the numbers are what the document says: it stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hyperclova_core.corpus.deduplicate.config import NumbersConfig
from hyperclova_core.corpus.deduplicate.minhash.signatures import DIGITS_SHIFT
from hyperclova_core.foundation.jit import compiled

EXACT, SAME_WORDING, NEAR = "exact_duplicate", "same_wording", "near_duplicate"
SAID = ("content", "wording", "numbers", "length")
"""Columns of the documents that are compared."""


@dataclass(frozen=True)
class Differences:
    """What some documents differ in from their survivors; arrays of shape (documents,).

    Attributes:
        reason: EXACT, SAME_WORDING or NEAR.
        similarity: 1 for an exact one; of one wording the share of letters and digits that are equal; else the forms'.
        apart: whether its numbers make it a document of its own.
    """

    reason: npt.NDArray[np.object_]
    similarity: npt.NDArray[np.float64]
    apart: npt.NDArray[np.bool_]


def differences(
    documents: pa.Table, survivors: pa.Table, similarity: npt.NDArray[np.float64], config: NumbersConfig
) -> Differences:
    """Hold each document against its survivor.

    Args:
        documents: `SAID` and `source`, a row a document.
        survivors: `SAID` of the survivor of each.
        similarity: of the forms of the two.
    """
    mine, theirs = (
        [side.column(name).to_numpy() for name in ("content", "wording")] for side in (documents, survivors)
    )
    exact = mine[0] == theirs[0]
    worded = ~exact & (mine[1] == theirs[1])
    reason = np.where(exact, EXACT, np.where(worded, SAME_WORDING, NEAR)).astype(object)
    values = np.where(exact, 1.0, similarity)
    apart = np.zeros(len(exact), np.bool_)
    rows = np.flatnonzero(worded)
    if len(rows):
        picked = pa.array(rows)
        sides = [_flat(side.column("numbers").take(picked)) for side in (documents, survivors)]
        counts, digits = _differing(*sides[0], *sides[1])
        length = documents.column("length").to_numpy()[rows]
        unequal = np.maximum(digits, 1)  # an address or a placeholder, where no number differs
        values[rows] = np.maximum(0.0, 1.0 - unequal / np.maximum(length, unequal))
        most = np.maximum(np.diff(sides[0][1]), np.diff(sides[1][1]))
        enough = (counts >= config.min_differing) & (counts >= config.min_share * most)
        sources = documents.column("source").take(picked).to_pylist()
        listed = np.array([_listed(source, config.keep_sources) for source in sources], np.bool_)
        apart[rows] = enough | (listed & (counts > 0))
    return Differences(reason, values, apart)


@lru_cache(maxsize=65_536)
def _listed(source: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(source, pattern) for pattern in patterns)


def _flat(numbers: pa.ChunkedArray) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Numbers one after the other, and where each document's begin and end."""
    held = numbers.to_pylist()
    ends = np.cumsum([0, *(len(value) // 4 for value in held)])
    return np.frombuffer(b"".join(held), np.uint32), ends.astype(np.int64)


@compiled(allocates=True)
def _differing(
    left: npt.NDArray[np.uint32],
    left_offsets: npt.NDArray[np.int64],
    right: npt.NDArray[np.uint32],
    right_offsets: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(numbers, digits in them) that are not the same in one place of two documents; one wording has them in one order."""
    rows = left_offsets.size - 1
    counts, digits = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    for row in range(rows):
        one, other = left_offsets[row], right_offsets[row]
        ones, others = left_offsets[row + 1] - one, right_offsets[row + 1] - other
        for place in range(max(ones, others)):
            mine = left[one + place] if place < ones else np.uint32(0)
            its = right[other + place] if place < others else np.uint32(0)
            if mine != its:
                counts[row] += 1
                digits[row] += max(mine >> np.uint32(DIGITS_SHIFT), its >> np.uint32(DIGITS_SHIFT))
    return counts, digits
