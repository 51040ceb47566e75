"""The training loop of one rank: steps, what is told of them, what is skipped, and going back."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.manifest import file_checksum
from hyperclova_core.foundation.errors import DataError, PreemptedError
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.foundation.warehouse import RunFolder
from hyperclova_core.tokens.special_tokens import EOD_ID
from hyperclova_core.training.checkpoints.fence import Fence
from hyperclova_core.training.checkpoints.files import complete_checkpoints, prune, remove_checkpoint, steps_in
from hyperclova_core.training.checkpoints.save_and_load import RankPlacement, load_newest, save_checkpoint
from hyperclova_core.training.config import JobConfig
from hyperclova_core.training.data.samples import CorpusTooShortError, Samples
from hyperclova_core.training.data.token_stream import TokenStream
from hyperclova_core.training.engine.engine import device_kind, is_bf16, set_learning_rate
from hyperclova_core.training.engine.pipeline_engine import StepReport, TrainingEngine
from hyperclova_core.training.engine.throughput import memory_bytes, peak_flops
from hyperclova_core.training.health.non_finite import find_first
from hyperclova_core.training.health.spikes import Spike, SpikeGuard
from hyperclova_core.training.health.watchdog import Watchdog, slow_ranks
from hyperclova_core.training.learning_rate import learning_rate
from hyperclova_core.training.metrics import MetricsLog
from hyperclova_core.training.model.micro_batch import MicroBatch
from hyperclova_core.training.validation import Validation, ValidationResult

log = logging.getLogger("hyperclova.train")


class Stop:
    """Notes SIGTERM; with the next step's sums all ranks learn of it."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: object) -> None:
        self.asked = True


