"""Files on local disk, written so that a reader sees a whole file or none.

Data files are written beside their name and renamed when they are safe on the disk; a *commit* is one
small object made with create-if-absent (`create_once`), which only one of several racing writers wins.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hyperclova_core.foundation.errors import ConfigError, DataError


def local_path(uri: str) -> Path:
    """The path behind a plain path or `file://` URI.

    Raises:
        ConfigError: the scheme is one that this installation does not read.
    """
    if uri.startswith("file://"):
        uri = uri[len("file://") :]
    if "://" in uri:
        raise ConfigError(
            f"Storage scheme not supported: {uri.split('://', 1)[0]}://",
            where=uri,
            why="datasets are read and written on local or mounted disks in this version",
            remedy="mount the bucket, or copy the files to a local folder, and give that path",
        )
    return Path(uri)


def join(base: str, *parts: str) -> str:
    """A path below `base`."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    return local_path(uri).exists()


def size(uri: str) -> int:
    """Bytes of a file."""
    return local_path(uri).stat().st_size


def make_folder(uri: str) -> None:
    """A folder and its parents, if absent."""
    local_path(uri).mkdir(parents=True, exist_ok=True)


def read_bytes(uri: str) -> bytes:
    """The whole of a small file."""
    return local_path(uri).read_bytes()


def read_json(uri: str) -> Any:
    """The JSON value in a file.

    Raises:
        DataError: the file is not JSON.
    """
    try:
        return json.loads(read_bytes(uri))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(
            "A record of the warehouse is damaged",
            where=uri,
            why=str(error),
            remedy="restore the file from a backup, or remove its folder and run the stage again",
        ) from error


@contextmanager
def replacing(uri: str) -> Iterator[str]:
    """A temporary path beside `uri` that takes its name, whole and synced, when the block ends well."""
    target = local_path(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield str(temporary)
        _sync_file(temporary)
        temporary.replace(target)
        _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(uri: str, data: bytes) -> None:
    """Replace a small file atomically."""
    with replacing(uri) as temporary:
        Path(temporary).write_bytes(data)


def write_json(uri: str, value: Any) -> None:
    """Replace a small JSON file atomically, keys sorted."""
    write_bytes(uri, pretty_json(value))


def pretty_json(value: Any) -> bytes:
    """JSON for files that people read: sorted, indented, Korean as it is."""
    return (json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode()


def create_once(uri: str, data: bytes) -> bool:
    """Create a file that must not be there yet; False when somebody else made it first.

    `os.link` gives a name only to a complete, synced file, and fails when the name is taken. (Opening with
    O_EXCL alone could leave an empty file behind a crash, which would block everyone for ever.)
    """
    target = local_path(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(data)
        _sync_file(temporary)
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        _sync_folder(target.parent)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def list_files(uri: str) -> list[str]:
    """All files below a folder, sorted; hidden and temporary ones left out.

    Raises:
        DataError: a folder below cannot be read: its files would be lost without a word.
    """
    root = local_path(uri)
    found: list[str] = []
    for folder, names, files in os.walk(root, onerror=_unreadable):
        names[:] = sorted(name for name in names if not name.startswith("."))
        found.extend(os.path.join(folder, name) for name in files if not name.startswith("."))
    return sorted(found)


def _unreadable(error: OSError) -> None:
    if isinstance(error, FileNotFoundError):
        return
    raise DataError(
        "A folder cannot be read",
        where=str(error.filename),
        why=error.strerror or str(error),
        remedy=f"chmod u+rx {error.filename}",
    ) from error


def list_names(uri: str) -> list[str]:
    """Names directly inside a folder, sorted; none when it is absent."""
    root = local_path(uri)
    if not root.is_dir():
        return []
    return sorted(entry.name for entry in root.iterdir() if not entry.name.startswith("."))


def remove_tree(uri: str) -> None:
    """Delete a folder and everything below; absent is fine."""
    path = local_path(uri)
    if path.exists():
        shutil.rmtree(path)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
