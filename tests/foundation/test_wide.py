"""Many tiny files into many buckets, against a store in memory: what is asked of it grows with files + buckets, not with their product.

`HYPERCLOVA_WIDE=100000,4096 pytest tests/foundation/test_wide.py` is the size of docs/scale.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperclova_core.foundation.stages import work_units
from hyperclova_core.foundation.stages.engines import SparkEngine
from tests.conftest import MOST_COLLECTED, ROOT

FILES, BUCKETS = (int(part) for part in os.environ.get("HYPERCLOVA_WIDE", "2000,256").split(","))
A_FILE, A_BUCKET = 3, 11
"""Requests of ingest: a look and a read of each file, and what a unit of 256 files costs; three tables a bucket, written and looked at, and what
lies between."""
DRIVER_BYTES = 1 << 30


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_requests_and_memory_grow_with_files_and_buckets_alone(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    command = [sys.executable, "-m", "tests.foundation.wide_run", str(FILES), str(BUCKETS)]
    environment = {**os.environ, "HYPERCLOVA_SCRATCH": str(tmp_path)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    told = json.loads(ended.stdout.split("RESULT")[1])
    reading, following = sum(told["ingest"].values()), sum(told["deidentify"].values())
    record_property(
        "table",
        f"{FILES} files, {BUCKETS} buckets: ingest {reading} requests, deidentify {following};"
        f" {told['bytes'] >> 20} MB in one process; largest unit {told['largest_unit']} bytes",
    )
    assert told["kept"] == [FILES, FILES]
    assert told["listing"] <= 2 + FILES / 1000, "one listing"
    assert reading <= A_FILE * FILES + A_BUCKET * BUCKETS, told["ingest"]
    assert following <= 2 * A_BUCKET * BUCKETS, told["deidentify"]
    assert told["bytes"] < DRIVER_BYTES, "the driver, its workers and the store in one process"
    assert 0 < told["largest_unit"] < work_units.PAYLOAD_BYTES


@pytest.mark.spark
def test_the_guard_of_the_driver_fails_what_collects_many_rows(spark_engine: SparkEngine) -> None:
    frame = spark_engine.spark().range(MOST_COLLECTED + 1)
    for collects in (frame.collect, frame.toArrow, frame.toPandas, frame.toLocalIterator):
        with pytest.raises(AssertionError, match="to the driver"):
            collects()
    assert frame.count() == MOST_COLLECTED + 1
