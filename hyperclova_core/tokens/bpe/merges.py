"""Byte-pair merges (Sennrich 2016) of one piece in compiled code: the same ids as Hugging Face's `tokenizers` gives.

The pair of the lowest rank is merged first, of equal ones the leftmost, until no pair of neighbours has a rank.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.jit import compiled
from hyperclova_core.tokens.bpe.byte_to_unicode import BYTE_ENCODER
from hyperclova_core.tokens.pretokens.character_classes import CODE_POINTS

SHORT_PIECE = 48
"""Up to so many symbols the lowest rank is found by looking at all; beyond, by a heap."""
NO_RANK = np.int64(1 << 62)


class Merges(NamedTuple):
    """What BPE needs of a vocabulary.

    Attributes:
        pairs: open addressing: pair (left << 32 | right) + 1, and rank << 32 | id of the merged; shape (slots, 2).
        bytes: id of each byte, shape (256,).
        characters: id of each character, -1 for those written as bytes; empty in byte-level BPE.
    """

    pairs: npt.NDArray[np.int64]
    bytes: npt.NDArray[np.int32]
    characters: npt.NDArray[np.int32]


class Symbols(NamedTuple):
    """Workspace of one thread: ids, ranks, and for long pieces neighbours and a heap."""

    ids: npt.NDArray[np.int32]
    ranks: npt.NDArray[np.int64]
    before: npt.NDArray[np.int32]
    after: npt.NDArray[np.int32]
    heap: npt.NDArray[np.int64]


def symbols_for(size: int) -> Symbols:
    """Room for pieces of up to `size` bytes."""
    return Symbols(
        np.empty(size + 1, np.int32),
        np.empty(size + 1, np.int64),
        np.empty(size + 1, np.int32),
        np.empty(size + 1, np.int32),
        np.empty(3 * size + 16, np.int64),
    )


def merges_of(model: dict[str, Any]) -> Merges:
    """From the `model` of a tokenizer.json.

    Raises:
        DataError: it is no byte-level BPE, and no BPE over characters with bytes to fall back on.
    """
    vocabulary: dict[str, int] = model["vocab"]
    over_characters = bool(model.get("byte_fallback"))
    names = [f"<0x{byte:02X}>" for byte in range(256)] if over_characters else BYTE_ENCODER
    missing = [name for name in names if name not in vocabulary]
    if missing or model.get("dropout") or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise DataError(
            "The vocabulary cannot write every byte" if missing else "Not a plain BPE",
            why=f"{len(missing)} bytes have no token" if missing else "it uses dropout, prefixes or suffixes",
            remedy="use byte-level BPE, or BPE with byte_fallback",
        )
    characters = np.zeros(0, np.int32)
    if over_characters:
        characters = np.full(CODE_POINTS, -1, np.int32)
        for token, index in vocabulary.items():
            if len(token) == 1:
                characters[ord(token)] = index
    pairs = model["merges"]
    slots = 1 << max(8, (2 * len(pairs)).bit_length())
    table = np.zeros((slots, 2), np.int64)
    keys, values = np.empty(len(pairs), np.int64), np.empty(len(pairs), np.int64)
    for rank, pair in enumerate(pairs):
        left, right = pair.split(" ") if isinstance(pair, str) else pair
        keys[rank] = (vocabulary[left] << 32 | vocabulary[right]) + 1
        values[rank] = rank << 32 | vocabulary[left + right]
    _fill(table, keys, values)
    return Merges(table, np.array([vocabulary[name] for name in names], np.int32), characters)


@compiled(inline=True)
def _slot(key, mask):
    mixed = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64((mixed >> np.uint64(32)) & np.uint64(mask))


@compiled()
def _fill(table, keys, values):
    mask = table.shape[0] - 1
    for number in range(len(keys)):
        at = _slot(keys[number], mask)
        while table[at, 0] != 0 and table[at, 0] != keys[number]:
            at = (at + 1) & mask
        table[at, 0], table[at, 1] = keys[number], values[number]  # of a pair that is named twice, the last counts


@compiled(inline=True)
def _rank(pairs, left, right):
    """rank << 32 | merged id, or NO_RANK."""
    key = (np.int64(left) << 32 | np.int64(right)) + 1
    mask = np.uint64(pairs.shape[0] - 1)
    at = np.uint64(_slot(key, mask))
    while True:
        found = pairs[at, 0]
        if found == key:
            return pairs[at, 1]
        if found == 0:
            return NO_RANK
        at = (at + np.uint64(1)) & mask


@compiled()
def encode_piece(data, start, end, merges, symbols):
    """Encode data[start:end]; the number of ids, which are in `symbols.ids`."""
    ids, pairs = symbols.ids, merges.pairs
    count = 0
    if merges.characters.size:
        at = start
        while at < end:
            first = np.int64(data[at])
            if first < 0x80:
                code, width = first, 1
            elif first < 0xE0:
                code, width = first & 0x1F, 2
            elif first < 0xF0:
                code, width = first & 0x0F, 3
            else:
                code, width = first & 0x07, 4
            for more in range(1, width):
                code = code << 6 | (np.int64(data[at + more]) & 0x3F)
            known = merges.characters[code]
            if known >= 0:
                ids[count] = known
                count += 1
            else:
                for more in range(width):
                    ids[count] = merges.bytes[data[at + more]]
                    count += 1
            at += width
    else:
        first = np.uint64(start)
        for at in range(np.uint64(end - start)):
            ids[at] = merges.bytes[data[first + at]]
        count = end - start
    if count > SHORT_PIECE:
        return _merge_long(count, pairs, symbols)
    return _merge_short(np.uint64(count), pairs, ids, symbols.ranks) if count > 1 else count


@compiled(inline=True)
def _merge_short(count, pairs, ids, ranks):
    """Merge few symbols: the lowest rank is found by looking at all. Indices are unsigned, as in viterbi.py."""
    one = np.uint64(1)
    for at in range(count - one):
        ranks[at] = _rank(pairs, ids[at], ids[at + one])
    while count > one:
        best, place = NO_RANK, np.uint64(0)
        for at in range(count - one):
            if ranks[at] < best:
                best, place = ranks[at], at
        if best == NO_RANK:
            break
        ids[place] = np.int32(best & 0xFFFFFFFF)
        count -= one
        for at in range(place + one, count):
            ids[at] = ids[at + one]
            ranks[at] = ranks[at + one]
        if place + one < count:
            ranks[place] = _rank(pairs, ids[place], ids[place + one])
        if place:
            ranks[place - one] = _rank(pairs, ids[place - one], ids[place])
    return np.int64(count)


@compiled()
def _merge_long(count, pairs, symbols):
    """The same for many symbols: a heap of (rank, place), symbols in a doubly linked list, stale entries passed over."""
    ids, ranks, before, after, heap = symbols
    size = 0
    for at in range(count):
        before[at], after[at] = at - 1, at + 1
        ranks[at] = NO_RANK
        if at + 1 < count:
            found = _rank(pairs, ids[at], ids[at + 1])
            ranks[at] = found
            if found != NO_RANK:
                size = _push(heap, size, (found >> 32) << 32 | at)
    while size:
        top = heap[0]
        size = _pop(heap, size)
        at = top & 0xFFFFFFFF
        if ranks[at] == NO_RANK or ranks[at] >> 32 != top >> 32:
            continue
        ids[at] = np.int32(ranks[at] & 0xFFFFFFFF)
        gone = np.int64(after[at])
        ranks[gone] = NO_RANK
        after[at] = after[gone]
        if after[at] < count:
            before[after[at]] = at
            ranks[at] = _rank(pairs, ids[at], ids[after[at]])
            if ranks[at] != NO_RANK:
                size = _push(heap, size, (ranks[at] >> 32) << 32 | at)
        else:
            ranks[at] = NO_RANK
        left = np.int64(before[at])
        if left >= 0:
            ranks[left] = _rank(pairs, ids[left], ids[at])
            if ranks[left] != NO_RANK:
                size = _push(heap, size, (ranks[left] >> 32) << 32 | left)
    kept, at = 0, 0
    while at < count:
        ids[kept] = ids[at]
        kept += 1
        at = np.int64(after[at])
    return kept


@compiled()
def _push(heap, size, value):
    at = size
    while at:
        parent = (at - 1) >> 1
        if heap[parent] <= value:
            break
        heap[at] = heap[parent]
        at = parent
    heap[at] = value
    return size + 1


@compiled()
def _pop(heap, size):
    size -= 1
    value = heap[size]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = value
    return size
