"""Tokenizers: lossless on every string, independent of neighbours, the same compiled and plain, and the same in Hugging Face."""

from __future__ import annotations

import gzip
import json
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperclova_core.foundation.errors import DataError
from hyperclova_core.korean.hangul import nfc
from hyperclova_core.tokens.encoder.column_encoder import ColumnEncoder
from hyperclova_core.tokens.encoder.pretoken_cache import map_memo, write_memo
from hyperclova_core.tokens.encoder.worker_encoder import column_encoder
from hyperclova_core.tokens.special_tokens import PLACEHOLDERS, SPECIAL_TOKENS, padded_vocabulary
from hyperclova_core.tokens.tokenizer.tokenizer import MEMO_FILE, Tokenizer
from hyperclova_core.tokens.tokenizer_training.learning import learn, memo_order
from tests.conftest import SHARED
from tests.tokens.trained import ODD, TEXTS, pretokens_of, trained

TOKENIZER = trained()
KINDS = [trained(), trained("morpheme", 900, 0), trained("byte"), trained("character", 1600)]
ENCODERS = [column_encoder(tokenizer, 2000) for tokenizer in KINDS]
SIGNS = "가각힣ㄱㅏ김\u1100\u1161\u0301\u3000 \t\n\x00\x1c\x85aZ09'st[]PHONE<|>😀é_-.\ud800\udfff"
ANY_TEXT = st.one_of(
    st.text(alphabet=st.characters(), max_size=60),
    st.text(alphabet=st.sampled_from(SIGNS), max_size=60),
    st.lists(st.sampled_from([*PLACEHOLDERS, *SPECIAL_TOKENS[:3], " ", "는", "010", "\n", "'ll"]), max_size=8).map(
        "".join
    ),
)


@settings(max_examples=300)
@given(ANY_TEXT)
def test_decode_gives_back_the_nfc_form(text: str) -> None:
    for tokenizer in KINDS:
        assert tokenizer.decode(tokenizer.encode(text)) == nfc(text)


@settings(max_examples=300)
@given(st.lists(ANY_TEXT, max_size=5), st.integers(0, 70))
def test_compiled_ids_are_those_of_the_plain_rules(texts: list[str], before: int) -> None:
    """Each text alone, and together from any place in the 64 bytes that are scanned at once; near a column's end they are not."""
    together = "z" * before + "".join(texts)
    for tokenizer, encoder in zip(KINDS, ENCODERS, strict=True):
        want = tokenizer.encode_batch([*texts, together])
        assert encoder.encode_texts([*texts, together, "끝" * 30])[:-1] == want
        assert encoder.encode_texts(texts) == want[:-1]


@given(ANY_TEXT)
def test_units_and_pieces_join_to_the_text(text: str) -> None:
    for tokenizer in KINDS:
        pretokens = tokenizer.pre_tokenizer.pretokens(text)
        assert "".join(pretokens) == text
        for pretoken in pretokens:
            assert "".join(tokenizer.pre_tokenizer.pieces(pretoken)) == pretoken


@given(ANY_TEXT, ANY_TEXT, st.sampled_from([" ", "\n", "\u3000"]))
def test_texts_joined_at_white_space_have_the_ids_of_both(left: str, right: str, space: str) -> None:
    """A text that ends in a word, then one that begins with white space: nothing depends on what stands before."""
    for tokenizer in KINDS:
        head, tail = nfc(left).rstrip() + "끝", space + nfc("말" + right)
        if nfc(head + tail) == head + tail and len(left) < 400:
            assert tokenizer.encode(head + tail) == tokenizer.encode(head) + tokenizer.encode(tail)


def test_odd_and_ordinary_texts_whatever_the_memo_knows_and_the_room_is() -> None:
    texts = [*ODD, *TEXTS]
    for tokenizer in KINDS:
        want = tokenizer.encode_batch(texts)
        pretokens, counts = pretokens_of(TEXTS, tokenizer.kind, tokenizer.description["digits"])
        for most in (0, 50, 10_000):
            for room in (1, 3000):
                encoder = _encoder(tokenizer, room)
                encoder._known = encoder.memo_of(memo_order(pretokens, counts.to_numpy(), most))
                assert encoder.encode_texts(texts) == want
                assert encoder.encode_texts(texts[::-1]) == want[::-1]
                if room == 1 and most == 0:
                    assert encoder.tally.forgot > 0


