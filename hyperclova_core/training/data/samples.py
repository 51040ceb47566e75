"""Samples out of shards that already lie in training order: contiguous slices, permuted within a window only.

sample = f(seed, global sample id): the one state is the number of consumed samples, so a run resumes at any data-
parallel size, and shards are read forwards. Documents are packed with end-of-document marks, without padding.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.hashing import order_key
from hyperclova_core.training.data.token_stream import TokenStream

HELD_WINDOWS = 4
READ_AT_ONCE = 64
"""Samples: what a call costs is shared by so many."""


class CorpusTooShortError(DataError):
    """The shards hold less than one sequence."""


class Samples:
    """Sequences of `sequence_length` + 1 ids by global sample id; past the end the corpus starts again, in another order."""

    def __init__(self, stream: TokenStream, sequence_length: int, seed: int, window: int) -> None:
        self.stream = stream
        self._length, self._seed, self._window = sequence_length, seed, window
        self._orders: dict[tuple[int, int], npt.NDArray[np.int64]] = {}
        self.count = (stream.tokens - 1) // sequence_length
        if self.count < 1:
            raise CorpusTooShortError(
                "The corpus is shorter than one sequence",
                why=f"{stream.tokens} tokens, a sequence needs {sequence_length + 1}",
                remedy="give more text, or a smaller sequence_length",
            )

    def __getitem__(self, sample: int) -> npt.NDArray[np.int64]:
        row: npt.NDArray[np.int64] = self.batch(sample, 1)[0]
        return row

    def batch(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """Samples `first` to `first + count`, of shape (count, sequence_length + 1)."""
        return self.stream.rows(self.places(first, count), self._length + 1)

    def places(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """Where samples begin in the stream."""
        places = np.empty(count, np.int64)
        filled = 0
        while filled < count:
            epoch, place = divmod(first + filled, self.count)
            window, inside = divmod(place, self._window)
            order = self._order(epoch, window)[inside : inside + count - filled]
            places[filled : filled + len(order)] = window * self._window + order
            filled += len(order)
        return places * self._length

    def _order(self, epoch: int, window: int) -> npt.NDArray[np.int64]:
        known = self._orders.get((epoch, window))
        if known is None:
            size = min(self._window, self.count - window * self._window)
            key = order_key(self._seed, "window", str(epoch), str(window))
            known = np.random.Generator(np.random.PCG64(int.from_bytes(key, "big"))).permutation(size)
            if len(self._orders) >= HELD_WINDOWS:
                self._orders.pop(next(iter(self._orders)))
            self._orders[epoch, window] = known
        return known

    def micro_batches(
        self, first: int, global_batch_size: int, micro_batch_size: int, rank: int, ranks: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This data-parallel rank's share of the global batch that starts at sample `first`: (inputs, targets) of
        shape (micro_batch_size, sequence_length)."""
        share = global_batch_size // ranks
        begin, end = first + rank * share, first + (rank + 1) * share
        at_once = max(1, READ_AT_ONCE // micro_batch_size) * micro_batch_size
        for start in range(begin, end, at_once):
            block = torch.from_numpy(self.batch(start, min(at_once, end - start)))
            for rows in block.split(micro_batch_size):
                yield rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
