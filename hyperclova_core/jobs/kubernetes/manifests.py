"""A job's manifests, as a pure function of its specification and attempt: no cluster is asked, equal specs give equal bytes."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.jobs.config import ClusterConfig, PodConfig, Volume
from hyperclova_core.jobs.failure_causes import FINAL_CODES, PREEMPTED
from hyperclova_core.jobs.spec import TrainJobSpec, cluster_name, refuse_partial_gang, unpacked

JOB_LABEL, ATTEMPT_LABEL = "hyperclova.io/job", "hyperclova.io/attempt"
HASH_ANNOTATION, SPEC_ANNOTATION = "hyperclova.io/spec-hash", "hyperclova.io/spec"
CONTAINER = "job"
SPEC_FOLDER, SPEC_FILE, SCRATCH = "/etc/hyperclova", "spec.json", "/scratch"
READABLE_BYTES, MOST_BYTES = 256 << 10, 1_000_000
"""A specification is packed from so many bytes on; a ConfigMap may have 1 MiB, with its own fields."""
INDEX_ANNOTATION = "batch.kubernetes.io/job-completion-index"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
STOP_SECONDS = 30
"""Beyond the checkpoint's grace: for torchrun to end its ranks, and the launcher to write the cause."""


def attempt_name(spec: TrainJobSpec, attempt: int) -> str:
    """The Job's name of an attempt."""
    return f"{cluster_name(spec.name)}-a{attempt}"


def render_job(spec: TrainJobSpec, attempt: int) -> list[dict[str, Any]]:
    """ConfigMap, headless Service and Indexed Job (with Volcano's PodGroup before it), in the order in which they are created.

    Raises:
        ConfigError: several nodes without a gang, or ranks that do not fill their pods.
    """
    refuse_partial_gang(spec)
    name = attempt_name(spec, attempt)
    objects = [_config_map(spec, attempt), _service(spec, attempt)]
    if _cluster(spec).gang == "volcano":
        objects.append(_pod_group(spec, attempt))
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(spec, attempt, name, queued=True),
        "spec": _job_spec(spec, attempt, subdomain=name),
    }
    return [*objects, job]


def render_jobset(spec: TrainJobSpec, attempt: int) -> list[dict[str, Any]]:
    """ConfigMap and JobSet, which makes its own Service.

    Raises:
        ConfigError: see `render_job`.
    """
    refuse_partial_gang(spec)
    name = attempt_name(spec, attempt)
    body = _job_spec(spec, attempt, subdomain=name)
    suspended = body.pop("suspend", False)
    for key in ("ttlSecondsAfterFinished",):
        body.pop(key)
    jobset = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": _metadata(spec, attempt, name, queued=True),
        "spec": {
            "suspend": suspended,
            "ttlSecondsAfterFinished": _cluster(spec).ttl_seconds,
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True, "subdomain": name},
            "failurePolicy": {"maxRestarts": 0, "restartStrategy": "BlockingRecreate"},
            "replicatedJobs": [
                {
                    "name": "n",
                    "replicas": 1,
                    "template": {"metadata": {"labels": _labels(spec, attempt)}, "spec": body},
                }
            ],
        },
    }
    objects = [_config_map(spec, attempt)]
    if _cluster(spec).gang == "volcano":
        objects.append(_pod_group(spec, attempt))
    return [*objects, jobset]


def render(spec: TrainJobSpec, attempt: int) -> list[dict[str, Any]]:
    """All objects of an attempt, of the kind that the specification asks for."""
    return render_jobset(spec, attempt) if _cluster(spec).kind == "jobset" else render_job(spec, attempt)


def _cluster(spec: TrainJobSpec) -> ClusterConfig:
    assert spec.cluster is not None, "refuse_partial_gang looked"
    return spec.cluster


def _labels(spec: TrainJobSpec, attempt: int) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "hyperclova",
        "app.kubernetes.io/component": "gpu-job",
        "app.kubernetes.io/managed-by": "hyperclova",
        JOB_LABEL: cluster_name(spec.name),
        ATTEMPT_LABEL: str(attempt),
    }


def _metadata(spec: TrainJobSpec, attempt: int, name: str, queued: bool = False) -> dict[str, Any]:
    cluster = _cluster(spec)
    labels = _labels(spec, attempt)
    if queued and cluster.gang == "kueue":
        labels[QUEUE_LABEL] = str(cluster.queue)
    return {
        "name": name,
        "namespace": cluster.namespace,
        "labels": labels,
        "annotations": {HASH_ANNOTATION: spec.hash},
    }


def _config_map(spec: TrainJobSpec, attempt: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(spec, attempt, attempt_name(spec, attempt)),
        "immutable": True,
        **_spec_data(spec),
    }