def _encoder(tokenizer: Tokenizer, room: int) -> ColumnEncoder:
    encoder = column_encoder(tokenizer, room, memo=False)
    encoder._nodes = 8  # grows as words ask for it
    encoder._make_room(4096)
    return encoder


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("tokenizer", KINDS, ids=lambda tokenizer: tokenizer.kind)
def test_ids_are_the_same_however_often_room_runs_out(tokenizer: Tokenizer, wide: bool) -> None:
    """Little room for ids, for those aside, for words in the lattice and in the memo; 16 and 32 bits an id; slices of columns."""
    texts = [*ODD, *TEXTS[:200], "漢字一二三四" * 3000, "가 나" * 2000, "x" * 100]
    raw = [text.encode("utf-8", "surrogatepass") for text in texts]
    want = [[*ids, 0] for ids in tokenizer.encode_batch(texts)]
    for kind in (pa.large_binary(), pa.binary()):
        encoder = _encoder(tokenizer, 1)
        if wide:
            encoder.dtype, encoder._bits = np.int32, 32
        encoder._out, encoder._aside = np.empty(1024, encoder.dtype), np.empty(1, encoder.dtype)
        column = pa.array([b"before", *raw, b"behind"], kind).slice(1, len(raw))
        for _ in range(2):
            encoded = encoder.encode(column, 0)
            ends = np.cumsum(encoded.lengths)
            got = [encoded.ids[end - size : end].tolist() for end, size in zip(ends, encoded.lengths, strict=True)]
            assert got == want
        assert encoder.tally.forgot > 0


def test_rows_keep_their_borders_and_slices_their_offsets() -> None:
    column = pa.array([*ODD[:15], "끝"], pa.large_string()).slice(2, 12)
    encoder = column_encoder(TOKENIZER)
    encoded = encoder.encode(column, 0)
    want = [[*TOKENIZER.encode(text), 0] for text in column.to_pylist()]
    assert encoded.lengths.tolist() == [len(ids) for ids in want]
    assert encoded.ids.tolist() == [token for ids in want for token in ids]
    chunked = pa.chunked_array([pa.array(["하나", "둘 셋"]), pa.array([], pa.string()), pa.array(["넷"])])
    assert encoder.encode(chunked).lengths.tolist() == [len(TOKENIZER.encode(text)) for text in ("하나", "둘 셋", "넷")]
    assert encoder.encode(pa.array([], pa.string())).lengths.tolist() == []


def test_special_tokens_come_first_and_only_placeholders_are_read_from_text() -> None:
    for tokenizer in KINDS:
        assert tokenizer.encode("[PHONE]") == [SPECIAL_TOKENS.index("[PHONE]")]
        assert SPECIAL_TOKENS.index("[RRN]") in tokenizer.encode("번호는 [RRN]입니다")
        assert all(token >= len(SPECIAL_TOKENS) for token in tokenizer.encode("<|endoftext|><|pad|> 본문"))
        assert tokenizer.decode([0]) == "<|endoftext|>"
        assert tokenizer.padded_vocabulary_size % 128 == 0
    assert padded_vocabulary(900) == 1024


def test_numbers_are_split_as_the_recipe_says() -> None:
    assert TOKENIZER.pre_tokenizer.pieces(" 20240131년") == [" 202", "401", "31", "년"]
    assert trained("morpheme", 900, 1).pre_tokenizer.pieces("1999") == ["1", "9", "9", "9"]
    assert trained("morpheme", 900, 0).pre_tokenizer.pieces(" 20240131년") == [" 20240131", "년"]


def test_words_are_cut_into_morphemes_and_white_space_stands_apart() -> None:
    assert TOKENIZER.pre_tokenizer.pieces("\n\n 학교에서는") == ["\n\n", " 학교", "에서", "는"]
    assert TOKENIZER.pre_tokenizer.pieces("\n==>abc---") == ["\n", "==", ">", "abc", "---"]


def test_decomposed_text_is_composed() -> None:
    plain = "한국어 텍스트"
    mixed = [plain, unicodedata.normalize("NFD", plain), "é é", "각주", unicodedata.normalize("NFD", "가나다")]
    assert TOKENIZER.encode(mixed[1]) == TOKENIZER.encode(plain)
    assert column_encoder(TOKENIZER).encode_texts(mixed) == [TOKENIZER.encode(text) for text in mixed]


