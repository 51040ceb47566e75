"""Hangul in Unicode (The Unicode Standard, chapter 18.6): syllables, jamo, shares of scripts."""

from __future__ import annotations

import re
import unicodedata

COMPATIBILITY_JAMO = re.compile(r"[\u3131-\u318e]")
SYLLABLES = re.compile(r"[\uac00-\ud7a3]")
HANGUL = re.compile(r"[\u1100-\u11ff\u3131-\u318e\ua960-\ua97f\uac00-\ud7a3\ud7b0-\ud7ff]")
LETTERS = re.compile(r"[^\W\d_]")
LATIN = re.compile(r"[A-Za-z]")
NEITHER_LETTER_NOR_DIGIT = re.compile(r"[\W_]+")
DIGITS = re.compile(r"\d")


def nfc(text: str) -> str:
    """Canonical composition; most text is composed already, and is returned as it is."""
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def hangul_share(text: str) -> float:
    """Hangul letters over all letters, 0 for a text without letters."""
    letters = len(LETTERS.findall(text))
    return len(HANGUL.findall(text)) / letters if letters else 0.0


def language_of(text: str) -> str:
    """`ko` where a fifth of the letters are Hangul, `en` where nine tenths are Latin, else `und`.

    Korean technical text is full of Latin names, hence the low first bound.
    """
    sample = text[:20_000]
    letters = len(LETTERS.findall(sample))
    if not letters:
        return "und"
    if len(HANGUL.findall(sample)) >= 0.2 * letters:
        return "ko"
    return "en" if len(LATIN.findall(sample)) >= 0.9 * letters else "und"


def comparison_form(text: str) -> str:
    """The text for comparison only: NFC, lower case, digits as one class, nothing but letters and digits.

    Korean spacing, punctuation, case and composition vary between copies of one text; this form is the same for all.
    """
    return DIGITS.sub("0", NEITHER_LETTER_NOR_DIGIT.sub("", nfc(text).lower()))
