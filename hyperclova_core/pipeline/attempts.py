"""Attempts of a run's job on a cluster: what follows one that has ended, by its cause, remembered in the run.

Whoever follows a job (a triggerer) may die at any moment; another one goes on with what the run's folder says. What was decided after an
attempt, and that the next was started, are noted in this order, before and after it happens.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.warehouse import RunFolder, Warehouse
from hyperclova_core.jobs.backend import JobStatus
from hyperclova_core.jobs.failure_causes import PREEMPTED, Decision, counted_as, decide
from hyperclova_core.jobs.spec import TrainJobSpec
from hyperclova_core.pipeline.usage import (
    decided,
    last_attempt,
    last_submitted,
    note_decision,
    note_submitted,
    note_usage,
    tell_decisions,
    unfinished,
    usage_of,
)
from hyperclova_core.training.checkpoints.committed import steps_in

if TYPE_CHECKING:
    from hyperclova_core.jobs.kubernetes.backend import KubernetesBackend

SHORT_SECONDS, SHORT_ENDS = 120.0, 5
"""Attempts taken away so soon, so often in a row, are not taken away for the cluster's sake."""


@dataclass(frozen=True)
class Attempts:
    """A job's attempts.

    Args:
        spec: as the recipe says, before any attempt changed something.
    """

    warehouse: Warehouse
    run: RunFolder
    key: str
    spec: TrainJobSpec

    def current(self) -> TrainJobSpec:
        """The specification of the attempt that runs, or is next."""
        spec = self.spec
        for row in unfinished(self.run, self.key):
            spec = spec.following(row["changes"], row["avoid_nodes"])
        return spec

    def last(self) -> int:
        """The number of the last attempt that is known of."""
        return last_attempt(self.run, self.key)

    def submit(self, backend: KubernetesBackend, stop: threading.Event | None = None) -> bool:
        """Start the next attempt, or adopt one that runs (False), and note which."""
        spec = self.current()
        fresh = backend.submit(spec, self.last(), stop)
        number = backend.attempt(spec)
        if number:
            note_submitted(self.run, self.key, number)
        return fresh

    def see(self, status: JobStatus) -> JobStatus:
        """A state as the cluster gives it, seen with what the run knows: an attempt older than the one that was started is not ours, which
        somebody has deleted then; where the next one was decided and not started, it is due.

        Returns:
            a state `absent` or `due` in these cases.
        """
        started = last_submitted(self.run, self.key)
        missing = status.state == "absent" or (status.attempt is not None and status.attempt < started)
        if not missing:
            return status
        known = decided(self.run, self.key, started) if started else None
        return JobStatus("due" if known is not None and known.again else "absent")

    def note(self, status: JobStatus) -> None:
        """Keep what an attempt took."""
        if status.usage is not None:
            note_usage(self.run, self.key, status.usage)

    def follow(self, status: JobStatus) -> Decision:
        """What follows an attempt that failed, noted in the run and in MLflow; the same answer however often it is asked. The budget of
        a cause begins anew with each newer checkpoint."""
        self.note(status)
        if status.attempt is not None:
            known = decided(self.run, self.key, status.attempt)
            if known is not None:
                return known
        earlier = unfinished(self.run, self.key)
        ended = counted_as(int(status.exit_code or 1), status.cause)
        checkpoint = newest_checkpoint(self.spec)
        # in weeks each kind of end comes more often than it may in a row: what counts is what came since training last got on
        known_codes = earlier[-1]["codes"] if earlier and not _got_on(earlier, checkpoint) else ()
        codes = [*known_codes, ended]
        decision = decide(codes, micro_batch_of(self.current()), status.bad_nodes)
        if decision.again and self._always_short([*(row["codes"][-1] for row in earlier), ended]):
            why = f"taken away {SHORT_ENDS} times in a row within {SHORT_SECONDS:.0f} s: look at what takes it away"
            decision = replace(decision, again=False, why=why)
        note_decision(self.run, self.key, status.attempt, codes, decision, checkpoint)
        tell_decisions(self.warehouse, self.run)
        return decision

    def _always_short(self, codes: list[int]) -> bool:
        if codes[-SHORT_ENDS:] != [PREEMPTED] * SHORT_ENDS:
            return False
        rows = usage_of(self.run, self.key)[-SHORT_ENDS:]
        return len(rows) == SHORT_ENDS and all(row["running_seconds"] < SHORT_SECONDS for row in rows)


def newest_checkpoint(spec: TrainJobSpec) -> int | None:
    """The newest step of a training that is safe, as its folder says; None: none, or no training."""
    if "train" not in spec.config:
        return None
    folder = spec.config.get("checkpoints") or storage.join(spec.output, "checkpoints")
    return next(iter(steps_in(str(folder))), None)


def _got_on(earlier: Sequence[Mapping[str, Any]], checkpoint: int | None) -> bool:
    """Whether a checkpoint is newer than all that earlier decisions knew of: going back to one is no progress."""
    known = [row["checkpoint"] for row in earlier if row.get("checkpoint") is not None]
    return checkpoint is not None and checkpoint > max(known, default=-1)


def micro_batch_of(spec: TrainJobSpec) -> int | None:
    """The micro-batch of an attempt, where it is a training."""
    size = spec.effective_config().get("train", {}).get("size", {})
    found = size.get("parallel", {}).get("micro_batch_size")
    return int(found) if found is not None else None
