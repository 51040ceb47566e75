"""What storage does to people: each case has its message, and nothing is lost."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperclova_core.foundation.corpora.versions import compact, publish
from hyperclova_core.foundation.datasets.dataset import Dataset, open_dataset
from hyperclova_core.foundation.errors import ConfigError, DataError, TransientError
from hyperclova_core.foundation.lineage import deliver, record_event
from hyperclova_core.foundation.stages.engines import LocalEngine
from hyperclova_core.foundation.stages.runner import execute, plan_stage
from hyperclova_core.foundation.warehouse import RunRecord, Warehouse
from tests.foundation.test_growing import increment, part_of
from tests.foundation.test_lineage import event
from tests.foundation.test_runner import KeepConfig, request


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, 64 KB large."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_said_and_a_second_run_with_space_ends_well(portal: Dataset, small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (40 << 10))
    with pytest.raises(TransientError, match="The disk is full") as caught:
        execute(plan_stage(request(portal, small_disk / "out", KeepConfig())), LocalEngine())
    assert caught.value.exit_code == 75
    assert "dataset gc" in caught.value.remedy
    with pytest.raises(DataError, match="No committed dataset"):
        open_dataset(str(small_disk / "out"))
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    ended = execute(plan_stage(request(portal, small_disk / "out", KeepConfig())), LocalEngine()).dataset
    ended.verify(checksums=True)
    assert not list(small_disk.rglob("*.tmp")), "nothing half is left"


def test_a_limit_on_file_sizes_is_like_a_full_disk(portal: Dataset, tmp_path: Path) -> None:
    before, old = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(TransientError, match="The disk is full"):
            execute(plan_stage(request(portal, tmp_path / "out", KeepConfig())), LocalEngine())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    execute(plan_stage(request(portal, tmp_path / "out", KeepConfig())), LocalEngine()).dataset.verify(checksums=True)


def test_a_full_disk_leaves_nothing_half_of_a_compaction(tmp_path: Path) -> None:
    """Each part fits, what they make together does not."""
    warehouse = Warehouse(str(tmp_path / "w"))
    for night in range(3):
        texts = {f"{night}-{n}": f"{night}째 밤의 {n}째 글 {n * n}" for n in range(300)}
        publish(warehouse, "c", part_of(increment(tmp_path / str(night), texts, 1), f"n{night}"), "night")
    largest = max(path.stat().st_size for path in tmp_path.rglob("*.parquet"))
    before, old = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 1000, before[1]))
    try:
        with pytest.raises(TransientError, match="The disk is full"):
            compact(warehouse, "c", LocalEngine())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    assert not list(tmp_path.rglob("*.tmp"))
    assert compact(warehouse, "c", LocalEngine())[0].documents == 900


def test_a_read_only_target_is_said(portal: Dataset, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(ConfigError, match="cannot be written") as caught:
        execute(plan_stage(request(portal, small_disk / "out", KeepConfig())), LocalEngine())
    assert "Read-only" in caught.value.why


def test_a_file_where_a_folder_should_be_is_said(portal: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be written"):
        execute(plan_stage(request(portal, tmp_path / "file" / "out", KeepConfig())), LocalEngine())


@pytest.fixture
def made(portal: Dataset, tmp_path: Path) -> Dataset:
    return execute(plan_stage(request(portal, tmp_path / "out", KeepConfig())), LocalEngine()).dataset


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: data["counters"].update(kept=data["counters"]["kept"] + 1),
        lambda data: data["config"].update(modulus=5),
        lambda data: data["inputs"]["documents"].update(digest="0" * 32),
        lambda data: data["tables"]["documents"]["files"][0].update(path="../../elsewhere.parquet"),
        lambda data: data["tables"]["documents"]["files"].pop(),
        lambda data: data.update(restricted_folder="/tmp"),
        lambda data: data.update(seal=""),
    ],
    ids=["counter", "config", "input", "path", "file", "folder", "seal"],
)
def test_a_manifest_edited_by_hand_is_noticed(made: Dataset, edit) -> None:  # type: ignore[no-untyped-def]
    path = Path(made.uri) / "manifest.json"
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match="was edited") as caught:
        open_dataset(made.uri)
    assert str(path) in caught.value.where
    assert caught.value.remedy


@pytest.mark.parametrize(("content", "message"), [(b"", "damaged"), (b'{"a"', "damaged"), (b"[1]", "damaged")])
def test_a_manifest_that_is_none_is_said(made: Dataset, content: bytes, message: str) -> None:
    (Path(made.uri) / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_dataset(made.uri)


def test_missing_truncated_and_flipped_parts_are_named(made: Dataset) -> None:
    path = Path(made.files()[1])
    raw = path.read_bytes()
    path.write_bytes(raw[:-10])
    with pytest.raises(DataError, match="wrong size") as caught:
        open_dataset(made.uri)
    assert caught.value.where == str(path)
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        open_dataset(made.uri)
    path.write_bytes(raw[:100] + bytes([raw[100] ^ 1]) + raw[101:])
    opened = open_dataset(made.uri)
    with pytest.raises(DataError, match="altered"):
        opened.verify(checksums=True)


def test_a_damaged_record_of_a_unit_costs_that_unit_only(portal: Dataset, tmp_path: Path) -> None:
    class Dies(LocalEngine):
        def map_units(self, function, units, answer):  # type: ignore[no-untyped-def]
            super().map_units(function, units, answer)
            raise KeyboardInterrupt

    plan = plan_stage(request(portal, tmp_path / "out", KeepConfig()))
    with pytest.raises(KeyboardInterrupt):
        execute(plan, Dies())
    records = sorted((tmp_path / "out" / "units").iterdir())
    assert len(records) == 2
    records[0].write_bytes(b"{half")
    outcome = execute(plan, LocalEngine())
    assert outcome.taken_over == 1
    outcome.dataset.verify(checksums=True)


def test_a_clock_that_jumps_back_loses_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    warehouse = Warehouse(str(tmp_path / "w"))
    warehouse.run("r1").create(RunRecord("r1", {"name": "demo"}, code_version="0", started=1e9))
    record_event(warehouse, event("r1", "ingest"))
    monkeypatch.setattr("time.time_ns", lambda: 1)
    record_event(warehouse, event("r1", "filter", started=2e9, ended=1e9))
    monkeypatch.undo()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert deliver(warehouse) == 2
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("hyperclova").experiment_id])
    assert {run.info.run_name for run in runs} >= {"ingest", "filter"}
    assert all(run.info.end_time is None or run.info.end_time >= run.info.start_time for run in runs)
    assert os.listdir(f"{warehouse.uri}/lineage/outbox") == []
