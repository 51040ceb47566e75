"""A tokenizer learnt from the pretokens of a sample: cut into pieces, merged by frequency, and the memo that encoding starts with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hyperclova_core.foundation.errors import DataError
from hyperclova_core.tokens.bpe.byte_to_unicode import BYTE_ENCODER
from hyperclova_core.tokens.bpe.training import Words, learn_merges
from hyperclova_core.tokens.encoder.column_encoder import ColumnPreTokenizer
from hyperclova_core.tokens.encoder.pretoken_cache import LONGEST_UNIT
from hyperclova_core.tokens.pretokens.character_classes import CODE_POINTS, classify
from hyperclova_core.tokens.special_tokens import PLACEHOLDERS, SPECIAL_TOKENS
from hyperclova_core.tokens.tokenizer.huggingface import model_of
from hyperclova_core.tokens.tokenizer.tokenizer import Tokenizer, described

CHARACTER_COVERAGE = 0.9995
"""Share of a sample's characters that are tokens in BPE over characters; the rest is written as bytes (SentencePiece's default)."""
LONGEST_PIECE = 1 << 12
"""A longer piece teaches nothing but itself, and is left out."""


def pre_tokenizer_of(kind: str, digits: int) -> ColumnPreTokenizer:
    """The pre_tokenizer of a tokenizer that is about to be learnt."""
    placeholders = {token: SPECIAL_TOKENS.index(token) for token in PLACEHOLDERS}
    return ColumnPreTokenizer(kind, classify(kind), digits, placeholders)


def learn(
    kind: str,
    vocabulary_size: int,
    digits: int,
    pretokens: pa.Array,
    counts: npt.NDArray[np.int64],
    details: dict[str, Any],
    progress: Callable[[int], None] | None = None,
) -> Tokenizer:
    """A tokenizer from distinct pretokens and how often each stands in the sample; their order changes nothing.

    Args:
        vocabulary_size: tokens asked for, special ones and bytes included; less text may give fewer.
        details: kept with the tokenizer (where the sample came from).

    Raises:
        DataError: the vocabulary is too small for what it must hold.
    """
    pieces, sizes = pre_tokenizer_of(kind, digits).pieces(pretokens)
    table = pa.table({"piece": pieces, "count": np.repeat(counts, sizes)})
    table = table.filter(pc.less_equal(pc.binary_length(table.column("piece")), LONGEST_PIECE))
    table = table.group_by("piece").aggregate([("count", "sum")])
    distinct = table.column("piece").combine_chunks()
    often = table.column("count_sum").to_numpy().astype(np.int64)
    if kind == "character":
        tokens, words = _over_characters(distinct, often, vocabulary_size)
    else:
        tokens, words = _over_bytes(distinct, often)
    if len(tokens) > vocabulary_size:
        raise DataError(
            "The vocabulary is too small",
            why=f"{vocabulary_size} tokens are asked for; special tokens, bytes and characters alone are {len(tokens)}",
            remedy=f"ask for {2 * len(tokens)} or more",
        )
    merges = learn_merges(words, tokens, vocabulary_size, progress)
    return Tokenizer(model_of(kind, tokens, merges), described(kind, digits, details))


def _buffers(array: pa.Array) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    offsets = np.frombuffer(array.buffers()[1], np.int64)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(array.buffers()[2], np.uint8)[int(offsets[0]) : int(offsets[-1])]
    where = offsets - offsets[0]
    return data, where[:-1].copy(), where[1:].copy()


def _over_bytes(pieces: pa.Array, counts: npt.NDArray[np.int64]) -> tuple[list[str], Words]:
    tokens = [*SPECIAL_TOKENS, *sorted(BYTE_ENCODER)]
    places = {token: index for index, token in enumerate(tokens)}
    ids = np.array([places[sign] for sign in BYTE_ENCODER], np.int32)
    data, starts, ends = _buffers(pieces)
    return tokens, Words(ids[data], starts, ends, counts)


def _over_characters(pieces: pa.Array, counts: npt.NDArray[np.int64], vocabulary_size: int) -> tuple[list[str], Words]:
    data, starts, ends = _buffers(pieces)
    codes = np.frombuffer(
        data.tobytes().decode("utf-8", "surrogatepass").encode("utf-32-le", "surrogatepass"), np.uint32
    )
    begins = (data & 0xC0) != 0x80
    place = np.concatenate([[0], np.cumsum(begins)])
    starts, ends = place[starts], place[ends]
    weights = np.zeros(CODE_POINTS, np.int64)
    np.add.at(weights, codes, np.repeat(counts, ends - starts))
    order = np.argsort(-weights, kind="stable")
    needed = int(np.searchsorted(np.cumsum(weights[order]), CHARACTER_COVERAGE * weights.sum())) + 1
    head = [*SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256))]
    room = max(0, vocabulary_size - len(head))
    surrogates = range(0xD800, 0xE000)
    known = sorted(int(code) for code in order[: min(needed, room)] if weights[code] and code not in surrogates)
    tokens = [*head, *(chr(code) for code in known)]
    ids = np.full(CODE_POINTS, -1, np.int32)
    ids[known] = np.arange(len(head), len(tokens))
    return tokens, Words(ids[codes], starts, ends, counts)


def memo_order(pretokens: pa.Array, counts: npt.NDArray[np.int64], most: int) -> pa.Array:
    """The pretokens that a memo holds, the most frequent first, of equally frequent ones the smaller bytes."""
    table = pa.table({"pretoken": pretokens, "count": counts})
    table = table.filter(pc.less_equal(pc.binary_length(table.column("pretoken")), LONGEST_UNIT))
    table = table.sort_by([("count", "descending"), ("pretoken", "ascending")]).slice(0, most)
    return table.column("pretoken").combine_chunks()
