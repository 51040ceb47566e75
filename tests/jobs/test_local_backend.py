"""Jobs on this machine: exit codes carry causes, a running job is adopted, cancelling gives grace, kills are noticed."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import ConfigError, DataError
from hyperclova_core.jobs.backend import JobStatus, wait
from hyperclova_core.jobs.backends import FileLogs, LocalBackend, is_alive, members, start_time
from hyperclova_core.jobs.failure_causes import cause_of
from hyperclova_core.jobs.launcher import command_of
from hyperclova_core.jobs.spec import TrainJobSpec
from hyperclova_core.pipeline.jobs import failure_of
from tests.jobs.fake_cluster import BAD_SHARD, until

PROGRAM = """
import argparse, json, signal, sys, time
parser = argparse.ArgumentParser(); parser.add_argument("--config"); options = parser.parse_args()
config = json.load(open(options.config))
print("hello from the job", flush=True)
if config.get("cause"):
    json.dump({"time": 1.0, **config["cause"]}, open(config["output"] + "/cause-0.json", "w"))
if config.get("grace"):
    def stop(number, frame):
        print("saving", flush=True); time.sleep(0.5); open(config["output"] + "/saved", "w").close(); sys.exit(75)
    signal.signal(signal.SIGTERM, stop)
time.sleep(config.get("seconds", 0))
sys.exit(config.get("code", 0))
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "job_program_for_tests.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(__file__).resolve().parents[2]}")
    return "job_program_for_tests"


def spec(program: str, folder: Path, **config: object) -> TrainJobSpec:
    output = str(folder / "job")
    return TrainJobSpec("job", program, {"output": output, **config}, output, processes=0, grace_seconds=5)


def test_a_job_that_ends_well(program: str, tmp_path: Path) -> None:
    job, lines = spec(program, tmp_path), []
    backend = LocalBackend()
    assert backend.get(job).state == "absent"
    assert backend.submit(job)
    assert wait(backend, job, lines.append) == JobStatus("succeeded", 0, {})
    assert lines == ["hello from the job"]


def test_the_cause_a_rank_leaves_decides_the_exit_code(program: str, tmp_path: Path) -> None:
    job = spec(program, tmp_path, code=1, cause=BAD_SHARD)
    LocalBackend().submit(job)
    status = wait(LocalBackend(), job)
    assert (status.state, status.exit_code) == ("failed", 65)
    assert "shard 3" in status.explain()
    error = failure_of(job, status)
    assert isinstance(error, DataError)
    assert error.remedy == "serialize again"


def test_an_exit_without_a_cause_keeps_its_code(program: str, tmp_path: Path) -> None:
    job = spec(program, tmp_path, code=3)
    LocalBackend().submit(job)
    assert wait(LocalBackend(), job).exit_code == 3
    assert cause_of(3).name == "unknown"


def test_a_running_job_is_adopted_and_another_in_its_folder_refused(program: str, tmp_path: Path) -> None:
    job = spec(program, tmp_path, seconds=30)
    backend = LocalBackend()
    assert backend.submit(job)
    first = storage.read_json(f"{job.output}/job.json")["pid"]
    assert not LocalBackend().submit(job)
    assert storage.read_json(f"{job.output}/job.json")["pid"] == first
    with pytest.raises(ConfigError, match="Another job runs"):
        backend.submit(spec(program, tmp_path, seconds=31))
    # what an attempt overrides is outside the identity
    changed = TrainJobSpec(**{**job.to_dict(), "overrides": {"micro_batch_size": 1}})
    assert changed.hash == job.hash
    assert not backend.submit(changed)
    backend.cancel(job)
    assert backend.get(job).exit_code == 143


def test_a_cancelled_job_may_save_first(program: str, tmp_path: Path) -> None:
    job = spec(program, tmp_path, seconds=30, grace=True)
    backend = LocalBackend()
    backend.submit(job)
    until(lambda: any("hello" in line for line in backend.tail(job).read()))
    backend.cancel(job)
    assert Path(job.output, "saved").exists()
    status = backend.get(job)
    assert status.exit_code == 75
    assert cause_of(75).retries > 1


def test_a_killed_launcher_is_a_failed_job_and_may_be_submitted_again(program: str, tmp_path: Path) -> None:
    job = spec(program, tmp_path, seconds=30)
    backend = LocalBackend()
    backend.submit(job)
    record = storage.read_json(f"{job.output}/job.json")
    os.killpg(record["pid"], signal.SIGKILL)
    until(lambda: backend.get(job).state == "failed")
    assert backend.get(job).exit_code == 137
    assert backend.submit(job)
    backend.cancel(job)


def test_orphans_of_a_killed_launcher_are_ended_before_the_next_attempt(program: str, tmp_path: Path) -> None:
    job = spec(program, tmp_path, seconds=60)
    backend = LocalBackend()
    backend.submit(job)
    until(lambda: any("hello" in line for line in backend.tail(job).read()))
    os.kill(storage.read_json(f"{job.output}/job.json")["pid"], signal.SIGKILL)
    until(lambda: backend.get(job).state == "failed")
    orphans = members(job)
    assert orphans
    backend.submit(job)
    until(lambda: not any(is_alive(pid, start_time(pid)) for pid in orphans))
    backend.cancel(job)
    until(lambda: not members(job))


def test_a_process_id_alone_is_no_identity() -> None:
    assert is_alive(os.getpid(), start_time(os.getpid()))
    assert not is_alive(os.getpid(), "1")
    assert not is_alive(2**22 + 1, "1")


def test_torchrun_waits_as_long_as_the_grace_time(tmp_path: Path) -> None:
    job = TrainJobSpec("job", "some.module", {}, str(tmp_path), processes=4, grace_seconds=77)
    command = command_of(job, "config.json")
    assert command[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert "--nproc-per-node=4" in command
    assert "--shutdown-timeout=77" in command


def test_a_log_is_read_in_bounded_pieces_and_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "job.log"
    path.write_bytes(b"one\ntwo\nhal")
    logs = FileLogs(path)
    assert list(logs.read()) == ["one", "two"]
    with path.open("ab") as file:
        file.write(b"f\n" + b"x" * (3 << 20))
    found = list(FileLogs(path, logs.cursors).read())
    assert found[0] == "half"
    assert max(len(piece) for piece in found[1:]) <= 2 << 20
    assert "".join(found[1:]) in "x" * (3 << 20)
