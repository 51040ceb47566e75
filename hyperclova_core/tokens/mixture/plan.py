"""The corpus mixer's arithmetic: from what is available and what is wanted to a plan that a person can sign.

Pure: no files, no tokenizer. The recipe is a tree, by source, and below a source by category, quality, tier or language, as deep as it
likes. At each level weights say how what came down is shared; a leaf gives at most `max_epochs` times what it has; what it cannot
give is an error, or goes to its neighbours by weight, and the plan says from where to where.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.errors import ConfigError, DataError

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

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Preset = Literal["proportional", "temperature", "unimax", "hyperclova"]
Level = Literal["category", "quality", "tier", "language"]
OTHERS = "*"
UNKNOWN = "unknown"
"""The name of what has no value at a level."""
QUALITY_BUCKETS = ("low", "middle", "high")


class Branch(Config):
    """One child in the tree, with what is below it."""

    weight: float = Field(1.0, ge=0, description="share among its neighbours, in proportion")
    floor: float = Field(0.0, ge=0, le=1, description="share of what comes down to this level, at least")
    max_epochs: float | None = Field(None, gt=0, description="for all leaves below; none: as above")
    by: Level | None = Field(None, description="what the documents below are told apart by; none: a leaf")
    of: dict[str, Weight | Branch] | Preset = Field(
        "proportional", description="value → weight or branch, `*` for all others; or a preset"
    )
    temperature: float | None = Field(
        None, ge=0.05, description="of the level below, with `temperature`; none: as above"
    )


class MixConfig(Config):
    """What the corpus shall be composed of, in tokens."""

    budget_tokens: int | None = Field(None, ge=1, description="training tokens in all; none: everything once")
    weights: dict[str, Weight | Branch] | Preset = Field(
        "proportional",
        description="source → weight or branch, `*` for all others; or a preset: proportional, temperature, unimax (equal"
        " shares up to the epoch cap, Chung 2023), hyperclova (the published composition)",
    )
    temperature: float = Field(
        1.0,
        ge=0.05,
        description="shares ~ tokens^(1/temperature) where a level is proportional: above 1, small ones gain",
    )
    max_epochs: float = Field(
        4.0, gt=0, description="how often a document may be seen at most; about 4 cost little (Muennighoff 2023)"
    )
    floor: float = Field(0.0, ge=0, lt=1, description="share of every source at least")
    quality_edges: tuple[float, float] = Field(
        (1 / 3, 2 / 3), description="quality below the first is `low`, from the second on `high`"
    )
    on_shortage: Literal["error", "respread"] = Field(
        "respread", description="what happens when a leaf cannot fill its share"
    )
    normalise: bool = Field(
        True, description="weights that do not sum to 1 at a level are scaled; otherwise they are refused"
    )
    validation_share: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="of each source's clusters, held out by hash(cluster_id) before anything is weighted",
    )

    def path_of(self, values: Mapping[str, str]) -> tuple[str, ...]:
        """Where a document hangs in the tree: its values from the source down.

        Args:
            values: `source`, and whatever of category, quality, tier and language the recipe tells documents apart by.
        """
        path = [values["source"]]
        branch = _child(self.weights, path[0])
        while isinstance(branch, Branch) and branch.by is not None:
            path.append(values[branch.by])
            branch = _child(branch.of, path[-1])
        return tuple(path)

    def quality_bucket(self, quality: float | None) -> str:
        """`low`, `middle`, `high`, or what has no quality."""
        if quality is None or quality != quality:
            return UNKNOWN
        return QUALITY_BUCKETS[sum(quality >= edge for edge in self.quality_edges)]


def _child(of: Mapping[str, float | Branch] | str, name: str) -> float | Branch | None:
    if isinstance(of, str):
        return None
    return of.get(name, of.get(OTHERS))


@dataclass(frozen=True)
class Leaf:
    """One line of the plan. Tokens count the end-of-document mark."""

    path: str
    source: str
    available_tokens: int
    documents: int
    weight: float
    max_epochs: float
    wanted_tokens: int
    target_tokens: int
    epochs: float
    shortage_tokens: int
    respread_tokens: int


@dataclass(frozen=True)
class Respread:
    """What a leaf or branch could not give, and who gives it instead: path → tokens."""

    origin: str
    tokens: int
    to: dict[str, int]


@dataclass(frozen=True)
class Plan:
    """What is taken from each leaf."""

    budget_tokens: int
    leaves: tuple[Leaf, ...]
    respread: tuple[Respread, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "budget_tokens": self.budget_tokens,
            "leaves": [asdict(leaf) for leaf in self.leaves],
            "respread": [asdict(item) for item in self.respread],
        }


@dataclass
class _Node:
    path: str
    share: float = 1.0
    max_epochs: float = 1.0
    tokens: int = 0
    documents: int = 0
    children: dict[str, _Node] = field(default_factory=dict)

    @property
    def cap(self) -> int:
        if self.children:
            return sum(child.cap for child in self.children.values() if child.share > 0)
        return int(self.tokens * self.max_epochs)


def leaf_path(values: Iterable[str]) -> str:
    """The name of a leaf: the values from the source down, parted by `/`."""
    return "/".join(value.replace("/", "∕") for value in values)


def wanted_shares(
    tokens: Mapping[str, int],
    of: Mapping[str, float | Branch] | str,
    where: str,
    config: MixConfig,
    temperature: float,
    floor: float = 0.0,
) -> dict[str, float]:
    """Child → share of what comes down to a level, summing to 1.

    Args:
        tokens: child → tokens available.

    Raises:
        ConfigError: weights name not all that is there, or do not sum to 1 and may not be scaled; floors that are more than all.
    """
    there = {name for name, count in tokens.items() if count}
    if of in ("proportional", "temperature"):
        raw = {name: float(tokens[name]) ** (1.0 / temperature) for name in there}
    elif of == "unimax":
        raw = dict.fromkeys(there, 1.0)
    else:
        given: Mapping[str, float | Branch] = _published(tokens) if of == "hyperclova" else of  # type: ignore[assignment]
        missing = sorted(there - set(given)) if OTHERS not in given else []
        if missing:
            raise ConfigError(
                "What the corpus has is not in the mixture",
                where=where,
                why=f"there is no weight for {', '.join(missing)}",
                remedy="give each a weight (0 leaves it out), or one to `*` for all others",
            )
        raw = {name: _weight(_child(given, name)) for name in there if _child(given, name) is not None}
        absent = sum(_weight(item) for name, item in given.items() if name not in there and name != OTHERS)
        if not config.normalise and abs(sum(raw.values()) + absent - 1.0) > 1e-9:
            raise ConfigError(
                "The mixture's weights do not sum to 1",
                where=where,
                why=f"they sum to {sum(raw.values()) + absent:g}",
                remedy="correct them, or set mix.normalise: true",
            )
    if not sum(raw.values()):
        raise ConfigError(
            "The mixture's weights are not usable",
            where=where,
            why=f"they are {raw}",
            remedy="give weights of 0 or more, at least one above 0, to what the corpus has",
        )
    total = sum(raw.values())
    shares = {name: weight / total for name, weight in sorted(raw.items())}
    floors = {name: max(floor if shares[name] else 0.0, _floor(_child(of, name))) for name in shares}
    return _with_floors(shares, floors, where)


def _published(tokens: Mapping[str, int]) -> dict[str, float]:
    """HyperCLOVA's weights; sources that it does not name share the weight of `other` by their size."""
    rest = {name: count for name, count in tokens.items() if name not in HYPERCLOVA_WEIGHTS or name == "other"}
    total = sum(rest.values()) or 1
    other = HYPERCLOVA_WEIGHTS["other"]
    return {**HYPERCLOVA_WEIGHTS, **{name: other * count / total for name, count in rest.items()}}


