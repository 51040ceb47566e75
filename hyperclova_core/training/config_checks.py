"""What would train wrongly without a word, refused before anything starts, with the numbers that would fit.

Each rule stands for a trap that was reproduced (docs/training.md names them with their tests).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperclova_core.training.learning_rate import BatchPlan
    from hyperclova_core.training.model.layout import ParallelConfig
    from hyperclova_core.training.model.sizes import ModelSize

OURS = {
    "train_batch_size": "global_batch_size",
    "train_micro_batch_size_per_gpu": "size.parallel.micro_batch_size",
    "gradient_accumulation_steps": "global_batch_size, micro_batch_size and data",
    "gradient_clipping": "gradient_clipping",
    "bf16": "precision",
    "optimizer": "betas, epsilon, weight_decay: the optimizer is torch's AdamW, DeepSpeed's own would be compiled at the start",
    "scheduler": "schedule",
}
"""Keys of DeepSpeed's configuration that our own settings decide."""


def refuse_layout(model: ModelSize, parallel: ParallelConfig, batches: BatchPlan) -> None:
    """Batches, heads and layers that do not divide.

    Raises:
        ValueError: with what would fit.
    """
    for batch in batches.sizes:
        if batch % (parallel.data * parallel.micro_batch_size):
            fitting = [m for m in range(1, batch // parallel.data + 1) if batch % (parallel.data * m) == 0]
            raise ValueError(
                f"global_batch_size {batch} is not micro_batch_size {parallel.micro_batch_size} × accumulation × data {parallel.data};"
                f" micro_batch_size may be {', '.join(map(str, fitting)) or 'none: lower `data`'}"
            )
    if model.heads % parallel.tensor or model.hidden_size % model.heads:
        raise ValueError(
            f"{model.heads} heads of hidden_size {model.hidden_size} do not divide among {parallel.tensor} tensor-parallel ranks"
        )
    if parallel.pipeline > model.layers:
        raise ValueError(f"{model.layers} layers cannot fill {parallel.pipeline} pipeline stages")


def refuse_engine_settings(settings: Mapping[str, Any]) -> None:
    """Settings of DeepSpeed that train wrongly here, or that our own settings decide.

    Raises:
        ValueError: with the reason.
    """
    for key, ours in OURS.items():
        if key in settings:
            raise ValueError(f"deepspeed.{key} is set by {ours}")
    stage = dict(settings.get("zero_optimization") or {}).get("stage", 1)
    if stage == 0:
        raise ValueError(
            "ZeRO stage 0 is refused: with a pipeline its gradient norm leaves out parameters of every stage but the first,"
            " so clipping is wrong without a word; stage 1 is always used"
        )
    if stage != 1:
        raise ValueError(
            f"ZeRO stage {stage} is refused: gradients cannot be partitioned while a pipeline accumulates them; use stage 1,"
            " and more tensor or pipeline parallelism where memory is short"
        )
    pipeline = dict(settings.get("pipeline") or {})
    if (
        pipeline.get("use_reentrant")
        or pipeline.get("activation_checkpoint_interval")
        or settings.get("activation_checkpointing")
    ):
        raise ValueError(
            "reentrant activation checkpointing is refused: it detaches the embedding and trains the head only, without a"
            " word; set size.parallel.activation_checkpointing to attention or block"
        )
    if dict(settings.get("fp16") or {}).get("enabled"):
        raise ValueError("fp16 is refused: its loss scale skips steps by itself; set precision to bf16 or fp32")
