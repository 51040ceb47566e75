"""`DeepSpeedJobOperator`: a GPU stage of a run (training of one size, or evaluation) as a job on a backend."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import HyperclovaError
from hyperclova_core.foundation.storage import disk
from operators.kubernetes import DEFAULT_CONNECTION, backend_of
from operators.warehouse import as_airflow_error, configured_warehouse

if TYPE_CHECKING:
    from airflow.sdk import Context

    from hyperclova_core.foundation.stages.runner import Outcome
    from hyperclova_core.foundation.warehouse import Warehouse
    from hyperclova_core.jobs.backend import JobStatus
    from hyperclova_core.jobs.spec import TrainJobSpec
    from hyperclova_core.pipeline.attempts import Attempts

POLL_SECONDS = 2.0
AT_ONCE = "HYPERCLOVA_TRAININGS_AT_ONCE"


def trainings_at_once() -> int:
    """How many model sizes of a run train side by side: what HYPERCLOVA_TRAININGS_AT_ONCE says, else one after the other. Read where a DAG is
    read, by the DAG processor.

    Raises:
        ValueError: it is no number above 0; Airflow shows this as an import error of the DAG.
    """
    told = os.environ.get(AT_ONCE) or "1"
    if not told.isdecimal() or not int(told):
        raise ValueError(f"{AT_ONCE} is {told!r}: give how many model sizes may train side by side, such as 4")
    return int(told)


@contextmanager
def _devices_of_this_machine() -> Iterator[None]:
    """Jobs on this machine have all its devices: where sizes may train side by side (which is for a cluster), they wait for one another here."""
    if trainings_at_once() == 1:
        yield
        return
    with disk.one_at_a_time(Path(storage.scratch_folder("locks"), "devices.lock")):
        yield


class DeepSpeedJobOperator(BaseOperator):
    """Submits the job (or adopts it, when a retry finds it running), shows its lines while it runs, takes its result.

    On this machine it waits itself; on a cluster it defers to a trigger, and what follows a failure is decided by its cause.

    Args:
        stage: `train` or `evaluate`.
        size: the model size, for `train`.
        run_id: the run in the warehouse; by default the DAG run's id.
        kubernetes_conn_id: connection of the cluster, for the backend kubernetes.
        poll_seconds: between looks at a job on a cluster.
    """

    template_fields = ("run_id", "size")
    ui_color = "#e6f4d7"

    def __init__(
        self,
        *,
        stage: str,
        size: str | None = None,
        run_id: str = "{{ run_id }}",
        kubernetes_conn_id: str = DEFAULT_CONNECTION,
        poll_seconds: float = 5.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kubernetes_conn_id = kubernetes_conn_id
        self.poll_seconds = poll_seconds
        self.stage = stage
        self.size = size
        self.run_id = run_id
        self._spec: TrainJobSpec | None = None
        self._attempts: Attempts | None = None
        self._over = threading.Event()

    @property
    def key(self) -> str:
        """The stage's key in the run."""
        return f"{self.stage}-{self.size}" if self.size else self.stage

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the job to its end; what the UI may know of it."""
        from hyperclova_core.pipeline.attempts import Attempts
        from hyperclova_core.pipeline.jobs import finish_job, plan_job

        warehouse = configured_warehouse()
        run = warehouse.run(self.run_id)
        started = time.time()
        try:
            job = plan_job(warehouse, run, self.key)
            status = None
            if job.spec is not None and job.spec.cluster is not None:
                self._begin(Attempts(warehouse, run, self.key, job.spec), started)
            if job.spec is not None:
                with _devices_of_this_machine():
                    status = self._here(Attempts(warehouse, run, self.key, job.spec))
            return self._finished(warehouse, finish_job(warehouse, run, job, status, started))
        except HyperclovaError as error:
            raise as_airflow_error(error) from error

    def _here(self, attempts: Attempts) -> JobStatus:
        """Run all attempts on this machine.

        Raises:
            AirflowFailException: the last one failed; nothing that another try of the task would mend.
        """
        from hyperclova_core.jobs.backend import wait
        from hyperclova_core.jobs.backends import LocalBackend

        backend = LocalBackend()
        while True:
            spec = self._spec = attempts.current()
            begin = backend.end_of_log(spec)
            fresh = backend.submit(spec)
            self.log.info("%s job %s in %s", "Submitted" if fresh else "Adopted running", spec.name, spec.output)
            status = wait(backend, spec, self.log.info, POLL_SECONDS, begin)
            self.log.info("Job %s: %s", spec.name, status.explain())
            self._spec = None
            if status.state == "succeeded":
                return status
            if self._over.is_set():
                raise AirflowException(f"Job {spec.name} was ended with its task: {status.explain()}")
            decision = attempts.follow(replace(status, attempt=attempts.last() + 1))
            self.log.info("Decision: %s", decision.why)
            if not decision.again:
                raise AirflowFailException(f"Job {spec.name}: {status.explain()} Decision: {decision.why}")

    def _begin(self, attempts: Attempts, started: float) -> NoReturn:
        """Start the next attempt on the cluster (or adopt it); the triggerer follows it, and what comes after it."""
        from operators.train_job_trigger import TrainJobTrigger

        self._attempts = attempts
        backend = backend_of(self.kubernetes_conn_id)
        fresh = attempts.submit(backend, self._over)
        # an earlier try's trigger may be about to end the job, because its task was cleared: it is this one's now
        backend.lease(attempts.current(), f"try {uuid.uuid4().hex}")
        self.log.info("%s job %s on the cluster", "Submitted" if fresh else "Adopted", attempts.spec.name)
        limit = self.execution_timeout
        self.defer(
            trigger=TrainJobTrigger(
                attempts.spec.to_dict(),
                self.kubernetes_conn_id,
                self.poll_seconds,
                started + limit.total_seconds() if limit is not None else None,
                self.run_id,
                self.key,
            ),
            method_name="resume",
            kwargs={"started": started},
        )
        raise AssertionError("deferring leaves the task")

    def resume(self, context: Context, event: dict[str, Any], started: float) -> dict[str, Any]:
        """The job has ended for good: take its result, or say why there is none."""
        from hyperclova_core.jobs.backend import JobStatus
        from hyperclova_core.pipeline.jobs import finish_job, plan_job

        warehouse = configured_warehouse()
        run = warehouse.run(self.run_id)
        status = JobStatus(event["state"], event["exit_code"], event["cause"])
        self.log.info("Job of %s: %s", self.key, status.explain())
        try:
            if status.state != "succeeded":
                kind = AirflowException if event.get("retry") else AirflowFailException
                raise kind(f"Job of {self.key}: {status.explain()} Decision: {event['decision']}")
            return self._finished(
                warehouse, finish_job(warehouse, run, plan_job(warehouse, run, self.key), status, started)
            )
        except HyperclovaError as error:
            raise as_airflow_error(error) from error

    def _finished(self, warehouse: Warehouse, outcome: Outcome) -> dict[str, Any]:
        """Say how it ended; what the UI may know of it."""
        from hyperclova_core.foundation.lineage import deliver

        if outcome.reused:
            self.log.info(
                "Reused: made by run %s at %s",
                outcome.dataset.attempt.get("run"),
                outcome.dataset.attempt.get("committed_at"),
            )
        else:
            deliver(warehouse)
        return {
            "stage": self.key,
            "digest": outcome.dataset.manifest.digest,
            "reused": outcome.reused,
            "seconds": round(outcome.seconds, 1),
        }

    def on_kill(self) -> None:
        """End the job, with its grace time, when the task is cleared or marked."""
        from hyperclova_core.jobs.backends import LocalBackend

        self._over.set()
        if self._spec is not None:
            LocalBackend().cancel(self._spec)
        if self._attempts is not None:
            backend_of(self.kubernetes_conn_id).cancel(self._attempts.current())
