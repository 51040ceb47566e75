"""Files on local or mounted disks: whole or absent, synced before they get their name, and errors that say what to do."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hyperclova_core.foundation.errors import ConfigError, DataError, HyperclovaError, TransientError
from hyperclova_core.foundation.storage import restricted

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)
OF_ONE_MACHINE = frozenset({"ext2", "ext3", "ext4", "xfs", "f2fs", "tmpfs", "overlay"})
"""File systems that one machine mounts at a time."""
OTHERS = 0o077
MOUNTS = Path("/proc/self/mountinfo")


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Turn what a disk refuses while writing into an error for a person.

    Raises:
        TransientError: the disk or the quota is full.
        ConfigError: the target is read-only, forbidden, or no folder.
    """
    try:
        yield
    except (HyperclovaError, FileNotFoundError):
        raise
    except OSError as error:
        number = error.errno or _number_in(str(error))
        if number in FULL:
            raise TransientError(
                "The disk is full",
                where=uri,
                why=os.strerror(number),
                remedy="free space (`hyperclova dataset gc` shows what nothing needs) or raise the quota, then run"
                " again: nothing was committed, finished units are taken over",
            ) from None
        if number in READ_ONLY:
            raise ConfigError(
                "The target cannot be written",
                where=uri,
                why=os.strerror(number),
                remedy="choose a folder that this user may write, or mount it writable; nothing was lost",
            ) from None
        raise


def _number_in(message: str) -> int:
    """Arrow tells the number in its text only: `... [errno 28] No space left on device`."""
    for number in (*FULL, *READ_ONLY):
        if f"[errno {number}]" in message.lower():
            return number
    return 0


def make_folder(path: Path) -> None:
    """A folder and its parents, if absent. A restricted one that is made here is its owner's alone, whatever the umask."""
    with explained(str(path)):
        within = _restricted_part(path)
        new = within is not None and not within.exists()
        path.mkdir(parents=True, exist_ok=True)
        if within is not None and new:
            within.chmod(0o700)


def make_own_folder(path: Path) -> None:
    """A folder of this user in one that everybody may write to, if absent.

    Raises:
        ConfigError: somebody else made it first, or may write to it, or it is a link: what is put there could be read or exchanged.
    """
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise ConfigError(
            "The scratch folder is not ours alone",
            where=str(path),
            why="it is a link, another user's, or others may write to it",
            remedy="remove it, or set HYPERCLOVA_SCRATCH to a folder of this user",
        )


def _restricted_part(path: Path) -> Path | None:
    """The innermost folder of that name on the way to a path (one further out may be somebody else's), or HYPERCLOVA_RESTRICTED."""
    base = restricted.root()
    if base is not None and restricted.holds(str(path)):
        return Path(base)
    parts = path.parts
    if restricted.FOLDER not in parts:
        return None
    return Path(*parts[: len(parts) - parts[::-1].index(restricted.FOLDER)])


def _owners_alone(temporary: Path, path: Path) -> None:
    """A file that is to lie in a folder which is its owner's alone is so, too, before it has its name."""
    within = _restricted_part(path.parent)
    if within is not None and not within.stat().st_mode & OTHERS:
        temporary.chmod(0o600)


def beside(path: Path) -> Path:
    """A hidden name in the same folder, which is made if absent."""
    make_folder(path.parent)
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def install(temporary: Path, path: Path, durable: bool = True) -> None:
    """Give a finished file its name, when it is safe on the disk (`durable`), or at once."""
    with explained(str(path)):
        _owners_alone(temporary, path)
        if durable:
            sync_file(temporary)
        os.replace(temporary, path)
        if durable:
            sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a small file atomically."""
    temporary = beside(path)
    try:
        with explained(str(path)):
            temporary.write_bytes(data)
        install(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _file_system(device: int) -> str:
    """Its type, as Linux names it; unknown ones are empty (numbers are used again, so it is asked each time)."""
    try:
        lines = MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    name = f"{os.major(device)}:{os.minor(device)}"
    found = [line.split(" - ", 1)[1].split(" ", 1)[0] for line in lines if line.split(" ", 3)[2] == name]
    return found[-1] if found else ""


def boot_of(path: Path) -> str:
    """Names the boot of this machine, where the disk is one that no other machine sees while this one runs, else empty.

    What was written since then is seen by every process of this machine, synced or not, until it stops. Whether others see the disk too,
    because this one exports it, cannot be told from here: compare what two processes are told.
    """
    folder = path
    while not folder.exists():
        folder = folder.parent
    if _file_system(folder.stat().st_dev) not in OF_ONE_MACHINE:
        return ""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def create_once(path: Path, data: bytes, durable: bool = True) -> bool:
    """Create a file that must not be there yet; False when somebody else made it first.

    `os.link` gives a name only to a complete, synced file, and fails when the name is taken. (Opening with
    O_EXCL alone could leave an empty file behind a crash, which would block everyone for ever.)
    """
    temporary = beside(path)
    try:
        with explained(str(path)):
            temporary.write_bytes(data)
            _owners_alone(temporary, path)
            if durable:
                sync_file(temporary)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            if durable:
                sync_folder(path.parent)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def list_files(root: Path) -> list[str]:
    """All files below a folder, sorted; hidden and temporary ones left out.

    Raises:
        DataError: a folder below cannot be read: its files would be lost without a word.
    """
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


def readable_name(name: str) -> str:
    """A file's name as text. Linux takes any bytes for one: what is no UTF-8 is read as CP949, as old Korean archives have it, else its bytes
    are written out."""
    raw = os.fsencode(name)
    for charset in ("utf-8", "cp949"):
        with suppress(UnicodeDecodeError):
            return raw.decode(charset)
    return raw.decode("utf-8", "backslashreplace")


def list_names(root: Path) -> list[str]:
    """Names directly inside a folder, sorted; none when it is absent."""
    if not root.is_dir():
        return []
    return sorted(entry.name for entry in root.iterdir() if not entry.name.startswith("."))


def objects(root: Path) -> Iterator[tuple[str, int, float]]:
    """(path, bytes, seconds since 1970 of the last change) of all files below, hidden and temporary ones too."""
    for folder, _, files in os.walk(root, onerror=_unreadable):
        for name in files:
            path = os.path.join(folder, name)
            try:
                found = os.stat(path)
            except FileNotFoundError:
                continue
            yield path, found.st_size, found.st_mtime


def remove_tree(path: Path) -> None:
    """Delete a folder and everything below; absent is fine."""
    if path.exists():
        shutil.rmtree(path)


def remove_empty_folders(path: Path) -> None:
    """Delete folders below (and the folder itself) that hold nothing."""
    for folder, _, _ in sorted(os.walk(path), reverse=True):
        try:
            os.rmdir(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise


def sync_file(path: Path) -> None:
    """Wait until a file's bytes are safe."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Wait until a folder's names are safe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """A block that one process of this machine is in at a time, by a lock on `path`: a file that is made for it and stays."""
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
