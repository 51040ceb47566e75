"""Samples out of shards that already lie in training order: contiguous slices, permuted within a window only.

sample = f(seed, global sample id): the one state is the number of consumed samples, so a run resumes at any data-
parallel size, and shards are read forwards. Documents are packed with end-of-document marks, without padding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.hashing import order_key
from hyperclova_core.tokens.megatron import Shard

CHECKED_AT_ONCE = 1 << 22
IDENTITY_BLOCKS, IDENTITY_TOKENS = 64, 4096


class TokenStream:
    """Several shards as one long row of ids."""

    def __init__(self, prefixes: Sequence[str], vocabulary: int) -> None:
        self._shards = [(prefix, Shard(prefix)) for prefix in prefixes]
        self._starts = np.concatenate([[0], np.cumsum([shard.tokens for _, shard in self._shards], dtype=np.int64)])
        for prefix, shard in self._shards:
            _check_ids(prefix, shard, vocabulary)

    @property
    def tokens(self) -> int:
        """Ids in all shards."""
        return int(self._starts[-1])

    def identity(self) -> str:
        """Identity of the ids: of a sample of blocks at fixed places, so that terabytes need not be read again."""
        hasher = hashlib.blake2b(digest_size=16)
        for place in range(IDENTITY_BLOCKS):
            start = self.tokens * place // IDENTITY_BLOCKS
            hasher.update(self.slice(start, min(IDENTITY_TOKENS, self.tokens - start)).tobytes())
        return hasher.hexdigest()

    def slice(self, start: int, length: int) -> npt.NDArray[np.int64]:
        """`length` ids from `start` on, across shard borders."""
        out = np.empty(length, np.int64)
        filled = 0
        index = int(np.searchsorted(self._starts, start, side="right")) - 1
        while filled < length:
            shard = self._shards[index][1]
            inner = start + filled - int(self._starts[index])
            part = shard.ids[inner : inner + length - filled]
            out[filled : filled + len(part)] = part
            filled += len(part)
            index += 1
        return out


def _check_ids(prefix: str, shard: Shard, vocabulary: int) -> None:
    for start in range(0, shard.tokens, CHECKED_AT_ONCE):
        part = shard.ids[start : start + CHECKED_AT_ONCE]
        if int(part.max()) >= vocabulary or int(part.min()) < 0:
            bad = start + int(np.flatnonzero((part >= vocabulary) | (part < 0))[0])
            sequence = int(np.searchsorted(shard.offsets // shard.ids.dtype.itemsize, bad, side="right")) - 1
            document = int(np.searchsorted(shard.documents, sequence, side="right")) - 1
            raise DataError(
                f"Token id {int(shard.ids[bad])} is beyond the vocabulary of {vocabulary}",
                where=f"{prefix}.bin, document {document}, token {bad}",
                why="the shard was written with another tokenizer",
                remedy="serialize the corpus with the tokenizer that training is given",
            )


class Samples:
    """Sequences of `context` + 1 ids by global sample id; past the end the corpus starts again."""

    def __init__(self, stream: TokenStream, context: int, seed: int, window: int) -> None:
        self._stream, self._context, self._seed, self._window = stream, context, seed, window
        self.count = (stream.tokens - 1) // context
        if self.count < 1:
            raise DataError(
                "The corpus is shorter than one sequence",
                why=f"{stream.tokens} tokens, a sequence needs {context + 1}",
                remedy="give more text, or a smaller context",
            )

    def __getitem__(self, sample: int) -> npt.NDArray[np.int64]:
        epoch, place = divmod(sample, self.count)
        window, inside = divmod(place, self._window)
        size = min(self._window, self.count - window * self._window)
        order = self._order(epoch, window, size)
        return self._stream.slice((window * self._window + int(order[inside])) * self._context, self._context + 1)

    def _order(self, epoch: int, window: int, size: int) -> npt.NDArray[np.int64]:
        key = order_key(self._seed, "window", str(epoch), str(window))
        cached = getattr(self, "_cached", None)
        if cached is None or cached[0] != key:
            generator = np.random.Generator(np.random.PCG64(int.from_bytes(key, "big")))
            self._cached = (key, generator.permutation(size))
        return self._cached[1]

    def micro_batches(
        self, first: int, global_batch: int, micro_batch: int, rank: int, ranks: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This data-parallel rank's share of the global batch that starts at sample `first`: (inputs, targets) of
        shape (micro_batch, context)."""
        share = global_batch // ranks
        for start in range(first + rank * share, first + (rank + 1) * share, micro_batch):
            block = torch.from_numpy(np.stack([self[start + index] for index in range(micro_batch)]))
            yield block[:, :-1].contiguous(), block[:, 1:].contiguous()
