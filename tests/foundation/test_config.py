"""Configuration: every recipe loads; an unknown key is named with the nearest known one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from hyperclova_core.foundation.config import NO_IDENTITY, Config, apply_overrides, parse
from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.foundation.stages.kinds import load_stage
from hyperclova_core.pipeline.graph import NODES, SPARK_STAGES
from hyperclova_core.pipeline.recipe import GATED, Recipe, conf_folder, load_recipe, validated
from hyperclova_core.training.config import TrainConfig

RECIPES = sorted(conf_folder().glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_survives_being_recorded(path: Path) -> None:
    recipe = load_recipe(str(path))
    assert recipe.name == path.stem
    assert validated(recipe.model_dump(mode="json"), "record") == recipe


def test_every_stage_on_spark_has_gates_and_every_node_a_configuration() -> None:
    assert GATED == SPARK_STAGES
    recipe = load_recipe("smoke")
    for node in NODES.values():
        size = "tiny-a" if node.name == "train" else None
        for kind in ("pretrain", "refresh"):
            assert isinstance(node.config(recipe, kind, size), load_stage(node.reference).config), node.name


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
        ("name: mine\nseed: 1\nseed: 2\n", "`seed` is given twice"),
        ("name: mine\nmix: {budget_tokens: 1, budget_tokens: 2}\n", "`budget_tokens` is given twice"),
        ("- a list", "not a mapping"),
        ("name: mine\nbuckets: 3\n", "power of two"),
        ("name: mine\ntrain: {sizes: [{name: 17k}]}\n", "no model size 17k"),
        ("name: mine\ntrain: {sizes: [{name: 15k, parallel: {micro_batch_size: 7}}]}\n", "micro_batch_size may be"),
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


def fields_of(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], FieldInfo]]:
    """Every field of a configuration, also of those inside it."""
    for name, field in model.model_fields.items():
        inside = field.default if isinstance(field.default, BaseModel) else None
        if inside is not None:
            yield from fields_of(type(inside), (*path, name))
        else:
            yield (*path, name), field


def another(value: Any) -> Any:
    """Some other value of a field, of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value * 2 + 1
    return value


def test_no_setting_is_lost_between_a_recipe_and_the_record_of_its_run() -> None:
    """Each field in turn with another value than its default: it comes back, whatever it is no part of."""
    changed, kept = 0, Recipe(name="mine")
    for path, _ in fields_of(Recipe):
        plain = kept.model_dump(mode="json")
        inside = plain
        for part in path[:-1]:
            inside = inside[part]
        before = inside[path[-1]]
        inside[path[-1]] = another(before)
        if inside[path[-1]] == before:
            continue
        try:
            recipe = Recipe.model_validate(plain)
        except ValidationError:
            continue  # a bounded field
        changed += 1
        assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe, path
    assert changed >= 50
    told = {"deduplicate": {"driver_documents": 123, "driver_rows": 7}, "ingest": {"batch_rows": 9}}
    found = validated({"name": "mine", **told}, "here")
    again = validated(found.model_dump(mode="json"), "record")
    assert (again.deduplicate.driver_documents, again.deduplicate.driver_rows, again.ingest.batch_rows) == (123, 7, 9)


def test_what_is_no_part_of_an_identity_is_marked_and_nothing_else_is_left_out() -> None:
    recipe = load_recipe("smoke")
    identity, plain = recipe.ingest.identity(), recipe.ingest.model_dump(mode="json")
    assert "batch_rows" not in identity
    assert all("paths" not in source for source in identity["sources"])
    assert all(source["paths"] for source in plain["sources"])
    assert recipe.deduplicate.identity() == {
        key: value
        for key, value in recipe.deduplicate.model_dump(mode="json").items()
        if key not in ("driver_rows", "driver_documents")
    }
    assert recipe.ingest.model_copy(update={"batch_rows": 3}).identity() == identity
    marked = {".".join(path) for path, field in fields_of(Recipe) if field.json_schema_extra == NO_IDENTITY}
    assert marked == {
        "deduplicate.driver_rows",
        "deduplicate.driver_documents",
        "ingest.batch_rows",
        "refresh.sources.batch_rows",
    }
    assert not [path for path, field in fields_of(Recipe) if field.exclude], (
        "what is excluded is lost in a run's record"
    )
    assert issubclass(Recipe, Config)


@pytest.mark.parametrize(
    ("model", "data", "old", "new"),
    [
        (TrainConfig, {"context": 64}, "context", "sequence_length"),
        (TrainConfig, {"global_batch": 8}, "global_batch", "global_batch_size"),
        (TrainConfig, {"leave_out": []}, "leave_out", "skip_samples"),
        (TrainConfig, {"rate_factors": {}}, "rate_factors", "lr_multipliers"),
        (TrainConfig, {"size": {"name": "x", "shape": {"width": 16}}}, "width", "hidden_size"),
        (TrainConfig, {"size": {"name": "x", "parallel": {"micro_batch": 2}}}, "micro_batch", "micro_batch_size"),
        (
            TrainConfig,
            {"size": {"name": "x", "parallel": {"recompute": "block"}}},
            "recompute",
            "activation_checkpointing",
        ),
    ],
)
def test_a_key_of_an_earlier_version_is_refused_with_the_new_one_named(
    model: type[Config], data: dict[str, Any], old: str, new: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(model, {"size": {"name": "15k"}, **data}, "a recipe")
    assert f"`{old}` is called `{new}` now" in caught.value.why
