"""Jobs on a cluster: manifests as golden files, states, adoption, retries by cause, logs of all ranks; on a double of a cluster."""

from __future__ import annotations

import json
import os
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from hyperclova_core.foundation.config import parse
from hyperclova_core.foundation.errors import ConfigError, TransientError
from hyperclova_core.jobs.config import ClusterConfig
from hyperclova_core.jobs.failure_causes import decide
from hyperclova_core.jobs.kubernetes.api import Api
from hyperclova_core.jobs.kubernetes.backend import KubernetesBackend
from hyperclova_core.jobs.kubernetes.manifests import attempt_name, render
from hyperclova_core.jobs.kubernetes.rank_logs import AT_ONCE, RankLogs, utc
from hyperclova_core.jobs.kubernetes.state import scheduling, state_of
from hyperclova_core.jobs.launcher import own_address
from hyperclova_core.jobs.spec import TrainJobSpec, cluster_name
from tests.jobs import schemas
from tests.jobs.fake_cluster import BAD_SHARD, FakeCluster, until
from tests.jobs.programs import ended, job

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = [f"1.{minor}" for minor in range(29, 38)]

CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "one-pod": (1, {"image": "trainer:1"}),
    "eight-gpus": (
        8,
        {
            "image": "trainer@sha256:abc",
            "gpus_per_node": 8,
            "cpu": "96",
            "memory": "1Ti",
            "shared_memory": "64Gi",
            "priority_class": "training",
        },
    ),
    "kueue": (
        32,
        {
            "image": "trainer:1",
            "gpus_per_node": 8,
            "gang": "kueue",
            "queue": "research",
            "extra_resources": {"rdma/hca": "1"},
            "near": "topology.kubernetes.io/zone",
            "tolerations": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}],
            "node_selector": {"accelerator": "a100-80g"},
            "secrets": ["s3-credentials"],
            "environment": {"MLFLOW_TRACKING_URI": "http://mlflow:5000"},
            "image_pull_secrets": ["registry"],
        },
    ),
    "volcano": (
        16,
        {
            "image": "trainer:1",
            "gpus_per_node": 8,
            "gang": "volcano",
            "queue": "default",
            "volumes": [
                {"claim": "warehouse", "path": "/warehouse"},
                {"claim": "corpora", "path": "/corpora", "read_only": True},
            ],
        },
    ),
    "jobset": (
        16,
        {
            "image": "trainer:1",
            "gpus_per_node": 8,
            "kind": "jobset",
            "gang": "kueue",
            "queue": "research",
            "avoid_nodes": ["node-7"],
        },
    ),
}


def spec(name: str = "train-15k-0123456789", processes: int = 1, **cluster: Any) -> TrainJobSpec:
    return TrainJobSpec(
        name,
        "hyperclova_core.training.rank",
        {"train": {"size": {"name": "15k"}}},
        "/warehouse/out",
        processes,
        environment={"MLFLOW_TRACKING_URI": "http://mlflow:5000"},
        cluster=ClusterConfig.model_validate({"image": "trainer:1", **cluster}),
    )


@pytest.mark.parametrize("case", CASES)
def test_manifests_are_what_they_were_and_valid_in_every_version(case: str) -> None:
    processes, cluster = CASES[case]
    objects = render(spec(processes=processes, **cluster), 2)
    path = GOLDEN / f"{case}.json"
    text = json.dumps(objects, indent=1, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), "a change of manifests is a decision: UPDATE_GOLDEN=1 renews them"
    for item in objects:
        for version in VERSIONS:
            if item["kind"] in ("Job", "ConfigMap", "Service"):
                kubernetes_validate.validate(item, version, strict=True)
        if item["kind"] in schemas.FILES:
            schemas.validate(item)
        if item["kind"] == "JobSet":  # what it holds is a Job's specification
            for replicated in item["spec"]["replicatedJobs"]:
                job = {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "metadata": {"name": "x"},
                    "spec": replicated["template"]["spec"],
                }
                for version in VERSIONS:
                    kubernetes_validate.validate(job, version, strict=True)


