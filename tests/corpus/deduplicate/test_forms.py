"""The comparison form: what does not make a difference, what does, and the kernel that does as the definition says."""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperclova_core.corpus.deduplicate.minhash.signatures import band_keys, similarity, sketch
from hyperclova_core.corpus.deduplicate.text.comparison_form import (
    EMAIL_MASK,
    NUMBER_MASK,
    _letters,
    form_of,
    signature_version,
    tables,
)
from hyperclova_core.korean.hangul import nfc
from tests.corpus.deduplicate.texts import SYLLABLES, shingle_set

PIECES = st.sampled_from(
    [
        *"가나다 .-@0123456789aZ_%+[]\n",
        "[EMAIL]",
        "[PHONE]",
        "[NAME]",
        "@x.com",
        "010-1234-5678",
        "ㅋㅋ",
        "😀",
        "é",
        "İ",
        "１",
    ]
    + ["½", "\u1100\u1161", "e\u0301", "\u0301", "Σ", "ß", "123456789012345678901"]
)


def forms(texts: list[str], short_below: int) -> list[list[int]]:
    made = sketch(pa.array(texts), 5, 8, short_below)
    return [made.points[a:b].tolist() for a, b in zip(made.offsets, made.offsets[1:], strict=False)]


@given(st.lists(st.lists(PIECES, max_size=30).map("".join), min_size=1, max_size=4), st.sampled_from([0, 5, 20]))
def test_the_kernel_does_what_the_definition_says(texts: list[str], short_below: int) -> None:
    assert forms(texts, short_below) == [form_of(text, short_below) for text in texts]


@given(st.lists(st.text(max_size=60), min_size=1, max_size=4))
def test_the_kernel_does_so_for_any_text(texts: list[str]) -> None:
    valid = [text.encode("utf-8", "ignore").decode() for text in texts]
    assert forms(valid, 10) == [form_of(text, 10) for text in valid]


def test_spacing_punctuation_case_composition_and_personal_data_make_no_difference() -> None:
    text = "문의는 Help@Example.com 또는 010-1234-5678로 주세요. 2024년 3월 5일까지 접수합니다! 감사합니다, 여러분."
    others = [
        text.replace(" ", ""),
        text.replace(" ", "\u3000  "),
        text.upper(),
        text.replace("!", "…").replace(",", "—"),
        unicodedata.normalize("NFD", text),
        text.replace("Help@Example.com", "other.person@mail.co.kr").replace("010-1234-5678", "02.345.6789"),
        text.replace("Help@Example.com", "[EMAIL]").replace("010-1234-5678", "[PHONE]"),
        text.replace("2024", "1999").replace("3월 5일", "7월 1일"),
    ]
    exact = sketch(pa.array([text, *others]), 5, 8, 20).exact
    assert [at for at, value in enumerate(exact) if value != exact[0]] == []
    assert EMAIL_MASK in form_of(text, 20)
    assert NUMBER_MASK in form_of(text, 20)


def test_where_a_text_is_short_or_mostly_digits_its_digits_are_what_it_says() -> None:
    exact = sketch(
        pa.array(
            [
                "평점 9점",
                "평점 1점",
                "평점  9점!",
                "9 8 7 6 5 4 3 2 1 0 9 8 7 6 5 4 3 2 1 0 원화",
                "1 8 7 6 5 4 3 2 1 0 9 8 7 6 5 4 3 2 1 0 원화",
            ]
        ),
        5,
        8,
        20,
    ).exact
    assert exact[0] == exact[2]
    assert len(set(exact)) == 4


def test_texts_without_a_letter_are_what_their_signs_are() -> None:
    exact = sketch(pa.array(["😀", "😂", " 😀 ", "", "  ", "ㅋ", "ㅎ"]), 5, 8, 20).exact
    assert exact[0] == exact[2]
    assert exact[3] == exact[4]
    assert len(set(exact)) == 5


