"""What a run's jobs took and what was decided about them: one small object a fact, `jobs/KEY/KIND/NAME.json` in the run's folder.

Each is made once or written whole under a name of its own, so two machines that follow a job at one time lose nothing of each other's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.lineage import deliver, record_event, whole_run
from hyperclova_core.foundation.warehouse import RunFolder, Warehouse, now
from hyperclova_core.jobs.failure_causes import Decision
from hyperclova_core.jobs.gpu_hours import table, totals

KINDS = ("submitted", "usage", "decisions")


def note_decision(
    run: RunFolder,
    key: str,
    attempt: int | None,
    codes: Sequence[int],
    decision: Decision,
    checkpoint: int | None = None,
) -> None:
    """Keep what was decided after an attempt failed, with all that the next one needs to know.

    Args:
        codes: what attempts ended with since training last got on; checkpoint: the newest step that is safe.
    """
    row = {
        "attempt": attempt,
        "exit_code": codes[-1],
        "codes": list(codes),
        "checkpoint": checkpoint,
        "again": decision.again,
        "why": decision.why,
        "changes": decision.changes,
        "avoid_nodes": list(decision.avoid_nodes),
        "at": now(),
    }
    if attempt is not None:  # decided once, whoever comes first
        storage.create_once(
            storage.join(_folder(run, key, "decisions"), f"{attempt:06d}.json"), storage.pretty_json(row)
        )
        return
    last, number = last_attempt(run, key), 0
    while not storage.create_once(
        storage.join(_folder(run, key, "decisions"), f"{last:06d}.unnumbered-{number:03d}.json"),
        storage.pretty_json(row),
    ):
        number += 1


def unfinished(run: RunFolder, key: str) -> list[dict[str, Any]]:
    """Decisions that a task which died in between had made; none where the last one ended the job: who starts it again then is a person,
    with a fresh count."""
    rows = _rows(run, key, "decisions")
    ended = [number for number, row in enumerate(rows) if not row["again"]]
    return rows[ended[-1] + 1 :] if ended else rows


def decided(run: RunFolder, key: str, attempt: int) -> Decision | None:
    """What was decided after an attempt, if it was."""
    for row in reversed(_rows(run, key, "decisions")):
        if row["attempt"] == attempt:
            return Decision(row["again"], row["why"], row["changes"], tuple(row["avoid_nodes"]))
    return None


def last_attempt(run: RunFolder, key: str) -> int:
    """The number of the last attempt that is known of; 0: there was none."""
    rows = [row for kind in KINDS for row in _rows(run, key, kind)]
    return max((int(row["attempt"] or 0) for row in rows), default=0)


def note_submitted(run: RunFolder, key: str, attempt: int) -> None:
    """Keep that an attempt was started, so that one that somebody deletes is missed."""
    path = storage.join(_folder(run, key, "submitted"), f"{attempt:06d}.json")
    storage.create_once(path, storage.pretty_json({"attempt": attempt, "at": now()}))


def last_submitted(run: RunFolder, key: str) -> int:
    """The last attempt that was started; 0: none that is known of."""
    return max((int(row["attempt"]) for row in _rows(run, key, "submitted")), default=0)


def note_usage(run: RunFolder, key: str, usage: dict[str, Any]) -> None:
    """Keep what an attempt took, once: a task that is run again tells the same attempt again."""
    name = f"{int(usage['attempt']):06d}-{usage['job']}.json"
    storage.write_json(storage.join(_folder(run, key, "usage"), name), usage)


def tell_decisions(warehouse: Warehouse, run: RunFolder) -> None:
    """Send what was decided, and what attempts have taken until now, to MLflow's parent run, which goes on."""
    if not storage.exists(storage.join(run.uri, "run.json")):
        return
    paths = write_reports(run)
    numbers = {"job_attempts_failed": float(sum(1 for _ in decision_rows(run))), **totals(usage_rows(run))}
    record_event(warehouse, whole_run(run, "RUNNING", [(path, "") for path in paths], numbers))
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
    for key in storage.list_names(storage.join(run.uri, "jobs")):
        for row in _rows(run, key, "decisions"):
            yield key, row


def usage_of(run: RunFolder, key: str) -> list[dict[str, Any]]:
    """What the attempts of one stage's job took, in their order."""
    return _rows(run, key, "usage")


def usage_rows(run: RunFolder) -> list[dict[str, Any]]:
    """What all jobs of a run took, attempt by attempt."""
    return [row for key in storage.list_names(storage.join(run.uri, "jobs")) for row in usage_of(run, key)]


def _folder(run: RunFolder, key: str, kind: str) -> str:
    return storage.join(run.uri, "jobs", key, kind)


def _rows(run: RunFolder, key: str, kind: str) -> list[dict[str, Any]]:
    folder = _folder(run, key, kind)
    return [storage.read_json(storage.join(folder, name)) for name in storage.list_names(folder)]
