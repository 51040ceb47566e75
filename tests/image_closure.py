"""An image's packages without the image: in a process where only what an image's layer installs can be imported, its programs do their work.

`main` runs under HYPERCLOVA_TEST_IMAGE_OF=IMAGE with SITE as a sitecustomize.py on the path, so that processes it starts are of the image too (a job's launcher, and what it starts, of the trainer's). What a layer installs is the closure of its requirements by the metadata of this
environment, which holds all of them under the lock; any other package is hidden, as if it were not there.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import DistributionFinder, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
LAYERS = {
    "orchestrator": (("orchestrator", "cluster"), ("pyspark",)),
    "pipeline": (("pipeline",), ()),
    "trainer": (("trainer",), ()),
}
"""Image → extras, and packages named beside them, as its Dockerfile gives them to pip (a test compares)."""
PROGRAMS = {
    "orchestrator": (
        "operators.deepspeed_job",
        "operators.kubernetes",
        "operators.spark_stage",
        "operators.train_job_trigger",
        "operators.warehouse",
        "hyperclova_core.jobs.kubernetes.backend",
        "hyperclova_core.jobs.spark.driver",
        "hyperclova_core.jobs.spark.pods",
        "hyperclova_core.pipeline.attempts",
        "hyperclova_core.pipeline.finish",
        "hyperclova_core.pipeline.funnel",
        "hyperclova_core.pipeline.jobs",
        "hyperclova_core.pipeline.recipe",
        "hyperclova_core.pipeline.refresh",
        "hyperclova_core.pipeline.run",
        "hyperclova_core.pipeline.summary",
        "hyperclova_core.pipeline.usage",
        "hyperclova_core.provenance.graph",
        "hyperclova_core.provenance.pictures",
        "hyperclova_core.cli.main",
    ),
    "pipeline": (
        "hyperclova_core.pipeline.spark_application",
        "hyperclova_core.jobs.spark.entry",
        "hyperclova_core.foundation.stages.spark_frames",
        "hyperclova_core.cli.main",
    ),
    "trainer": (
        "hyperclova_core.jobs.launcher",
        "hyperclova_core.training.rank",
        "hyperclova_core.evaluation.job",
        "hyperclova_core.evaluation.generation",
        "hyperclova_core.training.export.export",
        "hyperclova_core.cli.main",
    ),
}
"""Image → modules that its containers start, or that its tasks import first."""


OURS = {"hyperclova_core", "operators", "tests", "_distutils_hack", "pkg_resources", "setuptools", "pip"}
SITE = """import os, sys
if "hyperclova_core.jobs.launcher" in sys.orig_argv:
    os.environ["HYPERCLOVA_TEST_IMAGE_OF"] = "trainer"
if os.environ.get("HYPERCLOVA_TEST_IMAGE_OF"):
    from tests.image_closure import hide
    hide(os.environ["HYPERCLOVA_TEST_IMAGE_OF"])
"""


def plain(name: str) -> str:
    """A distribution's name as all spellings of it compare."""
    return name.lower().replace("_", "-").replace(".", "-")


def closure(extras: Iterable[str], beside: Iterable[str] = ()) -> set[str]:
    """Distributions that pip installs for these extras of ours, with all that they need in turn."""
    found: set[tuple[str, str]] = set()
    left = [("hyperclova", extra) for extra in ("", *extras)] + [(name, "") for name in beside]
    while left:
        name, extra = left.pop()
        if (name, extra) in found:
            continue
        found.add((name, extra))
        try:
            needs = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # of an image alone (users with passwords): the clean environment's test has it
        for text in needs:
            need = Requirement(text)
            if need.marker is None or need.marker.evaluate({"extra": extra}):
                left += [(plain(need.name), part) for part in ("", *need.extras)]
    return {name for name, _ in found}


class Installed:
    """Python's finder of modules on a path, as it is where only some distributions are installed."""

    def __init__(self, installed: set[str]) -> None:
        self.installed = installed
        self.lacking = {
            module
            for module, owners in packages_distributions().items()
            if not {plain(owner) for owner in owners} & installed
        } - OURS

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """None for what is not installed."""
        return None if name.partition(".")[0] in self.lacking else PathFinder.find_spec(name, path, target)

    def find_distributions(self, context: Any = None) -> Iterator[Any]:
        """Those that are installed."""
        found = PathFinder.find_distributions(context or DistributionFinder.Context())
        return (item for item in found if plain(item.metadata["Name"] or "") in self.installed)

    def invalidate_caches(self) -> None:
        """Of the finder behind."""
        PathFinder.invalidate_caches()


def hide(image: str) -> None:
    """Hide from here on what an image does not install."""
    extras, beside = LAYERS[image]
    finder = Installed(closure(extras, beside))
    sys.meta_path[:] = [finder if known is PathFinder else known for known in sys.meta_path]


def run_stages(folder: Path) -> None:
    """The pipeline's work: all Spark stages of the smallest recipe, on this process's engine."""
    from hyperclova_core.foundation.stages.engines import LocalEngine
    from hyperclova_core.foundation.warehouse import Warehouse
    from hyperclova_core.pipeline.graph import SPARK_STAGES
    from hyperclova_core.pipeline.recipe import load_recipe
    from hyperclova_core.pipeline.run import prepare_run, run_key

    warehouse = Warehouse(str(folder / "warehouse"))
    run = prepare_run(warehouse, "closure", load_recipe("smoke"), sizes=("tiny-b",), tokens=2048)
    for key in SPARK_STAGES:
        run_key(warehouse, run, key, LocalEngine())


def orchestrate(folder: Path) -> None:
    """The orchestrator's work: load every recipe and DAG, plan all stages of that run, have its jobs run (their processes are the
    trainer's: two steps or more, checkpoints, an export, the evaluation), sum it up."""
    from hyperclova_core.foundation.stages.kinds import load_stage
    from hyperclova_core.foundation.warehouse import Warehouse
    from hyperclova_core.pipeline.finish import finish_run
    from hyperclova_core.pipeline.graph import NODES, SPARK_STAGES
    from hyperclova_core.pipeline.jobs import run_job
    from hyperclova_core.pipeline.recipe import load_recipe
    from hyperclova_core.pipeline.run import prepare_run, run_keys
    from hyperclova_core.pipeline.stage_requests import plan_key

    for path in sorted((ROOT / "conf").glob("*.yaml")):
        load_recipe(path.stem)
    for path in sorted((ROOT / "dags").glob("*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    for node in NODES.values():
        load_stage(node.reference)
    warehouse = Warehouse(str(folder / "warehouse"))
    prepare_run(warehouse, "another", load_recipe("smoke"))
    run = warehouse.run("closure")
    assert all(plan_key(warehouse, run, key).reusable for key in SPARK_STAGES), "they have run"
    for key in run_keys(run)[len(SPARK_STAGES) :]:
        run_job(warehouse, run, key, sys.stderr.write)
    summary = finish_run(warehouse, run)
    assert summary["models"][0]["loss"] > 0


WORK: dict[str, Callable[[Path], None]] = {"orchestrator": orchestrate, "pipeline": run_stages}


def main(image: str, folder: str | None = None) -> None:
    """Import an image's programs; with a folder, do its work there."""
    for name in PROGRAMS[image]:
        importlib.import_module(name)
    if folder is not None:
        WORK[image](Path(folder))
