"""Small tokenizers of every kind, learnt from the made-up portal."""

from __future__ import annotations

import json
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from hyperclova_core.tokens.tokenizer.tokenizer import Tokenizer
from hyperclova_core.tokens.tokenizer_training.learning import learn, pre_tokenizer_of
from tests.conftest import PORTAL

TEXTS = [json.loads(line)["text"] for path in sorted(PORTAL.glob("*.jsonl")) for line in path.open(encoding="utf-8")]
ODD = [
    "",
    " ",
    "\n\n",
    "a\xa0b \u3000 c",
    "x\n\n y [PHONE] [RRN]입니다\t[EMAIL][PHONE]x",
    "전화[PHONE]는 [PHON] 010-1234-5678",
    "12345678년 1234",
    "가" * 3000,
    " " * 1300 + "가",
    "\n" * 700 + " 나 ",
    "I'll can't '안녕's we're 're",
    "\x1c a \x1f\x85",
    "a\0가 가\0나",
    "===== ---- ㅋㅋㅋ...!!!",
    "é 한 각",
    "a\u2000b \u2001 c\u2003d",
    "\ud800가 \udc00 \ud83d\ude00",
    "🙂👍🏽 이모지 １２３",
    "x" * 9000 + " b",
    "나비" * 5000,
    "<|endoftext|><|pad|> 본문",
]


def pretokens_of(texts: list[str], kind: str = "morpheme", digits: int = 3) -> tuple[pa.Array, pa.Array]:
    """(distinct pretokens, counts) of texts."""
    counted = pc.value_counts(pre_tokenizer_of(kind, digits).pretokens(pa.array(texts, pa.string())))
    return counted.field("values"), counted.field("counts")


@lru_cache(maxsize=8)
def trained(kind: str = "morpheme", size: int = 900, digits: int = 3) -> Tokenizer:
    """A tokenizer of that kind."""
    pretokens, counts = pretokens_of(TEXTS, kind, digits)
    return learn(kind, size, digits, pretokens, counts.to_numpy(), {})
