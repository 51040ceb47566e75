"""Training and evaluation of models outside a recipe."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from typing import Any

import click

from hyperclova_core.cli.common import shown
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.config import load_yaml, parse
from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.jobs.backend import wait
from hyperclova_core.jobs.backends import LocalBackend
from hyperclova_core.jobs.spec import TrainJobSpec
from hyperclova_core.pipeline.jobs import failure_of
from hyperclova_core.tokens.tokenizer.tokenizer import DESCRIPTION_FILE
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
@click.option("--resume", is_flag=True, help="It is an error if there is no checkpoint to go on from.")
def train(path: str, resume: bool) -> None:
    """Train one model on shards, with torchrun and DeepSpeed on this machine; a second call goes on where the first ended."""
    job = parse(JobConfig, _completed(load_yaml(path)), path)
    if storage.is_remote(job.output):
        raise ConfigError(
            "Training writes to this machine's disk",
            where="output",
            why=f"{job.output} is in an object store",
            remedy="give a local folder, and an s3:// folder as `checkpoints` to keep those safe",
        )
    if resume:
        job = job.model_copy(update={"resume": "must"})
    spec = TrainJobSpec(
        f"train-{job.train.size.name}",
        PROGRAM,
        job.model_dump(mode="json"),
        job.output,
        job.train.size.parallel.processes,
    )
    backend = LocalBackend()
    begin = backend.end_of_log(spec)
    backend.submit(spec)
    status = wait(backend, spec, _show, cursors=begin)
    if status.state != "succeeded":
        raise failure_of(spec, status)
    click.echo(json.dumps(storage.read_json(storage.join(job.output, "result.json")), indent=1))


def _completed(told: dict[str, Any]) -> dict[str, Any]:
    """What is told, with absolute paths, and with what the tokenizer's folder and the shards' companions say by themselves."""
    found = dict(told)
    for key in ("output", "tokenizer", "checkpoints"):
        if isinstance(found.get(key), str):
            found[key] = storage.absolute(found[key])
    for key in ("shards", "validation_shards", "validation_provenance"):
        if isinstance(found.get(key), list):
            found[key] = [storage.absolute(str(item)) for item in found[key]]
    described = storage.join(str(found.get("tokenizer", "")), DESCRIPTION_FILE)
    if found.get("tokenizer") and storage.exists(described):
        from hyperclova_core.tokens.tokenizer.tokenizer import Tokenizer

        tokenizer = Tokenizer.load(found["tokenizer"])
        found.setdefault("tokenizer_identity", tokenizer.identity)
        found.setdefault("vocabulary", tokenizer.vocabulary_size)
        found.setdefault("padded_vocabulary", tokenizer.padded_vocabulary_size)
    beside = [f"{prefix}.provenance.parquet" for prefix in found.get("validation_shards") or ()]
    if beside and all(storage.exists(path) for path in beside):
        found.setdefault("validation_provenance", beside)
    return found


_STEP = re.compile(r"step \d+/\d+  loss.*")


def _show(line: str) -> None:
    """A line of the job: steps write over one another on a terminal."""
    step = _STEP.search(line)
    if step is None or not sys.stderr.isatty():
        click.echo(line, err=True)
    else:
        click.echo(f"\r\x1b[2K{step.group()[: shutil.get_terminal_size().columns - 1]}", err=True, nl=False)


@click.command("export")
@click.argument("checkpoint", type=click.Path())
@click.option("--output", required=True, type=click.Path(), help="Folder of the model.")
@click.option("--tokenizer", type=click.Path(), help="Folder of the tokenizer, to go with the model.")
def export(checkpoint: str, output: str, tokenizer: str | None) -> None:
    """Write a checkpoint (its folder, or a training's: the newest) as GPT2LMHeadModel, if its loss is the trained model's."""
    from hyperclova_core.training.export.export import export_checkpoint

    told, result = (
        storage.read_json(path) if storage.exists(path) else {}
        for path in (storage.join(checkpoint, name) for name in ("config.json", "result.json"))
    )
    difference = export_checkpoint(
        checkpoint, output, tokenizer or told.get("tokenizer"), None, told.get("card"), result
    )
    click.echo(f"{output}: losses of the trained model and of transformers' differ by {difference:.1e} at most")


@click.command("generate")
@click.argument("model", type=click.Path())
@click.option(
    "--prompt", "prompts", multiple=True, help="A text to go on with; again for a batch. None: one a line from stdin."
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option(
    "--temperature", type=click.FloatRange(min=0), default=0.8, show_default=True, help="0: always the likeliest."
)
@click.option(
    "--top-k", type=click.IntRange(min=0), default=0, show_default=True, help="Of so many likeliest; 0: of all."
)
@click.option(
    "--top-p",
    type=click.FloatRange(min=0, max=1),
    default=0.95,
    show_default=True,
    help="Of the likeliest with so much probability.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--stop", "stops", multiple=True, help="A text that ends a continuation; the end-of-document mark always does."
)
@click.option("--tokenizer", type=click.Path(), help="Folder of the tokenizer, where it is not with the model.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines with prompt, text, tokens, reason.")
def generate(
    model: str,
    prompts: tuple[str, ...],
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    stops: tuple[str, ...],
    tokenizer: str | None,
    as_json: bool,
) -> None:
    """Go on with texts. The same seed gives the same continuation, alone or in a batch."""
    from dataclasses import asdict

    from hyperclova_core.evaluation.generation import Sampling, generate_texts
    from hyperclova_core.tokens.tokenizer.tokenizer import Tokenizer
    from hyperclova_core.training.export.export import load_model

    texts = list(prompts) or [line.rstrip("\n") for line in sys.stdin]
    sampling = Sampling(max_tokens, temperature, top_k, top_p, seed, tuple(filter(None, stops)))
    for found in generate_texts(load_model(model), Tokenizer.load(tokenizer or model), texts, sampling):
        click.echo(json.dumps(asdict(found), ensure_ascii=False) if as_json else shown(f"{found.prompt}{found.text}"))


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
    from hyperclova_core.tokens.tokenizer.tokenizer import Tokenizer
    from hyperclova_core.training.export.export import load_model

    result = task.evaluate(
        load_model(model),
        Tokenizer.load(model),
        task.read_reviews(shots_path),
        task.read_reviews(test_path),
        count,
        sets,
        seed,
    )
    if result.shots < count:
        click.echo(
            f"{result.shots} shots a prompt, not the {count} asked for: no more fit the model's context beside the longest review,"
            " or there are too few examples of a label",
            err=True,
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


COMMANDS = (train, export, generate, evaluate, waterfall)
