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

    Chunking, slicing and file format do not change it; the order of rows does. Each part of a column (validity, lengths,
    values) is a stream of its own, so that where a chunk ends leaves no trace.
    """

    def __init__(self) -> None:
        self._streams: dict[str, hashlib.blake2b] = {}
        self._rows = 0

    def update(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Take in further rows; every call must have the same columns."""
        self._rows += batch.num_rows
        for field, column in zip(batch.schema, batch.columns, strict=True):
            for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                self._add(f"{field.name}:{field.type}", chunk)

    def hexdigest(self) -> str:
        """32 hex digits over all rows taken in so far."""
        streams = {name: stream.hexdigest() for name, stream in sorted(self._streams.items())}
        return fingerprint({"rows": self._rows, "streams": streams})

    def _feed(self, stream: str, data: Any) -> None:
        self._streams.setdefault(stream, hashlib.blake2b(digest_size=DIGEST_BYTES)).update(data)

    def _add(self, name: str, array: pa.Array) -> None:
        if len(array) == 0:
            return
        self._feed(f"{name}/valid", np.asarray(pc.is_valid(array), dtype=np.uint8).tobytes())
        kind = array.type
        if pa.types.is_null(kind):
            return
        if any(test(kind) for test in _BYTE_STRINGS):
            plain = pa.concat_arrays([pc.fill_null(array.cast(pa.large_binary()), b"")])
            first = plain.offset
            offsets = np.frombuffer(plain.buffers()[1], dtype=np.int64)[first : first + len(plain) + 1]
            self._feed(f"{name}/lengths", np.diff(offsets).tobytes())
            if plain.buffers()[2] is not None:
                self._feed(f"{name}/values", memoryview(plain.buffers()[2])[int(offsets[0]) : int(offsets[-1])])
        elif pa.types.is_map(kind):
            present = array.filter(pc.is_valid(array))
            offsets = np.asarray(present.offsets).astype(np.int64)
            self._feed(f"{name}/lengths", np.diff(offsets).tobytes())
            length = int(offsets[-1] - offsets[0])
            self._add(f"{name}/keys", present.keys.slice(int(offsets[0]), length))
            self._add(f"{name}/items", present.items.slice(int(offsets[0]), length))
        elif pa.types.is_list(kind):
            present = array.filter(pc.is_valid(array))
            self._feed(f"{name}/lengths", np.asarray(pc.list_value_length(present), dtype=np.int64).tobytes())
            self._add(f"{name}/items", present.flatten())
        elif pa.types.is_boolean(kind):
            self._feed(f"{name}/values", np.asarray(pc.fill_null(array, False), dtype=np.uint8).tobytes())
        else:
            plain = array.cast(pa.int64()) if pa.types.is_timestamp(kind) else array
            values = pc.fill_null(plain, 0).to_numpy(zero_copy_only=False)
            self._feed(f"{name}/values", np.ascontiguousarray(values).tobytes())


_BYTE_STRINGS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)


def content_digest(table: pa.Table) -> str:
    """`ContentHasher` of one whole table."""
    hasher = ContentHasher()
    hasher.update(table.combine_chunks())
    return hasher.hexdigest()


def _finalised(values: np.ndarray) -> np.ndarray:
    """MurmurHash3's finaliser: every bit of a 64-bit number changes half of the result's (Appleby 2011)."""
    values = values ^ (values >> np.uint64(33))
    values = values * np.uint64(0xFF51AFD7ED558CCD)
    values = values ^ (values >> np.uint64(33))
    values = values * np.uint64(0xC4CEB9FE1A85EC53)
    return values ^ (values >> np.uint64(33))


def order_keys(ids: pa.Array | pa.ChunkedArray, seed: int, *purpose: str) -> np.ndarray:
    """A key for each 128-bit id (32 hex digits, as doc_id and cluster_id are), made of (seed, purpose, id): uint64, shape (rows,).

    The ids are hashes already, so mixing them with a hash of seed and purpose is enough; whole columns at once.
    """
    array = pa.concat_arrays(ids.chunks) if isinstance(ids, pa.ChunkedArray) and ids.num_chunks else ids
    if len(array) == 0:
        return np.zeros(0, np.uint64)
    plain = array.cast(pa.large_binary())
    offsets = np.frombuffer(plain.buffers()[1], np.int64)[plain.offset : plain.offset + len(plain) + 1]
    raw = bytes.fromhex(memoryview(plain.buffers()[2])[int(offsets[0]) : int(offsets[-1])].tobytes().decode("ascii"))
    if len(raw) != DIGEST_BYTES * len(plain):
        raise ValueError("ids must have 32 hex digits each")
    halves = np.frombuffer(raw, ">u8").astype(np.uint64).reshape(-1, 2)
    salt = np.frombuffer(bytes.fromhex(digest_parts(str(seed), *purpose)), ">u8").astype(np.uint64)
    return _finalised(_finalised(halves[:, 0] ^ salt[0]) + (halves[:, 1] ^ salt[1]))
