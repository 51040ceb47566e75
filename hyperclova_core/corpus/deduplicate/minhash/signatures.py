"""MinHash signatures (Broder 1997) of space-free character shingles, in one kernel from Arrow's bytes to minima.

Permutations are u32 multiply-shift (Dietzfelbinger et al. 1997) of a mixed 64-bit rolling hash; of each minimum 16 bits are
kept (b-bit minwise hashing, Li & König 2010: two unequal minima agree by chance once in 65,536). All is integer
arithmetic with fixed seeds: the same on every machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hyperclova_core.corpus.deduplicate.text.comparison_form import (
    MAX_DIGIT_SHARE,
    NUMBER_MASK,
    SEED,
    placeholders,
    tables,
)
from hyperclova_core.corpus.deduplicate.text.hashing import bytes_of, mixed
from hyperclova_core.corpus.deduplicate.text.normalise import normalise
from hyperclova_core.foundation.jit import compiled
from hyperclova_core.korean.hangul import nfc

_BASE = np.uint64(0x9E3779B97F4A7C15)
MOST_NUMBERS = 32
"""Numbers of a text that are told apart; what follows counts as one with the last."""
DIGITS_SHIFT = 24
"""A number is a uint32: above this bit how many digits it has (at most 255), below it a hash of them."""


@dataclass(frozen=True)
class Sketches:
    """What comparison needs of a batch of texts.

    Attributes:
        points: forms one after the other, code points and masks, shape (letters of all,).
        offsets: where each form begins and ends, shape (texts + 1,).
        minima: shape (texts, permutations) of uint16; of a text without a signature it means nothing.
        exact: 128-bit hashes of the forms, texts of 16 bytes.
        signed: whether a text is long enough to have a signature, shape (texts,).
        content: 64-bit hash of all letters and digits as they are, shape (texts,).
        wording: 64-bit hash of the form without its numbers, shape (texts,).
        numbers: runs of digits in order, shape (texts, MOST_NUMBERS); number_counts: how many, shape (texts,).
    """

    points: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    minima: npt.NDArray[np.uint16]
    exact: list[bytes]
    signed: npt.NDArray[np.bool_]
    content: npt.NDArray[np.int64]
    wording: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.uint32]
    number_counts: npt.NDArray[np.int64]

    @property
    def length(self) -> npt.NDArray[np.int64]:
        """Length of each form."""
        return np.diff(self.offsets)


@lru_cache(maxsize=4)
def multipliers(count: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """Odd multipliers and addends, each of shape (count,); the same on every machine (PCG64 with a fixed seed)."""
    generator = np.random.Generator(np.random.PCG64(SEED))
    odd = generator.integers(0, 2**32, count, dtype=np.uint32) | np.uint32(1)
    return odd, generator.integers(0, 2**32, count, dtype=np.uint32)


@compiled()
def minima_of(
    points: npt.NDArray[np.uint32],
    start: int,
    end: int,
    width: int,
    odd: npt.NDArray[np.uint32],
    add: npt.NDArray[np.uint32],
    scratch: npt.NDArray[np.uint32],
    out: npt.NDArray[np.uint16],
) -> None:
    """Minima over the shingles of points[start:end], `width` points each; shorter than a shingle: all 65,535."""
    base = np.uint64(0x9E3779B97F4A7C15)
    top = np.uint64(1)
    for _ in range(width - 1):
        top *= base
    scratch[:] = np.uint32(0xFFFFFFFF)
    rolling = np.uint64(0)
    for position in range(start, end):
        rolling = rolling * base + np.uint64(points[position])
        if position - start >= width - 1:
            value = np.uint32(mixed(rolling) >> np.uint64(32))
            for index in range(odd.size):
                hashed = np.uint32(value * odd[index] + add[index])
                if hashed < scratch[index]:
                    scratch[index] = hashed
            rolling -= np.uint64(points[position - width + 1]) * top
    for index in range(odd.size):
        out[index] = np.uint16((scratch[index] ^ (scratch[index] >> np.uint32(16))) & np.uint32(0xFFFF))


@compiled(inline=True)
def _hash_points(points: npt.NDArray[np.uint32], start: int, end: int, numbers: bool) -> np.int64:
    """64-bit hash of points[start:end]; without `numbers`, of what is neither a digit's class nor a masked number."""
    value = np.uint64(0xA0761D6478BD642F)
    for position in range(start, end):
        point = points[position]
        if numbers or (point != 48 and point != NUMBER_MASK):
            value = (value ^ np.uint64(point)) * np.uint64(0x9FB21C651E98DF25)
            value ^= value >> np.uint64(32)
    return np.int64(mixed(value))


