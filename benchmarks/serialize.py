"""Serialization: kernels, how new words grow, whole jobs beside the usual ways with the same bytes, and scaling.

    make bench-serialize [PARTS="kernel growth peers job scaling"] [BENCH_MB=100] [BENCH_PEER_MB=8]

Text: real Korean text, distinct (`../shared/data/corpus`, 95 MB; elsewhere the demo's texts, which are fewer). Nothing is repeated: a
repeated text would be known the second time. The peers run with one worker in an environment of their own, on a part of the same text in
the same order; their bytes are compared with ours.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hyperclova_core.tokens.encoder.worker_encoder import column_encoder

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from peers import ROOT, peer

from hyperclova_core.corpus.ingest.config import IngestConfig, SourceConfig
from hyperclova_core.foundation.datasets.dataset import Dataset, Target
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.foundation.stages.engines import LocalEngine, SparkEngine
from hyperclova_core.foundation.stages.kinds import StageContext, definition_of
from hyperclova_core.foundation.stages.runner import StageRequest, execute, plan_stage
from hyperclova_core.tokens.encoder.column_encoder import buffers_of
from hyperclova_core.tokens.encoder.pretoken_cache import write_memo
from hyperclova_core.tokens.serialize.stage import Serialized, write_shards
from hyperclova_core.tokens.serialize.staging import training_keys
from hyperclova_core.tokens.tokenizer.tokenizer import MEMO_FILE, Tokenizer
from hyperclova_core.tokens.tokenizer_training.learning import learn, memo_order, pre_tokenizer_of

CORPUS = ROOT.parent / "shared" / "data" / "corpus"
MEGABYTES = int(os.environ.get("BENCH_MB", "100"))
PEER_MEGABYTES = float(os.environ.get("BENCH_PEER_MB", "8"))
VOCABULARY = 32_000
BUCKETS = 8
SEED = 7
SHARD = 1 << 22
"""Tokens of a shard: some on each core, as at scale."""
REPEATS = int(os.environ.get("BENCH_REPEATS", "5"))


def texts_of(megabytes: float) -> list[str]:
    """Distinct documents, in the order of a hash of theirs, up to that size."""
    found: dict[str, str] = {}
    if CORPUS.is_dir():
        for path in sorted(CORPUS.glob("*.jsonl.gz")):
            with gzip.open(path) as file:
                for line in file:
                    text = json.loads(line)["text"]
                    found[hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()] = text
    else:
        for path in sorted((ROOT / ".hyperclova" / "data" / "demo").rglob("*")):
            if path.is_file():
                text = path.read_text(encoding="utf-8", errors="ignore")
                found[hashlib.blake2b(text.encode(), digest_size=16).hexdigest()] = text
    chosen, size = [], 0
    for _, text in sorted(found.items()):
        size += len(text.encode())
        if size > megabytes * 1e6:
            break
        chosen.append(text)
    return chosen


def ingested(texts: list[str], folder: Path, name: str, buckets: int = BUCKETS) -> Dataset:
    """The texts as documents of the platform."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"id": str(at), "text": text}) + "\n" for at, text in enumerate(texts)), "utf-8")
    source = SourceConfig(name="corpus", paths=(str(path),))
    from hyperclova_core.corpus.ingest.config import find_files
    from hyperclova_core.corpus.ingest.stage import ingest

    config = IngestConfig(sources=(source,))
    request = StageRequest(
        definition_of(ingest),
        config,
        lambda _: Target(str(folder / name)),
        files=find_files(config),
        seed=SEED,
        buckets=buckets,
    )
    with contextlib.redirect_stderr(io.StringIO()):
        return execute(plan_stage(request), LocalEngine()).dataset


def counted(texts: list[str], kind: str) -> tuple[pa.Array, np.ndarray]:
    """(distinct pretokens, how often each stands there)."""
    pre_tokenizer = pre_tokenizer_of(kind, 3)
    parts = [
        pc.value_counts(pre_tokenizer.pretokens(pa.array(texts[at : at + 20_000], pa.string())))
        for at in range(0, len(texts), 20_000)
    ]
    table = pa.concat_tables(
        [pa.table({"pretoken": part.field("values"), "count": part.field("counts")}) for part in parts]
    )
    table = table.group_by("pretoken").aggregate([("count", "sum")])
    return table.column("pretoken").combine_chunks(), table.column("count_sum").to_numpy()


