"""What a real control plane showed, each with the right value: quantities, pods' numbers, times, words, retries, an early signal."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from pydantic import ValidationError

from hyperclova_core.jobs.config import ClusterConfig, Volume
from hyperclova_core.jobs.kubernetes.api import Api, _refusal
from hyperclova_core.jobs.kubernetes.backend import KubernetesBackend
from hyperclova_core.jobs.kubernetes.rank_logs import number_of
from hyperclova_core.jobs.kubernetes.state import usage_of
from hyperclova_core.jobs.spec import TrainJobSpec
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ({"memory": "32GB"}, "write 32G (powers of ten) or 32Gi (of two)"),
        ({"memory": "64kb"}, "write 64k"),
        ({"cpu": "eight"}, "write 8, 500m, 32G or 32Gi"),
        ({"scratch": "-5Gi"}, "no quantity of Kubernetes"),
        ({"shared_memory": ""}, "no quantity of Kubernetes"),
        ({"extra_resources": {"rdma/hca": "one"}}, "rdma/hca: 'one'"),
        ({"near": "not a key!"}, "no key of a label"),
        ({"environment": {"A B": "x"}}, "no name of a variable"),
        ({"environment": {"1A": "x"}}, "no name of a variable"),
    ],
)
def test_what_a_server_would_refuse_is_found_in_the_recipe(said: dict[str, Any], hint: str) -> None:
    with pytest.raises(ValidationError, match="(?s)" + re.escape(hint)):
        ClusterConfig.model_validate({"image": "trainer:1", **said})


def test_what_a_server_takes_is_taken() -> None:
    for memory in ("32Gi", "32G", "1.5Ti", "512Mi", "1e9", "128974848"):
        assert ClusterConfig(image="trainer:1", memory=memory).memory == memory
    assert ClusterConfig(image="trainer:1", cpu="500m", near="topology.kubernetes.io/zone").near
    with pytest.raises(ValidationError):
        Volume(claim="warehouse", path="warehouse")


def test_a_pods_number_is_its_own_though_others_are_gone() -> None:
    assert [number_of(name, 0) for name in ("job-one-a1-0-x7k2p", "job-one-a1-11-abcde")] == [0, 11]
    assert number_of("sparkapp-driver", 3) == 3


def pod(start: str | None) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "spec": {}, "status": {"startTime": start} if start else {"phase": "Pending"}}


def test_a_job_that_never_had_a_node_waited_and_lost_nothing() -> None:
    job = {"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "status": {"startTime": "2026-01-01T00:00:00Z"}}
    end = datetime(2026, 1, 1, 0, 31, 40, tzinfo=UTC)
    waited = usage_of(job, [pod(None), pod(None)], "j", 1, 8, 1, end)
    assert (waited.queued_seconds, waited.running_seconds) == (1900.0, 0.0)
    assert waited.lost_hours == 0.0
    ran = usage_of(job, [pod("2026-01-01T00:01:40Z")], "j", 1, 8, 1, end)
    assert (ran.queued_seconds, ran.running_seconds) == (100.0, 1800.0)
    gone = usage_of(job, [], "j", 1, 8, 1, end)
    assert gone.running_seconds == 1900.0, "pods that are gone took their times along: the job's own is the nearest"


def test_the_client_does_not_try_again_by_itself() -> None:
    client = ApiClient(Configuration(host="http://127.0.0.1:9"))
    Api(client)
    pool = client.rest_client.pool_manager.connection_from_url("http://127.0.0.1:9")
    assert pool.retries.total == 0


@pytest.mark.parametrize(
    ("status", "body", "remedy"),
    [
        (
            404,
            {"message": 'namespaces "team" not found', "details": {"kind": "namespaces", "name": "team"}},
            "make the namespace team",
        ),
        (
            404,
            {"message": "the server could not find the requested resource", "details": {}},
            "install what serves this kind",
        ),
        (
            403,
            {"message": "forbidden", "details": {"causes": [{"reason": "NamespaceTerminating"}]}},
            "is being deleted",
        ),
        (403, {"message": 'violates PodSecurity "restricted:latest"'}, "Pod Security level"),
        (403, {"message": "jobs is forbidden"}, "the chart's role"),
    ],
)
def test_a_refusal_says_what_to_do_about_it(status: int, body: dict[str, Any], remedy: str) -> None:
    error = ApiException(status=status, reason="no")
    error.body = json.dumps(body).encode()
    refused = _refusal(error, "POST", "/apis/batch/v1/namespaces/team/jobs")
    assert remedy in refused.remedy
    assert refused.code == str(status)


def test_a_signal_before_the_jobs_processes_begin_ends_it_at_once(tmp_path: Path) -> None:
    """In a container the launcher is the first process, which ignores what it has no handler for."""
    spec = TrainJobSpec("job", "time", {}, str(tmp_path / "job"), processes=0, grace_seconds=60)
    code = (
        "import json, os, signal, sys\n"
        "from hyperclova_core.jobs.end_on_signal import EndOnSignal\nfrom hyperclova_core.jobs.launcher import run\n"
        "from hyperclova_core.jobs.spec import TrainJobSpec\n"
        "end = EndOnSignal(); os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(run(TrainJobSpec.from_dict(json.loads(sys.argv[1])), end))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, json.dumps(spec.to_dict())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 143, ended.stderr
    told = json.loads((tmp_path / "job" / "exit.json").read_text())
    assert told["cause"]["what"] == "The job was asked to end before its processes began"


def test_the_launcher_listens_before_it_imports_what_takes_time() -> None:
    """It takes a second; a pod that is taken away in it would hold its devices for the whole grace time."""
    command = [sys.executable, "-X", "importtime", "-m", "hyperclova_core.jobs.launcher"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False).stderr
    order = [line.rpartition("|")[2].strip() for line in told.splitlines() if line.startswith("import time:")]
    listens = order.index("hyperclova_core.jobs.end_on_signal")
    assert order.index("argparse") > listens
    assert not [name for name in order[:listens] if name.startswith(("pydantic", "hyperclova_core.foundation"))]


def test_a_jobset_whose_pods_cannot_be_made_says_why_its_jobs_were_told() -> None:
    """The JobSet itself has no event of it: they are on its child Job, NAME-n-0."""
    one = TrainJobSpec(
        "job-one",
        "program",
        {},
        "/out",
        1,
        cluster=ClusterConfig(image="trainer:1", kind="jobset", processes_per_node=1),
    )
    labels = {"hyperclova.io/attempt": "1"}
    refused = 'Error creating: pods "job-one-a1-n-0-0-x" is forbidden: violates PodSecurity "restricted:latest"'
    objects: dict[str, list[dict[str, Any]]] = {
        "JobSet": [
            {
                "metadata": {
                    "name": "job-one-a1",
                    "labels": labels,
                    "annotations": {"hyperclova.io/spec-hash": one.hash},
                },
                "spec": {"replicatedJobs": []},
            }
        ],
        "Job": [{"metadata": {"name": "job-one-a1-n-0"}}],
    }
    asked: list[str] = []

    class Told:
        """A cluster that has these objects, and one event."""

        def find(
            self, kind: str, namespace: str, labels: dict[str, str] | None = None, fields: str = ""
        ) -> list[dict[str, Any]]:
            asked.append(f"{kind} {labels or fields}")
            if kind == "Event" and fields == "involvedObject.name=job-one-a1-n-0":
                return [{"reason": "FailedCreate", "message": refused, "involvedObject": {"name": "job-one-a1-n-0"}}]
            return objects.get(kind, [])

    state = KubernetesBackend(Told()).state(one)  # type: ignore[arg-type]
    assert state is not None
    assert (state.phase, state.waiting) == ("starting", f"no pod can be made: {refused}")
    assert "Job {'jobset.sigs.k8s.io/jobset-name': 'job-one-a1'}" in asked
