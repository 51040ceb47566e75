"""What may go: attempts that were never committed, versions that no reference reaches, data past its time to live.

`find_garbage` only looks; `collect` marks what it found, waits, looks again and deletes what is garbage still, so that a run which takes an old
dataset over in between keeps it. Nothing that changed within the last days is touched: a stage that runs now looks like an attempt never
committed. A dataset's manifest goes first, so no reader sees half of it.
"""

from __future__ import annotations

import datetime
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets import removal_mark
from hyperclova_core.foundation.datasets.dataset import Target
from hyperclova_core.foundation.datasets.manifest import ATTEMPT, EXPIRED, MANIFEST, Manifest, read_manifest
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.storage import disk
from hyperclova_core.foundation.warehouse import Warehouse

DAY = 86_400.0
DEFAULT_DAYS = 7.0
WAIT_SECONDS = 2 * removal_mark.NOTED_WITHIN
"""Between the two looks of `collect`."""
RETENTION_KEY = "restricted_days"
Kind = Literal["never committed", "left over", "unreferenced", "past its time", "unfinished upload"]
File = tuple[str, int, float]
MARKED: frozenset[Kind] = frozenset(("unreferenced", "past its time"))
"""Of datasets that are committed, which a run may take over."""
_DATASET = re.compile(r"(?:^|/)datasets/([^/]+)/([^/]+)/?$")


@dataclass(frozen=True)
class Garbage:
    """Files of one dataset folder that may go, and why."""

    kind: Kind
    uri: str
    why: str
    files: tuple[str, ...]
    bytes: int
    expired: dict[str, Any] = field(default_factory=dict)
    upload: str = ""


@dataclass
class _Folder:
    """All files of one dataset, in its own and its restricted folder."""

    stage: str
    identity: str
    own: list[File] = field(default_factory=list)
    restricted: list[File] = field(default_factory=list)

    @property
    def files(self) -> list[File]:
        return [*self.own, *self.restricted]

    def age(self, now: float) -> float:
        """Days since anything in it changed; a file from the future counts as new."""
        return (now - max(changed for _, _, changed in self.files)) / DAY


def find_garbage(
    warehouse: Warehouse, older_than: float = DEFAULT_DAYS, restricted_days: float | None = None
) -> list[Garbage]:
    """What may go, ordered by address.

    Args:
        older_than: days; what changed later is left alone.
        restricted_days: time to live of raw, rejected, quarantined and not yet de-identified data, from the commit on;
            None: as the recipe of the run that made it said (`retention_days`).
    """
    now = storage.time_of_store(storage.join(warehouse.uri, "lineage"))
    folders = _folders(warehouse)
    alive = reachable(warehouse, now - older_than * DAY, folders)
    found: list[Garbage] = []
    for folder in folders:
        uri = warehouse.target(folder.stage, folder.identity).uri
        try:
            manifest = read_manifest(uri)
        except DataError:
            continue  # damaged: a person has to look at it, `dataset verify` says why
        old = folder.age(now) >= older_than
        if manifest is None:
            remains = [file for file in folder.files if not file[0].endswith(f"/{EXPIRED}")]
            if old and remains:
                found.append(_garbage("never committed", uri, "no manifest", remains))
        elif (folder.stage, folder.identity) not in alive:
            if old:
                found.append(_garbage("unreferenced", uri, "no reference and no run of late reaches it", folder.files))
        else:
            found.extend(_within(uri, manifest, folder, now, old, restricted_days))
    for uri, upload, begun in _unfinished_uploads(warehouse):
        if (now - begun) / DAY >= older_than:
            found.append(Garbage("unfinished upload", uri, "its writer was killed", (uri,), 0, upload=upload))
    return sorted(found, key=lambda item: (item.uri, item.kind))


