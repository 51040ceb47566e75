"""What is evaluated, and with which files."""

from __future__ import annotations

from pydantic import Field

from hyperclova_core.foundation.config import Config


class EvaluateConfig(Config):
    """Few-shot NSMC. Files are TSV in NSMC's own format (id, document, label); relative paths start at HYPERCLOVA_DATA."""

    nsmc_shots: str | None = Field(None, description="examples for prompts")
    nsmc_test: str | None = Field(None, description="examples to judge")
    shots: int = Field(4, ge=0, description="examples a prompt; fewer where the context is too short")
    prompt_sets: int = Field(3, ge=1, description="sets of shots; accuracy is the mean over them")
    max_test: int = Field(1000, ge=1)


class ModelEntry(Config):
    """A trained model: its name, its folder, and its training's metrics."""

    name: str
    folder: str
    history: str | None = None
    non_embedding_parameters: int = 0


class EvaluationJobConfig(Config):
    """All that the evaluation program is told."""

    evaluate: EvaluateConfig
    models: tuple[ModelEntry, ...]
    tokenizer: str
    output: str
    seed: int = 0
