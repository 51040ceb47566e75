"""Made-up Korean texts that are as like or unlike as a test wants, and datasets of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyperclova_core.corpus.deduplicate.config import DeduplicateConfig
from hyperclova_core.corpus.deduplicate.history.stage import history
from hyperclova_core.corpus.deduplicate.stage import deduplicate
from hyperclova_core.corpus.ingest.config import SourceConfig
from hyperclova_core.foundation.datasets.dataset import Dataset
from hyperclova_core.foundation.datasets.document_schema import document_id
from hyperclova_core.foundation.stages.engines import LocalEngine
from hyperclova_core.foundation.stages.kinds import definition_of
from hyperclova_core.foundation.stages.runner import Outcome, StageRequest, execute, plan_stage
from hyperclova_core.foundation.warehouse import Warehouse
from tests.conftest import ingested, write_lines

SYLLABLES = [chr(code) for code in range(0xAC00, 0xAC00 + 2000)]


def words(seed: int, count: int) -> list[str]:
    """Words of three syllables that no other seed has in the same order."""
    drawn = np.random.default_rng(seed).integers(0, len(SYLLABLES), (count, 3))
    return ["".join(SYLLABLES[index] for index in row) for row in drawn]


def text(seed: int, count: int = 60) -> str:
    """A text of `count` words."""
    return " ".join(words(seed, count)) + "."


def edited(seed: int, changes: int, count: int = 60, other: int = 0) -> str:
    """The text of `seed` with its first words replaced (Jaccard similarity about (n - c) / (n + c))."""
    return " ".join([*words(10_000 + 100 * seed + other, changes), *words(seed, count)[changes:]]) + "."


def dataset(folder: Path, texts: Mapping[str, str | Mapping[str, Any]], buckets: int = 2, source: str = "s") -> Dataset:
    """Documents by their own id; a value may be a whole record."""
    rows = [{"id": key, **({"text": value} if isinstance(value, str) else value)} for key, value in texts.items()]
    path = write_lines(folder / "in.jsonl", rows)
    return ingested(folder / "in", SourceConfig(name=source, paths=(str(path),)), buckets=buckets)


def id_of(key: str, source: str = "s") -> str:
    """The doc_id of a record's own id."""
    return document_id(source, key, None, b"")


def run(
    documents: Dataset, folder: Path, config: DeduplicateConfig | None = None, engine: Any = None, **beside: Dataset
) -> Outcome:
    """The stage over a dataset."""
    warehouse = Warehouse(str(folder))
    request = StageRequest(
        definition_of(deduplicate),
        config or DeduplicateConfig(),
        lambda identity: warehouse.target("deduplicate", identity),
        {"documents": documents, **beside},
        buckets=documents.manifest.buckets,
    )
    return execute(plan_stage(request), engine or LocalEngine())


def next_index(
    folder: Path, config: DeduplicateConfig, previous: Dataset | None = None, night: Dataset | None = None
) -> Dataset:
    """The next version of the index; without inputs, version 0."""
    warehouse = Warehouse(str(folder))
    inputs = {"previous": previous, "night": night} if previous is not None and night is not None else {}
    request = StageRequest(
        definition_of(history), config, lambda identity: warehouse.target("history", identity), inputs
    )
    return execute(plan_stage(request), LocalEngine()).dataset


def clusters_of(*datasets: Dataset) -> dict[str, str]:
    """source_id → cluster_id over kept and dropped documents; the later dataset counts."""
    found: dict[str, str] = {}
    for made in datasets:
        for table in ("documents", "rejected"):
            rows = made.read(table, ["source_id", "cluster_id"])
            found.update(zip(rows.column("source_id").to_pylist(), rows.column("cluster_id").to_pylist(), strict=True))
    return found


def as_sets(clusters: Mapping[str, str]) -> set[frozenset[str]]:
    """The partition behind names."""
    groups: dict[str, set[str]] = {}
    for key, name in clusters.items():
        groups.setdefault(name, set()).add(key)
    return {frozenset(group) for group in groups.values()}


def kept(made: Dataset) -> set[str]:
    """source_ids of what survived."""
    return set(made.read("documents", ["source_id"]).column(0).to_pylist())


def reasons(made: Dataset) -> dict[str, str]:
    """source_id → reason of what was dropped."""
    rows = made.read("rejected")
    return dict(zip(rows.column("source_id").to_pylist(), rows.column("reason").to_pylist(), strict=True))


def shingle_set(value: str | Sequence[str], width: int) -> set[str]:
    """Shingles of a string."""
    joined = "".join(value)
    return {joined[at : at + width] for at in range(len(joined) - width + 1)}
