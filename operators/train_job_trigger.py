"""`TrainJobTrigger`: waits for a job on a cluster in the triggerer, and shows the lines of all its ranks as they come."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.jobs.backends import JobStatus
from operators.kubernetes import backend_of

if TYPE_CHECKING:
    from hyperclova_core.jobs.kubernetes_backend import KubernetesBackend
    from hyperclova_core.jobs.spec import TrainJobSpec
    from hyperclova_core.pipeline.attempts import Attempts

LINES_AT_ONCE = 2_000
LAST_LINES = 40
TAKEOVER_SECONDS = 6.0
"""For another triggerer to say that it follows a job, before one that was told to end it does so."""
log = logging.getLogger(__name__)
GIVE_UP, LONGEST_PAUSE = 60, 60.0
"""An hour of a cluster that does not answer."""


class TrainJobTrigger(BaseTrigger):
    """Polls by name, and follows a job through all its attempts. What was shown is marked on the job itself, and what was decided is in
    the run, so a triggerer that starts again goes on at the next line.

    One trigger for all attempts of a task's try, because Airflow 3.3 begins the log of a second one by emptying that of the first
    (docs/decisions/0016).

    Args:
        spec: JSON form of a `TrainJobSpec`, before any attempt changed something.
        conn_id: connection of the cluster.
        poll_seconds: between looks.
        deadline: seconds since 1970 after which the job is ended; None: the job's own counts.
        run_id, key: the stage of a run whose job it is; empty: the first attempt is the last.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        conn_id: str,
        poll_seconds: float = 5.0,
        deadline: float | None = None,
        run_id: str = "",
        key: str = "",
    ) -> None:
        super().__init__()
        self.spec, self.conn_id, self.poll_seconds, self.deadline = spec, conn_id, poll_seconds, deadline
        self.run_id, self.key = run_id, key
        self._told, self._me = "", uuid.uuid4().hex

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How the triggerer makes it again."""
        names = ("spec", "conn_id", "poll_seconds", "deadline", "run_id", "key")
        return "operators.train_job_trigger.TrainJobTrigger", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """One event, when the job has ended for good."""
        failures = 0
        while True:
            try:
                backend = await asyncio.to_thread(backend_of, self.conn_id)
                attempts = await asyncio.to_thread(self._attempts)
                await asyncio.to_thread(backend.claim, self._spec(), self._me)
                while True:
                    spec = await asyncio.to_thread(attempts.current) if attempts is not None else self._spec()
                    status = await self._look(backend, spec)
                    if status.state != "running":
                        event = await self._after(backend, attempts, spec, status)
                        if event is not None:
                            yield TriggerEvent(event)
                            return
                    failures = 0
                    await asyncio.sleep(self.poll_seconds)
            except ConfigError as error:
                yield TriggerEvent(
                    _event(JobStatus("failed", error.exit_code, error.to_dict()), "it is not tried again")
                )
                return
            except Exception as error:  # noqa: BLE001 - whatever it is, the job runs on without us, and somebody must watch it
                failures += 1
                self.log.warning("The cluster cannot be asked (%d): %s: %s", failures, type(error).__name__, error)
                if failures >= GIVE_UP:
                    cause = {
                        "what": "The cluster could not be asked any more",
                        "why": f"{failures} times: {type(error).__name__}: {error}",
                        "remedy": "the job may run still: correct the connection, then clear the task, which finds it by its name",
                    }
                    yield TriggerEvent(_event(JobStatus("failed", 64, cause), "nobody watches it"))
                    return
                await asyncio.sleep(min(self.poll_seconds * failures, LONGEST_PAUSE))

    def _spec(self) -> TrainJobSpec:
        from hyperclova_core.jobs.spec import TrainJobSpec

        return TrainJobSpec.from_dict(self.spec)

    def _attempts(self) -> Attempts | None:
        """Attempts of the run's stage, or None where there is no run."""
        from hyperclova_core.pipeline.attempts import Attempts
        from operators.warehouse import warehouse

        if not self.run_id:
            return None
        house = warehouse()
        return Attempts(house, house.run(self.run_id), self.key, self._spec())

    async def _after(
        self, backend: KubernetesBackend, attempts: Attempts | None, spec: TrainJobSpec, status: JobStatus
    ) -> dict[str, Any] | None:
        """What follows an attempt that has ended: the task's event, or None where another one was started."""
        status = await self._end_of(backend, spec, status)
        if status.state == "succeeded":
            if attempts is not None:
                await asyncio.to_thread(attempts.note, status)
            return _event(status, "")
        if attempts is None:
            return _event(status, "")
        self.log.info("Attempt %s of %s: %s", status.attempt or "?", spec.name, status.explain())
        decision = await asyncio.to_thread(attempts.follow, status)
        self.log.info("Decision: %s", decision.why)
        if not decision.again:
            return _event(status, decision.why)
        following = await asyncio.to_thread(attempts.current)
        await asyncio.to_thread(backend.submit, following, await asyncio.to_thread(attempts.last))
        await asyncio.to_thread(backend.claim, following, self._me)
        self.log.info("Submitted the next attempt of %s", spec.name)
        self._told = ""
        return None

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

    async def _end_of(self, backend: KubernetesBackend, spec: TrainJobSpec, status: JobStatus) -> JobStatus:
        """The state of a job that has ended, after the last lines of what failed first."""
        if status.state == "absent":
            cause = {
                "what": "The job is gone",
                "why": "somebody deleted it, or its task was ended or cleared",
                "remedy": "start the task again: it resumes from the last checkpoint",
            }
            return JobStatus("failed", 143, cause)
        if status.failed_pod is not None:
            last = await asyncio.to_thread(backend.last_lines, spec, status.failed_pod, LAST_LINES)
            self.log.info("The end of %s, which failed first:\n%s", status.failed_pod, "\n".join(last))
        return status

    async def _show(self, backend: KubernetesBackend, spec: TrainJobSpec) -> bool:
        """Show what is new, a bounded number of lines, and mark it; whether there may be more."""
        lines, marks = await asyncio.to_thread(_read, backend, spec)
        for line in lines:
            self.log.info("%s", line)
        if lines:
            await asyncio.to_thread(backend.keep_marks, spec, marks)
        return len(lines) >= LINES_AT_ONCE

    async def on_kill(self) -> None:
        """End the job when a person ends the task.

        In a thread, to its end: Airflow 3.3 says it again every second while we are at it, which cancels whatever waits here.
        """
        await asyncio.shield(asyncio.to_thread(self._end_job))

    def _end_job(self) -> None:
        """Cancel the job, unless another trigger follows it by now: a triggerer that had lost its heartbeat and comes back is told the same
        as if a person had ended the task."""
        backend, spec = backend_of(self.conn_id), self._spec()
        time.sleep(TAKEOVER_SECONDS)
        follower = backend.follower(spec)
        if follower not in (None, self._me):
            log.warning("Job %s is followed by another trigger: it is left alone", spec.name)
            return
        log.info("The task was ended: so is job %s", spec.name)
        backend.cancel(spec)


def _event(status: JobStatus, decision: str) -> dict[str, Any]:
    """What the task is told, as plain JSON."""
    return {
        "state": status.state,
        "exit_code": status.exit_code,
        "cause": status.cause,
        "attempt": status.attempt,
        "usage": status.usage,
        "decision": decision,
    }


def _read(backend: KubernetesBackend, spec: TrainJobSpec) -> tuple[list[str], dict[str, Any]]:
    """At most `LINES_AT_ONCE` new lines, and where they end."""
    reader = backend.tail(spec, backend.marks(spec))
    return list(itertools.islice(reader.read(), LINES_AT_ONCE)), reader.marks
