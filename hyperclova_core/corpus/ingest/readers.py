"""Readers, one a format: a file in, items out. A bad record is an item too; only a file that cannot be opened raises.

All of them stream, and stop at nothing that concerns one record: what follows a broken record is still read, unless
the container itself (a compression stream, an XML tree) is broken, which is one item for the rest of the file.
"""

from __future__ import annotations

import bz2
import codecs
import gettext
import gzip
import io
import json
import lzma
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from hyperclova_core.corpus.ingest.config import IngestConfig, SourceConfig, known_format
from hyperclova_core.corpus.ingest.extract import ExtractionError, ExtractionTimeoutError, Extractor, shared_extractor
from hyperclova_core.corpus.ingest.markup import MALLARD_NAMESPACE, mallard_text, wikitext_to_plain
from hyperclova_core.corpus.ingest.records import Item, Record, Refused, Unreadable
from hyperclova_core.corpus.ingest.text import UndecodableError, declared_charset, decode_page
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.hashing import digest128
from hyperclova_core.foundation.stages.units import SourceFile

BROKEN_STREAM = (EOFError, OSError, zlib.error, lzma.LZMAError)
MESSAGE_MIN_CHARACTERS = 60
"""A shorter message of a translation catalogue is a label, not a document."""
PAGE_TYPES = ("text/html", "application/xhtml")


class _ZstdStream(io.RawIOBase):
    """A zstd file's bytes; a stream that breaks off is an EOFError, as for the other compressions."""

    def __init__(self, path: str) -> None:
        import zstandard

        self._broken = zstandard.ZstdError
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
        self._stream = zstandard.ZstdDecompressor().stream_reader(self._file, read_across_frames=True)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            return int(self._stream.readinto(buffer))
        except self._broken as error:
            raise EOFError(str(error)) from error

    def close(self) -> None:
        self._file.close()
        super().close()


def open_stream(path: str) -> IO[bytes]:
    """A file's bytes, decompressed as its name says."""
    if path.endswith(".gz"):
        return cast(IO[bytes], gzip.open(path, "rb"))
    if path.endswith(".bz2"):
        return cast(IO[bytes], bz2.open(path, "rb"))
    if path.endswith(".zst"):
        return cast(IO[bytes], io.BufferedReader(_ZstdStream(path)))
    return open(path, "rb")


def read_file(file: SourceFile, source: SourceConfig, config: IngestConfig) -> Iterator[Item]:
    """All items of one file.

    Raises:
        DataError: no reader knows the file's format.
    """
    chosen = known_format(file.path) if source.format == "auto" else source.format
    if chosen is None:
        raise DataError(
            "The format of a file is not known",
            where=file.path,
            why=f"nothing is known of the suffix {os.path.splitext(file.path)[1]!r}",
            remedy="set `format` of the source (jsonl, parquet, html, warc, mediawiki, text, mallard, gettext)",
        )
    yield from READERS[chosen](file.path, file.name, source, config)


def read_jsonl(path: str, name: str, source: SourceConfig, config: IngestConfig) -> Iterator[Item]:
    """One JSON object a line with `text`; further fields as `records_to_documents` knows them."""
    number = offset = 0
    with open_stream(path) as stream:
        while True:
            try:
                line = stream.readline(config.max_record_bytes + 1)
                number += 1
                start, offset = offset, offset + len(line)
                if not line:
                    return
                if len(line) > config.max_record_bytes:
                    skipped = _skip_line(stream, line)
                    offset += skipped
                    yield _too_large(f"{name}:{number}", start, line, len(line) + skipped, config)
                    continue
            except BROKEN_STREAM as error:
                yield _broken_stream(f"{name}:{number}", offset, error)
                return
            if line.strip():
                yield _json_item(line, f"{name}:{number}", start)


def _skip_line(stream: IO[bytes], line: bytes) -> int:
    skipped = 0
    while line and not line.endswith(b"\n"):
        line = stream.readline(1 << 20)
        skipped += len(line)
    return skipped


def _too_large(location: str, offset: int, head: bytes, size: int, config: IngestConfig) -> Unreadable:
    detail = (
        f"{size} bytes, the limit is {config.max_record_bytes}; raise `ingest.max_record_bytes`, or split the record"
    )
    return Unreadable(location, offset, "record_too_large", detail, head, size)