def test_no_container_may_do_more_than_it_must() -> None:
    for processes, cluster in CASES.values():
        job = render(spec(processes=processes, **cluster), 1)[-1]
        body = job["spec"]["replicatedJobs"][0]["template"]["spec"] if job["kind"] == "JobSet" else job["spec"]
        pod = body["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert pod["terminationGracePeriodSeconds"] > 60


def test_names_fit_hosts_and_stay_apart() -> None:
    assert cluster_name("train-15k-abc") == "train-15k-abc"
    long = "train-" + "x" * 80
    assert len(cluster_name(long)) <= 48
    assert cluster_name(long) != cluster_name(long + "y")
    assert cluster_name("Train 1.5M") != cluster_name("train-1-5m")
    assert cluster_name("15k").startswith("j-15k")
    assert len(f"{attempt_name(spec(name=long), 12)}-n-0-999") <= 63
    with pytest.raises(ConfigError, match="no letter or digit"):
        cluster_name("한글")


@pytest.mark.parametrize(
    ("processes", "cluster", "message"),
    [
        (16, {"gpus_per_node": 8}, "Several nodes without a gang"),
        (12, {"gpus_per_node": 8, "allow_partial_gang": True}, "The ranks do not fill their pods"),
        (
            16,
            {"gpus_per_node": 4, "processes_per_node": 8, "allow_partial_gang": True},
            "A pod has more ranks than devices",
        ),
    ],
)
def test_gangs_that_would_stand_still_are_refused(processes: int, cluster: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        render(spec(processes=processes, **cluster), 1)


def test_cluster_settings_are_checked_with_the_key() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(ClusterConfig, {"image": "x", "ttl_seconds": 60, "user": 0, "gang": "kueu"}, "test")
    for words in ("ttl_seconds", "user", "gang"):
        assert words in caught.value.why
    with pytest.raises(ConfigError, match="cluster is not valid"):
        parse(ClusterConfig, {"image": "x", "gang": "kueue"}, "test")


def test_the_hash_leaves_out_what_an_attempt_overrides() -> None:
    first = spec()
    second = first.following({"train": {"size": {"parallel": {"micro_batch_size": 2}}}}, ["node-a"])
    assert second.hash == first.hash
    assert second.effective_config()["train"]["size"] == {"name": "15k", "parallel": {"micro_batch_size": 2}}
    assert TrainJobSpec.from_dict(json.loads(json.dumps(second.to_dict()))) == second
    assert spec(cpu="9").hash != first.hash
    affinity = render(second, 2)[-1]["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    assert affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0]["matchExpressions"][0][
        "values"
    ] == ["node-a"]


@pytest.mark.parametrize(
    ("codes", "again", "words"),
    [
        ([64], False, "configuration"),
        ([65], False, "not tried again"),
        ([75] * 20, True, "again from the newest checkpoint"),
        ([70], True, "attempt 2 of 2"),
        ([70, 75, 70], False, "tried again 1 time already"),
        ([71], True, "micro_batch_size 4 instead of 8"),
        ([71, 71], False, "out of device memory"),
        ([72], True, "on other nodes than node-a"),
        ([72] * 4, False, "tried again 3 times already"),
        ([1], True, "unknown"),
        ([1, 1], False, "see the end of the job's log"),
        ([143], False, "ended by request"),
        ([124], False, "deadline"),
    ],
)
def test_what_follows_a_failure_depends_on_its_cause(codes: list[int], again: bool, words: str) -> None:
    found = decide(codes, micro_batch_size=8, nodes=["node-a"])
    assert found.again is again
    assert words in found.why
    assert not decide([71], micro_batch_size=1).again
    assert found.changes == ({"train": {"size": {"parallel": {"micro_batch_size": 4}}}} if codes == [71] else {})


def test_the_scheduler_is_quoted_with_the_resource_that_is_short() -> None:
    message = "0/3 nodes are available: 1 node(s) had untolerated taint {x: y}, 2 Insufficient nvidia.com/gpu."
    assert scheduling(message).startswith("too little nvidia.com/gpu; nodes have taints")


# on a cluster


def test_a_job_ends_well_and_is_adopted_while_it_runs_and_after(
    cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path
) -> None:
    one = job(tmp_path, seconds=0.5)
    assert backend.get(one).state == "absent"
    assert backend.submit(one)
    assert not backend.submit(one), "adopted"
    assert ended(backend, one).state == "succeeded"
    assert not backend.submit(one), "done already"
    logs = backend.tail(one)
    assert list(logs.read()) == ["[pod 0] hello from 0"]
    assert (tmp_path / "out" / "result.json").exists()
    service = cluster.find("services", "job-one-a1")
    assert service is not None
    assert service["metadata"]["ownerReferences"][0]["name"] == "job-one-a1"
    backend.cancel(one)
    until(lambda: cluster.find("services", "job-one-a1") is None)  # what belongs to the job goes with it


def test_another_specification_of_that_name_is_refused_with_what_differs(
    cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path
) -> None:
    backend.submit(job(tmp_path, seconds=30))
    with pytest.raises(ConfigError, match="Another job of this name runs") as caught:
        backend.submit(job(tmp_path, seconds=31))
    assert "config.seconds is 30 there, 31 here" in caught.value.why


def test_the_cause_of_the_rank_that_failed_is_told_with_its_pod(
    cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path
) -> None:
    one = job(tmp_path, cause=BAD_SHARD)
    backend.submit(one)
    status = ended(backend, one)
    assert status.exit_code == 65
    assert "shard 3" in status.explain()
    state = backend.state(one)
    assert state is not None
    assert state.failed_pod is not None
    found = cluster.find("jobs", "job-one-a1")
    assert found is not None
    assert found["status"]["conditions"][0]["reason"] == "PodFailurePolicy"
    assert backend.submit(one), "a retry is another attempt"
    assert cluster.find("jobs", "job-one-a2") is not None


def one_pod(cluster: FakeCluster, backend: KubernetesBackend, spec: TrainJobSpec) -> str:
    """Start a job of one pod, and wait until its program has printed."""
    backend.submit(spec)
    name: str = until(lambda: cluster.pods("Running"))[0]["metadata"]["name"]
    until(lambda: cluster.containers["hyperclova", name].lines)
    return name


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        ("kill_container", 70, "OOMKilled"),
        ("disrupt", 75, "PreemptionByScheduler"),
        ("lose", 72, "1 of the job's 1 pods is gone"),
    ],
)
def test_how_a_pod_ends_is_the_cause(
    end: str, code: int, words: str, cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path
) -> None:
    one = job(tmp_path, seconds=60)
    getattr(cluster, end)(one_pod(cluster, backend, one))
    status = ended(backend, one)
    assert status.exit_code == code
    assert words in status.explain()


