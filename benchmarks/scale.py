"""How the whole chain grows: ingest to serialize over made text of several sizes, each stage as the DAG runs it.

    make bench-scale            (PARTS="chain costs lookups gather"; BENCH_SIZES="100,400" megabytes by default; SCALE_FILES=24 source files)

`chain` prints, for each stage and size, seconds, megabytes a core second, and the most memory of all processes together; then the exponent of its
time between the smallest and the largest size. A stage that is linear has an exponent of 1; one that is mostly start, less. `costs` does the same and
writes conf/scale/costs.yaml, by which `hyperclova plan corpus` reckons; between its sizes it says how far the plan is off.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from deduplicate import CORES, PeakMemory, spark
from made_corpus import documents_for, made_texts, planted_recall, sentence_pool

from hyperclova_core.corpus.deduplicate.clusters.survivors import assign
from hyperclova_core.corpus.ingest.config import IngestConfig, SourceConfig, find_files
from hyperclova_core.corpus.ingest.stage import ingest
from hyperclova_core.foundation.datasets.dataset import Target
from hyperclova_core.foundation.sorted_lookup import among
from hyperclova_core.foundation.stages import source_stages
from hyperclova_core.foundation.stages.engines import LocalEngine
from hyperclova_core.foundation.stages.kinds import definition_of
from hyperclova_core.foundation.stages.runner import StageRequest, execute, plan_stage
from hyperclova_core.foundation.stages.spark_frames import grouped_chunks
from hyperclova_core.foundation.warehouse import Warehouse
from hyperclova_core.pipeline.graph import SPARK_STAGES
from hyperclova_core.pipeline.outcomes import record_outcome
from hyperclova_core.pipeline.recipe import Recipe, validated
from hyperclova_core.pipeline.run import prepare_run
from hyperclova_core.pipeline.stage_requests import plan_key

ROOT = Path(__file__).resolve().parents[1]


def write_sources(folder: Path, documents: int, files: int, pool: list[str]) -> float:
    """Made documents in JSONL files; megabytes of text."""
    folder.mkdir(parents=True)
    total = 0
    for number in range(files):
        first, last = number * documents // files, (number + 1) * documents // files
        with (folder / f"{number:05d}.jsonl").open("w", encoding="utf-8") as file:
            for name, text in made_texts(range(first, last), pool):
                total += len(text.encode())
                row = {"id": name, "text": text, "user": f"u{len(name) * 7 + first % 97}", "likes": len(text) % 50}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return total / 1e6


def recipe_for(sources: Path, megabytes: float) -> Recipe:
    """The smallest recipe's settings over these files; a bucket holds about 64 MB."""
    data: dict[str, Any] = yaml.safe_load((ROOT / "conf" / "smoke.yaml").read_text(encoding="utf-8"))
    buckets = 2
    while buckets * 64 < megabytes:
        buckets *= 2
    data |= {"name": "scale", "buckets": buckets}
    data["ingest"] = {"sources": [{"name": "made", "paths": [str(sources)], "tier": "open", "license": "CC0-1.0"}]}
    data["deduplicate"] = {
        **data.get("deduplicate", {}),
        "driver_documents": 0,
    }  # the way of large corpora, from the first document on
    data["tokenizer"] = {"vocabulary_size": 8000, "sample_bytes": int(megabytes * 1e5)}
    data["mix"] = {"budget_tokens": int(megabytes * 1e6 / 8), "on_shortage": "respread"}
    return validated(data, "scale")


@dataclass(frozen=True)
class Measured:
    """A stage at one size: megabytes of text that came in, seconds, megabytes of memory of all processes and of a task, bytes that were exchanged and
    that are kept."""

    text: float
    seconds: float
    memory: float
    task: float
    shuffled: float
    kept: float
    buckets: int


