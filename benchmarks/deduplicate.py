"""Deduplication: signatures and the whole stage beside datatrove's, time and memory by size, a night by the size of its index.

    make bench-deduplicate                                  all of it (about half an hour on two cores)
    make bench-deduplicate PARTS="signatures stage" BENCH_MB=300

Texts are made of sentences of real ones, with planted duplicates (benchmarks/made_corpus.py). datatrove runs in an
environment of its own (.venv-peers, made on first use), on the same documents, with as many workers as we have cores.
Prints ratios of this run on this machine; nothing here is a test.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from made_corpus import documents_for, make_dataset, planted_recall, sentence_pool
from peers import peer

from hyperclova_core.corpus.deduplicate.config import BoilerplateConfig, ContainmentConfig, DeduplicateConfig
from hyperclova_core.corpus.deduplicate.sketches import make_sketches
from hyperclova_core.corpus.deduplicate.stage import deduplicate
from hyperclova_core.foundation.datasets.dataset import Dataset, Target, open_dataset
from hyperclova_core.foundation.stages.engines import LocalEngine, SparkEngine
from hyperclova_core.foundation.stages.kinds import StageContext, definition_of
from hyperclova_core.foundation.stages.runner import StageRequest, execute, plan_stage
from hyperclova_core.foundation.warehouse import Warehouse
from hyperclova_core.pipeline.history import first_version, next_version

ROOT = Path(__file__).resolve().parents[1]
CORES = os.cpu_count() or 1
SAME_WORK = DeduplicateConfig(boilerplate=BoilerplateConfig(enabled=False), containment=ContainmentConfig(action="off"))


def documents_of(folder: Path, numbers: range, buckets: int) -> Dataset:
    """Made documents, written by another process: what making them takes must not count as the stage's memory."""
    child = multiprocessing.get_context("spawn").Process(target=write_documents, args=(str(folder), numbers, buckets))
    child.start()
    child.join()
    return open_dataset(str(folder))


def write_documents(folder: str, numbers: range, buckets: int) -> None:
    """Make documents and commit them."""
    make_dataset(folder, numbers, sentence_pool(), buckets)


