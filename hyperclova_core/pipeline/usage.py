"""What a run's jobs took and what was decided about them: `jobs/KEY.json` in the run's folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.warehouse import RunFolder, now
from hyperclova_core.jobs.causes import Decision


def note_decision(run: RunFolder, key: str, attempt: int | None, codes: Sequence[int], decision: Decision) -> None:
    """Keep what was decided after an attempt failed, with all that the next one needs to know."""
    row = {
        "attempt": attempt,
        "exit_code": codes[-1],
        "codes": list(codes),
        "again": decision.again,
        "why": decision.why,
        "changes": decision.changes,
        "avoid_nodes": list(decision.avoid_nodes),
        "at": now(),
    }
    _append(run, key, "decisions", row)


def unfinished(run: RunFolder, key: str) -> list[dict[str, Any]]:
    """Decisions that a task which died in between had made; none where the last one ended the job: who starts it again then is a person,
    with a fresh count."""
    path = storage.join(run.uri, "jobs", f"{key}.json")
    rows: list[dict[str, Any]] = storage.read_json(path).get("decisions", []) if storage.exists(path) else []
    ended = [place for place, row in enumerate(rows) if not row["again"]]
    return rows[ended[-1] + 1 :] if ended else rows


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
