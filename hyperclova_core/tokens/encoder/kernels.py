"""Whole Arrow columns to token ids: scan some thousand pretokens, look all of them up, write; learn those not known (missed.py).

Between these steps nothing depends on what came before, so the processor has many reads of memory under way at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hyperclova_core.foundation.jit import compiled
from hyperclova_core.tokens.encoder.cache_misses import (
    DONE,
    LACKING,
    MISSED,
    MISSED_AT_ONCE,
    NEEDED,
    NOTED,
    OUT_FULL,
    PLACE,
    PRETOKENS,
    ROW,
    ROW_BEGAN,
    WRITTEN,
    encode_unit,
    fill_in,
    learn_missed,
)
from hyperclova_core.tokens.encoder.pretoken_cache import (
    ABSENT,
    LONGEST_UNIT,
    SHORT,
    find,
    has_room,
    insert,
    key_of,
    slot_of,
)
from hyperclova_core.tokens.pretokens.character_classes import KIND, UNSURE, WHITE
from hyperclova_core.tokens.pretokens.pieces import MORPHEME, cut_unit
from hyperclova_core.tokens.pretokens.rules import UNIT_CHARACTERS
from hyperclova_core.tokens.pretokens.utf8 import decoded
from hyperclova_core.tokens.pretokens.word_access import load_word, look_at_block, prefetch, store_word, trailing_zeros

UNITS_AT_ONCE = 1024
IN_SLOT, KNOWN, NOWHERE = range(3)


@compiled(inline=True)
def _plain_bytes(word):
    """Bytes at the low end of a word that are neither white space nor need a look: signs of ASCII, and Hangul syllables.

    Eight bytes at a time (Mycroft's and Lamport's ways): what needs a look is below 0x21, or leads a character and is not 0xEB to
    0xED or 0xEA before 0xB0 and more, which lead syllables (and 0xED surrogates and old letters, all of them neither white nor
    combining).
    """
    tops = np.uint64(0x8080808080808080)
    ones = np.uint64(0x0101010101010101)
    low = (word - np.uint64(0x21) * ones) & ~word & tops
    leads = word & (word << np.uint64(1)) & tops
    six = word & (np.uint64(0x3F) * ones)
    from_ea = ((six + np.uint64(0x16) * ones) << np.uint64(1)) & tops
    from_eb = ((six + np.uint64(0x15) * ones) << np.uint64(1)) & tops
    from_ee = ((six + np.uint64(0x12) * ones) << np.uint64(1)) & tops
    third = word & tops & (word << np.uint64(1)) & (word << np.uint64(2))  # 0xE0 and more
    behind = word >> np.uint64(8)
    high = (behind << np.uint64(2)) & (behind << np.uint64(3)) & tops  # the next byte is 0xB0 and more
    fine = third & ~from_ee & (from_eb | (from_ea & high))
    look = low | (leads & ~fine)
    if look == 0:
        return np.int64(8)
    return np.int64(trailing_zeros(look) >> np.uint64(3))


@compiled(inline=True)
def _unit_end(data, at, end, classes, limit):
    """(end of the pretoken that begins at a place, whether a character in it may not be NFC)."""
    unsure = False
    left = limit
    while at < end and left:
        byte = data[at]
        if byte < 0x80:
            if classes[byte] & KIND != WHITE:
                break
            at += 1
        elif byte == 0xC2 or (byte >= 0xE1 and byte <= 0xE3):
            code, width = decoded(data, at)
            if classes[code] & KIND != WHITE:
                break
            unsure |= classes[code] & UNSURE != 0  # U+2000 and U+2001 are other white space in NFC
            at += width
        else:
            break
        left -= 1
    if left == 0 and at < end and classes[decoded(data, at)[0]] & KIND == WHITE:
        return at, unsure
    left = limit
    begin, counted = at, False
    while at < end and left:
        while not counted and at + 8 <= end and at - begin <= limit - 8:
            stop = _plain_bytes(load_word(data, at))
            at += stop
            if stop < 8:
                break
        if at >= end:
            break
        if not counted and at - begin > limit - 8:
            at, counted = begin, True  # more bytes than may be characters: they are counted one by one
            continue
        byte = data[at]
        if byte < 0x80:
            if classes[byte] & KIND == WHITE:
                break
            at += 1
        elif byte < 0xC0:  # words of eight bytes end within characters
            at += 1
            continue
        elif byte >= 0xEB and byte <= 0xEC:
            at += 3
        else:
            code, width = decoded(data, at)
            kind = classes[code]
            if kind & KIND == WHITE:
                break
            unsure |= kind & UNSURE != 0
            at += width
        if counted:
            left -= 1
    return at, unsure


class Pretokens(NamedTuple):
    """Some pretokens in work: where they begin and end, their keys, where the memo's search begins, and what was found: four ids (two,
    of 32 bits) or a place, how many ids, and where (IN_SLOT, KNOWN, NOWHERE)."""

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    firsts: npt.NDArray[np.uint64]
    seconds: npt.NDArray[np.uint64]
    slots: npt.NDArray[np.uint64]
    values: npt.NDArray[np.uint64]
    sizes: npt.NDArray[np.int64]
    sources: npt.NDArray[np.int8]
    rest: npt.NDArray[np.int64]


def room_for_pretokens() -> Pretokens:
    """Workspace of one thread."""
    size = UNITS_AT_ONCE + 1
    return Pretokens(
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.uint64),
        np.empty(size, np.uint64),
        np.empty(size, np.uint64),
        np.empty(size, np.uint64),
        np.empty(size, np.int64),
        np.empty(size, np.int8),
        np.empty(size, np.int64),
    )


@compiled()
def _put_long(data, at, end, classes, limit, starts, ends, count):
    """Put a pretoken down that is longer than one may be, as several; (number, where the last ends)."""
    while at < end and count < UNITS_AT_ONCE:
        stop, _ = _unit_end(data, at, end, classes, limit)
        starts[count], ends[count] = at, stop
        count += 1
        at = stop
    return count, at


@compiled()
def _scan(data, offsets, classes, limit, row, at, starts, ends, unsure):
    """Find the next pretokens; (their number, rows that ended, where the scan stopped).

    A pretoken is white space and what follows it, so it ends where white space begins behind something else. Blanks and the few bytes
    that need a look are found 64 at a time; `core` is where white space at the beginning of the pretoken in work ends.
    """
    rows = len(offsets) - 1
    end = np.int64(offsets[row + 1])
    count, closed = 0, 0
    core = block = at
    while count < UNITS_AT_ONCE:
        if at == end:
            closed += 1
            row += 1
            if row == rows:
                break
            at, end = np.int64(offsets[row]), np.int64(offsets[row + 1])
            core = block = at
            continue
        # at the end of the data, or within a word that is longer than one may be
        if end + 64 > data.shape[0] or block - at > limit:
            stop, doubtful = _unit_end(data, at, end, classes, limit)
            unsure[row] |= doubtful
            starts[count], ends[count] = at, stop
            count += 1
            at = core = block = stop
            continue
        blanks, events = look_at_block(data, block)
        events |= blanks
        if end - block < 64:
            events &= (np.uint64(1) << np.uint64(end - block)) - np.uint64(1)
        while events:
            place = block + np.int64(trailing_zeros(events))
            width = 1
            if not blanks & events & (~events + np.uint64(1)):
                code, width = decoded(data, place)
                kind = classes[code]
                unsure[row] |= kind & UNSURE != 0
                if kind & KIND != WHITE:
                    events &= events - np.uint64(1)
                    continue
            events &= events - np.uint64(1)
            if place != core:
                if place - at > limit:
                    count, at = _put_long(data, at, place, classes, limit, starts, ends, count)
                else:
                    starts[count], ends[count] = at, place
                    count += 1
                    at = place
                if count == UNITS_AT_ONCE:
                    break
            core = place + width
        block += 64
        if block >= end and count < UNITS_AT_ONCE:
            if end - at > limit:
                count, at = _put_long(data, at, end, classes, limit, starts, ends, count)
            else:
                starts[count], ends[count] = at, end
                count += 1
                at = end
    return count, closed, at


@compiled()
def _look_up(data, pretokens, count, known, inline):
    """Find pretokens in the memo; how many it does not know."""
    starts, ends, firsts, seconds, places, values, sizes, sources, _ = pretokens
    slots, more, _ = known
    words, total = slots.reshape(-1), slots.shape[0]
    for number in range(count):
        first, second = key_of(data, starts[number], ends[number])
        firsts[number], seconds[number] = first, second
        places[number] = slot_of(first, second, total)
        prefetch(words, np.uint64(4) * places[number])
    for number in range(count):
        size = ends[number] - starts[number]
        if size > SHORT and size < LONGEST_UNIT - 8 and slots[places[number], 3] != 0:
            place = slots[places[number], 2]
            place = place if place < np.uint64(more.shape[0] - LONGEST_UNIT) else np.uint64(0)  # a place, or four ids
            prefetch(more, place)
            prefetch(more, place + np.uint64(size + 8))
    # most are where they are looked for first; the others are listed, without a branch that depends on memory
    rest, listed = pretokens.rest, 0
    for number in range(count):
        place, size = places[number], np.uint64(ends[number] - starts[number])
        held = slots[place, 3]
        ids = held >> np.uint64(16)
        values[number] = slots[place, 2]
        sizes[number] = np.int64(ids)
        sources[number] = IN_SLOT
        differs = (
            (slots[place, 0] ^ firsts[number])
            | (slots[place, 1] ^ seconds[number])
            | ((held & np.uint64(0xFFFF)) ^ size)
        )
        rest[listed] = number
        listed += np.int64((differs != 0) | (size > SHORT) | (ids > np.uint64(inline)))
    missed = 0
    for at in range(listed):
        number = rest[at]
        start, end = starts[number], ends[number]
        place = find(slots, more, data, start, end, firsts[number], seconds[number], places[number])
        if place >= 0:
            values[number] = slots[place, 2]
            ids = slots[place, 3] >> np.uint64(16)
            sizes[number] = np.int64(ids)
            sources[number] = IN_SLOT if end - start <= SHORT and ids <= np.uint64(inline) else KNOWN
        else:
            sources[number] = NOWHERE
            missed += 1
    return missed


@compiled()
def _write(offsets, pretokens, count, closed, known, missed, out, lengths, state, eod):
    """Write the ids of pretokens, and end-of-document behind each row that ended; note the pretokens that the memo does not know."""
    starts, ends, firsts, seconds, _, values, sizes, sources, _ = pretokens
    more = known.more
    row, to, began, noted = state[ROW], state[WRITTEN], state[ROW_BEGAN], state[NOTED]
    last = row + closed
    edge = np.int64(offsets[row + 1])
    for number in range(np.uint64(count)):
        while starts[number] >= edge:
            if eod >= 0:
                out[to] = eod
                to += 1
            lengths[row] = to - began
            began = to
            row += 1
            edge = np.int64(offsets[row + 1])
        source = sources[number]
        if source == IN_SLOT:
            store_word(out, to, values[number])
            to += sizes[number]
        elif source == KNOWN:
            place, length = np.int64(values[number]), ends[number] - starts[number]
            if length > SHORT:
                place += length
            for at in range(sizes[number]):
                out[to + at] = load_word(more, place + 4 * at) & np.uint64(0xFFFFFFFF)
            to += sizes[number]
        else:
            missed.starts[noted], missed.ends[noted] = starts[number], ends[number]
            missed.firsts[noted], missed.seconds[noted] = firsts[number], seconds[number]
            missed.rows[noted], missed.places[noted] = row, to
            state[LACKING] += ends[number] - starts[number]
            noted += 1
    while row < last:
        if eod >= 0:
            out[to] = eod
            to += 1
        lengths[row] = to - began
        began = to
        row += 1
    state[ROW], state[WRITTEN], state[ROW_BEGAN], state[NOTED] = row, to, began, noted


@compiled()
def encode_rows(
    data,
    offsets,
    tools,
    known,
    grown,
    pretokens,
    missed,
    aside,
    out,
    lengths,
    unsure,
    state,
    eod,
    inline,
    bits,
    longest,
):
    """Encode rows of a column from where `state` says; resumable: with more room it goes on.

    Args:
        data, offsets: an Arrow string column's buffers; row r is data[offsets[r]:offsets[r + 1]].
        tools: a `Tools`.
        known: the frozen `Memo`; grown: the one that new pretokens go into.
        pretokens, missed, aside: workspaces; the last for ids of pretokens that the memo does not know.
        out: uint16 or int32, gets the ids; lengths: of each row, end-of-document included.
        unsure: 1 for rows that may not be in NFC.
        eod: written behind each row; -1: nothing is.
        inline, bits: as the memo's.
        longest: bytes of a pretoken that the workspaces have room for.

    Returns:
        DONE, or what is lacking.
    """
    limit = UNIT_CHARACTERS if tools.rules.kind == MORPHEME else 1 << 62
    rows = len(offsets) - 1
    while True:
        if state[NOTED] and (state[ROW] == rows or state[NOTED] + UNITS_AT_ONCE > MISSED_AT_ONCE):
            lack = learn_missed(data, missed, tools, grown, aside, state, inline, bits, longest)
            if lack != DONE:
                return lack
            fill_in(missed, aside, out, lengths, state)
        if state[ROW] == rows:
            return DONE
        begin = max(state[PLACE], np.int64(offsets[state[ROW]]))
        count, closed, at = _scan(
            data, offsets, tools.rules.classes, limit, state[ROW], begin, pretokens.starts, pretokens.ends, unsure
        )
        needed = state[LACKING] + (at - begin) + closed + 8
        if out.shape[0] - state[WRITTEN] < needed:
            state[NEEDED] = needed
            return OUT_FULL
        state[MISSED] += _look_up(data, pretokens, count, known, inline)
        _write(offsets, pretokens, count, closed, known, missed, out, lengths, state, eod)
        state[PLACE] = at
        state[PRETOKENS] += count


@compiled()
def learn(data, offsets, tools, memo, scratch, inline, bits):
    """Put pretokens, one a row and each once, into a memo while there is room; how many went in (-1: `search` is too small)."""
    for row in range(len(offsets) - 1):
        start, end = np.int64(offsets[row]), np.int64(offsets[row + 1])
        if end - start > LONGEST_UNIT or start == end:
            continue
        if not has_room(memo):
            return row
        first, second = key_of(data, start, end)
        at = slot_of(first, second, memo.slots.shape[0])
        if find(memo.slots, memo.more, data, start, end, first, second, at) != ABSENT:
            continue
        tokens = encode_unit(data, start, end, tools, scratch, 0)
        if tokens < 0:
            return -1
        insert(memo, data, start, end, first, second, scratch, tokens, inline, bits)
    return len(offsets) - 1


@compiled()
def units_of_rows(data, offsets, classes, kind, starts, ends):
    """Where the pretokens of all rows begin and end; their number. Both arrays have room for half the bytes plus the rows."""
    limit = UNIT_CHARACTERS if kind == MORPHEME else 1 << 62
    count = 0
    for row in range(len(offsets) - 1):
        at, end = np.int64(offsets[row]), np.int64(offsets[row + 1])
        while at < end:
            stop, _ = _unit_end(data, at, end, classes, limit)
            starts[count], ends[count] = at, stop
            count += 1
            at = stop
    return count


@compiled()
def cut_units(data, offsets, rules, dictionary, search, pieces, out, ends, counts):
    """Pre-tokens, one a row, cut into pieces; placeholders are left out.

    Args:
        out: gets the bytes of the pieces, one behind the other; ends: where each ends; counts: pieces of each pretoken.

    Returns:
        The number of pieces; -1 where `search` has too little room.
    """
    to, written = 0, 0
    for row in range(len(offsets) - 1):
        at = np.int64(offsets[row])
        count = cut_unit(data, at, np.int64(offsets[row + 1]), rules, dictionary, search, pieces)
        if count < 0:
            return -1
        counts[row] = 0
        for piece in range(count):
            stop = pieces.ends[piece]
            if pieces.tokens[piece] < 0:
                for more in range(stop - at):
                    out[to + more] = data[at + more]
                to += stop - at
                ends[written] = to
                written += 1
                counts[row] += 1
            at = stop
    return written