def _broken_stream(location: str, offset: int, error: BaseException) -> Unreadable:
    detail = f"the compressed stream breaks off ({error}); what lay before was read; fetch the file again"
    return Unreadable(location, offset, "broken_compression", detail)


def _json_item(line: bytes, location: str, offset: int) -> Item:
    try:
        fields = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        detail = f"byte {offset + error.start} of the file is not UTF-8 ({error.reason}); re-encode the export as UTF-8"
        return Unreadable(location, offset, "invalid_utf8", detail, line)
    except (ValueError, RecursionError) as error:
        return Unreadable(location, offset, "invalid_json", f"{error}; correct the line, or leave it out", line)
    if not isinstance(fields, dict):
        return Unreadable(
            location,
            offset,
            "not_an_object",
            f"the line is a JSON {type(fields).__name__}; write an object with `text`",
            line,
        )
    if not isinstance(fields.get("text"), str):
        return Unreadable(
            location,
            offset,
            "no_text",
            "the object has no string `text`; rename the field, or leave the line out",
            line,
        )
    try:
        fields["text"].encode("utf-8")
    except UnicodeEncodeError:
        return Unreadable(
            location, offset, "lone_surrogate", "the text holds half of a surrogate pair; repair the export", line
        )
    return Record(location, offset, fields)


def read_parquet(path: str, name: str, source: SourceConfig, config: IngestConfig) -> Iterator[Item]:
    """Rows with a `text` column."""
    try:
        with pq.ParquetFile(path) as file:
            if "text" not in file.schema_arrow.names:
                raise DataError(
                    "A Parquet file has no column `text`",
                    where=path,
                    why=f"its columns are {', '.join(file.schema_arrow.names)}",
                    remedy="rename the column that holds the text to `text`",
                )
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in _rows(batch):
                    number += 1
                    location = f"{name}#{number}"
                    if isinstance(row, _UnreadableValue):
                        yield Unreadable(location, number, "unreadable_value", row.detail, row.raw)
                    elif not isinstance(row["text"], str):
                        yield Unreadable(location, number, "no_text", "the row's text is null or not a string")
                    elif len(row["text"]) > config.max_record_bytes:
                        yield _too_large(
                            location, number, row["text"][:65_536].encode(), len(row["text"].encode()), config
                        )
                    else:
                        yield Record(location, number, row)
    except (pa.ArrowInvalid, OSError) as error:
        yield Unreadable(name, 0, "broken_parquet", f"{str(error).splitlines()[0]}; fetch the file again")


@dataclass(frozen=True)
class _UnreadableValue:
    """Why a row cannot be read, and the bytes of the value."""

    detail: str
    raw: bytes


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | _UnreadableValue]:
    """Rows as Python has them. Parquet takes strings that are no UTF-8, and times that Python's calendar lacks: such a row is told of, and the
    others go on."""
    try:
        yield from batch.to_pylist()
        return
    except (UnicodeDecodeError, OverflowError, ValueError):
        pass  # which row it is, is found below
    for at in range(batch.num_rows):
        row: dict[str, Any] = {}
        for column, values in zip(batch.schema.names, batch.columns, strict=True):
            try:
                row[column] = values[at].as_py()
            except (UnicodeDecodeError, OverflowError, ValueError) as error:
                raw = (
                    values[at].as_buffer().to_pybytes()
                    if isinstance(values[at], (pa.StringScalar, pa.LargeStringScalar))
                    else b""
                )
                yield _UnreadableValue(
                    f"column `{column}`: {type(error).__name__}: {str(error)[:200]}; correct the value, and give the row again",
                    raw[:65_536],
                )
                break
        else:
            yield row


def read_html(path: str, name: str, source: SourceConfig, config: IngestConfig) -> Iterator[Item]:
    """One page a file."""
    with open_stream(path) as stream:
        try:
            body = stream.read(config.max_record_bytes + 1)
        except BROKEN_STREAM as error:
            yield _broken_stream(name, 0, error)
            return
    if len(body) > config.max_record_bytes:
        yield _too_large(name, 0, body, os.path.getsize(path), config)
        return
    url = f"{source.url_prefix}{name}" if source.url_prefix else None
    yield _page(body, None, "", {"id": name, "url": url}, name, 0, shared_extractor(config.extraction_seconds))


