"""Units of work: what a record counts for, a unit that is run twice, and how units share tasks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.dataset import Target
from hyperclova_core.foundation.stages import engines
from hyperclova_core.foundation.stages.engines import LocalEngine, SparkEngine, grouped, tasks_for, tried_again
from hyperclova_core.foundation.stages.kinds import StageContext
from hyperclova_core.foundation.stages.units import TASK_WEIGHT, UnitResult, WorkUnit
from hyperclova_core.foundation.stages.work_units import run_units


class Named(WorkUnit):
    name: str


class Number(WorkUnit):
    number: int
    fails: int | None = None


class NameResult(UnitResult):
    name: str


class NumberResult(UnitResult):
    number: int
    task: int


UNITS = [Named(identity={"name": name}, name=name) for name in ("one", "two")]


def context(folder: Path, engine: LocalEngine | None = None) -> StageContext:
    return StageContext("stage", "1", 0, 1, "a", Target(str(folder)), "fingerprint", engine or LocalEngine())


def writes(folder: Path, boot: str) -> Callable[[Named], NameResult]:
    """A unit that leaves a file, and counts how often it ran."""

    def function(unit: Named) -> NameResult:
        path = folder / unit.name
        path.write_text("x")
        with (folder / "ran").open("a") as file:
            file.write(unit.name + "\n")
        return NameResult(files=(str(path),), boot=boot, name=unit.name)

    return function


def test_files_that_were_not_synced_count_until_the_machine_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "boot_of", lambda _: "this boot")
    work = writes(tmp_path, "this boot")
    first, taken = run_units(context(tmp_path), work, UNITS, "phase", NameResult)
    assert taken == 0
    assert run_units(context(tmp_path), work, UNITS, "phase", NameResult) == (first, 2)
    monkeypatch.setattr(storage, "boot_of", lambda _: "the next boot")
    again, taken = run_units(context(tmp_path), writes(tmp_path, ""), UNITS, "phase", NameResult)
    assert taken == 0
    assert [result.name for result in again] == ["one", "two"]
    # synced files count for whoever comes
    monkeypatch.setattr(storage, "boot_of", lambda _: "")
    assert run_units(context(tmp_path), work, UNITS, "phase", NameResult)[1] == 2
    assert (tmp_path / "ran").read_text().split() == ["one", "two"] * 2


def test_a_record_that_a_crash_left_empty_costs_its_unit(tmp_path: Path) -> None:
    run_units(context(tmp_path), writes(tmp_path, ""), UNITS, "phase", NameResult)
    next((tmp_path / "units").iterdir()).write_bytes(b"\0" * 200)
    assert run_units(context(tmp_path), writes(tmp_path, ""), UNITS, "phase", NameResult)[1] == 1
    assert len((tmp_path / "ran").read_text().split()) == 3


@pytest.mark.parametrize(
    ("kind", "known"), [("ext4", True), ("overlay", True), ("nfs4", False), ("fuse.sshfs", False), ("btrfs", False)]
)
def test_only_a_disk_of_one_machine_names_its_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, known: bool
) -> None:
    kernel = Path("/proc/sys/kernel/random/boot_id")
    if not kernel.exists():
        pytest.skip("this kernel names no boot")
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts.write_text(
        f"22 1 0:99 / /proc rw - proc proc rw\n30 22 {number} / {tmp_path} rw,relatime shared:1 - {kind} somewhere rw\n"
    )
    monkeypatch.setattr(storage.disk, "MOUNTS", mounts)
    assert storage.boot_of(str(tmp_path / "not" / "yet")) == (kernel.read_text().strip() if known else "")
    mounts.write_text("22 1 0:99 / /proc rw - proc proc rw\n")
    assert storage.boot_of(str(tmp_path)) == ""
    assert storage.boot_of("s3://bucket/prefix") == ""


def test_a_unit_that_is_run_again_in_its_task_is_taken_over(tmp_path: Path) -> None:
    class Twice(LocalEngine):
        def map_units(self, function, units, answer):  # type: ignore[no-untyped-def]
            super().map_units(function, units, answer)
            return super().map_units(function, units, answer)

    results, _ = run_units(context(tmp_path, Twice()), writes(tmp_path, ""), UNITS, "phase", NameResult)
    assert [result.name for result in results] == ["one", "two"]
    assert (tmp_path / "ran").read_text().split() == ["one", "two"]


@given(st.lists(st.integers(0, 10 * TASK_WEIGHT), min_size=1, max_size=60), st.integers(1, 16))
def test_units_share_tasks_by_what_they_read(weights: list[int], cores: int) -> None:
    tasks = tasks_for(weights, cores)
    groups = grouped(weights, tasks)
    assert sorted(index for group in groups for index in group) == list(range(len(weights)))
    assert all(group == sorted(group) and group for group in groups)
    assert len(groups) == min(len(weights), max(cores, -(-sum(weights) // TASK_WEIGHT)))
    loads = [sum(max(1, weights[index]) for index in group) for group in groups]
    # whatever the order, no task has more than the mean and one unit (Graham 1969)
    best = max(sum(loads) / len(loads), max(1, max(weights)))
    assert max(loads) <= 2 * best


def test_units_without_a_weight_are_tasks_of_their_own() -> None:
    weights = [TASK_WEIGHT] * 5
    assert grouped(weights, tasks_for(weights, 2)) == [[0], [1], [2], [3], [4]]


def test_results_of_shared_tasks_come_in_order_and_an_error_is_raised(spark_engine: SparkEngine) -> None:
    from hyperclova_core.foundation.errors import DataError

    def work(unit: Number) -> NumberResult:
        from pyspark import TaskContext

        if unit.number == unit.fails:
            raise DataError("This one fails", why=json.dumps(unit.number))
        task = TaskContext.get()
        assert task is not None
        return NumberResult(number=unit.number, task=task.partitionId())

    units = [Number(number=number, weight=100 - number) for number in range(9)]
    found = spark_engine.map_units(work, units, NumberResult)
    assert [result.number for result in found] == list(range(9))
    assert {result.task for result in found} == {0, 1}
    with pytest.raises(DataError, match="This one fails"):
        spark_engine.map_units(work, [unit.model_copy(update={"fails": 4}) for unit in units], NumberResult)


def test_a_fault_that_passes_is_waited_for_and_one_that_stays_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperclova_core.foundation.errors import DataError, TransientError

    waited: list[float] = []
    monkeypatch.setattr(engines.time, "sleep", waited.append)
    left = [TransientError("busy"), TransientError("busy")]

    def work(unit: Named) -> NameResult:
        if left:
            raise left.pop()
        return NameResult(name=unit.name)

    assert tried_again(work, UNITS[0]).name == "one"
    assert waited == list(engines.WAITED_SECONDS)
    left[:] = [TransientError("busy")] * 3
    with pytest.raises(TransientError):
        tried_again(work, UNITS[0])
    left[:] = [DataError("wrong")]
    waited.clear()
    with pytest.raises(DataError):
        tried_again(work, UNITS[0])
    assert not waited, "what is wrong stays wrong"
