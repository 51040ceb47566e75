"""S3: the same promises as on disk, against a real server, with faults put in between."""

from __future__ import annotations

import re
import threading
import uuid
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.commit import commit
from hyperclova_core.foundation.datasets.dataset import Target, open_dataset
from hyperclova_core.foundation.datasets.manifest import content_digest
from hyperclova_core.foundation.datasets.parquet_writer import write_table
from hyperclova_core.foundation.errors import ConfigError, DataError, TransientError
from hyperclova_core.foundation.stages.engines import LocalEngine
from hyperclova_core.foundation.stages.runner import execute, plan_stage
from hyperclova_core.foundation.storage import multipart, retries, s3, s3_client
from tests import object_store as faulty
from tests.foundation.test_runner import KeepConfig, request
from tests.object_store import ACCESS, SECRET, FaultProxy

pytestmark = pytest.mark.usefixtures("faults")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "BASE_SECONDS", 0.01)


@pytest.fixture
def place() -> str:
    return f"s3://warehouse/{uuid.uuid4().hex}"


def test_files_are_written_listed_read_and_removed(place: str) -> None:
    storage.write_json(f"{place}/a/one.json", {"이름": 1})
    storage.write_bytes(f"{place}/a/b/two.bin", b"2" * 1000)
    assert storage.read_json(f"{place}/a/one.json") == {"이름": 1}
    assert storage.list_names(f"{place}/a") == ["b", "one.json"]
    assert storage.list_files(place) == [f"{place}/a/b/two.bin", f"{place}/a/one.json"]
    assert storage.exists(f"{place}/a")
    assert storage.is_file(f"{place}/a/one.json")
    assert not storage.is_file(f"{place}/a")
    assert not storage.exists(f"{place}/none")
    assert storage.size(f"{place}/a/b/two.bin") == 1000
    storage.remove_tree(f"{place}/a")
    assert storage.list_files(place) == []


def test_source_files_are_found_by_a_listing_and_scrap_goes_in_one_request(place: str, faults: FaultProxy) -> None:
    from hyperclova_core.corpus.ingest.config import IngestConfig, SourceConfig, find_files

    for number in range(20):
        storage.write_bytes(f"{place}/crawl/{number % 3}/{number:02d}.jsonl", b'{"text": "x"}\n' * (number + 1))
    faults.set_plan()
    patterns = (f"{place}/crawl", f"{place}/crawl/**/*.jsonl")
    for pattern in patterns:
        found = find_files(IngestConfig(sources=(SourceConfig(name="crawl", paths=(pattern,)),)))
        assert [file.name for file in found] == sorted(file.name for file in found)
        assert {file.name: file.bytes for file in found}["2/05.jsonl"] == 6 * 14
        assert len({file.checksum for file in found}) == 20
    assert [method for method, _ in faults.seen] == [b"GET"] * len(patterns), "no look at each object"
    faults.set_plan()
    storage.remove_files([file.path for file in found])
    assert [method for method, _ in faults.seen] == [b"POST"]
    assert storage.list_files(place) == []


