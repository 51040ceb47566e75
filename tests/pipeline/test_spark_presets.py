"""Presets of Spark by the size of a corpus: what they may say, and who counts where several say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.jobs.spark.pods import sized
from hyperclova_core.pipeline.recipe import conf_folder, load_recipe

POD = 'spark_cluster={"image": "pipeline:1"}'
PRESETS = sorted(path.stem for path in (conf_folder() / "spark").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_a_recipes_and_fits_pods(preset: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\nspark_preset: {preset}\n")
    recipe = load_recipe(str(path), (POD,))
    assert recipe.spark_cluster is not None
    found = sized(recipe.spark_cluster, recipe.spark)
    assert found.driver_memory == recipe.spark["spark.driver.memory"]
    assert load_recipe(str(path)).spark_cluster is None, "without pods there is nothing to size"


def test_the_recipe_counts_over_the_preset_and_the_preset_over_the_installation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation, path = tmp_path / "cluster.yaml", tmp_path / "mine.yaml"
    installation.write_text(
        "spark_cluster: {image: pipeline:1, max_executors: 3, driver_memory: 1g, namespace: team}\n"
    )
    monkeypatch.setenv("HYPERCLOVA_CLUSTER", str(installation))
    path.write_text("name: mine\nspark_preset: 5tb\nspark_cluster: {max_executors: 150}\n")
    recipe = load_recipe(str(path), ("buckets=64", "spark={spark.sql.shuffle.partitions: '9'}"))
    pods = recipe.spark_cluster
    assert pods is not None
    assert (pods.max_executors, pods.executor_cores, pods.namespace) == (150, 2, "team")
    assert (recipe.buckets, recipe.spark["spark.sql.shuffle.partitions"]) == (64, "9")
    assert recipe.spark["spark.driver.memory"] == "16g"
    assert sized(pods, recipe.spark).driver_memory == "16g"
    own = load_recipe(str(path), ("spark_cluster.driver_memory=32g",))
    assert own.spark_cluster is not None
    assert sized(own.spark_cluster, own.spark).driver_memory == "32g", "said as the pods', not as Spark's"


def test_reducers_are_bounded_where_there_are_most_maps(tmp_path: Path) -> None:
    """28,600 maps by 32,768 reducers would be 9e8 blocks of a shuffle."""
    for preset in PRESETS:
        path = tmp_path / f"{preset}.yaml"
        path.write_text(f"name: mine\nspark_preset: {preset}\n")
        assert int(load_recipe(str(path)).spark["spark.sql.shuffle.partitions"]) <= 4096


def test_what_is_no_preset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1tb, 5tb, laptop") as caught:
        load_recipe("smoke", ("spark_preset=2tb",))
    assert "no Spark preset 2tb" in str(caught.value)
    path = tmp_path / "own.yaml"
    path.write_text("spark: {spark.driver.memory: 2g}\nseed: 3\n")
    with pytest.raises(ConfigError, match="seed"):
        load_recipe("smoke", (f"spark_preset={path}",))
