"""What the backend stands on, of any Kubernetes: on the double always, and on a real cluster where KUBECONFIG names one.

For a real cluster: KUBECONFIG, HYPERCLOVA_TEST_IMAGE (an image with `python`, that the cluster can pull), and optionally
HYPERCLOVA_TEST_NAMESPACE (default `default`).
"""

from __future__ import annotations

import copy
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hyperclova_core.jobs.config import ClusterConfig
from hyperclova_core.jobs.kubernetes.api import Api, NotThereError, TakenError
from hyperclova_core.jobs.kubernetes.manifests import ATTEMPT_LABEL, JOB_LABEL, render
from hyperclova_core.jobs.kubernetes.rank_logs import RankLogs
from hyperclova_core.jobs.kubernetes.state import state_of
from hyperclova_core.jobs.spec import TrainJobSpec
from tests.jobs.fake_cluster import FakeCluster, until


@dataclass
class Place:
    """A cluster to try: its API, a namespace, an image, and how long things may take."""

    api: Api
    namespace: str
    image: str
    seconds: float


def real() -> Place | None:
    """The cluster of KUBECONFIG."""
    image = os.environ.get("HYPERCLOVA_TEST_IMAGE")
    if not os.environ.get("KUBECONFIG") or not image:
        return None
    from kubernetes import config

    return Place(
        Api(config.new_client_from_config()), os.environ.get("HYPERCLOVA_TEST_NAMESPACE", "default"), image, 180.0
    )


@pytest.fixture(params=["double", "real"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "real":
        found = real()
        if found is None:
            pytest.skip("no KUBECONFIG and HYPERCLOVA_TEST_IMAGE: the double alone is tried")
        yield found
        return
    with FakeCluster(tmp_path) as cluster:
        yield Place(Api(cluster.client(), sleep=lambda seconds: None), "hyperclova", "any", 20.0)


def manifests(place: Place, script: str, processes: int = 1, **cluster: Any) -> list[dict[str, Any]]:
    """A job's objects, with a script instead of the launcher: the image need not be ours."""
    settings = {
        "image": place.image,
        "namespace": place.namespace,
        "service_account": "default",
        "cpu": "50m",
        "memory": "64Mi",
    }
    settings |= {
        "shared_memory": "1Mi",
        "scratch": "16Mi",
        "one_node_a_pod": False,
        "processes_per_node": 1,
        "allow_partial_gang": True,
        **cluster,
    }
    spec = TrainJobSpec(
        f"conformance-{uuid.uuid4().hex[:8]}",
        "none",
        {},
        "/scratch",
        processes,
        1,
        cluster=ClusterConfig.model_validate(settings),
    )
    objects = copy.deepcopy(render(spec, 1))
    container = objects[-1]["spec"]["template"]["spec"]["containers"][0]
    container["command"] = ["python", "-c", script]
    return objects


class Running:
    """A job's objects on the cluster, removed at the end."""

    def __init__(self, place: Place, objects: list[dict[str, Any]]) -> None:
        self.place, self.objects = place, objects
        self.name = objects[-1]["metadata"]["name"]

    def __enter__(self) -> Running:
        for item in self.objects:
            self.place.api.create(item)
        return self

    def __exit__(self, *error: object) -> None:
        for item in reversed(self.objects):
            self.place.api.delete(item["kind"], self.place.namespace, self.name)

    def pods(self) -> list[dict[str, Any]]:
        labels = self.objects[-1]["metadata"]["labels"]
        return self.place.api.find(
            "Pod", self.place.namespace, {key: labels[key] for key in (JOB_LABEL, ATTEMPT_LABEL)}
        )

    def state(self) -> Any:
        return state_of(self.place.api.get("Job", self.place.namespace, self.name), self.pods())

    def ended(self) -> Any:
        return until(lambda: (found := self.state()).phase in ("succeeded", "failed") and found, self.place.seconds)


def test_an_indexed_job_of_two_runs_and_each_pod_knows_its_number(place: Place) -> None:
    script = "import os, time; print('I am', os.environ['HYPERCLOVA_NODE'], flush=True); time.sleep(1)"
    with Running(place, manifests(place, script, 2)) as job:
        state = job.ended()
        assert state.phase == "succeeded"
        lines = sorted(RankLogs(place.api, place.namespace, state.pods).read())
        assert lines == ["[pod 0] I am 0", "[pod 1] I am 1"]
        assert state.pods[0].startswith(f"{job.name}-0-")


def test_an_exit_code_of_ours_fails_the_job_at_once_by_its_policy(place: Place) -> None:
    with Running(place, manifests(place, "import sys; print('bad', flush=True); sys.exit(64)")) as job:
        state = job.ended()
        assert (state.phase, state.code) == ("failed", 64)
        conditions = place.api.get("Job", place.namespace, job.name)["status"]["conditions"]
        assert any(item["reason"] == "PodFailurePolicy" for item in conditions)


def test_an_unknown_code_fails_it_too(place: Place) -> None:
    with Running(place, manifests(place, "import sys; sys.exit(3)")) as job:
        state = job.ended()
        assert (state.phase, state.code) == ("failed", 3)


def test_a_suspended_job_has_no_pods_until_it_is_admitted(place: Place) -> None:
    objects = manifests(place, "print('at last', flush=True)")
    objects[-1]["spec"]["suspend"] = True
    with Running(place, objects) as job:
        until(lambda: job.state().phase == "queued", place.seconds)
        assert job.pods() == []
        place.api.patch("Job", place.namespace, job.name, {"spec": {"suspend": False}})
        assert job.ended().phase == "succeeded"


def test_a_name_that_is_taken_is_told_apart_from_one_that_is_not_there(place: Place) -> None:
    objects = manifests(place, "pass")
    with Running(place, objects):
        with pytest.raises(TakenError):
            place.api.create(objects[-1])
        with pytest.raises(NotThereError):
            place.api.get("Job", place.namespace, "conformance-not-there")


def test_labels_select_and_annotations_are_kept(place: Place) -> None:
    with Running(place, manifests(place, "pass")) as job:
        place.api.patch(
            "Job", place.namespace, job.name, {"metadata": {"annotations": {"hyperclova.io/log-cursors": "{}"}}}
        )
        labels = job.objects[-1]["metadata"]["labels"]
        found = place.api.find("Job", place.namespace, {JOB_LABEL: labels[JOB_LABEL]})
        assert [item["metadata"]["name"] for item in found] == [job.name]
        assert found[0]["metadata"]["annotations"]["hyperclova.io/log-cursors"] == "{}"
        assert place.api.find("Job", place.namespace, {JOB_LABEL: "conformance-nobody"}) == []


def test_a_pod_that_no_node_can_take_says_what_is_short(place: Place) -> None:
    with Running(place, manifests(place, "pass", extra_resources={"nvidia.com/gpu": "999"})) as job:
        state = until(lambda: "nvidia.com/gpu" in (found := job.state()).waiting and found, place.seconds)
        assert state.phase == "starting"
        assert "too little nvidia.com/gpu" in state.waiting


def test_deleting_a_job_takes_its_pods_along(place: Place) -> None:
    with Running(place, manifests(place, "import time; time.sleep(600)")) as job:
        until(lambda: job.state().phase == "running", place.seconds)
        place.api.delete("Job", place.namespace, job.name)
        until(lambda: not [pod for pod in job.pods() if not pod["metadata"].get("deletionTimestamp")], place.seconds)
