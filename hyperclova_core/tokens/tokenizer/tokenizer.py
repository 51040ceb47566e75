"""The tokenizer: a text to ids and back, what it is made of, and its files.

Lossless: `decode(encode(text))` is the NFC form of the text, whatever the text, halves of surrogate pairs and all.
`encode` follows the plain rules (pretokens/rules.py) with Hugging Face's BPE: it is the reference. For whole corpora,
`encoder.worker_encoder` has the compiled encoder, with the same ids.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.dataset import Dataset
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.korean.hangul import nfc
from hyperclova_core.tokens.bpe.byte_to_unicode import BYTE_DECODER, BYTE_ENCODER
from hyperclova_core.tokens.pretokens.analyser_version import analyser_identity
from hyperclova_core.tokens.pretokens.character_classes import classify
from hyperclova_core.tokens.pretokens.rules import PreTokenizer
from hyperclova_core.tokens.special_tokens import (
    END_OF_DOCUMENT,
    EOD_ID,
    PLACEHOLDERS,
    SPECIAL_TOKENS,
    padded_vocabulary,
)
from hyperclova_core.tokens.tokenizer.huggingface import STANDARD_FILE, companion_files, model_file

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

DESCRIPTION_FILE = "hyperclova_tokenizer.json"
FORMAT = 2
MEMO_FILE = "memo.bin"
REMEMBERED = 1 << 16
ENDS = (END_OF_DOCUMENT, "</s>", "<eos>", "[EOS]", "<|end_of_text|>")
IDENTIFYING = ("kind", "digits", "classes", "normalisation", "analyser", "placeholders", "special_tokens", "eod")
SURROGATE = re.compile("([\ud800-\udfff])")
BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")


class Tokenizer:
    """Encodes pretoken by pretoken. Of special tokens, text can only hold the placeholders of de-identification; all others are text.

    Args:
        model: the content of a tokenizer.json.
        description: the rules that it cannot express, and where it comes from.
    """

    def __init__(self, model: dict[str, Any], description: dict[str, Any], folder: str | None = None) -> None:
        self.model = model
        self.description = description
        self.folder = folder
        self._remembered: dict[str, list[int]] = {}

    @property
    def kind(self) -> str:
        """`morpheme`, `byte` or `character`."""
        return str(self.description["kind"])

    @property
    def vocabulary_size(self) -> int:
        """Tokens in use."""
        return len(self._token_bytes)

    @property
    def padded_vocabulary_size(self) -> int:
        """Rows of an embedding matrix for this tokenizer."""
        return padded_vocabulary(self.vocabulary_size)

    @property
    def eod(self) -> int:
        """The token behind each document."""
        return int(self.description["eod"])

    @cached_property
    def placeholders(self) -> dict[str, int]:
        """The strings that are one token wherever they stand."""
        return {token: int(index) for token, index in self.description["placeholders"].items()}

    @cached_property
    def identity(self) -> str:
        """Hash of all that decides ids."""
        rules = {key: self.description[key] for key in IDENTIFYING}
        return fingerprint({"model": self.model["model"], **rules})

    @cached_property
    def pre_tokenizer(self) -> PreTokenizer:
        """The plain rules."""
        return PreTokenizer(self.kind, self.description["classes"], self.description["digits"], self.placeholders)

    @cached_property
    def _bpe(self) -> Any:
        from tokenizers import Tokenizer as HuggingFace

        plain = {**self.model, "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None}
        plain |= {"padding": None, "truncation": None}
        return HuggingFace.from_str(json.dumps(plain))

    @cached_property
    def _token_bytes(self) -> list[bytes]:
        return token_bytes(self.model, set(self.description["special_tokens"]))

    def encode(self, text: str) -> list[int]:
        """Ids of a text; no end-of-document."""
        text = nfc(text) if self.description["normalisation"] == "NFC" else text
        ids: list[int] = []
        for pretoken in self.pre_tokenizer.pretokens(text):
            known = self._remembered.get(pretoken)
            if known is None:
                known = [index for piece in self.pre_tokenizer.pieces(pretoken) for index in self._piece(piece)]
                if len(self._remembered) >= REMEMBERED:
                    self._remembered.clear()
                self._remembered[pretoken] = known
            ids += known
        return ids

    def _piece(self, piece: str) -> list[int]:
        if piece in self.placeholders:
            return [self.placeholders[piece]]
        if self.kind != "character":
            signs = "".join(BYTE_ENCODER[byte] for byte in piece.encode("utf-8", "surrogatepass"))
            found: list[int] = self._bpe.encode(signs, add_special_tokens=False).ids
            return found
        ids: list[int] = []
        for part in SURROGATE.split(piece):
            if SURROGATE.fullmatch(part):
                vocabulary = self.model["model"]["vocab"]
                ids += [vocabulary[f"<0x{byte:02X}>"] for byte in part.encode("utf-8", "surrogatepass")]
            elif part:
                ids += self._bpe.encode(part, add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Iterable[str]) -> list[list[int]]:
        """`encode` of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; bytes that are no UTF-8 (a cut in mid-character) become U+FFFD.

        Raises:
            DataError: an id is beyond the vocabulary.
        """
        parts = []
        for token in ids:
            if not 0 <= token < len(self._token_bytes):
                raise DataError(
                    f"Token id {token} is beyond the vocabulary",
                    why=f"the tokenizer has {len(self._token_bytes)} tokens",
                    remedy="use the tokenizer that wrote the ids",
                )
            parts.append(self._token_bytes[token])
        return b"".join(parts).decode("utf-8", errors="hyperclova")

    def save(self, folder: str) -> None:
        """Write the Hugging Face model file, the rules that it cannot express, and what `AutoTokenizer` needs."""
        storage.write_bytes(
            storage.join(folder, model_file(self.kind)), (json.dumps(self.model, ensure_ascii=False) + "\n").encode()
        )
        described = {**self.description, "identity": self.identity}
        storage.write_bytes(
            storage.join(folder, DESCRIPTION_FILE), (json.dumps(described, ensure_ascii=False) + "\n").encode()
        )
        for name, content in companion_files(self.kind).items():
            storage.write_bytes(storage.join(folder, name), content)

    @staticmethod
    def load(folder: str) -> Tokenizer:
        """A saved tokenizer: its folder, a folder that has it as `tokenizer/`, or a byte-level BPE's tokenizer.json.

        Raises:
            DataError: there is none, another version or analyser wrote it, or its rules are not known here.
        """
        if folder.endswith(".json") and storage.is_file(folder):
            return imported(storage.read_json(folder), folder)
        for candidate in (folder, storage.join(folder, "tokenizer")):
            if storage.exists(storage.join(candidate, DESCRIPTION_FILE)):
                folder = candidate
                break
        else:
            standard = storage.join(folder, STANDARD_FILE)
            if storage.exists(standard):
                return imported(storage.read_json(standard), standard)
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
        if description["analyser"] not in ("", analyser_identity()):
            raise DataError(
                "The tokenizer was made with another morphological analyser",
                where=folder,
                why=f"{description['analyser']}; here is {analyser_identity()}: words would be cut differently",
                remedy="install those versions, or train the tokenizer again",
            )
        model = storage.read_json(storage.join(folder, model_file(description["kind"])))
        return Tokenizer(model, description, folder)


def imported(model: dict[str, Any], where: str) -> Tokenizer:
    """A byte-level BPE of Hugging Face's with GPT-2's pre-tokenizer, as it stands: text holds none of its special tokens.

    Raises:
        DataError: it cuts texts in another way.
    """
    cut, normalizer = model.get("pre_tokenizer") or {}, model.get("normalizer")
    plain = cut.get("type") == "ByteLevel" and cut.get("use_regex", True) and not cut.get("add_prefix_space")
    if not plain or normalizer not in (None, {"type": "NFC"}) or model["model"].get("type") != "BPE":
        raise DataError(
            "The tokenizer cuts texts in a way that is not known here",
            where=where,
            why=f"its pre-tokenizer is {cut.get('type')}, its normalizer {normalizer}",
            remedy="give a byte-level BPE with GPT-2's pre-tokenizer, or train one: hyperclova tokenizer train",
        )
    if model["model"].get("ignore_merges"):
        raise DataError(
            "The tokenizer ignores its merges", where=where, why="ignore_merges is true", remedy="set it to false"
        )
    specials = {token["content"]: int(token["id"]) for token in model.get("added_tokens", ())}
    ends = [index for token, index in specials.items() if token in ENDS]
    if not ends:
        raise DataError(
            "The tokenizer has no end-of-document",
            where=where,
            why=f"none of its special tokens is known as one: {', '.join(specials) or 'it has none'}",
            remedy=f"add one of {', '.join(ENDS)} to its added_tokens",
        )
    return Tokenizer(
        model,
        {
            "format": FORMAT,
            "kind": "byte",
            "digits": 0,
            "classes": classify("byte"),
            "normalisation": "NFC" if normalizer else "",
            "analyser": "",
            "special_tokens": list(specials),
            "placeholders": {},
            "eod": ends[0],
        },
    )


def described(kind: str, digits: int, details: dict[str, Any]) -> dict[str, Any]:
    """The description of a tokenizer that is made here."""
    return {
        **details,
        "format": FORMAT,
        "kind": kind,
        "digits": digits,
        "classes": classify(kind),
        "normalisation": "NFC",
        "analyser": analyser_identity() if kind == "morpheme" else "",
        "special_tokens": list(SPECIAL_TOKENS),
        "placeholders": {token: SPECIAL_TOKENS.index(token) for token in PLACEHOLDERS},
        "eod": EOD_ID,
    }


def token_bytes(model: dict[str, Any], specials: set[str]) -> list[bytes]:
    """The bytes of each id; special tokens are their names."""
    vocabulary = {token["content"]: int(token["id"]) for token in model.get("added_tokens", ())}
    vocabulary.update(model["model"]["vocab"])
    fallback = bool(model["model"].get("byte_fallback"))
    result = [b""] * (max(vocabulary.values()) + 1)
    for token, index in vocabulary.items():
        if token in specials:
            result[index] = token.encode()
        elif fallback:
            result[index] = bytes([int(token[3:5], 16)]) if BYTE_TOKEN.fullmatch(token) else token.encode()
        else:
            result[index] = bytes(BYTE_DECODER[sign] for sign in token)
    return result


def _decode_error(error: UnicodeError) -> tuple[str, int]:
    """Halves of surrogate pairs come back as they were; other bytes that are no UTF-8 become U+FFFD."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    raw = error.object[error.start : error.start + 3]
    if len(raw) == 3 and raw[0] == 0xED and 0xA0 <= raw[1] <= 0xBF and 0x80 <= raw[2] <= 0xBF:
        return raw.decode("utf-8", "surrogatepass"), error.start + 3
    return "\ufffd", error.end


codecs.register_error("hyperclova", _decode_error)


def tokenizer_folder(dataset: Dataset) -> str:
    """Where a tokenizer dataset holds its tokenizer."""
    return storage.join(dataset.uri, str(dataset.manifest.info["folder"]))
