"""What a Job controller does, as a real one of 1.36 did it: a failed pod's peers are deleted, conditions come in order, a suspended
job has no pods, deadlines and times to live are kept.
"""

from __future__ import annotations

import copy
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.jobs.fake_kubelet import INDEX

if TYPE_CHECKING:
    from tests.jobs.fake_cluster import FakeCluster

ENDED = ("Complete", "Failed")
TARGETS = {"SuccessCriteriaMet": "Complete", "FailureTarget": "Failed"}
"""What is decided → what it becomes once no pod is left running."""


class JobController:
    """Brings the jobs of a cluster on, a step a call."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster
        self._made: dict[str, set[str]] = {}
        """Job's uid → indexes that have had a pod: one that is missing was lost."""

    def reconcile(self, namespace: str, job: dict[str, Any]) -> None:
        """One look at a job, and what follows of it."""
        status, spec = job["status"], job["spec"]
        conditions = status.setdefault("conditions", [])
        pods = self._pods(namespace, job)
        active = [pod for pod in pods if pod["status"]["phase"] in ("Pending", "Running")]
        if _true(conditions, *ENDED):
            self._expire(namespace, job)
            return
        target = _true(conditions, *TARGETS)
        if target is not None:
            self._end(namespace, active)
            if not active:
                self._condition(job, TARGETS[target["type"]], target["reason"], target["message"])
                status["completionTime"] = self._cluster.now()
            return
        if spec.get("suspend"):
            self._suspend(namespace, job, active)
            return
        if _true(conditions, "Suspended"):
            self._condition(job, "Suspended", "JobResumed", "Job resumed", "False")
            status.pop("startTime", None)
        if "startTime" not in status:
            status["startTime"] = self._cluster.now()
        limit = spec.get("activeDeadlineSeconds")
        if limit is not None and _age(status["startTime"]) > limit:
            self._condition(job, "FailureTarget", "DeadlineExceeded", "Job was active longer than specified deadline")
            return
        self._count(namespace, job, pods)

    def _count(self, namespace: str, job: dict[str, Any], pods: list[dict[str, Any]]) -> None:
        spec = job["spec"]
        made = {pod["metadata"]["labels"][INDEX] for pod in pods}
        known = self._made.setdefault(job["metadata"]["uid"], set())
        failed = [pod for pod in pods if pod["status"]["phase"] == "Failed"]
        if failed:
            self._fail(job, failed[0])
        elif known - made:
            self._condition(job, "FailureTarget", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        elif sum(pod["status"]["phase"] == "Succeeded" for pod in pods) == spec["completions"]:
            self._condition(
                job, "SuccessCriteriaMet", "CompletionsReached", "Reached expected number of succeeded pods"
            )
        else:
            for index in range(spec["completions"]):
                if str(index) not in made and self._may_make(namespace, job):
                    known.add(str(index))
                    self._make_pod(namespace, job, index)

    def _pods(self, namespace: str, job: dict[str, Any]) -> list[dict[str, Any]]:
        name = job["metadata"]["name"]
        return [
            pod
            for (plural, place, _), pod in self._cluster.objects.items()
            if plural == "pods" and place == namespace and pod["metadata"]["labels"].get("job-name") == name
        ]

    def _end(self, namespace: str, pods: list[dict[str, Any]]) -> None:
        for pod in pods:
            if "deletionTimestamp" not in pod["metadata"]:
                self._cluster.delete(("pods", namespace, pod["metadata"]["name"]))

    def _suspend(self, namespace: str, job: dict[str, Any], active: list[dict[str, Any]]) -> None:
        if not _true(job["status"]["conditions"], "Suspended"):
            self._condition(job, "Suspended", "JobSuspended", "Job suspended")
        self._end(namespace, active)
        self._made.pop(job["metadata"]["uid"], None)
        job["status"].pop("startTime", None)

    def _expire(self, namespace: str, job: dict[str, Any]) -> None:
        """A time to live that is over takes the job with all that is its own."""
        limit = job["spec"].get("ttlSecondsAfterFinished")
        if limit is not None and _age(job["status"]["completionTime"]) > limit:
            self._cluster.delete(("jobs", namespace, job["metadata"]["name"]))

    def _may_make(self, namespace: str, job: dict[str, Any]) -> bool:
        requests = job["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
        for resource, most in self._cluster.quota.items():
            if int(requests.get(resource, 0)) > most:
                self._cluster.tell(
                    namespace,
                    job,
                    "FailedCreate",
                    f"Error creating: pods is forbidden: exceeded quota: compute, requested: {resource}={requests[resource]}, limited: {resource}={most}",
                )
                return False
        return True

    def _make_pod(self, namespace: str, job: dict[str, Any], index: int) -> None:
        name = f"{job['metadata']['name']}-{index}-{uuid.uuid4().hex[:5]}"
        template = copy.deepcopy(job["spec"]["template"])
        labels = {**template["metadata"].get("labels", {}), "job-name": job["metadata"]["name"], INDEX: str(index)}
        labels["batch.kubernetes.io/controller-uid"] = job["metadata"]["uid"]
        annotations = {**template["metadata"].get("annotations", {}), INDEX: str(index)}
        self._cluster.objects["pods", namespace, name] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": str(uuid.uuid4()),
                "creationTimestamp": self._cluster.now(),
                "labels": labels,
                "annotations": annotations,
                "ownerReferences": [{"kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}],
            },
            "spec": {**template["spec"], "hostname": f"{job['metadata']['name']}-{index}"},
            "status": {"phase": "Pending", "conditions": []},
        }

    def _fail(self, job: dict[str, Any], pod: dict[str, Any]) -> None:
        """Failed by its podFailurePolicy, else by its backoff limit of nothing."""
        code = next(
            (
                c["state"]["terminated"]["exitCode"]
                for c in pod["status"].get("containerStatuses", ())
                if "terminated" in c["state"]
            ),
            None,
        )
        disrupted = any(item["type"] == "DisruptionTarget" for item in pod["status"]["conditions"])
        named = f"hyperclova/{pod['metadata']['name']}"
        for number, rule in enumerate(job["spec"]["podFailurePolicy"]["rules"]):
            if code is not None and code in rule.get("onExitCodes", {}).get("values", ()):
                message = f"Container job for pod {named} failed with exit code {code} matching FailJob rule at index {number}"
            elif disrupted and rule.get("onPodConditions"):
                message = f"Pod {named} has condition DisruptionTarget matching FailJob rule at index {number}"
            else:
                continue
            self._condition(job, "FailureTarget", "PodFailurePolicy", message)
            return
        self._condition(job, "FailureTarget", "BackoffLimitExceeded", "Job has reached the specified backoff limit")

    def _condition(self, job: dict[str, Any], kind: str, reason: str, message: str, status: str = "True") -> None:
        conditions = job["status"].setdefault("conditions", [])
        conditions[:] = [item for item in conditions if item["type"] != kind]
        conditions.append(
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": message,
                "lastTransitionTime": self._cluster.now(),
            }
        )
        self._cluster.touch(job)


def _true(conditions: list[dict[str, Any]], *kinds: str) -> dict[str, Any] | None:
    return next((item for item in conditions if item["type"] in kinds and item["status"] == "True"), None)


def _age(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment.replace("Z", "+00:00"))).total_seconds()
