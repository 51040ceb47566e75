"""Text of documents and names of files on a terminal: what would command the terminal, or turn words around, is shown instead of done.

Escapes of terminals are controls (ECMA-48, C0 and C1); what turns words around are Unicode's explicit directional marks (UAX #9, section 2; "Trojan
Source", Boucher and Anderson 2021).
"""

from __future__ import annotations

import re

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]")


def printable(text: str) -> str:
    """The text with each such character as its escape (`\\x1b`, `\\u202e`); lines and tabs stay."""
    return _COMMANDS.sub(lambda found: found.group().encode("unicode_escape").decode(), text)
