"""A job as a value: what runs, with how many processes, and where it writes. Its hash leaves out what an attempt overrides."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.foundation.hashing import digest_parts, fingerprint
from hyperclova_core.jobs.config import ClusterConfig

LONGEST_NAME = 44
"""A pod's host name is the job's with attempt and index, and has at most 63 characters (RFC 1123); a JobSet's (`-a12-n-0-999`) at most 57,
as its webhook counts the random end of a pod's name too."""


@dataclass(frozen=True)
class TrainJobSpec:
    """One job.

    Args:
        name: deterministic, so that a retried task finds the job that is running already.
        module: the program, started as `python -m MODULE --config FILE` in every process.
        config: written to FILE as JSON.
        output: the job's folder: config, logs, what it makes.
        processes: ranks, started by torchrun; 0 starts the program once without torchrun.
        grace_seconds: between the request to end and the end, for a checkpoint.
        environment: variables of the processes; secrets come from the surrounding environment, never from here.
        overrides: of this attempt (such as a smaller micro-batch), outside the hash; merged into `config`, key by key.
        avoid_nodes: of this attempt, outside the hash too: where the last one lost its ranks.
        cluster: how its pods look, for a Kubernetes cluster.
        aside: keys of `config` that are outside the hash: who asks is no part of what is done.
        publish: where a pod uploads what it made, when its disk is its own; local or s3://.
    """

    name: str
    module: str
    config: dict[str, Any]
    output: str
    processes: int = 1
    grace_seconds: int = 60
    environment: dict[str, str] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    avoid_nodes: tuple[str, ...] = ()
    cluster: ClusterConfig | None = None
    publish: str | None = None
    aside: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        """Identity of the job, without the attempt's overrides."""
        return fingerprint(self.identity())

    def identity(self) -> dict[str, Any]:
        """What makes two jobs the same."""
        parts = self.to_dict()
        for own in ("overrides", "avoid_nodes", "aside"):
            parts.pop(own)
        return {**parts, "config": {key: value for key, value in self.config.items() if key not in self.aside}}

    @property
    def per_node(self) -> int:
        """Ranks of a pod."""
        cluster = self.cluster
        if cluster is None:
            return max(1, self.processes)
        return cluster.processes_per_node or cluster.gpus_per_node or max(1, self.processes)

    @property
    def nodes(self) -> int:
        """Pods."""
        return max(1, -(-self.processes // self.per_node))

    def effective_config(self) -> dict[str, Any]:
        """What the program is told: the configuration with the attempt's overrides."""
        return merged(self.config, self.overrides)

    def following(self, changes: dict[str, Any], avoid_nodes: Sequence[str] = ()) -> TrainJobSpec:
        """The same job for another attempt."""
        avoided = tuple(sorted({*self.avoid_nodes, *avoid_nodes}))
        return replace(self, overrides=merged(self.overrides, changes), avoid_nodes=avoided)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            **values,
            "avoid_nodes": list(self.avoid_nodes),
            "aside": list(self.aside),
            "cluster": self.cluster.model_dump(mode="json") if self.cluster is not None else None,
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> TrainJobSpec:
        """What `to_dict` gave."""
        cluster = data.get("cluster")
        values = {**data, **{key: tuple(data.get(key) or ()) for key in ("avoid_nodes", "aside")}}
        return TrainJobSpec(**{**values, "cluster": ClusterConfig.model_validate(cluster) if cluster else None})


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` over it, mapping by mapping."""
    found = dict(base)
    for key, value in changes.items():
        known = found.get(key)
        found[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return found


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


def cluster_name(name: str) -> str:
    """A name that Kubernetes takes for a job, its Service and its pods' hosts: letters, digits and dashes, at most `LONGEST_NAME`;
    a longer one keeps its beginning and gets a hash, so that two never become one."""
    slug = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")
    if not slug:
        raise ConfigError("A job's name has no letter or digit", where=name, remedy="name it with a to z and 0 to 9")
    if slug[0].isdigit():
        slug = f"j-{slug}"
    if len(slug) <= LONGEST_NAME and slug == name:
        return slug
    return f"{slug[: LONGEST_NAME - 11].rstrip('-')}-{digest_parts(name)[:10]}"


def refuse_partial_gang(spec: TrainJobSpec) -> None:
    """Several nodes that may start one by one, or ranks that do not fill them.

    Raises:
        ConfigError: with what would do.
    """
    cluster = spec.cluster
    if cluster is None:
        raise ConfigError(
            "The job has no cluster settings",
            where=spec.name,
            why="backend kubernetes needs them",
            remedy="give jobs.cluster in the recipe",
        )
    if spec.processes and spec.processes % spec.per_node:
        raise ConfigError(
            "The ranks do not fill their pods",
            where="jobs.cluster",
            why=f"{spec.processes} ranks, {spec.per_node} a pod",
            remedy="choose a layout whose processes are a multiple of what a pod has",
        )
    if cluster.gpus_per_node and spec.processes and spec.per_node > cluster.gpus_per_node:
        raise ConfigError(
            "A pod has more ranks than devices",
            where="jobs.cluster.processes_per_node",
            why=f"{spec.per_node} ranks, {cluster.gpus_per_node} devices",
            remedy="one rank a device",
        )
    if spec.nodes > 1 and cluster.gang == "none" and not cluster.allow_partial_gang:
        raise ConfigError(
            "Several nodes without a gang",
            where="jobs.cluster.gang",
            why=f"{spec.nodes} pods would be started one by one: when devices are short, some hold theirs while the others wait for ever",
            remedy="set gang to kueue or volcano; or allow_partial_gang: true, where the cluster is yours alone",
        )


def unpacked(data: bytes) -> dict[str, Any]:
    """A job's specification as its file holds it: JSON, packed by gzip where it is large.

    Raises:
        KeyError, ValueError: it is no specification.
    """
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    found: dict[str, Any] = json.loads(data)["spec"]
    return found
