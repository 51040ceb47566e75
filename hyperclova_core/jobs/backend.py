"""What a place that runs jobs can do: the protocol that this machine and Kubernetes keep."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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


class JobLogs(Protocol):
    """A job's lines from where an earlier reader stopped, none lost and none twice."""

    pods: Sequence[str]
    """What the lines are read of; `unread`: of which of them nothing could be read now, and why."""
    unread: dict[str, str]

    @property
    def cursors(self) -> dict[str, Any]:
        """Where they were read to, for a reader that goes on: plain JSON."""
        ...

    def read(self) -> Iterator[str]:
        """What is new, line by line; every line given is counted as given."""
        ...


class Backend(Protocol):
    """A place where jobs run. An attempt has a number; all that is said here is of the newest one."""

    def submit(self, spec: TrainJobSpec, after: int = 0, stop: threading.Event | None = None) -> bool:
        """Start the job's next attempt, or adopt the newest where it runs (False).

        Args:
            after: the last attempt that is known to have been, where the place may have forgotten it.
            stop: set when nobody wants the job any more: nothing is started then, or it is ended again.

        Raises:
            ConfigError: it is refused, or another job of that name runs.
        """
        ...

    def get(self, spec: TrainJobSpec) -> JobStatus:
        """The job's state."""
        ...

    def attempt(self, spec: TrainJobSpec) -> int:
        """The number of the newest attempt; 0: there is none."""
        ...

    def stopped(self, spec: TrainJobSpec, code: int, cause: dict[str, Any]) -> JobStatus:
        """The state of a job that is to end for a reason of our own; `clear` ends it."""
        ...

    def clear(self, spec: TrainJobSpec) -> None:
        """End the newest attempt where it has not ended by itself; what has is kept, for whoever looks."""
        ...

    def cancel(self, spec: TrainJobSpec) -> None:
        """End the job, giving it its grace time."""
        ...

    def tail(self, spec: TrainJobSpec, cursors: Mapping[str, Any] | None = None, skip: Collection[str] = ()) -> JobLogs:
        """Its lines, from where an earlier reader's cursors say; without those of some pods, whose nodes are silent."""
        ...

    def log_cursors(self, spec: TrainJobSpec) -> dict[str, Any]:
        """Where an earlier reader left the logs, as `keep_log_cursors` kept it."""
        ...

    def keep_log_cursors(self, spec: TrainJobSpec, cursors: Mapping[str, Any]) -> None:
        """Keep it with the job itself: a reader that dies needs no disk of its own."""
        ...

    def last_lines(self, spec: TrainJobSpec, pod: str, lines: int = 40) -> list[str]:
        """The end of one pod's log."""
        ...

    def lease(self, spec: TrainJobSpec, holder: str) -> None:
        """Say who follows the job: whoever came last."""
        ...

    def holder(self, spec: TrainJobSpec) -> str | None:
        """Who follows it, or None where nobody said so."""
        ...


def wait(
    backend: Backend,
    spec: TrainJobSpec,
    on_line: Callable[[str], None] | None = None,
    poll_seconds: float = 0.5,
    cursors: Mapping[str, Any] | None = None,
) -> JobStatus:
    """Wait for the job's end, giving each line it prints to `on_line`.

    Args:
        cursors: where its lines begin that are wanted; None: at the first.
    """
    while True:
        status = backend.get(spec)  # before the lines: what it printed last is there once it has ended
        logs = backend.tail(spec, cursors)
        for line in logs.read():
            if on_line is not None:
                on_line(line)
        cursors = logs.cursors
        if status.state != "running":
            return status
        time.sleep(poll_seconds)
