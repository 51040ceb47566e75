"""Looking at datasets."""

from __future__ import annotations

import json

import click

from hyperclova_core.cli.runs import default_warehouse
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets import open_dataset


@click.group()
def dataset() -> None:
    """Committed datasets: list, show, verify."""


@dataset.command("list")
@click.option("--warehouse", default=default_warehouse, show_default="as for `hyperclova run`")
def list_(warehouse: str) -> None:
    """All committed datasets of a warehouse."""
    root = storage.join(warehouse, "datasets")
    for stage in storage.list_names(root):
        for identity in storage.list_names(storage.join(root, stage)):
            uri = storage.join(root, stage, identity)
            if storage.exists(storage.join(uri, "manifest.json")):
                found = open_dataset(uri)
                counters = found.manifest.counters
                click.echo(
                    f"{stage:<14}{identity}  {counters.kept:>12,} kept  {found.attempt.get('committed_at', '')}  {found.attempt.get('run', '')}"
                )


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
        "inputs": {name: reference.model_dump() for name, reference in manifest.inputs.items()},
        "tables": {
            name: {"files": len(table.files), "rows": table.rows, "bytes": table.bytes, "restricted": table.restricted}
            for name, table in manifest.tables.items()
        },
        "counters": manifest.counters.model_dump(),
    }
    click.echo(json.dumps(brief, ensure_ascii=False, indent=1))


@dataset.command()
@click.argument("path", type=click.Path())
def verify(path: str) -> None:
    """Check sizes and checksums of all files of a dataset."""
    found = open_dataset(path)
    found.verify(checksums=True)
    click.echo(
        f"{found.name}: {sum(len(table.files) for table in found.manifest.tables.values())} files, all as committed"
    )


COMMANDS = (dataset,)
