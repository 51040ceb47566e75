"""Tokenizer, mixer and serializer."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from hyperclova_core.cli.common import config_of, input_dataset, report, run_stage, stage_options
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets import Target, open_dataset
from hyperclova_core.foundation.engines import LocalEngine
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.foundation.runner import StageRequest, execute, plan_stage
from hyperclova_core.foundation.stages import StageContext, definition_of
from hyperclova_core.tokens.mix_stage import count_tokens, split_and_plan
from hyperclova_core.tokens.mix_stage import mix as mix_stage
from hyperclova_core.tokens.train_stage import train_tokenizer


@click.command()
@click.argument("recipe")
@click.option(
    "--documents", "path", required=True, multiple=True, type=click.Path(), help="Dataset folder (of select), or files."
)
@click.option("--tokenizer", required=True, type=click.Path(), help="Folder of a tokenizer.")
@click.option("--output", required=True, type=click.Path(), help="Dataset folder to write.")
@click.option("--plan-only", is_flag=True, help="Print and save the plan; move no data.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="One setting of the mix; may be repeated.")
def mix(
    recipe: str, path: tuple[str, ...], tokenizer: str, output: str, plan_only: bool, settings: tuple[str, ...]
) -> None:
    """Plan the composition in tokens as RECIPE says, then choose the documents in training order."""
    from hyperclova_core.pipeline.recipe import load_recipe

    loaded = load_recipe(recipe, tuple(f"mix.{setting.removeprefix('mix.')}" for setting in settings))
    documents = input_dataset(path, output, loaded.seed)
    if plan_only:
        context = StageContext(
            "mix",
            definition_of(mix_stage).version,
            loaded.seed,
            documents.manifest.buckets,
            "plan",
            Target(storage.join(output, "plan")),
            fingerprint({"documents": documents.manifest.digest, "tokenizer": open_dataset(tokenizer).manifest.digest}),
            LocalEngine(),
        )
        plan, _, validation = split_and_plan(count_tokens(documents, tokenizer, context), loaded.mix, loaded.seed)
        storage.write_json(storage.join(output, "plan.json"), plan.to_dict())
        show_plan(plan.to_dict(), sum(candidate.tokens for candidate in validation))
        return
    request = StageRequest(
        definition_of(mix_stage),
        loaded.mix,
        lambda _: Target(output),
        {"documents": documents, "tokenizer": open_dataset(tokenizer)},
        seed=loaded.seed,
        buckets=documents.manifest.buckets,
    )
    outcome = execute(plan_stage(request), LocalEngine())
    show_plan(outcome.dataset.manifest.info["plan"], int(outcome.dataset.manifest.info["tokens"]["validation"]))
    report("mix", outcome)


def show_plan(plan: dict[str, Any], validation_tokens: int) -> None:
    """The plan as a table that a person can sign."""
    click.echo(
        f"{'source':<16}{'available':>14}{'weight':>9}{'wanted':>14}{'target':>14}{'epochs':>8}{'shortage':>12}{'respread':>12}"
    )
    for leaf in plan["leaves"]:
        click.echo(
            f"{leaf['source']:<16}{leaf['available_tokens']:>14,}{leaf['weight']:>9.4f}{leaf['wanted_tokens']:>14,}{leaf['target_tokens']:>14,}"
            f"{leaf['epochs']:>8.2f}{leaf['shortage_tokens']:>12,}{leaf['respread_tokens']:>12,}"
        )
    total = sum(leaf["target_tokens"] for leaf in plan["leaves"])
    click.echo(
        f"{'all':<16}{sum(leaf['available_tokens'] for leaf in plan['leaves']):>14,}{'':>9}{plan['budget_tokens']:>14,}{total:>14,}"
    )
    click.echo(f"held out for validation: {validation_tokens:,} tokens")


@click.group()
def tokenizer() -> None:
    """Morpheme-aware byte-level BPE: train, encode, decode."""


@tokenizer.command("train")
@click.argument("path", nargs=-1, required=True)
@click.option(
    "--vocab-size", type=int, default=32_000, show_default=True, help="Tokens, special ones and 256 bytes included."
)
@stage_options
def tokenizer_train(path: tuple[str, ...], vocab_size: int, **options: Any) -> None:
    """Learn a tokenizer from files or a dataset."""
    definition = definition_of(train_tokenizer)
    config = config_of(definition, options["config"], (f"vocabulary_size={vocab_size}", *options["settings"]))
    dataset = input_dataset(path, options["output"], options["seed"])
    outcome = run_stage(
        StageRequest(
            definition,
            config,
            lambda _: Target(options["output"]),
            {"documents": dataset},
            seed=options["seed"],
            buckets=dataset.manifest.buckets,
        ),
        options["engine"],
    )
    folder = storage.join(outcome.dataset.uri, outcome.dataset.manifest.info["folder"])
    for name in storage.list_names(folder):
        storage.write_bytes(storage.join(options["output"], name), storage.read_bytes(storage.join(folder, name)))
    info = outcome.dataset.manifest.info
    click.echo(f"{info['vocabulary_size']:,} tokens, padded to {info['padded_vocabulary_size']:,}: {options['output']}")


@tokenizer.command("encode")
@click.option("--tokenizer", "folder", required=True, type=click.Path(), help="Folder of a tokenizer.")
@click.argument("text", required=False)
def tokenizer_encode(folder: str, text: str | None) -> None:
    """Print the ids of TEXT, or of each line of standard input, as JSON lists."""
    from hyperclova_core.tokens.tokenizer import MorphemeTokenizer

    encoder = MorphemeTokenizer.load(folder)
    for line in [text] if text is not None else (line.rstrip("\n") for line in sys.stdin):
        click.echo(json.dumps(encoder.encode(line)))


@tokenizer.command("decode")
@click.option("--tokenizer", "folder", required=True, type=click.Path(), help="Folder of a tokenizer.")
@click.argument("ids", required=False)
def tokenizer_decode(folder: str, ids: str | None) -> None:
    """Print the text of a JSON list of IDS, or of each line of standard input."""
    from hyperclova_core.foundation.errors import DataError
    from hyperclova_core.tokens.tokenizer import MorphemeTokenizer

    decoder = MorphemeTokenizer.load(folder)
    for line in [ids] if ids is not None else sys.stdin:
        try:
            values = [int(value) for value in json.loads(line)]
        except (ValueError, TypeError) as error:
            raise DataError(
                "Not a list of ids", where=line.strip()[:80], why=str(error), remedy="write them as JSON: [12, 7, 530]"
            ) from error
        click.echo(decoder.decode(values))


@click.command()
@click.argument("path", nargs=-1, required=True)
@click.option("--tokenizer", "folder", required=True, type=click.Path(), help="Folder of a tokenizer.")
@click.option(
    "--output",
    required=True,
    type=click.Path(),
    help="Prefix of the shard: PREFIX.bin, PREFIX.idx, PREFIX.provenance.parquet.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the training order.")
def serialize(path: tuple[str, ...], folder: str, output: str, seed: int) -> None:
    """Write all documents once, in training order, as one Megatron shard with the way back to each document."""
    from hyperclova_core.tokens.single_shard import write_single_shard

    dataset = input_dataset(path, f"{output}.work", seed)
    result = write_single_shard(dataset, folder, output, seed)
    storage.remove_tree(f"{output}.work.input")
    size = (
        f"{result['documents']:,} documents, {result['tokens']:,} tokens, {result['bytes_per_token']:.3f} bytes a token"
    )
    click.echo(f"{size}: {output}.bin, .idx, .provenance.parquet")


COMMANDS = (mix, tokenizer, serialize)
