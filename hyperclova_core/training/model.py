"""GPT-3's architecture (Brown 2020): pre-norm blocks, GELU, learned positions, tied embeddings; layers for a pipeline."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from hyperclova_core.training.parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabularyParallelEmbedding,
    full_normal,
    project,
    tensor_group,
)
from hyperclova_core.training.sizes import ModelSize

DEVIATION = 0.02
EMBEDDING_LAYERS = 2
"""Token embedding and positions come before the blocks."""


class Positions(nn.Module):
    """Learned positions, a layer of its own so that the token embedding can be tied across the pipeline's ends."""

    def __init__(self, context: int, width: int, seed: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(full_normal("wpe", (context, width), DEVIATION, seed))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight[: x.size(1)]


class Block(nn.Module):
    """Attention and MLP, each on a normalised input and added; residual projections start smaller by sqrt(2 L) (GPT-2)."""

    def __init__(self, model: ModelSize, number: int, seed: int) -> None:
        super().__init__()
        width, residual = model.width, DEVIATION / math.sqrt(2 * model.layers)
        self.heads, self.head_width = model.heads // tensor_group().size, width // model.heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = ColumnParallelLinear(f"h{number}.qkv", width, 3 * width, DEVIATION, seed, parts=3)
        self.proj = RowParallelLinear(f"h{number}.proj", width, width, residual, seed)
        self.fc = ColumnParallelLinear(f"h{number}.fc", width, 4 * width, DEVIATION, seed)
        self.out = RowParallelLinear(f"h{number}.out", 4 * width, width, residual, seed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = x.shape
        query, key, value = (
            part.view(batch, tokens, self.heads, self.head_width).transpose(1, 2)
            for part in self.qkv(self.ln1(x)).chunk(3, -1)
        )
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.proj(attended.transpose(1, 2).reshape(batch, tokens, -1))
        return x + self.out(F.gelu(self.fc(self.ln2(x)), approximate="tanh"))  # type: ignore[no-any-return]


class FinalNorm(nn.Module):
    """The norm before the output projection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ln(x)  # type: ignore[no-any-return]


def pipeline_layers(model: ModelSize, vocabulary: int, context: int, seed: int) -> list[Any]:
    """Layer specifications for DeepSpeed's PipelineModule, first to last."""
    from deepspeed.pipe import LayerSpec, TiedLayerSpec

    embedding = (VocabularyParallelEmbedding, vocabulary, model.width, seed)
    return [
        TiedLayerSpec("wte", *embedding, tied_weight_attr="weight"),
        LayerSpec(Positions, context, model.width, seed),
        *(LayerSpec(Block, model, number, seed) for number in range(model.layers)),
        LayerSpec(FinalNorm, model.width),
        TiedLayerSpec("wte", *embedding, forward_fn=project, tied_weight_attr="weight"),
    ]


class WholeModel(nn.Module):
    """The same layers in one process, for evaluation and generation: ids (batch, tokens) → logits (batch, tokens, vocabulary)."""

    def __init__(self, model: ModelSize, vocabulary: int, context: int, seed: int = 0) -> None:
        super().__init__()
        self.context = context
        self.embedding = VocabularyParallelEmbedding(vocabulary, model.width, seed)
        self.positions = Positions(context, model.width, seed)
        self.blocks = nn.ModuleList(Block(model, number, seed) for number in range(model.layers))
        self.norm = FinalNorm(model.width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.positions(self.embedding(ids))
        for block in self.blocks:
            x = block(x)
        return project(self.embedding, self.norm(x))
