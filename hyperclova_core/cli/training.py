"""Training and evaluation of models outside a recipe."""

from __future__ import annotations

import json
import os

import click

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import load_yaml, parse
from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.jobs.backends import LocalBackend, log_end, wait
from hyperclova_core.jobs.spec import TrainJobSpec
from hyperclova_core.pipeline.jobs import failure_of
from hyperclova_core.training.config import JobConfig
from hyperclova_core.training.stage import PROGRAM


@click.command()
@click.option(
    "--config",
    "path",
    required=True,
    type=click.Path(),
    help="YAML: train, shards, validation_shards, tokenizer, vocabulary, padded_vocabulary, output (see docs/training.md).",
)
def train(path: str) -> None:
    """Train one model on shards, with torchrun and DeepSpeed on this machine; a second call goes on where the first ended."""
    job = parse(JobConfig, load_yaml(path), path)
    job = job.model_copy(update={"output": os.path.abspath(job.output)})
    spec = TrainJobSpec(
        f"train-{job.train.size.name}",
        PROGRAM,
        job.model_dump(mode="json"),
        job.output,
        job.train.size.parallel.processes,
    )
    backend = LocalBackend()
    offset = log_end(spec)
    backend.submit(spec)
    status = wait(backend, spec, lambda line: click.echo(line, err=True), offset=offset)
    if status.state != "succeeded":
        raise failure_of(spec, status)
    click.echo(json.dumps(storage.read_json(storage.join(job.output, "result.json")), indent=1))


@click.group()
def evaluate() -> None:
    """Few-shot tasks."""


@evaluate.command("nsmc")
@click.argument("model", type=click.Path())
@click.option(
    "--shots", "shots_path", required=True, type=click.Path(), help="TSV (id, document, label) to take prompts from."
)
@click.option("--test", "test_path", required=True, type=click.Path(), help="TSV (id, document, label) to judge.")
@click.option("--count", type=int, default=4, show_default=True, help="Shots a prompt.")
@click.option("--sets", type=int, default=3, show_default=True, help="Prompt sets; accuracy is the mean over them.")
@click.option("--seed", type=int, default=0, show_default=True)
def nsmc(model: str, shots_path: str, test_path: str, count: int, sets: int, seed: int) -> None:
    """Sentiment of NSMC reviews by comparing continuations; prints accuracy with its 95 % interval."""
    from dataclasses import asdict

    from hyperclova_core.evaluation import nsmc as task
    from hyperclova_core.tokens.tokenizer import Tokenizer
    from hyperclova_core.training.export import load_model

    result = task.evaluate(
        load_model(model),
        Tokenizer.load(model),
        task.read_reviews(shots_path),
        task.read_reviews(test_path),
        count,
        sets,
        seed,
    )
    click.echo(json.dumps(asdict(result), indent=1))


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path())
@click.option("--output", default="waterfall.png", show_default=True, type=click.Path(), help="The figure.")
def waterfall(runs: tuple[str, ...], output: str) -> None:
    """Draw the loss curves of trainings (folders with metrics.jsonl and result.json), and say where they cross."""
    from hyperclova_core.evaluation.waterfall import crossings, curve_of, describe, draw
    from hyperclova_core.training.metrics import read_history

    curves = []
    for folder in runs:
        result = storage.join(folder, "result.json")
        if not storage.exists(result):
            raise ConfigError(
                "Not a finished training",
                where=folder,
                why="there is no result.json",
                remedy="give the output folder of `hyperclova train`",
            )
        facts = storage.read_json(result)
        curves.append(
            curve_of(
                facts["size"], facts["non_embedding_parameters"], read_history(storage.join(folder, "metrics.jsonl"))
            )
        )
    draw(curves, os.path.abspath(output))
    for line in describe(crossings(curves)):
        click.echo(line)


COMMANDS = (train, evaluate, waterfall)
