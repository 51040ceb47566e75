"""Running a recipe: prepare a run, plan and execute its stages one by one, record how each ended, finish.

A run's state lies in the warehouse, so a stage may be started by anyone: Airflow's tasks, spark-submit, the command line.
"""

from __future__ import annotations

import json
import logging
import os
import time
from typing import Any
from urllib.parse import quote

from hyperclova_core import __version__
from hyperclova_core.corpus.deidentify import SURE
from hyperclova_core.corpus.ingest.config import find_files
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets import open_dataset
from hyperclova_core.foundation.gates import GateConfig
from hyperclova_core.foundation.lineage import dataset_entry, deliver, record_event
from hyperclova_core.foundation.retention import RETENTION_KEY
from hyperclova_core.foundation.runner import Outcome, StagePlan, StageRequest, execute, input_references, plan_stage
from hyperclova_core.foundation.secrets import without_credentials
from hyperclova_core.foundation.stages import Engine, load_stage
from hyperclova_core.foundation.warehouse import RunFolder, Warehouse, now
from hyperclova_core.jobs import ledger
from hyperclova_core.korean.personal_data import TYPES
from hyperclova_core.pipeline.graph import GATED, SPARK_STAGES, stage_of
from hyperclova_core.pipeline.recipe import Recipe, validated
from hyperclova_core.pipeline.usage import usage_rows, write_reports

log = logging.getLogger(__name__)

DEFAULT_GATES: dict[str, GateConfig] = {
    "deidentify": GateConfig(
        forbidden_patterns=(
            r"(?<!\d)\d{6}-[1-8]\d{6}(?!\d)",
            r"(?<!\d)01[016-9]-\d{3,4}-\d{4}(?!\d)",
            r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+\.[A-Za-z]{2,}",
        ),
        max_detected_share={"hyperclova_core.corpus.deidentify:left_over": 0.0},
    ),
}


def prepare_run(
    warehouse: Warehouse,
    run_id: str,
    recipe: Recipe,
    *,
    sizes: tuple[str, ...] | None = None,
    tokens: int | None = None,
    backend: str | None = None,
    kind: str = "pretrain",
    only_files: tuple[str, ...] | None = None,
    beside: dict[str, Any] | None = None,
) -> RunFolder:
    """Record a run with its recipe as it will be used; a retry finds the record and changes nothing.

    Args:
        sizes: of the recipe's ladder; None: all of it.
        tokens: training tokens a model, instead of the recipe's.
        backend: where GPU jobs run, `local` or `kubernetes`, instead of what the recipe says.
        kind: `pretrain`, or `refresh`, which reads the recipe's landing sources.
        only_files: checksums of the source files that the run reads; None: all.
        beside: of a night: the `history` index it is compared with, and the datasets of `tombstones`.

    Raises:
        ConfigError: a size is not in the recipe, or the recipe says nothing of the cluster that the backend needs.
    """
    for size in sizes or ():
        recipe.train.of(size, recipe.seed)
    data = dumped(recipe)
    if tokens is not None:
        data["train"]["settings"]["tokens"] = tokens
    if backend is not None:
        data["jobs"]["backend"] = backend
    if tokens is not None or backend is not None:
        validated(data, f"run {run_id}")
    chosen = list(sizes) if sizes is not None else [size.name for size in recipe.train.sizes]
    run = warehouse.run(run_id)
    run.create(
        {
            "run_id": run_id,
            "recipe": data,
            "sizes": chosen,
            "kind": kind,
            "only_files": list(only_files) if only_files is not None else None,
            "beside": beside or {},
            "code_version": __version__,
            "started_at": now(),
            "started": time.time(),
        }
    )
    return run


def dumped(recipe: Recipe) -> dict[str, Any]:
    """A recipe's data with its source paths, which fingerprints leave out."""
    data: dict[str, Any] = recipe.model_dump(mode="json")
    for section, config in ((data["ingest"], recipe.ingest), (data["refresh"]["sources"], recipe.refresh.sources)):
        for entry, source in zip(section["sources"], config.sources, strict=True):
            entry["paths"] = list(source.paths)
        section["batch_rows"] = config.batch_rows
    wanted = recipe.deduplicate.decontaminate.sets
    for entry, item_set in zip(data["deduplicate"]["decontaminate"]["sets"], wanted, strict=True):
        entry["path"] = item_set.path
    return data


def recipe_of(run: RunFolder) -> Recipe:
    """The recipe a run was prepared with."""
    record = run.record()
    return validated(record["recipe"], f"{run.uri}/run.json")


