"""Attempts of a run's job on a cluster: what follows one that has ended, by its cause, remembered in the run.

Whoever follows a job (a triggerer) may die at any moment; another one goes on with what the run's folder says.
"""

from __future__ import annotations

from dataclasses import dataclass

from hyperclova_core.foundation.warehouse import RunFolder, Warehouse
from hyperclova_core.jobs.backends import JobStatus
from hyperclova_core.jobs.causes import Decision, counted_as, decide
from hyperclova_core.jobs.spec import TrainJobSpec
from hyperclova_core.pipeline.usage import decided, last_attempt, note_decision, note_usage, tell_decisions, unfinished


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

    def note(self, status: JobStatus) -> None:
        """Keep what an attempt took."""
        if status.usage is not None:
            note_usage(self.run, self.key, status.usage)

    def follow(self, status: JobStatus) -> Decision:
        """What follows an attempt that failed, noted in the run and in MLflow; the same answer however often it is asked."""
        self.note(status)
        if status.attempt is not None:
            known = decided(self.run, self.key, status.attempt)
            if known is not None:
                return known
        earlier = unfinished(self.run, self.key)
        codes = [*(earlier[-1]["codes"] if earlier else ()), counted_as(int(status.exit_code or 1), status.cause)]
        decision = decide(codes, micro_batch_of(self.current()), status.bad_nodes)
        note_decision(self.run, self.key, status.attempt, codes, decision)
        tell_decisions(self.warehouse, self.run)
        return decision


def micro_batch_of(spec: TrainJobSpec) -> int | None:
    """The micro-batch of an attempt, where it is a training."""
    size = spec.effective_config().get("train", {}).get("size", {})
    found = size.get("parallel", {}).get("micro_batch")
    return int(found) if found is not None else None
