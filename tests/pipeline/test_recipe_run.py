"""The smallest recipe from sources to evaluated models without Airflow, again with everything reused, then a night's refresh."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.corpora.versions import CorpusVersion, add_tombstones, compact, read
from hyperclova_core.foundation.datasets.dataset import open_dataset
from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.foundation.stages.engines import SparkEngine
from hyperclova_core.foundation.warehouse import Warehouse
from hyperclova_core.jobs.kubernetes.api import Api
from hyperclova_core.jobs.kubernetes.backend import KubernetesBackend
from hyperclova_core.pipeline import usage
from hyperclova_core.pipeline.finish import fail_run, finish_run
from hyperclova_core.pipeline.graph import CORPUS_STAGES, NIGHT_STAGES, SPARK_STAGES
from hyperclova_core.pipeline.jobs import run_job
from hyperclova_core.pipeline.recipe import load_recipe
from hyperclova_core.pipeline.refresh import prepare_refresh, publish_refresh
from hyperclova_core.pipeline.run import prepare_run, run_key, run_keys
from hyperclova_core.pipeline.stage_requests import plan_key
from tests.conftest import ROOT, SmokeRun, write_lines
from tests.jobs.fake_cluster import FakeCluster, until
from tests.jobs.test_trigger import event_of

pytestmark = [pytest.mark.spark, pytest.mark.ranks]
GOLDEN = Path(__file__).with_name("golden.json")


@pytest.fixture(scope="module")
def place(smoke: SmokeRun) -> Iterator[Path]:
    folder = smoke.home
    (folder / "data" / "landing").mkdir(exist_ok=True)  # beside the demo's texts, which the command has put there
    patch = pytest.MonkeyPatch()
    patch.setenv("HYPERCLOVA_DATA", str(folder / "data"))
    patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{smoke.warehouse}/mlflow.db")
    patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    patch.chdir(folder)
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def first(place: Path, smoke: SmokeRun) -> tuple[Warehouse, dict[str, object]]:
    warehouse = Warehouse(str(smoke.warehouse))
    return warehouse, storage.read_json(storage.join(warehouse.run("first").uri, "summary.json"))


def test_every_document_is_accounted_for(first: tuple[Warehouse, dict[str, object]]) -> None:
    _, summary = first
    stages = {stage["stage"]: stage for stage in summary["stages"]}  # type: ignore[attr-defined]
    for stage in stages.values():
        assert stage["in"] == stage["kept"] + stage["dropped"]
        assert sum(stage["reasons"].values()) == stage["dropped"]
    for before, after in zip(CORPUS_STAGES, CORPUS_STAGES[1:], strict=False):
        assert stages[before]["kept"] == stages[after]["in"]
    reasons = {reason for stage in stages.values() for reason in stage["reasons"]}
    assert {
        "not_indexable",
        "exact_duplicate",
        "near_duplicate",
        "mostly_personal_data",
        "abuse",
        "advertising",
        "gibberish",
        "repetitive",
    } <= reasons
    models = summary["models"]
    assert [model["size"] for model in models] == ["tiny-a", "tiny-b"]  # type: ignore[attr-defined]
    assert models[0]["processes"] == 2  # type: ignore[index]
    assert models[1]["validation_loss"] < models[0]["validation_loss"] < 6.5  # type: ignore[index]


def test_a_change_of_behaviour_raises_the_stages_version(first: tuple[Warehouse, dict[str, object]]) -> None:
    """Digests of what each stage makes of the made-up portal. When one changes though its inputs are the same, raise that
    stage's version, then write the new value with UPDATE_GOLDEN=1."""
    warehouse, _ = first
    run = warehouse.run("first")
    found = {}
    for key in SPARK_STAGES:
        manifest = run.dataset(key).manifest
        inputs = {role: reference.digest for role, reference in sorted(manifest.inputs.items())}
        found[key] = {"version": manifest.stage_version, "digest": manifest.digest, "inputs": inputs}
    golden = json.loads(GOLDEN.read_text())
    for key, value in found.items():
        if value["digest"] != golden[key]["digest"] and value["inputs"] == golden[key]["inputs"]:
            assert value["version"] != golden[key]["version"], f"{key} behaves differently: raise its version"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    assert found == json.loads(GOLDEN.read_text())


