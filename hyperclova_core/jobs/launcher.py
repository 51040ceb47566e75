"""The program around a job's processes: starts them, passes the request to end on, and says why they ended.

`python -m hyperclova_core.jobs.launcher --spec FILE`. Ends with the exit code of the cause (see `causes`) and leaves
`exit.json` beside the spec.
"""

from __future__ import annotations

from hyperclova_core.jobs.end_on_signal import EndOnSignal

# before what takes a second to import: a container's first process loses a signal that it has no handler for
END = EndOnSignal() if __name__ == "__main__" else None

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.warehouse import now
from hyperclova_core.jobs.spec import TrainJobSpec, unpacked

ATTEMPT_VARIABLE = "HYPERCLOVA_ATTEMPT"
JOIN_SECONDS = 900
"""For all pods of a gang to come: an image of ten gigabytes is pulled meanwhile."""
TOLD_CHARACTERS, TOLD_BYTES = 2000, 4000


def command_of(spec: TrainJobSpec, config_path: str) -> list[str]:
    """What is started: torchrun with the job's ranks, or the program itself.

    Alone on a machine torchrun finds a free port by itself; in a pod of several, ranks meet at the first pod's stable name.
    `--shutdown-timeout` goes with the grace time: torchrun kills 30 s after the request to end otherwise, which may be
    before the checkpoint is written.
    """
    program = ["-m", spec.module, "--config", config_path]
    if spec.processes == 0:
        return [sys.executable, *program]
    nodes = int(os.environ.get("HYPERCLOVA_NODES", "1"))
    meeting = ["--standalone", "--nnodes=1"]
    if nodes > 1:
        meeting = [
            f"--nnodes={nodes}",
            f"--node-rank={os.environ['HYPERCLOVA_NODE']}",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint={os.environ['HYPERCLOVA_RENDEZVOUS']}",
            f"--rdzv-id={os.environ['HYPERCLOVA_RENDEZVOUS_ID']}",
            # who holds the store is said, not guessed from names that the pod may not know yet; all wait for it as long as for the gang
            f"--rdzv-conf=join_timeout={JOIN_SECONDS},read_timeout={JOIN_SECONDS},is_host={int(os.environ['HYPERCLOVA_NODE'] == '0')}",
            *own_address(os.environ["HYPERCLOVA_RENDEZVOUS"], os.environ["HYPERCLOVA_NODE"]),
        ]
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *meeting,
        f"--nproc-per-node={spec.per_node if nodes > 1 else spec.processes}",
        "--max-restarts=0",
        f"--shutdown-timeout={spec.grace_seconds}",
        f"--log-dir={storage.join(spec.output, 'logs', node_name())}",
        "--tee=3",
        *program,
    ]


def own_address(meeting: str, node: str) -> list[str]:
    """This pod's stable name, which the first pod's becomes with another number: what a pod calls itself may not be known to others."""
    host = meeting.rpartition(":")[0]
    first, dot, domain = host.partition(".")
    if not dot or not first.endswith("-0") or host.replace(".", "").isdigit():
        return []
    return [f"--local-addr={first[:-1]}{node}.{domain}"]


def node_name() -> str:
    """This pod of the job, for names of files: several may write to one folder."""
    return f"node-{os.environ.get('HYPERCLOVA_NODE', '0')}"


def run(spec: TrainJobSpec, end: EndOnSignal | None = None) -> int:
    """Run the job to its end; its exit code."""
    for folder in ("TMPDIR", "HOME", "HYPERCLOVA_SCRATCH"):
        if os.environ.get(folder):
            Path(os.environ[folder]).mkdir(parents=True, exist_ok=True)
    storage.make_folder(spec.output)
    first = os.environ.get("HYPERCLOVA_NODE", "0") == "0"
    if first:
        for name in storage.list_names(spec.output):
            if name.startswith("cause-") or name == "exit.json":
                storage.local_path(storage.join(spec.output, name)).unlink()
    config_path = storage.join(spec.output, f"config-{node_name()}.json" if not first else "config.json")
    storage.write_json(config_path, spec.effective_config())
    environment = {**os.environ, **spec.environment}
    environment.setdefault("OMP_NUM_THREADS", "1")
    environment["TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"] = "[rank ${rank}] "
    end = end or EndOnSignal()
    if end.asked:
        code, cause = 143, {"what": "The job was asked to end before its processes began"}
    else:
        # one stream: a runtime stamps the two apart, and lines would come out of their order
        process = subprocess.Popen(command_of(spec, config_path), env=environment, stderr=subprocess.STDOUT)
        end.pass_on_to(process, spec.grace_seconds)
        code, cause = judge(spec, process.wait(), end.asked)
    ended = {"exit_code": code, "cause": cause, "ended_at": now(), "spec_hash": spec.hash}
    if first:
        storage.write_json(storage.join(spec.output, "exit.json"), ended)
    _tell_cluster(ended)
    if spec.publish is not None:
        _publish(spec, code)
    return code


def _tell_cluster(ended: dict[str, Any]) -> None:
    """The cause where Kubernetes looks for it; it keeps 4,096 bytes."""
    path = Path(os.environ.get("HYPERCLOVA_TERMINATION_LOG", "/dev/termination-log"))
    if path.exists():
        most = TOLD_CHARACTERS
        while True:
            text = {key: str(value)[:most] for key, value in ended["cause"].items()}
            data = json.dumps({"exit_code": ended["exit_code"], "cause": text}, ensure_ascii=False).encode()
            if len(data) <= TOLD_BYTES:
                break
            most //= 2
        path.write_bytes(data)


def _publish(spec: TrainJobSpec, code: int) -> None:
    """Upload what this pod made, and its ranks' logs in any case."""
    assert spec.publish is not None
    attempt = os.environ.get(ATTEMPT_VARIABLE, "1")
    logs = storage.join(spec.output, "logs", node_name())
    storage.publish_folder(logs, storage.join(spec.publish, "logs", f"attempt-{attempt}", node_name()))
    if code == 0 and os.environ.get("HYPERCLOVA_NODE", "0") == "0":
        storage.publish_folder(spec.output, spec.publish, leave_out=("checkpoints", "logs"))


def judge(spec: TrainJobSpec, raw: int, asked: bool) -> tuple[int, dict[str, Any]]:
    """The exit code and cause of a job whose process ended with `raw`: the first rank that wrote its cause counts."""
    if raw == 0:
        return 0, {}
    causes = [
        storage.read_json(storage.join(spec.output, name))
        for name in storage.list_names(spec.output)
        if name.startswith("cause-")
    ]
    # pods that share a folder do not clear it at the same time: what an earlier attempt left is not this one's
    attempt = os.environ.get(ATTEMPT_VARIABLE, "")
    causes = [cause for cause in causes if cause.get("attempt", attempt) == attempt]
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
    spec = TrainJobSpec.from_dict(unpacked(storage.read_bytes(arguments.parse_args().spec)))
    sys.exit(run(spec, END))


if __name__ == "__main__":
    main()
