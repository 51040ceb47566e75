"""What runs after what: each stage with all that it is given. No stage calls another."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # DAG files read this module, again and again
    from hyperclova_core.foundation.config import Config
    from hyperclova_core.foundation.warehouse import Beside
    from hyperclova_core.pipeline.recipe import Recipe

Inputs = Iterable[tuple[str, str]]


def _nothing(beside: Beside) -> Inputs:
    return ()


def _history(beside: Beside) -> Inputs:
    """A night is held against the index, and what was removed for good stays out."""
    if beside.history:
        yield "history", beside.history
        for number, uri in enumerate(beside.tombstones):
            yield f"tombstones-{number:05d}", uri


def _sources(recipe: Recipe, kind: str, size: str | None) -> Config:
    return recipe.refresh.sources if kind == "refresh" else recipe.ingest


def _tokenizer(recipe: Recipe, kind: str, size: str | None) -> Config:
    """A tokenizer learns from a sample that is composed as the corpus will be."""
    if recipe.tokenizer.mixture is not None:
        return recipe.tokenizer
    return recipe.tokenizer.model_copy(update={"mixture": recipe.mix.model_copy(update={"budget_tokens": None})})


@dataclass(frozen=True)
class Node:
    """A stage in the pipeline.

    Attributes:
        reference: its function.
        inputs: (role, stage) whose dataset of the same run it reads.
        runs_on: `spark`, `gpu`, or `night`: at the end of a refresh.
        section: of the recipe, its configuration; None: the one of its name.
        configure: makes its configuration where that is not a section as it stands: of the recipe, the kind of run, the model size.
        beside: (role, address) of datasets of other runs, of what a night is compared with.
        reads_models: whether it reads all models that the run trained.
    """

    name: str
    reference: str
    inputs: tuple[tuple[str, str], ...] = ()
    runs_on: str = "spark"
    section: str | None = None
    configure: Callable[[Recipe, str, str | None], Config] | None = None
    beside: Callable[[Beside], Inputs] = _nothing
    reads_models: bool = False

    def config(self, recipe: Recipe, kind: str, size: str | None) -> Config:
        """Its configuration in a run of this kind, for a model size where it trains one."""
        if self.configure is not None:
            return self.configure(recipe, kind, size)
        config: Config = getattr(recipe, self.section or self.name)
        return config


NODES: dict[str, Node] = {
    node.name: node
    for node in (
        Node("ingest", "hyperclova_core.corpus.ingest.stage:ingest", configure=_sources),
        Node(
            "deduplicate",
            "hyperclova_core.corpus.deduplicate.stage:deduplicate",
            (("documents", "ingest"),),
            beside=_history,
        ),
        Node(
            "history",
            "hyperclova_core.corpus.deduplicate.history.stage:history",
            (("night", "deduplicate"),),
            "night",
            section="deduplicate",
            beside=lambda beside: [("previous", beside.history)],
        ),
        Node("deidentify", "hyperclova_core.corpus.deidentify:deidentify", (("documents", "deduplicate"),)),
        Node("enrich", "hyperclova_core.corpus.enrich:enrich", (("documents", "deidentify"),)),
        Node("filter", "hyperclova_core.corpus.filter:filter_documents", (("documents", "enrich"),)),
        Node("select", "hyperclova_core.corpus.select:select", (("documents", "filter"),)),
        Node(
            "tokenizer",
            "hyperclova_core.tokens.tokenizer_training.stage:train_tokenizer",
            (("documents", "select"),),
            configure=_tokenizer,
        ),
        Node("mix", "hyperclova_core.tokens.mixture.stage:mix", (("documents", "select"), ("tokenizer", "tokenizer"))),
        Node(
            "serialize",
            "hyperclova_core.tokens.serialize.stage:serialize",
            (("documents", "select"), ("tokenizer", "tokenizer"), ("mix", "mix")),
        ),
        Node(
            "train",
            "hyperclova_core.training.stage:train",
            (("serialize", "serialize"), ("tokenizer", "tokenizer")),
            "gpu",
            configure=lambda recipe, kind, size: recipe.train.of(size or "", recipe.seed),
        ),
        Node(
            "evaluate",
            "hyperclova_core.evaluation.stage:evaluate",
            (("tokenizer", "tokenizer"),),
            "gpu",
            reads_models=True,
        ),
    )
}

CORPUS_STAGES = ("ingest", "deduplicate", "deidentify", "enrich", "filter", "select")
NIGHT_STAGES = (*CORPUS_STAGES, "history")
"""What a nightly refresh runs: at its end, the index of near-duplicates that knows the night's documents."""
SPARK_STAGES = tuple(node.name for node in NODES.values() if node.runs_on == "spark")


def stage_of(key: str) -> tuple[Node, str | None]:
    """The node behind a key, and the model size in it: `train-115k` is the training of one size."""
    if key.startswith("train-"):
        return NODES["train"], key.removeprefix("train-")
    return NODES[key], None
