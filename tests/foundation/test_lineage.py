"""Lineage: kept while MLflow is away, delivered once when it is back; refused events hold nothing up."""

from __future__ import annotations

import http.server
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hyperclova_core.foundation import lineage, storage
from hyperclova_core.foundation.lineage import DatasetEntry, LineageEvent, deliver, record_event
from hyperclova_core.foundation.warehouse import RunRecord, Warehouse
from tests.object_store import FaultProxy


def event(run: str, name: str | None, **parts: Any) -> LineageEvent:
    digest = "0" * 32
    made = LineageEvent(
        run=run,
        name=name,
        status="FINISHED",
        started=1.0e9,
        ended=1.0e9 + 5,
        params={"a": "1"},
        metrics={"kept": 3},
        inputs=(DatasetEntry(name="documents", digest=digest, uri="somewhere"),),
        outputs=(DatasetEntry(name=name, digest=digest, uri="there"),) if name else (),
    )
    return made.model_copy(update=parts)


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    warehouse = Warehouse(str(tmp_path / "warehouse"))
    warehouse.run("r1").create(
        RunRecord(run_id="r1", recipe={"name": "demo"}, code_version="0", started=1.0e9, sizes=(), kind="pretrain")
    )
    return warehouse


def waiting(warehouse: Warehouse) -> int:
    return len(storage.list_names(storage.join(warehouse.uri, "lineage", "outbox")))


