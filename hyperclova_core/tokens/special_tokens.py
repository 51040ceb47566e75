"""The one list of special tokens of the platform: fixed ids, first in every vocabulary."""

from __future__ import annotations

import re

from hyperclova_core.korean.personal_data import TYPES

END_OF_DOCUMENT = "<|endoftext|>"
PAD = "<|pad|>"
SPEAKERS = tuple(f"<|speaker{number}|>" for number in range(8))
PLACEHOLDERS = tuple(f"[{kind}]" for kind in TYPES)
SPECIAL_TOKENS = (END_OF_DOCUMENT, PAD, *SPEAKERS, *PLACEHOLDERS)
EOD_ID, PAD_ID = 0, 1
VOCABULARY_MULTIPLE = 128

PLACEHOLDER = re.compile("(" + "|".join(re.escape(token) for token in PLACEHOLDERS) + ")")


def padded_vocabulary(size: int) -> int:
    """The size rounded up to a multiple of 128, so that it divides among tensor-parallel ranks."""
    return -(-size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
