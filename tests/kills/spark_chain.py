"""The chain in a process of its own with Spark, killed at a point given by name: `python -m tests.kills.spark_chain`."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from hyperclova_core.foundation.datasets import dataset
from hyperclova_core.foundation.stages import corpus_stages
from hyperclova_core.foundation.stages.engines import SparkEngine
from hyperclova_core.foundation.warehouse import Warehouse
from hyperclova_core.jobs.spark.pods import ENCRYPTED
from tests.conftest import SMALL_JVM
from tests.kills.work import KILL_FILE, chain

BUCKETS = 8
SECRET_FILE = "TEST_SPARK_SECRET_FILE"


EXECUTOR = "an executor, in a unit"
SMALL_EXECUTORS = {"spark.executor.memory": "512m", "spark.executor.cores": "1", "spark.cores.max": "2"}


def main() -> None:
    """Arguments: warehouse, folder of files, point, and Spark's master."""
    warehouse, folder, point, master = sys.argv[1:]
    told = {f"spark.executorEnv.{name}": os.environ[name] for name in (KILL_FILE, "PYTHONPATH")}
    # as on Kubernetes: driver and executors know each other by a secret, and what they say and spill is encrypted
    # (from a file there; Spark's other cluster managers take the secret itself)
    secret = os.environ.get(SECRET_FILE)
    guarded = {**ENCRYPTED, "spark.authenticate.secret": Path(secret).read_text()} if secret else {}
    engine = SparkEngine({**SMALL_JVM, **SMALL_EXECUTORS, **told, **guarded, "spark.master": master})
    session = engine.spark()
    targets = {
        "the worker, in a unit": "worker",
        EXECUTOR: "executor",
        f"{EXECUTOR}, without deduplication": "executor",
        "the driver, while units run": str(os.getpid()),
        "the JVM, while units run": str(session.sparkContext._gateway.proc.pid),
    }
    if point in targets:
        Path(os.environ[KILL_FILE]).write_text(targets[point])
    if point == "the driver, between decisions and their merge":
        corpus_stages.run_units = _die  # type: ignore[assignment]
    if point == "the driver, at the commit of a Spark stage":
        inner = dataset.storage.create_once

        def commit(uri: str, data: bytes, durable: bool = True) -> bool:
            if "/deduplicate/" in uri and uri.endswith("manifest.json"):
                _die()
            return inner(uri, data, durable)

        dataset.storage.create_once = commit  # type: ignore[assignment]
    # on a cluster all of deduplication is Spark's, with its exchanges between executors
    documents, whole = 0 if point == EXECUTOR else 4_000_000, not point.endswith("without deduplication")
    chain(Warehouse(warehouse), folder, engine, BUCKETS, deduplicated=whole, driver_documents=documents)
    engine.close()


def _die(*_: Any, **__: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
