"""Kubernetes as Airflow knows it: clients by connection, for operators and for the triggerer."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperclova_core.jobs.kubernetes.api import Api
    from hyperclova_core.jobs.kubernetes.backend import KubernetesBackend

_ONE_AT_A_TIME = threading.Lock()
"""The hook passes a cluster's address through the client library's global default: two connections at once would mix."""
DEFAULT_CONNECTION = "kubernetes_default"


def api_of(conn_id: str) -> Api:
    """The API of a connection's cluster. The same hook in a worker and in the triggerer, so that all that a connection says of a
    cluster (a file, its text, in-cluster, context) counts in both; call it in a thread of its own from asynchronous code."""
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

    from hyperclova_core.jobs.kubernetes.api import Api

    with _ONE_AT_A_TIME:
        client = KubernetesHook(conn_id=conn_id).get_conn()
    return Api(client)


def backend_of(conn_id: str) -> KubernetesBackend:
    """Jobs on the cluster of a connection."""
    from hyperclova_core.jobs.kubernetes.backend import KubernetesBackend

    return KubernetesBackend(api_of(conn_id))


@dataclass(frozen=True)
class Place:
    """Where a connection's cluster is, for spark-submit, whose client is another: a kubeconfig (None: in the cluster, or the default's), and
    settings of Spark."""

    kubeconfig: str | None
    settings: dict[str, str]


def place_of(conn_id: str, folder: str) -> Place:
    """The same cluster as `api_of`'s, as spark-submit understands it.

    Args:
        folder: of one's own, where a kubeconfig that the connection holds as text is written for as long as it is needed.
    """
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

    extra = KubernetesHook.get_connection(conn_id).extra_dejson

    def told(name: str) -> Any:
        return extra.get(name) or extra.get(f"extra__kubernetes__{name}")

    path, text, context = told("kube_config_path"), told("kube_config"), told("cluster_context")
    if text and not path:
        path = os.path.join(folder, "kubeconfig")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text if isinstance(text, str) else json.dumps(text))
    return Place(str(path) if path else None, {"spark.kubernetes.context": str(context)} if context else {})
