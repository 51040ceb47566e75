"""Pre-tokens that the memo does not know: they are noted, learnt together, and their ids put where they belong.

To learn a pretoken takes a dictionary, a matrix and a vocabulary, to look one up takes the memo. Done in turn, each would push the
other's memory and branches out of the processor; so some thousand pretokens are learnt at a time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hyperclova_core.foundation.jit import compiled
from hyperclova_core.tokens.bpe.merges import Merges, Symbols, encode_piece
from hyperclova_core.tokens.encoder.pretoken_cache import ABSENT, LONGEST_UNIT, SHORT, find, has_room, insert, slot_of
from hyperclova_core.tokens.pretokens.analyser import Analyser
from hyperclova_core.tokens.pretokens.pieces import Pieces, Rules, cut_unit
from hyperclova_core.tokens.pretokens.viterbi import Search
from hyperclova_core.tokens.pretokens.word_access import load_word

MISSED_AT_ONCE = 4096
DONE, OUT_FULL, MEMO_FULL, TOO_LITTLE_ROOM = 0, 1, 2, 3
ROW, PLACE, WRITTEN, ROW_BEGAN, NEEDED, MISSED, PRETOKENS, LEARNT_BYTES, CLEARED, NOTED, LEARNT, FILLED, LACKING = (
    range(13)
)
STATES = LACKING + 1
"""What `state` holds: the row in work and the place in it, ids written, where the row's ids begin; room that is needed (bytes of a pretoken;
negative: ids aside; 0: nodes); counted on, pretokens that the memo did not know, all pretokens, bytes of those that were learnt; whether the memo
of learnt pretokens was just cleared: pretokens at once that are more than it holds are not remembered then; and of the pretokens in `Missed`, how many
there are, how many of them have their ids, how many ids those are, and the bytes of all, for which `out` keeps room."""


class Tools(NamedTuple):
    """All that one thread encodes a pretoken with."""

    rules: Rules
    dictionary: Analyser
    merges: Merges
    search: Search
    pieces: Pieces
    symbols: Symbols


class Missed(NamedTuple):
    """Pre-tokens that wait: where they begin and end, their keys, their row, where in `out` their ids belong; and, of those that have them,
    where their ids lie aside, and how many."""

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    firsts: npt.NDArray[np.uint64]
    seconds: npt.NDArray[np.uint64]
    rows: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    values: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]


def room_for_missed() -> Missed:
    """Workspace of one thread."""
    size = MISSED_AT_ONCE
    keys = np.empty(size, np.uint64), np.empty(size, np.uint64)
    starts, ends, rows, places, values, sizes = (np.empty(size, np.int64) for _ in range(6))
    return Missed(starts, ends, *keys, rows, places, values, sizes)


@compiled()
def learn_missed(data, missed, tools, grown, aside, state, inline, bits, longest):
    """Encode the pretokens that wait, and remember them; DONE or what is lacking: it goes on where it was."""
    total = np.int64(grown.slots.shape[0])
    mask = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    while state[LEARNT] < state[NOTED]:
        number, filled = state[LEARNT], state[FILLED]
        start, end = missed.starts[number], missed.ends[number]
        size = end - start
        if size > longest:
            state[NEEDED] = size
            return TOO_LITTLE_ROOM
        if filled + max(size, LONGEST_UNIT) > aside.shape[0]:
            state[NEEDED] = -(filled + max(size, LONGEST_UNIT))
            return TOO_LITTLE_ROOM
        first, second = missed.firsts[number], missed.seconds[number]
        place = np.int64(ABSENT)
        if size <= LONGEST_UNIT:
            place = find(grown.slots, grown.more, data, start, end, first, second, slot_of(first, second, total))
        if place == ABSENT:
            fits = size <= LONGEST_UNIT and has_room(grown)
            if not fits and size <= LONGEST_UNIT and state[CLEARED] == 0:
                return MEMO_FULL
            tokens = encode_unit(data, start, end, tools, aside, filled)
            if tokens < 0:
                state[NEEDED] = 0
                return TOO_LITTLE_ROOM
            if size <= LONGEST_UNIT:
                state[LEARNT_BYTES] += size
            if fits:
                insert(grown, data, start, end, first, second, aside[filled:], tokens, inline, bits)
        else:
            value = grown.slots[place, 2]
            tokens = np.int64(grown.slots[place, 3] >> np.uint64(16))
            if size <= SHORT and tokens <= inline:
                for at in range(tokens):
                    aside[filled + at] = (value >> np.uint64(bits * at)) & mask
            else:
                more = np.int64(value) + (size if size > SHORT else 0)
                for at in range(tokens):
                    aside[filled + at] = load_word(grown.more, more + 4 * at) & np.uint64(0xFFFFFFFF)
        missed.values[number], missed.sizes[number] = filled, tokens
        state[FILLED] += tokens
        state[LEARNT] += 1
    state[CLEARED] = 0
    return DONE


@compiled()
def fill_in(missed, aside, out, lengths, state):
    """Put the ids of the pretokens that waited where they belong: from the last on, what lies behind each moves up."""
    shift, row = state[FILLED], state[ROW]
    end = state[WRITTEN]
    state[WRITTEN] += shift
    for back in range(state[NOTED]):
        number = state[NOTED] - 1 - back
        place, value, size = missed.places[number], missed.values[number], missed.sizes[number]
        to = np.uint64(end + shift)
        source = np.uint64(end)
        for _ in range(end - place):
            to -= np.uint64(1)
            source -= np.uint64(1)
            out[to] = out[source]
        shift -= size
        for at in range(size):
            out[place + shift + at] = aside[value + at]
        end = place
        if missed.rows[number] < row:
            lengths[missed.rows[number]] += size
            state[ROW_BEGAN] += size
    state[NOTED], state[LEARNT], state[FILLED], state[LACKING] = 0, 0, 0, 0


@compiled()
def encode_unit(data, start, end, tools, out, to):
    """Encode one pretoken into out[to:]; the number of ids, or -1 where `search` has too little room."""
    pieces, symbols = tools.pieces, tools.symbols
    count = cut_unit(data, start, end, tools.rules, tools.dictionary, tools.search, pieces)
    if count < 0:
        return -1
    at, written = start, 0
    for number in range(count):
        stop = pieces.ends[number]
        if pieces.tokens[number] >= 0:
            out[to + written] = pieces.tokens[number]
            written += 1
        else:
            tokens = encode_piece(data, at, stop, tools.merges, symbols)
            for more in range(tokens):
                out[to + written + more] = symbols.ids[more]
            written += tokens
        at = stop
    return written
