"""Metrics of a training: always to a file, and to MLflow while it can be reached; what it missed is sent later."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.lineage import connect, parent_run, send_rows
from hyperclova_core.foundation.secrets import without_credentials
from hyperclova_core.foundation.warehouse import RunFolder

log = logging.getLogger(__name__)

BESIDE = "history"
HISTORY, DECISIONS, DELIVERY = "metrics.jsonl", "decisions.jsonl", "mlflow.json"
FLUSH_SECONDS = 5.0


class MetricsLog:
    """Rank 0's log: rows of (step, tokens, values). Losses go to MLflow twice, by step and by tokens, so that its own
    charts overlay sizes as the waterfall."""

    def __init__(
        self,
        folder: str,
        run: RunFolder | None,
        name: str,
        tags: dict[str, str],
        parameters: dict[str, Any],
        resumed_step: int,
        samples_read: int = 0,
        safe: str | None = None,
    ) -> None:
        self._safe = safe if safe is not None and storage.is_remote(safe) else None
        self._folder = folder
        self._bring_back()
        self._path = storage.join(folder, HISTORY)
        self._decisions = storage.join(folder, DECISIONS)
        self._delivery = storage.join(folder, DELIVERY)
        self._keep_until(resumed_step)
        _keep_rows(self._decisions, lambda row: row["samples_read"] <= samples_read)
        self._file = storage.local_path(self._path).open("a")
        self._waiting: list[dict[str, Any]] = []
        self._sent_at = time.monotonic()
        self._client: Any = None
        self._run_id: str | None = None
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri and run is not None:
            self._begin(uri, run, name, tags, parameters)

    def _bring_back(self) -> None:
        """On another machine than before: what lies beside the checkpoints in S3."""
        if self._safe is not None and not storage.exists(storage.join(self._folder, HISTORY)):
            for name in (HISTORY, DECISIONS, DELIVERY):
                there = storage.join(self._safe, BESIDE, name)
                if storage.exists(there):
                    storage.write_bytes(storage.join(self._folder, name), storage.read_bytes(there))

    def keep_safe(self) -> None:
        """Put a copy beside the checkpoints, where those are in S3: this machine's disk may be gone when training goes on."""
        if self._safe is not None:
            for name in (HISTORY, DECISIONS, DELIVERY):
                here = storage.join(self._folder, name)
                if storage.exists(here):
                    storage.write_bytes(storage.join(self._safe, BESIDE, name), storage.read_bytes(here))

    def _keep_until(self, step: int) -> None:
        """Rows after the checkpoint that training resumes from are forgotten: they come again."""
        rows = _keep_rows(self._path, lambda row: row["step"] <= step)
        if storage.exists(self._delivery):
            record = storage.read_json(self._delivery)
            storage.write_json(self._delivery, {**record, "rows": min(record["rows"], rows)})

    def _begin(self, uri: str, run: RunFolder, name: str, tags: dict[str, str], parameters: dict[str, Any]) -> None:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        try:
            client = connect(uri)
            experiment, parent = parent_run(client, run)
            if storage.exists(self._delivery):
                self._run_id = storage.read_json(self._delivery)["run_id"]
                client.update_run(self._run_id, status="RUNNING")
            else:
                self._run_id = client.create_run(
                    experiment, tags={"mlflow.parentRunId": parent, "mlflow.runName": name, **tags}
                ).info.run_id
                storage.write_json(self._delivery, {"run_id": self._run_id, "rows": 0})
                client.log_batch(self._run_id, params=[Param(key, str(value)) for key, value in parameters.items()])
            self._client = client
            self._waiting = read_history(self._path)[storage.read_json(self._delivery)["rows"] :]  # what never was sent
        except (MlflowException, OSError) as error:
            log.warning(
                "MLflow cannot be reached, metrics are kept in %s: %s",
                self._path,
                without_credentials(str(error).splitlines()[0]),
            )

    def add(self, step: int, tokens: int, values: dict[str, float]) -> None:
        """One row."""
        row = {"step": step, "tokens": tokens, "time": int(time.time() * 1000), **values}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        self._waiting.append(row)
        if time.monotonic() - self._sent_at >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send what waits; on failure it waits on."""
        self._sent_at = time.monotonic()
        if self._client is None or not self._waiting:
            return
        from mlflow.exceptions import MlflowException

        try:
            send_rows(self._client, str(self._run_id), self._waiting)
        except (MlflowException, OSError) as error:
            log.warning(
                "MLflow cannot be reached, %d rows wait: %s",
                len(self._waiting),
                without_credentials(str(error).splitlines()[0]),
            )
            return
        sent = storage.read_json(self._delivery)["rows"] + len(self._waiting)
        storage.write_json(self._delivery, {"run_id": self._run_id, "rows": sent})
        self._waiting = []

    def decide(self, decision: dict[str, Any]) -> None:
        """Keep a decision (a step skipped, training gone back) in `decisions.jsonl`, which the run shows."""
        with storage.local_path(self._decisions).open("a") as file:
            file.write(json.dumps(decision) + "\n")

    def go_back(self, step: int) -> None:
        """Forget the rows after a step that training goes back to; what MLflow has of them is written over by the same steps."""
        self.flush()
        self._file.close()
        self._keep_until(step)
        self._waiting = [row for row in self._waiting if row["step"] <= step]
        self._file = storage.local_path(self._path).open("a")

    def close(self) -> None:
        """Send the rest and close the file."""
        self.flush()
        self._file.close()
        if self._client is None or not storage.exists(self._decisions):
            return
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_artifact(str(self._run_id), str(storage.local_path(self._decisions)))
        except (MlflowException, OSError) as error:
            log.warning(
                "MLflow cannot be reached, decisions are in %s: %s",
                self._decisions,
                without_credentials(str(error).splitlines()[0]),
            )


def read_history(path: str) -> list[dict[str, Any]]:
    """All rows of a `metrics.jsonl`."""
    return [json.loads(line) for line in storage.read_bytes(path).splitlines()]


def _keep_rows(uri: str, wanted: Callable[[dict[str, Any]], bool]) -> int:
    """Leave only the rows that are wanted in a file of JSON lines, if it is there; how many they are."""
    path = storage.local_path(uri)
    if not path.exists():
        return 0
    # the last line may be cut by a kill
    rows = [line for line in path.read_text().split("\n")[:-1] if wanted(json.loads(line))]
    storage.write_bytes(uri, "".join(f"{row}\n" for row in rows).encode())
    return len(rows)
