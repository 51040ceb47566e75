"""The mix stage: exact token counts a document, validation held out, the plan, and what each document's part in it is.

A leaf gives the prefix of its documents in the order of hash(seed, doc_id) that fills its budget. Where the prefix ends is found from
sums by ranges of that hash, and by looking at the documents of one range; so the driver holds sums, never documents.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.dataset import Dataset
from hyperclova_core.foundation.datasets.manifest import Counters, FileEntry
from hyperclova_core.foundation.datasets.parquet_writer import plain_file_entry, write_table
from hyperclova_core.foundation.hashing import fingerprint, order_keys
from hyperclova_core.foundation.stages.kinds import Artifact, StageContext, artifact_stage
from hyperclova_core.foundation.stages.sums import has_places, read_all, summed, with_places
from hyperclova_core.foundation.stages.units import BucketUnit, UnitResult
from hyperclova_core.foundation.stages.work_units import run_units
from hyperclova_core.tokens.mixture.leaves import COLUMNS, below, paths_of, share_limit, validation_keys
from hyperclova_core.tokens.mixture.plan import Leaf, MixConfig, Plan, leaf_path, make_plan
from hyperclova_core.tokens.pretokens.analyser_version import analyser_resources
from hyperclova_core.tokens.tokenizer.tokenizer import tokenizer_folder

RANGE_BITS = 12
COUNTS_SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("path", pa.string()),
        ("validation", pa.bool_()),
        ("key", pa.uint64()),
        ("tokens", pa.int64()),
        ("bytes", pa.int64()),
    ]
)
SUMS_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("validation", pa.bool_()),
        ("range", pa.int32()),
        ("tokens", pa.int64()),
        ("documents", pa.int64()),
        ("bytes", pa.int64()),
    ]
)
"""Sums over the documents of a leaf whose key lies in a range: at most leaves × 2 × 4,096 rows, of any number of buckets."""
SELECTION_SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("leaf", pa.string()),
        ("split", pa.string()),
        ("copies", pa.int32()),
        ("tokens", pa.int64()),
        ("bytes", pa.int64()),
    ]
)
"""One row a document, in the order of the documents' files: `copies` 0 is not in the corpus, validation is taken once."""
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Take:
    """What is taken of a leaf: `copies` of all documents, and one more of those up to (last_key, last_doc)."""

    copies: int
    last_key: int
    last_doc: str

    def of(self, keys: npt.NDArray[np.uint64], doc_ids: pa.Array) -> npt.NDArray[np.int64]:
        """Copies of each document."""
        taken = np.full(len(keys), self.copies, np.int64)
        if self.last_doc:
            last = np.uint64(self.last_key)
            ties = pc.less_equal(doc_ids, self.last_doc).to_numpy(zero_copy_only=False).astype(np.bool_)
            taken += (keys < last) | ((keys == last) & ties)
        return taken


class Counted(UnitResult):
    """A bucket whose tokens are counted: its files hold a row a document (COUNTS_SCHEMA), and sums by leaf and range of the key."""

    bucket: int
    digest: str = Field(description="of the rows: what follows depends on them")
    held: int = Field(description="documents held out for validation")
    least: str = Field(
        description="the least validation key, a number that JSON's cannot hold; empty without documents"
    )

    def unit(self, identity: Any) -> BucketUnit:
        """The work that follows on the counted documents."""
        return BucketUnit(identity=identity, path=self.files[0], bucket=self.bucket)


class _Chosen(UnitResult):
    """What a bucket gives to the corpus."""

    entry: FileEntry
    leaves: dict[str, tuple[int, int]] = Field(description="leaf → training tokens taken, most tokens of a document")
    tokens: dict[str, int] = Field(description="by split")
    bytes_in: int
    bytes_kept: int
    by_source: dict[str, dict[str, int]]


@dataclass(frozen=True)
class Planned:
    """A plan with where each leaf ends; sums of the training documents by leaf and range of the key."""

    plan: Plan
    takes: dict[str, Take]
    counted: list[Counted]
    validation_tokens: int


