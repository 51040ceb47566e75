"""The warehouse itself: imports run downwards, DAG files import at once, docs show commands that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from hyperclova_core.cli.main import cli
from hyperclova_core.tokens.special_tokens import SPECIAL_TOKENS
from tests.conftest import ROOT

DAGS = sorted((ROOT / "dags").glob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
HEAVY = ("pyspark", "torch", "mlflow", "pandas", "deepspeed", "great_expectations", "numba", "matplotlib")


def test_the_import_rules_hold() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DAGS, ids=lambda path: path.stem)
def test_a_dag_file_loads_nothing_heavy_and_little_of_ours(path: Path, tmp_path: Path) -> None:
    code = (
        "import sys, importlib.util, airflow.sdk\n"
        "from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator\n"
        "before = set(sys.modules)\n"
        f"spec = importlib.util.spec_from_file_location('dag', {str(path)!r})\n"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)\n"
        f"heavy = sorted(set({HEAVY!r}) & (sys.modules.keys() - before))\n"
        "ours = [name for name in sys.modules.keys() - before if name.split('.')[0] in ('hyperclova_core', 'operators')]\n"
        "print('RESULT', len(sys.modules.keys() - before), len(ours), *heavy)\n"
    )
    environment = {
        "PATH": "/usr/bin:/bin",
        "AIRFLOW_HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    modules, ours, *heavy = done.stdout.split("RESULT")[1].split()
    assert not heavy
    assert int(ours) < 40
    assert int(modules) < 250, "what a scheduler imports again and again; seconds say little on a shared machine"


def test_how_many_sizes_train_side_by_side_is_said_by_the_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    from operators import trainings_at_once

    monkeypatch.delenv("HYPERCLOVA_TRAININGS_AT_ONCE", raising=False)
    assert trainings_at_once() == 1, "a machine's devices are one training's"
    monkeypatch.setenv("HYPERCLOVA_TRAININGS_AT_ONCE", "8")
    assert trainings_at_once() == 8
    for wrong in ("0", "-1", "many", "2.5"):
        monkeypatch.setenv("HYPERCLOVA_TRAININGS_AT_ONCE", wrong)
        with pytest.raises(ValueError, match="such as 4"):
            trainings_at_once()


def test_make_offers_what_the_readme_says() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z0-9-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"`?make ([a-z][a-z0-9-]+)", _code(page)):
            assert target in targets, f"{page.name}: make {target}"
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_every_hyperclova_command_in_the_docs_exists() -> None:
    seen = 0
    for page in PAGES:
        for line in re.findall(r"^\s*(?:\$ )?(?:\.venv/bin/)?hyperclova (.+)$", _code(page), re.MULTILINE):
            command: click.Command = cli
            for word in re.sub(r"\\$", "", line).split():
                if isinstance(command, click.Group) and word in command.commands:
                    command = command.commands[word]
                else:
                    break
            options = {name for parameter in command.params for name in parameter.opts}
            for option in re.findall(r"(?<=\s)--[a-z][a-z-]*", line.split("#")[0]):
                assert option in options, f"{page.name}: hyperclova {line}"
            assert command is not cli, f"{page.name}: hyperclova {line}"
            seen += 1
    assert seen >= 10


def test_links_in_the_docs_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_lock_covers_what_is_declared() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = {
        re.split(r"==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    declared = [
        *project["dependencies"],
        *(item for group in project["optional-dependencies"].values() for item in group),
    ]
    explained = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    for requirement in declared:
        name = re.split(r"[<>=\[~!]", requirement)[0].lower()
        if name != "hyperclova":
            assert name in locked, name
            assert f"`{name}`" in explained, name


def test_special_tokens_keep_their_places() -> None:
    assert SPECIAL_TOKENS[:2] == ("<|endoftext|>", "<|pad|>")
    assert SPECIAL_TOKENS[10:13] == ("[RRN]", "[FRN]", "[PHONE]")
    assert len(set(SPECIAL_TOKENS)) == len(SPECIAL_TOKENS)


def _code(page: Path) -> str:
    """Fenced blocks of a page, and commands between backticks."""
    text = page.read_text(encoding="utf-8")
    return "\n".join([*re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL), *re.findall(r"`(make [a-z0-9-]+)`", text)])
