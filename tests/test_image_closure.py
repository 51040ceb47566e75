"""Each image's programs import, and do their work, with what its own layer installs and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.image_closure import LAYERS, PROGRAMS, SITE, closure
from tests.test_images import layer_of

MAIN = "import sys; from tests.image_closure import main; main(*sys.argv[1:])"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """In which Python starts as in an image."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(SITE)
    wanted = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "PYTHONPATH")}
    return {
        **wanted,
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "AIRFLOW_HOME": str(folder / "airflow"),
        "HYPERCLOVA_DATA": str(ROOT / "conf"),
    }


def run_in(image: str, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**environment, "HYPERCLOVA_TEST_IMAGE_OF": image}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("image", LAYERS)
def test_an_images_programs_import_what_its_layer_installs_alone(image: str, environment: dict[str, str]) -> None:
    ended = run_in(image, environment, "-c", MAIN, image)
    assert ended.returncode == 0, ended.stderr[-3000:]


def test_layers_are_those_of_the_dockerfiles() -> None:
    for image, (extras, beside) in LAYERS.items():
        words = layer_of(image)
        assert words[words.index("--editable") + 1 :] == [f".[{','.join(extras)}]", *beside], image


def test_what_an_image_lacks_is_hidden(environment: dict[str, str]) -> None:
    for image, package in (
        ("orchestrator", "numba"),
        ("orchestrator", "torch"),
        ("trainer", "numba"),
        ("pipeline", "airflow"),
    ):
        ended = run_in(image, environment, "-c", f"import {package}")
        assert f"No module named '{package}'" in ended.stderr, (image, package)
    assert {"numba", "pyspark"} <= closure(*LAYERS["pipeline"])
    assert set(PROGRAMS) == set(LAYERS)


@pytest.mark.slow
@pytest.mark.ranks
def test_images_do_their_work_one_after_the_other(environment: dict[str, str], tmp_path: Path) -> None:
    """Stages by the pipeline's packages; then planning, jobs and the summary by the orchestrator's, with ranks and evaluation by the trainer's."""
    for image in ("pipeline", "orchestrator"):
        ended = run_in(image, environment, "-c", MAIN, image, str(tmp_path))
        assert ended.returncode == 0, ended.stderr[-4000:]
