"""Training beside named peers, in one run: the engine beside a plain loop of torch, the loader beside megatron-core's GPTDataset, and
how long it takes to the first step.

    python benchmarks/train.py [engine dropout loader start]        BENCH_ROUNDS=5 BENCH_STEPS=25
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from peers import peer

from hyperclova_core.tokens.serialize.megatron_format import ShardWriter
from hyperclova_core.training.data.samples import Samples
from hyperclova_core.training.data.token_stream import TokenStream

HERE = Path(__file__).parent
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
STEPS = int(os.environ.get("BENCH_STEPS", "25"))
CONTEXT, SAMPLES, MICRO = 256, 20_000, 4


def shard(folder: Path, vocabulary: int, tokens: int) -> str:
    """Documents of 20 to 2,000 random ids."""
    generator = np.random.Generator(np.random.PCG64(1))
    prefix = str(folder / f"shard-{vocabulary}")
    with ShardWriter(prefix, vocabulary) as writer:
        while writer.tokens < tokens:
            writer.add(np.append(generator.integers(1, vocabulary, int(generator.integers(20, 2000))), 0))
    return prefix


def last_line(command: list[str], **environment: str) -> dict[str, float]:
    """The JSON that a program ends with."""
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=settings)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def engine(folder: Path) -> None:
    """DeepSpeed's engine with our loop beside a plain loop: runs take turns, medians of tokens per CPU-second."""
    print(
        f"\nEngine beside a plain torch loop, 1 process, fp32, context {CONTEXT}, {STEPS} steps, {ROUNDS} rounds in turn"
    )
    for size, vocabulary, most in (("1M", 1024, 8), ("5M", 4096, 4)):
        prefix = shard(folder, vocabulary, 400_000)
        rates: dict[str, list[float]] = {"plain": [], "engine": []}
        for _ in range(ROUNDS):
            for kind, found in rates.items():
                found.append(
                    last_line([sys.executable, str(HERE / "train_one.py"), kind, size, prefix, str(STEPS)])["cpu"]
                )
        ours, theirs = (statistics.median(rates[kind]) for kind in ("engine", "plain"))
        print(
            f"  {size}: plain {theirs:,.0f} tokens/CPU-s, engine {ours:,.0f}: {100 * (1 - ours / theirs):+.1f} % slower"
            f" (asked: at most {most} %); spread of each {_spread(rates['plain'])}, {_spread(rates['engine'])}"
        )


def _spread(values: list[float]) -> str:
    return f"±{50 * (max(values) - min(values)) / statistics.median(values):.0f} %"


def dropout(folder: Path) -> None:
    """What dropout costs whose masks are functions of the sample, beside none."""
    prefix = shard(folder, 1024, 400_000)
    command = [sys.executable, str(HERE / "train_one.py"), "engine", "1M", prefix, str(STEPS)]
    rates: dict[str, list[float]] = {"0": [], "0.1": []}
    for _ in range(ROUNDS):
        for rate, found in rates.items():
            found.append(last_line(command, BENCH_DROPOUT=rate)["cpu"])
    without, with_it = (statistics.median(found) for found in rates.values())
    print(f"\nDropout 0.1 at 1M: {100 * (1 - with_it / without):+.1f} % slower than none")


def loader(folder: Path) -> None:
    """Samples a second: ours in micro-batches as training takes them, Megatron's one by one as its collation takes them."""
    prefix = shard(folder, 32_000, SAMPLES * CONTEXT)
    theirs = last_line([peer(), str(HERE / "peer_gptdataset.py"), prefix, "32000", str(CONTEXT), "5000"])
    started = time.perf_counter()
    samples = Samples(TokenStream([prefix], 32_000), CONTEXT, 1, 1024)
    opened, best = time.perf_counter() - started, 0.0
    torch.set_num_threads(1)
    count = min(SAMPLES, samples.count) // MICRO * MICRO
    for _ in range(3):
        started = time.perf_counter()
        for _inputs, _targets in samples.micro_batches(0, count, MICRO, 0, 1):
            pass
        best = max(best, count / (time.perf_counter() - started))
    print(f"\nLoader, context {CONTEXT}, micro-batches of {MICRO}, one core")
    print(
        f"  megatron-core GPTDataset {theirs['samples_per_second']:,.0f} samples/s (index built in {theirs['build_seconds']:.2f} s)"
    )
    print(f"  ours {best:,.0f} samples/s = {best * CONTEXT / 1e6:.1f} M tokens/s (opened in {opened:.3f} s, no index)")
    print(f"  {best / theirs['samples_per_second']:.1f} x (asked: 5 x, and 1 M tokens/s)")


def start(folder: Path) -> None:
    """From the command to the first step, one process, through torchrun."""
    from train_one import job

    prefix = shard(folder, 1024, 200_000)
    times = []
    for number in range(3):
        output = folder / f"start-{number}"
        output.mkdir()
        (output / "config.json").write_text(job("1M", prefix, 3, str(output)).model_dump_json())
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=1",
            "-m",
            "hyperclova_core.training.rank",
        ]
        started = time.time()
        subprocess.run([*command, "--config", str(output / "config.json")], check=True, capture_output=True)
        first = json.loads((output / "metrics.jsonl").read_text().splitlines()[0])["time"] / 1000
        times.append(first - started)
    print(
        f"\nStart to the end of the first step, torchrun, one process: {statistics.median(times):.1f} s (asked: under 15 s)"
    )


def main() -> None:
    """Run the parts named, or all."""
    parts = sys.argv[1:] or ["engine", "dropout", "loader", "start"]
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            {"engine": engine, "dropout": dropout, "loader": loader, "start": start}[part](Path(folder))


if __name__ == "__main__":
    main()
