"""Named model sizes: HyperCLOVA's, and a ladder that a laptop trains in minutes, named by non-embedding parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.errors import ConfigError


class ModelSize(Config):
    """Shape of a GPT and the peak learning rate that suits it."""

    RENAMED: ClassVar[Mapping[str, str]] = {"width": "hidden_size"}

    layers: int = Field(ge=1)
    hidden_size: int = Field(ge=1, description="d_model")
    heads: int = Field(ge=1)
    learning_rate: float = Field(gt=0)

    @property
    def non_embedding_parameters(self) -> int:
        """12 L d² + 13 L d + 2 d: attention and MLP weights, biases and norms (Kaplan 2020, section 2.1, with biases)."""
        return 12 * self.layers * self.hidden_size**2 + 13 * self.layers * self.hidden_size + 2 * self.hidden_size

    def parameters(self, vocabulary: int, sequence_length: int) -> int:
        """All parameters, the tied embedding counted once."""
        return self.non_embedding_parameters + (vocabulary + sequence_length) * self.hidden_size

    def flops_per_token(self, vocabulary: int, sequence_length: int) -> float:
        """Training FLOPs a token: 6 N (embedding matrix as output projection included) + 12 L d T for attention (PaLM, appendix B)."""
        return (
            6.0 * (self.non_embedding_parameters + vocabulary * self.hidden_size)
            + 12.0 * self.layers * self.hidden_size * sequence_length
        )


SIZES: dict[str, ModelSize] = {
    "15k": ModelSize(layers=2, hidden_size=24, heads=2, learning_rate=1.2e-2),
    "115k": ModelSize(layers=3, hidden_size=56, heads=4, learning_rate=8e-3),
    "450k": ModelSize(layers=4, hidden_size=96, heads=4, learning_rate=5e-3),
    "1.5M": ModelSize(layers=6, hidden_size=144, heads=6, learning_rate=2e-3),
    "137M": ModelSize(layers=12, hidden_size=768, heads=16, learning_rate=6.0e-4),
    "350M": ModelSize(layers=24, hidden_size=1024, heads=16, learning_rate=3.0e-4),
    "760M": ModelSize(layers=24, hidden_size=1536, heads=16, learning_rate=2.5e-4),
    "1.3B": ModelSize(layers=24, hidden_size=2048, heads=16, learning_rate=2.0e-4),
    "6.9B": ModelSize(layers=32, hidden_size=4096, heads=32, learning_rate=1.2e-4),
    "13B": ModelSize(layers=40, hidden_size=5120, heads=40, learning_rate=1.0e-4),
    "39B": ModelSize(layers=48, hidden_size=8192, heads=64, learning_rate=0.8e-4),
    "82B": ModelSize(layers=64, hidden_size=10240, heads=80, learning_rate=0.6e-4),
}
"""From 137M on: arXiv 2109.04650, table 2."""


def size_named(name: str) -> ModelSize:
    """A size by name.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in SIZES:
        raise ConfigError(
            f"There is no model size {name}",
            where="train.sizes",
            why=f"known are {', '.join(SIZES)}",
            remedy="use one of them, or give layers, hidden_size, heads and learning_rate",
        )
    return SIZES[name]


def model_size(name: str) -> ModelSize:
    """A named size, or LAYERSxWIDTHxHEADS."""
    parts = name.split("x")
    if len(parts) == 3 and all(part.isdigit() for part in parts):
        layers, hidden_size, heads = map(int, parts)
        return ModelSize(layers=layers, hidden_size=hidden_size, heads=heads, learning_rate=1e-4)
    return size_named(name)
