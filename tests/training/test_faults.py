"""What goes wrong in a training: spikes, values that are not numbers, ranks that hang or are slow, bad shards, taken ports."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hyperclova_core.foundation import storage
from hyperclova_core.tokens.serialize.megatron_format import ShardWriter
from hyperclova_core.training.config import SpikeConfig
from hyperclova_core.training.health.spikes import SpikeGuard, bound_of
from tests.training.cases import job, markov, run, write_shards
from tests.training.forked_ranks import Ranks


def test_the_bound_is_the_mean_and_six_deviations_of_steps_that_were_taken() -> None:
    config = SpikeConfig(window=8)
    assert bound_of([1.0, 2.0, 3.0], config) == math.inf
    values = [1.0, 2.0, 3.0, 2.0]
    assert bound_of(values, config) == pytest.approx(2.0 + 6 * np.std(values))
    guard = SpikeGuard(config)
    for step in range(8):
        assert guard.judge(step, 2.0 + 0.1 * (step % 2), 1.0) is None
    spike = guard.judge(8, 9.0, 1.0)
    assert spike is not None
    assert (spike.measure, spike.value) == ("loss", 9.0)
    small = guard.judge(9, 2.0, 1.5)
    assert small is not None
    assert small.measure == "gradient_norm"
    assert guard.first_of_many(9) is None
    assert SpikeGuard(config, json.loads(json.dumps(guard.state()))).state() == guard.state()
    assert guard.first_of_many(17) is None, "what is older than the window is forgotten"


def test_a_lasting_change_of_level_is_found_normal_within_some_steps() -> None:
    guard = SpikeGuard(SpikeConfig())
    values = np.random.default_rng(1).normal(2.0, 0.02, 400)
    for step in range(200):
        assert guard.judge(step, float(values[step]), 1.0) is None
    skipped = [step for step in range(200, 400) if guard.judge(step, float(values[step]) + 0.5, 1.0) is not None]
    assert skipped == list(range(200, 200 + len(skipped)))
    assert 3 <= len(skipped) <= 6


def test_goings_back_are_counted_by_stretch() -> None:
    guard = SpikeGuard(SpikeConfig(window=8))
    guard.went_back(2)
    for step in range(7):
        assert guard.judge(step, 1.0, 1.0) is None
    assert SpikeGuard(guard.config, guard.state()).rewinds == 2
    guard.judge(7, 1.0, 1.0)
    assert guard.rewinds == 0


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("parallel", "precision"), [({"data": 2}, "fp32"), ({"pipeline": 2}, "fp32"), ({"tensor": 2}, "bf16")]
)
def test_a_stretch_of_noise_is_skipped_then_left_out_by_going_back(
    parallel: dict[str, int], precision: str, ranks: Ranks, tmp_path: Path
) -> None:
    """Real spikes: documents of random ids amid learnable ones. The first steps in them are skipped; the third sends training back
    to the last checkpoint before them, and goes on behind them."""
    shards = write_shards(
        tmp_path, count=1, documents=930, length=31, noisy=range(800, 816), choices=1
    )  # a document a sequence
    spikes = {"window": 64, "rewind_after": 2}
    train = {"tokens": 112 * 8 * 32, "spikes": spikes, "checkpoint_every": 4, "keep_last": 9, "shuffle_window": 1}
    how = {"shape": {"learning_rate": 0.02}, "parallel": parallel, "validation_shards": []}
    config = job(shards, tmp_path / "whole", train=train, **how)
    found = run(ranks, config)
    events = [decision["event"] for decision in found.decisions]
    assert events == ["step skipped", "step skipped", "went back"], found.decisions
    skipped, back = found.decisions[0], found.decisions[2]
    assert skipped["measure"] == "loss"
    assert skipped["value"] > skipped["bound"]
    assert skipped["step"] == 101
    assert back["to_step"] == 100
    assert back["first_sample_from_now"] == back["from_step"] * 8
    result = storage.read_json(f"{config.output}/result.json")
    assert (result["step"], result["rewinds"]) == (112, 1)
    assert [row["step"] for row in found.rows] == list(range(1, 113)), "rows of what was taken back are gone"
    assert found.losses[-1] < found.losses[99] + 0.1
    # killed after going back, and after having saved a checkpoint that knows of it: the same end
    killed = job(shards, tmp_path / "killed", train=train, **how)
    assert -9 in run(ranks, killed, "kill_in_step:106", well=False).codes
    again = run(ranks, killed)
    assert again.weights == found.weights
    assert again.losses == found.losses
    assert again.decisions == found.decisions


@pytest.mark.ranks
def test_killed_while_going_back_a_second_run_ends_with_the_same_bytes(ranks: Ranks, tmp_path: Path) -> None:
    """A checkpoint was saved between the spikes: it is loaded over, and removed; the kill comes when its manifest is gone."""
    shards = write_shards(tmp_path, count=1, documents=930, length=31, noisy=range(800, 816), choices=1)
    spikes = {"window": 64, "rewind_after": 2}
    train = {"tokens": 106 * 8 * 32, "spikes": spikes, "checkpoint_every": 1, "keep_last": 5, "shuffle_window": 1}
    how = {"shape": {"learning_rate": 0.02}, "validation_shards": [], "train": train}
    whole = run(ranks, job(shards, tmp_path / "whole", **how))
    assert [decision["event"] for decision in whole.decisions] == ["step skipped", "step skipped", "went back"]
    config = job(shards, tmp_path / "killed", **how)
    assert run(ranks, config, "kill_in_going_back", well=False).codes == [-9]
    again = run(ranks, config)
    assert again.weights == whole.weights
    assert again.losses == whole.losses
    assert again.decisions == whole.decisions


@pytest.mark.ranks
def test_without_a_checkpoint_to_go_back_to_spikes_go_on_being_skipped_and_noise_without_end_is_an_error(
    ranks: Ranks, tmp_path: Path
) -> None:
    shards = write_shards(tmp_path, count=1, documents=930, length=31, noisy=range(800, 930), choices=1)
    train = {"tokens": 112 * 8 * 32, "spikes": {"window": 64, "rewind_after": 2, "max_rewinds": 2}, "shuffle_window": 1}
    how = {"shape": {"learning_rate": 0.02}, "validation_shards": []}
    found = run(ranks, job(shards, tmp_path / "none", train=train, **how))
    assert {decision["event"] for decision in found.decisions} == {"step skipped", "could not go back"}
    assert storage.read_json(f"{tmp_path}/none/result.json")["skipped_steps"] < 8, "the noise is found normal then"
    endless = run(ranks, job(shards, tmp_path / "endless", train={**train, "checkpoint_every": 4}, **how), well=False)
    assert endless.codes == [65]
    assert endless.causes[0]["what"] == "Training does not get past a stretch of the corpus"
    assert [decision["event"] for decision in endless.decisions].count("went back") == 2


@pytest.mark.ranks
@pytest.mark.parametrize(
    ("fault", "parallel", "words"),
    [
        ("infinite_weight:4", {"pipeline": 2}, "the weight h1.fc.weight is not finite"),
        ("infinite_output:4", {"pipeline": 2}, "first in the output of block 1, proj"),
        (
            "infinite_output:4",
            {"tensor": 2, "activation_checkpointing": "block"},
            "first in the output of block 1, proj",
        ),
        ("infinite_gradient:4", {"data": 2}, "going backwards, first in the gradient that block 0, ln2 passes on"),
    ],
)
def test_a_value_that_is_not_a_number_names_the_first_layer(
    fault: str, parallel: dict[str, int], words: str, ranks: Ranks, shards: list[str], tmp_path: Path
) -> None:
    rank = "1" if "pipeline" in parallel else "0"
    config = job(shards, tmp_path, parallel=parallel, train={"checkpoint_every": 3})
    found = run(ranks, config, fault, well=False, environment={"TEST_FAULT_RANK": rank})
    cause = found.causes[0]
    assert cause["exit_code"] == 65
    assert words in cause["why"], cause
    assert cause["where"].startswith("step 5, samples 32 to 39")
    assert "document" in cause["where"]
    assert found.steps_saved == [3]


@pytest.mark.ranks
@pytest.mark.parametrize("fault", ["hang:4", "halt:4"])
def test_a_rank_that_hangs_is_found_with_the_stacks_of_all(
    fault: str, ranks: Ranks, shards: list[str], tmp_path: Path
) -> None:
    config = job(shards, tmp_path, parallel={"data": 2}, train={"hang_seconds": 12})
    found = run(ranks, config, fault, well=False, environment={"TEST_FAULT_RANK": "1"})
    assert 72 in found.codes
    assert found.causes[0]["what"] == "A rank hangs"
    assert "rank 0: no progress for 12 s since step 5" in found.log
    assert "train_batch" in found.log, "the stack of the rank that waits"
    if fault == "hang:4":
        assert "rank 1: no progress for 12 s since step 4" in found.log
        assert "faulty_rank.py" in found.log, "the stack of the rank that hangs"
    waiting = next(cause for cause in found.causes if cause["where"].startswith("rank 0"))
    assert ("rank 1 is silent" if fault == "halt:4" else "rank 1 at step 4") in waiting["why"], waiting


@pytest.mark.ranks
def test_a_rank_that_never_comes_is_found_too(ranks: Ranks, shards: list[str], tmp_path: Path) -> None:
    """Before there is a group the ranks wait in the store, which the watch must not need."""
    config = job(shards, tmp_path, parallel={"data": 2}, train={"hang_seconds": 5})
    found = run(ranks, config, "hang_early", well=False, environment={"TEST_FAULT_RANK": "1"})
    assert 72 in found.codes
    assert "rank 0: no progress for 5 s since start" in found.log


@pytest.mark.ranks
def test_an_export_may_take_longer_than_a_step(ranks: Ranks, shards: list[str], tmp_path: Path) -> None:
    run(ranks, job(shards, tmp_path, train={"hang_seconds": 5}), "slow_export")


@pytest.mark.ranks
def test_samples_are_left_out_and_the_rate_lowered_without_making_it_another_training(
    ranks: Ranks, shards: list[str], tmp_path: Path
) -> None:
    config = job(shards, tmp_path, train={"checkpoint_every": 4})
    stopped = run(ranks, config, "infinite_loss_at_sample:40", well=False)
    assert stopped.codes == [65]
    assert "samples 40 to 47" in stopped.causes[0]["where"]
    again = run(ranks, config, "infinite_loss_at_sample:40", well=False)
    assert again.codes == [65], "it comes again by itself"
    by_hand = {"checkpoint_every": 4, "skip_samples": [{"first": 40, "count": 8}], "lr_multipliers": {"7": 0.5}}
    found = run(ranks, job(shards, tmp_path, train=by_hand, resume="must"), "infinite_loss_at_sample:40")
    assert [row["step"] for row in found.rows] == list(range(1, 11))
    assert [decision["event"] for decision in found.decisions] == ["rate factors", "samples left out"]
    rates = [row["learning_rate"] for row in found.rows]
    assert rates[6] < 0.6 * rates[5]


@pytest.mark.ranks
@pytest.mark.parametrize("parallel", [{"data": 2}, {"tensor": 2}])
def test_slow_ranks_are_told_of(parallel: dict[str, int], ranks: Ranks, shards: list[str], tmp_path: Path) -> None:
    config = job(shards, tmp_path, parallel=parallel, train={"log_every": 5})
    found = run(ranks, config, "slow", environment={"TEST_FAULT_RANK": "1"})
    assert "slow ranks [1]" in found.log
    assert max(row["slowest_rank_over_median"] for row in found.rows) > 1.5


@pytest.mark.ranks
def test_bad_shards_end_with_a_message_that_names_them(ranks: Ranks, shards: list[str], tmp_path: Path) -> None:
    bad = str(tmp_path / "bad")
    with ShardWriter(bad, 1000) as writer:
        writer.add(np.asarray(markov(np.random.default_rng(1), 100)))
        writer.add(np.asarray([5, 999, 7]))
    found = run(ranks, job([*shards, bad], tmp_path / "ids", parallel={"data": 2}), well=False)
    assert 65 in found.codes
    assert "Token id 999 is beyond the vocabulary of 256" in found.causes[0]["what"]
    assert "bad.bin, document 1, token 101" in found.causes[0]["where"]
    short = run(
        ranks, job(shards, tmp_path / "short", train={"sequence_length": 4096, "tokens": 10 * 8 * 4096}), well=False
    )
    assert short.codes == [65]
    assert "shorter than one" in short.causes[0]["what"]
    storage.write_json(f"{bad}.json", {"tokenizer": "b" * 32})
    other = run(ranks, job([bad], tmp_path / "other", tokenizer_identity="a" * 32), well=False)
    assert other.codes == [65]
    assert other.causes[0]["what"] == "A shard is of another tokenizer"


def rank_alone(folder: Path, config: Path, world: int, port: int) -> subprocess.CompletedProcess[str]:
    """The rank's program by itself, as somebody may start it by hand."""
    return subprocess.run(
        [sys.executable, "-m", "hyperclova_core.training.rank", "--config", str(config)],
        env={
            **os.environ,
            "RANK": "0",
            "WORLD_SIZE": str(world),
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=folder,
    )


@pytest.mark.ranks
def test_a_wrong_world_size_and_a_taken_port_are_said_at_once(shards: list[str], tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(job(shards, tmp_path / "out", parallel={"data": 2}).model_dump_json())
    wrong = rank_alone(tmp_path, config, 3, 1)
    assert wrong.returncode == 64
    assert "3 processes were started, the layout needs 2" in wrong.stderr
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        config.write_text(job(shards, tmp_path / "out").model_dump_json())
        taken = rank_alone(tmp_path, config, 1, holder.getsockname()[1])
    assert taken.returncode == 72
    cause = storage.read_json(str(tmp_path / "out" / "cause-0.json"))
    assert cause["what"] == "The port where ranks meet is taken"