def test_a_gang_waits_suspended_until_it_is_admitted(
    cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path
) -> None:
    one = job(tmp_path, cluster={"gang": "kueue", "queue": "research"})
    backend.submit(one)
    state = backend.state(one)
    assert state is not None
    assert state.phase == "queued"
    assert cluster.pods() == []
    cluster.admit("job-one-a1")
    assert ended(backend, one).state == "succeeded"


@pytest.mark.parametrize(
    ("settings", "prepare", "words"),
    [
        ({"image": "absent:1"}, lambda c: c.absent_images.add("absent:1"), "the image cannot be pulled"),
        ({"secrets": ["nothing"]}, lambda c: None, 'secret "nothing" not found'),
        ({"gpus_per_node": 9}, lambda c: None, "too little nvidia.com/gpu"),
        ({"node_selector": {"zone": "moon"}}, lambda c: None, "no node matches the node selector"),
        ({"gpus_per_node": 2}, lambda c: c.quota.update({"nvidia.com/gpu": 1}), "exceeded quota"),
    ],
)
def test_pods_that_cannot_begin_end_the_job_with_the_reason(
    settings: dict[str, Any], prepare: Any, words: str, cluster: FakeCluster, tmp_path: Path
) -> None:
    from datetime import timedelta

    prepare(cluster)
    ahead = [timedelta(0)]
    backend = KubernetesBackend(
        Api(cluster.client(), sleep=lambda seconds: None), now=lambda: datetime.now(UTC) + ahead[0]
    )
    one = job(tmp_path, cluster={"start_seconds": 600, **settings})
    backend.submit(one)
    state = until(lambda: (found := backend.state(one)) is not None and words in found.waiting and found)
    assert not state.hopeless
    assert backend.get(one).state == "running"
    ahead[0] = timedelta(seconds=700)
    status = backend.get(one)
    assert status.exit_code == 64
    assert words in status.explain()
    backend.clear(one)
    assert backend.get(one).state == "absent", "it was ended"


