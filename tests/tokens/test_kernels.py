"""The compiled parts against what they stand for: mecab's cuts, Hugging Face's merges and trainer."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperclova_core.foundation import jit
from hyperclova_core.tokens.bpe.byte_to_unicode import BYTE_ENCODER
from hyperclova_core.tokens.bpe.merges import encode_piece, merges_of, symbols_for
from hyperclova_core.tokens.bpe.training import Words, learn_merges
from hyperclova_core.tokens.pretokens.analyser import analyser, dictionary_folder
from hyperclova_core.tokens.pretokens.viterbi import NONE, Search, best_cut, search_for
from hyperclova_core.tokens.special_tokens import SPECIAL_TOKENS
from tests.samples import lines_of
from tests.tokens.trained import TEXTS, trained

DICTIONARY = analyser()
CONTEXTS = DICTIONARY.matrix.size // DICTIONARY.contexts
SEARCH = search_for(CONTEXTS, 4096)


def cut(word: str, search: Search = SEARCH) -> list[str]:
    data = np.frombuffer(word.encode(), np.uint8)
    words = best_cut(data, 0, len(data), DICTIONARY, search)
    ends = [0, *search.cuts[:words].tolist()]
    return [bytes(data[start:end]).decode() for start, end in zip(ends, ends[1:], strict=False)]


@pytest.fixture(scope="module")
def mecab() -> Any:
    import MeCab

    return MeCab.Tagger(f"-r /dev/null -d {dictionary_folder()} -Owakati")


WORD = st.text(
    alphabet=st.sampled_from(
        "가나다라마바사아자차카타파하은는이가을를에서했습니다학교국민ㅋㅎ김밥1290aZ.-!?·一二あア😀é"
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=500)
@given(WORD)
def test_words_are_cut_where_mecab_cuts_them(mecab: Any, word: str) -> None:
    assert cut(word) == mecab.parse(word).split()


def test_words_of_texts_are_cut_where_mecab_cuts_them(mecab: Any) -> None:
    samples = [*TEXTS, *lines_of("prose"), *lines_of("similar_prose"), *lines_of("personal_data")]
    words = {word for text in samples for word in text.split()}
    assert len(words) > 2300
    for word in words:
        assert cut(word) == mecab.parse(word).split()


def test_words_of_real_texts_are_cut_where_mecab_cuts_them(mecab: Any, shared_data: Path) -> None:
    words: set[str] = set()
    for name in ("court_precedents", "nsmc_raw", "docs_rust", "utterances_3i4k"):
        with gzip.open(shared_data / "corpus" / f"{name}.jsonl.gz") as file:
            for _, line in zip(range(400), file, strict=False):
                words.update(json.loads(line)["text"].split())
    chosen = [word for word in words if len(word) < 500 and not re.search("[\0]", word)]
    assert len(chosen) > 20_000
    for word in chosen:
        assert cut(word) == mecab.parse(word).split()


def test_too_little_room_is_said_not_overrun() -> None:
    assert (
        best_cut(np.frombuffer("대한민국의".encode(), np.uint8), 0, 15, DICTIONARY, search_for(CONTEXTS, 64, 12))
        == NONE
    )


@settings(max_examples=200)
@given(st.text(alphabet=st.sampled_from("가나다는은이 abcab12"), min_size=1, max_size=300))
def test_merges_are_those_of_hugging_face(piece: str) -> None:
    """Short pieces and long ones, which are merged by way of a heap."""
    tokenizer = trained()
    merges = merges_of(tokenizer.model["model"])
    data = np.frombuffer(piece.encode(), np.uint8)
    symbols = symbols_for(len(data))
    count = encode_piece(data, 0, len(data), merges, symbols)
    assert symbols.ids[:count].tolist() == tokenizer._piece(piece)


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(st.text(alphabet="abcd", min_size=1, max_size=12), st.integers(1, 9), min_size=1, max_size=40),
    st.integers(300, 420),
)
def test_learnt_merges_are_those_of_hugging_face(counts: dict[str, int], size: int) -> None:
    """Also of overlapping pairs (aaa), equal counts, and merges that give a token that is there already."""
    assert _ours(counts, size) == _theirs(counts, size)


def test_learnt_merges_of_a_text_are_those_of_hugging_face() -> None:
    counts = Counter(word for text in TEXTS for word in text.split())
    assert _ours(counts, 2000) == _theirs(counts, 2000)


def _ours(counts: dict[str, int], size: int) -> tuple[list[tuple[str, str]], dict[str, int]]:
    tokens = [*SPECIAL_TOKENS, *sorted(BYTE_ENCODER)]
    ids = np.array([tokens.index(sign) for sign in BYTE_ENCODER], np.int32)
    raw = [word.encode() for word in counts]
    ends = np.cumsum([len(word) for word in raw])
    starts = ends - np.array([len(word) for word in raw])
    symbols = ids[np.frombuffer(b"".join(raw), np.uint8)]
    words = Words(symbols, starts.astype(np.int64), ends.astype(np.int64), np.array(list(counts.values()), np.int64))
    merges = learn_merges(words, tokens, size)
    return merges, {token: index for index, token in enumerate(tokens)}


def _theirs(counts: dict[str, int], size: int) -> tuple[list[tuple[str, str]], dict[str, int]]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((f"{word} " * count for word, count in counts.items()), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return [tuple(pair) for pair in model["merges"]], model["vocab"]


def test_machine_code_is_made_anew_when_a_file_of_its_folder_changes(tmp_path: Path) -> None:
    """Numba alone looks at the function's own file, and would go on with the old body of what it calls."""
    import importlib.util
    import sys

    (tmp_path / "inner_part.py").write_text(
        "from hyperclova_core.foundation.jit import compiled\n@compiled(inline=True)\ndef inner():\n    return 1\n"
    )
    (tmp_path / "outer_part.py").write_text(
        "from hyperclova_core.foundation.jit import compiled\nfrom inner_part import inner\n"
        "@compiled()\ndef outer():\n    return inner()\n"
    )
    sys.path.insert(0, str(tmp_path))

    def run() -> int:
        jit._stamp.cache_clear()
        for name in ("inner_part", "outer_part"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return int(importlib.import_module("outer_part").outer())

    try:
        assert run() == 1
        source = (tmp_path / "inner_part.py").read_text()
        (tmp_path / "inner_part.py").write_text(source.replace("return 1", "return 22"))
        assert run() == 22
        # a type of its arguments gets another name: what is kept names the old one
        (tmp_path / "outer_part.py").write_text(
            "import typing\nfrom hyperclova_core.foundation.jit import compiled\nfrom inner_part import inner\n"
            "class Old(typing.NamedTuple):\n    value: int\n\n"
            "@compiled()\ndef inside(given):\n    return inner() + given.value\n\ndef outer():\n    return inside(Old(1))\n"
        )
        assert run() == 23
        source = (tmp_path / "outer_part.py").read_text()
        (tmp_path / "outer_part.py").write_text(source.replace("Old", "New"))
        assert run() == 23
    finally:
        sys.path.remove(str(tmp_path))
