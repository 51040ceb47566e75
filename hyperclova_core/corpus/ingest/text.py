"""From bytes to text: charset found, not assumed (header, then meta, then content)."""

from __future__ import annotations

import re

_META = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_\-]+)""", re.IGNORECASE)
_XML = re.compile(rb"""^\s*<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9_\-]+)""", re.IGNORECASE)
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
_HEADER = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9_\-]+)", re.IGNORECASE)


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
        if not name:
            continue
        charset = (
            "cp949" if name.lower() in _KOREAN else "utf-8-sig" if name.lower() in ("utf-8", "utf8") else name.lower()
        )
        try:
            return body.decode(charset), charset.removesuffix("-sig")
        except (UnicodeError, LookupError):
            continue
    for charset in ("cp949", "utf-8"):
        text = body.decode(charset, errors="replace")
        if text.count("\ufffd") * 200 <= len(text):
            return text, charset
    raise UndecodableError("the bytes are neither valid UTF-8 nor CP949, and no declared charset fits")
