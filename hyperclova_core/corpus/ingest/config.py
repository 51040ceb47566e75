"""What to read, and the limits of reading."""

from __future__ import annotations

import glob
import logging
import os
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import NO_IDENTITY, Config
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.stages.source_stages import describe_file
from hyperclova_core.foundation.stages.units import SourceFile

Format = Literal["auto", "jsonl", "parquet", "html", "warc", "mediawiki", "text", "mallard", "gettext"]

log = logging.getLogger(__name__)

SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".warc": "warc",
    ".arc": "warc",
    ".xml": "mediawiki",
    ".txt": "text",
    ".page": "mallard",
    ".mo": "gettext",
}
COMPRESSIONS = (".gz", ".zst", ".bz2")


class SourceConfig(Config):
    """One source: files of one origin and tier. Relative paths start at HYPERCLOVA_DATA, or at the current folder."""

    name: str = Field(min_length=1, pattern=r"^[a-z0-9_\-]+$")
    paths: tuple[str, ...] = Field(
        (), json_schema_extra=NO_IDENTITY, description="files, folders or patterns (** goes through folders)"
    )
    tier: Literal["portal", "open", "expert"] = "open"
    format: Format = "auto"
    license: str | None = None
    url_prefix: str | None = Field(None, description="put before a file's relative name to make its url")
    optional: bool = Field(False, description="the run goes on where no file is there")


class IngestConfig(Config):
    """Limits of reading."""

    RENAMED: ClassVar[Mapping[str, str]] = {"extraction_seconds": "limits.record_seconds"}

    sources: tuple[SourceConfig, ...] = ()
    max_record_bytes: int = Field(16 << 20, ge=1024, description="a larger record is quarantined")
    max_expansion: int = Field(
        200,
        ge=10,
        description="a compressed file of which more than this many times its size (and 64 MB) comes out is given up there",
    )
    batch_rows: int = Field(512, ge=1, json_schema_extra=NO_IDENTITY)

    def source(self, name: str) -> SourceConfig:
        """The source of that name."""
        return next(source for source in self.sources if source.name == name)


def find_files(config: IngestConfig) -> list[SourceFile]:
    """All files of all sources, in a fixed order, with their checksums.

    Raises:
        DataError: a path is missing or unreadable, or a source that is not optional has no file.
    """
    found: list[SourceFile] = []
    for source in sorted(config.sources, key=lambda item: item.name):
        files: dict[str, str] = {}
        listed: dict[str, tuple[int, str]] = {}
        for pattern in source.paths:
            files.update(_expand(pattern, source, listed))
        if not files and not source.optional:
            raise DataError(
                f"Source {source.name} has no files",
                where=", ".join(source.paths) or "(no paths given)",
                why="no file matches its paths",
                remedy="correct `paths`, or mark the source `optional: true`",
            )
        for path in sorted(files):
            if not storage.is_remote(path) and not os.access(path, os.R_OK):
                raise DataError(
                    f"A file of source {source.name} cannot be read",
                    where=path,
                    why="permission denied",
                    remedy=f"chmod u+r {path}",
                )
            found.append(describe_file(path, files[path], source.name, listed.get(path)))
    if found and not any(file.bytes for file in found):
        raise DataError(
            "All source files are empty", where=found[0].path, why="0 bytes in every file", remedy="check the export"
        )
    for source in config.sources:
        own = [file for file in found if file.source == source.name]
        if own and not any(file.bytes for file in own):
            raise DataError(
                f"Source {source.name} is empty",
                where=own[0].path,
                why=f"0 bytes in {len(own)} file(s)",
                remedy="check the export, or remove the source from the recipe",
            )
    return found


def _expand(pattern: str, source: SourceConfig, listed: dict[str, tuple[int, str]]) -> dict[str, str]:
    """Path → base folder (for relative names) of everything a pattern names; what a listing says of objects is put into `listed`."""
    if storage.is_remote(pattern):
        return _expand_remote(pattern, source, listed)
    path = storage.data_path(pattern.removeprefix("file://"))
    if os.path.isfile(path):
        return {path: os.path.dirname(path)}
    if os.path.isdir(path):
        files = storage.list_files(path)
        return dict.fromkeys(_of_known_format(files, path, source), path)
    if any(sign in pattern for sign in "*?["):
        fixed = Path(*list(_fixed_parts(path)))
        return {file: str(fixed) for file in glob.glob(path, recursive=True) if os.path.isfile(file)}
    if source.optional:
        return {}
    raise _absent(path, source)


def _expand_remote(pattern: str, source: SourceConfig, listed: dict[str, tuple[int, str]]) -> dict[str, str]:
    fixed = posixpath.join(*_fixed_parts(pattern.removeprefix("s3://"), "/"))
    base = f"s3://{fixed}"
    there = storage.list_versions(base)
    listed.update(there)
    found = list(there)
    if base != pattern.rstrip("/"):
        matching = re.compile(_translated(pattern))
        return {path: base for path in found if matching.match(path)}
    if found:
        return dict.fromkeys(_of_known_format(found, base, source), base)
    if storage.exists(pattern):
        listed[pattern] = (storage.size(pattern), str(storage.version_of(pattern)))
        return {pattern: pattern.rpartition("/")[0]}
    if source.optional:
        return {}
    raise _absent(pattern, source)


def _translated(pattern: str) -> str:
    """A glob pattern as a regular expression: `**` crosses folders, `*` and `?` do not."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", pattern)
    plain = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return (
        "".join(
            plain.get(part) or (part.replace("[!", "[^") if part.startswith("[") else re.escape(part)) for part in parts
        )
        + r"\Z"
    )


def _of_known_format(files: list[str], path: str, source: SourceConfig) -> list[str]:
    known = [file for file in files if source.format != "auto" or known_format(file)]
    if len(known) < len(files):
        log.warning(
            "source %s: %d files of unknown format in %s are not read", source.name, len(files) - len(known), path
        )
    return known


def _absent(path: str, source: SourceConfig) -> DataError:
    return DataError(
        f"A path of source {source.name} does not exist",
        where=path,
        why="no such file or folder",
        remedy="correct `paths`; relative paths start at HYPERCLOVA_DATA, or at the current folder",
    )


def _fixed_parts(path: str, separator: str = "") -> list[str]:
    fixed = []
    for part in path.rstrip("/").split(separator) if separator else Path(path).parts:
        if any(sign in part for sign in "*?["):
            break
        fixed.append(part)
    return fixed


def known_format(path: str) -> Format | None:
    """The format that a file's name says, compression aside."""
    name = path.lower()
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    return SUFFIXES.get(os.path.splitext(name)[1])
