"""Jobs on a Kubernetes cluster: deterministic names and attempts, adoption, states in our terms, logs of all ranks."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from hyperclova_core.foundation.errors import ConfigError, TransientError
from hyperclova_core.jobs.backends import JobStatus
from hyperclova_core.jobs.cluster import ClusterConfig
from hyperclova_core.jobs.kubernetes_api import Api, NotThereError, TakenError
from hyperclova_core.jobs.kubernetes_state import State, moment, state_of
from hyperclova_core.jobs.ledger import Usage, usage_of
from hyperclova_core.jobs.rank_logs import RankLogs
from hyperclova_core.jobs.render import (
    ATTEMPT_LABEL,
    CONTAINER,
    HASH_ANNOTATION,
    JOB_LABEL,
    SPEC_FILE,
    attempt_name,
    render,
)
from hyperclova_core.jobs.spec import TrainJobSpec, cluster_name

log = logging.getLogger(__name__)

CREATE_TRIES = 5
MARKS_ANNOTATION = "hyperclova.io/log-marks"


class KubernetesBackend:
    """See `backends.Backend`. An attempt is an object of its own, `NAME-aN`; the newest is the job."""

    def __init__(self, api: Api, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._api, self._now = api, now

    def submit(self, spec: TrainJobSpec) -> bool:
        """Start the job's next attempt, or adopt the newest where it runs or has ended well (False).

        Raises:
            ConfigError: the cluster refuses it, or another job of that name runs, with what differs.
        """
        newest = self.newest(spec)
        number = 1
        if newest is not None:
            state = self._state(spec, newest)
            if state.phase not in ("failed", "succeeded"):
                self._refuse_other(spec, newest)
                return False
            if state.phase == "succeeded" and state.spec_hash == spec.hash:
                return False
            number = state.attempt + 1
        return self._create(spec, number)

    def _create(self, spec: TrainJobSpec, attempt: int) -> bool:
        """Create an attempt's objects, the job last; one that another made meanwhile is adopted."""
        objects = render(spec, attempt)
        for item in objects[:-1]:
            self._create_companion(item)
        job = objects[-1]
        try:
            made = self._api.create(job)
        except TakenError:
            found = self._api.get(job["kind"], job["metadata"]["namespace"], job["metadata"]["name"])
            self._refuse_other(spec, found)
            made = found
            fresh = False
        else:
            fresh = True
        owner = {
            "apiVersion": job["apiVersion"],
            "kind": job["kind"],
            "name": job["metadata"]["name"],
            "uid": made["metadata"]["uid"],
            "controller": False,
            "blockOwnerDeletion": False,
        }
        for item in objects[:-1]:  # what belongs to the job goes with it
            changes = {"metadata": {"ownerReferences": [owner]}}
            try:
                self._api.patch(item["kind"], item["metadata"]["namespace"], item["metadata"]["name"], changes)
            except NotThereError:  # an earlier attempt's, which was on its way out when it was taken
                self._api.create({**item, "metadata": {**item["metadata"], **changes["metadata"]}})
        return fresh

    def _create_companion(self, item: Mapping[str, Any]) -> None:
        """A ConfigMap, Service or PodGroup; one that a killed attempt of the same specification left is taken, another replaced."""
        namespace, name = item["metadata"]["namespace"], item["metadata"]["name"]
        for _ in range(CREATE_TRIES):
            try:
                self._api.create(item)
                return
            except TakenError:
                pass
            try:
                found = self._api.get(item["kind"], namespace, name)
            except NotThereError:
                continue
            same = (found["metadata"].get("annotations") or {}).get(HASH_ANNOTATION) == item["metadata"]["annotations"][
                HASH_ANNOTATION
            ]
            if same and found.get("data") == item.get("data"):
                return
            self._api.delete(item["kind"], namespace, name)
            time.sleep(0.2)
        raise TransientError(
            f"A {item['kind']} of an earlier attempt does not go away",
            where=f"{namespace}/{name}",
            why="it was deleted and is still there",
            remedy="delete it by hand",
        )

    def _refuse_other(self, spec: TrainJobSpec, job: Mapping[str, Any]) -> None:
        theirs = job["metadata"]["annotations"].get(HASH_ANNOTATION, "")
        if theirs == spec.hash:
            return
        namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
        try:
            told = json.loads(self._api.get("ConfigMap", namespace, name)["data"][SPEC_FILE])["spec"]
            differs = "; ".join(difference(told, spec.to_dict())[:5]) or "its specification cannot be compared"
        except (NotThereError, KeyError, json.JSONDecodeError):
            differs = f"its specification is {theirs[:12]}, not {spec.hash[:12]}"
        raise ConfigError(
            "Another job of this name runs",
            where=f"{namespace}/{name}",
            why=differs,
            remedy="wait for it, cancel it, or give this one another name",
        )

    def newest(self, spec: TrainJobSpec) -> dict[str, Any] | None:
        """The newest attempt's Job or JobSet."""
        cluster = _cluster(spec)
        kind = "JobSet" if cluster.kind == "jobset" else "Job"
        found = [
            item
            for item in self._api.find(kind, cluster.namespace, {JOB_LABEL: cluster_name(spec.name)})
            if not item["metadata"].get("deletionTimestamp")
            and item["metadata"]["name"].startswith(cluster_name(spec.name))
        ]
        own = [
            item
            for item in found
            if item["metadata"]["name"] == f"{cluster_name(spec.name)}-a{item['metadata']['labels'][ATTEMPT_LABEL]}"
        ]
        return max(own, key=lambda item: int(item["metadata"]["labels"][ATTEMPT_LABEL]), default=None)

    def state(self, spec: TrainJobSpec) -> State | None:
        """The newest attempt's state, or None where there is none."""
        job = self.newest(spec)
        return None if job is None else self._state(spec, job)

    def _state(self, spec: TrainJobSpec, job: Mapping[str, Any]) -> State:
        cluster = _cluster(spec)
        attempt = job["metadata"]["labels"][ATTEMPT_LABEL]
        pods = self._api.find("Pod", cluster.namespace, {JOB_LABEL: cluster_name(spec.name), ATTEMPT_LABEL: attempt})
        state = state_of(job, pods, (), self._now())
        if state.phase == "starting":
            events = [
                event
                for event in self._api.find("Event", cluster.namespace)
                if str((event.get("involvedObject") or {}).get("name", "")).startswith(attempt_name(spec, int(attempt)))
            ]
            state = state_of(job, pods, events, self._now())
            made = [
                time for time in (moment(pod["metadata"].get("creationTimestamp")) for pod in pods) if time is not None
            ]
            since = min(
                made,
                default=moment((job.get("status") or {}).get("startTime"))
                or moment(job["metadata"].get("creationTimestamp")),
            )
            late = since is not None and (self._now() - since).total_seconds() > cluster.start_seconds
            state = replace(state, hopeless=late or state.hopeless)
        return state

    def get(self, spec: TrainJobSpec) -> JobStatus:
        """See `Backend`; a job whose pods cannot begin is ended, with the reason."""
        state = self.state(spec)
        if state is None:
            return JobStatus("absent")
        if state.phase == "succeeded":
            return JobStatus("succeeded", 0)
        if state.phase == "failed":
            return JobStatus("failed", state.code, state.cause)
        if state.hopeless:
            self.cancel(spec)
            cause = {
                "type": "ConfigError",
                "what": "The job's pods cannot begin",
                "where": f"{_cluster(spec).namespace}/{attempt_name(spec, state.attempt)}",
                "why": state.waiting,
                "remedy": "correct jobs.cluster in the recipe, or what the cluster lacks",
            }
            return JobStatus("failed", 64, cause)
        return JobStatus("running")

    def usage(self, spec: TrainJobSpec, code: int) -> Usage | None:
        """What the newest attempt took, now that it ended with a code; None where it is gone."""
        job = self.newest(spec)
        if job is None:
            return None
        cluster = _cluster(spec)
        attempt = int(job["metadata"]["labels"][ATTEMPT_LABEL])
        labels = {JOB_LABEL: cluster_name(spec.name), ATTEMPT_LABEL: str(attempt)}
        pods = self._api.find("Pod", cluster.namespace, labels)
        devices = cluster.gpus_per_node * spec.nodes or max(1, spec.processes)
        return usage_of(job, pods, spec.name, attempt, devices, code, self._now())

    def marks(self, spec: TrainJobSpec) -> dict[str, Any]:
        """Where an earlier reader left the newest attempt's logs: kept with the job itself, so that a reader that died needs no disk."""
        job = self.newest(spec)
        kept = (job["metadata"].get("annotations") or {}).get(MARKS_ANNOTATION) if job is not None else None
        return dict(json.loads(kept)) if kept else {}

    def keep_marks(self, spec: TrainJobSpec, marks: Mapping[str, Any]) -> None:
        """Keep them."""
        job = self.newest(spec)
        if job is not None:
            changes = {"metadata": {"annotations": {MARKS_ANNOTATION: json.dumps(marks, sort_keys=True)}}}
            self._api.patch(_kind(spec), job["metadata"]["namespace"], job["metadata"]["name"], changes)

    def tail(self, spec: TrainJobSpec, marks: Mapping[str, Any] | None = None) -> RankLogs:
        """The newest attempt's logs, from where an earlier reader's marks say."""
        state = self.state(spec)
        pods = state.pods if state is not None else ()
        return RankLogs(self._api, _cluster(spec).namespace, pods, marks)

    def last_lines(self, spec: TrainJobSpec, pod: str, lines: int = 40) -> list[str]:
        """The end of one pod's log."""
        return self._api.pod_tail(_cluster(spec).namespace, pod, CONTAINER, lines)

    def cancel(self, spec: TrainJobSpec) -> None:
        """End the newest attempt: its pods have their grace time, then they and what belongs to the job are gone."""
        job = self.newest(spec)
        if job is not None:
            self._api.delete(
                job["kind"] if "kind" in job else _kind(spec), job["metadata"]["namespace"], job["metadata"]["name"]
            )


def _kind(spec: TrainJobSpec) -> str:
    return "JobSet" if _cluster(spec).kind == "jobset" else "Job"


def _cluster(spec: TrainJobSpec) -> ClusterConfig:
    if spec.cluster is None:
        raise ConfigError(
            "The job has no cluster settings",
            where=spec.name,
            why="backend kubernetes needs them",
            remedy="give jobs.cluster in the recipe",
        )
    return spec.cluster


def difference(theirs: Any, ours: Any, path: str = "") -> list[str]:
    """Where two specifications differ, in words."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        found = []
        for key in sorted({*theirs, *ours}):
            if key not in ("overrides", "avoid_nodes"):
                found += difference(theirs.get(key), ours.get(key), f"{path}.{key}" if path else key)
        return found
    return (
        []
        if json.dumps(theirs, default=str) == json.dumps(ours, default=str)
        else [f"{path} is {theirs!r} there, {ours!r} here"]
    )
