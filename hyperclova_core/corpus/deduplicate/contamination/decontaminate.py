"""Decontamination: documents that hold an item of an evaluation are found, so that no model is judged on what it has read.

An item is looked for as its whole form (spaces and punctuation do not hide it), and by every run of 13 eojeols of it
(Brown et al. 2020, appendix C, in eojeols). A rolling hash of the first letters of each pattern finds places to look at,
and the letters are compared there: no false find. A short item says too little to be looked for inside a text: it counts
where it is the whole document; a shorter one is left out, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hyperclova_core.corpus.deduplicate.minhash.signatures import Sketches, sketch
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.jit import compiled

_BASE = np.uint64(0x9E3779B97F4A7C15)
_FILTER_BITS = 20
_ALL_SHORT = 1 << 40
"""Letters below which digits stay digits: here in every text."""


@dataclass(frozen=True)
class Items:
    """Patterns of all evaluation sets, ready to be looked for.

    Attributes:
        names: `set:id` of each item.
        points, offsets: the patterns' forms, one after the other.
        owner: the item of each pattern; whole: whether the pattern counts only as the whole document.
        keys: hash of the first `width` letters of each pattern, sorted; order: the patterns in that order.
        too_short: items of which nothing can be looked for.
    """

    names: list[str]
    points: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    owner: npt.NDArray[np.int64]
    keys: npt.NDArray[np.uint64]
    order: npt.NDArray[np.int64]
    filter: npt.NDArray[np.uint8]
    width: int
    whole: dict[bytes, list[int]]
    too_short: int


@lru_cache(maxsize=2)
def load_items(path: str, ngram: int, min_letters: int, min_letters_whole: int) -> Items:
    """All patterns of the items in a table of ITEMS_SCHEMA."""
    table = storage.read_parquet(path)
    names: list[str] = table.column("name").to_pylist()
    texts: list[str] = table.column("text").to_pylist()
    owners = list(range(len(names)))
    for index in range(len(names)):
        words = texts[index].split()
        for start in range(len(words) - ngram + 1) if len(words) > ngram else ():
            texts.append(" ".join(words[start : start + ngram]))
            owners.append(index)
    # digits stay digits in short texts: patterns and documents must agree, so patterns are plain, as documents are read
    forms = sketch(pa.array(texts, pa.large_string()), 1, 1, _ALL_SHORT)
    letters = forms.length
    fitting = (letters[: len(names)] >= min_letters_whole) & (letters[: len(names)] < min_letters)
    whole: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(fitting).tolist():
        whole.setdefault(forms.exact[row], []).append(row)
    searched = np.flatnonzero(letters >= min_letters)
    width = min_letters
    heads = np.array(
        [_head(forms.points[forms.offsets[row] : forms.offsets[row] + width]) for row in searched], np.uint64
    )
    order = np.argsort(heads, kind="stable")
    bits = np.zeros(1 << (_FILTER_BITS - 3), np.uint8)
    slots = heads >> np.uint64(64 - _FILTER_BITS)
    np.bitwise_or.at(
        bits, (slots >> np.uint64(3)).astype(np.int64), np.uint8(1) << (slots & np.uint64(7)).astype(np.uint8)
    )
    found = set(np.asarray(owners)[searched].tolist()) | {item for same in whole.values() for item in same}
    return Items(
        names,
        forms.points,
        forms.offsets,
        np.asarray(owners, np.int64),
        heads[order],
        searched[order],
        bits,
        width,
        whole,
        len(names) - len(found),
    )


def _head(points: npt.NDArray[np.uint32]) -> np.uint64:
    value = np.uint64(0)
    with np.errstate(over="ignore"):
        for point in points:
            value = value * _BASE + np.uint64(point)
        return np.uint64(value * np.uint64(0xD6E8FEB86659FD93))


@compiled(allocates=True)
def _places(
    points: npt.NDArray[np.uint32],
    start: int,
    end: int,
    width: int,
    bits: npt.NDArray[np.uint8],
    keys: npt.NDArray[np.uint64],
) -> list[tuple[int, int]]:
    """(position, index in keys) where the first letters of a pattern stand."""
    base = np.uint64(0x9E3779B97F4A7C15)
    top = np.uint64(1)
    for _ in range(width - 1):
        top *= base
    found = [(0, 0) for _ in range(0)]
    rolling = np.uint64(0)
    for position in range(start, end):
        rolling = rolling * base + np.uint64(points[position])
        if position - start >= width - 1:
            value = rolling * np.uint64(0xD6E8FEB86659FD93)
            slot = value >> np.uint64(44)
            if bits[slot >> np.uint64(3)] & (np.uint8(1) << (slot & np.uint64(7))):
                at = np.searchsorted(keys, value)
                while at < keys.size and keys[at] == value:
                    found.append((position - width + 1, int(at)))
                    at += 1
            rolling -= np.uint64(points[position - width + 1]) * top
    return found


def items_in(texts: pa.Array, items: Items) -> list[list[str]]:
    """The items each text holds, by name, sorted."""
    forms: Sketches = sketch(texts, 1, 1, _ALL_SHORT)
    out: list[list[str]] = []
    for row in range(len(texts)):
        start, end = int(forms.offsets[row]), int(forms.offsets[row + 1])
        found = set()
        if len(items.keys):
            for position, at in _places(forms.points, start, end, items.width, items.filter, items.keys):
                pattern = items.order[at]
                first, last = items.offsets[pattern], items.offsets[pattern + 1]
                if position + last - first <= end and np.array_equal(
                    forms.points[position : position + last - first], items.points[first:last]
                ):
                    found.add(int(items.owner[pattern]))
        if forms.exact[row] in items.whole and end > start:
            found.update(items.whole[forms.exact[row]])
        out.append(sorted(items.names[item] for item in found))
    return out