def test_a_forbidden_namespace_is_said_at_once(backend: KubernetesBackend, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="The cluster refuses the request") as caught:
        backend.submit(job(tmp_path, cluster={"namespace": "kube-system"}))
    assert "forbidden" in caught.value.why
    assert "rights" in caught.value.remedy


@pytest.mark.parametrize("part", ["services", "jobs"])
def test_what_was_made_for_a_job_goes_again_where_the_cluster_refuses_a_part(
    part: str, cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path
) -> None:
    cluster.break_requests("POST", f"/{part}$", 403, times=10)
    with pytest.raises(ConfigError):
        backend.submit(job(tmp_path))
    assert [key for key in cluster.objects if key[0] in ("configmaps", "services", "jobs")] == []


def test_a_configuration_of_many_thousand_shards_reaches_the_pod(
    cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path
) -> None:
    shards = [f"s3://corpus/datasets/serialize/{n:040x}/shards/shard-{n:05d}" for n in range(12_000)]
    one = job(tmp_path, shards=shards)
    backend.submit(one)
    assert ended(backend, one).state == "succeeded"
    (made,) = [item for key, item in cluster.objects.items() if key[0] == "configmaps"]
    assert len(json.dumps(made)) < 1 << 20
    assert json.loads((tmp_path / "out" / "config.json").read_text())["shards"] == shards
    with pytest.raises(ConfigError, match="(?s)Another job of this name runs"):
        backend._refuse_other(job(tmp_path, shards=shards[1:]), backend.newest(one) or {})
    random = [uuid.uuid4().hex for _ in range(80_000)]
    with pytest.raises(ConfigError, match="larger than a ConfigMap may be"):
        backend.submit(job(tmp_path, "too-large", shards=random))


def test_what_was_deleted_under_a_waiting_job_is_put_back_by_who_adopts_it(
    cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path
) -> None:
    cluster.nodes = {}
    one = job(tmp_path)
    backend.submit(one)
    key = next(key for key in cluster.objects if key[0] == "configmaps")
    before = cluster.objects.pop(key)
    assert not backend.submit(one)
    assert cluster.objects[key]["data"] == before["data"]
    assert cluster.objects[key]["metadata"]["ownerReferences"]
    backend.cancel(one)


def test_a_server_that_stumbles_is_asked_again(
    cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path
) -> None:
    cluster.break_requests("GET", "/jobs$", 500)
    cluster.break_requests("POST", "/configmaps$", 429, times=2, Retry_After="1")
    cluster.break_requests("POST", "/services$", 0)
    cluster.break_requests("POST", "/jobs$", 0, after=True)
    one = job(tmp_path)
    assert not backend.submit(one), "the reply was lost: what it made is adopted"
    cluster.break_requests("GET", "/pods$", 503, times=2)
    assert ended(backend, one).state == "succeeded"
    cluster.break_requests("GET", "/jobs$", 500, times=100)
    with pytest.raises(TransientError, match="cannot be reached"):
        backend.get(one)


def test_a_kind_that_the_cluster_does_not_serve_is_said(backend: KubernetesBackend, tmp_path: Path) -> None:
    missing = job(tmp_path, cluster={"namespace": "hyperclova", "kind": "jobset"})
    backend._api._client.configuration.host += "/nowhere"
    with pytest.raises(ConfigError, match="The cluster refuses") as caught:
        backend.submit(missing)
    assert "install what serves this kind" in caught.value.remedy


def test_lines_times_are_compared_in_utc_whatever_the_nodes_zone() -> None:
    assert (
        utc("2026-11-25T18:00:00.5+09:00") == utc("2026-11-25T09:00:00.500000000Z") == "2026-11-25T09:00:00.500000000"
    )
    assert utc("no time") == ""


