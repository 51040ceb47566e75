"""Units of work that are done once: a finished unit leaves a record that a later attempt takes over.

A record is named by the fingerprint of the stage's output, the phase and the unit: a folder that a person gives as
`--output` may hold what is left of another stage or another configuration, and none of that is taken over.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pydantic import ValidationError

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.foundation.stages.kinds import Result, StageContext, Unit
from hyperclova_core.foundation.stages.units import WorkUnit
from hyperclova_core.foundation.storage import restricted

RECORDS_AT_ONCE = 16
PAYLOAD_BYTES = 10_000
STRICT = "HYPERCLOVA_STRICT_PAYLOADS"
"""Set to 1 by tests: what would be a warning is an error."""

log = logging.getLogger(__name__)


def run_units(
    context: StageContext, function: Callable[[Unit], Result], units: Sequence[Unit], phase: str, answer: type[Result]
) -> tuple[list[Result], int]:
    """Results of all units in order, and how many were taken over from an earlier attempt.

    A result that an earlier attempt left counts if its files are there with the size they had, else the unit runs again.
    Files that were not synced (`UnitResult.boot`) count until the machine stops.
    """
    assert context.engine is not None
    _check_payloads(units, phase)
    inner = context.for_workers()
    known = set(storage.list_names(storage.join(context.target.uri, "units")))
    results: list[Result | None] = [None] * len(units)
    records = {index: _record_path(inner, phase, unit) for index, unit in enumerate(units)}
    finished = [index for index, record in records.items() if record.rsplit("/", 1)[-1] in known]
    with ThreadPoolExecutor(RECORDS_AT_ONCE) as pool:  # a request or two each, on an object store
        for index, taken in zip(
            finished, pool.map(lambda index: _taken_over(records[index], inner, answer), finished), strict=True
        ):
            results[index] = taken
    missing = [index for index, result in enumerate(results) if result is None]
    run = partial(_run_and_record, function=function, context=inner, phase=phase, answer=answer)
    made = context.engine.map_units(run, [units[index] for index in missing], answer)
    for index, result in zip(missing, made, strict=True):
        results[index] = result
    return [result for result in results if result is not None], len(units) - len(missing)


def _check_payloads(units: Sequence[WorkUnit], phase: str) -> None:
    """A unit names what it works on; a list that grows with the corpus lies in an object that it names, not in each unit.

    Raises:
        AssertionError: under test, one is larger than that.
    """
    largest = max((len(unit.model_dump_json()) for unit in (*units[:1], *units[-1:])), default=0)
    if largest > PAYLOAD_BYTES:
        message = f"A unit of phase {phase} takes {largest:,} bytes, more than {PAYLOAD_BYTES:,}"
        if os.environ.get(STRICT) == "1":
            raise AssertionError(message)
        log.warning("%s: thousands of them are held by the driver", message)


def _taken_over(record: str, context: StageContext, answer: type[Result]) -> Result | None:
    """What a record says, if its files are there; a record that cannot be used is removed, and the unit runs again."""
    try:
        saved = storage.read_json(record)
        result = answer.model_validate(saved["result"])
        lasting = not result.boot or result.boot == storage.boot_of(context.target.uri)
        if lasting and all(storage.size(path) == size for path, size in saved["sizes"].items()):
            return result
    except (DataError, ValidationError, KeyError, TypeError, FileNotFoundError, NotADirectoryError):
        pass
    storage.remove(record)
    return None


def _record_path(context: StageContext, phase: str, unit: WorkUnit) -> str:
    known = {"output": context.fingerprint, "phase": phase, "unit": unit.identity}
    if restricted.is_elsewhere(context.target.restricted_folder):
        # what an attempt before HYPERCLOVA_RESTRICTED was set, or changed, left lies elsewhere
        known["restricted"] = context.target.restricted_uri
    identity = fingerprint(known)
    return storage.join(context.target.uri, "units", f"{identity}.json")


def _run_and_record(
    unit: Unit, *, function: Callable[[Unit], Result], context: StageContext, phase: str, answer: type[Result]
) -> Result:
    record = _record_path(context, phase, unit)
    if storage.is_file(record):  # this task is run again, or twice
        taken = _taken_over(record, context, answer)
        if taken is not None:
            return taken
    result = function(unit)
    saved = {
        "result": result.model_dump(mode="json"),
        "sizes": {path: storage.size(path) for path in result.files},
    }
    # a record that a crash of the machine loses, or leaves damaged, costs its unit
    if not storage.create_once(record, storage.pretty_json(saved), durable=not storage.boot_of(context.target.uri)):
        taken = _taken_over(record, context, answer)
        if taken is not None:
            return taken
    return result
