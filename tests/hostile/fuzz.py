"""Mutated inputs for every reader, detector, signal and the tokenizer's rules: no crash, no hang, no loss of count.

`python -m tests.hostile.fuzz [RUNS] [SEED]` (`make fuzz`): 10,000 inputs each by default; the seed is printed, and gives the same inputs.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import random
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hyperclova_core.corpus.filter import score
from hyperclova_core.corpus.ingest.config import IngestConfig, SourceConfig
from hyperclova_core.corpus.ingest.readers import READERS, read_file
from hyperclova_core.corpus.ingest.records import Unreadable
from hyperclova_core.corpus.ingest.stage import to_document
from hyperclova_core.foundation.stages.content_limits import ContentLimits
from hyperclova_core.foundation.stages.content_process import Answer, ContentProcess, TrippedError
from hyperclova_core.foundation.stages.units import SourceFile
from hyperclova_core.korean.personal_data import find_personal_data, replace_spans
from hyperclova_core.tokens.pretokens.character_classes import classify
from hyperclova_core.tokens.pretokens.rules import PreTokenizer

SECONDS = 5.0
"""Of the processor, for one input of some kilobytes."""
TEXT = (
    "성명: 김가상, 연락처 010-5550-1234, 메일 gasang@example.com. 주민번호 900101-1234568, 카드 4111-1111-1111-1111.\n"
    "서울특별시 마포구 가상로 123-4, 101동 202호에서 https://example.kr/a?token=abcdef123456 을 보았다. 100만 원 할인!\n"
)
SPLICES = [
    *(sign * 300 for sign in ("=", "[", "{", "<", "가", "ㅋ", "0", "-", " ", "\n", "\u200b", "\u0301", "\ufeff")),
    *(
        "<!--",
        "-->",
        "<ref>",
        "</ref>",
        "{|",
        "|}",
        "{{",
        "}}",
        "[[File:",
        "[http://",
        "]]>",
        "<![CDATA[",
        "&#0;",
        "&lt",
    ),
    *(
        "\x00",
        "\x1b[31m",
        "\u202e",
        "\ud83d",
        "１２３",
        "1e999",
        "NaN",
        "null",
        "[]",
        "{}",
        '"',
        "\\u12",
        "charset=punycode",
    ),
]


def _wiki() -> bytes:
    page = "<page><title>가상</title><ns>0</ns><id>{n}</id><revision><timestamp>2021-05-25T00:00:00Z</timestamp><text>{t}</text></revision></page>"
    markup = "== 역사 ==\n'''서울'''은 [[한국|대한민국]]의 {{틀|이름=값}} 수도이다.&lt;ref name=\"가\"&gt;출처&lt;/ref&gt; [http://a.kr 주소] {| 표 |} [[파일:a.jpg|설명]]"
    return ("<mediawiki>" + "".join(page.format(n=n, t=markup) for n in range(3)) + "</mediawiki>").encode()


def _warc() -> bytes:
    body = f"<html><head><meta charset=utf-8><title>쪽</title></head><body><p>{TEXT}</p></body></html>".encode()
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + body
    head = "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://example.kr/{n}\r\nWARC-Date: 2021-05-25T00:00:00Z\r\nContent-Type: application/http; msgtype=response\r\nContent-Length: {l}\r\n\r\n"
    return b"".join(head.format(n=n, l=len(http)).encode() + http + b"\r\n\r\n" for n in range(3))


def _parquet() -> bytes:
    rows = [{"id": str(n), "text": TEXT, "title": None, "likes": n, "date": "2021-05-25"} for n in range(5)]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def _catalogue() -> bytes:
    pairs = [
        (b"", b"Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=2; plural=n != 1;\n"),
        (b"Long", TEXT.encode()),
    ]
    start, at, index, strings = 28, 28 + 16 * len(pairs), [], b""
    for side in (0, 1):
        for pair in pairs:
            index.append((len(pair[side]), at + len(strings)))
            strings += pair[side] + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, len(pairs), start, start + 8 * len(pairs), 0, 0)
    return head + b"".join(struct.pack("<2I", *entry) for entry in index) + strings


SEEDS: dict[str, list[tuple[str, bytes]]] = {
    "jsonl": [
        (
            ".jsonl",
            "".join(
                json.dumps({"id": n, "text": TEXT, "likes": 3, "date": "2021-05-25"}) + "\n" for n in range(4)
            ).encode(),
        ),
        (
            ".jsonl.gz",
            gzip.compress(
                "".join(json.dumps({"id": n, "text": TEXT}, ensure_ascii=False) + "\n" for n in range(4)).encode()
            ),
        ),
    ],
    "parquet": [(".parquet", _parquet())],
    "html": [
        (
            ".html",
            f"<html><head><meta charset=euc-kr><title>제목</title></head><body><div><p>{TEXT}</p><ul><li>가</ul></body></html>".encode(
                "cp949"
            ),
        ),
        (".html", f"<table><tr><td>{TEXT}<table><ruby>國<rt>국</rt></ruby><script>var a = '<p>';</script>".encode()),
    ],
    "warc": [(".warc", _warc()), (".warc.gz", gzip.compress(_warc()))],
    "mediawiki": [(".xml", _wiki()), (".xml.gz", gzip.compress(_wiki()))],
    "text": [(".txt", TEXT.encode()), (".txt", TEXT.encode("cp949")), (".txt", TEXT.encode("utf-16"))],
    "mallard": [
        (
            ".page",
            f'<page xmlns="http://projectmallard.org/1.0/"><title>도움말</title><section><p>{TEXT}</p></section></page>'.replace(
                "&", "&amp;"
            ).encode(),
        )
    ],
    "gettext": [(".mo", _catalogue())],
}
CONFIG = IngestConfig(sources=(SourceConfig(name="fuzz"),), max_record_bytes=1 << 20)


@dataclass
class Told:
    """How many inputs there were, and what was wrong: the input's number and what happened."""

    runs: int = 0
    faults: list[str] = field(default_factory=list)


