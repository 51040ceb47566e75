"""Running a recipe: prepare a run, plan and execute its stages one by one, record how each ended, finish.

A run's state lies in the warehouse, so a stage may be started by anyone: Airflow's tasks, spark-submit, the command line.
"""

from __future__ import annotations

import logging
import time

from hyperclova_core import __version__
from hyperclova_core.foundation.stages.kinds import Engine
from hyperclova_core.foundation.stages.runner import Outcome, execute
from hyperclova_core.foundation.warehouse import Beside, RunFolder, RunRecord, Warehouse, now
from hyperclova_core.pipeline.graph import SPARK_STAGES
from hyperclova_core.pipeline.outcomes import record_outcome
from hyperclova_core.pipeline.recipe import Recipe, validated
from hyperclova_core.pipeline.stage_requests import plan_key

log = logging.getLogger(__name__)


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
    beside: Beside = Beside(),  # noqa: B008 - frozen
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
    data = recipe.model_dump(mode="json")
    if tokens is not None:
        data["train"]["settings"]["tokens"] = tokens
    if backend is not None:
        data["jobs"]["backend"] = backend
    if tokens is not None or backend is not None:
        validated(data, f"run {run_id}")
    chosen = list(sizes) if sizes is not None else [size.name for size in recipe.train.sizes]
    run = warehouse.run(run_id)
    run.create(RunRecord(run_id, data, tuple(chosen), kind, only_files, beside, __version__, now(), time.time()))
    return run


def run_keys(run: RunFolder) -> list[str]:
    """All stages of a pretraining run in order, one `train-SIZE` a model."""
    sizes = run.record().sizes
    return [*SPARK_STAGES, *(f"train-{size}" for size in sizes), "evaluate"] if sizes else list(SPARK_STAGES)


def run_key(warehouse: Warehouse, run: RunFolder, key: str, engine: Engine) -> Outcome:
    """Execute a Spark stage of a run and record how it ended."""
    started = time.time()
    plan = plan_key(warehouse, run, key)
    run.begin_stage(key, plan.target.uri)
    outcome = execute(plan, engine)
    record_outcome(warehouse, run, key, plan, outcome, started)
    return outcome
