"""Kubernetes as Airflow knows it: clients by connection, for operators and for the triggerer."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyperclova_core.jobs.kubernetes_backend import KubernetesBackend

DEFAULT_CONNECTION = "kubernetes_default"


def backend_of(conn_id: str) -> KubernetesBackend:
    """Jobs on the cluster of a connection. The same hook in a worker and in the triggerer, so that all that a connection says of a
    cluster (a file, its text, in-cluster, context) counts in both; call it in a thread of its own from asynchronous code."""
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

    from hyperclova_core.jobs.kubernetes_api import Api
    from hyperclova_core.jobs.kubernetes_backend import KubernetesBackend

    return KubernetesBackend(Api(KubernetesHook(conn_id=conn_id).get_conn()))
