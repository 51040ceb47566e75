"""What a corpus of some size asks of a cluster, stage by stage, before anything runs: `hyperclova plan corpus`.

Unit costs are measured (`make bench-scale PARTS="chain costs"` writes conf/scale/costs.yaml); numbers of tasks, files and requests follow from
how stages work on buckets. It is reckoned as if nothing were dropped, which is the most that can come.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from hyperclova_core.foundation.config import Config, load_yaml, parse
from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.foundation.stages.source_stages import GROUP_BYTES, GROUP_FILES
from hyperclova_core.jobs.spark.pods import PARTITIONS, SparkClusterConfig, sized
from hyperclova_core.pipeline.recipe import Recipe, conf_folder

UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15}
DOCUMENT_BYTES = 3300.0
"""UTF-8 bytes of a document: 5 TB in 1.5 billion (HyperCLOVA's corpus)."""
BUCKET_BYTES = (16e6, 512e6)
"""Text of a bucket below which tasks are mostly their start, and above which their memory is."""
MOST_BLOCKS = 1e8
"""Blocks of a shuffle (maps × reducers): a terabyte in more of them is exchanged in pieces below 10 KB, each a seek and a part of a request."""
RECORD_BYTES = 2_000
"""What the driver holds of a unit of work."""
DRIVER_BASE = 0.6e9
REQUESTS_A_SECOND = 3_500.0
"""Writes to one prefix that S3 takes (AWS, "Best practices design patterns", 2024); reads: 5,500."""
LATENCY = 0.03
DUPLICATE_SHARE = 0.2
"""Of documents that fall to a survivor: what containment's driver holds 8 bytes of, each."""


class StageCost(Config):
    """What a stage costs, as measured."""

    core_seconds_a_megabyte: float = Field(ge=0, description="of text that comes in, beyond its start")
    start_seconds: float = Field(0.0, ge=0, description="whatever the size")
    task_megabytes: float = Field(400.0, ge=0, description="memory of a task beside its data")
    task_times_bucket: float = Field(2.0, ge=0, description="memory of a task for each byte of its bucket's text")
    shuffle_share: float = Field(0.0, ge=0, description="bytes that are exchanged for each byte of text")
    kept_share: float = Field(0.5, ge=0, description="bytes that are kept for each byte of text, compressed")
    reads_a_bucket: float = Field(4.0, ge=0)
    writes_a_bucket: float = Field(5.0, ge=0)


class Costs(Config):
    """All stages', and what they were measured on."""

    measured_on: str
    stages: dict[str, StageCost]


class Prices(Config):
    """What a cluster and a store ask."""

    currency: str = "USD"
    core_hour: float = Field(ge=0)
    gigabyte_hour: float = Field(ge=0)
    thousand_writes: float = Field(ge=0)
    thousand_reads: float = Field(ge=0)
    terabyte_month: float = Field(ge=0)


@dataclass(frozen=True)
class StagePlanned:
    """A stage's share of the whole."""

    stage: str
    tasks: int
    reads: float
    writes: float
    shuffle_bytes: float
    task_bytes: float
    driver_bytes: float
    hours: float
    money: float


@dataclass(frozen=True)
class CorpusPlan:
    """What a corpus asks.

    Attributes:
        stored_bytes: of all stages' outputs together; breaks: what does not work so, with what to do.
    """

    text_bytes: float
    documents: float
    buckets: int
    executors: int
    cores: int
    stages: tuple[StagePlanned, ...]
    stored_bytes: float
    currency: str
    store_a_month: float
    breaks: tuple[str, ...]

    @property
    def hours(self) -> float:
        """Of all stages, one after the other."""
        return sum(stage.hours for stage in self.stages)

    @property
    def money(self) -> float:
        """Of all stages."""
        return sum(stage.money for stage in self.stages)


def bytes_of(text: str) -> float:
    """A size as a person writes it: 5TB, 800 GB, 1.5e12.

    Raises:
        ConfigError: it is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?(?:e\d+)?)\s*([kmgtp]?)i?b?\s*", text.lower())
    if found is None or float(found[1]) <= 0:
        raise ConfigError("Not a size of text", where=text, why="it is no number of bytes", remedy="write 5TB or 800GB")
    return float(found[1]) * UNITS[found[2]]


def costs() -> Costs:
    """The measured unit costs that come with the platform."""
    path = conf_folder() / "scale" / "costs.yaml"
    return parse(Costs, load_yaml(path), str(path))


def prices(path: str | None) -> Prices:
    """Prices of a file, else those that come with the platform."""
    file = Path(path) if path else conf_folder() / "scale" / "prices.yaml"
    return parse(Prices, load_yaml(file), str(file))


def plan_corpus(
    recipe: Recipe,
    text_bytes: float,
    known: Costs,
    paid: Prices,
    executors: int | None = None,
    documents: float | None = None,
    files: int | None = None,
) -> CorpusPlan:
    """Reckon all Spark stages.

    Args:
        executors: else what the recipe's `spark_cluster` may have at most.
        documents: else by `DOCUMENT_BYTES`; files: source files, else one for each 64 MB.
    """
    pods = sized(recipe.spark_cluster or SparkClusterConfig(image="none"), recipe.spark)
    executors = executors or max(1, pods.max_executors)
    cores = executors * pods.executor_cores
    documents = documents or text_bytes / DOCUMENT_BYTES
    files = files or max(1, math.ceil(text_bytes / GROUP_BYTES))
    buckets, reducers = recipe.buckets, int(recipe.spark.get(PARTITIONS, 2 * cores))
    bucket = text_bytes / buckets
    hour = executors * (
        pods.executor_cores * paid.core_hour
        + _gigabytes(pods.executor_memory, pods.executor_overhead) * paid.gigabyte_hour
    )
    stages, breaks = [], []
    for name, cost in known.stages.items():
        tasks, reads, writes = _tasks(name, recipe, text_bytes, buckets, files)
        reads += cost.reads_a_bucket * buckets
        writes += cost.writes_a_bucket * buckets
        busy = cost.core_seconds_a_megabyte * text_bytes / 1e6 + LATENCY * (reads + writes)
        waves = math.ceil(tasks / cores)
        seconds = cost.start_seconds + busy / min(cores, tasks) * (waves * min(cores, tasks) / tasks)
        task = cost.task_megabytes * 1e6 + cost.task_times_bucket * bucket
        driver = DRIVER_BASE + RECORD_BYTES * tasks
        if name == "deduplicate":
            driver += 8 * DUPLICATE_SHARE * documents if recipe.deduplicate.containment.action != "off" else 0
        if name == "tokenizer":
            driver += 120 * min(text_bytes, recipe.tokenizer.sample_bytes) ** 0.75
        money = hour * seconds / 3600 + (writes * paid.thousand_writes + reads * paid.thousand_reads) / 1000
        stages.append(
            StagePlanned(
                name, tasks, reads, writes, cost.shuffle_share * text_bytes, task, driver, seconds / 3600, money
            )
        )
        breaks += _breaks(name, stages[-1], pods, cost, tasks, reducers)
    if not BUCKET_BYTES[0] <= bucket <= BUCKET_BYTES[1] and text_bytes > BUCKET_BYTES[0]:
        better = 1 << max(0, round(math.log2(text_bytes / 160e6)))
        breaks.insert(
            0,
            f"buckets: {bucket / 1e6:,.0f} MB of text each; set `buckets: {better:,}` (or a spark_preset)".replace(
                ",", "_"
            ),
        )
    stored = sum(cost.kept_share for cost in known.stages.values()) * text_bytes
    return CorpusPlan(
        text_bytes,
        documents,
        buckets,
        executors,
        cores,
        tuple(stages),
        stored,
        paid.currency,
        stored / 1e12 * paid.terabyte_month,
        tuple(breaks),
    )


def _tasks(name: str, recipe: Recipe, text_bytes: float, buckets: int, files: int) -> tuple[int, float, float]:
    """Units of work of a stage; requests that do not go by buckets: (reads, writes)."""
    if name == "ingest":
        groups = max(math.ceil(files / GROUP_FILES), math.ceil(text_bytes / GROUP_BYTES))
        cells = 2 * math.sqrt(groups * buckets)
        return groups + max(1, round(math.sqrt(buckets))), 2.0 * files + cells, 4.0 * groups + cells
    if name == "serialize":
        tokens = min(text_bytes / 4, float(recipe.mix.budget_tokens or text_bytes / 4))
        shards = max(1, math.ceil(tokens / recipe.serialize.shard_tokens))
        runs = max(buckets, math.ceil(tokens / (1 << 25)))
        groups = math.ceil(math.sqrt(runs)) if runs > 1024 else 0
        opened = shards * (groups or runs) + (runs if groups else 0)
        return buckets + groups + shards, 3.0 * opened, 4.0 * shards + 2.0 * groups
    return buckets, 0.0, 0.0


def _breaks(
    name: str, stage: StagePlanned, pods: SparkClusterConfig, cost: StageCost, tasks: int, reducers: int
) -> list[str]:
    """What of a stage does not go well, in words."""
    found = []
    room = _gigabytes(pods.executor_overhead) * 1e9 / pods.executor_cores
    if stage.task_bytes > room:
        found.append(
            f"{name}: a task takes {stage.task_bytes / 1e9:.1f} GB, an executor's core has {room / 1e9:.1f};"
            " more buckets, a larger executor_overhead, or fewer executor_cores"
        )
    driver = _gigabytes(pods.driver_memory, pods.driver_overhead) * 1e9
    if stage.driver_bytes > driver:
        why = (
            " (containment's is held by the driver: `deduplicate.containment.action: off`)"
            if name == "deduplicate"
            else ""
        )
        found.append(
            f"{name}: the driver takes {stage.driver_bytes / 1e9:.1f} GB and has {driver / 1e9:.1f}; more driver_overhead{why}"
        )
    if cost.shuffle_share and tasks * reducers > MOST_BLOCKS:
        found.append(
            f"{name}: {tasks:,} maps × {reducers:,} reducers are {tasks * reducers:.1e} blocks of a shuffle;"
            f" set {PARTITIONS} to {max(1, int(MOST_BLOCKS / tasks)):,}"
        )
    seconds = stage.hours * 3600
    if stage.writes / max(1.0, seconds) > REQUESTS_A_SECOND:
        found.append(
            f"{name}: {stage.writes / seconds:,.0f} writes a second, a prefix of S3 takes {REQUESTS_A_SECOND:,.0f}"
        )
    if seconds > pods.deadline_seconds:
        found.append(
            f"{name}: takes {stage.hours:,.0f} hours, its driver's deadline is {pods.deadline_seconds / 3600:,.0f};"
            " more executors, or a later deadline_seconds"
        )
    return found


def _gigabytes(*sizes: str) -> float:
    return sum(int(size[:-1]) * (1.0 if size[-1] == "g" else 1e-3) for size in sizes)


def table(plan: CorpusPlan) -> str:
    """The plan as text."""
    head = ("stage", "tasks", "reads", "writes", "exchanged", "a task", "driver", "hours", plan.currency)
    rows = [head]
    for stage in plan.stages:
        rows.append(
            (
                stage.stage,
                f"{stage.tasks:,}",
                _short(stage.reads),
                _short(stage.writes),
                f"{_short(stage.shuffle_bytes)}B" if stage.shuffle_bytes else "-",
                f"{stage.task_bytes / 1e9:.1f} GB",
                f"{stage.driver_bytes / 1e9:.1f} GB",
                f"{stage.hours:.2f}",
                f"{stage.money:,.0f}",
            )
        )
    total = (
        "all",
        "",
        _short(sum(s.reads for s in plan.stages)),
        _short(sum(s.writes for s in plan.stages)),
        "",
        "",
        "",
    )
    rows.append((*total, f"{plan.hours:.2f}", f"{plan.money:,.0f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    lines.append(
        f"{_short(plan.stored_bytes)}B are kept by all stages together: {plan.store_a_month:,.0f} {plan.currency} a month"
    )
    return "\n".join(lines)


def _short(number: float) -> str:
    for letter, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {letter}"
    return f"{number:.0f} "
