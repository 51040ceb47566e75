"""What runs after what: each stage with the stages whose datasets it reads. No stage calls another."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """A stage in the pipeline: its function, its inputs (role → stage), and where it runs."""

    name: str
    reference: str
    inputs: tuple[tuple[str, str], ...] = ()
    runs_on: str = "spark"


NODES: dict[str, Node] = {
    node.name: node
    for node in (
        Node("ingest", "hyperclova_core.corpus.ingest.stage:ingest"),
        Node("deduplicate", "hyperclova_core.corpus.deduplicate.stage:deduplicate", (("documents", "ingest"),)),
        Node(
            "history",
            "hyperclova_core.corpus.deduplicate.history.stage:history",
            (("night", "deduplicate"),),
            "night",
        ),
        Node("deidentify", "hyperclova_core.corpus.deidentify:deidentify", (("documents", "deduplicate"),)),
        Node("enrich", "hyperclova_core.corpus.enrich:enrich", (("documents", "deidentify"),)),
        Node("filter", "hyperclova_core.corpus.filter:filter_documents", (("documents", "enrich"),)),
        Node("select", "hyperclova_core.corpus.select:select", (("documents", "filter"),)),
        Node(
            "tokenizer", "hyperclova_core.tokens.tokenizer_training.stage:train_tokenizer", (("documents", "select"),)
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
        ),
        Node("evaluate", "hyperclova_core.evaluation.stage:evaluate", (("tokenizer", "tokenizer"),), "gpu"),
    )
}

CORPUS_STAGES = ("ingest", "deduplicate", "deidentify", "enrich", "filter", "select")
NIGHT_STAGES = (*CORPUS_STAGES, "history")
"""What a nightly refresh runs: at its end, the index of near-duplicates that knows the night's documents."""
SPARK_STAGES = tuple(node.name for node in NODES.values() if node.runs_on == "spark")
GATED = SPARK_STAGES


def stage_of(key: str) -> tuple[Node, str | None]:
    """The node behind a key, and the model size in it: `train-115k` is the training of one size."""
    if key.startswith("train-"):
        return NODES["train"], key.removeprefix("train-")
    return NODES[key], None
