"""The serialize stage: token ids in Megatron shards, in the final training order, with the way back to each document.

Bucket tasks encode and put ids down in runs by training order (staging.py, runs.py); where there are many, neighbours are merged
(merging.py); shard tasks merge what is left (shards.py). Texts stay where they are,
only ids move, memory is bounded, and the bytes depend on neither the number of tasks nor that of buckets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.datasets.dataset import Dataset
from hyperclova_core.foundation.datasets.manifest import Counters
from hyperclova_core.foundation.datasets.parquet_writer import plain_file_entry
from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.foundation.stages.kinds import Artifact, StageContext, artifact_stage
from hyperclova_core.foundation.stages.work_units import run_units
from hyperclova_core.tokens.mixture.composition import (
    chart_of,
    check_composition,
    check_windows,
    table_of,
    window_tokens,
)
from hyperclova_core.tokens.mixture.stage import SPLITS
from hyperclova_core.tokens.pretokens.analyser_version import analyser_resources
from hyperclova_core.tokens.special_tokens import id_type
from hyperclova_core.tokens.tokenizer.tokenizer import tokenizer_folder

if TYPE_CHECKING:
    from hyperclova_core.tokens.serialize.runs import LeafSums, StagedRun
    from hyperclova_core.tokens.serialize.shards import ShardUnit, WrittenShard

SIDE_FORMAT = 1


class SerializeConfig(Config):
    """Size of shards."""

    shard_tokens: int = Field(
        1 << 30,
        ge=1024,
        description="tokens of a shard, about: it has the documents that begin in its stretch of the corpus",
    )


@dataclass(frozen=True)
class Serialized:
    """What was written: shards in order, by split; sums by leaf over the training split."""

    shards: list[WrittenShard]
    leaves: LeafSums
    pretokens: int
    missed: int

    def of(self, split: str) -> list[WrittenShard]:
        """The shards of a split."""
        return [shard for shard in self.shards if shard.split == split]

    def windows(self) -> dict[int, dict[str, int]]:
        """Window of the training order → leaf → tokens."""
        found: dict[int, dict[str, int]] = {}
        for shard in self.of("train"):
            for number, leaves in shard.windows.items():
                window = found.setdefault(number, {})
                for leaf, tokens in leaves.items():
                    window[leaf] = window.get(leaf, 0) + tokens
        return found


def write_shards(
    documents: Dataset,
    selection: Dataset | None,
    tokenizer: str,
    facts: Mapping[str, Any],
    shard_tokens: int,
    context: StageContext,
) -> Serialized:
    """Encode, order and write all that a selection names, or all documents once.

    Args:
        tokenizer: its folder; facts: its `identity` and `vocabulary_size`.
        shard_tokens: tokens of a shard, about.
    """
    from hyperclova_core.tokens.serialize.runs import opened, total
    from hyperclova_core.tokens.serialize.shards import WrittenShard, write_shard
    from hyperclova_core.tokens.serialize.staging import Encoded, EncodeUnit, encode_unit

    chosen = {} if selection is None else _by_bucket(selection, documents)
    entries = documents.table("documents").files
    units = [
        EncodeUnit(
            identity={"checksum": entry.checksum, "selection": chosen.get(entry.bucket or 0, ("", ""))[1]},
            path=path,
            bucket=entry.bucket or 0,
            selection=chosen.get(entry.bucket or 0, ("", ""))[0],
            weight=entry.bytes,
        )
        for entry, path in zip(entries, documents.files(), strict=True)
    ]
    inner = context.for_workers()
    boot = storage.boot_of(context.target.root(False))
    encode = partial(encode_unit, tokenizer=tokenizer, boot=boot, context=inner)
    staged, _ = run_units(context, encode, units, "stage-runs", Encoded)
    runs = [run for result in staged for run in result.runs]
    selected = [chosen[bucket][1] for bucket in sorted(chosen)]
    read = fingerprint({"documents": [entry.checksum for entry in entries], "selection": selected})
    vocabulary = int(facts["vocabulary_size"])
    shard_units, leaves, merged = [], {}, []
    for split in SPLITS:
        mine = [run for run in runs if run.split == split]
        if mine:
            few = _few_runs(split, mine, read, vocabulary, boot, context)
            sums = total([run.sums for run in opened(few, id_type(vocabulary))])
            merged += few
            path = _noted(few, f"runs-{split}", context)
            shard_units += _shard_units(split, path, sums.tokens, shard_tokens, read)
            leaves[split] = sums.leaves
    folder = storage.join(context.target.root(False), context.attempt_path, "staged")
    context.scrap.folders.extend(sorted({folder, *(run.ids.rsplit("/", 1)[0] for run in (*runs, *merged))}))
    write = partial(write_shard, vocabulary=vocabulary, context=inner)
    written, _ = run_units(context, write, shard_units, "shards", WrittenShard)
    written = [shard for shard in written if shard.documents]
    return Serialized(
        written,
        leaves.get("train", {}),
        sum(result.pretokens for result in staged),
        sum(result.missed for result in staged),
    )


def _by_bucket(selection: Dataset, documents: Dataset) -> dict[int, tuple[str, str]]:
    """bucket → (file of the selection, its checksum)."""
    entries = selection.table("selection").files
    if len(entries) != len(documents.table("documents").files):
        raise ConfigError(
            "The selection is not of these documents",
            where=selection.uri,
            why=f"it has {len(entries)} files, the documents have {len(documents.table('documents').files)}",
            remedy="run mix on this dataset again",
        )
    paths = selection.files("selection")
    return {entry.bucket or 0: (path, entry.checksum) for entry, path in zip(entries, paths, strict=True)}


def _few_runs(
    split: str, runs: list[StagedRun], read: str, vocabulary: int, boot: str, context: StageContext
) -> list[StagedRun]:
    """A split's runs, merged by groups where there are many."""
    from hyperclova_core.tokens.serialize.merging import MOST_RUNS, MergedRun, MergeUnit, groups_of, merge_unit

    if len(runs) <= MOST_RUNS:
        return runs
    units = []
    for number, group in enumerate(groups_of(runs)):
        name = f"group-{split}-{number:05d}"
        units.append(
            MergeUnit(
                identity={"group": name, "runs": len(runs), "read": read},
                name=name,
                split=split,
                runs=_noted(group, name, context),
            )
        )
    merge = partial(merge_unit, vocabulary=vocabulary, boot=boot, context=context.for_workers())
    merged, _ = run_units(context, merge, units, f"merge-{split}", MergedRun)
    return [result.run for result in merged]


