"""De-identify: personal data replaced by one typed placeholder each, with an audit that never holds the value."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
from pydantic import Field

from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.datasets.document_schema import DOCUMENT_SCHEMA, content_hash
from hyperclova_core.foundation.stages.kinds import StageBatch, StageContext, document_stage
from hyperclova_core.korean.personal_data import TYPES, Span, find_personal_data, replace_spans

AUDIT_SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("source_id", pa.string()),
        ("field", pa.string()),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("type", pa.string()),
        ("rule", pa.string()),
        ("confidence", pa.float64()),
    ]
)
"""Character offsets are those of the original text."""


ADDRESSES = ("url", "source_id", "thread_id", "reply_to")
"""Columns that may hold an e-mail address, a number or a session's token as (part of) an address or id."""


SURE = 0.8


class DeidentifyConfig(Config):
    """What is replaced, and from when on a document is dropped."""

    types: tuple[str, ...] = Field(TYPES, description="types that are replaced; the others are left as they are")
    min_confidence: float = Field(0.5, ge=0, le=1)
    max_personal_share: float = Field(
        0.5, gt=0, le=1, description="share of a text's characters that is personal data, from which it is dropped"
    )
    max_personal_finds: int = Field(
        200, ge=1, description="a document with more finds is a list of persons, and is dropped"
    )


@document_stage("deidentify", version="3", extras={"audit": AUDIT_SCHEMA}, restricted_extras=frozenset({"audit"}))
def deidentify(documents: pa.RecordBatch, config: DeidentifyConfig, context: StageContext) -> StageBatch:
    """Replace personal data in text, title, address and ids; `pii` counts what was replaced in text and title, by type."""
    texts: list[str] = documents.column("text").to_pylist()
    titles: list[str | None] = documents.column("title").to_pylist()
    ids = list(zip(documents.column("doc_id").to_pylist(), documents.column("source_id").to_pylist(), strict=True))
    new_texts, new_titles, counts, hashes, audit = [], [], [], [], []
    reasons: list[str] = []
    for text, title, (doc_id, source_id) in zip(texts, titles, ids, strict=True):
        spans, title_spans = _wanted(text, config), _wanted(title, config) if title else []
        personal = sum(span.end - span.start for span in spans)
        reasons.append(
            "mostly_personal_data"
            if personal > config.max_personal_share * len(text)
            else "list_of_persons"
            if len(spans) > config.max_personal_finds
            else ""
        )
        replaced = replace_spans(text, spans) if spans else text
        new_texts.append(replaced)
        new_titles.append(replace_spans(title, title_spans) if title and title_spans else title)
        hashes.append(content_hash(replaced))
        counts.append(sorted(Counter(span.type for span in [*spans, *title_spans]).items()))
        for field, found in (("text", spans), ("title", title_spans)):
            audit += [_audited(doc_id, source_id, field, span) for span in found]
    columns = {
        "text": pa.array(new_texts, pa.string()),
        "title": pa.array(new_titles, pa.string()),
        "content_hash": pa.array(hashes, pa.string()),
        "pii": pa.array(counts, DOCUMENT_SCHEMA.field("pii").type),
    }
    for name in ADDRESSES:
        addresses = [_without(value, config) for value in documents.column(name).to_pylist()]
        columns[name] = pa.array(addresses, pa.string())
    changed = pa.RecordBatch.from_arrays(
        [columns.get(field.name, documents.column(field.name)) for field in DOCUMENT_SCHEMA], schema=DOCUMENT_SCHEMA
    )
    keep = pa.array([not reason for reason in reasons], pa.bool_())
    drop = pa.array([bool(reason) for reason in reasons], pa.bool_())
    totals: Counter[str] = Counter()
    for row, reason in zip(counts, reasons, strict=True):
        if not reason:  # what is dropped goes as it was
            totals.update({f"replaced_{kind}": number for kind, number in row})
    dropped = [reason for reason in reasons if reason]
    return StageBatch(
        changed.filter(keep),
        documents.filter(drop),
        dropped,
        [""] * len(dropped),
        extras={"audit": pa.RecordBatch.from_pylist(audit, AUDIT_SCHEMA)},
        custom={key: float(value) for key, value in totals.items()},
    )


def left_over(texts: list[str]) -> list[int]:
    """Finds in each text of which the rules are sure: what a gate looks for in a sample after de-identification."""
    return [sum(span.confidence >= SURE for span in find_personal_data(text)) for text in texts]


def _without(value: str | None, config: DeidentifyConfig) -> str | None:
    return replace_spans(value, _wanted(value, config)) if value else value


def _wanted(text: str, config: DeidentifyConfig) -> list[Span]:
    return [
        span
        for span in find_personal_data(text)
        if span.type in config.types and span.confidence >= config.min_confidence
    ]


def _audited(doc_id: str, source_id: str, field: str, span: Span) -> dict[str, object]:
    return {
        "doc_id": doc_id,
        "source_id": source_id,
        "field": field,
        "start": span.start,
        "end": span.end,
        "type": span.type,
        "rule": span.rule,
        "confidence": span.confidence,
    }
