"""MLflow's own authentication: nobody without a name, a writer for jobs who is no administrator; on a real server."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.local import mlflow_users
from tests.jobs.fake_cluster import until
from tests.object_store import free_port

TOLD = {
    "MLFLOW_AUTH_ADMIN_PASSWORD": "an-administrators-of-no-worth",
    "MLFLOW_TRACKING_USERNAME": "jobs",
    "MLFLOW_TRACKING_PASSWORD": "a-writers-%40-of-no-worth",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-key-of-no-worth",
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """A server as the chart starts it."""
    port = free_port()
    environment = {
        **os.environ,
        **TOLD,
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "authentication" / "settings.ini"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    for _ in range(2):  # a second start finds its users
        command = [sys.executable, "-m", "hyperclova_core.local.mlflow_database"]
        subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True)
    words = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--app-name", "basic-auth"]
    artifacts = ["--serve-artifacts", "--artifacts-destination", str(tmp_path / "artifacts")]
    with (tmp_path / "log").open("wb") as log:
        started = subprocess.Popen(
            [str(Path(sys.executable).with_name("mlflow")), "server", *words, *artifacts],
            env=environment,
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: started.poll() is not None or _status(f"{address}/health") == 200)
        assert started.poll() is None, (tmp_path / "log").read_text()[-2000:]
        yield address
    finally:
        started.terminate()
        started.wait()


def _status(url: str, who: tuple[str, str] | None = None, body: bytes | None = None) -> int:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    if who is not None:
        request.add_header("Authorization", f"Basic {b64encode(':'.join(who).encode()).decode()}")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.mark.slow
def test_the_writer_writes_and_nobody_else_does(server: str, tmp_path: Path) -> None:
    api = f"{server}/api/2.0/mlflow"
    jobs = ("jobs", TOLD["MLFLOW_TRACKING_PASSWORD"])
    admin = ("admin", TOLD["MLFLOW_AUTH_ADMIN_PASSWORD"])
    somebody = b'{"username": "somebody", "password": "long-enough-of-no-worth"}'
    assert _status(f"{api}/experiments/search?max_results=1") == 401
    assert _status(f"{api}/experiments/search?max_results=1", ("jobs", "a-wrong-password")) == 401
    assert _status(f"{api}/experiments/create", jobs, b'{"name": "pretraining"}') == 200
    # an experiment that was there before there were users
    assert _status(f"{api}/runs/create", jobs, b'{"experiment_id": "0"}') == 200
    assert _status(f"{api}/users/create", jobs, somebody) == 403, "no administrator"
    assert _status(f"{api}/users/create", admin, somebody) == 200
    person = ("somebody", "long-enough-of-no-worth")
    assert _status(f"{api}/experiments/get?experiment_id=1", person) == 200, "people read"
    assert _status(f"{api}/runs/create", person, b'{"experiment_id": "1"}') == 403
    settings = tmp_path / "authentication" / "settings.ini"
    assert settings.stat().st_mode & 0o777 == 0o600
    assert not any(value in settings.read_text() for value in TOLD.values() if len(value) > 5)


def test_settings_keep_percent_signs_of_an_address(tmp_path: Path) -> None:
    address = "postgresql+psycopg2://mlflow:a%40b%25c@db/mlflow"
    mlflow_users.write_settings(tmp_path / "a" / "settings.ini", address, "admin")
    read = configparser.ConfigParser()
    read.read(tmp_path / "a" / "settings.ini")
    assert read["mlflow"]["database_uri"] == address
    assert read["mlflow"]["default_permission"] == "READ"


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"MLFLOW_AUTH_ADMIN_PASSWORD": ""}, "MLFLOW_AUTH_ADMIN_PASSWORD"),
        ({"MLFLOW_TRACKING_PASSWORD": "short"}, "MLFLOW_TRACKING_PASSWORD"),
        ({"MLFLOW_TRACKING_USERNAME": "admin"}, "MLFLOW_TRACKING_USERNAME"),
        ({"MLFLOW_FLASK_SERVER_SECRET_KEY": ""}, "MLFLOW_FLASK_SERVER_SECRET_KEY"),
    ],
)
def test_what_is_missing_or_weak_is_named_and_never_shown(changes: dict[str, str], where: str, tmp_path: Path) -> None:
    told = {**TOLD, **changes, "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "settings.ini")}
    with pytest.raises(ConfigError) as caught:
        mlflow_users.prepare("sqlite://", told)
    assert where in caught.value.where
    assert not any(value in caught.value.message() for value in told.values() if len(value) > 9 and "/" not in value)
    assert not (tmp_path / "settings.ini").exists()
