"""Readers, one a format: a file in, items out. A bad record is an item too; only a file that cannot be opened raises.

All of them stream, and stop at nothing that concerns one record: what follows a broken record is still read, unless
the container itself (a compression stream, an XML tree) is broken, which is one item for the rest of the file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from hyperclova_core.corpus.ingest.catalogues import messages_of
from hyperclova_core.corpus.ingest.config import IngestConfig, SourceConfig, known_format
from hyperclova_core.corpus.ingest.decompression import (
    BROKEN_STREAM,
    ExpandsTooMuchError,
    check_last_gzip_member,
    open_stream,
)
from hyperclova_core.corpus.ingest.markup import MALLARD_NAMESPACE, mallard_text, wikitext_to_plain
from hyperclova_core.corpus.ingest.records import Item, Record, Refused, Unreadable
from hyperclova_core.corpus.ingest.text import UndecodableError, declared_charset, decode_page
from hyperclova_core.corpus.ingest.xml_parsing import INVALID_XML, WikiPage, parse_tree, wiki_pages
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.hashing import digest128
from hyperclova_core.foundation.stages.record_watch import RecordWatch, Trip
from hyperclova_core.foundation.stages.units import SourceFile

MESSAGE_MIN_CHARACTERS = 60
"""A shorter message of a translation catalogue is a label, not a document."""
PAGE_TYPES = ("text/html", "application/xhtml")


def read_file(
    file: SourceFile, source: SourceConfig, config: IngestConfig, watch: RecordWatch | None = None
) -> Iterator[Item]:
    """All items of one file.

    Args:
        watch: told of each record before its content is looked at.

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
    yield from READERS[chosen](file.path, file.name, source, config, watch or RecordWatch())


def read_jsonl(path: str, name: str, source: SourceConfig, config: IngestConfig, watch: RecordWatch) -> Iterator[Item]:
    """One JSON object a line with `text`; further fields as `records_to_documents` knows them."""
    number = offset = 0
    with open_stream(path, config.max_expansion) as stream:
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
                place = f"{name}:{number}"
                trip = watch.begin()
                yield _passed_over(trip, place, start, line) if trip else _json_item(line, place, start)


def _passed_over(trip: Trip, location: str, offset: int, raw: bytes = b"") -> Unreadable:
    """A record that broke a limit when it was read before."""
    return Unreadable(location, offset, trip.reason, trip.detail, raw)


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
    if isinstance(error, ExpandsTooMuchError):
        detail = f"{error}; what lay before was read; raise `ingest.max_expansion` if the file is what it should be"
        return Unreadable(location, offset, "expands_too_much", detail)
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


def read_parquet(
    path: str, name: str, source: SourceConfig, config: IngestConfig, watch: RecordWatch
) -> Iterator[Item]:
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
                    if trip := watch.begin():
                        yield _passed_over(trip, location, number)
                    elif isinstance(row, _UnreadableValue):
                        yield Unreadable(location, number, "unreadable_value", row.detail, row.raw)
                    elif not isinstance(row["text"], str):
                        yield Unreadable(location, number, "no_text", "the row's text is null or not a string")
                    elif len(row["text"]) > config.max_record_bytes:
                        yield _too_large(
                            location, number, row["text"][:65_536].encode(), len(row["text"].encode()), config
                        )
                    else:
                        yield Record(location, number, row)
    except MemoryError:  # Arrow has one of its own, which is one of its exceptions, too: it is the limit's
        raise
    except (pa.ArrowException, OSError) as error:
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


def read_html(path: str, name: str, source: SourceConfig, config: IngestConfig, watch: RecordWatch) -> Iterator[Item]:
    """One page a file."""
    body = _whole(path, name, config)
    if isinstance(body, Unreadable):
        yield body
        return
    if trip := watch.begin():
        yield _passed_over(trip, name, 0, body)
        return
    url = f"{source.url_prefix}{name}" if source.url_prefix else None
    yield _page(body, None, "", {"id": name, "url": url}, name, 0)


def _page(
    body: bytes,
    charset: str | None,
    robots_header: str,
    fields: dict[str, Any],
    location: str,
    offset: int,
) -> Item:
    if not body.strip():
        return Refused(location, offset, {**fields, "text": ""}, "empty")
    try:
        page, found = decode_page(body, charset)
    except UndecodableError as error:
        return Unreadable(location, offset, "unknown_charset", str(error), body)
    from hyperclova_core.corpus.ingest.extract import extract  # of the pipeline's image alone

    content = extract(page)
    record = {**fields, "text": content["text"], "title": content["title"] or None, "charset": found}
    record["url"] = fields.get("url") or content["canonical"] or None
    directives = {part.strip() for part in f"{robots_header.lower()},{content['robots']}".replace(":", ",").split(",")}
    if directives & {"noindex", "none"}:
        return Refused(location, offset, record, "robots_noindex")
    return Record(location, offset, record)


