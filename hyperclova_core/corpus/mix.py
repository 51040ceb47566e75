"""The corpus mixer's arithmetic: from what is available and what is wanted to a plan, and from a plan to a selection.

Pure: no files, no tokenizer. Each source gives the prefix of its documents in the order of hash(seed, doc_id) that
fills its share, so a larger budget or a grown corpus keeps earlier choices; what a source cannot give is an error or is
spread over the others, never silent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import Field

from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.errors import ConfigError, DataError
from hyperclova_core.foundation.hashing import order_key

HYPERCLOVA_WEIGHTS = {
    "blog": 273.6,
    "cafe": 83.3,
    "news": 73.8,
    "comment": 41.1,
    "kin": 27.3,
    "modu": 6.0,
    "wiki": 5.2,
    "other": 51.5,
}
"""Billions of tokens a source in HyperCLOVA's corpus, 561.8 in all (arXiv 2109.04650, table 1)."""


class MixConfig(Config):
    """What the corpus shall be composed of, in tokens."""

    budget_tokens: int | None = Field(None, ge=1, description="training tokens in all; none: everything once")
    weights: dict[str, float] | Literal["proportional", "hyperclova"] = Field(
        "proportional", description="source → weight, or a preset"
    )
    temperature: float = Field(
        1.0, gt=0, description="with `proportional`: shares ~ tokens^(1/temperature); above 1, small sources gain"
    )
    max_epochs: float = Field(
        4.0, gt=0, description="how often a document may be seen at most; about 4 cost little (Muennighoff 2023)"
    )
    on_shortage: Literal["error", "respread"] = Field(
        "respread", description="what happens when a source cannot fill its share"
    )
    normalise: bool = Field(True, description="weights that do not sum to 1 are scaled; otherwise they are refused")
    validation_share: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="of each source's clusters, held out by hash(cluster_id) before anything is weighted",
    )


@dataclass(frozen=True)
class Leaf:
    """One line of the plan. Tokens count the end-of-document mark."""

    source: str
    available_tokens: int
    documents: int
    weight: float
    wanted_tokens: int
    target_tokens: int
    epochs: float
    shortage_tokens: int
    respread_tokens: int


@dataclass(frozen=True)
class Plan:
    """What is taken from each source."""

    budget_tokens: int
    leaves: tuple[Leaf, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"budget_tokens": self.budget_tokens, "leaves": [asdict(leaf) for leaf in self.leaves]}


def is_validation(seed: int, cluster_id: str, share: float) -> bool:
    """Whether a near-duplicate cluster is held out: all its members are, so no copy crosses."""
    return int.from_bytes(order_key(seed, "validation", cluster_id), "big") < int(share * 2**64)


def wanted_shares(available: Mapping[str, int], config: MixConfig) -> dict[str, float]:
    """Source → share of the budget, summing to 1.

    Raises:
        ConfigError: weights name no source that is there, are negative, or do not sum to 1 and may not be scaled.
    """
    if config.weights == "proportional":
        raw = {source: float(tokens) ** (1.0 / config.temperature) for source, tokens in available.items() if tokens}
    else:
        given = HYPERCLOVA_WEIGHTS if config.weights == "hyperclova" else config.weights
        missing = sorted(set(available) - set(given)) if config.weights != "hyperclova" else []
        if missing:
            raise ConfigError(
                "Sources without a weight",
                where="mix.weights",
                why=f"the corpus also has {', '.join(missing)}",
                remedy="give each source a weight; 0 leaves it out",
            )
        raw = {source: float(weight) for source, weight in given.items() if source in available}
    if any(weight < 0 for weight in raw.values()) or not sum(raw.values()):
        raise ConfigError(
            "The mixture's weights are not usable",
            where="mix.weights",
            why=f"they are {raw}",
            remedy="give weights of 0 or more, at least one above 0, for sources of the corpus",
        )
    total = sum(raw.values())
    if not config.normalise and abs(total - 1.0) > 1e-9:
        raise ConfigError(
            "The mixture's weights do not sum to 1",
            where="mix.weights",
            why=f"they sum to {total:g}",
            remedy="correct them, or set mix.normalise: true",
        )
    return {source: weight / total for source, weight in sorted(raw.items())}