def pod(index: int, phase: str, code: int | None = None, **status: Any) -> dict[str, Any]:
    ended = [{"name": "job", "state": {"terminated": {"exitCode": code, "finishedAt": f"2026-01-01T00:00:0{index}Z"}}}]
    return {
        "metadata": {"name": f"p-{index}", "annotations": {"batch.kubernetes.io/job-completion-index": str(index)}},
        "spec": {"nodeName": f"node-{index}", "terminationGracePeriodSeconds": 90},
        "status": {"phase": phase, **({"containerStatuses": ended} if code is not None else {}), **status},
    }


def raw_job(*conditions: dict[str, Any], completions: int = 2) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"hyperclova.io/attempt": "1"}, "annotations": {"hyperclova.io/spec-hash": "x"}},
        "spec": {"completions": completions},
        "status": {
            "conditions": [
                {"status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z", **item} for item in conditions
            ]
        },
    }


def test_a_job_ends_when_its_last_pod_has_and_not_when_the_first_fails() -> None:
    now = datetime(2026, 1, 1, 0, 0, 20, tzinfo=UTC)
    assert state_of(raw_job(), [pod(0, "Failed", 65), pod(1, "Running")], (), now).phase == "ending"
    target = raw_job({"type": "FailureTarget", "reason": "PodFailurePolicy", "message": ""})
    assert state_of(target, [pod(0, "Failed", 65), pod(1, "Running")], (), now).phase == "ending"
    failed = raw_job({"type": "Failed", "reason": "BackoffLimitExceeded", "message": ""})
    assert state_of(failed, [pod(0, "Failed", 65), pod(1, "Running")], (), now).phase == "ending"
    over = state_of(failed, [pod(0, "Failed", 65), pod(1, "Failed", 72)], (), now)
    assert (over.phase, over.code, over.failed_pod, over.bad_nodes) == ("failed", 65, "p-0", ())
    later = datetime(2026, 1, 1, 1, 0, 0, tzinfo=UTC)
    assert state_of(failed, [pod(0, "Failed", 65), pod(1, "Running")], (), later).phase == "failed", (
        "a pod that never ends is not waited for"
    )


def test_a_pod_that_is_gone_is_named_by_the_jobs_own_message() -> None:
    now = datetime(2026, 1, 1, 0, 0, 20, tzinfo=UTC)
    taken = "Pod hyperclova/p-1 has condition DisruptionTarget matching FailJob rule at index 1"
    state = state_of(
        raw_job({"type": "Failed", "reason": "PodFailurePolicy", "message": taken}), [pod(0, "Failed", 72)], (), now
    )
    assert (state.code, state.failed_pod, state.bad_nodes) == (75, "p-1", ())
    exited = "Container job for pod hyperclova/p-1 failed with exit code 71 matching FailJob rule at index 0"
    state = state_of(
        raw_job({"type": "Failed", "reason": "PodFailurePolicy", "message": exited}), [pod(0, "Failed", 72)], (), now
    )
    assert state.code == 71
    lost = state_of(
        raw_job({"type": "Failed", "reason": "BackoffLimitExceeded", "message": ""}),
        [pod(0, "Failed", 72), pod(1, "Failed", 72)],
        (),
        now,
    )
    assert (lost.code, lost.bad_nodes) == (72, ("node-0",))


def test_what_a_pod_said_is_kept_though_it_is_gone_when_the_job_has_failed(
    cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path
) -> None:
    """A real cluster deletes an evicted pod, and with it why it was evicted."""
    one = job(tmp_path, seconds=60)
    backend.submit(one)
    name = until(lambda: cluster.pods("Running"))[0]["metadata"]["name"]
    until(lambda: list(backend.tail(one).read()))
    cluster.disrupt(name)
    until(lambda: any(item["type"] == "DisruptionTarget" for item in status_of(cluster, name).get("conditions", ())))
    backend.get(one)  # a look while it terminates
    status = ended(backend, one)
    assert (status.state, status.exit_code, status.failed_pod) == ("failed", 75, name)
    job_object = backend.newest(one)
    assert job_object is not None
    kept = json.loads(job_object["metadata"]["annotations"]["hyperclova.io/ended-pods"])
    assert kept[name]["code"] == 75
    with cluster._lock:
        cluster.objects.pop(("pods", "hyperclova", name), None)
    later = backend.get(one)
    assert later.cause == status.cause
    assert "is gone" not in str(later.cause)


