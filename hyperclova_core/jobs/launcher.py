"""The program around a job's processes: starts them, passes the request to end on, and says why they ended.

`python -m hyperclova_core.jobs.launcher --spec FILE`. Ends with the exit code of the cause (see `causes`) and leaves
`exit.json` beside the spec.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.warehouse import now
from hyperclova_core.jobs.spec import TrainJobSpec


def command_of(spec: TrainJobSpec, config_path: str) -> list[str]:
    """What is started: torchrun with the job's ranks, or the program itself.

    `--shutdown-timeout` goes with the grace time: torchrun kills 30 s after the request to end otherwise, which may be
    before the checkpoint is written.
    """
    program = ["-m", spec.module, "--config", config_path]
    if spec.processes == 0:
        return [sys.executable, *program]
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nnodes=1",
        f"--nproc-per-node={spec.processes}",
        "--max-restarts=0",
        f"--shutdown-timeout={spec.grace_seconds}",
        f"--log-dir={storage.join(spec.output, 'logs')}",
        "--tee=3",
        *program,
    ]


def run(spec: TrainJobSpec) -> int:
    """Run the job to its end; its exit code."""
    for name in storage.list_names(spec.output):
        if name.startswith("cause-") or name == "exit.json":
            storage.local_path(storage.join(spec.output, name)).unlink()
    config_path = storage.join(spec.output, "config.json")
    storage.write_json(config_path, {**spec.config, **spec.overrides})
    environment = {**os.environ, **spec.environment}
    environment.setdefault("OMP_NUM_THREADS", "1")
    process = subprocess.Popen(command_of(spec, config_path), env=environment)
    asked = False

    def pass_on(number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        process.terminate()

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    raw = process.wait()
    code, cause = judge(spec, raw, asked)
    storage.write_json(
        storage.join(spec.output, "exit.json"),
        {"exit_code": code, "cause": cause, "ended_at": now(), "spec_hash": spec.hash},
    )
    return code


def judge(spec: TrainJobSpec, raw: int, asked: bool) -> tuple[int, dict[str, Any]]:
    """The exit code and cause of a job whose process ended with `raw`: the first rank that wrote its cause counts."""
    if raw == 0:
        return 0, {}
    causes = [
        storage.read_json(storage.join(spec.output, name))
        for name in storage.list_names(spec.output)
        if name.startswith("cause-")
    ]
    if causes:
        causes.sort(key=lambda cause: (cause["exit_code"] == 72, cause["time"]))
        return int(causes[0]["exit_code"]), causes[0]
    code = 128 - raw if raw < 0 else raw
    if asked and code not in (75,):
        code = 143
    return code, {"what": f"The job's processes ended with {raw} and left no cause"}


def main() -> None:
    """Entry point."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--spec", required=True)
    spec = TrainJobSpec.from_dict(json.loads(storage.read_bytes(arguments.parse_args().spec))["spec"])
    sys.exit(run(spec))


if __name__ == "__main__":
    main()