@compiled(inline=True)
def _read_numbers(points: npt.NDArray[np.uint32], end: int, out: npt.NDArray[np.uint32]) -> int:
    """Runs of digits in points[:end], written to `out`; returns their number."""
    count, digits, value = 0, np.uint64(0), np.uint64(0)
    for position in range(end + 1):
        point = points[position] if position < end else np.uint32(0)
        if 48 <= point <= 57:
            value = mixed(value ^ np.uint64(point))
            digits += np.uint64(1)
        elif digits:
            if count < out.size:
                count += 1
            else:  # one with the last
                value = mixed(value ^ np.uint64(out[count - 1]))
                digits += np.uint64(out[count - 1] >> np.uint32(DIGITS_SHIFT))
            digits = min(digits, np.uint64(255))
            out[count - 1] = np.uint32((digits << np.uint64(DIGITS_SHIFT)) | (value >> np.uint64(40)))
            digits, value = np.uint64(0), np.uint64(0)
    return count


@compiled(allocates=True)
def _sketch(
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    composed: bool,
    classed: npt.NDArray[np.uint32],
    plain: npt.NDArray[np.uint32],
    names: npt.NDArray[np.uint8],
    name_offsets: npt.NDArray[np.int64],
    name_masks: npt.NDArray[np.uint32],
    short_below: int,
    digit_share: float,
    width: int,
    odd: npt.NDArray[np.uint32],
    add: npt.NDArray[np.uint32],
    points: npt.NDArray[np.uint32],
    offsets: npt.NDArray[np.int64],
    minima: npt.NDArray[np.uint16],
    signed: npt.NDArray[np.bool_],
    content: npt.NDArray[np.int64],
    wording: npt.NDArray[np.int64],
    numbers: npt.NDArray[np.uint32],
    number_counts: npt.NDArray[np.int64],
    compose: npt.NDArray[np.bool_],
) -> None:
    scratch = np.empty(odd.size, np.uint32)
    longest = 0
    for text in range(starts.size - 1):
        longest = max(longest, starts[text + 1] - starts[text])
    whole = np.empty(longest + 1, np.uint32)  # all letters and digits of a text
    at = 0
    for text in range(starts.size - 1):
        start, end = starts[text], starts[text + 1]
        offsets[text] = at
        to, letters, digits, must_compose = normalise(
            data, start, end, composed, classed, names, name_offsets, name_masks, points, at, plain, whole
        )
        compose[text] = must_compose
        signed[text] = False
        if must_compose:
            continue
        signed[text] = to - at >= short_below
        wording[text] = _hash_points(points, at, to, False)
        content[text] = _hash_points(whole, 0, letters, True)
        number_counts[text] = _read_numbers(whole, letters, numbers[text]) if digits else 0
        if not signed[text] or digits > digit_share * letters:
            points[at : at + letters] = whole[:letters]
            to = at + letters
            signed[text] = signed[text] and letters >= short_below
        if signed[text]:
            minima_of(points, at, to, width, odd, add, scratch, minima[text])
        at = to
    offsets[starts.size - 1] = at


