"""Checkpoints: to the bit at the same layout, by whole parameters at any other; killed at any moment; damaged; in S3."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.jobs.backend import wait
from hyperclova_core.jobs.backends import LocalBackend
from hyperclova_core.jobs.spec import TrainJobSpec
from hyperclova_core.training.checkpoints.files import prune, read_checkpoint
from hyperclova_core.training.checkpoints.reader import open_checkpoint
from hyperclova_core.training.model.weights import Weight, name_in_module, name_in_pipeline, weights_of
from hyperclova_core.training.stage import PROGRAM
from tests.object_store import FaultProxy
from tests.training.cases import Outcome, job, run
from tests.training.forked_ranks import Ranks

SAVED = {"2x1x2": {"pipeline": 2, "data": 2}, "1x2x1": {"tensor": 2}, "1x1x2": {"data": 2}}
OTHERS = {
    "1x1x1": {},
    "1x1x2": {"data": 2},
    "1x2x1": {"tensor": 2},
    "2x1x1": {"pipeline": 2},
    "1x2x2": {"tensor": 2, "data": 2},
}
INTO = {
    "2x1x2": ("1x1x1", "1x2x1", "1x2x2"),
    "1x2x1": ("1x1x1", "1x1x2", "2x1x1"),
    "1x1x2": ("1x1x1", "1x2x1", "2x1x1"),
}
HOW = {"checkpoint_every": 5, "keep_last": 9, "dropout": 0.1}


def test_shares_of_a_weight_are_cut_and_joined_back() -> None:
    for weight in weights_of(job(["x"], "y").train.size.model, 256, 32).values():
        whole = torch.arange(torch.Size(weight.shape).numel(), dtype=torch.float32).view(weight.shape)
        shares = [weight.cut(whole, rank, 2) for rank in range(2)]
        assert all(tuple(share.shape) == weight.local_shape(2) for share in shares)
        assert torch.equal(weight.join(shares), whole)
    fused = Weight("h0.qkv.weight", (6, 1), 0, 3)
    assert fused.cut(torch.arange(6.0)[:, None], 1, 2).flatten().tolist() == [1.0, 3.0, 5.0]


def test_names_are_the_same_whoever_holds_the_parameter() -> None:
    assert [
        name_in_pipeline(name, 2) for name in ("tied_modules.wte.weight", "1.weight", "3.qkv.bias", "4.ln.bias")
    ] == [
        "wte.weight",
        "wpe.weight",
        "h1.qkv.bias",
        "ln_f.bias",
    ]
    assert name_in_module("blocks.1.qkv.bias") == "h1.qkv.bias"
    with pytest.raises(DataError, match="no known layer"):
        name_in_pipeline("9.weight", 2)


def test_the_newest_and_the_multiples_are_kept_and_what_was_never_complete_goes(tmp_path: Path) -> None:
    for step in (10, 20, 25, 30, 35, 40):
        folder = tmp_path / f"step-{step}"
        folder.mkdir()
        (folder / "part.safetensors").touch()
        if step != 25:
            (folder / "manifest.json").write_text("{}")
    prune(str(tmp_path), 35, keep_last=1, keep_every=20)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-20", "step-35", "step-40"], (
        "40 is of a later attempt"
    )


@pytest.fixture(scope="module")
def saved(ranks: Ranks, shards: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Three layouts, saved at steps 5 and 10."""
    folder = tmp_path_factory.mktemp("saved")
    return {
        name: run(ranks, job(shards, folder / name, parallel=parallel, train=HOW)) for name, parallel in SAVED.items()
    }


def from_step_5(saved: Outcome, folder: Path) -> Path:
    """A folder as it was when the training was killed after step 5."""
    shutil.copytree(saved.folder / "checkpoints" / "step-5", folder / "checkpoints" / "step-5")
    return folder


@pytest.mark.ranks
@pytest.mark.parametrize("name", SAVED)
def test_the_same_layout_goes_on_to_the_bit(
    name: str, saved: dict[str, Outcome], ranks: Ranks, shards: list[str], tmp_path: Path
) -> None:
    folder = from_step_5(saved[name], tmp_path)
    found = run(ranks, job(shards, folder, parallel=SAVED[name], train=HOW, resume="must"))
    assert [row["step"] for row in found.rows] == [6, 7, 8, 9, 10]
    assert found.losses == saved[name].losses[5:]
    assert found.norms == saved[name].norms[5:]
    assert found.weights == saved[name].weights


