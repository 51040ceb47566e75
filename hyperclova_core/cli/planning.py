"""What something will take, before it runs: `plan` of a training's layout, `plan corpus` of a corpus' stages."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import click

from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.training.model.sizes import model_size


class _PlanGroup(click.Group):
    """`plan MODEL …` is `plan training MODEL …`."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in context.help_option_names:
            args = ["training", *args]
        return super().parse_args(context, args)


@click.group(cls=_PlanGroup)
def plan() -> None:
    """What will be needed: `plan MODEL --gpus N` of a training (short for `plan training`), `plan corpus RECIPE --text 5TB` of a corpus."""


@plan.command()
@click.argument("model", required=False)
@click.option("--gpus", type=click.IntRange(min=1), help="How many devices there are.")
@click.option(
    "--gpu", "gpu", default="a100-80g", show_default=True, help="Their kind: a100-80g, h100, h200, b200, l40s, …"
)
@click.option(
    "--tokens",
    type=click.FloatRange(min=1),
    default=150e9,
    show_default=True,
    help="Training tokens, for days and GPU-hours.",
)
@click.option(
    "--global-batch-size", type=click.IntRange(min=1), default=1024, show_default=True, help="Sequences a step."
)
@click.option(
    "--sequence-length", type=click.IntRange(min=1), default=2048, show_default=True, help="Tokens a sequence."
)
@click.option("--vocabulary", type=click.IntRange(min=1), default=51_200, show_default=True, help="Padded size.")
@click.option("--top", type=click.IntRange(min=1), default=8, show_default=True, help="Layouts to show.")
@click.option("--json", "as_json", is_flag=True, help="The best layouts as JSON.")
@click.option("--published", is_flag=True, help="Show instead how far the planner is off at published trainings.")
def training(
    model: str | None,
    gpus: int | None,
    gpu: str,
    tokens: float,
    global_batch_size: int,
    sequence_length: int,
    vocabulary: int,
    top: int,
    as_json: bool,
    published: bool,
) -> None:
    """Plan a layout: MODEL (82B, 6.9B, … or LAYERSxWIDTHxHEADS) on so many devices, best first, with why others fall."""
    from hyperclova_core.training.planner import report
    from hyperclova_core.training.planner.devices import device
    from hyperclova_core.training.planner.estimate import Task
    from hyperclova_core.training.planner.search import plan as search

    if published:
        click.echo(report.published_table())
        return
    if model is None or gpus is None:
        raise click.UsageError("Give MODEL and --gpus, or --published.")
    found = search(Task(model_size(model), vocabulary, sequence_length, global_batch_size), gpus, device(gpu))
    rows = report.rows(found, tokens, top)
    if as_json:
        names = (*report.HEAD[:-1], "why")
        click.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=1))
    else:
        click.echo(report.table(rows))
    if not found.fitting:
        raise ConfigError(
            f"{model} fits on {gpus} {gpu} under no layout",
            where="--gpus",
            why=found.falling[0].why_not,
            remedy="take more devices, or ones with more memory",
        )
    if not as_json:
        click.echo("")
        click.echo("In a recipe (an estimate: `hyperclova plan --published` shows how far it is off elsewhere):")
        click.echo(report.snippet(found, model))


@plan.command()
@click.argument("recipe")
@click.option("--text", required=True, help="UTF-8 bytes of text: 5TB, 800GB.")
@click.option("--executors", type=click.IntRange(min=1), help="Of Spark.  [default: the recipe's max_executors]")
@click.option("--documents", type=click.FloatRange(min=1), help="How many.  [default: one for each 3,300 bytes]")
@click.option("--files", type=click.IntRange(min=1), help="Source files.  [default: one for each 64 MB]")
@click.option("--prices", "prices_file", type=click.Path(), help="Yours, in the form of conf/scale/prices.yaml.")
@click.option(
    "--set", "overrides", multiple=True, help="Change a setting of the recipe: key=value, as spark_preset=5tb."
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def corpus(
    recipe: str,
    text: str,
    executors: int | None,
    documents: float | None,
    files: int | None,
    prices_file: str | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Plan a corpus: tasks, requests, memory, hours and money of each stage of RECIPE, and what breaks."""
    from hyperclova_core.pipeline import corpus_plan
    from hyperclova_core.pipeline.recipe import load_recipe

    known = corpus_plan.costs()
    size, paid = corpus_plan.bytes_of(text), corpus_plan.prices(prices_file)
    # pods are sized whether or not this installation has a cluster
    loaded = load_recipe(recipe, ("spark_cluster.image=planned", *overrides))
    found = corpus_plan.plan_corpus(loaded, size, known, paid, executors, documents, files)
    if as_json:
        told: dict[str, Any] = {**asdict(found), "hours": found.hours, "money": found.money}
        click.echo(json.dumps(told, indent=1))
        return
    click.echo(
        f"{size / 1e12:.3g} TB of text, {found.documents:,.0f} documents, {found.buckets:,} buckets,"
        f" {found.executors} executors, {found.cores} cores"
    )
    click.echo(corpus_plan.table(found))
    for line in found.breaks:
        click.echo(f"! {line}")
    click.echo(
        f"Reckoned from what was measured on {known.measured_on}, as if nothing were dropped; S3 answers in {corpus_plan.LATENCY * 1000:.0f} ms."
    )


COMMANDS = (plan,)