def run_keys(run: RunFolder) -> list[str]:
    """All stages of a pretraining run in order, one `train-SIZE` a model."""
    sizes = run.record()["sizes"]
    return [*SPARK_STAGES, *(f"train-{size}" for size in sizes), "evaluate"] if sizes else list(SPARK_STAGES)


def request_of(warehouse: Warehouse, run: RunFolder, key: str) -> StageRequest:
    """The stage of a run, with everything it needs.

    Raises:
        ConfigError, DataError: its inputs are not there.
    """
    node, size = stage_of(key)
    record, recipe = run.record(), recipe_of(run)
    definition = load_stage(node.reference)
    inputs = {role: run.dataset(stage) for role, stage in node.inputs}
    files: list[dict[str, Any]] = []
    config: Any
    if node.name == "train":
        config = recipe.train.of(size or "", recipe.seed)
    elif node.name == "evaluate":
        config = recipe.evaluate
        inputs.update({f"train-{name}": run.dataset(f"train-{name}") for name in record["sizes"]})
    elif node.name == "history":
        config = recipe.deduplicate
        inputs["previous"] = open_dataset(record["beside"]["history"])
    else:
        config = getattr(recipe, node.name)
        if node.name == "tokenizer" and config.mixture is None:
            config = config.model_copy(update={"mixture": recipe.mix.model_copy(update={"budget_tokens": None})})
        beside = record.get("beside") or {}
        if node.name == "deduplicate" and "history" in beside:
            inputs["history"] = open_dataset(beside["history"])
            tombstones = beside["tombstones"]
            inputs.update({f"tombstones-{at:05d}": open_dataset(uri) for at, uri in enumerate(tombstones)})
        if node.name == "ingest":
            config = recipe.refresh.sources if record["kind"] == "refresh" else recipe.ingest
            files = find_files(config)
            if record["only_files"] is not None:
                files = [file for file in files if file["checksum"] in set(record["only_files"])]
    return StageRequest(
        definition=definition,
        config=config,
        target=lambda identity: warehouse.target(node.name, identity),
        inputs=inputs,
        files=files,
        seed=recipe.seed,
        buckets=recipe.buckets,
        gates=_gates(recipe, node.name, record["kind"]) if node.name in GATED else None,
        docs_folder=storage.join(run.uri, "gates"),
        made_by={"run": record["run_id"], RETENTION_KEY: recipe.retention_days},
    )


def _gates(recipe: Recipe, stage: str, kind: str) -> GateConfig:
    """A stage's thresholds: what the recipe sets, else the platform's own (a recipe that sets one keeps the others).

    A night has its own, for it may bring a handful of documents.
    """
    default = DEFAULT_GATES.get(stage, GateConfig())
    replaces_all = set(recipe.deidentify.types) >= set(TYPES) and recipe.deidentify.min_confidence <= SURE
    if stage == "deidentify" and not replaces_all:
        default = default.model_copy(update={"max_detected_share": {}})
    given = recipe.gates.get(stage)
    if kind == "refresh":
        default, given = default.model_copy(update={"min_rows": 0}), recipe.refresh.gates.get(stage)
    if given is None:
        return default
    return default.model_copy(update={name: getattr(given, name) for name in given.model_fields_set})


def plan_key(warehouse: Warehouse, run: RunFolder, key: str) -> StagePlan:
    """Whether anything is left to do for a stage of a run; starts nothing."""
    return plan_stage(request_of(warehouse, run, key))


def run_key(warehouse: Warehouse, run: RunFolder, key: str, engine: Engine) -> Outcome:
    """Execute a Spark stage of a run and record how it ended."""
    started = time.time()
    plan = plan_key(warehouse, run, key)
    outcome = execute(plan, engine)
    record_outcome(warehouse, run, key, plan, outcome, started)
    return outcome


def record_outcome(
    warehouse: Warehouse,
    run: RunFolder,
    key: str,
    plan: StagePlan,
    outcome: Outcome,
    started: float,
) -> dict[str, Any]:
    """Record a stage's end in the run, and keep the event for MLflow."""
    manifest = outcome.dataset.manifest
    made_by = str(outcome.dataset.attempt.get("run", ""))
    result = {
        "stage": manifest.stage,
        "key": key,
        "uri": outcome.dataset.uri,
        "fingerprint": manifest.fingerprint,
        "digest": manifest.digest,
        "reused": outcome.reused,
        "made_by": made_by,
        "made_at": outcome.dataset.attempt.get("committed_at", ""),
        "seconds": round(time.time() - started, 3),
        "taken_over_units": outcome.taken_over,
        "counters": manifest.counters.model_dump(),
        "result": manifest.info.get("result"),
        "ended_at": now(),
    }
    run.finish_stage(key, result)
    record_event(warehouse, _event(run, key, plan, outcome, result, started))
    return result


