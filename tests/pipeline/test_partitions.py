"""Every stage gives the same bytes with 1 partition, 4 and 200, on one core and on two, on disk and on S3."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from hyperclova_core.foundation.stages.engines import SparkEngine
from hyperclova_core.foundation.warehouse import RunFolder, Warehouse
from hyperclova_core.pipeline.graph import SPARK_STAGES
from hyperclova_core.pipeline.recipe import load_recipe
from hyperclova_core.pipeline.run import prepare_run, run_key, run_keys
from tests.conftest import ROOT, SMALL_JVM, SmokeRun
from tests.object_store import FaultProxy

pytestmark = [pytest.mark.spark, pytest.mark.slow]


def checksums(run: RunFolder) -> dict[str, object]:
    """stage → digest and checksums of every file."""
    found: dict[str, object] = {}
    for key in SPARK_STAGES:
        manifest = run.dataset(key).manifest
        tables = {name: [entry.checksum for entry in table.files] for name, table in manifest.tables.items()}
        found[key] = [manifest.digest, tables]
    return found


def made_with(uri: str, engine: SparkEngine, partitions: int) -> dict[str, object]:
    """`checksums` after all Spark stages of the smallest recipe."""
    session = engine.spark()
    before = {key: session.conf.get(key) for key in ("spark.sql.shuffle.partitions", "spark.sql.adaptive.enabled")}
    session.conf.set("spark.sql.shuffle.partitions", str(partitions))
    session.conf.set("spark.sql.adaptive.enabled", "false")
    engine._partitions = partitions
    try:
        warehouse = Warehouse(uri)
        run = prepare_run(warehouse, "r", load_recipe("smoke"), sizes=())
        for key in run_keys(run):
            run_key(warehouse, run, key, engine)
        return checksums(run)
    finally:
        engine._partitions = None
        for key, value in before.items():
            session.conf.set(key, value)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "conf" / "demo", tmp_path / "data" / "demo")
    monkeypatch.setenv("HYPERCLOVA_DATA", str(tmp_path / "data"))
    return tmp_path


def test_neither_partitions_nor_cores_nor_the_store_change_a_byte(
    data: Path, smoke: SmokeRun, spark_engine: SparkEngine, faults: FaultProxy
) -> None:
    wanted = checksums(Warehouse(str(smoke.warehouse)).run("first"))
    assert list(wanted) == list(SPARK_STAGES)
    assert made_with(str(data / "many"), spark_engine, 200) == wanted
    # one core, and everything on S3 (a process of its own: Spark's workers take their environment when they start)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "tests.pipeline.test_partitions", f"s3://warehouse/{uuid.uuid4().hex}", "1"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    remote = json.loads(ended.stdout.splitlines()[-1])
    for stage in SPARK_STAGES:
        assert remote[stage] == json.loads(json.dumps(wanted[stage])), stage


if __name__ == "__main__":
    one_core = SparkEngine({**SMALL_JVM, "spark.master": "local[1]"})
    try:
        print(json.dumps(made_with(sys.argv[1], one_core, int(sys.argv[2]))))  # noqa: T201
    finally:
        one_core.close()
