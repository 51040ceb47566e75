"""The operator's side: the trigger shows every rank's lines once, across triggerers that die, and ends what a person ends."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from hyperclova_core.foundation.warehouse import Warehouse
from hyperclova_core.jobs.causes import decide
from hyperclova_core.jobs.kubernetes_api import Api
from hyperclova_core.jobs.kubernetes_backend import KubernetesBackend
from hyperclova_core.jobs.spec import TrainJobSpec
from hyperclova_core.pipeline.usage import note_decision, unfinished
from operators import train_job_trigger
from operators.train_job_trigger import TrainJobTrigger
from tests.jobs.fake_cluster import BAD_SHARD, FakeCluster, until
from tests.jobs.programs import job


@pytest.fixture(autouse=True)
def connection(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection of every trigger leads to the double."""
    monkeypatch.setattr(train_job_trigger, "backend_of", lambda conn_id: backend(cluster))


def backend(cluster: FakeCluster) -> KubernetesBackend:
    return KubernetesBackend(Api(cluster.client(), sleep=lambda seconds: None))


class Shown(logging.Handler):
    """Lines that the trigger logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def trigger(spec: TrainJobSpec, shown: Shown, **more: Any) -> TrainJobTrigger:
    """The trigger as the triggerer makes it: from what it serialises to."""
    path, arguments = TrainJobTrigger(spec.to_dict(), "anywhere", poll_seconds=0.1, **more).serialize()
    assert path == "operators.train_job_trigger.TrainJobTrigger"
    made = TrainJobTrigger(**json.loads(json.dumps(arguments)))
    logger = logging.getLogger(f"shown-{id(shown)}")
    logger.setLevel(logging.INFO)
    logger.addHandler(shown)
    made._log = logger
    return made


async def event_of(made: TrainJobTrigger) -> dict[str, Any]:
    async for event in made.run():
        payload: dict[str, Any] = event.payload
        return payload
    raise AssertionError("no event")


def test_all_lines_are_shown_once_though_triggerers_die(cluster: FakeCluster, tmp_path: Path) -> None:
    one, shown = job(tmp_path, lines=300, pause=0.005), Shown()
    backend(cluster).submit(one)

    async def dying() -> dict[str, Any]:
        for _ in range(3):
            task = asyncio.create_task(event_of(trigger(one, shown)))
            await asyncio.sleep(0.6)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        return await event_of(trigger(one, shown))

    event = asyncio.run(dying())
    assert event["state"] == "succeeded"
    words = [line for line in shown.lines if line.startswith("[pod 0]")]
    assert words == ["[pod 0] hello from 0", *(f"[pod 0] line {number}" for number in range(300))]


def test_a_server_that_is_away_for_a_while_does_not_end_the_wait(cluster: FakeCluster, tmp_path: Path) -> None:
    one, shown = job(tmp_path, seconds=2), Shown()
    backend(cluster).submit(one)
    cluster.break_requests("GET", "/jobs$", 503, times=20)
    assert asyncio.run(event_of(trigger(one, shown)))["state"] == "succeeded"
    assert any("cannot be reached" in line for line in shown.lines)


def test_a_failure_says_code_cause_and_attempt(cluster: FakeCluster, tmp_path: Path) -> None:
    one, shown = job(tmp_path, cause=BAD_SHARD), Shown()
    backend(cluster).submit(one)
    event = asyncio.run(event_of(trigger(one, shown)))
    assert (event["state"], event["exit_code"], event["attempt"]) == ("failed", 65, 1)
    assert event["cause"]["what"] == BAD_SHARD["what"]
    assert shown.lines[-1].startswith("The end of job-one-a1-0-")
    assert "hello from 0" in shown.lines[-1]


def test_a_person_ends_the_task_and_the_job_has_its_grace_time(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, shown = job(tmp_path, seconds=60), Shown()
    backend(cluster).submit(one)
    pod = until(lambda: cluster.pods("Running"))[0]["metadata"]["name"]
    container = cluster.containers["hyperclova", pod]
    until(lambda: container.lines)
    made = trigger(one, shown)
    states = {"run": {"train_3": "deferred"}}
    made.task_instance = SimpleNamespace(dag_id="d", task_id="train", run_id="run", map_index=3)
    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", lambda **asked: states)
    asyncio.run(made.on_kill())
    assert backend(cluster).get(one).state == "running", "another triggerer has it: nobody ended the task"
    states["run"]["train_3"] = "failed"
    asyncio.run(made.on_kill())
    until(lambda: container.process.poll() is not None)
    assert any("saving" in line for _, line in container.lines)
    until(lambda: cluster.find("jobs", "job-one-a1") is None and not cluster.pods())


def test_a_tasks_own_deadline_ends_the_job(cluster: FakeCluster, tmp_path: Path) -> None:
    one, shown = job(tmp_path, seconds=60), Shown()
    backend(cluster).submit(one)
    event = asyncio.run(event_of(trigger(one, shown, deadline=1.0)))
    assert event["exit_code"] == 124
    assert (event["attempt"], event["usage"]["attempt"], event["usage"]["code"]) == (1, 1, 124)
    until(lambda: cluster.find("jobs", "job-one-a1") is None)


def test_what_pods_wait_for_is_said_once(cluster: FakeCluster, tmp_path: Path) -> None:
    one, shown = job(tmp_path, cluster={"gang": "kueue", "queue": "research"}), Shown()
    backend(cluster).submit(one)

    async def waits() -> dict[str, Any]:
        task = asyncio.create_task(event_of(trigger(one, shown)))
        await asyncio.sleep(1.0)
        cluster.hold_back(
            "job-one-a1", "Pending", "couldn't assign flavors: Insufficient nvidia.com/gpu in queue research"
        )
        await asyncio.sleep(1.0)
        cluster.admit("job-one-a1")
        return await task

    assert asyncio.run(waits())["state"] == "succeeded"
    waits_for = [line for line in shown.lines if "admitted by the queue" in line]
    assert len(waits_for) == 2, "once in general, once with Kueue's reason"
    assert "Pending: too little nvidia.com/gpu" in waits_for[1]


def test_a_job_that_somebody_deleted_is_not_started_again(cluster: FakeCluster, tmp_path: Path) -> None:
    event = asyncio.run(event_of(trigger(job(tmp_path), Shown())))
    assert event["exit_code"] == 143
    assert not decide([143]).again


def test_what_was_decided_is_known_to_a_task_that_begins_again(tmp_path: Path) -> None:
    run = Warehouse(str(tmp_path)).run("r")
    note_decision(run, "train-x", 1, [71], decide([71], micro_batch=8))
    note_decision(run, "train-x", 2, [71, 72], decide([71, 72], nodes=["node-a"]))
    rows = unfinished(run, "train-x")
    assert rows[-1]["codes"] == [71, 72]
    spec = job(tmp_path)
    for row in rows:
        spec = spec.following(row["changes"], row["avoid_nodes"])
    assert spec.overrides == {"train": {"size": {"parallel": {"micro_batch": 4}}}}
    assert spec.avoid_nodes == ("node-a",)
    note_decision(run, "train-x", 3, [71, 72, 65], decide([71, 72, 65]))
    assert unfinished(run, "train-x") == [], "who starts it after an end is a person"
