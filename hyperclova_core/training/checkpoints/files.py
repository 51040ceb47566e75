"""Checkpoints as files: which there are, which can be used, which go; on disk, or in S3 with one copy a machine.

checkpoints/step-40/pipeline-000-tensor-001-data-000-ATTEMPT.safetensors   what that rank's optimizer holds, one-dimensional
checkpoints/step-40/manifest.json                                  written last: without it the checkpoint is not there
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.storage import disk
from hyperclova_core.training.checkpoints.committed import MANIFEST, has_manifest, steps_in
from hyperclova_core.training.health.watchdog import moved

log = logging.getLogger(__name__)

FORMAT = 2
_BLOCK = 1 << 22


def complete_checkpoints(folder: str, below: int | None = None) -> Iterator[dict[str, Any]]:
    """Manifests of complete checkpoints whose files are there, newest first, each with its `folder`; read as they are asked for.

    Args:
        below: only those of earlier steps.
    """
    for step in steps_in(folder):
        if below is None or step < below:
            record = usable(storage.join(folder, f"step-{step}"))
            if record is not None:
                yield record


def usable(base: str) -> dict[str, Any] | None:
    """A checkpoint's manifest, with its `folder`, if all its files are there in their sizes and of this format; else None, and a warning says why."""
    record: dict[str, Any] = storage.read_json(storage.join(base, MANIFEST))
    if record.get("format") != FORMAT:
        log.warning(
            "Checkpoint %s is of format %s, this code reads %s: it is passed over", base, record.get("format"), FORMAT
        )
        return None
    sizes = sizes_in(base)
    for entry in record["files"]:
        if sizes.get(entry["file"]) != entry["bytes"]:
            log.warning("Checkpoint %s is passed over: %s is not %d bytes", base, entry["file"], entry["bytes"])
            return None
    return {**record, "folder": base}


def sizes_in(base: str) -> dict[str, int]:
    """Bytes of all files of a checkpoint, by one listing."""
    start = len(base.rstrip("/")) + 1
    return {path[start:]: size for path, size, _ in storage.list_objects(base)}


def read_checkpoint(path: str) -> dict[str, Any]:
    """The manifest of a checkpoint: its own folder, or the newest below a training's folder.

    Raises:
        DataError: there is none.
    """
    if storage.exists(storage.join(path, MANIFEST)):
        record = usable(path)
        if record is not None:
            return record
    for folder in (path, storage.join(path, "checkpoints")):
        record = next(complete_checkpoints(folder), None)
        if record is not None:
            return record
    raise DataError(
        "No complete checkpoint here",
        where=path,
        why=f"no {MANIFEST} with all its files lies in it, in its step-N folders, or below checkpoints/",
        remedy="give the folder of a training, or one of its checkpoints",
    )


def prune(folder: str, newest: int, keep_last: int, keep_every: int) -> None:
    """Remove what is older than the last ones kept, and what attempts that were killed left without a manifest."""
    steps = sorted(int(name.removeprefix("step-")) for name in storage.list_names(folder) if name.startswith("step-"))
    older = [step for step in steps if step <= newest]
    complete = [step for step in older if has_manifest(folder, step)]
    kept = {*complete[-keep_last:], *(step for step in complete if keep_every and step % keep_every == 0)}
    for step in older:
        if step not in kept:
            remove_checkpoint(storage.join(folder, f"step-{step}"))


def remove_checkpoint(base: str) -> None:
    """Make a checkpoint invisible, then remove its files."""
    storage.remove(storage.join(base, MANIFEST))
    storage.remove_tree(base)


def verify_files(record: Mapping[str, Any], part: int = 0, parts: int = 1, first: str | None = None) -> None:
    """Compare checksums of every `parts`-th file; where ranks have files of their own, of that.

    Args:
        first: this rank's name, as its file's entry has it.

    Raises:
        DataError: one differs.
    """
    files = record["files"]
    mine = [entry for entry in files if entry.get("rank") == first]
    if len(files) != parts or not mine:
        mine = files[part::parts]
    for entry in mine:
        moved(f"verifying {entry['file']}")
        found = checksum_of(at_hand(record["folder"], entry["file"]))
        if found != entry["checksum"]:
            raise DataError(
                "A checkpoint is damaged",
                where=storage.join(record["folder"], entry["file"]),
                why=f"its checksum is {found}, its manifest says {entry['checksum']}",
                remedy="the checkpoint before it is taken; look at the disk",
            )


def checksum_of(path: str) -> str:
    """128-bit hash of a local file."""
    hasher = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def at_hand(base: str, name: str) -> str:
    """A local path of a checkpoint's file: itself, or a copy that all ranks of the machine share, fetched by one of them."""
    path = storage.join(base, name)
    if not storage.is_remote(base):
        return str(storage.local_path(path))
    copy = Path(_copies(base), name)
    with disk.one_at_a_time(Path(f"{copy}.lock")):
        if not copy.exists():
            moved(f"fetching {name}")
            with storage.fetched(path) as fetched:
                shutil.move(fetched, copy)
    return str(copy)


def _copies(base: str) -> str:
    return storage.scratch_folder("checkpoints", hashlib.blake2b(base.encode(), digest_size=16).hexdigest())


def forget_copies(base: str) -> None:
    """Remove the machine's copies of a checkpoint in S3, when none of its ranks reads them any more."""
    if storage.is_remote(base):
        shutil.rmtree(_copies(base), ignore_errors=True)