def _noted(runs: Sequence[StagedRun], name: str, context: StageContext) -> str:
    """A file that lists runs."""
    path = storage.join(context.target.root(False), context.attempt_path, "staged", f"{name}.json")
    storage.write_json(path, [run.model_dump(mode="json") for run in runs])
    return path


def _shard_units(split: str, runs: str, sums: npt.NDArray[np.int64], shard_tokens: int, read: str) -> list[ShardUnit]:
    """Which ranges of the training order each shard is cut from.

    Args:
        runs: file that lists the split's runs; sums: their tokens in each range.
    """
    from hyperclova_core.tokens.serialize.shards import ShardUnit

    ends = np.cumsum(sums)
    tokens = int(ends[-1])
    units = []
    for number in range(-(-tokens // shard_tokens)):
        start, end = number * shard_tokens, min(tokens, (number + 1) * shard_tokens)
        low = int(np.searchsorted(ends, start, side="right"))
        high = int(np.searchsorted(ends, end, side="left"))
        units.append(
            ShardUnit(
                identity={"shard": f"{split}-{number:05d}", "start": start, "read": read},
                name=f"{split}-{number:05d}",
                split=split,
                runs=runs,
                low=low,
                high=high,
                before=int(ends[low] - sums[low]),
                start=start,
                end=end,
                window=window_tokens(tokens),
                weight=4 * (end - start),
            )
        )
    return units


@artifact_stage("serialize", version="3", resources=analyser_resources)
def serialize(inputs: Mapping[str, Dataset], config: SerializeConfig, context: StageContext) -> Artifact:
    """Write the shards that the mix's selection names, and check what came out against what was planned."""
    facts = inputs["tokenizer"].manifest.info
    written = write_shards(
        inputs["documents"],
        inputs["mix"],
        tokenizer_folder(inputs["tokenizer"]),
        facts,
        config.shard_tokens,
        context,
    )
    train = written.of("train")
    emitted: dict[str, int] = {}
    for shard in train:
        for leaf, count in shard.leaves.items():
            emitted[leaf] = emitted.get(leaf, 0) + count
    plan = inputs["mix"].manifest.info["plan"]
    composition = check_composition(plan, emitted, inputs["mix"].manifest.info["taken"])
    order = check_windows(written.windows(), written.leaves, sum(shard.documents for shard in train))
    root, path = context.target.root(False), context.attempt_path
    storage.write_json(storage.join(root, path, "composition.json"), {"leaves": composition, "order": order})
    storage.write_bytes(storage.join(root, path, "composition.md"), table_of(composition, order).encode())
    storage.write_bytes(storage.join(root, path, "composition.svg"), chart_of(composition).encode())
    shards = [entry for shard in written.shards for entry in shard.shards]
    sides = []
    for shard in written.shards:
        storage.write_json(storage.join(root, f"{shard.prefix}.json"), side_of(shard, facts, context.seed))
        sides.append(plain_file_entry(root, f"{shard.prefix}.json"))
    kept = inputs["mix"].manifest.counters.kept
    tokens = {split: sum(shard.tokens for shard in written.of(split)) for split in SPLITS}
    size = {split: sum(shard.bytes for shard in written.of(split)) for split in SPLITS}
    counters = Counters(
        rows_in=kept,
        kept=kept,
        custom={
            **{f"tokens_{split}": float(number) for split, number in tokens.items()},
            "order_worst_of_bound": float(order["ratio"]),
        },
    )
    info = {
        "prefixes": {split: [shard.prefix for shard in written.of(split)] for split in SPLITS},
        "tokens": tokens,
        "vocabulary_size": int(facts["vocabulary_size"]),
        "padded_vocabulary_size": facts["padded_vocabulary_size"],
        "tokenizer_digest": inputs["tokenizer"].manifest.digest,
        "composition": composition,
        "order": order,
        "bytes": size,
    }
    tables = {
        "shards": shards,
        "provenance": [shard.provenance for shard in written.shards if shard.provenance is not None],
        "sides": sides,
        "report": [plain_file_entry(root, f"{path}/composition.{suffix}") for suffix in ("json", "md", "svg")],
    }
    return Artifact(tables, counters, info)


def side_of(shard: WrittenShard, facts: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What lies beside a shard as `PREFIX.json`: whose ids they are, and how many."""
    return {
        "format": SIDE_FORMAT,
        "tokenizer": facts["identity"],
        "vocabulary_size": int(facts["vocabulary_size"]),
        "documents": shard.documents,
        "tokens": shard.tokens,
        "bytes": shard.bytes,
        "seed": seed,
    }


def shard_prefixes(dataset: Dataset, split: str) -> list[str]:
    """Paths of a split's shards, without `.bin`, in training order."""
    return [storage.join(dataset.uri, prefix) for prefix in dataset.manifest.info["prefixes"][split]]
