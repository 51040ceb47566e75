"""A recipe: the one file that says what a run does, from sources to model sizes."""

from __future__ import annotations

import importlib.resources
import os
from pathlib import Path
from typing import Any

from pydantic import Field

from hyperclova_core.corpus.deduplicate.config import DeduplicateConfig
from hyperclova_core.corpus.deidentify import DeidentifyConfig
from hyperclova_core.corpus.enrich import EnrichConfig
from hyperclova_core.corpus.filter import FilterConfig
from hyperclova_core.corpus.ingest.config import IngestConfig
from hyperclova_core.corpus.select import SelectConfig
from hyperclova_core.evaluation.config import EvaluateConfig
from hyperclova_core.foundation.config import Config, apply_overrides, load_yaml, parse
from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.foundation.stages.content_limits import ContentLimits
from hyperclova_core.foundation.stages.gates import GateConfig
from hyperclova_core.jobs.config import JobsConfig
from hyperclova_core.jobs.spark.pods import SIZES, SparkClusterConfig
from hyperclova_core.jobs.spec import merged
from hyperclova_core.tokens.mixture.plan import MixConfig
from hyperclova_core.tokens.serialize.stage import SerializeConfig
from hyperclova_core.tokens.tokenizer_training.stage import TokenizerConfig
from hyperclova_core.training.config import LadderConfig

MAX_BUCKETS = 1 << 16


GATED = (
    "ingest",
    "deduplicate",
    "deidentify",
    "enrich",
    "filter",
    "select",
    "tokenizer",
    "mix",
    "serialize",
)
"""Stages whose output has to pass gates: all that run on Spark (a test compares them with the graph, which stands on this module)."""


class RefreshConfig(Config):
    """The nightly refresh: files of these sources that no night before has seen are new."""

    sources: IngestConfig = IngestConfig()
    gates: dict[str, GateConfig] = Field(
        default_factory=dict, description="stage → thresholds of a night; none: no least number of rows"
    )


class Recipe(Config):
    """Every section has defaults; an unknown key anywhere is an error."""

    name: str = Field(min_length=1, pattern=r"^[a-z0-9_.\-]+$")
    description: str = ""
    seed: int = Field(20210525, ge=0)
    buckets: int = Field(
        4,
        ge=1,
        le=MAX_BUCKETS,
        description="bucket files of a dataset, a power of two; 128 to 512 MB of text each at scale",
    )
    limits: ContentLimits = ContentLimits()
    ingest: IngestConfig = IngestConfig()
    deduplicate: DeduplicateConfig = DeduplicateConfig()
    deidentify: DeidentifyConfig = DeidentifyConfig()
    enrich: EnrichConfig = EnrichConfig()
    filter: FilterConfig = FilterConfig()
    select: SelectConfig = SelectConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    mix: MixConfig = MixConfig()
    serialize: SerializeConfig = SerializeConfig()
    train: LadderConfig = LadderConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    jobs: JobsConfig = JobsConfig()
    spark_cluster: SparkClusterConfig | None = Field(
        None, description="how pods of Spark stages look, where Airflow's connection spark_default leads to k8s://"
    )
    refresh: RefreshConfig = RefreshConfig()
    gates: dict[str, GateConfig] = Field(default_factory=dict, description="stage → thresholds")
    retention_days: float = Field(
        365.0,
        gt=0,
        description="time to live of raw, rejected, quarantined and not yet de-identified data; `dataset gc` removes it",
    )
    spark_preset: str | None = Field(
        None,
        description="laptop, 100gb, 1tb or 5tb (conf/spark), or a file: `buckets`, `spark` and sizes of `spark_cluster` for a corpus of such a size,"
        " which count where the recipe says nothing",
    )
    spark: dict[str, str] = Field(default_factory=dict, description="Spark settings of every application")


def conf_folder() -> Path:
    """Where the recipes lie: `conf/` beside the package in a checkout, else inside an installed package."""
    beside = Path(__file__).resolve().parents[2] / "conf"
    return beside if beside.is_dir() else Path(str(importlib.resources.files("hyperclova_core"))) / "conf"


def recipe_folders() -> list[Path]:
    """Where recipes are looked for by name: what HYPERCLOVA_CONF lists (as PATH does), else the recipes that come with the platform."""
    told = [Path(folder) for folder in os.environ.get("HYPERCLOVA_CONF", "").split(os.pathsep) if folder]
    return told or [conf_folder()]