@pytest.mark.ranks
@pytest.mark.parametrize(("name", "other"), [(name, other) for name, others in INTO.items() for other in others])
def test_every_layout_goes_on_from_every_other(
    name: str, other: str, saved: dict[str, Outcome], ranks: Ranks, shards: list[str], tmp_path: Path
) -> None:
    folder = from_step_5(saved[name], tmp_path)
    found = run(ranks, job(shards, folder, parallel=OTHERS[other], train={**HOW, "keep_last": 1}, resume="must"))
    assert np.abs(np.asarray(found.losses) - saved[name].losses[5:]).max() < 1e-5
    with (
        open_checkpoint(read_checkpoint(str(tmp_path))) as ours,
        open_checkpoint(read_checkpoint(str(saved[name].folder))) as theirs,
    ):
        for weight in ours.weights:
            for kind in ("weight", "exp_avg", "exp_avg_sq"):
                mine, other_one = ours.whole(weight, kind), theirs.whole(weight, kind)
                assert float((mine - other_one).abs().max()) < 1e-2 * float(other_one.abs().max()), (weight, kind)


@pytest.mark.ranks
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_another_layout_loads_is_what_was_saved_to_the_bit(
    precision: str, ranks: Ranks, shards: list[str], tmp_path: Path
) -> None:
    """Its optimizer is kept from stepping: what it saves is what it loaded."""
    first = run(ranks, job(shards, tmp_path / "first", parallel=SAVED["2x1x2"], train={**HOW, "precision": precision}))
    record = read_checkpoint(str(first.folder / "checkpoints" / "step-5"))
    folder = from_step_5(first, tmp_path / "second")
    still = {**HOW, "precision": precision}
    found = run(
        ranks,
        job(shards, folder, parallel=OTHERS["1x2x2"], train=still, resume="must", stop_after=6),
        "still",
        well=False,
    )
    assert set(found.codes) == {75}, found.log[-2000:]
    with (
        open_checkpoint(record) as before,
        open_checkpoint(read_checkpoint(str(folder / "checkpoints" / "step-6"))) as after,
    ):
        assert after.record["layout"] == {"pipeline": 1, "tensor": 2, "data": 2}
        for name in before.weights:
            for kind in ("weight", "exp_avg", "exp_avg_sq"):
                assert torch.equal(before.whole(name, kind), after.whole(name, kind)), (name, kind)


KILLS = ["kill_in_step:7", "kill_in_file:1", "kill_before_manifest:1", "kill_in_prune:1", "kill_in_export:1"]


@pytest.mark.ranks
@pytest.mark.parametrize("fault", KILLS)
def test_killed_at_any_moment_a_second_run_ends_with_the_same_bytes(
    fault: str, saved: dict[str, Outcome], ranks: Ranks, shards: list[str], tmp_path: Path
) -> None:
    config = job(shards, tmp_path, parallel={"data": 2}, train={**HOW, "keep_last": 1})
    killed = run(ranks, config, fault, well=False)
    assert -9 in killed.codes
    if fault != "kill_in_export:1":
        assert not (killed.folder / "result.json").exists()
    found = run(ranks, config)
    assert found.losses == saved["1x1x2"].losses, "metrics of both attempts are those of one"
    assert found.weights == saved["1x1x2"].weights
    assert found.steps_saved == [10]
    assert sorted(path.name for path in (found.folder / "checkpoints").iterdir()) == ["attempt.json", "step-10"], (
        "nothing of the killed attempt is left"
    )
    again = run(ranks, config)
    assert again.weights == found.weights


@pytest.mark.ranks
def test_sigterm_saves_within_the_grace_time_through_torchrun(shards: list[str], tmp_path: Path) -> None:
    config = job(
        shards,
        tmp_path,
        parallel={"data": 2},
        train={"tokens": 100_000 * 8 * 32, "evaluate_every": 50_000, "log_every": 50},
    )
    spec = TrainJobSpec("test", PROGRAM, config.model_dump(mode="json"), config.output, 2, grace_seconds=20)
    backend = LocalBackend()
    backend.submit(spec)
    lines: list[str] = []

    def look(line: str) -> None:
        lines.append(line)
        if "step 50/" in line:
            backend.cancel(spec)

    status = wait(backend, spec, look)
    assert status.exit_code == 75, "\n".join(lines[-30:])
    record = read_checkpoint(config.output)
    assert record["step"] >= 50
    assert f"step {record['step']}" in status.explain()


@pytest.mark.ranks
def test_sigterm_to_one_rank_ends_all_at_one_step(
    saved: dict[str, Outcome], ranks: Ranks, shards: list[str], tmp_path: Path
) -> None:
    config = job(shards, tmp_path, parallel={"data": 2}, train={**HOW, "checkpoint_every": 0})
    stopped = run(ranks, config, "terminate:3", well=False)
    assert stopped.codes == [75, 75]
    assert stopped.steps_saved == [4]
    assert run(ranks, config).losses == saved["1x1x2"].losses


