"""De-identification and filtering on their own: what is found, what stays, and that no value leaks."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperclova_core.corpus.deidentify import DeidentifyConfig, deidentify
from hyperclova_core.corpus.filter import FilterConfig, filter_documents, judge, score
from hyperclova_core.corpus.ingest.config import SourceConfig
from hyperclova_core.corpus.quality_model import QualityModel, train_quality_model
from hyperclova_core.foundation.datasets.dataset import Dataset
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.korean.hangul import comparison_form, language_of
from hyperclova_core.korean.personal_data import (
    RULES,
    TYPES,
    business_checksum,
    find_personal_data,
    luhn,
    replace_spans,
    resident_checksum,
)
from tests.conftest import ingested, run_function, write_lines
from tests.samples import lines_of, marked_sentences


def found(text: str) -> list[tuple[str, str]]:
    return [(span.type, text[span.start : span.end]) for span in find_personal_data(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("메일은test@naver.com으로 주세요", [("EMAIL", "test@naver.com")]),
        ("연락처 010-5550-1234입니다", [("PHONE", "010-5550-1234")]),
        ("+82 10 5550 1234로", [("PHONE", "+82 10 5550 1234")]),
        ("사무실 02-555-0123", [("PHONE", "02-555-0123")]),
        ("주민번호 900101-1234568", [("RRN", "900101-1234568")]),
        ("외국인등록번호 900101-5234563", [("FRN", "900101-5234563")]),
        ("카드 4111-1111-1111-1111로 결제", [("CARD", "4111-1111-1111-1111")]),
        ("국민은행 123456-01-987654 예금주", [("ACCOUNT", "123456-01-987654")]),
        ("여권번호는 M123A4567이고", [("PASSPORT", "M123A4567")]),
        ("운전면허 11-05-123456-78", [("DRIVER", "11-05-123456-78")]),
        ("사업자등록번호 123-45-67891", [("BIZNO", "123-45-67891")]),
        ("접속 8.8.8.8에서", [("IP", "8.8.8.8")]),
        ("차량 12가 3456을", [("PLATE", "12가 3456")]),
        ("https://a.kr/x?token=abcdef123456 참고", [("URL_TOKEN", "abcdef123456")]),
        ("서울특별시 마포구 가상로 123-4에서", [("ADDRESS", "서울특별시 마포구 가상로 123-4")]),
        ("성명: 김가상 (30세)", [("NAME", "김가상")]),
        # not personal data
        ("2023-01-15에 열린 회의", []),
        ("제품 번호 1234567890을 찾으세요", []),
        ("버전 10.1.2.3 설치", []),
        ("127.0.0.1과 192.168.0.1", []),
        ("고객님 안녕하세요", []),
        ("2020년 3월 4일 12시 30분 3456명", []),
        ("커널 5.10.0.1 이상", []),
    ],
)
def test_what_is_personal_data(text: str, expected: list[tuple[str, str]]) -> None:
    assert found(text) == expected


def test_checksums() -> None:
    assert resident_checksum("9001011234568")
    assert not resident_checksum("9001011234567")
    assert luhn("4111111111111111")
    assert not luhn("4111111111111112")
    assert business_checksum("1234567891")


@given(st.text(alphabet="가나다 0123456789-@.a:김님", max_size=60))
def test_finds_do_not_overlap_and_replacing_is_idempotent_in_type(text: str) -> None:
    spans = find_personal_data(text)
    assert all(a.end <= b.start for a, b in zip(spans, spans[1:], strict=False))
    assert all(text[span.start : span.end] for span in spans)
    replaced = replace_spans(text, spans)
    assert len(replaced) - len(text) == sum(len(span.type) + 2 - (span.end - span.start) for span in spans)


def test_no_value_is_left_in_anything_that_is_not_restricted(portal: Dataset, tmp_path: Path) -> None:
    dataset = run_function(deidentify, DeidentifyConfig(), portal, tmp_path)
    values = [b"010-5550-1234", b"hobby.club99@example.com", b"123456-01-987654", b"900101-1234568"]
    kept = b" ".join(text.encode() for text in dataset.read("documents", ["text"]).column("text").to_pylist())
    audit = json.dumps(dataset.read("audit").to_pylist()).encode()
    assert all(value not in kept and value not in audit for value in values)
    assert b"[PHONE]" in kept
    assert b"[EMAIL]" in kept
    assert dataset.table("audit").restricted
    assert dataset.manifest.counters.rejected == {"mostly_personal_data": 1}
    rows = {row["source_id"]: dict(row["pii"]) for row in dataset.read("documents").to_pylist()}
    assert {"PHONE": 1, "ADDRESS": 1}.items() <= rows["cafe-020"].items()


def check_recall_and_precision(rows: Iterable[tuple[str, Sequence[tuple[str, int, int]]]]) -> None:
    """Over all types: more than .95 of what is marked is found, as what it is; more than .98 of what is found is marked."""
    hit = missed = wrong = 0
    for text, marked in rows:
        spans = find_personal_data(text)
        for kind, start, end in marked:
            same = any(span.type == kind and span.start < end and start < span.end for span in spans)
            hit, missed = hit + same, missed + (not same)
        wrong += sum(all(span.start >= end or start >= span.end for _, start, end in marked) for span in spans)
    assert hit / (hit + missed) > 0.95
    assert hit / (hit + wrong) > 0.98


def test_recall_and_precision_on_sentences_of_our_own() -> None:
    sentences = marked_sentences()
    assert {kind for sentence in sentences for kind, _, _ in sentence.spans} == set(TYPES)
    assert sum(not sentence.spans for sentence in sentences) > 20, "look-alikes"
    check_recall_and_precision((sentence.text, sentence.spans) for sentence in sentences)


def test_recall_and_precision_on_labelled_sentences(shared_data: Path) -> None:
    with gzip.open(shared_data / "pii" / "dev.jsonl.gz") as file:
        rows = [json.loads(line) for line in file]
    check_recall_and_precision(
        (row["text"], [(label["type"], label["start"], label["end"]) for label in row["spans"]]) for row in rows
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("오늘 회의에서는 도서관 운영 시간을 늘리는 방안을 이야기했다.", ""),
        ("짧다", "too_short"),
        ("ㅁㄴㅇㄹㅁㄴㅇㄹㅁㄴㅇㄹ ㅂㅈㄷㄱㅂㅈㄷㄱ", "gibberish"),
        ("뷁쀍쒧 꿻뛟쀒 뽧쮍 궭뛣 뿳쓻쮋", "gibberish"),
        ("The quick brown fox jumps over the lazy dog.", "other_language"),
        ("좋아요 " * 40, "repetitive"),
        ("야 이 병신 새끼야 꺼져라 진짜 지랄도 정도껏 해야지", "abuse"),
        ("당일대출 무직자대출 저금리 대환대출 상담문의 카톡: loan7788 지금바로 클릭하세요", "advertising"),
    ],
)
def test_reasons_of_the_filter(text: str, reason: str) -> None:
    assert judge(text, language_of(text), score(text), FilterConfig())[0] == reason


def test_prose_of_our_own_passes_the_filter() -> None:
    texts = [*lines_of("prose"), *lines_of("similar_prose")]
    assert [text for text in texts if judge(text, language_of(text), score(text), FilterConfig())[0]] == []


def test_real_prose_passes_the_filter(shared_data: Path) -> None:
    for name in ("petitions", "parallel_news", "deb_gnome_help", "kaist_books"):
        with gzip.open(shared_data / "corpus" / f"{name}.jsonl.gz") as file:
            texts = [json.loads(line)["text"] for _, line in zip(range(300), file, strict=False)]
        passed = sum(not judge(text, language_of(text), score(text), FilterConfig())[0] for text in texts)
        assert passed / len(texts) > 0.97, name


def test_comparison_form_ignores_spacing_punctuation_case_and_composition() -> None:
    import unicodedata

    text = "한국어 Text, 2026년 1월!"
    assert comparison_form(text) == comparison_form("한국어text 1999 년2월") == "한국어text0000년0월"
    assert comparison_form(unicodedata.normalize("NFD", text)) == comparison_form(text)


def test_the_quality_model_learns_saves_and_filters(tmp_path: Path) -> None:
    good = [
        f"오늘은 {place}에서 {thing}을 보았다. 날씨가 맑아서 기분이 좋았다."
        for place in ["산", "강", "들", "숲", "바다"]
        for thing in ["꽃", "새", "별", "달"]
    ]
    bad = [f"특가 {number}원 지금 주문 {number} 클릭 {number}" for number in range(20)]
    model, report = train_quality_model(good + bad, ["normal"] * 20 + ["ad"] * 20, seed=1)
    assert set(report) == {"normal", "ad"}
    model.save(str(tmp_path / "model"), report)
    loaded = QualityModel.load(str(tmp_path / "model"))
    labels, scores = loaded.predict(["특가 77원 지금 주문 클릭", "오늘은 호수에서 새를 보았다. 날씨가 맑아서 좋았다."])
    assert scores[0][labels.index("ad")] > 0.5 > scores[1][labels.index("ad")]
    path = write_lines(tmp_path / "in.jsonl", [{"id": str(n), "text": text} for n, text in enumerate(good + bad)])
    documents = ingested(tmp_path / "in", SourceConfig(name="x", paths=(str(path),)))
    config = FilterConfig(model=str(tmp_path / "model"), model_threshold=0.5, max_advertising=99)
    dropped = run_function(filter_documents, config, documents, tmp_path / "out").manifest.counters.rejected
    assert dropped == {"model_ad": 20}
    with pytest.raises(DataError, match="Too little"):
        train_quality_model(good[:3], ["a", "a", "b"], seed=1)


EXAMPLES = {
    "email": "메일은 gasang@example.com 입니다",
    "url-token": "https://example.kr/a?token=abcdef123456 참고",
    "rrn": "주민번호 900101-1234568",
    "frn": "외국인등록번호 900101-5234563",
    "card": "카드 4111-1111-1111-1111로 결제",
    "driver": "운전면허 11-05-123456-78",
    "mobile": "연락처 010-5550-1234입니다",
    "landline": "사무실 02-555-0123",
    "business": "사업자등록번호 123-45-67891",
    "passport": "여권번호는 M123A4567이고",
    "account": "국민은행 123456-01-987654 예금주",
    "ipv4": "접속 8.8.8.8에서",
    "ipv6": "접속 2001:4860:4860:0:0:0:0:8888 에서",
    "plate": "차량 12가 3456을",
    "road-address": "서울특별시 마포구 가상로 123-4에서",
    "lot-address": "수원시 팔달구 가상동 12-3번지",
    "name-field": "성명: 김가상 (30세)",
    "name-title": "김가상 과장님, 안녕하세요",
    "name-intro": "저는 김가상입니다. 반갑습니다",
}


def test_each_rule_finds_its_example() -> None:
    """A rule that can find nothing is seen by no measure of precision."""
    assert set(EXAMPLES) == {rule.name for rule in RULES}
    for rule in RULES:
        assert rule.pattern.groups <= 1, rule.name
        assert rule.name in {span.rule for span in find_personal_data(EXAMPLES[rule.name])}, rule.name
