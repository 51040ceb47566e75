"""The mix stage: exact token counts a document, validation held out, the plan, and the selection in training order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import pyarrow as pa

from hyperclova_core.corpus.mix import (
    Candidate,
    Chosen,
    MixConfig,
    Plan,
    choose,
    is_validation,
    make_plan,
    training_order,
)
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets import Counters, Dataset, plain_file_entry, write_table
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.stages import Artifact, StageContext, artifact_stage
from hyperclova_core.foundation.units import run_units
from hyperclova_core.tokens.train_stage import tokenizer_folder
from hyperclova_core.tokens.units import analyser_resources

COUNTS_SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("cluster_id", pa.string()),
        ("tokens", pa.int64()),
        ("bytes", pa.int64()),
    ]
)
SELECTION_SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("copy", pa.int32()),
        ("tokens", pa.int64()),
    ]
)
SPLITS = ("train", "validation")


def count_tokens(documents: Dataset, tokenizer: str, context: StageContext) -> pa.Table:
    """Exact tokens a document, end-of-document included: columns of COUNTS_SCHEMA."""
    assert context.engine is not None
    units = [
        {"identity": {"checksum": entry.checksum}, "path": path, "bucket": entry.bucket}
        for entry, path in zip(documents.table("documents").files, documents.files(), strict=True)
    ]
    work = partial(_count_unit, tokenizer=tokenizer, context=context.for_workers())
    results, _ = run_units(context, work, units, "counts")
    return pa.concat_tables([storage.read_parquet(result["files"][0]) for result in results])


def split_and_plan(counts: pa.Table, config: MixConfig, seed: int) -> tuple[Plan, list[Candidate], list[Candidate]]:
    """(plan, training candidates, validation candidates)."""
    training: list[Candidate] = []
    validation: list[Candidate] = []
    for row in counts.to_pylist():
        held = is_validation(seed, row["cluster_id"] or row["doc_id"], config.validation_share)
        (validation if held else training).append(Candidate(row["doc_id"], row["source"], row["tokens"]))
    if config.validation_share and not validation and training:
        least = min(training, key=lambda candidate: candidate.doc_id)
        training.remove(least)
        validation.append(least)
    available: Counter[str] = Counter()
    documents: Counter[str] = Counter()
    for candidate in training:
        available[candidate.source] += candidate.tokens
        documents[candidate.source] += 1
    if not available:
        raise DataError(
            "Nothing to mix",
            why="no training document is left",
            remedy="look at what the filters dropped, or lower validation_share",
        )
    return make_plan(available, documents, config), training, validation


@artifact_stage("mix", version="1", resources=analyser_resources)
def mix(inputs: Mapping[str, Dataset], config: MixConfig, context: StageContext) -> Artifact:
    """Plan the composition and choose the documents; what is chosen is listed in the order training will see it."""
    documents = inputs["documents"]
    counts = count_tokens(documents, tokenizer_folder(inputs["tokenizer"]), context)
    plan, training, validation = split_and_plan(counts, config, context.seed)
    chosen = {"train": choose(training, plan, context.seed), "validation": training_order(validation, context.seed)}
    root, path = context.target.root(False), context.attempt_path
    selection = pa.concat_tables([_selection(rows, split) for split, rows in chosen.items()])
    tables = {
        "selection": [write_table(root, f"{path}/selection.parquet", selection)],
        "counts": [write_table(root, f"{path}/counts.parquet", counts.sort_by("doc_id"))],
    }
    storage.write_json(storage.join(root, path, "plan.json"), plan.to_dict())
    tables["plan"] = [plain_file_entry(root, f"{path}/plan.json")]
    return Artifact(
        tables,
        _counters(counts, chosen),
        {"plan": plan.to_dict(), "tokens": {split: sum(c.tokens for c in rows) for split, rows in chosen.items()}},
    )


def _selection(rows: list[Chosen], split: str) -> pa.Table:
    return pa.table(
        {
            "doc_id": [row.doc_id for row in rows],
            "source": [row.source for row in rows],
            "split": [split] * len(rows),
            "copy": [row.copy for row in rows],
            "tokens": [row.tokens for row in rows],
        },
        SELECTION_SCHEMA,
    )


def _counters(counts: pa.Table, chosen: dict[str, list[Chosen]]) -> Counters:
    taken = {row.doc_id for rows in chosen.values() for row in rows}
    by_source: dict[str, Counter[str]] = {}
    kept_bytes = 0
    for row in counts.select(["doc_id", "source", "bytes"]).to_pylist():
        counter = by_source.setdefault(row["source"], Counter())
        counter["in"] += 1
        counter["kept" if row["doc_id"] in taken else "rejected"] += 1
        kept_bytes += row["bytes"] if row["doc_id"] in taken else 0
    left = counts.num_rows - len(taken)
    return Counters(
        rows_in=counts.num_rows,
        kept=len(taken),
        rejected={"over_the_mixture": left} if left else {},
        text_bytes_in=sum(counts.column("bytes").to_pylist()),
        text_bytes_kept=kept_bytes,
        by_source={source: dict(sorted(counter.items())) for source, counter in sorted(by_source.items())},
        custom={f"tokens_{split}": float(sum(row.tokens for row in rows)) for split, rows in chosen.items()},
    )


def _count_unit(unit: dict[str, Any], *, tokenizer: str, context: StageContext) -> dict[str, Any]:
    from hyperclova_core.tokens.tokenizer import MorphemeTokenizer

    encoder = MorphemeTokenizer.load(tokenizer)
    parts = []
    with storage.open_parquet(unit["path"]) as file:
        for batch in file.iter_batches(batch_size=512, columns=["doc_id", "source", "cluster_id", "text"]):
            texts = batch.column("text").to_pylist()
            parts.append(
                pa.table(
                    {
                        "doc_id": batch.column("doc_id"),
                        "source": batch.column("source"),
                        "cluster_id": batch.column("cluster_id"),
                        "tokens": [len(ids) + 1 for ids in encoder.encode_batch(texts)],
                        "bytes": [len(text.encode()) for text in texts],
                    },
                    COUNTS_SCHEMA,
                )
            )
    table = pa.concat_tables(parts) if parts else COUNTS_SCHEMA.empty_table()
    root, path = context.target.root(False), f"{context.attempt_path}/counts/bucket-{unit['bucket'] or 0:05d}.parquet"
    write_table(root, path, table)
    return {"files": [storage.join(root, path)]}
