"""Who may use MLflow's server: an administrator, and the writer that stages and jobs log in as; made before the server starts.

Passwords come from the environment, by MLflow's own names, and are set anew at each start, so that a secret that was exchanged counts:

  MLFLOW_AUTH_CONFIG_PATH                               where the server's settings are written; unset: no authentication
  MLFLOW_AUTH_ADMIN_USERNAME, MLFLOW_AUTH_ADMIN_PASSWORD
  MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD    the writer's, the same as in the jobs' secret

Others, whom the administrator adds, may read everything and change what is theirs.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from pathlib import Path

from hyperclova_core.foundation.errors import ConfigError

SETTINGS = "MLFLOW_AUTH_CONFIG_PATH"
SERVER_KEY = "MLFLOW_FLASK_SERVER_SECRET_KEY"
ADMIN = ("MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD")
WRITER = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
WRITTEN = ("experiment", "registered_model")
MIN_CHARACTERS = 12
"""Of a password, as MLflow asks."""
CACHE_SECONDS = 60
"""A password's slow hash is compared once a minute, not with each metric."""


def prepare(database: str, environment: Mapping[str, str]) -> None:
    """Write the server's settings, and make or renew its two users in the database.

    Args:
        database: address of MLflow's own database, which holds the users too.

    Raises:
        ConfigError: a name or a password is missing, or too short.
    """
    told = {name: environment.get(name, "") for name in (*ADMIN, *WRITER, SERVER_KEY)}
    told[ADMIN[0]] = told[ADMIN[0]] or "admin"
    for name, value in told.items():
        if len(value) < (MIN_CHARACTERS if name in (ADMIN[1], WRITER[1], SERVER_KEY) else 1):
            raise ConfigError(
                "MLflow's users cannot be made",
                where=name,
                why=f"it has fewer than {MIN_CHARACTERS} characters" if value else "it is not set",
                remedy=f"set it from a secret (openssl rand -hex 24), or leave {SETTINGS} empty: then everybody may write",
            )
    if told[ADMIN[0]] == told[WRITER[0]]:
        raise ConfigError(
            "The writer is the administrator",
            where=f"{ADMIN[0]}, {WRITER[0]}",
            why="jobs would be able to make users and delete everything",
            remedy="give them different names",
        )
    write_settings(Path(environment[SETTINGS]), database, told[ADMIN[0]])
    _make_users(database, told)


def write_settings(path: Path, database: str, admin: str) -> None:
    """The file that MLflow's server reads; it has the database's address, and is its owner's alone."""
    parser = configparser.ConfigParser()
    parser["mlflow"] = {
        "default_permission": "READ",
        # a percent sign begins a reference in such files, and passwords in addresses are full of them
        "database_uri": database.replace("%", "%%"),
        "admin_username": admin.replace("%", "%%"),
        "auth_cache_ttl_seconds": str(CACHE_SECONDS),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        parser.write(file)


def _make_users(database: str, told: Mapping[str, str]) -> None:
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore()
    store.init_db(database)
    for (name, password), admin in ((ADMIN, True), (WRITER, False)):
        if store.has_user(told[name]):
            store.update_user(told[name], told[password], admin)
        else:
            store.create_user(told[name], told[password], admin)
    for kind in WRITTEN:  # those that were made before there were users, too
        store.grant_user_permission(told[WRITER[0]], kind, "*", "EDIT")
