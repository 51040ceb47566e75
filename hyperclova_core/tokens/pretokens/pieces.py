"""A pretoken cut into pieces in compiled code: what `rules.PreTokenizer` says in plain Python, byte for byte."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hyperclova_core.foundation.jit import compiled
from hyperclova_core.tokens.pretokens.analyser import Analyser
from hyperclova_core.tokens.pretokens.character_classes import DIGIT, KIND, LETTER, SYLLABLE, WHITE
from hyperclova_core.tokens.pretokens.utf8 import decoded
from hyperclova_core.tokens.pretokens.viterbi import NONE, Search, best_cut

MORPHEME, BYTE, CHARACTER = 0, 1, 2
KINDS = {"morpheme": MORPHEME, "byte": BYTE, "character": CHARACTER}
BLANK, BRACKET, APOSTROPHE = 0x20, 0x5B, 0x27


class Rules(NamedTuple):
    """How pretokens are cut.

    Attributes:
        kind: MORPHEME, BYTE or CHARACTER.
        digits: digits a piece at most; 0: any number.
        classes: of each code point.
        placeholders: their bytes one after the other; each begins with `[`.
        borders: where each begins, and the end of the last.
        ids: the token of each.
    """

    kind: int
    digits: int
    classes: npt.NDArray[np.uint8]
    placeholders: npt.NDArray[np.uint8]
    borders: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int32]


class Pieces(NamedTuple):
    """Workspace of one thread: the end of each piece in the data, and the token it is (-1: BPE finds its tokens)."""

    ends: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int32]


def pieces_for(size: int) -> Pieces:
    """Room for the pieces of pretokens of up to `size` bytes."""
    return Pieces(np.empty(size + 1, np.int64), np.empty(size + 1, np.int32))


@compiled()
def placeholder_at(data, at, end, rules):
    """Number of the placeholder that begins at a place, or -1."""
    for number in range(len(rules.ids)):
        first, last = rules.borders[number], rules.borders[number + 1]
        size = last - first
        if at + size > end:
            continue
        same = True
        for more in range(size):
            if data[at + more] != rules.placeholders[first + more]:
                same = False
                break
        if same:
            return number
    return NONE


@compiled()
def cut_unit(data, start, end, rules, dictionary, search, pieces):
    """Cut the pretoken data[start:end]; the number of pieces, or -1 where `search` has too little room."""
    classes = rules.classes
    at, last = start, start
    white = 0
    while at < end:
        code, width = decoded(data, at)
        if classes[code] & KIND != WHITE:
            break
        last = at
        at += width
        white += 1
    core = at
    count = 0
    if core == end:
        if core > start:
            pieces.ends[0], pieces.tokens[0] = end, NONE
            count = 1
        return count
    first = placeholder_at(data, core, end, rules) if data[core] == BRACKET else NONE
    begin = core
    if core > start:
        if data[last] != BLANK or first >= 0:
            if rules.kind != MORPHEME and white > 1 and first < 0:
                pieces.ends[count], pieces.tokens[count] = last, NONE
                count += 1
            pieces.ends[count], pieces.tokens[count] = core, NONE
            count += 1
        else:
            if white > 1:
                pieces.ends[count], pieces.tokens[count] = last, NONE
                count += 1
            begin = last
    at = core
    while at < end:
        # the part up to the next placeholder
        stop, number = at, NONE
        while stop < end:
            if data[stop] == BRACKET:
                number = placeholder_at(data, stop, end, rules)
                if number >= 0:
                    break
            stop += 1
        if stop > at:
            if rules.kind == MORPHEME:
                count = _morphemes(data, at, stop, rules, dictionary, search, pieces, count)
                if count < 0:
                    return NONE
            elif rules.kind == BYTE:
                count = _gpt2(data, begin, at, stop, rules, pieces, count)
            else:
                pieces.ends[count], pieces.tokens[count] = stop, NONE
                count += 1
        if number >= 0:
            stop += rules.borders[number + 1] - rules.borders[number]
            pieces.ends[count], pieces.tokens[count] = stop, rules.ids[number]
            count += 1
        at = begin = stop
    return count


@compiled()
def _morphemes(data, start, end, rules, dictionary, search, pieces, count):
    classes = rules.classes
    hangul, odd = False, False
    at = start
    while at < end:
        code, width = decoded(data, at)
        if classes[code] & SYLLABLE:
            hangul = True
        elif code == 0 or 0xD800 <= code < 0xE000:
            odd = True
        at += width
    if not hangul:
        return _runs(data, start, end, rules, pieces, count)
    if odd:
        return _digits_apart(data, start, end, rules, pieces, count)
    words = best_cut(data, start, end, dictionary, search)
    if words < 0:
        return NONE
    begin = start
    for number in range(words):
        stop = start + search.cuts[number]
        count = _digits_apart(data, begin, stop, rules, pieces, count)
        begin = stop
    return count


@compiled()
def _digits_apart(data, start, end, rules, pieces, count):
    """Pieces of a word: its digits in groups, and what lies between."""
    at, length, digit = start, 0, False
    while at < end:
        code, width = decoded(data, at)
        now = rules.classes[code] & KIND == DIGIT
        if at > start and (now != digit or (now and length == rules.digits)):
            pieces.ends[count], pieces.tokens[count] = at, NONE
            count += 1
            length = 0
        digit = now
        length += 1
        at += width
    pieces.ends[count], pieces.tokens[count] = end, NONE
    return count + 1


@compiled()
def _runs(data, start, end, rules, pieces, count):
    """Pieces of a part without Hangul: runs of letters, groups of digits, runs of one sign."""
    at, length = start, 0
    kind, sign = -1, np.int64(-1)
    while at < end:
        code, width = decoded(data, at)
        now = np.int64(rules.classes[code] & KIND)
        same = now == kind and (
            now == LETTER
            or (now == DIGIT and length != rules.digits)
            or (now != LETTER and now != DIGIT and code == sign)
        )
        if at > start and not same:
            pieces.ends[count], pieces.tokens[count] = at, NONE
            count += 1
            length = 0
        kind, sign = now, code
        length += 1
        at += width
    pieces.ends[count], pieces.tokens[count] = end, NONE
    return count + 1


@compiled()
def _gpt2(data, begin, start, end, rules, pieces, count):
    """GPT-2's pre-tokenizer on a part; a blank at `begin`, before `start`, goes with the first piece."""
    at = start
    while at < end:
        if data[at] == APOSTROPHE and not (at == start and begin < start) and at + 1 < end:
            one = data[at + 1]
            two = data[at + 2] if at + 2 < end else 0
            size = 0
            if one == 0x73 or one == 0x74 or one == 0x6D or one == 0x64:  # s t m d
                size = 2
            elif (one == 0x72 or one == 0x76) and two == 0x65 or one == 0x6C and two == 0x6C:  # re ve
                size = 3
            if size:
                at += size
                pieces.ends[count], pieces.tokens[count] = at, NONE
                count += 1
                continue
        code, width = decoded(data, at)
        kind = rules.classes[code] & KIND
        at += width
        while at < end:
            code, width = decoded(data, at)
            if rules.classes[code] & KIND != kind:
                break
            at += width
        pieces.ends[count], pieces.tokens[count] = at, NONE
        count += 1
    return count


__all__ = ["Analyser", "Pieces", "Rules", "Search", "cut_unit", "pieces_for"]
