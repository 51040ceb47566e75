"""The comparison form: what is left of a text when spacing, punctuation, case, composition and personal data are not said.

Korean spacing varies between copies of one text (the same text with its spaces moved has a word 5-gram Jaccard similarity of
0.13), so the form has none. It is NFC, lower case, letters and digits only; each decimal digit is one class; a number of 7
to 20 digits, an e-mail address and a placeholder of de-identification are one mask each, so that two texts that differ in
a telephone number, or of which one is de-identified, are compared as one. Where a text is short, or half of it is digits,
the digits are what it says: then they stay as they are.

Equal forms are not yet equal texts: beside the form a document has its *content* (all letters and digits as they are), its
*wording* (the form without numbers) and its numbers, which say what two documents of one cluster differ in.

`form_of` is the definition, in plain Python; the kernel of `normalise` does the same over Arrow buffers (a property test
holds them equal).
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.korean.hangul import nfc
from hyperclova_core.korean.personal_data import TYPES

SEED = 1
"""Of the permutations of signatures."""
KERNEL = 3
"""Version of the kernels' arithmetic: raise it when a signature would come out differently."""
NUMERIC_TYPES = ("RRN", "FRN", "PHONE", "CARD", "ACCOUNT", "BIZNO", "DRIVER", "PASSPORT", "PLATE")
EMAIL_MASK = 0x110000
NUMBER_MASK = 0x110001
FIRST_MASK = 0x110002
"""Masks are above the last code point of Unicode."""
MASK_DIGITS = (7, 20)
MAX_DIGIT_SHARE = 0.5
LAST = 0x323B0
"""No letter or digit lies above (Unicode 15.0: CJK Extension H ends there)."""
COMPOSE = np.uint32(1 << 31)
_ZERO = ord("0")


def _masks() -> dict[str, int]:
    masks, following = {}, FIRST_MASK
    for kind in TYPES:
        if kind == "EMAIL":
            masks[f"[{kind}]"] = EMAIL_MASK
        elif kind in NUMERIC_TYPES:
            masks[f"[{kind}]"] = NUMBER_MASK
        else:
            masks[f"[{kind}]"] = following
            following += 1
    return masks


PLACEHOLDER_MASKS = _masks()
"""A placeholder of de-identification → the mask that stands for it, and for what it replaced where that has a mask."""
_MASKED = re.compile(
    f"(?P<placeholder>{'|'.join(re.escape(token) for token in PLACEHOLDER_MASKS)})"
    r"|(?P<email>[A-Za-z0-9._%+\-]+@[A-Za-z0-9\-]+(?:\.[A-Za-z0-9\-]+)+)"
    r"|(?P<number>[0-9](?:[-.][0-9]|[0-9])*)"
)


@lru_cache(maxsize=1)
def tables() -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """(classed, plain): code point → its letter in the form, 0 where it has none. The highest bit marks a code point
    that may change when its text is composed: only texts that hold one have to be composed first."""
    plain = np.zeros(LAST, np.uint32)
    classed = np.zeros(LAST, np.uint32)
    compose = np.zeros(LAST, np.uint32)
    for point in range(LAST):
        character = chr(point)
        if 0xD800 <= point < 0xE000:
            continue
        if unicodedata.combining(character) or unicodedata.normalize("NFC", character) != character:
            compose[point] = COMPOSE
        for follower in unicodedata.normalize("NFD", character)[1:]:
            compose[ord(follower)] = COMPOSE
        letters = [letter for letter in character.lower() if letter.isalnum()]
        if letters:
            plain[point] = _ZERO + unicodedata.decimal(character) if character.isdecimal() else ord(letters[0])
            classed[point] = ord("0") if character.isdecimal() else ord(letters[0])
    return classed | compose, plain | compose


@lru_cache(maxsize=1)
def placeholders() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.uint32]]:
    names = [name.encode() for name in PLACEHOLDER_MASKS]
    offsets = np.concatenate([[0], np.cumsum([len(name) for name in names])]).astype(np.int64)
    return np.frombuffer(b"".join(names), np.uint8), offsets, np.array(list(PLACEHOLDER_MASKS.values()), np.uint32)


def form_of(text: str, short_below: int) -> list[int]:
    """The form of one text as code points and masks: the definition that the kernel follows.

    Args:
        short_below: letters; a text whose classed form has fewer keeps its digits.
    """
    composed = nfc(text)
    classed, plain = tables()
    form: list[int] = []
    position = 0
    for found in _MASKED.finditer(composed):
        form += _letters(composed[position : found.start()], classed)
        if found["placeholder"]:
            form.append(PLACEHOLDER_MASKS[found["placeholder"]])
        elif found["email"]:
            form.append(EMAIL_MASK)
        else:
            digits = sum(character not in "-." for character in found["number"])
            few, many = MASK_DIGITS
            form += [NUMBER_MASK] if few <= digits <= many else [_ZERO] * digits
        position = found.end()
    form += _letters(composed[position:], classed)
    letters = _letters(composed, plain)
    digits = sum(chr(point).isdecimal() for point in letters)
    return letters if len(form) < short_below or digits > MAX_DIGIT_SHARE * len(letters) else form


def _letters(text: str, table: npt.NDArray[np.uint32]) -> list[int]:
    values = [int(table[ord(character)] & ~COMPOSE) for character in text if ord(character) < LAST]
    return [value for value in values if value]


def signature_version(shingle: int, permutations: int, short_below: int) -> str:
    """Names everything that a signature depends on: only signatures of one version can be compared."""
    classed, plain = tables()
    table = hashlib.blake2b(classed.tobytes() + plain.tobytes(), digest_size=8).hexdigest()
    parts = {"kernel": KERNEL, "seed": SEED, "shingle": shingle, "permutations": permutations, "short": short_below}
    return fingerprint({**parts, "letters": table, "masks": PLACEHOLDER_MASKS})[:16]
