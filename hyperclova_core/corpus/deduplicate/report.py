"""The report of a run: sizes of clusters, what fell out of each source and why, templates, boilerplate, evaluation items; and,
in the restricted folder, pairs of texts side by side, so that a person can judge what was taken for a duplicate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hyperclova_core.corpus.deduplicate.minhash.verify import documents_of
from hyperclova_core.corpus.deduplicate.schemas import TextPlace
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.document_schema import bucket_of
from hyperclova_core.foundation.datasets.manifest import Table
from hyperclova_core.foundation.datasets.parquet_writer import plain_file_entry
from hyperclova_core.foundation.stages.kinds import StageContext

CONTAMINATION_SCHEMA = pa.schema([("item", pa.string()), ("doc_id", pa.string())])
EXAMPLES = 12
EXAMPLE_LETTERS = 1500
TOP = 20
SIZE_STEPS = (1, 2, 3, 4, 5, 10, 20, 50, 100, 1_000, 10_000, 100_000, 1_000_000)


@dataclass
class Facts:
    """What the run counted on its way."""

    forms: int
    signed: int
    templates: list[tuple[str, int]]
    compared: Mapping[str, float]
    boilerplate: pa.Table
    contained: int
    contamination: pa.Table
    night: dict[str, Any] = field(default_factory=dict)


def sizes_in_steps(counts: Mapping[int, int]) -> list[dict[str, Any]]:
    """Clusters by size, in steps that grow: from (inclusive), to (exclusive; None at the end), clusters, documents."""
    rows = []
    for number, low in enumerate(SIZE_STEPS):
        high = SIZE_STEPS[number + 1] if number + 1 < len(SIZE_STEPS) else None
        inside = {size: count for size, count in counts.items() if size >= low and (high is None or size < high)}
        if inside:
            documents = sum(size * count for size, count in inside.items())
            rows.append({"from": low, "to": high, "clusters": sum(inside.values()), "documents": documents})
    return rows


def counted(rows: pa.Table, facts: Facts) -> dict[str, Any]:
    """The numbers of the report, from the decisions (DECIDED_SCHEMA)."""
    # a cluster may have several that stay: for their numbers, or because nights published them before it became one
    clusters = rows.filter(rows.column("keep")).group_by(["cluster_size", "cluster_id"]).aggregate([])
    kept = clusters.group_by("cluster_size").aggregate([([], "count_all")])
    by_source = rows.group_by(["source", "reason"]).aggregate([([], "count_all")])
    near = rows.filter(pc.equal(rows.column("reason"), "near_duplicate"))
    values = pc.map_lookup(near.column("signals"), "duplicate_similarity", "first").to_numpy()
    steps = Counter(np.floor(values * 20 + 1e-9).astype(int).tolist())
    return numbers_of(
        dict(zip(kept.column("cluster_size").to_pylist(), kept.column("count_all").to_pylist(), strict=True)),
        by_source.to_pylist(),
        steps,
        facts,
    )


def numbers_of(
    sizes: Mapping[int, int], by_source: Sequence[Mapping[str, Any]], steps: Mapping[int, int], facts: Facts
) -> dict[str, Any]:
    """The report as a JSON value.

    Args:
        sizes: documents in a cluster → clusters.
        by_source: source, reason (empty: kept), count_all.
        steps: similarity of near-duplicates in twentieths → documents.
    """
    sources: dict[str, dict[str, int]] = {}
    for row in sorted(by_source, key=lambda row: (row["source"], row["reason"])):
        sources.setdefault(row["source"], {})[row["reason"] or "kept"] = row["count_all"]
    shares = {}
    for source, reasons in sources.items():
        total = sum(reasons.values())
        shares[source] = {"documents": total, "removed_share": round(1 - reasons.get("kept", 0) / total, 4), **reasons}
    return {
        "forms": facts.forms,
        "signatures": facts.signed,
        "comparisons": dict(facts.compared),
        "cluster_sizes": sizes_in_steps(sizes),
        "similarity_of_near_duplicates": [
            {"from": round(step / 20, 2), "documents": steps[step]} for step in sorted(steps)
        ],
        "sources": shares,
        "templates": [{"doc_id": doc_id, "forms": size} for doc_id, size in facts.templates[:TOP]],
        "boilerplate": _boilerplate(facts.boilerplate),
        "contained": facts.contained,
        "evaluation_items": len(set(facts.contamination.column("item").to_pylist())),
        **({"night": dict(facts.night)} if facts.night else {}),
    }


def _boilerplate(table: pa.Table) -> list[dict[str, Any]]:
    lines = Counter(table.column("site").to_pylist())
    return [
        {"site": site, "lines": count}
        for site, count in sorted(lines.items(), key=lambda item: (-item[1], item[0]))[:TOP]
    ]


def contamination(documents: pa.Table) -> pa.Table:
    """(item, doc_id) of every evaluation item that was found; `documents` has doc_id and items."""
    hit = documents.filter(pc.is_valid(documents.column("items")))
    rows = zip(hit.column("doc_id").to_pylist(), hit.column("items").to_pylist(), strict=True)
    found = sorted((item, doc_id) for doc_id, items in rows for item in items.split(" "))
    return pa.table([[item for item, _ in found], [doc_id for _, doc_id in found]], schema=CONTAMINATION_SCHEMA)


def write_report(
    numbers: Mapping[str, Any], examples: Sequence[Mapping[str, Any]], context: StageContext
) -> dict[str, Table]:
    """The report's files: `report` (no text of a document in it) and `examples`, restricted."""
    root, base = context.target.root(False), f"{context.attempt_path}/report"
    storage.write_json(storage.join(root, f"{base}/duplicates.json"), numbers)
    storage.write_bytes(storage.join(root, f"{base}/duplicates.html"), page(numbers).encode())
    hidden = context.target.root(True)
    storage.write_bytes(storage.join(hidden, f"{base}/examples.html"), examples_page(examples).encode())
    entries = tuple(plain_file_entry(root, f"{base}/duplicates.{suffix}") for suffix in ("json", "html"))
    return {
        "report": Table(files=entries),
        "examples": Table(files=(plain_file_entry(hidden, f"{base}/examples.html"),), restricted=True),
    }


