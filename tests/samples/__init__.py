"""Small Korean samples that we wrote: every clone proves with them what larger, real sets prove where those are.

`prose.txt` (a text a line, of several kinds), `similar_prose.txt` (other texts on the subjects of some of those),
`personal_data.txt` (sentences; `{TYPE:value}` marks what must be found, and nothing else may be). All persons and numbers are
made up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
_MARK = re.compile(r"\{([A-Z_]+):([^}]+)\}")


def lines_of(name: str) -> list[str]:
    """The lines of a sample."""
    return (HERE / f"{name}.txt").read_text(encoding="utf-8").splitlines()


@dataclass(frozen=True)
class Marked:
    """A sentence with (type, start, end) of what is personal in it."""

    text: str
    spans: list[tuple[str, int, int]]


def marked_sentences() -> list[Marked]:
    """`personal_data.txt` without its marks."""
    found = []
    for line in lines_of("personal_data"):
        text, spans, after = "", [], 0
        for mark in _MARK.finditer(line):
            text += line[after : mark.start()]
            spans.append((mark[1], len(text), len(text) + len(mark[2])))
            text, after = text + mark[2], mark.end()
        found.append(Marked(text + line[after:], spans))
    return found