def _weight(item: float | Branch | None) -> float:
    return item.weight if isinstance(item, Branch) else float(item or 0.0)


def _floor(item: float | Branch | None) -> float:
    return item.floor if isinstance(item, Branch) else 0.0


def _with_floors(shares: dict[str, float], floors: dict[str, float], where: str) -> dict[str, float]:
    """Shares raised to their floors; the others give in proportion."""
    if sum(floors.values()) > 1 + 1e-9:
        raise ConfigError(
            "The mixture's floors are more than all there is",
            where=where,
            why=f"they sum to {sum(floors.values()):g}",
            remedy="lower them",
        )
    held: set[str] = set()
    while True:
        rest = 1.0 - sum(floors[name] for name in held)
        free = sum(share for name, share in shares.items() if name not in held)
        result = {
            name: floors[name] if name in held else (share / free * rest if free else 0.0)
            for name, share in shares.items()
        }
        below = {name for name, share in result.items() if share < floors[name] - 1e-12}
        if not below:
            return result
        held |= below


def make_plan(available: Mapping[tuple[str, ...], tuple[int, int]], config: MixConfig) -> Plan:
    """Targets a leaf: its share of the budget, at most `max_epochs` times what it has, the rest spread by weight.

    Args:
        available: values from the source down → (tokens, documents) of the training documents.

    Raises:
        DataError: a leaf cannot fill its share and the recipe wants an error, or all together cannot.
        ConfigError: weights or floors that cannot be.
    """
    if not any(tokens for tokens, _ in available.values()):
        raise DataError(
            "Nothing to mix",
            why="no training document is left",
            remedy="look at what the filters dropped, or lower validation_share",
        )
    root = _tree(available, config)
    budget = config.budget_tokens
    if budget is None:
        plain = config.weights == "proportional" and config.temperature == 1.0 and not config.floor
        budget = min(root.tokens, root.cap) if plain else _most(root)
    wanted: dict[str, float] = {}
    _want(root, 1.0, wanted)
    _check_shortage(root, wanted, budget, config)
    target: dict[str, int] = {}
    respread: list[Respread] = []
    _fill(root, min(budget, root.cap), target, respread)
    if sum(target.values()) < budget:
        raise DataError(
            "The corpus is smaller than the budget",
            where="mix.budget_tokens",
            why=f"all leaves give {sum(target.values()):,} tokens at their epoch caps, {budget:,} are wanted",
            remedy="lower budget_tokens, or raise max_epochs",
        )
    leaves = []
    for values, (tokens, documents) in sorted(available.items()):
        path = leaf_path(values)
        wish, got, node = round(budget * wanted.get(path, 0.0)), target.get(path, 0), _find(root, values)
        leaves.append(
            Leaf(
                path=path,
                source=values[0],
                available_tokens=tokens,
                documents=documents,
                weight=round(wanted.get(path, 0.0), 9),
                max_epochs=node.max_epochs,
                wanted_tokens=wish,
                target_tokens=got,
                epochs=round(got / tokens, 6) if tokens else 0.0,
                shortage_tokens=max(0, wish - node.cap),
                respread_tokens=max(0, got - wish),
            )
        )
    return Plan(budget, tuple(leaves), tuple(respread))


