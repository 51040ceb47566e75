"""The same with Spark: a Python worker, the driver, the JVM are killed; a second run ends with the same bytes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from hyperclova_core.foundation.stages.engines import SparkEngine
from hyperclova_core.foundation.warehouse import Warehouse
from hyperclova_core.jobs.spark.pods import ENCRYPTED
from tests.conftest import ROOT
from tests.kills.spark_chain import BUCKETS, EXECUTOR, SECRET_FILE
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
    ended = run_chain(warehouse, folder, point, "local[2]", tmp_path / "kill")
    assert ended.returncode != 0, "nothing was killed"
    seen = visible(warehouse)
    assert len(seen) < 3
    if "unit" in point:
        assert len(seen) == 1
        assert list(Path(warehouse.uri).glob("datasets/odd/*/units/*.json")), "finished units are kept"
    made = chain(warehouse, folder, spark_engine, BUCKETS, deduplicated=True)
    assert bytes_of(made) == expected
    record_property("kill", ("Spark", point, len(seen)))


def run_chain(
    warehouse: Warehouse, folder: str, point: str, master: str, kill_file: Path, secret: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    environment = {
        **os.environ,
        KILL_FILE: str(kill_file),
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "PYSPARK_PYTHON": sys.executable,
    }
    if secret is not None:
        environment[SECRET_FILE] = str(secret)
    command = [sys.executable, "-m", "tests.kills.spark_chain", warehouse.uri, folder, point, master]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=600, check=False)
    assert not kill_file.exists(), ended.stderr[-3000:].decode()
    return ended


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ended(run: subprocess.Popen[bytes]) -> None:
    run.terminate()
    try:
        run.wait(60)
    except subprocess.TimeoutExpired:
        run.kill()
        run.wait()


@contextmanager
def standalone(workers: int, secret: Path) -> Iterator[str]:
    """Spark's own cluster manager: a master and workers, each a process, that know each other by a secret; its address."""
    import pyspark

    program = Path(pyspark.__file__).parent / "bin" / "spark-class"
    port = free_port()
    master = f"spark://127.0.0.1:{port}"
    place = ["--host", "127.0.0.1", "--webui-port", "0"]
    worker = ["org.apache.spark.deploy.worker.Worker", *place, "--cores", "1", "--memory", "1g", master]
    started = [["org.apache.spark.deploy.master.Master", *place, "--port", str(port)], *([worker] * workers)]
    told = {**ENCRYPTED, "spark.authenticate.secret": secret.read_text()}
    known = " ".join(f"-D{name}={value}" for name, value in told.items())
    environment = {
        **os.environ,
        "SPARK_DAEMON_MEMORY": "256m",
        "SPARK_DAEMON_JAVA_OPTS": known,
        "PYTHONPATH": str(ROOT),
    }
    with ExitStack() as stack:
        for number, command in enumerate(started):
            work = stack.enter_context(TemporaryDirectory(ignore_cleanup_errors=True))
            run = subprocess.Popen(  # a folder of its own: workers keep what their executors say there
                [str(program), *command],
                cwd=work,
                env={**environment, "SPARK_WORKER_DIR": f"{work}/{number}"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            stack.callback(ended, run)
        yield master


@pytest.mark.parametrize("workers", [0, 2], ids=["local-cluster", "standalone"])
def test_an_executor_that_is_killed_costs_its_tasks(
    workers: int,
    clean: tuple[str, list[object]],
    tmp_path: Path,
    spark_engine: SparkEngine,
    record_property: Callable[[str, object], None],
) -> None:
    """On a cluster of processes the run goes on by itself, to the same bytes as one process gives. HYPERCLOVA_WHOLE_KILLS=1: deduplication
    with its exchanges between executors too, which takes two minutes more for each."""
    folder, expected = clean
    whole = os.environ.get("HYPERCLOVA_WHOLE_KILLS") == "1"
    warehouse, datasets = Warehouse(str(tmp_path / "w")), 3 if whole else 2
    point = EXECUTOR if whole else f"{EXECUTOR}, without deduplication"
    secret = tmp_path / "secret"
    secret.write_text("a-secret-of-tests-of-no-worth")
    with standalone(workers, secret) if workers else nullcontext("local-cluster[3,1,1024]") as master:
        ended = run_chain(warehouse, folder, point, master, tmp_path / "kill", secret)
    assert ended.returncode == 0, ended.stderr[-3000:].decode()
    assert b"ExecutorLostFailure" in ended.stderr or b"Lost executor" in ended.stderr, "one was killed"
    seen = visible(warehouse)
    assert len(seen) == datasets
    made = chain(warehouse, folder, spark_engine, BUCKETS, deduplicated=datasets == 3)
    assert bytes_of(made) == expected[:datasets], "all is reused"
    record_property(
        "kill", ("Spark", f"{EXECUTOR}, of {'a standalone cluster' if workers else 'a local cluster'}", len(seen))
    )
