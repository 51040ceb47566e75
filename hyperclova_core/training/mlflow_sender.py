"""Rows to MLflow from a thread of their own: a server that is slow, or away, never holds up a step."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.lineage import send_rows
from hyperclova_core.foundation.secrets import without_credentials

log = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
CLOSE_SECONDS = 120.0
"""The end of a training waits so long at most; what was not sent by then goes with the lineage of the run."""
Row = dict[str, Any]


class MlflowSender:
    """Sends rows in their order, each once.

    Args:
        begin: (client, run id) of the training's run in MLflow, made where it is not there yet. Called from the thread.
        record: a JSON file that says which run it is, and how many rows of the history it has: `{"run_id", "rows"}`.
        backlog: rows that an earlier attempt did not send.
    """

    def __init__(self, begin: Callable[[], tuple[Any, str]], record: str, backlog: Sequence[Row]) -> None:
        self._begin, self._record = begin, record
        self._client: Any = None
        self._run_id = ""
        self._waiting = list(backlog)
        self._artifact: str | None = None
        self._generation = self._asked = self._served = 0
        self._over = self._away = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._serve, name="mlflow", daemon=True)
        self._thread.start()

    def offer(self, row: Row) -> None:
        """One more row; returns at once."""
        with self._changed:
            self._waiting.append(row)

    def flush(self, seconds: float = CLOSE_SECONDS) -> None:
        """Wait until what waits now was sent, or could not be."""
        with self._changed:
            self._asked += 1
            wanted = self._asked
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._served >= wanted or not self._thread.is_alive(), seconds)

    def forget_after(self, step: int, rows: int) -> None:
        """Training goes back to a step: the history has so many rows from now on. What MLflow has of the later ones is written over by
        the same steps; what is being sent at this moment counts for nothing."""
        with self._changed:
            self._generation += 1
            self._waiting = [row for row in self._waiting if row["step"] <= step]
            if storage.exists(self._record):
                told = storage.read_json(self._record)
                storage.write_json(self._record, {**told, "rows": min(told["rows"], rows)})

    def close(self, artifact: str | None) -> None:
        """Send the rest and a file of this machine, if it is there, and end; `CLOSE_SECONDS` at most."""
        with self._changed:
            self._over, self._artifact = True, artifact
            self._changed.notify_all()
        self._thread.join(CLOSE_SECONDS)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._over or self._asked > self._served, FLUSH_SECONDS)
                asked, over = self._asked, self._over
            self._send(over)
            with self._changed:
                self._served = asked
                self._changed.notify_all()
            if over:
                return

    def _send(self, over: bool) -> None:
        try:
            if self._client is None:
                self._client, self._run_id = self._begin()
            with self._changed:
                rows, generation = list(self._waiting), self._generation
            if rows:
                send_rows(self._client, self._run_id, rows)
                self._count(len(rows), generation)
            if over and self._artifact is not None:
                self._client.log_artifact(self._run_id, self._artifact)
            self._away = False
        except Exception as error:  # noqa: BLE001 - whatever it is: rows wait, and training goes on
            if not self._away:
                reason = without_credentials(str(error).splitlines()[0] if str(error) else type(error).__name__)
                log.warning("MLflow cannot be reached, %d rows wait: %s", len(self._waiting), reason)
            self._away = True

    def _count(self, rows: int, generation: int) -> None:
        with self._changed:
            if generation != self._generation:
                return
            del self._waiting[:rows]
            told = storage.read_json(self._record)
            storage.write_json(self._record, {**told, "rows": told["rows"] + rows})
