"""First half of serializing: a bucket's documents become token ids, put down in runs that are sorted by the training order.

A run is bounded, so memory is too. Only ids and narrow rows go on from here; texts stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.hashing import order_keys
from hyperclova_core.foundation.stages.kinds import StageContext
from hyperclova_core.foundation.stages.units import BucketUnit, UnitResult
from hyperclova_core.tokens.encoder.worker_encoder import kept_encoder
from hyperclova_core.tokens.mixture.stage import SPLITS
from hyperclova_core.tokens.serialize.runs import (
    RANGES,
    STAGED_SCHEMA,
    LeafSums,
    RunSums,
    RunWriter,
    StagedRun,
    place_rows,
    range_of,
)

RUN_TOKENS = 1 << 25
"""Ids of a run, about; 64 or 128 MB."""
ROWS = 4096


@dataclass
class _Held:
    """Encoded documents that wait to be put down."""

    ids: list[npt.NDArray[Any]]
    lengths: list[npt.NDArray[np.int64]]
    rows: list[pa.RecordBatch]
    tokens: int = 0


class EncodeUnit(BucketUnit):
    """A bucket's documents, and which of them are in the corpus."""

    selection: str = Field(description="the mix's file for the bucket; empty: all documents, once each")


class Encoded(UnitResult):
    """The runs of a bucket; pre-tokens it was cut into, and how many of them the memo did not know."""

    runs: tuple[StagedRun, ...]
    pretokens: int
    missed: int


def encode_unit(unit: EncodeUnit, *, tokenizer: str, boot: str, context: StageContext) -> Encoded:
    """Encode one file of documents: runs, each with its files and sums by split and range.

    Args:
        boot: the driver's (`storage.boot_of`). Runs are synced, unless this process is told the same: then they are read on this
            machine, or, when it has stopped, made again.
    """
    boot = boot if boot == storage.boot_of(context.target.root(False)) else ""
    loaded, encoder = kept_encoder(tokenizer)
    held = _Held([], [], [])
    runs: list[StagedRun] = []
    name = f"{context.attempt_path}/staged/bucket-{unit.bucket:05d}"
    for batch, chosen in _chosen(unit):
        encoded = encoder.encode(batch.column("text"), loaded.eod)
        _check(batch, chosen, encoded.lengths, unit.path)
        held.ids.append(encoded.ids.copy())
        held.lengths.append(encoded.lengths.copy())
        held.rows.append(
            pa.RecordBatch.from_arrays(
                [
                    batch.column("doc_id"),
                    chosen.column("copies"),
                    chosen.column("split"),
                    batch.column("source"),
                    chosen.column("leaf"),
                    batch.column("content_hash"),
                    pc.binary_length(batch.column("text")).cast(pa.int64()),
                ],
                names=["doc_id", "copies", "split", "source", "leaf", "content_hash", "bytes"],
            )
        )
        held.tokens += len(encoded.ids)
        if held.tokens >= RUN_TOKENS:
            runs += _put_down(held, f"{name}-{len(runs):05d}", context, durable=not boot)
            held = _Held([], [], [])
    if held.rows:
        runs += _put_down(held, f"{name}-{len(runs):05d}", context, durable=not boot)
    tally = encoder.tally
    return Encoded(
        boot=boot,
        files=tuple(path for run in runs for path in (run.ids, run.rows)),
        runs=tuple(runs),
        pretokens=tally.pretokens,
        missed=tally.missed,
    )