def plan_mixture(documents: Dataset, tokenizer: str, config: MixConfig, context: StageContext) -> Planned:
    """Count tokens, hold out validation, plan, and find where each leaf ends; no text moves."""
    units = [
        BucketUnit(identity={"checksum": entry.checksum}, path=path, bucket=entry.bucket or 0, weight=entry.bytes)
        for entry, path in zip(documents.table("documents").files, documents.files(), strict=True)
    ]
    inner = context.for_workers()
    limit = share_limit(config.validation_share)
    count = partial(_count_unit, tokenizer=tokenizer, config=config, placed=has_places(len(units)), context=inner)
    counted, _ = run_units(context, partial(count, limit=limit), units, "counted", Counted)
    if limit and not any(result.held for result in counted) and any(result.least for result in counted):
        # so small a corpus has nothing below the limit: its least cluster is held out, for there must be something to validate on
        least = min(int(result.least) for result in counted if result.least)
        counted, _ = run_units(context, partial(count, limit=least + 1), units, "counted-least", Counted)
    context.scrap.files.extend(path for result in counted for path in result.files)
    files = [(result.files[1], result.digest) for result in counted]
    sums = summed(context, files, SUMS_SCHEMA, ("path", "validation", "range"), "sums")
    train = sums.filter(pc.invert(sums.column("validation")))
    available: dict[tuple[str, ...], tuple[int, int]] = {}
    totals = train.group_by("path").aggregate([("tokens", "sum"), ("documents", "sum")])
    for row in totals.to_pylist():
        available[tuple(row["path"].split("\x1f"))] = (row["tokens_sum"], row["documents_sum"])
    plan = make_plan(available, config)
    takes = _takes(plan, {leaf_path(values): "\x1f".join(values) for values in available}, train, counted, context)
    held = sums.filter(sums.column("validation"))
    return Planned(plan, takes, counted, int(pc.sum(held.column("tokens")).as_py() or 0))


def _takes(
    plan: Plan, paths: Mapping[str, str], train: pa.Table, counted: list[Counted], context: StageContext
) -> dict[str, Take]:
    """Where each leaf's prefix ends: to within half of its last document."""
    ends: dict[str, tuple[int, int, int, int]] = {}
    for leaf in plan.leaves:
        if leaf.available_tokens == 0 or leaf.target_tokens == 0:
            continue
        copies, missing = divmod(leaf.target_tokens, leaf.available_tokens)
        rows = train.filter(pc.equal(train.column("path"), paths[leaf.path])).sort_by("range")
        sizes = np.cumsum(rows.column("tokens").to_numpy())
        at = int(np.searchsorted(sizes, missing, side="left")) if missing else 0
        before = int(sizes[at - 1]) if at else 0
        ends[leaf.path] = (copies, missing, int(rows.column("range")[at].as_py()), before)
    wanted = {paths[name]: place for name, (_, missing, place, _) in ends.items() if missing}
    near = partial(_near_unit, wanted=wanted, context=context.for_workers())
    ends_identity = fingerprint(wanted)
    units = [result.unit({"counts": result.digest, "wanted": ends_identity}) for result in counted]
    found, _ = run_units(context, near, units, "ends", UnitResult)
    context.scrap.files.extend(path for result in found for path in result.files)
    border = pa.concat_tables(read_all([result.files[0] for result in found]))
    takes = {}
    for leaf in plan.leaves:
        copies, missing, _, filled = ends.get(leaf.path, (0, 0, 0, 0))
        last_key, last_doc = 0, ""
        if missing:
            rows = border.filter(pc.equal(border.column("path"), paths[leaf.path])).sort_by(
                [("key", "ascending"), ("doc_id", "ascending")]
            )
            sizes = filled + np.cumsum(rows.column("tokens").to_numpy())
            at = int(np.searchsorted(sizes, missing, side="left"))
            own = int(rows.column("tokens")[at].as_py())
            if int(sizes[at]) - missing > own // 2:  # nearer without it
                at -= 1
            if at >= 0:
                last_key, last_doc = int(rows.column("key")[at].as_py()), str(rows.column("doc_id")[at].as_py())
            elif filled:  # the last one is of an earlier range: all of those
                first = int(rows.column("key")[0].as_py()) >> (64 - RANGE_BITS) << (64 - RANGE_BITS)
                last_key, last_doc = first - 1, "g"  # behind every doc_id
        takes[leaf.path] = Take(copies, last_key, last_doc)
    return takes