def status_of(cluster: FakeCluster, name: str) -> dict[str, Any]:
    found = [pod for pod in cluster.pods() if pod["metadata"]["name"] == name]
    return dict(found[0].get("status") or {}) if found else {}


def test_the_node_of_a_gangs_first_failure_is_avoided_though_the_controller_deleted_its_peers() -> None:
    """For a Job, and for a JobSet, whose child says which pod it was."""
    now = datetime(2026, 1, 1, 0, 0, 20, tzinfo=UTC)
    exited = "Container job for pod hyperclova/p-1 failed with exit code 72 matching FailJob rule at index 0"
    child = raw_job({"type": "Failed", "reason": "PodFailurePolicy", "message": exited})
    state = state_of(child, [pod(1, "Failed", 72)], (), now)
    assert (state.code, state.failed_pod, state.bad_nodes) == (72, "p-1", ("node-1",))
    jobset = raw_job(
        {"type": "Failed", "reason": "FailedJobs", "message": "jobset failed due to one or more job failures"}
    )
    state = state_of(jobset, [pod(1, "Failed", 72)], (), now, None, child)
    assert (state.code, state.bad_nodes) == (72, ("node-1",))
    # a pod that somebody deleted before: its peer lost touch, and its node is good
    deleted = raw_job(
        {"type": "Failed", "reason": "BackoffLimitExceeded", "message": "Job has reached the specified backoff limit"}
    )
    assert state_of(deleted, [pod(1, "Failed", 72)], (), now).bad_nodes == ()


def test_a_pod_that_was_taken_away_is_the_cause_and_not_its_peer_that_was_asked_to_end_in_that_second() -> None:
    now = datetime(2026, 1, 1, 0, 0, 20, tzinfo=UTC)
    peer = pod(0, "Failed", 143)
    told = {"cause": {"type": "PreemptedError", "what": "Training was stopped and saved a checkpoint"}}
    peer["status"]["containerStatuses"][0]["state"]["terminated"]["message"] = json.dumps(told)
    gone = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "preempted"}
    taken = pod(1, "Failed", 143, conditions=[{**gone, "lastTransitionTime": "2026-01-01T00:00:00Z"}])
    message = "Pod hyperclova/p-1 has condition DisruptionTarget matching FailJob rule at index 1"
    failed = raw_job({"type": "Failed", "reason": "PodFailurePolicy", "message": message})
    for pods in ([peer, taken], [peer]):
        state = state_of(failed, pods, (), now)
        assert (state.code, state.failed_pod) == (75, "p-1")
    # nobody was taken away: a person has ended the job
    alone = state_of(
        raw_job({"type": "Failed", "reason": "BackoffLimitExceeded", "message": ""}, completions=1), [peer]
    )
    assert (alone.code, alone.failed_pod) == (143, "p-0")


def test_an_evicted_pod_says_what_it_used_too_much_of() -> None:
    gone = pod(0, "Failed", 137, reason="Evicted", message="Usage of EmptyDir volume scratch exceeds the limit 50Gi")
    state = state_of(
        raw_job({"type": "Failed", "reason": "BackoffLimitExceeded", "message": ""}, completions=1), [gone]
    )
    assert state.code == 70
    assert "scratch exceeds" in state.cause["why"]


def test_no_line_is_lost_or_given_twice_across_readers(
    cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path
) -> None:
    one = job(tmp_path, lines=400, pause=0.004)
    backend.submit(one)
    lines: list[str] = []
    cursors: dict[str, Any] = {}
    while True:
        over = backend.get(one).state != "running"
        reader = backend.tail(one, json.loads(json.dumps(cursors)))
        for number, line in enumerate(reader.read()):
            lines.append(line)
            if number == 37:  # the reader dies in the middle of what it read
                break
        cursors = reader.cursors
        if over and len(lines) >= 401:
            break
    assert lines == ["[pod 0] hello from 0", *(f"[pod 0] line {number}" for number in range(400))]


