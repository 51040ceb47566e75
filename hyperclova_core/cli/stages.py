"""The corpus stages: ingest, deduplicate, deidentify, enrich, filter, select, and training the quality model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from hyperclova_core.cli.common import (
    config_of,
    document_row,
    ingest_files,
    rows_of,
    run_on_input,
    stage_options,
    write_jsonl,
)
from hyperclova_core.corpus.deduplicate.config import DeduplicateConfig
from hyperclova_core.corpus.deduplicate.stage import deduplicate as deduplicate_stage
from hyperclova_core.corpus.deidentify import deidentify as deidentify_stage
from hyperclova_core.corpus.enrich import enrich as enrich_stage
from hyperclova_core.corpus.filter import filter_documents
from hyperclova_core.corpus.ingest.config import IngestConfig, SourceConfig
from hyperclova_core.corpus.ingest.stage import ingest as ingest_stage
from hyperclova_core.corpus.select import select as select_stage
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import parse
from hyperclova_core.foundation.datasets.dataset import Dataset
from hyperclova_core.foundation.errors import ConfigError, DataError
from hyperclova_core.foundation.stages.kinds import definition_of
from hyperclova_core.foundation.warehouse import Warehouse
from hyperclova_core.pipeline import history as index


@click.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--source", required=True, help="Name of the source, such as blog, cafe, news, comment, kin, wiki.")
@click.option(
    "--tier",
    type=click.Choice(["portal", "open", "expert"]),
    default="open",
    show_default=True,
    help="portal: only what its owner lets be searched.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["auto", "jsonl", "parquet", "html", "warc", "mediawiki", "text", "mallard", "gettext"]),
    default="auto",
    show_default=True,
)
@click.option("--license", "licence", help="Of the source, where a record has none of its own.")
@stage_options
def ingest(paths: tuple[str, ...], source: str, tier: Any, kind: Any, licence: str | None, **options: Any) -> None:
    """Read files of a crawl or an export into documents.

    A record that cannot be read is kept in the table `quarantine` with its place and reason, and the rest goes on.
    """
    config = config_of(definition_of(ingest_stage), options["config"], options["settings"])
    assert isinstance(config, IngestConfig)
    absolute = [storage.absolute(path) for path in paths]
    given = {"name": source, "paths": absolute, "tier": tier, "format": kind, "license": licence}
    found = parse(SourceConfig, given, "--source, --tier, --format, --license")
    outcome = ingest_files(
        config.model_copy(update={"sources": (found,)}), options["output"], options["seed"], options["engine"]
    )
    write_jsonl(options["jsonl"], (document_row(row) for row in rows_of(outcome.dataset, "documents")))


@click.command()
@click.argument("path", nargs=-1, required=True)
@click.option(
    "--clusters",
    type=click.Path(),
    help="Write doc_id, source_id, cluster_id, kept and similarity of every document as JSONL.",
)
@click.option(
    "--history",
    type=click.Path(),
    help="Folder of a history index: PATH is compared with all that went into it before, then goes into it too.",
)
@click.option(
    "--tombstones",
    type=click.Path(exists=True, dir_okay=False),
    help="File with one doc_id a line: documents that leave the index for good. Needs --history.",
)
@stage_options
def deduplicate(
    path: tuple[str, ...], clusters: str | None, history: str | None, tombstones: str | None, **options: Any
) -> None:
    """Find exact and near-duplicates; one document of each cluster survives. Needs Java (for Spark) from 64 MB on.

    With --history night after night: documents of earlier nights keep their clusters and survivors. The report (cluster
    sizes, what fell out of each source, templates) lies in the output; `hyperclova dataset show OUTPUT` names it.
    """
    beside: dict[str, Dataset] = {}
    config = config_of(definition_of(deduplicate_stage), options["config"], options["settings"])
    assert isinstance(config, DeduplicateConfig)
    warehouse, published = Warehouse(storage.absolute(history or ".")), True
    if history:
        beside["history"], published = index.to_compare_with(warehouse, options["output"], config)
        if tombstones:
            beside["tombstones"] = index.tombstones_of(warehouse, tombstones)
    elif tombstones:
        raise ConfigError(
            "Tombstones without a history index",
            where="--tombstones",
            why="documents are removed from an index",
            remedy="give --history FOLDER too",
        )
    outcome = run_on_input(deduplicate_stage, path, options, beside)
    if not published:
        version = index.next_version(warehouse, beside["history"], outcome.dataset, config)
        index.publish(warehouse, version, outcome.dataset)
        click.echo(
            f"history: version {version.manifest.info['version']}, {version.manifest.info['rows']['members']:,} documents",
            err=True,
        )
    columns = ["doc_id", "source_id", "cluster_id", "signals"]

    def decisions() -> Any:
        for table, kept in (("documents", True), ("rejected", False)):
            for row in rows_of(outcome.dataset, table, columns):
                similarity = 1.0 if kept else dict(row["signals"]).get("duplicate_similarity")
                yield {
                    "doc_id": row["doc_id"],
                    "source_id": row["source_id"],
                    "cluster_id": row["cluster_id"],
                    "kept": kept,
                    "similarity": similarity,
                }

    write_jsonl(clusters, decisions())


@click.command()
@click.argument("path", nargs=-1, required=True)
@click.option(
    "--spans",
    type=click.Path(),
    help="Write source_id, start, end, type, rule and confidence of every find as JSONL; never the value.",
)
@stage_options
def deidentify(path: tuple[str, ...], spans: str | None, **options: Any) -> None:
    """Replace personal data by typed placeholders. Offsets of --spans are those of the original text."""
    outcome = run_on_input(deidentify_stage, path, options)
    wanted = ("source_id", "start", "end", "type", "rule", "confidence")
    write_jsonl(
        spans,
        ({key: row[key] for key in wanted} for row in rows_of(outcome.dataset, "audit") if row["field"] == "text"),
    )


@click.command()
@click.argument("path", nargs=-1, required=True)
@stage_options
def enrich(path: tuple[str, ...], **options: Any) -> None:
    """Rebuild threads; popularity and reliability as percentiles within a source. Needs Java, for Spark."""
    run_on_input(enrich_stage, path, options)


@click.command(name="filter")
@click.argument("path", nargs=-1, required=True)
@click.option(
    "--scores", type=click.Path(), help="Write source_id, kept, reason and signals of every document as JSONL."
)
@stage_options
def filter_(path: tuple[str, ...], scores: str | None, **options: Any) -> None:
    """Score gibberish, repetition, abuse and advertising; drop what is beyond the thresholds, each with one reason."""
    outcome = run_on_input(filter_documents, path, options)

    def verdicts() -> Any:
        for table, kept in (("documents", True), ("rejected", False)):
            for row in rows_of(outcome.dataset, table, ["source_id", "signals"] + ([] if kept else ["reason"])):
                yield {
                    "source_id": row["source_id"],
                    "kept": kept,
                    "reason": row.get("reason", ""),
                    "signals": dict(row["signals"]),
                }

    write_jsonl(scores, verdicts())


@click.command()
@click.argument("path", nargs=-1, required=True)
@stage_options
def select(path: tuple[str, ...], **options: Any) -> None:
    """Bucket documents by quality, popularity, reliability and cluster size. Needs Java, for Spark."""
    run_on_input(select_stage, path, options)


@click.group()
def quality() -> None:
    """The quality model that `filter` can use."""


@quality.command("train")
@click.argument("labelled", type=click.Path())
@click.option("--output", required=True, type=click.Path(), help="Folder of the model.")
@click.option("--seed", type=int, default=0, show_default=True)
def quality_train(labelled: str, output: str, seed: int) -> None:
    """Learn from JSONL with `text` and `label`; use it by `hyperclova filter --set model=MODEL`."""
    from hyperclova_core.corpus.ingest.decompression import open_stream
    from hyperclova_core.corpus.quality_model import train_quality_model

    texts, labels = [], []
    if not Path(labelled).is_file():
        raise DataError(
            "The labelled file does not exist",
            where=labelled,
            why="no such file",
            remedy="give a JSONL file with `text` and `label`",
        )
    with open_stream(labelled) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                texts.append(str(row["text"]))
                labels.append(str(row["label"]))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    "A line is no labelled example",
                    where=f"{labelled}:{number}",
                    why=f"{type(error).__name__}: {error}",
                    remedy="each line needs `text` and `label`",
                ) from error
    model, held_out = train_quality_model(texts, labels, seed)
    model.save(output, held_out)
    click.echo(json.dumps(held_out, ensure_ascii=False, indent=1))


COMMANDS = (ingest, deduplicate, deidentify, enrich, filter_, select, quality)
