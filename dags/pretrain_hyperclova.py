"""From sources to evaluated models: what runs after what, nothing else. Triggered in the UI with the form below."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

from airflow.sdk import Param, dag, get_current_context, task

from hyperclova_core.pipeline.graph import SPARK_STAGES
from hyperclova_core.training.model.sizes import SIZES
from operators import DeepSpeedJobOperator, SparkStageOperator, trainings_at_once

CONF = os.environ.get("HYPERCLOVA_CONF") or str(Path(__file__).resolve().parents[1] / "conf")
RECIPES = sorted({path.stem for folder in CONF.split(os.pathsep) for path in Path(folder).glob("*.yaml")})


def mark_failed(context: dict) -> None:  # type: ignore[type-arg]
    """Close the parent run in MLflow when the DAG run fails."""
    from operators.warehouse import close_failed_run

    close_failed_run(context)


@dag(
    schedule=None,
    start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": datetime.timedelta(seconds=10)},
    on_failure_callback=mark_failed,
    params={
        "recipe": Param(
            "demo",
            type="string",
            enum=RECIPES,
            title="Recipe",
            description="A file of conf/, without .yaml.",
            section="Corpus",
        ),
        "sizes": Param(
            [],
            type="array",
            items={"type": "string"},
            examples=list(SIZES),
            title="Model sizes",
            description="Of the recipe's ladder; none: all of it.",
            section="Training",
        ),
        "tokens": Param(
            None,
            type=["null", "integer"],
            minimum=1024,
            title="Training tokens",
            description="Per model; empty: as the recipe says.",
            section="Training",
        ),
        "backend": Param(
            "recipe",
            type="string",
            enum=["recipe", "local", "kubernetes"],
            values_display={"recipe": "as the recipe says", "local": "this machine", "kubernetes": "the cluster"},
            title="Where GPU jobs run",
            description="A cluster needs `jobs.cluster` in the recipe, and the connection kubernetes_default.",
            section="Training",
        ),
    },
    tags=["hyperclova"],
    doc_md=__doc__,
)
def pretrain_hyperclova() -> None:
    @task
    def prepare() -> list[str]:
        """Check the recipe, record the run; the sizes to train."""
        from hyperclova_core.foundation.errors import HyperclovaError
        from hyperclova_core.pipeline.recipe import load_recipe
        from hyperclova_core.pipeline.run import prepare_run
        from operators.warehouse import as_airflow_error, configured_warehouse

        context = get_current_context()
        params = context["params"]
        try:
            run = prepare_run(
                configured_warehouse(),
                context["run_id"],
                load_recipe(params["recipe"]),
                sizes=tuple(params["sizes"]) or None,
                tokens=params["tokens"],
                backend=None if params["backend"] == "recipe" else params["backend"],
            )
        except HyperclovaError as error:
            raise as_airflow_error(error) from error
        return list(run.record().sizes)

    @task
    def finish() -> dict:  # type: ignore[type-arg]
        """Sum the run up, name it in refs/, send summary and figures to MLflow."""
        from hyperclova_core.foundation.errors import HyperclovaError
        from hyperclova_core.pipeline.finish import finish_run
        from operators.warehouse import as_airflow_error, configured_warehouse

        warehouse = configured_warehouse()
        try:
            return finish_run(warehouse, warehouse.run(get_current_context()["run_id"]))
        except HyperclovaError as error:
            raise as_airflow_error(error) from error

    sizes = prepare()
    previous = sizes
    for stage in SPARK_STAGES:
        current = SparkStageOperator(task_id=stage, stage=stage)
        previous >> current
        previous = current
    train = DeepSpeedJobOperator.partial(
        task_id="train",
        stage="train",
        max_active_tis_per_dagrun=trainings_at_once(),
        map_index_template="{{ task.size }}",
    ).expand(size=sizes)
    evaluate = DeepSpeedJobOperator(task_id="evaluate", stage="evaluate")
    previous >> train >> evaluate >> finish()


pretrain_hyperclova()
