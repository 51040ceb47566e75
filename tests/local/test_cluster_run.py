"""`pretrain_hyperclova` through Airflow's own scheduler and triggerer, its GPU jobs on the double of a cluster."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.warehouse import Warehouse
from hyperclova_core.jobs.backends import is_alive
from hyperclova_core.local.airflow_api import AirflowApi
from hyperclova_core.local.demo import DAG, watch
from hyperclova_core.local.demo_text import gather
from hyperclova_core.local.services import Platform, start, stop
from hyperclova_core.pipeline import usage
from tests.conftest import ROOT, SmokeRun
from tests.jobs.fake_cluster import FakeCluster, until

CLUSTER = {"image": "trainer:1", "processes_per_node": 1, "allow_partial_gang": True, "one_node_a_pod": False}
SECONDS = 1800.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeCluster]:
    with FakeCluster(tmp_path_factory.mktemp("kubelet")) as found:
        found.environment["PYTHONPATH"] = str(ROOT)
        yield found


@pytest.fixture(scope="module")
def platform(cluster: FakeCluster, smoke: SmokeRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """All services of one machine; the connection kubernetes_default is a kubeconfig that leads to the double."""
    home = tmp_path_factory.mktemp("home")
    config = home / "kubeconfig"
    config.write_text(cluster.kubeconfig())
    (home / "recipes").mkdir()
    recipe = yaml.safe_load((ROOT / "conf" / "smoke.yaml").read_text())
    recipe["name"] = "smoke-cluster"
    recipe["jobs"] = {"cluster": CLUSTER}
    recipe["train"]["settings"] |= {"tokens": 120_000, "checkpoint_every": 20}
    (home / "recipes" / "smoke-cluster.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True))
    gather(home / "data", fetch=False)
    connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(config)}}
    place = Platform(
        home,
        ROOT,
        free_port(),
        free_port(),
        {
            "HYPERCLOVA_CONF": str(home / "recipes"),
            "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps(connection),
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
        },
    )
    smoke.copy_datasets(place.warehouse)  # the corpus is the smoke recipe's: this is about jobs
    try:
        start(place)
        api = AirflowApi(place.airflow_url, "admin", place.password())
        api.wait_for_dag(DAG)
        api.wait_for_recipe(DAG, "smoke-cluster")
        api.unpause(DAG)
        yield place
    finally:
        stop(place)


def lines_of(api: AirflowApi, run_id: str, task: dict[str, Any]) -> list[str]:
    return api.log_tail(DAG, run_id, task, 100_000)


def task_of(api: AirflowApi, run_id: str, name: str, index: int = -1) -> dict[str, Any]:
    return next(
        task for task in api.tasks(DAG, run_id) if task["task_id"] == name and (index < 0 or task["map_index"] == index)
    )


def shown_by(cluster: FakeCluster, words: str) -> bool:
    return any(words in line for found in list(cluster.containers.values()) for _, line in found.lines)


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.spark
@pytest.mark.ranks
def test_the_dag_trains_on_a_cluster_whatever_happens_to_its_jobs(platform: Platform, cluster: FakeCluster) -> None:
    """One run of two sizes: the first loses a pod and the triggerer, the second a person marks as failed, and clears again."""
    api = AirflowApi(platform.airflow_url, "admin", platform.password())
    run_id = api.trigger(DAG, {"recipe": "smoke-cluster", "backend": "kubernetes"})
    a_pod_and_the_triggerer_die(api, run_id, platform, cluster)
    until(lambda: task_of(api, run_id, "train", 0)["state"] in ("success", "failed"), SECONDS)
    a_person_marks_it_as_failed_and_clears_it(api, run_id, cluster)

    assert watch(api, run_id, SECONDS) == "success"
    run = Warehouse(str(platform.warehouse)).run(run_id)
    assert [row["exit_code"] for key, row in usage.decision_rows(run) if key == "train-tiny-a"] == [75]
    assert [(row["attempt"], row["code"]) for row in usage.usage_of(run, "train-tiny-a")] == [(1, 75), (2, 0)]
    assert "preempted" in storage.read_bytes(f"{run.uri}/job_decisions.md").decode()
    lines = lines_of(api, run_id, task_of(api, run_id, "train", 0))
    steps = [line for line in lines if re.match(r"\[rank 0\] .* step \d+/", line)]
    assert len(steps) == len(set(steps)), "no line twice, though a triggerer died in between"
    # a pod that is taken away takes the lines along that nobody had read by then; of the attempt after it, all are there
    begins = max(at for at, line in enumerate(lines) if line.startswith("Decision: preempted"))
    told = [int(found[1]) for line in lines[begins:] if (found := re.match(r"\[rank 0\] .* step (\d+)/", line))]
    between = {later - earlier for earlier, later in itertools.pairwise(told[:-1])}
    assert (told[-1], len(between)) == (234, 1), told
    assert any(line.startswith("[rank 1] ") for line in lines)
    assert any(line.startswith("Decision: preempted") for line in lines)
    assert usage.usage_of(run, "train-tiny-b")[-1]["code"] == 0


def a_pod_and_the_triggerer_die(api: AirflowApi, run_id: str, platform: Platform, cluster: FakeCluster) -> None:
    until(lambda: shown_by(cluster, "step 40/") or api.run_state(DAG, run_id) == "failed", SECONDS)
    cluster.disrupt(cluster.pods("Running")[1]["metadata"]["name"])
    triggerer = json.loads((platform.home / "services" / "airflow-triggerer.json").read_text())
    os.killpg(triggerer["pid"], signal.SIGKILL)
    until(lambda: not is_alive(triggerer["pid"], triggerer["started"]))
    assert start(platform), "the triggerer again: it finds an attempt that ended while nobody looked"


def a_person_marks_it_as_failed_and_clears_it(api: AirflowApi, run_id: str, cluster: FakeCluster) -> None:
    """The task's job is ended with it; cleared, it trains anew and the run goes on."""
    until(lambda: cluster.pods("Running") or api.run_state(DAG, run_id) == "failed", SECONDS)
    job = until(lambda: cluster.pods("Running"))[0]["metadata"]["labels"]["job-name"]
    # lines of ranks are shown by the triggerer alone: it has the job by then
    until(
        lambda: any(line.startswith("[rank ") for line in lines_of(api, run_id, task_of(api, run_id, "train", 1))),
        SECONDS,
    )
    api._call("PATCH", f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/train/1", {"new_state": "failed"})
    until(lambda: cluster.find("jobs", job) is None)
    of_job = lambda: [pod for pod in cluster.pods() if pod["metadata"]["labels"]["job-name"] == job]  # noqa: E731
    until(lambda: not of_job())
    until(lambda: api.run_state(DAG, run_id) == "failed")
    wanted = {"dag_run_id": run_id, "task_ids": [["train", 1]], "dry_run": False, "include_downstream": True}
    api._call("POST", f"/dags/{DAG}/clearTaskInstances", {**wanted, "only_failed": False, "reset_dag_runs": True})
