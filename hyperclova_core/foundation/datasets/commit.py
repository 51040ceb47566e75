"""Committing a dataset: the manifest is made once, and whoever comes second adopts it."""

from __future__ import annotations

import datetime
import socket
import uuid
from collections.abc import Mapping
from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.dataset import Dataset, Target, check_sizes, open_dataset
from hyperclova_core.foundation.datasets.manifest import ATTEMPT, MANIFEST, Manifest, read_manifest
from hyperclova_core.foundation.errors import DataError, TransientError


def new_attempt() -> str:
    """A name for one try at writing a dataset."""
    return uuid.uuid4().hex[:16]


def commit(target: Target, manifest: Manifest, attempt: str, made_by: Mapping[str, Any]) -> tuple[Dataset, bool]:
    """Make a dataset visible. Of two writers one commits; the other gets the winner's dataset and False.

    Raises:
        TransientError: a file is gone before it was committed (such as by a clean-up that took this attempt for dead).
    """
    roots = {target.root(table.restricted) for table in manifest.tables.values()}
    expected = [
        (storage.join(target.root(table.restricted), entry.path), entry.bytes)
        for table in manifest.tables.values()
        for entry in table.files
    ]
    try:
        check_sizes(expected, roots)
    except DataError as error:
        if read_manifest(target.uri) is not None:
            return open_dataset(target.uri), False
        raise TransientError(
            "Files of this attempt are gone or damaged: nothing was committed",
            where=error.where,
            why=error.why,
            remedy="run the stage again; give `dataset gc --older-than` more days than a stage takes",
        ) from error
    data = storage.pretty_json(manifest.sealed().model_dump())
    created = storage.create_once(storage.join(target.uri, MANIFEST), data)
    if created:
        storage.write_json(storage.join(target.uri, ATTEMPT), _attempt_record(attempt, made_by))
    return open_dataset(target.uri), created


def _attempt_record(attempt: str, made_by: Mapping[str, Any]) -> dict[str, Any]:
    stamp = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"attempt": attempt, "host": socket.gethostname(), "committed_at": stamp, **made_by}


def adopted(dataset: Dataset, made_by: Mapping[str, Any]) -> Dataset:
    """The dataset with a record of who made it: a writer that was killed between the commit and its record left none, and
    with it went the time to live; whoever finds it so vouches for it."""
    if dataset.attempt:
        return dataset
    storage.create_once(
        storage.join(dataset.uri, ATTEMPT), storage.pretty_json(_attempt_record(new_attempt(), made_by))
    )
    return open_dataset(dataset.uri)
