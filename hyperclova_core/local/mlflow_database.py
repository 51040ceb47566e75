"""MLflow's tables: made where there are none, brought up to date where they are older; before its server starts. With MLFLOW_AUTH_CONFIG_PATH
its users as well (`mlflow_users`).

`python -m hyperclova_core.local.mlflow_database`. The address, with its password, comes from MLFLOW_BACKEND_STORE_URI: `mlflow db upgrade` wants
it as an argument, which everybody on the machine can read.
"""

from __future__ import annotations

import os
import sys

from hyperclova_core.foundation.errors import ConfigError, HyperclovaError
from hyperclova_core.foundation.secrets import without_credentials
from hyperclova_core.local import mlflow_users

VARIABLE = "MLFLOW_BACKEND_STORE_URI"


def bring_up_to_date(address: str) -> None:
    """Make or migrate the tables; nothing to do where they are of this version.

    Raises:
        ConfigError: the database cannot be reached, or refuses the login.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.store.db import utils
    from sqlalchemy.exc import SQLAlchemyError

    try:
        engine = utils.create_sqlalchemy_engine_with_retry(address)
        utils._safe_initialize_tables(engine)
        utils._upgrade_db(engine)
    except (SQLAlchemyError, MlflowException, ImportError) as error:
        raise ConfigError(
            "MLflow's database cannot be used",
            where=without_credentials(address),
            why=without_credentials(str(error).splitlines()[0]),
            remedy=f"look at the server, and at the address in {VARIABLE}",
        ) from None


def main() -> None:
    """Entry point."""
    address = os.environ.get(VARIABLE)
    try:
        if not address:
            raise ConfigError("There is no database", where=VARIABLE, why="it is not set", remedy="give its address")
        bring_up_to_date(address)
        if os.environ.get(mlflow_users.SETTINGS):
            mlflow_users.prepare(address, os.environ)
    except HyperclovaError as error:
        sys.stderr.write(f"{error.message()}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
