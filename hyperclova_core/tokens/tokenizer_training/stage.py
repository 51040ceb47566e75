"""The tokenizer stage: a sample of the corpus as the mixture will be, its pre-tokens counted in parallel, then BPE and the memo.

Buckets give distinct pre-tokens with counts, never texts, so the work after them follows the size of the language, not of the sample.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.datasets.dataset import Dataset
from hyperclova_core.foundation.datasets.manifest import Counters
from hyperclova_core.foundation.datasets.parquet_writer import plain_file_entry, write_table
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.hashing import order_keys
from hyperclova_core.foundation.stages.kinds import Artifact, StageContext, artifact_stage
from hyperclova_core.foundation.stages.sums import has_places, summed, with_places
from hyperclova_core.foundation.stages.units import BucketUnit, UnitResult
from hyperclova_core.foundation.stages.work_units import run_units
from hyperclova_core.tokens.mixture.leaves import COLUMNS, below, paths_of, share_limit
from hyperclova_core.tokens.mixture.plan import MixConfig, capacity, leaf_path, make_plan
from hyperclova_core.tokens.pretokens.analyser_version import analyser_resources

REPORTED_DOCUMENTS = 4096
PRETOKENS_SCHEMA = pa.schema([("pretoken", pa.large_binary()), ("count", pa.int64())])
COUNTED_AT_ONCE = 1 << 23
"""Distinct pre-tokens a worker holds before it folds equal ones together."""


class TokenizerConfig(Config):
    """What kind of tokenizer, of what size, and the sample it is learnt from."""

    kind: Literal["morpheme", "byte", "character"] = Field(
        "morpheme",
        description="morpheme: words cut by mecab-ko, then byte-level BPE; byte: GPT-2's byte-level BPE; character: BPE over"
        " characters, rare ones as bytes",
    )
    vocabulary_size: int = Field(32_000, ge=512, description="tokens, special ones and 256 bytes included")
    digits: int = Field(3, ge=0, description="digits a token at most, of kind morpheme; 0: a number stays whole")
    sample_bytes: int = Field(
        1 << 30,
        ge=1,
        description="UTF-8 bytes of text to learn from, shared by the mixture; 1 % of the corpus is HyperCLOVA's",
    )
    memo_units: int = Field(
        2_000_000,
        ge=0,
        description="words whose ids are kept with the tokenizer, the most frequent; about 60 bytes each",
    )
    mixture: MixConfig | None = Field(
        None, description="what the sample shall be composed of; none: as the recipe's mix"
    )


@artifact_stage("tokenizer", version="4", resources=analyser_resources)
def train_tokenizer(inputs: Mapping[str, Dataset], config: TokenizerConfig, context: StageContext) -> Artifact:
    """Learn a tokenizer from the one dataset given; the result is the same whatever the number of tasks and buckets."""
    from hyperclova_core.tokens.encoder.pretoken_cache import write_memo
    from hyperclova_core.tokens.encoder.worker_encoder import column_encoder
    from hyperclova_core.tokens.tokenizer.tokenizer import MEMO_FILE
    from hyperclova_core.tokens.tokenizer_training.learning import learn, memo_order

    (dataset,) = inputs.values()
    mixture = (config.mixture or MixConfig()).model_copy(update={"on_shortage": "respread", "max_epochs": 1.0})
    units = [
        BucketUnit(identity={"checksum": e.checksum}, path=path, bucket=e.bucket or 0)
        for e, path in zip(dataset.table("documents").files, dataset.files(), strict=True)
    ]
    sizes: dict[str, Counter[str]] = {}
    for leaf_sizes in run_units(context, partial(_leaf_bytes, config=mixture), units, "sizes", _LeafSizes)[0]:
        for path, (size, documents) in leaf_sizes.leaves.items():
            sizes.setdefault(path, Counter()).update(bytes=size, documents=documents)
    total = sum(counter["bytes"] for counter in sizes.values())
    if total == 0:
        raise DataError(
            "No text to learn a tokenizer from",
            where=dataset.uri,
            why="the dataset is empty",
            remedy="look at what the filters dropped",
        )
    shares = sample_shares(sizes, config.sample_bytes, mixture)
    count = partial(
        _count_sample,
        shares=shares,
        mixture=mixture,
        config=config,
        placed=has_places(len(units)),
        context=context.for_workers(),
    )
    results, _ = run_units(context, count, units, f"pretokens-{shares_identity(shares)}", _Sampled)
    context.scrap.files.extend(path for result in results for path in result.files)
    samples = [(result.files[0], result.digest) for result in results]
    counted = summed(context, samples, PRETOKENS_SCHEMA, ("pretoken",), "pretokens")
    words, counts = counted.column("pretoken").combine_chunks(), counted.column("count").to_numpy()
    sample_bytes = sum(result.text_bytes for result in results)
    details = {
        "sample_bytes": sample_bytes,
        "sources": {leaf_path(path.split("\x1f")): counter["bytes"] for path, counter in sorted(sizes.items())},
    }
    tokenizer = learn(config.kind, config.vocabulary_size, config.digits, words, counts, details)
    root, folder = context.target.root(False), f"{context.attempt_path}/tokenizer"
    tokenizer.save(storage.join(root, folder))
    encoder = column_encoder(tokenizer, memo=False)
    memo = encoder.memo_of(memo_order(words, counts, config.memo_units))
    with storage.replacing(storage.join(root, folder, MEMO_FILE)) as temporary, open(temporary, "wb") as file:
        write_memo(memo, file, tokenizer.identity)
    report = _report(dataset, tokenizer, context, units, shares, mixture)
    storage.write_json(storage.join(root, context.attempt_path, "report.json"), report)
    files = [plain_file_entry(root, f"{folder}/{name}") for name in storage.list_names(storage.join(root, folder))]
    documents = dataset.table("documents").rows
    counters = Counters(
        rows_in=documents,
        kept=documents,
        text_bytes_in=total,
        text_bytes_kept=total,
        custom={
            "vocabulary_size": float(tokenizer.vocabulary_size),
            "sample_bytes": float(sample_bytes),
            "bytes_per_token": report["all"]["bytes_per_token"],
            "fertility": report["all"]["fertility"],
            "memo_units": float(memo.used[0]),
        },
    )
    return Artifact(
        {"tokenizer": files, "report": [plain_file_entry(root, f"{context.attempt_path}/report.json")]},
        counters,
        info={
            "kind": config.kind,
            "vocabulary_size": tokenizer.vocabulary_size,
            "padded_vocabulary_size": tokenizer.padded_vocabulary_size,
            "identity": tokenizer.identity,
            "sample_bytes": sample_bytes,
            "folder": folder,
        },
    )


def sample_shares(sizes: Mapping[str, Mapping[str, int]], wanted: int, mixture: MixConfig) -> dict[str, float]:
    """Leaf → share of its documents in the sample, so that the sample's bytes are as the mixture's tokens will be."""
    available = {tuple(path.split("\x1f")): (counter["bytes"], counter["documents"]) for path, counter in sizes.items()}
    usable = capacity(available, mixture)
    plan = make_plan(available, mixture.model_copy(update={"budget_tokens": max(1, min(wanted, usable))}))
    by_path = {leaf.path: leaf for leaf in plan.leaves}
    leaves = {path: by_path[leaf_path(path.split("\x1f"))] for path in sizes}
    return {path: min(1.0, leaf.target_tokens / max(1, leaf.available_tokens)) for path, leaf in leaves.items()}


def shares_identity(shares: Mapping[str, float]) -> str:
    """Name of a sample, for its units of work."""
    from hyperclova_core.foundation.hashing import fingerprint

    return fingerprint({path: f"{share:.9f}" for path, share in shares.items()})[:12]


class _LeafSizes(UnitResult):
    """Leaf → (UTF-8 bytes of text, documents)."""

    leaves: dict[str, tuple[int, int]]


class _Sampled(UnitResult):
    """The pre-tokens of the sampled documents are in its file."""

    text_bytes: int
    digest: str = Field(description="of its rows")


def _leaf_bytes(unit: BucketUnit, *, config: MixConfig) -> _LeafSizes:
    sizes: dict[str, tuple[int, int]] = {}
    with storage.open_parquet(unit.path) as file:
        for batch in file.iter_batches(columns=["text", *COLUMNS]):
            table = pa.table(
                {"path": paths_of(batch, config).cast(pa.string()), "bytes": pc.binary_length(batch.column("text"))}
            )
            for row in table.group_by("path").aggregate([("bytes", "sum"), ("bytes", "count")]).to_pylist():
                size, documents = sizes.get(row["path"], (0, 0))
                sizes[row["path"]] = (size + row["bytes_sum"], documents + row["bytes_count"])
    return _LeafSizes(leaves=sizes)


def _sampled(batch: pa.RecordBatch, shares: Mapping[str, float], mixture: MixConfig, seed: int) -> pa.RecordBatch:
    """The documents of a batch that are in the sample."""
    paths = paths_of(batch, mixture)
    limits = [share_limit(shares.get(path, 0.0)) for path in paths.dictionary.to_pylist()]
    keys, codes = order_keys(batch.column("doc_id"), seed, "tokenizer"), paths.indices.to_numpy()
    chosen = np.zeros(batch.num_rows, np.bool_)
    for number, limit in enumerate(limits):
        mine = codes == number
        chosen[mine] = below(keys[mine], limit)
    return batch.filter(pa.array(chosen))


def _count_sample(
    unit: BucketUnit,
    *,
    shares: dict[str, float],
    mixture: MixConfig,
    config: TokenizerConfig,
    placed: bool,
    context: StageContext,
) -> _Sampled:
    from hyperclova_core.tokens.tokenizer_training.learning import pre_tokenizer_of

    pre_tokenizer = pre_tokenizer_of(config.kind, config.digits)
    folded, size, held = [], 0, 0
    with storage.open_parquet(unit.path) as file:
        for batch in file.iter_batches(batch_size=4096, columns=["doc_id", "text", *COLUMNS]):
            text = _sampled(batch, shares, mixture, context.seed).column("text")
            size += int(pc.sum(pc.binary_length(text)).as_py() or 0)
            counts = pc.value_counts(pre_tokenizer.pretokens(text))
            folded.append(pa.table({"pretoken": counts.field("values"), "count": counts.field("counts")}))
            held += len(counts)
            if held > COUNTED_AT_ONCE:
                folded = [_folded(folded)]
                held = folded[0].num_rows
    table = _folded(folded) if folded else PRETOKENS_SCHEMA.empty_table()
    table = table.cast(PRETOKENS_SCHEMA).sort_by("pretoken")
    if placed:
        hashes = [hashlib.blake2b(word, digest_size=4).hexdigest() for word in table.column("pretoken").to_pylist()]
        table = with_places(table, hashes)
    root, path = context.target.root(True), f"{context.attempt_path}/sample/bucket-{unit.bucket:05d}.parquet"
    entry = write_table(root, path, table)
    return _Sampled(files=(storage.join(root, path),), text_bytes=size, digest=entry.digest)


def _folded(tables: list[pa.Table]) -> pa.Table:
    table = pa.concat_tables(tables).group_by("pretoken").aggregate([("count", "sum")])
    return table.rename_columns({"count_sum": "count"}).select(["pretoken", "count"])


def _report(
    dataset: Dataset,
    tokenizer: Any,
    context: StageContext,
    units: list[BucketUnit],
    shares: dict[str, float],
    mixture: MixConfig,
) -> dict[str, Any]:
    """How the tokenizer fares on up to a few megabytes that it may or may not have seen, by leaf."""
    from hyperclova_core.tokens.tokenizer_training.report import fertility_report

    texts: dict[str, list[str]] = {}
    left = REPORTED_DOCUMENTS  # of the smallest ids, which are a random sample, however many files they lie in
    for unit in units:
        if not left:
            break
        with storage.open_parquet(unit.path) as file:
            batch = next(file.iter_batches(batch_size=REPORTED_DOCUMENTS, columns=["text", *COLUMNS]), None)
        if batch is not None:
            batch = batch.slice(0, left)
            left -= batch.num_rows
            for path, text in zip(paths_of(batch, mixture).to_pylist(), batch.column("text").to_pylist(), strict=True):
                texts.setdefault(leaf_path(path.split("\x1f")), []).append(text)
    return fertility_report(tokenizer, texts)
