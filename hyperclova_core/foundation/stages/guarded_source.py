"""A source stage's function at work in a process of its own: a record that breaks a limit is passed over when its file is read again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
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
        given = 0
        while True:
            try:
                for number, batch in enumerate(self._asked(file, known)):
                    if number >= given:
                        given += 1
                        yield batch
                return
            except TrippedError as error:
                at = self._progress.get()
                if at == 0 or str(at) in known or len(known) >= MOST_TRIPS:
                    yield _rest_of(file, self._context.stage, at, error)
                    return
                known[str(at)] = [error.reason, f"{error.detail}; {REMEDIES[error.reason]}"]
                storage.write_json(record, known)

    def _asked(self, file: SourceFile, known: dict[str, list[str]]) -> Iterator[SourceBatch]:
        if self._process is None or not self._process.alive:
            if self._definition.warm_up is not None:
                self._definition.warm_up()
            self._process = ContentProcess(self._work, self._context.limits)
        self._progress.set(0)
        told = {"file": {**file.model_dump(mode="json"), "path": os.fsencode(file.path).hex()}, "known": known}
        for answer in self._process.ask(Answer(told, []), self._context.limits.record_seconds):
            documents, rejected, quarantine = answer.tables
            yield SourceBatch(documents, rejected, quarantine)

    def _work(self, request: Answer) -> Iterator[Answer]:
        """In the process for content."""
        told: dict[str, Any] = request.told
        file = SourceFile.model_validate({**told["file"], "path": os.fsdecode(bytes.fromhex(told["file"]["path"]))})
        known = {int(number): Trip(reason, detail) for number, (reason, detail) in told["known"].items()}

        def begun(number: int) -> None:
            self._progress.set(number)
            allow(self._context.limits.record_seconds)

        context = replace(self._context, watch=RecordWatch(known, begun))
        for batch in self._definition.function(file, self._config, context):
            yield Answer({}, [batch.documents, batch.rejected, batch.quarantine])


def _rest_of(file: SourceFile, stage: str, record: int, error: TrippedError) -> SourceBatch:
    """What is left of a file that cannot be read on."""
    detail = (
        f"{error.detail}, on the way to record {record + 1}: nothing that follows was read; {REMEDIES[error.reason]}"
    )
    row = {
        "stage": stage,
        "source": file.source,
        "location": f"{file.name}#{record + 1}",
        "offset": record + 1,
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
