"""DeepSpeed's pipeline engine, set up so that it trains right at every topology.

ZeRO-1 always: with ZeRO-0 and pipelines the clipping norm leaves out parameters. Never reentrant checkpointing: it
silently trains the head only. The client's AdamW and the shared-memory op switched off: no compiler is needed.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist

from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.training.config import JobConfig
from hyperclova_core.training.model import pipeline_layers
from hyperclova_core.training.parallel import cross_entropy, set_tensor_group


def device_kind() -> str:
    """`cuda` where there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def start_processes(job: JobConfig) -> Any:
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
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    parallel = job.train.size.parallel
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != parallel.processes:
        raise ConfigError(
            f"{world} processes were started, the layout needs {parallel.processes}",
            where="train.size.parallel",
            why=f"pipeline {parallel.pipeline} × tensor {parallel.tensor} × data {parallel.data}",
            remedy=f"start torchrun with --nproc-per-node such that there are {parallel.processes}",
        )
    deepspeed.init_distributed(dist_backend="nccl" if device_kind() == "cuda" else "gloo", verbose=False)
    topology = PipeModelDataParallelTopology(num_pp=parallel.pipeline, num_mp=parallel.tensor, num_dp=parallel.data)
    if parallel.tensor > 1:
        for ranks in topology.get_axis_comm_lists("model"):
            group = dist.new_group(ranks)
            if dist.get_rank() in ranks:
                set_tensor_group(group, ranks.index(dist.get_rank()), len(ranks))
    return topology


def build_engine(job: JobConfig, topology: Any) -> Any:
    """The model, split as the topology says, with its optimizer."""
    import deepspeed
    from deepspeed.pipe import PipelineModule

    train = job.train
    parallel = train.size.parallel
    module = PipelineModule(
        layers=pipeline_layers(train.size.model, job.padded_vocabulary, train.context, train.seed),
        topology=topology,
        loss_fn=cross_entropy,
        partition_method="parameters",
        activation_checkpoint_interval=0,
    )
    decayed = [p for p in module.parameters() if p.requires_grad and p.dim() > 1]
    plain = [p for p in module.parameters() if p.requires_grad and p.dim() <= 1]
    groups = [
        {"params": params, "weight_decay": decay}
        for params, decay in ((decayed, train.weight_decay), (plain, 0.0))
        if params
    ]
    optimizer = torch.optim.AdamW(groups, lr=train.size.model.learning_rate, betas=train.betas, fused=True)
    config: dict[str, Any] = {
        "train_batch_size": train.global_batch,
        "train_micro_batch_size_per_gpu": parallel.micro_batch,
        "gradient_accumulation_steps": train.global_batch // parallel.data // parallel.micro_batch,
        "steps_per_print": 10**9,
        "gradient_clipping": train.gradient_clipping,
        "zero_optimization": {"stage": 1},
        "zero_allow_untested_optimizer": True,
        "pipeline": {"use_reentrant": False},
        "wall_clock_breakdown": False,
    }
    if device_kind() == "cuda":
        config["bf16"] = {"enabled": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    return engine


def set_learning_rate(engine: Any, rate: float) -> None:
    """The rate of the next step, for all parameter groups."""
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
