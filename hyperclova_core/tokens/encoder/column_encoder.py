"""Arrow columns in, token ids out: buffers, workspaces and growing room around the kernels.

The ids are those of `Tokenizer.encode`, whatever the memo knows, however the rows are batched, and however often room ran out.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hyperclova_core.tokens.bpe.merges import Merges, merges_of, symbols_for
from hyperclova_core.tokens.encoder import cache_misses, kernels
from hyperclova_core.tokens.encoder.pretoken_cache import LONGEST_UNIT, Memo, clear, empty_memo, frozen, nothing
from hyperclova_core.tokens.pretokens.analyser import Analyser, analyser
from hyperclova_core.tokens.pretokens.character_classes import table_of
from hyperclova_core.tokens.pretokens.pieces import KINDS, MORPHEME, Rules, pieces_for
from hyperclova_core.tokens.pretokens.rules import UNIT_CHARACTERS
from hyperclova_core.tokens.pretokens.viterbi import search_for
from hyperclova_core.tokens.special_tokens import id_type

GROWN_UNITS = 1 << 20
"""Pre-tokens that one worker remembers beside the memo it maps, about 100 MB; when they are full, it forgets them and starts anew."""
LONGEST = 4 * 2 * UNIT_CHARACTERS
BATCH_BYTES = 8 << 20


@dataclass(frozen=True)
class Encoded:
    """Ids of the rows of a batch, one row behind the other, and how many each has. Valid until the next call."""

    ids: npt.NDArray[Any]
    lengths: npt.NDArray[np.int64]


@dataclass
class Tally:
    """What an encoder has met: pretokens, those the memo did not know, bytes of those it had to learn (again, where it had forgotten)."""

    pretokens: int = 0
    missed: int = 0
    learnt_bytes: int = 0
    forgot: int = 0


class ColumnEncoder:
    """Encodes columns of texts with one tokenizer, in one thread.

    Args:
        model: the `model` of a tokenizer.json.
        kind, runs, digits, placeholders: as `rules.PreTokenizer` takes them; placeholders with their ids.
        nfc: whether texts are composed first (UAX #15).
        memo: what is known already; None: nothing.
        grown_pretokens: how many more may be remembered.
        vocabulary_size: decides between 16 and 32 bits an id, as Megatron does.
    """

    def __init__(
        self,
        model: dict[str, Any],
        kind: str,
        runs: list[int],
        digits: int,
        placeholders: dict[str, int],
        nfc: bool,
        vocabulary_size: int,
        memo: Memo | None = None,
        grown_pretokens: int = GROWN_UNITS,
    ) -> None:
        self.dtype: Any = id_type(vocabulary_size)
        self.tally = Tally()
        self._bits = 16 if self.dtype is np.uint16 else 32
        self._rules = rules_of(kind, runs, digits, placeholders)
        self._dictionary = analyser() if self._rules.kind == MORPHEME else _no_analyser()
        self._merges: Merges = merges_of(model)
        self._nfc = nfc
        self._known = memo if memo is not None else nothing()
        self._grown_units = grown_pretokens
        self._grown: Memo | None = None
        self._nodes = 1 << 16
        self._out: npt.NDArray[Any] = np.empty(0, self.dtype)
        self._units, self._missed = kernels.room_for_pretokens(), cache_misses.room_for_missed()
        self._aside: npt.NDArray[Any] = np.empty(8 * LONGEST_UNIT, self.dtype)
        self._make_room(LONGEST)

    def _make_room(self, longest: int) -> None:
        """Workspaces for pretokens of that many bytes."""
        self._longest = longest
        contexts = self._dictionary.matrix.size // self._dictionary.contexts
        self._tools = cache_misses.Tools(
            self._rules,
            self._dictionary,
            self._merges,
            search_for(contexts, LONGEST, self._nodes),
            pieces_for(longest),
            symbols_for(longest),
        )

    def encode(self, column: pa.Array | pa.ChunkedArray, eod: int = -1) -> Encoded:
        """Ids of every text of a string column; `eod` behind each, where it is not negative."""
        texts = _plain(column)
        data, offsets = buffers_of(texts)
        ids, lengths, unsure = self._encode(data, offsets, eod)
        changed = {}
        for row in np.flatnonzero(unsure).tolist() if self._nfc else ():
            text = data[int(offsets[row]) : int(offsets[row + 1])].tobytes().decode("utf-8", "surrogatepass")
            if not unicodedata.is_normalized("NFC", text):
                changed[row] = unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")
        return Encoded(*self._with_changed(ids, lengths, changed, eod)) if changed else Encoded(ids, lengths)

    def _with_changed(
        self, ids: npt.NDArray[Any], lengths: npt.NDArray[np.int64], changed: dict[int, bytes], eod: int
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
        """The ids with those of some rows encoded anew."""
        ids, ends = ids.copy(), np.cumsum(lengths)
        new, sizes, _ = self._encode(*buffers_of(pa.array(list(changed.values()), pa.large_binary())), eod)
        parts, at, taken = [], 0, 0
        for row, size in zip(changed, sizes.tolist(), strict=True):
            parts += [ids[at : ends[row] - lengths[row]], new[taken : taken + size]]
            at, taken = int(ends[row]), taken + size
            lengths[row] = size
        return np.concatenate([*parts, ids[at:]]), lengths

    def encode_texts(self, texts: Sequence[str], eod: int = -1) -> list[list[int]]:
        """The same for Python strings, halves of surrogate pairs and all."""
        raw = pa.array([text.encode("utf-8", "surrogatepass") for text in texts], pa.large_binary())
        encoded = self.encode(raw, eod)
        ends = np.cumsum(encoded.lengths)
        return [
            encoded.ids[end - size : end].tolist()
            for end, size in zip(ends.tolist(), encoded.lengths.tolist(), strict=True)
        ]

    def _encode(
        self, data: npt.NDArray[np.uint8], offsets: npt.NDArray[Any], eod: int
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
        rows = len(offsets) - 1
        lengths, unsure, state = (
            np.zeros(rows, np.int64),
            np.zeros(rows, np.uint8),
            np.zeros(cache_misses.STATES, np.int64),
        )
        if self._grown is None:
            self._grown = empty_memo(self._grown_units)
        if len(self._out) < 1024:
            self._out = np.empty(int(offsets[-1] - offsets[0]) // 2 + 2 * rows + 1024, self.dtype)
        while True:
            lack = kernels.encode_rows(
                data,
                offsets,
                self._tools,
                self._known,
                self._grown,
                self._units,
                self._missed,
                self._aside,
                self._out,
                lengths,
                unsure,
                state,
                eod,
                64 // self._bits,
                self._bits,
                self._longest,
            )
            if lack == cache_misses.DONE:
                break
            if lack == cache_misses.OUT_FULL:
                written = int(state[cache_misses.WRITTEN])
                wider = np.empty(written + max(int(state[cache_misses.NEEDED]), len(self._out) // 2), self.dtype)
                wider[:written] = self._out[:written]
                self._out = wider
            elif lack == cache_misses.MEMO_FULL:
                clear(self._grown)
                state[cache_misses.CLEARED] = 1
                self.tally.forgot += 1
            elif state[cache_misses.NEEDED] < 0:
                aside = np.empty(-2 * int(state[cache_misses.NEEDED]), self.dtype)
                aside[: len(self._aside)] = self._aside
                self._aside = aside
            elif state[cache_misses.NEEDED] > self._longest:
                self._make_room(int(state[cache_misses.NEEDED]))
            else:
                self._nodes *= 2
                self._make_room(self._longest)
        self.tally.pretokens += int(state[cache_misses.PRETOKENS])
        self.tally.missed += int(state[cache_misses.MISSED])
        self.tally.learnt_bytes += int(state[cache_misses.LEARNT_BYTES])
        return self._out[: int(state[cache_misses.WRITTEN])], lengths, unsure

    def memo_of(self, pretokens: pa.Array) -> Memo:
        """A memo that knows these pretokens (each once); the same pretokens in the same order give the same memo."""
        data, offsets = buffers_of(_plain(pretokens))
        sizes = np.diff(offsets)
        memo = empty_memo(len(sizes), 5 * int(sizes.sum()))
        scratch = np.empty(LONGEST_UNIT + 8, self.dtype)
        while True:
            done = kernels.learn(
                data,
                offsets,
                self._tools,
                memo,
                scratch,
                64 // self._bits,
                self._bits,
            )
            if done >= 0:
                return frozen(memo)
            self._nodes *= 2
            self._make_room(self._longest)


class ColumnPreTokenizer:
    """Cuts columns of texts into pretokens and pieces: what a tokenizer is learnt from."""

    def __init__(self, kind: str, runs: list[int], digits: int, placeholders: dict[str, int]) -> None:
        self._rules = rules_of(kind, runs, digits, placeholders)
        self._dictionary = analyser() if self._rules.kind == MORPHEME else _no_analyser()
        self._nodes = 1 << 16

    def pretokens(self, texts: pa.Array | pa.ChunkedArray) -> pa.Array:
        """All pretokens of all texts (in NFC), as byte strings in order."""
        data, starts, ends = self._cut(_plain(texts))
        sizes = ends - starts
        offsets = np.zeros(len(sizes) + 1, np.int64)
        np.cumsum(sizes, out=offsets[1:])
        # pretokens lie one behind the other in each row, and rows too
        first = int(starts[0]) if len(starts) else 0
        buffers = [
            None,
            pa.py_buffer(offsets),
            pa.py_buffer(np.ascontiguousarray(data[first : first + int(offsets[-1])])),
        ]
        return pa.Array.from_buffers(pa.large_binary(), len(sizes), buffers)

    def pieces(self, pretokens: pa.Array) -> tuple[pa.Array, npt.NDArray[np.int64]]:
        """(pieces of all pretokens, one behind the other, as byte strings; how many each pretoken has), without placeholders."""
        data, offsets = buffers_of(_plain(pretokens))
        sizes = np.diff(offsets)
        longest = max(LONGEST, int(sizes.max(initial=0)))
        contexts = self._dictionary.matrix.size // self._dictionary.contexts
        total = int(sizes.sum())
        out, ends = np.empty(total, np.uint8), np.zeros(total + 1, np.int64)
        counts = np.zeros(len(sizes), np.int64)
        while True:
            search, room = search_for(contexts, LONGEST, self._nodes), pieces_for(longest)
            count = kernels.cut_units(data, offsets, self._rules, self._dictionary, search, room, out, ends[1:], counts)
            if count >= 0:
                buffers = [None, pa.py_buffer(ends[: count + 1].copy()), pa.py_buffer(out)]
                return pa.Array.from_buffers(pa.large_binary(), count, buffers), counts
            self._nodes *= 2

    def _cut(self, texts: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        data, offsets = buffers_of(texts)
        room = int(offsets[-1] - offsets[0]) // 2 + len(texts) + 2
        starts, ends = np.empty(room, np.int64), np.empty(room, np.int64)
        count = kernels.units_of_rows(data, offsets, self._rules.classes, self._rules.kind, starts, ends)
        return data, starts[:count], ends[:count]


def rules_of(kind: str, runs: list[int], digits: int, placeholders: dict[str, int]) -> Rules:
    """The rules as the kernels take them."""
    raw = [token.encode() for token in placeholders]
    borders = np.zeros(len(raw) + 1, np.int64)
    np.cumsum([len(token) for token in raw], out=borders[1:])
    return Rules(
        KINDS[kind],
        digits,
        table_of(runs),
        np.frombuffer(b"".join(raw), np.uint8).copy(),
        borders,
        np.array(list(placeholders.values()), np.int32),
    )


def _no_analyser() -> Analyser:
    """An empty dictionary for tokenizers that do not ask it (compiled code wants one of that shape)."""
    lexicon, characters = np.zeros(1, np.uint64), np.zeros(1, np.uint32)
    lexicon.flags.writeable = characters.flags.writeable = False
    matrix, unknown = np.zeros(1, np.int16), np.zeros(1, np.uint32)
    return Analyser(lexicon, np.zeros(1, np.uint64), matrix, 1, characters, unknown, np.zeros(1, np.uint64))


def _plain(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # more than a string column can hold at once
        array = pa.concat_arrays([chunk.cast(pa.large_binary()) for chunk in array.chunks])
    return array


def buffers_of(array: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[Any]]:
    """(bytes, offsets) of a string or binary array without nulls; nothing is copied."""
    wide = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    kind: Any = np.int64 if wide else np.int32
    _, offsets, data = array.buffers()
    where = np.frombuffer(offsets, kind)[array.offset : array.offset + len(array) + 1] if offsets else np.zeros(1, kind)
    where.flags.writeable = False
    return np.frombuffer(data if data is not None else b"", np.uint8), where


def batched(arrays: Iterable[pa.Array], limit: int = BATCH_BYTES) -> Iterable[pa.Array]:
    """Arrays cut so that none holds much more than `limit` bytes."""
    for array in arrays:
        rows = max(1, len(array) * limit // max(1, array.nbytes))
        for start in range(0, len(array), rows):
            yield array.slice(start, rows)
