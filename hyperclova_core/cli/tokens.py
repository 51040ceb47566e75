"""Tokenizer, mixer and serializer."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING, Any

import click
import pyarrow as pa
import pyarrow.parquet as pq

from hyperclova_core.cli.common import config_of, input_dataset, run_stage, shown, stage_options, worker_for
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.dataset import Target, open_dataset
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.foundation.stages.kinds import StageContext, definition_of
from hyperclova_core.foundation.stages.runner import StageRequest
from hyperclova_core.tokens.mixture.stage import mix as mix_stage
from hyperclova_core.tokens.mixture.stage import plan_mixture
from hyperclova_core.tokens.serialize.stage import serialize as serialize_stage
from hyperclova_core.tokens.serialize.stage import write_shards
from hyperclova_core.tokens.tokenizer.tokenizer import tokenizer_folder
from hyperclova_core.tokens.tokenizer_training.stage import train_tokenizer

if TYPE_CHECKING:
    from hyperclova_core.tokens.serialize.shards import WrittenShard


@click.command()
@click.argument("recipe")
@click.option(
    "--documents", "path", required=True, multiple=True, type=click.Path(), help="Dataset folder (of select), or files."
)
@click.option("--tokenizer", required=True, type=click.Path(), help="Folder of a tokenizer.")
@click.option("--output", required=True, type=click.Path(), help="Dataset folder to write.")
@click.option("--plan-only", is_flag=True, help="Print and save the plan (OUTPUT/plan.json); move no data.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="One setting of the mix; may be repeated.")
@click.option("--engine", type=click.Choice(["auto", "local", "spark"]), default="auto", show_default=True)
def mix(
    recipe: str,
    path: tuple[str, ...],
    tokenizer: str,
    output: str,
    plan_only: bool,
    settings: tuple[str, ...],
    engine: str,
) -> None:
    """Plan the composition in tokens as RECIPE says, then say of every document how often it is in the corpus."""
    from hyperclova_core.pipeline.recipe import load_recipe

    loaded = load_recipe(recipe, tuple(f"mix.{setting.removeprefix('mix.')}" for setting in settings))
    documents, trained = input_dataset(path, output, loaded.seed), open_dataset(tokenizer)
    if plan_only:
        worker = worker_for("mix", sum(entry.bytes for entry in documents.table("documents").files), engine)
        work = storage.join(output, "plan.work")
        context = StageContext(
            "mix",
            definition_of(mix_stage).version,
            loaded.seed,
            documents.manifest.buckets,
            "plan",
            Target(work),
            fingerprint(
                {
                    "documents": documents.manifest.digest,
                    "tokenizer": trained.manifest.digest,
                    "version": definition_of(mix_stage).version,
                    "seed": loaded.seed,
                    "mix": loaded.mix.model_dump(mode="json"),
                }
            ),
            worker,
        )
        try:
            planned = plan_mixture(documents, tokenizer_folder(trained), loaded.mix, context)
        finally:
            worker.close()
            storage.remove_tree(work)
        storage.write_json(storage.join(output, "plan.json"), planned.plan.to_dict())
        show_plan(planned.plan.to_dict(), planned.validation_tokens)
        return
    request = StageRequest(
        definition_of(mix_stage),
        loaded.mix,
        lambda _: Target(output),
        {"documents": documents, "tokenizer": trained},
        seed=loaded.seed,
        buckets=documents.manifest.buckets,
    )
    outcome = run_stage(request, engine)
    info = outcome.dataset.manifest.info
    show_plan(info["plan"], int(info["tokens"]["validation"]))


def show_plan(plan: dict[str, Any], validation_tokens: int) -> None:
    """The plan as a table that a person can sign."""
    wide = max([16, *(len(leaf["path"]) + 2 for leaf in plan["leaves"])])
    heads = ("available", "weight", "wanted", "target", "epochs", "cap", "shortage", "respread")
    click.echo(f"{'leaf':<{wide}}" + "".join(f"{head:>{size}}" for head, size in zip(heads, _WIDTHS, strict=True)))
    for leaf in plan["leaves"]:
        values = (
            f"{leaf['available_tokens']:,}",
            f"{leaf['weight']:.4f}",
            f"{leaf['wanted_tokens']:,}",
            f"{leaf['target_tokens']:,}",
            f"{leaf['epochs']:.2f}",
            f"{leaf['max_epochs']:g}",
            f"{leaf['shortage_tokens']:,}",
            f"{leaf['respread_tokens']:,}",
        )
        click.echo(f"{leaf['path']:<{wide}}" + "".join(f"{v:>{size}}" for v, size in zip(values, _WIDTHS, strict=True)))
    total = sum(leaf["target_tokens"] for leaf in plan["leaves"])
    available = sum(leaf["available_tokens"] for leaf in plan["leaves"])
    click.echo(f"{'all':<{wide}}{available:>16,}{'':>9}{plan['budget_tokens']:>16,}{total:>16,}")
    for item in plan["respread"]:
        to = ", ".join(f"{path} {tokens:,}" for path, tokens in item["to"].items())
        click.echo(f"{item['origin']} lacks {item['tokens']:,} tokens, which come from: {to}")
    click.echo(f"held out for validation: {validation_tokens:,} tokens")


_WIDTHS = (16, 9, 16, 16, 8, 6, 14, 14)


@click.group()
def tokenizer() -> None:
    """Morpheme-aware byte-level BPE: train, encode, decode."""


@tokenizer.command("train")
@click.argument("path", nargs=-1, required=True)
@click.option(
    "--vocab-size", type=int, default=32_000, show_default=True, help="Tokens, special ones and 256 bytes included."
)
@click.option(
    "--kind",
    type=click.Choice(["morpheme", "byte", "character"]),
    default="morpheme",
    show_default=True,
    help="morpheme: words cut by mecab-ko, then byte-level BPE; byte: GPT-2's; character: BPE over characters.",
)
@stage_options
def tokenizer_train(path: tuple[str, ...], vocab_size: int, kind: str, **options: Any) -> None:
    """Learn a tokenizer from files or a dataset; OUTPUT can be loaded by Hugging Face's AutoTokenizer."""
    definition = definition_of(train_tokenizer)
    settings = (f"vocabulary_size={vocab_size}", f"kind={kind}", *options["settings"])
    config = config_of(definition, options["config"], settings)
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
    info, custom = outcome.dataset.manifest.info, outcome.dataset.manifest.counters.custom
    click.echo(
        f"{info['vocabulary_size']:,} tokens, padded to {info['padded_vocabulary_size']:,};"
        f" {custom['bytes_per_token']:.2f} bytes a token, {custom['fertility']:.2f} tokens a word: {options['output']}"
    )


