"""Where jobs run. `LocalBackend` runs them on this machine, with the same names, adoption, logs and exit codes as a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.foundation.storage import restricted
from hyperclova_core.foundation.warehouse import now
from hyperclova_core.jobs.backend import Backend, JobStatus
from hyperclova_core.jobs.spec import TrainJobSpec

CURSORS, HOLDER = "log-cursors.json", "holder.json"
JOB_VARIABLE = "HYPERCLOVA_JOB"
"""In the environment of a job's processes, with its output folder: by it orphans are found."""


POD = "this machine"
"""What a job's lines are of here: all its ranks write one log."""
READ_BYTES = 1 << 20


class FileLogs:
    """Lines of a log that grows, whole ones only. See `JobLogs`.

    Args:
        cursors: `{POD: {"offset": bytes}}`.
    """

    def __init__(self, path: Path, cursors: Mapping[str, Any] | None = None) -> None:
        self._path, self._offset = path, int((cursors or {}).get(POD, {}).get("offset", 0))
        self.pods: Sequence[str] = (POD,)
        self.unread: dict[str, str] = {}

    @property
    def cursors(self) -> dict[str, Any]:
        """See `JobLogs`."""
        return {POD: {"offset": self._offset}}

    def read(self) -> Iterator[str]:
        """See `JobLogs`; at most twice `READ_BYTES` are in memory."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            left = b""
            while data := file.read(READ_BYTES):
                *whole, left = (left + data).split(b"\n")
                for line in whole:
                    self._offset += len(line) + 1
                    yield line.decode("utf-8", "replace")
                if len(left) >= READ_BYTES:  # a line without an end is given in pieces
                    self._offset += len(left)
                    yield left.decode("utf-8", "replace")
                    left = b""


class LocalBackend:
    """Jobs as processes of this machine, in sessions of their own; known by process id and start time. See `Backend`."""

    def submit(self, spec: TrainJobSpec, after: int = 0, stop: threading.Event | None = None) -> bool:
        """See `Backend`.

        Raises:
            ConfigError: another job runs in the same folder.
        """
        if stop is not None and stop.is_set():
            return False
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
        attempt = max(after, self.attempt(spec)) + 1
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
                env={**restricted.without(os.environ), JOB_VARIABLE: spec.output},
            )
        record = {
            "pid": process.pid,
            "started": start_time(process.pid),
            "spec_hash": spec.hash,
            "submitted_at": now(),
            "attempt": attempt,
        }
        storage.write_json(_record(spec), record)
        if stop is not None and stop.is_set():
            self.cancel(spec)
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

    def attempt(self, spec: TrainJobSpec) -> int:
        """See `Backend`."""
        return int(storage.read_json(_record(spec)).get("attempt", 1)) if storage.exists(_record(spec)) else 0

    def stopped(self, spec: TrainJobSpec, code: int, cause: dict[str, Any]) -> JobStatus:
        """See `Backend`."""
        return JobStatus("failed", code, cause)

    def clear(self, spec: TrainJobSpec) -> None:
        """See `Backend`."""
        self.cancel(spec)

    def tail(
        self, spec: TrainJobSpec, cursors: Mapping[str, Any] | None = None, skip: Collection[str] = ()
    ) -> FileLogs:
        """See `Backend`; lines of earlier attempts come first in the log."""
        return FileLogs(storage.local_path(_log(spec)), cursors)

    def end_of_log(self, spec: TrainJobSpec) -> dict[str, Any]:
        """Cursors at the end of what the job has printed by now: where the lines of a new attempt begin."""
        path = storage.local_path(_log(spec))
        return {POD: {"offset": path.stat().st_size if path.exists() else 0}}

    def log_cursors(self, spec: TrainJobSpec) -> dict[str, Any]:
        """See `Backend`."""
        path = storage.join(spec.output, CURSORS)
        return dict(storage.read_json(path)) if storage.exists(path) else {}

    def keep_log_cursors(self, spec: TrainJobSpec, cursors: Mapping[str, Any]) -> None:
        """See `Backend`."""
        storage.write_json(storage.join(spec.output, CURSORS), dict(cursors))

    def last_lines(self, spec: TrainJobSpec, pod: str, lines: int = 40) -> list[str]:
        """See `Backend`."""
        return list(deque(self.tail(spec).read(), maxlen=lines))

    def lease(self, spec: TrainJobSpec, holder: str) -> None:
        """See `Backend`."""
        storage.write_json(storage.join(spec.output, HOLDER), {"holder": holder})

    def holder(self, spec: TrainJobSpec) -> str | None:
        """See `Backend`."""
        path = storage.join(spec.output, HOLDER)
        return str(storage.read_json(path)["holder"]) if storage.exists(path) else None

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


if TYPE_CHECKING:
    _whole: Backend = LocalBackend()
