"""Morpheme-aware byte-level BPE (Sennrich 2016 over bytes, after a cut into morphemes, as HyperCLOVA's).

Lossless: `decode(encode(text))` is the NFC form of the text, whatever the text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.korean.hangul import nfc
from hyperclova_core.tokens.specials import EOD_ID, PLACEHOLDERS, SPECIAL_TOKENS, padded_vocabulary
from hyperclova_core.tokens.units import UNIT_CHARACTERS, analyser_identity, morphemes_of, units_of

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

MODEL_FILE = "tokenizer.json"
DESCRIPTION_FILE = "hyperclova_tokenizer.json"
FORMAT = 1
SENTINEL = "\ue000"
MEMO_UNITS = 1 << 20


class MorphemeTokenizer:
    """Encodes unit by unit through a memo; ids below `len(SPECIAL_TOKENS)` are special."""

    def __init__(self, model: dict[str, Any], description: dict[str, Any]) -> None:
        from tokenizers import Tokenizer

        self.description = description
        self._model = model
        self._bpe = Tokenizer.from_str(json.dumps({**model, "added_tokens": []}))
        self._specials = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
        self._memo: dict[str, tuple[int, ...]] = {}
        self._bytes = _token_bytes(model["model"]["vocab"])

    @property
    def vocabulary_size(self) -> int:
        """Tokens in use."""
        return len(self._bytes)

    @property
    def padded_vocabulary_size(self) -> int:
        """Rows of an embedding matrix for this tokenizer."""
        return padded_vocabulary(self.vocabulary_size)

    def encode(self, text: str) -> list[int]:
        """Ids of the NFC form of a text; no end-of-document."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` of each text; units not met before go through mecab and BPE in bulk."""
        cut = [units_of(nfc(text)) for text in texts]
        new = {unit for units in cut for unit in units if unit not in self._memo}
        if new:
            if len(self._memo) + len(new) > MEMO_UNITS:
                self._memo.clear()
                new = {unit for units in cut for unit in units}
            self._learn(sorted(new))
        memo = self._memo
        return [[token for unit in units for token in memo[unit]] for units in cut]

    def _learn(self, units: list[str]) -> None:
        pieces = [morphemes_of(unit) for unit in units]
        flat = sorted({piece for row in pieces for piece in row if piece not in self._specials})
        try:
            encoded = self._bpe.encode_batch_fast(flat, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError) as error:
            raise DataError(
                "A text cannot be encoded",
                why="it holds half of a surrogate pair",
                remedy="ingest quarantines such records: encode its output",
            ) from error
        ids = {piece: tuple(item.ids) for piece, item in zip(flat, encoded, strict=True)}
        ids.update({token: (index,) for token, index in self._specials.items() if token in PLACEHOLDERS})
        for unit, row in zip(units, pieces, strict=True):
            self._memo[unit] = tuple(token for piece in row for token in ids[piece])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; bytes that are no UTF-8 (a cut in mid-character) become U+FFFD.

        Raises:
            DataError: an id is beyond the vocabulary.
        """
        parts = []
        for token in ids:
            if not 0 <= token < len(self._bytes):
                raise DataError(
                    f"Token id {token} is beyond the vocabulary",
                    why=f"the tokenizer has {len(self._bytes)} tokens",
                    remedy="use the tokenizer that wrote the ids",
                )
            parts.append(self._bytes[token])
        return b"".join(parts).decode("utf-8", errors="replace")

    def save(self, folder: str) -> None:
        """Write the Hugging Face model file and the description of what it cannot express."""
        storage.write_bytes(
            storage.join(folder, MODEL_FILE), (json.dumps(self._model, ensure_ascii=False) + "\n").encode()
        )
        storage.write_json(storage.join(folder, DESCRIPTION_FILE), self.description)

    @staticmethod
    def load(folder: str) -> MorphemeTokenizer:
        """A saved tokenizer: its folder, or a folder that has it as `tokenizer/`.

        Raises:
            DataError: there is none, or another version wrote it.
        """
        for candidate in (folder, storage.join(folder, "tokenizer")):
            if storage.exists(storage.join(candidate, DESCRIPTION_FILE)):
                folder = candidate
                break
        else:
            raise DataError(
                "No tokenizer here",
                where=folder,
                why=f"there is no {DESCRIPTION_FILE}",
                remedy="give the folder that `hyperclova tokenizer train` wrote",
            )
        description = storage.read_json(storage.join(folder, DESCRIPTION_FILE))
        if description.get("format") != FORMAT or description.get("special_tokens") != list(SPECIAL_TOKENS):
            raise DataError(
                "The tokenizer is of another version",
                where=folder,
                why=f"format {description.get('format')}, this code reads {FORMAT}",
                remedy="train it again with this version",
            )
        if description["analyser"] != analyser_identity():
            raise DataError(
                "The tokenizer was made with another morphological analyser",
                where=folder,
                why=f"{description['analyser']}; here is {analyser_identity()}: words would be cut differently",
                remedy="install those versions, or train the tokenizer again",
            )
        return MorphemeTokenizer(storage.read_json(storage.join(folder, MODEL_FILE)), description)


def _token_bytes(vocabulary: dict[str, int]) -> list[bytes]:
    """The bytes of each id: byte-level BPE writes a byte as a printable character (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    table.update(
        {chr(256 + index): byte for index, byte in enumerate(byte for byte in range(256) if byte not in printable)}
    )
    result = [b""] * len(vocabulary)
    for token, index in vocabulary.items():
        result[index] = token.encode() if token in SPECIAL_TOKENS else bytes(table[sign] for sign in token)
    return result


def joined_morphemes(text: str) -> str:
    """A text with a sentinel (U+E000) between morphemes, as training reads it; sentinels of its own become spaces."""
    units = units_of(nfc(text).replace(SENTINEL, " "))
    return SENTINEL.join(piece for unit in units for piece in morphemes_of(unit) if piece not in PLACEHOLDERS)


def train(joined: Iterator[str], vocabulary_size: int, description: dict[str, Any]) -> MorphemeTokenizer:
    """Learn merges from texts prepared by `joined_morphemes`.

    Args:
        joined: the sample.
        vocabulary_size: tokens asked for, special ones and the 256 bytes included; less text may give fewer.
        description: kept with the tokenizer (where the sample came from).
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    learner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(SENTINEL, "removed"), byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(joined, trainer)
    learner.pre_tokenizer = byte_level
    model = json.loads(learner.to_str())
    details = {
        **description,
        "format": FORMAT,
        "kind": "morpheme-aware byte-level BPE",
        "unit": r"\s*\S+",
        "unit_characters": UNIT_CHARACTERS,
        "normalisation": "NFC",
        "analyser": analyser_identity(),
        "special_tokens": list(SPECIAL_TOKENS),
        "eod": EOD_ID,
        "vocabulary_size": len(model["model"]["vocab"]),
        "padded_vocabulary_size": padded_vocabulary(len(model["model"]["vocab"])),
    }
    return MorphemeTokenizer(model, details)
