"""Units of work that are done once: a finished unit leaves a record that a later attempt takes over."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets import Target
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.foundation.stages import Engine

UnitFunction = Callable[[dict[str, Any]], dict[str, Any]]


def run_units(
    engine: Engine, target: Target, function: UnitFunction, units: list[dict[str, Any]], phase: str
) -> tuple[list[dict[str, Any]], int]:
    """Results of all units in order, and how many were taken over from an earlier attempt.

    A result is a JSON value with `files`: paths below the target that must still be there, else the unit runs again.
    """
    results: list[dict[str, Any] | None] = []
    for unit in units:
        record = _record_path(target, phase, unit)
        result = json.loads(storage.read_bytes(record)) if storage.exists(record) else None
        if result is not None and not all(storage.exists(path) for path in result["files"]):
            storage.local_path(record).unlink()
            result = None
        results.append(result)
    missing = [index for index, result in enumerate(results) if result is None]
    run = partial(_run_and_record, function=function, target=target, phase=phase)
    for index, result in zip(missing, engine.map_units(run, [units[index] for index in missing]), strict=True):
        results[index] = result
    return [result for result in results if result is not None], len(units) - len(missing)


def _record_path(target: Target, phase: str, unit: dict[str, Any]) -> str:
    identity = fingerprint({"phase": phase, "unit": unit["identity"]})
    return storage.join(target.uri, "units", f"{identity}.json")


def _run_and_record(unit: dict[str, Any], *, function: UnitFunction, target: Target, phase: str) -> dict[str, Any]:
    result = function(unit)
    record = _record_path(target, phase, unit)
    if not storage.create_once(record, storage.pretty_json(result)):
        taken: dict[str, Any] = json.loads(storage.read_bytes(record))
        return taken
    return result
