"""`SparkStageOperator`: one stage of a run as a Spark application, or no application where its output is there already."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk.exceptions import AirflowException

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.engines import SPARK_SETTINGS
from hyperclova_core.foundation.errors import HyperclovaError, from_dict
from operators.warehouse import as_airflow_error, warehouse

if TYPE_CHECKING:
    from airflow.sdk import Context


class SparkStageOperator(SparkSubmitOperator):
    """Runs a stage of the DAG run's recipe.

    The reuse check comes before spark-submit: a committed output with the same fingerprint that has passed its gates is
    taken, and no JVM starts.

    Args:
        stage: name of a Spark stage.
        run_id: the run in the warehouse; by default the DAG run's id.
    """

    template_fields = (*SparkSubmitOperator.template_fields, "run_id")
    ui_color = "#dcebf7"

    def __init__(self, *, stage: str, run_id: str = "{{ run_id }}", **kwargs: Any) -> None:
        kwargs.setdefault("conn_id", "spark_default")
        super().__init__(name=f"hyperclova-{stage}", **kwargs)
        self.stage = stage
        self.run_id = run_id

    def execute(self, context: Context) -> dict[str, Any]:  # type: ignore[override]
        """Reuse or run the stage; what the next tasks and the UI may know of it."""
        from hyperclova_core.foundation.runner import execute
        from hyperclova_core.pipeline import spark_application
        from hyperclova_core.pipeline.run import plan_key, recipe_of, record_outcome

        house = warehouse()
        run = house.run(self.run_id)
        started = time.time()
        try:
            plan = plan_key(house, run, self.stage)
            if plan.reusable:
                outcome = execute(plan, _NoEngine())
                result = record_outcome(house, run, self.stage, plan, outcome, started)
                self.log.info(
                    "Reused: made by run %s at %s, digest %s",
                    result["made_by"] or "(outside Airflow)",
                    result["made_at"],
                    result["digest"],
                )
                return _brief(result)
        except HyperclovaError as error:
            raise as_airflow_error(error) from error
        self.application = spark_application.__file__
        self.application_args = ["--warehouse", house.uri, "--run", self.run_id, "--stage", self.stage]
        self.conf: dict[str, Any] | None = {**SPARK_SETTINGS, **recipe_of(run).spark, **(self.conf or {})}
        failure = spark_application.failure_path(run, self.stage)
        storage.remove(failure)
        try:
            super().execute(context)
        except AirflowException as error:
            if storage.exists(failure):
                raise as_airflow_error(from_dict(storage.read_json(failure))) from error
            raise
        ended = run.stage_result(self.stage)
        if ended is None:
            raise AirflowException(f"Stage {self.stage} ended without a result; see the application's log above")
        return _brief(ended)


class _NoEngine:
    """Stands where nothing is left to run; a stage that asks for it all the same is a bug."""

    def map_units(self, function: Any, units: list[dict[str, Any]]) -> list[dict[str, Any]]:
        raise AirflowException("a reused stage asked for an engine")

    def spark(self) -> Any:
        raise AirflowException("a reused stage asked for Spark")

    def close(self) -> None:
        """Nothing was started."""


def _brief(result: dict[str, Any]) -> dict[str, Any]:
    counters = result["counters"]
    return {
        "stage": result["key"],
        "digest": result["digest"],
        "reused": result["reused"],
        "rows_in": counters["rows_in"],
        "kept": counters["kept"],
        "rejected": counters["rejected"],
        "quarantined": counters["quarantined"],
        "seconds": result["seconds"],
    }
