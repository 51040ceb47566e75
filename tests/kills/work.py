"""A small chain of stages to be killed in: files → ingest → keep → a published version; and where it can be killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from hyperclova_core.corpus.deduplicate.config import DeduplicateConfig
from hyperclova_core.corpus.deduplicate.stage import deduplicate
from hyperclova_core.corpus.ingest.config import IngestConfig, SourceConfig, find_files
from hyperclova_core.corpus.ingest.stage import ingest
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.corpora import versions
from hyperclova_core.foundation.datasets.dataset import Dataset
from hyperclova_core.foundation.datasets.manifest import read_manifest
from hyperclova_core.foundation.stages.engines import LocalEngine
from hyperclova_core.foundation.stages.kinds import Engine, StageBatch, StageContext, definition_of, document_stage
from hyperclova_core.foundation.stages.runner import StageRequest, execute, plan_stage
from hyperclova_core.foundation.warehouse import Warehouse

KILL_FILE = "HYPERCLOVA_TEST_KILL_FILE"
"""Environment: a file whose presence makes the stage's function kill a process, once: the `worker`, the `executor` that it works for, or the id in the
file. It does so in the upper half of the buckets, when others are done."""


class OddConfig(Config):
    """Nothing to set."""


@document_stage("odd", version="1")
def odd(documents: pa.RecordBatch, config: OddConfig, context: StageContext) -> StageBatch:
    """Drop every second document."""
    path = os.environ.get(KILL_FILE)
    upper = documents.num_rows and documents.column("doc_id")[0].as_py() >= "8"
    if path and upper and Path(path).exists():
        target = Path(path).read_text()
        os.unlink(path)
        os.kill(_process(target), signal.SIGKILL)
        time.sleep(30)
    even = [int(doc_id[-1], 16) % 2 == 0 for doc_id in documents.column("doc_id").to_pylist()]
    rejected = documents.filter(pa.array([not mark for mark in even], pa.bool_()))
    count = rejected.num_rows
    return StageBatch(documents.filter(pa.array(even, pa.bool_())), rejected, ["odd"] * count, [""] * count)


def _process(target: str) -> int:
    if target == "worker":
        return os.getppid()  # a stage's function runs in a process for content
    if target == "executor":
        above = psutil.Process().parents()
        return next(process.pid for process in above if any("ExecutorBackend" in word for word in process.cmdline()))
    return int(target)


def chain(
    warehouse: Warehouse,
    folder: str,
    engine: Engine | None = None,
    buckets: int = 2,
    deduplicated: bool = False,
    driver_documents: int = 4_000_000,
) -> list[Dataset]:
    """All of it; what is there is reused, what was begun is taken over."""
    worker = engine or LocalEngine()
    config = IngestConfig(
        sources=tuple(SourceConfig(name=name, paths=(f"{folder}/{name}.jsonl",)) for name in ("one", "two"))
    )
    read = StageRequest(
        definition_of(ingest),
        config,
        lambda identity: warehouse.target("ingest", identity),
        files=find_files(config),
        buckets=buckets,
        made_by={"run": "r"},
    )
    ingested = execute(plan_stage(read), worker).dataset
    kept = execute(
        plan_stage(
            StageRequest(
                definition_of(odd),
                OddConfig(),
                lambda identity: warehouse.target("odd", identity),
                {"documents": ingested},
                buckets=buckets,
                made_by={"run": "r"},
            )
        ),
        worker,
    ).dataset
    more = []
    if deduplicated:
        request = StageRequest(
            definition_of(deduplicate),
            DeduplicateConfig(driver_documents=driver_documents),
            lambda identity: warehouse.target("deduplicate", identity),
            {"documents": ingested},
            buckets=buckets,
        )
        more.append(execute(plan_stage(request), worker).dataset)
    part = versions.Part(
        kind="increment", uri=kept.uri, digest=kept.manifest.digest, documents=kept.manifest.counters.kept
    )
    versions.publish(warehouse, "c", part, "night")
    return [ingested, kept, *more]


def source_files(folder: Path) -> str:
    """Two small files of documents."""
    import json

    folder.mkdir(parents=True, exist_ok=True)
    for name in ("one", "two"):
        rows = [{"id": f"{name}{n}", "text": f"{name}의 {n}번째 글입니다. 오늘은 맑았습니다."} for n in range(40)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(folder)


def bytes_of(datasets: list[Dataset]) -> list[Any]:
    """Everything that must be the same: digests, and the checksum of every file of every table."""
    return [
        [
            dataset.manifest.digest,
            {name: [entry.checksum for entry in table.files] for name, table in dataset.manifest.tables.items()},
        ]
        for dataset in datasets
    ]


def visible(warehouse: Warehouse) -> list[str]:
    """Datasets that a reader sees; each is whole, or this raises."""
    from hyperclova_core.foundation.datasets.dataset import open_dataset

    found = []
    root = storage.join(warehouse.uri, "datasets")
    for stage in storage.list_names(root):
        for identity in storage.list_names(storage.join(root, stage)):
            uri = storage.join(root, stage, identity)
            if read_manifest(uri) is not None:
                open_dataset(uri).verify(checksums=True)
                found.append(uri)
    return found


class Points:
    """Counts the moments at which things can go wrong, and kills the process at one of them."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.seen: list[str] = []

    def reach(self, name: str) -> None:
        """A moment: `before`, `during` or `after` an operation."""
        if len(self.seen) == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen.append(name)

    def around(self, owner: Any, name: str, label: Callable[..., str]) -> None:
        """Make a function's begin and end two moments."""
        inner = getattr(owner, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            text = label(*args, **kwargs)
            self.reach(f"before {text}")
            result = inner(*args, **kwargs)
            self.reach(f"after {text}")
            return result

        setattr(owner, name, wrapper)

    def on_disk_and(self, work: Callable[[], object]) -> None:
        """Arm all points, then work."""
        self.on_disk()
        work()

    def on_disk(self) -> None:
        """All that touches the disk on the way to a commit."""
        import pyarrow.parquet as pq

        from hyperclova_core.foundation.storage import disk

        def base(path: Any) -> str:
            name = str(path).rsplit("/", 1)[-1].lstrip(".")
            return name.split(".parquet")[0] + ".parquet" if ".parquet" in name else _kind(name)

        self.around(pq.ParquetWriter, "__init__", lambda _, path, *a, **k: f"opening {base(path)}")
        self.around(pq.ParquetWriter, "write_table", lambda writer, *a, **k: "a row group")
        self.around(disk, "install", lambda temporary, path, durable=True: f"naming {base(path)}")
        self.around(os, "link", lambda source, target, **k: f"committing {base(target)}")
        self.around(disk, "sync_folder", lambda path: "the sync of a folder")
        self.around(storage, "remove", lambda uri: "removing staged files")


def _kind(name: str) -> str:
    if name.startswith("manifest"):
        return "the manifest"
    if name.startswith("attempt"):
        return "attempt.json"
    if name[:6].isdigit():
        return "the corpus version"
    return "a unit record" if len(name.split(".")[0]) == 32 else name.split(".")[0]


def killed_child(work: Callable[[], None], seconds: float = 300) -> bool:
    """Run in a forked child; whether it was killed (it may also end, when the point lies beyond its end)."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with open(os.devnull, "w") as null:
                sys.stdout = sys.stderr = null
                work()
            code = 0
        finally:
            os._exit(code)
    return wait_for(pid, seconds)


def wait_for(pid: int, seconds: float = 300) -> bool:
    """Whether a child ended by SIGKILL of its own or of the proxy; raises when it failed or hangs."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            if os.WIFSIGNALED(status):
                assert os.WTERMSIG(status) == signal.SIGKILL
                return True
            assert os.WEXITSTATUS(status) == 0, "the child failed by itself"
            return False
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("the child hangs")
