"""Spark stages on a cluster: pod templates, spark-submit's settings, and the real Spark on the double: driver and executors as pods."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from airflow.sdk.exceptions import AirflowFailException
from pydantic import ValidationError

from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.foundation.warehouse import RunFolder, Warehouse
from hyperclova_core.jobs.config import Toleration
from hyperclova_core.jobs.kubernetes.api import Api
from hyperclova_core.jobs.spark.driver import SparkDriver
from hyperclova_core.jobs.spark.entry import command_of
from hyperclova_core.jobs.spark.pods import SparkClusterConfig, driver_name, settings, sized, templates
from hyperclova_core.pipeline import spark_application, spark_events
from hyperclova_core.pipeline.recipe import load_recipe
from hyperclova_core.pipeline.run import prepare_run
from operators.spark_stage import HistoryServerLink
from tests.conftest import ROOT
from tests.jobs.conftest import USED
from tests.jobs.fake_cluster import FakeCluster, until

CONFIG = SparkClusterConfig(image="pipeline:1")
FULL = {
    "image": "registry.example/pipeline:1",
    "image_pull_secrets": ["registry"],
    "node_selector": {"pool": "text"},
    "tolerations": [{"key": "text", "effect": "NoSchedule"}],
    "priority_class": "text",
    "environment": {"AWS_REGION": "kr"},
    "secrets": ["s3-credentials"],
    "volumes": [{"claim": "crawl", "path": "/data", "read_only": True}],
}


def test_templates_are_valid_and_allow_nothing_more_than_they_must() -> None:
    for role, template in templates(SparkClusterConfig.model_validate(FULL), "ingest").items():
        for version in ("1.29", "1.33", "1.37"):
            kubernetes_validate.validate(template, version, strict=True)
        spec = template["spec"]
        container = spec["containers"][0]
        assert spec["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert spec["automountServiceAccountToken"] == (role == "driver"), "executors ask the cluster for nothing"
        assert container["envFrom"] == [{"secretRef": {"name": "s3-credentials"}}]
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {
            "/scratch",
            "/tmp",
            "/scratch/spark",
            "/data",
        }
        assert "args" not in container, "Spark appends its own"


def test_drivers_and_executors_know_each_other_by_a_secret_that_is_named() -> None:
    """That Spark runs so, executors killed in between, is tests/kills/test_spark_kills.py."""
    config = SparkClusterConfig.model_validate({**FULL, "authentication_secret": "hyperclova-spark"})
    found = settings(config, "driver", "ingest", "f", "/templates")
    assert found["spark.authenticate"] == found["spark.network.crypto.enabled"] == "true"
    assert found["spark.io.encryption.enabled"] == "true"
    file = found["spark.authenticate.secret.file"]
    for template in templates(config, "ingest").values():
        kubernetes_validate.validate(template, "1.33", strict=True)
        spec = template["spec"]
        (mount,) = [one for one in spec["containers"][0]["volumeMounts"] if file.startswith(f"{one['mountPath']}/")]
        (volume,) = [one for one in spec["volumes"] if one["name"] == mount["name"]]
        assert volume["secret"]["secretName"] == "hyperclova-spark" and mount["readOnly"]
    alone = settings(SparkClusterConfig.model_validate(FULL), "driver", "ingest", "f", "/templates")
    assert alone["spark.authenticate"] == "true", "by a secret of Spark's own"
    assert "spark.authenticate.secret.file" not in alone


def test_settings_say_sizes_names_and_accounts() -> None:
    config = SparkClusterConfig.model_validate({**FULL, "min_executors": 2, "max_executors": 10, "executor_cores": 8})
    found = settings(config, driver_name("w", "run", "ingest"), "ingest", "f" * 64, "/templates")
    assert found["spark.kubernetes.authenticate.driver.serviceAccountName"] == "hyperclova-spark"
    assert found["spark.kubernetes.authenticate.executor.serviceAccountName"] == "hyperclova-job", "not the driver's"
    assert found["spark.dynamicAllocation.maxExecutors"] == "10"
    assert found["spark.dynamicAllocation.shuffleTracking.enabled"] == "true"
    assert found["spark.sql.shuffle.partitions"] == "160"
    assert found["spark.default.parallelism"] == "80"
    assert found["spark.kubernetes.container.image.pullSecrets"] == "registry"
    assert not any("secretKeyRef" in key or "password" in key.lower() for key in found), (
        "secrets are the templates', by name"
    )
    alone = settings(SparkClusterConfig(image="x", max_executors=0, driver_cores=3), "n-driver", "ingest", "f", "/t")
    assert alone["spark.kubernetes.driver.master"] == "local[3]"
    assert "spark.dynamicAllocation.enabled" not in alone
    with pytest.raises(ValidationError, match="min_executors 3 is more than max_executors 2"):
        SparkClusterConfig(image="x", min_executors=3, max_executors=2)


def test_a_drivers_name_is_the_runs_and_the_stages() -> None:
    name = driver_name("s3://w", "manual__2026-11-25T13:07:58.206226+00:00", "deduplicate")
    assert re.fullmatch(r"deduplicate-[0-9a-f]{10}-driver", name)
    assert name != driver_name("s3://w", "another", "deduplicate")
    assert name != driver_name("s3://v", "manual__2026-11-25T13:07:58.206226+00:00", "deduplicate"), (
        "of another warehouse"
    )
    assert name == driver_name("s3://w", "manual__2026-11-25T13:07:58.206226+00:00", "deduplicate"), "a retry finds it"


def test_what_spark_asks_of_the_image() -> None:
    driver = command_of(
        ["driver", "--class", "X", "local:///a.py"], {"SPARK_DRIVER_BIND_ADDRESS": "10.0.0.7"}, "/spark"
    )
    assert driver[0] == "/spark/bin/spark-submit"
    assert "spark.driver.bindAddress=10.0.0.7" in driver
    assert driver[-3:] == ["--class", "X", "local:///a.py"]
    environment = {
        "SPARK_EXECUTOR_MEMORY": "2g",
        "SPARK_DRIVER_URL": "spark://d",
        "SPARK_EXECUTOR_ID": "3",
        "SPARK_EXECUTOR_CORES": "4",
        "SPARK_APPLICATION_ID": "app",
        "SPARK_EXECUTOR_POD_IP": "10.0.0.8",
        "SPARK_RESOURCE_PROFILE_ID": "0",
        "SPARK_EXECUTOR_POD_NAME": "pod-3",
        "SPARK_CONF_DIR": "/opt/spark/conf",
        "JAVA_HOME": "/java",
        **{f"SPARK_JAVA_OPT_{number}": f"-D{number}" for number in (10, 2, 0)},
    }
    executor = command_of(["executor"], environment, "/spark")
    assert executor[:6] == ["/java/bin/java", "-D0", "-D2", "-D10", "-Xms2g", "-Xmx2g"]
    assert executor[executor.index("-cp") + 1] == "/opt/spark/conf:/spark/jars/*"
    assert executor[-2:] == ["--podName", "pod-3"]
    for words in (["bash"], []):
        with pytest.raises(ConfigError, match="was not started by Spark"):
            command_of(words, environment, "/spark")


# on the double


@pytest.fixture
def place(cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeCluster, Path]]:
    """Connections of Airflow that lead to the double, by its own environment variables."""
    cluster.environment["PYTHONPATH"] = str(ROOT)
    config = tmp_path / "kubeconfig"
    config.write_text(cluster.kubeconfig())
    spark = {"conn_type": "spark", "host": f"k8s://{cluster.url}", "extra": {"deploy-mode": "cluster"}}
    kubernetes = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(config)}}
    monkeypatch.setenv("AIRFLOW_CONN_SPARK_DEFAULT", json.dumps(spark))
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(kubernetes))
    monkeypatch.setenv("HYPERCLOVA_WAREHOUSE", str(tmp_path / "warehouse"))
    monkeypatch.setenv("HYPERCLOVA_DATA", str(ROOT / "conf"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    yield cluster, tmp_path


def prepared(cluster: FakeCluster, name: str, *changes: str, **pods: Any) -> RunFolder:
    """A run of the smallest recipe, whose drivers are pods of the double with the interpreter and modules of this checkout."""
    told = {
        "image": "pipeline:1",
        "python": sys.executable,
        "application": spark_application.__file__,
        "driver_memory": "1g",
        "executor_memory": "1g",
        "executor_cores": 2,
        **pods,
    }
    recipe = load_recipe("smoke", (f"spark_cluster={json.dumps(told)}", *changes))
    if pods.get("max_executors", 1):  # this machine has no name for the API server inside of the cluster
        recipe = recipe.model_copy(update={"spark": {**recipe.spark, "spark.kubernetes.driver.master": cluster.url}})
    return prepare_run(Warehouse(os.environ["HYPERCLOVA_WAREHOUSE"]), name, recipe)


def operator(run_id: str) -> Any:
    from operators import SparkStageOperator

    return SparkStageOperator(task_id="ingest", stage="ingest", run_id=run_id, poll_seconds=0.2)


@pytest.mark.slow
@pytest.mark.spark
def test_a_stage_runs_with_driver_and_executors_as_pods(place: tuple[FakeCluster, Path]) -> None:
    cluster, _ = place
    run = prepared(cluster, "r", max_executors=1, history_server="http://127.0.0.1:18081/")
    task = operator("r")
    result = task.execute({})
    assert result["kept"] > 0
    assert not result["reused"]
    pods = {name for _, name in cluster.containers}
    driver = driver_name(os.environ["HYPERCLOVA_WAREHOUSE"], "r", "ingest")
    assert driver in pods
    executors = [name for name in pods if "-exec-" in name]
    assert executors, pods
    lines = [line for name in executors for _, line in cluster.containers["hyperclova", name].lines]
    assert not [line for line in lines if "was not started by Spark" in line]
    assert cluster.find("pods", driver) is None, "its end was good: it is cleared away"
    until(lambda: not [pod for pod in cluster.pods() if pod["metadata"]["name"] in executors])
    assert operator("r").execute({})["reused"], "no driver is started for what is there"
    application = spark_events.application_of(run, "ingest")
    assert task.history_link == f"http://127.0.0.1:18081/history/{application}/jobs/"
    assert HistoryServerLink().get_link(task, ti_key=None) == task.history_link
    log = Path(run.uri, "spark-events", f"eventlog_v2_{application}")
    assert [path for path in log.iterdir() if path.name.startswith("events_1_")], (
        "for the history server, with all it did"
    )
    assert not list(log.glob("*.inprogress")), "and its end"


@pytest.mark.slow
@pytest.mark.spark
def test_a_second_try_adopts_the_driver_and_is_told_what_the_stage_said(
    place: tuple[FakeCluster, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, _ = place
    prepared(cluster, "bad", "gates.ingest={min_rows: 1000000}", max_executors=0)

    def dies(self: SparkDriver, *ignored: Any) -> None:
        raise RuntimeError("the worker is gone")

    with monkeypatch.context() as patch:
        patch.setattr(SparkDriver, "wait", dies)
        with pytest.raises(RuntimeError):
            operator("bad").execute({})
    first = until(lambda: cluster.find("pods", driver_name(os.environ["HYPERCLOVA_WAREHOUSE"], "bad", "ingest")))
    with pytest.raises(AirflowFailException, match="does not pass its gates") as caught:
        operator("bad").execute({})
    assert "1000000" in str(caught.value)
    kept = cluster.find("pods", driver_name(os.environ["HYPERCLOVA_WAREHOUSE"], "bad", "ingest"))
    assert kept is not None, "one that failed is kept for whoever looks"
    assert kept["metadata"]["uid"] == first["metadata"]["uid"], "no second driver ran beside it"
    assert not SparkDriver(
        Api(cluster.client()), CONFIG, driver_name(os.environ["HYPERCLOVA_WAREHOUSE"], "bad", "ingest")
    ).adopt("f"), "it is cleared away"
    assert cluster.find("pods", driver_name(os.environ["HYPERCLOVA_WAREHOUSE"], "bad", "ingest")) is None


def test_sizes_of_a_recipes_spark_section_are_those_of_the_pods() -> None:
    """`spark.driver.memory: 16g` was silently the installation's 2g on a cluster (docs/scale.md)."""
    told = {
        "spark.driver.memory": "16g",
        "spark.executor.cores": "2",
        "spark.sql.shuffle.partitions": "9",
        "spark.x": "y",
    }
    config = sized(CONFIG, told)
    assert (config.driver_memory, config.executor_cores, config.driver_overhead) == ("16g", 2, CONFIG.driver_overhead)
    made = settings(config, "n", "s", "f", "d")
    assert made["spark.driver.memory"] == "16g"
    assert made["spark.kubernetes.executor.limit.cores"] == "2"
    with pytest.raises(ConfigError, match="driver_memory"):
        sized(CONFIG, {"spark.driver.memory": "16 GB"})
    with pytest.raises(ConfigError, match=r"spark_cluster") as caught:
        sized(CONFIG, {"spark.kubernetes.namespace": "other"})
    assert "spark.kubernetes.namespace" in str(caught.value)
    sized(CONFIG, {"spark.kubernetes.namespace": CONFIG.namespace})


