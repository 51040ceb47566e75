"""Restricted data at an address of its own: where it lies, who may read it, and what a trainer's identity is told."""

from __future__ import annotations

import uuid
from pathlib import Path

import pyarrow as pa
import pytest

from hyperclova_core.corpus.deidentify import DeidentifyConfig, deidentify
from hyperclova_core.corpus.ingest.config import IngestConfig, SourceConfig, find_files
from hyperclova_core.corpus.ingest.stage import ingest
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.corpora.retention import collect, find_garbage
from hyperclova_core.foundation.datasets.dataset import Dataset, open_dataset
from hyperclova_core.foundation.errors import ConfigError, DataError
from hyperclova_core.foundation.stages.engines import LocalEngine
from hyperclova_core.foundation.stages.kinds import definition_of
from hyperclova_core.foundation.stages.runner import StageRequest, execute, plan_stage
from hyperclova_core.foundation.storage import restricted, s3_client
from hyperclova_core.foundation.warehouse import Warehouse, claim_restricted
from hyperclova_core.jobs.config import TO_STAGES, passed_on
from tests.conftest import write_lines
from tests.object_store import STAGES, STAGES_SECRET, TRAINER, TRAINER_SECRET, FaultProxy

TEXT = "전화는 010-1234-5678 로 주세요. 오늘은 날씨가 좋아서 강가를 오래 걸었습니다."


@pytest.fixture(autouse=True)
def forgotten() -> None:
    claim_restricted.cache_clear()


def chain(warehouse: Warehouse, folder: Path) -> tuple[Dataset, Dataset]:
    """Ingested and de-identified documents, in two buckets."""
    rows = [{"id": str(number), "text": f"{TEXT} {number}번째 이야기입니다."} for number in range(20)]
    write_lines(folder / "a.jsonl", [*rows, {"id": "empty", "text": ""}])
    config = IngestConfig(sources=(SourceConfig(name="a", paths=(str(folder / "a.jsonl"),)),))
    request = StageRequest(
        definition_of(ingest),
        config,
        lambda identity: warehouse.target("ingest", identity),
        files=find_files(config),
        buckets=2,
    )
    raw = execute(plan_stage(request), LocalEngine()).dataset
    request = StageRequest(
        definition_of(deidentify),
        DeidentifyConfig(),
        lambda identity: warehouse.target("deidentify", identity),
        {"documents": raw},
        buckets=2,
    )
    return raw, execute(plan_stage(request), LocalEngine()).dataset


@pytest.fixture
def of_its_own(object_store: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> str:
    """Stages that have both identities: the trainer's for the warehouse, their own for restricted data."""
    place = f"s3://restricted/{uuid.uuid4().hex[:8]}"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", TRAINER)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", TRAINER_SECRET)
    monkeypatch.setenv("HYPERCLOVA_RESTRICTED", place)
    monkeypatch.setenv("HYPERCLOVA_RESTRICTED_ACCESS_KEY_ID", STAGES)
    monkeypatch.setenv("HYPERCLOVA_RESTRICTED_SECRET_ACCESS_KEY", STAGES_SECRET)
    s3_client.forget_clients()
    return place


