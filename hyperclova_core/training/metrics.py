"""Metrics of a training: always to a file, and to MLflow while it can be reached; what it missed is sent later."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.lineage import connect, parent_run
from hyperclova_core.foundation.warehouse import RunFolder
from hyperclova_core.training.mlflow_sender import MlflowSender

BESIDE = "history"
HISTORY, DECISIONS, DELIVERY = "metrics.jsonl", "decisions.jsonl", "mlflow.json"


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
        self._sender: MlflowSender | None = None
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri and run is not None:
            sent = storage.read_json(self._delivery)["rows"] if storage.exists(self._delivery) else 0
            backlog = read_history(self._path)[sent:]  # what never was sent
            begin = partial(_begin, uri, run, self._delivery, name, tags, parameters)
            self._sender = MlflowSender(begin, self._delivery, backlog)

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

    def _keep_until(self, step: int) -> int:
        """Rows after the checkpoint that training resumes from are forgotten: they come again; how many are left."""
        rows = _keep_rows(self._path, lambda row: row["step"] <= step)
        if storage.exists(self._delivery):
            record = storage.read_json(self._delivery)
            storage.write_json(self._delivery, {**record, "rows": min(record["rows"], rows)})
        return rows

    def add(self, step: int, tokens: int, values: dict[str, float]) -> None:
        """One row."""
        row = {"step": step, "tokens": tokens, "time": int(time.time() * 1000), **values}
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._sender is not None:
            self._sender.offer(row)

    def flush(self) -> None:
        """Wait until what is there was sent, or could not be."""
        if self._sender is not None:
            self._sender.flush()

    def decide(self, decision: dict[str, Any]) -> None:
        """Keep a decision (a step skipped, training gone back) in `decisions.jsonl`, which the run shows."""
        with storage.local_path(self._decisions).open("a") as file:
            file.write(json.dumps(decision) + "\n")

    def go_back(self, step: int) -> None:
        """Forget the rows after a step that training goes back to; what MLflow has of them is written over by the same steps."""
        self._file.close()
        rows = _keep_rows(self._path, lambda row: row["step"] <= step)
        if self._sender is not None:
            self._sender.forget_after(step, rows)
        self._file = storage.local_path(self._path).open("a")

    def close(self) -> None:
        """Send the rest and close the file."""
        self._file.close()
        if self._sender is not None:
            self._sender.close(str(storage.local_path(self._decisions)) if storage.exists(self._decisions) else None)


def _begin(
    uri: str, run: RunFolder, delivery: str, name: str, tags: dict[str, str], parameters: dict[str, Any]
) -> tuple[Any, str]:
    """(client, run id) of this training in MLflow: the one that an earlier attempt made, or a new one."""
    from mlflow.entities import Param

    client = connect(uri)
    experiment, parent = parent_run(client, run)
    if storage.exists(delivery):
        run_id = str(storage.read_json(delivery)["run_id"])
        client.update_run(run_id, status="RUNNING")
        return client, run_id
    made = client.create_run(experiment, tags={"mlflow.parentRunId": parent, "mlflow.runName": name, **tags})
    run_id = str(made.info.run_id)
    storage.write_json(delivery, {"run_id": run_id, "rows": 0})
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in parameters.items()])
    return client, run_id


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
