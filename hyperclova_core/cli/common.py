"""What the stage commands share: options, an input that may be files or a dataset, JSONL out, a line at the end."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from hyperclova_core.corpus.ingest.config import IngestConfig, SourceConfig, find_files
from hyperclova_core.corpus.ingest.stage import ingest
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import Config, apply_overrides, load_yaml, parse
from hyperclova_core.foundation.datasets.dataset import Dataset, Target, open_dataset
from hyperclova_core.foundation.datasets.manifest import MANIFEST
from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.foundation.printable import printable
from hyperclova_core.foundation.stages.engines import LocalEngine, SparkEngine
from hyperclova_core.foundation.stages.kinds import StageDefinition, definition_of
from hyperclova_core.foundation.stages.runner import Outcome, StageRequest, execute, plan_stage
from hyperclova_core.pipeline.summary import largest_first

Command = TypeVar("Command", bound=Callable[..., Any])

BUCKET_BYTES = 256 << 20
SPARK_FROM_BYTES = 64 << 20


def stage_options(command: Command) -> Command:
    """`--output`, `--jsonl`, `--config`, `--set`, `--seed`, `--engine`."""
    for option in (
        click.option(
            "--engine",
            type=click.Choice(["auto", "local", "spark"]),
            default="auto",
            help="Where files are worked on: this process, or Spark tasks; auto: Spark from 64 MB on.  [default: auto]",
        ),
        click.option("--seed", type=int, default=0, show_default=True, help="Of every random choice."),
        click.option(
            "--set", "settings", multiple=True, metavar="KEY=VALUE", help="One setting of the stage; may be repeated."
        ),
        click.option("--config", type=click.Path(), help="YAML file with settings of the stage."),
        click.option("--jsonl", type=click.Path(), help="Also write the documents as plain JSONL."),
        click.option("--output", required=True, type=click.Path(), help="Dataset folder to write."),
    ):
        command = option(command)
    return command


def config_of(definition: StageDefinition, config: str | None, settings: tuple[str, ...]) -> Config:
    """A stage's configuration from `--config` and `--set`; keys may be prefixed with the stage's name."""
    data = load_yaml(config) if config else {}
    plain = tuple(setting.removeprefix(f"{definition.name}.") for setting in settings)
    return parse(definition.config, apply_overrides(data, plain), config or "--set")


def input_dataset(path: tuple[str, ...] | str, output: str, seed: int) -> Dataset:
    """The dataset at a path; files are ingested first, into `OUTPUT.input` beside it (raw text: keep it apart)."""
    paths = (path,) if isinstance(path, str) else path
    if len(paths) == 1 and is_dataset(paths[0]):
        return open_dataset(paths[0])
    source = SourceConfig(name="input", paths=tuple(storage.absolute(item) for item in paths))
    return ingest_files(IngestConfig(sources=(source,)), f"{output.rstrip('/')}.input", seed, "auto").dataset


def is_dataset(path: str) -> bool:
    """Whether a folder is a dataset that a stage wrote."""
    return storage.exists(storage.join(path, MANIFEST))


def refuse_datasets(paths: Iterable[str]) -> None:
    """Files are read as raw input; a dataset's files are not: they hold what was rejected, too.

    Args:
        paths: files or folders; each, and every folder above it, is looked at once.

    Raises:
        ConfigError: one of them is a dataset, or lies in one.
    """
    seen: set[str] = set()
    for path in paths:
        folder = path.rstrip("/")
        while folder and folder not in seen and not folder.endswith((":", ":/")):
            seen.add(folder)
            if is_dataset(folder):
                raise ConfigError(
                    "A dataset is given where files are read",
                    where=folder,
                    why="its files hold what a stage rejected beside what it kept: reading them as they lie would bring back what was dropped",
                    remedy="give one dataset alone; write others as JSONL (the stage again with --jsonl FILE) and give those files together",
                )
            folder = folder.rpartition("/")[0]


def ingest_files(config: IngestConfig, output: str, seed: int, engine: str) -> Outcome:
    """Ingest a source's files into a dataset folder of its own."""
    refuse_datasets(path for source in config.sources for path in source.paths)
    files = find_files(config)
    refuse_datasets(file.path for file in files)
    size = sum(file.bytes for file in files)
    buckets = 1
    while buckets * BUCKET_BYTES < size:
        buckets *= 2
    definition = definition_of(ingest)
    return run_stage(
        StageRequest(definition, config, lambda _: Target(output), files=files, seed=seed, buckets=buckets), engine
    )


