"""Spark stages on Kubernetes: what a recipe's `spark_cluster` says, as settings of spark-submit and pod templates of driver and executors.

Image, namespace, names, sizes and accounts are settings, which Spark writes over whatever a template says; security contexts,
tolerations, commands and secrets are the templates', which Spark keeps. No secret is in either, only names of secrets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from hyperclova_core.foundation.config import parse
from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.foundation.hashing import digest_parts
from hyperclova_core.jobs.config import PodConfig, Toleration
from hyperclova_core.jobs.kubernetes.manifests import (
    CONTAINER,
    SCRATCH,
    claims_of,
    container_security,
    mounts_of,
    placement_of,
    pod_security,
)
from hyperclova_core.jobs.spec import cluster_name

MEMORY = r"^\d+[mg]$"
STAGE_LABEL, FINGERPRINT_ANNOTATION = "hyperclova.io/stage", "hyperclova.io/fingerprint"
LOCAL_DISK = "spark-local-dir-1"
"""A volume of such a name is where Spark puts shuffles; without one it makes a volume of its own, without a limit."""
PYTHON = "/opt/hyperclova/bin/python"
AUTHENTICATION_FOLDER = "/etc/hyperclova/spark"
AUTHENTICATION_ITEM = {"key": "secret", "path": "secret"}
ENCRYPTED = {
    "spark.authenticate": "true",
    # what driver and executors say to each other, shuffled rows too: AES-GCM, by keys of the session (Spark's security page)
    "spark.network.crypto.enabled": "true",
    "spark.network.crypto.cipher": "AES/GCM/NoPadding",
    "spark.network.crypto.saslFallback": "false",
    # what they write beside each other on a node's disk
    "spark.io.encryption.enabled": "true",
}
NETWORK_POLICY_STEP = "org.apache.spark.deploy.k8s.features.NetworkPolicyFeatureStep"


EXECUTOR_GRACE_SECONDS = 150
PARTITIONS = "spark.sql.shuffle.partitions"
SIZES = {
    "spark.driver.cores": "driver_cores",
    "spark.driver.memory": "driver_memory",
    "spark.driver.memoryOverhead": "driver_overhead",
    "spark.executor.cores": "executor_cores",
    "spark.executor.memory": "executor_memory",
    "spark.executor.memoryOverhead": "executor_overhead",
    "spark.dynamicAllocation.minExecutors": "min_executors",
    "spark.dynamicAllocation.maxExecutors": "max_executors",
}
"""Spark's names of what `spark_cluster` says of sizes: a recipe may say it in either way."""


class SparkClusterConfig(PodConfig):
    """Image, size and place of a stage's driver and executors."""

    image: str = Field(description="the pipeline image, by digest or a tag that is never moved")
    driver_account: str = Field("hyperclova-spark", description="may make and remove executors")
    executor_account: str = Field("hyperclova-job", description="has no rights, and its token is not mounted")
    driver_cores: int = Field(1, ge=1)
    driver_memory: str = Field("2g", pattern=MEMORY, description="of its JVM")
    driver_overhead: str = Field("2g", pattern=MEMORY, description="of its Python: plans, gates, lineage")
    executor_cores: int = Field(4, ge=1, description="units of work at once")
    executor_memory: str = Field("2g", pattern=MEMORY, description="of its JVM")
    executor_overhead: str = Field("14g", pattern=MEMORY, description="of its Python workers, which do the work")
    min_executors: int = Field(0, ge=0)
    max_executors: int = Field(8, ge=0, description="0: none, the driver does the work itself, on `driver_cores`")
    idle_seconds: int = Field(120, ge=1, description="an executor without work is given back after so long")
    executor_node_selector: dict[str, str] = Field(
        default_factory=dict,
        description="beside `node_selector`: executors may be taken away at any moment, so spot nodes do for them; the driver's node should stay",
    )
    executor_tolerations: tuple[Toleration, ...] = Field(
        (), description="beside `tolerations`, such as of spot nodes' taint"
    )
    executors_at_once: int = Field(20, ge=1, description="asked of the API server together")
    history_server: str | None = Field(
        None,
        pattern=r"^https?://",
        description="a Spark history server that reads the runs' `spark-events`: tasks link to it",
    )
    authentication_secret: str | None = Field(
        None,
        description="name of a secret whose key `secret` driver and executors know each other by; without one Spark makes one for each stage,"
        " which stands in the executors' pods, for all who may read pods",
    )
    scratch: str = Field("100Gi", description="a pod's own disk, for /tmp and shuffles")
    deadline_seconds: int = Field(2 * 86_400, ge=60, description="of a stage, from its driver's start")
    python: str = Field(PYTHON, description="in the image")
    decommission_script: str = Field(
        "/opt/hyperclova/app/hyperclova_core/jobs/spark/decommission.sh", description="in the image"
    )
    application: str = Field(
        "/opt/hyperclova/app/hyperclova_core/pipeline/spark_application.py", description="in the image"
    )

    @model_validator(mode="after")
    def _check(self) -> SparkClusterConfig:
        if self.min_executors > self.max_executors:
            raise ValueError(f"min_executors {self.min_executors} is more than max_executors {self.max_executors}")
        return self