def test_events_wait_for_mlflow_and_arrive_once(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    record_event(warehouse, event("r1", "ingest"))
    record_event(warehouse, event("r1", "filter", artifacts=((str(tmp_path / "absent"), ""),)))
    assert deliver(warehouse) == 0
    assert waiting(warehouse) == 2

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    assert deliver(warehouse) == 2
    assert waiting(warehouse) == 0
    assert deliver(warehouse) == 0
    # a crash between delivery and the note of it: the event comes again, and makes no second run
    sent = storage.join(warehouse.uri, "lineage", "sent")
    name = storage.list_names(sent)[0]
    storage.local_path(storage.join(sent, name)).rename(
        storage.local_path(storage.join(warehouse.uri, "lineage", "outbox", name))
    )
    assert deliver(warehouse) == 1

    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("hyperclova")
    runs = client.search_runs([experiment.experiment_id])
    nested = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert sorted(run.info.run_name for run in nested) == ["filter", "ingest"]
    assert {run.data.tags["mlflow.parentRunId"] for run in nested} == {parent.info.run_id}
    contexts = [tag.value for item in nested[0].inputs.dataset_inputs for tag in item.tags]
    assert sorted(contexts) == ["input", "output"]
    assert parent.info.start_time == 1_000_000_000_000


def test_an_event_that_mlflow_refuses_does_not_hold_up_the_next(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    record_event(warehouse, event("r1", "ingest", params={"bad key \u0000 ?": "x"}))
    record_event(warehouse, event("r1", "filter"))
    assert deliver(warehouse) == 1
    assert len(storage.list_names(storage.join(warehouse.uri, "lineage", "refused"))) == 1


def test_curves_of_a_training_that_began_without_mlflow_arrive_later(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyperclova_core.training.metrics import MetricsLog

    job = tmp_path / "job"
    job.mkdir()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    metrics = MetricsLog(str(job), warehouse.run("r1"), "train 15k", {}, {"size": "15k"}, 0)
    for step in range(1, 6):
        metrics.add(step, step * 100, {"loss": 5.0 / step})
    metrics.close()
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    record_event(warehouse, event("r1", "train-15k", job_folder=str(job), job_name="train 15k"))
    assert deliver(warehouse) == 1

    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("hyperclova")
    assert experiment.artifact_location.startswith(f"file://{tmp_path}/warehouse/")
    (run,) = [run for run in client.search_runs([experiment.experiment_id]) if run.info.run_name == "train 15k"]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3, 4, 5]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss_by_tokens")] == [100, 200, 300, 400, 500]
    # resumed from step 3: what came after is forgotten, and comes again once
    again = MetricsLog(str(job), warehouse.run("r1"), "train 15k", {}, {"size": "15k"}, 3)
    again.add(4, 400, {"loss": 1.2})
    again.close()
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == [1, 2, 3, 4, 5, 4]


class _Answers(http.server.BaseHTTPRequestHandler):
    """A proxy before MLflow that wants a login."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.end_headers()
        self.wfile.write(b"<html>forbidden</html>")

    do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


def test_what_a_proxy_answers_loses_no_event_and_no_password_is_shown(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    record_event(warehouse, event("r1", "ingest"))
    try:
        for address in (f"http://alice:hunter2@127.0.0.1:{server.server_port}", "http://alice:hunter2@127.0.0.1:9"):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
            assert deliver(warehouse) == 0
            assert waiting(warehouse) == 1
    finally:
        server.shutdown()
    assert "lineage events wait" in caplog.text
    assert "hunter2" not in caplog.text


def test_an_event_that_another_machine_took_meanwhile_is_no_trouble(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    record_event(warehouse, event("r1", "ingest"))
    inner = storage.read_json

    def gone(uri: str) -> object:
        if "/outbox/" in uri:
            storage.remove(uri)
        return inner(uri)

    monkeypatch.setattr(storage, "read_json", gone)
    assert deliver(warehouse) == 0
    assert waiting(warehouse) == 0


def test_a_claim_that_lapsed_is_taken_over_by_one(object_store: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    warehouse = Warehouse(f"s3://warehouse/claims-{uuid.uuid4().hex[:8]}")
    assert lineage._claimed(warehouse, "event.json")
    assert not lineage._claimed(warehouse, "event.json"), "it is held"
    clock = [time.time() + 2 * lineage.CLAIM_SECONDS]
    monkeypatch.setattr(lineage.time, "time", lambda: clock[0])
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: lineage._claimed(warehouse, "event.json"), range(8)))
    assert sum(taken) == 1
    lineage._release(warehouse, "event.json")
    assert lineage._claims(warehouse, "event.json") == []
    assert lineage._claimed(warehouse, "event.json")


def test_machines_that_begin_one_run_at_once_make_one_experiment_and_one_parent(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client, run = lineage.connect(uri), warehouse.run("r1")
    place = str(tmp_path / "artifacts")
    found = client.get_experiment_by_name
    monkeypatch.setattr(client, "get_experiment_by_name", lambda name: None)
    first = client.create_experiment("e", artifact_location=place)
    asked: list[str] = []

    def late(name: str) -> object:
        asked.append(name)
        return None if len(asked) == 1 else found(name)

    monkeypatch.setattr(client, "get_experiment_by_name", late)
    assert lineage._experiment(client, "e", place) == first, "another machine made it meanwhile"
    monkeypatch.setattr(client, "get_experiment_by_name", found)
    searched = client.search_runs

    def other_machine(*arguments: object, **named: object) -> object:
        storage.create_once(
            storage.join(run.uri, "mlflow.json"),
            storage.pretty_json({"experiment_id": first, "parent_run_id": "theirs"}),
        )
        return searched(*arguments, **named)

    monkeypatch.setattr(client, "search_runs", other_machine)
    assert lineage.parent_run(client, run)[1] == "theirs"
    experiment = found(lineage.EXPERIMENT)
    assert searched([experiment.experiment_id]) == [], "the run of the one that came second is gone"


def test_an_event_in_another_form_does_not_hold_up_the_next(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    storage.write_json(storage.join(warehouse.uri, "lineage", "outbox", "0.json"), {"run": "r1", "what": "else"})
    record_event(warehouse, event("r1", "ingest"))
    assert deliver(warehouse) == 1
    assert waiting(warehouse) == 0
    assert storage.list_names(storage.join(warehouse.uri, "lineage", "refused")) == ["0.json"]


def test_no_parameter_is_cut_off(warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    record_event(warehouse, event("r1", "ingest", params={f"key{number:03d}": str(number) for number in range(250)}))
    assert deliver(warehouse) == 1
    client = lineage.connect(uri)
    experiment, _ = lineage.parent_run(client, warehouse.run("r1"))
    (found,) = client.search_runs([experiment], "tags.`mlflow.runName` = 'ingest'")
    assert len(found.data.params) == 250