def collect(
    warehouse: Warehouse,
    found: Sequence[Garbage],
    look_again: Callable[[], list[Garbage]],
    wait_seconds: float = WAIT_SECONDS,
) -> tuple[int, list[Garbage]]:
    """Mark what was found, wait, look again, and delete what both looks call garbage.

    Args:
        look_again: `find_garbage` as it found `found`.

    Returns:
        bytes freed, and what was found first and stays: it is in use by now, or deleting took so long that a run may count on it again.
    """
    offset = storage.time_of_store(storage.join(warehouse.uri, "lineage")) - time.monotonic()
    marked = [item.uri for item in found if item.kind in MARKED]
    freed, kept = 0, []
    try:  # whoever ends this by Ctrl-C leaves no mark that runs would wait for
        for uri in marked:
            removal_mark.mark(uri, offset + time.monotonic() + wait_seconds)
        time.sleep(wait_seconds)
        second = {(item.kind, item.uri, item.upload): item for item in look_again()}
        for item in found:
            again = second.get((item.kind, item.uri, item.upload))
            late = item.kind in MARKED and not removal_mark.is_valid(item.uri, offset + time.monotonic())
            if again is None or late:
                kept.append(item)
            else:
                freed += remove(warehouse, [again])
    finally:
        removal_mark.unmark(marked)
    return freed, kept


def remove(warehouse: Warehouse, garbage: Iterable[Garbage]) -> int:
    """Delete what was found; bytes freed. Killed in between, the next search finds the rest."""
    freed = 0
    for item in garbage:
        if item.upload:
            storage.abort_upload(item.uri, item.upload)
            continue
        if item.expired:
            storage.write_json(storage.join(item.uri, EXPIRED), item.expired)
        manifests = [path for path in item.files if path.endswith(f"/{MANIFEST}")]
        for path in manifests:
            storage.remove(path)
        storage.remove_files(sorted(set(item.files) - set(manifests)))
        freed += item.bytes
        stage, identity = item.uri.rstrip("/").rsplit("/", 2)[-2:]
        for root in (item.uri, *(storage.join(root, stage, identity) for root in warehouse.restricted_roots())):
            if not storage.is_remote(root) and storage.exists(root):
                disk.remove_empty_folders(storage.local_path(root))
    return freed


def reachable(warehouse: Warehouse, since: float, folders: Iterable[_Folder] = ()) -> set[tuple[str, str]]:
    """(stage, fingerprint) of every dataset that a reference, or a run with a sign of life after `since`, leads to: itself
    and all its inputs. A run lives while anything in its folder changes, or in the folder (of `folders`) that one of its
    jobs writes to: a training may take weeks in which nothing else of the run changes.

    Raises:
        DataError: a reference or a manifest on the way is damaged: what it would keep alive is not known.
    """
    waiting = list(_named(_values(warehouse, since, folders)))
    seen: set[tuple[str, str]] = set()
    while waiting:
        key = waiting.pop()
        if key in seen:
            continue
        seen.add(key)
        manifest = read_manifest(warehouse.target(*key).uri)
        # a compaction is where the past ends: what it left out must be able to go
        if manifest is not None and manifest.stage == "history":
            # merges end the past here, too; texts of past nights have their own time to live
            waiting.extend(("history", part) for part in manifest.info["parts"])
        elif manifest is not None and manifest.stage != "compact":
            waiting.extend(_named([reference.uri for reference in manifest.inputs.values()]))
    return seen


def _values(warehouse: Warehouse, since: float, folders: Iterable[_Folder]) -> Iterator[Any]:
    for path in storage.list_files(storage.join(warehouse.uri, "refs")):
        yield storage.read_json(path)
    written = {(folder.stage, folder.identity): max(changed for _, _, changed in folder.files) for folder in folders}
    root = storage.join(warehouse.uri, "runs")
    runs: defaultdict[str, list[tuple[str, float]]] = defaultdict(list)
    for path, _, changed in storage.list_objects(root):
        runs[path[len(root) :].strip("/").split("/")[0]].append((path, changed))
    for files in runs.values():
        named = []
        for path, _ in files:
            if re.search(r"/(stages|begun)/[^/]+\.json$", path):
                with suppress(FileNotFoundError):
                    named.append(storage.read_json(path).get("uri", ""))
        signs = [changed for _, changed in files] + [written.get(key, 0.0) for key in _named(named)]
        if max(signs) >= since:
            yield named


