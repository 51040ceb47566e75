"""The end of a run: the summary, figures and lineage, sent to MLflow's parent run."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import quote

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.lineage import deliver, record_event, whole_run
from hyperclova_core.foundation.secrets import without_credentials
from hyperclova_core.foundation.warehouse import RunFolder, Warehouse
from hyperclova_core.jobs import gpu_hours
from hyperclova_core.pipeline.usage import usage_rows, write_reports


def finish_run(warehouse: Warehouse, run: RunFolder) -> dict[str, Any]:
    """Sum a run up, keep it alive by name, and send the summary, figures and Data Docs to MLflow's parent run."""
    from hyperclova_core.pipeline.summary import summary_of, to_markdown

    deliver(warehouse)
    warehouse.set_reference(f"runs/{run.name}", {key: result.uri for key, result in run.stage_results().items()})
    summary = summary_of(run)
    summary["curves"] = curves_address(run)
    storage.write_json(storage.join(run.uri, "summary.json"), summary)
    storage.write_bytes(storage.join(run.uri, "summary.md"), to_markdown(summary).encode())
    artifacts = [(storage.join(run.uri, name), "") for name in ("summary.json", "summary.md")]
    artifacts += [(path, "waterfall") for path in _report_files(run)]
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
        metrics.update(gpu_hours.totals(usage))
    artifacts += [(path, "") for path in write_reports(run)]
    note = {"mlflow.note.content": _note(run, summary)}
    record_event(warehouse, whole_run(run, "FINISHED", artifacts, metrics, note))
    deliver(warehouse)
    return summary


def _figures(warehouse: Warehouse, run: RunFolder) -> list[tuple[str, str]]:
    """The funnel and the lineage of a run, written into its folder: (path, artifact folder)."""
    from hyperclova_core.pipeline.funnel import funnel_of, funnel_svg
    from hyperclova_core.provenance.graph import graph_of
    from hyperclova_core.provenance.pictures import html, tree

    rows = funnel_of(run)
    storage.write_json(storage.join(run.uri, "funnel.json"), rows)
    figure = funnel_svg(rows, f"{run.record().recipe_name}: what was kept, and why the rest was not")
    storage.write_bytes(storage.join(run.uri, "funnel.svg"), figure.encode())
    graph = graph_of(warehouse, run.name, with_file_names=False)
    folder = storage.join(run.uri, "lineage")
    storage.write_json(storage.join(folder, "lineage.json"), graph.to_dict())
    storage.write_bytes(storage.join(folder, "lineage.html"), html(graph).encode())
    storage.write_bytes(storage.join(folder, "lineage.txt"), tree(graph).encode())
    return [(storage.join(run.uri, name), "") for name in ("funnel.json", "funnel.svg")] + [
        (storage.join(folder, f"lineage.{suffix}"), "lineage") for suffix in ("json", "html", "txt")
    ]


def _data_docs(run: RunFolder) -> list[tuple[str, str]]:
    docs = storage.join(run.uri, "gates", "gx", "uncommitted", "data_docs", "local_site")
    return [(docs, "data_docs")] if storage.exists(docs) else []


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
    tags = {"hyperclova.failure": reason[:500]}
    record_event(warehouse, whole_run(run, "FAILED", [*figures, *_data_docs(run)], tags=tags))
    deliver(warehouse)
