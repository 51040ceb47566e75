"""The few calls of Airflow's REST API that `make run` needs."""

from __future__ import annotations

import time
from typing import Any

import requests

from hyperclova_core.foundation.errors import ConfigError, TransientError

SECONDS = 60
PATIENCE = 120


class AirflowApi:
    """A client logged in as one user."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url = url
        self._session = requests.Session()
        answer = self._session.post(f"{url}/auth/token", json={"username": user, "password": password}, timeout=SECONDS)
        if answer.status_code not in (200, 201):
            raise ConfigError(
                "Airflow refuses the login",
                where=url,
                why=f"{answer.status_code} {answer.text[:200]}",
                remedy="`make stop`, then `make run` again",
            )
        self._session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self._answer(method, path, body)
        if answer.status_code == 404:
            return None
        if not answer.ok:
            raise ConfigError(
                f"Airflow refuses {method} {path}",
                where=self._url,
                why=f"{answer.status_code} {answer.text[:500]}",
                remedy="correct what it names",
            )
        return answer.json()

    def _answer(self, method: str, path: str, body: dict[str, Any] | None) -> requests.Response:
        """The server's answer; questions are asked again while a busy server fails or does not answer."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = self._session.request(method, f"{self._url}/api/v2{path}", json=body, timeout=SECONDS)
                if method != "GET" or answer.status_code < 500 or time.monotonic() > deadline:
                    return answer
            except requests.RequestException as error:
                if method != "GET" or time.monotonic() > deadline:
                    raise TransientError(
                        "Airflow does not answer",
                        where=self._url,
                        why=str(error),
                        remedy="see the log of the api-server",
                    ) from error
            time.sleep(1)

    def wait_for_recipe(self, dag_id: str, recipe: str, seconds: float = 180) -> None:
        """Until the DAG's form offers a recipe: a file just put into conf/ shows at the next reading of the DAG."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            details = self._call("GET", f"/dags/{dag_id}/details") or {}
            schema = (details.get("params") or {}).get("recipe", {})
            if recipe in (schema.get("schema") or {}).get("enum", [recipe]):
                return
            time.sleep(2)
        raise TransientError(
            f"The DAG does not offer recipe {recipe}", where=self._url, remedy="see the log of the dag-processor"
        )

    def wait_for_dag(self, dag_id: str, seconds: float = 120) -> None:
        """Until the DAG processor has read the DAG.

        Raises:
            TransientError: it does not appear; with its import error if there is one.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._call("GET", f"/dags/{dag_id}") is not None:
                return
            time.sleep(1)
        errors = self._call("GET", "/importErrors") or {}
        raise TransientError(
            f"DAG {dag_id} does not appear",
            why="; ".join(str(item.get("stack_trace", ""))[-300:] for item in errors.get("import_errors", []))
            or "no import error either",
            remedy="see the log of the dag-processor",
        )

    def unpause(self, dag_id: str) -> None:
        """Let a DAG run."""
        self._call("PATCH", f"/dags/{dag_id}?update_mask=is_paused", {"is_paused": False})

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Start a run with these parameters; its id."""
        run = self._call("POST", f"/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf})
        return str(run["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """`queued`, `running`, `success` or `failed`."""
        return str(self._call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def running_runs(self, dag_id: str) -> list[tuple[str, dict[str, Any]]]:
        """Ids and parameters of runs that are not over."""
        runs = self._call("GET", f"/dags/{dag_id}/dagRuns?state=running&state=queued")
        return [(str(run["dag_run_id"]), run.get("conf") or {}) for run in runs["dag_runs"]]

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Task instances of a run."""
        return list(self._call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=200")["task_instances"])

    def log_tail(self, dag_id: str, run_id: str, task: dict[str, Any], lines: int = 15) -> list[str]:
        """The last lines of a task's log."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task['task_id']}/logs/{max(1, task['try_number'])}?map_index={task['map_index']}"
        content = (self._call("GET", path) or {}).get("content", [])
        text = []
        for item in content:
            text.append(str(item.get("event", "")) if isinstance(item, dict) else str(item))
            details = item.get("error_detail") or [] if isinstance(item, dict) else []
            text += [f"{detail['exc_type']}: {detail['exc_value']}" for detail in details]
        text = [line for line in text if not line.startswith("::")]
        return [line for block in text for line in block.splitlines()][-lines:]
