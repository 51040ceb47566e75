"""The few calls of Kubernetes' API that jobs need, by the official client, as plain objects, with retries and clear refusals."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from urllib3.util.retry import Retry

from hyperclova_core.foundation.errors import ConfigError, HyperclovaError, TransientError

log = logging.getLogger(__name__)

TRIES, FIRST_WAIT, LONGEST_WAIT = 8, 0.5, 15.0
TIMEOUT = (10, 60)
"""Seconds to connect, and to answer."""
PAGE = 500
LOG_TRIES = 2
"""A log comes from the pod's node, which may not answer: the job's state is more urgent than its lines."""
PLURALS = {
    "Job": ("/apis/batch/v1", "jobs"),
    "Pod": ("/api/v1", "pods"),
    "Service": ("/api/v1", "services"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "Event": ("/api/v1", "events"),
    "Workload": ("/apis/kueue.x-k8s.io/v1beta2", "workloads"),
    "OlderWorkload": ("/apis/kueue.x-k8s.io/v1beta1", "workloads"),
    "JobSet": ("/apis/jobset.x-k8s.io/v1alpha2", "jobsets"),
    "PodGroup": ("/apis/scheduling.volcano.sh/v1beta1", "podgroups"),
}

Result = TypeVar("Result")


class NotThereError(Exception):
    """404: no such object."""


class TakenError(Exception):
    """409: an object of that name is there, or changed meanwhile."""


class ExpiredError(Exception):
    """410: the server no longer knows the state that the next page would be of."""


class Api:
    """Objects of one cluster.

    Args:
        client: an `ApiClient` of the official client, configured by whoever knows how (a connection, KUBECONFIG, the pod itself).
    """

    def __init__(self, client: Any, sleep: Callable[[float], None] = time.sleep) -> None:
        self._client, self._sleep = client, sleep
        # tries are counted here: the client's own three within each would hold whoever asks for minutes where a node is silent
        client.rest_client.pool_manager.connection_pool_kw["retries"] = Retry(0)

    def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        """An object.

        Raises:
            NotThereError: there is none.
        """
        return self._json("GET", _path(kind, namespace, name))

    def find(
        self, kind: str, namespace: str, labels: Mapping[str, str] | None = None, fields: str = ""
    ) -> list[dict[str, Any]]:
        """Objects with such labels."""
        query: list[tuple[str, str]] = []
        if labels:
            query.append(("labelSelector", ",".join(f"{key}={value}" for key, value in labels.items())))
        if fields:
            query.append(("fieldSelector", fields))
        found: list[dict[str, Any]] = []
        token, limit = "", PAGE
        while True:
            try:
                page = self._json(
                    "GET",
                    _path(kind, namespace),
                    query=[*query, ("limit", str(limit)), *([("continue", token)] if token else [])],
                )
            except (
                ExpiredError
            ):  # the list took longer than the server keeps its state: from the beginning, in larger pages
                found, token, limit = [], "", limit * 4
                continue
            found += page.get("items") or []
            token = (page.get("metadata") or {}).get("continue") or ""
            if not token:
                return found

    def create(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object.

        Raises:
            TakenError: there is one of that name.
            ConfigError: the cluster refuses it.
        """
        return self._json("POST", _path(item["kind"], item["metadata"]["namespace"]), body=item)

    def patch(self, kind: str, namespace: str, name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Merge changes into an object."""
        return self._json("PATCH", _path(kind, namespace, name), body=changes, content="application/merge-patch+json")

    def delete(self, kind: str, namespace: str, name: str, grace_seconds: int | None = None) -> None:
        """Delete an object and what it owns; absent is fine."""
        body: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        try:
            self._json("DELETE", _path(kind, namespace, name), body=body)
        except NotThereError:
            return

    def pod_log(self, namespace: str, pod: str, container: str, since: str | None, most_bytes: int) -> str:
        """A container's log with times, from a moment on, at most so many bytes; nothing while it has not begun.

        Raises:
            NotThereError: the pod is gone.
        """
        query = [("container", container), ("timestamps", "true"), ("limitBytes", str(most_bytes))]
        if since:
            query.append(("sinceTime", since))
        try:
            path = f"{_path('Pod', namespace, pod)}/log"
            return self._call("GET", path, query, None, "application/json", LOG_TRIES).decode("utf-8", "replace")
        except ConfigError as error:
            if error.code == "400":  # no container yet, or none any more: a kubelet has many words for it
                return ""
            raise

    def pod_tail(self, namespace: str, pod: str, container: str, lines: int) -> list[str]:
        """The last lines of a container's log; none where it is gone."""
        query = [("container", container), ("tailLines", str(lines)), ("limitBytes", str(1 << 18))]
        try:
            path = f"{_path('Pod', namespace, pod)}/log"
            text = self._call("GET", path, query, None, "application/json", LOG_TRIES)
        except (NotThereError, ConfigError, TransientError):
            return []
        return text.decode("utf-8", "replace").splitlines()

    def _json(
        self,
        method: str,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        body: Any = None,
        content: str = "application/json",
    ) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._call(method, path, query, body, content) or b"{}")
        return found

    def _call(
        self, method: str, path: str, query: Sequence[tuple[str, str]], body: Any, content: str, tries: int = TRIES
    ) -> bytes:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        wait, reason = FIRST_WAIT, ""
        for tried in range(tries):
            if tried:
                log.warning("%s %s: %s; again in %.1f s", method, path, reason, wait)
                self._sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
            try:
                answer = self._client.call_api(
                    path,
                    method,
                    query_params=list(query),
                    header_params={"Accept": "application/json", "Content-Type": content},
                    body=body,
                    auth_settings=["BearerToken"],
                    _preload_content=False,
                    _request_timeout=TIMEOUT,
                )
                data: bytes = answer.data
                return data
            except ApiException as error:
                message = _message(error)
                if error.status == 404 and path.endswith("/log"):  # the node may not know the pod yet
                    raise NotThereError(path) from None
                if error.status == 404 and (
                    "not find the requested resource" in message or "page not found" in message or method == "POST"
                ):
                    raise _refusal(error, method, path) from None
                if error.status == 404:
                    raise NotThereError(path) from None
                if error.status == 410 and any(key == "continue" for key, _ in query):
                    raise ExpiredError(message) from None
                if error.status == 409 and "cannot be fulfilled" not in message:
                    raise TakenError(message) from None
                if error.status not in (0, 408, 409, 429) and error.status < 500:
                    raise _refusal(error, method, path) from None
                reason = f"{error.status} {_message(error)}"
                after = (error.headers or {}).get("Retry-After")
                wait = max(wait, min(float(after), LONGEST_WAIT)) if after and after.isdigit() else wait
            except (HTTPError, OSError) as error:
                reason = f"{type(error).__name__}: {error}"
        raise TransientError(
            "The cluster's API server cannot be reached",
            where=f"{method} {path}",
            why=f"{tries} tries: {reason}",
            remedy="look at the network and at the server (a webhook that fails is named in `why`); "
            + (
                "nothing was made, a retry goes on"
                if method == "POST"
                else "what runs there runs on, and a retry adopts it"
            ),
        )