def read_warc(path: str, name: str, source: SourceConfig, config: IngestConfig, watch: RecordWatch) -> Iterator[Item]:
    """Pages of a web archive (ISO 28500), also gzipped: successful HTML responses; others are refused and counted."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    with open(path, "rb") as stream:
        last = 0
        try:
            for record in ArchiveIterator(
                stream, record_types=WarcRecordType.response | WarcRecordType.resource, parse_http=True
            ):
                last = int(record.stream_pos)
                trip, place = watch.begin(), f"{name}@{last}"
                yield _passed_over(trip, place, last) if trip else _warc_item(record, place, last, config)
            if path.endswith(".gz"):
                check_last_gzip_member(path, last)
        except BROKEN_STREAM as error:
            yield _broken_stream(f"{name}@{last}", last, error)


def _warc_item(record: Any, location: str, offset: int, config: IngestConfig) -> Item:
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
    return _page(body, charset, robots, fields, location, offset)


def read_mediawiki(
    path: str, name: str, source: SourceConfig, config: IngestConfig, watch: RecordWatch
) -> Iterator[Item]:
    """Articles of a MediaWiki XML dump: namespace 0, no redirects."""
    number = 0
    with open_stream(path, config.max_expansion) as stream:
        try:
            for page in wiki_pages(stream, config.max_record_bytes):
                number += 1
                trip, place = watch.begin(), f"{name}#{number}"
                if trip:
                    yield _passed_over(trip, place, number, page.values.get("text", "").encode("utf-8", "replace"))
                else:
                    yield _wiki_item(page, place, number, config)
        except INVALID_XML as error:
            detail = f"{error}; what lay before was read; fetch the dump again"
            yield Unreadable(f"{name}#{number + 1}", number + 1, "invalid_xml", detail)
        except BROKEN_STREAM as error:
            yield _broken_stream(f"{name}#{number + 1}", number + 1, error)


def _wiki_item(page: WikiPage, location: str, number: int, config: IngestConfig) -> Item:
    values = page.values
    fields = {"id": values.get("id"), "title": values.get("title", ""), "published_at": values.get("timestamp", "")}
    markup = values.get("text", "")
    if values.get("ns", "") not in ("", "0"):
        return Refused(location, number, {**fields, "text": wikitext_to_plain(markup)}, "not_an_article")
    if page.too_large:
        return _too_large(location, number, b"", page.characters, config)
    fields["text"] = wikitext_to_plain(markup)
    if page.redirect or markup.lstrip().lower().startswith(("#redirect", "#넘겨주기")):
        return Refused(location, number, fields, "redirect")
    return Record(location, number, fields)


def read_text(path: str, name: str, source: SourceConfig, config: IngestConfig, watch: RecordWatch) -> Iterator[Item]:
    """One document a plain text file; the charset is found as for pages."""
    body = _whole(path, name, config)
    if isinstance(body, Unreadable):
        yield body
        return
    if trip := watch.begin():
        yield _passed_over(trip, name, 0, body)
        return
    try:
        text, _ = decode_page(body)
    except UndecodableError as error:
        yield Unreadable(name, 0, "unknown_charset", str(error), body)
        return
    yield Record(name, 0, {"id": name, "text": text, "title": None})


def read_mallard(
    path: str, name: str, source: SourceConfig, config: IngestConfig, watch: RecordWatch
) -> Iterator[Item]:
    """One page a file of Mallard, the XML of GNOME's help."""
    body = _whole(path, name, config)
    if isinstance(body, Unreadable):
        yield body
        return
    if trip := watch.begin():
        yield _passed_over(trip, name, 0, body)
        return
    try:
        root = parse_tree(body)
    except INVALID_XML as error:
        yield Unreadable(name, 0, "invalid_xml", f"{error}; correct the file, or leave it out", body)
        return
    if not root.tag.startswith(MALLARD_NAMESPACE):
        yield Unreadable(name, 0, "not_mallard", f"the root element is {root.tag}")
        return
    title, text = mallard_text(root)
    yield Record(name, 0, {"id": name, "title": title, "text": text})


def read_gettext(
    path: str, name: str, source: SourceConfig, config: IngestConfig, watch: RecordWatch
) -> Iterator[Item]:
    """Messages of a compiled translation catalogue (.mo), those long enough to be a text; id = hash of the original."""
    body = _whole(path, name, config)
    if isinstance(body, Unreadable):
        yield body
        return
    if trip := watch.begin():
        yield _passed_over(trip, name, 0, body)
        return
    try:
        messages = messages_of(body)
    except ValueError as error:
        yield Unreadable(name, 0, "broken_catalogue", f"{error}; compile the catalogue again", body)
        return
    for number, (key, translation) in enumerate(sorted(messages.items(), key=lambda item: str(item[0]))):
        if len(translation) >= MESSAGE_MIN_CHARACTERS:
            identity = digest128(repr(key).encode("utf-8", "surrogatepass"))
            yield Record(f"{name}#{number}", number, {"id": identity, "text": translation})


def _whole(path: str, name: str, config: IngestConfig) -> bytes | Unreadable:
    """A file that is one record, or why it cannot be had."""
    try:
        with open_stream(path, config.max_expansion) as stream:
            body = stream.read(config.max_record_bytes + 1)
    except BROKEN_STREAM as error:
        return _broken_stream(name, 0, error)
    return body if len(body) <= config.max_record_bytes else _too_large(name, 0, body, os.path.getsize(path), config)


Reader = Callable[[str, str, SourceConfig, IngestConfig, RecordWatch], Iterator[Item]]

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