@pytest.mark.ranks
def test_an_attempt_that_others_believe_dead_ends_before_it_writes(
    ranks: Ranks, shards: list[str], tmp_path: Path
) -> None:
    config = job(shards, tmp_path, parallel={"data": 2}, train={**HOW, "checkpoint_every": 2})
    stopped = run(ranks, config, "supersede:3", well=False)
    assert stopped.codes == [75, 75], "on all ranks"
    assert "Another attempt of this training has begun" in stopped.log
    assert stopped.steps_saved == [2], "what it saved before is there, and nothing after"
    assert not run(ranks, config).codes[0], "whoever begins has the folder"


@pytest.mark.ranks
def test_an_attempt_that_is_superseded_while_it_saves_deletes_and_completes_nothing(
    ranks: Ranks, shards: list[str], tmp_path: Path
) -> None:
    """Writing takes minutes: the newest checkpoint, which the next attempt may be reading, stays."""
    config = job(shards, tmp_path, parallel={"data": 2}, train={**HOW, "checkpoint_every": 2, "keep_last": 1})
    stopped = run(ranks, config, "supersede_in_save:2", well=False)
    assert stopped.codes == [75, 75]
    assert stopped.steps_saved == [2], "step 4 has no manifest, and step 2 was not removed for it"
    first = json.loads((tmp_path / "checkpoints" / "step-2" / "manifest.json").read_text())
    assert not run(ranks, config).codes[0]
    newest = read_checkpoint(str(tmp_path))
    assert newest["attempt"] not in ("other", first["attempt"])
    assert all(entry["file"].endswith(f"-{newest['attempt']}.safetensors") for entry in newest["files"])
    left = {path.name for path in Path(newest["folder"]).iterdir()}
    assert left == {"manifest.json", *(entry["file"] for entry in newest["files"])}


def file_of(folder: Path, step: int) -> Path:
    """The second rank's file of a checkpoint that one attempt wrote."""
    (found,) = (folder / "checkpoints" / f"step-{step}").glob("pipeline-000-tensor-000-data-001-*.safetensors")
    return found


@pytest.mark.ranks
def test_a_damaged_checkpoint_is_passed_over_and_the_one_before_it_taken(
    saved: dict[str, Outcome], ranks: Ranks, shards: list[str], tmp_path: Path
) -> None:
    folder = from_step_5(saved["1x1x2"], tmp_path)
    shutil.copytree(saved["1x1x2"].folder / "checkpoints" / "step-10", folder / "checkpoints" / "step-10")
    path = file_of(folder, 10)
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    config = job(shards, folder, parallel={"data": 2}, train=HOW)
    found = run(ranks, config)
    assert "A checkpoint is damaged" in found.log
    assert found.losses == saved["1x1x2"].losses[5:]
    for step in (5, 10):
        path = file_of(folder, step)
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(data)
    ended = run(ranks, config, well=False)
    assert 65 in ended.codes
    assert "all 2 that are there are damaged" in ended.causes[0]["why"]


@pytest.mark.ranks
def test_checkpoints_that_lost_a_file_are_no_reason_to_start_anew(
    saved: dict[str, Outcome], ranks: Ranks, shards: list[str], tmp_path: Path
) -> None:
    folder = from_step_5(saved["1x1x2"], tmp_path)
    file_of(folder, 5).unlink()
    ended = run(ranks, job(shards, folder, parallel={"data": 2}, train=HOW), well=False)
    assert 65 in ended.codes
    assert ended.causes[0]["what"] == "There is no checkpoint to go on from"
    assert re.search(r"pipeline-000-tensor-000-data-001-\w{12}\.safetensors is not", ended.log)


@pytest.mark.ranks
def test_a_folder_that_machines_do_not_share_is_no_place_for_checkpoints(
    ranks: Ranks, shards: list[str], tmp_path: Path
) -> None:
    config = job(shards, tmp_path, parallel={"data": 2}, train=HOW)
    ended = run(ranks, config, "own_disk", well=False, environment={"TEST_FAULT_RANK": "1"})
    assert 64 in ended.codes
    assert ended.causes[0]["what"] == "Not all ranks write checkpoints to one place"
    assert ended.steps_saved == []


