"""Kubernetes as Airflow knows it: clients by connection, for operators and for the triggerer."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyperclova_core.jobs.kubernetes_api import Api
    from hyperclova_core.jobs.kubernetes_backend import KubernetesBackend

_ONE_AT_A_TIME = threading.Lock()
"""The hook passes a cluster's address through the client library's global default: two connections at once would mix."""
DEFAULT_CONNECTION = "kubernetes_default"


def api_of(conn_id: str) -> Api:
    """The API of a connection's cluster. The same hook in a worker and in the triggerer, so that all that a connection says of a
    cluster (a file, its text, in-cluster, context) counts in both; call it in a thread of its own from asynchronous code."""
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

    from hyperclova_core.jobs.kubernetes_api import Api

    with _ONE_AT_A_TIME:
        client = KubernetesHook(conn_id=conn_id).get_conn()
    return Api(client)


def backend_of(conn_id: str) -> KubernetesBackend:
    """Jobs on the cluster of a connection."""
    from hyperclova_core.jobs.kubernetes_backend import KubernetesBackend

    return KubernetesBackend(api_of(conn_id))


def kubeconfig_of(conn_id: str) -> str | None:
    """The kubeconfig that a connection names, for spark-submit, whose client is another; None: in the cluster, or the default's."""
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

    extra = KubernetesHook.get_connection(conn_id).extra_dejson
    found = extra.get("kube_config_path") or extra.get("extra__kubernetes__kube_config_path")
    return str(found) if found else None
