"""A document stage's function at work in a process of its own: a document that breaks a limit is found and set aside, the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.datasets.document_schema import DOCUMENT_SCHEMA, QUARANTINE_SCHEMA, RAW_KEPT_BYTES
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.foundation.stages.content_limits import REMEDIES
from hyperclova_core.foundation.stages.content_process import Answer, ContentProcess, TrippedError
from hyperclova_core.foundation.stages.kinds import StageBatch, StageContext, StageDefinition
from hyperclova_core.foundation.stages.record_watch import Trip
from hyperclova_core.foundation.stages.units import WorkUnit

QUARANTINE = "quarantine"
NOTED_AT_ONCE = 64
"""Documents that are noted as they are found; when there are more, once a batch."""
MOST_TRIPS, MOST_SHARE = 256, 0.05
"""A unit of which so many documents, and such a share of those seen, broke a limit ends the stage."""
PART_BYTES = 32 << 20
"""Of documents that are worked on at once; what holds more is cut."""


def trips_folder(context: StageContext) -> str:
    """Where it is noted, until the stage is committed, which documents broke a limit: a later attempt does not wait for them again."""
    return storage.join(context.target.uri, "tripped")


def parts_of(documents: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """A batch, in parts of no more than PART_BYTES of text or one document."""
    if documents.nbytes <= PART_BYTES or documents.num_rows <= 1:
        yield documents
        return
    half = documents.num_rows // 2
    yield from parts_of(documents.slice(0, half))
    yield from parts_of(documents.slice(half))


class GuardedStage:
    """A stage's function, called in a process for content. A batch that breaks a limit is given again a document at a time, so that the
    one at fault is found within its own limit of time, not within that of each half of a batch.
    """

    def __init__(self, definition: StageDefinition, config: Config, context: StageContext, unit: WorkUnit) -> None:
        self._definition, self._config, self._context = definition, config, context
        name = f"{fingerprint(unit.identity)}.json"
        self._record = storage.join(trips_folder(context), name)
        noted = storage.read_json(self._record) if name in storage.list_names(trips_folder(context)) else []
        self._known = {row["doc_id"]: Trip(row["reason"], row["detail"]) for row in noted}
        self._process: ContentProcess | None = None
        self._seen = self._aside = 0

    def __enter__(self) -> GuardedStage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.close()

    def __call__(self, documents: pa.RecordBatch) -> tuple[StageBatch, pa.RecordBatch]:
        """The stage's answer to a batch, and those documents that broke a limit (QUARANTINE_SCHEMA)."""
        aside: list[tuple[pa.RecordBatch, Trip]] = []
        self._seen += documents.num_rows
        if self._known:
            ids = documents.column("doc_id").to_pylist()
            aside += [(documents.slice(at, 1), self._known[key]) for at, key in enumerate(ids) if key in self._known]
            documents = documents.filter(pa.array([key not in self._known for key in ids], pa.bool_()))
        try:
            answer = self._asked(documents)
        except TrippedError as error:
            # a batch of one that broke its limit need not be tried again
            first = error if documents.num_rows == 1 and not error.from_outside else None
            answers = []
            for at in range(documents.num_rows):
                one = documents.slice(at, 1)
                found = first or self._alone(one)
                if isinstance(found, StageBatch):
                    answers.append(found)
                    continue
                trip = Trip(found.reason, found.detail)
                self._known[one.column("doc_id")[0].as_py()] = trip
                aside.append((one, trip))
                if len(self._known) <= NOTED_AT_ONCE:
                    self._note()
            if len(self._known) > NOTED_AT_ONCE:
                self._note()
            answer = joined(answers, documents.slice(0, 0))
        self._aside += len(aside)
        if aside and self._aside > max(MOST_TRIPS, MOST_SHARE * self._seen):
            raise self._fails_on_everything(aside[-1][1])
        return answer, quarantined(aside, self._definition.name)

    def _alone(self, document: pa.RecordBatch) -> StageBatch | TrippedError:
        """The answer to one document. Where a signal from outside ended the process, which need not have meant this document, it is asked
        once more."""
        try:
            return self._asked(document)
        except TrippedError as error:
            if not error.from_outside:
                return error
        try:
            return self._asked(document)
        except TrippedError as error:
            return error

    def _fails_on_everything(self, last: Trip) -> DataError:
        return DataError(
            f"Stage {self._definition.name} breaks its limits on too many documents",
            where=self._record,
            why=f"{self._aside:,} of the first {self._seen:,} of a bucket, the last one: {last.reason}, {last.detail}",
            remedy="a stage that fails on everything has a fault, or its limits are too small: nothing was committed",
        )

    def _asked(self, documents: pa.RecordBatch) -> StageBatch:
        if self._process is None or not self._process.alive:
            if self._definition.warm_up is not None:
                self._definition.warm_up(self._config)
            self._process = ContentProcess(self._work, self._context.limits)
        seconds = self._context.limits.batch_seconds(documents.nbytes)
        (answer,) = self._process.ask(Answer({}, [documents]), seconds)
        kept, rejected, *extras = answer.tables
        told = answer.told
        return StageBatch(
            kept,
            rejected,
            told["reasons"],
            told["details"],
            dict(zip(told["extras"], extras, strict=True)),
            told["custom"],
        )

    def _work(self, request: Answer) -> Iterator[Answer]:
        """In the process for content."""
        (documents,) = request.tables
        answer: StageBatch = self._definition.function(documents, self._config, self._context)
        if not answer.rejected.num_rows == len(answer.reasons) == len(answer.details):
            raise DataError(
                f"Stage {self._definition.name} gave {answer.rejected.num_rows} rejected documents and {len(answer.reasons)} reasons",
                where=self._definition.reference,
                why="each dropped document has exactly one reason",
                remedy="this is a bug of the stage",
            )
        tables = [answer.kept, answer.rejected, *answer.extras.values()]
        size, most = sum(table.nbytes for table in tables), self._context.limits.batch_bytes(documents.nbytes)
        if size > most:
            raise TrippedError("too_much_output", f"{size} bytes, the limit is {most}")
        told = {
            "reasons": answer.reasons,
            "details": answer.details,
            "extras": list(answer.extras),
            "custom": answer.custom,
        }
        yield Answer(told, tables)

    def _note(self) -> None:
        rows = [{"doc_id": key, "reason": told.reason, "detail": told.detail} for key, told in self._known.items()]
        storage.write_json(self._record, rows)


