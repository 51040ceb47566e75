"""Tensor parallelism (Shoeybi 2019): the group, the conjugate operators, column- and row-parallel linears, vocabulary-
parallel embedding and cross-entropy.

The group must exist before DeepSpeed's PipelineModule builds the layers, which need its size.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.training.model.micro_batch import MicroBatch, current, enter


@dataclass
class TensorGroup:
    """The tensor-parallel group of this process; alone until `set_tensor_group`."""

    group: Any = None
    rank: int = 0
    size: int = 1


_TENSOR = TensorGroup()


def tensor_group() -> TensorGroup:
    """The group layers are built for."""
    return _TENSOR


def set_tensor_group(group: Any, rank: int, size: int) -> None:
    """Name the group; every process calls it before it builds layers."""
    _TENSOR.group, _TENSOR.rank, _TENSOR.size = group, rank, size


_DRAWN = True


@contextmanager
def alone(draw: bool = True) -> Iterator[None]:
    """What is built and run within is one process's own, whatever group it is in; without `draw` weights are left as memory is."""
    global _TENSOR, _DRAWN
    before, _TENSOR = _TENSOR, TensorGroup()
    drawn, _DRAWN = _DRAWN, draw
    micro = current()
    enter(MicroBatch())
    try:
        yield
    finally:
        _TENSOR, _DRAWN = before, drawn
        enter(micro)


@dataclass
class Waited:
    """Seconds this process spent in sums over the tensor-parallel group, waiting included: on a CPU, where they are known."""

    seconds: float = 0.0


WAITED = Waited()


def _sum(x: torch.Tensor, kind: Any = dist.ReduceOp.SUM) -> None:
    started = time.perf_counter()
    dist.all_reduce(x, op=kind, group=_TENSOR.group)
    if not x.is_cuda:
        WAITED.seconds += time.perf_counter() - started


