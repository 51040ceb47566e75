"""Files and objects behind one small interface: a plain path or `file://` is disk, `s3://` is an object store.

A reader sees a whole file or none. A *commit* is one small object made with create-if-absent (`create_once`), which
only one of several racing writers wins.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import posixpath
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperclova_core.foundation.errors import ConfigError, DataError
from hyperclova_core.foundation.storage import disk, multipart, restricted, s3, s3_refusals
from hyperclova_core.foundation.storage.disk import explained

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SCRATCH_VARIABLE = "HYPERCLOVA_SCRATCH"
__all__ = [
    "abort_upload",
    "absolute",
    "boot_of",
    "clear_scratch",
    "create_once",
    "exists",
    "explained",
    "fetched",
    "install",
    "is_file",
    "is_remote",
    "join",
    "list_files",
    "list_names",
    "list_objects",
    "list_versions",
    "local_folder",
    "local_path",
    "localized",
    "make_folder",
    "normalized",
    "open_binary",
    "open_parquet",
    "pretty_json",
    "publish_folder",
    "read_bytes",
    "read_json",
    "read_parquet",
    "remove",
    "remove_tree",
    "replacing",
    "scratch_folder",
    "size",
    "temporary_for",
    "unfinished_uploads",
    "version_of",
    "write_bytes",
    "write_json",
]


def is_remote(uri: str) -> bool:
    """Whether an address lies on an object store.

    Raises:
        ConfigError: its scheme is one that this platform does not know.
    """
    if "://" not in uri or uri.startswith("file://"):
        return False
    if uri.startswith("s3://"):
        return True
    raise ConfigError(
        f"Storage scheme not supported: {uri.split('://', 1)[0]}://",
        where=uri,
        why="data is read and written on local or mounted disks and on s3://",
        remedy="use an s3:// address or a path; a store with an S3 interface needs AWS_ENDPOINT_URL_S3",
    )


def local_path(uri: str) -> Path:
    """The path behind a plain path or `file://` URI.

    Raises:
        ConfigError: it lies on an object store, where a local file is needed.
    """
    if is_remote(uri):
        raise ConfigError(
            "A local file is needed here",
            where=uri,
            why="this part of the platform does not read from or write to an object store",
            remedy="give a local path",
        )
    return Path(uri.removeprefix("file://"))


def join(base: str, *parts: str) -> str:
    """A path below `base`."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def normalized(uri: str) -> str:
    """The address without `..` and double slashes."""
    if is_remote(uri):
        return "s3://" + posixpath.normpath(uri.removeprefix("s3://"))
    return os.path.normpath(uri)


def absolute(uri: str) -> str:
    """The address as it holds in every folder."""
    return uri if is_remote(uri) else os.path.abspath(uri.removeprefix("file://"))


def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    return s3.exists(uri) if is_remote(uri) else local_path(uri).exists()


def is_file(uri: str) -> bool:
    """Whether there is a file (not a folder) of that name."""
    return s3.is_object(uri) if is_remote(uri) else local_path(uri).is_file()


def size(uri: str) -> int:
    """Bytes of a file."""
    return s3.size(uri) if is_remote(uri) else local_path(uri).stat().st_size


def version_of(uri: str) -> str | None:
    """What names an object's content without reading it, or None on disk, where only reading tells."""
    return s3.version_of(uri) if is_remote(uri) else None


def make_folder(uri: str) -> None:
    """A folder and its parents, if absent; object stores have none."""
    if not is_remote(uri):
        disk.make_folder(local_path(uri))


def read_bytes(uri: str) -> bytes:
    """The whole of a small file."""
    return s3.read(uri) if is_remote(uri) else local_path(uri).read_bytes()


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


def temporary_for(uri: str) -> str:
    """A local path to write to before `install` gives it the name: beside it on disk, in the scratch folder for S3."""
    if is_remote(uri):
        folder = scratch_folder("writing")
        return os.path.join(folder, f"{uuid.uuid4().hex}-{uri.rsplit('/', 1)[-1]}")
    return str(disk.beside(local_path(uri)))


def boot_of(uri: str) -> str:
    """Names the boot of this machine for files that last as long as it; empty where other machines may read them, and on S3."""
    return "" if is_remote(uri) else disk.boot_of(local_path(uri))


def install(temporary: str, uri: str, checksum: str | None = None, durable: bool = True) -> None:
    """Give a finished local file its name: synced (`durable`) and renamed on disk, uploaded (in parts where large) to S3."""
    if is_remote(uri):
        multipart.upload(temporary, uri, checksum)
        os.unlink(temporary)
    else:
        disk.install(Path(temporary), local_path(uri), durable)


@contextmanager
def replacing(uri: str, durable: bool = True) -> Iterator[str]:
    """A temporary local path that takes the name `uri`, whole and (where `durable`) safe, when the block ends well."""
    temporary = temporary_for(uri)
    try:
        with explained(uri):
            yield temporary
        install(temporary, uri, durable=durable)
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_bytes(uri: str, data: bytes) -> None:
    """Replace a small file atomically."""
    if is_remote(uri):
        s3.write(uri, data)
    else:
        disk.write_bytes(local_path(uri), data)


