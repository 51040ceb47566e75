"""The serialize stage: token ids in Megatron shards, in the final training order, with the way back to each document.

Bucket tasks encode and stage ids by shard; shard tasks put them in order. Texts stay where they are, only ids move,
and the bytes do not depend on the number of tasks.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.datasets import Counters, Dataset, FileEntry, plain_file_entry, write_table
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.stages import Artifact, StageContext, artifact_stage
from hyperclova_core.foundation.units import run_units
from hyperclova_core.tokens.megatron import ShardWriter
from hyperclova_core.tokens.mix_stage import SPLITS
from hyperclova_core.tokens.specials import EOD_ID
from hyperclova_core.tokens.train_stage import tokenizer_folder
from hyperclova_core.tokens.units import analyser_resources

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

_STAGED = pa.schema(
    [
        ("shard", pa.string()),
        ("position", pa.int64()),
        ("doc_id", pa.string()),
        ("copy", pa.int32()),
        ("source", pa.string()),
        ("content_hash", pa.string()),
        ("bytes", pa.int64()),
        ("ids", pa.large_binary()),
    ]
)
COMPOSITION_TOLERANCE = 0.001


class SerializeConfig(Config):
    """Size of shards."""

    shard_tokens: int = Field(1 << 30, ge=1024, description="a shard ends with the document that reaches it")


@artifact_stage("serialize", version="1", resources=analyser_resources)
def serialize(inputs: Mapping[str, Dataset], config: SerializeConfig, context: StageContext) -> Artifact:
    """Write the shards that the mix's selection names, and check what came out against what was planned."""
    assert context.engine is not None
    documents, tokenizer = inputs["documents"], tokenizer_folder(inputs["tokenizer"])
    selection = inputs["mix"].read("selection")
    shards = _assign_shards(selection, config.shard_tokens)
    by_bucket = _by_bucket(selection, shards, documents)
    entries = documents.table("documents").files
    units = [
        {
            "identity": {"checksum": entry.checksum, "bucket": entry.bucket},
            "path": path,
            "bucket": entry.bucket or 0,
            "wanted": by_bucket[entry.bucket or 0],
        }
        for entry, path in zip(entries, documents.files(), strict=True)
    ]
    inner = context.for_workers()
    staged, _ = run_units(context, partial(_encode_unit, tokenizer=tokenizer, context=inner), units, "encode")
    paths = [path for result in staged for path in result["files"]]
    names = list(dict.fromkeys(shards))
    vocabulary = int(inputs["tokenizer"].manifest.info["vocabulary_size"])
    shard_units = [
        {"identity": {"shard": name, "staged": [result["digest"] for result in staged]}, "shard": name, "staged": paths}
        for name in names
    ]
    written, _ = run_units(context, partial(_write_shard, vocabulary=vocabulary, context=inner), shard_units, "shards")
    context.scrap.extend(paths)
    emitted: Counter[str] = Counter()
    for result in written:
        emitted.update(result["tokens_by_source"] if result["shard"].startswith("train") else {})
    composition = check_composition(inputs["mix"].manifest.info["plan"], emitted, selection)
    tokens = {
        split: sum(result["tokens"] for result in written if result["shard"].startswith(split)) for split in SPLITS
    }
    tables: dict[str, list[FileEntry]] = {
        "shards": [FileEntry.model_validate(entry) for result in written for entry in result["shards"]],
        "provenance": [FileEntry.model_validate(result["provenance"]) for result in written],
    }
    kept = len(set(selection.column("doc_id").to_pylist()))
    counters = Counters(
        rows_in=kept, kept=kept, custom={f"tokens_{split}": float(number) for split, number in tokens.items()}
    )
    info = {
        "prefixes": {
            split: [result["prefix"] for result in written if result["shard"].startswith(split)] for split in SPLITS
        },
        "tokens": tokens,
        "vocabulary_size": vocabulary,
        "padded_vocabulary_size": inputs["tokenizer"].manifest.info["padded_vocabulary_size"],
        "tokenizer_digest": inputs["tokenizer"].manifest.digest,
        "composition": composition,
        "bytes": {
            split: sum(result["bytes"] for result in written if result["shard"].startswith(split)) for split in SPLITS
        },
    }
    return Artifact(tables, counters, info)


def shard_prefixes(dataset: Dataset, split: str) -> list[str]:
    """Paths of a split's shards, without `.bin`, in training order."""
    return [storage.join(dataset.uri, prefix) for prefix in dataset.manifest.info["prefixes"][split]]


def check_composition(plan: Mapping[str, Any], emitted: Mapping[str, int], selection: pa.Table) -> list[dict[str, Any]]:
    """Planned and emitted training tokens a source.

    Raises:
        DataError: a source is off by more than 0.1 % of its target and by more than its largest document.
    """
    train = selection.filter(pc.equal(selection.column("split"), "train"))
    largest = {
        row["source"]: row["tokens_max"] for row in train.group_by("source").aggregate([("tokens", "max")]).to_pylist()
    }
    rows = []
    for leaf in plan["leaves"]:
        source, target, out = leaf["source"], leaf["target_tokens"], emitted.get(leaf["source"], 0)
        rows.append({"source": source, "planned_tokens": target, "emitted_tokens": out, "epochs": leaf["epochs"]})
        if abs(out - target) > max(COMPOSITION_TOLERANCE * target, largest.get(source, 0)):
            raise DataError(
                "The serialized corpus is not what was planned",
                where=f"source {source}",
                why=f"{out:,} tokens instead of {target:,}",
                remedy="this is a bug of the mixer or the serializer; nothing was committed",
            )
    return rows