class Bench:
    """Texts, documents and tokenizers that the parts share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.texts = texts_of(MEGABYTES)
        self.size = sum(len(text.encode()) for text in self.texts) / 1e6
        self.documents = ingested(self.texts, folder, "documents")
        table = self.documents.read("documents", ["doc_id", "text"])
        self.texts = table.column("text").to_pylist()
        self.size = sum(len(text.encode()) for text in self.texts) / 1e6
        self.tokenizers: dict[str, Path] = {}
        self.pretokens: dict[str, tuple[pa.Array, np.ndarray]] = {}
        print(f"text: {len(self.texts):,} distinct documents, {self.size:.1f} MB")

    def counts(self, kind: str) -> tuple[pa.Array, np.ndarray]:
        """Units of all texts."""
        if kind not in self.pretokens:
            self.pretokens[kind] = counted(self.texts, kind)
        return self.pretokens[kind]

    def tokenizer(self, kind: str) -> Path:
        """A tokenizer learnt from a tenth of the texts, without a memo."""
        if kind not in self.tokenizers:
            pretokens, often = counted(self.texts[::10], kind)
            tokenizer = learn(kind, VOCABULARY, 3, pretokens, often, {})
            self.tokenizers[kind] = self.folder / f"tokenizer-{kind}"
            tokenizer.save(str(self.tokenizers[kind]))
        return self.tokenizers[kind]

    def with_memo(self, kind: str, name: str, pretokens: pa.Array) -> Path:
        """The same tokenizer beside a memo that knows these pretokens."""
        folder = self.folder / f"tokenizer-{kind}-{name}"
        tokenizer = Tokenizer.load(str(self.tokenizer(kind)))
        if not (folder / MEMO_FILE).exists():
            tokenizer.save(str(folder))
            with (folder / MEMO_FILE).open("wb") as file:
                write_memo(column_encoder(tokenizer).memo_of(pretokens), file, tokenizer.identity)
        return folder

    def memos(self, kind: str) -> dict[str, Path]:
        """Tokenizers whose memos miss more and more: none, a tenth of the text, chosen shares of occurrences, nothing."""
        pretokens, often = self.counts(kind)
        tenth, tenth_often = counted(self.texts[::10], kind)
        found = {
            "no memo": self.tokenizer(kind),
            "memo of a tenth": self.with_memo(kind, "tenth", memo_order(tenth, tenth_often, 1 << 30)),
        }
        # what is missed at scale are words that are met once: of those, some by hash are left out
        ordered = memo_order(pretokens, often, 1 << 30)
        once = np.flatnonzero(often == 1)
        order = np.argsort([hashlib.blake2b(pretokens[int(at)].as_py(), digest_size=8).digest() for at in once])
        for share in (0.05, 0.02, 0.01, 0.0):
            left = pa.array(pretokens.take(pa.array(once[order[: int(share * often.sum())]])))
            kept = ordered.filter(pc.invert(pc.is_in(ordered, value_set=left))) if len(left) else ordered
            found[f"{share:.0%} missed" if share else "steady state"] = self.with_memo(kind, f"miss{share}", kept)
        return found


def kernel(bench: Bench) -> None:
    """One thread, Arrow buffers in, ids out: pretokens that are known, and pretokens that are not."""
    print("\n== kernel: one thread, no files ==")
    for kind in ("morpheme", "byte"):
        pretokens, often = bench.counts(kind)
        folder = bench.with_memo(kind, "all", memo_order(pretokens, often, 1 << 30))
        encoder = column_encoder(Tokenizer.load(str(folder)))
        column = pa.array(bench.texts, pa.string())
        batches = [buffers_of(column.slice(at, 4096)) for at in range(0, len(column), 4096)]
        rates = []
        for _ in range(REPEATS + 1):
            started = time.process_time()
            for data, offsets in batches:
                encoder._encode(data, offsets, 0)
            rates.append(bench.size / (time.process_time() - started))
        new = column_encoder(Tokenizer.load(str(bench.tokenizer(kind))))
        new.memo_of(pretokens.slice(0, 100))
        size = pc.sum(pc.binary_length(pretokens)).as_py() / 1e6
        learning = []
        for _ in range(3):
            started = time.process_time()
            new.memo_of(pretokens)
            learning.append(size / (time.process_time() - started))
        print(
            f"{kind:<10} known pretokens {statistics.median(rates[1:]):6.1f} MB per CPU-second (best {max(rates):.1f});"
            f" {len(pretokens):,} new ones, {size:.1f} MB: {statistics.median(learning):.2f} MB per CPU-second"
        )
    _analysers(bench)


def _analysers(bench: Bench) -> None:
    """Our Viterbi and mecab on the same words; BPE engines on the same pieces."""
    import MeCab

    from hyperclova_core.tokens.pretokens.analyser import dictionary_folder

    pretokens, _ = bench.counts("morpheme")
    words = sorted({pretoken.as_py().decode().strip() for pretoken in pretokens.slice(0, 200_000)} - {""})
    words = [
        word for word in words if any("가" <= sign <= "힣" for sign in word) and " " not in word and "\0" not in word
    ]
    size = sum(len(word.encode()) for word in words) / 1e6
    pre_tokenizer = pre_tokenizer_of("morpheme", 0)
    column = pa.array([word.encode() for word in words], pa.large_binary())
    pre_tokenizer.pieces(column.slice(0, 10))
    started = time.process_time()
    pre_tokenizer.pieces(column)
    ours = size / (time.process_time() - started)
    tagger = MeCab.Tagger(f"-r /dev/null -d {dictionary_folder()} -Owakati")
    started = time.process_time()
    for at in range(0, len(words), 100):
        tagger.parse(" ".join(words[at : at + 100]))
    bulk = size / (time.process_time() - started)
    started = time.process_time()
    for word in words:
        tagger.parse(word)
    single = size / (time.process_time() - started)
    print(
        f"analyser   ours {ours:.2f} MB per CPU-second; mecab a word a call {single:.2f}, a hundred words a call {bulk:.2f}"
    )
    result = subprocess.run(
        [peer(), str(ROOT / "benchmarks" / "peer_bpe.py"), str(bench.tokenizer("byte")), str(_pieces_file(bench))],
        capture_output=True,
        text=True,
        check=True,
    )
    print(result.stdout.strip())


def _pieces_file(bench: Bench) -> Path:
    path = bench.folder / "pieces.jsonl"
    chosen, size = [], 0
    for text in bench.texts:
        chosen.append(text)
        size += len(text.encode())
        if size > 4e6:
            break
    path.write_text("".join(json.dumps(text) + "\n" for text in chosen), "utf-8")
    return path


def growth(bench: Bench) -> None:
    """How many pretokens are new as the text grows; the exponent is of a power fitted to the last rows."""
    print("\n== growth of distinct pretokens ==")
    print(f"{'MB':>8} {'occurrences':>12} {'distinct':>10} {'new in the next tenth':>22}")
    pre_tokenizer = pre_tokenizer_of("morpheme", 3)
    sizes = np.cumsum([len(text.encode()) for text in bench.texts]) / 1e6
    encoded = [
        pre_tokenizer.pretokens(pa.array(bench.texts[at : at + 5000], pa.string()))
        for at in range(0, len(bench.texts), 5000)
    ]
    stream = pa.chunked_array(encoded).dictionary_encode().combine_chunks()
    stream = stream if isinstance(stream, pa.DictionaryArray) else stream.chunk(0)
    codes = stream.indices.to_numpy()
    first = np.full(len(stream.dictionary), len(codes), np.int64)
    np.minimum.at(first, codes, np.arange(len(codes)))
    points = []
    for part in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.9):
        at = int(len(codes) * part)
        distinct = int((first < at).sum())
        upto = min(len(codes), int(at * 1.1))
        new = float((first[codes[at:upto]] >= at).mean())
        points.append((float(sizes[-1]) * part, distinct, new))
        print(f"{points[-1][0]:8.1f} {at:12,} {distinct:10,} {new:21.1%}")
    x, y = np.log([point[0] for point in points[2:]]), np.log([[point[1], point[2]] for point in points[2:]])
    distinct_power, new_power = (np.polyfit(x, y[:, column], 1) for column in (0, 1))
    reach = float(np.exp((np.log(0.01) - new_power[1]) / new_power[0]))
    print(
        f"distinct ~ MB^{distinct_power[0]:.2f}, share of new ~ MB^{new_power[0]:.2f}: by this curve alone, 1 % new at"
        f" {reach / 1e6:.1f} TB"
    )


def job(
    documents: Dataset, tokenizer: Path, folder: Path, engine: LocalEngine, shard_tokens: int
) -> tuple[float, Serialized, str]:
    """(seconds, what was written, hash of the shards) of one whole job: Parquet in, shards and provenance out."""
    import shutil

    loaded = Tokenizer.load(str(tokenizer))
    facts = {"identity": loaded.identity, "vocabulary_size": loaded.vocabulary_size}
    shutil.rmtree(folder, ignore_errors=True)
    context = StageContext("serialize", "2", SEED, BUCKETS, "a", Target(str(folder)), fingerprint(str(folder)), engine)
    started = time.perf_counter()
    written = write_shards(documents, None, str(tokenizer), facts, shard_tokens, context)
    seconds = time.perf_counter() - started
    sums = [entry.checksum for shard in written.shards for entry in shard.shards]
    return seconds, written, fingerprint(sums)


def measured(
    bench: Bench, tokenizers: dict[str, Path], engine: LocalEngine, empty: Dataset
) -> dict[str, dict[str, Any]]:
    """Median seconds of jobs, each less those of an empty job with the same tokenizer, interleaved.

    Workers keep one tokenizer and what they learnt with it. So each turn begins with an empty job that loads the tokenizer (start-up:
    `load`), then comes another (taken off), then the job, which has learnt nothing yet.
    """
    runs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in tokenizers}
    facts: dict[str, Any] = {}
    for repeat in range(REPEATS + 1):
        for name, tokenizer in tokenizers.items():
            load, idle = (job(empty, tokenizer, bench.folder / "job", engine, SHARD)[0] for _ in range(2))
            seconds, written, digest = job(bench.documents, tokenizer, bench.folder / "job", engine, SHARD)
            facts[name] = (written.missed / max(1, written.pretokens), digest)
            if repeat:
                runs[name].append((load, idle, seconds))
    found = {}
    for name, rows in runs.items():
        load, idle, seconds = (statistics.median(column) for column in zip(*rows, strict=True))
        less = statistics.median(whole - nothing for _, nothing, whole in rows)
        found[name] = {
            "seconds": seconds,
            "idle": idle,
            "load": load - idle,
            "less": less,
            "rate": bench.size / less,
            "missed": facts[name][0],
            "digest": facts[name][1],
        }
    return found


def spark(cores: str) -> SparkEngine:
    """A session on that many cores."""
    return SparkEngine(
        {
            "spark.master": cores,
            "spark.log.level": "ERROR",
            "spark.driver.memory": "2g",
            "spark.ui.showConsoleProgress": "false",
        }
    )


def whole_jobs(bench: Bench) -> None:
    """Both cores beside one worker of the usual ways."""
    print("\n== whole jobs: Parquet in, Spark, shards and provenance out ==")
    rates = peers(bench)
    empty = ingested(["끝"], bench.folder, "empty")
    started = time.perf_counter()
    engine = spark("local[2]")
    engine.spark()
    job(empty, bench.tokenizer("morpheme"), bench.folder / "job", engine, SHARD)
    print(f"start-up (session, first job of the workers): {time.perf_counter() - started:.1f} s, not in what follows")
    results = {kind: measured(bench, bench.memos(kind), engine, empty) for kind in ("morpheme", "byte")}
    engine.close()
    again = peers(bench)  # this machine's speed drifts: the faster of two
    for kind, against in (("morpheme", "A"), ("byte", "B")):
        found, usual = results[kind], max(rates[against], again[against])
        print(
            f"\n{kind}: seconds less those of an empty job; `whole` with them; loading the tokenizer and its memo is start-up (`load`)"
        )
        names = ("missed", "load", "empty", "seconds", "MB/s", f"x peer {against}", "a core", "whole")
        print(f"{'memo':<18}" + "".join(f"{name:>10}" for name in names))
        for name, row in found.items():
            times, whole = row["rate"] / usual, bench.size / row["seconds"] / usual
            print(
                f"{name:<18}{row['missed']:>10.1%}{row['load']:>10.2f}{row['idle']:>10.2f}{row['less']:>10.2f}{row['rate']:>10.1f}"
                f"{times:>10.1f}{times / 2:>10.1f}{whole:>10.1f}"
            )
        same = len({row["digest"] for row in found.values()}) == 1
        print("shards of all of them:", "the same bytes" if same else "DIFFERENT BYTES")


def peers(bench: Bench) -> dict[str, float]:
    """MB/s of the usual ways, one worker, on a part of the text; their bytes must be ours."""
    part, size = [], 0
    for text in bench.texts:
        part.append(text)
        size += len(text.encode())
        if size > PEER_MEGABYTES * 1e6:
            break
    documents = ingested(part, bench.folder, "part")
    table = documents.read("documents", ["doc_id", "text"])
    order = np.argsort(training_keys(table.column("doc_id"), SEED, 0), kind="stable")
    ordered = bench.folder / "ordered.jsonl"
    ordered.write_text(
        "".join(json.dumps(text) + "\n" for text in table.column("text").take(pa.array(order)).to_pylist()), "utf-8"
    )
    rates = {}
    for mode, kind in (("A", "morpheme"), ("B", "byte")):
        folder = bench.tokenizer(kind)
        command = [
            peer(),
            str(ROOT / "benchmarks" / "peer_megatron.py"),
            mode,
            str(ordered),
            str(folder),
            str(bench.folder / mode),
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        facts = json.loads(result.stdout.strip().splitlines()[-1])
        rates[mode] = facts["bytes"] / 1e6 / facts["seconds"]
        _, written, _ = job(documents, folder, bench.folder / "job", LocalEngine(), 1 << 60)
        ours = bench.folder / "job" / written.shards[0].prefix
        same = all(
            Path(f"{ours}.{suffix}").read_bytes() == (bench.folder / f"{mode}.{suffix}").read_bytes()
            for suffix in ("bin", "idx")
        )
        print(
            f"peer {mode} ({kind}, one worker, {facts['bytes'] / 1e6:.1f} MB): {rates[mode]:.2f} MB/s,"
            f" {facts['bytes'] / 1e6 / facts['cpu']:.2f} per CPU-second; {'same bytes as ours' if same else 'DIFFERENT BYTES'}"
        )
    return rates


def scaling(bench: Bench) -> None:
    """One worker, two, and several executors of a small cluster; a half, and all of the text."""
    print("\n== scaling ==")
    tokenizer = bench.memos("morpheme")["memo of a tenth"]
    empty = ingested(["끝"], bench.folder, "empty")
    half = ingested(bench.texts[::2], bench.folder, "half")
    half_size = sum(len(text.encode()) for text in bench.texts[::2]) / 1e6
    rates, digests = {}, {}
    for cores in ("local[1]", "local[2]", "local-cluster[2,1,2048]"):
        engine = spark(cores)
        walls: dict[str, list[float]] = {"empty": [], "half": [], "all": []}
        for repeat in range(REPEATS + 1):
            for name, documents in (("half", half), ("all", bench.documents)):
                # workers keep what they learnt for the next job with this tokenizer: one with another takes its place
                for path in (bench.tokenizer("byte"), tokenizer):
                    job(empty, path, bench.folder / "job", engine, SHARD)
                idle, _, _ = job(empty, tokenizer, bench.folder / "job", engine, SHARD)
                seconds, _, digest = job(documents, tokenizer, bench.folder / "job", engine, SHARD)
                if repeat:
                    walls[name].append(seconds)
                    walls["empty"].append(idle)
                if name == "all":
                    digests[cores] = digest
        engine.close()
        idle, part, whole = (statistics.median(walls[name]) for name in ("empty", "half", "all"))
        rates[cores] = bench.size / (whole - idle)
        print(
            f"{cores:<26}{rates[cores]:7.1f} MB/s; half of the text {half_size / (part - idle):.1f} MB/s"
            f" (cost linear in size: {(whole - idle) / (part - idle) / (bench.size / half_size):.2f})"
        )
    print(
        f"two workers {rates['local[2]'] / rates['local[1]']:.2f} x one;",
        "the same bytes" if len(set(digests.values())) == 1 else "DIFFERENT BYTES",
    )


PARTS = {"kernel": kernel, "growth": growth, "job": whole_jobs, "scaling": scaling}


def main() -> None:
    logging.disable(logging.WARNING)
    wanted = sys.argv[1:] or list(PARTS)
    with TemporaryDirectory(prefix="bench-serialize-") as folder:
        bench = Bench(Path(folder))
        for name in wanted:
            PARTS[name](bench)


if __name__ == "__main__":
    main()
