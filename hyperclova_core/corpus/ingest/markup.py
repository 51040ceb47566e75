"""Plain text out of markups that are not HTML: MediaWiki's wikitext and GNOME's Mallard."""

from __future__ import annotations

import html
import re
from typing import Any

MALLARD_NAMESPACE = "{http://projectmallard.org/1.0/}"
_BLOCKS = {"p", "title", "item", "cell", "td", "code", "screen"}
_SKIPPED = {"info", "credit", "media", "links"}

_REFERENCE_OPENS = re.compile(r"<ref(?![a-z])[^<>]{0,1000}>", re.IGNORECASE)
_REFERENCE_CLOSES = re.compile(r"</ref\s{0,10}>", re.IGNORECASE)
_INNER_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")
_FILE_LINK = re.compile(
    r"\[\[(?:File|Image|Category|파일|그림|분류):[^\[\]]*(?:\[\[[^\[\]]*\]\][^\[\]]*)*\]\]", re.IGNORECASE
)
_LINK = re.compile(r"\[\[(?:[^|\[\]]*\|)?([^\[\]]*)\]\]")
_EXTERNAL = re.compile(r"\[https?://[^\s\[\]]+(?:[ \t]+([^\s\[\]][^\[\]\n]*)?)?\]")
_TAG = re.compile(r"<[^<>]{1,200}>")
_BULLET = re.compile(r"^[*#:;]+[ \t]*", re.MULTILINE)
_BLANKS = re.compile(r"\n{3,}")
MOST_NESTED = 20
"""Templates within templates that are taken away."""


def wikitext_to_plain(markup: str) -> str:
    """The prose of an article: templates, tables, files, references and categories go; the words of links stay.

    Each step reads the text once from left to right: a mark that is never closed stays as it is, and is not looked for again.
    """
    text = _without_references(_without(markup, "<!--", "-->"))
    for _ in range(MOST_NESTED):
        shorter = _INNER_TEMPLATE.sub("", text)
        if shorter == text:
            break
        text = shorter
    text = _FILE_LINK.sub("", _without(text, "{|", "|}"))
    text = _EXTERNAL.sub(r"\1", _LINK.sub(r"\1", text))
    text = _TAG.sub("", text.replace("'''", "").replace("''", ""))
    text = _BULLET.sub("", "\n".join(map(_heading, text.split("\n"))))
    return _BLANKS.sub("\n\n", html.unescape(text)).strip()


def _without(text: str, opens: str, closes: str) -> str:
    """The text without what stands between two marks, the marks included."""
    parts, last = [], 0
    while (begin := text.find(opens, last)) >= 0:
        end = text.find(closes, begin + len(opens))
        if end < 0:
            break
        parts.append(text[last:begin])
        last = end + len(closes)
    return "".join([*parts, text[last:]])


def _without_references(text: str) -> str:
    """The text without `<ref>…</ref>` and `<ref name="…" />`; `<references>` is another tag."""
    parts, last, some_close = [], 0, True
    for opened in _REFERENCE_OPENS.finditer(text):
        if opened.start() < last:
            continue
        end = opened.end()
        if not opened.group(0).endswith("/>"):
            closed = _REFERENCE_CLOSES.search(text, end) if some_close else None
            some_close = closed is not None
            if closed is None:
                continue
            end = closed.end()
        parts.append(text[last : opened.start()])
        last = end
    return "".join([*parts, text[last:]])


def _heading(line: str) -> str:
    """A line `== words ==` as its words; others as they are."""
    bare = line.rstrip()
    return bare.strip("=").strip() if bare.startswith("=") and bare.endswith("=") else line


def mallard_text(root: Any) -> tuple[str | None, str]:
    """(title, text) of a Mallard page: a line a paragraph; who wrote it and media are left out.

    The depth of the tree is the reader's to bound.
    """
    blocks: list[str] = []

    def flatten(element: Any) -> str:
        parts = [element.text or ""]
        for child in element:
            if child.tag.rpartition("}")[2] not in _SKIPPED:
                parts.append(flatten(child))
            parts.append(child.tail or "")
        return "".join(parts)

    def walk(element: Any) -> None:
        tag = element.tag.rpartition("}")[2]
        if tag in _SKIPPED:
            return
        inner = [child.tag.rpartition("}")[2] for child in element]
        if tag in _BLOCKS and not any(name in _BLOCKS or name in ("steps", "list", "note") for name in inner):
            block = " ".join(flatten(element).split())
            if block:
                blocks.append(block)
            return
        for child in element:
            walk(child)

    walk(root)
    heading = root.find(f"{MALLARD_NAMESPACE}title")
    title = " ".join(flatten(heading).split()) if heading is not None else None
    return title, "\n".join(blocks)
