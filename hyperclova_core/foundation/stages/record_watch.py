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


GIVEN = Trip("crashed", "was given before the file was read again")
"""Of a record whose row the worker has: what a reader makes of it is thrown away, so nothing is done with its content."""


class RecordWatch:
    """Numbers records from 1 in the order in which a reader begins them, which is the same each time a file is read.

    A file may be read again after a record ended the process. A stage that tells this watch of its records makes one row of each of the
    reader's items, and leaves out the first `given_items`: the worker has them.

    Args:
        known: number of a record → why it is passed over.
        begun: called with each number before anything is done with that record.
        given_through: the last record of which the worker has the row.
        given_items: rows that the worker has.
    """

    def __init__(
        self,
        known: Mapping[int, Trip] | None = None,
        begun: Callable[[int], None] | None = None,
        given_through: int = 0,
        given_items: int = 0,
    ) -> None:
        self._known, self._begun, self._given = known or {}, begun, given_through
        self.number = 0
        """Of the record that was begun last."""
        self.given_items = given_items

    def begin(self) -> Trip | None:
        """The next record begins: why it must not be read, if so."""
        self.number += 1
        if self._begun is not None:
            self._begun(self.number)
        return GIVEN if self.number <= self._given else self._known.get(self.number)
