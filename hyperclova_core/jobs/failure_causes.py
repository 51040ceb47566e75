"""Why a job ended: exit codes, what they mean, and what the next attempt changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PREEMPTED = 75
TRANSIENT = 74
"""Not a program's exit code (it gives 75, EX_TEMPFAIL, for both): what we count a 75 as that was no preemption."""
FREE = 1_000
"""Attempts after a cause that is nobody's fault."""


@dataclass(frozen=True)
class Cause:
    """A class of ends: its name, how often a job that ended so is tried again, what a person can do, and what the next attempt does."""

    name: str
    retries: int
    remedy: str
    halve_micro_batch: bool = False
    other_nodes: bool = False


CAUSES: dict[int, Cause] = {
    0: Cause("succeeded", 0, ""),
    64: Cause("configuration", 0, "correct the recipe"),
    65: Cause("data", 0, "correct the data that the message names"),
    66: Cause("gate failed", 0, "look at the Data Docs"),
    70: Cause("out of host memory", 1, "lower micro_batch_size, or give the job more memory"),
    71: Cause(
        "out of device memory",
        1,
        "halve micro_batch_size, or spread the model over more devices",
        halve_micro_batch=True,
    ),
    72: Cause("communication", 3, "look for the first rank that failed, else at the network", other_nodes=True),
    TRANSIENT: Cause("a passing trouble", 3, "look at what the message names: a full disk, a store that is away"),
    75: Cause("preempted after a checkpoint", FREE, "nothing: it resumes"),
    124: Cause(
        "deadline passed", 0, "give the job a later deadline, then start it again: it resumes from its last checkpoint"
    ),
    137: Cause("killed", 1, "look for an out-of-memory kill on the machine"),
    143: Cause("ended by request", 0, "start it again: it resumes from its last checkpoint"),
}

UNKNOWN = Cause("unknown", 1, "see the end of the job's log")
FINAL_CODES = frozenset((64, 65, 66, 70, 71, 72, 75))
"""Codes that the launcher gives with a cause: the cluster need not try such a pod again by itself."""


def cause_of(exit_code: int) -> Cause:
    """What an exit code means."""
    return CAUSES.get(exit_code, UNKNOWN)


@dataclass(frozen=True)
class Decision:
    """What follows an attempt that failed.

    Args:
        again: whether there is another attempt; why: in words, for the log and the run.
        changes: overrides of the next attempt's configuration; avoid_nodes: where it is not to run.
    """

    again: bool
    why: str
    changes: dict[str, Any] = field(default_factory=dict)
    avoid_nodes: tuple[str, ...] = ()


def counted_as(exit_code: int, cause: Mapping[str, Any]) -> int:
    """The code that decides what follows: a full disk gives 75 too, and would be tried for ever."""
    return TRANSIENT if exit_code == PREEMPTED and cause.get("type") == "TransientError" else exit_code


def decide(codes: Sequence[int], micro_batch_size: int | None = None, nodes: Sequence[str] = ()) -> Decision:
    """What to do after attempts that ended with `codes`, the last one last.

    Args:
        micro_batch_size: of the last attempt, for one that ran out of device memory.
        nodes: that the last attempt ran on and that looked bad.
    """
    last = codes[-1]
    cause = cause_of(last)
    spent = sum(1 for code in codes if code == last)
    if spent > cause.retries:
        times = (
            "it is not tried again"
            if not cause.retries
            else f"tried again {cause.retries} time{'s' if cause.retries > 1 else ''} already"
        )
        return Decision(False, f"{cause.name} ({last}): {times}; {cause.remedy}")
    if cause.halve_micro_batch:
        if not micro_batch_size or micro_batch_size < 2:
            return Decision(
                False,
                f"{cause.name} ({last}): micro_batch_size is {micro_batch_size}, it cannot be halved; {cause.remedy}",
            )
        half = micro_batch_size // 2
        changes = {"train": {"size": {"parallel": {"micro_batch_size": half}}}}
        return Decision(
            True, f"{cause.name} ({last}): again with micro_batch_size {half} instead of {micro_batch_size}", changes
        )
    if cause.other_nodes and nodes:
        return Decision(True, f"{cause.name} ({last}): again on other nodes than {', '.join(nodes)}", {}, tuple(nodes))
    left = "" if cause.retries >= FREE else f", attempt {spent + 1} of {cause.retries + 1}"
    return Decision(True, f"{cause.name} ({last}): again from the newest checkpoint{left}")
