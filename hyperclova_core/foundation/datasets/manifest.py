"""The manifest: the one object whose presence is a dataset's commit, and how it is read and checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.hashing import fingerprint

MANIFEST = "manifest.json"


ATTEMPT = "attempt.json"


EXPIRED = "expired.json"


FORMAT = 2


UNSEALED_FORMAT = 1


RESTORE = "restore it from a backup, or remove the dataset's folder and run the stage again"


class FileEntry(Config):
    """One file of a table. `path` is relative to the table's root; `checksum` is over bytes, `digest` over rows."""

    path: str
    rows: int
    bytes: int
    checksum: str
    digest: str
    bucket: int | None = None
    text_bytes: int = 0


class Table(Config):
    """The files of one table, in order; `restricted` says under which root they lie."""

    files: tuple[FileEntry, ...] = ()
    restricted: bool = False

    @property
    def rows(self) -> int:
        """Rows over all files."""
        return sum(entry.rows for entry in self.files)

    @property
    def bytes(self) -> int:
        """Bytes on disk over all files."""
        return sum(entry.bytes for entry in self.files)


class InputReference(Config):
    """A dataset or file set that was read."""

    fingerprint: str
    digest: str
    uri: str = ""


class Counters(Config):
    """What went in and what became of it; `custom` holds a stage's own numbers."""

    rows_in: int = 0
    fan_out: int = 0
    kept: int = 0
    rejected: dict[str, int] = Field(default_factory=dict)
    quarantined: dict[str, int] = Field(default_factory=dict)
    text_bytes_in: int = 0
    text_bytes_kept: int = 0
    rejected_bytes: dict[str, int] = Field(default_factory=dict, description="reason → UTF-8 bytes of text")
    quarantined_bytes: dict[str, int] = Field(default_factory=dict, description="reason → raw bytes")
    by_source: dict[str, dict[str, int]] = Field(default_factory=dict)
    custom: dict[str, float] = Field(default_factory=dict)

    def check_conservation(self, stage: str) -> None:
        """Rows in + declared fan-out = kept + rejected + quarantined.

        Raises:
            DataError: rows appeared or vanished, which is a bug of the stage.
        """
        out = self.kept + sum(self.rejected.values()) + sum(self.quarantined.values())
        if self.rows_in + self.fan_out != out:
            raise DataError(
                f"Stage {stage} does not conserve its documents",
                where=stage,
                why=f"{self.rows_in} in + {self.fan_out} made != {self.kept} kept + {sum(self.rejected.values())} rejected"
                f" + {sum(self.quarantined.values())} quarantined",
                remedy="this is a bug of the stage: nothing was committed; please report it with the stage's log",
            )


class Manifest(Config):
    """The one object whose presence is the commit."""

    format: int = FORMAT
    stage: str
    stage_version: str
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, InputReference]
    tables: dict[str, Table]
    counters: Counters
    digest: str
    buckets: int = 1
    restricted_folder: str = "restricted"
    info: dict[str, Any] = Field(default_factory=dict)
    seal: str = Field("", description="hash over all the rest: an edit by hand shows")

    def sealed(self) -> Manifest:
        """The same with its seal."""
        plain = json.loads(storage.pretty_json(self.model_dump()))
        return self.model_copy(update={"seal": _seal(plain)})


def _seal(data: Mapping[str, Any]) -> str:
    return fingerprint({key: value for key, value in data.items() if key != "seal"})


def read_manifest(uri: str) -> Manifest | None:
    """The manifest of a dataset folder, or None where nothing is committed.

    Raises:
        DataError: it is there but damaged or edited.
    """
    path = storage.join(uri, MANIFEST)
    try:
        data = storage.read_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return manifest_from(data, path)


def manifest_from(data: Any, path: str) -> Manifest:
    """A manifest from its JSON value.

    Raises:
        DataError: it is damaged or was edited.
    """
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        raise DataError(
            "The manifest of a dataset is damaged",
            where=path,
            why=f"{error.error_count()} fields are not valid",
            remedy=RESTORE,
        ) from error
    sealed = manifest.format == UNSEALED_FORMAT or manifest.seal == _seal(data)
    if not sealed or manifest.digest != content_digest(manifest.tables, manifest.counters):
        raise DataError(
            "The manifest of a dataset was edited",
            where=path,
            why="its seal or digest does not match what it lists",
            remedy=RESTORE,
        )
    return manifest


def content_digest(tables: Mapping[str, Table], counters: Counters) -> str:
    """Identity of what a dataset says: rows and counters, without paths, layout, attempt or time."""
    return fingerprint(
        {
            "tables": {
                name: [[entry.rows, entry.digest, entry.bucket] for entry in table.files]
                for name, table in tables.items()
            },
            # bytes by reason say nothing that the rows of the tables do not
            "counters": counters.model_dump(exclude={"custom", "rejected_bytes", "quarantined_bytes"}),
        }
    )


def file_checksum(path: str) -> str:
    """128-bit hash of a file's bytes."""
    hasher = hashlib.blake2b(digest_size=16)
    with storage.open_binary(path) as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()
