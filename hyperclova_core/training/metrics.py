"""Metrics of a training: always to a file, and to MLflow while it can be reached; what it missed is sent later."""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.lineage import connect, parent_run, send_rows
from hyperclova_core.foundation.warehouse import RunFolder

log = logging.getLogger(__name__)

HISTORY, DELIVERY = "metrics.jsonl", "mlflow.json"
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
    ) -> None:
        self._path = storage.join(folder, HISTORY)
        self._delivery = storage.join(folder, DELIVERY)
        self._keep_until(resumed_step)
        self._file = storage.local_path(self._path).open("a")
        self._waiting: list[dict[str, Any]] = []
        self._sent_at = time.monotonic()
        self._client: Any = None
        self._run_id: str | None = None
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri and run is not None:
            self._begin(uri, run, name, tags, parameters)

    def _keep_until(self, step: int) -> None:
        """Rows after the checkpoint that training resumes from are forgotten: they come again."""
        path = storage.local_path(self._path)
        rows = (
            [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
            if path.exists()
            else []
        )
        storage.write_bytes(self._path, "".join(f"{row}\n" for row in rows).encode())
        if storage.exists(self._delivery):
            record = storage.read_json(self._delivery)
            storage.write_json(self._delivery, {**record, "rows": min(record["rows"], len(rows))})

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
        except (MlflowException, OSError) as error:
            log.warning("MLflow cannot be reached, metrics are kept in %s: %s", self._path, str(error).splitlines()[0])

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
            log.warning("MLflow cannot be reached, %d rows wait: %s", len(self._waiting), str(error).splitlines()[0])
            return
        sent = storage.read_json(self._delivery)["rows"] + len(self._waiting)
        storage.write_json(self._delivery, {"run_id": self._run_id, "rows": sent})
        self._waiting = []

    def close(self) -> None:
        """Send the rest and close the file."""
        self.flush()
        self._file.close()


def read_history(path: str) -> list[dict[str, Any]]:
    """All rows of a `metrics.jsonl`."""
    return [json.loads(line) for line in storage.read_bytes(path).splitlines()]
