"""The printable character by which byte-level BPE writes each byte (GPT-2's table, Radford 2019)."""

from __future__ import annotations

_PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
_OTHERS = tuple(byte for byte in range(256) if byte not in _PRINTABLE)
BYTE_DECODER = {**{chr(byte): byte for byte in _PRINTABLE}, **{chr(256 + at): byte for at, byte in enumerate(_OTHERS)}}
"""Character → byte."""
BYTE_ENCODER = tuple(sign for sign, _ in sorted(BYTE_DECODER.items(), key=lambda item: item[1]))
"""Byte → character."""
