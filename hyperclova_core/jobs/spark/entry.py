"""What Spark on Kubernetes asks of an image: `python -m hyperclova_core.jobs.spark.entry driver ARGUMENTS…`, or `executor`.

Spark passes these words as a container's arguments, and the rest in its environment (`org.apache.spark.deploy.k8s.Constants`); the
process becomes the JVM, so that the JVM gets the pod's signals.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from hyperclova_core.foundation.errors import ConfigError

JAVA_OPTION = "SPARK_JAVA_OPT_"
EXECUTOR = "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend"


def command_of(words: Sequence[str], environment: Mapping[str, str], spark: str) -> list[str]:
    """The process to become.

    Args:
        words: the container's arguments; spark: the folder of Spark, with `bin` and `jars`.

    Raises:
        ConfigError: the arguments are not what Spark gives.
    """
    if words and words[0] == "driver":
        address = environment["SPARK_DRIVER_BIND_ADDRESS"]
        return [
            f"{spark}/bin/spark-submit",
            "--deploy-mode",
            "client",
            "--conf",
            f"spark.driver.bindAddress={address}",
            "--conf",
            f"spark.executorEnv.SPARK_DRIVER_POD_IP={address}",
            *words[1:],
        ]
    if words and words[0] == "executor":
        options = sorted(
            (int(name.removeprefix(JAVA_OPTION)), value)
            for name, value in environment.items()
            if name.startswith(JAVA_OPTION)
        )
        folders = [environment.get("SPARK_CONF_DIR", ""), environment.get("SPARK_CLASSPATH", ""), f"{spark}/jars/*"]
        return [
            _java(environment),
            *(value for _, value in options),
            f"-Xms{environment['SPARK_EXECUTOR_MEMORY']}",
            f"-Xmx{environment['SPARK_EXECUTOR_MEMORY']}",
            "-cp",
            os.pathsep.join(folder for folder in folders if folder),
            EXECUTOR,
            "--driver-url",
            environment["SPARK_DRIVER_URL"],
            "--executor-id",
            environment["SPARK_EXECUTOR_ID"],
            "--cores",
            environment["SPARK_EXECUTOR_CORES"],
            "--app-id",
            environment["SPARK_APPLICATION_ID"],
            "--hostname",
            environment["SPARK_EXECUTOR_POD_IP"],
            "--resourceProfileId",
            environment["SPARK_RESOURCE_PROFILE_ID"],
            "--podName",
            environment["SPARK_EXECUTOR_POD_NAME"],
        ]
    raise ConfigError(
        "This container was not started by Spark",
        where="arguments",
        why=f"they begin with {words[0]!r}" if words else "there are none",
        remedy="it is the command of pods that spark-submit makes; `hyperclova --help` shows what a person can run",
    )


def _java(environment: Mapping[str, str]) -> str:
    home = environment.get("JAVA_HOME")
    found = f"{home}/bin/java" if home else shutil.which("java", path=environment.get("PATH"))
    if not found:
        raise ConfigError(
            "There is no Java", where="PATH, JAVA_HOME", remedy="use the pipeline image, which has Java 17"
        )
    return found


def main() -> None:
    """Become Spark's process."""
    found = importlib.util.find_spec("pyspark")
    assert found is not None, "the pipeline image has pyspark"
    assert found.origin is not None, "pyspark is a package on disk"
    spark = str(Path(found.origin).parent)
    for folder in ("TMPDIR", "HOME", "NUMBA_CACHE_DIR"):
        if os.environ.get(folder):
            Path(os.environ[folder]).mkdir(parents=True, exist_ok=True)
    try:
        command = command_of(sys.argv[1:], os.environ, spark)
    except ConfigError as error:
        sys.stderr.write(f"{error.message()}\n")
        sys.exit(error.exit_code)
    os.environ["SPARK_HOME"] = spark
    os.execv(command[0], command)  # noqa: S606 - its very purpose


if __name__ == "__main__":
    main()
