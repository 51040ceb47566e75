"""What the boundary around documents' content costs on ordinary text, and how long hostile inputs take.

`make bench-hostile BENCH_MB=20`: the same batches by a stage's function in this process and in a process for content, in turns; then the inputs
that stopped a worker before, each read and de-identified and scored as a stage does it.
"""

from __future__ import annotations

import gzip
import json
import os
import random
import resource
import sys
import tempfile
from pathlib import Path

import pyarrow as pa

from hyperclova_core.corpus.deidentify import DeidentifyConfig, deidentify
from hyperclova_core.corpus.filter import FilterConfig, filter_documents
from hyperclova_core.corpus.ingest.config import IngestConfig, SourceConfig, find_files
from hyperclova_core.corpus.ingest.stage import ingest
from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.datasets.dataset import Target
from hyperclova_core.foundation.stages.document_stages import BATCH_ROWS
from hyperclova_core.foundation.stages.engines import LocalEngine
from hyperclova_core.foundation.stages.guarded_stage import GuardedStage
from hyperclova_core.foundation.stages.kinds import StageContext, definition_of
from hyperclova_core.foundation.stages.runner import StageRequest, execute, plan_stage
from hyperclova_core.foundation.stages.units import BucketUnit

ROUNDS = 3


def texts(megabytes: float) -> list[str]:
    """Distinct texts of the committed portal's sentences, in an order drawn by a seed."""
    portal = Path(__file__).resolve().parents[1] / "conf" / "demo" / "portal"
    rows = [json.loads(line) for path in sorted(portal.glob("*.jsonl")) for line in path.read_text().splitlines()]
    sentences = [part for row in rows if isinstance(row.get("text"), str) for part in row["text"].split("\n") if part]
    chance, made, size = random.Random(1), [], 0
    while size < megabytes * 1e6:
        text = " ".join(chance.choices(sentences, k=chance.randrange(4, 40))) + f" {chance.randrange(10**9)}"
        made.append(text)
        size += len(text.encode())
    return made


def ingested(folder: Path, rows: list[str]) -> list[pa.RecordBatch]:
    (folder / "a.jsonl").write_text("".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(rows)))
    config = IngestConfig(sources=(SourceConfig(name="bench", paths=(str(folder / "a.jsonl"),)),))
    request = StageRequest(
        definition_of(ingest), config, lambda _: Target(str(folder / "in")), files=find_files(config)
    )
    return execute(plan_stage(request), LocalEngine()).dataset.read().combine_chunks().to_batches(BATCH_ROWS)


def cost(folder: Path, megabytes: float) -> None:
    batches = ingested(folder, texts(megabytes))
    bytes_ = sum(len(text.encode()) for batch in batches for text in batch.column("text").to_pylist())
    for function, config in ((deidentify, DeidentifyConfig()), (filter_documents, FilterConfig())):
        alone, within = [], []
        for _ in range(ROUNDS):
            alone.append(timed(function, config, batches, None))
            within.append(timed(function, config, batches, folder))
        one, other = min(alone), min(within)
        print(
            f"{definition_of(function).name:11} {bytes_ / 1e6:.0f} MB: {bytes_ / 1e6 / one:.2f} MB per processor second in this process,"
            f" {bytes_ / 1e6 / other:.2f} within the boundary: {100 * (other / one - 1):+.1f} %"
        )


def timed(function: object, config: Config, batches: list[pa.RecordBatch], folder: Path | None) -> float:
    """Processor seconds, of this process and of those that it has ended."""
    definition = definition_of(function)  # type: ignore[arg-type]
    context = StageContext(definition.name, "1", 0, 1, "a", Target(str(folder or ".")), "f")
    if definition.warm_up is not None:
        definition.warm_up(config)
    started = spent()
    if folder is None:
        for batch in batches:
            definition.function(batch, config, context)
    else:
        unit = BucketUnit(identity={"bench": 1}, path="", bucket=0)
        with GuardedStage(definition, config, context, unit) as stage:
            for batch in batches:
                stage(batch)
    return spent() - started