def test_learning_is_the_same_every_time_and_in_every_order() -> None:
    pretokens, counts = pretokens_of(TEXTS)
    turned = pa.concat_arrays([pretokens.slice(500), pretokens.slice(0, 500)])
    numbers = np.concatenate([counts.to_numpy()[500:], counts.to_numpy()[:500]])
    assert learn("morpheme", 900, 3, turned, numbers, {}).model == TOKENIZER.model
    with pytest.raises(DataError, match="too small"):
        learn("morpheme", 100, 3, pretokens, counts.to_numpy(), {})


def test_a_saved_tokenizer_is_the_same_and_another_version_is_refused(tmp_path: Path) -> None:
    for tokenizer in KINDS:
        folder = tmp_path / f"{tokenizer.kind}{tokenizer.description['digits']}"
        tokenizer.save(str(folder))
        assert Tokenizer.load(str(folder)).identity == tokenizer.identity
        assert Tokenizer.load(str(folder)).encode_batch(TEXTS[:20]) == tokenizer.encode_batch(TEXTS[:20])
    path = tmp_path / "morpheme3" / "hyperclova_tokenizer.json"
    assert not (tmp_path / "morpheme3" / "tokenizer.json").exists()
    description = json.loads(path.read_text())
    for change, message in (
        ({"format": 99}, "another version"),
        ({"analyser": "mecab-python3 0.1"}, "another morphological"),
    ):
        path.write_text(json.dumps({**description, **change}))
        with pytest.raises(DataError, match=message):
            Tokenizer.load(str(tmp_path / "morpheme3"))
    with pytest.raises(DataError, match="No tokenizer"):
        Tokenizer.load(str(tmp_path / "absent"))


def test_hugging_face_reads_the_standard_file_and_gives_the_same_ids(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as HuggingFace

    texts = [text for text in [*ODD, *TEXTS] if "\ud800" not in text and "<|" not in text]
    for tokenizer in KINDS[2:]:
        tokenizer.save(str(tmp_path / tokenizer.kind))
        theirs = HuggingFace.from_file(str(tmp_path / tokenizer.kind / "tokenizer.json"))
        for text in texts:
            assert theirs.encode(text, add_special_tokens=False).ids == tokenizer.encode(text), text[:80]
            assert theirs.decode(tokenizer.encode(text), skip_special_tokens=False) == nfc(text)


def test_auto_tokenizer_loads_the_morpheme_cut_and_gives_the_same_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    TOKENIZER.save(str(tmp_path / "model"))
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "model"), trust_remote_code=True)
    for text in [*ODD, *TEXTS[:200]]:
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert ids == TOKENIZER.encode(text), text[:80]
    assert theirs.decode(TOKENIZER.encode("안녕 [PHONE] 세계")) == "안녕 [PHONE] 세계"
    assert (theirs.eos_token_id, theirs.pad_token_id, len(theirs)) == (0, 1, TOKENIZER.vocabulary_size)
    theirs.save_pretrained(str(tmp_path / "again"))
    again = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "again"), trust_remote_code=True)
    assert again("다시 저장", add_special_tokens=False)["input_ids"] == TOKENIZER.encode("다시 저장")