def shuffled_between(events: Path, begun: float, ended: float) -> float:
    """Bytes that tasks which ended between two times wrote for others, by Spark's own event log."""
    total = 0
    for path in events.rglob("events_*"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith('{"Event":"SparkListenerTaskEnd"'):
                event = json.loads(line)
                if begun * 1000 <= event["Task Info"]["Finish Time"] <= ended * 1000:
                    total += event["Task Metrics"]["Shuffle Write Metrics"]["Shuffle Bytes Written"]
    return float(total)


def measure(folder: Path, megabytes: float, files: int, pool: list[str]) -> dict[str, Measured]:
    """All stages of a whole chain."""
    size = write_sources(folder / "in", documents_for(megabytes, pool), files, pool)
    warehouse = Warehouse(str(folder / "warehouse"))
    run = prepare_run(warehouse, "scale", recipe_for(folder / "in", size), sizes=())
    events = folder / "events"
    events.mkdir()
    logged = {"enabled": "true", "dir": events.as_uri(), "compress": "false", "rolling.enabled": "true"}
    engine, found, buckets = spark({f"spark.eventLog.{key}": value for key, value in logged.items()}), {}, 0
    try:
        for stage in SPARK_STAGES:
            begun = time.time()
            with PeakMemory() as memory:
                plan = plan_key(warehouse, run, stage)
                outcome = execute(plan, engine)
            record_outcome(warehouse, run, stage, plan, outcome, begun)
            used = time.time() - begun
            manifest, entries = outcome.dataset.manifest, outcome.dataset.manifest.tables.values()
            kept, buckets = sum(entry.bytes for table in entries for entry in table.files), manifest.buckets
            moved = shuffled_between(events, begun, begun + used)
            found[stage] = Measured(size, used, memory.peak, memory.task, moved, kept, buckets)
            rate = size / used / CORES
            print(
                f"{stage:<12} {size:7,.0f} MB {used:8.1f} s {rate:7.2f} MB/s a core {memory.peak:8,.0f} MB of memory, {memory.task:6,.0f} a task",
                flush=True,
            )
            if stage == "deduplicate":
                print(f"             planted pairs found {planted_recall(outcome.dataset)}", flush=True)
    finally:
        engine.close()
    return found


def lookups() -> None:
    """Membership in ten million sorted values beside numpy's and pyarrow's; one key's rows in batches; a chain of forms."""
    draw = np.random.default_rng(0)
    known, wanted = np.unique(draw.integers(0, 1 << 62, 10_000_000)), draw.integers(0, 1 << 62, 100_000)
    theirs, ours = seconds(lambda: np.isin(wanted, known)), seconds(lambda: among(wanted, known))
    print(f"100,000 values in 1e7: numpy.isin {theirs:.2f} s, ours {ours:.3f} s = {theirs / ours:.0f} x as fast")
    few, values = wanted[:8192], pa.array(known)
    theirs = seconds(lambda: pc.is_in(pa.array(few), value_set=values))
    ours = seconds(lambda: among(few, known))
    print(f"a batch of 8,192 in 1e7: pyarrow's is_in {theirs:.2f} s, ours {ours:.4f} s = {theirs / ours:.0f} x as fast")
    for rows in (500_000, 2_100_000):
        batches = pa.table({"key": np.zeros(rows, np.int64)}).to_batches(max_chunksize=1024)
        begun = time.perf_counter()
        list(grouped_chunks(iter(batches), "key"))
        used = time.perf_counter() - begun
        print(f"{rows:,} rows of one key, in groups: {used:.3f} s")
    count = 16_000
    nodes, none = np.arange(count), np.zeros(count, np.int64)
    signatures = draw.integers(0, 1 << 16, (count, 128)).astype(np.uint16)
    edges = (none[:-1], nodes[:-1], nodes[1:], np.full(count - 1, 0.8))
    assign(none[:2], nodes[:2], signatures[:2], *(part[:1] for part in edges), 0.7)  # compiled
    print(f"a chain of {count:,} forms, split: {seconds(lambda: assign(none, nodes, signatures, *edges, 0.7)):.3f} s")


def gather() -> None:
    """300 files of 50 documents into 256 buckets, from reading to the commit."""
    folder = Path(tempfile.mkdtemp(prefix="hyperclova-bench-gather-"))
    try:
        write_sources(folder / "in", 15_000, 300, sentence_pool(20_000))
        patch = source_stages.GROUP_FILES
        source_stages.GROUP_FILES = 1  # as many staged files as source files
        config = IngestConfig(sources=(SourceConfig(name="made", paths=(str(folder / "in"),)),))
        target = Target(str(folder / "out"))
        request = StageRequest(definition_of(ingest), config, lambda _: target, files=find_files(config), buckets=256)
        used = seconds(lambda: execute(plan_stage(request), LocalEngine()))
        source_stages.GROUP_FILES = patch
        print(f"300 staged files into 256 buckets: {used:.1f} s")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock seconds of a call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def chain() -> list[dict[str, Measured]]:
    """All sizes, then the exponents."""
    sizes = [float(part) for part in os.environ.get("BENCH_SIZES", "100,400").split(",")]
    files, pool = int(os.environ.get("SCALE_FILES", "24")), sentence_pool()
    made = []
    for size in sizes:
        folder = Path(tempfile.mkdtemp(prefix="hyperclova-bench-scale-"))
        try:
            made.append(measure(folder, size, files, pool))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    for stage in made[0]:
        few, many = made[0][stage], made[-1][stage]
        exponent = math.log(many.seconds / few.seconds) / math.log(many.text / few.text)
        print(
            f"{stage:<12} time ~ size^{exponent:.2f}; memory {many.memory / few.memory:.2f} x, from {few.text:.0f} to {many.text:.0f} MB"
        )
    return made


def costs() -> None:
    """Unit costs of all stages by the two largest sizes; how far they are off at the others. The first size pays for what is compiled and read
    for the first time."""
    made = chain()
    found = {}
    for stage, few in made[-2].items():
        many = made[-1][stage]
        cost = max(0.0, (many.seconds - few.seconds) * CORES / (many.text - few.text))
        grown = (many.text / many.buckets) - (few.text / few.buckets)
        slope = max(0.0, (many.task - few.task) / grown) if grown > 0 else 0.0
        found[stage] = {
            "core_seconds_a_megabyte": round(cost, 4),
            "start_seconds": round(max(0.0, few.seconds - cost * few.text / CORES), 1),
            "task_megabytes": round(max(100.0, few.task - slope * few.text / few.buckets)),
            "task_times_bucket": round(slope, 2),
            "shuffle_share": round(many.shuffled / many.text / 1e6, 3),
            "kept_share": round(many.kept / many.text / 1e6, 3),
        }
        for between in made[:-2]:
            said = found[stage]["start_seconds"] + cost * between[stage].text / CORES
            off = said / between[stage].seconds - 1
            print(
                f"{stage:<12} {between[stage].text:7,.0f} MB: reckoned {said:.1f} s, took {between[stage].seconds:.1f} ({off:+.0%})"
            )
    sizes = " to ".join(f"{one['ingest'].text:.0f}" for one in made[-2:])
    told = {"measured_on": f"{CORES} cores, local disk, {sizes} MB of made text", "stages": found}
    path = ROOT / "conf" / "scale" / "costs.yaml"
    head = (
        "# Written by `make bench-scale PARTS=costs`: what stages cost on the machine that it names (docs/scale.md).\n"
    )
    path.write_text(head + yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
    print(f"written: {path.relative_to(ROOT)}")


def main() -> None:
    """The parts named on the command line, or all."""
    os.environ.setdefault("HYPERCLOVA_PSEUDONYM_KEY", "a key for benchmarks, of no worth")
    for part in sys.argv[1:] or ["chain", "lookups", "gather"]:
        {"chain": chain, "costs": costs, "lookups": lookups, "gather": gather}[part]()


if __name__ == "__main__":
    main()