def _spec_data(spec: TrainJobSpec) -> dict[str, Any]:
    """The specification as a ConfigMap holds it: text that a person can read, or packed where it is large (thousands of shards).

    Raises:
        ConfigError: packed it is still more than the server takes.
    """
    content = json.dumps({"spec": spec.to_dict(), "hash": spec.hash}, sort_keys=True, ensure_ascii=False)
    if len(content.encode()) <= READABLE_BYTES:
        return {"data": {SPEC_FILE: content}}
    packed = base64.b64encode(gzip.compress(content.encode(), mtime=0)).decode()
    if len(packed) > MOST_BYTES:
        raise ConfigError(
            "The job's configuration is larger than a ConfigMap may be",
            where=spec.name,
            why=f"{len(packed):,} bytes packed, {MOST_BYTES:,} at most",
            remedy="serialize the corpus into fewer, larger shards (serialize.shard_tokens)",
        )
    return {"binaryData": {SPEC_FILE: packed}}


def spec_in(config_map: Mapping[str, Any]) -> dict[str, Any]:
    """The specification in a ConfigMap, as `TrainJobSpec.from_dict` takes it.

    Raises:
        KeyError, ValueError: there is none.
    """
    if SPEC_FILE in (config_map.get("binaryData") or {}):
        return unpacked(base64.b64decode(config_map["binaryData"][SPEC_FILE]))
    return unpacked(config_map["data"][SPEC_FILE].encode())


def _service(spec: TrainJobSpec, attempt: int) -> dict[str, Any]:
    """Names for the pods; also before they are ready, as the first waits for the others."""
    name = attempt_name(spec, attempt)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(spec, attempt, name),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {"job-name": name},
            "ports": [{"name": "rendezvous", "port": _cluster(spec).port, "protocol": "TCP"}],
        },
    }


def _pod_group(spec: TrainJobSpec, attempt: int) -> dict[str, Any]:
    cluster = _cluster(spec)
    body: dict[str, Any] = {"minMember": spec.nodes}
    if cluster.queue:
        body["queue"] = cluster.queue
    if cluster.priority_class:
        body["priorityClassName"] = cluster.priority_class
    return {
        "apiVersion": "scheduling.volcano.sh/v1beta1",
        "kind": "PodGroup",
        "metadata": _metadata(spec, attempt, attempt_name(spec, attempt)),
        "spec": body,
    }


def _job_spec(spec: TrainJobSpec, attempt: int, subdomain: str) -> dict[str, Any]:
    cluster = _cluster(spec)
    body: dict[str, Any] = {
        "completionMode": "Indexed",
        "completions": spec.nodes,
        "parallelism": spec.nodes,
        # attempts are the operator's, which knows causes; the cluster makes none of its own
        "backoffLimit": 0,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {
                        "containerName": CONTAINER,
                        "operator": "In",
                        # a pod that Kueue takes away saves a checkpoint and says so by its code: the job is to wait, not to fail
                        "values": sorted(FINAL_CODES - ({PREEMPTED} if cluster.gang == "kueue" else set())),
                    },
                },
                {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "activeDeadlineSeconds": cluster.deadline_seconds,
        "ttlSecondsAfterFinished": cluster.ttl_seconds,
        "template": {
            "metadata": {"labels": _labels(spec, attempt), "annotations": _pod_annotations(spec, attempt)},
            "spec": _pod(spec, attempt, subdomain),
        },
    }
    if cluster.gang == "kueue":
        body["suspend"] = True
    return body


def pod_security(user: int) -> dict[str, Any]:
    """What every pod of ours runs as: a numeric user, never root."""
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> dict[str, Any]:
    """What every container of ours may do beyond running: nothing."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def placement_of(pods: PodConfig) -> dict[str, Any]:
    """Where pods may go, and before whom."""
    found: dict[str, Any] = {}
    if pods.node_selector:
        found["nodeSelector"] = dict(pods.node_selector)
    if pods.tolerations:
        found["tolerations"] = [item.model_dump(exclude_none=True) for item in pods.tolerations]
    if pods.priority_class:
        found["priorityClassName"] = pods.priority_class
    return found


def claims_of(volumes: Sequence[Volume]) -> list[dict[str, Any]]:
    """A pod's volumes for the claims that it mounts."""
    return [
        {"name": f"claim-{n}", "persistentVolumeClaim": {"claimName": volume.claim, "readOnly": volume.read_only}}
        for n, volume in enumerate(volumes)
    ]


def mounts_of(volumes: Sequence[Volume]) -> list[dict[str, Any]]:
    """Where a container has them."""
    return [
        {"name": f"claim-{n}", "mountPath": volume.path, "readOnly": volume.read_only}
        for n, volume in enumerate(volumes)
    ]


