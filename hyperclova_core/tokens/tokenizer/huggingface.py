"""A tokenizer as Hugging Face's libraries read it: a standard tokenizer.json where that can say it, else a class of its own."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from hyperclova_core.tokens.specials import END_OF_DOCUMENT, PAD, PLACEHOLDERS, SPECIAL_TOKENS

if TYPE_CHECKING:
    from hyperclova_core.tokens.tokenizer import Tokenizer

STANDARD_FILE, MORPHEME_FILE = "tokenizer.json", "bpe.json"
"""The BPE of a morpheme-aware tokenizer has another name: taken for the whole, it would give other ids without a word."""
CODE = ("tokenization_hyperclova.py", "units.py")
WORDS = r" ?\S+|\s+(?!\S)|\s+"


def model_file(kind: str) -> str:
    """The file of a tokenizer's vocabulary and merges."""
    return MORPHEME_FILE if kind == "morpheme" else STANDARD_FILE


def model_of(kind: str, vocabulary: list[str], merges: list[tuple[str, str]]) -> dict[str, Any]:
    """The content of that file, for tokens by id."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": kind == "byte"}
    words = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False}
    by_bytes: dict[str, Any] = {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": index,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": token not in PLACEHOLDERS,
            }
            for index, token in enumerate(SPECIAL_TOKENS)
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": words if kind == "character" else byte_level,
        "post_processor": None,
        "decoder": by_bytes if kind == "character" else byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": kind == "character",
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(vocabulary)},
            "merges": [list(pair) for pair in merges],
        },
    }


def companion_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """What `AutoTokenizer` reads beside the model: its configuration, and the class where one is needed."""
    config: dict[str, Any] = {
        "eos_token": END_OF_DOCUMENT,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000_000,
    }
    if tokenizer.kind != "morpheme":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        return {"tokenizer_config.json": _json(config)}
    config["tokenizer_class"] = "HyperclovaTokenizer"
    config["auto_map"] = {"AutoTokenizer": ["tokenization_hyperclova.HyperclovaTokenizer", None]}
    config["split_special_tokens"] = True
    code = {name: (files("hyperclova_core.tokens") / name).read_bytes() for name in CODE}
    return {"tokenizer_config.json": _json(config), **code}


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()
