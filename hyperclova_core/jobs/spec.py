"""A job as a value: what runs, with how many processes, and where it writes. Its hash leaves out what an attempt overrides."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from hyperclova_core.foundation.hashing import fingerprint


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
        overrides: of this attempt (such as a smaller micro-batch), outside the hash.
    """

    name: str
    module: str
    config: dict[str, Any]
    output: str
    processes: int = 1
    grace_seconds: int = 60
    environment: dict[str, str] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """Identity of the job, without the attempt's overrides."""
        parts = asdict(self)
        parts.pop("overrides")
        return fingerprint(parts)

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> TrainJobSpec:
        """What `to_dict` gave."""
        return TrainJobSpec(**data)
