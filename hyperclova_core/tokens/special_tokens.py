"""The one list of special tokens of the platform: fixed ids, first in every vocabulary."""

from __future__ import annotations

import numpy as np

from hyperclova_core.korean.personal_data import TYPES

END_OF_DOCUMENT = "<|endoftext|>"
PAD = "<|pad|>"
SPEAKERS = tuple(f"<|speaker{number}|>" for number in range(8))
PLACEHOLDERS = tuple(f"[{kind}]" for kind in TYPES)
SPECIAL_TOKENS = (END_OF_DOCUMENT, PAD, *SPEAKERS, *PLACEHOLDERS)
EOD_ID, PAD_ID = 0, 1
VOCABULARY_MULTIPLE = 128
UINT16_VOCABULARY = 65_500
"""Megatron's own bound: up to here ids are written in two bytes."""


def padded_vocabulary(size: int) -> int:
    """The size rounded up to a multiple of 128, so that it divides among tensor-parallel ranks."""
    return -(-size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def id_type(vocabulary_size: int) -> type[np.uint16] | type[np.int32]:
    """The id type that Megatron-LM chooses for a vocabulary."""
    return np.uint16 if vocabulary_size < UINT16_VOCABULARY else np.int32
