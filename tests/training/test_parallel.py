"""Parity: every layout computes what one process computes, and what plain torch does; and the test sees it when one does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.cases import VOCABULARY, Outcome, job, plain_torch, run
from tests.training.forked_ranks import Ranks

pytestmark = pytest.mark.ranks

LAYOUTS = [(1, 1, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1), (2, 1, 2), (2, 2, 1), (2, 2, 2)]
TOLERANCE = 1e-5


def parallel_of(layout: tuple[int, int, int], **more: Any) -> dict[str, Any]:
    pipeline, tensor, data = layout
    return {"pipeline": pipeline, "tensor": tensor, "data": data, **more}


@pytest.fixture(scope="module")
def matrix(
    ranks: Ranks, shards: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[int, int, int], Outcome]:
    """Ten steps under each layout, clipped, blocks computed again, with dropout."""
    folder = tmp_path_factory.mktemp("matrix")
    train = {"dropout": 0.1, "checkpoint_every": 5, "keep_last": 9}
    return {
        layout: run(
            ranks,
            job(
                shards,
                folder / "-".join(map(str, layout)),
                parallel=parallel_of(layout, activation_checkpointing="block"),
                train=train,
            ),
        )
        for layout in LAYOUTS
    }


def test_every_layout_computes_what_one_process_computes(
    matrix: dict[tuple[int, int, int], Outcome], record_property: Callable[[str, object], None]
) -> None:
    single = matrix[1, 1, 1]
    lines, worst = ["", "pipeline tensor data  processes  max |loss - single|  max relative gradient norm"], 0.0
    for layout, found in matrix.items():
        loss = float(np.abs(np.asarray(found.losses) - single.losses).max())
        norm = float(np.abs(np.asarray(found.norms) / single.norms - 1).max())
        lines.append(
            f"{layout[0]:8d} {layout[1]:6d} {layout[2]:4d}  {math.prod(layout):9d}  {loss:19.1e}  {norm:26.1e}"
        )
        worst = max(worst, loss, norm)
    record_property("table", "\n".join(lines))
    assert len(single.losses) == 10
    assert max(single.norms) > 0.5, "clipping was active"
    assert worst < TOLERANCE


def test_validation_is_the_same_at_every_layout(matrix: dict[tuple[int, int, int], Outcome]) -> None:
    single = matrix[1, 1, 1].rows[-1]
    for found in matrix.values():
        assert found.rows[-1]["validation_loss"] == pytest.approx(single["validation_loss"], abs=TOLERANCE)
        assert found.rows[-1]["validation_bits_per_byte"] == pytest.approx(
            single["validation_loss"] / math.log(2) / 2.0, abs=TOLERANCE
        )


def test_one_process_computes_what_plain_torch_computes(ranks: Ranks, shards: list[str], tmp_path: Path) -> None:
    config = job(shards, tmp_path)
    found = run(ranks, config)
    losses, norms = plain_torch(config)
    assert found.losses[0] == pytest.approx(math.log(VOCABULARY), rel=0.02)
    assert found.losses[-1] < found.losses[0] - 0.04
    assert np.abs(np.asarray(found.losses) - losses).max() < TOLERANCE
    assert found.norms == pytest.approx(norms, rel=1e-5)


def test_a_stage_in_the_middle_which_reads_no_data_computes_the_same(
    ranks: Ranks, shards: list[str], tmp_path: Path
) -> None:
    how = {
        "shape": {"layers": 3},
        "train": {"dropout": 0.1, "separate_documents": True, "checkpoint_every": 5, "keep_last": 9},
    }
    single = run(ranks, job(shards, tmp_path / "single", **how))
    spread = run(ranks, job(shards, tmp_path / "spread", parallel={"pipeline": 3}, **how))
    assert np.abs(np.asarray(spread.losses) - single.losses).max() < TOLERANCE
    assert spread.rows[-1]["validation_loss"] == pytest.approx(single.rows[-1]["validation_loss"], abs=TOLERANCE)


def test_what_is_computed_again_is_the_same_to_the_bit(ranks: Ranks, shards: list[str], tmp_path: Path) -> None:
    train = {"dropout": 0.1, "attention_dropout": 0.1}
    found = {
        how: run(
            ranks, job(shards, tmp_path / how, parallel={"pipeline": 2, "activation_checkpointing": how}, train=train)
        ).losses
        for how in ("none", "attention", "block")
    }
    assert found["none"] == found["attention"] == found["block"]
    assert found["none"] != run(ranks, job(shards, tmp_path / "without", parallel={"pipeline": 2})).losses


def test_attention_dropout_is_one_ranks_own_and_the_same_at_equal_micro_batches(
    ranks: Ranks, shards: list[str], tmp_path: Path
) -> None:
    train = {"attention_dropout": 0.2}
    single = run(ranks, job(shards, tmp_path / "single", train=train)).losses
    for name, parallel in (("pipeline", {"pipeline": 2}), ("data", {"data": 2})):
        assert run(ranks, job(shards, tmp_path / name, parallel=parallel, train=train)).losses == pytest.approx(
            single, abs=TOLERANCE
        )
    tensor = run(ranks, job(shards, tmp_path / "tensor", parallel={"tensor": 2}, train=train)).losses
    assert tensor[0] == pytest.approx(single[0], abs=0.01)
    assert tensor != pytest.approx(single, abs=TOLERANCE)


def test_batches_that_grow_and_documents_kept_apart_agree_across_layouts(
    ranks: Ranks, shards: list[str], tmp_path: Path
) -> None:
    train = {
        "batch_ramp": {"start": 4, "increment": 4, "tokens": 4 * 3 * 32},
        "separate_documents": True,
        "schedule": "wsd",
        "tokens": 11 * 8 * 32,
    }
    single = run(ranks, job(shards, tmp_path / "single", train=train))
    assert [row["global_batch_size"] for row in single.rows[:5]] == [4, 4, 4, 8, 8]
    spread = run(ranks, job(shards, tmp_path / "spread", parallel={"pipeline": 2, "data": 2}, train=train))
    assert spread.losses == pytest.approx(single.losses, abs=TOLERANCE)
    attended = run(ranks, job(shards, tmp_path / "attended", train={**train, "separate_documents": False}))
    assert attended.losses != pytest.approx(single.losses, abs=1e-4)


def test_bf16_trains_and_layouts_agree_roughly(ranks: Ranks, shards: list[str], tmp_path: Path) -> None:
    train = {"precision": "bf16", "checkpoint_every": 5, "keep_last": 3}
    config = job(shards, tmp_path / "single", train=train)
    single = run(ranks, config)
    spread = run(ranks, job(shards, tmp_path / "spread", parallel={"pipeline": 2, "tensor": 2}, train=train))
    assert spread.losses[:3] == pytest.approx(single.losses[:3], abs=2e-3)
    assert spread.losses == pytest.approx(single.losses, abs=1e-2)
    assert spread.norms == pytest.approx(single.norms, rel=3e-2)
    for fault, layout in (("no_tensor_sum", {"tensor": 2}), ("own_norm_bf16", {"pipeline": 2})):
        trap = run(
            ranks, job(shards, tmp_path / fault, parallel=layout, train={**train, "spikes": {"enabled": False}}), fault
        )
        assert trap.norms != pytest.approx(single.norms, rel=3e-2)
    stopped = run(ranks, job(shards, tmp_path / "again", train=train, stop_after=5), well=False)
    assert stopped.codes == [75]
    assert run(ranks, job(shards, tmp_path / "again", train=train)).losses == single.losses


@pytest.mark.parametrize(
    ("fault", "layout"),
    [("no_tensor_sum", (1, 2, 1)), ("own_norm", (2, 1, 1)), ("reentrant", (1, 1, 1))],
)
def test_the_matrix_sees_each_trap(
    fault: str,
    layout: tuple[int, int, int],
    matrix: dict[tuple[int, int, int], Outcome],
    ranks: Ranks,
    shards: list[str],
    tmp_path: Path,
) -> None:
    """A parity test that cannot fail proves nothing: with the trap put in, losses are off by far more than the tolerance."""
    config = job(shards, tmp_path, parallel=parallel_of(layout), train={"dropout": 0.1, "spikes": {"enabled": False}})
    found = run(ranks, config, fault)
    assert np.abs(np.asarray(found.losses) - matrix[1, 1, 1].losses).max() > 50 * TOLERANCE