def run_stage(request: StageRequest, engine: str) -> Outcome:
    """Plan and execute one stage on this machine, with progress on a terminal."""
    plan = plan_stage(request)
    size = sum(file.bytes for file in request.files) + sum(
        table.bytes for dataset in request.inputs.values() for table in dataset.manifest.tables.values()
    )
    worker = worker_for(request.definition.name, size, engine)
    try:
        outcome = execute(plan, worker)
    finally:
        worker.close()
    report(request.definition.name, outcome)
    return outcome


def worker_for(stage: str, size: int, engine: str) -> LocalEngine:
    """Who does the work of a command: this process, or Spark where the input is large or it is asked for."""
    if engine == "spark" or (engine == "auto" and size >= SPARK_FROM_BYTES):
        return spark_engine()
    return LocalEngine(progress=_progress(stage))


def spark_engine(settings: dict[str, str] | None = None) -> SparkEngine:
    """Spark for a command; on a terminal with Spark's own bar over its tasks (where nobody looks, it would only fill a log)."""
    shown = {"spark.ui.showConsoleProgress": "true"} if sys.stderr.isatty() else {}
    return SparkEngine({**shown, **(settings or {})})


def run_on_input(
    function: Callable[..., Any],
    path: tuple[str, ...] | str,
    options: dict[str, Any],
    beside: dict[str, Dataset] | None = None,
) -> Outcome:
    """A document or corpus stage over files or a dataset (and datasets `beside` it), with the common options."""
    definition = definition_of(function)
    config = config_of(definition, options["config"], options["settings"])
    dataset = input_dataset(path, options["output"], options["seed"])
    request = StageRequest(
        definition,
        config,
        lambda _: Target(options["output"]),
        {"documents": dataset, **(beside or {})},
        seed=options["seed"],
        buckets=dataset.manifest.buckets,
    )
    outcome = run_stage(request, options["engine"])
    write_jsonl(options["jsonl"], (document_row(row) for row in rows_of(outcome.dataset, "documents")))
    return outcome


def report(stage: str, outcome: Outcome) -> None:
    """One line for a person on how a stage ended."""
    counters = outcome.dataset.manifest.counters
    dropped = {
        **counters.rejected,
        **{f"quarantined {reason}": number for reason, number in counters.quarantined.items()},
    }
    detail = ", ".join(f"{reason} {number:,}" for reason, number in largest_first(dropped))
    how = "reused" if outcome.reused else f"{outcome.seconds:.1f} s"
    click.echo(
        f"{stage}: {counters.rows_in:,} in, {counters.kept:,} kept{', dropped: ' + detail if detail else ''} ({how})",
        err=True,
    )


def rows_of(dataset: Dataset, table: str, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a table, streamed."""
    for batch in dataset.batches(table, columns):
        yield from batch.to_pylist()


def document_row(row: dict[str, Any]) -> dict[str, Any]:
    """A document as plain JSON: what is unknown is left out, times are ISO 8601, the record's own id is `id`."""
    plain: dict[str, Any] = {"id": row["source_id"]}
    for key, value in row.items():
        if key in ("signals", "pii"):
            value = dict(value)
        if value is None or value == {}:
            continue
        plain[key] = value.isoformat() if hasattr(value, "isoformat") else value
    return plain


def write_jsonl(path: str | None, rows: Iterator[dict[str, Any]]) -> None:
    """Write rows as JSONL, whole or not at all; no path, nothing."""
    if not path:
        return
    with storage.replacing(storage.absolute(path)) as temporary, Path(temporary).open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _progress(stage: str) -> Callable[[int, int], None] | None:
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        click.echo(f"\r{stage}: {done}/{total} parts", nl=done == total, err=True)

    return show


def shown(text: str) -> str:
    """A document's text as a terminal may have it; into a file or a pipe it goes as it is."""
    return printable(text) if sys.stdout.isatty() else text