def recipe_path(name: str) -> Path:
    """The file of a recipe given by path or by name.

    Raises:
        ConfigError: there is none.
    """
    folders = recipe_folders()
    for candidate in (Path(name), *(folder / f"{name}.yaml" for folder in folders)):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted({path.stem for folder in folders for path in folder.glob("*.yaml")}))
    raise ConfigError(
        f"There is no recipe {name}",
        where=name,
        why=f"no such file, and the recipes by name are {known}",
        remedy="give the path of a YAML file, or one of these names",
    )


def load_recipe(name: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """A recipe by path or name, with `key=value` settings applied.

    Raises:
        ConfigError: naming each key that is wrong.
    """
    path = recipe_path(name)
    told = apply_overrides(load_yaml(path), overrides)
    installed = _of_the_cluster()
    preset = told.get("spark_preset")
    if preset is not None:
        sizes = _preset(str(preset))
        said = told.get("spark_cluster") or {}
        for key, field in SIZES.items():  # what the recipe says of its pods counts over the preset, in whichever words
            if field in said:
                sizes.get("spark", {}).pop(key, None)
        if not (installed.get("spark_cluster") or told.get("spark_cluster")):  # nothing to size
            sizes.pop("spark_cluster", None)
        installed = merged(installed, sizes)
    return validated(merged(installed, told), str(path))


def _preset(name: str) -> dict[str, Any]:
    """What a preset says.

    Raises:
        ConfigError: there is none of this name, or it says more than a preset may.
    """
    folder = conf_folder() / "spark"
    path = next((found for found in (folder / f"{name}.yaml", Path(name)) if found.is_file()), None)
    if path is None:
        raise ConfigError(
            f"There is no Spark preset {name}",
            where="spark_preset",
            why=f"those that come with the platform are {', '.join(sorted(item.stem for item in folder.glob('*.yaml')))}",
            remedy="name one of these, or the path of a YAML file",
        )
    found = load_yaml(path)
    others = sorted(set(found) - {"buckets", "spark", "spark_cluster"})
    if others:
        raise ConfigError(
            "A Spark preset says more than sizes",
            where=str(path),
            why=", ".join(others),
            remedy="keep to `buckets`, `spark` and `spark_cluster`: the rest is the recipe's",
        )
    return found


def _of_the_cluster() -> dict[str, Any]:
    """What the installation says of its cluster (`jobs`, `spark_cluster`), which counts where a recipe says nothing: the file that
    HYPERCLOVA_CLUSTER names, as the chart writes it.

    Raises:
        ConfigError: it says something else.
    """
    path = os.environ.get("HYPERCLOVA_CLUSTER")
    if not path or not Path(path).is_file():
        return {}
    found = load_yaml(Path(path))
    others = sorted(set(found) - {"jobs", "spark_cluster"})
    if others:
        raise ConfigError(
            "The installation's file of its cluster says more than that",
            where=path,
            why=", ".join(others),
            remedy="keep to `jobs` and `spark_cluster`: the rest is the recipe's",
        )
    return found


def validated(data: dict[str, Any], where: str) -> Recipe:
    """A recipe from its data, checked as a whole: also each model size with its settings.

    Raises:
        ConfigError: naming what is wrong.
    """
    recipe = parse(Recipe, data, where)
    if recipe.buckets & (recipe.buckets - 1):
        raise ConfigError(
            "`buckets` is not a power of two",
            where=where,
            why=f"it is {recipe.buckets}",
            remedy=f"use {1 << recipe.buckets.bit_length()} or {1 << (recipe.buckets.bit_length() - 1)}",
        )
    for size in recipe.train.sizes:
        recipe.train.of(size.name, recipe.seed)
    names = [source.name for source in recipe.ingest.sources]
    if len(set(names)) != len(names):
        raise ConfigError(
            "Two sources have the same name",
            where=where,
            why=", ".join(sorted(names)),
            remedy="name each source once, with all its paths",
        )
    unknown = sorted((set(recipe.gates) | set(recipe.refresh.gates)) - set(GATED))
    if unknown:
        raise ConfigError(
            "Gates for stages that have none",
            where=f"{where}: gates",
            why=", ".join(unknown),
            remedy=f"gates can be set for {', '.join(GATED)}",
        )
    return recipe