def _page(
    body: bytes,
    charset: str | None,
    robots_header: str,
    fields: dict[str, Any],
    location: str,
    offset: int,
    extractor: Extractor,
) -> Item:
    if not body.strip():
        return Refused(location, offset, {**fields, "text": ""}, "empty")
    try:
        page, found = decode_page(body, charset)
    except UndecodableError as error:
        return Unreadable(location, offset, "unknown_charset", str(error), body)
    try:
        content = extractor.extract(page)
    except ExtractionTimeoutError as error:
        return Unreadable(
            location,
            offset,
            "extraction_timeout",
            f"{error}; raise `ingest.extraction_seconds` if such pages matter",
            body,
        )
    except ExtractionError as error:
        return Unreadable(location, offset, "extraction_failed", str(error), body)
    record = {**fields, "text": content["text"], "title": content["title"] or None, "charset": found}
    record["url"] = fields.get("url") or content["canonical"] or None
    directives = {part.strip() for part in f"{robots_header.lower()},{content['robots']}".replace(":", ",").split(",")}
    if directives & {"noindex", "none"}:
        return Refused(location, offset, record, "robots_noindex")
    return Record(location, offset, record)


def read_warc(path: str, name: str, source: SourceConfig, config: IngestConfig) -> Iterator[Item]:
    """Pages of a web archive (ISO 28500), also gzipped: successful HTML responses; others are refused and counted."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    extractor = shared_extractor(config.extraction_seconds)
    with open(path, "rb") as stream:
        last = 0
        try:
            for record in ArchiveIterator(
                stream, record_types=WarcRecordType.response | WarcRecordType.resource, parse_http=True
            ):
                last = int(record.stream_pos)
                yield _warc_item(record, f"{name}@{last}", last, config, extractor)
            _check_last_member(path, last)
        except BROKEN_STREAM as error:
            yield _broken_stream(f"{name}@{last}", last, error)


def _check_last_member(path: str, offset: int) -> None:
    """A gzip stream that breaks off looks to FastWARC like its end: read the tail again, from the last page on.

    Raises:
        EOFError: the last gzip member is not whole.
    """
    if not path.endswith(".gz"):
        return
    with open(path, "rb") as stream:
        stream.seek(offset)
        started = False
        member = zlib.decompressobj(wbits=31)
        while block := stream.read(1 << 20):
            while block:
                member.decompress(block)
                block = member.unused_data
                if member.eof:
                    member = zlib.decompressobj(wbits=31)
                    started = bool(block)
                else:
                    started = True
        if os.path.getsize(path) > offset and started:
            raise EOFError("the file ends within a compressed record")


def _warc_item(record: Any, location: str, offset: int, config: IngestConfig, extractor: Extractor) -> Item:
    url = record.headers.get("WARC-Target-URI")
    fields = {"url": url, "id": url, "collected_at": record.headers.get("WARC-Date"), "text": ""}
    http = record.http_headers
    status = http.status_code if http is not None else 200
    kind = (record.http_content_type if http is not None else record.headers.get("Content-Type")) or ""
    if status != 200:
        return Refused(location, offset, fields, f"http_{(status or 0) // 100}xx")
    if not kind.lower().startswith(PAGE_TYPES):
        return Refused(location, offset, fields, "not_a_page")
    body = record.reader.read(config.max_record_bytes + 1)
    if len(body) > config.max_record_bytes:
        return _too_large(location, offset, body, int(record.content_length), config)
    if len(body) < int(record.content_length):
        detail = f"{len(body)} of {record.content_length} bytes are there; fetch the archive again"
        return Unreadable(location, offset, "truncated_record", detail, body)
    charset = record.http_charset if http is not None else declared_charset(kind)
    robots = (http.get("X-Robots-Tag") or "") if http is not None else ""
    return _page(body, charset, robots, fields, location, offset, extractor)


def read_mediawiki(path: str, name: str, source: SourceConfig, config: IngestConfig) -> Iterator[Item]:
    """Articles of a MediaWiki XML dump: namespace 0, no redirects."""
    from defusedxml.ElementTree import ParseError, iterparse

    number = 0
    with open_stream(path) as stream:
        try:
            for _, element in iterparse(_as_utf8(stream), events=("end",)):
                if element.tag.rpartition("}")[2] != "page":
                    continue
                number += 1
                found = {child.tag.rpartition("}")[2]: child for child in element.iter()}
                values = {
                    key: (found[key].text or "") if key in found else "" for key in ("title", "ns", "text", "timestamp")
                }
                page_id = next((child.text for child in element if child.tag.rpartition("}")[2] == "id"), None)
                fields = {
                    "id": page_id,
                    "title": values["title"],
                    "published_at": values["timestamp"],
                    "text": wikitext_to_plain(values["text"]),
                }
                location = f"{name}#{number}"
                if values["ns"] not in ("", "0"):
                    yield Refused(location, number, fields, "not_an_article")
                elif "redirect" in found or values["text"].lstrip().lower().startswith(("#redirect", "#넘겨주기")):
                    yield Refused(location, number, fields, "redirect")
                else:
                    yield Record(location, number, fields)
                element.clear()
        except (ParseError, ValueError) as error:
            yield Unreadable(
                f"{name}#{number + 1}",
                number + 1,
                "invalid_xml",
                f"{error}; what lay before was read; fetch the dump again",
            )
        except BROKEN_STREAM as error:
            yield _broken_stream(f"{name}#{number + 1}", number + 1, error)


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


XML_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
KOREAN_DECLARATION = re.compile(
    rb"^\s*<\?xml[^>]*encoding\s*=\s*[\"'](?:euc-kr|cp949|ks_c_5601-1987|ms949)[\"']", re.IGNORECASE
)


def _as_utf8(stream: IO[bytes]) -> IO[bytes]:
    """An XML stream that expat can read, whatever Korean charset it declares."""
    buffered = io.BufferedReader(stream)  # type: ignore[type-var]
    if KOREAN_DECLARATION.match(buffered.peek(200)[:200]):
        return io.BufferedReader(_Recoded(buffered))
    return buffered


def read_text(path: str, name: str, source: SourceConfig, config: IngestConfig) -> Iterator[Item]:
    """One document a plain text file; the charset is found as for pages."""
    try:
        with open_stream(path) as stream:
            body = stream.read(config.max_record_bytes + 1)
    except BROKEN_STREAM as error:
        yield _broken_stream(name, 0, error)
        return
    if len(body) > config.max_record_bytes:
        yield _too_large(name, 0, body, os.path.getsize(path), config)
        return
    try:
        text, _ = decode_page(body)
    except UndecodableError as error:
        yield Unreadable(name, 0, "unknown_charset", str(error), body)
        return
    yield Record(name, 0, {"id": name, "text": text, "title": None})


def read_mallard(path: str, name: str, source: SourceConfig, config: IngestConfig) -> Iterator[Item]:
    """One page a file of Mallard, the XML of GNOME's help."""
    from defusedxml.ElementTree import ParseError, parse

    try:
        with open_stream(path) as stream:
            root: Any = parse(_as_utf8(stream)).getroot()
    except (ParseError, ValueError) as error:
        yield Unreadable(name, 0, "invalid_xml", f"{error}; correct the file, or leave it out")
        return
    except BROKEN_STREAM as error:
        yield _broken_stream(name, 0, error)
        return
    if not root.tag.startswith(MALLARD_NAMESPACE):
        yield Unreadable(name, 0, "not_mallard", f"the root element is {root.tag}")
        return
    title, text = mallard_text(root)
    yield Record(name, 0, {"id": name, "title": title, "text": text})


def read_gettext(path: str, name: str, source: SourceConfig, config: IngestConfig) -> Iterator[Item]:
    """Messages of a compiled translation catalogue (.mo), those long enough to be a text; id = hash of the original."""
    try:
        with open_stream(path) as stream:
            catalogue = gettext.GNUTranslations(stream)  # type: ignore[arg-type]
    except (UnicodeDecodeError, struct.error, OSError) as error:
        yield Unreadable(name, 0, "broken_catalogue", f"{error}; compile the catalogue again")
        return
    messages: dict[Any, str] = catalogue._catalog  # type: ignore[attr-defined]
    for number, (key, translation) in enumerate(sorted(messages.items(), key=lambda item: str(item[0]))):
        if key and len(translation) >= MESSAGE_MIN_CHARACTERS:
            identity = digest128(repr(key).encode())
            yield Record(f"{name}#{number}", number, {"id": identity, "text": translation})


Reader = Callable[[str, str, SourceConfig, IngestConfig], Iterator[Item]]

READERS: dict[str, Reader] = {
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "html": read_html,
    "warc": read_warc,
    "mediawiki": read_mediawiki,
    "text": read_text,
    "mallard": read_mallard,
    "gettext": read_gettext,
}