def capacity(available: Mapping[tuple[str, ...], tuple[int, int]], config: MixConfig) -> int:
    """Tokens that the leaves with a weight can give at their epoch caps."""
    return _tree(available, config).cap


def _tree(available: Mapping[tuple[str, ...], tuple[int, int]], config: MixConfig) -> _Node:
    root = _Node("", max_epochs=config.max_epochs)
    for values, (tokens, documents) in sorted(available.items()):
        node = root
        for depth, value in enumerate(values):
            node.tokens += tokens
            node.documents += documents
            node = node.children.setdefault(value, _Node(leaf_path(values[: depth + 1])))
        node.tokens += tokens
        node.documents += documents
    _weigh(root, config.weights, config, config.temperature, config.max_epochs, config.floor)
    return root


def _weigh(
    node: _Node,
    of: Mapping[str, float | Branch] | str,
    config: MixConfig,
    temperature: float,
    epochs: float,
    floor: float,
) -> None:
    where = "mix.weights" + (f".{node.path}" if node.path else "")
    if node.share == 0:
        for child in node.children.values():
            child.share = 0.0
        return
    shares = wanted_shares(
        {name: child.tokens for name, child in node.children.items()}, of, where, config, temperature, floor
    )
    for name, child in node.children.items():
        branch = _child(of, name)
        child.share = shares.get(name, 0.0)
        child.max_epochs = branch.max_epochs if isinstance(branch, Branch) and branch.max_epochs else epochs
        if child.children and isinstance(branch, Branch):
            _weigh(child, branch.of, config, branch.temperature or temperature, child.max_epochs, 0.0)


