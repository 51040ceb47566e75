"""Hangul in Unicode (The Unicode Standard, chapter 18.6): syllables, jamo, shares of scripts."""

from __future__ import annotations

import re
import unicodedata

from hyperclova_core.korean.codepoints import Kind, codes_of, count, kinds_of

NEITHER_LETTER_NOR_DIGIT = re.compile(r"[\W_]+")
DIGITS = re.compile(r"\d")


def nfc(text: str) -> str:
    """Canonical composition; most text is composed already, and is returned as it is."""
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def hangul_share(text: str) -> float:
    """Hangul letters over all letters, 0 for a text without letters."""
    kinds = kinds_of(codes_of(text))
    letters = count(kinds, Kind.LETTER)
    return count(kinds, Kind.HANGUL) / letters if letters else 0.0


def language_of(text: str) -> str:
    """`ko` where a fifth of the letters are Hangul, `en` where nine tenths are Latin, else `und`.

    Korean technical text is full of Latin names, hence the low first bound.
    """
    kinds = kinds_of(codes_of(text[:20_000]))
    letters = count(kinds, Kind.LETTER)
    if not letters:
        return "und"
    if count(kinds, Kind.HANGUL) >= 0.2 * letters:
        return "ko"
    return "en" if count(kinds, Kind.LATIN) >= 0.9 * letters else "und"


def comparison_form(text: str) -> str:
    """The text for comparison only: NFC, lower case, digits as one class, nothing but letters and digits.

    Korean spacing, punctuation, case and composition vary between copies of one text; this form is the same for all.
    """
    return DIGITS.sub("0", NEITHER_LETTER_NOR_DIGIT.sub("", nfc(text).lower()))
