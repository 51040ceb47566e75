"""Second half of serializing: runs are merged into Megatron shards in the training order, with the way back to each document.

A shard holds the documents whose first token lies in its stretch of the whole corpus, so every shard can be written by itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.manifest import FileEntry
from hyperclova_core.foundation.datasets.parquet_writer import Layout, TableWriter, abandoned_on_error
from hyperclova_core.foundation.stages.kinds import StageContext
from hyperclova_core.foundation.stages.units import UnitResult, WorkUnit
from hyperclova_core.tokens.serialize.megatron_format import ShardWriter
from hyperclova_core.tokens.serialize.runs import StagedRun, opened, slices_of, windows
from hyperclova_core.tokens.special_tokens import id_type

PROVENANCE_SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("content_hash", pa.string()),
        ("copy", pa.int32()),
        ("shard", pa.string()),
        ("document", pa.int64()),
        ("first_token", pa.int64()),
        ("tokens", pa.int64()),
        ("bytes", pa.int64()),
    ]
)
"""Which document lies where: `first_token` counts from the start of the shard, `tokens` includes the end-of-document."""
PROVENANCE_LAYOUT = Layout(
    rows=1 << 16,
    level=1,
    repeated=("source", "shard"),
    counted=("document", "first_token", "tokens", "bytes"),
    bounds=("document", "first_token"),
)


class ShardUnit(WorkUnit):
    """A shard to write; `start`, `end` and `before` count the tokens of the split in the training order."""

    name: str
    split: str
    runs: str = Field(description="file with the split's runs: a list that grows with the corpus is no part of a unit")
    low: int = Field(description="first range of the training order that it is cut from")
    high: int = Field(description="last range")
    before: int = Field(description="tokens before the first range")
    start: int = Field(description="where its stretch of the corpus begins")
    end: int = Field(description="where its stretch ends")
    window: int = Field(description="tokens of a window of the check on the order")


class WrittenShard(UnitResult):
    """A shard that was written; one without documents has no files."""

    name: str
    split: str
    prefix: str = Field("", description="its path relative to the output, without .bin")
    documents: int = 0
    tokens: int = 0
    bytes: int = Field(0, description="UTF-8 bytes of its documents' texts")
    leaves: dict[str, int] = Field(default_factory=dict, description="leaf → tokens")
    windows: dict[int, dict[str, int]] = Field(default_factory=dict, description="window → leaf → tokens")
    shards: tuple[FileEntry, ...] = Field((), description=".bin and .idx")
    provenance: FileEntry | None = None


def write_shard(unit: ShardUnit, *, vocabulary: int, context: StageContext) -> WrittenShard:
    """Write one shard with its provenance."""
    name, root, dtype = unit.name, context.target.root(False), id_type(vocabulary)
    prefix = f"{context.attempt_path}/shards/{name}"
    runs = opened([StagedRun.model_validate(said) for said in storage.read_json(unit.runs)], dtype)
    slices, first, positions = slices_of(runs, (unit.low, unit.high), unit.before, (unit.start, unit.end))
    if (
        not slices
    ):  # a document that is longer than a stretch leaves the next one empty: there is no shard of that number
        return WrittenShard(name=name, split=unit.split)
    provenance = TableWriter(root, f"{prefix}.provenance.parquet", PROVENANCE_SCHEMA, layout=PROVENANCE_LAYOUT)
    by_window: dict[int, dict[str, int]] = {}
    by_leaf: dict[str, int] = {}
    documents = size = 0
    with abandoned_on_error(provenance), ShardWriter(storage.join(root, prefix), vocabulary) as writer:
        for ids, lengths, rows in windows(slices, positions, dtype):
            starts = writer.tokens + np.cumsum(lengths) - lengths
            writer.add_many(ids, lengths)
            count = len(lengths)
            provenance.write(
                pa.RecordBatch.from_arrays(
                    [
                        *(_column(rows, column) for column in ("doc_id", "source", "content_hash", "copy")),
                        pa.repeat(pa.scalar(name), count),
                        pa.array(np.arange(documents, documents + count)),
                        pa.array(starts),
                        pa.array(lengths),
                        _column(rows, "bytes"),
                    ],
                    schema=PROVENANCE_SCHEMA,
                )
            )
            documents += count
            size += int(rows.column("bytes").to_numpy().sum())
            _tally(rows.column("leaf"), lengths, (first + starts) // unit.window, by_leaf, by_window)
        provenance_entry = provenance.close()
    shards = writer.entries(root, prefix, documents)
    return WrittenShard(
        files=tuple(storage.join(root, entry.path) for entry in (*shards, provenance_entry)),
        name=name,
        split=unit.split,
        prefix=prefix,
        documents=documents,
        tokens=writer.tokens,
        bytes=size,
        leaves=by_leaf,
        windows=by_window,
        shards=tuple(shards),
        provenance=provenance_entry,
    )


def _column(rows: pa.Table, name: str) -> pa.Array:
    column = rows.column(name).combine_chunks()
    return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column


def _tally(
    leaves: pa.ChunkedArray,
    lengths: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    by_leaf: dict[str, int],
    windows: dict[int, dict[str, int]],
) -> None:
    table = pa.table({"leaf": leaves, "window": pa.array(places), "tokens": pa.array(lengths)})
    for row in table.group_by(["leaf", "window"]).aggregate([("tokens", "sum")]).to_pylist():
        by_leaf[row["leaf"]] = by_leaf.get(row["leaf"], 0) + row["tokens_sum"]
        window = windows.setdefault(row["window"], {})
        window[row["leaf"]] = window.get(row["leaf"], 0) + row["tokens_sum"]