def _pod_annotations(spec: TrainJobSpec, attempt: int) -> dict[str, str]:
    found = {HASH_ANNOTATION: spec.hash}
    if _cluster(spec).gang == "volcano":
        found["scheduling.k8s.io/group-name"] = attempt_name(spec, attempt)
    return found


def _pod(spec: TrainJobSpec, attempt: int, subdomain: str) -> dict[str, Any]:
    cluster = _cluster(spec)
    body: dict[str, Any] = {
        "restartPolicy": "Never",
        "serviceAccountName": cluster.service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "subdomain": subdomain,
        "terminationGracePeriodSeconds": spec.grace_seconds + STOP_SECONDS,
        "securityContext": pod_security(cluster.user),
        "containers": [_container(spec, attempt, subdomain)],
        "volumes": [
            {"name": "spec", "configMap": {"name": attempt_name(spec, attempt)}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": cluster.shared_memory}},
            {"name": "scratch", "emptyDir": {"sizeLimit": cluster.scratch}},
            *claims_of(cluster.volumes),
        ],
    }
    if cluster.image_pull_secrets:
        body["imagePullSecrets"] = [{"name": name} for name in cluster.image_pull_secrets]
    body |= placement_of(cluster)
    if cluster.gang == "volcano":
        body["schedulerName"] = "volcano"
    affinity = _affinity(spec, attempt)
    if affinity:
        body["affinity"] = affinity
    return body


def _affinity(spec: TrainJobSpec, attempt: int) -> dict[str, Any]:
    cluster = _cluster(spec)
    found: dict[str, Any] = {}
    own = {"matchLabels": {JOB_LABEL: cluster_name(spec.name), ATTEMPT_LABEL: str(attempt)}}
    if cluster.one_node_a_pod and spec.nodes > 1:
        term: dict[str, Any] = {"labelSelector": own, "topologyKey": "kubernetes.io/hostname"}
        found["podAntiAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    if cluster.near and spec.nodes > 1:
        weighted: dict[str, Any] = {
            "weight": 100,
            "podAffinityTerm": {"labelSelector": own, "topologyKey": cluster.near},
        }
        found["podAffinity"] = {"preferredDuringSchedulingIgnoredDuringExecution": [weighted]}
    avoided = (*cluster.avoid_nodes, *spec.avoid_nodes)
    if avoided:
        expression = {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": sorted(set(avoided))}
        required = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
        found["nodeAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": required}
    return found


def _container(spec: TrainJobSpec, attempt: int, subdomain: str) -> dict[str, Any]:
    cluster = _cluster(spec)
    name = attempt_name(spec, attempt)
    # a JobSet names its jobs NAME-REPLICATED-INDEX, and their pods after them
    first = f"{name}-n-0-0" if cluster.kind == "jobset" else f"{name}-0"
    resources: dict[str, str] = {"cpu": cluster.cpu, "memory": cluster.memory, **cluster.extra_resources}
    if cluster.gpus_per_node:
        resources[cluster.gpu_resource] = str(cluster.gpus_per_node)
    environment = {
        **cluster.environment,
        **spec.environment,
        "HYPERCLOVA_NODES": str(spec.nodes),
        "HYPERCLOVA_RENDEZVOUS": f"{first}.{subdomain}:{cluster.port}",
        "HYPERCLOVA_RENDEZVOUS_ID": name,
        "HYPERCLOVA_ATTEMPT": str(attempt),
        "HYPERCLOVA_SCRATCH": f"{SCRATCH}/hyperclova",
        "TMPDIR": f"{SCRATCH}/tmp",  # noqa: S108 - the pod's own
        "HOME": f"{SCRATCH}/home",
        "PYTHONUNBUFFERED": "1",
    }
    mounts: list[dict[str, Any]] = [
        {"name": "spec", "mountPath": SPEC_FOLDER, "readOnly": True},
        {"name": "shared-memory", "mountPath": "/dev/shm"},  # noqa: S108 - the pod's own
        {"name": "scratch", "mountPath": SCRATCH},
        *mounts_of(cluster.volumes),
    ]
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": cluster.image,
        "imagePullPolicy": cluster.image_pull_policy,
        "command": ["python", "-m", "hyperclova_core.jobs.launcher", "--spec", f"{SPEC_FOLDER}/{SPEC_FILE}"],
        "env": [
            *({"name": key, "value": value} for key, value in sorted(environment.items())),
            {
                "name": "HYPERCLOVA_NODE",
                "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX_ANNOTATION}']"}},
            },
            {"name": "HYPERCLOVA_NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "securityContext": container_security(),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "volumeMounts": mounts,
    }
    if cluster.secrets:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in cluster.secrets]
    return container
