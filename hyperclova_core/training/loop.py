"""One rank's training, from top to bottom: begin or resume, step after step, validation, checkpoints, the end."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.manifest import file_checksum
from hyperclova_core.foundation.errors import DataError, PreemptedError
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.tokens.special_tokens import EOD_ID
from hyperclova_core.training.checkpoints.fence import Fence
from hyperclova_core.training.checkpoints.files import prune
from hyperclova_core.training.checkpoints.save_and_load import RankPlacement, load_newest, save_checkpoint
from hyperclova_core.training.config import JobConfig
from hyperclova_core.training.data.samples import CorpusTooShortError, Samples
from hyperclova_core.training.data.token_stream import TokenStream, index_checksums
from hyperclova_core.training.engine.engine import is_bf16, set_learning_rate
from hyperclova_core.training.engine.pipeline_engine import StepReport, TrainingEngine
from hyperclova_core.training.health.non_finite import find_first
from hyperclova_core.training.health.watchdog import Watchdog
from hyperclova_core.training.learning_rate import learning_rate
from hyperclova_core.training.model.micro_batch import MicroBatch
from hyperclova_core.training.rewinder import Rewinder
from hyperclova_core.training.step_reporter import StepReporter
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
        # one rank looks whose shards they are: thousands of ranks that did would ask the store millions of times
        tokenizer = job.tokenizer_identity if self.is_rank0 else None
        stream = TokenStream(job.shards, job.vocabulary, tokenizer, int(job.cache_gigabytes * 1e9))
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
        self.rewinder = Rewinder(train.spikes, engine, self.fence, self.place, watch)
        engine.accept = self._accept
        if job.resume != "never":
            record = load_newest(engine, self.folder, self.place, must=job.resume == "must")
            if record is not None:
                self._restore(record)
        self.fence.check()
        if self.is_rank0 and self.step:  # what a killed attempt left
            prune(self.folder, self.step, train.keep_last, train.keep_every)
        self.reporter = StepReporter(job, self.plan, engine, self.step, self._read(), self.folder)
        if self.config.lr_multipliers:
            self._note({"event": "rate factors", "factors": str(dict(sorted(self.config.lr_multipliers.items())))})

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
                "shards": self.broadcast_from_rank0(self._index_checksums),
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

    def _index_checksums(self) -> list[str]:
        """Of the shards' indexes: as their dataset's manifest says, or read."""
        job = self.job
        known = index_checksums(job.shards_dataset) if job.shards_dataset is not None else {}
        found = []
        for prefix in job.shards:
            self._watch.moved(f"identity of {prefix}")
            path = f"{prefix}.idx"
            found.append(known[path] if path in known else file_checksum(path))
        return found

    def broadcast_from_rank0(self, find: Callable[[], Any]) -> Any:
        """What the first rank finds; the others need not read for it."""
        told: list[Any] = [find() if self.is_rank0 else None]
        dist.broadcast_object_list(told, src=0)
        return told[0]

    def _read(self) -> int:
        """Samples read so far, those that were left out included."""
        return self.plan.at(self.step)[0] + self.offset

    def _restore(self, record: dict[str, Any]) -> None:
        self._stand_at(record)
        self.rewinder.restore(record)

    def _stand_at(self, record: dict[str, Any]) -> None:
        """Where a checkpoint's training stood."""
        self.step, self.offset = int(record["step"]), int(record["data_offset"])
        self.loss = record["loss"]
        self.held = ValidationResult.from_dict(record["validation"]) if record["validation"] else None
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
        return self.rewinder.accept(self.step + 1, report)

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
            if self.rewinder.spike is not None and self._go_back_if_many():
                continue
            due = self.step % self.config.evaluate_every == 0 or last
            if due and self.validation is not None:
                self._watch.moved(f"validation after step {self.step}")
                self.held = self.validation.run(self.engine, self.marks_of)
            self.reporter.step(self.step, report, self.held, due, self.rewinder.skipped)
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
        self.rewinder.spike = None
        self.engine.flag = self._stop.asked
        self.engine.train_batch(data_iter=self._micro_batches(first + self.offset, size))
        self.reporter.took(self.engine.busy)
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
        read, left = self._read(), self.step
        first_sample = self.plan.at(self.step - 1)[0] + self.offset
        begun = self.rewinder.note_skipped(self.step, first_sample, read, self.reporter)
        if begun is None:
            return False
        record = self.rewinder.go_back(self.step, begun, read, self.reporter)
        if record is None:
            return False
        rewinds = self.rewinder.rewinds
        self._stand_at(record)
        self.offset = read - self.plan.at(self.step)[0]
        self.reporter.go_back(self.step)
        went = {"from_step": left, "to_step": self.step, "first_sample_from_now": read, "rewinds": rewinds}
        self._note({"event": "went back", **went})
        return True

    def _note(self, decision: dict[str, Any]) -> None:
        self.reporter.note(decision, self._read())

    def save(self) -> None:
        """Save a checkpoint of where training stands."""
        self._watch.moved(f"saving after step {self.step}")
        save_checkpoint(
            self.engine,
            self.fence,
            self.place,
            {
                "step": self.step,
                "consumed_samples": self.plan.at(self.step)[0],
                "data_offset": self.offset,
                "loss": self.loss,
                "validation": self.held.to_dict() if self.held is not None else None,
                **self.rewinder.state(),
            },
            self.config.keep_last,
            self.config.keep_every,
        )
        self.reporter.keep_safe()

    def proof_samples(self) -> torch.Tensor:
        """Real sequences that an export is compared on."""
        source = self.validation.samples if self.validation is not None else self.samples
        return torch.from_numpy(source.batch(0, min(2, source.count)))

    def summary(self) -> dict[str, Any]:
        """What `result.json` says."""
        held = self.held
        return {
            **self.reporter.parameters,
            "step": self.step,
            "loss": self.loss,
            "validation_loss": held.loss if held is not None else None,
            "validation_bits_per_byte": held.bits_per_byte if held is not None else None,
            "validation_by_source": held.by_source if held is not None else {},
            "training_flops": self.reporter.flops_at(self.step),
            "skipped_steps": self.rewinder.skipped,
            "rewinds": self.rewinder.rewinds,
        }

    def close(self) -> None:
        """Send what is left of the metrics."""
        self.reporter.close()
