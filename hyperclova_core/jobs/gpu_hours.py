"""What jobs cost in device-hours: waiting, useful, lost to attempts that failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hyperclova_core.jobs.failure_causes import PREEMPTED


@dataclass(frozen=True)
class Usage:
    """One attempt of a job.

    Args:
        devices: GPUs, or processes where there are none.
        queued_seconds: from its creation until its last pod began.
        running_seconds: from then to the end.
        code: how it ended.
    """

    job: str
    attempt: int
    devices: int
    queued_seconds: float
    running_seconds: float
    code: int

    @property
    def useful_hours(self) -> float:
        """Device-hours of an attempt that ended well, or after a checkpoint."""
        return self.devices * self.running_seconds / 3600 if self.code in (0, PREEMPTED) else 0.0

    @property
    def lost_hours(self) -> float:
        """Device-hours of an attempt that failed: at most so many, as the next goes on from its last checkpoint."""
        return 0.0 if self.code in (0, PREEMPTED) else self.devices * self.running_seconds / 3600

    @property
    def queued_hours(self) -> float:
        """Device-hours asked for and not had."""
        return self.devices * self.queued_seconds / 3600

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def totals(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Device-hours of a run, by what became of them."""
    usages = [Usage(**row) for row in rows]
    return {
        "gpu_hours_useful": sum(usage.useful_hours for usage in usages),
        "gpu_hours_lost": sum(usage.lost_hours for usage in usages),
        "gpu_hours_queued": sum(usage.queued_hours for usage in usages),
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """All attempts as a Markdown table."""
    lines = [
        "| job | attempt | devices | queued s | running s | ended with | device-hours |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        usage = Usage(**row)
        hours = usage.useful_hours + usage.lost_hours
        lines.append(
            f"| {usage.job} | {usage.attempt} | {usage.devices} | {usage.queued_seconds:.0f} | {usage.running_seconds:.0f} | {usage.code} | {hours:.3f} |"
        )
    return "\n".join(lines) + "\n"