def _named(values: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Datasets that JSON values name, wherever in them: a warehouse may have moved since."""
    for value in values:
        if isinstance(value, dict):
            yield from _named(value.values())
        elif isinstance(value, list):
            yield from _named(value)
        elif isinstance(value, str) and (match := _DATASET.search(value)):
            yield match.group(1), match.group(2)


def _folders(warehouse: Warehouse) -> list[_Folder]:
    folders: dict[tuple[str, str], _Folder] = {}
    own = storage.join(warehouse.uri, "datasets")
    for root in (own, *warehouse.restricted_roots()):
        for file in storage.list_objects(root):
            if file[0].endswith(f"/{removal_mark.FILE}"):  # ours, and no sign of life
                continue
            names = file[0][len(root) :].strip("/").split("/")
            if len(names) > 2:
                key = (names[0], names[1])
                folder = folders.setdefault(key, _Folder(*key))
                (folder.own if root == own else folder.restricted).append(file)
    return [folders[key] for key in sorted(folders)]


def _unfinished_uploads(warehouse: Warehouse) -> Iterator[tuple[str, str, float]]:
    yield from storage.unfinished_uploads(warehouse.uri)
    for root in warehouse.restricted_roots():
        if not root.startswith(f"{warehouse.uri.rstrip('/')}/"):
            yield from storage.unfinished_uploads(root)


def _within(
    uri: str,
    manifest: Manifest,
    folder: _Folder,
    now: float,
    old: bool,
    restricted_days: float | None,
) -> Iterator[Garbage]:
    """Inside a dataset that stays: what no table names, and tables past their time to live."""
    target = Target(uri, manifest.restricted_folder)
    tables: dict[str, set[str]] = defaultdict(set)
    for name, table in manifest.tables.items():
        tables[name].update(storage.join(target.root(table.restricted), entry.path) for entry in table.files)
    named = set().union(*tables.values())
    job = storage.join(uri, str(manifest.info["folder"])) if "folder" in manifest.info else None
    loose = [
        file
        for file in folder.files
        if re.search(r"/(attempts|units|tripped)/|/\.[^/]+\.tmp$", file[0])
        and file[0] not in named
        and not (job and file[0].startswith(f"{job}/"))
    ]
    if old and loose:
        yield _garbage("left over", uri, "not part of the committed version", loose)
    attempt = _attempt(uri)
    days = restricted_days if restricted_days is not None else attempt.get(RETENTION_KEY)
    if days is None or (now - _committed_at(uri, folder)) / DAY < days:
        return
    gone = sorted(name for name, table in manifest.tables.items() if table.restricted)
    paths = set().union(*(tables[name] for name in gone)) if gone else set()
    whole = "documents" in gone
    if whole:  # without its documents it is no dataset any more: its manifest lives on in the note that it expired
        paths |= {storage.join(uri, MANIFEST), storage.join(uri, ATTEMPT)}
    files = [file for file in folder.files if file[0] in paths]
    if files:
        stamp = datetime.datetime.fromtimestamp(now, datetime.UTC).isoformat(timespec="seconds")
        note = {"at": stamp, "tables": gone, "attempt": attempt.get("attempt"), "days": days}
        if whole:
            note["manifest"] = manifest.model_dump(mode="json")
        yield _garbage("past its time", uri, f"{', '.join(gone)}: older than {days:g} days", files, note)


def _attempt(uri: str) -> dict[str, Any]:
    try:
        value: dict[str, Any] = storage.read_json(storage.join(uri, ATTEMPT))
    except FileNotFoundError:
        return {}
    return value


def _committed_at(uri: str, folder: _Folder) -> float:
    """By the store's clock: the writer's own may have been wrong."""
    return max(changed for path, _, changed in folder.own if path == storage.join(uri, MANIFEST))


def _garbage(kind: Kind, uri: str, why: str, files: list[File], expired: dict[str, Any] | None = None) -> Garbage:
    return Garbage(
        kind, uri, why, tuple(sorted(path for path, _, _ in files)), sum(size for _, size, _ in files), expired or {}
    )
