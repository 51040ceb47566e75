"""The program of one rank: started by torchrun with `--config FILE`, trains one model from the first step to the export.

Exit codes as everywhere; a rank that fails writes its cause to `cause-RANK.json` in the output folder, for the launcher.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
import time
import traceback
import warnings
from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import parse
from hyperclova_core.foundation.errors import (
    CommunicationError,
    HyperclovaError,
    OutOfDeviceMemoryError,
    OutOfHostMemoryError,
)
from hyperclova_core.training.config import JobConfig

log = logging.getLogger("hyperclova.train")

CAUSE_SECONDS = 5.0


def train(job: JobConfig) -> dict[str, Any]:
    """Train, evaluate, checkpoint and export; the summary that rank 0 writes as `result.json`."""
    import torch.distributed as dist

    from hyperclova_core.training.engine.engine import build_engine, start_processes
    from hyperclova_core.training.export.export import export_checkpoint
    from hyperclova_core.training.health.watchdog import Watchdog, store_of_ranks
    from hyperclova_core.training.loop import Stop, Training

    started, stop = time.monotonic(), Stop()
    topology = start_processes(job.train)
    watch = Watchdog(job.train.hang_seconds, lambda error: _end(job.output, error), store_of_ranks()).start()
    engine = build_engine(job, topology)
    training = Training(job, engine, stop, watch)
    training.run()
    watch.stop()  # what is left takes as long as the model is large, and no rank waits for another
    if dist.get_rank() == 0:
        export_checkpoint(
            storage.join(training.folder, f"step-{training.step}"),
            storage.join(job.output, "model"),
            job.tokenizer,
            training.proof_samples(),
            job.card,
            training.summary(),
        )
        training.close()
    return {**training.summary(), "seconds": time.monotonic() - started}


def classify(error: BaseException) -> HyperclovaError:
    """The family's error for whatever ended a rank."""
    if isinstance(error, HyperclovaError):
        return error
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
        return OutOfHostMemoryError(
            "A rank ran out of host memory", why=text, remedy="lower micro_batch_size, or give the job more memory"
        )
    if type(error).__name__ == "OutOfMemoryError":
        return OutOfDeviceMemoryError(
            "A rank ran out of device memory",
            why=text,
            remedy="halve micro_batch_size, or spread the model over more devices",
        )
    if "EADDRINUSE" in text or "address already in use" in text:
        return CommunicationError(
            "The port where ranks meet is taken",
            why=text,
            remedy="end the process that holds it, or give another MASTER_PORT; `hyperclova train` takes a free one by itself",
        )
    if any(
        word in text
        for word in ("NCCL", "gloo", "Connection", "DistBackendError", "DistNetworkError", "Timed out", "timed out")
    ):
        return CommunicationError(
            "Ranks lost one another", why=text, remedy="look for the first rank that failed; else at the network"
        )
    return HyperclovaError("A rank failed", why=text, remedy="see the rank's log for the stack")


def _write_cause(output: str, known: HyperclovaError) -> None:
    rank = int(os.environ.get("RANK", "0"))
    storage.write_json(
        storage.join(output, f"cause-{rank}.json"),
        {
            **known.to_dict(),
            "exit_code": known.exit_code,
            "time": time.time(),
            "attempt": os.environ.get("HYPERCLOVA_ATTEMPT", ""),
        },
    )


def _end(output: str, known: HyperclovaError) -> None:
    """End from outside of what hangs: the cause to the log, to its file if the disk lets it within a time, and out."""
    try:
        sys.stderr.write(f"{known}\n")
        sys.stderr.flush()
        writer = threading.Thread(target=_write_cause, args=(output, known), daemon=True)
        writer.start()
        writer.join(CAUSE_SECONDS)
    finally:
        os._exit(known.exit_code)


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
        code = known.exit_code
        try:
            _write_cause(output, known)
        except (OSError, HyperclovaError) as unwritten:
            log.warning("The cause could not be written: %s", unwritten)
    sys.stdout.flush()
    sys.stderr.flush()
    _leave(code)


def _leave(code: int) -> None:
    """End at once: other ranks may wait for ever, and the first may be exporting still."""
    os._exit(code)


if __name__ == "__main__":
    main()
