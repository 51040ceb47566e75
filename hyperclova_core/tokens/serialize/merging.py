"""Between the halves of serializing, where there are many runs: neighbours are merged, so that R runs become √R.

A shard needs a piece of every run: S shards open S × R. Merged by groups first, each run is opened once by its group, and a shard opens √R:
at 5 TB, 33,000 runs and 560 shards, 135,000 openings instead of 18 million, and pieces of megabytes instead of 90 documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.stages.kinds import StageContext
from hyperclova_core.foundation.stages.units import UnitResult, WorkUnit
from hyperclova_core.tokens.serialize.runs import RunWriter, StagedRun, opened, slices_of, total, windows
from hyperclova_core.tokens.special_tokens import id_type

MOST_RUNS = 1024
"""Runs that shards are cut from directly."""
MERGED_TOKENS = 1 << 26
"""Ids of the stretches that are merged at once, about: so long that a piece of each of a group's runs is worth a request."""


class MergeUnit(WorkUnit):
    """Neighbouring runs of a split, to be merged."""

    name: str
    split: str
    runs: str = Field(description="file with the runs: a list that grows with the corpus is no part of a unit")


class MergedRun(UnitResult):
    """What they became."""

    run: StagedRun


def groups_of(runs: Sequence[StagedRun]) -> list[Sequence[StagedRun]]:
    """Neighbours, about as many groups as runs in each."""
    size = math.ceil(math.sqrt(len(runs)))
    return [runs[at : at + size] for at in range(0, len(runs), size)]


def merge_unit(unit: MergeUnit, *, vocabulary: int, boot: str, context: StageContext) -> MergedRun:
    """Merge a group of runs into one, a stretch of the training order after the other.

    Args:
        boot: the driver's: see `staging.encode_unit`.
    """
    boot = boot if boot == storage.boot_of(context.target.root(False)) else ""
    dtype = id_type(vocabulary)
    runs = opened([StagedRun.model_validate(said) for said in storage.read_json(unit.runs)], dtype)
    sums = total([run.sums for run in runs])
    path = storage.join(context.target.root(False), context.attempt_path, "staged", unit.name)
    with RunWriter(path, unit.split, sums, durable=not boot) as writer:
        for low, high in _stretches(sums.tokens):
            before = int(sums.tokens[:low].sum())
            end = before + int(sums.tokens[low : high + 1].sum())
            slices, _, positions = slices_of(runs, (low, high), before, (before, end))
            for ids, _, rows in windows(slices, positions, dtype):
                writer.write(ids, rows)
    return MergedRun(boot=boot, files=(writer.run.ids, writer.run.rows), run=writer.run)


def _stretches(tokens: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """First and last range of stretches of about MERGED_TOKENS, which hold all."""
    ends: Any = np.cumsum(tokens)
    low = 0
    while low < len(tokens):
        base = int(ends[low] - tokens[low])
        high = max(low, int(np.searchsorted(ends, base + MERGED_TOKENS, side="right")) - 1)
        yield low, high
        low = high + 1