def _event(
    run: RunFolder,
    key: str,
    plan: StagePlan,
    outcome: Outcome,
    result: dict[str, Any],
    started: float,
) -> dict[str, Any]:
    manifest = outcome.dataset.manifest
    counters = manifest.counters
    metrics = {
        "rows_in": counters.rows_in,
        "kept": counters.kept,
        "rejected": sum(counters.rejected.values()),
        "quarantined": sum(counters.quarantined.values()),
        "text_bytes_in": counters.text_bytes_in,
        "text_bytes_kept": counters.text_bytes_kept,
        "seconds": result["seconds"],
        **{f"rejected_{reason}": number for reason, number in counters.rejected.items()},
        **{f"quarantined_{reason}": number for reason, number in counters.quarantined.items()},
        **counters.custom,
    }
    inputs = [
        dataset_entry(name, reference.digest, reference.uri or name)
        for name, reference in sorted(input_references(plan.request).items())
    ]
    event: dict[str, Any] = {
        "run": run.name,
        "name": key,
        "status": "FINISHED",
        "started": started,
        "ended": time.time(),
        "params": {"version": manifest.stage_version, "fingerprint": manifest.fingerprint, **_flat(manifest.config)},
        "metrics": {name: value for name, value in metrics.items() if value == value},
        "tags": {
            "hyperclova.stage": manifest.stage,
            "hyperclova.reused": str(outcome.reused).lower(),
            "hyperclova.made_by": result["made_by"],
        },
        "inputs": inputs,
        "outputs": [
            dataset_entry(
                manifest.stage,
                manifest.digest,
                outcome.dataset.uri,
                {"rows": counters.kept, "bytes": counters.text_bytes_kept},
            )
        ],
        "artifacts": [],
    }
    mine = outcome.dataset.attempt.get("run") == run.record()["run_id"]
    if manifest.stage == "train" and (mine or not outcome.reused):
        event["job_folder"] = storage.join(outcome.dataset.uri, manifest.info["folder"])
        event["job_name"] = f"train {key.removeprefix('train-')}"
        event["metrics"] = {}  # the job's own run has them, each at its step
        event["model"] = {
            "name": f"hyperclova-{key.removeprefix('train-')}",
            "folder": storage.join(outcome.dataset.uri, manifest.info["model"]),
            "tags": {
                "corpus_digest": plan.request.inputs["serialize"].manifest.digest,
                "recipe": run.record()["recipe"]["name"],
                "code_version": __version__,
                "parent_run": run.name,
                "digest": manifest.digest,
            },
        }
    if manifest.stage in ("evaluate", "tokenizer", "mix", "serialize", "deduplicate"):
        event["artifacts"] = [
            [path, ""] for name in ("report", "plan") if name in manifest.tables for path in outcome.dataset.files(name)
        ]
    return event


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = str(value)
    return dict(list(flat.items())[:90])


def finish_run(warehouse: Warehouse, run: RunFolder) -> dict[str, Any]:
    """Sum a run up, keep it alive by name, and send the summary, figures and Data Docs to MLflow's parent run."""
    from hyperclova_core.pipeline.summary import summary_of, to_markdown

    deliver(warehouse)
    warehouse.set_reference(f"runs/{run.name}", {key: result["uri"] for key, result in run.stage_results().items()})
    summary = summary_of(run)
    summary["curves"] = curves_address(run)
    storage.write_json(storage.join(run.uri, "summary.json"), summary)
    storage.write_bytes(storage.join(run.uri, "summary.md"), to_markdown(summary).encode())
    artifacts = [[storage.join(run.uri, name), ""] for name in ("summary.json", "summary.md")]
    artifacts += [[path, "waterfall"] for path in _report_files(run)]
    artifacts += [*_figures(warehouse, run), *_data_docs(run)]
    metrics = {"documents": float(summary["documents"]), "tokens": float(summary["tokens"].get("train", 0))}
    metrics.update(
        {
            f"final_validation_loss_{model['size']}": model["validation_loss"]
            for model in summary["models"]
            if model["validation_loss"] is not None
        }
    )
    metrics.update(
        {
            f"nsmc_accuracy_{model['size']}": model["nsmc_accuracy"]
            for model in summary["models"]
            if model["nsmc_accuracy"] is not None
        }
    )
    usage = usage_rows(run)
    if usage:
        metrics.update(ledger.totals(usage))
    artifacts += [[path, ""] for path in write_reports(run)]
    record_event(
        warehouse,
        {
            "run": run.name,
            "name": None,
            "status": "FINISHED",
            "started": run.record()["started"],
            "ended": time.time(),
            "metrics": metrics,
            "tags": {"mlflow.note.content": _note(run, summary)},
            "artifacts": artifacts,
        },
    )
    deliver(warehouse)
    return summary