class Training:
    """One rank's training, from wherever it stands to the last step.

    Attributes:
        step: steps done; offset: samples that were left out when training went back.
    """

    def __init__(self, job: JobConfig, engine: TrainingEngine, stop: Stop, watch: Watchdog) -> None:
        self.job, self.config, self.engine, self._stop, self._watch = job, job.train, engine, stop, watch
        self.is_rank0 = dist.get_rank() == 0
        train = self.config
        stream = TokenStream(job.shards, job.vocabulary, job.tokenizer_identity, int(job.cache_gigabytes * 1e9))
        stream.check(dist.get_rank(), dist.get_world_size())
        self.samples = Samples(stream, train.sequence_length, train.seed, train.shuffle_window)
        if self.samples.count < train.global_batch_size:
            raise DataError(
                "The corpus is shorter than one batch",
                where=job.shards[0],
                why=f"{self.samples.count} sequences of {train.sequence_length}, a batch needs {train.global_batch_size}",
                remedy="give more text, or a smaller global_batch_size or sequence_length",
            )
        self.data_rank = engine.grid.get_data_parallel_rank()
        self.validation = self._validation()
        self.plan = train.batches
        self.place = self._place(stream)
        self.folder = job.checkpoints or storage.join(job.output, "checkpoints")
        self.fence = Fence(self.folder)
        self.step, self.offset = 0, 0
        self.loss = math.nan
        self.held: ValidationResult | None = None
        self.skipped = 0
        self.guard = SpikeGuard(train.spikes)
        engine.accept = self._accept
        self._spike: Spike | None = None
        if job.resume != "never":
            record = load_newest(engine, self.folder, self.place, must=job.resume == "must")
            if record is not None:
                self._restore(record)
        if self.is_rank0 and self.step:  # what a killed attempt left
            prune(self.folder, self.step, train.keep_last, train.keep_every)
        self.parameters = self._parameters()
        self.peak, source = peak_flops(is_bf16(train))
        self.parameters["peak_flops_of"] = source
        self.metrics = (
            MetricsLog(
                job.output,
                RunFolder(job.run) if job.run else None,
                job.name,
                job.tags,
                self.parameters,
                self.step,
                self._read(),
                self.folder,
            )
            if self.is_rank0
            else None
        )
        if self.config.lr_multipliers:
            self._note({"event": "rate factors", "factors": str(dict(sorted(self.config.lr_multipliers.items())))})
        self._window_start, self._window_step, self._window_busy = time.monotonic(), self.step, 0.0

    def _validation(self) -> Validation | None:
        if not self.job.validation_shards:
            return None
        try:
            return Validation(self.job, self.data_rank)
        except CorpusTooShortError as error:
            log.warning("No validation: %s", error.why)
            return None

    def _place(self, stream: TokenStream) -> RankPlacement:
        train, grid = self.config, self.engine.grid
        parallel = train.size.parallel
        identity = fingerprint(
            {
                "mathematics": train.reproducibility_key(),
                "bf16": is_bf16(train),
                "vocabulary": [self.job.vocabulary, self.job.padded_vocabulary],
                "shards": self.broadcast_from_rank0(
                    lambda: [file_checksum(f"{prefix}.idx") for prefix in self.job.shards]
                ),
                "ids": self.broadcast_from_rank0(stream.identity),
            }
        )
        return RankPlacement(
            train.size.model,
            self.job.padded_vocabulary,
            train.sequence_length,
            {"pipeline": parallel.pipeline, "tensor": parallel.tensor, "data": parallel.data},
            grid.get_pipe_parallel_rank(),
            grid.get_slice_parallel_rank(),
            self.data_rank,
            identity,
            math.floor(train.read_samples * (1 - train.decay_share)) if train.schedule == "wsd" else None,
        )

    def broadcast_from_rank0(self, find: Callable[[], Any]) -> Any:
        """What the first rank finds; the others need not read for it."""
        told: list[Any] = [find() if self.is_rank0 else None]
        dist.broadcast_object_list(told, src=0)
        return told[0]

    def _parameters(self) -> dict[str, Any]:
        train, model = self.config, self.config.size.model
        return {
            "size": train.size.name,
            "non_embedding_parameters": model.non_embedding_parameters,
            "parameters": model.parameters(self.job.padded_vocabulary, train.sequence_length),
            "tokens": self._tokens_at(self.plan.steps),
            "steps": self.plan.steps,
            "global_batch_size": train.global_batch_size,
            "sequence_length": train.sequence_length,
            "peak_learning_rate": model.learning_rate,
            "schedule": train.schedule,
            "processes": train.size.parallel.processes,
            "pipeline": train.size.parallel.pipeline,
            "tensor": train.size.parallel.tensor,
            "data": train.size.parallel.data,
            "micro_batch_size": train.size.parallel.micro_batch_size,
            "activation_checkpointing": train.size.parallel.activation_checkpointing,
            "device": device_kind(),
            "precision": "bf16" if is_bf16(train) else "fp32",
            "seed": train.seed,
        }

    def _read(self) -> int:
        """Samples read so far, those that were left out included."""
        return self.plan.at(self.step)[0] + self.offset

    def _tokens_at(self, step: int) -> int:
        return self.plan.at(step)[0] * self.config.sequence_length

    def _restore(self, record: dict[str, Any]) -> None:
        self.step, self.offset = int(record["step"]), int(record["data_offset"])
        self.loss = record["loss"]
        self.held = ValidationResult.from_dict(record["validation"]) if record["validation"] else None
        self.skipped = int(record["skipped_steps"])
        self.guard = SpikeGuard(self.config.spikes, record["spikes"])
        if self.is_rank0:
            log.info("goes on after step %d, from %s", self.step, record["folder"])

    def marks_of(self, samples: Samples, first: int, count: int) -> torch.Tensor | None:
        """End-of-document marks among the inputs of samples, where documents are kept apart."""
        if not self.config.separate_documents:
            return None
        ids = samples.batch(first, count)[:, :-1]
        return torch.from_numpy(ids == EOD_ID).to(self.engine.device)

    def _micro_batch_at(self, first: int, batch: int) -> Any:
        micro = self.config.size.parallel.micro_batch_size
        share = batch // self.config.size.parallel.data

        def at(number: int) -> MicroBatch:
            sample = first + self.data_rank * share + number * micro
            return MicroBatch(sample, micro, self.config.seed, self.marks_of(self.samples, sample, micro))

        return at

    def _accept(self, report: StepReport) -> bool:
        self._spike = self.guard.judge(self.step + 1, report.loss, report.gradient_norm)
        return self._spike is None

    def run(self) -> None:
        """Train to the last step.

        Raises:
            PreemptedError: the job was asked to end; a checkpoint is saved.
            DataError: a value is not finite, or training went back too often.
        """
        while self.step < self.plan.steps:
            report = self._take_step()
            last = self.step == self.plan.steps
            if not report.finite:
                self._explain_non_finite()
            if self._spike is not None and self._go_back_if_many():
                continue
            due = self.step % self.config.evaluate_every == 0 or last
            if due and self.validation is not None:
                self._watch.moved(f"validation after step {self.step}")
                self.held = self.validation.run(self.engine, self.marks_of)
            self.log_step(report, due)
            stop = report.flag or self.step == self.job.stop_after
            if (self.config.checkpoint_every and self.step % self.config.checkpoint_every == 0) or last or stop:
                self.save()
            if stop and not last:
                self.close()
                raise PreemptedError(
                    "Training was stopped and saved a checkpoint",
                    where=f"step {self.step}",
                    why="the job was asked to end",
                    remedy="start it again: it resumes there",
                )

    def _take_step(self) -> StepReport:
        first, size = self.plan.at(self.step)
        self._watch.moved(f"step {self.step + 1}")
        self._skip_samples(first, size)
        if self.engine.train_batch_size() != size:
            self.engine.set_train_batch_size(size)
        self._prepare(first + self.offset, size)
        self._spike = None
        self.engine.flag = self._stop.asked
        self.engine.train_batch(data_iter=self._micro_batches(first + self.offset, size))
        self._window_busy += self.engine.busy
        self.step += 1
        report = self.engine.report
        self.loss = report.loss
        return report

    def _skip_samples(self, first: int, size: int) -> None:
        """Jump over stretches of samples that the configuration names."""
        for stretch in sorted(self.config.skip_samples, key=lambda item: item.first):
            begin = first + self.offset
            if stretch.first < begin + size and begin < stretch.first + stretch.count:
                self.offset += stretch.first + stretch.count - begin
                self._note(
                    {
                        "event": "samples left out",
                        "step": self.step + 1,
                        "first_sample": begin,
                        "first_sample_from_now": first + self.offset,
                    }
                )

    def _prepare(self, first: int, size: int) -> None:
        train = self.config
        self.engine.micro_batch_at = self._micro_batch_at(first, size)
        rate = learning_rate(
            self.plan.at(self.step)[0] + size,
            self.plan.at(self.plan.steps)[0],
            train.size.model.learning_rate,
            train.warmup_share,
            train.final_learning_rate_share,
            train.schedule,
            train.decay_share,
        )
        factors = [factor for step, factor in sorted(self.config.lr_multipliers.items()) if step <= self.step + 1]
        set_learning_rate(self.engine, rate * (factors[-1] if factors else 1.0))

    def _micro_batches(self, first: int, size: int) -> Any:
        parallel = self.config.size.parallel
        return self.samples.micro_batches(first, size, parallel.micro_batch_size, self.data_rank, parallel.data)

    def _explain_non_finite(self) -> None:
        first, size = self.plan.at(self.step - 1)
        first += self.offset

        def again() -> None:
            self._prepare(first, size)
            self.engine.accept = lambda _: False
            self.engine.train_batch(data_iter=self._micro_batches(first, size))

        self._watch.moved(f"looking for what is not finite in step {self.step}")
        found = find_first(self.engine, self.config.size.model.layers, again)
        start = self.samples.stream.place_of(int(self.samples.places(first, 1)[0]))
        raise DataError(
            "The loss or its gradient is not a number",
            where=f"step {self.step}, samples {first} to {first + size - 1} ({start})",
            why=found,
            remedy="weights are as they were before this step, and the checkpoints are good; look at that layer and at these samples;"
            " skip_samples and lr_multipliers go on from the checkpoint without them, or with a lower rate",
        )

    def _go_back_if_many(self) -> bool:
        """Go back to a checkpoint before the first of many skipped steps; what was read since is left out from then on."""
        assert self._spike is not None
        spike = self._spike
        self.skipped += 1
        self._note(
            {
                "event": "step skipped",
                "step": self.step,
                "measure": spike.measure,
                "value": spike.value,
                "bound": spike.bound,
                "first_sample": self.plan.at(self.step - 1)[0] + self.offset,
            }
        )
        begun = self.guard.first_of_many(self.step)
        if begun is None:
            return False
        if self.guard.rewinds >= self.config.spikes.max_rewinds:
            raise DataError(
                "Training does not get past a stretch of the corpus",
                where=f"step {self.step}",
                why=f"{spike.measure} is beyond its bound again and again, after going back {self.guard.rewinds} times",
                remedy="look at the documents that decisions.jsonl names, and leave them out (skip_samples), or lower the rate from a step on"
                " (lr_multipliers): neither makes it another training",
            )
        read, rewinds = self._read(), self.guard.rewinds + 1
        self._watch.moved(f"going back from step {self.step}")
        there: list[Any] = [None]
        if self.is_rank0:
            there = [next(complete_checkpoints(self.folder, below=begun), None) is not None]
        dist.broadcast_object_list(there, src=0)
        if not there[0]:
            self._note(
                {"event": "could not go back", "step": self.step, "why": f"there is no checkpoint before step {begun}"}
            )
            return False
        record = load_newest(self.engine, self.folder, self.place, must=True, below=begun)
        assert record is not None
        if self.is_rank0:  # what came after the one that was loaded has learnt from the spike, or from what led to it
            for step in steps_in(self.folder):
                if step > int(record["step"]):
                    remove_checkpoint(storage.join(self.folder, f"step-{step}"))
        dist.barrier()
        left, self.step = self.step, int(record["step"])
        self._restore(record)
        self.guard.went_back(rewinds)
        self.offset = read - self.plan.at(self.step)[0]
        if self.metrics is not None:
            self.metrics.go_back(self.step)
        self._note(
            {
                "event": "went back",
                "from_step": left,
                "to_step": self.step,
                "first_sample_from_now": read,
                "rewinds": rewinds,
            }
        )
        self._window_start, self._window_step = time.monotonic(), self.step
        return True

    def _note(self, decision: dict[str, Any]) -> None:
        if self.metrics is not None:
            log.warning("%s", ", ".join(f"{key} {value}" for key, value in decision.items()))
            self.metrics.decide({**decision, "samples_read": self._read()})

    def log_step(self, report: StepReport, due: bool) -> None:
        train = self.config
        if not (self.step % train.log_every == 0 or due or self.step == 1):
            return
        ratio, slow = slow_ranks(self._window_busy)
        self._window_busy = 0.0
        if self.metrics is None:
            return
        if slow:
            log.warning("step %d: slow ranks %s take up to %.1f times the median", self.step, slow, ratio)
        elapsed, steps = max(time.monotonic() - self._window_start, 1e-9), self.step - self._window_step
        tokens = self._tokens_at(self.step)
        rate = (tokens - self._tokens_at(self._window_step)) / elapsed
        flops = train.size.model.flops_per_token(self.job.padded_vocabulary, train.sequence_length)
        values = {
            "loss": report.loss,
            "learning_rate": self.engine.optimizer.param_groups[0]["lr"],
            "tokens_per_second": rate,
            "training_flops": flops * tokens,
            "gradient_norm": report.gradient_norm,
            "model_flops_utilisation": flops * rate / (self.peak * train.size.parallel.processes),
            "memory_bytes": memory_bytes(),
            "global_batch_size": float(self.plan.at(self.step - 1)[1]),
            "skipped_steps": float(self.skipped),
            "slowest_rank_over_median": ratio,
        }
        held = self.held if due else None
        if held is not None:
            values |= held.values()
        self.metrics.add(self.step, tokens, values)
        self._window_start, self._window_step = time.monotonic(), self.step
        bits = held.bits_per_byte if held is not None else None
        log.info(
            "step %d/%d  loss %.4f%s  norm %.2f  %.0f tokens/s  MFU %.0f %%%s",
            self.step,
            self.plan.steps,
            report.loss,
            f"  validation {held.loss:.4f}" + (f" ({bits:.3f} bits/byte)" if bits else "") if held is not None else "",
            report.gradient_norm,
            rate,
            100 * values["model_flops_utilisation"],
            f"  {_left((self.plan.steps - self.step) * elapsed / max(1, steps))} left"
            if self.step < self.plan.steps
            else "",
        )

    def save(self) -> None:
        """Save a checkpoint of where training stands."""
        self._watch.moved(f"saving after step {self.step}")
        self.fence.check()
        save_checkpoint(
            self.engine,
            self.folder,
            self.place,
            {
                "step": self.step,
                "consumed_samples": self.plan.at(self.step)[0],
                "data_offset": self.offset,
                "loss": self.loss,
                "validation": self.held.to_dict() if self.held is not None else None,
                "skipped_steps": self.skipped,
                "spikes": self.guard.state(),
            },
            self.config.keep_last,
            self.config.keep_every,
        )
        if self.metrics is not None:
            self.metrics.keep_safe()

    def proof_samples(self) -> torch.Tensor:
        """Real sequences that an export is compared on."""
        source = self.validation.samples if self.validation is not None else self.samples
        return torch.from_numpy(source.batch(0, min(2, source.count)))

    def summary(self) -> dict[str, Any]:
        """What `result.json` says."""
        flops = self.config.size.model.flops_per_token(self.job.padded_vocabulary, self.config.sequence_length)
        held = self.held
        return {
            **self.parameters,
            "step": self.step,
            "loss": self.loss,
            "validation_loss": held.loss if held is not None else None,
            "validation_bits_per_byte": held.bits_per_byte if held is not None else None,
            "validation_by_source": held.by_source if held is not None else {},
            "training_flops": flops * self._tokens_at(self.step),
            "skipped_steps": self.skipped,
            "rewinds": self.guard.rewinds,
        }

    def close(self) -> None:
        """Send what is left of the metrics."""
        if self.metrics is not None:
            self.metrics.close()


def _left(seconds: float) -> str:
    """A time in words."""
    hours, minutes = int(seconds // 3600), int(seconds // 60) % 60
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
