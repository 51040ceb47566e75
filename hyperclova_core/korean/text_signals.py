"""Scores of a Korean text that say whether it is worth reading; each is a number, thresholds are the filter's."""

from __future__ import annotations

import math
import re

from hyperclova_core.korean.codepoints import Kind, codes_of, count, kinds_of, repeated_windows
from hyperclova_core.korean.hangul import comparison_form

_SPACES = re.compile(r"\s+")
_LATIN_RUN = re.compile(r"[bcdfghjklmnpqrstvwxz]{6,}", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[다요까죠오음함][.!?]")
_REPEATED = re.compile(r"(.)\1{5,}", re.DOTALL)

SHINGLE = 8
"""Characters of a shingle, of the comparison form."""

_ABUSE = [
    "씨발",
    "시발",
    "씨팔",
    "ㅅㅂ",
    "ㅆㅂ",
    "좆",
    "존나",
    "졸라",
    "ㅈㄴ",
    "병신",
    "ㅂㅅ",
    "븅신",
    "개새끼",
    "개색기",
    "새끼",
    "ㅅㄲ",
    "썅",
    "미친놈",
    "미친년",
    "지랄",
    "ㅈㄹ",
    "꺼져",
    "닥쳐",
    "엿먹",
    "빡대가리",
    "또라이",
    "쓰레기같",
    "한남충",
    "김치녀",
    "된장녀",
    "맘충",
    "틀딱",
    "급식충",
    "짱깨",
    "쪽바리",
    "홍어",
    "보슬아치",
    "느금마",
    "니애미",
    "니애비",
    "창녀",
    "걸레년",
    "뒈져",
    "뒤져라",
    "죽어라",
    "호로",
    "등신",
    "찐따",
    "벌레같",
]
_AD = [
    "무료상담",
    "상담문의",
    "문의주세요",
    "카톡문의",
    "카카오톡문의",
    "오픈채팅",
    "당일대출",
    "무직자대출",
    "신용불량",
    "저금리",
    "대환대출",
    "최저가",
    "특가",
    "할인쿠폰",
    "쿠폰코드",
    "무료체험",
    "선착순",
    "수익보장",
    "고수익",
    "재테크",
    "부업",
    "투자문의",
    "리딩방",
    "급등주",
    "카지노",
    "바카라",
    "토토",
    "먹튀",
    "입금보너스",
    "가입즉시",
    "이벤트참여",
    "구매링크",
    "지금바로",
    "클릭하세요",
    "링크클릭",
    "홍보",
    "협찬",
    "공동구매",
    "도매가",
    "출장마사지",
    "풀싸롱",
    "성인용품",
    "다이어트보조제",
    "체중감량",
    "임플란트할인",
    "무료배송",
    "주문폭주",
    "마감임박",
    "한정수량",
    "100만원지급",
    "당첨",
]
_AD_SHAPES = re.compile(
    r"https?://|www\.|bit\.ly|카톡\s{0,4}[:：]?\s{0,4}[A-Za-z0-9_]{4,}|\[PHONE\]|\d{1,3}%\s{0,4}(?:할인|세일|OFF)|[▶►★☆◆■♥♡✔✅☎→➡🔥💰📞]|(?<!\d)\d+만\s?원",
    re.IGNORECASE,
)


def gibberish(text: str) -> float:
    """0 to 1: how much looks like keys hit at random: rare syllables, single jamo, runs without vowels, symbols, one letter over and over."""
    dense = _SPACES.sub("", text)
    if not dense:
        return 1.0
    kinds = kinds_of(codes_of(dense))
    letters = max(1, count(kinds, Kind.LETTER))
    rare = count(kinds, Kind.SYLLABLE) - count(kinds, Kind.COMMON)
    jamo = count(kinds, Kind.JAMO)
    mashed = sum(len(match.group(0)) for match in _LATIN_RUN.finditer(dense))
    symbols = count(kinds, Kind.SYMBOL) / len(dense)
    runs = sum(len(match.group(0)) for match in _REPEATED.finditer(dense)) / len(dense)
    return min(1.0, 4.0 * rare / letters + 0.9 * jamo / letters + mashed / letters + max(0.0, symbols - 0.1) + runs)


def repetition(form: str) -> float:
    """0 to 1: shingles of eight characters, of a text's comparison form, that came before in it."""
    if len(form) < 40:
        return 0.0
    return repeated_windows(codes_of(form), SHINGLE) / (len(form) - SHINGLE + 1)


def abuse(form: str) -> float:
    """Words of abuse per hundred letters of a text's comparison form, which has neither spaces nor punctuation."""
    return 100.0 * sum(form.count(word) for word in _ABUSE) / max(100, len(form))


def advertising(text: str, form: str) -> float:
    """Phrases (of the comparison form) and shapes (of the text) of advertising per hundred letters; short texts count as of fifty letters."""
    found = sum(form.count(word) for word in _AD_FORMS) + 0.5 * sum(1 for _ in _AD_SHAPES.finditer(text))
    return 100.0 * found / max(50, len(form))


_AD_FORMS = tuple(comparison_form(word) for word in _AD)


def quality(
    text: str, gibberish_score: float, repetition_score: float, abuse_score: float, advertising_score: float
) -> float:
    """A rough worth, higher is better: Korean prose of some length, whose sentences end, without what the scores say."""
    kinds = kinds_of(codes_of(text))
    letters = max(1, count(kinds, Kind.LETTER))
    korean = count(kinds, Kind.HANGUL) / letters
    ends = sum(1 for _ in _SENTENCE_END.finditer(text))
    sentences = min(1.0, 80.0 * ends / letters)
    length = min(1.0, math.log10(letters) / 3.5)
    worth = 0.4 * length + 0.3 * korean + 0.3 * sentences
    return (
        worth
        - gibberish_score
        - 0.5 * repetition_score
        - 0.2 * min(3.0, abuse_score)
        - 0.1 * min(5.0, advertising_score)
    )
