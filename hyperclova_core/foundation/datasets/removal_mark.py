"""A dataset that is about to be removed says so, so that a run that begins to use it is either seen before, or waits.

gc marks what it found, waits, looks again, and deletes what is garbage still. A stage that takes over a dataset notes it in its run first:
early enough before the second look it will be seen there; later, it must not count on the files.
"""

from __future__ import annotations

from collections.abc import Iterable

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import TransientError
from hyperclova_core.foundation.storage import disk

FILE = "removal.json"
NOTED_WITHIN = 60.0
"""Seconds in which whoever takes a dataset over has noted it in its run."""
VALID_SECONDS = 3600.0
"""Seconds after the second look in which gc may delete; a mark that is older is of one that died."""


def mark(uri: str, look_again_at: float) -> None:
    """Say of a dataset that it may be removed after a time (seconds since 1970 by the store's clock)."""
    storage.write_json(
        storage.join(uri, FILE), {"look_again_at": look_again_at, "valid_until": look_again_at + VALID_SECONDS}
    )


def unmark(uris: Iterable[str]) -> None:
    """Take marks back."""
    for uri in uris:
        storage.remove(storage.join(uri, FILE))
        if not storage.is_remote(uri) and storage.exists(uri):
            disk.remove_empty_folders(storage.local_path(uri))


def is_valid(uri: str, now: float) -> bool:
    """Whether a dataset is marked, and deleting it may still begin."""
    path = storage.join(uri, FILE)
    return storage.exists(path) and float(storage.read_json(path)["valid_until"]) - VALID_SECONDS / 2 > now


def refuse_marked(uri: str) -> None:
    """Before a committed dataset is taken over.

    Raises:
        TransientError: it is about to be removed, too soon to be sure that using it would be seen.
    """
    path = storage.join(uri, FILE)
    if not storage.exists(path):
        return
    now, told = storage.time_of_store(uri), storage.read_json(path)
    if now < float(told["look_again_at"]) - NOTED_WITHIN or now > float(told["valid_until"]):
        return
    raise TransientError(
        "This dataset is being removed by `dataset gc`",
        where=uri,
        why="nothing had used it for days when gc looked",
        remedy=f"try again in {max(1, round((float(told['valid_until']) - now) / 60))} minutes at most: what is gone by then is made anew."
        f" If no gc runs, remove {FILE} there",
    )
