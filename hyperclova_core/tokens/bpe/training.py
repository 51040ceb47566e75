"""BPE learnt from distinct pieces with their counts (Sennrich 2016): the most frequent pair of neighbours is merged, over and over.

The merges are those that Hugging Face's trainer finds on the text that the counts are of (ties go to the smaller ids), but the
work follows the number of distinct pieces, which grows slower than the text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hyperclova_core.foundation.jit import compiled

NOTHING = -1


class Words(NamedTuple):
    """Attributes:
    symbols: ids of all pieces, one behind the other; -1 for what is never merged.
    starts, ends: where each piece begins and ends; merging draws the end in.
    counts: of each piece.
    """

    symbols: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]


class Pairs(NamedTuple):
    """Open addressing: pair + 1 (left << 32 | right), count, newest note, last merge that made it; notes: piece and the note
    before, in lists.

    `used`: slots, notes, and entries of the heap; the heap holds (count, pair), the largest count first, of equal ones the
    smallest pair.
    """

    keys: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    heads: npt.NDArray[np.int64]
    made: npt.NDArray[np.int64]
    notes: npt.NDArray[np.int64]
    heap: npt.NDArray[np.int64]
    used: npt.NDArray[np.int64]


def learn_merges(
    words: Words, tokens: list[str], vocabulary_size: int, progress: Callable[[int], None] | None = None
) -> list[tuple[str, str]]:
    """Merges until the vocabulary has that many tokens, or no pair of neighbours is left.

    Args:
        words: symbols are ids of `tokens`; -1 is a symbol that is never merged.
        tokens: the vocabulary to begin with; what merges make is appended.
    """
    known = {token: index for index, token in enumerate(tokens)}
    total = len(words.symbols)
    slots = 1 << max(16, (2 * _distinct_pairs(words) + 8 * vocabulary_size).bit_length())
    pairs = _pairs(slots, 3 * total + 16)
    _count_all(words, pairs)
    pairs = _with_heap(pairs, vocabulary_size)
    merges = []
    seen = np.full(len(words.counts), -1, np.int64)
    while len(tokens) < vocabulary_size:
        pair = _best(pairs)
        if pair == NOTHING:
            break
        left, right = tokens[pair >> 32], tokens[pair & 0xFFFFFFFF]
        index = known.setdefault(left + right, len(tokens))
        if index == len(tokens):
            tokens.append(left + right)
        merges.append((left, right))
        if pairs.used[0] + 4 * len(tokens) + 1024 > 0.6 * len(pairs.keys):
            pairs = _doubled(pairs)
        heap_room = pairs.used[2] + 4 * len(tokens) + 1024
        if heap_room > len(pairs.heap):
            pairs = pairs._replace(heap=np.concatenate([pairs.heap, np.empty_like(pairs.heap)]))
        _merge(words, pairs, pair, index, seen, len(merges), np.empty(4 * len(tokens) + 1024, np.int64))
        if progress is not None and len(merges) % 1000 == 0:
            progress(len(tokens))
    return merges


def _distinct_pairs(words: Words) -> int:
    """How many pairs of neighbours there are: the table holds them all before it can grow."""
    left, right = words.symbols[:-1].astype(np.int64), words.symbols[1:].astype(np.int64)
    inside = np.ones(len(left), np.bool_)
    borders = words.starts[(words.starts > 0) & (words.starts <= len(left))] - 1
    inside[borders] = False
    return len(np.unique((left << 32 | right)[inside & (left >= 0) & (right >= 0)]))


def _pairs(slots: int, notes: int) -> Pairs:
    return Pairs(
        np.zeros(slots, np.int64),
        np.zeros(slots, np.int64),
        np.full(slots, NOTHING, np.int64),
        np.zeros(slots, np.int64),
        np.empty((notes, 2), np.int64),
        np.empty((0, 2), np.int64),
        np.zeros(3, np.int64),
    )


def _with_heap(pairs: Pairs, vocabulary_size: int) -> Pairs:
    used = pairs.keys != 0
    entries = np.stack([pairs.counts[used], pairs.keys[used] - 1], 1)
    entries = entries[np.lexsort((entries[:, 1], -entries[:, 0]))]
    heap = np.empty((2 * len(entries) + 8 * vocabulary_size + 4096, 2), np.int64)
    heap[: len(entries)] = entries  # sorted, so a heap already
    pairs.used[2] = len(entries)
    return pairs._replace(heap=heap)


def _doubled(pairs: Pairs) -> Pairs:
    wider = _pairs(2 * len(pairs.keys), 0)._replace(notes=pairs.notes, heap=pairs.heap, used=pairs.used)
    _rehash(pairs, wider)
    return wider


@compiled(inline=True)
def _place(keys, key):  # type: ignore[no-untyped-def]
    mask = np.uint64(keys.shape[0] - 1)
    at = (np.uint64(key) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(31)) & mask
    while keys[at] != 0 and keys[at] != key:
        at = (at + np.uint64(1)) & mask
    return np.int64(at)


@compiled()
def _rehash(pairs, wider):  # type: ignore[no-untyped-def]
    for old in range(len(pairs.keys)):
        if pairs.keys[old] != 0:
            at = _place(wider.keys, pairs.keys[old])
            wider.keys[at], wider.counts[at], wider.heads[at] = pairs.keys[old], pairs.counts[old], pairs.heads[old]


@compiled(inline=True)
def _add(pairs, left, right, change, word):  # type: ignore[no-untyped-def]
    """Change a pair's count; a pair that comes to stand in a word is noted there. Its place, or -1 for what is no pair."""
    if left < 0 or right < 0:
        return NOTHING
    key = (np.int64(left) << 32 | np.int64(right)) + 1
    at = _place(pairs.keys, key)
    if pairs.keys[at] == 0:
        pairs.keys[at] = key
        pairs.used[0] += 1
    pairs.counts[at] += change
    if change > 0:
        note = pairs.used[1]
        pairs.notes[note, 0], pairs.notes[note, 1] = word, pairs.heads[at]
        pairs.heads[at] = note
        pairs.used[1] = note + 1
    return at