def test_a_trainers_identity_is_refused_what_is_restricted_by_the_store_itself(
    of_its_own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = Warehouse(f"s3://warehouse/{uuid.uuid4().hex[:8]}")
    raw, clean = chain(warehouse, tmp_path)
    assert raw.read().num_rows == 20 and clean.read().num_rows == 20
    assert not storage.list_files(f"{warehouse.uri}/restricted"), "nothing restricted lies in the warehouse"
    assert raw.files()[0].startswith(f"{of_its_own}/ingest/")
    assert clean.files()[0].startswith(warehouse.uri)
    text = storage.read_bytes(f"{clean.uri}/manifest.json").decode()
    assert of_its_own not in text and f"restricted://deidentify/{clean.manifest.fingerprint}" in text
    raw_file = raw.files()[0]

    for name in ("", "_ACCESS_KEY_ID", "_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"HYPERCLOVA_RESTRICTED{name}")
    s3_client.forget_clients()
    seen = open_dataset(clean.uri)
    assert seen.read().num_rows == 20, "what a training reads needs neither address nor key"
    seen.verify(checksums=True)
    with pytest.raises(ConfigError, match="cannot be read from here"):
        seen.files("rejected")
    for refused in (
        lambda: storage.read_bytes(raw_file),
        lambda: storage.list_files(of_its_own),
        lambda: storage.write_bytes(f"{of_its_own}/x", b"x"),
    ):
        with pytest.raises(ConfigError, match="Access is denied"):
            refused()


def test_the_same_documents_wherever_restricted_data_lies_and_gc_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = chain(Warehouse(str(tmp_path / "inside")), tmp_path / "files")
    place = tmp_path / "secure" / "place"
    monkeypatch.setenv("HYPERCLOVA_RESTRICTED", str(place))
    warehouse = Warehouse(str(tmp_path / "outside"))
    outside = chain(warehouse, tmp_path / "files")
    assert [one.manifest.digest for one in outside] == [one.manifest.digest for one in inside]
    assert [pa.concat_tables([one.read()]).to_pylist() for one in outside] == [one.read().to_pylist() for one in inside]
    assert place.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (place / "ingest").rglob("*.parquet")} == {0o600}
    assert not (tmp_path / "outside" / "restricted").exists()
    found = find_garbage(warehouse, older_than=0)
    assert any(str(place) in path for item in found for path in item.files)
    collect(warehouse, found, lambda: find_garbage(warehouse, older_than=0), 0.0)
    assert not list((place / "ingest").rglob("*.parquet")), "raw text that nothing refers to goes"


def test_what_lay_in_the_warehouse_before_is_still_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = Warehouse(str(tmp_path / "w"))
    raw, clean = chain(warehouse, tmp_path / "files")
    monkeypatch.setenv("HYPERCLOVA_RESTRICTED", str(tmp_path / "later"))
    again = chain(warehouse, tmp_path / "files")
    assert [one.uri for one in again] == [raw.uri, clean.uri]
    assert again[0].files() == raw.files()


def test_a_place_is_one_warehouses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERCLOVA_RESTRICTED", str(tmp_path / "place"))
    Warehouse(str(tmp_path / "one")).target("ingest", "f")
    with pytest.raises(ConfigError, match="Another warehouse's") as caught:
        Warehouse(str(tmp_path / "two")).target("ingest", "f")
    assert str(tmp_path / "one") in caught.value.why


@pytest.mark.parametrize("value", ["s3://", "s3:///x", "s3://../x", "s3://b/../../x", "relative", "gs://bucket/x"])
def test_a_wrong_place_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERCLOVA_RESTRICTED", value)
    with pytest.raises(ConfigError, match="No place for restricted data"):
        restricted.root()


def test_a_manifests_folder_does_not_leave_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERCLOVA_RESTRICTED", str(tmp_path))
    assert restricted.located("restricted://ingest/f") == f"{tmp_path}/ingest/f"
    with pytest.raises(ConfigError, match="outside of its place"):
        restricted.located("restricted://../other")
    assert not restricted.holds(f"{tmp_path}-beside/x")


def test_half_a_key_is_refused(of_its_own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYPERCLOVA_RESTRICTED_SECRET_ACCESS_KEY")
    s3_client.forget_clients()
    with pytest.raises(ConfigError, match="Half a key"):
        storage.list_files(of_its_own)


def test_trainings_are_told_nothing_of_it() -> None:
    environment = {
        "HYPERCLOVA_RESTRICTED": "s3://raw",
        "HYPERCLOVA_RESTRICTED_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "kr",
    }
    assert restricted.without(environment) == {"AWS_REGION": "kr"}
    assert passed_on({}, environment) == {"AWS_REGION": "kr"}
    assert passed_on({}, environment, TO_STAGES) == {"AWS_REGION": "kr", "HYPERCLOVA_RESTRICTED": "s3://raw"}


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a//b", "./a"])
def test_an_object_whose_name_leaves_its_folder_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="no path"):
        storage._below("s3://bucket/folder", f"s3://bucket/folder/{name}")


def test_a_scratch_folder_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYPERCLOVA_SCRATCH", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = Path(storage.scratch_folder("writing"))
    assert made.parent.stat().st_mode & 0o777 == 0o700
    for break_it in (_open_to_others, _a_link):
        break_it(made.parent)
        with pytest.raises(ConfigError, match="not ours alone"):
            storage.scratch_folder("writing")


def _open_to_others(folder: Path) -> None:
    folder.chmod(0o777)


def _a_link(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.with_name("elsewhere").chmod(0o700)
    folder.symlink_to(folder.with_name("elsewhere"))
