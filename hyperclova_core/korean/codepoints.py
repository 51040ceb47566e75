"""Characters by class, counted over a text's code points at once: no list of single characters, however long the text."""

from __future__ import annotations

import re
import sys
from enum import IntFlag
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint32]


class Kind(IntFlag):
    """What a code point is; one may be several."""

    LETTER = 1
    HANGUL = 2
    SYLLABLE = 4
    JAMO = 8
    """Hangul compatibility jamo: what keyboards give for a lone ㅋ or ㅏ."""
    LATIN = 16
    COMMON = 32
    """The 2,350 syllables of KS X 1001: of all 11,172, Korean text hardly uses the others."""
    SYMBOL = 64
    """Neither letter, digit, space nor everyday punctuation."""


_CLASSES = {
    Kind.LETTER: r"[^\W\d_]",
    Kind.HANGUL: r"[\u1100-\u11ff\u3131-\u318e\ua960-\ua97f\uac00-\ud7a3\ud7b0-\ud7ff]",
    Kind.SYLLABLE: r"[\uac00-\ud7a3]",
    Kind.JAMO: r"[\u3131-\u318e]",
    Kind.LATIN: r"[A-Za-z]",
    Kind.SYMBOL: r"[^\w\s.,!?\"'()\[\]~…·:;/%+\-]",
}


def _is_common(syllable: str) -> bool:
    try:
        return len(syllable.encode("euc_kr")) == 2
    except UnicodeEncodeError:
        return False


@lru_cache(maxsize=1)
def _table() -> npt.NDArray[np.uint8]:
    """The kinds of every code point of Unicode, as Python's own patterns know them."""
    table = np.zeros(sys.maxunicode + 1, np.uint8)
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    for kind, pattern in _CLASSES.items():
        for run in re.finditer(f"{pattern}+", every):
            table[run.start() : run.end()] |= np.uint8(kind)
    for code in range(0xAC00, 0xD7A4):
        if _is_common(chr(code)):
            table[code] |= np.uint8(Kind.COMMON)
    return table


def prepare() -> None:
    """Make what the first text of a process would have to wait for."""
    _table()


def codes_of(text: str) -> Codes:
    """Code points, shape (characters,)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def kinds_of(codes: Codes) -> npt.NDArray[np.uint8]:
    """The kinds of each, shape (characters,)."""
    return _table()[codes]


def count(kinds: npt.NDArray[np.uint8], kind: Kind) -> int:
    """How many are of a kind."""
    return int(np.count_nonzero(kinds & np.uint8(kind)))


def repeated_windows(codes: Codes, width: int) -> int:
    """Windows of `width` characters that stood before in the same text: how many, of len(codes) - width + 1.

    Windows are told apart by a hash of 64 bits: among 10**7 different ones, two agree by chance with a probability of 3e-6.
    """
    windows = len(codes) - width + 1
    if windows <= 0:
        return 0
    keys = np.zeros(windows, np.uint64)
    with np.errstate(over="ignore"):
        for at in range(width):
            keys = _mixed(keys ^ codes[at : at + windows].astype(np.uint64))
    return windows - int(len(np.unique(keys)))


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A one-to-one scramble of 64 bits (the finaliser of splitmix64, Steele et al. 2014)."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
