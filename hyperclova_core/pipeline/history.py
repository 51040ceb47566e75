"""The history index of a corpus: its versions under a name, and the next one.

A version is named by a small record made with create-if-absent under the next number, so of two nights that were compared
with the same version one is published, and the other has to look again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from hyperclova_core.corpus.deduplicate.config import DeduplicateConfig
from hyperclova_core.corpus.deduplicate.history.stage import history as history_stage
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.dataset import Dataset, open_dataset
from hyperclova_core.foundation.errors import ConfigError, DataError
from hyperclova_core.foundation.stages.engines import LocalEngine
from hyperclova_core.foundation.stages.kinds import Engine, definition_of
from hyperclova_core.foundation.stages.runner import StageRequest, execute, plan_stage
from hyperclova_core.foundation.warehouse import Warehouse

INDEX = "index"
"""The name of the index in a folder that a person gives as `--history`."""


def first_version(warehouse: Warehouse, config: DeduplicateConfig) -> Dataset:
    """Version 0: an index of nothing, which says how signatures are made."""
    return _made(warehouse, {}, config, LocalEngine())


def next_version(
    warehouse: Warehouse, previous: Dataset, night: Dataset, config: DeduplicateConfig, engine: Engine | None = None
) -> Dataset:
    """The version with a night's documents."""
    return _made(warehouse, {"previous": previous, "night": night}, config, engine or LocalEngine())


def _made(warehouse: Warehouse, inputs: dict[str, Dataset], config: DeduplicateConfig, engine: Engine) -> Dataset:
    request = StageRequest(
        definition_of(history_stage), config, lambda identity: warehouse.target("history", identity), inputs
    )
    return execute(plan_stage(request), engine).dataset


def versions(warehouse: Warehouse, name: str = INDEX) -> list[dict[str, Any]]:
    """Records of the versions, oldest first."""
    folder = storage.join(warehouse.uri, "refs", "history", name)
    return [storage.read_json(storage.join(folder, item)) for item in storage.list_names(folder)]


def to_compare_with(
    warehouse: Warehouse, output: str, config: DeduplicateConfig, name: str = INDEX
) -> tuple[Dataset, bool]:
    """The version that a night into the folder `output` is (or was) compared with, and whether it was published already.

    A command that is given again finds what it made the first time.
    """
    known = versions(warehouse, name)
    for at, record in enumerate(known):
        if record["night"] == storage.absolute(output):
            return (_opened(warehouse, known[at - 1]) if at else first_version(warehouse, config)), True
    return (_opened(warehouse, known[-1]) if known else first_version(warehouse, config)), False


def _opened(warehouse: Warehouse, record: dict[str, Any]) -> Dataset:
    return open_dataset(warehouse.target("history", record["fingerprint"]).uri)


def publish(warehouse: Warehouse, version: Dataset, night: Dataset, name: str = INDEX) -> None:
    """Name a version as the newest.

    Raises:
        DataError: another night was published since this one's was opened.
    """
    number = int(version.manifest.info["version"])
    record = {
        "version": number,
        "fingerprint": version.manifest.fingerprint,
        "uri": version.uri,
        "night": storage.absolute(night.uri),
        "documents": version.manifest.info["rows"]["members"],
    }
    path = storage.join(warehouse.uri, "refs", "history", name, f"{number:06d}.json")
    if not storage.create_once(path, storage.pretty_json(record)):
        there = storage.read_json(path)
        if there["fingerprint"] != record["fingerprint"]:
            raise other_night(path)


def other_night(where: str) -> DataError:
    """What a night is told that another one overtook."""
    return DataError(
        "Another night was published meanwhile",
        where=where,
        why="this one was compared with an older version of the history index",
        remedy="run it again (a new run, or another --output): it will be compared with what is published now",
    )


def tombstones_of(warehouse: Warehouse, path: str) -> Dataset:
    """The doc_ids of a text file, one a line, as a dataset of tombstones.

    Raises:
        ConfigError: a line is no doc_id.
    """
    from hyperclova_core.foundation.corpora.versions import TOMBSTONES, write_tombstones

    ids = sorted(set(storage.read_bytes(path).decode().split()))
    check_ids(ids, path)
    return write_tombstones(warehouse, pa.table({"doc_id": ids, "reason": ["asked for"] * len(ids)}, TOMBSTONES))


def check_ids(ids: Sequence[str], where: str) -> None:
    """All are doc_ids.

    Raises:
        ConfigError: naming the first that is not.
    """
    for item in ids:
        if len(item) != 32 or set(item) - set("0123456789abcdef"):
            raise ConfigError(
                "Not a doc_id", where=where, why=f"{item!r} is not 32 hex digits", remedy="give one doc_id a line"
            )
