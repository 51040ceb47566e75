"""DeepSpeed's pipeline engine, set up so that it trains right at every topology.

ZeRO-1 always: with ZeRO-0 and pipelines the clipping norm leaves out parameters. Never reentrant checkpointing: it
silently trains the head only. The client's AdamW and the shared-memory op switched off: no compiler is needed.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.training.config import JobConfig, TrainConfig
from hyperclova_core.training.model.gpt import Regularisation, pipeline_layers
from hyperclova_core.training.model.tensor_parallel import CrossEntropy, set_tensor_group


def device_kind() -> str:
    """`cuda` where there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def start_processes(train: TrainConfig) -> Any:
    """Join the other processes; the topology of all.

    Raises:
        ConfigError: there are not as many processes as the layout needs.
    """
    os.environ.setdefault("DS_ACCELERATOR", device_kind())
    import deepspeed
    from deepspeed.ops import __compatible_ops__
    from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology

    if device_kind() == "cpu":
        __compatible_ops__["deepspeed_shm_comm"] = False
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    else:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"There is no device for rank {local} of this machine",
                where="train.size.parallel",
                why=f"it has {torch.cuda.device_count()}, a process takes one each",
                remedy="start no more processes on a machine than it has devices",
            )
        torch.cuda.set_device(local)
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    parallel = train.size.parallel
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != parallel.processes:
        raise ConfigError(
            f"{world} processes were started, the layout needs {parallel.processes}",
            where="train.size.parallel",
            why=f"pipeline {parallel.pipeline} × tensor {parallel.tensor} × data {parallel.data}",
            remedy=f"start torchrun with --nproc-per-node such that there are {parallel.processes}",
        )
    deepspeed.init_distributed(
        dist_backend="nccl" if device_kind() == "cuda" else "gloo",
        verbose=False,
        # the watch over progress speaks first, with the stacks; this one ends what even it does not see
        timeout=_patience(train),
    )
    topology = PipeModelDataParallelTopology(num_pp=parallel.pipeline, num_mp=parallel.tensor, num_dp=parallel.data)
    if parallel.tensor > 1:
        for ranks in topology.get_axis_comm_lists("model"):
            group = dist.new_group(ranks)
            if dist.get_rank() in ranks:
                set_tensor_group(group, ranks.index(dist.get_rank()), len(ranks))
    return topology


def _patience(train: TrainConfig) -> timedelta:
    return timedelta(seconds=2 * train.hang_seconds + 60)


def is_bf16(train: TrainConfig) -> bool:
    """Whether the model computes in bfloat16; weights and moments are kept in fp32 beside it."""
    return train.precision == "bf16" or (train.precision == "auto" and device_kind() == "cuda")


def engine_config(train: TrainConfig) -> dict[str, Any]:
    """DeepSpeed's configuration."""
    parallel = train.size.parallel
    first = train.batches.sizes[0]
    config: dict[str, Any] = {
        **train.deepspeed,
        "train_batch_size": first,
        "train_micro_batch_size_per_gpu": parallel.micro_batch_size,
        "gradient_accumulation_steps": first // parallel.data // parallel.micro_batch_size,
        "steps_per_print": 10**9,
        "gradient_clipping": train.gradient_clipping,
        "zero_optimization": {**dict(train.deepspeed.get("zero_optimization") or {}), "stage": 1},
        "zero_allow_untested_optimizer": True,
        "pipeline": {**dict(train.deepspeed.get("pipeline") or {}), "use_reentrant": False},
        "wall_clock_breakdown": False,
    }
    if is_bf16(train):
        config["bf16"] = {"enabled": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def build_engine(job: JobConfig, topology: Any) -> Any:
    """The model, split as the topology says, with its optimizer: a `pipeline.TrainingEngine`."""
    from deepspeed.pipe import PipelineModule
    from deepspeed.runtime.config import DeepSpeedConfig

    from hyperclova_core.training.checkpoints.save_and_load import prepare_moments
    from hyperclova_core.training.engine.pipeline_engine import TrainingEngine

    train = job.train
    how = Regularisation(train.dropout, train.attention_dropout, train.size.parallel.activation_checkpointing)
    module = PipelineModule(
        layers=pipeline_layers(train.size.model, job.padded_vocabulary, train.sequence_length, train.seed, how),
        topology=topology,
        loss_fn=CrossEntropy(),
        partition_method="type:block",  # as many blocks a stage as another, so that the planner's memory is that of the engine
        activation_checkpoint_interval=0,  # blocks compute again by themselves, never reentrantly
    )
    decayed = [p for p in module.parameters() if p.requires_grad and p.dim() > 1]
    plain = [p for p in module.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [
        {"params": params, "weight_decay": decay}
        for params, decay in ((decayed, train.weight_decay), (plain, 0.0))
        if params
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=train.size.model.learning_rate, betas=train.betas, eps=train.epsilon, fused=True
    )
    mpu = module.mpu()
    engine = TrainingEngine(
        args=None,
        model=module,
        optimizer=optimizer,
        mpu=mpu,
        config=engine_config(train),
        config_class=DeepSpeedConfig(engine_config(train), mpu),
    )
    prepare_moments(engine)
    for group in list(dist.distributed_c10d._world.pg_map):  # those that DeepSpeed made have times of their own
        dist.distributed_c10d._set_pg_timeout(_patience(train), group)
    return engine


def set_learning_rate(engine: Any, rate: float) -> None:
    """The rate of the next step, for all parameter groups."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
