"""A tokenizer as Hugging Face's libraries read it: a standard tokenizer.json where that can say it, else a class of its own."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from hyperclova_core.tokens.special_tokens import END_OF_DOCUMENT, PAD, PLACEHOLDERS, SPECIAL_TOKENS

STANDARD_FILE, MORPHEME_FILE = "tokenizer.json", "bpe.json"
"""The BPE of a morpheme-aware tokenizer has another name: taken for the whole, it would give other ids without a word."""
RULES_MODULE, RULES_FILE = "hyperclova_core.tokens.pretokens.rules", "pretoken_rules.py"
CODE_FILE = "tokenization_hyperclova.py"
"""The class and the rules it follows, as they lie beside an exported model: two files that stand alone."""
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


def companion_files(kind: str) -> dict[str, bytes]:
    """What `AutoTokenizer` reads beside the model: its configuration, and the class where one is needed."""
    config: dict[str, Any] = {
        "eos_token": END_OF_DOCUMENT,
        "pad_token": PAD,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000_000,
    }
    if kind != "morpheme":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
        return {"tokenizer_config.json": _json(config)}
    config["tokenizer_class"] = "HyperclovaTokenizer"
    config["auto_map"] = {"AutoTokenizer": ["tokenization_hyperclova.HyperclovaTokenizer", None]}
    config["split_special_tokens"] = True
    return {"tokenizer_config.json": _json(config), **_code()}


def _code() -> dict[str, bytes]:
    """Both files; the class finds its rules beside it, no longer in this package."""
    tokenization = (files("hyperclova_core.tokens.tokenizer") / CODE_FILE).read_text("utf-8")
    here, beside = f"from {RULES_MODULE} import", f"from .{RULES_FILE.removesuffix('.py')} import"
    assert tokenization.count(here) == 1
    rules = files("hyperclova_core.tokens.pretokens") / "rules.py"
    return {CODE_FILE: tokenization.replace(here, beside).encode(), RULES_FILE: rules.read_bytes()}


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n").encode()
