"""What a cluster does to a job and to who watches it: servers that restart, lists that expire, nodes that fall silent, pods that linger."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from hyperclova_core.foundation.errors import TransientError
from hyperclova_core.foundation.warehouse import RunFolder, Warehouse
from hyperclova_core.jobs.backend import JobStatus
from hyperclova_core.jobs.gpu_hours import Usage
from hyperclova_core.jobs.kubernetes import api as kubernetes_api
from hyperclova_core.jobs.kubernetes.api import Api
from hyperclova_core.jobs.kubernetes.backend import KubernetesBackend, _waits_since
from hyperclova_core.jobs.kubernetes.manifests import STOP_SECONDS
from hyperclova_core.jobs.kubernetes.rank_logs import RankLogs
from hyperclova_core.jobs.kubernetes.state import State, ended_of, pods_of, state_of
from hyperclova_core.pipeline.attempts import Attempts
from hyperclova_core.pipeline.usage import decision_rows, unfinished
from operators import train_job_trigger
from tests.jobs.fake_cluster import FakeCluster, until
from tests.jobs.programs import ended, job
from tests.jobs.test_trigger import Shown, event_of, trigger

TWO_PODS = {"processes_per_node": 1, "allow_partial_gang": True}


def test_a_server_that_restarts_is_waited_for(cluster: FakeCluster, tmp_path: Path) -> None:
    one, backend = job(tmp_path, seconds=1, lines=5), KubernetesBackend(Api(cluster.client()))
    backend.submit(one)
    thread = threading.Thread(target=cluster.restart_server, args=(2.0,))
    thread.start()
    time.sleep(0.3)
    assert ended(backend, one).state == "succeeded"
    thread.join()
    assert len(list(backend.tail(one).read())) == 6


def test_a_list_that_expires_between_its_pages_begins_again(
    cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes_api, "PAGE", 1)
    jobs = [job(tmp_path / str(number), name=f"job-{number}", seconds=30) for number in range(3)]
    for one in jobs:
        backend.submit(one)
    until(lambda: len(cluster.pods("Running")) == 3)
    cluster.expiring = 1
    found = Api(cluster.client()).find("Pod", "hyperclova")
    assert len({pod["metadata"]["name"] for pod in found}) == len(found) == 3
    assert cluster.expiring == 0


def test_the_next_attempt_waits_until_pods_of_a_deleted_job_have_ended(
    cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path
) -> None:
    one = job(tmp_path, seconds=60, saving=1.5)
    backend.submit(one)
    pod = until(lambda: cluster.pods("Running"))[0]
    container = cluster.containers["hyperclova", pod["metadata"]["name"]]
    until(lambda: container.lines)
    backend.cancel(one)
    assert cluster.find("jobs", "job-one-a1") is None
    assert container.process.poll() is None, "it saves its checkpoint still"
    assert KubernetesBackend(Api(cluster.client())).submit(one)
    assert container.process.poll() is not None
    # the first again where the cluster has forgotten the pod that ended, else the second
    assert any(cluster.find("jobs", f"job-one-a{attempt}") for attempt in (1, 2))
    assert all(pod["metadata"]["uid"] != item["metadata"]["uid"] for item in cluster.pods("Running"))


def test_a_pod_that_never_ends_is_named_and_nothing_runs_beside_it(
    cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path
) -> None:
    one = job(tmp_path, seconds=60, saving=60)
    backend.submit(one)
    pod = until(lambda: cluster.pods("Running"))[0]["metadata"]["name"]
    until(lambda: cluster.containers["hyperclova", pod].lines)
    backend.cancel(one)
    patient = KubernetesBackend(Api(cluster.client()), sleep=lambda seconds: None)
    with pytest.raises(TransientError, match="does not end") as caught:
        patient.submit(one)
    assert caught.value.where.endswith(pod)
    assert cluster.find("jobs", "job-one-a1") is None


def test_attempts_go_on_counting_though_the_cluster_has_forgotten_them(
    cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path
) -> None:
    one = job(tmp_path)
    backend.submit(one, after=4)
    assert cluster.find("jobs", "job-one-a5") is not None
    assert ended(backend, one).attempt == 5


def test_a_node_that_falls_silent_ends_the_attempt_and_is_avoided(
    cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path
) -> None:
    cluster.nodes = {"node-a": {"nvidia.com/gpu": 1}, "node-b": {"nvidia.com/gpu": 1}, "node-c": {"nvidia.com/gpu": 1}}
    one = job(tmp_path, processes=2, seconds=60, cluster={**TWO_PODS, "gpus_per_node": 1})
    backend.submit(one)
    pods = until(lambda: len(found := cluster.pods("Running")) == 2 and found)
    silent = pods[0]["spec"]["nodeName"]
    until(lambda: all(cluster.containers["hyperclova", pod["metadata"]["name"]].lines for pod in pods))
    cluster.freeze(silent)
    assert backend.get(one).state == "running", "its grace time is not over"
    cluster.freeze(silent, ago=300)
    status = ended(backend, one)
    assert (status.exit_code, status.bad_nodes) == (72, (silent,)), status
    assert not [
        pod
        for pod in cluster.pods("Running")
        if pod["spec"]["nodeName"] != silent and not pod["metadata"].get("deletionTimestamp")
    ]


def test_a_single_pod_on_a_silent_node_is_given_up(cluster: FakeCluster, tmp_path: Path) -> None:
    ahead = [timedelta(0)]
    backend = KubernetesBackend(
        Api(cluster.client(), sleep=lambda seconds: None), now=lambda: datetime.now(UTC) + ahead[0]
    )
    one = job(tmp_path, seconds=60)
    backend.submit(one)
    node = until(lambda: cluster.pods("Running"))[0]["spec"]["nodeName"]
    cluster.freeze(node)
    ahead[0] = timedelta(seconds=300)
    status = backend.get(one)
    assert (status.exit_code, status.bad_nodes) == (72, (node,))
    assert "does not answer" in status.explain()
    assert backend.submit(one.following({}, status.bad_nodes))
    assert cluster.find("jobs", "job-one-a1") is None, "it would wait for its node for ever"
    assert cluster.find("jobs", "job-one-a2") is not None


def test_pods_that_an_earlier_job_of_the_name_left_are_not_this_ones() -> None:
    job_object = {"kind": "Job", "metadata": {"uid": "new"}}
    pods = [
        {"metadata": {"name": name, "labels": {"batch.kubernetes.io/controller-uid": uid}}}
        for name, uid in (("theirs", "old"), ("mine", "new"))
    ]
    assert [pod["metadata"]["name"] for pod in pods_of(job_object, pods)] == ["mine"]


def test_a_log_that_was_rotated_between_two_looks_says_so(
    cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path
) -> None:
    one = job(tmp_path, lines=20, pause=0.1)
    backend.submit(one)
    until(lambda: len(list(backend.tail(one).read())) > 3)
    logs = backend.tail(one)
    first = list(logs.read())
    pod = logs.pods[0]
    container = cluster.containers["hyperclova", pod]
    assert ended(backend, one).state == "succeeded"
    with_all = list(RankLogs(Api(cluster.client()), "hyperclova", [pod], logs.cursors).read())
    assert "missing" not in "".join(with_all), "nothing is missing while the node has it all"
    del container.lines[: len(first) + 3]
    rest = list(RankLogs(Api(cluster.client()), "hyperclova", [pod], logs.cursors).read())
    assert (
        rest[0] == "[pod 0] (lines are missing here: the node has rotated its log; the pod's own files have them all)"
    )
    assert rest[1:] == with_all[3:]


def queued(**workload: str) -> State:
    """The state of a suspended job, with one condition of Kueue's Workload."""
    job_object = {
        "kind": "Job",
        "metadata": {"labels": {"hyperclova.io/attempt": "1"}, "annotations": {"hyperclova.io/spec-hash": "x"}},
        "spec": {"completions": 1, "suspend": True},
    }
    return state_of(job_object, (), workload={"status": {"conditions": [workload]}} if workload else None)


