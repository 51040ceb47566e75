"""Two ways to run units of work: in this process, or as Spark tasks."""

from __future__ import annotations

import heapq
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from hyperclova_core.foundation.errors import ConfigError, HyperclovaError, TransientError, from_dict
from hyperclova_core.foundation.stages.kinds import Result, Unit
from hyperclova_core.foundation.stages.units import TASK_WEIGHT

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import SparkSession

WAITED_SECONDS = (2.0, 8.0)
"""Between tries of a unit whose fault may pass; requests have had tries of their own by then (`storage.retries`)."""
SPARK_SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "1024",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.sql.shuffle.partitions": "4",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.adaptive.enabled": "true",
    "spark.python.worker.reuse": "true",
    "spark.executorEnv.OMP_NUM_THREADS": "1",
    "spark.driver.memory": "1g",
    "spark.log.level": "WARN",
}
"""Defaults for every Spark application of the platform; `--conf` and the recipe's `spark` section override them."""


class LocalEngine:
    """Units one after the other in this process; starts Spark only if a corpus stage asks for it."""

    def __init__(
        self, settings: dict[str, str] | None = None, progress: Callable[[int, int], None] | None = None
    ) -> None:
        self._settings = settings or {}
        self._session: SparkSession | None = None
        self._progress = progress

    def map_units(
        self, function: Callable[[Unit], Result], units: Sequence[Unit], answer: type[Result]
    ) -> list[Result]:
        """`function` of every unit, in order."""
        results = []
        for index, unit in enumerate(units):
            results.append(function(unit))
            if self._progress:
                self._progress(index + 1, len(units))
        return results

    def spark(self) -> SparkSession:
        """A local session, started once."""
        if self._session is None:
            self._session = start_session("hyperclova", self._settings)
        return self._session

    def close(self) -> None:
        """Stop the session if there is one."""
        if self._session is not None:
            self._session.stop()
            self._session = None


class SparkEngine(LocalEngine):
    """Units are Spark tasks: the Python worker reads and writes files, only JSON rows pass through the JVM.

    A unit is a task of its own, but small ones (by their `weight`, bytes that they read) share one, as far as every core has some.

    Args:
        partitions: tasks for all units together, whatever their weights. It changes nothing but who does what.
    """

    def __init__(self, settings: dict[str, str] | None = None, partitions: int | None = None) -> None:
        super().__init__(settings)
        self._partitions = partitions

    def map_units(
        self, function: Callable[[Unit], Result], units: Sequence[Unit], answer: type[Result]
    ) -> list[Result]:
        """`function` of every unit as Spark tasks; the first error of a unit is raised here.

        Raises:
            HyperclovaError: as the unit raised it.
        """
        if not units:
            return []
        session = self.spark()
        weights, kind = [unit.weight for unit in units], type(units[0])
        groups = grouped(weights, self._partitions or tasks_for(weights, session.sparkContext.defaultParallelism))
        payload = [json.dumps([[index, units[index].model_dump(mode="json")] for index in group]) for group in groups]

        def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            import pyarrow

            for batch in batches:
                for task in batch.column(0).to_pylist():
                    for index, unit in json.loads(payload[task]):
                        try:
                            made = tried_again(function, kind.model_validate(unit))
                            result = {"value": made.model_dump(mode="json")}
                        except HyperclovaError as error:
                            result = {"error": error.to_dict()}
                        yield pyarrow.RecordBatch.from_pydict({"index": [index], "result": [json.dumps(result)]})

        frame = session.range(0, len(groups), 1, numPartitions=len(groups))
        rows = frame.mapInArrow(run, "index long, result string").toArrow().sort_by("index").to_pylist()
        results = [json.loads(row["result"]) for row in rows]
        for result in results:
            if "error" in result:
                raise from_dict(result["error"])
        return [answer.model_validate(result["value"]) for result in results]


def tried_again(function: Callable[[Unit], Result], unit: Unit) -> Result:
    """`function` of a unit; what may pass by itself is waited for, so that one answer of a store that is busy does not end a stage.

    Raises:
        HyperclovaError: as the unit raised it, of a fault that passes the last time.
    """
    for seconds in WAITED_SECONDS:
        try:
            return function(unit)
        except TransientError:
            time.sleep(seconds)
    return function(unit)


def tasks_for(weights: Sequence[int], cores: int) -> int:
    """As many tasks as units have work for, and one a core at least."""
    return min(len(weights), max(cores, -(-sum(weights) // TASK_WEIGHT)))


def grouped(weights: Sequence[int], tasks: int) -> list[list[int]]:
    """Units of each task: the heaviest first to the task that has least (Graham 1969), in each in their order."""
    loads = [(0, task) for task in range(min(tasks, len(weights)))]
    groups: list[list[int]] = [[] for _ in loads]
    for index in sorted(range(len(weights)), key=lambda index: (-weights[index], index)):
        load, task = heapq.heappop(loads)
        groups[task].append(index)
        heapq.heappush(loads, (load + max(1, weights[index]), task))
    return [sorted(group) for group in groups]


def java_hint() -> str:
    """How to get a Java that Spark 4 runs on."""
    return "install Java 17 or newer (Debian/Ubuntu: `sudo apt-get install openjdk-17-jre-headless`), or set JAVA_HOME"


def start_session(name: str, settings: dict[str, str]) -> SparkSession:
    """A Spark session with the platform's defaults.

    Workers run the interpreter of this process: otherwise they take the system's `python3`.

    Raises:
        ConfigError: Java is missing or Spark cannot start.
    """
    from pyspark.errors import PySparkRuntimeError
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    builder = SparkSession.builder.appName(name)
    submitted: dict[str, str] = {}
    if "PYSPARK_GATEWAY_PORT" in os.environ:  # under spark-submit: what it was told counts
        from pyspark import SparkConf, SparkContext

        SparkContext._ensure_initialized()  # SparkConf has what was submitted once the gateway is open
        submitted = dict(SparkConf().getAll())
    else:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
        if "spark.master" not in settings and not os.environ.get("MASTER"):
            builder = builder.master(f"local[{os.cpu_count() or 1}]")
    for key, value in {**SPARK_SETTINGS, **settings}.items():
        if key not in submitted:
            builder = builder.config(key, value)
    try:
        session = builder.getOrCreate()
    except (PySparkRuntimeError, FileNotFoundError) as error:
        raise ConfigError(
            "Spark cannot start", where="spark session", why=str(error).splitlines()[0], remedy=java_hint()
        ) from error
    session.sparkContext.setLogLevel(settings.get("spark.log.level", SPARK_SETTINGS["spark.log.level"]))
    return session
