"""What readers give: a record, a record that must not enter, or one that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Record:
    """One record with its fields as the file names them, and where it stands (byte offset, line or entry number)."""

    location: str
    offset: int
    fields: dict[str, Any]


@dataclass
class Refused(Record):
    """A readable record that must not enter, with the reason (robots, not a page, empty …)."""

    reason: str = ""


@dataclass
class Unreadable:
    """A record that cannot be read: reason (a fixed word), detail for a person, and its bytes as far as they are known."""

    location: str
    offset: int
    reason: str
    detail: str
    raw: bytes = b""
    raw_bytes: int | None = field(default=None)


Item = Record | Refused | Unreadable