def test_slices_of_a_column_are_read_where_they_lie() -> None:
    texts = [f"{n}번째 글은 다른 글과 다릅니다 그래서 길이도 다릅니다 {'가나다' * n}" for n in range(9)]
    for kind in (pa.string(), pa.large_string()):
        column = pa.array(texts, kind)
        assert sketch(column.slice(3, 4), 5, 8, 5).exact == sketch(column, 5, 8, 5).exact[3:7]


def test_signatures_estimate_jaccard_without_bias() -> None:
    generator = np.random.Generator(np.random.PCG64(3))
    errors = []
    for _ in range(60):
        left = "".join(generator.choice(SYLLABLES, 800))
        cut = int(generator.integers(0, 800))
        right = left[:cut] + "".join(generator.choice(SYLLABLES, 800 - cut))
        a, b = shingle_set(left, 5), shingle_set(right, 5)
        minima = sketch(pa.array([left, right]), 5, 120, 5).minima
        errors.append(float(similarity(minima[:1], minima[1:])[0]) - len(a & b) / len(a | b))
    assert abs(np.mean(errors)) < 0.02
    assert np.std(errors) < 0.06


def test_a_band_key_names_its_band() -> None:
    same = np.tile(np.arange(6, dtype=np.uint16), (2, 20)).reshape(2, 120)
    keys = band_keys(same, 20, 6)
    assert (keys[0] == keys[1]).all()
    assert len(set(keys[0].tolist())) == 20


@pytest.mark.parametrize("other", [(6, 120, 20), (5, 112, 20), (5, 120, 21)])
def test_whatever_changes_a_signature_changes_its_version(other: tuple[int, int, int]) -> None:
    assert signature_version(5, 120, 20) != signature_version(*other)


def test_content_wording_and_numbers_say_what_two_texts_differ_in() -> None:
    long = "오늘 서울의 낮 기온은 어제보다 조금 높겠고 밤부터 비가 내리겠으니 우산을 챙기시기 바랍니다 "
    texts = [
        long + "기온 12도 010-1234-5678",
        long + "기온 31도 010-1234-5678",
        long + "기온  12 도! 010 1234 5678",
        unicodedata.normalize("NFD", long) + "기온 \uff11\uff12도 010-1234-5678",
        long + "기온 12도 [PHONE]",
        long + "습도 12도 010-1234-5678",
    ]
    made = sketch(pa.array(texts), 5, 8, 20)
    assert made.content[0] == made.content[2] == made.content[3], "composition, width, spacing, signs"
    assert len({*made.content.tolist()}) == 4
    assert made.wording[0] == made.wording[1] == made.wording[3] == made.wording[4]
    assert made.wording[5] != made.wording[0]
    assert made.number_counts.tolist() == [2, 2, 2, 2, 1, 2]
    assert (made.numbers[0, :2] >> 24).tolist() == [2, 11]
    assert made.numbers[0, 1] == made.numbers[1, 1]
    assert made.numbers[0, 0] != made.numbers[1, 0]


def test_a_text_of_a_thousand_numbers_takes_as_much_room_as_one_of_a_few() -> None:
    many = ["가 ".join(str(n) for n in range(start, start + 1000)) for start in (0, 1)]
    made = sketch(pa.array([*many, many[0]]), 5, 8, 20)
    assert made.number_counts.max() == 32
    assert made.numbers[0, 31] != made.numbers[1, 31]
    assert (made.numbers[0] == made.numbers[2]).all()


@given(st.lists(PIECES, max_size=20).map("".join), st.lists(PIECES, max_size=20).map("".join))
def test_content_is_all_letters_and_digits_whatever_masks_stand_in_the_form(one: str, other: str) -> None:
    _, plain = tables()
    said = [_letters(nfc(text), plain) for text in (one, other, one.upper() + " ")]
    made = sketch(pa.array([one, other, one.upper() + " "]), 5, 8, 20)
    for a, b in ((0, 1), (0, 2)):
        if said[a] and said[b]:
            assert (made.content[a] == made.content[b]) == (said[a] == said[b])
    for letters, numbers in zip(said, made.number_counts.tolist(), strict=True):
        runs = re.findall("[0-9]+", "".join(map(chr, letters)))
        assert numbers == min(len(runs), 32)
