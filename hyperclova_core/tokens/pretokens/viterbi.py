"""MeCab's search for the best cut of a word, over its own dictionary, without leaving compiled code.

The same words, costs and ties as MeCab 0.996 (tokenizer.cpp `lookup`, viterbi.cpp `connect`), so the same cuts. What differs:
words that begin at one place and have one left context share the search for their best left neighbour, that search is a
minimum of numbers without a branch, and nothing is allocated for a word.

Indices are unsigned here: a signed one may count from the end, and to ask which costs as much as the rest of the work.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hyperclova_core.foundation.jit import compiled
from hyperclova_core.tokens.pretokens.utf8 import decoded
from hyperclova_core.tokens.pretokens.word_access import prefetch

LONGEST_GROUP = 24
"""Characters of one kind that may form one unknown word (MeCab's `max-grouping-size`)."""
NONE = -1
TYPES = 0x3FFFF
NODE_BITS, START_BITS = 22, 13
COST_AT = np.int64(NODE_BITS + START_BITS)
NODE, LAST = np.int64((1 << NODE_BITS) - 1), np.int64((1 << START_BITS) - 1)
FAR = np.int64((1 << 63) - 1)
ONE, HALF, LOW = np.uint64(1), np.uint64(32), np.uint64(0xFFFFFFFF)


class Search(NamedTuple):
    """What one thread searches with. Numbers that may be none are kept plus one.

    Attributes:
        keys: of each word in the lattice: cost of the best way to its end << 35 | (LAST - start) << 22 | its number. So the
            least key is what MeCab chooses: the least cost, then the later start, then the word that was added first. Word 0
            is the beginning.
        rights, befores: right context of each word, and the word before it, shape (capacity,).
        counts, others: words that were added together end at one place: at the first of them, how many, and the first of the
            group that was added before and ends there, shape (capacity,).
        heads: newest group that ends at each byte.
        walks, bytes, nodes: where the lexicon is walked from, and the next byte and the node of each walk.
        firsts, lasts: first and last match that begins at each byte.
        stops, words, nexts: matches, words of the lexicon that stand in the word: where they end, their first token << 8 | how
            many, the next match that begins at the same place, shape (capacity,).
        near_keys, near_rights: of the words that end at the place in work.
        met, least: for each left context: the place it was last met at (a number that grows), and the best key there.
        clock: the last such number, shape (1,).
        cuts: where the words of the best cut end.
    """

    keys: npt.NDArray[np.int64]
    rights: npt.NDArray[np.uint32]
    befores: npt.NDArray[np.uint32]
    counts: npt.NDArray[np.uint32]
    others: npt.NDArray[np.uint32]
    heads: npt.NDArray[np.uint32]
    walks: npt.NDArray[np.uint32]
    bytes: npt.NDArray[np.uint32]
    nodes: npt.NDArray[np.uint32]
    firsts: npt.NDArray[np.uint32]
    lasts: npt.NDArray[np.uint32]
    stops: npt.NDArray[np.uint32]
    words: npt.NDArray[np.uint32]
    nexts: npt.NDArray[np.uint32]
    near_keys: npt.NDArray[np.int64]
    near_rights: npt.NDArray[np.uint32]
    met: npt.NDArray[np.uint64]
    least: npt.NDArray[np.int64]
    clock: npt.NDArray[np.uint64]
    cuts: npt.NDArray[np.int32]


def search_for(left_contexts: int, longest: int, nodes: int = 1 << 16) -> Search:
    """Room for words of up to `longest` bytes; `best_cut` says so when `nodes` are too few.

    Raises:
        ValueError: more than a key can tell apart (mecab-ko's costs are at most 20,055 a word, a key has room for ±268 million).
    """
    if nodes > NODE + 1 or longest > LAST:
        raise ValueError(f"a lattice has at most {NODE + 1} words and {LAST} bytes, not {nodes} and {longest}")
    return Search(
        keys=np.empty(nodes, np.int64),
        rights=np.empty(nodes, np.uint32),
        befores=np.empty(nodes, np.uint32),
        counts=np.empty(nodes, np.uint32),
        others=np.empty(nodes, np.uint32),
        heads=np.zeros(longest + 1, np.uint32),
        walks=np.zeros(longest + 1, np.uint32),
        bytes=np.zeros(longest + 1, np.uint32),
        nodes=np.zeros(longest + 1, np.uint32),
        firsts=np.zeros(longest + 1, np.uint32),
        lasts=np.zeros(longest + 1, np.uint32),
        stops=np.empty(nodes, np.uint32),
        words=np.empty(nodes, np.uint32),
        nexts=np.empty(nodes, np.uint32),
        near_keys=np.empty(nodes, np.int64),
        near_rights=np.empty(nodes, np.uint32),
        met=np.zeros(left_contexts, np.uint64),
        least=np.zeros(left_contexts, np.int64),
        clock=np.zeros(1, np.uint64),
        cuts=np.empty(longest + 1, np.int32),
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


@compiled()
def begin_lexicon(lexicon, begins):
    """Fill `Analyser.begins`: for each code point of the basic plane, the node behind its bytes | the word it is, plus one, << 32."""
    for code in range(begins.shape[0]):
        node = lexicon[0] & LOW
        width = 1 if code < 0x80 else 2 if code < 0x800 else 3
        for number in range(width):
            left = 6 * (width - 1 - number)
            byte = (code >> left) & 0x3F | 0x80
            if number == 0:
                byte = (code >> left) | (0 if width == 1 else 0xC0 if width == 2 else 0xE0)
            entry = lexicon[node + np.uint64(byte) + ONE]
            if entry >> HALF != node:
                node = np.uint64(0)
                break
            node = entry & LOW
        begins[code] = node
        if node:
            entry = lexicon[node]
            value = np.int32(entry & LOW)
            if entry >> HALF == node and value < 0:
                begins[code] |= np.uint64(-np.int64(value)) << HALF


@compiled(inline=True)
def _match(search, found, place, stop, word):
    """Note a word that begins at a place."""
    search.stops[found], search.words[found], search.nexts[found] = stop, word, 0
    if search.firsts[place] == 0:
        search.firsts[place] = found + ONE
    else:
        search.nexts[np.uint64(search.lasts[place]) - ONE] = found + ONE
    search.lasts[place] = found + ONE


@compiled(inline=True)
def _matched(data, start, end, lexicon, begins, search):
    """Find all words of the lexicon in data[start:end]; their number.

    All places are walked from at once, a byte at a time, so that the reads of the lexicon, most of which miss the cache, overlap.
    Of more matches than there is room for, the number alone is right.
    """
    size, begin = np.uint64(end - start), np.uint64(start)
    capacity = np.uint64(search.stops.shape[0])
    alive, found = np.uint64(0), np.uint64(0)
    at = np.int64(start)
    while at < end:
        code, width = decoded(data, at)
        place = np.uint64(at - start)
        at += width
        search.firsts[place] = 0
        entry, stop = lexicon[0] & LOW, place
        if code < begins.shape[0]:
            entry, stop = begins[np.uint64(code)], place + np.uint64(width)
        if entry >> HALF:
            if found < capacity:
                _match(search, found, place, stop, (entry >> HALF) - ONE)
            found += ONE
        search.walks[alive], search.bytes[alive], search.nodes[alive] = place, stop, entry & LOW
        alive += np.uint64(entry & LOW != 0)
    while alive:
        kept = np.uint64(0)
        for number in range(alive):
            stop, node = np.uint64(search.bytes[number]), np.uint64(search.nodes[number])
            if stop == size:
                continue
            entry = lexicon[node + np.uint64(data[begin + stop]) + ONE]
            if entry >> HALF != node:
                continue
            place, node = search.walks[number], entry & LOW
            stop += ONE
            search.walks[kept], search.bytes[kept], search.nodes[kept] = place, stop, node
            kept += ONE
            if stop < size and data[begin + stop] & 0xC0 == 0x80:
                continue  # within a character no word ends
            entry = lexicon[node]
            value = np.int64(np.int32(entry & LOW))
            if entry >> HALF == node and value < 0:
                if found < capacity:
                    _match(search, found, np.uint64(place), stop, np.uint64(-value) - ONE)
                found += ONE
        alive = kept
    return found


@compiled(inline=True)
def _unknown(data, start, end, place, found, dictionary, search):
    """Note the unknown words that begin at a place behind those of the lexicon; the number of matches after it."""
    characters, unknown = dictionary.characters, dictionary.unknown
    kind, width = character(data, start + place, end, characters)
    here = np.uint64(place)
    if search.firsts[here] and not (kind >> 31) & 1:
        return found
    word = np.uint64(unknown[np.uint64((kind >> 18) & 0xFF)])
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
            _match(search, found, here, np.uint64(at - start), word)
            found += ONE
        grouped = at
    at = after
    for _ in range((kind >> 26) & 0xF):
        if at == grouped:
            continue
        _match(search, found, here, np.uint64(at - start), word)
        found += ONE
        if at == end:
            break
        other, width = character(data, at, end, characters)
        if not (kind & other & TYPES):
            break
        at += width
    if search.firsts[here] == 0:
        _match(search, found, here, np.uint64(after - start), word)
        found += ONE
    return found


@compiled(inline=True)
def _neighbours(search, place):
    """Collect the words that end at a place; their number."""
    keys, rights, near_keys, near_rights = search.keys, search.rights, search.near_keys, search.near_rights
    group, count = np.uint64(search.heads[place]), np.uint64(0)
    while group:
        first = group - ONE
        for word in range(first, first + np.uint64(search.counts[first])):
            near_keys[count], near_rights[count] = keys[word], rights[word]
            count += ONE
        group = np.uint64(search.others[first])
    return count


@compiled(inline=True)
def _best(row, neighbours, matrix, near_keys, near_rights):
    """The least key of the words that end at the place in work, the cost of going on with a left context in it."""
    best = FAR
    for number in range(neighbours):
        link = np.int64(matrix[row + np.uint64(near_rights[number])])
        best = min(best, near_keys[number] + (link << COST_AT))
    return best


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
    tokens, matrix, contexts = dictionary.tokens, dictionary.matrix, np.uint64(dictionary.contexts)
    keys, rights, befores, heads = search.keys, search.rights, search.befores, search.heads
    met, least, near_keys, near_rights = search.met, search.least, search.near_keys, search.near_rights
    capacity, size = np.uint64(keys.shape[0]), end - start
    found = _matched(data, start, end, dictionary.lexicon, dictionary.begins, search)
    if found + np.uint64(18) > capacity:
        return NONE
    for number in range(found):
        prefetch(tokens, np.uint64(search.words[number]) >> np.uint64(8))
    for at in range(np.uint64(size + 1)):
        heads[at] = 0
    keys[0], rights[0], befores[0], search.counts[0], search.others[0] = 0, 0, 0, 1, 0
    heads[0] = 1
    used, moment = ONE, search.clock[0]
    for place in range(size):
        here = np.uint64(place)
        if heads[here] == 0:
            continue
        moment += ONE
        search.clock[0] = moment
        neighbours = _neighbours(search, here)
        if found + np.uint64(18) > capacity:
            return NONE
        found = _unknown(data, start, end, place, found, dictionary, search)
        mark = np.int64(LAST - place) << np.int64(NODE_BITS)
        match = np.uint64(search.firsts[here])
        while match:
            match -= ONE
            word, stop = np.uint64(search.words[match]), np.uint64(search.stops[match])
            match = np.uint64(search.nexts[match])
            first, count = word >> np.uint64(8), word & np.uint64(0xFF)
            if used + count > capacity:
                return NONE
            search.counts[used], search.others[used] = count, heads[stop]
            heads[stop] = used + ONE
            for token in range(first, first + count):
                entry = tokens[token]
                left = entry & np.uint64(0xFFFF)
                best = least[left]
                if met[left] != moment:
                    best = _best(contexts * left, neighbours, matrix, near_keys, near_rights)
                    met[left], least[left] = moment, best
                cost = (best >> COST_AT) + (np.int64(entry) >> np.int64(32))
                keys[used] = (cost << COST_AT) | mark | np.int64(used)
                rights[used] = (entry >> np.uint64(16)) & np.uint64(0xFFFF)
                befores[used] = best & NODE
                used += ONE
    neighbours = _neighbours(search, np.uint64(size))
    last = np.uint64(_best(np.uint64(0), neighbours, matrix, near_keys, near_rights) & NODE)
    words, at = 0, last
    while at:
        words += 1
        at = np.uint64(befores[at])
    at, number, stop = last, words, size
    while at:
        number -= 1
        search.cuts[number] = stop
        stop = LAST - ((keys[at] >> np.int64(NODE_BITS)) & LAST)
        at = np.uint64(befores[at])
    return words
