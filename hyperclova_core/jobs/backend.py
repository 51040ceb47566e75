"""What a place that runs jobs can do: the protocol that this machine and Kubernetes keep."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from hyperclova_core.jobs.failure_causes import cause_of
from hyperclova_core.jobs.spec import TrainJobSpec


@dataclass(frozen=True)
class JobStatus:
    """A job's state: `running`, `succeeded`, `failed` or `absent`, and when it ended what a decision needs.

    Args:
        cause: the message of what ended it; attempt: which one this is of; bad_nodes: where the next had better not run.
        failed_pod: whose log tells why; waiting: why it has not begun, in words; usage: JSON form of a `ledger.Usage`.
    """

    state: str
    exit_code: int | None = None
    cause: dict[str, Any] = field(default_factory=dict)
    attempt: int | None = None
    bad_nodes: tuple[str, ...] = ()
    failed_pod: str | None = None
    waiting: str = ""
    usage: dict[str, Any] | None = None

    def explain(self) -> str:
        """The cause in words."""
        if self.exit_code is None:
            return self.state
        known = cause_of(self.exit_code)
        parts = [f"exit code {self.exit_code}: {known.name}"]
        parts += [str(self.cause[key]) for key in ("what", "where", "why") if self.cause.get(key)]
        remedy = self.cause.get("remedy") or known.remedy
        return "; ".join(parts) + (f". Remedy: {remedy}" if remedy else "")


class Backend(Protocol):
    """What an operator needs of a place where jobs run."""

    def submit(self, spec: TrainJobSpec) -> bool:
        """Start the job, or adopt one of the same name and hash that runs already (False)."""
        ...

    def get(self, spec: TrainJobSpec) -> JobStatus:
        """The job's state."""
        ...

    def logs(self, spec: TrainJobSpec, offset: int) -> tuple[str, int]:
        """What the job has printed from a byte offset on, and the next offset."""
        ...

    def cancel(self, spec: TrainJobSpec) -> None:
        """End the job, giving it its grace time."""
        ...


def wait(
    backend: Backend, spec: TrainJobSpec, on_line: Any = None, poll_seconds: float = 0.5, offset: int = 0
) -> JobStatus:
    """Wait for the job's end, giving each line it prints to `on_line`."""
    while True:
        status = backend.get(spec)
        text, offset = backend.logs(spec, offset)
        if on_line is not None:
            for line in text.splitlines():
                on_line(line)
        if status.state != "running" and not text:
            return status
        if status.state == "running":
            time.sleep(poll_seconds)
