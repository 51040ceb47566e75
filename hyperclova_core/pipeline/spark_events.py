"""Event logs of a run's Spark applications, for a Spark history server: `spark-events/` in the run's folder.

Spark itself writes to a local folder alone: our images have no Hadoop client for an object store. A run that lies in one gets what was
written when its application ends; of a driver that is killed, the log is lost with its disk, and nothing else.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.warehouse import RunFolder

FOLDER = "spark-events"


def local_folder(run: RunFolder, stage: str) -> str:
    """Where an application writes: the run's own folder, or one on this machine's disk on its way to it."""
    uri = storage.join(run.uri, FOLDER)
    if storage.is_remote(uri):
        return storage.scratch_folder(FOLDER, f"{Path(run.uri).name}-{stage}-{os.getpid()}")
    storage.make_folder(uri)
    return str(storage.local_path(uri))


def settings(folder: str) -> dict[str, str]:
    """What Spark is told; a recipe's `spark` section may say otherwise."""
    return {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": Path(folder).absolute().as_uri(),
        "spark.eventLog.compress": "true",
        "spark.eventLog.rolling.enabled": "true",
        "spark.eventLog.rolling.maxFileSize": "64m",
    }


def note_application(run: RunFolder, stage: str, application: str) -> None:
    """Keep an application's id, for the link to a history server."""
    storage.write_json(_path(run, stage), {"stage": stage, "application": application})


def application_of(run: RunFolder, stage: str) -> str | None:
    """The id of the application that did a stage last; None: none has."""
    path = _path(run, stage)
    return str(storage.read_json(path)["application"]) if storage.exists(path) else None


def keep(run: RunFolder, folder: str) -> None:
    """Bring the logs of an application that has ended to its run, where they do not lie there already."""
    uri = storage.join(run.uri, FOLDER)
    if storage.is_remote(uri):
        storage.publish_folder(folder, uri)
        shutil.rmtree(folder)


def _path(run: RunFolder, stage: str) -> str:
    return storage.join(run.uri, "spark-applications", f"{stage}.json")
