"""The rank's program with one fault, named by TEST_FAULT as `NAME` or `NAME:NUMBER`; what is not named runs as it is."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import torch

from hyperclova_core.foundation import storage
from hyperclova_core.training import loop, rank, rewinder
from hyperclova_core.training.checkpoints import save_and_load
from hyperclova_core.training.engine import pipeline_engine
from hyperclova_core.training.export import export
from hyperclova_core.training.model import gpt, tensor_parallel

KILLED_RANK = int(os.environ.get("TEST_FAULT_RANK", "0"))


def die() -> None:
    """As the kernel's out-of-memory killer ends a process."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def mine() -> bool:
    """Whether this is the rank that has the fault."""
    return int(os.environ["RANK"]) == KILLED_RANK


def at_step(number: int, action: Any) -> None:
    """Do something when so many steps are done, before the next."""
    before = loop.Training._take_step

    def take(self: Any) -> Any:
        if self.step == number and mine():
            action(self)
        return before(self)

    loop.Training._take_step = take  # type: ignore[method-assign]


def kill_in_step(number: int) -> None:
    at_step(number, lambda training: die())


def supersede(number: int) -> None:
    """Another attempt begins elsewhere, on the same folder."""
    at_step(number, lambda training: storage.write_json(training.fence._path, {"attempt": "other", "began_at": "now"}))


def supersede_in_save(number: int) -> None:
    """Another attempt begins elsewhere while this one writes its second checkpoint."""
    before, saves = save_and_load.checksum_of, []

    def checksum(path: str) -> str:
        saves.append(path)
        if len(saves) == number and mine():
            folder = Path(path).parents[1]
            storage.write_json(str(folder / "attempt.json"), {"attempt": "other", "began_at": "now"})
        return before(path)

    save_and_load.checksum_of = checksum


