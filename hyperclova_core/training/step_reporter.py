"""What is told of a training: lines of its log, rows of metrics, decisions, and what it is trained with."""

from __future__ import annotations

import logging
import time
from typing import Any

import torch.distributed as dist

from hyperclova_core.foundation.warehouse import RunFolder
from hyperclova_core.training.config import JobConfig
from hyperclova_core.training.engine.engine import device_kind, is_bf16
from hyperclova_core.training.engine.pipeline_engine import StepReport, TrainingEngine
from hyperclova_core.training.engine.throughput import memory_bytes, peak_flops
from hyperclova_core.training.health.watchdog import slow_ranks
from hyperclova_core.training.learning_rate import BatchPlan
from hyperclova_core.training.metrics import MetricsLog
from hyperclova_core.training.validation import ValidationResult

log = logging.getLogger("hyperclova.train")


class StepReporter:
    """Tells of steps. All ranks have one, for slow ranks are found together; rank 0's alone writes.

    Attributes:
        parameters: what the training is of, as MLflow has it.
    """

    def __init__(
        self, job: JobConfig, plan: BatchPlan, engine: TrainingEngine, step: int, samples_read: int, checkpoints: str
    ) -> None:
        self._job, self._train, self._plan, self._engine = job, job.train, plan, engine
        self.parameters = self._parameters()
        self._peak, source = peak_flops(is_bf16(self._train))
        self.parameters["peak_flops_of"] = source
        self._metrics: MetricsLog | None = None
        if dist.get_rank() == 0:
            run = RunFolder(job.run) if job.run else None
            self._metrics = MetricsLog(
                job.output, run, job.name, job.tags, self.parameters, step, samples_read, checkpoints
            )
        self._window_start, self._window_step, self._window_busy = time.monotonic(), step, 0.0

    def _parameters(self) -> dict[str, Any]:
        train, model = self._train, self._train.size.model
        parallel = train.size.parallel
        return {
            "size": train.size.name,
            "non_embedding_parameters": model.non_embedding_parameters,
            "parameters": model.parameters(self._job.padded_vocabulary, train.sequence_length),
            "tokens": self.tokens_at(self._plan.steps),
            "steps": self._plan.steps,
            "global_batch_size": train.global_batch_size,
            "sequence_length": train.sequence_length,
            "peak_learning_rate": model.learning_rate,
            "schedule": train.schedule,
            "processes": parallel.processes,
            "pipeline": parallel.pipeline,
            "tensor": parallel.tensor,
            "data": parallel.data,
            "micro_batch_size": parallel.micro_batch_size,
            "activation_checkpointing": parallel.activation_checkpointing,
            "device": device_kind(),
            "precision": "bf16" if is_bf16(train) else "fp32",
            "seed": train.seed,
        }

    def tokens_at(self, step: int) -> int:
        """Tokens that are trained on when so many steps are done."""
        return self._plan.at(step)[0] * self._train.sequence_length

    def flops_at(self, step: int) -> float:
        """Operations of so many steps."""
        each = self._train.size.model.flops_per_token(self._job.padded_vocabulary, self._train.sequence_length)
        return each * self.tokens_at(step)

    def note(self, decision: dict[str, Any], samples_read: int) -> None:
        """Tell of a decision: a step skipped, samples left out, training gone back."""
        if self._metrics is not None:
            log.warning("%s", ", ".join(f"{key} {value}" for key, value in decision.items()))
            self._metrics.decide({**decision, "samples_read": samples_read})

    def took(self, seconds: float) -> None:
        """A step kept this rank busy for so long."""
        self._window_busy += seconds

    def step(self, step: int, report: StepReport, held: ValidationResult | None, due: bool, skipped: int) -> None:
        """Tell of a step, where it is one that is told of. All ranks call it.

        Args:
            held: the newest validation; due: whether it is of this step.
        """
        train = self._train
        if not (step % train.log_every == 0 or due or step == 1):
            return
        ratio, slow = slow_ranks(self._window_busy)
        self._window_busy = 0.0
        if self._metrics is None:
            return
        if slow:
            log.warning("step %d: slow ranks %s take up to %.1f times the median", step, slow, ratio)
        elapsed, steps = max(time.monotonic() - self._window_start, 1e-9), step - self._window_step
        tokens = self.tokens_at(step)
        rate = (tokens - self.tokens_at(self._window_step)) / elapsed
        flops = train.size.model.flops_per_token(self._job.padded_vocabulary, train.sequence_length)
        values = {
            "loss": report.loss,
            "learning_rate": self._engine.optimizer.param_groups[0]["lr"],
            "tokens_per_second": rate,
            "training_flops": flops * tokens,
            "gradient_norm": report.gradient_norm,
            "model_flops_utilisation": flops * rate / (self._peak * train.size.parallel.processes),
            "memory_bytes": memory_bytes(),
            "global_batch_size": float(self._plan.at(step - 1)[1]),
            "skipped_steps": float(skipped),
            "slowest_rank_over_median": ratio,
        }
        if held is not None and due:
            values |= held.values()
        self._metrics.add(step, tokens, values)
        self._window_start, self._window_step = time.monotonic(), step
        said = ""
        if held is not None and due:
            bits = f" ({held.bits_per_byte:.3f} bits/byte)" if held.bits_per_byte else ""
            said = f"  validation {held.loss:.4f}{bits}"
        left = f"  {_left((self._plan.steps - step) * elapsed / max(1, steps))} left" if step < self._plan.steps else ""
        log.info(
            "step %d/%d  loss %.4f%s  norm %.2f  %.0f tokens/s  MFU %.0f %%%s",
            step,
            self._plan.steps,
            report.loss,
            said,
            report.gradient_norm,
            rate,
            100 * values["model_flops_utilisation"],
            left,
        )

    def go_back(self, step: int) -> None:
        """Training stands at an earlier step: what was told of the later ones is forgotten."""
        if self._metrics is not None:
            self._metrics.go_back(step)
        self._window_start, self._window_step = time.monotonic(), step

    def keep_safe(self) -> None:
        """Put what was told beside a checkpoint."""
        if self._metrics is not None:
            self._metrics.keep_safe()

    def close(self) -> None:
        """Send what is left of the metrics."""
        if self._metrics is not None:
            self._metrics.close()


def _left(seconds: float) -> str:
    """A time in words."""
    hours, minutes = int(seconds // 3600), int(seconds // 60) % 60
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
