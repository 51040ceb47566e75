"""The chart as the real helm renders it."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "hyperclova"
VALUES = sorted(path.stem for path in (CHART / "values").glob("*.yaml"))


@functools.cache
def helm() -> str:
    """The program; skips where there is none."""
    found = importlib.util.spec_from_file_location("helm_program", ROOT / "helm" / "program.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    try:
        return str(module.helm())
    except module.NoHelmError as error:
        pytest.skip(str(error))


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm(), *words], capture_output=True, text=True, check=False)


def rendered(*words: str, namespace: str = "hyperclova") -> list[dict[str, Any]]:
    """All objects of a release named `platform`."""
    ended = call("template", "platform", str(CHART), "--namespace", namespace, *words)
    assert ended.returncode == 0, ended.stderr
    return [item for item in yaml.safe_load_all(ended.stdout) if item]


def values(name: str) -> tuple[str, str]:
    return "--values", str(CHART / "values" / f"{name}.yaml")


def rules_of(objects: list[dict[str, Any]], account: str) -> list[dict[str, Any]]:
    """What a service account may do."""
    roles = {item["metadata"]["name"]: item["rules"] for item in objects if item["kind"] == "Role"}
    return [
        rule
        for item in objects
        if item["kind"] == "RoleBinding" and any(subject["name"] == account for subject in item["subjects"])
        for rule in roles[item["roleRef"]["name"]]
    ]