@tokenizer.command("encode")
@click.option("--tokenizer", "folder", required=True, type=click.Path(), help="Folder of a tokenizer.")
@click.argument("text", required=False)
def tokenizer_encode(folder: str, text: str | None) -> None:
    """Print the ids of TEXT, or of each line of standard input, as JSON lists."""
    from hyperclova_core.tokens.tokenizer.tokenizer import Tokenizer

    encoder = Tokenizer.load(folder)
    for line in [text] if text is not None else (line.rstrip("\n") for line in sys.stdin):
        click.echo(json.dumps(encoder.encode(line)))


@tokenizer.command("decode")
@click.option("--tokenizer", "folder", required=True, type=click.Path(), help="Folder of a tokenizer.")
@click.argument("ids", required=False)
def tokenizer_decode(folder: str, ids: str | None) -> None:
    """Print the text of a JSON list of IDS, or of each line of standard input."""
    from hyperclova_core.tokens.tokenizer.tokenizer import Tokenizer

    decoder = Tokenizer.load(folder)
    for line in [ids] if ids is not None else sys.stdin:
        try:
            values = [int(value) for value in json.loads(line)]
        except (ValueError, TypeError) as error:
            raise DataError(
                "Not a list of ids", where=line.strip()[:80], why=str(error), remedy="write them as JSON: [12, 7, 530]"
            ) from error
        click.echo(shown(decoder.decode(values)))


@click.command()
@click.argument("path", nargs=-1, required=True)
@click.option(
    "--tokenizer", "folder", required=True, type=click.Path(), help="Folder of a tokenizer, or tokenizer.json."
)
@click.option(
    "--output",
    required=True,
    type=click.Path(),
    help="Prefix of the shard: PREFIX.bin, .idx, .provenance.parquet and .json.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the training order.")
