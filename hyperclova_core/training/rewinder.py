"""Steps that are not taken because they would do harm, and going back to before many of them."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.training.checkpoints.committed import steps_in
from hyperclova_core.training.checkpoints.fence import Fence
from hyperclova_core.training.checkpoints.files import complete_checkpoints, remove_checkpoint
from hyperclova_core.training.checkpoints.save_and_load import RankPlacement, load_newest
from hyperclova_core.training.config import SpikeConfig
from hyperclova_core.training.engine.pipeline_engine import StepReport, TrainingEngine
from hyperclova_core.training.health.spikes import Spike, SpikeGuard
from hyperclova_core.training.health.watchdog import Watchdog
from hyperclova_core.training.step_reporter import StepReporter


class Rewinder:
    """Judges steps, the same on every rank, and goes back to a checkpoint where too many in a window were skipped.

    Attributes:
        spike: what is wrong with the step just taken; None: nothing. skipped: steps that were not taken in all.
    """

    def __init__(
        self, config: SpikeConfig, engine: TrainingEngine, fence: Fence, place: RankPlacement, watch: Watchdog
    ) -> None:
        self._config, self._engine, self._fence, self._place, self._watch = config, engine, fence, place, watch
        self._folder = fence.folder
        self._guard = SpikeGuard(config)
        self.spike: Spike | None = None
        self.skipped = 0

    @property
    def rewinds(self) -> int:
        """How often training went back without a calm window since."""
        return self._guard.rewinds

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"skipped_steps": self.skipped, "spikes": self._guard.state()}

    def restore(self, record: dict[str, Any]) -> None:
        """Go on from what a checkpoint kept."""
        self.skipped = int(record["skipped_steps"])
        self._guard = SpikeGuard(self._config, record["spikes"])

    def accept(self, step: int, report: StepReport) -> bool:
        """Whether the weights take a step with these values."""
        self.spike = self._guard.judge(step, report.loss, report.gradient_norm)
        return self.spike is None

    def note_skipped(self, step: int, first_sample: int, read: int, reporter: StepReporter) -> int | None:
        """Count and tell of a step that was not taken; the first of so many that training is to go back to before it, or None.

        Raises:
            DataError: it went back too often already.
        """
        spike = self.spike
        assert spike is not None
        self.skipped += 1
        told = {"measure": spike.measure, "value": spike.value, "bound": spike.bound, "first_sample": first_sample}
        reporter.note({"event": "step skipped", "step": step, **told}, read)
        begun = self._guard.first_of_many(step)
        if begun is not None and self._guard.rewinds >= self._config.max_rewinds:
            raise DataError(
                "Training does not get past a stretch of the corpus",
                where=f"step {step}",
                why=f"{spike.measure} is beyond its bound again and again, after going back {self._guard.rewinds} times",
                remedy="look at the documents that decisions.jsonl names, and leave them out (skip_samples), or lower the rate from a step on"
                " (lr_multipliers): neither makes it another training",
            )
        return begun

    def go_back(self, step: int, begun: int, read: int, reporter: StepReporter) -> dict[str, Any] | None:
        """Load the newest checkpoint before `begun`, and remove those after it; its record, or None where there is none.

        What came after it has learnt from the spike, or from what led to it.
        """
        rewinds = self._guard.rewinds + 1
        self._watch.moved(f"going back from step {step}")
        is_rank0 = dist.get_rank() == 0
        there: list[Any] = [None]
        if is_rank0:
            there = [next(complete_checkpoints(self._folder, below=begun), None) is not None]
        dist.broadcast_object_list(there, src=0)
        if not there[0]:
            why = f"there is no checkpoint before step {begun}"
            reporter.note({"event": "could not go back", "step": step, "why": why}, read)
            return None
        record = load_newest(self._engine, self._folder, self._place, must=True, below=begun)
        assert record is not None
        self._fence.check()
        if is_rank0:
            for later in steps_in(self._folder):
                if later > int(record["step"]):
                    remove_checkpoint(storage.join(self._folder, f"step-{later}"))
        dist.barrier()
        self.restore(record)
        self._guard.went_back(rewinds)
        return record
