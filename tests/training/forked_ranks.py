"""Ranks as forks of one process that has imported torch and DeepSpeed: a case starts in a second instead of ten.

`python -m tests.training.forked_ranks` reads cases as JSON lines ({"config": FILE, "processes": N, "environment": {…}}), runs each
as torchrun would (RANK, WORLD_SIZE, MASTER_PORT), and answers with the exit codes. The ranks run the product's own program.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class Ranks:
    """The process that forks; one for a test session."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.training.forked_ranks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
            cwd=Path(__file__).parents[2],
            text=True,
        )

    def run(
        self,
        config: dict[str, Any],
        processes: int,
        program: str = "hyperclova_core.training.rank",
        environment: dict[str, str] | None = None,
    ) -> list[int]:
        """Run a job's ranks to their end; their exit codes. What they print goes to `job.log` of its output."""
        output = Path(config["output"])
        output.mkdir(parents=True, exist_ok=True)
        for cause in output.glob("cause-*.json"):
            cause.unlink()
        path = output / "config.json"
        path.write_text(json.dumps(config))
        assert self._process.stdin is not None and self._process.stdout is not None
        case = {
            "config": str(path),
            "processes": processes,
            "log": str(output / "job.log"),
            "program": program,
            "environment": environment or {},
        }
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        codes: list[int] = json.loads(self._process.stdout.readline())
        return codes

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)


def free_port() -> int:
    """A port of this machine that nothing holds now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _run(case: dict[str, Any]) -> list[int]:
    port, children = free_port(), []
    for rank in range(case["processes"]):
        child = os.fork()
        if child == 0:
            log = os.open(case["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ.update(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(case["processes"]),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
            )
            os.environ.update(case["environment"])
            sys.argv = [case["program"], "--config", case["config"]]
            try:
                import importlib

                importlib.import_module(case["program"]).main()
            finally:
                os._exit(1)
        children.append(child)
    return _wait(children)


def _wait(children: list[int]) -> list[int]:
    """Exit codes; as torchrun does, the others are ended when one has failed."""
    codes: dict[int, int] = {}
    failed_at = None
    while len(codes) < len(children):
        for child in children:
            if child not in codes:
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    codes[child] = os.waitstatus_to_exitcode(status)
                    if codes[child] and failed_at is None:
                        failed_at = time.monotonic()
                elif failed_at is not None and time.monotonic() - failed_at > 3:
                    os.kill(child, 9)
        time.sleep(0.02)
    return [codes[child] for child in children]


def main() -> None:
    """Preload, then answer cases until the input ends."""
    import deepspeed  # noqa: F401
    import torch
    import torch.distributed  # noqa: F401
    from deepspeed.pipe import PipelineModule  # noqa: F401

    # DeepSpeed asks every optimizer whether it is this one, whose module compiles: two thirds of a small case, if each rank imports it
    from deepspeed.runtime.zero.muon import muon_optimizer  # noqa: F401
    from transformers import GPT2LMHeadModel  # noqa: F401

    import hyperclova_core.training.export.export
    import hyperclova_core.training.loop
    import hyperclova_core.training.rank  # noqa: F401

    torch.set_num_threads(1)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_run(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
