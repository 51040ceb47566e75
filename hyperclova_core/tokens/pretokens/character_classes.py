"""The class of every Unicode character, as a tokenizer keeps it: another version of Python knows other characters, and would cut
words otherwise."""

from __future__ import annotations

import unicodedata

import numpy as np
import numpy.typing as npt

SIGN, LETTER, DIGIT, WHITE = 0, 1, 2, 3
KIND = 3
"""Mask of the four kinds; what follows are flags."""
SYLLABLE = 4
"""A precomposed Hangul syllable: what is cut by the analyser holds one."""
UNSURE = 8
"""A text with such a character may not be in NFC (UAX #15, quick check `No` or `Maybe`, or it combines)."""
CODE_POINTS = 0x110000
FIRST_SYLLABLE, LAST_SYLLABLE = 0xAC00, 0xD7A3
WHITE_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
"""Unicode's property White_Space, which is stable."""
SEPARATORS = "\x1c\x1d\x1e\x1f"
"""Control characters that Python takes for white space besides; the morpheme-aware tokenizer does too."""

Table = npt.NDArray[np.uint8]


def classify(kind: str) -> list[int]:
    """The classes as runs: first character, class, first character, class …; about 3,000 numbers.

    Args:
        kind: `morpheme` (letters are what Python's `[^\\W\\d_]` matches, digits decimal digits) or `byte` and `character`
            (GPT-2's: letters L*, digits N*).
    """
    plain = kind != "morpheme"
    white = frozenset(WHITE_SPACE if plain else WHITE_SPACE + SEPARATORS)
    second = _second_of_compositions()
    runs: list[int] = []
    last = -1
    for code in range(CODE_POINTS):
        sign = chr(code)
        if sign in white:
            value = WHITE
        elif plain:
            group = unicodedata.category(sign)[0]
            value = LETTER if group == "L" else DIGIT if group == "N" else SIGN
        else:
            value = DIGIT if sign.isdecimal() else LETTER if sign.isalnum() else SIGN
        if FIRST_SYLLABLE <= code <= LAST_SYLLABLE:
            value |= SYLLABLE
        elif sign in second or unicodedata.combining(sign) or not unicodedata.is_normalized("NFC", sign):
            value |= UNSURE
        if value != last:
            runs += [code, value]
            last = value
    return runs


def _second_of_compositions() -> frozenset[str]:
    """Characters that may melt into the one before them."""
    found = {chr(code) for code in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}
    for code in range(CODE_POINTS):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            found.add(chr(int(parts[1], 16)))
    return frozenset(found)


def table_of(runs: list[int]) -> Table:
    """The class of each code point, shape (1,114,112,)."""
    table = np.empty(CODE_POINTS, np.uint8)
    for at in range(0, len(runs), 2):
        table[runs[at] : runs[at + 2] if at + 2 < len(runs) else CODE_POINTS] = runs[at + 1]
    return table
