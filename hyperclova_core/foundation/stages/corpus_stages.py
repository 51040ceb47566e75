"""Running a corpus stage: narrow rows in a DataFrame, decisions out, merged into the documents bucket by bucket."""

from __future__ import annotations

import bisect
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.datasets.dataset import Dataset
from hyperclova_core.foundation.datasets.document_schema import DOCUMENT_SCHEMA, REJECTED_SCHEMA
from hyperclova_core.foundation.datasets.manifest import Table, file_checksum
from hyperclova_core.foundation.datasets.parquet_writer import TableWriter, abandoned_on_error, write_table
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.stages.counting import Tally
from hyperclova_core.foundation.stages.document_stages import bucket_path, merge_tallies, rejected_batch
from hyperclova_core.foundation.stages.kinds import Decisions, StageContext, StageDefinition, load_function, load_stage
from hyperclova_core.foundation.stages.units import BucketUnit, TablesResult, table_of
from hyperclova_core.foundation.stages.work_units import run_units

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def frame_of(dataset: Dataset, definition: StageDefinition, config: Config, context: StageContext) -> DataFrame:
    """The narrow rows of all documents: one partition a bucket file, read and projected in Python workers."""
    assert context.engine is not None and definition.project_schema is not None
    from pyspark.sql.pandas.types import from_arrow_schema

    files = dataset.files()
    reference, settings, inner = definition.reference, config.model_dump(mode="json"), context.for_workers()

    def project(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        stage = load_stage(reference)
        assert stage.project is not None
        parsed = stage.config.model_validate(settings)
        for batch in batches:
            for index in batch.column(0).to_pylist():
                with storage.open_parquet(files[index]) as file:
                    for documents in file.iter_batches(batch_size=1024):
                        yield stage.project(documents, parsed, inner)

    rows = context.engine.spark().range(0, len(files), 1, numPartitions=max(1, len(files)))
    return rows.mapInArrow(project, from_arrow_schema(definition.project_schema))


def run_corpus_stage(
    definition: StageDefinition, config: Config, inputs: Mapping[str, Dataset], context: StageContext
) -> tuple[dict[str, Table], Tally, dict[str, Any], int]:
    """Decide on the frame, then write the documents with the decisions: tables, counts, the stage's info, and units
    taken over from an earlier attempt."""
    assert context.engine is not None
    dataset = inputs["documents"] if "documents" in inputs else next(iter(inputs.values()))
    given = inputs if definition.project is None else frame_of(dataset, definition, config, context)
    decisions: Decisions = definition.function(
        given, config, replace(context, documents=dataset.table("documents").rows)
    )
    rewrite = None if decisions.rewrite is None else (decisions.rewrite.reference, decisions.rewrite.argument)
    decided = _write_decisions(decisions, context, dataset)
    units = [
        _MergeUnit(
            identity={
                "checksum": entry.checksum,
                "bucket": entry.bucket,
                "decisions": decided[entry.bucket or 0][1],
                "additions": file_checksum(additions) if additions else None,
                "rewrite": [decisions.rewrite.reference, decisions.rewrite.identity] if decisions.rewrite else None,
            },
            path=path,
            bucket=entry.bucket or 0,
            decisions=decided[entry.bucket or 0][0],
            additions=additions,
            rewrite=rewrite,
        )
        for path, entry in zip(dataset.files(), dataset.table("documents").files, strict=True)
        for additions in [decisions.additions.get(entry.bucket or 0)]
    ]
    work = partial(_merge_unit, stage=definition.name, restricted=definition.restricted, context=context.for_workers())
    results, taken = run_units(context, work, units, "merge", TablesResult)
    tables = {
        name: table_of(results, name, restricted)
        for name, restricted in (("documents", definition.restricted), ("rejected", True))
    }
    for name, extra in decisions.extras.items():
        entry = write_table(context.target.root(False), f"{context.attempt_path}/{name}.parquet", extra)
        tables[name] = Table(files=(entry,))
    tables.update(decisions.tables)
    context.scrap.files.extend([*(path for path, _ in decided.values()), *decisions.additions.values()])
    tally = merge_tallies(results)
    tally.custom.update(decisions.custom)
    return tables, tally, decisions.info, taken


def _write_decisions(decisions: Decisions, context: StageContext, dataset: Dataset) -> dict[int, tuple[str, str]]:
    """bucket → (path, checksum) of its decisions, rows sorted by doc_id."""
    folder = storage.join(context.target.root(True), context.attempt_path, "decisions")
    storage.make_folder(folder)
    if isinstance(decisions.frame, pa.Table):
        return _written_here(decisions.frame, folder, dataset)
    from pyspark.sql import functions as F

    buckets = len(dataset.files())
    shift = 32 - (buckets.bit_length() - 1)
    bucket = (
        F.shiftright(F.conv(F.substring("doc_id", 1, 8), 16, 10).cast("long"), shift)
        if buckets > 1
        else F.lit(0).cast("long")
    )

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        writer, current = None, None
        written = []
        for batch in batches:
            for number in pc.unique(batch.column("bucket")).to_pylist():
                part = batch.filter(pc.equal(batch.column("bucket"), number))
                if number != current:
                    if writer is not None:
                        written.append(writer.close())
                    writer, current = TableWriter(folder, f"bucket-{number:05d}.parquet", part.schema, number), number
                assert writer is not None
                writer.write(part)
        if writer is not None:
            written.append(writer.close())
        yield pa.RecordBatch.from_pydict(
            {"entry": [entry.model_dump_json() for entry in written]}, schema=pa.schema([("entry", pa.string())])
        )

    ordered = (
        decisions.frame.withColumn("bucket", bucket)
        .repartition(buckets, "bucket")
        .sortWithinPartitions("bucket", "doc_id")
    )
    entries = [json.loads(row["entry"]) for row in ordered.mapInArrow(write, "entry string").collect()]
    paths = {entry["bucket"]: (storage.join(folder, entry["path"]), entry["checksum"]) for entry in entries}
    expected = {entry.bucket for entry in dataset.table("documents").files if entry.rows}
    if set(paths) != expected:
        raise DataError(
            f"Stage {context.stage} did not decide on every bucket",
            where=dataset.uri,
            why=f"{len(paths)} of {len(expected)} buckets",
            remedy="this is a bug of the stage",
        )
    for entry in dataset.table("documents").files:
        if entry.bucket not in paths:
            name = f"bucket-{entry.bucket or 0:05d}.parquet"
            made = write_table(folder, name, pa.table({"doc_id": pa.array([], pa.string())}))
            paths[entry.bucket or 0] = (storage.join(folder, name), made.checksum)
    return paths


def _written_here(rows: pa.Table, folder: str, dataset: Dataset) -> dict[int, tuple[str, str]]:
    """As `_write_decisions`, of decisions in this process's memory."""
    rows = rows.sort_by("doc_id").combine_chunks()
    buckets = len(dataset.files())
    # ids are hex digits: where a bucket begins is where its first possible id would stand
    ids = rows.column("doc_id").to_numpy(zero_copy_only=False)
    bounds = [f"{(number << 32) // buckets:08x}" for number in range(1, buckets)]
    ends = [*np.searchsorted(ids, np.array(bounds, object)).tolist(), len(ids)] if bounds else [len(ids)]
    start, paths = 0, {}
    for number, end in enumerate(ends):
        name = f"bucket-{number:05d}.parquet"
        made = write_table(folder, name, rows.slice(start, end - start))
        paths[number] = (storage.join(folder, name), made.checksum)
        start = end
    return paths


class _MergeUnit(BucketUnit):
    """A bucket's documents, and what was decided of them."""

    decisions: str = Field(description="the file of decisions, a row a document, in the same order")
    additions: str | None = Field(description="a file of documents that are put between them")
    rewrite: tuple[str, Any] | None = Field(description="`module:function` that changes the kept, and its argument")


def _merge_unit(unit: _MergeUnit, *, stage: str, restricted: bool, context: StageContext) -> TablesResult:
    decided = storage.read_parquet(unit.decisions)
    tally = Tally()
    writers = {
        "documents": TableWriter(
            context.target.root(restricted),
            bucket_path(context, "documents", unit.bucket),
            DOCUMENT_SCHEMA,
            unit.bucket,
        ),
        "rejected": TableWriter(
            context.target.root(True), bucket_path(context, "rejected", unit.bucket), REJECTED_SCHEMA, unit.bucket
        ),
    }
    position = 0
    added = _Additions(unit.additions)
    rewritten = load_function(unit.rewrite[0]) if unit.rewrite else None
    with abandoned_on_error(*writers.values()), storage.open_parquet(unit.path) as file:
        for documents in file.iter_batches(batch_size=1024):
            tally.see_in(documents)
            part = decided.slice(position, documents.num_rows).combine_chunks()
            position += documents.num_rows
            if (
                part.num_rows != documents.num_rows
                or part.column("doc_id").to_pylist() != documents.column("doc_id").to_pylist()
            ):
                raise DataError(
                    f"Stage {stage} did not decide once on each document",
                    where=unit.path,
                    why="its decisions name other documents than the bucket holds",
                    remedy="this is a bug of the stage",
                )
            documents = _with_columns(documents, part)
            if rewritten is not None and unit.rewrite is not None:
                documents = rewritten(documents, unit.rewrite[1])
            keep = part.column("keep").combine_chunks()
            kept, dropped = documents.filter(keep), documents.filter(pc.invert(keep))
            reasons = part.column("reason").filter(pc.invert(part.column("keep"))).to_pylist()
            details = part.column("detail").filter(pc.invert(part.column("keep"))).to_pylist()
            writers["documents"].write(added.before(documents.column("doc_id")[-1].as_py(), kept))
            writers["rejected"].write(rejected_batch(dropped, stage, reasons, details))
            tally.see_kept(kept)
            tally.see_rejected(dropped, reasons)
        writers["documents"].write(added.rest())
        for batch in added.table.to_batches():
            tally.fan_out += batch.num_rows
            tally.see_kept(batch)
        if position != decided.num_rows:
            raise DataError(
                f"Stage {stage} decided on more documents than there are",
                where=unit.path,
                why=f"{decided.num_rows} instead of {position}",
                remedy="this is a bug of the stage",
            )
        entries = {name: writer.close() for name, writer in writers.items()}
    roots = {"documents": context.target.root(restricted), "rejected": context.target.root(True)}
    files = tuple(storage.join(roots[name], entry.path) for name, entry in entries.items())
    return TablesResult(files=files, tables=entries, counters=tally.counters())


class _Additions:
    """Documents from elsewhere, put between those of the input where their ids belong."""

    def __init__(self, path: str | None) -> None:
        self.table = storage.read_parquet(path).cast(DOCUMENT_SCHEMA) if path else DOCUMENT_SCHEMA.empty_table()
        self._ids: list[str] = self.table.column("doc_id").to_pylist()
        self._given = 0

    def before(self, last: str, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with what belongs before or inside it."""
        end = bisect.bisect_left(self._ids, last)
        if end <= self._given:
            return batch
        part = self.table.slice(self._given, end - self._given)
        self._given = end
        return (
            pa.concat_tables([pa.Table.from_batches([batch]), part]).sort_by("doc_id").combine_chunks().to_batches()[0]
        )

    def rest(self) -> pa.RecordBatch:
        """What belongs behind the last batch."""
        left = self.table.slice(self._given).combine_chunks().to_batches()
        return left[0] if left else pa.RecordBatch.from_pylist([], DOCUMENT_SCHEMA)


def _with_columns(documents: pa.RecordBatch, decided: pa.Table) -> pa.RecordBatch:
    columns = list(documents.columns)
    for index, field in enumerate(DOCUMENT_SCHEMA):
        if field.name == "signals" and "signals" in decided.column_names:
            columns[index] = _merged_signals(documents.column("signals"), decided.column("signals"))
        elif field.name != "doc_id" and field.name in decided.column_names:
            columns[index] = decided.column(field.name).combine_chunks().cast(field.type)
    return pa.RecordBatch.from_arrays(columns, schema=DOCUMENT_SCHEMA)


def _merged_signals(old: pa.Array, new: pa.ChunkedArray) -> pa.Array:
    merged = [
        sorted({**dict(before or []), **dict(after or [])}.items())
        for before, after in zip(old.to_pylist(), new.to_pylist(), strict=True)
    ]
    return pa.array(merged, DOCUMENT_SCHEMA.field("signals").type)
