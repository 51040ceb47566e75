"""How a job's pods look on a Kubernetes cluster: what a recipe's `jobs.cluster` says. No secret is in it, only names of secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.secrets import without_credentials
from hyperclova_core.foundation.storage import restricted

DAY = 86_400
QUANTITY = r"\d+(\.\d+)?([EPTGMK]i|[EPTGMkmun]|[eE]\d+)?"
"""A quantity as Kubernetes reads it (apimachinery, resource.Quantity), positive."""


PASSED_ON = (
    *("HYPERCLOVA_DATA", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_CA_BUNDLE"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_SERVER_CERT_PATH"),
)
TO_STAGES = (*PASSED_ON, restricted.VARIABLE, f"{restricted.PREFIX}ENDPOINT_URL")
"""Pods of stages are told where restricted data lies as well; those of trainings never."""


def passed_on(
    told: Mapping[str, str], environment: Mapping[str, str], names: tuple[str, ...] = PASSED_ON
) -> dict[str, str]:
    """What pods are told of addresses beyond what a recipe says: as the one who starts them knows them, but never with a password in it.

    Args:
        told: by the recipe, which counts; environment: of the one who starts them; names: of the variables.
    """
    found = {key: environment[key] for key in names if environment.get(key) and key not in told}
    return {key: value for key, value in found.items() if without_credentials(value) == value}


class Volume(Config):
    """A claim that pods mount, such as the warehouse's."""

    claim: str
    path: str = Field(pattern=r"^/[^:]*$", description="absolute, in the container")
    read_only: bool = False


class Toleration(Config):
    """Of a node's taint."""

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class PodConfig(Config):
    """What all pods of ours are told alike."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    namespace: str = "hyperclova"
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    priority_class: str | None = None
    environment: dict[str, str] = Field(
        default_factory=dict,
        description="variables that are no secret; MLFLOW_TRACKING_URI, AWS_ENDPOINT_URL_S3, HYPERCLOVA_DATA are Airflow's if not said here",
    )
    secrets: tuple[str, ...] = Field((), description="secrets whose keys become environment variables")
    volumes: tuple[Volume, ...] = ()
    start_seconds: int = Field(1800, ge=10, description="pods that have not begun by then are ended, with the reason")

    @field_validator("environment")
    @classmethod
    def _names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not re.fullmatch(r"[-._a-zA-Z][-._a-zA-Z0-9]*", name):
                raise ValueError(
                    f"{name!r} is no name of a variable: letters, digits, `_`, `-` and `.`, and no digit first"
                )
        return value

    user: int = Field(10_001, ge=1, description="numeric, never root")


class ClusterConfig(PodConfig):
    """Image, place, size and rights of a job's pods."""

    image: str = Field(description="the trainer image, by digest or a tag that is never moved")
    service_account: str = "hyperclova-job"
    kind: Literal["job", "jobset"] = Field("job", description="an Indexed Job with a headless Service, or a JobSet")
    gang: Literal["none", "kueue", "volcano"] = Field("none", description="who starts all pods or none")
    queue: str | None = Field(None, description="Kueue's LocalQueue, or Volcano's queue")
    allow_partial_gang: bool = Field(
        False, description="more than one node without a gang: some pods may hold devices for ever while others wait"
    )
    gpus_per_node: int = Field(0, ge=0, description="0: CPUs, `processes_per_node` of them")
    gpu_resource: str = "nvidia.com/gpu"
    processes_per_node: int = Field(0, ge=0, description="ranks of a pod; 0: one a GPU, or all of the job's")
    cpu: str = "8"
    memory: str = "32Gi"
    shared_memory: str = Field("8Gi", description="of the pod's memory, for what its processes share")
    scratch: str = Field("50Gi", description="the pod's own disk, for /tmp and what is on its way to an object store")
    extra_resources: dict[str, str] = Field(default_factory=dict, description='such as rdma/hca: "1"')
    one_node_a_pod: bool = Field(True, description="no two pods of a job on one node")
    near: str | None = Field(None, description="topology key within which pods are kept together where they can be")
    avoid_nodes: tuple[str, ...] = Field((), description="names of nodes that are not to be used")
    deadline_seconds: int = Field(7 * DAY, ge=60, description="of the whole job, from its start")
    ttl_seconds: int = Field(DAY, ge=DAY, description="a finished job and its pods stay for so long, for their logs")
    port: int = Field(29_500, ge=1024, le=65_535, description="where ranks meet, on the first pod")

    @field_validator("cpu", "memory", "shared_memory", "scratch")
    @classmethod
    def _quantity(cls, value: str) -> str:
        """As Kubernetes writes quantities."""
        if not re.fullmatch(QUANTITY, value):
            near = re.fullmatch(r"([0-9.]+)\s*([kKMGTPE])[iI]?[bB]", value)
            unit = near[2].upper().replace("K", "k") if near else ""
            hint = (
                f"write {near[1]}{unit} (powers of ten) or {near[1]}{unit.upper()}i (of two)"
                if near
                else "write 8, 500m, 32G or 32Gi"
            )
            raise ValueError(f"{value!r} is no quantity of Kubernetes: {hint}")
        return value

    @field_validator("extra_resources")
    @classmethod
    def _quantities(cls, value: dict[str, str]) -> dict[str, str]:
        for name, amount in value.items():
            if not re.fullmatch(QUANTITY, amount):
                raise ValueError(f"{name}: {amount!r} is no quantity of Kubernetes: write 1, 500m or 32Gi")
        return value

    @field_validator("near")
    @classmethod
    def _label(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(
            r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?", value
        ):
            raise ValueError(f"{value!r} is no key of a label: such as topology.kubernetes.io/zone")
        return value

    @field_validator("cpu", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        """`cpu: 8` is as good as `cpu: "8"`."""
        return str(value) if isinstance(value, (int, float)) else value

    @model_validator(mode="after")
    def _check(self) -> ClusterConfig:
        if self.gang == "kueue" and not self.queue:
            raise ValueError("gang kueue needs `queue`, the name of a LocalQueue")
        return self


class JobsConfig(Config):
    """Where GPU jobs of a recipe run."""

    backend: Literal["local", "kubernetes"] = "local"
    cluster: ClusterConfig | None = Field(None, description="for backend kubernetes")

    @model_validator(mode="after")
    def _check(self) -> JobsConfig:
        if self.backend == "kubernetes" and self.cluster is None:
            raise ValueError("backend kubernetes needs `cluster`, at least its image")
        return self
