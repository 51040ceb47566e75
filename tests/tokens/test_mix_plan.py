"""The mixer's laws: budgets filled within caps, shares per level, floors, shortages said, earlier choices kept."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperclova_core.foundation.errors import ConfigError, DataError
from hyperclova_core.tokens.mixture.plan import HYPERCLOVA_WEIGHTS, MixConfig, Plan, apportioned, make_plan

SIZES = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 10_000), min_size=1)


def plan_of(sizes: dict[Any, int], **settings: Any) -> Plan:
    keyed = {key if isinstance(key, tuple) else (key,): (size, 1) for key, size in sizes.items()}
    return make_plan(keyed, MixConfig(**settings))


def targets(plan: Plan) -> dict[str, int]:
    return {leaf.path: leaf.target_tokens for leaf in plan.leaves}


@given(SIZES, st.floats(0.1, 3), st.floats(0.5, 4), st.floats(0.05, 1), st.sampled_from(["proportional", "unimax"]))
def test_a_plan_fills_the_budget_exactly_within_the_caps(
    sizes: dict[str, int], temperature: float, epochs: float, part: float, weights: str
) -> None:
    most = sum(int(size * epochs) for size in sizes.values())
    budget = max(1, int(most * part))
    if most == 0:
        return
    plan = plan_of(sizes, budget_tokens=min(budget, most), temperature=temperature, max_epochs=epochs, weights=weights)
    assert sum(targets(plan).values()) == plan.budget_tokens
    for leaf in plan.leaves:
        assert leaf.target_tokens <= int(leaf.available_tokens * epochs)
        assert leaf.shortage_tokens == max(0, leaf.wanted_tokens - int(leaf.available_tokens * epochs))
    assert abs(sum(leaf.weight for leaf in plan.leaves) - 1) < 1e-6


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 5), min_size=1), st.integers(0, 10_000))
def test_parts_sum_to_the_whole_and_are_within_one_of_their_share(shares: dict[str, float], total: int) -> None:
    parts = apportioned(shares, total)
    weight = sum(shares.values())
    assert sum(parts.values()) == (total if weight else 0)
    assert all(abs(parts[name] - total * share / weight) <= 1 for name, share in shares.items() if weight)


def test_a_tree_shares_what_comes_down_to_each_level() -> None:
    weights = {
        "news": {"weight": 3, "by": "category", "of": {"정치": 1, "*": 3}},
        "wiki": {"weight": 1, "by": "quality", "of": {"high": 3, "*": 1}, "max_epochs": 2},
    }
    sizes = {("news", "정치"): 9000, ("news", "문화"): 9000, ("wiki", "high"): 9000, ("wiki", "low"): 9000}
    plan = plan_of(sizes, budget_tokens=1600, weights=weights, max_epochs=1)
    assert targets(plan) == {"news/문화": 900, "news/정치": 300, "wiki/high": 300, "wiki/low": 100}
    assert {leaf.path: leaf.max_epochs for leaf in plan.leaves}["wiki/low"] == 2
    config = MixConfig(weights=weights)
    assert config.path_of({"source": "news", "category": "정치"}) == ("news", "정치")
    assert config.path_of({"source": "blog", "category": "정치"}) == ("blog",)
    assert [config.quality_bucket(value) for value in (None, 0.1, 0.5, 0.9)] == ["unknown", "low", "middle", "high"]


def test_what_a_leaf_lacks_comes_from_its_neighbours_and_the_plan_says_so() -> None:
    weights = {"news": {"weight": 1, "by": "category", "of": {"a": 1, "b": 1}}, "wiki": 1}
    sizes = {("news", "a"): 100, ("news", "b"): 5000, ("wiki",): 5000}
    plan = plan_of(sizes, budget_tokens=2000, weights=weights, max_epochs=1)
    assert targets(plan) == {"news/a": 100, "news/b": 900, "wiki": 1000}
    assert [(item.origin, item.tokens, item.to) for item in plan.respread] == [("news/a", 400, {"news/b": 400})]
    sizes[("news", "b")] = 500
    plan = plan_of(sizes, budget_tokens=2000, weights=weights, max_epochs=1)
    assert targets(plan) == {"news/a": 100, "news/b": 500, "wiki": 1400}
    assert ("news", 400, {"wiki": 400}) in [(item.origin, item.tokens, item.to) for item in plan.respread]


def test_a_shortage_is_an_error_where_the_recipe_says_so() -> None:
    settings = {"budget_tokens": 1000, "weights": {"a": 0.5, "b": 0.5}, "max_epochs": 1}
    plan = plan_of({"a": 100, "b": 2000}, **settings)
    a, b = plan.leaves
    assert (a.target_tokens, a.shortage_tokens) == (100, 400)
    assert (b.target_tokens, b.respread_tokens) == (900, 400)
    with pytest.raises(DataError, match="a lacks 400 tokens"):
        plan_of({"a": 100, "b": 2000}, **settings, on_shortage="error")
    with pytest.raises(DataError, match="smaller than the budget"):
        plan_of({"a": 100, "b": 200}, **settings)


def test_floors_are_held_and_the_others_give() -> None:
    plan = plan_of({"a": 9_000, "b": 900, "c": 100}, budget_tokens=1000, floor=0.1)
    assert targets(plan) == {"a": 800, "b": 100, "c": 100}
    branch = {"a": 8, "b": {"weight": 1, "floor": 0.3}, "c": 1}
    assert targets(plan_of({"a": 9_000, "b": 900, "c": 400}, budget_tokens=1000, weights=branch))["b"] == 300
    with pytest.raises(ConfigError, match="more than all"):
        plan_of({"a": 1, "b": 1, "c": 1}, budget_tokens=3, floor=0.5)


def test_presets() -> None:
    even = plan_of({"a": 10_000, "b": 100}, budget_tokens=1000, weights="unimax", max_epochs=2)
    assert targets(even) == {"a": 800, "b": 200}
    warm = plan_of({"a": 8100, "b": 100}, budget_tokens=1000, weights="temperature", temperature=2)
    assert targets(warm) == {"a": 900, "b": 100}
    assert sum(HYPERCLOVA_WEIGHTS.values()) == pytest.approx(563.8 - 2.0, abs=0.01)
    published = {name: int(weight * 1e9) for name, weight in HYPERCLOVA_WEIGHTS.items()}
    plan = plan_of(published, budget_tokens=150_000_000_000, weights="hyperclova", max_epochs=1, on_shortage="error")
    assert targets(plan)["blog"] == pytest.approx(150e9 * 273.6 / 561.8, rel=1e-6)
    everything = plan_of({"a": 10, "b": 5})
    assert targets(everything) == {"a": 10, "b": 5}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1.0}, "not in the mixture"),
        ({"a": 0.0, "b": 0.0}, "do not sum to 1"),
        ({"a": 0.3, "b": 0.3}, "do not sum to 1"),
        ({"a": {"weight": 0.3, "floor": 0.9}, "b": {"weight": 0.7, "floor": 0.9}}, "more than all"),
    ],
)
def test_weights_that_cannot_be_are_refused(weights: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_of({"a": 10, "b": 10}, weights=weights, normalise=False)


def test_weights_at_every_level_must_sum_to_one_where_they_are_not_scaled() -> None:
    inner = {"a": {"weight": 0.5, "by": "category", "of": {"x": 0.5, "y": 0.4}}, "b": 0.5}
    with pytest.raises(ConfigError, match=r"do not sum to 1[\s\S]*weights\.a"):
        plan_of({("a", "x"): 10, ("a", "y"): 10, ("b",): 10}, weights=inner, normalise=False)
    with pytest.raises(DataError, match="Nothing to mix"):
        plan_of({})


def test_what_weighs_nothing_gives_nothing_and_asks_for_nothing() -> None:
    weights = {"a": {"weight": 1, "by": "category", "of": {"x": 1, "y": 0}}, "b": 1}
    sizes = {("a", "x"): 100, ("a", "y"): 1000, ("b",): 10_000}
    assert targets(plan_of(sizes, budget_tokens=2000, weights=weights, max_epochs=1)) == {
        "a/x": 100,
        "a/y": 0,
        "b": 1900,
    }
    nothing = {"a": {"weight": 0, "by": "category", "of": {"x": 0, "y": 0}}, "b": 1}
    assert targets(plan_of(sizes, budget_tokens=2000, weights=nothing, max_epochs=1))["b"] == 2000
    assert targets(plan_of({"a": 10, "b": 6}, max_epochs=0.5)) == {"a": 5, "b": 3}


def test_numbers_that_are_no_weights_are_refused() -> None:
    for weight in (-2, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weights"):
            MixConfig(weights={"a": weight, "b": 1})


def test_sources_that_the_published_composition_does_not_name_share_its_others() -> None:
    plan = plan_of({"blog": 10**9, "patent": 3 * 10**8, "other": 10**8}, budget_tokens=1000, weights="hyperclova")
    assert targets(plan) == {"blog": 841, "other": 40, "patent": 119}
