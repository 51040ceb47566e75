"""A fixed share of `make fuzz`, with a seed that anybody can give again."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.hostile.fuzz import TARGETS, fuzz

RUNS, SEED = int(os.environ.get("HYPERCLOVA_FUZZ_RUNS", "200")), 20210525


@pytest.mark.parametrize("kind", TARGETS)
def test_mutated_inputs_end_in_documents_or_reasons(kind: str, record_property: Callable[[str, object], None]) -> None:
    told = fuzz(kind, RUNS, SEED)
    record_property("table", f"{kind}: {told.runs} mutated inputs, seed {SEED}, {len(told.faults)} faults")
    assert told.runs == RUNS
    assert told.faults == [], f"python -m tests.hostile.fuzz {RUNS} {SEED}"
