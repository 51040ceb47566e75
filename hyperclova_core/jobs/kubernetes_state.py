"""What a Job, its pods and its events say, in our terms: a pure function over what the API server answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hyperclova_core.jobs.causes import cause_of
from hyperclova_core.jobs.render import ATTEMPT_LABEL, CONTAINER, HASH_ANNOTATION, INDEX_ANNOTATION

Object = Mapping[str, Any]

HOPELESS_SECONDS = 120.0
"""What does not mend itself (an image name that is wrong, a secret that is missing) is given so long to be put right."""
HOPELESS = {
    "ErrImageNeverPull": "the image is not on the node, and must not be pulled",
    "InvalidImageName": "the image's name is not valid",
    "ErrImagePull": "the image cannot be pulled",
    "ImagePullBackOff": "the image cannot be pulled",
    "CreateContainerConfigError": "a secret or configuration that the container needs is missing",
    "CreateContainerError": "the container cannot be made",
    "RunContainerError": "the container cannot be started",
}


@dataclass(frozen=True)
class Ended:
    """How one pod ended.

    Args:
        code: by our table; cause: what the launcher wrote, or what the cluster says.
    """

    pod: str
    node: str
    rank: int
    code: int
    cause: dict[str, Any]
    at: str


@dataclass(frozen=True)
class State:
    """A Job's state.

    Args:
        phase: `queued` (suspended, waiting for its gang), `starting`, `running`, `succeeded`, `failed`.
        code, cause: when it failed; failed_pod: whose log tells why; bad_nodes: where ranks were lost.
        waiting: why pods do not begin, in words; hopeless: and whether waiting longer helps.
    """

    phase: str
    attempt: int
    spec_hash: str
    code: int | None = None
    cause: dict[str, Any] = field(default_factory=dict)
    failed_pod: str | None = None
    bad_nodes: tuple[str, ...] = ()
    waiting: str = ""
    hopeless: bool = False
    pods: tuple[str, ...] = ()


def moment(text: str | None) -> datetime | None:
    """A time as the API writes it."""
    if not text:
        return None
    whole, _, rest = text.rstrip("Z").partition(".")
    micro = (rest + "000000")[:6] if rest else "000000"
    return datetime.fromisoformat(f"{whole}.{micro}+00:00")


def index_of(pod: Object) -> int:
    """The pod's number in its job."""
    annotations = pod["metadata"].get("annotations") or {}
    return int(annotations.get(INDEX_ANNOTATION, (pod["metadata"].get("labels") or {}).get(INDEX_ANNOTATION, 0)))


def state_of(job: Object, pods: Sequence[Object], events: Sequence[Object] = (), now: datetime | None = None) -> State:
    """The state of a Job or a JobSet.

    Args:
        pods: of this attempt; events: of the job and its pods.
        now: to reckon how long pods wait.
    """
    attempt = int(job["metadata"]["labels"][ATTEMPT_LABEL])
    spec_hash = job["metadata"]["annotations"][HASH_ANNOTATION]
    conditions = {
        item["type"]: item for item in (job.get("status") or {}).get("conditions") or () if item.get("status") == "True"
    }
    names = tuple(pod["metadata"]["name"] for pod in sorted(pods, key=index_of))
    if "Complete" in conditions or "Completed" in conditions:
        return State("succeeded", attempt, spec_hash, 0, pods=names)
    failed = conditions.get("Failed") or conditions.get("FailureTarget")
    if failed is not None:
        ended = _why_failed(failed, pods, int(job["spec"].get("completions") or _completions(job)))
        return State(
            "failed",
            attempt,
            spec_hash,
            ended.code,
            ended.cause,
            ended.pod or None,
            tuple(sorted({pod.node for pod in _lost(pods) if pod.node})),
            pods=names,
        )
    if job["spec"].get("suspend"):
        return State(
            "queued", attempt, spec_hash, waiting="it waits for its gang to be admitted by the queue", pods=names
        )
    running = [pod for pod in pods if (pod.get("status") or {}).get("phase") in ("Running", "Succeeded")]
    wanted = int(job["spec"].get("completions") or _completions(job))
    if len(running) >= wanted:
        return State("running", attempt, spec_hash, pods=names)
    waiting, hopeless = _why_waiting(job, pods, events, now or datetime.now(UTC))
    return State("starting", attempt, spec_hash, waiting=waiting, hopeless=hopeless, pods=names)


def _completions(job: Object) -> int:
    replicated = job["spec"].get("replicatedJobs") or ()
    return (
        sum(int(item["template"]["spec"].get("completions", 1)) * int(item.get("replicas", 1)) for item in replicated)
        or 1
    )


def _why_failed(condition: Object, pods: Sequence[Object], wanted: int) -> Ended:
    """The pod that failed first, and not for want of another; else what the Job itself says."""
    reason, message = condition.get("reason", ""), condition.get("message", "")
    if reason == "DeadlineExceeded":
        cause = {"what": "The job's deadline has passed", "why": message, "remedy": cause_of(124).remedy}
        return Ended("", "", 0, 124, cause, condition.get("lastTransitionTime", ""))
    found = sorted(
        (ended for ended in (ended_of(pod) for pod in pods) if ended is not None and ended.code),
        key=lambda ended: (
            ended.code == 72,
            ended.code in (143, 137) and not ended.cause.get("type"),
            ended.at,
            ended.rank,
        ),
    )
    if found:
        return found[0]
    if len(pods) < wanted:
        gone = wanted - len(pods)
        cause = {
            "what": f"{gone} of the job's {wanted} pods {'is' if gone == 1 else 'are'} gone",
            "why": f"deleted, or lost with a node; the job says: {reason}: {message}",
        }
        return Ended("", "", 0, 72, cause, condition.get("lastTransitionTime", ""))
    cause = {"what": "The job failed", "why": f"{reason}: {message}"}
    return Ended("", "", 0, 1, cause, condition.get("lastTransitionTime", ""))


