"""The program of one rank: started by torchrun with `--config FILE`, trains one model from the first step to the export.

Exit codes as everywhere; a rank that fails writes its cause to `cause-RANK.json` in the output folder, for the launcher.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import signal
import sys
import time
import traceback
import warnings
from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import parse
from hyperclova_core.foundation.datasets import file_checksum
from hyperclova_core.foundation.errors import (
    CommunicationError,
    DataError,
    HyperclovaError,
    OutOfDeviceMemoryError,
    OutOfHostMemoryError,
    TransientError,
)
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.foundation.warehouse import RunFolder
from hyperclova_core.training.config import JobConfig

log = logging.getLogger("hyperclova.train")


def train(job: JobConfig) -> dict[str, Any]:
    """Train, evaluate, checkpoint and export; the summary that rank 0 writes as `result.json`."""
    import torch.distributed as dist

    from hyperclova_core.training.checkpoints import load_newest, save_checkpoint
    from hyperclova_core.training.data import Samples, TokenStream
    from hyperclova_core.training.engine import build_engine, device_kind, set_learning_rate, start_processes
    from hyperclova_core.training.export import export_model
    from hyperclova_core.training.metrics import MetricsLog
    from hyperclova_core.training.schedule import learning_rate

    preempted = _Preemption()
    config, model = job.train, job.train.size.model
    topology = start_processes(job)
    chief = dist.get_rank() == 0
    stream = TokenStream(job.shards, job.vocabulary)
    samples = Samples(stream, config.context, config.seed, config.shuffle_window)
    if samples.count < config.global_batch:
        raise DataError(
            "The corpus is shorter than one batch",
            where=job.shards[0],
            why=f"{samples.count} sequences of {config.context}, a batch needs {config.global_batch}",
            remedy="give more text, or a smaller global_batch or context",
        )
    validation = TokenStream(job.validation_shards, job.vocabulary) if job.validation_shards else None
    engine = build_engine(job, topology)
    identity = fingerprint(
        {
            "train": config.model_dump(mode="json"),
            "vocabulary": [job.vocabulary, job.padded_vocabulary],
            "shards": [file_checksum(f"{prefix}.idx") for prefix in job.shards],
            "ids": stream.identity(),
        }
    )
    checkpoints = storage.join(job.output, "checkpoints")
    resumed = load_newest(engine, checkpoints, identity) if job.resume else None
    step = resumed["step"] if resumed else 0
    flops = model.flops_per_token(job.padded_vocabulary, config.context)
    parameters = {
        "size": config.size.name,
        "non_embedding_parameters": model.non_embedding_parameters,
        "parameters": model.parameters(job.padded_vocabulary, config.context),
        "tokens": config.steps * config.global_batch * config.context,
        "steps": config.steps,
        "global_batch": config.global_batch,
        "context": config.context,
        "peak_learning_rate": model.learning_rate,
        "processes": config.size.parallel.processes,
        "pipeline": config.size.parallel.pipeline,
        "tensor": config.size.parallel.tensor,
        "data": config.size.parallel.data,
        "device": device_kind(),
        "seed": config.seed,
    }
    run = RunFolder(job.run) if job.run else None
    metrics = MetricsLog(job.output, run, job.name, job.tags, parameters, step) if chief else None
    data_rank, data_ranks = engine.grid.get_data_parallel_rank(), config.size.parallel.data
    started, window_start, window_step = time.monotonic(), time.monotonic(), step
    loss, validation_loss = (resumed["loss"], resumed["validation_loss"]) if resumed else (math.nan, math.nan)
    while step < config.steps:
        set_learning_rate(
            engine,
            learning_rate(
                step, config.steps, model.learning_rate, config.warmup_share, config.final_learning_rate_share
            ),
        )
        batches = samples.micro_batches(
            step * config.global_batch, config.global_batch, config.size.parallel.micro_batch, data_rank, data_ranks
        )
        loss = float(engine.train_batch(data_iter=batches))
        step += 1
        tokens = step * config.global_batch * config.context
        if not math.isfinite(loss):
            raise DataError(
                "The loss is not a number",
                where=f"step {step}",
                why="training diverged",
                remedy="lower the learning rate, or look at the batch",
            )
        last = step == config.steps
        due = step % config.evaluate_every == 0 or last
        if due and validation is not None:
            validation_loss = _validate(engine, validation, job, data_rank, data_ranks)
        if metrics is not None and (step % config.log_every == 0 or due or step == 1):
            elapsed = max(time.monotonic() - window_start, 1e-9)
            rate = (step - window_step) * config.global_batch * config.context / elapsed
            values = {
                "loss": loss,
                "learning_rate": engine.optimizer.param_groups[0]["lr"],
                "tokens_per_second": rate,
                "training_flops": flops * tokens,
                "gradient_norm": float(engine.get_global_grad_norm() or 0.0),
            }
            if due and validation is not None:
                values["validation_loss"] = validation_loss
                if job.validation_bytes_per_token:
                    values["validation_bits_per_byte"] = validation_loss / math.log(2) / job.validation_bytes_per_token
            metrics.add(step, tokens, values)
            window_start, window_step = time.monotonic(), step
            if due:
                log.info(
                    "step %d/%d  loss %.4f  validation %.4f  %.0f tokens/s",
                    step,
                    config.steps,
                    loss,
                    validation_loss,
                    rate,
                )
        stop = preempted.asked() or step == job.stop_after
        if (config.checkpoint_every and step % config.checkpoint_every == 0) or last or stop:
            save_checkpoint(
                engine,
                checkpoints,
                identity,
                {
                    "step": step,
                    "consumed_samples": step * config.global_batch,
                    "loss": loss,
                    "validation_loss": validation_loss,
                },
            )
        if stop and not last:
            if metrics is not None:
                metrics.close()
            raise TransientError(
                "Training was stopped and saved a checkpoint",
                where=f"step {step}",
                why="the job was asked to end",
                remedy="start it again: it resumes there",
            )
    export_model(engine, job, storage.join(job.output, "model"))
    if metrics is not None:
        metrics.close()
    return {
        **parameters,
        "step": step,
        "loss": loss,
        "validation_loss": validation_loss,
        "seconds": time.monotonic() - started,
        "validation_bits_per_byte": validation_loss / math.log(2) / job.validation_bytes_per_token
        if job.validation_bytes_per_token
        else None,
        "training_flops": flops * step * config.global_batch * config.context,
    }


def _validate(engine: Any, stream: Any, job: JobConfig, rank: int, ranks: int) -> float:
    """Mean loss over the first sequences of the validation shards, always the same ones."""
    from hyperclova_core.training.data import Samples

    config = job.train
    samples = Samples(stream, config.context, config.seed, 1)
    batches = max(1, min(samples.count, config.validation_sequences) // config.global_batch)
    losses = []
    for batch in range(batches):
        data = samples.micro_batches(
            batch * config.global_batch, config.global_batch, config.size.parallel.micro_batch, rank, ranks
        )
        losses.append(float(engine.eval_batch(data)))
    return sum(losses) / len(losses)


class _Preemption:
    """Notes SIGTERM; the loop of all ranks ends together at the next step."""

    def __init__(self) -> None:
        self._seen = False
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: object) -> None:
        self._seen = True

    def asked(self) -> bool:
        """Whether any rank was told to end."""
        import torch
        import torch.distributed as dist

        if dist.get_world_size() == 1:
            return self._seen
        flag = torch.tensor([float(self._seen)], device="cuda" if torch.cuda.is_available() else "cpu")
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())


def classify(error: BaseException) -> HyperclovaError:
    """The family's error for whatever ended a rank."""
    if isinstance(error, HyperclovaError):
        return error
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
        return OutOfHostMemoryError(
            "A rank ran out of host memory", why=text, remedy="lower micro_batch, or give the job more memory"
        )
    if type(error).__name__ == "OutOfMemoryError":
        return OutOfDeviceMemoryError(
            "A rank ran out of device memory",
            why=text,
            remedy="halve micro_batch, or spread the model over more devices",
        )
    if any(
        word in text
        for word in ("NCCL", "gloo", "Connection", "DistBackendError", "DistNetworkError", "Timed out", "timed out")
    ):
        return CommunicationError(
            "Ranks lost one another", why=text, remedy="look for the first rank that failed; else at the network"
        )
    return HyperclovaError("A rank failed", why=text, remedy="see the rank's log for the stack")


def main() -> None:
    """Entry point."""
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--config", required=True)
    path = arguments.parse_args().config
    rank = int(os.environ.get("RANK", "0"))
    output = os.path.dirname(os.path.abspath(path))
    code = 0
    try:
        job = parse(JobConfig, storage.read_json(path), path)
        output = job.output
        result = train(job)
        if rank == 0:
            storage.write_json(storage.join(output, "result.json"), result)
            log.info("%s", json.dumps(result))
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        traceback.print_exc()
        known = classify(error)
        storage.write_json(
            storage.join(output, f"cause-{rank}.json"),
            {**known.to_dict(), "exit_code": known.exit_code, "time": time.time()},
        )
        code = known.exit_code
    sys.stdout.flush()
    sys.stderr.flush()
    _leave(code)


def _leave(code: int) -> None:
    import torch.distributed as dist

    if code == 0 and dist.is_initialized():
        dist.destroy_process_group()
    os._exit(code)


if __name__ == "__main__":
    main()
