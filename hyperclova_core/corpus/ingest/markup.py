"""Plain text out of markups that are not HTML: MediaWiki's wikitext and GNOME's Mallard."""

from __future__ import annotations

import html
import re
from typing import Any

MALLARD_NAMESPACE = "{http://projectmallard.org/1.0/}"
_BLOCKS = {"p", "title", "item", "cell", "td", "code", "screen"}
_SKIPPED = {"info", "credit", "media", "links"}

_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_REFERENCE = re.compile(r"<ref[^>/]*/>|<ref[^>]*>.*?</ref>", re.DOTALL | re.IGNORECASE)
_INNER_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")
_TABLE = re.compile(r"\{\|.*?\|\}", re.DOTALL)
_FILE_LINK = re.compile(
    r"\[\[(?:File|Image|Category|파일|그림|분류):[^\[\]]*(?:\[\[[^\[\]]*\]\][^\[\]]*)*\]\]", re.IGNORECASE
)
_LINK = re.compile(r"\[\[(?:[^|\[\]]*\|)?([^\[\]]*)\]\]")
_EXTERNAL = re.compile(r"\[https?://\S+\s*([^\]]*)\]")
_TAG = re.compile(r"<[^>]{1,200}>")
_HEADING = re.compile(r"^=+\s*(.*?)\s*=+\s*$", re.MULTILINE)
_BULLET = re.compile(r"^[*#:;]+\s*", re.MULTILINE)
_BLANKS = re.compile(r"\n{3,}")


def wikitext_to_plain(markup: str) -> str:
    """The prose of an article: templates, tables, files, references and categories go; the words of links stay."""
    text = _REFERENCE.sub("", _COMMENT.sub("", markup))
    for _ in range(20):
        shorter = _INNER_TEMPLATE.sub("", text)
        if shorter == text:
            break
        text = shorter
    text = _FILE_LINK.sub("", _TABLE.sub("", text))
    text = _EXTERNAL.sub(r"\1", _LINK.sub(r"\1", text))
    text = _TAG.sub("", text.replace("'''", "").replace("''", ""))
    text = _BULLET.sub("", _HEADING.sub(r"\1", text))
    return _BLANKS.sub("\n\n", html.unescape(text)).strip()


def mallard_text(root: Any) -> tuple[str | None, str]:
    """(title, text) of a Mallard page: a line a paragraph; who wrote it and media are left out."""
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