def _path(kind: str, namespace: str, name: str = "") -> str:
    group, plural = PLURALS[kind]
    return f"{group}/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")


def _message(error: Any) -> str:
    body = error.body
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or error.reason or "")
    try:
        return str(json.loads(text).get("message") or text)
    except (json.JSONDecodeError, AttributeError):
        return text[:500]


def _details(error: Any) -> tuple[str, set[str]]:
    """What a refusal is about by the server's own record of it (`Status.details`): the kind of object, and the reasons of its causes."""
    body = error.body
    try:
        details = (
            json.loads(body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body)).get("details") or {}
        )
    except (json.JSONDecodeError, AttributeError):
        return "", set()
    return str(details.get("kind", "")), {str(cause.get("reason", "")) for cause in details.get("causes") or ()}


def _refusal(error: Any, method: str, path: str) -> HyperclovaError:
    """An error for a person out of what the server refuses."""
    message = _message(error)
    remedy = "correct jobs.cluster in the recipe"
    namespace = path.partition("/namespaces/")[2].partition("/")[0]
    kind, causes = _details(error)
    if error.status == 404 and kind == "namespaces":
        remedy = f"make the namespace {namespace}, or name another in jobs.cluster.namespace"
    elif error.status == 403 and "NamespaceTerminating" in causes:
        remedy = f"the namespace {namespace} is being deleted: wait until it is gone and make it anew, or name another"
    elif error.status == 403 and "PodSecurity" in message:
        remedy = f"give the namespace {namespace} a Pod Security level that admits the recipe's pods, or change what `why` names"
    elif error.status == 401:
        remedy = "the credentials of the connection are not valid here, or have expired"
    elif error.status == 403 and "exceeded quota" in message:
        remedy = "ask for fewer devices, wait until others have ended, or have the namespace's quota raised"
    elif error.status == 403:
        remedy = "give this account the rights of the chart's role in that namespace (docs/kubernetes.md), or another namespace"
    elif error.status == 404:
        remedy = "install what serves this kind (JobSet, Kueue, Volcano), or choose another"
    return ConfigError(
        "The cluster refuses the request",
        where=f"{method} {path}",
        why=f"{error.status}: {message}",
        remedy=remedy,
        code=str(error.status),
    )
