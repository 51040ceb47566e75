"""The published recipe's layouts are whole: every size divides, and the largest takes 1,024 devices."""

from __future__ import annotations

from hyperclova_core.pipeline.recipe import load_recipe
from hyperclova_core.training.sizes import SIZES


def test_every_published_size_has_a_layout_that_divides() -> None:
    recipe = load_recipe("hyperclova-82b")
    trainings = {size.name: recipe.train.of(size.name, recipe.seed) for size in recipe.train.sizes}
    assert set(trainings) == {name for name in SIZES if name.endswith(("M", "B")) and name != "1.5M"}
    assert trainings["82B"].size.parallel.processes == 1024
    assert all(config.steps == 150_000_000_000 // (2048 * 1024) for config in trainings.values())
