"""The tokenizer: lossless on every string, independent of neighbours; and Megatron's file format."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperclova_core.foundation.errors import DataError
from hyperclova_core.korean.hangul import nfc
from hyperclova_core.tokens.megatron import Shard, ShardWriter, id_type
from hyperclova_core.tokens.specials import PLACEHOLDERS, SPECIAL_TOKENS, padded_vocabulary
from hyperclova_core.tokens.tokenizer import MorphemeTokenizer, joined_morphemes, train
from hyperclova_core.tokens.units import morphemes_of, units_of
from tests.conftest import PORTAL, SHARED

TEXTS = [json.loads(line)["text"] for path in sorted(PORTAL.glob("*.jsonl")) for line in path.open(encoding="utf-8")]
TOKENIZER = train((joined_morphemes(text) for text in TEXTS), 900, {})
ANY_TEXT = st.one_of(
    st.text(max_size=60),
    st.text(alphabet=st.sampled_from("가각힣ㄱㅏ김\u1100\u1161\u3000 \t\n\x00\x85aZ09[]PHONE<|>😀é"), max_size=60),
    st.lists(st.sampled_from([*PLACEHOLDERS, *SPECIAL_TOKENS[:3], " ", "는", "010", "\n"]), max_size=8).map("".join),
)


@given(ANY_TEXT)
def test_decode_gives_back_the_nfc_form(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == nfc(text)


@given(ANY_TEXT)
def test_units_and_morphemes_join_to_the_text(text: str) -> None:
    assert "".join(units_of(text)) == text
    for unit in units_of(text):
        assert "".join(morphemes_of(unit)) == unit


@given(ANY_TEXT, ANY_TEXT)
def test_a_unit_is_encoded_alike_whatever_stands_beside_it(left: str, right: str) -> None:
    joined = nfc(left.rstrip() + " 사과를 " + right.lstrip())
    assert joined.count(" 사과를 ") < 1 or TOKENIZER.encode(" 사과를")[0] in TOKENIZER.encode(joined)
    units = units_of(joined)
    assert TOKENIZER.encode(joined) == [token for unit in units for token in TOKENIZER.encode_batch([unit])[0]]


def test_the_memo_changes_nothing() -> None:
    fresh = MorphemeTokenizer(json.loads(json.dumps(TOKENIZER._model)), TOKENIZER.description)
    assert fresh.encode_batch(TEXTS) == [TOKENIZER.encode(text) for text in reversed(TEXTS)][::-1]


def test_special_tokens_come_first_and_only_placeholders_are_read_from_text() -> None:
    assert TOKENIZER.encode("[PHONE]") == [SPECIAL_TOKENS.index("[PHONE]")]
    assert SPECIAL_TOKENS.index("[RRN]") in TOKENIZER.encode("번호는 [RRN]입니다")
    assert all(token >= len(SPECIAL_TOKENS) for token in TOKENIZER.encode("<|endoftext|><|pad|> 본문"))
    assert TOKENIZER.decode([0]) == "<|endoftext|>"
    assert padded_vocabulary(900) == 1024
    assert TOKENIZER.padded_vocabulary_size % 128 == 0


def test_decomposed_text_is_composed() -> None:
    assert TOKENIZER.encode(unicodedata.normalize("NFD", "한국어")) == TOKENIZER.encode("한국어")


def test_training_is_the_same_every_time() -> None:
    again = train((joined_morphemes(text) for text in TEXTS), 900, {})
    assert again._model == TOKENIZER._model


def test_a_saved_tokenizer_is_the_same_and_another_version_is_refused(tmp_path: Path) -> None:
    TOKENIZER.save(str(tmp_path))
    assert MorphemeTokenizer.load(str(tmp_path)).encode(TEXTS[0]) == TOKENIZER.encode(TEXTS[0])
    path = tmp_path / "hyperclova_tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(DataError, match="another version"):
        MorphemeTokenizer.load(str(tmp_path))
    with pytest.raises(DataError, match="No tokenizer"):
        MorphemeTokenizer.load(str(tmp_path / "absent"))


def test_a_lone_surrogate_and_an_unknown_id_are_said() -> None:
    with pytest.raises(DataError, match="surrogate"):
        TOKENIZER.encode("\ud800")
    with pytest.raises(DataError, match="beyond the vocabulary"):
        TOKENIZER.decode([10_000])


def test_a_word_of_a_million_letters_is_cut() -> None:
    text = "가" * 1_000_000
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_real_text_is_lossless_and_takes_fewer_tokens_than_bytes(shared_data: Path) -> None:
    import gzip

    with gzip.open(shared_data / "corpus" / "kaist_books.jsonl.gz") as file:
        texts = [json.loads(line)["text"] for _, line in zip(range(200), file, strict=False)]
    ids = TOKENIZER.encode_batch(texts)
    assert [TOKENIZER.decode(row) for row in ids] == [nfc(text) for text in texts]
    assert sum(len(text.encode()) for text in texts) / sum(map(len, ids)) > 2


@given(st.lists(st.lists(st.integers(0, 899), max_size=20), max_size=12))
def test_a_shard_gives_back_its_documents(documents: list[list[int]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        with ShardWriter(f"{folder}/shard", 900) as writer:
            for ids in documents:
                writer.add(np.asarray(ids, np.int64))
        shard = Shard(f"{folder}/shard")
        assert [shard.document(number).tolist() for number in range(len(documents))] == documents
        assert shard.tokens == sum(map(len, documents))


def test_a_shard_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    with ShardWriter(str(tmp_path / "shard"), 900) as writer:
        writer.add(np.arange(10))
    (tmp_path / "shard.bin").write_bytes(b"\0" * 18)
    with pytest.raises(DataError, match="do not belong together"):
        Shard(str(tmp_path / "shard"))
    (tmp_path / "shard.idx").write_bytes(b"something else entirely, and long enough")
    with pytest.raises(DataError, match="Not a Megatron index"):
        Shard(str(tmp_path / "shard"))
    with pytest.raises(DataError, match="cannot be read"):
        Shard(str(tmp_path / "absent"))
    assert id_type(65_499) is np.uint16
    assert id_type(65_500) is np.int32


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development corpora are not beside this checkout")
def test_bytes_are_those_that_megatron_itself_writes(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    golden = SHARED / "golden"
    tokenizer = Tokenizer.from_file(str(golden / "tokenizer.json"))
    theirs = Shard(str(golden / "megatron_text_document"))
    eod = int(theirs.ids[-1])
    with ShardWriter(str(tmp_path / "ours"), tokenizer.get_vocab_size()) as writer:
        for line in (golden / "input.jsonl").open(encoding="utf-8"):
            ids = tokenizer.encode(json.loads(line)["text"], add_special_tokens=False).ids
            writer.add(np.asarray([*ids, eod] if ids else [], np.int64))
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"ours.{suffix}").read_bytes() == (golden / f"megatron_text_document.{suffix}").read_bytes()