def sketch(texts: pa.Array, shingle: int, permutations: int, short_below: int) -> Sketches:
    """Forms, hashes and signatures of a batch of texts (string or large_string, no nulls)."""
    data, starts = bytes_of(texts)
    made, again = _run(data, starts, False, shingle, permutations, short_below)
    points, offsets = made[0], made[1]
    if again.any():  # rare: the text of a document is NFC already
        rows = np.flatnonzero(again)
        composed = pa.array([nfc(texts[int(row)].as_py()) for row in rows], pa.large_string())
        some, _ = _run(*bytes_of(composed), True, shingle, permutations, short_below)
        for whole, part in zip(made[2:], some[2:], strict=True):
            whole[rows] = part
        parts = [points[a:b] for a, b in zip(offsets, offsets[1:], strict=False)]
        for index, row in enumerate(rows):
            parts[row] = some[0][some[1][index] : some[1][index + 1]]
        points = np.concatenate(parts)
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    _, _, minima, signed, content, wording, numbers, number_counts = made
    raw = points.tobytes()
    exact = [
        hashlib.blake2b(raw[4 * a : 4 * b], digest_size=16).digest() for a, b in zip(offsets, offsets[1:], strict=False)
    ]
    for index in np.flatnonzero(np.diff(offsets) == 0).tolist():
        # nothing but signs (emoji, rules, punctuation): they are what it says
        signs = " ".join(texts[int(index)].as_py().split())
        exact[int(index)] = hashlib.blake2b(
            b"signs " + nfc(signs).encode("utf-8", "surrogatepass"), digest_size=16
        ).digest()
        content[index] = wording[index] = int.from_bytes(exact[int(index)][:8], "little", signed=True)
    return Sketches(points, offsets, minima, exact, signed, content, wording, numbers, number_counts)


def _run(
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    composed: bool,
    shingle: int,
    permutations: int,
    short_below: int,
) -> tuple[tuple[npt.NDArray[Any], ...], npt.NDArray[np.bool_]]:
    """((points, offsets, and what `Sketches` has a row a text), which texts have to be composed first)."""
    count = starts.size - 1
    points = np.empty(int(starts[-1] - starts[0]) + 1, np.uint32)
    offsets = np.zeros(count + 1, np.int64)
    minima = np.zeros((count, permutations), np.uint16)
    signed, compose = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    content, wording = np.zeros(count, np.int64), np.zeros(count, np.int64)
    numbers, number_counts = np.zeros((count, MOST_NUMBERS), np.uint32), np.zeros(count, np.int64)
    classed, plain = tables()
    odd, add = multipliers(permutations)
    rows = (minima, signed, content, wording, numbers, number_counts)
    _sketch(
        data,
        starts,
        composed,
        classed,
        plain,
        *placeholders(),
        short_below,
        MAX_DIGIT_SHARE,
        shingle,
        odd,
        add,
        points,
        offsets,
        *rows,
        compose,
    )
    return (points[: int(offsets[-1])], offsets, *rows), compose


def band_keys(minima: npt.NDArray[np.uint16], bands: int, rows: int) -> npt.NDArray[np.int64]:
    """One 64-bit key a band, which also names the band; shape (documents, bands)."""
    parts = np.ascontiguousarray(minima).reshape(len(minima), bands, rows).astype(np.uint64)
    keys = np.tile(np.arange(1, bands + 1, dtype=np.uint64) * _BASE, (len(minima), 1))
    with np.errstate(over="ignore"):
        for row in range(rows):
            keys = (keys ^ parts[:, :, row]) * np.uint64(0xBF58476D1CE4E5B9)
            keys ^= keys >> np.uint64(29)
    return keys.view(np.int64)


def similarity(left: npt.NDArray[np.uint16], right: npt.NDArray[np.uint16]) -> npt.NDArray[np.float64]:
    """Share of equal minima, an estimate of the Jaccard similarity; shapes (n, permutations) → (n,)."""
    equal: npt.NDArray[np.float64] = (left == right).mean(axis=1)
    return equal