def pick_examples(rows: pa.Table, places: Mapping[str, TextPlace]) -> list[dict[str, Any]]:
    """Near-duplicates beside their survivors: the least similar first, which is where errors would be.

    Args:
        rows: of DECIDED_SCHEMA.
    """
    near = rows.filter(pc.equal(rows.column("reason"), "near_duplicate"))
    values = pc.map_lookup(near.column("signals"), "duplicate_similarity", "first")
    near = near.append_column("similarity", values).sort_by([("similarity", "ascending"), ("doc_id", "ascending")])
    chosen = near.slice(0, EXAMPLES).select(["doc_id", "detail", "similarity"]).to_pylist()
    pairs = [(row["detail"].removeprefix("survivor "), row["doc_id"]) for row in chosen]
    texts = read_texts(sorted({doc_id for pair in pairs for doc_id in pair}), places)
    return [
        {
            "similarity": row["similarity"],
            "sides": [(doc_id, texts.get(doc_id, "(the text is there no more)")) for doc_id in pair],
        }
        for row, pair in zip(chosen, pairs, strict=True)
    ]


def read_texts(ids: Sequence[str], places: Mapping[str, TextPlace]) -> dict[str, str]:
    """Texts of a few documents, wherever they lie."""
    found: dict[str, str] = {}
    for _, place in sorted(places.items()):
        for bucket in sorted({bucket_of(doc_id, len(place.files)) for doc_id in ids}):
            mine = [doc_id for doc_id in ids if bucket_of(doc_id, len(place.files)) == bucket]
            for path in place.files[bucket]:
                for batch in documents_of(path, mine):
                    found.update(zip(batch.column("doc_id").to_pylist(), batch.column("text").to_pylist(), strict=True))
    return found