def _find(root: _Node, values: tuple[str, ...]) -> _Node:
    for value in values:
        root = root.children[value]
    return root


def _want(node: _Node, share: float, wanted: dict[str, float]) -> None:
    wanted[node.path] = share
    for child in node.children.values():
        _want(child, share * child.share, wanted)


def _most(root: _Node) -> int:
    """The largest budget at which every leaf still has its exact share."""
    wanted: dict[str, float] = {}
    _want(root, 1.0, wanted)
    return int(min(leaf.cap / wanted[leaf.path] for leaf in _leaves(root) if wanted[leaf.path]))


def _leaves(node: _Node) -> list[_Node]:
    if not node.children:
        return [node]
    return [leaf for child in node.children.values() for leaf in _leaves(child)]


def _check_shortage(root: _Node, wanted: Mapping[str, float], budget: int, config: MixConfig) -> None:
    if config.on_shortage == "respread":
        return
    short = [(leaf, round(budget * wanted[leaf.path]) - leaf.cap) for leaf in _leaves(root)]
    detail = "; ".join(
        f"{leaf.path} lacks {tokens:,} tokens at {leaf.max_epochs:g} epochs" for leaf, tokens in short if tokens > 0
    )
    if detail:
        raise DataError(
            "The corpus cannot fill the mixture",
            where="mix",
            why=detail,
            remedy="lower budget_tokens or the weight, raise max_epochs, or set on_shortage: respread",
        )


def _fill(node: _Node, budget: int, target: dict[str, int], respread: list[Respread]) -> None:
    """Share a budget (at most the node's cap) among its children: those that reach their cap stay there, the others take the rest."""
    if not node.children:
        target[node.path] = budget
        return
    shares = {name: child.share for name, child in node.children.items()}
    caps = {name: child.cap for name, child in node.children.items()}
    wish = apportioned(shares, budget)
    full: dict[str, int] = {}
    while True:
        free = {name: share for name, share in shares.items() if name not in full and share > 0}
        rest = budget - sum(full.values())
        given = apportioned(free, rest) if free else {}
        over = [name for name in free if given[name] > caps[name]]
        if not over:
            break
        full.update({name: caps[name] for name in over})
    given = {name: full.get(name, given.get(name, 0)) for name in shares}
    gains = {name: given[name] - wish[name] for name in shares if given[name] > wish[name]}
    for name in sorted(full):
        lacking = wish[name] - given[name]
        if lacking > 0 and gains:
            parts = apportioned({other: float(gain) for other, gain in gains.items()}, lacking)
            to = {node.children[other].path: tokens for other, tokens in sorted(parts.items()) if tokens}
            respread.append(Respread(node.children[name].path, lacking, to))
    for name, child in node.children.items():
        _fill(child, given[name], target, respread)


def apportioned(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers in proportion to shares that sum to `total` (largest remainders, Hamilton; ties go to the smaller name)."""
    weight = sum(shares.values())
    if not weight:
        return dict.fromkeys(shares, 0)
    exact = {name: total * share / weight for name, share in shares.items()}
    parts = {name: int(value) for name, value in exact.items()}
    order = sorted(exact, key=lambda name: (parts[name] - exact[name], name))
    left = total - sum(parts.values())
    for name in order[: max(0, left)]:
        parts[name] += 1
    for name in order[::-1][: max(0, -left)]:
        parts[name] -= 1
    return parts
