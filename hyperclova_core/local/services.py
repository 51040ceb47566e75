"""The services of one machine as processes: each in a session of its own, recorded by process id and start time, ended whole.

`airflow standalone` leaves children behind when it is ended, so its parts are started one by one.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import requests

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import ConfigError, TransientError
from hyperclova_core.foundation.secrets import PSEUDONYM_VARIABLE
from hyperclova_core.jobs.backends import is_alive, start_time

AIRFLOW_PORT, MLFLOW_PORT = 8080, 5000
OWNER_VARIABLE = "HYPERCLOVA_SERVICES_OF"
"""Set for services and all they start, by nobody else: `stop` ends what carries it."""
START_SECONDS = 240
STOP_SECONDS = 20


@dataclass(frozen=True)
class Platform:
    """Where everything of one installation lies, and its ports."""

    home: Path
    root: Path
    airflow_port: int = AIRFLOW_PORT
    mlflow_port: int = MLFLOW_PORT
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def warehouse(self) -> Path:
        """The warehouse."""
        return self.home / "warehouse"

    @property
    def data(self) -> Path:
        """Source files: relative paths of recipes start here."""
        return self.home / "data"

    @property
    def airflow_url(self) -> str:
        """Airflow's UI and API."""
        return f"http://127.0.0.1:{self.airflow_port}"

    @property
    def mlflow_url(self) -> str:
        """MLflow's UI and API."""
        return f"http://127.0.0.1:{self.mlflow_port}"

    @property
    def passwords(self) -> Path:
        """Where Airflow's simple auth manager leaves the password it made."""
        return self.home / "airflow" / "simple_auth_manager_passwords.json.generated"

    def password(self) -> str:
        """Of the user `admin`."""
        return str(json.loads(self.passwords.read_text())["admin"])

    def environment(self) -> dict[str, str]:
        """Variables of all services and what they start."""
        folder = str(Path(sys.executable).parent)
        airflow = self.home / "airflow"
        return {
            **os.environ,
            "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": os.pathsep.join(filter(None, [str(self.root), os.environ.get("PYTHONPATH")])),
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_DRIVER_PYTHON": sys.executable,
            "SPARK_LOCAL_IP": "127.0.0.1",
            "HYPERCLOVA_HOME": str(self.home),
            "HYPERCLOVA_WAREHOUSE": str(self.warehouse),
            "HYPERCLOVA_DATA": str(self.data),
            "HYPERCLOVA_CONF": os.environ.get("HYPERCLOVA_CONF") or str(self.root / "conf"),
            PSEUDONYM_VARIABLE: os.environ.get(PSEUDONYM_VARIABLE) or self._secret("pseudonym.key"),
            OWNER_VARIABLE: str(self.home),
            "MLFLOW_TRACKING_URI": self.mlflow_url,
            "AIRFLOW_HOME": str(airflow),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.root / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__PARALLELISM": "2",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.airflow_url}/execution/",
            "AIRFLOW__CORE__INTERNAL_API_SECRET_KEY": self._secret("airflow.key"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{airflow / 'airflow.db'}",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.airflow_port),
            "AIRFLOW__API__BASE_URL": self.airflow_url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__SECRET_KEY": self._secret("airflow.key"),
            "AIRFLOW__API_AUTH__JWT_SECRET": self._secret("airflow-jwt.key"),
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "10",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "2",
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps({"conn_type": "spark", "host": f"local[{os.cpu_count() or 1}]"}),
            "GX_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "DS_ACCELERATOR": "cpu",
            **self.extra,
        }

    def _secret(self, name: str) -> str:
        path = self.home / "secrets" / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.parent.chmod(0o700)
            storage.create_once(str(path), secrets.token_hex(48).encode())
        return path.read_text().strip()


@dataclass(frozen=True)
class Service:
    """One process to keep."""

    name: str
    command: tuple[str, ...]
    port: int | None = None


def services_of(platform: Platform) -> tuple[Service, ...]:
    """What runs, in the order it is started.

    Log servers are left out: the API server reads the same disk, and they would hold ports on every interface.
    """
    python = sys.executable
    airflow = (python, "-m", "airflow")
    mlflow_home = platform.home / "mlflow"
    return (
        Service(
            "mlflow",
            (
                python,
                "-m",
                "mlflow",
                "server",
                "--host",
                "127.0.0.1",
                "--port",
                str(platform.mlflow_port),
                "--workers",
                "1",
                "--backend-store-uri",
                f"sqlite:///{mlflow_home / 'mlflow.db'}",
                "--artifacts-destination",
                str(mlflow_home / "artifacts"),
                "--serve-artifacts",
            ),
            platform.mlflow_port,
        ),
        Service(
            "airflow-api-server",
            (*airflow, "api-server", "--host", "127.0.0.1", "--port", str(platform.airflow_port)),
            platform.airflow_port,
        ),
        Service("airflow-scheduler", (*airflow, "scheduler", "--skip-serve-logs")),
        Service("airflow-dag-processor", (*airflow, "dag-processor")),
        Service("airflow-triggerer", (*airflow, "triggerer", "--skip-serve-logs")),
    )


def is_free(port: int) -> bool:
    """Whether nothing listens on a port of 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def running(platform: Platform) -> dict[str, dict[str, object]]:
    """Records of our services that are alive."""
    found = {}
    for path in sorted((platform.home / "services").glob("*.json")):
        record = json.loads(path.read_text())
        if is_alive(record["pid"], record["started"]):
            found[path.stem] = record
    return found


def start(platform: Platform) -> bool:
    """Start what does not run, and wait until it answers; False when everything ran already.

    Raises:
        ConfigError: a port is taken by somebody else, or runs on other ports.
        TransientError: a service does not come up.
    """
    alive = running(platform)
    for name, record in alive.items():
        wanted = next((service.port for service in services_of(platform) if service.name == name), None)
        if wanted and record["port"] != wanted:
            raise ConfigError(
                f"{name} runs on port {record['port']} already",
                remedy="`make stop` first, then start it on another port",
            )
    missing = [service for service in services_of(platform) if service.name not in alive]
    for service in missing:
        if service.port is not None and not is_free(service.port):
            variable = "MLFLOW_PORT" if service.name == "mlflow" else "AIRFLOW_PORT"
            raise ConfigError(
                f"Port {service.port} is taken",
                where=f"127.0.0.1:{service.port}, wanted by {service.name}",
                why="another program listens there",
                remedy=f"end it, or choose another: make run {variable}={service.port + 1}",
            )
    if not missing:
        return False
    environment = platform.environment()
    (platform.home / "mlflow" / "artifacts").mkdir(parents=True, exist_ok=True)
    (platform.home / "airflow").mkdir(parents=True, exist_ok=True)
    (platform.home / "logs").mkdir(exist_ok=True)
    _start_one(platform, missing[0], environment) if missing[0].name == "mlflow" else None
    _migrate(platform, environment)
    for service in missing:
        if service.name != "mlflow":
            _start_one(platform, service, environment)
    _await(platform, f"{platform.mlflow_url}/health", "mlflow")
    _await(platform, f"{platform.airflow_url}/api/v2/monitor/health", "airflow-api-server")
    _await(platform, f"{platform.airflow_url}/execution/health", "airflow-api-server")
    return True


def _migrate(platform: Platform, environment: dict[str, str]) -> None:
    log = platform.home / "logs" / "airflow-migrate.log"
    with log.open("ab") as file:
        code = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if code:
        raise TransientError(
            "Airflow's database cannot be set up",
            where=str(log),
            why=f"`airflow db migrate` ended with {code}",
            remedy="see the log",
        )


def _start_one(platform: Platform, service: Service, environment: dict[str, str]) -> None:
    log = platform.home / "logs" / f"{service.name}.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            service.command,
            env=environment,
            cwd=platform.home,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    record = {
        "pid": process.pid,
        "started": start_time(process.pid),
        "port": service.port,
        "command": list(service.command),
    }
    storage.write_json(str(platform.home / "services" / f"{service.name}.json"), record)


def _await(platform: Platform, url: str, name: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if requests.get(url, timeout=60).ok:
                return
        except requests.RequestException:
            if name not in running(platform):
                break
        time.sleep(0.5)
    raise TransientError(
        f"{name} does not come up",
        where=url,
        why=f"no answer within {START_SECONDS} s, or its process ended",
        remedy=f"see {platform.home / 'logs' / (name + '.log')}",
    )


def stop(platform: Platform) -> list[str]:
    """End all services with everything they started; names of what is left (none, if all is well)."""
    folder = platform.home / "services"
    records = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    sessions = {record["pid"] for record in records.values() if is_alive(record["pid"], record["started"])}
    owned = _members(sessions, str(platform.home))
    for pid in owned:
        _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while _members(sessions, str(platform.home)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for pid in _members(sessions, str(platform.home)):
        _signal(pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while _members(sessions, str(platform.home)) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [f"process {pid}" for pid in _members(sessions, str(platform.home))]
    ports = {name: record["port"] for name, record in records.items() if record["port"]}
    left += [f"port {port} of {name}" for name, port in ports.items() if not is_free(int(port))]
    if not left:
        for path in folder.glob("*.json"):
            path.unlink()
    return left


def _members(sessions: set[int], home: str) -> list[int]:
    """Processes of the services' sessions, and all that they started, wherever it went (jobs, Spark)."""
    found = []
    marker = f"{OWNER_VARIABLE}={home}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z":
                continue
            if int(fields[3]) in sessions or marker in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    ancestors = _ancestors()
    return [pid for pid in found if pid not in ancestors]


def _ancestors() -> set[int]:
    pids, pid = set(), os.getpid()
    while pid > 1:
        pids.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pids


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
