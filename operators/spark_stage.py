"""`SparkStageOperator`: one stage of a run as a Spark application, or no application where its output is there already."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import BaseOperatorLink
from airflow.sdk.exceptions import AirflowException

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import ConfigError, HyperclovaError, from_dict
from hyperclova_core.foundation.secrets import without_credentials
from hyperclova_core.foundation.stages.engines import SPARK_SETTINGS
from operators.kubernetes import DEFAULT_CONNECTION
from operators.warehouse import as_airflow_error, configured_warehouse

if TYPE_CHECKING:
    from airflow.sdk import Context

    from hyperclova_core.foundation.warehouse import RunFolder, StageResult
    from hyperclova_core.jobs.spark.driver import SparkDriver
    from hyperclova_core.pipeline.recipe import Recipe

SUBMIT_SECONDS = 600
LAST_LINES = 20


class HistoryServerLink(BaseOperatorLink):
    """From a task to its application in a Spark history server, where the recipe's `spark_cluster.history_server` names one."""

    name = "Spark history"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """The address, or nothing."""
        return str(getattr(operator, "history_link", ""))


class SparkStageOperator(SparkSubmitOperator):
    """Runs a stage of the DAG run's recipe.

    The reuse check comes before spark-submit: a committed output with the same fingerprint that has passed its gates is
    taken, and no JVM starts.

    Args:
        stage: name of a Spark stage.
        run_id: the run in the warehouse; by default the DAG run's id.
        kubernetes_conn_id: connection of the cluster, where the Spark connection's master is k8s://.
        poll_seconds: between looks at a driver on a cluster.
    """

    template_fields = (*SparkSubmitOperator.template_fields, "run_id")
    ui_color = "#dcebf7"
    operator_extra_links = (HistoryServerLink(),)

    def __init__(
        self,
        *,
        stage: str,
        run_id: str = "{{ run_id }}",
        kubernetes_conn_id: str = DEFAULT_CONNECTION,
        poll_seconds: float = 5.0,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("conn_id", "spark_default")
        super().__init__(name=f"hyperclova-{stage}", **kwargs)
        self.stage = stage
        self.run_id = run_id
        self.kubernetes_conn_id = kubernetes_conn_id
        self.poll_seconds = poll_seconds
        self._driver: SparkDriver | None = None
        self.history_link = ""

    def execute(self, context: Context) -> dict[str, Any]:  # type: ignore[override]
        """Reuse or run the stage; what the next tasks and the UI may know of it."""
        from hyperclova_core.foundation.stages.runner import execute
        from hyperclova_core.pipeline import spark_application
        from hyperclova_core.pipeline.outcomes import record_outcome
        from hyperclova_core.pipeline.stage_requests import plan_key, recipe_of

        warehouse = configured_warehouse()
        run = warehouse.run(self.run_id)
        started = time.time()
        try:
            plan = plan_key(warehouse, run, self.stage)
            run.begin_stage(self.stage, plan.target.uri)
            if plan.reusable:
                outcome = execute(plan, _NoEngine())
                result = record_outcome(warehouse, run, self.stage, plan, outcome, started)
                self.log.info(
                    "Reused: made by run %s at %s, digest %s",
                    result.made_by or "(outside Airflow)",
                    result.made_at,
                    result.digest,
                )
                return _brief(result)
        except HyperclovaError as error:
            raise as_airflow_error(error) from error
        recipe = recipe_of(run)
        self.application = spark_application.__file__
        self.application_args = ["--warehouse", warehouse.uri, "--run", self.run_id, "--stage", self.stage]
        told = dict(self.conf or {})
        self.conf: dict[str, Any] | None = {**SPARK_SETTINGS, **recipe.spark, **told}
        failure = spark_application.failure_path(run, self.stage)
        server = recipe.spark_cluster.history_server if recipe.spark_cluster is not None else None
        try:
            if self._get_hook()._is_kubernetes:
                self._on_cluster(recipe, plan.fingerprint, told, lambda: storage.remove(failure))
            else:
                storage.remove(failure)
                super().execute(context)
        except HyperclovaError as error:
            raise as_airflow_error(error) from error
        except AirflowException as error:
            if storage.exists(failure):
                raise as_airflow_error(from_dict(storage.read_json(failure))) from error
            raise
        finally:
            if server:
                self.history_link = self._link(server, run)
        ended = run.stage_result(self.stage)
        if ended is None:
            raise AirflowException(f"Stage {self.stage} ended without a result; see the application's log above")
        return _brief(ended)

    def _link(self, server: str, run: RunFolder) -> str:
        """Where the stage's application is seen; no link is no reason to fail a stage, or to hide why one has failed."""
        from hyperclova_core.pipeline import spark_events

        try:
            application = spark_events.application_of(run, self.stage)
        except (HyperclovaError, OSError) as error:
            self.log.warning("No link to the Spark history server: %s", type(error).__name__)
            return ""
        return f"{server.rstrip('/')}/history/{application}/jobs/" if application else ""

    def _on_cluster(self, recipe: Recipe, fingerprint: str, conf: dict[str, Any], before: Callable[[], None]) -> None:
        """Submit the driver to the cluster, or adopt an earlier try's, and follow it to its end.

        spark-submit only makes the driver's pod: followed by its name, it survives this process, and no JVM waits beside it. The
        provider's own following loses drivers outside a namespace called `spark` (docs/decisions/0016).

        Args:
            conf: this operator's own settings, which count most; before: called before something new is submitted.
        """
        from hyperclova_core.jobs.config import TO_STAGES, passed_on
        from hyperclova_core.jobs.spark import pods
        from hyperclova_core.jobs.spark.driver import SparkDriver
        from operators.kubernetes import api_of, place_of

        told = recipe.spark_cluster
        if told is None:
            raise ConfigError(
                "The recipe does not say how pods of Spark stages look",
                where="spark_cluster",
                why=f"connection {self._conn_id} leads to a cluster",
                remedy="give at least spark_cluster.image, the pipeline image",
            )
        told = pods.sized(told, recipe.spark)
        config = told.model_copy(
            update={"environment": {**passed_on(told.environment, os.environ, TO_STAGES), **told.environment}}
        )
        name = pods.driver_name(configured_warehouse().uri, self.run_id, self.stage)
        self._driver = SparkDriver(api_of(self.kubernetes_conn_id), config, name)
        if self._driver.adopt(fingerprint):
            self.log.info("Adopted running driver %s", name)
        else:
            before()
            with tempfile.TemporaryDirectory(prefix="hyperclova-templates-") as folder:
                for role, template in pods.templates(config, self.stage).items():
                    storage.write_json(storage.join(folder, f"{role}.json"), template)
                own = pods.settings(config, name, self.stage, fingerprint, folder)
                # sizes are in `config` by now; a number of partitions is what the recipe says of its data
                chosen = {key: recipe.spark[key] for key in (pods.PARTITIONS,) if key in recipe.spark}
                place = place_of(self.kubernetes_conn_id, folder)
                self.conf = {**SPARK_SETTINGS, **recipe.spark, **own, **chosen, **place.settings, **conf}
                self.application = f"local://{config.application}"
                self._submit(place.kubeconfig)
            self.log.info("Submitted driver %s", name)
        status = self._driver.wait(self.log.info, self.poll_seconds)
        # not where it was left by a timeout or a signal: `on_kill` comes after it, and ends the driver
        self._driver = None
        self.log.info("Driver %s: %s", name, status.explain())
        if status.state != "succeeded":
            if status.cause.get("type"):
                raise from_dict({**status.cause, "exit_code": status.exit_code})
            raise AirflowException(f"Driver {name}: {status.explain()}")
        SparkDriver(api_of(self.kubernetes_conn_id), config, name).cancel()

    def _submit(self, kubeconfig: str | None) -> None:
        """Run spark-submit, which ends when the driver's pod is made.

        Raises:
            AirflowException: it refuses, with its last lines.
        """
        # the driver's pod has its own; Spark would pass ours on
        own = ("PYSPARK_PYTHON", "PYSPARK_DRIVER_PYTHON", "SPARK_LOCAL_DIRS", "SPARK_LOCAL_IP")
        environment = {key: value for key, value in os.environ.items() if key not in own}
        if kubeconfig:
            environment["KUBECONFIG"] = kubeconfig
        command = self._get_hook()._build_spark_submit_command(self.application)
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=SUBMIT_SECONDS, check=False
        )
        if ended.returncode:
            lines = [
                line
                for line in (ended.stderr + ended.stdout).splitlines()
                if line.strip() and not line.startswith("\tat ")
            ]
            raise AirflowException("spark-submit failed:\n" + without_credentials("\n".join(lines[-LAST_LINES:])))

    def on_kill(self) -> None:
        """End the application: the driver's pod on a cluster, with its executors; else the process here."""
        if self._driver is not None:
            self._driver.cancel()
        else:
            super().on_kill()


class _NoEngine:
    """Stands where nothing is left to run; a stage that asks for it all the same is a bug."""

    def map_units(self, function: Any, units: Any, answer: Any) -> Any:
        raise AirflowException("a reused stage asked for an engine")

    def spark(self) -> Any:
        raise AirflowException("a reused stage asked for Spark")

    def close(self) -> None:
        """Nothing was started."""


def _brief(result: StageResult) -> dict[str, Any]:
    counters = result.counters
    return {
        "stage": result.key,
        "digest": result.digest,
        "reused": result.reused,
        "rows_in": counters.rows_in,
        "kept": counters.kept,
        "rejected": counters.rejected,
        "quarantined": counters.quarantined,
        "seconds": result.seconds,
    }
