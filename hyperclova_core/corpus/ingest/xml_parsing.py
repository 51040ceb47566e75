"""XML that cannot hurt who reads it: no entities of its own, a bounded depth, nothing that grows without an end."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any
from xml.etree.ElementTree import ParseError, TreeBuilder

MOST_DEPTH = 200
"""Elements within elements; a MediaWiki dump has 5, a Mallard page some 20."""
CHUNK_BYTES = 1 << 16
INVALID_XML = (ParseError, ValueError)
"""What parsing raises: defusedxml's refusals are ValueErrors."""

XML_DECLARATION = re.compile(r"^\s{0,100}<\?xml[^>]{0,1000}\?>")
KOREAN_DECLARATION = re.compile(
    rb"^\s{0,100}<\?xml[^>]{0,1000}?encoding\s{0,10}=\s{0,10}[\"'](?:euc-kr|cp949|ks_c_5601-1987|ms949)[\"']",
    re.IGNORECASE,
)


class _Recoded(io.RawIOBase):
    """A CP949 stream as UTF-8, its XML declaration corrected: expat knows no multi-byte charset but Unicode's."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._reader = codecs.getreader("cp949")(stream, "replace")
        self._first, self._rest = True, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            text = self._reader.read(65_536)
            if self._first:
                text, self._first = XML_DECLARATION.sub("", text, count=1), False
            self._rest = text.encode("utf-8", "replace")
        part = self._rest[: len(buffer)]
        self._rest = self._rest[len(part) :]
        buffer[: len(part)] = part
        return len(part)


def as_utf8(stream: IO[bytes]) -> IO[bytes]:
    """An XML stream that expat can read, whatever Korean charset it declares."""
    buffered = io.BufferedReader(stream)  # type: ignore[type-var]
    if KOREAN_DECLARATION.match(buffered.peek(200)[:200]):
        return io.BufferedReader(_Recoded(buffered))
    return buffered


class _BoundedTree(TreeBuilder):
    """A tree whose depth is bounded: what walks it calls itself."""

    def __init__(self) -> None:
        super().__init__()
        self._depth = 0

    def start(self, tag: str, attrs: dict[Any, Any]) -> Any:  # type: ignore[override]
        self._depth = deeper(self._depth)
        return super().start(tag, attrs)

    def end(self, tag: str) -> Any:
        self._depth -= 1
        return super().end(tag)


def deeper(depth: int) -> int:
    """One more than a depth.

    Raises:
        ValueError: that is too many.
    """
    if depth >= MOST_DEPTH:
        raise ValueError(f"elements lie more than {MOST_DEPTH} deep")
    return depth + 1


def parse_tree(body: bytes) -> Any:
    """The root element of a small document.

    Raises:
        INVALID_XML: it is not well-formed, defines entities, or is too deep.
    """
    from defusedxml.ElementTree import DefusedXMLParser

    parser = DefusedXMLParser(target=_BoundedTree())
    parser.feed(as_utf8(io.BytesIO(body)).read())
    return parser.close()


@dataclass
class WikiPage:
    """What is read of a page of a MediaWiki dump: of each field the last (the newest revision's), of `id` the page's own."""

    values: dict[str, str] = field(default_factory=dict)
    redirect: bool = False
    characters: int = 0
    """Of its text, also where that is longer than the limit and was not kept."""
    too_large: bool = False


_FIELDS = frozenset(("title", "ns", "text", "timestamp", "id"))


class _WikiPages:
    """A parser's target: whole pages in `done`, of which no more than one text is held."""

    def __init__(self, limit: int) -> None:
        self.done: list[WikiPage] = []
        self.open: WikiPage | None = None
        self.quiet = 0
        """Bytes that were fed since something began, ended or was read."""
        self._limit, self._path, self._parts, self._held = limit, list[str](), list[str](), 0

    def start(self, tag: str, attrs: dict[str, str]) -> None:
        deeper(len(self._path))
        self.quiet = 0
        name = tag.rpartition("}")[2]
        self._path.append(name)
        self._parts, self._held = [], 0
        if name == "page":
            self.open = WikiPage()
        elif self.open is not None:
            self.open.redirect |= name == "redirect"
            if name == "text":
                self.open.too_large, self.open.characters = False, 0

    def data(self, data: str) -> None:
        self.quiet = 0
        if self.open is None or self._path[-1] not in _FIELDS:
            return
        self._held += len(data)
        if self._path[-1] == "text":
            self.open.characters = self._held
        if self._held <= self._limit:
            self._parts.append(data)
        elif self._path[-1] == "text":
            self.open.too_large, self._parts = True, []

    def end(self, tag: str) -> None:
        self.quiet = 0
        name = self._path.pop()
        if self.open is not None and name in _FIELDS and (name != "id" or self._path[-1:] == ["page"]):
            self.open.values[name] = "".join(self._parts)
        self._parts, self._held = [], 0
        if name == "page" and self.open is not None:
            self.done.append(self.open)
            self.open = None

    def close(self) -> None:
        """Nothing is left to do."""


def wiki_pages(stream: IO[bytes], limit: int) -> Iterator[WikiPage]:
    """Pages of a MediaWiki dump, one after the other; a text of more than `limit` characters is not held.

    Raises:
        INVALID_XML: what follows cannot be read; the pages before it were given.
    """
    from defusedxml.ElementTree import DefusedXMLParser

    pages = _WikiPages(limit)
    parser = DefusedXMLParser(target=pages)
    utf8 = as_utf8(stream)
    try:
        while chunk := utf8.read(CHUNK_BYTES):
            pages.quiet += len(chunk)
            parser.feed(chunk)
            if pages.quiet > limit:
                raise ValueError(f"more than {limit} bytes within one mark")
            yield from pages.done
            pages.done.clear()
        parser.close()
    except INVALID_XML:
        yield from pages.done
        raise
    yield from pages.done