def test_a_large_file_goes_in_parts_and_comes_back_the_same(place: str, tmp_path: Path, faults: FaultProxy) -> None:
    data = np.random.default_rng(1).bytes(40 << 20)
    (tmp_path / "large").write_bytes(data)
    multipart.upload(str(tmp_path / "large"), f"{place}/large")
    # a busy machine may have a part sent twice
    parts = [
        found[1]
        for method, path in faults.seen
        if (found := re.search(rb"partNumber=(\d+)", path)) and method == b"PUT"
    ]
    assert set(parts) == {b"1", b"2", b"3"}
    s3.download(f"{place}/large", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data


def test_a_part_that_fails_is_sent_again_and_no_other(
    place: str, tmp_path: Path, faults: FaultProxy, patient: None
) -> None:
    """At one failure in a hundred, 72 % of uploads of 128 parts meet one: they must not begin anew."""
    assert s3_client.client().meta.config.request_checksum_calculation == "when_supported", "parts carry a checksum"
    data = np.random.default_rng(2).bytes(5 << 24)
    (tmp_path / "large").write_bytes(data)
    failed: set[bytes] = set()

    def once_each(number: int, method: bytes, path: bytes) -> faulty.Fault:
        if (method == b"PUT" and b"partNumber=" in path and path not in failed) or (
            method == b"POST" and b"uploadId" in path and path not in failed
        ):
            failed.add(path)
            return faulty.internal_error if method == b"PUT" else faulty.lost_reply
        return faulty.pass_on

    faults.set_plan(once_each)
    multipart.upload(str(tmp_path / "large"), f"{place}/large", "sum")
    sent = Counter(path for method, path in faults.seen if method == b"PUT")
    assert len(sent) == 5
    assert set(sent.values()) == {2}, "each failed once, and was sent once more"
    assert sum(b"uploads" in path for method, path in faults.seen if method == b"POST") == 1, "one upload"
    assert s3.head(f"{place}/large")["Metadata"][s3.CHECKSUM_KEY] == "sum"
    s3.download(f"{place}/large", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == data


def test_an_upload_that_fails_leaves_no_parts(
    place: str, tmp_path: Path, faults: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(retries.TRIES_VARIABLE, "2")
    (tmp_path / "large").write_bytes(bytes(40 << 20))
    faults.set_plan(lambda number, method, path: faulty.slow_down if b"partNumber=3" in path else faulty.pass_on)
    with pytest.raises(TransientError, match="upload part 3"):
        multipart.upload(str(tmp_path / "large"), f"{place}/large")
    faults.set_plan()
    assert list(s3.unfinished_uploads(place)) == []
    assert s3.head(f"{place}/large") is None


def test_parts_are_never_more_than_the_store_takes() -> None:
    for size in (17 << 20, 160 << 30, 5 << 40):
        assert -(-size // multipart.part_bytes(size)) <= multipart.MOST_PARTS


FAULTS = {
    "throttled": faulty.slow_down,
    "internal error": faulty.internal_error,
    "reset": faulty.connection_reset,
    "truncated": faulty.truncated,
    "lost reply": faulty.lost_reply,
    "late": faulty.late,
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_operation_survives_a_fault_that_passes(
    name: str, place: str, tmp_path: Path, faults: FaultProxy
) -> None:
    fault = FAULTS[name]
    table = pa.table({"text": ["가나다" * 50, "라마바"] * 500})
    # every third request meets the fault; one that takes seconds meets it at fewer
    every = 7 if name == "late" else 3
    faults.set_plan(lambda number, method, path: fault if number % every == 1 else faulty.pass_on)
    assert storage.create_once(f"{place}/once", b"first")
    assert not storage.create_once(f"{place}/once", b"second")
    entry = write_table(place, "t.parquet", table)
    assert storage.read_parquet(f"{place}/t.parquet").equals(table)
    with storage.open_parquet(f"{place}/t.parquet") as file:
        assert file.read(columns=["text"]).num_rows == 1000
    assert storage.size(f"{place}/t.parquet") == entry.bytes
    assert storage.read_bytes(f"{place}/once") == b"first"
    assert storage.list_files(place) == [f"{place}/once", f"{place}/t.parquet"]
    storage.remove_tree(place)
    assert storage.list_files(place) == []
    assert len(faults.seen) > 12


def test_a_lost_reply_to_a_commit_is_recognised_as_our_own(place: str, faults: FaultProxy) -> None:
    faults.set_plan(lambda number, method, path: faulty.lost_reply if number == 0 else faulty.pass_on)
    assert storage.create_once(f"{place}/manifest.json", b"{}")
    assert [method for method, _ in faults.seen] == [b"PUT", b"PUT", b"HEAD"]
    faults.set_plan(lambda number, method, path: faulty.lost_reply if number == 0 else faulty.pass_on)
    assert not storage.create_once(f"{place}/manifest.json", b"{}")


def test_of_many_racing_writers_one_wins(place: str) -> None:
    for round_ in range(5):
        wins: list[int] = []
        start = threading.Barrier(8)

        def write(number: int, wins: list[int] = wins, start: threading.Barrier = start, round_: int = round_) -> None:
            start.wait()
            if storage.create_once(f"{place}/{round_}", str(number).encode()):
                wins.append(number)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(wins) == 1
        assert storage.read_bytes(f"{place}/{round_}") == str(wins[0]).encode()


def test_a_store_that_stays_away_is_transient(place: str, faults: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERCLOVA_S3_TRIES", "3")
    faults.set_plan(lambda number, method, path: faulty.slow_down)
    with pytest.raises(TransientError, match="in 3 tries") as caught:
        storage.write_bytes(f"{place}/x", b"x")
    assert caught.value.exit_code == 75
    assert len(faults.seen) == 3


@pytest.mark.parametrize(
    ("fault", "message"), [(faulty.denied, "Access is denied"), (faulty.skewed, "clock of this machine is off")]
)
def test_what_no_retry_mends_is_said_at_once_without_credentials(
    fault: faulty.Fault, message: str, place: str, faults: FaultProxy
) -> None:
    faults.set_plan(lambda number, method, path: fault)
    for operation in (
        lambda: storage.write_bytes(f"{place}/x", b"x"),
        lambda: storage.read_bytes(f"{place}/x"),
        lambda: storage.create_once(f"{place}/x", b"x"),
        lambda: storage.list_names(place),
    ):
        before = len(faults.seen)
        with pytest.raises(ConfigError, match=message) as caught:
            operation()
        assert len(faults.seen) <= before + 2, "it was tried again"
        assert SECRET not in caught.value.message()
        assert ACCESS not in caught.value.message()
        assert caught.value.remedy


def test_a_wrong_secret_and_a_missing_bucket_have_their_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    for operation in (
        lambda: storage.write_bytes("s3://no-such-bucket/x", b"x"),
        lambda: storage.list_names("s3://no-such-bucket/x"),
        lambda: storage.exists("s3://no-such-bucket/x"),
        lambda: storage.create_once("s3://no-such-bucket/x", b"x"),
    ):
        with pytest.raises(ConfigError, match="bucket does not exist"):
            operation()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    s3_client.forget_clients()
    try:
        with pytest.raises(ConfigError, match="Access is denied"):
            storage.write_bytes("s3://warehouse/x", b"x")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("HOME", "/nonexistent")
        s3_client.forget_clients()
        with pytest.raises(ConfigError, match="S3 cannot be used") as caught:
            storage.write_bytes("s3://warehouse/x", b"x")
        assert "AWS_ACCESS_KEY_ID" in caught.value.remedy
    finally:
        monkeypatch.undo()
        s3_client.forget_clients()


def test_an_object_replaced_while_it_is_read_is_noticed(place: str) -> None:
    storage.write_bytes(f"{place}/x", b"a" * 100)
    reader = s3.Reader(f"{place}/x")
    assert reader.read(50) == b"a" * 50
    storage.write_bytes(f"{place}/x", b"b" * 100)
    with pytest.raises(DataError, match="replaced while it was read"):
        reader.read(50)


def test_a_stage_on_s3_gives_the_bytes_it_gives_on_disk(portal, place: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from dataclasses import replace

    on_disk = execute(plan_stage(request(portal, tmp_path, KeepConfig())), LocalEngine()).dataset
    remote = replace(request(portal, tmp_path, KeepConfig()), target=lambda _: Target(f"{place}/data", "../restricted"))
    outcome = execute(plan_stage(remote), LocalEngine())
    assert outcome.dataset.manifest.digest == on_disk.manifest.digest
    for name in ("documents", "rejected"):
        assert [e.checksum for e in outcome.dataset.table(name).files] == [
            e.checksum for e in on_disk.table(name).files
        ]
    opened = open_dataset(f"{place}/data")
    opened.verify(checksums=True)
    assert opened.read().equals(on_disk.read())
    assert all(path.startswith(f"{place}/restricted/") for path in opened.files("rejected"))
    again = execute(plan_stage(remote), LocalEngine())
    assert again.reused
    # a dataset on S3 is an input like any other
    nested = replace(request(opened, tmp_path / "next", KeepConfig(modulus=4)), buckets=2)
    assert execute(plan_stage(nested), LocalEngine()).dataset.manifest.counters.rows_in == opened.manifest.counters.kept


def test_two_writers_of_one_fingerprint_commit_once(portal, place: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    target = Target(f"{place}/race")
    plan = plan_stage(request(portal, tmp_path, KeepConfig()))
    made = execute(plan, LocalEngine()).dataset
    results = []
    for number in range(2):
        entries = [
            write_table(target.uri, f"attempts/{number}/documents/{index}.parquet", storage.read_parquet(path))
            for index, path in enumerate(made.files())
        ]
        tables = {"documents": made.table("documents").model_copy(update={"files": tuple(entries)})}
        manifest = made.manifest.model_copy(
            update={"tables": tables, "digest": content_digest(tables, made.manifest.counters)}
        )
        results.append(commit(target, manifest, str(number), {}))
    assert [created for _, created in results] == [True, False]
    assert results[0][0].manifest == results[1][0].manifest
    assert results[1][0].attempt["attempt"] == "0"


def test_a_job_that_comes_second_does_not_overwrite_what_the_first_committed(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyperclova_core.foundation.datasets.parquet_writer import plain_file_entry
    from hyperclova_core.foundation.stages.kinds import Artifact, StageContext, StageDefinition
    from hyperclova_core.foundation.stages.runner import StageRequest
    from hyperclova_core.foundation.warehouse import Warehouse
    from hyperclova_core.jobs.backend import JobStatus
    from hyperclova_core.jobs.spec import TrainJobSpec
    from hyperclova_core.pipeline import jobs
    from hyperclova_core.training.config import SizeConfig

    def take(inputs: object, config: object, context: StageContext) -> Artifact:
        root, path = context.target.uri, f"{context.attempt_path}/model.bin"
        return Artifact({"model": [plain_file_entry(root, path)]}, info={"folder": context.attempt_path})

    warehouse = Warehouse(place)
    definition = StageDefinition("train", "1", "artifact", take, SizeConfig)
    request = StageRequest(definition, SizeConfig(name="15k"), lambda identity: warehouse.target("train", identity))
    plan = plan_stage(request)
    monkeypatch.setattr(jobs, "record_outcome", lambda *parts: None)
    digests = []
    for machine, body in (("a", b"weights"), ("b", b"other weights")):
        output = tmp_path / machine
        output.mkdir()
        (output / "model.bin").write_bytes(body)
        job = jobs.JobPlan("train-15k", plan, TrainJobSpec("n", "m", {}, str(output), 1))
        outcome = jobs.finish_job(warehouse, warehouse.run("r"), job, JobStatus("succeeded", 0), 0.0)
        outcome.dataset.verify(checksums=True)
        digests.append((outcome.reused, outcome.dataset.manifest.digest))
    assert digests[0][0] is False
    assert digests[1] == (True, digests[0][1])


def test_a_bucket_is_made_once(object_store: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"made-{uuid.uuid4().hex[:8]}"
    with pytest.raises(ConfigError, match="may not make a bucket"):
        s3.make_bucket(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", faulty.ADMIN)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", faulty.ADMIN_SECRET)
    s3_client.forget_clients()
    try:
        assert s3.make_bucket(name)
        assert not s3.make_bucket(name)
        storage.write_bytes(f"s3://{name}/x", b"1")
        assert storage.read_bytes(f"s3://{name}/x") == b"1"
    finally:
        monkeypatch.undo()
        s3_client.forget_clients()