def test_what_a_queue_says_is_told_and_nothing_is_made_up() -> None:
    assert queued().waiting == "it waits for its gang to be admitted by the queue"
    waits = queued(
        type="QuotaReserved", status="False", reason="ExceedsMaxQuota", message="24 of nvidia.com/gpu, 8 there are"
    )
    assert waits.waiting.endswith("queue: ExceedsMaxQuota: 24 of nvidia.com/gpu, 8 there are")
    assert not waits.hopeless, "quotas change: the job's own limits end it, if any"
    preempted = queued(type="Evicted", status="True", reason="Preempted", message="by a job of higher priority")
    assert not preempted.hopeless
    aside = queued(type="Evicted", status="True", reason="DeactivatedDueToRequeuingLimitExceeded", message="10 times")
    assert aside.hopeless, "only a person lets it go on"
    assert "DeactivatedDueTo" in aside.waiting


def test_a_jobset_fails_for_what_its_job_says() -> None:
    condition = {"type": "Failed", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    jobset = {
        "kind": "JobSet",
        "metadata": {"labels": {"hyperclova.io/attempt": "1"}, "annotations": {"hyperclova.io/spec-hash": "x"}},
        "spec": {"replicatedJobs": [{"name": "n", "template": {"spec": {"completions": 2}}}]},
        "status": {
            "conditions": [{**condition, "reason": "ReachedMaxRestarts", "message": "(first failed job: x-a1-n-0)"}]
        },
    }
    child = {"status": {"conditions": [{**condition, "reason": "DeadlineExceeded", "message": "longer than 60 s"}]}}
    assert state_of(jobset, (), child=child).code == 124
    assert state_of(jobset, ()).code == 72, "without it: its pods are gone"


def test_a_log_that_cannot_be_read_does_not_hide_what_became_of_the_job(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent node, through the trigger: its log is asked for, fails, and the attempt is given up all the same."""
    ahead = [timedelta(0)]
    api = Api(cluster.client(), sleep=lambda seconds: None)
    monkeypatch.setattr(
        train_job_trigger,
        "backend_of",
        lambda conn_id: KubernetesBackend(api, now=lambda: datetime.now(UTC) + ahead[0]),
    )
    one, shown = job(tmp_path, seconds=60), Shown()
    KubernetesBackend(api).submit(one)
    node = until(lambda: cluster.pods("Running"))[0]["spec"]["nodeName"]
    cluster.freeze(node)
    ahead[0] = timedelta(seconds=300)
    event = asyncio.run(event_of(trigger(one, shown)))
    assert event["exit_code"] == 72
    assert sum("cannot be read now" in line for line in shown.lines) == 1


def test_a_kubelets_many_words_for_no_log_yet_are_no_refusal(cluster: FakeCluster, tmp_path: Path) -> None:
    api = Api(cluster.client(), sleep=lambda seconds: None)
    for status in (400, 404):
        cluster.break_requests("GET", "/log$", status)
        logs = RankLogs(api, "hyperclova", ["some-pod"])
        assert list(logs.read()) == []
        assert logs.unread == {}


def test_pods_that_ended_well_and_are_gone_do_not_make_a_job_wait() -> None:
    ran = {"metadata": {"name": "j-0", "creationTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Running"}}
    job_object = {
        "kind": "Job",
        "metadata": {
            "labels": {"hyperclova.io/attempt": "1"},
            "annotations": {"hyperclova.io/spec-hash": "x"},
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"completions": 2},
        "status": {"succeeded": 1, "active": 1},
    }
    assert state_of(job_object, [ran]).phase == "running", "the other's node was given back"
    assert _waits_since(job_object, [ran], False) is None
    admitted = {"type": "Suspended", "status": "False", "lastTransitionTime": "2026-02-02T00:00:00Z"}
    queued = {**job_object, "status": {"conditions": [admitted]}}
    found = _waits_since(queued, [], True)
    assert found is not None
    assert found.month == 2, "what it waited in the queue is not counted"
    assert _waits_since({**job_object, "status": {}}, [], True) is None


def test_a_pod_that_used_too_much_is_no_preemption() -> None:
    evicted = {
        "metadata": {"name": "p", "annotations": {}},
        "spec": {"nodeName": "n"},
        "status": {
            "phase": "Failed",
            "reason": "Evicted",
            "message": "The node was low on resource: ephemeral-storage",
            "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}],
        },
    }
    ended_pod = ended_of(evicted)
    assert ended_pod is not None
    assert ended_pod.code == 70
    assert "ephemeral-storage" in ended_pod.cause["why"]


def test_an_attempt_that_somebody_deletes_is_missed_and_one_that_was_due_is_started(
    cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path
) -> None:
    warehouse = Warehouse(str(tmp_path / "warehouse"))
    attempts = Attempts(warehouse, warehouse.run("r"), "train-x", job(tmp_path, seconds=60))
    assert attempts.submit(backend)
    assert attempts.see(backend.get(attempts.current())).state == "running"
    decision = attempts.follow(JobStatus("failed", 72, {"what": "lost"}, attempt=1))
    assert decision.again
    backend.cancel(attempts.current())
    assert attempts.see(backend.get(attempts.current())).state == "due", "decided, and not started: whoever did it died"
    assert attempts.submit(backend)
    assert backend.attempt(attempts.current()) == 2
    backend.cancel(attempts.current())
    assert attempts.see(backend.get(attempts.current())).state == "absent", (
        "somebody deleted it: it is not started again"
    )


def test_nothing_is_started_for_a_task_that_was_ended_meanwhile(
    cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path
) -> None:
    over = threading.Event()
    over.set()
    assert not backend.submit(job(tmp_path, seconds=60), 0, over)
    assert cluster.find("jobs", "job-one-a1") is None


def test_who_asks_is_no_part_of_what_is_done(cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path) -> None:
    one = replace(job(tmp_path, seconds=60, run="first"), aside=("run",))
    assert backend.submit(one)
    other = replace(one, config={**one.config, "run": "second"})
    assert other.hash == one.hash
    assert not backend.submit(other), "the same work: adopted"


def test_attempts_that_are_always_taken_away_at_once_end(tmp_path: Path) -> None:
    warehouse = Warehouse(str(tmp_path))
    attempts = Attempts(warehouse, warehouse.run("r"), "train-x", job(tmp_path))
    told = []
    for number in range(1, 6):
        usage = Usage("job-one", number, 1, 0.0, 20.0, 75).to_dict()
        told.append(attempts.follow(JobStatus("failed", 75, {}, attempt=number, usage=usage)).again)
    assert told[:5] == [True, True, True, True, False]


def test_a_causes_budget_begins_anew_with_each_newer_checkpoint(tmp_path: Path) -> None:
    """Weeks hold more broken links than three; three without a step between them are a broken machine."""
    warehouse = Warehouse(str(tmp_path / "warehouse"))
    checkpoints = tmp_path / "checkpoints"
    config = {"train": {"size": {"parallel": {"micro_batch_size": 4}}}, "checkpoints": str(checkpoints)}
    spec = replace(job(tmp_path), config={**job(tmp_path).config, **config})
    attempts = Attempts(warehouse, warehouse.run("r"), "train-x", spec)
    number = itertools.count(1)
    lost = lambda: attempts.follow(JobStatus("failed", 72, {}, attempt=next(number))).again  # noqa: E731
    for step in range(10, 80, 10):
        (checkpoints / f"step-{step}").mkdir(parents=True)
        assert lost(), "a folder without a manifest is no checkpoint"
        (checkpoints / f"step-{step}" / "manifest.json").write_text("{}")
        assert lost()
    rows = unfinished(warehouse.run("r"), "train-x")
    assert [len(row["codes"]) for row in rows[:5]] == [1, 1, 2, 1, 2]
    (checkpoints / "step-70" / "manifest.json").unlink()  # training went back
    assert [lost() for _ in range(3)] == [True, True, False]
    assert "tried again 3 times" in decided_rows(warehouse.run("r"))[-1]


def decided_rows(run: RunFolder) -> list[str]:
    return [row["why"] for _, row in decision_rows(run)]


def listens(pid: int) -> bool:
    """Whether a process that this one started takes connections."""
    try:
        below = psutil.Process(pid).children(recursive=True)
        return any(found.status == psutil.CONN_LISTEN for child in below for found in child.net_connections())
    except psutil.NoSuchProcess:
        return False


def test_pods_that_have_not_met_yet_end_within_their_grace_time(
    cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path
) -> None:
    """torchrun that waits for other pods does not hear a request to end: the launcher ends it, and says so."""
    one = job(tmp_path, processes=2, seconds=60, cluster=TWO_PODS)
    one = replace(one, grace_seconds=1)
    cluster.nodes = {"node-a": {"nvidia.com/gpu": 1}}
    one = replace(one, cluster=one.cluster.model_copy(update={"gpus_per_node": 1}) if one.cluster else None)
    backend.submit(one)
    pod = until(lambda: cluster.pods("Running"))[0]["metadata"]["name"]
    container = cluster.containers["hyperclova", pod]
    until(lambda: listens(container.process.pid))  # torchrun's store: it waits for the other, which finds no node
    begun = time.monotonic()
    container.process.terminate()
    until(lambda: container.process.poll() is not None)
    assert time.monotonic() - begun < 1 + STOP_SECONDS
    assert container.process.returncode == 143
    assert json.loads(Path(container.termination_log).read_text())["exit_code"] == 143
