"""Configuration of training: what a recipe says of the ladder, and what one rank's program is given."""

from __future__ import annotations

from pydantic import Field, model_validator

from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.training.sizes import ModelSize, size_named


class ParallelConfig(Config):
    """How a model is spread: pipeline × tensor × data parallel processes, and micro-batches."""

    pipeline: int = Field(1, ge=1)
    tensor: int = Field(1, ge=1)
    data: int = Field(1, ge=1)
    micro_batch: int = Field(4, ge=1, description="sequences a process takes at once")

    @property
    def processes(self) -> int:
        """World size."""
        return self.pipeline * self.tensor * self.data


class SizeConfig(Config):
    """One model of the ladder: a named size, or a shape of its own."""

    name: str
    shape: ModelSize | None = None
    parallel: ParallelConfig = ParallelConfig()

    @property
    def model(self) -> ModelSize:
        """The shape."""
        return self.shape or size_named(self.name)


class TrainConfig(Config):
    """The training of one model; equal configs on equal shards give equal weights. This is what the fingerprint sees."""

    size: SizeConfig
    tokens: int = Field(1_000_000, ge=1, description="training tokens; rounded down to whole global batches")
    context: int = Field(128, ge=8, description="tokens a sequence")
    global_batch: int = Field(16, ge=1, description="sequences a step")
    warmup_share: float = Field(0.1, ge=0, lt=1, description="of the steps")
    final_learning_rate_share: float = Field(0.1, ge=0, le=1, description="of the peak, where the cosine ends")
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.1, ge=0)
    gradient_clipping: float = Field(1.0, ge=0)
    seed: int = 0
    shuffle_window: int = Field(
        1024, ge=1, description="samples permuted among themselves; the shards lie in training order already"
    )
    evaluate_every: int = Field(50, ge=1, description="steps between validations")
    validation_sequences: int = Field(128, ge=1, description="at most")
    log_every: int = Field(5, ge=1)
    checkpoint_every: int = Field(0, ge=0, description="steps between checkpoints; 0: at the end only")

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.tokens // (self.context * self.global_batch)

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        parallel, model = self.size.parallel, self.size.model
        if self.global_batch % (parallel.data * parallel.micro_batch):
            fitting = [
                m
                for m in range(1, self.global_batch // parallel.data + 1)
                if self.global_batch % (parallel.data * m) == 0
            ]
            raise ValueError(
                f"global_batch {self.global_batch} is not micro_batch {parallel.micro_batch} × accumulation × data {parallel.data};"
                f" micro_batch may be {', '.join(map(str, fitting)) or 'none: lower `data`'}"
            )
        if model.heads % parallel.tensor or model.width % model.heads:
            raise ValueError(
                f"{model.heads} heads of width {model.width} do not divide among {parallel.tensor} tensor-parallel ranks"
            )
        if parallel.pipeline > model.layers:
            raise ValueError(f"{model.layers} layers cannot fill {parallel.pipeline} pipeline stages")
        if self.steps < 1:
            raise ValueError(f"{self.tokens} tokens are less than one batch of {self.context * self.global_batch}")
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
    shards: tuple[str, ...] = Field(min_length=1, description="prefixes of training shards, in order")
    validation_shards: tuple[str, ...] = ()
    tokenizer: str
    padded_vocabulary: int = Field(ge=1)
    vocabulary: int = Field(ge=1)
    validation_bytes_per_token: float | None = Field(
        None, description="UTF-8 bytes of text a validation token, for bits per byte"
    )
    output: str
    run: str | None = Field(None, description="run folder, for MLflow's parent run")
    name: str = "train"
    tags: dict[str, str] = Field(default_factory=dict)
    resume: bool = True
    stop_after: int | None = Field(None, description="steps after which to stop as if preempted: for tests of resuming")
