"""A virtual environment of an image's layer without downloading what is here already: files of this environment's packages, linked.

pip then installs the layer into it as the Dockerfile says: what is linked satisfies it, what only the image has comes from the index.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from tests.conftest import ROOT
from tests.image_closure import LAYERS, closure

BUILDERS = {"setuptools"}
"""What builds our own package: linked too, so that pip need not make an environment for it."""


def linked_environment(image: str, folder: Path) -> Path:
    """A virtual environment at `folder` with those of an image's packages that this environment has."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = next((folder / "lib").glob("python3*/site-packages"))
    extras, beside = LAYERS[image]
    for name in sorted((closure(extras, beside) | BUILDERS) - {"hyperclova"}):
        try:
            _link(distribution(name), packages, folder / "bin")
        except PackageNotFoundError:
            continue  # of the image alone
    return folder


def _link(package: Distribution, packages: Path, programs: Path) -> None:
    for file in package.files or ():
        if ".." in file.parts:
            continue
        source, target = Path(str(package.locate_file(file))), packages / file
        if not source.is_file() or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another file system
            shutil.copy2(source, target)
    for entry in package.entry_points.select(group="console_scripts"):
        program = programs / entry.name
        module, _, function = entry.value.partition(":")
        program.write_text(
            f"#!{programs / 'python'}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        )
        program.chmod(0o755)


def pip(environment: Path, *words: str) -> str:
    """This environment's pip, working on another one."""
    command = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), *words]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout
