"""Compiled translation catalogues (GNU gettext manual, section 10.3 "The Format of GNU MO Files").

Not Python's own `gettext`: it compiles the catalogue's plural rule into code.
"""

from __future__ import annotations

import re
import struct

from hyperclova_core.corpus.ingest.text import CHARSETS

_MAGIC = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}
_CHARSET = re.compile(rb"charset=([A-Za-z0-9_\-]{1,40})", re.IGNORECASE)
MOST_MESSAGES = 1_000_000

Key = str | tuple[str, int]
"""An original; of one with plural forms, with the number of the form."""


def messages_of(catalogue: bytes) -> dict[Key, str]:
    """Original → translation, the header left out.

    Raises:
        ValueError: it is no catalogue, or a damaged one.
    """
    order = _MAGIC.get(catalogue[:4])
    if order is None:
        raise ValueError("the file does not begin as a catalogue does")
    try:
        revision, count, originals, translations = struct.unpack(f"{order}4I", catalogue[4:20])
        if revision >> 16 > 1 or count > MOST_MESSAGES:
            raise ValueError(f"revision {revision >> 16}, {count} messages")
        keys = [_string(catalogue, order, originals + 8 * number) for number in range(count)]
        values = [_string(catalogue, order, translations + 8 * number) for number in range(count)]
    except struct.error as error:
        raise ValueError(f"a table lies outside of the file ({error})") from error
    header = dict(zip(keys, values, strict=True)).get(b"", b"")
    said = _CHARSET.search(header)
    charset = CHARSETS.get(said.group(1).decode("ascii").lower()) if said else "utf-8"
    if charset is None:
        raise ValueError("its header names no charset that texts are in")
    found: dict[Key, str] = {}
    for key, value in zip(keys, values, strict=True):
        original, several, _ = key.partition(b"\0")
        if not key:
            continue
        if not several:
            found[original.decode(charset)] = value.decode(charset)
            continue
        for number, form in enumerate(value.split(b"\0")):
            found[original.decode(charset), number] = form.decode(charset)
    return found


def _string(catalogue: bytes, order: str, entry: int) -> bytes:
    length, offset = struct.unpack(f"{order}2I", catalogue[entry : entry + 8])
    if offset + length > len(catalogue):
        raise ValueError("a message lies outside of the file")
    return catalogue[offset : offset + length]
