"""The document: its Arrow schema, its bucket, and what is kept of documents that fall out."""

from __future__ import annotations

import pyarrow as pa

from hyperclova_core.foundation.hashing import digest128, digest_parts

TIERS = ("expert", "open", "portal")

DOCUMENT_SCHEMA = pa.schema(
    [
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("source_id", pa.string(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("source_tier", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("title", pa.string()),
        pa.field("license", pa.string()),
        pa.field("language", pa.string()),
        pa.field("published_at", pa.timestamp("us", tz="UTC")),
        pa.field("collected_at", pa.timestamp("us", tz="UTC")),
        pa.field("user_id", pa.string()),
        pa.field("thread_id", pa.string()),
        pa.field("reply_to", pa.string()),
        pa.field("turn", pa.int32()),
        pa.field("category", pa.string()),
        pa.field("popularity", pa.float64()),
        pa.field("reliability", pa.float64()),
        pa.field("quality", pa.float64()),
        pa.field("signals", pa.map_(pa.string(), pa.float64()), nullable=False),
        pa.field("pii", pa.map_(pa.string(), pa.int32()), nullable=False),
        pa.field("cluster_id", pa.string()),
        pa.field("cluster_size", pa.int32()),
    ]
)

REJECTED_SCHEMA = pa.schema(
    [*DOCUMENT_SCHEMA, pa.field("stage", pa.string()), pa.field("reason", pa.string()), pa.field("detail", pa.string())]
)

QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("stage", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("location", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("raw_bytes", pa.int64(), nullable=False),
        pa.field("raw", pa.binary(), nullable=False),
    ]
)

RAW_KEPT_BYTES = 65_536
"""Bytes of a quarantined record that are kept in the table; location and offset lead to the rest."""


def document_id(source: str, native_id: str | None, url: str | None, content: bytes) -> str:
    """128-bit identity, 32 hex digits: of source and native id, else of the URL, else of the raw content."""
    if native_id:
        return digest_parts("id", source, native_id)
    if url:
        return digest_parts("url", url)
    return digest_parts("content", source, digest128(content))


def content_hash(text: str) -> str:
    """128-bit hash of a text."""
    return digest128(text.encode("utf-8", "surrogatepass"))


def bucket_of(doc_id: str, buckets: int) -> int:
    """The bucket file of a document: the leading bits of its id; `buckets` is a power of two up to 2^32."""
    return int(doc_id[:8], 16) >> (32 - (buckets.bit_length() - 1)) if buckets > 1 else 0
