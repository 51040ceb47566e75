"""Distinct documents of any number, from the sentences of a few real texts, with planted duplicates whose truth is known.

    from made_corpus import make_corpus

Sentences of all sources are put into one pool and recombined: document n draws from a generator seeded with n, so documents can
be made in any order and number, and two of them share sentences only by chance (25 of some 400,000 in a pool of real text).
Of every twenty documents one repeats an earlier one with its spaces moved, one with a twentieth of its words replaced, and one
with a footer put behind it; the id says which: `000123-edited-of-000087`.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from hyperclova_core.foundation.datasets.commit import commit
from hyperclova_core.foundation.datasets.dataset import Dataset, Target
from hyperclova_core.foundation.datasets.document_schema import DOCUMENT_SCHEMA, bucket_of, content_hash, document_id
from hyperclova_core.foundation.datasets.manifest import Counters, InputReference, Manifest, Table, content_digest
from hyperclova_core.foundation.datasets.parquet_writer import write_table

ROOT = Path(__file__).resolve().parents[1]
REAL = ROOT.parent / "shared" / "data" / "corpus"
KINDS = {17: "spaced", 18: "edited", 19: "footed"}
SENTENCES = 25
_END = re.compile(r"(?<=[.!?])\s+|\n+")


def sentence_pool(limit: int = 400_000) -> list[str]:
    """Sentences of 20 to 300 characters, of the development corpora where they are, else of the demo's made-up portal."""
    files = (
        sorted(REAL.glob("*.jsonl.gz"))
        if REAL.is_dir()
        else sorted((ROOT / "conf" / "demo" / "portal").glob("*.jsonl"))
    )
    pool: list[str] = []
    for path in files:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
            for line in file:
                pool += [part for part in _END.split(json.loads(line)["text"]) if 20 <= len(part) <= 300]
    pool = sorted(set(pool))
    chosen = np.random.default_rng(0).permutation(len(pool))[:limit]
    return [pool[index] for index in chosen]


def made_text(number: int, pool: list[str]) -> tuple[str, str]:
    """(id, text) of document `number`."""
    kind = KINDS.get(number % 20)
    if kind is None or number < 20:
        drawn = np.random.default_rng(number).integers(0, len(pool), SENTENCES)
        return f"{number:09d}", "\n".join(pool[index] for index in drawn)
    generator = np.random.default_rng(number)
    origin = int(generator.integers(0, number // 20)) * 20 + int(generator.integers(0, 17))
    text = made_text(origin, pool)[1]
    words = text.split(" ")
    if kind == "spaced":
        text = "".join(word + (" " if generator.random() < 0.7 else "") for word in words)
    elif kind == "edited":
        other = pool[int(generator.integers(0, len(pool)))].split()
        for place in generator.integers(0, len(words), max(1, len(words) // 20)):
            words[place] = other[place % len(other)]
        text = " ".join(words)
    else:
        text += "\n" + pool[int(generator.integers(0, len(pool)))]
    return f"{number:09d}-{kind}-of-{origin:09d}", text


def made_texts(numbers: range, pool: list[str]) -> Iterator[tuple[str, str]]:
    """(id, text) of many documents."""
    return (made_text(number, pool) for number in numbers)


def documents_for(megabytes: float, pool: list[str]) -> int:
    """How many documents make so many megabytes of UTF-8."""
    mean = np.mean([len(made_text(number, pool)[1].encode()) for number in range(100)])
    return int(megabytes * 1e6 / mean)


def make_dataset(folder: str, numbers: range, pool: list[str], buckets: int) -> Dataset:
    """A committed documents dataset, as ingest would leave it."""
    target = Target(folder)
    rows: list[list[tuple[str, str, str]]] = [[] for _ in range(buckets)]
    for name, text in made_texts(numbers, pool):
        doc_id = document_id("made", name, None, b"")
        rows[bucket_of(doc_id, buckets)].append((doc_id, name, text))
    entries = []
    for bucket, mine in enumerate(rows):
        mine.sort()
        count = len(mine)
        columns = {
            "doc_id": [row[0] for row in mine],
            "source_id": [row[1] for row in mine],
            "content_hash": [content_hash(row[2]) for row in mine],
            "text": [row[2] for row in mine],
            "source": ["made"] * count,
            "source_tier": ["open"] * count,
            "signals": pa.array([[]] * count, DOCUMENT_SCHEMA.field("signals").type),
            "pii": pa.array([[]] * count, DOCUMENT_SCHEMA.field("pii").type),
        }
        arrays = [
            pa.array(columns[f.name], f.type) if f.name in columns else pa.nulls(count, f.type) for f in DOCUMENT_SCHEMA
        ]
        table = pa.Table.from_arrays(arrays, schema=DOCUMENT_SCHEMA)
        entries.append(write_table(folder, f"attempts/a/documents/bucket-{bucket:05d}.parquet", table, bucket))
        rows[bucket] = []
    tables, counters = {"documents": Table(files=tuple(entries))}, Counters(rows_in=len(numbers), kept=len(numbers))
    digest = content_digest(tables, counters)
    manifest = Manifest(
        stage="made",
        stage_version="1",
        fingerprint=digest,
        config={},
        inputs={"none": InputReference(fingerprint="0", digest="0")},
        tables=tables,
        counters=counters,
        digest=digest,
        buckets=buckets,
    )
    return commit(target, manifest, "a", {})[0]


def planted_recall(dataset: Dataset) -> dict[str, float]:
    """Share of planted pairs, by kind, that came into one cluster in a deduplicated dataset."""
    cluster: dict[str, str] = {}
    for table in ("documents", "rejected"):
        rows = dataset.read(table, ["source_id", "cluster_id"])
        cluster.update(zip(rows.column("source_id").to_pylist(), rows.column("cluster_id").to_pylist(), strict=True))
    by_number = {name[:9]: value for name, value in cluster.items()}
    hits: dict[str, list[bool]] = {}
    for name, value in cluster.items():
        if "-of-" in name:
            hits.setdefault(name.split("-")[1], []).append(by_number.get(name[-9:]) == value)
    return {kind: sum(found) / len(found) for kind, found in sorted(hits.items())}