def _lost(pods: Sequence[Object]) -> list[Ended]:
    return [ended for ended in (ended_of(pod) for pod in pods) if ended is not None and ended.code == 72]


def ended_of(pod: Object) -> Ended | None:
    """How a pod ended, or None while it has not."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    name, node, rank = metadata["name"], (pod.get("spec") or {}).get("nodeName", ""), index_of(pod)
    disruption = next(
        (
            item
            for item in status.get("conditions") or ()
            if item["type"] == "DisruptionTarget" and item.get("status") == "True"
        ),
        None,
    )
    terminated = next(
        (
            container["state"]["terminated"]
            for container in status.get("containerStatuses") or ()
            if container["name"] == CONTAINER and (container.get("state") or {}).get("terminated")
        ),
        None,
    )
    if disruption is not None and (terminated is None or terminated["exitCode"] != 0):
        cause = {
            "what": f"Pod {name} was taken away",
            "where": f"node {node}" if node else "",
            "why": f"{disruption.get('reason', '')}: {disruption.get('message', '')}".strip(": "),
        }
        return Ended(name, node, rank, 75, cause, disruption.get("lastTransitionTime", ""))
    if terminated is None:
        if status.get("phase") != "Failed":
            return None
        cause = {
            "what": f"Pod {name} failed",
            "why": f"{status.get('reason', '')}: {status.get('message', '')}".strip(": "),
        }
        lost = status.get("reason") in (
            "NodeLost",
            "Terminated",
            "Shutdown",
            "NodeShutdown",
            "UnexpectedAdmissionError",
        )
        evicted = status.get("reason") in ("Evicted", "Preempting", "Preempted")
        return Ended(name, node, rank, 75 if evicted else 72 if lost else 1, cause, status.get("startTime", ""))
    code = int(terminated["exitCode"])
    told = _told(terminated.get("message"))
    if terminated.get("reason") == "OOMKilled":
        cause = {
            "what": f"Rank {rank}'s container was killed for its memory",
            "where": f"pod {name}",
            "why": "it used more than its limit (OOMKilled)",
            "remedy": cause_of(70).remedy,
        }
        return Ended(name, node, rank, 70, cause, terminated.get("finishedAt", ""))
    return Ended(name, node, rank, code, {"where": f"pod {name}", **told}, terminated.get("finishedAt", ""))


def _told(message: str | None) -> dict[str, Any]:
    """The launcher's cause in a termination message; a message of another kind in words."""
    if not message:
        return {}
    try:
        found = json.loads(message)
    except json.JSONDecodeError:
        return {"what": "The container says", "why": message[-500:]}
    cause = found.get("cause") if isinstance(found, dict) else None
    return dict(cause) if isinstance(cause, dict) else {}


def _why_waiting(job: Object, pods: Sequence[Object], events: Sequence[Object], now: datetime) -> tuple[str, bool]:
    """Why pods have not begun, and whether it will not mend itself."""
    for pod in sorted(pods, key=index_of):
        name, status = pod["metadata"]["name"], pod.get("status") or {}
        began = moment(pod["metadata"].get("creationTimestamp")) or now
        old = (now - began).total_seconds() >= HOPELESS_SECONDS
        for container in status.get("containerStatuses") or ():
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in HOPELESS:
                words = HOPELESS[waiting["reason"]]
                return f"pod {name}: {words} ({waiting['reason']}: {waiting.get('message', '')})", old
        for condition in status.get("conditions") or ():
            if condition["type"] == "PodScheduled" and condition.get("status") == "False":
                return f"pod {name} finds no node: {scheduling(condition.get('message', ''))}", False
        mounting = [
            event
            for event in events
            if event["involvedObject"].get("name") == name
            and event.get("reason") in ("FailedMount", "FailedAttachVolume")
        ]
        if mounting:
            return f"pod {name}: {mounting[-1].get('message', '')}", old
    created = moment(job["metadata"].get("creationTimestamp")) or now
    failing = [event for event in events if event.get("reason") in ("FailedCreate", "FailedCreatePod")]
    if failing:
        message = failing[-1].get("message", "")
        return f"no pod can be made: {message}", (now - created).total_seconds() >= HOPELESS_SECONDS
    return ("pods are being made" if not pods else "containers are being made"), False


def scheduling(message: str) -> str:
    """The scheduler's message with the resource that is short in front of it."""
    short = sorted(set(re.findall(r"Insufficient ([\w./-]*\w)", message)))
    selector = "didn't match Pod's node affinity/selector" in message
    parts = []
    if short:
        parts.append(f"too little {', '.join(short)}")
    if selector:
        parts.append("no node matches the node selector")
    if "had untolerated taint" in message:
        parts.append("nodes have taints that the job does not tolerate")
    return f"{'; '.join(parts)} ({message})" if parts else message
