"""The operator's side: the trigger shows every rank's lines once, across triggerers that die, and ends what a person ends."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from hyperclova_core.foundation.warehouse import Warehouse
from hyperclova_core.jobs.backend import JobStatus
from hyperclova_core.jobs.failure_causes import Decision, decide
from hyperclova_core.jobs.kubernetes.api import Api
from hyperclova_core.jobs.kubernetes.backend import KubernetesBackend
from hyperclova_core.jobs.spec import TrainJobSpec
from hyperclova_core.pipeline import usage
from hyperclova_core.pipeline.attempts import Attempts
from hyperclova_core.pipeline.usage import last_attempt, note_decision, unfinished
from operators import train_job_trigger
from operators.train_job_trigger import TrainJobTrigger
from tests.conftest import ROOT
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
    monkeypatch.setattr(train_job_trigger, "TAKEOVER_SECONDS", 0.1)
    old, new = trigger(one, shown), trigger(one, shown)

    async def one_after_the_other() -> None:
        for made in (old, new):  # the second is another triggerer's, which has taken over
            task = asyncio.create_task(event_of(made))
            await asyncio.sleep(0.5)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await old.on_kill()

    asyncio.run(one_after_the_other())
    assert backend(cluster).get(one).state == "running", "another triggerer has it: nobody ended the task"
    holder = backend(cluster).holder(one)
    backend(cluster).lease(one, "a try of the task that was cleared")
    asyncio.run(new.on_kill())
    assert backend(cluster).get(one).state == "running", "the task's next try has adopted it"
    backend(cluster).lease(one, str(holder))

    async def told_again_and_again() -> None:
        task = asyncio.create_task(new.on_kill())
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(told_again_and_again())
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
    note_decision(run, "train-x", 1, [71], decide([71], micro_batch_size=8))
    note_decision(run, "train-x", 2, [71, 72], decide([71, 72], nodes=["node-a"]))
    rows = unfinished(run, "train-x")
    assert rows[-1]["codes"] == [71, 72]
    spec = job(tmp_path)
    for row in rows:
        spec = spec.following(row["changes"], row["avoid_nodes"])
    assert spec.overrides == {"train": {"size": {"parallel": {"micro_batch_size": 4}}}}
    assert spec.avoid_nodes == ("node-a",)
    note_decision(run, "train-x", 3, [71, 72, 65], decide([71, 72, 65]))
    assert unfinished(run, "train-x") == [], "who starts it after an end is a person"


def with_micro_batch(folder: Path, micro_batch_size: int, **config: Any) -> TrainJobSpec:
    """A job that says it runs out of device memory above a micro-batch of two."""
    return job(folder, fits=2, train={"size": {"parallel": {"micro_batch_size": micro_batch_size}}}, **config)


def test_a_trigger_follows_all_attempts_and_says_what_was_decided(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERCLOVA_WAREHOUSE", str(tmp_path / "warehouse"))
    one, shown = with_micro_batch(tmp_path, 4), Shown()
    backend(cluster).submit(one)
    event = asyncio.run(event_of(trigger(one, shown, run_id="r", key="train-x")))
    assert (event["state"], event["attempt"]) == ("succeeded", 2)
    assert any("again with micro_batch_size 2 instead of 4" in line for line in shown.lines)
    run = Warehouse(str(tmp_path / "warehouse")).run("r")
    assert [row["exit_code"] for row in unfinished(run, "train-x")] == [71]
    assert last_attempt(run, "train-x") == 2


def test_what_cannot_be_halved_any_more_ends_it(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERCLOVA_WAREHOUSE", str(tmp_path / "warehouse"))
    one, shown = with_micro_batch(tmp_path, 16), Shown()
    backend(cluster).submit(one)
    made = trigger(one, shown, run_id="r", key="train-x")
    event = asyncio.run(event_of(made))
    assert (event["state"], event["exit_code"], event["attempt"]) == ("failed", 71, 2)
    assert "tried again 1 time already" in event["decision"]
    again = asyncio.run(event_of(trigger(one, Shown(), run_id="r", key="train-x")))
    assert again["decision"] == event["decision"], "a triggerer that died before it could say so says the same"
    run = Warehouse(str(tmp_path / "warehouse")).run("r")
    assert [row["attempt"] for _, row in usage.decision_rows(run)] == [1, 2], "decided once each"


def test_two_who_follow_a_job_at_one_time_lose_nothing_of_each_other(tmp_path: Path) -> None:
    run = Warehouse(str(tmp_path)).run("r")
    decision = Decision(True, "again", {}, ())

    def follow(number: int) -> None:
        usage.note_submitted(run, "train-x", number % 8 + 1)
        usage.note_usage(run, "train-x", {"job": f"j{number}", "attempt": number % 8 + 1})
        usage.note_decision(run, "train-x", number % 8 + 1, [1], decision)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(follow, range(64)))
    assert sorted(row["attempt"] for _, row in usage.decision_rows(run)) == list(range(1, 9)), "decided once each"
    assert len(usage.usage_of(run, "train-x")) == 64
    assert (usage.last_submitted(run, "train-x"), usage.last_attempt(run, "train-x")) == (8, 8)


def test_this_machine_follows_causes_as_a_cluster_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from operators import DeepSpeedJobOperator

    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    warehouse = Warehouse(str(tmp_path / "warehouse"))
    operator = DeepSpeedJobOperator(task_id="train", stage="train", size="x", run_id="r")
    spec = replace(with_micro_batch(tmp_path, 4), cluster=None)
    status = operator._here(Attempts(warehouse, warehouse.run("r"), "train-x", spec))
    assert status.state == "succeeded"
    assert [row["exit_code"] for row in unfinished(warehouse.run("r"), "train-x")] == [71]
    bad = replace(job(tmp_path / "bad", name="bad", cause=BAD_SHARD), cluster=None)
    with pytest.raises(AirflowFailException, match="it is not tried again"):
        operator._here(Attempts(warehouse, warehouse.run("r"), "train-bad", bad))


def test_a_passing_trouble_is_not_tried_for_ever(tmp_path: Path) -> None:
    warehouse = Warehouse(str(tmp_path))
    attempts = Attempts(warehouse, warehouse.run("r"), "train-x", job(tmp_path))
    full = JobStatus("failed", 75, {"type": "TransientError", "what": "The disk is full"})
    told = [attempts.follow(replace(full, attempt=number)).again for number in range(1, 5)]
    assert told == [True, True, True, False]
    taken = JobStatus("failed", 75, {"type": "PreemptedError", "what": "saved a checkpoint"})
    assert all(attempts.follow(replace(taken, attempt=number)).again for number in range(5, 30))


def test_nothing_is_started_after_the_tasks_deadline(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYPERCLOVA_WAREHOUSE", str(tmp_path / "warehouse"))
    warehouse = Warehouse(str(tmp_path / "warehouse"))
    one, shown = job(tmp_path, cause={**BAD_SHARD, "exit_code": 72}), Shown()
    attempts = Attempts(warehouse, warehouse.run("r"), "train-x", one)
    attempts.submit(backend(cluster))
    status = until(lambda: (found := backend(cluster).get(one)).state == "failed" and found)
    assert attempts.follow(status).again
    event = asyncio.run(event_of(trigger(one, shown, run_id="r", key="train-x", deadline=1.0)))
    assert event["exit_code"] == 124
    assert cluster.find("jobs", "job-one-a2") is None
    backend(cluster).cancel(one)
    event = asyncio.run(event_of(trigger(one, shown, run_id="r", key="train-x", deadline=1.0)))
    assert event["exit_code"] == 124
    assert cluster.find("jobs", "job-one-a2") is None
