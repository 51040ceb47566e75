"""datatrove's four MinHash stages on one machine, for benchmarks/deduplicate.py (run in .venv-peers).

    python peer_datatrove.py INPUT_DIR WORK_DIR WORKERS STAGES

INPUT_DIR holds Parquet files with `id` and `text`. Its word splitter is pinned to white space: `load_word_tokenizer` gives a
WordTokenizer instance back as it is, so no language model is loaded (its Korean default, Kiwi, takes far longer). n = 5,
14 x 8, 64-bit xxhash: its defaults. The last line is JSON: wall and CPU seconds of each stage, documents kept.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.writers import ParquetWriter
from datatrove.utils.hashing import HashConfig
from datatrove.utils.word_tokenizers import WordTokenizer


class StrSplit(WordTokenizer):
    """`str.split` as the word tokenizer."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        """Not used by MinHash."""
        raise NotImplementedError

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Not used by MinHash."""
        raise NotImplementedError


def cpu() -> float:
    """CPU seconds of this process and of all that it has waited for."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(item.ru_utime + item.ru_stime for item in used)


def main() -> None:
    """Run the stages."""
    source, work, workers, stages = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    files = len(list(source.glob("*.parquet")))
    config = MinhashConfig(
        n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(precision=64, hash_fc="xxhash")
    )
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])

    def reader() -> Any:
        return ParquetReader(str(source), glob_pattern="*.parquet", recursive=False, read_metadata=False)

    def plain(_: Any, document: Any) -> dict[str, str]:
        return {"id": document.id, "text": document.text}

    signatures, buckets, remove, out = (str(work / name) for name in ("sig", "buckets", "remove", "out"))
    steps: list[tuple[str, list[Any], int]] = [
        ("signatures", [reader(), MinhashDedupSignature(signatures, config=config, language=StrSplit())], files),
        ("buckets", [MinhashDedupBuckets(signatures, buckets, config=config)], config.num_buckets),
        ("cluster", [MinhashDedupCluster(buckets, remove, config=config)], 1),
        ("filter", [reader(), MinhashDedupFilter(remove), ParquetWriter(out, adapter=plain, schema=schema)], files),
    ]
    result: dict[str, Any] = {}
    for name, pipeline, tasks in steps[:stages]:
        begun, used = time.perf_counter(), cpu()
        # fork: the workers are this process's children, so that their CPU time is seen
        LocalPipelineExecutor(
            pipeline=pipeline,
            tasks=tasks,
            workers=min(workers, tasks),
            logging_dir=str(work / "logs" / name),
            start_method="fork",
        ).run()
        result[name] = {"wall": time.perf_counter() - begun, "cpu": cpu() - used}
    if stages == 4:
        result["kept"] = sum(pq.read_metadata(path).num_rows for path in Path(out).glob("*.parquet"))
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