_STYLE = (
    "body{font:14px/1.5 system-ui,sans-serif;margin:2em;max-width:70em;color:#222}table{border-collapse:collapse;margin:1em 0}"
    "td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:left}td.n{text-align:right}"
    ".bar{background:#4c8bbf;height:.9em;display:inline-block}.pair{display:grid;grid-template-columns:1fr 1fr;gap:1em}"
    "pre{white-space:pre-wrap;background:#f6f6f6;padding:1em}"
)


def _page(title: str, body: str) -> str:
    return f'<!doctype html><html lang="ko"><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>{body}</html>\n'


def _rows(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def cell(value: Any) -> str:
        number = isinstance(value, (int, float))
        return f'<td class="n">{value:,}</td>' if number else f"<td>{value}</td>"

    lines = "".join(f"<tr>{''.join(cell(value) for value in row)}</tr>" for row in rows)
    return (
        f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>{lines}</table>"
        if rows
        else "<p>none</p>"
    )


def page(numbers: Mapping[str, Any]) -> str:
    """The report as a self-contained page."""
    sizes = numbers["cluster_sizes"]
    most = max((row["clusters"] for row in sizes), default=1)
    bars = [
        (
            f"{row['from']:,}"
            if row["to"] == row["from"] + 1
            else f"{row['from']:,} to {row['to'] - 1:,}"
            if row["to"]
            else f"{row['from']:,} and more",
            row["clusters"],
            row["documents"],
            f'<span class="bar" style="width:{max(1, round(300 * row["clusters"] / most))}px"></span>',
        )
        for row in sizes
    ]
    sources = [
        (
            escape(name),
            entry["documents"],
            f"{100 * entry['removed_share']:.1f} %",
            escape(
                ", ".join(
                    f"{key} {value:,}"
                    for key, value in entry.items()
                    if key not in ("documents", "removed_share", "kept")
                )
            ),
        )
        for name, entry in sorted(numbers["sources"].items(), key=lambda item: -item[1]["removed_share"])
    ]
    similar = [(row["from"], row["documents"]) for row in numbers["similarity_of_near_duplicates"]]
    templates = [(row["doc_id"], row["forms"]) for row in numbers["templates"]]
    body = "<h2>Sizes of clusters</h2>" + _rows(("documents in it", "clusters", "documents", ""), bars)
    body += "<h2>What fell out, by source</h2>" + _rows(("source", "documents", "removed", "why"), sources)
    body += "<h2>Similarity of near-duplicates to their survivors</h2>" + _rows(("from", "documents"), similar)
    body += "<h2>Templates: texts that share a band with very many</h2>" + _rows(("first document", "forms"), templates)
    body += "<h2>Boilerplate</h2>" + _rows(
        ("site", "lines cut"), [(escape(row["site"]), row["lines"]) for row in numbers["boilerplate"]]
    )
    rest = [(key, numbers[key]) for key in ("forms", "signatures", "contained", "evaluation_items")]
    rest += sorted(numbers["comparisons"].items()) + sorted(
        (k, v) for k, v in numbers.get("night", {}).items() if not isinstance(v, (list, dict))
    )
    return _page("Duplicates", body + "<h2>Numbers</h2>" + _rows(("what", ""), rest))


def examples_page(examples: Sequence[Mapping[str, Any]]) -> str:
    """Texts side by side: for the restricted folder only."""
    parts = []
    for example in examples:
        sides = "".join(
            f"<div><b>{label} {doc_id}</b><pre>{escape(text[:EXAMPLE_LETTERS])}</pre></div>"
            for label, (doc_id, text) in zip(("survivor", "dropped"), example["sides"], strict=True)
        )
        parts.append(f'<h2>similarity {example["similarity"]:.3f}</h2><div class="pair">{sides}</div>')
    return _page("Near-duplicates side by side", "".join(parts) or "<p>none</p>")