@artifact_stage("mix", version="2", resources=analyser_resources)
def mix(inputs: Mapping[str, Dataset], config: MixConfig, context: StageContext) -> Artifact:
    """Plan the composition and say of every document how often it is in the corpus."""
    planned = plan_mixture(inputs["documents"], tokenizer_folder(inputs["tokenizer"]), config, context)
    choose = partial(_choose_unit, takes=planned.takes, context=context.for_workers())
    identity = fingerprint({name: [take.copies, take.last_key, take.last_doc] for name, take in planned.takes.items()})
    units = [result.unit({"counts": result.digest, "takes": identity}) for result in planned.counted]
    chosen, _ = run_units(context, choose, units, "choose", _Chosen)
    root, path = context.target.root(False), context.attempt_path
    storage.write_json(storage.join(root, path, "plan.json"), planned.plan.to_dict())
    tables = {
        "selection": [result.entry for result in chosen],
        "plan": [plain_file_entry(root, f"{path}/plan.json")],
    }
    tokens = {split: sum(result.tokens[split] for result in chosen) for split in SPLITS}
    taken: dict[str, list[int]] = {}
    for result in chosen:
        for leaf, (size, largest) in result.leaves.items():
            before = taken.setdefault(leaf, [0, 0])
            taken[leaf] = [before[0] + size, max(before[1], largest)]
    info = {"plan": planned.plan.to_dict(), "tokens": tokens, "taken": taken}
    return Artifact(tables, _counters(chosen, tokens), info)


def _counters(chosen: list[_Chosen], tokens: dict[str, int]) -> Counters:
    by_source: dict[str, Counter[str]] = {}
    for result in chosen:
        for source, counts in result.by_source.items():
            by_source.setdefault(source, Counter()).update(counts)
    rows, kept = (sum(counter[name] for counter in by_source.values()) for name in ("in", "kept"))
    return Counters(
        rows_in=rows,
        kept=kept,
        rejected={"over_the_mixture": rows - kept} if rows > kept else {},
        text_bytes_in=sum(result.bytes_in for result in chosen),
        text_bytes_kept=sum(result.bytes_kept for result in chosen),
        by_source={source: dict(sorted(counter.items())) for source, counter in sorted(by_source.items())},
        custom={f"tokens_{split}": float(number) for split, number in tokens.items()},
    )


def _count_unit(
    unit: BucketUnit, *, tokenizer: str, config: MixConfig, limit: int, placed: bool, context: StageContext
) -> Counted:
    from hyperclova_core.tokens.encoder.worker_encoder import kept_encoder

    _, encoder = kept_encoder(tokenizer)
    parts, least, held = [], 1 << 64, 0
    with storage.open_parquet(unit.path) as file:
        for batch in file.iter_batches(batch_size=4096, columns=["doc_id", "cluster_id", "text", *COLUMNS]):
            text, validation = batch.column("text"), validation_keys(batch, context.seed)
            least = min(least, int(validation.min()))
            outside = below(validation, limit)
            held += int(outside.sum())
            columns = [
                batch.column("doc_id"),
                paths_of(batch, config).cast(pa.string()),
                pa.array(outside),
                pa.array(order_keys(batch.column("doc_id"), context.seed, "select")),
                pa.array(encoder.encode(text).lengths + 1),
                pc.binary_length(text).cast(pa.int64()),
            ]
            parts.append(pa.table(columns, schema=COUNTS_SCHEMA))
    table = pa.concat_tables(parts) if parts else COUNTS_SCHEMA.empty_table()
    place = np.right_shift(table.column("key").to_numpy(), np.uint64(64 - RANGE_BITS)).astype(np.int32)
    ranges = table.append_column("range", pa.array(place)).group_by(["path", "validation", "range"])
    sums = ranges.aggregate([("tokens", "sum"), ("doc_id", "count"), ("bytes", "sum")])
    sums = sums.rename_columns({"tokens_sum": "tokens", "doc_id_count": "documents", "bytes_sum": "bytes"})
    sums = sums.select(SUMS_SCHEMA.names).cast(SUMS_SCHEMA)
    if placed:  # ranges are even: they are what sums are brought together by
        sums = with_places(sums, [f"{number << (32 - RANGE_BITS):08x}" for number in sums.column("range").to_pylist()])
    root, folder = context.target.root(False), f"{context.attempt_path}/counted"
    names = [f"{folder}/{name}-{unit.bucket:05d}.parquet" for name in ("documents", "sums")]
    entry = write_table(root, names[0], table)
    write_table(root, names[1], sums)
    return Counted(
        files=tuple(storage.join(root, name) for name in names),
        bucket=unit.bucket,
        digest=entry.digest,
        held=held,
        least=str(least) if parts else "",
    )


