"""`TrainJobTrigger`: waits for a job on a cluster in the triggerer, and shows the lines of all its ranks as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from operators.kubernetes import backend_of

if TYPE_CHECKING:
    from hyperclova_core.jobs.kubernetes_backend import KubernetesBackend
    from hyperclova_core.jobs.spec import TrainJobSpec

LINES_AT_ONCE = 2_000
LAST_LINES = 40
GIVE_UP, LONGEST_PAUSE = 60, 60.0
"""An hour of a cluster that does not answer."""


class TrainJobTrigger(BaseTrigger):
    """Polls by name. What was shown is marked on the job itself, so a triggerer that starts again goes on at the next line.

    Args:
        spec: JSON form of a `TrainJobSpec`.
        conn_id: connection of the cluster.
        poll_seconds: between looks.
        deadline: seconds since 1970 after which the job is ended; None: the job's own counts.
    """

    def __init__(
        self, spec: dict[str, Any], conn_id: str, poll_seconds: float = 5.0, deadline: float | None = None
    ) -> None:
        super().__init__()
        self.spec, self.conn_id, self.poll_seconds, self.deadline = spec, conn_id, poll_seconds, deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How the triggerer makes it again."""
        arguments = {
            "spec": self.spec,
            "conn_id": self.conn_id,
            "poll_seconds": self.poll_seconds,
            "deadline": self.deadline,
        }
        return "operators.train_job_trigger.TrainJobTrigger", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event, when the job has ended."""
        from hyperclova_core.jobs.spec import TrainJobSpec

        spec = TrainJobSpec.from_dict(self.spec)
        told, failures = "", 0
        while True:
            try:
                backend = await asyncio.to_thread(backend_of, self.conn_id)
                while True:
                    if self.deadline is not None and time.time() > self.deadline:
                        await asyncio.to_thread(backend.cancel, spec)
                        yield TriggerEvent(
                            {"state": "failed", "exit_code": 124, "cause": {"what": "The task's deadline has passed"}}
                        )
                        return
                    status = await asyncio.to_thread(backend.get, spec)
                    failures = 0
                    waiting = await asyncio.to_thread(_waiting, backend, spec) if status.state == "running" else ""
                    if waiting and waiting != told:
                        self.log.info("Waiting: %s", waiting)
                        told = waiting
                    while await self._show(backend, spec):
                        pass
                    if status.state == "absent":
                        cause = {
                            "what": "The job is gone",
                            "why": "somebody deleted it, or its task was ended or cleared",
                            "remedy": "start the task again: it resumes from the last checkpoint",
                        }
                        yield TriggerEvent(
                            {"state": "failed", "exit_code": 143, "cause": cause, "bad_nodes": [], "attempt": None}
                        )
                        return
                    if status.state != "running":
                        state = await asyncio.to_thread(backend.state, spec)
                        if state is not None and state.failed_pod is not None:
                            last = await asyncio.to_thread(backend.last_lines, spec, state.failed_pod, LAST_LINES)
                            self.log.info("The end of %s, which failed first:\n%s", state.failed_pod, "\n".join(last))
                        usage = await asyncio.to_thread(backend.usage, spec, int(status.exit_code or 0))
                        event = {
                            "usage": usage.to_dict() if usage is not None else None,
                            "state": status.state,
                            "exit_code": status.exit_code,
                            "cause": status.cause,
                            "bad_nodes": list(state.bad_nodes) if state is not None else [],
                            "attempt": state.attempt if state is not None else None,
                        }
                        yield TriggerEvent(event)
                        return
                    await asyncio.sleep(self.poll_seconds)
            except Exception as error:  # noqa: BLE001 - whatever it is, the job runs on without us, and somebody must watch it
                failures += 1
                self.log.warning("The cluster cannot be asked (%d): %s: %s", failures, type(error).__name__, error)
                if failures >= GIVE_UP:
                    cause = {
                        "what": "The cluster could not be asked any more",
                        "why": f"{failures} times: {type(error).__name__}: {error}",
                        "remedy": "the job may run still: correct the connection, then clear the task, which finds it by its name",
                    }
                    yield TriggerEvent(
                        {"state": "failed", "exit_code": 64, "cause": cause, "bad_nodes": [], "attempt": None}
                    )
                    return
                await asyncio.sleep(min(self.poll_seconds * failures, LONGEST_PAUSE))

    async def _show(self, backend: KubernetesBackend, spec: TrainJobSpec) -> bool:
        """Show what is new, a bounded number of lines, and mark it; whether there may be more."""
        lines, marks = await asyncio.to_thread(_read, backend, spec)
        for line in lines:
            self.log.info("%s", line)
        if lines:
            await asyncio.to_thread(backend.keep_marks, spec, marks)
        return len(lines) >= LINES_AT_ONCE

    async def on_kill(self) -> None:
        """End the job when a person ends the task."""
        from hyperclova_core.jobs.spec import TrainJobSpec

        backend = await asyncio.to_thread(backend_of, self.conn_id)
        await asyncio.to_thread(backend.cancel, TrainJobSpec.from_dict(self.spec))


def _read(backend: KubernetesBackend, spec: TrainJobSpec) -> tuple[list[str], dict[str, Any]]:
    """At most `LINES_AT_ONCE` new lines, and where they end."""
    reader = backend.tail(spec, backend.marks(spec))
    lines = []
    for line in reader.read():
        lines.append(line)
        if len(lines) >= LINES_AT_ONCE:
            break
    return lines, reader.marks


def _waiting(backend: KubernetesBackend, spec: TrainJobSpec) -> str:
    state = backend.state(spec)
    return state.waiting if state is not None else ""
