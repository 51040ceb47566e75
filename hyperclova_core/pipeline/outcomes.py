"""How a stage of a run ended: its record, and the event for MLflow."""

from __future__ import annotations

import time
from typing import Any

from hyperclova_core import __version__
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.lineage import DatasetEntry, LineageEvent, ModelEntry, record_event
from hyperclova_core.foundation.stages.runner import Outcome, StagePlan, input_references
from hyperclova_core.foundation.warehouse import RunFolder, StageResult, Warehouse, now


def record_outcome(
    warehouse: Warehouse,
    run: RunFolder,
    key: str,
    plan: StagePlan,
    outcome: Outcome,
    started: float,
) -> StageResult:
    """Record a stage's end in the run, and keep the event for MLflow."""
    manifest = outcome.dataset.manifest
    result = StageResult(
        stage=manifest.stage,
        key=key,
        uri=outcome.dataset.uri,
        fingerprint=manifest.fingerprint,
        digest=manifest.digest,
        reused=outcome.reused,
        made_by=str(outcome.dataset.attempt.get("run", "")),
        made_at=str(outcome.dataset.attempt.get("committed_at", "")),
        seconds=round(time.time() - started, 3),
        taken_over_units=outcome.taken_over,
        counters=manifest.counters,
        result=manifest.info.get("result"),
        ended_at=now(),
    )
    run.finish_stage(key, result)
    record_event(warehouse, _event(run, key, plan, outcome, result, started))
    return result


def _event(
    run: RunFolder,
    key: str,
    plan: StagePlan,
    outcome: Outcome,
    result: StageResult,
    started: float,
) -> LineageEvent:
    manifest = outcome.dataset.manifest
    counters = manifest.counters
    metrics = {
        "rows_in": counters.rows_in,
        "kept": counters.kept,
        "rejected": sum(counters.rejected.values()),
        "quarantined": sum(counters.quarantined.values()),
        "text_bytes_in": counters.text_bytes_in,
        "text_bytes_kept": counters.text_bytes_kept,
        "seconds": result.seconds,
        **{f"rejected_{reason}": number for reason, number in counters.rejected.items()},
        **{f"quarantined_{reason}": number for reason, number in counters.quarantined.items()},
        **counters.custom,
    }
    inputs = [
        DatasetEntry(name=name, digest=reference.digest, uri=reference.uri or name)
        for name, reference in sorted(input_references(plan.request).items())
    ]
    profile = {"rows": counters.kept, "bytes": counters.text_bytes_kept}
    output = DatasetEntry(name=manifest.stage, digest=manifest.digest, uri=outcome.dataset.uri, profile=profile)
    event = LineageEvent(
        run=run.name,
        name=key,
        status="FINISHED",
        started=started,
        ended=time.time(),
        params={"version": manifest.stage_version, "fingerprint": manifest.fingerprint, **_flat(manifest.config)},
        metrics={name: value for name, value in metrics.items() if value == value},
        tags={
            "hyperclova.stage": manifest.stage,
            "hyperclova.reused": str(outcome.reused).lower(),
            "hyperclova.made_by": result.made_by,
        },
        inputs=tuple(inputs),
        outputs=(output,),
        artifacts=tuple(
            (path, "") for name in ("report", "plan") if name in manifest.tables for path in outcome.dataset.files(name)
        )
        if manifest.stage in ("evaluate", "tokenizer", "mix", "serialize", "deduplicate")
        else (),
    )
    mine = outcome.dataset.attempt.get("run") == run.record().run_id
    if manifest.stage != "train" or (outcome.reused and not mine):
        return event
    size = key.removeprefix("train-")
    model = ModelEntry(
        name=f"hyperclova-{size}",
        folder=storage.join(outcome.dataset.uri, manifest.info["model"]),
        tags={
            "corpus_digest": plan.request.inputs["serialize"].manifest.digest,
            "recipe": run.record().recipe_name,
            "code_version": __version__,
            "parent_run": run.name,
            "digest": manifest.digest,
        },
    )
    # the job's own run has the metrics, each at its step
    job_folder = storage.join(outcome.dataset.uri, manifest.info["folder"])
    return event.model_copy(
        update={"metrics": {}, "job_folder": job_folder, "job_name": f"train {size}", "model": model}
    )


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
