"""Small files that become large: what they become is bounded, and the process that reads them stays small."""

from __future__ import annotations

import bz2
import gzip
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from hyperclova_core.corpus.ingest.catalogues import messages_of
from hyperclova_core.corpus.ingest.config import SourceConfig
from hyperclova_core.corpus.ingest.text import decode_page
from hyperclova_core.foundation.datasets.dataset import Dataset
from hyperclova_core.foundation.stages.content_limits import ContentLimits
from tests.conftest import ingested
from tests.hostile.test_patterns import stopped_after

GOOD = json.dumps({"id": "1", "text": "오늘은 날씨가 맑았다."}).encode() + b"\n"
ZEROS = 100 << 20
MEMORY_MB = 256
"""What a reader of any of these may take, beside what it has: less than what the bombs become, and none is set aside for its memory."""


def quarantine(dataset: Dataset) -> dict[str, int]:
    return dataset.manifest.counters.quarantined


def read(path: Path, **settings: object) -> Dataset:
    source = SourceConfig(name="bomb", paths=(str(path),))
    limits = ContentLimits(memory_mb=MEMORY_MB)
    return ingested(path.parent / "out", source, buckets=1, limits=limits, **settings)


@pytest.mark.parametrize(
    ("suffix", "packed"),
    [
        ("gz", lambda data: gzip.compress(data, 6)),
        ("bz2", bz2.compress),
        ("zst", lambda data: zstandard.ZstdCompressor(level=3).compress(data)),
    ],
)
def test_a_compressed_file_becomes_no_more_than_a_multiple_of_itself(
    tmp_path: Path, suffix: str, packed: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(packed(GOOD + b"a" * (100 << 20)))
    made = read(path)
    assert made.manifest.counters.kept == 1, "what lay before is read"
    assert quarantine(made) == {"expands_too_much": 1}
    (row,) = made.read("quarantine").to_pylist()
    assert "max_expansion" in row["detail"]


def test_what_is_packed_well_and_honestly_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    lines = b"".join(GOOD.replace(b'"1"', f'"{n}"'.encode()) for n in range(10_000))
    path.write_bytes(gzip.compress(lines))
    assert len(lines) > 25 * path.stat().st_size
    assert read(path).manifest.counters.kept == 10_000


def warc(http: bytes) -> bytes:
    head = "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.kr/\r\nContent-Type: application/http\r\nContent-Length: %d\r\n\r\n"
    return (head % len(http)).encode() + http + b"\r\n\r\n"


def test_pages_of_an_archive_are_bounded(tmp_path: Path) -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
    good = warc(page + "<p>오늘은 날씨가 맑았다. 그래서 산에 올라갔다.</p>".encode())
    path = tmp_path / "a.warc.gz"
    path.write_bytes(gzip.compress(good) + gzip.compress(warc(page + b"a" * ZEROS), 1))
    made = read(path)
    assert made.manifest.counters.kept == 1
    assert quarantine(made) == {"record_too_large": 1}


def test_a_page_of_a_dump_is_bounded(tmp_path: Path) -> None:
    page = "<page><title>{n}</title><ns>0</ns><id>{n}</id><revision><text>{text}</text></revision></page>"
    good = page.format(n=1, text="오늘은 날씨가 맑았다.")
    path = tmp_path / "a.xml.gz"
    after = page.format(n=3, text="내일은 비가 온다.")
    path.write_bytes(
        gzip.compress(f"<mediawiki>{good}{page.format(n=2, text='a' * (30 << 20))}{after}</mediawiki>".encode())
    )
    made = read(path, max_expansion=2000)
    assert made.manifest.counters.kept == 2, "what follows is read, too"
    assert quarantine(made) == {"record_too_large": 1}
    (row,) = made.read("quarantine").to_pylist()
    assert row["raw_bytes"] == 30 << 20


@pytest.mark.parametrize(
    "body",
    [
        "<mediawiki>" + "<a>" * 300_000,
        "<mediawiki><page " + "a" * (20 << 20),
        "<mediawiki><page><text a='" + "b" * (20 << 20),
        "<mediawiki><page><!--" + "c" * (20 << 20),
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><mediawiki>&b;</mediawiki>',
    ],
    ids=["depth", "name", "attribute", "comment", "entities"],
)
def test_xml_is_bounded(tmp_path: Path, body: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(body)
    with stopped_after(20):
        assert quarantine(read(path)) == {"invalid_xml": 1}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("deep.html", "<div>" * 50_000 + "오늘은 날씨가 맑았다."),
        ("spans.html", "<p>" + "<b>" * 100_000 + "오늘은 날씨가 맑았다."),
        ("table.html", "<table>" * 20_000 + "오늘은 날씨가 맑았다."),
        ("attributes.html", "<p " + " ".join(f"a{n}=1" for n in range(50_000)) + ">오늘은 날씨가 맑았다."),
        ("help.page", '<page xmlns="http://projectmallard.org/1.0/">' + "<section>" * 100_000),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else None,
)
def test_trees_are_bounded(tmp_path: Path, name: str, body: str) -> None:
    """Kept, rejected or quarantined: one row, and the file beside it is read."""
    (tmp_path / name).write_text(body)
    (tmp_path / "other.txt").write_text("내일은 비가 온다고 한다.")
    made = ingested(
        tmp_path / "out",
        SourceConfig(name="bomb", paths=(str(tmp_path / name), str(tmp_path / "other.txt"))),
        buckets=1,
        limits=ContentLimits(record_seconds=5),
    )
    counters = made.manifest.counters
    assert counters.kept + sum(counters.rejected.values()) + sum(counters.quarantined.values()) == 2
    assert counters.kept >= 1, (
        "the file beside it; how deep a tree the extractor reads within the limit is not ours to say"
    )


def test_json_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        GOOD
        + b'{"text": '
        + b"[" * 1_000_000
        + b"\n"
        + b'{"text": "a", "n": '
        + b"9" * 1_000_000
        + b"}\n"
        + GOOD.replace(b'"1"', b'"2"')
    )
    made = read(path)
    assert made.manifest.counters.kept == 2
    assert quarantine(made) == {"invalid_json": 2}


@pytest.mark.parametrize(
    "charset", ["punycode", "idna", "unicode_escape", "raw_unicode_escape", "utf-7", "hex", "rot13", "zlib"]
)
def test_charsets_are_those_of_text(charset: str) -> None:
    page = f'<meta charset="{charset}">' + "오늘은 날씨가 맑았다. " * 20_000
    with stopped_after(2):
        text, found = decode_page(page.encode(), charset)
    assert (text, found) == (page, "utf-8")


def test_a_catalogues_plural_rule_is_not_code() -> None:
    header = b"Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=2; plural=" + b"(" * 400 + b";\n"
    pairs = [(b"", header), (b"one\0many", b"\xed\x95\x9c \xea\xb0\x9c\0\xec\x97\xac\xeb\x9f\xac \xea\xb0\x9c")]
    start, at, index, strings = 28, 28 + 16 * len(pairs), b"", b""
    for side in (0, 1):
        for pair in pairs:
            index += struct.pack("<2I", len(pair[side]), at + len(strings))
            strings += pair[side] + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(pairs), start, start + 8 * len(pairs), 0, 0)
    assert messages_of(head + index + strings) == {("one", 0): "한 개", ("one", 1): "여러 개"}
