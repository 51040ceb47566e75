"""Hashes that are the same on every machine, version and run: BLAKE2b (RFC 7693), never Python's or the JVM's own.

Identities are 128 bits (32 hex digits): MLflow takes no dataset digest over 36 characters.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DIGEST_BYTES = 16


def digest128(data: bytes) -> str:
    """128-bit hash of some bytes, 32 hex digits."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def digest_parts(*parts: str) -> str:
    """128-bit hash of several strings; ("a", "bc") and ("ab", "c") differ."""
    hasher = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        hasher.update(len(raw).to_bytes(8, "little"))
        hasher.update(raw)
    return hasher.hexdigest()


def order_key(seed: int, *parts: str) -> bytes:
    """Eight bytes that put things into an order made of (seed, stable id): big-endian, so bytes sort as numbers do."""
    return bytes.fromhex(digest_parts(str(seed), *parts))[:8]


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def fingerprint(value: Any) -> str:
    """128-bit identity of a JSON value."""
    return digest128(canonical_json(value))


def pseudonym(key: bytes, raw: str) -> str:
    """Keyed pseudonym of a user: HMAC-SHA-256 cut to 128 bits (RFC 2104)."""
    return hmac.new(key, raw.encode(), hashlib.sha256).hexdigest()[:32]


class ContentHasher:
    """Hash of the rows of Arrow tables: what they say, not how a file library lays them out.

    Chunking, slicing and file format do not change it; the order of rows does.
    """

    def __init__(self) -> None:
        self._columns: dict[str, hashlib.blake2b] = {}
        self._rows = 0

    def update(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Take in further rows; every call must have the same columns."""
        self._rows += batch.num_rows
        for field, column in zip(batch.schema, batch.columns, strict=True):
            hasher = self._columns.setdefault(f"{field.name}:{field.type}", hashlib.blake2b(digest_size=DIGEST_BYTES))
            chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
            for chunk in chunks:
                _hash_array(hasher, chunk)

    def hexdigest(self) -> str:
        """32 hex digits over all rows taken in so far."""
        columns = {name: hasher.hexdigest() for name, hasher in sorted(self._columns.items())}
        return fingerprint({"rows": self._rows, "columns": columns})


def _hash_array(hasher: hashlib.blake2b, array: pa.Array) -> None:
    if len(array) == 0:
        return
    hasher.update(np.asarray(pc.is_valid(array), dtype=np.uint8).tobytes())
    kind = array.type
    if pa.types.is_null(kind):
        return
    if (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    ):
        plain = pc.fill_null(array.cast(pa.large_binary()), b"")
        plain = pa.concat_arrays([plain])
        offsets = np.frombuffer(plain.buffers()[1], dtype=np.int64)[plain.offset : plain.offset + len(plain) + 1]
        hasher.update(np.diff(offsets).tobytes())
        data = plain.buffers()[2]
        if data is not None:
            hasher.update(memoryview(data)[int(offsets[0]) : int(offsets[-1])])
    elif pa.types.is_map(kind):
        present = array.filter(pc.is_valid(array))
        lengths = np.diff(np.asarray(present.offsets)).astype(np.int64)
        hasher.update(lengths.tobytes())
        first, last = int(present.offsets[0].as_py()), int(present.offsets[len(present)].as_py())
        _hash_array(hasher, present.keys.slice(first, last - first))
        _hash_array(hasher, present.items.slice(first, last - first))
    elif pa.types.is_list(kind):
        present = array.filter(pc.is_valid(array))
        hasher.update(np.asarray(pc.list_value_length(present), dtype=np.int64).tobytes())
        _hash_array(hasher, present.flatten())
    elif pa.types.is_boolean(kind):
        hasher.update(np.asarray(pc.fill_null(array, False), dtype=np.uint8).tobytes())
    else:
        integer = array.cast(pa.int64()) if pa.types.is_timestamp(kind) else array
        hasher.update(np.ascontiguousarray(pc.fill_null(integer, 0).to_numpy(zero_copy_only=False)).tobytes())


def content_digest(table: pa.Table) -> str:
    """`ContentHasher` of one whole table."""
    hasher = ContentHasher()
    hasher.update(table.combine_chunks())
    return hasher.hexdigest()