def test_lineage_joins_on_digests(first: tuple[Warehouse, dict[str, object]], place: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{place}/warehouse/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("hyperclova").experiment_id], max_results=100)
    made, read = {}, {}
    for run in runs:
        for item in run.inputs.dataset_inputs:
            side = made if item.tags[0].value == "output" else read
            side.setdefault(item.dataset.digest, set()).add(run.info.run_name)
    files = {digest for digest, names in read.items() if names == {"ingest"}}
    assert len(files) == 5
    assert set(read) - files <= set(made)
    parent = next(run for run in runs if run.data.tags.get("hyperclova.parent") == "true")
    assert parent.info.status == "FINISHED"
    artifacts = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"summary.json", "summary.md", "waterfall", "data_docs", "funnel.svg", "lineage"} <= artifacts
    assert {"lineage/lineage.json", "lineage/lineage.html", "lineage/lineage.txt"} == {
        item.path for item in client.list_artifacts(parent.info.run_id, "lineage")
    }
    train = next(run for run in runs if run.info.run_name == "train tiny-a")
    steps = [(metric.step, metric.value) for metric in client.get_metric_history(train.info.run_id, "loss")]
    tokens = [(metric.step, metric.value) for metric in client.get_metric_history(train.info.run_id, "loss_by_tokens")]
    assert [(step * 8 * 64, value) for step, value in steps] == tokens
    assert {"gradient_norm", "learning_rate", "tokens_per_second", "validation_loss", "tokens"} <= set(
        train.data.metrics
    )
    version = client.get_latest_versions("hyperclova-tiny-a")[0]
    assert version.tags["corpus_digest"] == first[0].run("first").dataset("serialize").manifest.digest


def test_a_second_run_reuses_everything_and_says_whose_work_it_is(
    first: tuple[Warehouse, dict[str, object]], spark_engine: SparkEngine
) -> None:
    warehouse, _ = first
    run = prepare_run(warehouse, "second", load_recipe("smoke"))
    for key in run_keys(run):
        assert plan_key(warehouse, run, key).reusable
        outcome = (
            run_key(warehouse, run, key, spark_engine) if key in SPARK_STAGES else run_job(warehouse, run, key, print)
        )
        assert outcome.reused
    summary = finish_run(warehouse, run)
    assert {stage["made_by"] for stage in summary["stages"]} == {"first"}


def test_another_threshold_runs_from_that_stage_on_only(
    first: tuple[Warehouse, dict[str, object]], spark_engine: SparkEngine
) -> None:
    warehouse, _ = first
    run = prepare_run(warehouse, "third", load_recipe("smoke", ("filter.max_abuse=100",)), sizes=())
    reused = {key: run_key(warehouse, run, key, spark_engine).reused for key in run_keys(run)}
    assert [key for key, value in reused.items() if value] == ["ingest", "deduplicate", "deidentify", "enrich"]
    kept = run.dataset("filter").manifest.counters
    assert "abuse" not in kept.rejected


def test_everything_raw_or_dropped_lies_in_the_restricted_folder(
    first: tuple[Warehouse, dict[str, object]], place: Path
) -> None:
    warehouse, _ = first
    secrets = ["010-5550-1234", "hobby.club99@example.com", "900101-1234568"]
    for key in ("deidentify", "filter", "select", "mix", "serialize"):
        dataset = warehouse.run("first").dataset(key)
        for name, table in dataset.manifest.tables.items():
            assert table.restricted == (name in ("rejected", "audit"))
    for path in (place / "warehouse").rglob("*"):
        if path.is_file() and "restricted" not in path.relative_to(place).parts:
            body = path.read_bytes()
            assert not [secret for secret in secrets if secret.encode() in body], path


