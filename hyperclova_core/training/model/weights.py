"""The model's parameters by name, whole: their shapes, and how tensor parallelism divides them.

Names and shapes are the same at every layout, so a checkpoint, an export and a whole model in one process all speak of the same
things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperclova_core.foundation.errors import DataError
from hyperclova_core.training.model.sizes import ModelSize

if TYPE_CHECKING:
    import torch

_BEFORE_BLOCKS = 2
"""Layers of the pipeline before the first block: embedding, positions."""
_SPLIT = {
    "qkv.weight": (0, 3),
    "qkv.bias": (0, 3),
    "fc.weight": (0, 1),
    "fc.bias": (0, 1),
    "proj.weight": (1, 1),
    "out.weight": (1, 1),
}


@dataclass(frozen=True)
class Weight:
    """One parameter.

    Args:
        shape: whole.
        dimension: divided among tensor-parallel ranks; None: each has all of it.
        parts: of the dimension that are divided each by itself (3 for fused query, key, value).
    """

    name: str
    shape: tuple[int, ...]
    dimension: int | None = None
    parts: int = 1

    def local_shape(self, ranks: int) -> tuple[int, ...]:
        """Shape of one rank's share."""
        return tuple(size // ranks if axis == self.dimension else size for axis, size in enumerate(self.shape))

    def cut(self, whole: torch.Tensor, rank: int, ranks: int) -> torch.Tensor:
        """A rank's share of the whole."""
        import torch

        if self.dimension is None or ranks == 1:
            return whole
        return torch.cat(
            [part.chunk(ranks, self.dimension)[rank] for part in whole.chunk(self.parts, self.dimension)],
            self.dimension,
        )

    def join(self, shares: Sequence[torch.Tensor]) -> torch.Tensor:
        """The whole of all ranks' shares."""
        import torch

        if self.dimension is None or len(shares) == 1:
            return shares[0]
        split = [share.chunk(self.parts, self.dimension) for share in shares]
        return torch.cat(
            [torch.cat([pieces[part] for pieces in split], self.dimension) for part in range(self.parts)],
            self.dimension,
        )


def weights_of(model: ModelSize, vocabulary: int, sequence_length: int) -> dict[str, Weight]:
    """All parameters of a model, in the order of its layers."""
    hidden_size = model.hidden_size
    block = {
        "ln1.weight": (hidden_size,),
        "ln1.bias": (hidden_size,),
        "qkv.weight": (3 * hidden_size, hidden_size),
        "qkv.bias": (3 * hidden_size,),
        "proj.weight": (hidden_size, hidden_size),
        "proj.bias": (hidden_size,),
        "ln2.weight": (hidden_size,),
        "ln2.bias": (hidden_size,),
        "fc.weight": (4 * hidden_size, hidden_size),
        "fc.bias": (4 * hidden_size,),
        "out.weight": (hidden_size, 4 * hidden_size),
        "out.bias": (hidden_size,),
    }
    found = [Weight("wte.weight", (vocabulary, hidden_size), 0), Weight("wpe.weight", (sequence_length, hidden_size))]
    for number in range(model.layers):
        found += [Weight(f"h{number}.{name}", shape, *_SPLIT.get(name, (None, 1))) for name, shape in block.items()]
    found += [Weight("ln_f.weight", (hidden_size,)), Weight("ln_f.bias", (hidden_size,))]
    return {weight.name: weight for weight in found}


def name_in_pipeline(name: str, layers: int) -> str:
    """A parameter of DeepSpeed's PipelineModule, which counts layers, by our name.

    Raises:
        DataError: it is none of ours.
    """
    if name.startswith("tied_modules.wte."):
        return "wte.weight"
    number, _, rest = name.partition(".")
    layer = int(number)
    if layer == 1:
        return f"wpe.{rest}"
    if layer == _BEFORE_BLOCKS + layers:
        return f"ln_f.{rest.removeprefix('ln.')}"
    if _BEFORE_BLOCKS <= layer < _BEFORE_BLOCKS + layers:
        return f"h{layer - _BEFORE_BLOCKS}.{rest}"
    raise DataError(
        "A parameter of no known layer", where=name, remedy="this is an error of the program: please report it"
    )


def name_in_module(name: str) -> str:
    """A parameter of `WholeModel` by our name."""
    first, _, rest = name.partition(".")
    if first == "blocks":
        number, _, rest = rest.partition(".")
        return f"h{number}.{rest}"
    return {"embedding": "wte", "positions": "wpe", "norm": "ln_f"}[first] + "." + rest.removeprefix("ln.")