def _near_unit(unit: BucketUnit, *, wanted: dict[str, int], context: StageContext) -> UnitResult:
    """The documents of one bucket that lie in the ranges where leaves end."""
    table = storage.read_parquet(unit.path)
    place = np.right_shift(table.column("key").to_numpy(), np.uint64(64 - RANGE_BITS)).astype(np.int64)
    ends = np.array([wanted.get(path, -1) for path in table.column("path").to_pylist()], np.int64)
    mask = (place == ends) & ~table.column("validation").to_numpy(zero_copy_only=False).astype(np.bool_)
    root, path = context.target.root(False), f"{context.attempt_path}/counted/ends-{unit.bucket:05d}.parquet"
    write_table(root, path, table.filter(pa.array(mask)).select(["path", "key", "doc_id", "tokens"]))
    return UnitResult(files=(storage.join(root, path),))


def _choose_unit(unit: BucketUnit, *, takes: dict[str, Take], context: StageContext) -> _Chosen:
    table = storage.read_parquet(unit.path).combine_chunks()
    keys, doc_ids = table.column("key").to_numpy(), table.column("doc_id")
    paths = pc.dictionary_encode(table.column("path").combine_chunks()) if table.num_rows else None
    copies = np.zeros(table.num_rows, np.int64)
    names: list[str] = []
    if paths is not None:
        paths = paths.chunk(0) if isinstance(paths, pa.ChunkedArray) else paths
        names = [leaf_path(path.split("\x1f")) for path in paths.dictionary.to_pylist()]
        codes = paths.indices.to_numpy()
        for number, name in enumerate(names):
            mine = np.flatnonzero(codes == number)
            if name in takes:
                copies[mine] = takes[name].of(keys[mine], doc_ids.take(pa.array(mine)).combine_chunks())
    leaves = (
        pa.array([], pa.string())
        if paths is None
        else pa.DictionaryArray.from_arrays(paths.indices, pa.array(names, pa.string())).cast(pa.string())
    )
    held = table.column("validation").to_numpy(zero_copy_only=False).astype(np.bool_)
    copies[held] = 1
    tokens, sizes = table.column("tokens").to_numpy(), table.column("bytes").to_numpy()
    selection = pa.table(
        [
            doc_ids,
            leaves,
            pa.array(np.where(held, SPLITS[1], SPLITS[0]), pa.string()),
            pa.array(copies.astype(np.int32)),
            table.column("tokens"),
            table.column("bytes"),
        ],
        schema=SELECTION_SCHEMA,
    )
    by_source: dict[str, Counter[str]] = {}
    if paths is not None:
        for number, name in enumerate(paths.dictionary.to_pylist()):
            mine = codes == number
            counter = by_source.setdefault(name.split("\x1f")[0], Counter())
            counter.update(
                {
                    "in": int(mine.sum()),
                    "kept": int((mine & (copies > 0)).sum()),
                    "rejected": int((mine & (copies == 0)).sum()),
                }
            )
    leaf_sums = {
        name: (int((tokens * copies)[(codes == number) & ~held].sum()), int(tokens[codes == number].max()))
        for number, name in enumerate(names)
    }
    root, path = context.target.root(False), f"{context.attempt_path}/selection/bucket-{unit.bucket:05d}.parquet"
    entry = write_table(root, path, selection, bucket=unit.bucket)
    return _Chosen(
        files=(storage.join(root, path),),
        entry=entry,
        leaves=leaf_sums,
        tokens={"train": int((tokens * copies)[~held].sum()), "validation": int(tokens[held].sum())},
        bytes_in=int(sizes.sum()),
        bytes_kept=int(sizes[copies > 0].sum()),
        by_source={
            source: {key: value for key, value in counter.items() if value or key != "rejected"}
            for source, counter in by_source.items()
        },
    )


__all__ = ["SELECTION_SCHEMA", "SPLITS", "Leaf", "Planned", "Take", "mix", "plan_mixture"]
