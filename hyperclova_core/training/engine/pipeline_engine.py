"""DeepSpeed's pipeline engine, with what it lacks: layers that know their micro-batch, and a look at loss and gradient norm
before the optimizer steps, so that a bad step can be left out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.runtime.bf16_optimizer import BF16_Optimizer
from deepspeed.runtime.pipe import schedule
from deepspeed.runtime.pipe.engine import PipelineEngine
from deepspeed.runtime.utils import get_global_norm_of_tensors

from hyperclova_core.training.model.micro_batch import MicroBatch, enter
from hyperclova_core.training.model.tensor_parallel import WAITED


@dataclass(frozen=True)
class StepReport:
    """What is known of a step on every rank, alike to the bit.

    Args:
        loss: mean of the global batch, nats a token; gradient_norm: before clipping, of the whole model.
        flag: whether any rank raised its flag (such as: end after this step).
    """

    loss: float
    gradient_norm: float
    flag: bool

    @property
    def finite(self) -> bool:
        """Whether both are numbers."""
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm) and self.gradient_norm >= 0


class TrainingEngine(PipelineEngine):
    """The engine of every layout.

    Attributes:
        micro_batch_at: gives the micro-batch of a number in the step (of training or validation that runs now).
        accept: decides whether the optimizer takes the step; called on every rank with an equal report.
        flag: of this rank, told to all with each step.
        busy: seconds of forwards and backwards on this rank in the last step, without waiting for other pipeline stages, nor (on a CPU) for
            the tensor-parallel group; on CUDA a slow rank makes its whole group slow.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.micro_batch_at: Callable[[int], MicroBatch] = lambda number: MicroBatch()
        self.accept: Callable[[StepReport], bool] = lambda report: report.finite
        self.flag = False
        self.busy = 0.0
        self.report = StepReport(math.nan, math.nan, False)
        self.accepted = True
        self._forwarded = 0
        self._events: list[tuple[Any, Any]] = []

    def _exec_schedule(self, pipe_schedule: Any) -> None:
        self._forwarded, self.busy, self._events = 0, 0.0, []
        super()._exec_schedule(pipe_schedule)

    def _timed_forward(self, buffer_id: int) -> None:
        enter(self.micro_batch_at(self._forwarded))
        self._forwarded += 1
        self._timed(self._exec_forward_pass, buffer_id)

    def _timed_backward(self, buffer_id: int) -> None:
        self._timed(self._exec_backward_pass, buffer_id)

    def _timed(self, work: Callable[[int], None], buffer_id: int) -> None:
        if (
            self.device.type == "cuda"
        ):  # the device works on while this returns: what it took is asked when the step is over
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begun.record()
            work(buffer_id)
            ended.record()
            self._events.append((begun, ended))
            return
        started, waited = time.perf_counter(), WAITED.seconds
        work(buffer_id)
        self.busy += time.perf_counter() - started - (WAITED.seconds - waited)

    def _judged_step(self, lr_kwargs: Any = None) -> None:
        norm = self._gradient_norm()
        self.report = self._told_to_all(norm)
        self.accepted = self.report.finite and self.accept(self.report)
        if isinstance(self.optimizer, BF16_Optimizer):
            if not self.accepted:
                self.optimizer.clear_hp_grads()
                self.optimizer.clear_lp_grads()
                self.global_steps += 1
                return
            self._exec_optimizer_step(lr_kwargs)
            return
        # the norm is reckoned once; a refused step takes DeepSpeed's own way out of an overflow, which clears its gradients
        known = norm if self.accepted else torch.full_like(norm, -1.0)
        self.optimizer.scaled_global_norm = lambda *_: known
        try:
            self._exec_optimizer_step(lr_kwargs)
        finally:
            del self.optimizer.scaled_global_norm

    def _gradient_norm(self) -> torch.Tensor:
        if isinstance(self.optimizer, BF16_Optimizer):
            gradients, _ = self.optimizer.get_grads_for_norm()
            norm = get_global_norm_of_tensors(input_tensors=gradients, mpu=self.mpu, norm_type=2)
            return norm if isinstance(norm, torch.Tensor) else torch.tensor(float(norm), device=self.device)
        norm = self.optimizer.scaled_global_norm()
        return norm if isinstance(norm, torch.Tensor) else torch.tensor(float(norm), device=self.device)

    def _told_to_all(self, norm: torch.Tensor) -> StepReport:
        own = torch.zeros(3, dtype=torch.float64, device=self.device)
        if self.is_last_stage():
            own[0] = self._scale_loss_by_gas(self.total_loss).detach().double()
        if self.global_rank == 0:
            own[1] = norm.detach().double()
        own[2] = float(self.flag)
        dist.all_reduce(own)
        loss, known, flags = own.tolist()
        self.busy += sum(begun.elapsed_time(ended) for begun, ended in self._events) / 1000
        return StepReport(loss / (self.dp_world_size * self.grid.model_parallel_size), known, flags > 0)

    def _aggregate_total_loss(self) -> torch.Tensor:
        return torch.tensor(self.report.loss)

    _INSTRUCTION_MAP = {
        **PipelineEngine._INSTRUCTION_MAP,
        schedule.OptimizerStep: _judged_step,
        schedule.ForwardPass: _timed_forward,
        schedule.BackwardPass: _timed_backward,
    }
