"""Where operators find the warehouse, and how errors of the core become Airflow's."""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from hyperclova_core.foundation.errors import ConfigError, DataError, GateError, HyperclovaError
from hyperclova_core.foundation.warehouse import Warehouse

VARIABLE = "HYPERCLOVA_WAREHOUSE"


def configured_warehouse() -> Warehouse:
    """The warehouse that HYPERCLOVA_WAREHOUSE names.

    Raises:
        AirflowFailException: it is not set.
    """
    uri = os.environ.get(VARIABLE)
    if not uri:
        raise AirflowFailException(f"{VARIABLE} is not set: Airflow's workers need it to find the warehouse")
    return Warehouse(uri)


def close_failed_run(context: dict[str, Any]) -> None:
    """Mark the parent run in MLflow as failed; nothing to do where the run had not been recorded."""
    from hyperclova_core.foundation import storage
    from hyperclova_core.pipeline.finish import fail_run

    warehouse = configured_warehouse()
    run = warehouse.run(context["run_id"])
    if storage.exists(storage.join(run.uri, "run.json")):
        fail_run(warehouse, run, str(context.get("reason", "the DAG run failed")))


def as_airflow_error(error: HyperclovaError) -> AirflowException:
    """An error that another try cannot mend fails the task at once; others may be retried."""
    final = isinstance(error, (ConfigError, DataError, GateError))
    return AirflowFailException(error.message()) if final else AirflowException(error.message())