@pytest.mark.ranks
def test_a_checkpoint_of_another_training_is_refused_and_none_is_an_error_when_asked_for(
    saved: dict[str, Outcome], ranks: Ranks, shards: list[str], tmp_path: Path
) -> None:
    empty = run(ranks, job(shards, tmp_path / "empty", resume="must"), well=False)
    assert empty.codes == [65]
    assert "no complete checkpoint is there" in empty.causes[0]["why"]
    folder = from_step_5(saved["1x1x2"], tmp_path)
    changes: list[tuple[dict[str, Any], str]] = [
        ({"shape": {"layers": 3}, "train": HOW}, "its model is"),
        ({"train": {**HOW, "seed": 12}}, "schedule, batch, seed"),
    ]
    for number, (change, why) in enumerate(changes):
        found = run(ranks, job(shards, folder, **change), well=False)
        assert found.codes == [65], number
        assert found.causes[0]["what"] == "The checkpoint is of another training"
        assert why in found.causes[0]["why"]
    other = run(ranks, job(shards[::-1], folder, train=HOW), well=False)
    assert "data differ" in other.causes[0]["why"]


@pytest.mark.ranks
def test_a_full_disk_in_mid_save_leaves_the_checkpoint_before(
    saved: dict[str, Outcome], ranks: Ranks, shards: list[str], tmp_path: Path
) -> None:
    config = job(shards, tmp_path, parallel={"data": 2}, train={**HOW, "keep_last": 1})
    ended = run(ranks, config, "full:7", well=False)
    assert 75 in ended.codes
    assert ended.causes[0]["what"] == "The disk is full"
    assert "step-10" in ended.causes[0]["where"]
    assert ended.steps_saved == [5]
    assert run(ranks, config).weights == saved["1x1x2"].weights


@pytest.mark.ranks
def test_a_stable_phase_goes_on_longer_and_a_decayed_one_does_not(
    ranks: Ranks, shards: list[str], tmp_path: Path
) -> None:
    train = {
        **HOW,
        "schedule": "wsd",
        "decay_share": 0.4,
        "tokens": 10 * 8 * 32,
        "warmup_share": 0.1,
        "checkpoint_every": 3,
    }
    first = run(ranks, job(shards, tmp_path, train=train))
    assert first.steps_saved == [3, 6, 9, 10]
    longer = job(shards, tmp_path, train={**train, "tokens": 20 * 8 * 32, "warmup_share": 0.05, "decay_share": 0.2})
    refused = run(ranks, longer, well=False)
    assert refused.codes == [65]
    assert "the stable phase both share ended at" in refused.causes[0]["why"]
    for step in (9, 10):
        shutil.rmtree(tmp_path / "checkpoints" / f"step-{step}")
    whole = run(ranks, longer.model_copy(update={"output": str(tmp_path / "whole")}))
    assert run(ranks, longer).losses[6:] == whole.losses[6:]


@pytest.mark.ranks
def test_shards_and_checkpoints_in_s3(
    saved: dict[str, Outcome], object_store: FaultProxy, ranks: Ranks, shards: list[str], tmp_path: Path
) -> None:
    settings = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "HYPERCLOVA_"))}
    remote = []
    for prefix in shards:
        target = f"s3://warehouse/training/{Path(prefix).name}"
        for suffix in ("bin", "idx"):
            storage.write_bytes(f"{target}.{suffix}", Path(f"{prefix}.{suffix}").read_bytes())
        remote.append(target)
    checkpoints = "s3://warehouse/training/checkpoints"
    config = job(
        remote, tmp_path / "first", parallel={"data": 2}, train={**HOW, "keep_last": 1}, checkpoints=checkpoints
    )
    stopped = run(ranks, config.model_copy(update={"stop_after": 7}), well=False, environment=settings)
    assert stopped.codes == [75, 75], stopped.log[-3000:]
    assert steps_in(checkpoints) == {"attempt.json", "step-7", "history"}
    # another machine, with an empty disk and another layout
    second = job(remote, tmp_path / "second", train={**HOW, "keep_last": 1}, checkpoints=checkpoints, resume="must")
    found = run(ranks, second, environment=settings)
    assert found.losses == pytest.approx(saved["1x1x2"].losses, abs=1e-5), "with the rows of the first machine"
    assert steps_in(checkpoints) == {"attempt.json", "step-10", "history"}
    manifest = json.loads(storage.read_bytes(f"{checkpoints}/step-10/manifest.json"))
    assert manifest["layout"] == {"pipeline": 1, "tensor": 1, "data": 1}


def steps_in(folder: str) -> set[str]:
    """Folders with files: an object store may still name one that it emptied."""
    return {path.removeprefix(f"{folder}/").split("/")[0] for path in storage.list_files(folder)}
