"""MeCab's search for the best cut of a word, over its own dictionary, without leaving compiled code.

The same words, costs and ties as MeCab 0.996 (tokenizer.cpp `lookup`, viterbi.cpp `connect`), so the same cuts. What differs:
words that begin at one place and have one left context share the search for their best left neighbour, that search is a
minimum of numbers without a branch, and nothing is allocated for a word.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hyperclova_core.foundation.compiled import compiled

LONGEST_GROUP = 24
"""Characters of one kind that may form one unknown word (MeCab's `max-grouping-size`)."""
NONE = -1
TYPES = 0x3FFFF
NODE_BITS, START_BITS = 22, 14
COST_AT = NODE_BITS + START_BITS
NODE, LAST = (1 << NODE_BITS) - 1, (1 << START_BITS) - 1
FAR = np.int64((1 << 63) - 1)


class Search(NamedTuple):
    """What one thread searches with.

    Attributes:
        keys: of each word in the lattice: cost of the best way to its end << 36 | (LAST - start) << 22 | its number. So the
            least key is what MeCab chooses: the least cost, then the later start, then the word that was added first. Word 0
            is the beginning.
        rights, befores: right context of each word, and the word before it, shape (capacity,).
        groups: words that were added together and end at one place: the first, how many, the next group, shape (capacity, 3).
        heads: newest group that ends at each byte.
        walks, walk_nodes: places of the word from which the lexicon is walked, and where each walk is.
        firsts, lasts: first and last match that begins at each byte.
        matches: words of the lexicon that stand in the word: where they end, their first token << 8 | how many, the next match
            that begins at the same place, shape (capacity, 3).
        near_keys, near_rights: of the words that end at the place in work.
        shared: for each left context: the place it was last met at (a number that grows), the best key, shape (contexts, 2).
        clock: the last such number, shape (1,).
        cuts: where the words of the best cut end.
    """

    keys: npt.NDArray[np.int64]
    rights: npt.NDArray[np.int32]
    befores: npt.NDArray[np.int32]
    groups: npt.NDArray[np.int32]
    heads: npt.NDArray[np.int32]
    walks: npt.NDArray[np.int32]
    walk_nodes: npt.NDArray[np.uint32]
    firsts: npt.NDArray[np.int32]
    lasts: npt.NDArray[np.int32]
    matches: npt.NDArray[np.int32]
    near_keys: npt.NDArray[np.int64]
    near_rights: npt.NDArray[np.int32]
    shared: npt.NDArray[np.int64]
    clock: npt.NDArray[np.int64]
    cuts: npt.NDArray[np.int32]


def search_for(left_contexts: int, longest: int, nodes: int = 1 << 16) -> Search:
    """Room for words of up to `longest` bytes; `best_cut` says so when `nodes` are too few.

    Raises:
        ValueError: more than a key can tell apart.
    """
    if nodes > NODE + 1 or longest > LAST:
        raise ValueError(f"a lattice has at most {NODE + 1} words and {LAST} bytes, not {nodes} and {longest}")
    return Search(
        np.empty(nodes, np.int64),
        np.empty(nodes, np.int32),
        np.empty(nodes, np.int32),
        np.empty((nodes, 3), np.int32),
        np.empty(longest + 1, np.int32),
        np.empty(longest + 1, np.int32),
        np.empty(longest + 1, np.uint32),
        np.empty(longest + 1, np.int32),
        np.empty(longest + 1, np.int32),
        np.empty((nodes, 3), np.int32),
        np.empty(nodes, np.int64),
        np.empty(nodes, np.int32),
        np.zeros((left_contexts, 2), np.int64),
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
def _best(row, neighbours, matrix, search):
    """The least key of the words that end at the place in work, the cost of going on with a left context in it."""
    best = FAR
    for number in range(neighbours):
        link = np.int64(matrix[np.uint64(row) + np.uint64(search.near_rights[np.uint64(number)])])
        best = min(best, search.near_keys[np.uint64(number)] + (link << np.int64(COST_AT)))
    return best


@compiled(inline=True)
def _add(tokens, first, count, place, stop, used, neighbours, moment, matrix, contexts, search):
    """Put tokens that reach from `place` to `stop` into the lattice; the number of words after it."""
    keys, rights, befores, shared, groups = search.keys, search.rights, search.befores, search.shared, search.groups
    groups[used, 0], groups[used, 1], groups[used, 2] = used, count, search.heads[stop]
    search.heads[stop] = used
    mark = np.int64(LAST - place) << np.int64(NODE_BITS)
    for token in range(first, first + count):
        lc = np.int64(tokens[token, 0])
        best = shared[lc, 1]
        if shared[lc, 0] != moment:
            best = _best(contexts * lc, neighbours, matrix, search)
            shared[lc, 0], shared[lc, 1] = moment, best
        cost = (best >> np.int64(COST_AT)) + np.int64(tokens[token, 2])
        keys[used] = (cost << np.int64(COST_AT)) | mark | used
        rights[used] = tokens[token, 1]
        befores[used] = np.int32(best & np.int64(NODE))
        used += 1
    return used


@compiled(inline=True)
def _neighbours(search, place):
    """Collect the words that end at a place; their number."""
    group, count = search.heads[place], 0
    while group != NONE:
        first = np.int64(search.groups[group, 0])
        for word in range(first, first + search.groups[group, 1]):
            search.near_keys[count], search.near_rights[count] = search.keys[word], search.rights[word]
            count += 1
        group = search.groups[group, 2]
    return count


@compiled(inline=True)
def _matched(data, start, end, base, check, search):
    """Find all words of the lexicon in data[start:end]; their number, or -1 where there is too little room.

    All places are walked from at once, a byte at a time, so that the reads of the lexicon, most of which miss the cache, overlap.
    """
    walks, nodes, firsts, lasts = search.walks, search.walk_nodes, search.firsts, search.lasts
    matches = search.matches
    root, size = np.uint32(base[0]), end - start
    alive = 0
    for place in range(size):
        firsts[place] = NONE
        if data[start + place] & 0xC0 != 0x80:
            walks[alive], nodes[alive] = place, root
            alive += 1
    found, step = 0, 0
    while alive:
        kept = 0
        for number in range(alive):
            place, here = np.int64(walks[number]), nodes[number]
            at = place + step
            if at == size:
                continue
            onward = here + np.uint32(data[start + at]) + np.uint32(1)
            if check[onward] != here:
                continue
            here = np.uint32(base[onward])
            walks[kept], nodes[kept] = place, here
            kept += 1
            if at + 1 < size and data[start + at + 1] & 0xC0 == 0x80:
                continue  # within a character no word ends
            value = base[here]
            if check[here] == here and value < 0:
                if found == matches.shape[0]:
                    return NONE
                matches[found, 0], matches[found, 1], matches[found, 2] = at + 1, -value - 1, NONE
                if firsts[place] == NONE:
                    firsts[place] = found
                else:
                    matches[lasts[place], 2] = found
                lasts[place] = found
                found += 1
        alive = kept
        step += 1
    return found


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
    heads, capacity = search.heads, search.keys.shape[0]
    moment = search.clock[0]
    size = end - start
    found = _matched(data, start, end, base, check, search)
    if found < 0:
        return NONE
    touched = np.int16(0)
    for number in range(found):
        touched ^= tokens[search.matches[number, 1] >> 8, 0]
    search.cuts[0] = touched  # read ahead
    for at in range(size + 1):
        heads[at] = NONE
    search.keys[0], search.rights[0], search.befores[0] = 0, 0, NONE
    search.groups[0, 0], search.groups[0, 1], search.groups[0, 2] = 0, 1, NONE
    heads[0] = 0
    used = np.int64(1)
    for place in range(size):
        if heads[place] == NONE:
            continue
        moment += 1
        neighbours = _neighbours(search, place)
        before = used
        match = search.firsts[place]
        while match != NONE:
            first, count = np.int64(search.matches[match, 1] >> 8), np.int64(search.matches[match, 1] & 0xFF)
            stop = np.int64(search.matches[match, 0])
            match = search.matches[match, 2]
            if used + count > capacity:
                return NONE
            used = _add(tokens, first, count, place, stop, used, neighbours, moment, matrix, contexts, search)
        # unknown words
        kind, width = character(data, start + place, end, characters)
        if used == before or (kind >> 31) & 1:
            category = (kind >> 18) & 0xFF
            first, count = np.int64(unknown[category, 0]), np.int64(unknown[category, 1])
            if used + 18 * count > capacity:
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
    last = _best(0, _neighbours(search, size), matrix, search) & np.int64(NODE)
    words, at = 0, last
    while at > 0:
        words += 1
        at = np.int64(search.befores[at])
    at, number, stop = last, words, size
    while at > 0:
        number -= 1
        search.cuts[number] = stop
        stop = LAST - np.int64((search.keys[at] >> np.int64(NODE_BITS)) & np.int64(LAST))
        at = np.int64(search.befores[at])
    return words
