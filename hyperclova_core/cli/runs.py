"""Whole recipes without Airflow: the same stages, the same datasets, the same lineage."""

from __future__ import annotations

import datetime
import os
import time

import click

from hyperclova_core.cli.common import spark_engine
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import ConfigError, HyperclovaError
from hyperclova_core.foundation.lineage import deliver
from hyperclova_core.foundation.secrets import home
from hyperclova_core.foundation.warehouse import Warehouse
from hyperclova_core.local.demo_text import gather
from hyperclova_core.pipeline.finish import fail_run, finish_run
from hyperclova_core.pipeline.graph import SPARK_STAGES
from hyperclova_core.pipeline.jobs import run_job
from hyperclova_core.pipeline.recipe import conf_folder, load_recipe, recipe_path
from hyperclova_core.pipeline.run import prepare_run, run_key, run_keys
from hyperclova_core.pipeline.summary import to_markdown


def default_warehouse() -> str:
    """HYPERCLOVA_WAREHOUSE, else `warehouse` below HYPERCLOVA_HOME."""
    return os.environ.get("HYPERCLOVA_WAREHOUSE") or str(home() / "warehouse")


@click.command()
@click.argument("recipe")
@click.option(
    "--warehouse",
    default=default_warehouse,
    show_default="HYPERCLOVA_WAREHOUSE, else warehouse/ in HYPERCLOVA_HOME, in .hyperclova here, or in ~/.hyperclova",
    help="Where datasets are kept.",
)
@click.option("--name", "run_id", help="Name of the run; the same name again goes on with it.  [default: the time]")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="One setting of the recipe, such as train.settings.tokens=200000; may be repeated.",
)
@click.option("--verbose", is_flag=True, help="Show the lines that GPU jobs print.")
def run(recipe: str, warehouse: str, run_id: str | None, settings: tuple[str, ...], verbose: bool) -> None:
    """Run every stage of RECIPE (a file, or a name of conf/) in order on this machine; what is unchanged is reused.

    Without MLFLOW_TRACKING_URI, lineage goes to `mlflow.db` in the warehouse: look at it with
    `mlflow server --backend-store-uri sqlite:///WAREHOUSE/mlflow.db`.
    """
    _find_data(recipe)
    opened = Warehouse(storage.absolute(warehouse))
    storage.make_folder(opened.uri)
    state = str(home()) if storage.is_remote(opened.uri) else opened.uri
    storage.make_folder(state)
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{os.path.abspath(state)}/mlflow.db")
    loaded = load_recipe(recipe, settings)
    if loaded.jobs.backend == "kubernetes":
        raise ConfigError(
            "This command runs everything on this machine, and the recipe's jobs belong on a cluster",
            where=f"{recipe_path(recipe)}: jobs.backend",
            why="it says kubernetes; pods would not see this machine's folders",
            remedy="trigger pretrain_hyperclova in Airflow, which follows jobs on a cluster; or say --set jobs.backend=local",
        )
    started = prepare_run(
        opened, run_id or datetime.datetime.now(datetime.UTC).strftime(f"{loaded.name}-%Y%m%dT%H%M%SZ"), loaded
    )
    click.echo(f"run {started.name} in {opened.uri}", err=True)
    engine = spark_engine(loaded.spark)
    try:
        for key in run_keys(started):
            begun = time.monotonic()
            if key in SPARK_STAGES:
                outcome = run_key(opened, started, key, engine)
            else:
                outcome = run_job(
                    opened, started, key, lambda line: click.echo(f"  | {line}", err=True) if verbose else None
                )
            counters = outcome.dataset.manifest.counters
            how = (
                f"reused, made by {outcome.dataset.attempt.get('run')}"
                if outcome.reused
                else f"{time.monotonic() - begun:.1f} s"
            )
            flow = f"{counters.rows_in:,} in, {counters.kept:,} kept" if counters.rows_in else ""
            click.echo(f"{key:<14} {flow:<32} ({how})", err=True)
    except HyperclovaError as error:
        fail_run(opened, started, error.what)
        raise
    finally:
        engine.close()
    summary = finish_run(opened, started)
    deliver(opened)
    click.echo(to_markdown(summary))


def _find_data(recipe: str) -> None:
    """The recipes of conf/ read the data folder of this installation: lay out what is theirs if it is not there."""
    if os.environ.get("HYPERCLOVA_DATA") or recipe_path(recipe).resolve().parent != conf_folder().resolve():
        return
    data = home() / "data"
    os.environ["HYPERCLOVA_DATA"] = str(data)
    gather(data, fetch=recipe_path(recipe).stem == "demo")


COMMANDS = (run,)
