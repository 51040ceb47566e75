"""Jobs on a Kubernetes cluster: deterministic names and attempts, adoption, states in our terms, logs of all ranks."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from hyperclova_core.foundation.errors import ConfigError, TransientError
from hyperclova_core.jobs.backend import Backend, JobStatus
from hyperclova_core.jobs.config import ClusterConfig
from hyperclova_core.jobs.kubernetes.api import Api, NotThereError, TakenError
from hyperclova_core.jobs.kubernetes.manifests import (
    ATTEMPT_LABEL,
    CONTAINER,
    HASH_ANNOTATION,
    JOB_LABEL,
    STOP_SECONDS,
    attempt_name,
    render,
    spec_in,
)
from hyperclova_core.jobs.kubernetes.rank_logs import RankLogs
from hyperclova_core.jobs.kubernetes.state import (
    LINGER_SECONDS,
    Ended,
    State,
    ended_of,
    is_dead,
    is_living,
    moment,
    pods_of,
    state_of,
    usage_of,
)
from hyperclova_core.jobs.spec import TrainJobSpec, cluster_name, difference

log = logging.getLogger(__name__)

CREATE_TRIES = 5
POLL_SECONDS = 1.0
MOST_EVENTS_OF = 8
"""Pods whose events are asked for: the others of a job wait for the same."""
LOG_CURSORS_ANNOTATION, HOLDER_ANNOTATION = "hyperclova.io/log-cursors", "hyperclova.io/holder"
ENDED_ANNOTATION, MOST_REMEMBERED, REMEMBERED_CHARACTERS = "hyperclova.io/ended-pods", 16, 1000
"""How pods ended that may be gone by the next look: so many of them, with so many characters a word of the cause."""
JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"
WORKLOAD_LABEL = "kueue.x-k8s.io/job-uid"


class KubernetesBackend:
    """See `backends.Backend`. An attempt is an object of its own, `NAME-aN`; the newest is the job."""

    def __init__(
        self,
        api: Api,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._api, self._now, self._sleep = api, now, sleep

    def submit(self, spec: TrainJobSpec, after: int = 0, stop: threading.Event | None = None) -> bool:
        """Start the job's next attempt, or adopt the newest where it runs or has ended well (False).

        Args:
            after: the last attempt that is known to have been, where the cluster may have forgotten it.
            stop: set when nobody wants the job any more: nothing is started then, or it is ended again.

        Raises:
            ConfigError: the cluster refuses it, or another job of that name runs, with what differs.
            TransientError: pods of an earlier attempt do not go away.
        """
        newest = self.newest(spec)
        if newest is not None:
            state = self._state(spec, newest)
            if state.phase not in ("failed", "succeeded"):
                self._refuse_other(spec, newest)
                self._own(render(spec, state.attempt), newest)
                return False
            if state.phase == "succeeded" and state.spec_hash == spec.hash:
                return False
            after = max(after, state.attempt)
            if not _has_ended(newest):  # a node that does not answer holds it: it would wait for ever
                self._delete(spec, newest)
        last = self._await_earlier_pods(spec, stop)
        if stop is not None and stop.is_set():
            return False
        fresh = self._create(spec, max(after, last) + 1)
        if stop is not None and stop.is_set():
            self.cancel(spec)
        return fresh

    def _await_earlier_pods(self, spec: TrainJobSpec, stop: threading.Event | None) -> int:
        """Wait until no pod of an earlier attempt writes any more, also of a job that was deleted; the last attempt that has pods."""
        cluster, waited = _cluster(spec), 0.0
        while True:
            pods = self._api.find("Pod", cluster.namespace, {JOB_LABEL: cluster_name(spec.name)})
            living = [pod for pod in pods if is_living(pod) and not is_dead(pod, self._now())]
            if not living or (stop is not None and stop.is_set()):
                return max((int(pod["metadata"]["labels"][ATTEMPT_LABEL]) for pod in pods), default=0)
            if waited > spec.grace_seconds + STOP_SECONDS + LINGER_SECONDS:
                raise TransientError(
                    "A pod of an earlier attempt does not end",
                    where=f"{cluster.namespace}/{living[0]['metadata']['name']}",
                    why="it was asked to, and its grace time is over; another attempt beside it would write where it writes",
                    remedy="look at its node, or delete the pod by hand; then start the task again",
                )
            log.info("Waiting for %s of an earlier attempt to end", living[0]["metadata"]["name"])
            self._sleep(POLL_SECONDS)
            waited += POLL_SECONDS

    def _create(self, spec: TrainJobSpec, attempt: int) -> bool:
        """Create an attempt's objects, the job last; one that another made meanwhile is adopted."""
        objects = render(spec, attempt)
        job = objects[-1]
        fresh = True
        try:
            for item in objects[:-1]:
                self._create_companion(item)
            made = self._api.create(job)
        except TakenError:
            made = self._api.get(job["kind"], job["metadata"]["namespace"], job["metadata"]["name"])
            self._refuse_other(spec, made)
            fresh = False
        except ConfigError:  # the cluster refuses one of them: nobody would ever remove what was made before it
            for item in objects[:-1]:
                self._remove_companion(item)
            raise
        self._own(objects, made)
        return fresh

    def _own(self, objects: Sequence[Mapping[str, Any]], made: Mapping[str, Any]) -> None:
        """What belongs to a job goes with it; said again where whoever made it died before he could."""
        job = objects[-1]
        owner = {
            "apiVersion": job["apiVersion"],
            "kind": job["kind"],
            "name": job["metadata"]["name"],
            "uid": made["metadata"]["uid"],
            "controller": False,
            "blockOwnerDeletion": False,
        }
        changes = {"metadata": {"ownerReferences": [owner]}}
        for item in objects[:-1]:
            try:
                self._api.patch(item["kind"], item["metadata"]["namespace"], item["metadata"]["name"], changes)
            except NotThereError:  # an earlier attempt's, which was on its way out when it was taken
                self._api.create({**item, "metadata": {**item["metadata"], **changes["metadata"]}})

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
            if same and all(found.get(part) == item.get(part) for part in ("data", "binaryData")):
                return
            self._api.delete(item["kind"], namespace, name)
            self._sleep(0.2)
        raise TransientError(
            f"A {item['kind']} of an earlier attempt does not go away",
            where=f"{namespace}/{name}",
            why="it was deleted and is still there",
            remedy="delete it by hand",
        )

    def _remove_companion(self, item: Mapping[str, Any]) -> None:
        """Remove what was made for a job that is refused; what cannot be removed either is named, and the refusal is told."""
        namespace, name = item["metadata"]["namespace"], item["metadata"]["name"]
        try:
            self._api.delete(item["kind"], namespace, name)
        except (ConfigError, TransientError) as error:
            log.warning("The %s %s/%s of a refused job stays: %s", item["kind"], namespace, name, error)

    def _refuse_other(self, spec: TrainJobSpec, job: Mapping[str, Any]) -> None:
        theirs = job["metadata"]["annotations"].get(HASH_ANNOTATION, "")
        if theirs == spec.hash:
            return
        namespace, name = job["metadata"]["namespace"], job["metadata"]["name"]
        try:
            told = spec_in(self._api.get("ConfigMap", namespace, name))
            differs = (
                "; ".join(difference(TrainJobSpec.from_dict(told).identity(), spec.identity())[:5])
                or "its specification cannot be compared"
            )
        except (NotThereError, KeyError, ValueError):
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
        pods = self._pods(spec, job)
        workload = None
        if cluster.gang == "kueue" and job["spec"].get("suspend"):
            workload = self._workload(cluster.namespace, job)
        seen = self._remember_ended({"kind": _kind(spec), **job}, pods)
        state = state_of(job, pods, (), self._now(), workload, self._failed_child(spec, job), seen)
        if state.phase == "starting":
            state = state_of(job, pods, self._events(spec, job, pods), self._now())
            since = _waits_since(job, pods, cluster.gang == "kueue")
            late = since is not None and (self._now() - since).total_seconds() > cluster.start_seconds
            state = replace(state, hopeless=late or state.hopeless)
        return state

    def _remember_ended(self, job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> dict[str, Ended]:
        """How pods ended, also those that are gone by now: an evicted pod is deleted, and the launcher's words and the cluster's reason
        with it. What a look finds is kept with the job itself."""
        told = (job["metadata"].get("annotations") or {}).get(ENDED_ANNOTATION)
        kept: dict[str, Any] = json.loads(told) if told else {}
        ended = (ended_of(pod) for pod in pods)
        found = {one.pod: _shortened(one) for one in ended if one is not None and one.code}
        new = {**kept, **found}
        # the first ones: what failed first brought the others down
        first = dict(sorted(new.items(), key=lambda item: (item[1]["at"], item[0]))[:MOST_REMEMBERED])
        if first != kept and not _has_ended(job):
            try:
                self._annotate(job, ENDED_ANNOTATION, json.dumps(first, sort_keys=True, ensure_ascii=False))
            except (ConfigError, TransientError) as error:  # a look must not fail for what it would like to remember
                log.warning("How pods of %s ended could not be noted: %s", job["metadata"]["name"], error.why)
        return {name: Ended(**value) for name, value in new.items()}

    def _failed_child(self, spec: TrainJobSpec, job: Mapping[str, Any]) -> dict[str, Any] | None:
        """The Job of a failed JobSet, whose own condition says why; the JobSet names it only."""
        if _kind(spec) != "JobSet" or not _has_ended(job):
            return None
        labels = {JOBSET_LABEL: job["metadata"]["name"]}
        found = self._api.find("Job", _cluster(spec).namespace, labels)
        return next((child for child in found if _has_ended(child)), None)

    def _pods(self, spec: TrainJobSpec, job: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        labels = {JOB_LABEL: cluster_name(spec.name), ATTEMPT_LABEL: job["metadata"]["labels"][ATTEMPT_LABEL]}
        found = self._api.find("Pod", _cluster(spec).namespace, labels)
        return pods_of({"kind": _kind(spec), **job}, found)

    def _events(
        self, spec: TrainJobSpec, job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """What the cluster says of the job and of its first pods: a namespace may have thousands of events of others. Where no pod
        of a JobSet can be made, its Jobs are told why."""
        namespace, names = _cluster(spec).namespace, [job["metadata"]["name"]]
        if _kind(spec) == "JobSet":
            children = self._api.find("Job", namespace, {JOBSET_LABEL: job["metadata"]["name"]})
            names += [child["metadata"]["name"] for child in children[:MOST_EVENTS_OF]]
        names += [pod["metadata"]["name"] for pod in pods[:MOST_EVENTS_OF]]
        return [
            event
            for name in names
            for event in self._api.find("Event", namespace, fields=f"involvedObject.name={name}")
        ]

    def _workload(self, namespace: str, job: Mapping[str, Any]) -> dict[str, Any] | None:
        """What Kueue made of a job; None where it has made nothing yet, or may not be asked."""
        for kind in ("Workload", "OlderWorkload"):
            try:
                found = self._api.find(kind, namespace, {WORKLOAD_LABEL: job["metadata"]["uid"]})
            except (ConfigError, NotThereError) as error:
                log.debug("Kueue's Workload cannot be asked: %s", error)
                continue
            return max(found, key=lambda item: str(item["metadata"].get("creationTimestamp", "")), default=None)
        return None

    def get(self, spec: TrainJobSpec) -> JobStatus:
        """See `Backend`; a job whose pods cannot begin has failed, with the reason: `clear` ends it."""
        job = self.newest(spec)
        if job is None:
            return JobStatus("absent")
        state = self._state(spec, job)
        if state.phase == "succeeded":
            return self._ended(spec, job, state, JobStatus("succeeded", 0))
        if state.phase == "failed":
            return self._ended(spec, job, state, JobStatus("failed", state.code, state.cause))
        if state.hopeless:
            cause = {
                "type": "ConfigError",
                "what": "The job's pods cannot begin",
                "where": f"{_cluster(spec).namespace}/{attempt_name(spec, state.attempt)}",
                "why": state.waiting,
                "remedy": "correct jobs.cluster in the recipe, or what the cluster lacks",
            }
            return self._ended(spec, job, state, JobStatus("failed", 64, cause))
        if state.phase == "ending":
            self._end_peers_of_dead(spec, job)
        return JobStatus("running", attempt=state.attempt, waiting=state.waiting)

    def _ended(self, spec: TrainJobSpec, job: Mapping[str, Any], state: State, status: JobStatus) -> JobStatus:
        """A state with what the attempt took, and where the next had better not run."""
        cluster = _cluster(spec)
        devices = cluster.gpus_per_node * spec.nodes or max(1, spec.processes)
        code = int(status.exit_code or 0)
        usage = usage_of(job, self._pods(spec, job), spec.name, state.attempt, devices, code, self._now())
        return replace(
            status,
            attempt=state.attempt,
            bad_nodes=state.bad_nodes,
            failed_pod=state.failed_pod,
            usage=usage.to_dict(),
        )

    def _end_peers_of_dead(self, spec: TrainJobSpec, job: Mapping[str, Any]) -> None:
        """Where one pod's node does not answer, the others wait for it: end them, so that the attempt comes to an end."""
        pods, now = self._pods(spec, job), self._now()
        if any(is_living(pod) and is_dead(pod, now) for pod in pods):
            for pod in pods:
                if is_living(pod) and not pod["metadata"].get("deletionTimestamp"):
                    self._api.delete("Pod", pod["metadata"]["namespace"], pod["metadata"]["name"])

    def stopped(self, spec: TrainJobSpec, code: int, cause: dict[str, Any]) -> JobStatus:
        """The state of a job that is to end for a reason of our own; `clear` ends it."""
        job = self.newest(spec)
        status = JobStatus("failed", code, cause)
        return status if job is None else self._ended(spec, job, self._state(spec, job), status)

    def clear(self, spec: TrainJobSpec) -> None:
        """End the newest attempt where it has not ended by itself; what has is kept, for whoever looks."""
        job = self.newest(spec)
        if job is not None and not _has_ended(job):
            self._delete(spec, job)

    def attempt(self, spec: TrainJobSpec) -> int:
        """The number of the newest attempt; 0: there is none."""
        job = self.newest(spec)
        return int(job["metadata"]["labels"][ATTEMPT_LABEL]) if job is not None else 0

    def log_cursors(self, spec: TrainJobSpec) -> dict[str, Any]:
        """Where an earlier reader left the newest attempt's logs: kept with the job itself, so that a reader that died needs no disk."""
        job = self.newest(spec)
        kept = (job["metadata"].get("annotations") or {}).get(LOG_CURSORS_ANNOTATION) if job is not None else None
        return dict(json.loads(kept)) if kept else {}

    def keep_log_cursors(self, spec: TrainJobSpec, cursors: Mapping[str, Any]) -> None:
        """Keep them."""
        self._annotate_newest(spec, LOG_CURSORS_ANNOTATION, json.dumps(cursors, sort_keys=True))

    def lease(self, spec: TrainJobSpec, holder: str) -> None:
        """Say on the newest attempt who follows it: whoever came last."""
        self._annotate_newest(spec, HOLDER_ANNOTATION, holder)

    def holder(self, spec: TrainJobSpec) -> str | None:
        """Who follows the newest attempt, or None where there is none, or nobody said so."""
        job = self.newest(spec)
        return (job["metadata"].get("annotations") or {}).get(HOLDER_ANNOTATION) if job is not None else None

    def _annotate_newest(self, spec: TrainJobSpec, key: str, value: str) -> None:
        job = self.newest(spec)
        if job is not None:
            self._annotate({"kind": _kind(spec), **job}, key, value)

    def _annotate(self, job: Mapping[str, Any], key: str, value: str) -> None:
        changes = {"metadata": {"annotations": {key: value}}}
        try:
            self._api.patch(job["kind"], job["metadata"]["namespace"], job["metadata"]["name"], changes)
        except NotThereError:  # somebody deleted it meanwhile; the next look says so
            return

    def tail(
        self, spec: TrainJobSpec, cursors: Mapping[str, Any] | None = None, skip: Collection[str] = ()
    ) -> RankLogs:
        """The newest attempt's logs, from where an earlier reader's cursors say; without those of some pods."""
        state = self.state(spec)
        pods = [pod for pod in state.pods if pod not in skip] if state is not None else []
        return RankLogs(self._api, _cluster(spec).namespace, pods, cursors)

    def last_lines(self, spec: TrainJobSpec, pod: str, lines: int = 40) -> list[str]:
        """The end of one pod's log."""
        return self._api.pod_tail(_cluster(spec).namespace, pod, CONTAINER, lines)

    def cancel(self, spec: TrainJobSpec) -> None:
        """End the newest attempt: its pods have their grace time, then they and what belongs to the job are gone."""
        job = self.newest(spec)
        if job is not None:
            self._delete(spec, job)

    def _delete(self, spec: TrainJobSpec, job: Mapping[str, Any]) -> None:
        self._api.delete(_kind(spec), job["metadata"]["namespace"], job["metadata"]["name"])


def _shortened(ended: Ended) -> dict[str, Any]:
    cause = {
        key: value[:REMEMBERED_CHARACTERS] if isinstance(value, str) else value for key, value in ended.cause.items()
    }
    return {**asdict(ended), "cause": cause}


def _waits_since(job: Mapping[str, Any], pods: Sequence[Mapping[str, Any]], queued: bool) -> datetime | None:
    """Since when a job's pods might have begun and have not; None: that is not known, or none of them waits."""
    waiting = [pod for pod in pods if (pod.get("status") or {}).get("phase") in ("Pending", None)]
    if waiting:
        made = [moment(pod["metadata"].get("creationTimestamp")) for pod in waiting]
        return min((time for time in made if time is not None), default=None)
    status = job.get("status") or {}
    if pods or status.get("active") or status.get("succeeded"):
        return None  # a pod that is gone is not one that waits
    admitted = next((item for item in status.get("conditions") or () if item["type"] == "Suspended"), None)
    if admitted is not None:
        return moment(admitted.get("lastTransitionTime")) if admitted.get("status") == "False" else None
    return moment(status.get("startTime") or (None if queued else job["metadata"].get("creationTimestamp")))


def _has_ended(job: Mapping[str, Any]) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(
        item["type"] in ("Complete", "Completed", "Failed") and item.get("status") == "True" for item in conditions
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


if TYPE_CHECKING:
    _whole: Callable[[Api], Backend] = KubernetesBackend
