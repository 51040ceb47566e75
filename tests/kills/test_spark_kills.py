"""The same with Spark: a Python worker, the driver, the JVM are killed; a second run ends with the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperclova_core.foundation.stages.engines import SparkEngine
from hyperclova_core.foundation.warehouse import Warehouse
from tests.conftest import ROOT
from tests.kills.spark_chain import BUCKETS
from tests.kills.work import KILL_FILE, bytes_of, chain, source_files, visible

pytestmark = [pytest.mark.spark, pytest.mark.slow]
POINTS = (
    "the worker, in a unit",
    "the driver, while units run",
    "the JVM, while units run",
    "the driver, between decisions and their merge",
    "the driver, at the commit of a Spark stage",
)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, spark_engine: SparkEngine) -> tuple[str, list[object]]:
    place = tmp_path_factory.mktemp("clean")
    folder = source_files(place / "files")
    return folder, bytes_of(chain(Warehouse(str(place / "w")), folder, spark_engine, BUCKETS, deduplicated=True))


@pytest.mark.parametrize("point", POINTS)
def test_killed_under_spark(
    point: str,
    clean: tuple[str, list[object]],
    tmp_path: Path,
    spark_engine: SparkEngine,
    record_property: Callable[[str, object], None],
) -> None:
    folder, expected = clean
    warehouse = Warehouse(str(tmp_path / "w"))
    environment = {
        **os.environ,
        KILL_FILE: str(tmp_path / "kill"),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    command = [sys.executable, "-m", "tests.kills.spark_chain", warehouse.uri, folder, point]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=180, check=False)
    assert ended.returncode != 0, "nothing was killed"
    assert not (tmp_path / "kill").exists()
    seen = visible(warehouse)
    assert len(seen) < 3
    if "unit" in point:
        assert len(seen) == 1
        assert list(Path(warehouse.uri).glob("datasets/odd/*/units/*.json")), "finished units are kept"
    made = chain(warehouse, folder, spark_engine, BUCKETS, deduplicated=True)
    assert bytes_of(made) == expected
    record_property("kill", ("Spark", point, len(seen)))
