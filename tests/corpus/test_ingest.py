"""Ingest: formats, charsets, robots; a bad record is quarantined with its place and reason and the rest goes on."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import pytest

from hyperclova_core.corpus.ingest.config import IngestConfig, SourceConfig, find_files
from hyperclova_core.corpus.ingest.markup import wikitext_to_plain
from hyperclova_core.corpus.ingest.text import decode_page
from hyperclova_core.foundation.datasets.dataset import Dataset
from hyperclova_core.foundation.datasets.document_schema import bucket_of
from hyperclova_core.foundation.errors import DataError
from tests.conftest import ingested, write_lines

PAGE = "<html><head><title>제목</title>{head}</head><body><main><p>{text}</p></main></body></html>"
TEXT = (
    "한라산은 제주도에 있는 산이다. 겨울에는 눈이 많이 내려 아이젠을 챙겨야 한다. 탐방 예약은 미리 해 두는 것이 좋다."
)


def texts(dataset: Dataset) -> list[str]:
    return dataset.read("documents", ["text"]).column("text").to_pylist()


def quarantined(dataset: Dataset) -> list[dict[str, object]]:
    return dataset.read("quarantine").to_pylist()


def source(*paths: Path, **parts: object) -> SourceConfig:
    return SourceConfig(name="blog", paths=tuple(str(path) for path in paths), **parts)  # type: ignore[arg-type]


def test_a_bad_record_among_many_is_quarantined_with_its_reason(tmp_path: Path) -> None:
    good = [json.dumps({"id": str(n), "text": f"{n}번째 글입니다. {TEXT}"}).encode() for n in range(5)]
    lines = [
        good[0],
        b'{"id": "x", "text": "\xff\xfe broken"}',
        good[1],
        b'{"id": "half", "text": ',
        b'["a list"]',
        b'{"id": "none"}',
        good[2],
        b'{"id": "huge", "text": "' + b"a" * (3 << 20) + b'"}',
        good[3],
        b'{"id": "surrogate", "text": "\\ud800"}',
        good[4],
    ]
    path = tmp_path / "export.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    dataset = ingested(tmp_path / "out", source(path), max_record_bytes=1 << 20)
    assert dataset.manifest.counters.kept == 5
    found = {row["reason"]: row for row in quarantined(dataset)}
    assert set(found) == {
        "invalid_utf8",
        "invalid_json",
        "not_an_object",
        "no_text",
        "record_too_large",
        "lone_surrogate",
    }
    assert found["invalid_utf8"]["location"] == "export.jsonl:2"
    assert found["record_too_large"]["raw_bytes"] == len(lines[7]) + 1
    assert found["invalid_utf8"]["raw"] == lines[1] + b"\n"
    assert dataset.manifest.counters.rows_in == 11


def test_a_fifty_megabyte_line_is_passed_over_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    with path.open("wb") as file:
        file.write(b'{"id": "1", "text": "' + "가나다 ".encode() * 50 + b'"}\n{"id": "2", "text": "')
        for _ in range(50):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n{"id": "3", "text": "' + TEXT.encode() + b'"}\n')
    dataset = ingested(tmp_path / "out", source(path))
    (row,) = quarantined(dataset)
    assert row["reason"] == "record_too_large"
    assert row["raw_bytes"] > 50 << 20
    assert len(row["raw"]) == 65_536
    assert dataset.manifest.counters.kept == 2


def test_a_compressed_file_that_breaks_off_gives_what_lay_before(tmp_path: Path) -> None:
    body = "".join(json.dumps({"id": str(n), "text": f"{n} {TEXT} {n * 7919}"}) + "\n" for n in range(2000)).encode()
    path = tmp_path / "export.jsonl.gz"
    whole = gzip.compress(body)
    path.write_bytes(whole[: len(whole) // 2])
    dataset = ingested(tmp_path / "out", source(path))
    assert 0 < dataset.manifest.counters.kept < 2000
    assert dataset.manifest.counters.quarantined == {"broken_compression": 1}


@pytest.mark.parametrize(
    ("paths", "message"),
    [(("absent.jsonl",), "does not exist"), (("*.jsonl",), "has no files"), (("empty.jsonl",), "empty")],
)
def test_sources_that_cannot_be_used_are_refused(tmp_path: Path, paths: tuple[str, ...], message: str) -> None:
    (tmp_path / "empty.jsonl").touch() if paths == ("empty.jsonl",) else None
    with pytest.raises(DataError, match=message) as caught:
        find_files(IngestConfig(sources=(source(*(tmp_path / path for path in paths)),)))
    assert caught.value.remedy
    assert caught.value.where


def test_an_unknown_format_names_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "text.docx").write_text("x")
    with pytest.raises(DataError, match="format of a file is not known"):
        ingested(tmp_path / "out", source(tmp_path / "text.docx"))


@pytest.mark.parametrize("charset", ["utf-8", "cp949", "euc-kr"])
@pytest.mark.parametrize("declared", ["meta", "header", "wrong meta", "none"])
def test_the_charset_is_found(charset: str, declared: str) -> None:
    meta = {"meta": f'<meta charset="{charset}">', "wrong meta": '<meta charset="utf-16">'}.get(declared, "")
    body = PAGE.format(head=meta, text=TEXT).encode(charset)
    page, _ = decode_page(body, charset if declared == "header" else None)
    assert TEXT in page


def test_pages_whose_owners_do_not_let_them_be_searched_stay_out(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE.format(head="", text=TEXT))
    (tmp_path / "b.html").write_text(
        PAGE.format(head='<meta name="robots" content="NOINDEX, follow">', text=TEXT + " 비공개")
    )
    dataset = ingested(tmp_path / "out", source(tmp_path, tier="portal"))
    assert len(texts(dataset)) == 1
    assert dataset.manifest.counters.rejected == {"robots_noindex": 1}


def test_records_marked_as_not_indexable_stay_out(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "a.jsonl", [{"id": "1", "text": TEXT}, {"id": "2", "text": TEXT + "!", "indexable": False}]
    )
    assert ingested(tmp_path / "out", source(path)).manifest.counters.rejected == {"not_indexable": 1}


def test_the_same_document_twice_is_one_and_two_contents_are_a_conflict(tmp_path: Path) -> None:
    rows = [
        {"id": "same", "text": TEXT},
        {"id": "same", "text": TEXT},
        {"id": "conflict", "text": TEXT + " 하나"},
        {"id": "conflict", "text": TEXT + " 둘"},
        {"id": "recrawl", "text": TEXT + " 옛것", "collected_at": "2026-01-01T00:00:00Z"},
        {"id": "recrawl", "text": TEXT + " 새것", "collected_at": "2026-02-01T00:00:00+09:00"},
    ]
    dataset = ingested(tmp_path / "out", source(write_lines(tmp_path / "a.jsonl", rows)))
    assert sorted(texts(dataset)) == sorted([TEXT, TEXT + " 새것"])
    counters = dataset.manifest.counters
    assert counters.rejected == {"older_version": 1, "same_document_twice": 1}
    assert counters.quarantined == {"conflicting_versions": 2}


def test_users_are_pseudonyms_and_ids_are_stable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_lines(tmp_path / "a.jsonl", [{"id": "1", "text": TEXT, "user": "hong_gildong"}])
    first = ingested(tmp_path / "one", source(path))
    row = first.read("documents").to_pylist()[0]
    assert row["user_id"] and "hong" not in row["user_id"]
    for file in (tmp_path / "one").rglob("*"):
        assert not file.is_file() or b"hong_gildong" not in file.read_bytes()
    monkeypatch.setenv("HYPERCLOVA_PSEUDONYM_KEY", "another key of sixteen and more")
    second = ingested(tmp_path / "two", source(path))
    other = second.read("documents").to_pylist()[0]
    assert other["doc_id"] == row["doc_id"]
    assert other["user_id"] != row["user_id"]
    assert second.manifest.fingerprint != first.manifest.fingerprint


def test_documents_lie_in_the_bucket_of_their_id_whatever_the_files(tmp_path: Path) -> None:
    rows = [{"id": str(n), "text": f"{TEXT} {n}"} for n in range(60)]
    one = ingested(tmp_path / "a", source(write_lines(tmp_path / "in1" / "all.jsonl", rows)), buckets=4)
    for number in range(6):
        write_lines(tmp_path / "in2" / f"{number}.jsonl", rows[number::6])
    many = ingested(tmp_path / "b", source(tmp_path / "in2"), buckets=4)
    assert [e.checksum for e in one.table("documents").files] == [e.checksum for e in many.table("documents").files]
    for entry, path in zip(one.table("documents").files, one.files(), strict=True):
        import pyarrow.parquet as pq

        ids = pq.read_table(path).column("doc_id").to_pylist()
        assert ids == sorted(ids)
        assert {bucket_of(doc_id, 4) for doc_id in ids} <= {entry.bucket}


def test_wikitext_leaves_prose() -> None:
    markup = "{{틀|값={{안}}}}'''서울'''은 [[대한민국|한국]]의 [[수도]]이다.<ref>출처</ref>\n== 역사 ==\n* 조선[[파일:a.png|섬네일]]"
    assert wikitext_to_plain(markup) == "서울은 한국의 수도이다.\n역사\n조선"


def test_a_mediawiki_dump_gives_its_articles(tmp_path: Path) -> None:
    def page(number: int, ns: int, text: str) -> str:
        return f"<page><title>문서{number}</title><ns>{ns}</ns><id>{number}</id><revision><id>9</id><timestamp>2026-01-01T00:00:00Z</timestamp><text>{text}</text></revision></page>"

    dump = tmp_path / "dump.xml"
    pages = page(1, 0, TEXT) + page(2, 1, "토론") + page(3, 0, "#넘겨주기 [[문서1]]") + page(4, 0, TEXT + " 넷")
    dump.write_text(f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/">{pages}</mediawiki>')
    dataset = ingested(tmp_path / "out", source(dump))
    assert dataset.manifest.counters.kept == 2
    assert dataset.manifest.counters.rejected == {"not_an_article": 1, "redirect": 1}
    assert sorted(dataset.read("documents").column("source_id").to_pylist()) == ["1", "4"]


def test_a_catalogue_gives_its_long_messages(tmp_path: Path) -> None:
    pairs = [("", "Content-Type: text/plain; charset=UTF-8\n"), ("long", TEXT), ("short", "짧음")]
    keys = b"".join(key.encode() + b"\0" for key, _ in pairs)
    values = b"".join(value.encode() + b"\0" for _, value in pairs)
    head = 28 + 16 * len(pairs)
    tables, at = b"", head
    for group in (0, 1):
        for pair in pairs:
            size = len(pair[group].encode())
            tables += struct.pack("<II", size, at)
            at += size + 1
    (tmp_path / "a.mo").write_bytes(
        struct.pack("<IIIIIII", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, head) + tables + keys + values
    )
    assert texts(ingested(tmp_path / "out", source(tmp_path / "a.mo"))) == [TEXT]
    (tmp_path / "b.mo").write_bytes(b"not a catalogue")
    assert ingested(tmp_path / "out", source(tmp_path / "b.mo")).manifest.counters.quarantined == {
        "broken_catalogue": 1
    }


def test_a_real_crawl(shared_data: Path, tmp_path: Path) -> None:
    dataset = ingested(tmp_path, source(shared_data / "html" / "ko_pages.warc.gz"))
    assert dataset.manifest.counters.kept == 266
    assert sum(dataset.manifest.counters.rejected.values()) == 4
    assert not dataset.manifest.counters.quarantined
    assert sum("\ufffd" in text for text in texts(dataset)) <= 2


def test_an_archive_that_breaks_off_is_noticed(shared_data: Path, tmp_path: Path) -> None:
    whole = (shared_data / "html" / "ko_pages.warc.gz").read_bytes()
    (tmp_path / "cut.warc.gz").write_bytes(whole[: len(whole) // 2])
    counters = ingested(tmp_path / "out", source(tmp_path / "cut.warc.gz")).manifest.counters
    assert counters.kept > 50
    assert counters.quarantined


ODD_FIELDS = [
    {"user": "\ud800"},
    {"title": "\ud800"},
    {"date": "0001-01-01T00:00:00+09:00"},
    {"views": 10**400},
    {"likes": -1, "rating": float("inf")},
    {"url": ["a list"], "thread": {"an": "object"}},
    {"created_at": "어제"},
]


@pytest.mark.parametrize("odd", ODD_FIELDS, ids=lambda odd: ",".join(odd))
def test_an_odd_field_never_stops_the_rest(tmp_path: Path, odd: dict[str, object]) -> None:
    rows = [{"id": "1", "text": TEXT}, {"id": "2", "text": TEXT + " 둘", **odd}, {"id": "3", "text": TEXT + " 셋"}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    counters = ingested(tmp_path / "out", source(path)).manifest.counters
    assert counters.rows_in == 3
    assert counters.kept + sum(counters.quarantined.values()) == 3
    assert counters.kept >= 2
    assert set(counters.quarantined) <= {"invalid_field", "invalid_json"}


def test_a_number_too_long_for_python_is_one_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"id": "1", "text": TEXT}) + '\n{"text": "x", "n": ' + "9" * 5000 + "}\n")
    counters = ingested(tmp_path / "out", source(path)).manifest.counters
    assert (counters.kept, counters.quarantined) == (1, {"invalid_json": 1})


def test_a_charset_that_does_not_exist_is_passed_over() -> None:
    assert TEXT in decode_page(PAGE.format(head='<meta charset="undefined">', text=TEXT).encode())[0]


def test_xml_in_a_korean_charset_and_xml_with_entities(tmp_path: Path) -> None:
    page = f"<page><title>산</title><ns>0</ns><id>1</id><revision><text>{TEXT}</text></revision></page>"
    (tmp_path / "a.xml").write_bytes(
        f'<?xml version="1.0" encoding="euc-kr"?><mediawiki>{page}</mediawiki>'.encode("cp949")
    )
    assert texts(ingested(tmp_path / "a", source(tmp_path / "a.xml"))) == [TEXT]
    (tmp_path / "b.xml").write_text('<!DOCTYPE x [<!ENTITY a "b">]><mediawiki>&a;</mediawiki>')
    assert ingested(tmp_path / "b", source(tmp_path / "b.xml")).manifest.counters.quarantined == {"invalid_xml": 1}


@pytest.mark.parametrize("suffix", ["gz", "zst", "bz2"])
def test_every_compression_is_read_and_its_end_is_noticed(tmp_path: Path, suffix: str) -> None:
    import bz2

    import zstandard

    body = "".join(json.dumps({"id": str(n), "text": f"{n * 104729} {TEXT}"}) + "\n" for n in range(3000)).encode()
    pack = {"gz": gzip.compress, "zst": zstandard.ZstdCompressor().compress, "bz2": bz2.compress}[suffix]
    whole = tmp_path / f"a.jsonl.{suffix}"
    whole.write_bytes(pack(body))
    assert ingested(tmp_path / "a", source(whole)).manifest.counters.kept == 3000
    broken = tmp_path / f"b.jsonl.{suffix}"
    broken.write_bytes(pack(body)[: len(pack(body)) * 2 // 3])
    counters = ingested(tmp_path / "b", source(broken)).manifest.counters
    assert counters.kept < 3000
    assert counters.kept or suffix == "bz2", "of which a block is larger than this"
    assert "broken_compression" in counters.quarantined
    text = tmp_path / f"c.txt.{suffix}"
    text.write_bytes(pack(body)[: len(pack(body)) * 2 // 3])
    assert ingested(tmp_path / "c", source(text)).manifest.counters.quarantined == {"broken_compression": 1}


def test_a_folder_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from hyperclova_core.foundation import storage

    (tmp_path / "in" / "locked").mkdir(parents=True)
    write_lines(tmp_path / "in" / "a.jsonl", [{"id": "1", "text": TEXT}])
    (tmp_path / "in" / "locked").chmod(0)
    if os.geteuid() == 0:  # root reads everything: let the operating system's answer come by hand
        real = os.scandir

        def scandir(path: str) -> object:
            if str(path).endswith("locked"):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        monkeypatch.setattr(storage.os, "scandir", scandir)
    with pytest.raises(DataError, match="folder cannot be read") as caught:
        find_files(IngestConfig(sources=(source(tmp_path / "in", optional=True),)))
    assert caught.value.where.endswith("locked")
