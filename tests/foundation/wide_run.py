"""Many tiny files into many buckets in a process of its own, against a store in memory: what was asked, and what it took, as JSON.

`python -m tests.foundation.wide_run FILES BUCKETS`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from hyperclova_core.corpus.deidentify import DeidentifyConfig, deidentify
from hyperclova_core.corpus.ingest.config import IngestConfig, SourceConfig, find_files
from hyperclova_core.corpus.ingest.stage import ingest
from hyperclova_core.foundation.stages import work_units
from hyperclova_core.foundation.stages.engines import LocalEngine
from hyperclova_core.foundation.stages.kinds import definition_of
from hyperclova_core.foundation.stages.runner import StageRequest, execute, plan_stage
from hyperclova_core.foundation.stages.units import WorkUnit
from hyperclova_core.foundation.warehouse import Warehouse
from tests.memory_store import MemoryStore, in_memory


def filled(store: MemoryStore, files: int) -> None:
    for number in range(files):
        line = {"id": str(number), "text": f"문서 {number}번입니다. 오늘은 {number * 7919}원어치의 사과를 샀다."}
        store.put_object(
            Bucket="w",
            Key=f"crawl/{number % 100:02d}/{number:06d}.jsonl",
            Body=json.dumps(line, ensure_ascii=False).encode() + b"\n",
        )
    store.asked.clear()


def held_at_most() -> int:
    """Bytes of memory that this program has held at most. Not getrusage's: that begins with what the process held that started this one."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))


def main() -> None:
    files, buckets = map(int, sys.argv[1:])
    largest: list[int] = []
    original = work_units._check_payloads

    def watched(units: Sequence[WorkUnit], phase: str) -> None:
        largest.append(max((len(unit.model_dump_json()) for unit in units), default=0))
        original(units, phase)

    work_units._check_payloads = watched
    with in_memory() as store:
        filled(store, files)
        warehouse = Warehouse("s3://w/warehouse")
        config = IngestConfig(sources=(SourceConfig(name="crawl", paths=("s3://w/crawl",)),))
        found = find_files(config)
        listing = sum(store.asked.values())
        request = StageRequest(
            definition_of(ingest), config, lambda name: warehouse.target("ingest", name), files=found, buckets=buckets
        )
        made = execute(plan_stage(request), LocalEngine()).dataset
        reading = dict(store.asked)
        store.asked.clear()
        following = StageRequest(
            definition_of(deidentify),
            DeidentifyConfig(),
            lambda name: warehouse.target("deidentify", name),
            {"documents": made},
            buckets=buckets,
        )
        after = execute(plan_stage(following), LocalEngine()).dataset
        told = {
            "kept": [made.manifest.counters.kept, after.manifest.counters.kept],
            "listing": listing,
            "ingest": reading,
            "deidentify": dict(store.asked),
            "largest_unit": max(largest),
            "bytes": held_at_most(),
        }
    sys.stdout.write("RESULT " + json.dumps(told))


if __name__ == "__main__":
    main()
