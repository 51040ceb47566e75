"""A double of a cluster that can import the small program, and the backend on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperclova_core.jobs.kubernetes_api import Api
from hyperclova_core.jobs.kubernetes_backend import KubernetesBackend
from tests.jobs.fake_cluster import FakeCluster
from tests.jobs.programs import PROGRAM


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[FakeCluster]:
    (tmp_path / "job_program_for_clusters.py").write_text(PROGRAM)
    with FakeCluster(tmp_path / "kubelet") as found:
        found.environment["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{Path(__file__).resolve().parents[2]}"
        yield found


@pytest.fixture
def backend(cluster: FakeCluster) -> KubernetesBackend:
    return KubernetesBackend(Api(cluster.client(), sleep=lambda seconds: None))
