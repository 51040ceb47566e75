"""Where jobs run. `LocalBackend` runs them on this machine, with the same names, adoption, logs and exit codes as a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.foundation.warehouse import now
from hyperclova_core.jobs.backend import JobStatus
from hyperclova_core.jobs.spec import TrainJobSpec

JOB_VARIABLE = "HYPERCLOVA_JOB"
"""In the environment of a job's processes, with its output folder: by it orphans are found."""


class LocalBackend:
    """Jobs as processes of this machine, in sessions of their own; known by process id and start time."""

    def submit(self, spec: TrainJobSpec) -> bool:
        """See `Backend`.

        Raises:
            ConfigError: another job runs in the same folder.
        """
        if self.get(spec).state == "running":
            running = storage.read_json(_record(spec))
            if running["spec_hash"] != spec.hash:
                raise ConfigError(
                    "Another job runs in the output folder",
                    where=spec.output,
                    why=f"its specification is {running['spec_hash'][:12]}, not {spec.hash[:12]}",
                    remedy="wait for it, cancel it, or choose another folder",
                )
            return False
        storage.make_folder(spec.output)
        for name in ("exit.json", "job.json"):
            storage.local_path(storage.join(spec.output, name)).unlink(missing_ok=True)
        spec_path = storage.join(spec.output, "spec.json")
        storage.write_json(spec_path, {"spec": spec.to_dict(), "hash": spec.hash})
        for pid in members(spec):
            _end(pid, signal.SIGKILL)
        with storage.local_path(_log(spec)).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "hyperclova_core.jobs.launcher", "--spec", spec_path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, JOB_VARIABLE: spec.output},
            )
        record = {
            "pid": process.pid,
            "started": start_time(process.pid),
            "spec_hash": spec.hash,
            "submitted_at": now(),
            "log_offset": 0,
        }
        storage.write_json(_record(spec), record)
        return True

    def get(self, spec: TrainJobSpec) -> JobStatus:
        """See `Backend`."""
        ended = storage.join(spec.output, "exit.json")
        if storage.exists(_record(spec)):
            record = storage.read_json(_record(spec))
            if is_alive(record["pid"], record["started"]):
                return JobStatus("running")
        if storage.exists(ended):
            result = storage.read_json(ended)
            state = "succeeded" if result["exit_code"] == 0 else "failed"
            return JobStatus(state, result["exit_code"], result["cause"])
        if storage.exists(_record(spec)):
            if storage.read_json(_record(spec)).get("cancelled"):
                return JobStatus("failed", 143, {"what": "The job was cancelled before it began"})
            return JobStatus("failed", 137, {"what": "The job's launcher was killed"})
        return JobStatus("absent")

    def logs(self, spec: TrainJobSpec, offset: int) -> tuple[str, int]:
        """See `Backend`."""
        path = storage.local_path(_log(spec))
        if not path.exists():
            return "", offset
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(1 << 20)
        whole = data.rfind(b"\n") + 1
        return data[:whole].decode("utf-8", "replace"), offset + whole

    def cancel(self, spec: TrainJobSpec) -> None:
        """See `Backend`."""
        if not storage.exists(_record(spec)):
            return
        record = storage.read_json(_record(spec))
        pid, started = record["pid"], record["started"]
        if not is_alive(pid, started):
            return
        storage.write_json(_record(spec), {**record, "cancelled": True})
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + spec.grace_seconds + 5
        while is_alive(pid, started) and time.monotonic() < deadline:
            time.sleep(0.2)
        for member in members(spec):
            _end(member, signal.SIGKILL)


def log_end(spec: TrainJobSpec) -> int:
    """Bytes the job's log holds now: where the lines of a new attempt begin."""
    path = storage.local_path(_log(spec))
    return path.stat().st_size if path.exists() else 0


def _record(spec: TrainJobSpec) -> str:
    return storage.join(spec.output, "job.json")


def _log(spec: TrainJobSpec) -> str:
    return storage.join(spec.output, "job.log")


def members(spec: TrainJobSpec) -> list[int]:
    """All processes of a job: ranks are in sessions of their own, and outlive a launcher that is killed."""
    marker = f"{JOB_VARIABLE}={spec.output}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if marker in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def _end(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def start_time(pid: int) -> str:
    """A process's start time in clock ticks since boot, which with its id names it for good (proc(5), stat field 22)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def is_alive(pid: int, started: str) -> bool:
    """Whether that very process runs (a zombie does not)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[19] == started and fields[0] != "Z"
