"""The compiled encoder of a tokenizer, as a worker keeps it from one unit of work to the next."""

from __future__ import annotations

from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.tokens.encoder.column_encoder import GROWN_UNITS, ColumnEncoder, Tally
from hyperclova_core.tokens.encoder.pretoken_cache import map_memo
from hyperclova_core.tokens.tokenizer.tokenizer import DESCRIPTION_FILE, MEMO_FILE, Tokenizer

_KEPT: dict[str, Any] = {}


def column_encoder(tokenizer: Tokenizer, grown_pretokens: int | None = None, memo: bool = True) -> ColumnEncoder:
    """The compiled encoder, which starts with what the memo beside the tokenizer's files knows.

    Args:
        grown_pretokens: pretokens remembered beside it at most.
        memo: False: start with nothing.
    """
    known = None
    if memo and tokenizer.folder is not None:
        path = storage.join(tokenizer.folder, MEMO_FILE)
        if storage.exists(path):
            known = map_memo(str(storage.localized(path)), tokenizer.identity)
    return ColumnEncoder(
        tokenizer.model["model"],
        tokenizer.kind,
        tokenizer.description["classes"],
        tokenizer.description["digits"],
        tokenizer.placeholders,
        tokenizer.description["normalisation"] == "NFC",
        tokenizer.vocabulary_size,
        known,
        grown_pretokens or GROWN_UNITS,
    )


def kept_encoder(folder: str) -> tuple[Tokenizer, ColumnEncoder]:
    """(tokenizer, its encoder) of a folder, kept for this process's next unit of work: what a worker has learnt, it knows then.

    One is kept; another folder, or other files in it, take its place.
    """
    described = storage.join(folder, DESCRIPTION_FILE)
    stamp = storage.read_bytes(described) if storage.exists(described) else storage.read_bytes(folder)
    if _KEPT.get("folder") != (folder, stamp):
        _KEPT.clear()
        tokenizer = Tokenizer.load(folder)
        _KEPT.update(folder=(folder, stamp), tokenizer=tokenizer, encoder=column_encoder(tokenizer))
    _KEPT["encoder"].tally = Tally()
    return _KEPT["tokenizer"], _KEPT["encoder"]
