"""Why a job ended: exit codes, what they mean, and whether to try again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """A class of ends: its name, how often a job that ended so is tried again, and what a person can do."""

    name: str
    retries: int
    remedy: str


CAUSES: dict[int, Cause] = {
    0: Cause("succeeded", 0, ""),
    64: Cause("configuration", 0, "correct the recipe"),
    65: Cause("data", 0, "correct the data that the message names"),
    66: Cause("gate failed", 0, "look at the Data Docs"),
    70: Cause("out of host memory", 1, "lower micro_batch, or give the job more memory"),
    71: Cause("out of device memory", 1, "halve micro_batch, or spread the model over more devices"),
    72: Cause("communication", 3, "look for the first rank that failed, else at the network"),
    75: Cause("preempted after a checkpoint", 1_000, "nothing: it resumes"),
    137: Cause("killed", 1, "look for an out-of-memory kill on the machine"),
    143: Cause("ended by request", 0, "start it again: it resumes from its last checkpoint"),
}

UNKNOWN = Cause("unknown", 1, "see the end of the job's log")


def cause_of(exit_code: int) -> Cause:
    """What an exit code means."""
    return CAUSES.get(exit_code, UNKNOWN)
