"""gc: what was never committed, what no name reaches, what is past its time; and nothing else."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from hyperclova_core.cli.main import cli
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.corpora.retention import Garbage, collect, find_garbage, remove
from hyperclova_core.foundation.datasets import removal_mark
from hyperclova_core.foundation.datasets.dataset import Dataset, open_dataset
from hyperclova_core.foundation.errors import DataError, TransientError
from hyperclova_core.foundation.stages.engines import LocalEngine
from hyperclova_core.foundation.stages.kinds import definition_of
from hyperclova_core.foundation.stages.runner import StageRequest, execute, plan_stage
from hyperclova_core.foundation.warehouse import StageResult, Warehouse
from tests.foundation.test_runner import KeepConfig, keep


def stage(warehouse: Warehouse, dataset: Dataset, **config: object) -> StageRequest:
    return StageRequest(
        definition_of(keep),
        KeepConfig(**config),
        lambda identity: warehouse.target("keep", identity),
        {"documents": dataset},
        buckets=2,
        made_by={"run": "r", "restricted_days": 30.0},
    )


def age(warehouse: Warehouse, days: float) -> None:
    for path in Path(warehouse.uri).rglob("*"):
        os.utime(path, (time.time() - days * 86400,) * 2)


def kinds(warehouse: Warehouse, **options: float) -> list[str]:
    return [item.kind for item in find_garbage(warehouse, **options)]


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(str(tmp_path / "w"))


def test_what_a_reference_reaches_stays_with_all_its_inputs(warehouse: Warehouse, portal: Dataset) -> None:
    first = execute(plan_stage(stage(warehouse, portal)), LocalEngine()).dataset
    second = execute(plan_stage(stage(warehouse, first, modulus=4)), LocalEngine()).dataset
    third = execute(plan_stage(stage(warehouse, first, modulus=8)), LocalEngine()).dataset
    warehouse.set_reference("runs/one", {"select": second.uri})
    assert kinds(warehouse) == [], "what is new is left alone"
    age(warehouse, 10)
    found = find_garbage(warehouse)
    unreferenced = [item.uri for item in found if item.kind == "unreferenced"]
    assert unreferenced == [third.uri]
    assert {item.uri for item in found if item.kind == "left over"} == {first.uri, second.uri}, "records of units"
    remove(warehouse, found)
    assert not Path(third.uri).exists()
    for kept in (first, second):
        open_dataset(kept.uri).verify(checksums=True)
    assert kinds(warehouse, older_than=0) == []


def test_a_recent_run_keeps_what_it_used(warehouse: Warehouse, portal: Dataset) -> None:
    made = execute(plan_stage(stage(warehouse, portal)), LocalEngine()).dataset
    age(warehouse, 10)
    warehouse.run("now").finish_stage("keep", StageResult(stage="keep", uri=made.uri))
    assert "unreferenced" not in kinds(warehouse)


def test_attempts_never_committed_go_and_a_running_one_stays(warehouse: Warehouse, portal: Dataset) -> None:
    plan = plan_stage(stage(warehouse, portal, fail_in_bucket=1))
    with pytest.raises(DataError, match="unit fails"):
        execute(plan, LocalEngine())
    assert kinds(warehouse) == []
    age(warehouse, 10)
    assert kinds(warehouse) == ["never committed"]
    remove(warehouse, find_garbage(warehouse))
    assert [path for path in Path(warehouse.uri).rglob("*") if path.is_file() and "datasets" in str(path)] == []
    assert storage.list_names(str(Path(warehouse.uri) / "restricted")) in ([], ["keep"])


def test_data_past_its_time_goes_and_the_rest_can_be_read(warehouse: Warehouse, portal: Dataset) -> None:
    made = execute(plan_stage(stage(warehouse, portal)), LocalEngine()).dataset
    warehouse.set_reference("runs/one", {"keep": made.uri})
    rejected = made.files("rejected")
    assert "past its time" not in kinds(warehouse)
    assert "past its time" not in kinds(warehouse, restricted_days=1)
    found = [item for item in find_garbage(warehouse, restricted_days=0) if item.kind == "past its time"]
    assert [item.uri for item in found] == [made.uri]
    remove(warehouse, found)
    assert not any(storage.exists(path) for path in rejected)
    opened = open_dataset(made.uri)
    assert opened.read().num_rows == made.manifest.counters.kept
    with pytest.raises(DataError, match="passed its time to live"):
        opened.read("rejected")
    assert "past its time" not in kinds(warehouse, restricted_days=0)


def test_raw_documents_past_their_time_can_be_made_again(warehouse: Warehouse, tmp_path: Path) -> None:
    from hyperclova_core.corpus.ingest.config import IngestConfig, find_files
    from hyperclova_core.corpus.ingest.stage import ingest
    from tests.conftest import portal_sources

    config = IngestConfig(sources=tuple(portal_sources()[:1]))
    request = StageRequest(
        definition_of(ingest), config, lambda i: warehouse.target("ingest", i), files=find_files(config), buckets=2
    )
    made = execute(plan_stage(request), LocalEngine()).dataset
    warehouse.set_reference("runs/one", {"ingest": made.uri})
    remove(warehouse, find_garbage(warehouse, older_than=0, restricted_days=0))
    with pytest.raises(DataError, match="passed its time to live"):
        open_dataset(made.uri)
    again = execute(plan_stage(request), LocalEngine())
    assert not again.reused
    assert again.dataset.manifest.digest == made.manifest.digest
    open_dataset(made.uri).verify(checksums=True)


def test_a_clean_up_that_takes_a_running_attempt_for_dead_loses_nothing(
    warehouse: Warehouse, portal: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(LocalEngine):
        def map_units(self, function, units, answer):  # type: ignore[no-untyped-def]
            results = super().map_units(function, units, answer)
            remove(warehouse, find_garbage(warehouse, older_than=0))
            return results

    with pytest.raises(TransientError, match="nothing was committed"):
        execute(plan_stage(stage(warehouse, portal)), Interrupted())
    clean = execute(plan_stage(stage(warehouse, portal)), LocalEngine()).dataset
    clean.verify(checksums=True)


def test_files_from_the_future_are_never_old(warehouse: Warehouse, portal: Dataset) -> None:
    execute(plan_stage(stage(warehouse, portal)), LocalEngine())
    age(warehouse, -400)
    assert kinds(warehouse, older_than=0.001) == []


def test_the_command_shows_first_and_deletes_with_yes(warehouse: Warehouse, portal: Dataset) -> None:
    made = execute(plan_stage(stage(warehouse, portal)), LocalEngine()).dataset
    arguments = ["dataset", "gc", "--warehouse", warehouse.uri, "--older-than", "0"]
    shown = CliRunner().invoke(cli, arguments)
    assert "unreferenced" in shown.output
    assert "--yes" in shown.output
    open_dataset(made.uri)
    assert "Removed" in CliRunner().invoke(cli, [*arguments, "--yes", "--wait", "0"]).output
    assert not Path(made.uri).exists(), "nor does the mark stay"
    assert "Nothing to remove" in CliRunner().invoke(cli, arguments).output


def test_a_run_that_takes_over_what_gc_has_found_keeps_it(warehouse: Warehouse, portal: Dataset) -> None:
    """Between the look and the deletion a run may begin to use a dataset that nothing had used for days."""
    first, second = (execute(plan_stage(stage(warehouse, portal, modulus=m)), LocalEngine()).dataset for m in (4, 8))
    age(warehouse, 10)
    found = find_garbage(warehouse)
    assert {item.uri for item in found if item.kind == "unreferenced"} == {first.uri, second.uri}

    def meanwhile() -> list[Garbage]:
        warehouse.run("now").finish_stage("keep", StageResult(stage="keep", uri=first.uri))
        with pytest.raises(TransientError, match="being removed"):
            plan_stage(stage(warehouse, portal, modulus=8))
        return find_garbage(warehouse)

    freed, kept = collect(warehouse, found, meanwhile, wait_seconds=0)
    assert freed > 0
    assert [item.uri for item in kept if item.kind == "unreferenced"] == [first.uri]
    assert not Path(second.uri).exists()
    open_dataset(first.uri).verify(checksums=True)
    assert plan_stage(stage(warehouse, portal, modulus=4)).committed, "its mark is gone"
    assert not plan_stage(stage(warehouse, portal, modulus=8)).committed, "it is made anew"


def test_a_mark_binds_nobody_long_before_or_after_its_time(warehouse: Warehouse, portal: Dataset) -> None:
    made = execute(plan_stage(stage(warehouse, portal)), LocalEngine()).dataset
    removal_mark.mark(made.uri, time.time() + 600)
    assert plan_stage(stage(warehouse, portal)).committed, "it will be seen when gc looks again"
    removal_mark.mark(made.uri, time.time() - 2 * removal_mark.VALID_SECONDS)
    assert plan_stage(stage(warehouse, portal)).committed, "of a gc that died"
    age(warehouse, 10)
    found = find_garbage(warehouse)
    removal_mark.mark(made.uri, time.time())
    assert [item.files for item in find_garbage(warehouse)] == [item.files for item in found], "and is no sign of life"
    late = lambda: removal_mark.mark(made.uri, time.time() - removal_mark.VALID_SECONDS) or find_garbage(warehouse)  # noqa: E731
    freed, kept = collect(warehouse, [item for item in found if item.kind == "unreferenced"], late, wait_seconds=0)
    assert (freed, [item.uri for item in kept]) == (0, [made.uri]), "deleting that begins too late does not begin"

    def interrupted() -> list[Garbage]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(warehouse, found, interrupted, wait_seconds=0)
    assert plan_stage(stage(warehouse, portal)).committed, "no mark is left for runs to wait for"


def test_verify_tells_every_damage_and_list_goes_on(warehouse: Warehouse, portal: Dataset) -> None:
    good = execute(plan_stage(stage(warehouse, portal)), LocalEngine()).dataset
    bad = execute(plan_stage(stage(warehouse, portal, modulus=4)), LocalEngine()).dataset
    path = Path(bad.files()[0])
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    result = CliRunner().invoke(cli, ["dataset", "verify", "--all", "--warehouse", warehouse.uri])
    assert result.exit_code != 0
    assert "was altered" in str(result.output) + str(result.exception)
    assert f"keep@{good.manifest.fingerprint[:12]}" in result.output
    manifest = Path(bad.uri) / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "info": {"edited": True}}))
    listed = CliRunner().invoke(cli, ["dataset", "list", "--warehouse", warehouse.uri])
    assert listed.exit_code == 0
    assert "DAMAGED: The manifest of a dataset was edited" in listed.output


def test_uploads_that_a_kill_left_are_found_and_dropped(faults: object) -> None:
    from hyperclova_core.foundation.storage import s3_client

    warehouse = Warehouse("s3://warehouse/uploads")
    storage.write_bytes(f"{warehouse.uri}/refs/x.json", b"{}")
    s3_client.client().create_multipart_upload(
        Bucket="warehouse", Key="uploads/datasets/keep/0/attempts/a/part.parquet"
    )
    assert kinds(warehouse) == []
    found = find_garbage(warehouse, older_than=0)
    assert [item.kind for item in found] == ["unfinished upload"]
    remove(warehouse, found)
    remove(warehouse, found)
    assert kinds(warehouse, older_than=0) == []


def test_scratch_that_a_kill_left_goes_when_it_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERCLOVA_SCRATCH", str(tmp_path / "scratch"))
    path = Path(storage.scratch_folder("writing"), "left")
    path.write_bytes(b"123")
    assert storage.clear_scratch(1) == 0
    os.utime(path, (0, 0))
    assert storage.clear_scratch(1) == 3
    assert not path.exists()


def test_damage_on_the_way_stops_gc_before_it_takes_something_alive(warehouse: Warehouse, portal: Dataset) -> None:
    first = execute(plan_stage(stage(warehouse, portal)), LocalEngine()).dataset
    second = execute(plan_stage(stage(warehouse, first, modulus=4)), LocalEngine()).dataset
    warehouse.set_reference("runs/one", {"select": second.uri})
    (Path(second.uri) / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="damaged"):
        find_garbage(warehouse, older_than=0)
    (Path(warehouse.uri) / "refs" / "runs" / "one.json").write_text("half")
    with pytest.raises(DataError, match="damaged"):
        find_garbage(warehouse, older_than=0)


def test_a_run_whose_training_lasts_longer_than_the_limit_keeps_its_stages(
    warehouse: Warehouse, portal: Dataset
) -> None:
    made = execute(plan_stage(stage(warehouse, portal)), LocalEngine()).dataset
    running = warehouse.target("train", "f" * 32)
    run = warehouse.run("long")
    run.finish_stage("keep", StageResult(stage="keep", uri=made.uri))
    run.begin_stage("train-115k", running.uri)
    age(warehouse, 10)
    storage.write_bytes(storage.join(running.uri, "attempts", "job", "job.log"), b"step 7")
    assert kinds(warehouse) == ["left over"], "records of units may go, the stage stays"
    age(warehouse, 10)
    assert "unreferenced" in kinds(warehouse)


def test_a_writer_with_a_wrong_clock_does_not_age_what_it_wrote(warehouse: Warehouse, portal: Dataset) -> None:
    made = execute(plan_stage(stage(warehouse, portal)), LocalEngine()).dataset
    warehouse.set_reference("runs/one", {"keep": made.uri})
    record = Path(made.uri) / "attempt.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "committed_at": "1970-01-01T00:00:00+00:00"}))
    assert "past its time" not in kinds(warehouse)
