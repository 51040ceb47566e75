"""The published recipe's layouts are whole: every size divides, and the largest takes 1,024 devices."""

from __future__ import annotations

from hyperclova_core.pipeline.recipe import load_recipe
from hyperclova_core.training.model.sizes import SIZES
from hyperclova_core.training.planner.devices import DEVICES
from hyperclova_core.training.planner.estimate import Layout, Task, memory


def test_every_published_size_has_a_layout_that_divides() -> None:
    recipe = load_recipe("hyperclova-82b")
    trainings = {size.name: recipe.train.of(size.name, recipe.seed) for size in recipe.train.sizes}
    assert set(trainings) == {name for name in SIZES if name.endswith(("M", "B")) and name != "1.5M"}
    assert trainings["82B"].size.parallel.processes == 1024
    assert all(config.steps == 150_000_000_000 // (2048 * 1024) for config in trainings.values())


def test_every_published_layout_fits_an_a100_by_the_planner() -> None:
    recipe = load_recipe("hyperclova-82b")
    for size in recipe.train.sizes:
        config = recipe.train.of(size.name, recipe.seed)
        parallel = config.size.parallel
        layout = Layout(
            parallel.pipeline,
            parallel.tensor,
            parallel.data,
            parallel.micro_batch_size,
            parallel.activation_checkpointing,
        )
        task = Task(config.size.model, 51_200, config.sequence_length, config.global_batch_size)
        assert memory(task, layout).total < DEVICES["a100-80g"].memory, size.name