@click.option(
    "--shard-tokens",
    type=click.IntRange(min=1),
    help="Cut into shards PREFIX-00000 … of about so many tokens; none: one shard.",
)
@click.option("--engine", type=click.Choice(["auto", "local", "spark"]), default="auto", show_default=True)
def serialize(
    path: tuple[str, ...], folder: str, output: str, seed: int, shard_tokens: int | None, engine: str
) -> None:
    """Write all documents once, in training order, as Megatron shards with the way back to each document.

    Killed in the middle, the same command goes on where it was; the shards appear when all are whole.
    """
    from hyperclova_core.tokens.tokenizer.tokenizer import Tokenizer

    dataset, loaded = input_dataset(path, f"{output}.work", seed), Tokenizer.load(folder)
    if not dataset.table("documents").rows:
        raise DataError(
            "There is nothing to serialize",
            where=", ".join(path),
            why=f"no document is left of {dataset.manifest.counters.rows_in:,} records read",
            remedy="see what was rejected or quarantined (`hyperclova dataset show`), or give other files",
        )
    facts = {"identity": loaded.identity, "vocabulary_size": loaded.vocabulary_size}
    worker = worker_for("serialize", sum(entry.bytes for entry in dataset.table("documents").files), engine)
    work = storage.absolute(f"{output}.work")
    version = definition_of(serialize_stage).version
    told = {
        "documents": dataset.manifest.digest,
        "shard_tokens": shard_tokens,
        "seed": seed,
        "version": version,
        **facts,
    }
    identity = fingerprint(told)
    context = StageContext(
        "serialize", version, seed, dataset.manifest.buckets, "shards", Target(work), identity, worker
    )
    try:
        written = write_shards(dataset, None, storage.absolute(folder), facts, shard_tokens or 1 << 60, context)
    finally:
        worker.close()
    for shard in written.shards:
        target = output if shard_tokens is None else f"{output}-{shard.name.rpartition('-')[2]}"
        publish_shard(storage.join(work, shard.prefix), target, shard, facts, seed)
    storage.remove_tree(work)
    storage.remove_tree(f"{work}.input")
    documents = sum(shard.documents for shard in written.shards)
    tokens = sum(shard.tokens for shard in written.shards)
    size = sum(shard.bytes for shard in written.shards)
    share = written.missed / max(1, written.pretokens)
    click.echo(
        f"{documents:,} documents, {tokens:,} tokens, {size / max(1, tokens - documents):.3f} bytes a token,"
        f" {share:.1%} of words new to the memo: {output}{'' if shard_tokens is None else '-*'}"
    )


def publish_shard(source: str, target: str, shard: WrittenShard, facts: dict[str, Any], seed: int) -> None:
    """Give a shard's files their names; its PREFIX.json, which says that it is whole, comes last."""
    from hyperclova_core.tokens.serialize.stage import side_of

    storage.remove(f"{target}.json")
    name = target.rsplit("/", 1)[-1]
    for suffix in ("bin", "idx"):
        with storage.fetched(f"{source}.{suffix}") as local, storage.replacing(f"{target}.{suffix}") as temporary:
            shutil.copyfile(local, temporary)
    table = storage.read_parquet(f"{source}.provenance.parquet")
    named = pa.repeat(pa.scalar(name), table.num_rows)
    table = table.set_column(table.schema.get_field_index("shard"), "shard", named)
    with storage.replacing(f"{target}.provenance.parquet") as temporary:
        pq.write_table(table, temporary, compression="zstd")
    storage.write_json(f"{target}.json", side_of(shard, facts, seed))


@click.group()
def tokens() -> None:
    """Shards of token ids: look into them, merge, split."""


@tokens.command("show")
@click.argument("prefix", type=click.Path())
@click.argument("number", type=int)
@click.option(
    "--tokenizer", "folder", required=True, type=click.Path(), help="Folder of the tokenizer, or tokenizer.json."
)
@click.option("--ids", is_flag=True, help="Print the ids too.")
def tokens_show(prefix: str, number: int, folder: str, ids: bool) -> None:
    """Decode document NUMBER (from 0) of the shard PREFIX, and name its doc_id and source."""
    from hyperclova_core.tokens.serialize.megatron_format import Shard
    from hyperclova_core.tokens.serialize.shard_files import document_of
    from hyperclova_core.tokens.tokenizer.tokenizer import Tokenizer

    row, text = document_of(prefix, number, Tokenizer.load(folder))
    for key in ("doc_id", "source", "content_hash", "copy", "document", "first_token", "tokens", "bytes"):
        click.echo(f"{key:<13}{row[key]}")
    if ids:
        click.echo(f"{'ids':<13}{Shard(prefix).document(number).tolist()}")
    click.echo(f"\n{shown(text)}")


@tokens.command("merge")
@click.argument("prefixes", nargs=-1, required=True, type=click.Path())
@click.option("--output", required=True, type=click.Path(), help="Prefix of the shard to write.")
def tokens_merge(prefixes: tuple[str, ...], output: str) -> None:
    """One shard out of several, in the order given."""
    from hyperclova_core.tokens.serialize.shard_files import merge

    made = merge(prefixes, output)
    click.echo(f"{made['documents']:,} documents, {made['tokens']:,} tokens: {output}")


@tokens.command("split")
@click.argument("prefix", type=click.Path())
@click.option("--shard-tokens", required=True, type=click.IntRange(min=1), help="Tokens of a shard, about.")
@click.option("--output", required=True, type=click.Path(), help="Prefix of the shards to write: PREFIX-00000 …")
def tokens_split(prefix: str, shard_tokens: int, output: str) -> None:
    """Several shards out of one; documents stay whole."""
    from hyperclova_core.tokens.serialize.shard_files import split

    written = split(prefix, shard_tokens, output)
    click.echo(f"{len(written)} shards: {written[0]} … {written[-1]}")


COMMANDS = (mix, tokenizer, serialize, tokens)
