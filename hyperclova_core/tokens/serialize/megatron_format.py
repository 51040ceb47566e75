"""Megatron-LM's indexed dataset: `PREFIX.bin` holds token ids, `PREFIX.idx` where each document lies.

The index (megatron/core/datasets/indexed_dataset.py, version 1): magic, version, a code of the id type, counts, then the
lengths of sequences (int32), their byte offsets (int64) and the sequence at which each document begins (int64).
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.manifest import FileEntry
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.tokens.special_tokens import id_type

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
CODES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 6: np.float64, 7: np.float32, 8: np.uint16}
Ids = npt.NDArray[np.uint16] | npt.NDArray[np.int32]


class ShardWriter:
    """Writes a `.bin` as documents come and its `.idx` at the end; both get their names when they are whole."""

    def __init__(self, prefix: str, vocabulary_size: int) -> None:
        self.tokens = 0
        self._prefix = prefix
        self._type = id_type(vocabulary_size)
        self._lengths: list[npt.NDArray[np.int32]] = []
        self._documents: list[npt.NDArray[np.int64]] = [np.zeros(1, np.int64)]
        self._sequences = 0
        self._hasher = hashlib.blake2b(digest_size=16)
        self._index = b""
        self._temporary = storage.temporary_for(f"{prefix}.bin")
        with storage.explained(f"{prefix}.bin"):
            self._bin: IO[bytes] = open(self._temporary, "wb")  # noqa: SIM115 - closed by close()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            with suppress(OSError):  # the reason is on its way, and what is buffered may fail to be written again
                self._bin.close()
            os.unlink(self._temporary)
        else:
            self.close()

    def add(self, ids: npt.NDArray[np.integer]) -> None:
        """Append one document; one without ids has no sequence but is a document still, as Megatron-LM writes it."""
        self.add_many(ids, np.array([len(ids)], np.int64))

    def add_many(self, ids: npt.NDArray[np.integer], lengths: npt.NDArray[np.int64]) -> None:
        """Append documents whose ids lie one behind the other."""
        data = np.ascontiguousarray(ids.astype(self._type, copy=False)).view(np.uint8).data
        with storage.explained(f"{self._prefix}.bin"):
            self._bin.write(data)
        self._hasher.update(data)
        self._lengths.append(lengths[lengths > 0].astype(np.int32))
        self._documents.append(self._sequences + np.cumsum(lengths > 0))
        self._sequences += len(self._lengths[-1])
        self.tokens += int(lengths.sum())

    def close(self) -> None:
        """Finish both files.

        Raises:
            TransientError: the disk is full; neither file is there then.
        """
        try:
            with storage.explained(f"{self._prefix}.bin"):
                self._bin.close()
            self._index = index_bytes(
                np.concatenate([np.zeros(0, np.int32), *self._lengths]), np.concatenate(self._documents), self._type
            )
            storage.write_bytes(f"{self._prefix}.idx", self._index)
        except BaseException:
            os.unlink(self._temporary)
            raise
        storage.install(self._temporary, f"{self._prefix}.bin", self._hasher.hexdigest())

    def entries(self, root: str, path: str, rows: int) -> list[FileEntry]:
        """Both files as entries of a manifest, without reading them again."""
        sizes = {"bin": self.tokens * np.dtype(self._type).itemsize, "idx": len(self._index)}
        sums = {"bin": self._hasher.hexdigest(), "idx": hashlib.blake2b(self._index, digest_size=16).hexdigest()}
        return [
            FileEntry(
                path=f"{path}.{suffix}", rows=rows, bytes=sizes[suffix], checksum=sums[suffix], digest=sums[suffix]
            )
            for suffix in ("bin", "idx")
        ]


def index_bytes(
    lengths: npt.NDArray[np.int32], documents: npt.NDArray[np.int64], kind: type[np.uint16] | type[np.int32]
) -> bytes:
    """The content of an `.idx`; offsets are reckoned in 64 bits."""
    width = np.dtype(kind).itemsize
    offsets = np.zeros(len(lengths), np.int64)
    np.cumsum(lengths[:-1].astype(np.int64) * width, out=offsets[1:])
    code = next(number for number, dtype in CODES.items() if dtype is kind)
    head = MAGIC + struct.pack("<QBQQ", VERSION, code, len(lengths), len(documents))
    return head + lengths.tobytes() + offsets.tobytes() + documents.tobytes()


class Shard:
    """A shard opened for reading.

    Args:
        open_ids: gives the ids of a `.bin` by its address and type; without it they are memory-mapped, an object fetched first.
        stored: address → (bytes, version) of objects, from a listing: none is asked for by itself then.
    """

    def __init__(
        self,
        prefix: str,
        open_ids: Callable[[str, Any], Any] | None = None,
        stored: Mapping[str, tuple[int, str]] | None = None,
    ) -> None:
        path, stored = f"{prefix}.idx", stored or {}
        try:
            local = storage.localized(path, stored[path][1] if path in stored else None)
            head: Any = np.memmap(local, np.uint8, "r") if storage.size(local) else np.zeros(0, np.uint8)
        except OSError as error:
            raise DataError(
                "A shard's index cannot be read",
                where=path,
                why=error.strerror or str(error),
                remedy="give the prefix that serialize wrote, without .bin or .idx",
            ) from error
        if head[:9].tobytes() != MAGIC:
            raise DataError(
                "Not a Megatron index",
                where=path,
                why="its first bytes differ",
                remedy="give the prefix that serialize wrote",
            )
        try:
            _, code, sequences, documents = struct.unpack_from("<QBQQ", head[:64].tobytes(), 9)
            at = 9 + struct.calcsize("<QBQQ")
            # mapped, not read: of a corpus' hundreds of millions of documents a training asks for few
            self.lengths = np.frombuffer(head, np.int32, sequences, at)
            self.offsets = np.frombuffer(head, np.int64, sequences, at + 4 * sequences)
            self.documents = np.frombuffer(head, np.int64, documents, at + 12 * sequences)
            kind = CODES[code]
        except (struct.error, ValueError, KeyError, OverflowError) as error:
            raise DataError(
                "A shard's index is damaged",
                where=path,
                why=f"{type(error).__name__}: {error}",
                remedy="serialize again",
            ) from error
        path = f"{prefix}.bin" if open_ids is not None else storage.localized(f"{prefix}.bin")
        size = stored[path][0] if path in stored else storage.size(path)
        width = np.dtype(kind).itemsize
        expected = int(self.offsets[-1]) + int(self.lengths[-1]) * width if sequences else 0
        if size != expected:
            raise DataError(
                "A shard and its index do not belong together",
                where=f"{prefix}.bin",
                why=f"{size} bytes instead of {expected}",
                remedy="serialize again",
            )
        self.ids: Any = np.zeros(0, kind)
        if size:
            self.ids = np.memmap(path, kind, "r") if open_ids is None else open_ids(path, kind)

    @property
    def tokens(self) -> int:
        """Ids in the shard."""
        return len(self.ids)

    def document_starts(self) -> npt.NDArray[np.int64]:
        """The token at which each document begins."""
        ends = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])
        return ends[self.documents[:-1]]

    def document(self, number: int) -> npt.NDArray[np.integer]:
        """The ids of a document.

        Raises:
            DataError: there is none of that number.
        """
        if not 0 <= number < len(self.documents) - 1:
            raise DataError(
                f"The shard has no document {number}", why=f"it has {len(self.documents) - 1}", remedy="count from 0"
            )
        first, last = int(self.documents[number]), int(self.documents[number + 1])
        if first == last:
            return self.ids[:0]
        width = self.ids.dtype.itemsize
        start = int(self.offsets[first]) // width
        return self.ids[start : start + int(self.lengths[first:last].sum(dtype=np.int64))]
