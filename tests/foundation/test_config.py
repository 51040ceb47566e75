"""Configuration: every recipe loads; an unknown key is named with the nearest known one."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperclova_core.foundation.config import apply_overrides
from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.pipeline.recipe import conf_folder, load_recipe, validated
from hyperclova_core.pipeline.run import dumped

RECIPES = sorted(conf_folder().glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_survives_being_recorded(path: Path) -> None:
    recipe = load_recipe(str(path))
    assert recipe.name == path.stem
    assert validated(dumped(recipe), "record") == recipe


def test_an_unknown_key_is_named_with_the_nearest_known(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nfilter: {max_giberish: 0.5}\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(str(path))
    assert caught.value.exit_code == 64
    assert "filter.max_giberish" in caught.value.why
    assert "max_gibberish" in caught.value.why
    assert str(path) in caught.value.where


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "not valid YAML"),
        ("- a list", "not a mapping"),
        ("name: mine\nbuckets: 3\n", "power of two"),
        ("name: mine\ntrain: {sizes: [{name: 17k}]}\n", "no model size 17k"),
        ("name: mine\ntrain: {sizes: [{name: 15k, parallel: {micro_batch: 7}}]}\n", "micro_batch may be"),
        ("name: mine\ngates: {waterfall: {}}\n", "Gates for stages that have none"),
    ],
)
def test_wrong_recipes_are_refused_with_a_reason(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(str(path))
    assert message in caught.value.message()
    assert caught.value.remedy


def test_a_missing_recipe_lists_those_that_are_there() -> None:
    with pytest.raises(ConfigError, match="demo"):
        load_recipe("dmeo")


def test_overrides_go_into_depth_and_are_read_as_yaml() -> None:
    assert apply_overrides({"a": {"b": 1}}, ["a.b=2", "a.c=[1, x]", "d=text"]) == {
        "a": {"b": 2, "c": [1, "x"]},
        "d": "text",
    }
    with pytest.raises(ConfigError, match="no value"):
        apply_overrides({}, ["a"])
    with pytest.raises(ConfigError, match="plain value"):
        apply_overrides({"a": 1}, ["a.b=2"])
