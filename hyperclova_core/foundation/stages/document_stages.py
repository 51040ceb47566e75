"""Running a document stage: one task a bucket file, read, mapped batch by batch and written in a Python worker."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import pyarrow as pa

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.datasets.dataset import Dataset
from hyperclova_core.foundation.datasets.document_schema import DOCUMENT_SCHEMA, QUARANTINE_SCHEMA, REJECTED_SCHEMA
from hyperclova_core.foundation.datasets.manifest import Table
from hyperclova_core.foundation.datasets.parquet_writer import TableWriter, abandoned_on_error
from hyperclova_core.foundation.stages.counting import Tally
from hyperclova_core.foundation.stages.guarded_stage import QUARANTINE, GuardedStage, parts_of, trips_folder
from hyperclova_core.foundation.stages.kinds import StageContext, StageDefinition, load_stage
from hyperclova_core.foundation.stages.units import BucketUnit, TablesResult, table_of
from hyperclova_core.foundation.stages.work_units import run_units

BATCH_ROWS = 1024


def bucket_path(context: StageContext, table: str, bucket: int) -> str:
    """Where an attempt writes a bucket file, relative to the table's root."""
    return f"{context.attempt_path}/{table}/bucket-{bucket:05d}.parquet"


def rejected_batch(documents: pa.RecordBatch, stage: str, reasons: list[str], details: list[str]) -> pa.RecordBatch:
    """Documents that fall out, with the stage and the reason."""
    columns = [
        *documents.columns,
        pa.array([stage] * len(reasons), pa.string()),
        pa.array(reasons, pa.string()),
        pa.array(details, pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=REJECTED_SCHEMA)


def run_document_stage(
    definition: StageDefinition, config: Config, dataset: Dataset, context: StageContext
) -> tuple[dict[str, Table], Tally, int]:
    """The stage over all bucket files: tables, counts, and units taken over from an earlier attempt."""
    assert context.engine is not None
    units = [
        BucketUnit(identity={"checksum": entry.checksum, "bucket": entry.bucket}, path=path, bucket=entry.bucket or 0)
        for path, entry in zip(dataset.files(), dataset.table("documents").files, strict=True)
    ]
    work = partial(
        _run_unit, reference=definition.reference, config=config.model_dump(mode="json"), context=context.for_workers()
    )
    results, taken = run_units(context, work, units, "documents", TablesResult)
    restricted = {"documents": definition.restricted, "rejected": True}
    restricted.update({name: name in definition.restricted_extras for name in definition.extras})
    tables = {name: table_of(results, name, within) for name, within in restricted.items()}
    if any(QUARANTINE in result.tables for result in results):
        tables[QUARANTINE] = table_of([result for result in results if QUARANTINE in result.tables], QUARANTINE, True)
    context.scrap.folders.append(trips_folder(context))
    return tables, merge_tallies(results), taken


def merge_tallies(results: Sequence[TablesResult]) -> Tally:
    """The sum of the units' counts."""
    tally = Tally()
    for result in results:
        tally.merge(result.counters)
    return tally


def _run_unit(unit: BucketUnit, *, reference: str, config: dict[str, Any], context: StageContext) -> TablesResult:
    definition = load_stage(reference)
    settings = definition.config.model_validate(config)
    tally = Tally()
    schemas = {"documents": DOCUMENT_SCHEMA, "rejected": REJECTED_SCHEMA, **definition.extras}
    restricted = {"documents": definition.restricted, "rejected": True, QUARANTINE: True}

    def writer_of(name: str, schema: pa.Schema) -> TableWriter:
        root = context.target.root(restricted.get(name, name in definition.restricted_extras))
        return TableWriter(root, bucket_path(context, name, unit.bucket), schema, unit.bucket)

    writers = {name: writer_of(name, schema) for name, schema in schemas.items()}
    with (
        ExitStack() as stack,
        storage.open_parquet(unit.path) as file,
        GuardedStage(definition, settings, context, unit) as stage,
    ):
        stack.enter_context(abandoned_on_error(*writers.values()))
        for documents in file.iter_batches(batch_size=BATCH_ROWS):
            tally.see_in(documents)
            for part in parts_of(documents):
                answer, quarantined = stage(part)
                writers["documents"].write(answer.kept)
                writers["rejected"].write(
                    rejected_batch(answer.rejected, definition.name, answer.reasons, answer.details)
                )
                for name, extra in answer.extras.items():
                    writers[name].write(extra)
                tally.see_kept(answer.kept)
                tally.see_rejected(answer.rejected, answer.reasons)
                tally.custom.update(answer.custom)
                if quarantined.num_rows:
                    if QUARANTINE not in writers:
                        writers[QUARANTINE] = writer_of(QUARANTINE, QUARANTINE_SCHEMA)
                        stack.enter_context(abandoned_on_error(writers[QUARANTINE]))
                    writers[QUARANTINE].write(quarantined)
                    tally.see_all_quarantined(quarantined)
        entries = {name: writer.close() for name, writer in writers.items()}
    files = [
        storage.join(context.target.root(restricted.get(name, name in definition.restricted_extras)), entry.path)
        for name, entry in entries.items()
    ]
    return TablesResult(files=tuple(files), tables=entries, counters=tally.counters())
