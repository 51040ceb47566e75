"""Metrics: a file always; MLflow gets each row once, also those that a killed attempt never sent; decisions as an artifact."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from hyperclova_core.foundation.warehouse import RunRecord, Warehouse
from hyperclova_core.training import metrics, mlflow_sender
from hyperclova_core.training.metrics import MetricsLog


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    found = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", found)
    return found


def opened(tmp_path: Path, step: int, samples: int = 0) -> MetricsLog:
    run = Warehouse(str(tmp_path / "warehouse")).run("r")
    run.create(
        RunRecord(
            run_id="r",
            recipe={"name": "x"},
            started=1.0,
            started_at="2026-01-01T00:00:00Z",
            code_version="0",
            kind="pretrain",
            sizes=(),
        )
    )
    return MetricsLog(str(tmp_path / "out"), run, "train x", {}, {"size": "x"}, step, samples)


def sent(uri: str, folder: Path, key: str = "loss") -> list[tuple[int, float]]:
    from mlflow.tracking import MlflowClient

    run = json.loads((folder / "mlflow.json").read_text())["run_id"]
    return [(item.step, item.value) for item in MlflowClient(uri).get_metric_history(run, key)]


def row(log: MetricsLog, step: int) -> None:
    log.add(step, step * 100, {"loss": 10.0 - step})


def test_rows_that_a_killed_attempt_did_not_send_are_sent_by_the_next_and_none_twice(uri: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    first = opened(tmp_path, 0)
    for step in range(1, 6):
        row(first, step)
    first.flush()
    for step in range(6, 11):
        row(first, step)  # and then it is killed
    second = opened(tmp_path, 8)  # it goes on from the checkpoint of step 8
    for step in range(9, 13):
        row(second, step)
    second.close()
    assert sent(uri, tmp_path / "out") == [(step, 10.0 - step) for step in range(1, 13)]
    assert [item[0] for item in sent(uri, tmp_path / "out", "loss_by_tokens")] == [100 * step for step in range(1, 13)]


def test_a_server_that_is_away_gets_the_rows_later(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    log = opened(tmp_path, 0)
    row(log, 1)

    def away(*parts: Any) -> None:
        raise OSError("http://user:secret@host is away")

    with monkeypatch.context() as patch:
        patch.setattr(mlflow_sender, "send_rows", away)
        log.flush()
    assert sent(uri, tmp_path / "out") == []
    row(log, 2)
    log.close()
    assert [step for step, _ in sent(uri, tmp_path / "out")] == [1, 2]


def test_credentials_of_the_server_are_not_in_the_log(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "out").mkdir()
    log = opened(tmp_path, 0)
    row(log, 1)
    monkeypatch.setattr(
        mlflow_sender, "send_rows", lambda *parts: (_ for _ in ()).throw(OSError("http://user:secret@host is away"))
    )
    log.flush()
    assert "rows wait" in caplog.text
    assert "secret" not in caplog.text


def test_decisions_are_kept_up_to_the_checkpoint_and_go_with_the_run(uri: str, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    (tmp_path / "out").mkdir()
    first = opened(tmp_path, 0)
    first.decide({"event": "step skipped", "samples_read": 40})
    first.decide({"event": "step skipped", "samples_read": 80})
    first.flush()  # and then it is killed
    second = opened(tmp_path, 5, samples=40)
    second.close()
    assert len((tmp_path / "out" / "decisions.jsonl").read_text().splitlines()) == 1
    run = json.loads((tmp_path / "out" / "mlflow.json").read_text())["run_id"]
    assert [item.path for item in MlflowClient(uri).list_artifacts(run)] == ["decisions.jsonl"]


def test_a_server_that_does_not_answer_holds_up_no_step(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    answers, asked = threading.Event(), threading.Event()
    original = mlflow_sender.send_rows

    def slow(*parts: Any) -> None:
        asked.set()
        assert answers.wait(60)
        original(*parts)

    monkeypatch.setattr(mlflow_sender, "send_rows", slow)
    monkeypatch.setattr(mlflow_sender, "FLUSH_SECONDS", 0.01)
    log = opened(tmp_path, 0)
    row(log, 1)
    assert asked.wait(60), "the thread has begun to send"
    for step in range(2, 6):
        row(log, step)
    log.go_back(3)  # training goes back while the first row is on its way
    assert not answers.is_set(), "nothing waited for the server"
    for step in range(4, 7):
        row(log, step)
    answers.set()
    log.close()
    assert dict(sent(uri, tmp_path / "out")) == {step: 10.0 - step for step in range(1, 7)}
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 7))
    assert json.loads((tmp_path / "out" / "mlflow.json").read_text())["rows"] == 6


def test_a_run_that_mlflow_did_not_know_at_the_start_is_made_when_it_answers(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()

    def away(*parts: Any) -> None:
        raise OSError("away")

    with monkeypatch.context() as patch:
        patch.setattr(metrics, "parent_run", away)
        log = opened(tmp_path, 0)
        row(log, 1)
        log.flush()
        assert not (tmp_path / "out" / "mlflow.json").exists()
    log.close()
    assert sent(uri, tmp_path / "out") == [(1, 9.0)]
