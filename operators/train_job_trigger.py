"""`TrainJobTrigger`: waits for a job on a cluster in the triggerer, and shows the lines of all its ranks as they come."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from hyperclova_core.jobs.backends import JobStatus
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
        self._told = ""

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
        failures = 0
        while True:
            try:
                backend = await asyncio.to_thread(backend_of, self.conn_id)
                while True:
                    status = await self._look(backend, spec)
                    failures = 0
                    if status.state != "running":
                        yield TriggerEvent(await self._end_of(backend, spec, status))
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
                    yield TriggerEvent(_event(JobStatus("failed", 64, cause)))
                    return
                await asyncio.sleep(min(self.poll_seconds * failures, LONGEST_PAUSE))

    async def _look(self, backend: KubernetesBackend, spec: TrainJobSpec) -> JobStatus:
        """The job's state, with what is new in its ranks' logs shown; a job beyond the task's deadline is ended."""
        if self.deadline is not None and time.time() > self.deadline:
            return await asyncio.to_thread(backend.stop, spec, 124, {"what": "The task's deadline has passed"})
        status = await asyncio.to_thread(backend.get, spec)
        if status.waiting and status.waiting != self._told:
            self.log.info("Waiting: %s", status.waiting)
        self._told = status.waiting
        while await self._show(backend, spec):
            pass
        return status

    async def _end_of(self, backend: KubernetesBackend, spec: TrainJobSpec, status: JobStatus) -> dict[str, Any]:
        """The event of a job that has ended, after the last lines of what failed first."""
        if status.state == "absent":
            cause = {
                "what": "The job is gone",
                "why": "somebody deleted it, or its task was ended or cleared",
                "remedy": "start the task again: it resumes from the last checkpoint",
            }
            return _event(JobStatus("failed", 143, cause))
        if status.failed_pod is not None:
            last = await asyncio.to_thread(backend.last_lines, spec, status.failed_pod, LAST_LINES)
            self.log.info("The end of %s, which failed first:\n%s", status.failed_pod, "\n".join(last))
        return _event(status)

    async def _show(self, backend: KubernetesBackend, spec: TrainJobSpec) -> bool:
        """Show what is new, a bounded number of lines, and mark it; whether there may be more."""
        lines, marks = await asyncio.to_thread(_read, backend, spec)
        for line in lines:
            self.log.info("%s", line)
        if lines:
            await asyncio.to_thread(backend.keep_marks, spec, marks)
        return len(lines) >= LINES_AT_ONCE

    async def on_kill(self) -> None:
        """End the job when a person ends the task. A triggerer that had lost its heartbeat and comes back is told the same though another
        has taken the trigger over: as long as the task waits for the job, it is left alone."""
        from hyperclova_core.jobs.spec import TrainJobSpec

        if await asyncio.to_thread(self._still_waited_for):
            self.log.info("The task waits for the job still, by another triggerer: the job is left alone")
            return
        backend = await asyncio.to_thread(backend_of, self.conn_id)
        await asyncio.to_thread(backend.cancel, TrainJobSpec.from_dict(self.spec))

    def _still_waited_for(self) -> bool:
        """Whether Airflow says that the task is deferred."""
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        task = self.task_instance
        if task is None:
            return False
        key = task.task_id if task.map_index < 0 else f"{task.task_id}_{task.map_index}"
        try:
            states = RuntimeTaskInstance.get_task_states(
                dag_id=task.dag_id, task_ids=[task.task_id], run_ids=[task.run_id], map_index=task.map_index
            )
            return str(states[task.run_id][key]) == "deferred"
        except Exception as error:  # noqa: BLE001 - a job that runs on for nobody is worse than one that resumes from its checkpoint
            self.log.warning("Airflow does not say what became of the task (%s): its job is ended", error)
            return False


def _event(status: JobStatus) -> dict[str, Any]:
    """What the task is told, as plain JSON."""
    return {
        "state": status.state,
        "exit_code": status.exit_code,
        "cause": status.cause,
        "bad_nodes": list(status.bad_nodes),
        "attempt": status.attempt,
        "usage": status.usage,
    }


def _read(backend: KubernetesBackend, spec: TrainJobSpec) -> tuple[list[str], dict[str, Any]]:
    """At most `LINES_AT_ONCE` new lines, and where they end."""
    reader = backend.tail(spec, backend.marks(spec))
    return list(itertools.islice(reader.read(), LINES_AT_ONCE)), reader.marks
