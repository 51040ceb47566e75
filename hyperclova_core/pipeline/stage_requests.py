"""The stage of a run with all it needs: its configuration, inputs and gates."""

from __future__ import annotations

from hyperclova_core.corpus.deidentify import SURE
from hyperclova_core.corpus.ingest.config import IngestConfig, find_files
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.corpora.retention import RETENTION_KEY
from hyperclova_core.foundation.datasets.dataset import open_dataset
from hyperclova_core.foundation.stages.gates import GateConfig
from hyperclova_core.foundation.stages.kinds import load_stage
from hyperclova_core.foundation.stages.runner import StagePlan, StageRequest, plan_stage
from hyperclova_core.foundation.warehouse import RunFolder, Warehouse
from hyperclova_core.korean.personal_data import TYPES
from hyperclova_core.pipeline.graph import stage_of
from hyperclova_core.pipeline.recipe import GATED, Recipe, validated

DEFAULT_GATES: dict[str, GateConfig] = {
    "deidentify": GateConfig(
        max_detected_share={"hyperclova_core.corpus.deidentify:left_over": 0.001},
    ),
}


def recipe_of(run: RunFolder) -> Recipe:
    """The recipe a run was prepared with."""
    record = run.record()
    return validated(dict(record.recipe), f"{run.uri}/run.json")


def request_of(warehouse: Warehouse, run: RunFolder, key: str) -> StageRequest:
    """The stage of a run, with everything it needs.

    Raises:
        ConfigError, DataError: its inputs are not there.
    """
    node, size = stage_of(key)
    record, recipe = run.record(), recipe_of(run)
    inputs = {role: run.dataset(stage) for role, stage in node.inputs}
    if node.reads_models:
        inputs |= {f"train-{name}": run.dataset(f"train-{name}") for name in record.sizes}
    inputs |= {role: open_dataset(uri) for role, uri in node.beside(record.beside)}
    config = node.config(recipe, record.kind, size)
    files = find_files(config) if isinstance(config, IngestConfig) else []
    if record.only_files is not None:
        files = [file for file in files if file.checksum in set(record.only_files)]
    return StageRequest(
        definition=load_stage(node.reference),
        config=config,
        target=lambda identity: warehouse.target(node.name, identity),
        inputs=inputs,
        files=files,
        seed=recipe.seed,
        buckets=recipe.buckets,
        limits=recipe.limits,
        gates=_gates(recipe, node.name, record.kind) if node.name in GATED else None,
        docs_folder=storage.join(run.uri, "gates"),
        made_by={"run": record.run_id, RETENTION_KEY: recipe.retention_days},
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