def datatrove(documents: Dataset, folder: Path, workers: int, stages: int) -> dict[str, Any]:
    """Seconds of datatrove's stages over the same documents."""
    source = folder / "peer-in"
    source.mkdir(parents=True)
    for number, path in enumerate(documents.files()):
        table = pq.read_table(path, columns=["source_id", "text"]).rename_columns(["id", "text"])
        pq.write_table(
            table.cast(pa.schema([("id", pa.string()), ("text", pa.string())])), source / f"{number}.parquet"
        )
    script = str(ROOT / "benchmarks" / "peer_datatrove.py")
    command = [peer(), script, str(source), str(folder / "peer-work"), str(workers), str(stages)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def megabytes(documents: Dataset) -> float:
    """UTF-8 text of a dataset."""
    return sum(entry.text_bytes for entry in documents.table("documents").files) / 1e6


class PeakMemory:
    """Resident memory of this process and its children, the most that was seen, and the most of one of Spark's Python workers, which is a task's
    (megabytes)."""

    def __enter__(self) -> PeakMemory:
        self.peak, self.task, self._going = 0.0, 0.0, True
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._going = False
        self._thread.join()

    def _watch(self) -> None:
        while self._going:
            sizes = tree_memory(os.getpid())
            self.peak = max(self.peak, sum(size for size, _ in sizes))
            self.task = max([self.task, *(size for size, command in sizes if "pyspark" in command)])
            time.sleep(0.5)


def tree_memory(root: int) -> list[tuple[float, str]]:
    """(megabytes of proportional set size, command) of a process and all below it."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path("/proc", name, "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(name))
    found: list[tuple[float, str]] = []
    waiting = [root]
    while waiting:
        process = waiting.pop()
        waiting += parents.get(process, [])
        try:
            rollup = Path("/proc", str(process), "smaps_rollup").read_text()
            command = Path("/proc", str(process), "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        size = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1024
        found.append((size, "" if "java" in command else command))
    return found


def run(
    documents: Dataset, folder: Path, config: DeduplicateConfig, engine: Any, **beside: Dataset
) -> tuple[Dataset, float]:
    """The stage, and its seconds."""
    warehouse = Warehouse(str(folder))
    request = StageRequest(
        definition_of(deduplicate),
        config,
        lambda identity: warehouse.target("deduplicate", identity),
        {"documents": documents, **beside},
        buckets=documents.manifest.buckets,
    )
    begun = time.perf_counter()
    made = execute(plan_stage(request), engine).dataset
    return made, time.perf_counter() - begun


def spark(settings: dict[str, str] | None = None) -> SparkEngine:
    """A session on all cores, started before the clock runs, as datatrove's interpreter is."""
    os.environ["PYTHONPATH"] = str(ROOT)
    engine = SparkEngine({"spark.driver.memory": "2g", "spark.master": f"local[{CORES}]", **(settings or {})})
    engine.spark().range(CORES).mapInArrow(lambda batches: batches, "id long").count()
    return engine


def bench_signatures(folder: Path, pool: list[str]) -> None:
    """CPU seconds a megabyte, one process: read Parquet, make signatures, write them."""
    documents = documents_of(folder / "in", range(documents_for(60, pool)), 1)
    size = megabytes(documents)
    theirs = size / datatrove(documents, folder, 1, 1)["signatures"]["cpu"]
    print(f"signatures, datatrove (white space, n = 5, 14 x 8): {theirs:.1f} MB a core second")
    settings = {
        "14 x 8, as datatrove": SAME_WORK.model_copy(update={"bands": 14, "rows": 8}),
        "our setting (20 x 6)": SAME_WORK,
        "our setting with fingerprints for containment": DeduplicateConfig(),
    }
    for number, (name, config) in enumerate(settings.items()):
        rates = []
        for attempt in range(3):
            target = Target(str(folder / f"sketches-{number}-{attempt}"))
            context = StageContext("b", "1", 0, 1, f"{attempt}", target, "f", LocalEngine())
            begun = time.process_time()
            make_sketches(documents, config, context, None, None)
            rates.append(size / (time.process_time() - begun))
        print(f"signatures, ours, {name}: {max(rates):.1f} MB a core second = {max(rates) / theirs:.1f} x datatrove")


def bench_stage(folder: Path, pool: list[str], size: float) -> None:
    """Wall-clock time of the whole stage on all cores."""
    documents = documents_of(folder / "in", range(documents_for(size, pool)), 4)
    result = datatrove(documents, folder, CORES, 4)
    theirs = sum(stage["wall"] for stage in result.values() if isinstance(stage, dict))
    parts = ", ".join(f"{name} {stage['wall']:.0f}" for name, stage in result.items() if isinstance(stage, dict))
    print(f"stage over {megabytes(documents):,.0f} MB, datatrove, {CORES} workers: {theirs:.0f} s ({parts})")
    engine = spark()
    try:
        for name, config in (("the same work", SAME_WORK), ("all that is on by default", DeduplicateConfig())):
            with PeakMemory() as memory:
                made, seconds = run(documents, folder / name.replace(" ", "-"), config, engine)
            print(
                f"stage, ours, {name}: {seconds:.0f} s = {theirs / seconds:.1f} x as fast as datatrove;"
                f" {memory.peak:,.0f} MB at most; planted pairs found {planted_recall(made)}"
            )
    finally:
        engine.close()


def bench_scaling(folder: Path, pool: list[str], sizes: tuple[float, ...]) -> None:
    """Time and memory by size; the exponent between the ends."""
    seconds = []
    for size in sizes:
        place = folder / f"{size:g}"
        documents = documents_of(place / "in", range(documents_for(size, pool)), max(2, round(size / 250)))
        engine = spark()
        try:
            with PeakMemory() as memory:
                _, used = run(documents, place, DeduplicateConfig(), engine)
        finally:
            engine.close()
        seconds.append(used)
        print(f"scaling: {megabytes(documents):,.0f} MB in {used:.1f} s, {memory.peak:,.0f} MB of memory at most")
        shutil.rmtree(place)
    exponent = math.log(seconds[-1] / seconds[0]) / math.log(sizes[-1] / sizes[0])
    print(f"scaling: time grows with the size to the power of {exponent:.2f} from {sizes[0]:g} to {sizes[-1]:g} MB")


def bench_night(folder: Path, pool: list[str], histories: tuple[int, int], documents: int) -> None:
    """One fixed night against a small and a large index."""
    config = SAME_WORK
    engine = spark()
    night = documents_of(folder / "night", range(50_000_000, 50_000_000 + documents), 2)
    times = []
    try:
        for size in histories:
            place = folder / f"history-{size}"
            warehouse = Warehouse(str(place))
            index = first_version(warehouse, config)
            old = documents_of(place / "in", range(size), 4)
            made, _ = run(old, place, config, engine, history=index)
            index = next_version(warehouse, index, made, config, engine)
            rows = index.manifest.info["rows"]
            used = []
            for attempt in range(3):
                _, seconds = run(night, place / f"night-{attempt}", config, engine, history=index)
                used.append(seconds)
            times.append(min(used))
            print(
                f"night of {documents:,} documents against {rows['members']:,}: {min(used):.1f} s"
                f" ({rows['bands']:,} band rows in the index)"
            )
            shutil.rmtree(place)
    finally:
        engine.close()
    print(f"night: {times[1] / times[0]:.2f} x the time for {histories[1] / histories[0]:.0f} x the history")


def main() -> None:
    """The parts named on the command line, or all."""
    wanted = sys.argv[1:] or ["signatures", "stage", "scaling", "night"]
    pool = sentence_pool()
    size = float(os.environ.get("BENCH_MB", "1000"))
    small, large = (int(part) for part in os.environ.get("BENCH_HISTORY", "100000,1000000").split(","))
    for part in wanted:
        folder = Path(tempfile.mkdtemp(prefix=f"hyperclova-bench-{part}-"))
        try:
            if part == "signatures":
                bench_signatures(folder, pool)
            elif part == "stage":
                bench_stage(folder, pool, size)
            elif part == "scaling":
                bench_scaling(folder, pool, (size / 10, size / 3, size, size * 2))
            elif part == "night":
                bench_night(folder, pool, (small, large), 10_000)
            else:
                sys.exit(f"no part {part}: signatures, stage, scaling, night")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