def sized(config: SparkClusterConfig, told: Mapping[str, str]) -> SparkClusterConfig:
    """Pods with the sizes that a recipe's `spark` section says, by Spark's names: what a recipe says of its data counts.

    Raises:
        ConfigError: a size is in no form that a pod can have, or a setting is one that the cluster's pods decide.
    """
    changes = {SIZES[key]: value for key, value in told.items() if key in SIZES}
    found = parse(SparkClusterConfig, {**config.model_dump(mode="json"), **changes}, "spark, on a cluster")
    decided = settings(found, "", "", "", "")
    others = sorted(
        key
        for key, value in told.items()
        if key in decided and key not in {*SIZES, PARTITIONS} and value != decided[key]
    )
    if others:
        raise ConfigError(
            "Spark settings that a cluster's pods decide",
            where=f"spark: {', '.join(others)}",
            why="on Kubernetes they follow from the recipe's, or the installation's, `spark_cluster`",
            remedy="say it there: image, namespace, accounts, sizes, executors, idle_seconds",
        )
    return found


def driver_name(warehouse: str, run_id: str, stage: str) -> str:
    """The driver's pod of a run's stage: the same for every try, so that a second one finds the first; another warehouse's runs may have the
    same names."""
    return f"{cluster_name(f'{stage}-{digest_parts(warehouse, run_id, stage)[:10]}')}-driver"


def settings(config: SparkClusterConfig, name: str, stage: str, fingerprint: str, folder: str) -> dict[str, str]:
    """What spark-submit is told beyond a stage's own settings.

    Args:
        name: the driver's pod; folder: where `templates` were written, on the submitter's disk.
    """
    found = {
        # we follow the driver by its name ourselves: spark-submit would hold a JVM for every stage that runs
        "spark.kubernetes.submission.waitAppCompletion": "false",
        "spark.kubernetes.namespace": config.namespace,
        "spark.kubernetes.container.image": config.image,
        "spark.kubernetes.container.image.pullPolicy": config.image_pull_policy,
        "spark.kubernetes.driver.pod.name": name,
        "spark.kubernetes.authenticate.driver.serviceAccountName": config.driver_account,
        "spark.kubernetes.authenticate.executor.serviceAccountName": config.executor_account,
        "spark.kubernetes.driver.podTemplateFile": f"{folder}/driver.json",
        "spark.kubernetes.driver.podTemplateContainerName": CONTAINER,
        "spark.kubernetes.executor.podTemplateFile": f"{folder}/executor.json",
        "spark.kubernetes.executor.podTemplateContainerName": CONTAINER,
        f"spark.kubernetes.driver.annotation.{FINGERPRINT_ANNOTATION}": fingerprint,
        f"spark.kubernetes.driver.label.{STAGE_LABEL}": stage,
        f"spark.kubernetes.executor.label.{STAGE_LABEL}": stage,
        # the chart's network policies stand already, and the submitter needs no right to make others (Spark 4.2 makes one by itself)
        "spark.kubernetes.driver.pod.excludedFeatureSteps": NETWORK_POLICY_STEP,
        # claims belong to whoever made them: Spark would delete all that carry its label
        "spark.kubernetes.driver.ownPersistentVolumeClaim": "false",
        "spark.kubernetes.driver.reusePersistentVolumeClaim": "false",
        "spark.kubernetes.executor.useDriverPodIP": "true",
        "spark.pyspark.python": config.python,
        **ENCRYPTED,
        "spark.driver.cores": str(config.driver_cores),
        "spark.kubernetes.driver.limit.cores": str(config.driver_cores),
        "spark.driver.memory": config.driver_memory,
        "spark.driver.memoryOverhead": config.driver_overhead,
        "spark.executor.cores": str(config.executor_cores),
        "spark.kubernetes.executor.request.cores": str(config.executor_cores),
        "spark.kubernetes.executor.limit.cores": str(config.executor_cores),
        "spark.executor.memory": config.executor_memory,
        "spark.executor.memoryOverhead": config.executor_overhead,
    }
    if config.image_pull_secrets:
        found["spark.kubernetes.container.image.pullSecrets"] = ",".join(config.image_pull_secrets)
    if config.max_executors:
        found |= {
            # there is no external shuffle service on Kubernetes: executors that hold shuffled data stay, for a while
            "spark.dynamicAllocation.enabled": "true",
            "spark.dynamicAllocation.shuffleTracking.enabled": "true",
            "spark.dynamicAllocation.shuffleTracking.timeout": "30min",
            "spark.dynamicAllocation.minExecutors": str(config.min_executors),
            "spark.dynamicAllocation.maxExecutors": str(config.max_executors),
            "spark.dynamicAllocation.executorIdleTimeout": f"{config.idle_seconds}s",
            # units share tasks as far as every core has some: those that are still to come count too
            "spark.kubernetes.allocation.batch.size": str(config.executors_at_once),
            # a node that is drained, or a spot node that is taken, gives its shuffled data to others before it goes
            "spark.decommission.enabled": "true",
            "spark.storage.decommission.enabled": "true",
            "spark.storage.decommission.rddBlocks.enabled": "true",
            "spark.storage.decommission.shuffleBlocks.enabled": "true",
            "spark.executor.decommission.forceKillTimeout": "120s",
            "spark.kubernetes.decommission.script": config.decommission_script,
            # what is lost with an executor is made again, as often as a cluster of spot nodes may need
            "spark.task.maxFailures": "8",
            "spark.stage.maxConsecutiveAttempts": "16",
            "spark.default.parallelism": str(config.max_executors * config.executor_cores),
            PARTITIONS: str(2 * config.max_executors * config.executor_cores),
        }
    else:
        found["spark.kubernetes.driver.master"] = f"local[{config.driver_cores}]"
    if config.authentication_secret:
        found["spark.authenticate.secret.file"] = f"{AUTHENTICATION_FOLDER}/secret"
    return found