def make_plan(available: Mapping[str, int], documents: Mapping[str, int], config: MixConfig) -> Plan:
    """Targets a source: its share of the budget, at most `max_epochs` times what it has, the rest spread by weight.

    Raises:
        DataError: a source cannot fill its share and the recipe wants an error, or all sources together cannot.
    """
    shares = wanted_shares(available, config)
    if config.budget_tokens is None and config.weights == "proportional" and config.temperature == 1.0:
        budget = sum(available.values())
    elif config.budget_tokens is None:
        budget = int(min(available[source] * config.max_epochs / share for source, share in shares.items() if share))
    else:
        budget = config.budget_tokens
    caps = {source: int(available[source] * config.max_epochs) for source in shares}
    wanted = {source: round(budget * share) for source, share in shares.items()}
    target = _fill(shares, caps, budget)
    short = {source: wanted[source] - caps[source] for source in shares if wanted[source] > caps[source]}
    if short and config.on_shortage == "error":
        detail = "; ".join(
            f"{source} lacks {tokens:,} tokens at {config.max_epochs:g} epochs" for source, tokens in short.items()
        )
        raise DataError(
            "The corpus cannot fill the mixture",
            where="mix",
            why=detail,
            remedy="lower budget_tokens or the weight, raise max_epochs, or set on_shortage: respread",
        )
    if sum(target.values()) < budget - len(target):
        raise DataError(
            "The corpus is smaller than the budget",
            where="mix.budget_tokens",
            why=f"all sources give {sum(caps.values()):,} tokens at {config.max_epochs:g} epochs, {budget:,} are wanted",
            remedy="lower budget_tokens, or raise max_epochs",
        )
    leaves = tuple(
        Leaf(
            source,
            available[source],
            documents[source],
            round(shares[source], 9),
            wanted[source],
            target[source],
            round(target[source] / available[source], 6) if available[source] else 0.0,
            max(0, short.get(source, 0)),
            max(0, target[source] - wanted[source]),
        )
        for source in shares
    )
    return Plan(budget, leaves)


def _fill(shares: Mapping[str, float], caps: Mapping[str, int], budget: int) -> dict[str, int]:
    """Water-filling: sources that reach their cap stay there, the rest is shared by weight among the others."""
    full: dict[str, int] = {}
    while True:
        open_sources = {source: share for source, share in shares.items() if source not in full and share > 0}
        rest = budget - sum(full.values())
        weight = sum(open_sources.values())
        over = [source for source, share in open_sources.items() if rest * share / weight > caps[source]]
        if not over:
            return {
                source: full.get(source, round(rest * shares[source] / weight) if source in open_sources else 0)
                for source in shares
            }
        full.update({source: caps[source] for source in over})


@dataclass(frozen=True)
class Candidate:
    """A document as the selection sees it."""

    doc_id: str
    source: str
    tokens: int


@dataclass(frozen=True)
class Chosen:
    """A document in the corpus, `copy` 0 for its first epoch; `key` puts it into the training order."""

    key: bytes
    doc_id: str
    source: str
    copy: int
    tokens: int


def choose(candidates: Iterable[Candidate], plan: Plan, seed: int) -> list[Chosen]:
    """The documents that fill the plan, in the final training order: hash(seed, doc_id, copy).

    A leaf's target is met to within half of its last document.
    """
    by_source: dict[str, list[tuple[bytes, Candidate]]] = {leaf.source: [] for leaf in plan.leaves}
    for candidate in candidates:
        if candidate.source in by_source:
            by_source[candidate.source].append((order_key(seed, "select", candidate.doc_id), candidate))
    chosen = []
    for leaf in plan.leaves:
        ordered = sorted(by_source[leaf.source], key=lambda item: (item[0], item[1].doc_id))
        missing, copy = leaf.target_tokens, 0
        while missing > 0 and ordered and leaf.available_tokens:
            for _, candidate in ordered:
                if missing <= 0 or (missing < candidate.tokens and missing * 2 < candidate.tokens):
                    missing = 0
                    break
                chosen.append(
                    Chosen(
                        _training_key(seed, candidate.doc_id, copy),
                        candidate.doc_id,
                        candidate.source,
                        copy,
                        candidate.tokens,
                    )
                )
                missing -= candidate.tokens
            copy += 1
    return sorted(chosen, key=lambda item: (item.key, item.doc_id, item.copy))


def _training_key(seed: int, doc_id: str, copy: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{doc_id}/{copy}".encode(), digest_size=16).digest()


def training_order(candidates: Iterable[Candidate], seed: int) -> list[Chosen]:
    """All documents once, in the training order: for validation sets, and for corpora that are not mixed."""
    everything = (Chosen(_training_key(seed, c.doc_id, 0), c.doc_id, c.source, 0, c.tokens) for c in candidates)
    return sorted(everything, key=lambda item: (item.key, item.doc_id))