def kill_in_file(number: int) -> None:
    """In the middle of writing a rank's file."""
    whole = save_and_load.save_file

    def half(tensors: Any, path: str) -> None:
        whole(tensors, path)
        with open(path, "r+b") as file:
            file.truncate(os.path.getsize(path) // 2)
        if int(os.environ.get("TEST_SAVED", "0")) >= number and mine():
            die()
        os.environ["TEST_SAVED"] = str(int(os.environ.get("TEST_SAVED", "0")) + 1)
        whole(tensors, path)

    save_and_load.save_file = half


def kill_before_manifest(number: int) -> None:
    """All files are there, the manifest is not."""
    steps: list[int] = []
    before = save_and_load._optimizer_steps

    def count(engine: Any) -> int:
        steps.append(1)
        if len(steps) > number:
            die()
        return before(engine)

    save_and_load._optimizer_steps = count


def own_disk(number: int) -> None:
    """What this rank writes is not seen by the others."""
    before = save_and_load.storage.install

    def install(temporary: str, uri: str, checksum: str | None = None, durable: bool = True) -> None:
        before(temporary, uri, checksum, durable)
        if mine() and "checkpoints" in uri:
            os.unlink(uri)

    save_and_load.storage.install = install  # type: ignore[attr-defined]


def still(number: int) -> None:
    """No step is taken."""
    loop.Training._accept = lambda self, report: False  # type: ignore[method-assign]


def kill_in_prune(number: int) -> None:
    """An old checkpoint is invisible, its files are still there."""
    before = save_and_load.storage.remove_tree

    def remove(base: str) -> None:
        if "step-" in base:
            die()
        before(base)

    save_and_load.storage.remove_tree = remove  # type: ignore[attr-defined]


def kill_in_going_back(number: int) -> None:
    """A checkpoint from after the spikes is invisible, its files are still there."""

    def remove(base: str) -> None:
        rewinder.storage.remove(f"{base}/manifest.json")
        die()

    rewinder.remove_checkpoint = remove


def kill_in_export(number: int) -> None:
    before = export.storage.install
    names: list[str] = []

    def install(temporary: str, uri: str, checksum: str | None = None, durable: bool = True) -> None:
        if "/model/" in uri:
            names.append(uri)
            if len(names) > 1:
                die()
        before(temporary, uri, checksum, durable)

    export.storage.install = install  # type: ignore[attr-defined]


def terminate(number: int) -> None:
    at_step(number, lambda training: os.kill(os.getpid(), signal.SIGTERM))


def hang(number: int) -> None:
    at_step(number, lambda training: time.sleep(600))


def hang_early(number: int) -> None:
    """A rank does not come to where groups are made."""
    from hyperclova_core.training.engine import engine

    before = engine.build_engine

    def build(job: Any, topology: Any) -> Any:
        if mine():
            time.sleep(600)
        return before(job, topology)

    engine.build_engine = build


def slow_export(number: int) -> None:
    before = export._write_weights

    def write(reader: Any, folder: str) -> None:
        time.sleep(9)
        before(reader, folder)

    export._write_weights = write


def infinite_loss_at_sample(number: int) -> None:
    """A sample whose loss is not a number, each time it is read."""
    before = pipeline_engine.TrainingEngine._told_to_all

    def told(self: Any, norm: torch.Tensor) -> Any:
        first = self.micro_batch_at(0).first
        if first <= number < first + 8:
            self.total_loss = self.total_loss * float("nan")
        return before(self, norm)

    pipeline_engine.TrainingEngine._told_to_all = told  # type: ignore[method-assign]


def halt(number: int) -> None:
    at_step(number, lambda training: os.kill(os.getpid(), signal.SIGSTOP))


def slow(number: int) -> None:
    before = pipeline_engine.TrainingEngine._exec_forward_pass

    def forward(self: Any, buffer_id: int) -> None:
        if mine():
            time.sleep(0.05)
        before(self, buffer_id)

    pipeline_engine.TrainingEngine._exec_forward_pass = forward


def full(number: int) -> None:
    """The disk is full when the checkpoint is written, of which a part fits."""

    def limit(training: Any) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    at_step(number, limit)


def infinite_weight(number: int) -> None:
    def set_weight(training: Any) -> None:
        for name, value in training.engine.module.named_parameters():
            if name.endswith("3.fc.weight"):
                value.data[0, 0] = float("inf")

    at_step(number, set_weight)


def infinite_output(number: int) -> None:
    """Attention's output of block 1 is not finite from a step on."""

    def hook(training: Any) -> None:
        for name, module in training.engine.module.named_modules():
            if name.endswith("3.proj"):
                module.register_forward_hook(lambda *parts: parts[2] * float("inf"))

    at_step(number, hook)


class _Spoilt(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * float("nan")


def infinite_gradient(number: int) -> None:
    """What goes back through block 0's norm before the MLP is not finite."""

    def hook(training: Any) -> None:
        for name, module in training.engine.module.named_modules():
            if name.endswith("2.fc"):
                module.register_forward_pre_hook(lambda *parts: (_Spoilt.apply(parts[1][0]),))

    at_step(number, hook)


def no_tensor_sum(number: int) -> None:
    """Gradients of a column-parallel layer's input are not summed over the group."""
    tensor_parallel._CopyToGroup.backward = staticmethod(lambda ctx, gradient: gradient)  # type: ignore[method-assign]


def own_norm(number: int) -> None:
    """Clipping by the norm of the rank's own stage: DeepSpeed's with ZeRO-0."""

    def norm(self: Any) -> torch.Tensor:
        values = [g for group in self.optimizer.averaged_gradients.values() for g in group]
        return torch.linalg.vector_norm(torch.cat([value.reshape(-1) for value in values]))

    pipeline_engine.TrainingEngine._gradient_norm = norm  # type: ignore[method-assign]


def own_norm_bf16(number: int) -> None:
    """The same for the optimizer that bf16 has."""

    def norm(self: Any) -> torch.Tensor:
        gradients, _ = self.optimizer.get_grads_for_norm()
        return torch.linalg.vector_norm(torch.cat([gradient.reshape(-1) for gradient in gradients]))

    pipeline_engine.TrainingEngine._gradient_norm = norm  # type: ignore[method-assign]


def reentrant(number: int) -> None:
    """Reentrant activation checkpointing of the whole first stage, as PipelineModule does it by itself."""
    from torch.utils.checkpoint import checkpoint

    for kind in (gpt.VocabularyParallelEmbedding, gpt.Positions, gpt.Block):
        before = kind.forward

        def again(self: Any, x: Any, before: Any = before) -> Any:
            return checkpoint(
                lambda value: before(self, value), x.detach() if x.is_floating_point() else x, use_reentrant=True
            )

        kind.forward = again  # type: ignore[method-assign]


def main() -> None:
    """Put the fault in, then run."""
    name, _, number = os.environ["TEST_FAULT"].partition(":")
    globals()[name](int(number or 0))
    rank.main()