class _CopyToGroup(torch.autograd.Function):
    """Identity forwards, sum of gradients over the group backwards (Megatron's f)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        if _TENSOR.size > 1:
            gradient = gradient.contiguous().clone()
            _sum(gradient)
        return gradient


class _ReduceFromGroup(torch.autograd.Function):
    """Sum over the group forwards, identity backwards (Megatron's g)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        if _TENSOR.size > 1:
            x = x.contiguous().clone()
            _sum(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def copy_to_group(x: torch.Tensor) -> torch.Tensor:
    """See `_CopyToGroup`."""
    return _CopyToGroup.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def reduce_from_group(x: torch.Tensor) -> torch.Tensor:
    """See `_ReduceFromGroup`."""
    return _ReduceFromGroup.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def full_normal(name: str, shape: tuple[int, ...], deviation: float, seed: int) -> torch.Tensor:
    """A whole parameter, drawn from a seed made of its name: the same at every topology, sharded afterwards."""
    if not _DRAWN:
        return torch.empty(shape)
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    return torch.randn(shape, generator=generator, dtype=torch.float32).mul_(deviation)


def shard_of(full: torch.Tensor, dimension: int, parts: int = 1) -> torch.Tensor:
    """This rank's share of a whole parameter; with `parts` > 1 (fused q, k, v) each part is divided by itself.

    Raises:
        ConfigError: the dimension does not divide among the ranks, which would train wrongly without a word.
    """
    if full.size(dimension) % (parts * _TENSOR.size):
        raise ConfigError(
            "A parameter does not divide among the tensor-parallel ranks",
            why=f"{full.size(dimension)} rows, {_TENSOR.size} ranks, {parts} parts",
            remedy="choose heads, hidden_size and a padded vocabulary that `tensor` divides",
        )
    pieces = [part.chunk(_TENSOR.size, dimension)[_TENSOR.rank] for part in full.chunk(parts, dimension)]
    return torch.cat(pieces, dimension).contiguous().clone()


def sharded(parameter: nn.Parameter) -> nn.Parameter:
    """Mark a parameter as this rank's share: DeepSpeed's gradient norm counts unmarked ones on the first rank only."""
    parameter.tensor_model_parallel = _TENSOR.size > 1  # type: ignore[attr-defined]
    return parameter


class ColumnParallelLinear(nn.Module):
    """Output features divided among the ranks; input (…, inputs) whole, output (…, outputs / ranks)."""

    def __init__(self, name: str, inputs: int, outputs: int, deviation: float, seed: int, parts: int = 1) -> None:
        super().__init__()
        self.weight = sharded(nn.Parameter(shard_of(full_normal(name, (outputs, inputs), deviation, seed), 0, parts)))
        self.bias = sharded(nn.Parameter(torch.zeros(outputs // _TENSOR.size)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(copy_to_group(x), self.weight, self.bias)


class RowParallelLinear(nn.Module):
    """Input features divided among the ranks; output summed over them, bias added once."""

    def __init__(self, name: str, inputs: int, outputs: int, deviation: float, seed: int) -> None:
        super().__init__()
        self.weight = sharded(nn.Parameter(shard_of(full_normal(name, (outputs, inputs), deviation, seed), 1)))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return reduce_from_group(F.linear(x, self.weight)) + self.bias


class VocabularyParallelEmbedding(nn.Module):
    """Rows of the embedding divided among the ranks; also, tied, the output projection (`project`)."""

    def __init__(self, vocabulary: int, hidden_size: int, seed: int) -> None:
        super().__init__()
        self.weight = sharded(nn.Parameter(shard_of(full_normal("wte", (vocabulary, hidden_size), 0.02, seed), 0)))
        self.first = _TENSOR.rank * (vocabulary // _TENSOR.size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        if _TENSOR.size == 1:
            return F.embedding(ids, self.weight)
        outside = (ids < self.first) | (ids >= self.first + self.weight.size(0))
        found = F.embedding((ids - self.first).masked_fill(outside, 0), self.weight)
        return reduce_from_group(found.masked_fill(outside[..., None], 0.0))


def project(embedding: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Logits of this rank's share of the vocabulary, by the tied embedding."""
    weight = embedding.weight
    assert isinstance(weight, torch.Tensor)
    return F.linear(copy_to_group(x), weight)


class _VocabularyParallelCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = logits.float()
        first = _TENSOR.rank * logits.size(-1)
        largest = logits.max(-1).values
        _sum(largest, dist.ReduceOp.MAX)
        shifted = logits - largest[..., None]
        outside = (targets < first) | (targets >= first + logits.size(-1))
        local = (targets - first).masked_fill(outside, 0)
        picked = shifted.gather(-1, local[..., None]).squeeze(-1).masked_fill(outside, 0.0)
        _sum(picked)
        exponentials = shifted.exp()
        total = exponentials.sum(-1)
        _sum(total)
        ctx.save_for_backward(exponentials / total[..., None], outside, local)
        return total.log() - picked

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        probabilities, outside, local = ctx.saved_tensors
        result = probabilities.clone()
        result.scatter_add_(-1, local[..., None], -(~outside).to(result.dtype)[..., None])
        return result * gradient[..., None], None


class CrossEntropy:
    """Mean loss in nats of logits (batch, tokens, vocabulary / ranks) against targets (batch, tokens).

    Attributes:
        by_token: where it is a list, losses of all tokens are put there too, each of shape (batch, tokens).
    """

    def __init__(self) -> None:
        self.by_token: list[torch.Tensor] | None = None

    def __call__(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if self.by_token is None and _TENSOR.size == 1:
            return F.cross_entropy(logits.float().view(-1, logits.size(-1)), targets.reshape(-1))
        losses = token_losses(logits, targets)
        if self.by_token is not None:
            self.by_token.append(losses.detach())
        return losses.mean()


def token_losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Loss of each token in nats, of shape (batch, tokens)."""
    if _TENSOR.size == 1:
        flat = F.cross_entropy(logits.float().view(-1, logits.size(-1)), targets.reshape(-1), reduction="none")
        return flat.view(targets.shape)
    losses: torch.Tensor = _VocabularyParallelCrossEntropy.apply(logits, targets)  # type: ignore[no-untyped-call]
    return losses
