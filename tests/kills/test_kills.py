"""Killed at any moment, a second run ends with the same bytes; nothing half is ever seen, and gc finds what was left."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.corpora import versions
from hyperclova_core.foundation.corpora.retention import find_garbage, remove
from hyperclova_core.foundation.storage import retries
from hyperclova_core.foundation.warehouse import Warehouse
from tests import object_store as faulty
from tests.kills.work import Points, bytes_of, chain, killed_child, source_files, visible
from tests.object_store import Exchange, FaultProxy


def check_after(warehouse: Warehouse, folder: str, clean: list[object], name: str) -> int:
    """After a kill: nothing half is visible; a second run gives the same; gc leaves exactly what the manifests name.

    Returns how many datasets were visible then.
    """
    seen = visible(warehouse)
    assert len(seen) <= 2
    made = chain(warehouse, folder)
    assert bytes_of(made) == clean, name
    version = versions.current(warehouse, "c")
    assert version is not None
    assert (version.version, len(version.parts)) == (1, 1)
    # what a person would do days later
    remove(warehouse, find_garbage(warehouse, older_than=0))
    named = {path for dataset in made for table in dataset.manifest.tables for path in dataset.files(table)}
    left = {
        path
        for part in ("datasets", "restricted")
        for path, _, _ in storage.list_objects(storage.join(warehouse.uri, part))
        if not path.endswith(("manifest.json", "attempt.json"))
    }
    assert left == named, name
    return len(seen)


def test_killed_at_every_point_on_disk(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    folder = source_files(tmp_path / "files")
    clean_house = Warehouse(str(tmp_path / "clean"))
    recorded = Points()
    read_end, write_end = os.pipe()

    def record() -> None:
        recorded.on_disk()
        chain(clean_house, folder)
        os.write(write_end, "\n".join(recorded.seen).encode())

    assert not killed_child(record)
    points = os.read(read_end, 1 << 20).decode().split("\n")
    clean = bytes_of(chain(clean_house, folder))
    assert len(points) >= 60
    for number, name in enumerate(points):
        warehouse = Warehouse(str(tmp_path / f"k{number}"))

        def work(number: int = number, warehouse: Warehouse = warehouse) -> None:
            Points(number).on_disk_and(lambda: chain(warehouse, folder))

        assert killed_child(work), name
        record_property("kill", ("disk", name, check_after(warehouse, folder, clean, name)))


def test_killed_at_every_write_to_the_object_store(
    faults: FaultProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    monkeypatch.setattr(retries, "BASE_SECONDS", 0.01)
    folder = source_files(tmp_path / "files")
    clean = bytes_of(chain(Warehouse(str(tmp_path / "clean")), folder))
    for _ in range(2):  # the first warms the store: a write that takes too long is sent twice
        warehouse = Warehouse(f"s3://warehouse/{uuid.uuid4().hex}")
        faults.set_plan()
        assert not killed_child(lambda warehouse=warehouse: _quietly(chain, warehouse, folder))
    writes = [path.split(b"?")[0].rsplit(b"/", 1)[-1].decode() for method, path in faults.seen if method == b"PUT"]
    assert bytes_of(chain(warehouse, folder)) == clean
    assert len(writes) >= 15
    for moment in ("before", "after"):
        for number, name in enumerate(writes):
            warehouse = Warehouse(f"s3://warehouse/{uuid.uuid4().hex}")
            pids: list[int] = []

            def deadly(exchange: Exchange, moment: str = moment, pids: list[int] = pids) -> None:
                if moment == "after":
                    exchange.forward()
                os.kill(pids[0], signal.SIGKILL)

            count = [0]

            def plan(
                _: int,
                method: bytes,
                path: bytes,
                count: list[int] = count,
                number: int = number,
                fault: faulty.Fault = deadly,
            ) -> faulty.Fault:
                if method != b"PUT":
                    return faulty.pass_on
                count[0] += 1
                return fault if count[0] == number + 1 else faulty.pass_on

            faults.set_plan(plan)
            assert _killed_from_outside(lambda warehouse=warehouse: _quietly(chain, warehouse, folder), pids), name
            faults.set_plan()
            short = "a unit record" if len(name) == 37 else name
            name = f"{moment} the PUT of {short}"
            record_property("kill", ("S3", name, check_after(warehouse, folder, clean, name)))


def _quietly(function, *args):  # type: ignore[no-untyped-def]
    from hyperclova_core.foundation.storage import s3_client

    s3_client.forget_clients()
    return function(*args)


def _killed_from_outside(work, pids: list[int]) -> bool:  # type: ignore[no-untyped-def]
    from tests.kills.work import wait_for

    ready_read, ready_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.read(ready_read, 1)
            work()
            code = 0
        finally:
            os._exit(code)
    pids.append(pid)
    os.write(ready_write, b"g")
    os.close(ready_write)
    os.close(ready_read)
    return wait_for(pid)
