"""What comes from documents and file names commands neither terminals nor browsers."""

from __future__ import annotations

import pytest

from hyperclova_core.corpus.deduplicate.report import examples_page
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.printable import printable
from hyperclova_core.pipeline.funnel import funnel_svg

PAYLOADS = [
    "\x1b]0;owned\x07",
    "\x1b[2J\x1b[1;1H",
    "\x9b31m",
    "\x08\x08\x08rm",
    "a\rb",
    "\u202egpj.exe",
    "\u2066admin\u2069",
    "\x00",
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: ascii(payload))
def test_a_terminal_is_not_commanded(payload: str) -> None:
    shown = printable(f"앞 {payload} 뒤\n다음 줄\t끝")
    assert all(sign.isprintable() or sign in "\n\t" for sign in shown)
    assert shown.startswith("앞 ") and shown.endswith(" 뒤\n다음 줄\t끝")
    error = DataError("A file", where=f"/data/{payload}.jsonl", why=payload, remedy="none")
    assert all(sign.isprintable() or sign == "\n" for sign in error.message())


def test_text_stays_as_it_is() -> None:
    text = "가나다 각 ABC １２３ 🔥👨‍👩‍👧 한\u200c글\n\t끝"
    assert printable(text) == text


MARKUP = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</title><svg onload=alert(1)>",
    '"><b>',
    "</pre><iframe>",
]


@pytest.mark.parametrize("payload", MARKUP)
def test_pages_show_markup_and_do_not_have_it(payload: str) -> None:
    row = {"stage": payload, "documents_in": 2, "documents_kept": 1, "bytes_in": 2, "bytes_kept": 1}
    lost = [{"reason": payload, "documents": 1, "bytes": 1}, *({"reason": payload, "documents": 0, "bytes": 0},) * 3]
    examples = [{"similarity": 0.9, "sides": [("0" * 32, payload), ("1" * 32, payload)]}]
    for page in (examples_page(examples), funnel_svg([{**row, "lost": lost}], payload)):
        assert payload not in page
        assert "&lt;" in page or "&gt;" in page
