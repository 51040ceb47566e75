"""One protocol, whole: what is asked of a place where jobs run holds on this machine and on the double of a cluster."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.jobs.backend import Backend, wait
from hyperclova_core.jobs.backends import LocalBackend
from tests.conftest import ROOT
from tests.jobs.fake_cluster import until
from tests.jobs.programs import PROGRAM, job


@pytest.fixture(params=["this machine", "kubernetes"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backend:
    if request.param == "kubernetes":
        found: Backend = request.getfixturevalue("backend")
        return found
    (tmp_path / "job_program_for_clusters.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    return LocalBackend()


def test_a_job_runs_to_its_end_and_every_line_is_given_once(place: Backend, tmp_path: Path) -> None:
    one = job(tmp_path, lines=50)
    assert (place.get(one).state, place.attempt(one), place.log_cursors(one)) == ("absent", 0, {})
    assert place.submit(one)
    assert place.attempt(one) == 1
    lines: list[str] = []
    assert wait(place, one, lines.append, 0.1).state == "succeeded"
    said = [line.rpartition("] ")[2] for line in lines]
    assert said == ["hello from 0", *(f"line {n}" for n in range(50))]
    first = place.tail(one)
    some = [line for _, line in zip(range(20), first.read(), strict=False)]
    place.keep_log_cursors(one, first.cursors)
    rest = list(place.tail(one, place.log_cursors(one)).read())
    assert [*some, *rest] == lines, "another reader goes on where the first one died"
    assert [line.rpartition("] ")[2] for line in place.last_lines(one, first.pods[0], 2)] == ["line 48", "line 49"]
    assert not first.unread


def test_a_running_job_is_adopted_followed_by_whoever_came_last_and_ended(place: Backend, tmp_path: Path) -> None:
    one = job(tmp_path, seconds=60)
    assert place.submit(one)
    assert not place.submit(one)
    with pytest.raises(ConfigError, match="Another job"):
        place.submit(job(tmp_path, seconds=61))
    assert place.holder(one) is None
    place.lease(one, "first")
    place.lease(one, "second")
    assert place.holder(one) == "second"
    until(lambda: list(place.tail(one).read()))
    late = place.stopped(one, 124, {"what": "late"})
    assert (late.state, late.exit_code, place.get(one).state) == ("failed", 124, "running")
    place.clear(one)
    until(lambda: place.get(one).state in ("failed", "absent"))


def test_nothing_is_started_that_nobody_wants_any_more(place: Backend, tmp_path: Path) -> None:
    over = threading.Event()
    over.set()
    assert not place.submit(job(tmp_path, seconds=60), 0, over)
    assert place.get(job(tmp_path, seconds=60)).state == "absent"


def test_attempts_go_on_from_what_is_known_to_have_been(place: Backend, tmp_path: Path) -> None:
    one = job(tmp_path, cause={"type": "DataError", "what": "bad", "exit_code": 65})
    place.submit(one, after=4)
    assert place.attempt(one) == 5
    status = wait(place, one, poll_seconds=0.1)
    assert (status.state, status.exit_code) == ("failed", 65)
    place.clear(one)
    again = replace(one, overrides={"cause": None})
    place.submit(again)
    assert place.attempt(again) == 6
    assert wait(place, again, poll_seconds=0.1).state == "succeeded"