def test_many_lines_of_one_second_are_read_in_bounded_pieces(
    cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyperclova_core.jobs.kubernetes import rank_logs

    one = job(tmp_path, lines=500)
    backend.submit(one)
    assert ended(backend, one).state == "succeeded"
    monkeypatch.setattr(rank_logs, "READ_BYTES", 1000)
    found = list(backend.tail(one).read())
    assert found == ["[pod 0] hello from 0", *(f"[pod 0] line {number}" for number in range(500))]
    assert list(RankLogs(backend._api, "hyperclova", ["gone"]).read()) == []


@pytest.mark.ranks
def test_a_node_that_does_not_answer_holds_up_its_own_pod_alone() -> None:
    class Slow:
        """An API server that asks nodes; two of twelve answer after a time-out."""

        def __init__(self) -> None:
            self.asked = 0
            self.together = threading.Barrier(AT_ONCE, timeout=30)

        def pod_log(self, namespace: str, pod: str, container: str, since: str | None, most: int) -> str:
            if int(pod.split("-")[2]) < AT_ONCE:
                self.together.wait()  # all of one portion are asked at the same time, or this breaks
            if pod.split("-")[2] in ("1", "9"):
                raise TransientError("The node does not answer", where=pod, why="timed out", remedy="look at it")
            return f"2026-01-01T00:00:00.000000000Z line of {pod}\n"

    pods = [f"job-one-{n}-abcde" for n in range(12)]
    logs = RankLogs(Slow(), "n", pods)  # type: ignore[arg-type]
    assert [line.rpartition(" ")[2] for line in logs.read()] == [pod for n, pod in enumerate(pods) if n not in (1, 9)]
    assert set(logs.unread) == {pods[1], pods[9]}


def test_two_pods_of_two_ranks_meet_by_torchrun(
    cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path
) -> None:
    """Four ranks in two pods find one another; one that fails ends all, and is the one that is named."""
    one = job(tmp_path, processes=4, cluster={"processes_per_node": 2, "gang": "kueue", "queue": "q"})
    backend.submit(one)
    cluster.admit("job-one-a1")
    assert ended(backend, one).state == "succeeded"
    found = sorted(backend.tail(one).read())
    assert [line for line in found if "hello" in line] == [f"[rank {rank}] hello from {rank}" for rank in range(4)]


def test_a_pod_calls_itself_by_its_stable_name() -> None:
    assert own_address("train-a1-0.train-a1:29500", "3") == ["--local-addr=train-a1-3.train-a1"]
    assert own_address("127.0.0.1:29500", "3") == []


@pytest.mark.ranks
def test_two_pods_really_train(cluster: FakeCluster, backend: KubernetesBackend, tmp_path: Path) -> None:
    """Data parallel over two pods by gloo; the second attempt, after a pod was taken away, goes on from the checkpoint."""
    from tests.training.cases import job as training
    from tests.training.cases import write_shards

    (tmp_path / "shards").mkdir()
    shards = write_shards(tmp_path / "shards")
    config = training(
        shards,
        tmp_path / "out",
        parallel={"data": 2},
        train={"tokens": 60 * 8 * 32, "checkpoint_every": 5, "keep_last": 1},
    )
    settings = ClusterConfig(image="trainer:1", processes_per_node=1, allow_partial_gang=True, one_node_a_pod=False)
    one = TrainJobSpec(
        "train-test",
        "hyperclova_core.training.rank",
        config.model_dump(mode="json"),
        config.output,
        2,
        grace_seconds=20,
        cluster=settings,
    )
    backend.submit(one)
    until(lambda: list((tmp_path / "out" / "checkpoints").glob("step-*/manifest.json")))
    cluster.disrupt(cluster.pods("Running")[1]["metadata"]["name"])
    status = until(lambda: (found := backend.get(one)).state != "running" and found)
    assert status.exit_code == 75, status
    backend.submit(one)
    status = until(lambda: (found := backend.get(one)).state != "running" and found)
    assert status.state == "succeeded", status
    lines = list(backend.tail(one).read())
    assert any("goes on after step" in line for line in lines), lines[-20:]
    assert any(line.startswith("[rank 0]") and "step 60/60" in line for line in lines)
    assert (tmp_path / "out" / "model" / "config.json").exists()