def test_executors_may_be_on_nodes_that_are_taken_away_and_the_driver_is_not() -> None:
    spot = {"key": "spot", "effect": "NoSchedule"}
    config = CONFIG.model_copy(
        update={"executor_node_selector": {"pool": "spot"}, "executor_tolerations": (Toleration(**spot),)}
    )
    made = templates(config, "ingest")
    assert made["executor"]["spec"]["nodeSelector"] == {"pool": "spot"}
    assert made["executor"]["spec"]["tolerations"][0]["key"] == "spot"
    assert not {"nodeSelector", "tolerations"} & set(made["driver"]["spec"])
    told = settings(config, "n", "s", "f", "d")
    script = ROOT / Path(told["spark.kubernetes.decommission.script"]).relative_to("/opt/hyperclova/app")
    assert os.access(script, os.X_OK), "the pod's hook, which sends SIGPWR to the executor"
    grace = made["executor"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > float(told["spark.executor.decommission.forceKillTimeout"].rstrip("s"))
    assert told["spark.decommission.enabled"] == told["spark.storage.decommission.shuffleBlocks.enabled"] == "true"


def test_a_running_driver_that_does_something_else_is_refused(cluster: FakeCluster) -> None:
    api = Api(cluster.client())
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "x-driver",
            "namespace": "hyperclova",
            "annotations": {"hyperclova.io/fingerprint": "a" * 64},
        },
        "spec": {"containers": [{"name": "job", "image": "x", "command": ["sleep", "60"]}]},
    }
    api.create(pod)
    driver = SparkDriver(api, CONFIG, "x-driver")
    assert driver.adopt("a" * 64)
    with pytest.raises(ConfigError, match="Another driver of this name runs"):
        driver.adopt("b" * 64)