def write_json(uri: str, value: Any) -> None:
    """Replace a small JSON file atomically, keys sorted."""
    write_bytes(uri, pretty_json(value))


def pretty_json(value: Any) -> bytes:
    """JSON for files that people read: sorted, indented, Korean as it is."""
    return (json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode()


def create_once(uri: str, data: bytes, durable: bool = True) -> bool:
    """Create a file that must not be there yet; False when somebody else made it first."""
    return s3.create_once(uri, data) if is_remote(uri) else disk.create_once(local_path(uri), data, durable)


def list_files(uri: str) -> list[str]:
    """All files below a folder, sorted; hidden and temporary ones left out.

    Raises:
        DataError: a folder below cannot be read: its files would be lost without a word.
    """
    if not is_remote(uri):
        return disk.list_files(local_path(uri))
    start = len(uri.rstrip("/"))
    return sorted(path for path, _, _ in s3.objects(uri) if "/." not in path[start:])


def list_versions(uri: str) -> dict[str, tuple[int, str]]:
    """Address → (bytes, what names its content) of all objects below a prefix, hidden ones left out, in order: a request a thousand, none
    for each."""
    start = len(uri.rstrip("/"))
    return {path: (size, tag) for path, size, tag in sorted(s3.versions(uri)) if "/." not in path[start:]}


def list_objects(uri: str) -> Iterator[tuple[str, int, float]]:
    """(address, bytes, seconds since 1970 of the last change) of all files below, hidden ones too."""
    return s3.objects(uri) if is_remote(uri) else disk.objects(local_path(uri))


def time_of_store(folder: str) -> float:
    """Seconds since 1970 by the clock that stamps what is written to a folder: a wrong clock here must not age others' files."""
    probes = join(folder, ".clock")
    probe = join(probes, uuid.uuid4().hex)
    write_bytes(probe, b"")
    try:
        return next(changed for path, _, changed in list_objects(probes) if path == probe)
    finally:
        remove(probe)
        if not is_remote(probes):
            disk.remove_empty_folders(local_path(probes))


def data_path(path: str) -> str:
    """A path as a recipe gives it: a relative one starts at HYPERCLOVA_DATA, or at the current folder."""
    return path if is_remote(path) else os.path.join(os.environ.get("HYPERCLOVA_DATA") or os.getcwd(), path)


def list_names(uri: str) -> list[str]:
    """Names directly inside a folder, sorted; none when it is absent."""
    return s3.names(uri) if is_remote(uri) else disk.list_names(local_path(uri))


def remove(uri: str) -> None:
    """Delete a file; absent is fine."""
    if is_remote(uri):
        s3.remove(uri)
    else:
        local_path(uri).unlink(missing_ok=True)


def remove_files(uris: Sequence[str]) -> None:
    """Delete files, as many objects a request as it takes; absent ones are fine."""
    remote: dict[tuple[str, bool], list[str]] = {}
    for uri in uris:
        if is_remote(uri):
            remote.setdefault((s3_refusals.split(uri)[0], restricted.holds(uri)), []).append(uri)
        else:
            local_path(uri).unlink(missing_ok=True)
    for objects in remote.values():
        s3.remove_all(objects)


def remove_tree(uri: str) -> None:
    """Delete a folder and everything below; absent is fine."""
    if is_remote(uri):
        s3.remove_all([path for path, _, _ in s3.objects(uri)])
    else:
        disk.remove_tree(local_path(uri))


def open_parquet(uri: str) -> pq.ParquetFile:
    """A Parquet file opened for reading, wherever it lies; remote columns are read ahead in few large ranges."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if is_remote(uri):
        return pq.ParquetFile(pa.PythonFile(s3.Reader(uri), mode="r"), pre_buffer=True)
    return pq.ParquetFile(local_path(uri))


def read_parquet(uri: str, columns: list[str] | None = None, filters: Any = None) -> pa.Table:
    """Rows and columns of a Parquet file in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = pa.PythonFile(s3.Reader(uri), mode="r") if is_remote(uri) else str(local_path(uri))
    return pq.read_table(source, columns=columns, filters=filters, pre_buffer=is_remote(uri))


def read_rows(uri: str, first: int, count: int) -> pa.Table:
    """Some rows of a Parquet file, by their place; row groups that hold none of them are not read."""
    with open_parquet(uri) as file:
        groups: list[int] = []
        ends = before = 0
        for number in range(file.num_row_groups):
            start, ends = ends, ends + file.metadata.row_group(number).num_rows
            if start < first + count and ends > first:
                before = before if groups else start
                groups.append(number)
        return file.read_row_groups(groups).slice(first - before, count)


def open_binary(uri: str) -> io.RawIOBase | io.BufferedReader:
    """A file's bytes as a stream."""
    return io.BufferedReader(s3.Reader(uri), 1 << 20) if is_remote(uri) else local_path(uri).open("rb")


def open_ranges(uri: str) -> io.RawIOBase | io.BufferedReader:
    """As `open_binary`, but of an object just those bytes are read that are asked for, by a request each: nothing is held beside them."""
    return s3.Reader(uri) if is_remote(uri) else local_path(uri).open("rb")


def scratch_folder(*parts: str) -> str:
    """A folder of this user on the local disk for what is on its way to or from an object store: HYPERCLOVA_SCRATCH,
    else below the system's temporary folder. What is lost there costs time, never data."""
    told = os.environ.get(SCRATCH_VARIABLE)
    root = told or os.path.join(tempfile.gettempdir(), f"hyperclova-{os.getuid()}")
    folder = Path(root, *parts)
    with explained(str(folder)):
        if not told:
            disk.make_own_folder(Path(root))
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return str(folder)


def localized(uri: str, version: str | None = None) -> str:
    """A local path with a file's bytes: the file itself, or a copy of the object's present version, kept in scratch, which one process of the
    machine fetches for all.

    Args:
        version: of the object, where it is known (`list_versions`); else it is asked for.
    """
    if not is_remote(uri):
        return str(local_path(uri))
    name = hashlib.blake2b(f"{uri} {version or s3.version_of(uri)}".encode(), digest_size=16).hexdigest()
    target = Path(scratch_folder("copies", name), uri.rsplit("/", 1)[-1])
    if target.exists():
        return str(target)
    with disk.one_at_a_time(target.with_name(f".{target.name}.lock")):
        if not target.exists():
            temporary = disk.beside(target)
            try:
                with explained(str(target)):
                    s3.download(uri, str(temporary))
                disk.install(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
    return str(target)


@contextmanager
def fetched(uri: str) -> Iterator[str]:
    """A local path with a file's bytes for the length of a block: the file itself, or a copy that goes afterwards."""
    if not is_remote(uri):
        yield str(local_path(uri))
        return
    folder = scratch_folder("reading", uuid.uuid4().hex)
    path = Path(folder, uri.rsplit("/", 1)[-1])
    try:
        with explained(str(path)):
            s3.download(uri, str(path))
        yield str(path)
    finally:
        path.unlink(missing_ok=True)
        Path(folder).rmdir()


@contextmanager
def local_folder(uri: str, publish: bool = True) -> Iterator[str]:
    """A folder as a local one for the length of a block; for S3 a copy, whose files (where `publish`) replace the
    objects at the end."""
    if not is_remote(uri):
        if publish:
            make_folder(uri)
        yield str(local_path(uri))
        return
    folder = scratch_folder("folders", uuid.uuid4().hex)
    try:
        for path, _, _ in list(s3.objects(uri)):
            target = Path(folder, _below(uri, path))
            target.parent.mkdir(parents=True, exist_ok=True)
            s3.download(path, str(target))
        yield folder
        if publish:
            publish_folder(folder, uri)
    finally:
        disk.remove_tree(Path(folder))


def _below(uri: str, path: str) -> str:
    """An object's name below a prefix, as a path that stays below a folder.

    Raises:
        DataError: it would leave the folder: a key may hold what it likes.
    """
    name = path[len(uri.rstrip("/")) + 1 :]
    parts = name.split("/")
    if not name or "" in parts or "." in parts or ".." in parts or "\0" in name:
        raise DataError(
            "An object whose name is no path",
            where=path,
            why="as a file it would lie outside of its folder",
            remedy="remove the object, or rename it",
        )
    return name


def unfinished_uploads(uri: str) -> Iterator[tuple[str, str, float]]:
    """(address, upload id, begin) of uploads below a prefix that were never ended; disks have none."""
    return s3.unfinished_uploads(uri) if is_remote(uri) else iter(())


def abort_upload(uri: str, upload: str) -> None:
    """Drop the parts of an upload that was never ended."""
    s3.abort_upload(uri, upload)


def clear_scratch(older_than: float) -> int:
    """Delete what killed processes left in scratch; bytes freed. A job's folder goes as a whole, when nothing in it
    changed for some days: a long training keeps its first checkpoint."""
    root = os.path.dirname(scratch_folder("writing"))
    groups: dict[str, list[tuple[str, int, float]]] = {}
    for file in disk.objects(Path(root)):
        groups.setdefault("/".join(os.path.relpath(file[0], root).split("/")[:2]), []).append(file)
    now, freed = time.time(), 0
    for files in groups.values():
        if (now - max(changed for _, _, changed in files)) / 86_400 < older_than:
            continue
        for path, size_, _ in files:
            Path(path).unlink(missing_ok=True)
            freed += size_
    disk.remove_empty_folders(Path(root))
    return freed


def publish_folder(folder: str, uri: str, leave_out: tuple[str, ...] = ()) -> None:
    """Upload the files below a local folder; names in `leave_out` (of its own entries) stay. Nothing to do on disk."""
    if not is_remote(uri):
        return
    for path, _, _ in disk.objects(Path(folder)):
        name = os.path.relpath(path, folder)
        if name.split(os.sep)[0] not in leave_out and not name.startswith("."):
            multipart.upload(path, join(uri, name))
