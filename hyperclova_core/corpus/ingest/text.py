"""From bytes to text: charset found, not assumed (header, then meta, then content)."""

from __future__ import annotations

import re

_META = re.compile(rb"""<meta[^>]{0,200}?charset\s{0,20}=\s{0,20}["']?\s{0,20}([A-Za-z0-9_\-]{1,40})""", re.IGNORECASE)
_XML = re.compile(
    rb"""^\s{0,100}<\?xml[^>]{0,200}?encoding\s{0,20}=\s{0,20}["']([A-Za-z0-9_\-]{1,40})""", re.IGNORECASE
)
_KOREAN = {
    "euc-kr",
    "euckr",
    "ks_c_5601-1987",
    "ksc5601",
    "ks_c_5601",
    "ksc_5601",
    "cp949",
    "ms949",
    "x-windows-949",
    "uhc",
    "korean",
}
CHARSETS = {
    **dict.fromkeys(_KOREAN, "cp949"),
    **dict.fromkeys(("utf-8", "utf8", "utf-8-sig", "us-ascii", "ascii"), "utf-8-sig"),
    **{
        name: name
        for name in ("utf-16", "utf-16le", "utf-16be", "utf-32", "iso-2022-kr", "johab", "shift_jis", "euc-jp")
    },
    **{name: name for name in ("gb2312", "gbk", "gb18030", "big5", "tis-620", "koi8-r", "koi8-u")},
    **{f"iso-8859-{number}": f"iso-8859-{number}" for number in (*range(1, 12), *range(13, 17))},
    **{f"{family}{number}": f"cp{number}" for family in ("windows-", "cp") for number in range(1250, 1259)},
    **dict.fromkeys(("latin1", "latin-1"), "cp1252"),
}
"""Charsets that pages are read in, and the codec of each. Python knows others that are no charsets of text, some of them slow: `punycode`
took 20 seconds for 320 KB."""
_HEADER = re.compile(r"charset\s{0,20}=\s{0,20}[\"']?([A-Za-z0-9_\-]{1,40})", re.IGNORECASE)


class UndecodableError(ValueError):
    """No charset fits the bytes."""


def declared_charset(content_type: str | None) -> str | None:
    """The charset of a Content-Type header."""
    match = _HEADER.search(content_type or "")
    return match.group(1) if match else None


def decode_page(body: bytes, header_charset: str | None = None) -> tuple[str, str]:
    """(text, charset) of a page. A declared charset counts only if the bytes are valid in it.

    EUC-KR is read as its superset CP949, as browsers do (WHATWG Encoding Standard, section 13.2).

    Raises:
        UndecodableError: the bytes fit no charset that Korean pages use.
    """
    candidates = [header_charset]
    for pattern in (_META, _XML):
        match = pattern.search(body[:4096])
        candidates.append(match.group(1).decode("ascii") if match else None)
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        candidates.insert(0, "utf-16")
    for name in [*candidates, "utf-8", "cp949"]:
        charset = CHARSETS.get((name or "").lower())
        if charset is None:
            continue
        try:
            return body.decode(charset), charset.removesuffix("-sig")
        except UnicodeError:
            continue
    for charset in ("cp949", "utf-8"):
        text = body.decode(charset, errors="replace")
        if text.count("\ufffd") * 200 <= len(text):
            return text, charset
    raise UndecodableError("the bytes are neither valid UTF-8 nor CP949, and no declared charset fits")
