"""Told of each record that a reader begins, so that one which ends the process can be named, and is passed over the next time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hyperclova_core.foundation.stages.content_limits import Reason


@dataclass(frozen=True)
class Trip:
    """Why a record is not read."""

    reason: Reason
    detail: str


class RecordWatch:
    """Numbers records from 1 in the order in which a reader begins them, which is the same each time a file is read.

    Args:
        known: number of a record → why it is passed over.
        begun: called with each number before anything is done with that record.
    """

    def __init__(self, known: Mapping[int, Trip] | None = None, begun: Callable[[int], None] | None = None) -> None:
        self._known, self._begun, self._number = known or {}, begun, 0

    def begin(self) -> Trip | None:
        """The next record begins: why it must not be read, if so."""
        self._number += 1
        if self._begun is not None:
            self._begun(self._number)
        return self._known.get(self._number)
