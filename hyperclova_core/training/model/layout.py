"""The layout of a model over ranks: data, tensor and pipeline parallelism."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from hyperclova_core.foundation.config import Config


class ParallelConfig(Config):
    """How a model is spread: pipeline × tensor × data parallel processes, micro-batches, and what is computed twice."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "micro_batch": "micro_batch_size",
        "recompute": "activation_checkpointing",
    }

    pipeline: int = Field(1, ge=1)
    tensor: int = Field(1, ge=1)
    data: int = Field(1, ge=1)
    micro_batch_size: int = Field(4, ge=1, description="sequences a process takes at once")
    activation_checkpointing: Literal["none", "attention", "block"] = Field(
        "none",
        description="activations that are computed again backwards instead of kept: none, of attention, of whole blocks",
    )

    @property
    def processes(self) -> int:
        """World size."""
        return self.pipeline * self.tensor * self.data
