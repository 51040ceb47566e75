"""GPT-3's architecture (Brown 2020): pre-norm blocks, GELU, learned positions, tied embeddings; layers for a pipeline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from hyperclova_core.training.model.micro_batch import MicroBatch, current, dropout, seeded
from hyperclova_core.training.model.sizes import ModelSize
from hyperclova_core.training.model.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabularyParallelEmbedding,
    alone,
    full_normal,
    project,
    tensor_group,
)

DEVIATION = 0.02


@dataclass(frozen=True)
class Regularisation:
    """What a layer does in training only, or does twice."""

    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_checkpointing: str = "none"


class Positions(nn.Module):
    """Learned positions and dropout, a layer of its own so that the token embedding can be tied across the pipeline's ends."""

    def __init__(self, sequence_length: int, hidden_size: int, seed: int, dropped: float = 0.0) -> None:
        super().__init__()
        self.dropped = dropped
        self.weight = nn.Parameter(full_normal("wpe", (sequence_length, hidden_size), DEVIATION, seed))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch = current()
        places = batch.positions()
        x = x + (self.weight[: x.size(1)] if places is None else self.weight[places])
        return dropout(x, self.dropped, batch, "embedding") if self.training else x


class Block(nn.Module):
    """Attention and MLP, each on a normalised input and added; residual projections start smaller by sqrt(2 L) (GPT-2)."""

    def __init__(self, model: ModelSize, number: int, seed: int, how: Regularisation = Regularisation()) -> None:  # noqa: B008
        super().__init__()
        hidden_size, residual = model.hidden_size, DEVIATION / math.sqrt(2 * model.layers)
        self.number, self.how = number, how
        self.heads, self.head_width = model.heads // tensor_group().size, hidden_size // model.heads
        self.ln1, self.ln2 = nn.LayerNorm(hidden_size), nn.LayerNorm(hidden_size)
        self.qkv = ColumnParallelLinear(f"h{number}.qkv", hidden_size, 3 * hidden_size, DEVIATION, seed, parts=3)
        self.proj = RowParallelLinear(f"h{number}.proj", hidden_size, hidden_size, residual, seed)
        self.fc = ColumnParallelLinear(f"h{number}.fc", hidden_size, 4 * hidden_size, DEVIATION, seed)
        self.out = RowParallelLinear(f"h{number}.out", 4 * hidden_size, hidden_size, residual, seed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch = current()
        if self.training and self.how.activation_checkpointing == "block":
            # what is random is a function of the micro-batch, which is kept with the call: no generator's state to restore
            return checkpoint(self._whole, x, batch, use_reentrant=False, preserve_rng_state=False)
        return self._whole(x, batch)

    def _whole(self, x: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        x = x + self._dropped(self.proj(self._attend(self.qkv(self.ln1(x)), batch)), batch, "attention")
        return x + self._dropped(self.out(F.gelu(self.fc(self.ln2(x)), approximate="tanh")), batch, "mlp")

    def _attend(self, qkv: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        if self.training and self.how.activation_checkpointing == "attention":
            return checkpoint(self._attention, qkv, batch, use_reentrant=False, preserve_rng_state=False)
        return self._attention(qkv, batch)

    def _attention(self, qkv: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        count, tokens, _ = qkv.shape
        query, key, value = (
            part.view(count, tokens, self.heads, self.head_width).transpose(1, 2) for part in qkv.chunk(3, -1)
        )
        mask = batch.mask()
        rate = self.how.attention_dropout if self.training else 0.0
        if rate:  # heads are divided among the tensor-parallel ranks: each draws its own
            seed = batch.seed_of(0, f"h{self.number}.heads", str(tensor_group().rank))
            with seeded(qkv.device, seed):
                attended = F.scaled_dot_product_attention(query, key, value, mask, rate, is_causal=mask is None)
        else:
            attended = F.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None)
        return attended.transpose(1, 2).reshape(count, tokens, -1)

    def _dropped(self, x: torch.Tensor, batch: MicroBatch, place: str) -> torch.Tensor:
        return dropout(x, self.how.dropout, batch, f"h{self.number}.{place}") if self.training else x


class FinalNorm(nn.Module):
    """The norm before the output projection."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(hidden_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ln(x)  # type: ignore[no-any-return]


def pipeline_layers(
    model: ModelSize,
    vocabulary: int,
    sequence_length: int,
    seed: int,
    how: Regularisation = Regularisation(),  # noqa: B008
) -> list[Any]:
    """Layer specifications for DeepSpeed's PipelineModule, first to last."""
    from deepspeed.pipe import LayerSpec, TiedLayerSpec

    embedding = (VocabularyParallelEmbedding, vocabulary, model.hidden_size, seed)
    return [
        TiedLayerSpec("wte", *embedding, tied_weight_attr="weight"),
        LayerSpec(Positions, sequence_length, model.hidden_size, seed, how.dropout),
        *(LayerSpec(Block, model, number, seed, how) for number in range(model.layers)),
        LayerSpec(FinalNorm, model.hidden_size),
        TiedLayerSpec("wte", *embedding, forward_fn=project, tied_weight_attr="weight"),
    ]


class WholeModel(nn.Module):
    """The same layers in one process, for evaluation and generation: ids (batch, tokens) → logits (batch, tokens, vocabulary).

    Args:
        initialised: False leaves weights as they come, for a model that is filled at once.
    """

    def __init__(
        self, model: ModelSize, vocabulary: int, sequence_length: int, seed: int = 0, initialised: bool = True
    ) -> None:
        super().__init__()
        self.sequence_length = sequence_length
        with alone(draw=initialised):
            self.embedding = VocabularyParallelEmbedding(vocabulary, model.hidden_size, seed)
            self.positions = Positions(sequence_length, model.hidden_size, seed)
            self.blocks = nn.ModuleList(Block(model, number, seed) for number in range(model.layers))
            self.norm = FinalNorm(model.hidden_size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        with alone():
            x = self.positions(self.embedding(ids))
            for block in self.blocks:
                x = block(x)
            return project(self.embedding, self.norm(x))
