"""What a run's jobs took and what was decided about them: `jobs/KEY.json` in the run's folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.lineage import deliver, record_event
from hyperclova_core.foundation.warehouse import RunFolder, Warehouse, now
from hyperclova_core.jobs.failure_causes import Decision
from hyperclova_core.jobs.gpu_hours import table, totals


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


def decided(run: RunFolder, key: str, attempt: int) -> Decision | None:
    """What was decided after an attempt, if it was."""
    path = storage.join(run.uri, "jobs", f"{key}.json")
    rows: list[dict[str, Any]] = storage.read_json(path).get("decisions", []) if storage.exists(path) else []
    for row in reversed(rows):
        if row["attempt"] == attempt:
            return Decision(row["again"], row["why"], row["changes"], tuple(row["avoid_nodes"]))
    return None


def last_attempt(run: RunFolder, key: str) -> int:
    """The number of the last attempt that is known of; 0: there was none."""
    path = storage.join(run.uri, "jobs", f"{key}.json")
    known: dict[str, list[dict[str, Any]]] = storage.read_json(path) if storage.exists(path) else {}
    return max((int(row["attempt"] or 0) for rows in known.values() for row in rows), default=0)


def note_submitted(run: RunFolder, key: str, attempt: int) -> None:
    """Keep that an attempt was started, so that one that somebody deletes is missed."""
    path = storage.join(run.uri, "jobs", f"{key}.json")
    known: dict[str, list[dict[str, Any]]] = storage.read_json(path) if storage.exists(path) else {}
    if all(row["attempt"] != attempt for row in known.get("submitted", ())):
        _append(run, key, "submitted", {"attempt": attempt, "at": now()})


def last_submitted(run: RunFolder, key: str) -> int:
    """The last attempt that was started; 0: none that is known of."""
    path = storage.join(run.uri, "jobs", f"{key}.json")
    known: dict[str, list[dict[str, Any]]] = storage.read_json(path) if storage.exists(path) else {}
    return max((int(row["attempt"]) for row in known.get("submitted", ())), default=0)


def note_usage(run: RunFolder, key: str, usage: dict[str, Any]) -> None:
    """Keep what an attempt took, once."""
    _append(run, key, "usage", usage)


def tell_decisions(warehouse: Warehouse, run: RunFolder) -> None:
    """Send what was decided, and what attempts have taken until now, to MLflow's parent run, which goes on."""
    if not storage.exists(storage.join(run.uri, "run.json")):
        return
    paths = write_reports(run)
    event = {"run": run.name, "name": None, "status": "RUNNING", "started": run.record()["started"]}
    numbers = {"job_attempts_failed": float(sum(1 for _ in decision_rows(run))), **totals(usage_rows(run))}
    record_event(
        warehouse, {**event, "ended": time.time(), "metrics": numbers, "artifacts": [[path, ""] for path in paths]}
    )
    deliver(warehouse)


def write_reports(run: RunFolder) -> list[str]:
    """`gpu_hours.md` and `job_decisions.md` in the run's folder, those that have something to say."""
    paths = []
    usage, decisions = usage_rows(run), list(decision_rows(run))
    if usage:
        paths.append(storage.join(run.uri, "gpu_hours.md"))
        storage.write_bytes(paths[-1], table(usage).encode())
    if decisions:
        lines = ["| stage | attempt | ended with | what was decided | at |", "|---|--:|--:|---|---|"]
        lines += [
            f"| {key} | {row['attempt'] or '?'} | {row['exit_code']} | {row['why'].replace('|', '/')} | {row['at']} |"
            for key, row in decisions
        ]
        paths.append(storage.join(run.uri, "job_decisions.md"))
        storage.write_bytes(paths[-1], ("\n".join(lines) + "\n").encode())
    return paths


def decision_rows(run: RunFolder) -> Iterator[tuple[str, dict[str, Any]]]:
    """All decisions of a run, stage by stage, in their order."""
    folder = storage.join(run.uri, "jobs")
    for name in storage.list_names(folder):
        for row in storage.read_json(storage.join(folder, name)).get("decisions", ()):
            yield name.removesuffix(".json"), row


def _append(run: RunFolder, key: str, kind: str, row: dict[str, Any]) -> None:
    path = storage.join(run.uri, "jobs", f"{key}.json")
    known: dict[str, list[dict[str, Any]]] = storage.read_json(path) if storage.exists(path) else {}
    rows = known.setdefault(kind, [])
    if kind == "usage":  # a task that is run again tells the same attempt again
        rows[:] = [other for other in rows if (other["job"], other["attempt"]) != (row["job"], row["attempt"])]
    rows.append(row)
    storage.write_json(path, known)


def usage_of(run: RunFolder, key: str) -> list[dict[str, Any]]:
    """What the attempts of one stage's job took, in their order."""
    path = storage.join(run.uri, "jobs", f"{key}.json")
    rows: list[dict[str, Any]] = storage.read_json(path).get("usage", []) if storage.exists(path) else []
    return sorted(rows, key=lambda row: int(row["attempt"]))


def usage_rows(run: RunFolder) -> list[dict[str, Any]]:
    """What all jobs of a run took, attempt by attempt."""
    folder = storage.join(run.uri, "jobs")
    return [
        row
        for name in storage.list_names(folder)
        for row in storage.read_json(storage.join(folder, name)).get("usage", ())
    ]