def spent() -> float:
    return sum(
        used.ru_utime + used.ru_stime
        for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def hostile_inputs() -> dict[str, tuple[str, bytes]]:
    """The issue's table: (suffix, bytes)."""
    chance = random.Random(2)

    def line(text: str) -> bytes:
        return json.dumps({"id": "1", "text": text}).encode() + b"\n"

    def wiki(text: str) -> bytes:
        page = "<page><title>a</title><ns>0</ns><id>1</id><revision><text>{}</text></revision></page>"
        return f"<mediawiki>{page.format(text.replace('<', '&lt;'))}</mediawiki>".encode()

    head = "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://a.kr/\r\nContent-Type: application/http\r\nContent-Length: {}\r\n\r\n"
    http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"

    def warc(body: bytes) -> bytes:
        return gzip.compress(head.format(len(http + body)).encode() + http + body + b"\r\n\r\n")

    return {
        "heading of 1,000 spaces": (".xml", wiki("=" + " " * 1000)),
        "[http:// 2 KB": (".xml", wiki("[http://" * 256)),
        "<!-- 100 KB": (".xml", wiki("<!--" * 25_000)),
        "<ref> 100 KB": (".xml", wiki("<ref>" * 20_000)),
        "{| 100 KB": (".xml", wiki("{|" * 50_000)),
        "digits of 40 KB": (".jsonl", line("".join(chance.choices("0123456789", k=40_000)))),
        "http://a 100 KB": (".jsonl", line("http://a" * 12_500)),
        "7,000 phone numbers": (".jsonl", line("010-1234-5678 " * 7_000)),
        "a × 100,000": (".jsonl", line("a" * 100_000)),
        "charset=punycode 320 KB": (".html", ("<meta charset=punycode>" + "가나다라 " * 25_000).encode()),
        "warc member, 459 MB": (".warc.gz", warc(b"a" * 459_000_000)),
        "mediawiki text, 105 M characters": (".xml.gz", gzip.compress(wiki("a" * 105_000_000))),
    }


def table() -> None:
    print("\n| input | processor seconds | what became of it |\n|---|--:|---|")
    for name, (suffix, data) in hostile_inputs().items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"a{suffix}"
            path.write_bytes(data)
            config = IngestConfig(sources=(SourceConfig(name="web", paths=(str(path),)),), max_expansion=100_000)
            started = spent()
            request = StageRequest(
                definition_of(ingest), config, lambda _, base=folder: Target(f"{base}/in"), files=find_files(config)
            )
            dataset = execute(plan_stage(request), LocalEngine()).dataset
            counters = dataset.manifest.counters
            ends = [f"{key} {value}" for key, value in {**counters.rejected, **counters.quarantined}.items()]
            for stage, settings in ((deidentify, DeidentifyConfig()), (filter_documents, FilterConfig())):
                at = f"{folder}/{definition_of(stage).name}"
                request = StageRequest(
                    definition_of(stage),
                    settings,
                    lambda _, at=at: Target(at),
                    {"documents": dataset},
                )
                dataset = execute(plan_stage(request), LocalEngine()).dataset
                counters = dataset.manifest.counters
                ends += [f"{key} {value}" for key, value in {**counters.rejected, **counters.quarantined}.items()]
            print(f"| {name} | {spent() - started:.2f} | {', '.join(ends) or 'kept'} |", flush=True)


def main() -> None:
    os.environ.setdefault("HYPERCLOVA_PSEUDONYM_KEY", "a-key-for-measuring-alone")
    megabytes = float(os.environ.get("BENCH_MB", "20"))
    with tempfile.TemporaryDirectory() as folder:
        cost(Path(folder), megabytes)
    table()


if __name__ == "__main__":
    sys.exit(main())
