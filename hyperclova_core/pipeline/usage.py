"""What a run's jobs took and what was decided about them: `jobs/KEY.json` in the run's folder."""

from __future__ import annotations

from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.warehouse import RunFolder, now
from hyperclova_core.jobs.causes import Decision


def note_decision(run: RunFolder, key: str, attempt: int | None, code: int, decision: Decision) -> None:
    """Keep what was decided after an attempt failed, in the run's folder: `jobs/KEY.json`."""
    _append(
        run,
        key,
        "decisions",
        {"attempt": attempt, "exit_code": code, "again": decision.again, "why": decision.why, "at": now()},
    )


def note_usage(run: RunFolder, key: str, usage: dict[str, Any]) -> None:
    """Keep what an attempt took, once."""
    _append(run, key, "usage", usage)


def _append(run: RunFolder, key: str, kind: str, row: dict[str, Any]) -> None:
    path = storage.join(run.uri, "jobs", f"{key}.json")
    known: dict[str, list[dict[str, Any]]] = storage.read_json(path) if storage.exists(path) else {}
    rows = known.setdefault(kind, [])
    if kind == "usage":  # a task that is run again tells the same attempt again
        rows[:] = [other for other in rows if (other["job"], other["attempt"]) != (row["job"], row["attempt"])]
    rows.append(row)
    storage.write_json(path, known)


def usage_rows(run: RunFolder) -> list[dict[str, Any]]:
    """What all jobs of a run took, attempt by attempt."""
    folder = storage.join(run.uri, "jobs")
    return [
        row
        for name in storage.list_names(folder)
        for row in storage.read_json(storage.join(folder, name)).get("usage", ())
    ]
