"""MeCab's search for the best cut of a word, over its own dictionary, without leaving compiled code.

The same words, costs and ties as MeCab 0.996 (tokenizer.cpp `lookup`, viterbi.cpp `connect`), so the same cuts. What differs:
words that begin at one place and have one left context share the search for their best left neighbour, and nothing is
allocated for a word.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hyperclova_core.foundation.compiled import compiled

LONGEST_GROUP = 24
"""Characters of one kind that may form one unknown word (MeCab's `max-grouping-size`)."""
NONE = -1
FAR = 1 << 30
TYPES = 0x3FFFF


class Search(NamedTuple):
    """What one thread searches with.

    Attributes:
        nodes: words in the lattice, shape (capacity, 5): cost, right context, previous node, next node that ends at the same
            place, start. Node 0 is the beginning.
        heads: newest node that ends at each byte.
        lefts: nodes that end at the place in work: cost, right context, node.
        shared: for each left context: the place it was last met at (a number that grows), the best cost, the node.
        clock: the last such number, shape (1,).
        cuts: where the words of the best cut end.
    """

    nodes: npt.NDArray[np.int32]
    heads: npt.NDArray[np.int32]
    lefts: npt.NDArray[np.int32]
    shared: npt.NDArray[np.int64]
    clock: npt.NDArray[np.int64]
    cuts: npt.NDArray[np.int32]


def search_for(left_contexts: int, longest: int, nodes: int = 1 << 16) -> Search:
    """Room for words of up to `longest` bytes; `best_cut` says so when `nodes` are too few."""
    return Search(
        np.empty((nodes, 5), np.int32),
        np.empty(longest + 1, np.int32),
        np.empty((nodes, 3), np.int32),
        np.zeros((left_contexts, 3), np.int64),
        np.zeros(1, np.int64),
        np.empty(longest + 1, np.int32),
    )


@compiled(inline=True)
def character(data, at, end, characters):
    """(properties, bytes) of the character at a place; those beyond the basic plane have the properties of U+0000."""
    first = np.uint32(data[at])
    if first < 0x80:
        return characters[first], 1
    if first & 0xE0 == 0xC0 and at + 2 <= end:
        return characters[((first & 0x1F) << 6) | (np.uint32(data[at + 1]) & 0x3F)], 2
    if first & 0xF0 == 0xE0 and at + 3 <= end:
        code = ((first & 0x0F) << 12) | ((np.uint32(data[at + 1]) & 0x3F) << 6) | (np.uint32(data[at + 2]) & 0x3F)
        return (characters[code] if code < 0xFFFF else characters[0]), 3
    if first & 0xF8 == 0xF0 and at + 4 <= end:
        return characters[0], 4
    return characters[0], 1


@compiled(inline=True)
def _add(tokens, first, count, place, stop, used, neighbours, moment, matrix, contexts, search):
    """Put tokens that reach from `place` to `stop` into the lattice; the number of nodes after it."""
    nodes, lefts, shared = search.nodes, search.lefts, search.shared
    head = search.heads[stop]
    for token in range(first, first + count):
        lc = np.int64(tokens[token, 0])
        if shared[lc, 0] != moment:
            best, chosen = np.int32(FAR), 0
            row = contexts * lc
            for left in range(neighbours):
                total = lefts[left, 0] + np.int32(matrix[row + lefts[left, 1]])
                if total < best:
                    best, chosen = total, left
            shared[lc, 0], shared[lc, 1], shared[lc, 2] = moment, best, lefts[chosen, 2]
        nodes[used, 0] = shared[lc, 1] + tokens[token, 2]
        nodes[used, 1] = tokens[token, 1]
        nodes[used, 2] = shared[lc, 2]
        nodes[used, 3] = head
        nodes[used, 4] = place
        head = used
        used += 1
    search.heads[stop] = head
    return used


@compiled(inline=True)
def _neighbours(search, place):
    """Collect the nodes that end at a place in MeCab's order: of a later start first, then as they were added; their number.

    The list has the latest added first, and nodes of one start lie together in it: each such run is turned round.
    """
    nodes, lefts = search.nodes, search.lefts
    node, count = search.heads[place], 0
    while node != NONE:
        start, begin = nodes[node, 4], count
        while node != NONE and nodes[node, 4] == start:
            lefts[count, 0], lefts[count, 1], lefts[count, 2] = nodes[node, 0], nodes[node, 1], node
            count += 1
            node = nodes[node, 3]
        low, high = begin, count - 1
        while low < high:
            for column in range(3):
                lefts[low, column], lefts[high, column] = lefts[high, column], lefts[low, column]
            low += 1
            high -= 1
    return count


@compiled()
def best_cut(data, start, end, dictionary, search):
    """Cut data[start:end], which holds none of MeCab's white space, into words.

    Args:
        data: UTF-8 bytes.
        dictionary: an `Analyser`.
        search: a `Search` with room for end - start bytes.

    Returns:
        The number of words, whose ends (relative to `start`) are in `search.cuts`; -1 where there is too little room for nodes.
    """
    base, check, tokens, matrix, contexts, characters, unknown, unknown_tokens = dictionary
    nodes, heads = search.nodes, search.heads
    moment = search.clock[0]
    size = end - start
    for at in range(size + 1):
        heads[at] = NONE
    nodes[0, 0], nodes[0, 1], nodes[0, 2], nodes[0, 3], nodes[0, 4] = 0, 0, NONE, NONE, NONE
    heads[0] = 0
    used = 1
    for place in range(size):
        if heads[place] == NONE:
            continue
        moment += 1
        neighbours = _neighbours(search, place)
        before = used
        # words of the lexicon that begin here
        here = np.uint32(base[0])
        for at in range(start + place, end + 1):
            value = base[here]
            if check[here] == here and value < 0:
                number = -np.int64(value) - 1
                count = number & 0xFF
                if used + count > nodes.shape[0]:
                    return NONE
                used = _add(
                    tokens, number >> 8, count, place, at - start, used, neighbours, moment, matrix, contexts, search
                )
            if at == end:
                break
            step = here + np.uint32(data[at]) + np.uint32(1)
            if check[step] != here:
                break
            here = np.uint32(base[step])
        # unknown words
        kind, width = character(data, start + place, end, characters)
        if used == before or (kind >> 31) & 1:
            category = (kind >> 18) & 0xFF
            first, count = np.int64(unknown[category, 0]), np.int64(unknown[category, 1])
            if used + 18 * count > nodes.shape[0]:
                return NONE
            after = start + place + width
            grouped = NONE
            if (kind >> 30) & 1:
                at, last, length = after, kind, 0
                while at < end:
                    other, width = character(data, at, end, characters)
                    if not (last & other & TYPES):
                        break
                    at += width
                    length += 1
                    last = other
                if length <= LONGEST_GROUP:
                    used = _add(
                        unknown_tokens,
                        first,
                        count,
                        place,
                        at - start,
                        used,
                        neighbours,
                        moment,
                        matrix,
                        contexts,
                        search,
                    )
                grouped = at
            at = after
            for _ in range((kind >> 26) & 0xF):
                if at == grouped:
                    continue
                used = _add(
                    unknown_tokens, first, count, place, at - start, used, neighbours, moment, matrix, contexts, search
                )
                if at == end:
                    break
                other, width = character(data, at, end, characters)
                if not (kind & other & TYPES):
                    break
                at += width
            if used == before:
                used = _add(
                    unknown_tokens,
                    first,
                    count,
                    place,
                    after - start,
                    used,
                    neighbours,
                    moment,
                    matrix,
                    contexts,
                    search,
                )
    search.clock[0] = moment
    best, node = np.int32(FAR), np.int64(NONE)
    for left in range(_neighbours(search, size)):
        total = search.lefts[left, 0] + np.int32(matrix[search.lefts[left, 1]])
        if total < best:
            best, node = total, np.int64(search.lefts[left, 2])
    words, at = 0, node
    while at > 0:
        words += 1
        at = np.int64(nodes[at, 2])
    at, number, stop = node, words, size
    while at > 0:
        number -= 1
        search.cuts[number] = stop
        stop = np.int64(nodes[at, 4])
        at = np.int64(nodes[at, 2])
    return words
