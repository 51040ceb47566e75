"""The train stage: what the GPU job is told, and what is taken from its folder when it has ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.dataset import Dataset
from hyperclova_core.foundation.datasets.manifest import Counters
from hyperclova_core.foundation.datasets.parquet_writer import plain_file_entry
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.stages.kinds import Artifact, StageContext, artifact_stage
from hyperclova_core.tokens.serialize.stage import shard_prefixes
from hyperclova_core.tokens.tokenizer.tokenizer import tokenizer_folder
from hyperclova_core.training.config import JobConfig, TrainConfig

PROGRAM = "hyperclova_core.training.rank"


def job_config(
    inputs: Mapping[str, Dataset],
    config: TrainConfig,
    output: str,
    run: str | None,
    tags: dict[str, str],
    checkpoints: str | None = None,
    card: Mapping[str, Any] | None = None,
) -> JobConfig:
    """What the ranks are told."""
    shards = inputs["serialize"]
    info = shards.manifest.info
    composition = info["composition"]
    emitted = sum(row["emitted_tokens"] for row in composition)
    validation_tokens = info["tokens"]["validation"]
    return JobConfig(
        train=config,
        shards=tuple(shard_prefixes(shards, "train")),
        shards_dataset=shards.uri,
        validation_shards=tuple(shard_prefixes(shards, "validation")),
        validation_provenance=tuple(f"{prefix}.provenance.parquet" for prefix in shard_prefixes(shards, "validation")),
        tokenizer=tokenizer_folder(inputs["tokenizer"]),
        tokenizer_identity=inputs["tokenizer"].manifest.info["identity"],
        vocabulary=info["vocabulary_size"],
        padded_vocabulary=info["padded_vocabulary_size"],
        validation_bytes_per_token=info["bytes"]["validation"] / validation_tokens if validation_tokens else None,
        output=output,
        checkpoints=checkpoints,
        card={
            **(card or {}),
            "corpus_digest": shards.manifest.digest,
            "tokenizer_digest": info["tokenizer_digest"],
            "mixture": {row["leaf"]: row["emitted_tokens"] / max(1, emitted) for row in composition},
        },
        run=run,
        name=f"train {config.size.name}",
        tags=tags,
    )


@artifact_stage("train", version="2")
def train(inputs: Mapping[str, Dataset], config: TrainConfig, context: StageContext) -> Artifact:
    """Take what the job left below this attempt's folder: model and result (metrics hold times, so they are no content).

    Raises:
        DataError: the job has not ended well.
    """
    root, folder = context.target.root(False), context.attempt_path
    base = storage.join(root, folder)
    if not storage.exists(storage.join(base, "result.json")):
        raise DataError(
            "The training left no result", where=base, why="its job has not ended well", remedy="see job.log there"
        )
    result: dict[str, Any] = storage.read_json(storage.join(base, "result.json"))
    model = [
        plain_file_entry(root, f"{folder}/model/{name}") for name in storage.list_names(storage.join(base, "model"))
    ]
    custom = {
        key: float(value)
        for key, value in result.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    return Artifact(
        {"model": model}, Counters(custom=custom), {"result": result, "folder": folder, "model": f"{folder}/model"}
    )


def model_folder(dataset: Dataset) -> str:
    """Where a trained model lies."""
    return storage.join(dataset.uri, str(dataset.manifest.info["model"]))


def history_path(dataset: Dataset) -> str:
    """Where a training's `metrics.jsonl` lies."""
    return storage.join(dataset.uri, str(dataset.manifest.info["folder"]), "metrics.jsonl")
