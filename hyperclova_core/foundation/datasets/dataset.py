"""Datasets: tables of files made visible by one manifest object.

A dataset folder holds `manifest.json` (the commit), `attempt.json` (who, when: not part of the content), the files
of the attempt that was committed, and records of finished units. What is raw, rejected or quarantined lies in the
*restricted folder*, which the manifest names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.document_schema import DOCUMENT_SCHEMA
from hyperclova_core.foundation.datasets.manifest import (
    ATTEMPT,
    EXPIRED,
    MANIFEST,
    RESTORE,
    Manifest,
    Table,
    file_checksum,
    read_manifest,
)
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.storage import restricted


@dataclass(frozen=True)
class Target:
    """Where a stage writes: a dataset folder, and the restricted folder (relative to it, or `restricted://`) for raw and dropped data."""

    uri: str
    restricted_folder: str = "restricted"

    @property
    def restricted_uri(self) -> str:
        """The restricted folder as a path.

        Raises:
            ConfigError: it lies outside of the warehouse, and this process is not told where.
        """
        if restricted.is_elsewhere(self.restricted_folder):
            return restricted.located(self.restricted_folder)
        return storage.normalized(storage.join(self.uri, self.restricted_folder))

    def root(self, restricted: bool) -> str:
        """The folder below which a table's files lie."""
        return self.restricted_uri if restricted else self.uri


@dataclass(frozen=True)
class Dataset:
    """A committed dataset, opened for reading."""

    uri: str
    manifest: Manifest
    attempt: Mapping[str, Any] = field(default_factory=dict)
    expired: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Stage and the head of the fingerprint: enough for a person."""
        return f"{self.manifest.stage}@{self.manifest.fingerprint[:12]}"

    def root(self, table: str) -> str:
        """The folder below which a table's files lie."""
        return Target(self.uri, self.manifest.restricted_folder).root(self.table(table).restricted)

    def table(self, name: str) -> Table:
        """A table by name.

        Raises:
            DataError: the dataset has none of that name.
        """
        if name not in self.manifest.tables:
            raise DataError(
                f"The dataset has no table `{name}`",
                where=self.uri,
                why=f"it has {', '.join(sorted(self.manifest.tables)) or 'none'}",
                remedy="give a dataset of another stage",
            )
        return self.manifest.tables[name]

    def files(self, table: str = "documents") -> list[str]:
        """Paths of a table's files, in order.

        Raises:
            DataError: there is no such table, or its files have passed their time to live.
        """
        if table in self.expired.get("tables", ()):
            raise DataError(
                f"Table `{table}` has passed its time to live",
                where=self.uri,
                why=f"its files were removed at {self.expired.get('at')}",
                remedy="run the stage again from the sources if they may still be kept",
            )
        return self._paths(table)

    def _paths(self, table: str) -> list[str]:
        root = self.root(table)
        return [storage.join(root, entry.path) for entry in self.table(table).files]

    def read(self, table: str = "documents", columns: list[str] | None = None) -> pa.Table:
        """A whole table in memory: for narrow columns and small tables."""
        parts = [storage.read_parquet(path, columns) for path in self.files(table)]
        if not parts:
            return DOCUMENT_SCHEMA.empty_table() if table == "documents" else pa.table({})
        return pa.concat_tables(parts)

    def batches(
        self, table: str = "documents", columns: list[str] | None = None, rows: int = 1024
    ) -> Iterator[pa.RecordBatch]:
        """A table streamed in order."""
        for path in self.files(table):
            with storage.open_parquet(path) as file:
                yield from file.iter_batches(batch_size=rows, columns=columns)

    def verify(self, checksums: bool = False) -> None:
        """Sizes of all files, and their checksums on request; where this process is not told of the place of restricted data
        (HYPERCLOVA_RESTRICTED), those of the other tables.

        Raises:
            DataError: naming the first file that is missing, truncated or altered.
        """
        names = sorted(set(self.manifest.tables) - set(self.expired.get("tables", ())) - self._unseen())
        pairs = [
            (path, entry)
            for name in names
            for path, entry in zip(self._paths(name), self.manifest.tables[name].files, strict=True)
        ]
        check_sizes(((path, entry.bytes) for path, entry in pairs), {self.root(name) for name in names})
        for path, entry in pairs if checksums else ():
            if file_checksum(path) != entry.checksum:
                raise DataError(
                    "A file of a dataset was altered",
                    where=path,
                    why="its checksum differs from the manifest's",
                    remedy=RESTORE,
                )

    def _unseen(self) -> set[str]:
        """Tables that lie where this process is not to look."""
        if not restricted.is_elsewhere(self.manifest.restricted_folder) or restricted.root() is not None:
            return set()
        return {name for name, table in self.manifest.tables.items() if table.restricted}


def check_sizes(expected: Iterable[tuple[str, int]], roots: Iterable[str]) -> None:
    """Every file is there with its size; an object store is asked by listing, not object by object.

    Raises:
        DataError: naming the first file that is missing or has another size.
    """
    listed = {
        path: size
        for root in sorted(roots)
        if storage.is_remote(root)
        for path, size, _ in storage.list_objects(storage.join(root, "attempts"))
    }
    for path, size in expected:
        found: int | None = listed.get(path)
        if not storage.is_remote(path):
            with suppress(FileNotFoundError, NotADirectoryError):
                found = storage.size(path)
        if found is None:
            raise DataError("A file of a dataset is missing", where=path, why="the manifest names it", remedy=RESTORE)
        if found != size:
            raise DataError(
                "A file of a dataset has the wrong size",
                where=path,
                why=f"{found} bytes instead of {size}",
                remedy=RESTORE,
            )


def open_dataset(uri: str) -> Dataset:
    """A committed dataset; file sizes are checked.

    Raises:
        DataError: nothing is committed there, or it is damaged.
    """
    manifest = read_manifest(uri)
    if manifest is None:
        expired = _optional(storage.join(uri, EXPIRED))
        raise DataError(
            "No committed dataset here",
            where=uri,
            why=f"it passed its time to live at {expired['at']}" if expired else f"there is no {MANIFEST}",
            remedy="give the folder that a stage wrote (its --output), or run the stage first",
        )
    attempt, expired = _optional(storage.join(uri, ATTEMPT)), _optional(storage.join(uri, EXPIRED))
    dataset = Dataset(uri, manifest, attempt, expired if expired.get("attempt") == attempt.get("attempt") else {})
    dataset.verify()
    return dataset


def _optional(path: str) -> dict[str, Any]:
    try:
        value: dict[str, Any] = storage.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return value
