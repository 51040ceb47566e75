"""Units of work that are done once: a finished unit leaves a record that a later attempt takes over.

A record is named by the fingerprint of the stage's output, the phase and the unit: a folder that a person gives as
`--output` may hold what is left of another stage or another configuration, and none of that is taken over.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.foundation.stages.kinds import StageContext

UnitFunction = Callable[[dict[str, Any]], dict[str, Any]]


def run_units(
    context: StageContext, function: UnitFunction, units: list[dict[str, Any]], phase: str
) -> tuple[list[dict[str, Any]], int]:
    """Results of all units in order, and how many were taken over from an earlier attempt.

    A result is a JSON value with `files`: addresses that must still be there with the size they had, else the unit runs
    again. Where it has a `boot` (`storage.boot_of`), its files were not synced, and count until the machine stops.
    """
    assert context.engine is not None
    inner = context.for_workers()
    known = set(storage.list_names(storage.join(context.target.uri, "units")))
    results: list[dict[str, Any] | None] = []
    for unit in units:
        record = _record_path(inner, phase, unit)
        results.append(_taken_over(record, inner) if record.rsplit("/", 1)[-1] in known else None)
    missing = [index for index, result in enumerate(results) if result is None]
    run = partial(_run_and_record, function=function, context=inner, phase=phase)
    for index, result in zip(missing, context.engine.map_units(run, [units[index] for index in missing]), strict=True):
        results[index] = result
    return [result for result in results if result is not None], len(units) - len(missing)


def _taken_over(record: str, context: StageContext) -> dict[str, Any] | None:
    """What a record says, if its files are there; a record that cannot be used is removed, and the unit runs again."""
    try:
        saved = storage.read_json(record)
        result: dict[str, Any] = saved["result"]
        lasting = not result.get("boot") or result["boot"] == storage.boot_of(context.target.uri)
        if lasting and all(storage.size(path) == size for path, size in saved["sizes"].items()):
            return result
    except (DataError, KeyError, TypeError, FileNotFoundError, NotADirectoryError):
        pass
    storage.remove(record)
    return None


def _record_path(context: StageContext, phase: str, unit: dict[str, Any]) -> str:
    identity = fingerprint({"output": context.fingerprint, "phase": phase, "unit": unit["identity"]})
    return storage.join(context.target.uri, "units", f"{identity}.json")


def _run_and_record(
    unit: dict[str, Any], *, function: UnitFunction, context: StageContext, phase: str
) -> dict[str, Any]:
    record = _record_path(context, phase, unit)
    if storage.is_file(record):  # this task is run again, or twice
        taken = _taken_over(record, context)
        if taken is not None:
            return taken
    result = function(unit)
    saved = {"result": result, "sizes": {path: storage.size(path) for path in result["files"]}}
    # a record that a crash of the machine loses, or leaves damaged, costs its unit
    if not storage.create_once(record, storage.pretty_json(saved), durable=not storage.boot_of(context.target.uri)):
        taken = _taken_over(record, context)
        if taken is not None:
            return taken
    return result
