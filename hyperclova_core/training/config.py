"""Configuration of training: what a recipe says of the ladder, and what one rank's program is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.training.config_checks import refuse_engine_settings, refuse_layout
from hyperclova_core.training.learning_rate import BatchPlan
from hyperclova_core.training.model.layout import ParallelConfig
from hyperclova_core.training.model.sizes import ModelSize, size_named


class SizeConfig(Config):
    """One model of the ladder: a named size, or a shape of its own."""

    name: str
    shape: ModelSize | None = None
    parallel: ParallelConfig = ParallelConfig()

    @property
    def model(self) -> ModelSize:
        """The shape."""
        return self.shape or size_named(self.name)


class BatchRampConfig(Config):
    """The global batch grows from `start` in steps of `increment` while the first `tokens` are read (GPT-3, appendix B)."""

    start: int = Field(ge=1, description="sequences")
    increment: int = Field(ge=1, description="sequences")
    tokens: int = Field(ge=1)


class SpikeConfig(Config):
    """Steps that are not taken, and when training goes back (after OLMo's SkipStepOptimizer, which takes 6 of 128)."""

    deviations: float = Field(
        6.0, gt=0, description="above the mean of the window: loss or gradient norm; a step beyond is skipped"
    )
    window: int = Field(
        128, ge=8, description="steps whose mean and deviation count; the rule begins when half of them are there"
    )
    rewind_after: int = Field(
        3, ge=1, description="skipped steps within a window before training goes back to a checkpoint"
    )
    max_rewinds: int = Field(
        3, ge=0, description="goings back without a calm window between them, before training ends with an error"
    )
    enabled: bool = True


class SkippedSamples(Config):
    """A stretch of samples."""

    first: int = Field(ge=0)
    count: int = Field(ge=1)


class TrainConfig(Config):
    """The training of one model; equal configs on equal shards give equal weights. This is what the fingerprint sees."""

    RENAMED: ClassVar[Mapping[str, str]] = {
        "context": "sequence_length",
        "global_batch": "global_batch_size",
        "leave_out": "skip_samples",
        "rate_factors": "lr_multipliers",
    }

    size: SizeConfig
    tokens: int = Field(1_000_000, ge=1, description="training tokens; rounded down to whole global batches")
    sequence_length: int = Field(128, ge=8, description="tokens a sequence")
    global_batch_size: int = Field(16, ge=1, description="sequences a step")
    batch_ramp: BatchRampConfig | None = None
    schedule: Literal["cosine", "wsd"] = Field(
        "cosine",
        description="of the learning rate after warm-up: a cosine to the end, or stable and then a linear decay",
    )
    warmup_share: float = Field(0.1, ge=0, lt=1, description="of the samples")
    decay_share: float = Field(0.2, gt=0, le=1, description="of the samples, at the end; schedule wsd")
    final_learning_rate_share: float = Field(0.1, ge=0, le=1, description="of the peak, where the schedule ends")
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    gradient_clipping: float = Field(1.0, ge=0, description="largest norm; 0: none")
    dropout: float = Field(0.0, ge=0, lt=1, description="of embeddings and of what each half of a block adds")
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    separate_documents: bool = Field(
        False,
        description="attention and positions begin anew at each end-of-document mark; costs a mask of context² a sequence",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on CUDA, fp32 on a CPU")
    seed: int = 0
    shuffle_window: int = Field(
        1024, ge=1, description="samples permuted among themselves; the shards lie in training order already"
    )
    spikes: SpikeConfig = SpikeConfig()
    evaluate_every: int = Field(50, ge=1, description="steps between validations")
    validation_sequences: int = Field(128, ge=1, description="at most")
    log_every: int = Field(5, ge=1)
    checkpoint_every: int = Field(0, ge=0, description="steps between checkpoints; 0: at the end only")
    keep_last: int = Field(2, ge=1, description="checkpoints kept of the newest")
    keep_every: int = Field(0, ge=0, description="checkpoints at multiples of so many steps are kept for good; 0: none")
    skip_samples: tuple[SkippedSamples, ...] = Field(
        (), description="samples that are not read: where training does not get past them (decisions.jsonl names them)"
    )
    lr_multipliers: dict[int, float] = Field(
        default_factory=dict, description="step → factor of the learning rate from there on: an intervention by hand"
    )
    deterministic: bool = Field(False, description="on CUDA: only kernels that give the same bits again; slower")
    hang_seconds: int = Field(600, ge=5, description="without progress, before all ranks write their stacks and end")
    deepspeed: dict[str, Any] = Field(default_factory=dict, description="further settings of the engine")

    @property
    def samples(self) -> int:
        """Sequences of the whole training."""
        return self.tokens // self.sequence_length

    @property
    def batches(self) -> BatchPlan:
        """Sizes of all global batches."""
        ramp = self.batch_ramp
        if ramp is None:
            return BatchPlan(self.samples, self.global_batch_size)
        return BatchPlan(
            self.samples, self.global_batch_size, ramp.start, ramp.increment, ramp.tokens // self.sequence_length
        )

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.batches.steps

    @property
    def read_samples(self) -> int:
        """Sequences that whole batches take: what the schedule goes by."""
        return self.batches.at(self.steps)[0]

    def reproducibility_key(self) -> dict[str, Any]:
        """What decides the weights up to rounding: not the layout, not what is logged or kept, and not what a person changes by hand to get
        past a fault (spikes, skip_samples, lr_multipliers), which the run's decisions tell. A checkpoint goes on under any layout, but under no
        other mathematics. A stable phase (wsd) may be made longer."""
        left_out = {
            "evaluate_every",
            "validation_sequences",
            "log_every",
            "checkpoint_every",
            "keep_last",
            "keep_every",
            "hang_seconds",
            "spikes",
            "skip_samples",
            "lr_multipliers",
            "deterministic",
        }
        data = self.model_dump(mode="json", exclude={*left_out, "size", "deepspeed"})
        if self.schedule == "wsd":
            data = {
                **data,
                "tokens": 0,
                "decay_share": 0,
                "warmup_share": 0,
                "warmup_samples": round(self.read_samples * self.warmup_share),
            }
        return {**data, "model": self.size.model.model_dump(mode="json")}

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        parallel, model = self.size.parallel, self.size.model
        refuse_layout(model, parallel, self.batches)
        refuse_engine_settings(self.deepspeed)
        if self.schedule == "wsd" and self.warmup_share + self.decay_share > 1:
            raise ValueError(
                f"warmup_share {self.warmup_share} and decay_share {self.decay_share} are more than the whole"
            )
        if self.steps < 1:
            raise ValueError(
                f"{self.tokens} tokens are less than one batch of {self.sequence_length * self.global_batch_size}"
            )
        return self


class LadderConfig(Config):
    """The recipe's `train` section: common settings and the sizes."""

    sizes: tuple[SizeConfig, ...] = ()
    settings: dict[str, object] = Field(
        default_factory=dict, description="of every size: keys of the training of one model"
    )

    def of(self, name: str, seed: int) -> TrainConfig:
        """The training of one size.

        Raises:
            ConfigError: there is no such size in the recipe, or its settings do not fit.
        """
        from hyperclova_core.foundation.config import parse

        for size in self.sizes:
            if size.name == name:
                return parse(
                    TrainConfig, {"seed": seed, **self.settings, "size": size.model_dump()}, f"train, size {name}"
                )
        raise ConfigError(
            f"The recipe trains no size {name}",
            where="train.sizes",
            why=f"it has {', '.join(s.name for s in self.sizes)}",
            remedy="choose among them, or add it",
        )


class JobConfig(Config):
    """All that a rank's program is told: the training, where its shards are, and where it writes."""

    train: TrainConfig
    shards: tuple[str, ...] = Field(min_length=1, description="prefixes of training shards, in order; local or s3://")
    shards_dataset: str | None = Field(
        None, description="the dataset that they are of: its manifest says what they are, which would be read else"
    )
    validation_shards: tuple[str, ...] = ()
    validation_provenance: tuple[str, ...] = Field(
        (),
        description="a Parquet file a validation shard: which tokens are of which source, and how many bytes of text they are",
    )
    tokenizer: str
    tokenizer_identity: str | None = Field(None, description="shards of another one are refused")
    padded_vocabulary: int = Field(ge=1)
    vocabulary: int = Field(ge=1)
    validation_bytes_per_token: float | None = Field(
        None, description="UTF-8 bytes of text a validation token, for bits per byte, where there is no provenance"
    )
    output: str
    checkpoints: str | None = Field(None, description="folder of the checkpoints, local or s3://; else below `output`")
    cache_gigabytes: float = Field(8.0, gt=0, description="most that shards read from S3 take on the local disk")
    run: str | None = Field(None, description="run folder, for MLflow's parent run")
    name: str = "train"
    tags: dict[str, str] = Field(default_factory=dict)
    card: dict[str, Any] = Field(
        default_factory=dict, description="facts for the model card: corpus digest, mixture, licences"
    )
    resume: Literal["auto", "must", "never"] = Field(
        "auto", description="auto: from the newest checkpoint if there is one; must: an error if there is none"
    )
    stop_after: int | None = Field(None, description="steps after which to stop as if preempted: for tests of resuming")

    @model_validator(mode="after")
    def _check(self) -> JobConfig:
        tensor = self.train.size.parallel.tensor
        if self.padded_vocabulary % tensor:
            raise ValueError(
                f"padded_vocabulary {self.padded_vocabulary} does not divide among {tensor} tensor-parallel ranks;"
                f" pad it to {-(-self.padded_vocabulary // (128 * tensor)) * 128 * tensor}"
            )
        if self.vocabulary > self.padded_vocabulary:
            raise ValueError(f"vocabulary {self.vocabulary} is larger than padded_vocabulary {self.padded_vocabulary}")
        return self
