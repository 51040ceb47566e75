"""The stage of a run with all it needs: its configuration, inputs and gates."""

from __future__ import annotations

from typing import Any

from hyperclova_core.corpus.deidentify import SURE
from hyperclova_core.corpus.ingest.config import find_files
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.corpora.retention import RETENTION_KEY
from hyperclova_core.foundation.datasets.dataset import open_dataset
from hyperclova_core.foundation.stages.gates import GateConfig
from hyperclova_core.foundation.stages.kinds import load_stage
from hyperclova_core.foundation.stages.runner import StagePlan, StageRequest, plan_stage
from hyperclova_core.foundation.warehouse import RunFolder, Warehouse
from hyperclova_core.korean.personal_data import TYPES
from hyperclova_core.pipeline.graph import GATED, stage_of
from hyperclova_core.pipeline.recipe import Recipe, validated

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


def recipe_of(run: RunFolder) -> Recipe:
    """The recipe a run was prepared with."""
    record = run.record()
    return validated(record["recipe"], f"{run.uri}/run.json")


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
