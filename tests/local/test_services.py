"""Services: a taken port is a clear message; stopping ends what is ours and nothing else; secrets are not readable by others."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.jobs.backends import is_alive, start_time
from hyperclova_core.local.services import OWNER_VARIABLE, Platform, is_free, start, stop
from tests.conftest import ROOT

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not is_free(port)
        with pytest.raises(ConfigError, match=f"Port {port} is taken") as caught:
            start(Platform(tmp_path, ROOT, airflow_port=port, mlflow_port=_free_port()))
        assert f"AIRFLOW_PORT={port + 1}" in caught.value.remedy
    assert not list((tmp_path / "services").glob("*"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_stopping_ends_what_is_ours_and_nothing_else(tmp_path: Path) -> None:
    home = str(tmp_path)
    ours = subprocess.Popen(SLEEP, start_new_session=True)
    orphan = subprocess.Popen(SLEEP, env={**os.environ, OWNER_VARIABLE: home}, start_new_session=True)
    neighbour = subprocess.Popen(SLEEP, env={**os.environ, "HYPERCLOVA_HOME": home}, start_new_session=True)
    reborn = subprocess.Popen(SLEEP, start_new_session=True)
    (tmp_path / "services").mkdir()
    for name, process, started in (("a", ours, start_time(ours.pid)), ("b", reborn, "1")):
        record = {"pid": process.pid, "started": started, "port": None, "command": []}
        (tmp_path / "services" / f"{name}.json").write_text(json.dumps(record))
    try:
        assert stop(Platform(tmp_path, ROOT, _free_port(), _free_port())) == []
        time.sleep(0.2)
        assert ours.poll() is not None
        assert orphan.poll() is not None
        assert neighbour.poll() is None, "a process of the user that knows HYPERCLOVA_HOME is not a service"
        assert reborn.poll() is None, "a process that has a dead service's id is another process"
        assert is_alive(neighbour.pid, start_time(neighbour.pid))
    finally:
        for process in (ours, orphan, neighbour, reborn):
            process.kill()
            process.wait()


def test_secrets_are_kept_and_a_given_key_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    platform = Platform(tmp_path, ROOT)
    monkeypatch.delenv("HYPERCLOVA_PSEUDONYM_KEY")
    first = platform.environment()
    assert first["HYPERCLOVA_PSEUDONYM_KEY"] == platform.environment()["HYPERCLOVA_PSEUDONYM_KEY"]
    assert len(first["AIRFLOW__API_AUTH__JWT_SECRET"]) >= 64
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    monkeypatch.setenv("HYPERCLOVA_PSEUDONYM_KEY", "the user's own key, kept in a vault")
    assert platform.environment()["HYPERCLOVA_PSEUDONYM_KEY"] == "the user's own key, kept in a vault"
    assert first["AIRFLOW__API__HOST"] == "127.0.0.1"


def test_mlflows_tables_are_made_and_brought_up_to_date(tmp_path: Path) -> None:
    from hyperclova_core.local.mlflow_database import bring_up_to_date

    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    bring_up_to_date(address)
    bring_up_to_date(address)
    with pytest.raises(ConfigError, match="database cannot be used") as caught:
        bring_up_to_date("postgresql://mlflow:hidden@127.0.0.1:1/mlflow")
    assert "hidden" not in caught.value.message()