def test_a_memo_is_mapped_by_whoever_has_its_tokenizer_and_by_nobody_else(tmp_path: Path) -> None:
    pretokens, counts = pretokens_of(TEXTS)
    encoder = column_encoder(TOKENIZER)
    order = memo_order(pretokens, counts.to_numpy(), 500)
    TOKENIZER.save(str(tmp_path))
    for name in (MEMO_FILE, "second"):
        with (tmp_path / name).open("wb") as file:
            write_memo(encoder.memo_of(order), file, TOKENIZER.identity)
    assert (tmp_path / MEMO_FILE).read_bytes() == (tmp_path / "second").read_bytes()
    warm = column_encoder(Tokenizer.load(str(tmp_path)))
    assert warm.encode_texts(TEXTS) == TOKENIZER.encode_batch(TEXTS)
    assert 0 < warm.tally.missed < warm.tally.pretokens
    assert map_memo(str(tmp_path / MEMO_FILE), TOKENIZER.identity).used[0] == 500
    with pytest.raises(DataError, match="does not belong"):
        map_memo(str(tmp_path / MEMO_FILE), "another")
    whole = bytearray((tmp_path / MEMO_FILE).read_bytes())
    whole[len(whole) // 2] ^= 1
    (tmp_path / MEMO_FILE).write_bytes(whole)
    with pytest.raises(DataError, match="damaged"):
        column_encoder(Tokenizer.load(str(tmp_path)))
    (tmp_path / MEMO_FILE).write_bytes((tmp_path / MEMO_FILE).read_bytes()[:-1])
    with pytest.raises(DataError, match="cut short"):
        column_encoder(Tokenizer.load(str(tmp_path)))
    (tmp_path / MEMO_FILE).write_bytes(b"something else")
    with pytest.raises(DataError, match="Not a memo"):
        column_encoder(Tokenizer.load(str(tmp_path)))


def test_an_unknown_id_is_said() -> None:
    with pytest.raises(DataError, match="beyond the vocabulary"):
        TOKENIZER.decode([10_000])


@pytest.mark.slow
def test_a_hundred_megabytes_without_a_space_are_cut_and_come_back() -> None:
    text = "가나다라마바사아자차카타파하" * 2_400_000
    assert len(text.encode()) > 100_000_000
    encoder = column_encoder(TOKENIZER)
    encoded = encoder.encode(
        pa.array([text, "끝" * 40], pa.large_string())
    )  # what does not lie at the end is scanned 64 bytes at a time
    assert TOKENIZER.decode(encoded.ids[: encoded.lengths[0]].tolist()) == text
    assert encoder.tally.learnt_bytes < 100_000


def test_real_text_is_lossless_and_the_same_compiled(shared_data: Path) -> None:
    texts: list[str] = []
    for name in ("kaist_books", "news_comments", "docs_tensorflow_nb", "wiki_johngrib"):
        with gzip.open(shared_data / "corpus" / f"{name}.jsonl.gz") as file:
            texts += [json.loads(line)["text"] for _, line in zip(range(150), file, strict=False)]
    for tokenizer, encoder in zip(KINDS, ENCODERS, strict=True):
        ids = encoder.encode_texts(texts)
        assert ids == tokenizer.encode_batch(texts)
        assert [tokenizer.decode(row) for row in ids] == [nfc(text) for text in texts]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the development corpora are not beside this checkout")
def test_megatrons_own_tokenizer_is_read_and_gives_its_ids() -> None:
    """`golden/` was tokenized by Megatron-LM's preprocess_data with Hugging Face's tokenizers."""
    from hyperclova_core.tokens.serialize.megatron_format import Shard

    tokenizer = Tokenizer.load(str(SHARED / "golden" / "tokenizer.json"))
    texts = [json.loads(line)["text"] for line in (SHARED / "golden" / "input.jsonl").open(encoding="utf-8")]
    shard = Shard(str(SHARED / "golden" / "megatron_text_document"))
    ours = column_encoder(tokenizer).encode_texts(texts, tokenizer.eod)
    assert ours == [[*tokenizer.encode(text), tokenizer.eod] for text in texts]
    # Megatron leaves out documents without any id
    theirs = [shard.document(number).tolist() for number in range(len(shard.documents) - 1)]
    assert [ids for ids in ours if len(ids) > 1] == [ids for ids in theirs if len(ids) > 1]


def test_a_tokenizer_that_cuts_otherwise_is_refused(tmp_path: Path) -> None:
    model = {**trained("byte").model, "pre_tokenizer": {"type": "Whitespace"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(model))
    with pytest.raises(DataError, match="not known here"):
        Tokenizer.load(str(tmp_path))
    for change, message in (
        ({"added_tokens": []}, "no end-of-document"),
        ({"model": {**trained("byte").model["model"], "ignore_merges": True}}, "ignores its merges"),
    ):
        (tmp_path / "tokenizer.json").write_text(json.dumps({**trained("byte").model, **change}))
        with pytest.raises(DataError, match=message):
            Tokenizer.load(str(tmp_path))
    padded = {
        **trained("byte").model,
        "padding": {"strategy": {"Fixed": 6}, "direction": "Right", "pad_to_multiple_of": None},
    }
    padded["padding"] |= {"pad_id": 1, "pad_type_id": 0, "pad_token": "<|pad|>"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(padded))
    assert Tokenizer.load(str(tmp_path)).encode("가나 다") == trained("byte").encode("가나 다")