def _chosen(unit: EncodeUnit) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Batches of the documents that are in the corpus, each with its rows of the selection (all of them once, without one)."""
    columns = ["doc_id", "source", "content_hash", "text"]
    selection = storage.open_parquet(unit.selection) if unit.selection else None
    parts = selection.iter_batches(batch_size=ROWS, use_threads=False) if selection else None
    with storage.open_parquet(unit.path) as file:
        for batch in file.iter_batches(batch_size=ROWS, columns=columns, use_threads=False):
            if parts is None:
                count = batch.num_rows
                once, train = pa.array(np.ones(count, np.int32)), pa.repeat(pa.scalar("train"), count)
                yield (
                    batch,
                    pa.RecordBatch.from_arrays([once, train, batch.column("source")], ["copies", "split", "leaf"]),
                )
                continue
            chosen = next(parts)
            if not chosen.column("doc_id").equals(batch.column("doc_id")):
                raise DataError(
                    "The selection is not of these documents",
                    where=unit.path,
                    why="its rows name others, or stand in another order",
                    remedy="run mix on this dataset again",
                )
            mask = pc.greater(chosen.column("copies"), 0)
            if not pc.all(mask).as_py():
                batch, chosen = batch.filter(mask), chosen.filter(mask)
            if batch.num_rows:
                yield batch, chosen
    if selection is not None:
        selection.close()


def _check(batch: pa.RecordBatch, chosen: pa.RecordBatch, lengths: npt.NDArray[np.int64], where: str) -> None:
    """As many tokens as the plan was made with."""
    if "tokens" not in chosen.schema.names:
        return
    planned = chosen.column("tokens").to_numpy()
    if not np.array_equal(planned, lengths):
        row = int(np.flatnonzero(planned != lengths)[0])
        raise DataError(
            "A document has not the tokens it was planned with",
            where=f"{where}, document {batch.column('doc_id')[row].as_py()}",
            why=f"{int(lengths[row])} instead of {int(planned[row])}: the mixture was counted with another tokenizer",
            remedy="run mix with the tokenizer that serialize is given",
        )


def _put_down(held: _Held, name: str, context: StageContext, durable: bool) -> list[StagedRun]:
    """Write a run a split: its ids in one file, its rows in another, both by key."""
    ids, lengths = np.concatenate(held.ids), np.concatenate(held.lengths)
    rows = pa.Table.from_batches(held.rows).combine_chunks()
    starts = np.cumsum(lengths) - lengths
    copies = rows.column("copies").to_numpy().astype(np.int64)
    split = rows.column("split")
    runs = []
    for which in SPLITS:
        mine = np.flatnonzero(pc.equal(split, which).to_numpy(zero_copy_only=False))
        if not len(mine):
            continue
        often = copies[mine]
        expanded = mine if often.max() == 1 else np.repeat(mine, often)
        number = np.arange(len(expanded)) - np.repeat(np.cumsum(often) - often, often)
        keys = np.zeros(len(expanded), np.uint64)
        doc_ids = rows.column("doc_id")
        for copy in range(int(often.max())):
            those = np.flatnonzero(number == copy)
            named = doc_ids if len(those) == len(rows) else doc_ids.take(pa.array(expanded[those]))
            keys[those] = training_keys(named, context.seed, copy)
        order = np.argsort(keys, kind="stable")  # equal keys stay in the order of doc_id and copy
        expanded, keys, number = expanded[order], keys[order], number[order]
        sizes = lengths[expanded]
        out = np.empty(int(sizes.sum()), ids.dtype)
        place_rows(ids, starts[expanded], sizes, out, np.cumsum(sizes) - sizes)
        taken = rows.take(pa.array(expanded))
        table = pa.table(
            [
                pa.array(keys),
                pa.array(sizes),
                taken.column("doc_id"),
                pa.array(number.astype(np.int32)),
                taken.column("source"),
                taken.column("leaf"),
                taken.column("content_hash"),
                taken.column("bytes"),
            ],
            schema=STAGED_SCHEMA,
        ).combine_chunks()
        path = storage.join(context.target.root(False), f"{name}-{which}")
        places = range_of(keys)
        sums = RunSums(
            np.bincount(places, sizes, RANGES).astype(np.int64),
            np.bincount(places, minlength=RANGES).astype(np.int64),
            _leaves(table),
        )
        with RunWriter(path, which, sums, durable) as writer:
            writer.write(out, table)
        runs.append(writer.run)
    return runs


def _leaves(table: pa.Table) -> LeafSums:
    squares = pc.multiply(table.column("tokens"), table.column("tokens"))
    sums = table.select(["leaf", "tokens"]).append_column("squares", squares).group_by("leaf")
    rows = sums.aggregate([("tokens", "sum"), ("squares", "sum"), ("tokens", "max")]).to_pylist()
    return {row["leaf"]: (row["tokens_sum"], row["squares_sum"], row["tokens_max"]) for row in rows}


def training_keys(doc_ids: pa.Array | pa.ChunkedArray, seed: int, copy: int) -> npt.NDArray[np.uint64]:
    """Where each document stands in the training order: hash(seed, doc_id, copy), so the copies of a document lie apart."""
    return order_keys(doc_ids, seed, "order", str(copy))