def mutated(seed: bytes, chance: random.Random) -> bytes:
    """A copy with some changes of the kinds that damage, people and attackers make."""
    data = bytearray(seed)
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(len(data) + 1)
        length = chance.choice((1, 1, 2, 8, 64, 512))
        kind = chance.randrange(8)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at : at + length] = b""
        elif kind == 2:
            data[at:at] = data[at : at + length] * chance.choice((1, 2, 16))
        elif kind == 3:
            data[at:at] = chance.choice(SPLICES).encode("utf-8", "surrogatepass")
        elif kind == 4:
            data[at:at] = chance.randbytes(length)
        elif kind == 5:
            del data[at:]
        elif kind == 6:
            data[at : at + 4] = struct.pack("<I", chance.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, len(data))))
        else:
            other = chance.randrange(len(data) + 1)
            data[at : at + length] = data[other : other + length]
    return bytes(data)


def check_reader(kind: str, data: bytes, suffix: str, folder: str) -> None:
    """Read an input as a file of its format, and make documents of it."""
    path = os.path.join(folder, f"input{suffix}")
    Path(path).write_bytes(data)
    source = SourceConfig(name="fuzz", format=kind)  # type: ignore[arg-type]
    file = SourceFile(path=path, name=f"input{suffix}", source="fuzz", bytes=len(data), checksum="")
    items = list(read_file(file, source, CONFIG))
    for item in items:
        if isinstance(item, Unreadable):
            assert item.reason and item.detail, "a reason in words"
        else:
            try:
                document = to_document(item.fields, source, b"key")
            except (ValueError, OverflowError):
                continue  # the stage quarantines it
            assert len(document["doc_id"]) == 32
    if kind == "jsonl" and suffix == ".jsonl":
        lines = sum(1 for line in data.split(b"\n") if line.strip())
        assert len(items) == lines, f"{lines} lines, {len(items)} items"
    if kind in ("text", "html"):
        assert len(items) == 1


def check_text(kind: str, data: bytes, suffix: str, folder: str) -> None:
    """What works on texts."""
    text = data.decode("utf-8", "ignore")
    if kind == "personal data":
        spans = find_personal_data(text)
        assert all(0 <= span.start < span.end <= len(text) for span in spans)
        assert all(one.end <= other.start for one, other in zip(spans, spans[1:], strict=False)), "no two overlap"
        assert len(replace_spans(text, spans)) == len(text) + sum(
            len(span.type) + 2 - span.end + span.start for span in spans
        )
    elif kind == "signals":
        assert all(math.isfinite(value) for value in score(text).values())
    else:
        assert "".join(_RULES.pretokens(text)) == text


_RULES = PreTokenizer("byte", classify("byte"), 3, ("[NAME]",))
TEXT_SEEDS = [("", TEXT.encode()), ("", (TEXT * 3 + "ㅋㅋㅋㅋ 시발점 🔥🔥 ABC 각").encode())]
TARGETS: dict[str, tuple[Callable[[str, bytes, str, str], None], list[tuple[str, bytes]]]] = {
    **{kind: (check_reader, seeds) for kind, seeds in SEEDS.items()},
    **dict.fromkeys(("personal data", "signals", "tokenizer's rules"), (check_text, TEXT_SEEDS)),
}
assert set(READERS) <= set(TARGETS), "each reader has its seeds"


def fuzz(kind: str, runs: int, seed: int) -> Told:
    """Try one target in a process for content, which is made again where an input ends it."""
    check, seeds = TARGETS[kind]
    told = Told()
    with tempfile.TemporaryDirectory() as folder:

        def work(request: Answer) -> Iterator[Answer]:
            suffix, data = mutation(seeds, kind, seed, request.told["run"])
            try:
                check(kind, data, suffix, folder)
            except AssertionError as error:
                yield Answer({"fault": f"{error}"}, [])
                return
            yield Answer({"fault": ""}, [])

        process = ContentProcess(work, ContentLimits(memory_mb=1024))
        for run in range(runs):
            if not process.alive:
                process = ContentProcess(work, ContentLimits(memory_mb=1024))
            told.runs += 1
            try:
                (answer,) = process.ask(Answer({"run": run}, []), SECONDS)
                if answer.told["fault"]:
                    told.faults.append(f"{run}: {answer.told['fault']}")
            except TrippedError as error:
                told.faults.append(f"{run}: {error.reason}: {error.detail}")
        process.close()
    return told


def mutation(seeds: list[tuple[str, bytes]], kind: str, seed: int, run: int) -> tuple[str, bytes]:
    """The input with that number: (suffix, bytes)."""
    chance = random.Random(f"{kind} {seed} {run}")
    suffix, data = chance.choice(seeds)
    if suffix.endswith(".gz") and chance.random() < 0.7:  # what is packed is mutated: past the checksum
        return suffix, gzip.compress(mutated(gzip.decompress(data), chance))
    return suffix, mutated(data, chance)


def main() -> int:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 32)
    sys.stdout.write(f"seed {seed}\n")
    wrong = 0
    for kind in TARGETS:
        told = fuzz(kind, runs, seed)
        wrong += len(told.faults)
        sys.stdout.write(f"{kind:20} {told.runs:7} inputs  {len(told.faults):5} faults  {'; '.join(told.faults[:5])}\n")
        sys.stdout.flush()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
