"""Records of a phase's work: what a unit is given, and what it answers. Both are JSON between processes and typed within them."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from hyperclova_core.foundation.datasets.manifest import Counters, FileEntry, Table
from hyperclova_core.foundation.records import Record

TASK_WEIGHT = 64 << 20
"""Bytes that a task reads at least, where there are more units than cores: a task costs a tenth of a second before it begins."""


class WorkUnit(Record):
    """One independent piece of a phase's work; a phase that needs to say more has a subclass of its own."""

    identity: Any = Field(None, description="a JSON value: what the result depends on, beside the stage's output")
    weight: int = Field(TASK_WEIGHT, description="bytes that are read for it, about: light units share a task")


class BucketUnit(WorkUnit):
    """A bucket's file of documents."""

    path: str = Field(description="the file's address")
    bucket: int = Field(description="its number; 0 where a dataset is not in buckets")


class FileUnit(WorkUnit):
    """One file among others, and its place there, by which what is made of it is named."""

    path: str
    number: int = 0


class SourceFile(Record):
    """A foreign file as a source stage and its fingerprint see it."""

    path: str = Field(description="where it is; in a worker that was sent an object, the local copy")
    name: str = Field(description="below its source's folder; part of the identity")
    source: str
    bytes: int
    checksum: str = Field(description="of its content, or the object's version")


class UnitResult(Record):
    """What became of a unit."""

    files: tuple[str, ...] = Field((), description="addresses that must still be there, with their sizes, to be used")
    boot: str = Field("", description="`storage.boot_of`: the files were not synced, and count until the machine stops")


class TablesResult(UnitResult):
    """A unit that wrote a file of each of some tables."""

    tables: dict[str, FileEntry]
    counters: Counters


class RowsResult(UnitResult):
    """A unit that wrote narrow rows for the next phase: into `path`, which is not there for no rows."""

    path: str = ""
    rows: int = 0


def table_of(results: list[TablesResult], name: str, restricted: bool) -> Table:
    """The files that the units wrote for a table, in their order."""
    return Table(files=tuple(result.tables[name] for result in results), restricted=restricted)
