"""Shards as files that a person holds: PREFIX.bin and .idx, with PREFIX.provenance.parquet and PREFIX.json beside them.

Looked into, merged, split. `PREFIX.json` is written last: without it a shard is not whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.parquet_writer import TableWriter, abandoned_on_error
from hyperclova_core.foundation.errors import ConfigError, DataError
from hyperclova_core.tokens.serialize.megatron_format import Shard, ShardWriter
from hyperclova_core.tokens.serialize.shards import PROVENANCE_LAYOUT, PROVENANCE_SCHEMA
from hyperclova_core.tokens.serialize.stage import SIDE_FORMAT
from hyperclova_core.tokens.tokenizer.tokenizer import Tokenizer

COPIED_DOCUMENTS = 1 << 12


def read_side(prefix: str) -> dict[str, Any]:
    """What lies beside a shard.

    Raises:
        DataError: nothing does, or another version wrote it.
    """
    path = f"{prefix}.json"
    if not storage.exists(path):
        raise DataError(
            "No shard of this platform here",
            where=prefix,
            why=f"there is no {path}",
            remedy="give the prefix that serialize wrote, without .bin or .idx",
        )
    side: dict[str, Any] = storage.read_json(path)
    if side.get("format") != SIDE_FORMAT:
        raise DataError(
            "The shard is of another version",
            where=path,
            why=f"format {side.get('format')}, this code reads {SIDE_FORMAT}",
            remedy="serialize again",
        )
    return side


def check_tokenizer(prefix: str, side: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """The shard's ids are this tokenizer's.

    Raises:
        DataError: they are another's.
    """
    if side["tokenizer"] != tokenizer.identity:
        raise DataError(
            "The shard was written with another tokenizer",
            where=prefix,
            why=f"its vocabulary has {side['vocabulary_size']:,} tokens and identity {side['tokenizer'][:12]}, this one"
            f" {tokenizer.vocabulary_size:,} and {tokenizer.identity[:12]}",
            remedy="give the tokenizer that serialize was given",
        )


def document_of(prefix: str, number: int, tokenizer: Tokenizer) -> tuple[dict[str, Any], str]:
    """(row of the provenance, text) of a document of a shard.

    Raises:
        DataError: there is none of that number, or the tokenizer is another.
    """
    check_tokenizer(prefix, read_side(prefix), tokenizer)
    ids = Shard(prefix).document(number)
    rows = storage.read_parquet(f"{prefix}.provenance.parquet", filters=[("document", "=", number)]).to_pylist()
    if len(rows) != 1:
        raise DataError(
            "The provenance does not belong to the shard",
            where=f"{prefix}.provenance.parquet",
            why=f"it has {len(rows)} rows for document {number}",
            remedy="serialize again",
        )
    body = ids[:-1] if len(ids) and int(ids[-1]) == tokenizer.eod else ids
    return rows[0], tokenizer.decode(body.tolist())


def merge(prefixes: Sequence[str], output: str) -> dict[str, Any]:
    """One shard with the documents of several, in the order given.

    Raises:
        ConfigError: the output is one of them, or they are of different tokenizers.
    """
    sides = [read_side(prefix) for prefix in prefixes]
    if len({side["tokenizer"] for side in sides}) > 1:
        raise ConfigError(
            "The shards are of different tokenizers",
            where=", ".join(prefixes),
            why=", ".join(f"{side['tokenizer'][:12]} ({side['vocabulary_size']:,} tokens)" for side in sides),
            remedy="serialize the corpora with one tokenizer",
        )
    if storage.normalized(output) in [storage.normalized(prefix) for prefix in prefixes]:
        raise ConfigError("The output is one of the inputs", where=output, remedy="give another prefix")
    name = output.rsplit("/", 1)[-1]
    documents = 0
    storage.remove(f"{output}.json")
    root, path = _parted(output)
    provenance = TableWriter(root, f"{path}.provenance.parquet", PROVENANCE_SCHEMA, layout=PROVENANCE_LAYOUT)
    with abandoned_on_error(provenance), ShardWriter(output, sides[0]["vocabulary_size"]) as writer:
        for prefix in prefixes:
            shift = writer.tokens
            count = _copy(prefix, 0, None, writer)
            _copy_provenance(prefix, 0, count, provenance, name, documents, shift)
            documents += count
    provenance.close()
    return _finish(output, sides[0], documents, writer.tokens, sum(side["bytes"] for side in sides))


def split(prefix: str, shard_tokens: int, output: str) -> list[str]:
    """A shard cut into several, each with the documents that begin in its stretch of `shard_tokens`; their prefixes."""
    side, shard = read_side(prefix), Shard(prefix)
    starts = shard.document_starts()
    count = max(1, -(-shard.tokens // shard_tokens))
    _check_targets(prefix, output, count)
    written = []
    for number in range(count):
        low, high = np.searchsorted(starts, [number * shard_tokens, (number + 1) * shard_tokens])
        target = f"{output}-{number:05d}"
        if low == high:  # a document that is longer than a stretch leaves the next one empty
            continue
        storage.remove(f"{target}.json")
        root, path = _parted(target)
        provenance = TableWriter(root, f"{path}.provenance.parquet", PROVENANCE_SCHEMA, layout=PROVENANCE_LAYOUT)
        with abandoned_on_error(provenance), ShardWriter(target, side["vocabulary_size"]) as writer:
            _copy(prefix, int(low), int(high), writer)
            first = int(starts[low]) if low < len(starts) else shard.tokens
            size = _copy_provenance(
                prefix, int(low), int(high - low), provenance, target.rsplit("/", 1)[-1], -int(low), -first
            )
        provenance.close()
        _finish(target, side, int(high - low), writer.tokens, size)
        written.append(target)
    return written


def _check_targets(prefix: str, output: str, count: int) -> None:
    """None of the shards to write is the one that is read, and no part of an earlier, finer split lies beside them."""
    folder, _, name = storage.absolute(output).rpartition("/")
    own = storage.normalized(storage.absolute(prefix))
    targets = {storage.normalized(f"{folder}/{name}-{number:05d}") for number in range(count)}
    there = {f"{folder}/{item.removesuffix('.json')}" for item in storage.list_names(folder) if item.endswith(".json")}
    old = sorted(
        path for path in there - targets - {own} if re.fullmatch(re.escape(name) + r"-\d{5}", path.rsplit("/", 1)[-1])
    )
    if own in targets or old:
        raise ConfigError(
            "The output is the input" if own in targets else "Parts of another split lie there",
            where=output,
            why=f"{prefix} would be written over while it is read" if own in targets else f"such as {old[0]}",
            remedy="give another --output",
        )


def _parted(prefix: str) -> tuple[str, str]:
    folder, _, name = storage.absolute(prefix).rpartition("/")
    return folder, name


def _copy(prefix: str, low: int, high: int | None, writer: ShardWriter) -> int:
    shard = Shard(prefix)
    starts = np.concatenate([shard.document_starts(), [shard.tokens]])
    last = len(starts) - 1 if high is None else high
    for at in range(low, last, COPIED_DOCUMENTS):
        stop = min(last, at + COPIED_DOCUMENTS)
        writer.add_many(shard.ids[int(starts[at]) : int(starts[stop])], np.diff(starts[at : stop + 1]))
    return last - low


def _copy_provenance(prefix: str, low: int, count: int, writer: TableWriter, name: str, shift: int, tokens: int) -> int:
    """Rows of documents low to low + count under another shard's name; their bytes."""
    size = 0
    with storage.open_parquet(f"{prefix}.provenance.parquet") as file:
        for batch in file.iter_batches():
            table = pa.Table.from_batches([batch])
            number = table.column("document")
            table = table.filter(pc.and_(pc.greater_equal(number, low), pc.less(number, low + count)))
            if not table.num_rows:
                continue
            size += pc.sum(table.column("bytes")).as_py()
            for column, change in (("document", shift), ("first_token", tokens)):
                table = table.set_column(
                    table.schema.get_field_index(column), column, pc.add(table.column(column), change)
                )
            named = pa.repeat(pa.scalar(name), table.num_rows)
            table = table.set_column(table.schema.get_field_index("shard"), "shard", named)
            for part in table.to_batches():
                writer.write(part)
    return size


def _finish(prefix: str, side: Mapping[str, Any], documents: int, tokens: int, size: int) -> dict[str, Any]:
    made = {**side, "documents": documents, "tokens": tokens, "bytes": size}
    storage.write_json(f"{prefix}.json", made)
    return made
