"""What a Job, its pods and its events say, in our terms: a pure function over what the API server answers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from hyperclova_core.foundation.errors import PreemptedError
from hyperclova_core.jobs.failure_causes import PREEMPTED, cause_of
from hyperclova_core.jobs.gpu_hours import Usage
from hyperclova_core.jobs.kubernetes.manifests import ATTEMPT_LABEL, CONTAINER, HASH_ANNOTATION, INDEX_ANNOTATION

Object = Mapping[str, Any]

HOPELESS_SECONDS = 600.0
"""What seldom mends itself (an image name that is wrong, a secret that is missing) is given so long to be put right, or pulled again."""
LINGER_SECONDS = 15.0
DEAD_SECONDS = 60.0
"""Beyond a pod's grace time: a kubelet that has not ended it by then does not answer, and nobody else ends it."""
OWNER_LABELS = ("batch.kubernetes.io/controller-uid", "jobset.sigs.k8s.io/jobset-uid")
EVICTED_REMEDY = "raise what the message names: jobs.cluster.memory, or scratch"
UNRECOVERABLE_WAITS = {
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
        phase: `queued` (suspended, waiting for its gang), `starting`, `running`, `ending` (a pod has failed, others still have their grace
            time), `succeeded`, `failed`.
        code, cause: when it failed; failed_pod: whose log tells why; bad_nodes: where the next attempt had better not run.
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


def pods_of(job: Object, pods: Sequence[Object]) -> list[Object]:
    """Those that this very object made: one of the same name that was deleted may have left pods that are still ending."""
    uid = job["metadata"].get("uid")
    found = []
    for pod in pods:
        labels = pod["metadata"].get("labels") or {}
        owner = labels.get(OWNER_LABELS[1 if job.get("kind") == "JobSet" else 0])
        if owner is None or uid is None or owner == uid:
            found.append(pod)
    return found


def is_dead(pod: Object, now: datetime) -> bool:
    """Whether a pod should be gone and is not: `deletionTimestamp` is the moment when its grace time is over."""
    due = moment(pod["metadata"].get("deletionTimestamp"))
    return due is not None and (now - due).total_seconds() > DEAD_SECONDS


def is_living(pod: Object) -> bool:
    """Whether it has not ended."""
    return (pod.get("status") or {}).get("phase") in ("Pending", "Running", "Unknown", None)


def state_of(
    job: Object,
    pods: Sequence[Object],
    events: Sequence[Object] = (),
    now: datetime | None = None,
    workload: Object | None = None,
    child: Object | None = None,
    seen: Mapping[str, Ended] | None = None,
) -> State:
    """The state of a Job or a JobSet.

    Args:
        pods: of this attempt; events: of the job and its pods.
        now: to reckon how long pods wait.
        workload: what Kueue made of the job, for why it is not admitted.
        child: of a JobSet, the Job that failed.
        seen: how pods ended that are gone by now, from a look while they were there.
    """
    now = now or datetime.now(UTC)
    attempt = int(job["metadata"]["labels"][ATTEMPT_LABEL])
    spec_hash = job["metadata"]["annotations"][HASH_ANNOTATION]
    conditions = {
        item["type"]: item for item in (job.get("status") or {}).get("conditions") or () if item.get("status") == "True"
    }
    names = tuple(pod["metadata"]["name"] for pod in sorted(pods, key=index_of))
    if "Complete" in conditions or "Completed" in conditions:
        return State("succeeded", attempt, spec_hash, 0, pods=names)
    failed = conditions.get("Failed")
    if failed is not None and child is not None:
        told = (child.get("status") or {}).get("conditions") or ()
        failed = next((item for item in told if item["type"] == "Failed" and item.get("status") == "True"), failed)
    dead = [pod for pod in pods if is_living(pod) and is_dead(pod, now)]
    living = [pod for pod in pods if is_living(pod) and not is_dead(pod, now)]
    wanted = int(job["spec"].get("completions") or _completions(job))
    if dead and not living and (failed is None or failed.get("reason") != "DeadlineExceeded"):
        # the job itself waits for a word of them, for ever; what its other pods say comes of being ended for it
        nodes = tuple(sorted({str((pod.get("spec") or {}).get("nodeName", "")) for pod in dead} - {""}))
        first = dead[0]["metadata"]["name"]
        cause = {
            "what": f"Pod {first} should have ended, and its node does not answer",
            "where": f"node {', '.join(nodes)}",
            "why": f"its grace time was over at {dead[0]['metadata']['deletionTimestamp']}",
            "remedy": "look at the node; the next attempt runs elsewhere",
        }
        return State("failed", attempt, spec_hash, 72, cause, None, nodes, pods=names)
    if failed is not None and not (living and _may_be_ending(failed, pods, now)):
        ended = _why_failed(failed, pods, wanted, seen or {})
        return State(
            "failed",
            attempt,
            spec_hash,
            ended.code,
            ended.cause,
            ended.pod or None,
            _bad_nodes(ended, failed, pods, wanted),
            pods=names,
        )
    if failed is not None or "FailureTarget" in conditions:
        # its other pods have their grace time still: another attempt beside them would write where they write
        return State("ending", attempt, spec_hash, pods=names)
    if job["spec"].get("suspend"):
        words, hopeless = _why_queued(workload)
        return State("queued", attempt, spec_hash, waiting=words, hopeless=hopeless, pods=names)
    running = [pod for pod in pods if (pod.get("status") or {}).get("phase") in ("Running", "Succeeded")]
    if any(
        pod["metadata"].get("deletionTimestamp") or (pod.get("status") or {}).get("phase") == "Failed" for pod in pods
    ):
        return State("ending", attempt, spec_hash, pods=names)
    # pods that ended well may be gone, with a node that was given back
    done = int((job.get("status") or {}).get("succeeded") or 0)
    seen_done = sum(1 for pod in pods if (pod.get("status") or {}).get("phase") == "Succeeded")
    if len(running) + max(0, done - seen_done) >= wanted:
        return State("running", attempt, spec_hash, pods=names)
    waiting, hopeless = why_waiting(pods, events, now)
    return State("starting", attempt, spec_hash, waiting=waiting, hopeless=hopeless, pods=names)


def _completions(job: Object) -> int:
    replicated = job["spec"].get("replicatedJobs") or ()
    return (
        sum(int(item["template"]["spec"].get("completions", 1)) * int(item.get("replicas", 1)) for item in replicated)
        or 1
    )


def _why_queued(workload: Object | None) -> tuple[str, bool]:
    """What Kueue says of a job that it holds back, and whether only a person can let it go on."""
    words = "it waits for its gang to be admitted by the queue"
    for kind in ("Evicted", "QuotaReserved", "Admitted"):
        for item in ((workload or {}).get("status") or {}).get("conditions") or ():
            reason, message = str(item.get("reason", kind)), str(item.get("message", ""))
            if item.get("type") != kind or item.get("status") != ("True" if kind == "Evicted" else "False"):
                continue
            if kind == "Evicted" and reason.startswith(("Deactivated", "InactiveWorkload")):
                return f"the queue has put it aside: {reason}: {message}", True
            if kind != "Evicted" and message:
                return f"{words}: {reason}: {scheduling(message)}", False
    return words, False


def _why_failed(condition: Object, pods: Sequence[Object], wanted: int, seen: Mapping[str, Ended]) -> Ended:
    """The pod that failed first, and not for want of another; else what the Job itself says."""
    reason, message = condition.get("reason", ""), condition.get("message", "")
    if reason == "DeadlineExceeded":
        cause = {"what": "The job's deadline has passed", "why": message, "remedy": cause_of(124).remedy}
        return Ended("", "", 0, 124, cause, condition.get("lastTransitionTime", ""))
    found = sorted(
        (ended for ended in (ended_of(pod) for pod in pods) if ended is not None and ended.code),
        key=lambda ended: (
            ended.code == 72,
            _asked(ended),
            ended.at,
            ended.rank,
        ),
    )
    named = _named_by(message)
    if found and (named is None or found[0].code == named[0] or not (found[0].code == 72 or _asked(found[0]))):
        return found[0]
    if named is not None:
        code, pod = named
        if pod in seen:
            return seen[pod]
        cause = {"what": f"Pod {pod} failed first, and is gone", "why": message, "remedy": cause_of(code).remedy}
        return Ended(pod, "", 0, code, cause, condition.get("lastTransitionTime", ""))
    if len(pods) < wanted:
        gone = wanted - len(pods)
        cause = {
            "what": f"{gone} of the job's {wanted} pods {'is' if gone == 1 else 'are'} gone",
            "why": f"deleted, or lost with a node; the job says: {reason}: {message}",
        }
        return Ended("", "", 0, 72, cause, condition.get("lastTransitionTime", ""))
    cause = {"what": "The job failed", "why": f"{reason}: {message}"}
    return Ended("", "", 0, 1, cause, condition.get("lastTransitionTime", ""))


def _asked(ended: Ended) -> bool:
    """Whether a pod ended because it was asked to, or was killed: what its peers' failure brings with it, in the same second too."""
    return ended.code in (143, 137) and ended.cause.get("type") in (None, "", PreemptedError.__name__)


def _may_be_ending(failed: Object, pods: Sequence[Object], now: datetime) -> bool:
    """Whether a failed job's pods may still be ending by themselves: not longer than the longest grace time."""
    since = moment(failed.get("lastTransitionTime"))
    grace = max((float((pod.get("spec") or {}).get("terminationGracePeriodSeconds", 30)) for pod in pods), default=30.0)
    return since is not None and (now - since).total_seconds() < grace + LINGER_SECONDS


def _named_by(message: str) -> tuple[int, str] | None:
    """The exit code and pod that a podFailurePolicy's message names: the pod itself may be gone."""
    found = re.search(r"pod \S*?/?([\w.-]+) failed with exit code (\d+)", message)
    if found:
        return int(found[2]), found[1]
    found = re.search(r"[Pp]od \S*?/?([\w.-]+) has condition DisruptionTarget", message)
    if found:
        return 75, found[1]
    return None


def _bad_nodes(first: Ended, failed: Object, pods: Sequence[Object], wanted: int) -> tuple[str, ...]:
    """Nodes that the next attempt had better not use: of the first pod that failed for want of communication.

    A pod that was gone before took its node's name along, and its peers' nodes are good: then the Job fails by
    BackoffLimitExceeded, or names the pod that was disrupted. Where it names this very pod's exit code, the others were still
    there: the Job's controller deletes them once one has failed.
    """
    if first.code != 72 or not first.node:
        return ()
    named = _named_by(failed.get("message", ""))
    return (first.node,) if len(pods) >= wanted or named == (72, first.pod) else ()


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
    if status.get("reason") == "Evicted" and (terminated is None or int(terminated["exitCode"]) != PREEMPTED):
        # for what it used itself: it would be evicted again (a kubelet sets DisruptionTarget, too)
        cause = {
            "what": f"Pod {name} was evicted",
            "where": f"node {node}",
            "why": status.get("message", ""),
            "remedy": EVICTED_REMEDY,
        }
        at = (terminated or {}).get("finishedAt") or status.get("startTime", "")
        return Ended(name, node, rank, 70, cause, at)
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
        evicted = status.get("reason") in ("Preempting", "Preempted")
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


def why_waiting(pods: Sequence[Object], events: Sequence[Object], now: datetime) -> tuple[str, bool]:
    """Why pods have not begun, and whether it will not mend itself."""
    for pod in sorted(pods, key=index_of):
        name, status = pod["metadata"]["name"], pod.get("status") or {}
        began = moment(pod["metadata"].get("creationTimestamp")) or now
        old = (now - began).total_seconds() >= HOPELESS_SECONDS
        for container in status.get("containerStatuses") or ():
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in UNRECOVERABLE_WAITS:
                words = UNRECOVERABLE_WAITS[waiting["reason"]]
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
            return f"pod {name}: {mounting[-1].get('message', '')}", False
    failing = [event for event in events if event.get("reason") in ("FailedCreate", "FailedCreatePod")]
    if failing:
        message = failing[-1].get("message", "")
        return f"no pod can be made: {message}", False
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


def usage_of(
    job: Mapping[str, Any],
    pods: Sequence[Mapping[str, Any]],
    name: str,
    attempt: int,
    devices: int,
    code: int,
    now: datetime,
) -> Usage:
    """What an attempt on a cluster took, by the times that the cluster gives."""
    created = moment(job["metadata"].get("creationTimestamp")) or now
    begun = [moment((pod.get("status") or {}).get("startTime")) for pod in pods]
    known = [time for time in begun if time is not None]
    ends = [moment(ended.at) for ended in (ended_of(pod) for pod in pods) if ended is not None]
    conditions = (job.get("status") or {}).get("conditions") or ()
    ends += [
        moment(item.get("lastTransitionTime"))
        for item in conditions
        if item.get("type") in ("Complete", "Completed", "Failed")
    ]
    end = max((time for time in ends if time is not None), default=now)
    # pods that are gone took their times along: the job's own is the nearest; pods that are there and have no time never had a node
    own = None if pods else moment((job.get("status") or {}).get("startTime"))
    start = max(known, default=own or end)
    return Usage(
        name,
        attempt,
        devices,
        max(0.0, (start - created).total_seconds()),
        max(0.0, (end - start).total_seconds()),
        code,
    )
