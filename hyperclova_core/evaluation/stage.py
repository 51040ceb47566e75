"""The evaluate stage: what its job is told, and what is taken from its folder."""

from __future__ import annotations

from collections.abc import Mapping

from hyperclova_core.evaluation.config import EvaluateConfig, EvaluationJobConfig, ModelEntry
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.dataset import Dataset
from hyperclova_core.foundation.datasets.manifest import Counters, file_checksum
from hyperclova_core.foundation.datasets.parquet_writer import plain_file_entry
from hyperclova_core.foundation.errors import ConfigError, DataError
from hyperclova_core.foundation.stages.kinds import Artifact, StageContext, artifact_stage
from hyperclova_core.tokens.tokenizer.tokenizer import tokenizer_folder
from hyperclova_core.training.stage import history_path, model_folder

PROGRAM = "hyperclova_core.evaluation.job"
OUTPUTS = ("result.json", "waterfall.png", "waterfall.csv")


def _resources(config: EvaluateConfig) -> dict[str, str]:
    found = {}
    for name in ("nsmc_shots", "nsmc_test"):
        value = getattr(config, name)
        if value:
            path = storage.data_path(value)
            if not storage.exists(path):
                raise ConfigError(
                    "An evaluation file is missing",
                    where=path,
                    why=f"`evaluate.{name}` names it",
                    remedy="correct the recipe, or put the file there",
                )
            found[name] = file_checksum(path)
    return found


def job_config(inputs: Mapping[str, Dataset], config: EvaluateConfig, output: str, seed: int) -> EvaluationJobConfig:
    """What the program is told; inputs are `tokenizer` and one `train-SIZE` a model."""
    models = tuple(
        ModelEntry(
            name=name.removeprefix("train-"),
            folder=model_folder(dataset),
            history=history_path(dataset),
            non_embedding_parameters=dataset.manifest.info["result"]["non_embedding_parameters"],
        )
        for name, dataset in inputs.items()
        if name.startswith("train-")
    )
    return EvaluationJobConfig(
        evaluate=config, models=models, tokenizer=tokenizer_folder(inputs["tokenizer"]), output=output, seed=seed
    )


@artifact_stage("evaluate", version="1", resources=_resources)
def evaluate(inputs: Mapping[str, Dataset], config: EvaluateConfig, context: StageContext) -> Artifact:
    """Take what the job left.

    Raises:
        DataError: the job has not ended well.
    """
    root, folder = context.target.root(False), context.attempt_path
    base = storage.join(root, folder)
    if not storage.exists(storage.join(base, "result.json")):
        raise DataError(
            "The evaluation left no result", where=base, why="its job has not ended well", remedy="see job.log there"
        )
    result = storage.read_json(storage.join(base, "result.json"))
    files = [plain_file_entry(root, f"{folder}/{name}") for name in OUTPUTS if storage.exists(storage.join(base, name))]
    custom = {f"nsmc_accuracy_{name}": float(values["accuracy"]) for name, values in result["nsmc"].items()}
    return Artifact({"report": files}, Counters(custom=custom), {"result": result, "folder": folder})