def test_a_night_takes_what_is_new_and_publishes_a_version(
    first: tuple[Warehouse, dict[str, object]], place: Path, spark_engine: SparkEngine
) -> None:
    warehouse, _ = first
    recipe = load_recipe("smoke")
    assert prepare_refresh(warehouse, "night-0", recipe) is None

    def night(name: str) -> CorpusVersion:
        run = prepare_refresh(warehouse, name, recipe)
        assert run is not None
        for key in NIGHT_STAGES:
            run_key(warehouse, run, key, spark_engine)
        return publish_refresh(warehouse, run)

    texts = (
        "새로 도착한 글입니다. 오늘은 도서관에서 책을 읽고 공원을 걸었습니다.",
        "어제 심은 나무에 물을 주었더니 잎이 금세 살아났습니다. 내일은 거름을 주려고 합니다.",
        "시장에서 사 온 감자로 국을 끓였는데 아이들이 두 그릇씩 먹었습니다.",
    )
    write_lines(place / "data" / "landing" / "a.jsonl", [{"id": f"a{n}", "text": text} for n, text in enumerate(texts)])
    one = night("night-1")
    assert (one.version, one.documents) == (1, 3)
    assert prepare_refresh(warehouse, "night-2", recipe) is None
    other = "둘째 날에 온 글은 바다 이야기입니다. 파도가 높아 배가 뜨지 못했고 사람들은 항구에서 기다렸습니다."
    copy = texts[0].replace(" ", "").replace(".", "!")
    rows = [{"id": "b1", "text": other}, {"id": "b2", "text": copy}]
    write_lines(place / "data" / "landing" / "b.jsonl", rows)
    two = night("night-3")
    assert (two.version, two.documents) == (2, 4)
    assert warehouse.run("night-3").dataset("deduplicate").manifest.counters.rejected == {"exact_duplicate": 1}
    assert two.history != one.history
    assert two.digest != one.digest
    assert publish_refresh(warehouse, warehouse.run("night-3")).version == 2
    removed = pa.concat_tables(read(two)).column("doc_id")[0].as_py()
    add_tombstones(warehouse, "smoke", [removed], "asked for by its writer")
    three, outcome = compact(warehouse, "smoke", spark_engine)
    assert (three.version, three.documents) == (4, 3)
    assert outcome.dataset.manifest.counters.rejected == {"removed": 1}
    assert removed not in outcome.dataset.read().column("doc_id").to_pylist()


def test_a_small_night_passes_under_a_recipe_with_large_thresholds(
    first: tuple[Warehouse, dict[str, object]], place: Path, spark_engine: SparkEngine
) -> None:
    warehouse, _ = first
    recipe = load_recipe("demo")
    run = prepare_refresh(warehouse, "demo-night", recipe)
    assert run is not None
    for key in NIGHT_STAGES:
        run_key(warehouse, run, key, spark_engine)
    assert publish_refresh(warehouse, run).documents == 4


def test_a_run_that_fails_shows_what_had_ended_by_then(
    first: tuple[Warehouse, dict[str, object]], place: Path, spark_engine: SparkEngine
) -> None:
    from mlflow.tracking import MlflowClient

    warehouse, _ = first
    run = prepare_run(warehouse, "fails", load_recipe("smoke"), sizes=())
    run_key(warehouse, run, "ingest", spark_engine)
    fail_run(warehouse, run, "asked to")
    client = MlflowClient(f"sqlite:///{place}/warehouse/mlflow.db")
    parent = client.get_run(json.loads(storage.read_bytes(storage.join(run.uri, "mlflow.json")))["parent_run_id"])
    assert parent.info.status == "FAILED"
    assert {"funnel.svg", "lineage"} <= {item.path for item in client.list_artifacts(parent.info.run_id)}