def test_a_driver_that_cannot_begin_is_ended_with_the_reason(cluster: FakeCluster) -> None:
    cluster.absent_images.add("absent:1")
    api, lines = Api(cluster.client()), []
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "y-driver", "namespace": "hyperclova"},
        "spec": {"containers": [{"name": "job", "image": "absent:1"}]},
    }
    api.create(pod)
    later = [0.0]
    driver = SparkDriver(
        api,
        CONFIG,
        "y-driver",
        sleep=lambda seconds: later.__setitem__(0, later[0] + 400),
        now=lambda: datetime.now(UTC) + timedelta(seconds=later[0]),
    )
    until(lambda: (cluster.find("pods", "y-driver") or {})["status"].get("containerStatuses"))
    status = driver.wait(lines.append, 1.0)
    assert status.exit_code == 64
    assert "the image cannot be pulled" in status.explain()
    assert sum("cannot be pulled" in line for line in lines) == 1
    until(lambda: cluster.find("pods", "y-driver") is None)


def test_the_charts_rights_are_needed(rights: dict[str, list[dict[str, Any]]]) -> None:
    """Everything above ran under the chart's roles alone; here the other way round: what Spark's roles allow was asked for."""
    if not rights:
        pytest.skip("no helm: the double refused nothing")
    if not any(caller == "" for caller, *_ in USED):
        pytest.skip("the tests with a driver did not run")
    asked = {(resource, verb) for caller, _, resource, verb in USED if caller == ""}
    allowed = {(resource, verb) for rule in rights[""] for resource in rule["resources"] for verb in rule["verbs"]}
    spare = {("pods", "delete")}  # executors that are idle, or have failed, one by one
    assert allowed - asked <= spare, sorted(allowed - asked)
    assert asked <= allowed
