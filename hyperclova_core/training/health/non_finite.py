"""Which layer made the first value that is not a number: the step is done again with every layer watched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.distributed as dist

from hyperclova_core.training.model.gpt import Block
from hyperclova_core.training.model.micro_batch import current
from hyperclova_core.training.model.weights import name_in_pipeline


@dataclass
class _Found:
    """First findings of this rank: (layer, name, sample)."""

    forwards: list[tuple[int, str, int]] = field(default_factory=list)
    backwards: list[tuple[int, str, int]] = field(default_factory=list)


def find_first(engine: Any, layers: int, again: Any) -> str:
    """In words, where values first are not finite. Every rank calls it.

    Args:
        layers: of the model.
        again: does the step again (its gradients are not used).
    """
    bad = [name_in_pipeline(name, layers) for name, value in engine.module.named_parameters() if not _finite(value)]
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, bad)
    names = sorted({name for one in every for name in one}, key=lambda name: _order(name, layers))
    if names:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"the weight {names[0]}{more} is not finite: it was so before this step"
    found = _Found()
    with _watched(
        engine.module,
        layers,
        lambda module, number, name: module.register_forward_hook(_forward_hook(found, number, name)),
    ):
        again()
    dist.all_gather_object(every, found.forwards[:1])
    forwards = sorted((sample, number, name) for one in every for number, name, sample in one)
    if forwards:
        return f"first in the output of {forwards[0][2]}, of the micro-batch that begins with sample {forwards[0][0]}"
    with (
        _all_kept(engine.module),
        _watched(
            engine.module,
            layers,
            lambda module, number, name: module.register_full_backward_hook(_backward_hook(found, number, name)),
        ),
    ):
        again()
    dist.all_gather_object(every, found.backwards[:1])
    backwards = sorted((-number, sample, name) for one in every for number, name, sample in one)
    if backwards:
        return f"all outputs are finite; going backwards, first in the gradient that {backwards[0][2]} passes on (sample {backwards[0][1]})"
    return "every output and gradient of a layer is finite: it is in the loss itself, or in the sum over ranks"


@contextmanager
def _watched(pipeline: Any, layers: int, register: Callable[[torch.nn.Module, int, str], Any]) -> Iterator[None]:
    handles = [register(module, number, name) for number, name, module in _modules(pipeline, layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _all_kept(pipeline: Any) -> Iterator[None]:
    """Nothing is computed again: hooks of going backwards would change what is kept from the first time to the second."""
    blocks = [module for module in pipeline.modules() if isinstance(module, Block)]
    before = [block.how for block in blocks]
    for block in blocks:
        block.how = replace(block.how, activation_checkpointing="none")
    try:
        yield
    finally:
        for block, how in zip(blocks, before, strict=True):
            block.how = how


def _finite(value: torch.Tensor) -> bool:
    # detached: what autograd keeps must be the same when a block is computed again
    return bool(torch.isfinite(value.detach()).all())


def _order(name: str, layers: int) -> int:
    first = name.split(".")[0]
    return {"wte": -2, "wpe": -1, "ln_f": layers}.get(first, int(first[1:]) if first[1:].isdigit() else layers)


def _modules(pipeline: Any, layers: int) -> Iterator[tuple[int, str, torch.nn.Module]]:
    """Leaf layers in the order of the model, with a number that orders them over all stages."""
    count = 0
    for index, layer in enumerate(pipeline.forward_funcs):
        number = pipeline._local_start + index
        if not isinstance(layer, torch.nn.Module):
            continue
        label = {0: "the token embedding", 1: "the position embedding", 2 + layers: "the final norm"}.get(
            number, f"block {number - 2}"
        )
        leaves = [(name, module) for name, module in layer.named_modules() if not list(module.children())]
        for name, module in leaves:
            count += 1
            yield number * 1000 + count, f"{label}{f', {name}' if name else ''}", module


def _forward_hook(found: _Found, number: int, name: str) -> Any:
    def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if not found.forwards and isinstance(output, torch.Tensor) and not _finite(output):
            found.forwards.append((number, name, current().first))

    return hook


def _backward_hook(found: _Found, number: int, name: str) -> Any:
    def hook(module: torch.nn.Module, passed_on: Any, received: Any) -> None:
        values = [value for value in passed_on if isinstance(value, torch.Tensor)]
        if not found.backwards and any(not _finite(value) for value in values):
            found.backwards.append((number, name, current().first))

    return hook