def _assign_shards(selection: pa.Table, shard_tokens: int) -> list[str]:
    """The shard of each selected document, in order."""
    names, number, filled, split = [], 0, 0, None
    for row_split, tokens in zip(
        selection.column("split").to_pylist(), selection.column("tokens").to_pylist(), strict=True
    ):
        if row_split != split:
            split, number, filled = row_split, 0, 0
        elif filled >= shard_tokens:
            number, filled = number + 1, 0
        names.append(f"{split}-{number:05d}")
        filled += tokens
    return names


def _by_bucket(selection: pa.Table, shards: list[str], documents: Dataset) -> dict[int, dict[str, list[list[Any]]]]:
    """bucket → doc_id → [shard, position, copy] of each of its copies."""
    from hyperclova_core.foundation.documents import bucket_of

    buckets = len(documents.table("documents").files)
    wanted: dict[int, dict[str, list[list[Any]]]] = {bucket: defaultdict(list) for bucket in range(buckets)}
    columns = zip(selection.column("doc_id").to_pylist(), selection.column("copy").to_pylist(), shards, strict=True)
    for position, (doc_id, copy, shard) in enumerate(columns):
        wanted[bucket_of(doc_id, buckets)][doc_id].append([shard, position, copy])
    return wanted


def _encode_unit(unit: dict[str, Any], *, tokenizer: str, context: StageContext) -> dict[str, Any]:
    from hyperclova_core.tokens.tokenizer import MorphemeTokenizer

    encoder = MorphemeTokenizer.load(tokenizer)
    wanted: dict[str, list[list[Any]]] = unit["wanted"]
    rows = []
    with storage.open_parquet(unit["path"]) as file:
        for batch in file.iter_batches(batch_size=512, columns=["doc_id", "source", "content_hash", "text"]):
            batch = batch.filter(
                pa.array([doc_id in wanted for doc_id in batch.column("doc_id").to_pylist()], pa.bool_())
            )
            documents = batch.to_pylist()
            for row, ids in zip(documents, encoder.encode_batch(row["text"] for row in documents), strict=True):
                raw = np.asarray([*ids, EOD_ID], np.int32).tobytes()
                for shard, position, copy in wanted[row["doc_id"]]:
                    rows.append(
                        {
                            "shard": shard,
                            "position": position,
                            "doc_id": row["doc_id"],
                            "copy": copy,
                            "source": row["source"],
                            "content_hash": row["content_hash"],
                            "bytes": len(row["text"].encode()),
                            "ids": raw,
                        }
                    )
    table = pa.Table.from_pylist(rows, _STAGED).sort_by([("shard", "ascending"), ("position", "ascending")])
    root, path = context.target.root(False), f"{context.attempt_path}/staged/bucket-{unit['bucket']:05d}.parquet"
    entry = write_table(root, path, table)
    return {"files": [storage.join(root, path)], "digest": entry.digest}


def _write_shard(unit: dict[str, Any], *, vocabulary: int, context: StageContext) -> dict[str, Any]:
    name, root = unit["shard"], context.target.root(False)
    parts = [storage.read_parquet(path, filters=[("shard", "=", name)]).cast(_STAGED) for path in unit["staged"]]
    table = pa.concat_tables(parts).sort_by("position")
    prefix = f"{context.attempt_path}/shards/{name}"
    rows: list[dict[str, Any]] = []
    first, tokens_by_source = 0, Counter[str]()
    with ShardWriter(storage.join(root, prefix), vocabulary) as writer:
        for batch in table.to_batches(max_chunksize=512):
            for row in batch.to_pylist():
                ids = np.frombuffer(row["ids"], np.int32)
                writer.add(ids)
                rows.append(
                    {
                        "doc_id": row["doc_id"],
                        "source": row["source"],
                        "content_hash": row["content_hash"],
                        "copy": row["copy"],
                        "shard": name,
                        "document": len(rows),
                        "first_token": first,
                        "tokens": len(ids),
                        "bytes": row["bytes"],
                    }
                )
                first += len(ids)
                tokens_by_source[row["source"]] += len(ids)
    provenance = write_table(
        root, f"{context.attempt_path}/provenance/{name}.parquet", pa.Table.from_pylist(rows, PROVENANCE_SCHEMA)
    )
    shards = [plain_file_entry(root, f"{prefix}.{suffix}", rows=len(rows)) for suffix in ("bin", "idx")]
    return {
        "files": [
            storage.join(root, f"{prefix}.bin"),
            storage.join(root, f"{prefix}.idx"),
            storage.join(root, provenance.path),
        ],
        "shard": name,
        "prefix": prefix,
        "tokens": first,
        "bytes": sum(row["bytes"] for row in rows),
        "tokens_by_source": dict(sorted(tokens_by_source.items())),
        "shards": [entry.model_dump() for entry in shards],
        "provenance": provenance.model_dump(),
    }
