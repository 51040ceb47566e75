"""Parameters and moments out of a checkpoint, whatever layout wrote it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from safetensors import safe_open

from hyperclova_core.foundation.errors import DataError
from hyperclova_core.training.checkpoints.files import at_hand
from hyperclova_core.training.model.sizes import ModelSize
from hyperclova_core.training.model.weights import Weight, weights_of

WEIGHT, MOMENTS = "weight", ("exp_avg", "exp_avg_sq")
KINDS = (WEIGHT, *MOMENTS)


class CheckpointReader:
    """Parameters and moments out of a checkpoint, whatever layout wrote it; one parameter is held at a time."""

    def __init__(self, record: Mapping[str, Any], files: Mapping[str, Any]) -> None:
        self.record = record
        self.model = ModelSize.model_validate(record["model"])
        self.weights = weights_of(self.model, record["vocabulary"], record["sequence_length"])
        self._files = files
        self._ranks = int(record["layout"]["tensor"])
        self._holders: dict[str, list[dict[str, Any]]] = {}
        for entry in record["files"]:
            for name in entry["fragments"]:
                self._holders.setdefault(name, []).append(entry)

    def whole(self, name: str, kind: str = WEIGHT) -> torch.Tensor:
        """A parameter, or a moment of it, in its whole shape, fp32."""
        weight = self.weights[name]
        ranks = 1 if weight.dimension is None else self._ranks
        return weight.join([self._share(weight, kind, rank) for rank in range(ranks)])

    def part(self, name: str, kind: str, rank: int, ranks: int, start: int, length: int) -> torch.Tensor:
        """A stretch of one tensor-parallel rank's share of it, flat. Where the checkpoint was divided alike, only what overlaps with it
        is read."""
        weight = self.weights[name]
        if weight.dimension is None:
            return self._stretch(weight, kind, 0, start, length)
        if ranks == self._ranks:
            return self._stretch(weight, kind, rank, start, length)
        return weight.cut(self.whole(name, kind), rank, ranks).reshape(-1)[start : start + length]

    def _share(self, weight: Weight, kind: str, rank: int) -> torch.Tensor:
        shape = weight.local_shape(self._ranks)
        return self._stretch(weight, kind, rank, 0, torch.Size(shape).numel()).view(shape)

    def _stretch(self, weight: Weight, kind: str, rank: int, start: int, length: int) -> torch.Tensor:
        out, filled = torch.empty(length), 0
        for entry in self._holders.get(weight.name, ()):
            begin, count = entry["fragments"][weight.name]
            low, high = max(begin, start), min(begin + count, start + length)
            if entry["tensor_rank"] == rank and low < high:
                held = self._files[entry["file"]].get_slice(f"{kind}/{weight.name}")
                out[low - start : high - start] = held[low - begin : high - begin]
                filled += high - low
        if filled != length:
            raise DataError(
                "A checkpoint does not hold a whole parameter",
                where=f"{self.record['folder']}, {weight.name}",
                why=f"{filled} of {length} values are there",
                remedy="take the checkpoint before it",
            )
        return out


class _Files(dict[str, Any]):
    """Files of a checkpoint, opened when they are first asked for, closed together."""

    def __init__(self, base: str, stack: ExitStack) -> None:
        super().__init__()
        self._base, self._stack = base, stack

    def __missing__(self, name: str) -> Any:
        self[name] = self._stack.enter_context(safe_open(at_hand(self._base, name), "pt"))
        return self[name]


@contextmanager
def open_checkpoint(record: Mapping[str, Any]) -> Iterator[CheckpointReader]:
    """A checkpoint for reading."""
    with ExitStack() as stack:
        yield CheckpointReader(record, _Files(record["folder"], stack))
