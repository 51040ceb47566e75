"""Every night: what is new in the recipe's landing folder goes through the corpus stages, then the corpus is published."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from airflow.sdk import Asset, CronTriggerTimetable, Metadata, Param, dag, get_current_context, task

from hyperclova_core.pipeline.graph import NIGHT_STAGES
from operators import SparkStageOperator

CONF = os.environ.get("HYPERCLOVA_CONF") or str(Path(__file__).resolve().parents[1] / "conf")
RECIPES = sorted({path.stem for folder in CONF.split(os.pathsep) for path in Path(folder).glob("*.yaml")})
CORPUS = Asset(name="hyperclova_corpus", uri="hyperclova://corpus")


def mark_failed(context: dict) -> None:  # type: ignore[type-arg]
    """Close the night's run in MLflow when it fails."""
    from operators.warehouse import close_failed_run

    close_failed_run(context)


@dag(
    schedule=CronTriggerTimetable("0 3 * * *", timezone="Asia/Seoul"),
    start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    catchup=False,
    max_active_runs=1,
    on_failure_callback=mark_failed,
    default_args={"retries": 2, "retry_delay": datetime.timedelta(seconds=10)},
    params={
        "recipe": Param(
            "demo",
            type="string",
            enum=RECIPES,
            title="Recipe",
            description="Its `refresh` section names the landing folder.",
        )
    },
    tags=["hyperclova"],
    doc_md=__doc__,
)
def refresh_corpus() -> None:
    @task.short_circuit
    def find_new() -> bool:
        """Whether files have landed that no night before has seen; records the run if so."""
        from hyperclova_core.foundation.errors import HyperclovaError
        from hyperclova_core.pipeline.recipe import load_recipe
        from hyperclova_core.pipeline.refresh import prepare_refresh
        from operators.warehouse import as_airflow_error, configured_warehouse

        context = get_current_context()
        try:
            return (
                prepare_refresh(configured_warehouse(), context["run_id"], load_recipe(context["params"]["recipe"]))
                is not None
            )
        except HyperclovaError as error:
            raise as_airflow_error(error) from error

    @task(outlets=[CORPUS])
    def publish():  # type: ignore[no-untyped-def]
        """Name the new version, and tell whoever waits for the corpus."""
        from hyperclova_core.foundation.errors import HyperclovaError
        from hyperclova_core.pipeline.refresh import publish_refresh
        from operators.warehouse import as_airflow_error, configured_warehouse

        warehouse = configured_warehouse()
        try:
            version = publish_refresh(warehouse, warehouse.run(get_current_context()["run_id"]))
        except HyperclovaError as error:
            raise as_airflow_error(error) from error
        yield Metadata(CORPUS, extra=version.model_dump(include={"version", "digest", "documents", "bytes", "drops"}))

    previous = find_new()
    for stage in NIGHT_STAGES:
        current = SparkStageOperator(task_id=stage, stage=stage)
        previous >> current
        previous = current
    previous >> publish()


refresh_corpus()
