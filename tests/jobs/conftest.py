"""A double of a cluster that can import the small program, and the backend on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperclova_core.jobs.kubernetes.api import Api
from hyperclova_core.jobs.kubernetes.backend import KubernetesBackend
from tests.chart.render import rendered, rules_of
from tests.jobs.fake_cluster import FakeCluster
from tests.jobs.programs import PROGRAM

USED: set[tuple[str, str, str, str]] = set()
"""Rights that all tests together have needed."""


@pytest.fixture(scope="session")
def rights() -> dict[str, list[dict[str, Any]]]:
    """What the chart lets Airflow and a Spark driver do; nothing is refused where there is no helm to render it."""
    try:
        objects = rendered("--set", "jobs.jobSet=true,jobs.volcano=true,kueue.enabled=true")
    except pytest.skip.Exception:
        return {}
    return {"test": rules_of(objects, "hyperclova-orchestrator"), "": rules_of(objects, "hyperclova-spark")}


@pytest.fixture
def cluster(tmp_path: Path, rights: dict[str, list[dict[str, Any]]]) -> Iterator[FakeCluster]:
    (tmp_path / "job_program_for_clusters.py").write_text(PROGRAM)
    with FakeCluster(tmp_path / "kubelet") as found:
        found.rights = rights
        found.environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{Path(__file__).resolve().parents[2]}"
        yield found
        USED.update(found.used)


@pytest.fixture
def backend(cluster: FakeCluster) -> KubernetesBackend:
    return KubernetesBackend(Api(cluster.client(), sleep=lambda seconds: None))
