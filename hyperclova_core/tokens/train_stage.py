"""The tokenizer stage: a byte-stratified sample of the corpus, cut into morphemes in parallel, then BPE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.datasets import Counters, Dataset, plain_file_entry, write_table
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.hashing import order_key
from hyperclova_core.foundation.stages import Artifact, StageContext, artifact_stage
from hyperclova_core.foundation.units import run_units
from hyperclova_core.tokens.units import analyser_resources


class TokenizerConfig(Config):
    """Size of the vocabulary, and of the sample it is learnt from."""

    vocabulary_size: int = Field(32_000, ge=512, description="tokens, special ones and 256 bytes included")
    sample_bytes: int = Field(
        1 << 30, ge=1, description="UTF-8 bytes of text to learn from, spread over sources by their size"
    )


@artifact_stage("tokenizer", version="1", resources=analyser_resources)
def train_tokenizer(inputs: Mapping[str, Dataset], config: TokenizerConfig, context: StageContext) -> Artifact:
    """Learn a tokenizer from the one dataset given; the sample is the same whatever the number of tasks."""
    from hyperclova_core.tokens.tokenizer import train

    assert context.engine is not None
    (dataset,) = inputs.values()
    entries = dataset.table("documents").files
    units = [
        {"identity": {"checksum": e.checksum}, "path": path, "bucket": e.bucket}
        for e, path in zip(entries, dataset.files(), strict=True)
    ]
    sizes: Counter[str] = Counter()
    for result in run_units(context, _source_bytes, units, "sizes")[0]:
        sizes.update(result["bytes"])
    total = sum(sizes.values())
    if total == 0:
        raise DataError(
            "No text to learn a tokenizer from",
            where=dataset.uri,
            why="the dataset is empty",
            remedy="look at what the filters dropped",
        )
    share = min(1.0, config.sample_bytes / total)
    sample = partial(_cut_sample, share=share, context=context.for_workers())
    results = run_units(context, sample, units, f"sample-{share:.9f}")[0]
    paths = [path for result in results for path in result["files"]]
    description = {
        "sample_bytes": sum(result["bytes"] for result in results),
        "corpus_digest": dataset.manifest.digest,
        "sources": dict(sorted(sizes.items())),
    }
    tokenizer = train(_texts(paths), config.vocabulary_size, description)
    root, folder = context.target.root(False), f"{context.attempt_path}/tokenizer"
    tokenizer.save(storage.join(root, folder))
    context.scrap.extend(paths)
    files = [plain_file_entry(root, f"{folder}/{name}") for name in storage.list_names(storage.join(root, folder))]
    documents = dataset.table("documents").rows
    counters = Counters(
        rows_in=documents,
        kept=documents,
        text_bytes_in=total,
        text_bytes_kept=total,
        custom={"vocabulary_size": float(tokenizer.vocabulary_size)},
    )
    return Artifact(
        {"tokenizer": files},
        counters,
        info={
            "vocabulary_size": tokenizer.vocabulary_size,
            "padded_vocabulary_size": tokenizer.padded_vocabulary_size,
            "sample_bytes": description["sample_bytes"],
            "folder": folder,
        },
    )


def tokenizer_folder(dataset: Dataset) -> str:
    """Where a tokenizer dataset holds its tokenizer."""
    return storage.join(dataset.uri, str(dataset.manifest.info["folder"]))


def _source_bytes(unit: dict[str, Any]) -> dict[str, Any]:
    sizes: Counter[str] = Counter()
    with storage.open_parquet(unit["path"]) as file:
        for batch in file.iter_batches(columns=["source", "text"]):
            table = pa.table({"source": batch.column("source"), "bytes": pc.binary_length(batch.column("text"))})
            for row in table.group_by("source").aggregate([("bytes", "sum")]).to_pylist():
                sizes[row["source"]] += row["bytes_sum"]
    return {"files": [], "bytes": dict(sizes)}


def _cut_sample(unit: dict[str, Any], *, share: float, context: StageContext) -> dict[str, Any]:
    from hyperclova_core.tokens.tokenizer import joined_morphemes

    limit = int(share * 2**64)
    joined, size = [], 0
    with storage.open_parquet(unit["path"]) as file:
        for batch in file.iter_batches(columns=["doc_id", "text"]):
            for doc_id, text in zip(batch.column("doc_id").to_pylist(), batch.column("text").to_pylist(), strict=True):
                if int.from_bytes(order_key(context.seed, "tokenizer", doc_id), "big") < limit:
                    joined.append(joined_morphemes(text))
                    size += len(text.encode())
    root, path = context.target.root(True), f"{context.attempt_path}/sample/bucket-{unit['bucket'] or 0:05d}.parquet"
    write_table(root, path, pa.table({"joined": pa.array(joined, pa.string())}))
    return {"files": [storage.join(root, path)], "bytes": size}


def _texts(paths: list[str]) -> Iterator[str]:
    for path in paths:
        with storage.open_parquet(path) as file:
            for batch in file.iter_batches(columns=["joined"]):
                yield from batch.column("joined").to_pylist()
