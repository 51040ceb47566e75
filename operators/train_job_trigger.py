"""`TrainJobTrigger`: waits for a job on a cluster in the triggerer, and shows the lines of all its ranks as they come."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from hyperclova_core.foundation.errors import ConfigError, TransientError
from hyperclova_core.jobs.backend import JobStatus
from operators.kubernetes import backend_of

if TYPE_CHECKING:
    from hyperclova_core.jobs.kubernetes.backend import KubernetesBackend
    from hyperclova_core.jobs.spec import TrainJobSpec
    from hyperclova_core.pipeline.attempts import Attempts

LINES_AT_ONCE = 2_000
LAST_LINES = 40
LATE = {"what": "The task's deadline has passed"}
TAKEOVER_SECONDS = 6.0
"""For another triggerer to say that it follows a job, before one that was told to end it does so."""
log = logging.getLogger(__name__)
GIVE_UP, LONGEST_PAUSE = 60, 60.0
"""An hour of a cluster that does not answer."""
SILENT_SECONDS, LONGEST_SILENCE = 30.0, 600.0
"""A pod whose log cannot be read is left alone for so long at first, and at most."""


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
        self._log_cursors: dict[str, Any] | None = None
        self._silent: dict[str, tuple[float, float]] = {}
        """Pods whose log could not be read → until when they are left alone, and for how long that was."""
        self._over, self._submitting = threading.Event(), threading.Lock()

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
                await asyncio.to_thread(backend.lease, self._spec(), self._me)
                while True:
                    event = await self._look(backend, attempts)
                    if event is not None:
                        yield TriggerEvent(event)
                        return
                    failures = 0
                    await asyncio.sleep(self.poll_seconds)
            except Exception as error:  # noqa: BLE001 - whatever it is, the job runs on without us, and somebody must watch it
                failures += 1
                self.log.warning("Cannot follow the job (%d): %s: %s", failures, type(error).__name__, error)
                if failures >= GIVE_UP:
                    cause = {
                        "what": "The job could not be followed any more",
                        "why": f"{failures} times: {type(error).__name__}: {error}",
                        "remedy": "it may run still: the task's next try finds it by its name",
                    }
                    yield TriggerEvent({**_event(JobStatus("failed", 1, cause), "nobody watches it"), "retry": True})
                    return
                await asyncio.sleep(min(self.poll_seconds * failures, LONGEST_PAUSE))

    def _spec(self) -> TrainJobSpec:
        from hyperclova_core.jobs.spec import TrainJobSpec

        return TrainJobSpec.from_dict(self.spec)

    def _attempts(self) -> Attempts | None:
        """Attempts of the run's stage, or None where there is no run."""
        from hyperclova_core.pipeline.attempts import Attempts
        from operators.warehouse import configured_warehouse

        if not self.run_id:
            return None
        warehouse = configured_warehouse()
        return Attempts(warehouse, warehouse.run(self.run_id), self.key, self._spec())

    async def _look(self, backend: KubernetesBackend, attempts: Attempts | None) -> dict[str, Any] | None:
        """Look once: show what is new, and the task's event if the job has ended for good."""
        spec = await asyncio.to_thread(attempts.current) if attempts is not None else self._spec()
        status = await asyncio.to_thread(backend.get, spec)
        if attempts is not None:
            status = await asyncio.to_thread(attempts.see, status)
        late = self.deadline is not None and time.time() > self.deadline
        if late and status.state in ("running", "due"):
            due = status.state == "due"
            status = await asyncio.to_thread(backend.stopped, spec, 124, LATE)
            if due:  # what the newest attempt ended with was decided: this is of the one that is not started any more
                status = replace(status, attempt=None, usage=None)
        if status.waiting and status.waiting != self._told:
            self.log.info("Waiting: %s", status.waiting)
        self._told = status.waiting
        if status.state == "due":
            assert attempts is not None, "only a run knows what is due"
            return await self._next(backend, attempts)
        if status.state != "running":  # it prints no more: what is left of every pod is asked for once more
            self._silent = {}
        while await self._show(backend, spec):
            pass
        if status.state == "running":
            return None
        status = await self._end_of(backend, spec, status)
        if status.state == "succeeded" or attempts is None:
            if attempts is not None:
                await asyncio.to_thread(attempts.note, status)
            await asyncio.to_thread(backend.clear, spec)
            return _event(status, "")
        self.log.info("Attempt %s of %s: %s", status.attempt or "?", spec.name, status.explain())
        decision = await asyncio.to_thread(attempts.follow, status)
        self.log.info("Decision: %s", decision.why)
        if decision.again and late:
            return _event(JobStatus("failed", 124, LATE), "the task's deadline has passed: no other attempt is started")
        if decision.again:
            return await self._next(backend, attempts)
        await asyncio.to_thread(backend.clear, spec)
        return _event(status, decision.why)

    async def _next(self, backend: KubernetesBackend, attempts: Attempts) -> dict[str, Any] | None:
        """Start the next attempt; an event where the cluster refuses it."""
        try:
            await asyncio.to_thread(self._submit, backend, attempts)
        except ConfigError as error:
            return _event(JobStatus("failed", error.exit_code, error.to_dict()), "the cluster refuses the next attempt")
        self.log.info("Submitted the next attempt of %s", attempts.spec.name)
        self._told = ""
        return None

    def _submit(self, backend: KubernetesBackend, attempts: Attempts) -> None:
        """In a thread, which a person who ends the task cannot stop: `_end_job` waits for it."""
        with self._submitting:
            attempts.submit(backend, self._over)
            backend.lease(attempts.current(), self._me)

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
        if self._log_cursors is None:
            self._log_cursors = await asyncio.to_thread(backend.log_cursors, spec)
        now = time.monotonic()
        skip = [pod for pod, (until, _) in self._silent.items() if until > now]
        reader = await asyncio.to_thread(backend.tail, spec, self._log_cursors, skip)
        lines = await asyncio.to_thread(lambda: list(itertools.islice(reader.read(), LINES_AT_ONCE)))
        for line in lines:
            self.log.info("%s", line)
        known = {*reader.pods, *skip}
        self._log_cursors = {pod: cursor for pod, cursor in reader.cursors.items() if pod in known}
        for pod, why in reader.unread.items():
            _, pause = self._silent.get(pod, (0.0, SILENT_SECONDS / 2))
            if pod not in self._silent:
                self.log.warning("The log of %s cannot be read now: %s", pod, why)
            # a node that does not answer costs a timeout each time: it is left alone for longer and longer
            pause = min(2 * pause, LONGEST_SILENCE)
            self._silent[pod] = (time.monotonic() + pause, pause)
        for pod in set(reader.pods) - set(reader.unread):
            self._silent.pop(pod, None)
        if lines:
            try:
                await asyncio.to_thread(backend.keep_log_cursors, spec, self._log_cursors)
            except (TransientError, ConfigError) as error:
                self.log.warning("Where the logs were read to could not be marked: %s", error)
        return len(lines) >= LINES_AT_ONCE

    async def on_kill(self) -> None:
        """End the job when a person ends the task.

        In a thread, to its end: Airflow 3.3 says it again every second while we are at it, which cancels whatever waits here.
        """
        await asyncio.shield(asyncio.to_thread(self._end_job))

    def _end_job(self) -> None:
        """Cancel the job, unless another trigger follows it by now: a triggerer that had lost its heartbeat and comes back is told the same
        as if a person had ended the task."""
        self._over.set()
        spec = self._spec()
        try:
            backend = backend_of(self.conn_id)
            time.sleep(TAKEOVER_SECONDS)
            with self._submitting:  # a submission in a thread of its own goes on, though its task was cancelled
                holder = backend.holder(spec)
                if holder not in (None, self._me):
                    log.warning("Job %s is followed by another trigger: it is left alone", spec.name)
                    return
                log.info("The task was ended: so is job %s", spec.name)
                backend.cancel(spec)
        except Exception:
            log.exception("Job %s could not be ended: it may run until its deadline", spec.name)
            raise


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
