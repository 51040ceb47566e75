"""The ingest stage: items of a file → documents, refused and quarantined records, in batches."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from hyperclova_core.corpus.ingest.config import IngestConfig, SourceConfig
from hyperclova_core.corpus.ingest.readers import read_file
from hyperclova_core.corpus.ingest.records import Record, Refused, Unreadable
from hyperclova_core.foundation.datasets.document_schema import (
    DOCUMENT_SCHEMA,
    QUARANTINE_SCHEMA,
    RAW_KEPT_BYTES,
    REJECTED_SCHEMA,
    content_hash,
    document_id,
)
from hyperclova_core.foundation.hashing import pseudonym
from hyperclova_core.foundation.secrets import pseudonym_key, pseudonym_key_id
from hyperclova_core.foundation.stages.kinds import SourceBatch, StageContext, source_stage
from hyperclova_core.foundation.stages.units import SourceFile
from hyperclova_core.korean import codepoints
from hyperclova_core.korean.hangul import language_of, nfc

NAMES: dict[str, tuple[str, ...]] = {
    "source_id": ("id", "source_id"),
    "url": ("url", "link"),
    "title": ("title", "subject"),
    "license": ("license", "licence"),
    "language": ("language", "lang"),
    "published_at": ("published_at", "created_at", "date"),
    "collected_at": ("collected_at", "crawled_at"),
    "user_id": ("user", "user_id", "author"),
    "thread_id": ("thread", "thread_id"),
    "reply_to": ("reply_to", "parent_id"),
    "category": ("category",),
}
"""A document's field → the names under which exports have it, first match counts."""

BATCH_CHARACTERS = 8 << 20
MAX_EVIDENCE = 1e15
EVIDENCE = ("rating", "votes", "likes", "dislikes", "views", "comments", "shares", "sympathy", "accepted")
"""Numbers that say how a document was received: kept in `signals`, used by enrich."""


def _resources(config: IngestConfig) -> dict[str, str]:
    return {"pseudonym_key": pseudonym_key_id()}


def _warm_up(config: IngestConfig) -> None:
    codepoints.prepare()
    _Batch().take()  # pyarrow loads pandas at its first table of rows


@source_stage("ingest", version="3", resources=_resources, warm_up=_warm_up)
def ingest(file: SourceFile, config: IngestConfig, context: StageContext) -> Iterator[SourceBatch]:
    """Read one foreign file.

    Every record becomes one row: a document, a refused record with its reason, or a quarantined one with its place.
    """
    source = config.source(file.source)
    batch = _Batch()
    for number, item in enumerate(read_file(file, source, config, context.watch)):
        if number < context.watch.given_items:
            continue
        if isinstance(item, Unreadable):
            batch.quarantine.append(_quarantined(item, source, context.stage))
        else:
            try:
                row = to_document(item.fields, source, pseudonym_key())
            except (ValueError, OverflowError) as error:
                batch.quarantine.append(_quarantined(_invalid_field(item, error), source, context.stage))
                continue
            reason = (
                item.reason
                if isinstance(item, Refused)
                else refusal(item.fields) or ("" if row["text"].strip() else "empty")
            )
            if reason:
                batch.rejected.append({**row, "stage": context.stage, "reason": reason, "detail": item.location})
            else:
                batch.documents.append(row)
            batch.characters += sum(len(value) for value in row.values() if isinstance(value, str))
        if batch.rows >= config.batch_rows or batch.characters >= BATCH_CHARACTERS:
            yield batch.take()
    yield batch.take()


class _Batch:
    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []
        self.rejected: list[dict[str, Any]] = []
        self.quarantine: list[dict[str, Any]] = []
        self.characters = 0

    @property
    def rows(self) -> int:
        return len(self.documents) + len(self.rejected) + len(self.quarantine)

    def take(self) -> SourceBatch:
        taken = SourceBatch(
            pa.RecordBatch.from_pylist(self.documents, DOCUMENT_SCHEMA),
            pa.RecordBatch.from_pylist(self.rejected, REJECTED_SCHEMA),
            pa.RecordBatch.from_pylist(self.quarantine, QUARANTINE_SCHEMA),
        )
        self.documents, self.rejected, self.quarantine, self.characters = [], [], [], 0
        return taken


def _invalid_field(record: Record, error: Exception) -> Unreadable:
    detail = f"{type(error).__name__}: {str(error)[:200]}; correct the field, or leave it out"
    raw = json.dumps(record.fields, default=str)[:RAW_KEPT_BYTES].encode()
    return Unreadable(record.location, record.offset, "invalid_field", detail, raw)


def to_document(fields: dict[str, Any], source: SourceConfig, key: bytes) -> dict[str, Any]:
    """A record's fields as a document: NFC text, stable ids, user replaced by a keyed pseudonym."""
    values: dict[str, Any] = {name: _first(fields, names) for name, names in NAMES.items()}
    text = nfc(fields.get("text") or "")
    native = values["source_id"]
    doc_id = document_id(source.name, native, values["url"], text.encode("utf-8", "surrogatepass"))
    user = values["user_id"]
    return {
        **values,
        "doc_id": doc_id,
        "source_id": native or doc_id,
        "content_hash": content_hash(text),
        "text": text,
        "source": source.name,
        "source_tier": source.tier,
        "license": values["license"] or source.license,
        "language": values["language"] or language_of(text),
        "published_at": _time(values["published_at"]),
        "collected_at": _time(values["collected_at"]),
        "user_id": pseudonym(key, user) if user else None,
        "thread_id": values["thread_id"],
        "turn": None,
        "signals": [(name, float(fields[name])) for name in sorted(EVIDENCE) if _is_number(fields.get(name))],
        "pii": [],
    }


def refusal(fields: dict[str, Any]) -> str | None:
    """Why a record's own fields keep it out: its owner does not let it be searched."""
    return "not_indexable" if fields.get("indexable") in (False, 0, "false", "no", "N") else None


def _first(fields: dict[str, Any], names: tuple[str, ...]) -> str | None:
    for name in names:
        value = fields.get(name)
        if value is not None and value != "" and not isinstance(value, (dict, list)):
            plain = value.isoformat() if isinstance(value, datetime.datetime) else nfc(str(value))
            plain.encode("utf-8")  # half a surrogate pair is an error here, where its record is known
            return plain
    return None


def _is_number(value: Any) -> bool:
    """Whether a value is a count or a rating: -1, infinity and the like say "unknown" in exports."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 <= value < MAX_EVIDENCE and math.isfinite(value)


def _time(value: str | None) -> datetime.datetime | None:
    """ISO 8601, or seconds since 1970; what is neither is unknown."""
    if not value:
        return None
    try:
        moment = datetime.datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
    except ValueError:
        try:
            moment = datetime.datetime.fromtimestamp(float(value), datetime.UTC)
        except (ValueError, OverflowError, OSError):
            return None
    try:
        return moment.replace(tzinfo=datetime.UTC) if moment.tzinfo is None else moment.astimezone(datetime.UTC)
    except OverflowError:
        return None


def _quarantined(item: Unreadable, source: SourceConfig, stage: str) -> dict[str, Any]:
    return {
        "stage": stage,
        "source": source.name,
        "location": item.location,
        "offset": item.offset,
        "reason": item.reason,
        "detail": item.detail,
        "raw_bytes": item.raw_bytes if item.raw_bytes is not None else len(item.raw),
        "raw": item.raw[:RAW_KEPT_BYTES],
    }