def joined(answers: list[StageBatch], nothing: pa.RecordBatch) -> StageBatch:
    """One answer of many, as of one batch."""
    if not answers:
        return StageBatch(nothing, nothing, [], [])
    whole = StageBatch(
        _one([answer.kept for answer in answers]),
        _one([answer.rejected for answer in answers]),
        [reason for answer in answers for reason in answer.reasons],
        [detail for answer in answers for detail in answer.details],
        {name: _one([answer.extras[name] for answer in answers]) for name in answers[0].extras},
    )
    for answer in answers:
        for name, value in answer.custom.items():
            whole.custom[name] = whole.custom.get(name, 0.0) + value
    return whole


def _one(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    table = pa.Table.from_batches(batches).combine_chunks()
    return table.to_batches()[0] if table.num_rows else batches[0].slice(0, 0)


def quarantined(aside: list[tuple[pa.RecordBatch, Trip]], stage: str) -> pa.RecordBatch:
    """Documents that broke a limit, in QUARANTINE_SCHEMA; the whole of each stays in the stage's input."""
    rows = []
    for document, trip in aside:
        assert document.schema.equals(DOCUMENT_SCHEMA)
        length = pc.binary_length(document.column("text"))[0].as_py()
        head = document.column("text")[0].as_buffer()[:RAW_KEPT_BYTES].to_pybytes()
        rows.append(
            {
                "stage": stage,
                "source": document.column("source")[0].as_py(),
                "location": document.column("doc_id")[0].as_py(),
                "offset": 0,
                "reason": trip.reason,
                "detail": f"{trip.detail}; {REMEDIES[trip.reason]}",
                "raw_bytes": length,
                "raw": head,
            }
        )
    return pa.RecordBatch.from_pylist(rows, QUARANTINE_SCHEMA)