@compiled()
def _count_all(words, pairs):  # type: ignore[no-untyped-def]
    for word in range(len(words.counts)):
        for at in range(words.starts[word], words.ends[word] - 1):
            _add(pairs, words.symbols[at], words.symbols[at + 1], words.counts[word], word)


@compiled()
def _before(heap, one, other):  # type: ignore[no-untyped-def]
    return heap[one, 0] > heap[other, 0] or (heap[one, 0] == heap[other, 0] and heap[one, 1] < heap[other, 1])


@compiled()
def _swap(heap, one, other):  # type: ignore[no-untyped-def]
    for column in range(2):
        heap[one, column], heap[other, column] = heap[other, column], heap[one, column]


@compiled()
def _sink(heap, size):  # type: ignore[no-untyped-def]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and _before(heap, child + 1, child):
            child += 1
        if not _before(heap, child, at):
            return
        _swap(heap, at, child)
        at = child


@compiled()
def _best(pairs):  # type: ignore[no-untyped-def]
    """The most frequent pair, taken off the heap; -1 where none is left. An entry whose count has changed goes back with the new."""
    heap = pairs.heap
    while pairs.used[2]:
        count, pair = heap[0, 0], heap[0, 1]
        now = pairs.counts[_place(pairs.keys, pair + 1)]
        if now == count and count > 0:
            pairs.used[2] -= 1
            heap[0, 0], heap[0, 1] = heap[pairs.used[2], 0], heap[pairs.used[2], 1]
            _sink(heap, pairs.used[2])
            return pair
        if now > 0:
            heap[0, 0] = now
        else:
            pairs.used[2] -= 1
            heap[0, 0], heap[0, 1] = heap[pairs.used[2], 0], heap[pairs.used[2], 1]
        _sink(heap, pairs.used[2])
    return NOTHING


@compiled()
def _offer(pairs, at):  # type: ignore[no-untyped-def]
    """Put a new pair on the heap."""
    heap = pairs.heap
    place = pairs.used[2]
    heap[place, 0], heap[place, 1] = pairs.counts[at], pairs.keys[at] - 1
    pairs.used[2] = place + 1
    while place and _before(heap, place, (place - 1) >> 1):
        _swap(heap, place, (place - 1) >> 1)
        place = (place - 1) >> 1


@compiled()
def _merge(words, pairs, pair, index, seen, turn, fresh):  # type: ignore[no-untyped-def]
    """Replace a pair in all pieces it stands in, from left to right, and put the pairs that come about on the heap."""
    left, right, new = np.int32(pair >> 32), np.int32(pair & 0xFFFFFFFF), np.int32(index)
    symbols, none = words.symbols, np.int32(NOTHING)
    at = _place(pairs.keys, pair + 1)
    note = pairs.heads[at]
    pairs.heads[at] = NOTHING
    made = 0
    while note != NOTHING:
        word, note = pairs.notes[note, 0], pairs.notes[note, 1]
        if seen[word] == turn:
            continue
        seen[word] = turn
        start, end, count = words.starts[word], words.ends[word], words.counts[word]
        read = write = start
        while read < end:
            if read + 1 < end and symbols[read] == left and symbols[read + 1] == right:
                before = symbols[write - 1] if write > start else none
                after = symbols[read + 2] if read + 2 < end else none
                _add(pairs, before, left, -count, word)
                _add(pairs, right, after, -count, word)
                for slot in (_add(pairs, before, new, count, word), _add(pairs, new, after, count, word)):
                    if slot != NOTHING and pairs.made[slot] != turn:
                        pairs.made[slot] = turn
                        fresh[made] = slot
                        made += 1
                symbols[write] = new
                read += 2
            else:
                symbols[write] = symbols[read]
                read += 1
            write += 1
        words.ends[word] = write
    pairs.counts[at] = 0
    for number in range(made):
        if pairs.counts[fresh[number]] > 0:
            _offer(pairs, fresh[number])
