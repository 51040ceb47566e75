"""HyperCLOVA's morpheme-aware tokenizer for `transformers`: slow, and equal to the platform's encoder id for id.

It lies beside an exported model with `pretoken_rules.py`, `bpe.json` and `hyperclova_tokenizer.json`, and needs the packages `tokenizers`,
`mecab-python3` and `python-mecab-ko-dic` in the versions that `hyperclova_tokenizer.json` names:

    AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)

The cut into morphemes cannot be said in a tokenizer.json, hence this class. Special tokens that stand in a text are text, as in
training (`split_special_tokens=True`); give `split_special_tokens=False` where prompts hold them on purpose.
"""

from __future__ import annotations

import json
import unicodedata
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizer

from hyperclova_core.tokens.pretokens.rules import PreTokenizer

MODEL_FILE, DESCRIPTION_FILE = "bpe.json", "hyperclova_tokenizer.json"


class HyperclovaTokenizer(PreTrainedTokenizer):
    """Pre-tokens, morphemes, byte-level BPE."""

    vocab_files_names = {"vocab_file": MODEL_FILE, "rules_file": DESCRIPTION_FILE}  # noqa: RUF012 - as transformers wants it
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, vocab_file: str, rules_file: str | None = None, **kwargs: Any) -> None:
        self.vocab_file = vocab_file
        self.rules_file = rules_file or str(Path(vocab_file).with_name(DESCRIPTION_FILE))
        model = json.loads(Path(vocab_file).read_text(encoding="utf-8"))
        rules = json.loads(Path(self.rules_file).read_text(encoding="utf-8"))
        _check_versions(rules["analyser"])
        plain = {**model, "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None}
        plain |= {"padding": None, "truncation": None}
        self._bpe = Tokenizer.from_str(json.dumps(plain))
        self._vocabulary: dict[str, int] = model["model"]["vocab"]
        self._names = {index: token for token, index in self._vocabulary.items()}
        self._named = set(rules["special_tokens"])
        self._placeholders = rules["placeholders"]
        self._composed = rules["normalisation"] == "NFC"
        self._pre_tokenizer = PreTokenizer(rules["kind"], rules["classes"], rules["digits"], self._placeholders)
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [byte for byte in range(256) if byte not in printable]
        signs = {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}
        self._signs = [signs[byte] for byte in range(256)]
        self._bytes = {sign: byte for byte, sign in signs.items()}
        kwargs.setdefault("split_special_tokens", True)
        kwargs.setdefault("clean_up_tokenization_spaces", False)
        kwargs.setdefault("special_tokens_pattern", "none")
        kwargs.setdefault("eos_token", "<|endoftext|>")
        kwargs.setdefault("pad_token", "<|pad|>")
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]

    @property
    def vocab_size(self) -> int:
        return len(self._vocabulary)

    def get_vocab(self) -> dict[str, int]:
        return dict(self._vocabulary) | self.added_tokens_encoder

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        if self._composed:
            text = unicodedata.normalize("NFC", text)
        tokens: list[str] = []
        for pretoken in self._pre_tokenizer.pretokens(text):
            for piece in self._pre_tokenizer.pieces(pretoken):
                if piece in self._placeholders:
                    tokens.append(piece)
                else:
                    signs = "".join(self._signs[byte] for byte in piece.encode("utf-8", "surrogatepass"))
                    tokens += self._bpe.encode(signs, add_special_tokens=False).tokens
        return tokens

    def _convert_token_to_id(self, token: str) -> int:
        return self._vocabulary[token]

    def _convert_id_to_token(self, index: int) -> str:
        return self._names[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        raw = b"".join(
            token.encode() if token in self._named else bytes(self._bytes[sign] for sign in token) for token in tokens
        )
        return raw.decode("utf-8", errors="replace")

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        written = []
        for source, name in ((self.vocab_file, MODEL_FILE), (self.rules_file, DESCRIPTION_FILE)):
            target = Path(save_directory) / f"{prefix}{name}"
            if target.resolve() != Path(source).resolve():
                target.write_bytes(Path(source).read_bytes())
            written.append(str(target))
        return tuple(written)


def _check_versions(analyser: str) -> None:
    """The analyser decides where words are cut: with another version, a model would read other tokens than it was trained on."""
    for part in filter(None, analyser.split(", ")):
        package, _, wanted = part.rpartition(" ")
        try:
            found = version(package)
        except PackageNotFoundError:
            raise ImportError(f"This tokenizer needs {package}=={wanted}: pip install {package}=={wanted}") from None
        if found != wanted:
            raise ImportError(f"This tokenizer was made with {package} {wanted}, here is {found}: install that version")
