"""Where something came from."""

from __future__ import annotations

import re
from pathlib import Path

import click

from hyperclova_core.cli.datasets import open_warehouse, warehouse_option
from hyperclova_core.foundation import storage
from hyperclova_core.provenance.graph import graph_of
from hyperclova_core.provenance.pictures import html, tree


@click.command()
@click.argument("name")
@warehouse_option
@click.option("--output", type=click.Path(file_okay=False), default=".", show_default=True, help="Folder of the files.")
@click.option("--no-files", is_flag=True, help="Print the tree only.")
def lineage(name: str, warehouse: str, output: str, no_files: bool) -> None:
    """Print what NAME was made from, down to the files of the crawl, as a tree; write it as JSON and as an HTML picture.

    NAME is a run, a model (hyperclova-SIZE), a corpus (NAME or NAME@VERSION), STAGE@FINGERPRINT or a dataset's folder.
    """
    graph = graph_of(open_warehouse(warehouse), name)
    click.echo(tree(graph), nl=False)
    if no_files:
        return
    stem = "lineage-" + re.sub(r"[^A-Za-z0-9._@-]+", "-", graph.nodes[graph.root].label).strip("-")
    paths = [str(Path(output, f"{stem}.{suffix}")) for suffix in ("json", "html")]
    storage.write_json(paths[0], graph.to_dict())
    storage.write_bytes(paths[1], html(graph).encode())
    click.echo(f"written: {', '.join(paths)}", err=True)


COMMANDS = (lineage,)
