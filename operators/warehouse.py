"""Where operators find the warehouse, and how errors of the core become Airflow's."""

from __future__ import annotations

import os

from airflow.sdk.exceptions import AirflowException, AirflowFailException

from hyperclova_core.foundation.errors import ConfigError, DataError, GateError, HyperclovaError
from hyperclova_core.foundation.warehouse import Warehouse

VARIABLE = "HYPERCLOVA_WAREHOUSE"


def warehouse() -> Warehouse:
    """The warehouse that HYPERCLOVA_WAREHOUSE names.

    Raises:
        AirflowFailException: it is not set.
    """
    uri = os.environ.get(VARIABLE)
    if not uri:
        raise AirflowFailException(f"{VARIABLE} is not set: Airflow's workers need it to find the warehouse")
    return Warehouse(uri)


def as_airflow_error(error: HyperclovaError) -> AirflowException:
    """An error that another try cannot mend fails the task at once; others may be retried."""
    final = isinstance(error, (ConfigError, DataError, GateError))
    return AirflowFailException(error.message()) if final else AirflowException(error.message())