def test_datasets_verify_to_the_checksum(first: tuple[Warehouse, dict[str, object]]) -> None:
    warehouse, _ = first
    reference = warehouse.reference("runs/first")
    assert reference is not None
    for uri in reference.values():
        open_dataset(uri).verify(checksums=True)
    assert storage.list_names(storage.join(warehouse.uri, "lineage", "refused")) == []


def test_a_cluster_runs_the_jobs_by_the_operator_and_its_trigger(
    first: tuple[Warehouse, dict[str, object]],
    spark_engine: SparkEngine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Backend kubernetes, as Airflow runs it: submit, defer, trigger, resume. The corpus is reused; two pods train by gloo, one is taken
    away, the next attempt goes on from the checkpoint; what it took is in the run."""
    from airflow.sdk.exceptions import TaskDeferred

    from operators import DeepSpeedJobOperator, deepspeed_job, train_job_trigger

    warehouse, _ = first
    monkeypatch.setenv("HYPERCLOVA_WAREHOUSE", warehouse.uri)
    changes = [
        "train.settings.tokens=120000",
        "train.settings.checkpoint_every=5",
        "jobs.cluster={image: 'trainer:1', processes_per_node: 1, allow_partial_gang: true, one_node_a_pod: false}",
    ]
    run = prepare_run(
        warehouse, "on-a-cluster", load_recipe("smoke", tuple(changes)), sizes=("tiny-a",), backend="kubernetes"
    )
    with pytest.raises(ConfigError, match="is not valid"):
        prepare_run(warehouse, "nowhere", load_recipe("smoke"), backend="kubernetes")
    for key in SPARK_STAGES:
        assert run_key(warehouse, run, key, spark_engine).reused
    with FakeCluster(tmp_path / "kubelet") as cluster:
        backend = KubernetesBackend(Api(cluster.client(), sleep=lambda seconds: None))
        for module in (deepspeed_job, train_job_trigger):
            monkeypatch.setattr(module, "backend_of", lambda conn_id: backend)
        operator = DeepSpeedJobOperator(
            task_id="train", stage="train", size="tiny-a", run_id="on-a-cluster", poll_seconds=0.2
        )
        taken: list[str] = []

        def take_away() -> None:
            until(
                lambda: any(
                    "step 20/" in line for found in list(cluster.containers.values()) for _, line in found.lines
                ),
                90,
            )
            taken.append(cluster.pods("Running")[1]["metadata"]["name"])
            cluster.disrupt(taken[0])

        thread = threading.Thread(target=take_away)
        thread.start()
        result, attempts = None, 0
        call = lambda: operator.execute({})  # noqa: E731
        while result is None:
            try:
                result = call()
            except TaskDeferred as deferred:
                attempts += 1
                path, arguments = deferred.trigger.serialize()
                assert path == "operators.train_job_trigger.TrainJobTrigger"
                waiting = train_job_trigger.TrainJobTrigger(**json.loads(json.dumps(arguments)))
                event = asyncio.run(event_of(waiting))
                method, more = deferred.method_name, deferred.kwargs
                call = lambda method=method, event=event, more=more: getattr(operator, method)({}, event, **more)  # noqa: E731
        thread.join()
    assert taken
    assert attempts == 1, "one wait for all attempts of a try"
    assert result["stage"] == "train-tiny-a"
    assert not result["reused"]
    assert [row["exit_code"] for key, row in usage.decision_rows(run) if key == "train-tiny-a"] == [75]
    assert [(row["attempt"], row["devices"], row["code"]) for row in usage.usage_of(run, "train-tiny-a")] == [
        (1, 2, 75),
        (2, 2, 0),
    ]
    run_job(warehouse, run, "evaluate", print)
    finish_run(warehouse, run)
    assert "| 2 |" in storage.read_bytes(f"{run.uri}/gpu_hours.md").decode()