def templates(config: SparkClusterConfig, stage: str) -> dict[str, dict[str, Any]]:
    """The pod templates `driver` and `executor`."""
    return {
        "driver": _template(config, stage, "spark-driver"),
        "executor": _template(config, stage, "spark-executor"),
    }


def _of_executors(config: SparkClusterConfig) -> SparkClusterConfig:
    """Where executors may be, beyond where the driver may."""
    return config.model_copy(
        update={
            "node_selector": {**config.node_selector, **config.executor_node_selector},
            "tolerations": (*config.tolerations, *config.executor_tolerations),
        }
    )


def _template(config: SparkClusterConfig, stage: str, component: str) -> dict[str, Any]:
    environment = {
        **config.environment,
        "TMPDIR": f"{SCRATCH}/tmp",  # noqa: S108 - the pod's own
        "HOME": f"{SCRATCH}/home",
        "NUMBA_CACHE_DIR": f"{SCRATCH}/numba",
        "PYTHONUNBUFFERED": "1",
    }
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": config.image,
        # Spark gives arguments (`driver …`, `executor`), and expects an image that knows them
        "command": [config.python, "-m", "hyperclova_core.jobs.spark.entry"],
        "workingDir": SCRATCH,
        "env": [{"name": key, "value": value} for key, value in sorted(environment.items())],
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "scratch", "mountPath": SCRATCH},
            {"name": "temporary", "mountPath": "/tmp"},  # noqa: S108 - the pod's own
            {"name": LOCAL_DISK, "mountPath": f"{SCRATCH}/spark"},
            *mounts_of(config.volumes),
        ],
    }
    if config.secrets:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in config.secrets]
    spec: dict[str, Any] = {
        # the driver makes executors; they ask for nothing
        "automountServiceAccountToken": component == "spark-driver",
        "enableServiceLinks": False,
        "securityContext": pod_security(config.user),
        "containers": [container],
        "volumes": [
            {"name": "scratch", "emptyDir": {"sizeLimit": config.scratch}},
            {"name": "temporary", "emptyDir": {"sizeLimit": config.scratch}},
            {"name": LOCAL_DISK, "emptyDir": {"sizeLimit": config.scratch}},
            *claims_of(config.volumes),
        ],
    }
    if config.authentication_secret:
        secret = {"secretName": config.authentication_secret, "defaultMode": 0o440, "items": [AUTHENTICATION_ITEM]}
        spec["volumes"].append({"name": "authentication", "secret": secret})
        container["volumeMounts"].append(
            {"name": "authentication", "mountPath": AUTHENTICATION_FOLDER, "readOnly": True}
        )
    if component == "spark-driver":
        spec["activeDeadlineSeconds"] = config.deadline_seconds
    else:  # for what it hands on when it is taken away
        spec["terminationGracePeriodSeconds"] = EXECUTOR_GRACE_SECONDS
    spec |= placement_of(config if component == "spark-driver" else _of_executors(config))
    labels = {
        "app.kubernetes.io/name": "hyperclova",
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": "hyperclova",
        STAGE_LABEL: stage,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": labels}, "spec": spec}
