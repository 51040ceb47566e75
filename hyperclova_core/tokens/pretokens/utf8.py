"""Characters of UTF-8 in compiled code."""

from __future__ import annotations

import numpy as np

from hyperclova_core.foundation.jit import compiled


@compiled(inline=True)
def decoded(data, at):
    """(code point, bytes) of the character that begins at a place of well-formed UTF-8 (surrogates may be in it)."""
    first = np.int64(data[at])
    if first < 0x80:
        return first, 1
    if first < 0xE0:
        return (first & 0x1F) << 6 | (np.int64(data[at + 1]) & 0x3F), 2
    if first < 0xF0:
        return (first & 0x0F) << 12 | (np.int64(data[at + 1]) & 0x3F) << 6 | (np.int64(data[at + 2]) & 0x3F), 3
    return (
        (first & 0x07) << 18
        | (np.int64(data[at + 1]) & 0x3F) << 12
        | (np.int64(data[at + 2]) & 0x3F) << 6
        | (np.int64(data[at + 3]) & 0x3F),
        4,
    )
