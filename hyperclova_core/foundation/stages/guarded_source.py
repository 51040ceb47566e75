"""A source stage's function at work in a process of its own: a record that breaks a limit is passed over when its file is read again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any

import pyarrow as pa

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.datasets.document_schema import DOCUMENT_SCHEMA, QUARANTINE_SCHEMA, REJECTED_SCHEMA
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.foundation.stages.content_limits import REMEDIES
from hyperclova_core.foundation.stages.content_process import Answer, ContentProcess, Progress, TrippedError, allow
from hyperclova_core.foundation.stages.guarded_stage import trips_folder
from hyperclova_core.foundation.stages.kinds import SourceBatch, StageContext, StageDefinition
from hyperclova_core.foundation.stages.record_watch import RecordWatch, Trip
from hyperclova_core.foundation.stages.units import SourceFile

MOST_TRIPS = 100
"""Records of one file that may break a limit; a file of more is no corpus, and the rest of it is set aside as one."""


class GuardedSource:
    """A stage's function for files, called in a process for content, one for many files."""

    def __init__(self, definition: StageDefinition, config: Config, context: StageContext) -> None:
        self._definition, self._config, self._context = definition, config, context
        self._noted = frozenset(storage.list_names(trips_folder(context)))
        self._progress = Progress()
        self._process: ContentProcess | None = None

    def __enter__(self) -> GuardedSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.close()

    def batches(self, file: SourceFile) -> Iterator[SourceBatch]:
        """What the stage yields for a file. Where a record ends the process, the file is read again from its beginning: what was given
        already is left out, and the reader is told which record to pass over."""
        name = f"{fingerprint([file.source, file.name, file.checksum])}.json"
        record = storage.join(trips_folder(self._context), name)
        known: dict[str, list[str]] = storage.read_json(record) if name in self._noted else {}
        given, ended_from_outside = _Given(), -1
        while True:
            try:
                for batch, through in self._asked(file, known, given):
                    given = _Given(through, given.items + _rows(batch))
                    yield batch
                return
            except TrippedError as error:
                at = self._progress.get()
                if error.from_outside and at != ended_from_outside:
                    ended_from_outside = at  # whoever killed it need not have meant this record: once more
                    continue
                if at <= given.through or str(at) in known or len(known) >= MOST_TRIPS:
                    yield _rest_of(file, self._context.stage, given.through + 1, error)
                    return
                known[str(at)] = [error.reason, f"{error.detail}; {REMEDIES[error.reason]}"]
                storage.write_json(record, known)

    def _asked(self, file: SourceFile, known: dict[str, list[str]], given: _Given) -> Iterator[tuple[SourceBatch, int]]:
        """Batches, each with the number of the last record in it."""
        if self._process is None or not self._process.alive:
            if self._definition.warm_up is not None:
                self._definition.warm_up(self._config)
            self._process = ContentProcess(self._work, self._context.limits)
        self._progress.set(0)
        path = os.fsencode(file.path).hex()
        told = {"file": {**file.model_dump(mode="json"), "path": path}, "known": known, "given": asdict(given)}
        for answer in self._process.ask(Answer(told, []), self._context.limits.record_seconds):
            documents, rejected, quarantine = answer.tables
            yield SourceBatch(documents, rejected, quarantine), answer.told["through"]

    def _work(self, request: Answer) -> Iterator[Answer]:
        """In the process for content."""
        told: dict[str, Any] = request.told
        file = SourceFile.model_validate({**told["file"], "path": os.fsdecode(bytes.fromhex(told["file"]["path"]))})
        known = {int(number): Trip(reason, detail) for number, (reason, detail) in told["known"].items()}
        given = _Given(**told["given"])

        def begun(number: int) -> None:
            self._progress.set(number)
            allow(self._context.limits.record_seconds)

        watch = RecordWatch(known, begun, given.through, given.items)
        for batch in self._definition.function(file, self._config, replace(self._context, watch=watch)):
            yield Answer({"through": watch.number}, [batch.documents, batch.rejected, batch.quarantine])


@dataclass(frozen=True)
class _Given:
    """What the worker has of a file: the number of the last record, and rows."""

    through: int = 0
    items: int = 0


def _rows(batch: SourceBatch) -> int:
    return int(batch.documents.num_rows + batch.rejected.num_rows + batch.quarantine.num_rows)


def _rest_of(file: SourceFile, stage: str, first: int, error: TrippedError) -> SourceBatch:
    """What is left of a file that cannot be read on."""
    detail = f"{error.detail}, in record {first} or on the way to it: nothing from there on was read; {REMEDIES[error.reason]}"
    row = {
        "stage": stage,
        "source": file.source,
        "location": f"{file.name}#{first}",
        "offset": first,
        "reason": error.reason,
        "detail": detail,
        "raw_bytes": 0,
        "raw": b"",
    }
    return SourceBatch(
        pa.RecordBatch.from_pylist([], DOCUMENT_SCHEMA),
        pa.RecordBatch.from_pylist([], REJECTED_SCHEMA),
        pa.RecordBatch.from_pylist([row], QUARANTINE_SCHEMA),
    )
