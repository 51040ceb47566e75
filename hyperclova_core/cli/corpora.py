"""Published corpora: their versions, removing documents, compaction."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hyperclova_core.cli.common import spark_engine
from hyperclova_core.cli.datasets import open_warehouse, warehouse_option
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.corpora import versions
from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.foundation.stages.engines import LocalEngine
from hyperclova_core.foundation.warehouse import Warehouse


@click.group()
def corpus() -> None:
    """Published corpora: base, increments and tombstones under a name; list, show, remove, compact, drop."""


@corpus.command("list")
@warehouse_option
def list_(warehouse: str) -> None:
    """All corpora with their versions."""
    opened = open_warehouse(warehouse)
    for name in versions.names(opened):
        for number in versions.versions(opened, name):
            version = versions.version_of(opened, name, number)
            parts = ", ".join(f"{sum(p.kind == kind for p in version.parts)} {kind}" for kind in _kinds(version))
            click.echo(
                f"{name} {number:>6}  {version.documents:>12,} documents {version.bytes:>15,} bytes"
                f"  {version.published_at}  {parts}  ({version.change})"
            )


def _kinds(version: versions.CorpusVersion) -> list[str]:
    return list(dict.fromkeys(part.kind for part in version.parts))


@corpus.command()
@click.argument("name")
@click.option("--version", type=int, help="Its number.  [default: the newest]")
@warehouse_option
def show(name: str, version: int | None, warehouse: str) -> None:
    """A version with its parts, as JSON."""
    opened = open_warehouse(warehouse)
    found = versions.version_of(opened, name, version) if version else _current(opened, name)
    click.echo(json.dumps(found.model_dump(mode="json", exclude={"files"}), ensure_ascii=False, indent=1))


def _current(opened: Warehouse, name: str) -> versions.CorpusVersion:
    found = versions.current(opened, name)
    if found is None:
        raise ConfigError(f"There is no corpus {name}", where=opened.uri, remedy="see `hyperclova corpus list`")
    return found


@corpus.command()
@click.argument("name")
@click.argument("doc_ids", nargs=-1)
@click.option("--from", "path", type=click.Path(), help="File with one doc_id a line.")
@click.option("--reason", required=True, help="Kept with the tombstone: no personal data here.")
@warehouse_option
def remove(name: str, doc_ids: tuple[str, ...], path: str | None, reason: str, warehouse: str) -> None:
    """Publish a version without some documents, also where a later crawl brings them again.

    Their texts leave the files with `corpus compact`, and the disk when older versions are dropped and gc has run.
    """
    ids = [*doc_ids, *(Path(path).read_text().split() if path else ())]
    version = versions.add_tombstones(open_warehouse(warehouse), name, ids, reason)
    click.echo(f"{name} version {version.version}: {version.change}")


@corpus.command()
@click.argument("name")
@click.option("--buckets", type=int, help="Bucket files, a power of two.  [default: as the parts have]")
@click.option("--engine", type=click.Choice(["local", "spark"]), default="local", show_default=True)
@warehouse_option
def compact(name: str, buckets: int | None, engine: str, warehouse: str) -> None:
    """Write all parts as one new base, without what is superseded or removed, and publish it."""
    if buckets is not None and (buckets < 1 or buckets & (buckets - 1)):
        raise ConfigError("`--buckets` is not a power of two", where="corpus compact", why=f"it is {buckets}")
    worker = spark_engine() if engine == "spark" else LocalEngine()
    try:
        version, outcome = versions.compact(open_warehouse(warehouse), name, worker, buckets)
    finally:
        worker.close()
    counters = outcome.dataset.manifest.counters
    gone = ", ".join(f"{reason} {number:,}" for reason, number in counters.rejected.items()) or "nothing dropped"
    click.echo(f"{name} version {version.version}: {counters.rows_in:,} in, {counters.kept:,} kept ({gone})")


@corpus.command()
@click.argument("name")
@click.option("--before", type=int, required=True, help="Versions below this number.")
@warehouse_option
def drop(name: str, before: int, warehouse: str) -> None:
    """Forget old versions; gc may then remove what only they kept. The newest always stays."""
    opened = open_warehouse(warehouse)
    newest = _current(opened, name).version
    gone = [number for number in versions.versions(opened, name) if number < min(before, newest)]
    for number in gone:
        storage.remove(storage.join(opened.uri, "refs", "corpus", name, f"{number:06d}.json"))
    click.echo(f"{name}: dropped versions {', '.join(map(str, gone)) or '(none)'}")


COMMANDS = (corpus,)
