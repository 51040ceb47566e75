"""`DeepSpeedJobOperator`: a GPU stage of a run (training of one size, or evaluation) as a job on a backend."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from hyperclova_core.foundation.errors import HyperclovaError
from operators.warehouse import as_airflow_error, warehouse

if TYPE_CHECKING:
    from airflow.sdk import Context

    from hyperclova_core.jobs.spec import TrainJobSpec

POLL_SECONDS = 2.0


class DeepSpeedJobOperator(BaseOperator):
    """Submits the job (or adopts it, when a retry finds it running), shows its lines while it runs, takes its result.

    Args:
        stage: `train` or `evaluate`.
        size: the model size, for `train`.
        run_id: the run in the warehouse; by default the DAG run's id.
    """

    template_fields = ("run_id", "size")
    ui_color = "#e6f4d7"

    def __init__(self, *, stage: str, size: str | None = None, run_id: str = "{{ run_id }}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stage = stage
        self.size = size
        self.run_id = run_id
        self._spec: TrainJobSpec | None = None

    @property
    def key(self) -> str:
        """The stage's key in the run."""
        return f"{self.stage}-{self.size}" if self.size else self.stage

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the job to its end; what the UI may know of it."""
        from hyperclova_core.foundation.lineage import deliver
        from hyperclova_core.jobs.backends import LocalBackend, log_end, wait
        from hyperclova_core.jobs.causes import cause_of
        from hyperclova_core.pipeline.jobs import finish_job, plan_job

        house = warehouse()
        run = house.run(self.run_id)
        started = time.time()
        backend = LocalBackend()
        try:
            job = plan_job(house, run, self.key)
            status = None
            if job.spec is not None:
                self._spec = job.spec
                offset = log_end(job.spec)
                fresh = backend.submit(job.spec)
                self.log.info(
                    "%s job %s in %s", "Submitted" if fresh else "Adopted running", job.spec.name, job.spec.output
                )
                status = wait(backend, job.spec, self.log.info, POLL_SECONDS, offset)
                self.log.info("Job %s: %s", job.spec.name, status.explain())
                if status.exit_code and not cause_of(status.exit_code).retries:
                    raise AirflowFailException(f"Job {job.spec.name}: {status.explain()}")
            outcome = finish_job(house, run, job, status, started)
            if outcome.reused:
                self.log.info(
                    "Reused: made by run %s at %s",
                    outcome.dataset.attempt.get("run"),
                    outcome.dataset.attempt.get("committed_at"),
                )
            else:
                deliver(house)
        except HyperclovaError as error:
            raise as_airflow_error(error) from error
        finally:
            self._spec = None
        return {
            "stage": self.key,
            "digest": outcome.dataset.manifest.digest,
            "reused": outcome.reused,
            "seconds": round(outcome.seconds, 1),
        }

    def on_kill(self) -> None:
        """End the job, with its grace time, when the task is cleared or marked."""
        from hyperclova_core.jobs.backends import LocalBackend

        if self._spec is not None:
            LocalBackend().cancel(self._spec)
