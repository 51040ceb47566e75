"""Looking at datasets, checking them, and removing what nothing needs."""

from __future__ import annotations

import json

import click

from hyperclova_core.cli.runs import default_warehouse
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.corpora.retention import DEFAULT_DAYS, WAIT_SECONDS, collect, find_garbage
from hyperclova_core.foundation.datasets.dataset import open_dataset
from hyperclova_core.foundation.datasets.manifest import MANIFEST
from hyperclova_core.foundation.errors import ConfigError, DataError, HyperclovaError
from hyperclova_core.foundation.warehouse import Warehouse

warehouse_option = click.option("--warehouse", default=default_warehouse, show_default="as for `hyperclova run`")


def open_warehouse(uri: str) -> Warehouse:
    """The warehouse at a path or address.

    Raises:
        ConfigError: there is none.
    """
    opened = Warehouse(storage.absolute(uri))
    if not storage.exists(opened.uri):
        raise ConfigError("There is no warehouse here", where=opened.uri, remedy="give --warehouse")
    return opened


@click.group()
def dataset() -> None:
    """Committed datasets: list, show, verify, the names that keep them, and gc."""


@dataset.command("list")
@warehouse_option
def list_(warehouse: str) -> None:
    """All committed datasets of a warehouse."""
    root = storage.join(open_warehouse(warehouse).uri, "datasets")
    for stage in storage.list_names(root):
        for identity in storage.list_names(storage.join(root, stage)):
            uri = storage.join(root, stage, identity)
            if not storage.exists(storage.join(uri, MANIFEST)):
                continue
            try:
                found = open_dataset(uri)
            except DataError as error:
                click.echo(f"{stage:<14}{identity}  DAMAGED: {error.what}")
                continue
            made = f"{found.attempt.get('committed_at', '')}  {found.attempt.get('run', '')}"
            click.echo(f"{stage:<14}{identity}  {found.manifest.counters.kept:>12,} kept  {made}")


@dataset.command()
@click.argument("path", type=click.Path())
def show(path: str) -> None:
    """A dataset's manifest in brief: stage, inputs, tables, counters."""
    found = open_dataset(path)
    manifest = found.manifest
    brief = {
        "stage": manifest.stage,
        "version": manifest.stage_version,
        "fingerprint": manifest.fingerprint,
        "digest": manifest.digest,
        "made": dict(found.attempt),
        "expired": {key: value for key, value in found.expired.items() if key != "manifest"},
        "inputs": {name: reference.model_dump() for name, reference in manifest.inputs.items()},
        "tables": {
            name: {"files": len(table.files), "rows": table.rows, "bytes": table.bytes, "restricted": table.restricted}
            for name, table in manifest.tables.items()
        },
        "counters": manifest.counters.model_dump(),
    }
    click.echo(json.dumps(brief, ensure_ascii=False, indent=1))


@dataset.command()
@click.argument("paths", nargs=-1, type=click.Path())
@click.option("--all", "everything", is_flag=True, help="Every dataset of the warehouse.")
@warehouse_option
def verify(paths: tuple[str, ...], everything: bool, warehouse: str) -> None:
    """Check sizes and checksums of all files of datasets; every damage is told, and the exit code is 65 if there is any."""
    if everything:
        root = storage.join(open_warehouse(warehouse).uri, "datasets")
        stages = storage.list_names(root)
        paths = tuple(storage.join(root, s, i) for s in stages for i in storage.list_names(storage.join(root, s)))
        paths = tuple(path for path in paths if storage.exists(storage.join(path, MANIFEST)))
    if not paths:
        raise ConfigError("Nothing to verify", where="dataset verify", remedy="give a dataset's folder, or --all")
    damaged: HyperclovaError | None = None
    for path in paths:
        try:
            found = open_dataset(path)
            found.verify(checksums=True)
        except DataError as error:
            click.echo(f"{path}: DAMAGED: {error.what} ({error.where}: {error.why})", err=True)
            damaged = error
            continue
        files = sum(len(table.files) for table in found.manifest.tables.values())
        click.echo(f"{found.name}: {files} files, all as committed")
    if damaged is not None:
        raise damaged


@dataset.command()
@warehouse_option
def refs(warehouse: str) -> None:
    """Names that keep datasets alive: runs, corpus versions."""
    root = storage.join(open_warehouse(warehouse).uri, "refs")
    for path in storage.list_files(root):
        click.echo(path[len(root) :].strip("/").removesuffix(".json"))


@dataset.command()
@click.argument("name")
@warehouse_option
def release(name: str, warehouse: str) -> None:
    """Let a name of `dataset refs` go; gc may then remove what only it kept."""
    path = storage.join(open_warehouse(warehouse).uri, "refs", f"{name}.json")
    if not storage.exists(path):
        raise ConfigError(f"There is no reference {name}", where=path, remedy="see `hyperclova dataset refs`")
    storage.remove(path)
    click.echo(f"{name} is released")


@dataset.command()
@warehouse_option
@click.option(
    "--older-than",
    type=click.FloatRange(min=0),
    default=DEFAULT_DAYS,
    show_default=True,
    help="Days; what changed later is left alone. A stage that runs longer than this is in danger.",
)
@click.option(
    "--restricted-days",
    type=click.FloatRange(min=0),
    help="Time to live of raw, rejected, quarantined and not yet de-identified data."
    "  [default: `retention_days` of the recipe that made it]",
)
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=WAIT_SECONDS,
    show_default=True,
    help="Seconds between marking what may go and looking again, so that a run which takes it over meanwhile keeps it.",
)
@click.option("--yes", is_flag=True, help="Delete; without it only show.")
def gc(warehouse: str, older_than: float, restricted_days: float | None, wait: float, yes: bool) -> None:
    """Remove attempts never committed, versions that no name in refs/ reaches, and data past its time to live."""
    opened = open_warehouse(warehouse)
    found = find_garbage(opened, older_than, restricted_days)
    for item in found:
        click.echo(f"{item.kind:<16}{len(item.files):>7} files {item.bytes:>15,} bytes  {item.uri}  ({item.why})")
    total = sum(item.bytes for item in found)
    if not found:
        click.echo("Nothing to remove")
    elif yes:
        click.echo(f"Marked; looking again in {wait:.0f} s")
        freed, kept = collect(opened, found, lambda: find_garbage(opened, older_than, restricted_days), wait)
        for item in kept:
            click.echo(f"{'kept':<16}{item.uri}  (in use by now, or its turn came too late: run again)")
        click.echo(f"Removed {freed:,} bytes")
    if yes and (freed := storage.clear_scratch(older_than)):
        click.echo(f"Removed {freed:,} bytes of scratch on this machine")
    if found and not yes:
        click.echo(f"{total:,} bytes could be removed: run again with --yes")


COMMANDS = (dataset,)
