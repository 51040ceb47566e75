"""Named model sizes: HyperCLOVA's, and a ladder that a laptop trains in minutes, named by non-embedding parameters."""

from __future__ import annotations

from pydantic import Field

from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.errors import ConfigError


class ModelSize(Config):
    """Shape of a GPT and the peak learning rate that suits it."""

    layers: int = Field(ge=1)
    width: int = Field(ge=1, description="d_model")
    heads: int = Field(ge=1)
    learning_rate: float = Field(gt=0)

    @property
    def non_embedding_parameters(self) -> int:
        """12 L d² + 13 L d + 2 d: attention and MLP weights, biases and norms (Kaplan 2020, section 2.1, with biases)."""
        return 12 * self.layers * self.width**2 + 13 * self.layers * self.width + 2 * self.width

    def parameters(self, vocabulary: int, context: int) -> int:
        """All parameters, the tied embedding counted once."""
        return self.non_embedding_parameters + (vocabulary + context) * self.width

    def flops_per_token(self, vocabulary: int, context: int) -> float:
        """Training FLOPs a token: 6 N (embedding matrix as output projection included) + 12 L d T for attention (PaLM, appendix B)."""
        return (
            6.0 * (self.non_embedding_parameters + vocabulary * self.width) + 12.0 * self.layers * self.width * context
        )


SIZES: dict[str, ModelSize] = {
    "15k": ModelSize(layers=2, width=24, heads=2, learning_rate=1.2e-2),
    "115k": ModelSize(layers=3, width=56, heads=4, learning_rate=8e-3),
    "450k": ModelSize(layers=4, width=96, heads=4, learning_rate=5e-3),
    "1.5M": ModelSize(layers=6, width=144, heads=6, learning_rate=2e-3),
    "137M": ModelSize(layers=12, width=768, heads=16, learning_rate=6.0e-4),
    "350M": ModelSize(layers=24, width=1024, heads=16, learning_rate=3.0e-4),
    "760M": ModelSize(layers=24, width=1536, heads=16, learning_rate=2.5e-4),
    "1.3B": ModelSize(layers=24, width=2048, heads=16, learning_rate=2.0e-4),
    "6.9B": ModelSize(layers=32, width=4096, heads=32, learning_rate=1.2e-4),
    "13B": ModelSize(layers=40, width=5120, heads=40, learning_rate=1.0e-4),
    "39B": ModelSize(layers=48, width=8192, heads=64, learning_rate=0.8e-4),
    "82B": ModelSize(layers=64, width=10240, heads=80, learning_rate=0.6e-4),
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
            remedy="use one of them, or give layers, width, heads and learning_rate",
        )
    return SIZES[name]
