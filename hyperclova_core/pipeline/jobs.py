"""GPU stages of a run: the job's specification, and taking over what it made."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from hyperclova_core.evaluation import stage as evaluation
from hyperclova_core.evaluation.config import EvaluateConfig
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.commit import new_attempt
from hyperclova_core.foundation.datasets.dataset import open_dataset
from hyperclova_core.foundation.errors import HyperclovaError, from_dict
from hyperclova_core.foundation.lineage import deliver
from hyperclova_core.foundation.stages.kinds import StageContext
from hyperclova_core.foundation.stages.runner import Outcome, StagePlan, commit_artifact
from hyperclova_core.foundation.warehouse import RunFolder, Warehouse
from hyperclova_core.jobs.backend import JobStatus, wait
from hyperclova_core.jobs.backends import LocalBackend
from hyperclova_core.jobs.config import passed_on
from hyperclova_core.jobs.kubernetes.manifests import SCRATCH
from hyperclova_core.jobs.spec import TrainJobSpec
from hyperclova_core.pipeline.outcomes import record_outcome
from hyperclova_core.pipeline.stage_requests import plan_key, recipe_of
from hyperclova_core.training import stage as training
from hyperclova_core.training.config import TrainConfig

ATTEMPT = "job"
"""A job's attempt on disk has a fixed name: a retry goes on from its checkpoints, in the same folder."""


@dataclass(frozen=True)
class JobPlan:
    """A GPU stage of a run: what is left to do, and the job that would do it (None when nothing is)."""

    key: str
    plan: StagePlan
    spec: TrainJobSpec | None


def plan_job(warehouse: Warehouse, run: RunFolder, key: str) -> JobPlan:
    """Plan a `train-SIZE` or `evaluate` stage."""
    plan = plan_key(warehouse, run, key)
    if plan.reusable:
        return JobPlan(key, plan, None)
    run.begin_stage(key, plan.target.uri)
    request = plan.request
    recipe = recipe_of(run)
    target = storage.join(plan.target.uri, "attempts", ATTEMPT)
    output, checkpoints, publish = target, None, None
    cluster = recipe.jobs.cluster if recipe.jobs.backend == "kubernetes" else None
    if storage.is_remote(
        target
    ):  # a job writes to its machine's disk, and what it made is uploaded; checkpoints are safe at once
        checkpoints = storage.join(target, "checkpoints")
        output = storage.scratch_folder("jobs", plan.fingerprint)
        if cluster is not None:
            output, publish = f"{SCRATCH}/job", target
    environment = passed_on(cluster.environment, os.environ) if cluster is not None else {}
    name = f"{key}-{plan.fingerprint[:10]}".lower().replace(".", "-")
    if isinstance(request.config, TrainConfig):
        tags = {
            "hyperclova.stage": "train",
            "hyperclova.fingerprint": plan.fingerprint,
            "hyperclova.corpus_digest": request.inputs["serialize"].manifest.digest,
        }
        card = {
            "recipe": recipe.name,
            "licences": {source.name: source.license or "unknown" for source in recipe.ingest.sources},
        }
        config = training.job_config(request.inputs, request.config, output, run.uri, tags, checkpoints, card)
        spec = TrainJobSpec(
            name,
            training.PROGRAM,
            config.model_dump(mode="json"),
            output,
            request.config.size.parallel.processes,
            environment=environment,
            cluster=cluster,
            publish=publish,
            aside=("run",),
        )
    else:
        assert isinstance(request.config, EvaluateConfig)
        told = evaluation.job_config(request.inputs, request.config, output, request.seed)
        spec = TrainJobSpec(
            name,
            evaluation.PROGRAM,
            told.model_dump(mode="json"),
            output,
            0,
            environment=environment,
            cluster=cluster,
            publish=publish,
        )
    return JobPlan(key, plan, spec)


def finish_job(warehouse: Warehouse, run: RunFolder, job: JobPlan, status: JobStatus | None, started: float) -> Outcome:
    """Commit what a job made (or take what was there), and record it.

    Raises:
        HyperclovaError: the job failed; with its cause's class and message.
    """
    if job.spec is None:
        outcome = Outcome(open_dataset(job.plan.target.uri), True, time.time() - started)
        record_outcome(warehouse, run, job.key, job.plan, outcome, started)
        return outcome
    if status is None or status.state != "succeeded":
        raise failure_of(job.spec, status)
    request, target = job.plan.request, job.plan.target
    # two machines may have made the same: what one uploads must not lie over what the other has committed
    attempt = ATTEMPT
    if storage.is_remote(target.uri) and job.spec.publish is None:
        attempt = new_attempt()
        storage.publish_folder(
            job.spec.output, storage.join(target.uri, "attempts", attempt), leave_out=("checkpoints",)
        )
    context = StageContext(
        request.definition.name,
        request.definition.version,
        request.seed,
        request.buckets,
        attempt,
        target,
        job.plan.fingerprint,
    )
    artifact = request.definition.function(request.inputs, request.config, context)
    dataset, reused = commit_artifact(job.plan, artifact, attempt)
    outcome = Outcome(dataset, reused, time.time() - started)
    record_outcome(warehouse, run, job.key, job.plan, outcome, started)
    return outcome


def failure_of(spec: TrainJobSpec, status: JobStatus | None) -> HyperclovaError:
    """The error a failed job stands for."""
    if status is not None and status.cause.get("type"):
        return from_dict(status.cause)
    explanation = status.explain() if status is not None else "it was not found"
    return HyperclovaError(
        f"Job {spec.name} failed", where=spec.output, why=explanation, remedy=f"see {spec.output}/job.log"
    )


def run_job(warehouse: Warehouse, run: RunFolder, key: str, on_line: Callable[[str], None]) -> Outcome:
    """Plan, run on this machine, commit and record a GPU stage."""
    started = time.time()
    place = LocalBackend()
    job = plan_job(warehouse, run, key)
    status = None
    if job.spec is not None:
        begin = place.end_of_log(job.spec)
        place.submit(job.spec)
        status = wait(place, job.spec, on_line, cursors=begin)
    outcome = finish_job(warehouse, run, job, status, started)
    deliver(warehouse)
    return outcome