def _figures(warehouse: Warehouse, run: RunFolder) -> list[list[str]]:
    """The funnel and the lineage of a run, written into its folder: (path, artifact folder)."""
    from hyperclova_core.pipeline.funnel import funnel_of, funnel_svg
    from hyperclova_core.provenance.graph import graph_of
    from hyperclova_core.provenance.pictures import html, tree

    rows = funnel_of(run)
    storage.write_json(storage.join(run.uri, "funnel.json"), rows)
    figure = funnel_svg(rows, f"{run.record()['recipe']['name']}: what was kept, and why the rest was not")
    storage.write_bytes(storage.join(run.uri, "funnel.svg"), figure.encode())
    graph = graph_of(warehouse, run.name)
    folder = storage.join(run.uri, "lineage")
    storage.write_json(storage.join(folder, "lineage.json"), graph.to_dict())
    storage.write_bytes(storage.join(folder, "lineage.html"), html(graph).encode())
    storage.write_bytes(storage.join(folder, "lineage.txt"), tree(graph).encode())
    return [[storage.join(run.uri, name), ""] for name in ("funnel.json", "funnel.svg")] + [
        [storage.join(folder, f"lineage.{suffix}"), "lineage"] for suffix in ("json", "html", "txt")
    ]


def _data_docs(run: RunFolder) -> list[list[str]]:
    docs = storage.join(run.uri, "gates", "gx", "uncommitted", "data_docs", "local_site")
    return [[docs, "data_docs"]] if storage.exists(docs) else []


def curves_address(run: RunFolder) -> str | None:
    """Where MLflow's own chart overlays the losses of all sizes against tokens; None where MLflow serves no pages."""
    server = without_credentials(os.environ.get("MLFLOW_TRACKING_URI", ""))
    found = []
    for key in run.stage_results():
        if key.startswith("train-"):
            dataset = run.dataset(key)
            path = storage.join(dataset.uri, dataset.manifest.info["folder"], "mlflow.json")
            if storage.exists(path):
                found.append(storage.read_json(path)["run_id"])
    parent = storage.join(run.uri, "mlflow.json")
    if not server.startswith("http") or not found or not storage.exists(parent):
        return None
    experiment = str(storage.read_json(parent)["experiment_id"])
    query = {
        "runs": found,
        "metric": "loss_by_tokens",
        "experiments": [experiment],
        "plot_metric_keys": ["loss_by_tokens"],
    }
    parts = [f"{key}={quote(json.dumps(value))}" for key, value in query.items()]
    return f"{server}/#/metric?{'&'.join(parts)}&x_axis=step&y_axis_scale=linear&line_smoothness=70&show_point=false"


def _note(run: RunFolder, summary: dict[str, Any]) -> str:
    from hyperclova_core.pipeline.summary import to_markdown

    links = [f"[Loss of all sizes against tokens]({summary['curves']})"] if summary["curves"] else []
    server, parent = (
        without_credentials(os.environ.get("MLFLOW_TRACKING_URI", "")),
        storage.join(run.uri, "mlflow.json"),
    )
    if server.startswith("http") and storage.exists(parent):
        ids = storage.read_json(parent)
        base = f"{server}/#/experiments/{ids['experiment_id']}/runs/{ids['parent_run_id']}/artifacts"
        pages = {"Data Docs": "data_docs/index.html", "Lineage": "lineage/lineage.html", "Funnel": "funnel.svg"}
        links += [f"[{title}]({base}/{path})" for title, path in pages.items()]
    return (" · ".join(links) + "\n\n" if links else "") + to_markdown(summary)


def _report_files(run: RunFolder) -> list[str]:
    result = run.stage_result("evaluate")
    return run.dataset("evaluate").files("report") if result else []


def fail_run(warehouse: Warehouse, run: RunFolder, reason: str) -> None:
    """Mark the parent run as failed in MLflow, with the funnel and lineage of what had ended by then."""
    figures = _figures(warehouse, run) if run.stage_results() else []
    record_event(
        warehouse,
        {
            "run": run.name,
            "name": None,
            "status": "FAILED",
            "started": run.record()["started"],
            "ended": time.time(),
            "tags": {"hyperclova.failure": reason[:500]},
            "artifacts": [*figures, *_data_docs(run)],
        },
    )
    deliver(warehouse)
