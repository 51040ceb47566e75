"""Personal data in Korean text: patterns, then validation and context, then one span a find.

`\\b` is no border in Korean (a particle follows without a space: "test@naver.com으로"), so borders are stated as what
may not stand beside a find. Checksums raise confidence and never reject a resident number: those issued since
October 2020 have none.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

TYPES = (
    "RRN",
    "FRN",
    "PHONE",
    "EMAIL",
    "CARD",
    "ACCOUNT",
    "PASSPORT",
    "DRIVER",
    "BIZNO",
    "IP",
    "PLATE",
    "URL_TOKEN",
    "ADDRESS",
    "NAME",
)
"""All types; each has one placeholder `[TYPE]`, one token of the tokenizer."""


@dataclass(frozen=True)
class Span:
    """A find: character offsets (end exclusive), type, the rule that found it, and how sure it is (0 to 1)."""

    start: int
    end: int
    type: str
    rule: str
    confidence: float


@dataclass(frozen=True)
class Rule:
    """A pattern whose first group (else the whole match) is the find; `judge` gives a confidence, 0 to leave it."""

    name: str
    type: str
    pattern: re.Pattern[str]
    judge: Callable[[re.Match[str], str], float]
    order: int


_DIGITS = re.compile(r"\D")
_FINANCE = re.compile(
    r"은행|뱅크|계좌|입금|송금|이체|예금주|무통장|농협|수협|신협|우체국|새마을금고|국민|신한|우리|하나|기업|카카오|토스"
)
_PASSPORT = re.compile(r"여권|passport", re.IGNORECASE)
_NEW_PASSPORT = re.compile(r"M\d{3}[A-Z]\d{4}")
_DRIVER = re.compile(r"면허|license", re.IGNORECASE)
_RESIDENT = re.compile(r"주민|등록번호|주민번호|생년월일|RRN", re.IGNORECASE)
_PHONE_WORD = re.compile(r"전화|연락|휴대|핸드폰|번호|폰|tel|phone|mobile|문의|☎|팩스|fax|카톡|문자", re.IGNORECASE)
_CARD_WORD = re.compile(r"카드|결제|card", re.IGNORECASE)
_BUSINESS = re.compile(r"사업자")
LONGEST_ADDRESS = 4096
"""Characters of an address before its parameter."""
_ENDS_ADDRESS = re.compile(r"[\s<>\"'가-힣]")
_VERSION = re.compile(r"버전|version|\bv\.?$|릴리[스즈]|커널|펌웨어", re.IGNORECASE)


def _near(match: re.Match[str], text: str, words: re.Pattern[str], before: int = 25, after: int = 12) -> bool:
    return bool(
        words.search(text[max(0, match.start() - before) : match.start()])
        or words.search(text[match.end() : match.end() + after])
    )


def _numbers(match: re.Match[str]) -> str:
    return _DIGITS.sub("", match.group(0))


def _is_date(year: int, month: int, day: int) -> bool:
    return (
        1 <= month <= 12
        and 1 <= day <= (31, 29 if year % 4 == 0 else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]
    )


def resident_checksum(digits: str) -> bool:
    """Check digit of a resident (or, by +2, a foreigner's) registration number of 13 digits."""
    total = sum(
        int(digit) * weight for digit, weight in zip(digits, (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), strict=False)
    )
    check = (11 - total % 11) % 10
    return int(digits[12]) in (check, (check + 2) % 10)


def _resident(match: re.Match[str], text: str, foreign: bool) -> float:
    digits = _numbers(match)
    if len(digits) != 13 or (digits[6] in "5678") != foreign:
        return 0.0
    if not _is_date(int(digits[:2]), int(digits[2:4]), int(digits[4:6])):
        return 0.0
    valid, separated, named = resident_checksum(digits), not match.group(0).isdigit(), _near(match, text, _RESIDENT)
    return 0.99 if valid and (separated or named) else 0.9 if separated or named else 0.6 if valid else 0.0


def luhn(digits: str) -> bool:
    """The check of payment cards (ISO/IEC 7812-1, annex B)."""
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if position % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _card(match: re.Match[str], text: str) -> float:
    digits = _numbers(match)
    if not 14 <= len(digits) <= 16 or digits[0] not in "3456789" or len(set(digits)) < 2:
        return 0.0
    if luhn(digits):
        return 0.97
    return 0.8 if _near(match, text, _CARD_WORD) and not match.group(0).isdigit() else 0.0


def business_checksum(digits: str) -> bool:
    """Check digit of a business registration number of 10 digits."""
    total = sum(int(digit) * weight for digit, weight in zip(digits, (1, 3, 7, 1, 3, 7, 1, 3, 5), strict=False))
    return (10 - (total + int(digits[8]) * 5 // 10) % 10) % 10 == int(digits[9])


def _business(match: re.Match[str], text: str) -> float:
    named, valid = _near(match, text, _BUSINESS), business_checksum(_numbers(match))
    return 0.97 if named and valid else 0.85 if named else 0.8 if valid and "-" in match.group(0) else 0.0


def _mobile(match: re.Match[str], text: str) -> float:
    separated = not match.group(0).isdigit()
    return 0.97 if separated else 0.9 if _near(match, text, _PHONE_WORD) or len(_numbers(match)) == 11 else 0.5


def _landline(match: re.Match[str], text: str) -> float:
    return 0.92 if not match.group(0).isdigit() else 0.8 if _near(match, text, _PHONE_WORD) else 0.0


def _account(match: re.Match[str], text: str) -> float:
    digits = _numbers(match)
    if not 10 <= len(digits) <= 16 or not _near(match, text, _FINANCE):
        return 0.0
    return 0.9 if "-" in match.group(0) else 0.75


def _driver(match: re.Match[str], text: str) -> float:
    region = match.group(0)[:2]
    known = not region.isdigit() or 11 <= int(region) <= 28
    return 0.95 if known and _near(match, text, _DRIVER) else 0.75 if known and "-" in match.group(0) else 0.0


def _passport(match: re.Match[str], text: str) -> float:
    return 0.95 if _near(match, text, _PASSPORT) else 0.7 if _NEW_PASSPORT.fullmatch(match.group(0)) else 0.0


def _address_v4(match: re.Match[str], text: str) -> float:
    try:
        address = ipaddress.IPv4Address(match.group(0))
    except ValueError:
        return 0.0
    if not address.is_global or _VERSION.search(text[max(0, match.start() - 12) : match.start()]):
        return 0.0
    return 0.9


def _address_v6(match: re.Match[str], text: str) -> float:
    try:
        return 0.9 if ipaddress.IPv6Address(match.group(0)).is_global else 0.0
    except ValueError:
        return 0.0


def _url_token(match: re.Match[str], text: str) -> float:
    """Whether an address begins before the parameter, with nothing between that ends one. Looked for backwards, from the rare word on: a
    pattern that begins with the address would read to the end of the line from each address in it."""
    before = text[max(0, match.start() - LONGEST_ADDRESS) : match.start()].lower()
    begins = max(before.rfind("http://"), before.rfind("https://"))
    return 0.95 if begins >= 0 and not _ENDS_ADDRESS.search(before, begins) else 0.0


def _always(confidence: float) -> Callable[[re.Match[str], str], float]:
    return lambda match, text: confidence


_SURNAMES = "김이박최정강조윤장임한오서신권황안송전홍유고문양손배백허남심노하곽성차주우구민류나진지엄채원천방공현함변염여추도소석선설마길연위표명기반왕금옥육인맹제모탁국어은편용"
_GIVEN = r"[가-힣]{2}"
_PLACE = (
    r"(?:서울(?:특별시|시)?|부산(?:광역시|시)?|대구(?:광역시|시)?|인천(?:광역시|시)?|광주(?:광역시|시)?|대전(?:광역시|시)?|울산(?:광역시|시)?|세종(?:특별자치시|시)?"
    r"|경기도?|강원(?:특별자치도|도)?|충청?[북남]도?|전라?[북남]도?|전북특별자치도|경상?[북남]도?|제주(?:특별자치도|도)?)"
)
_ROAD = (
    _PLACE
    + r"\s{1,10}(?:[가-힣]{1,8}[시군구]\s{1,10}){1,2}(?:[가-힣]{1,6}[읍면동]\s{1,10})?[가-힣0-9]{1,15}(?:대로|로|길|거리)가?(?:\s?\d{1,5}번?[가나다라]?길)?\s?(?:지하\s?)?\d{1,4}(?:-\d{1,4})?"
    r"(?:번지)?(?:[,\s]{1,10}(?:[가-힣A-Za-z0-9]{1,15}(?:아파트|빌라|오피스텔|타워|빌딩)\s?)?(?:\d{1,4}동\s?)?\d{1,5}호)?"
)
_LOT = (
    r"(?:"
    + _PLACE
    + r"\s{1,10})?(?:[가-힣]{1,8}[시군구]\s{1,10}){1,2}(?:[가-힣]{1,6}[읍면]\s{1,10})?[가-힣]{1,6}(?:\d가|[동리가])\s?\d{1,4}(?:-\d{1,4})?(?:번지)?"
    r"(?:[,\s]{1,10}(?:[가-힣A-Za-z0-9]{1,15}(?:아파트|빌라)\s?)?(?:\d{1,4}동\s?)?\d{1,5}호)?"
)

RULES: tuple[Rule, ...] = (
    Rule(
        "email",
        "EMAIL",
        re.compile(
            r"(?<![A-Za-z0-9._%+\-])[A-Za-z0-9][A-Za-z0-9._%+\-]{0,63}@(?:[A-Za-z0-9\-]{1,63}\.)+[A-Za-z]{2,18}(?![A-Za-z0-9@])"
        ),
        _always(0.98),
        0,
    ),
    Rule(
        "url-token",
        "URL_TOKEN",
        re.compile(
            r"[?&;#](?:access_?token|token|auth|session(?:_?id)?|sid|jsessionid|api_?key|key|password|passwd|pwd|secret|code|sig(?:nature)?)=([A-Za-z0-9._~+/=%\-]{6,})",
            re.IGNORECASE,
        ),
        _url_token,
        1,
    ),
    Rule(
        "rrn",
        "RRN",
        re.compile(r"(?<!\d)(?<!\d[-.])\d{6}\s?[-‐–—~]?\s?[0-49]\d{6}(?!\d)"),
        lambda m, t: _resident(m, t, False),
        2,
    ),
    Rule(
        "frn",
        "FRN",
        re.compile(r"(?<!\d)(?<!\d[-.])\d{6}\s?[-‐–—~]?\s?[5-8]\d{6}(?!\d)"),
        lambda m, t: _resident(m, t, True),
        2,
    ),
    Rule(
        "card",
        "CARD",
        re.compile(
            r"(?<!\d)(?<!\d-)(?:\d{4}[-\s.]?\d{4}[-\s.]?\d{4}[-\s.]?\d{4}|3\d{3}[-\s]?\d{6}[-\s]?\d{4,5})(?!\d)(?!-\d)"
        ),
        _card,
        3,
    ),
    Rule(
        "driver",
        "DRIVER",
        re.compile(
            r"(?<!\d)(?<!\d-)(?:\d{2}|서울|부산|대구|인천|광주|대전|울산|경기|강원|충북|충남|전북|전남|경북|경남|제주)[-\s]?\d{2}[-\s]?\d{6}[-\s]?\d{2}(?!\d)(?!-\d)"
        ),
        _driver,
        4,
    ),
    Rule(
        "mobile",
        "PHONE",
        re.compile(r"(?<!\d)(?<!\d-)(?:\+?82[-\s.]?\(?0?\)?|0)1[016-9][)\-\s.·]?\s?\d{3,4}[-\s.·]?\d{4}(?!\d)(?!-\d)"),
        _mobile,
        5,
    ),
    Rule(
        "landline",
        "PHONE",
        re.compile(
            r"(?<!\d)(?<!\d-)(?:\(?(?:0(?:2|3[1-3]|4[1-4]|5[1-5]|6[1-4]|70|80|50\d?))\)?[-\s.)]\s?\d{3,4}[-\s.]\d{4}|\+82[-\s.](?:2|3[1-3]|4[1-4]|5[1-5]|6[1-4]|70)[-\s.]\d{3,4}[-\s.]\d{4}|0(?:2|[3-6][1-5]|70|50\d)\d{7,8}|1[568]\d{2}-\d{4})(?!\d)(?!-\d)"
        ),
        _landline,
        6,
    ),
    Rule("business", "BIZNO", re.compile(r"(?<!\d)(?<!\d-)\d{3}-?\d{2}-?\d{5}(?!\d)(?!-\d)"), _business, 7),
    Rule(
        "passport",
        "PASSPORT",
        re.compile(r"(?<![A-Za-z0-9])(?:[MSROGD]\d{8}|[MSROGD]\d{3}[A-Z]\d{4}|[A-Z]{2}\d{7})(?![A-Za-z0-9])"),
        _passport,
        8,
    ),
    Rule(
        "account",
        "ACCOUNT",
        re.compile(r"(?<!\d)(?<!\d-)(?:\d{2,6}-\d{2,6}-\d{2,7}(?:-\d{1,5})?|\d{10,14})(?!\d)(?!-\d)"),
        _account,
        9,
    ),
    Rule("ipv4", "IP", re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?!\d)(?!\.\d)"), _address_v4, 10),
    Rule(
        "ipv6",
        "IP",
        re.compile(
            r"(?<![0-9A-Fa-f:])(?:[0-9A-Fa-f]{1,4}:){2,7}(?::|[0-9A-Fa-f]{1,4})(?::?[0-9A-Fa-f]{1,4}){0,6}(?![0-9A-Fa-f:])"
        ),
        _address_v6,
        11,
    ),
    Rule(
        "plate",
        "PLATE",
        re.compile(
            r"(?<![\d가-힣])(?:(?:서울|부산|대구|인천|광주|대전|울산|세종|경기|강원|충북|충남|전북|전남|경북|경남|제주)\s?)?\d{2,3}\s?[가나다라마거너더러머버서어저고노도로모보소오조구누두루무부수우주아바사자하허호배]\s?\d{4}(?![\d년월일원개명])"
        ),
        _always(0.85),
        12,
    ),
    Rule("road-address", "ADDRESS", re.compile(_ROAD), _always(0.9), 13),
    Rule("lot-address", "ADDRESS", re.compile(_LOT), _always(0.8), 14),
    Rule(
        "name-field",
        "NAME",
        re.compile(
            rf"(?:이름|성명|성함|예금주|수취인|수령인|받는\s?사람|보내는\s?사람|담당자|대표자|작성자|신청인|환자명|고객명)(?:은|는|이|가)?\s?[:：=\-]?\s?([{_SURNAMES}]{_GIVEN})(?=\s|[,.·/()\]]|$|입니다|이고|이며|님|씨|\d)"
        ),
        _always(0.9),
        15,
    ),
    Rule(
        "name-title",
        "NAME",
        re.compile(
            rf"(?<![가-힣])([{_SURNAMES}]{_GIVEN})(?=\s?(?:님|씨)(?![가-힣]{{2}})|\s(?:과장|대리|부장|차장|팀장|사원|주임|실장|이사|상무|전무|교수|원장|기사|간호사)(?:님|이|은|는|가|께|께서|에게|의|과|와|입니다)?(?![가-힣]))"
        ),
        _always(0.75),
        16,
    ),
    Rule(
        "name-intro",
        "NAME",
        re.compile(rf"(?:저는|제\s?이름은|나는)\s{{1,10}}([{_SURNAMES}]{_GIVEN})(?=(?:이?라고|입니다|이에요|예요))"),
        _always(0.85),
        17,
    ),
)
_NOT_NAMES = frozenset(
    [
        "고객사",
        "사용자",
        "이용자",
        "선생님",
        "어머님",
        "아버님",
        "여러분",
        "회원님",
        "손님들",
        "지원자",
        "신청자",
        "담당자",
        "관리자",
        "운영자",
        "구매자",
        "판매자",
        "작성자",
        "주인공",
        "이상한",
        "정말로",
        "조금만",
        "하나님",
        "부처님",
    ]
)
_TRIGGER = re.compile(
    r"\d|@|[가-힣]\s?(?:님|씨)|이름|성명|성함|예금주|수취인|수령인|사람|담당자|대표자|작성자|신청인|환자명|고객명|저는|나는|token|key=|\w:\w"
)


_FULL_WIDTH = re.compile("[\uff01-\uff5e]")
_HALF_WIDTH = {0xFEE0 + code: code for code in range(0x21, 0x7F)}
"""Full-width forms of ASCII, one character for one, so that offsets stay."""


def find_personal_data(text: str) -> list[Span]:
    """All finds, in order, not overlapping: earlier rules (more certain types) win, then the longer find."""
    if _FULL_WIDTH.search(text):
        text = text.translate(_HALF_WIDTH)
    if not _TRIGGER.search(text):
        return []
    taken = bytearray(len(text))
    found: list[Span] = []
    for span in (span for rule in RULES for span in _apply(rule, text)):
        if taken.find(1, span.start, span.end) < 0:
            taken[span.start : span.end] = b"\1" * (span.end - span.start)
            found.append(span)
    return sorted(found, key=lambda span: span.start)


def _apply(rule: Rule, text: str) -> Iterator[Span]:
    for match in rule.pattern.finditer(text):
        confidence = rule.judge(match, text)
        group = 1 if match.re.groups else 0
        if confidence > 0 and not (rule.type == "NAME" and match.group(group) in _NOT_NAMES):
            yield Span(match.start(group), match.end(group), rule.type, rule.name, confidence)


def replace_spans(text: str, spans: list[Span]) -> str:
    """The text with each find replaced by its placeholder."""
    parts, last = [], 0
    for span in spans:
        parts += [text[last : span.start], f"[{span.type}]"]
        last = span.end
    return "".join([*parts, text[last:]])
