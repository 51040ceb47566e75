"""Shards as one long row of token ids: memory-mapped from disk, or read forwards from S3 through a bounded cache on the disk."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.manifest import read_manifest
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.storage import disk, s3
from hyperclova_core.tokens.serialize.megatron_format import Shard
from hyperclova_core.training.health.watchdog import moved

BLOCK_BYTES = 8 << 20
READ_AHEAD = 2
HELD_BLOCKS = 4
MOST_WAITING, LOCKS = 16, 64
OPENED_AT_ONCE = 16
CHECKED_AT_ONCE = 1 << 22
IDENTITY_BLOCKS, IDENTITY_TOKENS = 64, 4096


class BlockCache:
    """Blocks of objects as files of a folder that all ranks of a machine share, the least recently used ones removed.

    Args:
        capacity: bytes; what is being read stays above it for a moment.
    """

    def __init__(self, folder: str, capacity: int, block_bytes: int = BLOCK_BYTES) -> None:
        self.folder, self.capacity, self.block_bytes = (
            folder,
            max(capacity, (READ_AHEAD + 2) * block_bytes),
            block_bytes,
        )
        self.fetched = 0
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, int], Future[bytes]] = {}
        self._pool = ThreadPoolExecutor(READ_AHEAD, "read-ahead")

    def block(self, uri: str, tag: str, number: int, size: int) -> bytes:
        """A block's bytes; the following ones begin to be read."""
        try:
            data = self._ask(uri, tag, number, size).result()
        finally:
            with self._lock:
                self._waiting.pop((tag, number), None)
        for ahead in range(number + 1, min(number + 1 + READ_AHEAD, -(-size // self.block_bytes))):
            self._ask(uri, tag, ahead, size)
        return data

    def _ask(self, uri: str, tag: str, number: int, size: int) -> Future[bytes]:
        with self._lock:
            known = self._waiting.get((tag, number))
            if known is None:
                if len(self._waiting) >= MOST_WAITING:  # read ahead for nothing, by a reader that went elsewhere
                    self._waiting.pop(next(iter(self._waiting)))
                known = self._waiting[tag, number] = self._pool.submit(self._get, uri, tag, number, size)
            return known

    def _get(self, uri: str, tag: str, number: int, size: int) -> bytes:
        name = hashlib.blake2b(f"{uri} {tag} {self.block_bytes}".encode(), digest_size=16).hexdigest()
        path = Path(self.folder, f"{name}-{number}")
        if (kept := _kept(path)) is not None:
            return kept
        with disk.one_at_a_time(Path(self.folder, f".{name}-{number % LOCKS}.lock")):  # the other ranks find it there
            if (kept := _kept(path)) is not None:
                return kept
            return self._fetch(uri, number, size, path)

    def _fetch(self, uri: str, number: int, size: int, path: Path) -> bytes:
        first = number * self.block_bytes
        data = s3.read(uri, first, min(self.block_bytes, size - first))
        temporary = Path(self.folder, f".{path.name}-{os.getpid()}-{threading.get_ident()}")
        try:
            with storage.explained(str(path)):
                temporary.write_bytes(data)
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        self.fetched += 1
        self._make_room()
        return data

    def _make_room(self) -> None:
        entries = []
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):
                if not entry.name.startswith("."):
                    found = entry.stat()
                    entries.append((found.st_mtime_ns, found.st_size, entry.path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self.capacity:
                return
            Path(path).unlink(missing_ok=True)
            total -= size


def _kept(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
        os.utime(path)
    except FileNotFoundError:  # not there, or another rank removed it between two looks
        return None
    return data


class RemoteIds:
    """The ids of a `.bin` in S3, read like an array by slices."""

    def __init__(self, uri: str, kind: Any, cache: BlockCache, stored: tuple[int, str] | None = None) -> None:
        self.dtype = np.dtype(kind)
        self._size, self._tag = stored or (storage.size(uri), storage.version_of(uri) or "")
        self._uri, self._cache = uri, cache
        self._held: OrderedDict[int, npt.NDArray[Any]] = OrderedDict()

    def __len__(self) -> int:
        return self._size // self.dtype.itemsize

    def __getitem__(self, part: slice) -> npt.NDArray[Any]:
        start, stop, _ = part.indices(len(self))
        per = self._cache.block_bytes // self.dtype.itemsize
        pieces = [
            self._block(number)[max(start - number * per, 0) : stop - number * per]
            for number in range(start // per, -(-stop // per))
        ]
        return np.concatenate(pieces) if pieces else np.zeros(0, self.dtype)

    def peek(self, start: int, length: int) -> npt.NDArray[Any]:
        """A few ids, past the cache."""
        width = self.dtype.itemsize
        return np.frombuffer(s3.read(self._uri, start * width, length * width), self.dtype)

    def _block(self, number: int) -> npt.NDArray[Any]:
        if number in self._held:
            self._held.move_to_end(number)
        else:
            data = self._cache.block(self._uri, self._tag, number, self._size)
            self._held[number] = np.frombuffer(data, self.dtype)
            if len(self._held) > HELD_BLOCKS:
                self._held.popitem(last=False)
        return self._held[number]


class TokenStream:
    """Several shards as one long row of ids.

    Args:
        vocabulary: ids from there on are an error, found when they are read.
        tokenizer: identity of the tokenizer that must have written the shards, as `PREFIX.json` says; None: not compared.
        cache_bytes: most that shards in S3 take on the local disk.

    Raises:
        DataError: a shard is of another tokenizer.
    """

    def __init__(
        self, prefixes: Sequence[str], vocabulary: int, tokenizer: str | None = None, cache_bytes: int = 8 << 30
    ) -> None:
        cache, stored = None, _listed(prefixes)
        if stored:
            cache = BlockCache(storage.scratch_folder("tokens"), cache_bytes)
        self.vocabulary, self.cache = vocabulary, cache
        self.prefixes = list(prefixes)

        def opened(prefix: str) -> Shard:
            if tokenizer is not None:
                _refuse_other_tokenizer(prefix, tokenizer)
            if cache is None or not storage.is_remote(prefix):
                return Shard(prefix)
            return Shard(prefix, lambda uri, kind: RemoteIds(uri, kind, cache, stored.get(uri)), stored)

        self.shards: list[Shard] = []
        with ThreadPoolExecutor(OPENED_AT_ONCE if cache is not None else 1, "shards") as pool:
            for prefix, shard in zip(self.prefixes, pool.map(opened, self.prefixes), strict=True):
                moved(f"opened {prefix}")  # an index may be fetched first: thousands of them take minutes
                self.shards.append(shard)
        for shard in self.shards:
            if isinstance(shard.ids, np.memmap):  # a plain view of it: slices of a memmap take twice as long
                shard.ids = np.asarray(shard.ids)
        self.starts = np.concatenate([[0], np.cumsum([shard.tokens for shard in self.shards], dtype=np.int64)])

    @property
    def tokens(self) -> int:
        """Ids in all shards."""
        return int(self.starts[-1])

    def identity(self) -> str:
        """Identity of the ids: of a sample of blocks at fixed places, so that terabytes need not be read again."""
        hasher = hashlib.blake2b(digest_size=16)
        for place in range(IDENTITY_BLOCKS):
            start = self.tokens * place // IDENTITY_BLOCKS
            hasher.update(self._peek(start, min(IDENTITY_TOKENS, self.tokens - start)).tobytes())
        return hasher.hexdigest()

    def _peek(self, start: int, length: int) -> npt.NDArray[np.int64]:
        out, filled = np.empty(length, np.int64), 0
        index = int(np.searchsorted(self.starts, start, side="right")) - 1
        while filled < length:
            ids, inner = self.shards[index].ids, start + filled - int(self.starts[index])
            count = min(length - filled, len(ids) - inner)
            out[filled : filled + count] = (
                ids.peek(inner, count) if isinstance(ids, RemoteIds) else ids[inner : inner + count]
            )
            filled, index = filled + count, index + 1
        return out

    def slice(self, start: int, length: int) -> npt.NDArray[np.int64]:
        """`length` ids from `start` on, across shard borders."""
        out = np.empty(length, np.int64)
        filled = 0
        index = int(np.searchsorted(self.starts, start, side="right")) - 1
        while filled < length:
            inner = start + filled - int(self.starts[index])
            part = self.shards[index].ids[inner : inner + length - filled]
            out[filled : filled + len(part)] = part
            filled += len(part)
            index += 1
        return out

    def rows(self, starts: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.int64]:
        """Slices of equal length as rows of one matrix.

        Raises:
            DataError: an id is beyond the vocabulary; naming shard and document.
        """
        out = np.empty((len(starts), length), np.int64)
        owners = np.searchsorted(self.starts, starts, side="right") - 1
        inner = starts - self.starts[owners]
        shards = self.shards
        for row, owner, begin in zip(out, owners.tolist(), inner.tolist(), strict=True):
            part = shards[owner].ids[begin : begin + length]
            if len(part) == length:
                row[:] = part
            else:
                row[:] = self.slice(int(self.starts[owner]) + begin, length)
        # one comparison finds ids that are too large and negative ones
        if out.size and int(out.view(np.uint64).max()) >= self.vocabulary:
            row, column = np.argwhere(out.view(np.uint64) >= self.vocabulary)[0]
            raise self.beyond(int(starts[row]) + int(column))
        return out

    def check(self, part: int = 0, parts: int = 1) -> None:
        """Look at every `parts`-th stretch of local shards for ids beyond the vocabulary; ranks share the work.

        Raises:
            DataError: there is one; naming shard and document.
        """
        number = 0
        for index, shard in enumerate(self.shards):
            if storage.is_remote(self.prefixes[index]):  # found when they are read: nothing is fetched for a look
                continue
            for start in range(0, shard.tokens, CHECKED_AT_ONCE):
                number += 1
                moved(f"looking through {self.prefixes[index]}")
                if number % parts != part:
                    continue
                ids = shard.ids[start : start + CHECKED_AT_ONCE]
                if int(ids.max()) >= self.vocabulary or int(ids.min()) < 0:
                    bad = int(np.flatnonzero((ids >= self.vocabulary) | (ids < 0))[0])
                    raise self.beyond(int(self.starts[index]) + start + bad)

    def place_of(self, token: int) -> str:
        """Shard, document and token in the shard, in words."""
        index = int(np.searchsorted(self.starts, token, side="right")) - 1
        shard, inner = self.shards[index], token - int(self.starts[index])
        sequence = int(np.searchsorted(shard.offsets // shard.ids.dtype.itemsize, inner, side="right")) - 1
        document = int(np.searchsorted(shard.documents, sequence, side="right")) - 1
        return f"{self.prefixes[index]}.bin, document {document}, token {inner}"

    def beyond(self, token: int) -> DataError:
        """The error for an id beyond the vocabulary."""
        return DataError(
            f"Token id {int(self.slice(token, 1)[0])} is beyond the vocabulary of {self.vocabulary}",
            where=self.place_of(token),
            why="the shard was written with another tokenizer, or is damaged",
            remedy="serialize the corpus with the tokenizer that training is given",
        )


def index_checksums(dataset: str) -> dict[str, str]:
    """Address → checksum of the indexes of a committed dataset's shards: one read, however many there are."""
    manifest = read_manifest(dataset)
    tables = manifest.tables.values() if manifest is not None else ()
    return {
        storage.join(dataset, entry.path): entry.checksum
        for table in tables
        for entry in table.files
        if entry.path.endswith(".idx")
    }


def _listed(prefixes: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Address → (bytes, version) of what lies beside shards in S3: a request a thousand objects, none for each."""
    folders = sorted({prefix.rpartition("/")[0] for prefix in prefixes if storage.is_remote(prefix)})
    return {path: found for folder in folders for path, found in storage.list_versions(folder).items()}


def _refuse_other_tokenizer(prefix: str, tokenizer: str) -> None:
    path = f"{prefix}.json"
    if not storage.exists(path):  # shards that others wrote have nothing beside them; their ids are looked at
        return
    theirs = storage.read_json(path).get("tokenizer")
    if theirs != tokenizer:
        raise DataError(
            "A shard is of another tokenizer",
            where=path,
            why=f"it was written with {str(theirs)[:12]}, training was given {tokenizer[:12]}",
            remedy="serialize the corpus with this tokenizer, or train with that one",
        )
