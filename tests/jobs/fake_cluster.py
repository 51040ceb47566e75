"""A small double of a Kubernetes cluster: an API server over HTTP, a Job controller, a scheduler, and a kubelet that runs containers
as processes of this machine. It does what a real 1.36 server did when the same calls were made (tests/jobs/test_conformance.py runs
against either), and breaks what it is told to break.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import json
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from aiohttp import web

from tests.jobs.fake_job_controller import JobController
from tests.jobs.fake_kubelet import Container, run_container

GROUPS = {
    "jobs": "batch/v1",
    "pods": "v1",
    "services": "v1",
    "configmaps": "v1",
    "events": "v1",
    "secrets": "v1",
    "jobsets": "jobset.x-k8s.io/v1alpha2",
    "podgroups": "scheduling.volcano.sh/v1beta1",
    "workloads": "kueue.x-k8s.io/v1beta2",
}
KINDS = {
    "jobs": "Job",
    "pods": "Pod",
    "services": "Service",
    "configmaps": "ConfigMap",
    "events": "Event",
    "secrets": "Secret",
    "jobsets": "JobSet",
    "podgroups": "PodGroup",
    "workloads": "Workload",
}
QUANTITY = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?")
TICK = 0.05
LEAVE_SECONDS = 0.5
COLLECT_SECONDS = 0.3


def stamp(nanoseconds: int | None = None, later: float = 0.0) -> str:
    """A time as the API writes it; with nanoseconds as the kubelet writes it before a line."""
    if nanoseconds is None:
        return (datetime.now(UTC) + timedelta(seconds=later)).strftime("%Y-%m-%dT%H:%M:%SZ")
    whole = datetime.fromtimestamp(nanoseconds // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{nanoseconds % 10**9:09d}Z"


BAD_SHARD = {
    "type": "DataError",
    "what": "Token id 9 is beyond the vocabulary",
    "where": "shard 3",
    "why": "",
    "remedy": "serialize again",
    "exit_code": 65,
}
"""A cause as a rank writes it."""


@dataclass
class Fault:
    """Break requests that match: answer with a status, or cut the connection (status 0); so many times."""

    method: str
    path: str
    status: int
    times: int = 1
    after: bool = False  # the server does what it is asked, and the reply is lost
    headers: dict[str, str] = field(default_factory=dict)


def files_of(config_map: dict[str, Any]) -> dict[str, bytes]:
    """A ConfigMap's files, as a node mounts them."""
    packed = {name: base64.b64decode(value) for name, value in (config_map.get("binaryData") or {}).items()}
    return {**{name: value.encode() for name, value in (config_map.get("data") or {}).items()}, **packed}


class FakeCluster:
    """Use as a context manager; `url` is the server's."""

    def __init__(self, folder: Path, nodes: dict[str, dict[str, int]] | None = None) -> None:
        self.folder = folder
        self.nodes = nodes or {"node-a": {"nvidia.com/gpu": 8}, "node-b": {"nvidia.com/gpu": 8}}
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.absent_images: set[str] = set()
        self.namespaces: dict[str, set[str]] = {"hyperclova": set()}
        self.quota: dict[str, int] = {}
        self.containers: dict[tuple[str, str], Container] = {}
        self.environment: dict[str, str] = {}
        self.frozen: set[str] = set()
        self.expiring = 0
        self.rights: dict[str, list[dict[str, Any]]] = {}
        """Of a caller by its token (none: a driver in its pod): rules of roles; a caller who is not in it may do all."""
        self.used: set[tuple[str, str, str, str]] = set()
        """Rights that were needed: (caller, API group, resource, verb)."""
        self.forgotten = 0
        """Resource versions below are not known any more: a watch from there is told 410."""
        self.ports: dict[str, int] = {}
        self._jobs = JobController(self)
        self._orphaned: dict[str, float] = {}
        self._ended: dict[tuple[str, str], float] = {}
        self._version = 0
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._controller = threading.Thread(target=self._control, daemon=True)
        self._ready = threading.Event()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> FakeCluster:
        self._thread.start()
        self._ready.wait(10)
        self._controller.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._controller.join(10)
        for container in self.containers.values():
            container.end_all()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def client(self) -> Any:
        """The official client, configured for this server."""
        from kubernetes import client

        configuration = client.Configuration(host=self.url)
        configuration.api_key = {"authorization": "Bearer test"}
        return client.ApiClient(configuration)

    def kubeconfig(self) -> str:
        """A kubeconfig's text that leads here."""
        named = {"name": "double", "cluster": {"server": self.url}}
        user = {"name": "test", "user": {"token": "test"}}
        context = {"name": "double", "context": {"cluster": "double", "user": "test", "namespace": "hyperclova"}}
        parts = {"clusters": [named], "users": [user], "contexts": [context], "current-context": "double"}
        return json.dumps({"apiVersion": "v1", "kind": "Config", **parts})

    # what tests do to it

    def break_requests(
        self, method: str, path: str, status: int, times: int = 1, after: bool = False, **headers: str
    ) -> None:
        """Break the next requests that match."""
        self.faults.append(
            Fault(method, path, status, times, after, {key.replace("_", "-"): value for key, value in headers.items()})
        )

    def pods(self, phase: str | None = None) -> list[dict[str, Any]]:
        """Copies of all pods."""
        with self._lock:
            found = [copy.deepcopy(item) for (plural, _, _), item in self.objects.items() if plural == "pods"]
        return [pod for pod in found if phase is None or pod["status"]["phase"] == phase]

    def find(self, plural: str, name: str, namespace: str = "hyperclova") -> dict[str, Any] | None:
        """A copy of an object."""
        with self._lock:
            return copy.deepcopy(self.objects.get((plural, namespace, name)))

    def kill_container(self, pod: str, reason: str = "OOMKilled") -> None:
        """As the kernel does when a container is over its limit."""
        container = self.containers["hyperclova", pod]
        container.doomed = reason
        container.end_all()

    def disrupt(self, pod: str, reason: str = "PreemptionByScheduler") -> None:
        """Take a pod away: a condition says why, its container has its grace time, and then it is no more."""
        with self._lock:
            item = self.objects["pods", "hyperclova", pod]
            item["status"].setdefault("conditions", []).append(
                {
                    "type": "DisruptionTarget",
                    "status": "True",
                    "reason": reason,
                    "message": "preempted",
                    "lastTransitionTime": stamp(),
                }
            )
            self.delete(("pods", "hyperclova", pod))

    def lose(self, pod: str) -> None:
        """A pod that is gone at once, with its node."""
        with self._lock:
            self.objects.pop(("pods", "hyperclova", pod), None)
        container = self.containers.pop(("hyperclova", pod), None)
        if container is not None:
            container.end_all()

    def freeze(self, node: str, ago: float = 0.0) -> None:
        """A node that does not answer: the cluster asks its pods to end (so many seconds ago), and nobody does it."""
        with self._lock:
            self.frozen.add(node)
            for (plural, _, _), pod in self.objects.items():
                if plural == "pods" and pod["spec"].get("nodeName") == node:
                    pod["metadata"]["deletionTimestamp"] = stamp(later=_grace(pod) - ago)

    def admit(self, job: str) -> None:
        """What Kueue does when there is room: the job is no longer suspended."""
        with self._lock:
            self.objects["jobs", "hyperclova", job]["spec"]["suspend"] = False

    def hold_back(self, job: str, reason: str, message: str) -> None:
        """What Kueue says of a job that it does not admit."""
        with self._lock:
            uid = self.objects["jobs", "hyperclova", job]["metadata"]["uid"]
            condition = {"type": "QuotaReserved", "status": "False", "reason": reason, "message": message}
            name = f"job-{job}-{uid[:5]}"
            self.objects["workloads", "hyperclova", name] = {
                "apiVersion": GROUPS["workloads"],
                "kind": "Workload",
                "metadata": {"name": name, "uid": name, "labels": {"kueue.x-k8s.io/job-uid": uid}},
                "status": {"conditions": [condition]},
            }

    def restart_server(self, pause: float) -> None:
        """The API server goes away for a while; what it knows is kept elsewhere, and containers run on."""

        async def restart() -> None:
            await self._site.stop()
            await self._runner.cleanup()
            await asyncio.sleep(pause)
            await self._open()

        asyncio.run_coroutine_threadsafe(restart(), self._loop).result(pause + 30)

    # the server

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._open())
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())

    async def _open(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await self._site.start()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        writes = request.can_read_body and request.method in ("POST", "PATCH", "PUT", "DELETE")
        body = yaml.safe_load(await request.text()) if writes else None
        fault = next(
            (f for f in self.faults if f.times and f.method == request.method and re.search(f.path, request.path)), None
        )
        if fault is not None:
            fault.times -= 1
            if fault.after:
                self._handle(request.method, request.path, dict(request.query), body)
            if fault.status == 0:
                assert request.transport is not None
                request.transport.close()
            return web.json_response(
                _status(fault.status, "injected"), status=fault.status or 500, headers=fault.headers
            )
        refused = self._refuse(request)
        if refused is not None:
            return web.json_response(_status(403, refused), status=403)
        if request.query.get("watch") in ("true", "1"):
            return await self._watch(request)
        if request.content_type == "application/apply-patch+yaml" and isinstance(body, dict):
            self._apply(request.path, body)
        status, answer = self._handle(request.method, request.path, dict(request.query), body)
        if isinstance(answer, str):
            return web.Response(text=answer, status=status)
        return web.json_response(answer, status=status)

    def _refuse(self, request: web.Request) -> str | None:
        """Why a caller may not do what it asks, by the rules of its roles; None: it may."""
        found = re.fullmatch(
            r"/(?:api|apis/([\w.-]+))/\w+/namespaces/[\w-]+/(\w+)(?:/([\w.-]+))?(?:/(\w+))?", request.path
        )
        if found is None:
            return None
        group, resource, name, sub = found[1] or "", found[2], found[3], found[4]
        many = {"GET": "list", "POST": "create", "DELETE": "deletecollection"}
        one = {"GET": "get", "PATCH": "patch", "PUT": "update", "DELETE": "delete"}
        verbs = [(one if name else many)[request.method]]
        if request.query.get("watch") in ("true", "1"):
            verbs = ["watch"]
        if request.content_type == "application/apply-patch+yaml":
            verbs = ["patch", "create"]
        caller = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if sub:
            resource = f"{resource}/{sub}"
        for verb in verbs:
            self.used.add((caller, group, resource, verb))
            if caller in self.rights and not any(
                group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]
                for rule in self.rights[caller]
            ):
                return f'{resource} is forbidden: User "{caller or "driver"}" cannot {verb} resource "{resource}" in API group "{group}"'
        return None

    def _apply(self, path: str, body: dict[str, Any]) -> None:
        """Server-side apply makes what is not there."""
        folder, _, name = path.rpartition("/")
        with self._lock:
            status, _ = self._handle("GET", path, {}, None)
            if status == 404:
                self._handle("POST", folder, {}, {**body, "metadata": {**body["metadata"], "name": name}})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        """Changes of what matches, as they come; over a WebSocket too, which Spark's client tries first."""
        query = dict(request.query)
        query.pop("limit", None)
        namespace, plural = request.path.split("/namespaces/")[1].split("/")[:2]
        socket = request.headers.get("Upgrade", "").lower() == "websocket"
        answer: web.WebSocketResponse | web.StreamResponse = web.WebSocketResponse() if socket else web.StreamResponse()
        await answer.prepare(request)

        async def send(kind: str, item: dict[str, Any]) -> None:
            text = json.dumps({"type": kind, "object": item})
            if isinstance(answer, web.WebSocketResponse):
                await answer.send_str(text)
            else:
                await answer.write(f"{text}\n".encode())

        since = int(query.get("resourceVersion", "0") or 0)
        known: dict[str, tuple[str, dict[str, Any]]] = {}
        first = True
        try:
            if since and since < self.forgotten:
                await send("ERROR", _status(410, f"too old resource version: {since} ({self.forgotten})"))
                return answer
            while not self._over.is_set() and not (isinstance(answer, web.WebSocketResponse) and answer.closed):
                with self._lock:
                    items = {item["metadata"]["name"]: item for item in self._list(namespace, plural, query)["items"]}
                for name, item in items.items():
                    seen = json.dumps(item, sort_keys=True, default=str)
                    old = known.get(name)
                    if old is None or old[0] != seen:
                        known[name] = (seen, item)
                        if not (first and since and int(item["metadata"]["resourceVersion"]) <= since):
                            await send("ADDED" if old is None else "MODIFIED", item)
                for name in [name for name in known if name not in items]:
                    await send("DELETED", known.pop(name)[1])
                first = False
                await asyncio.sleep(TICK)
        except (ConnectionError, asyncio.CancelledError):
            return answer
        return answer

    def _handle(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        found = re.fullmatch(
            r"/(?:api/v1|apis/([\w.-]+/\w+))/namespaces/([\w-]+)/(\w+)(?:/([\w.-]+))?(?:/(\w+))?", path
        )
        if not found or found[3] not in GROUPS or (found[1] or "v1") != GROUPS[found[3]]:
            return 404, _status(404, "the server could not find the requested resource")
        _, namespace, plural, name, sub = found.groups()
        if namespace not in self.namespaces:
            return 403, _status(
                403, f'{plural} is forbidden: User "test" cannot do this in the namespace "{namespace}"'
            )
        with self._lock:
            if sub == "log":
                return self._log(namespace, name, query)
            if method == "GET" and name is None and query.get("continue") and self.expiring:
                self.expiring -= 1
                return 410, _status(410, "The provided continue parameter is too old")
            if method == "GET" and name is None:
                return 200, self._list(namespace, plural, query)
            if method == "DELETE" and name is None:
                gone = self._list(namespace, plural, query)["items"]
                for item in gone:
                    self.delete((plural, namespace, item["metadata"]["name"]))
                return 200, _status(200, "")
            if method == "POST":
                return self._create(namespace, plural, body)
            key = (plural, namespace, name)
            if key not in self.objects:
                return 404, _status(404, f'{plural} "{name}" not found')
            if method == "GET":
                return 200, copy.deepcopy(self.objects[key])
            if method == "PATCH":
                _merge(self.objects[key], body)
                self.touch(self.objects[key])
                return 200, copy.deepcopy(self.objects[key])
            if method == "DELETE":
                self.delete(key)
                return 200, _status(200, "")
        return 405, _status(405, "method not allowed")

    def _list(self, namespace: str, plural: str, query: dict[str, str]) -> dict[str, Any]:
        wanted = [part.split("=", 1) for part in query.get("labelSelector", "").split(",") if part]
        items = []
        involved = dict(part.split("=", 1) for part in query.get("fieldSelector", "").split(",") if part)
        assert set(involved) <= {"involvedObject.name"}, "the double knows no other field selector"
        for (kind, place, _), item in sorted(self.objects.items()):
            labels = item["metadata"].get("labels") or {}
            if involved and (item.get("involvedObject") or {}).get("name") != involved["involvedObject.name"]:
                continue
            if kind == plural and place == namespace and all(labels.get(key) == value for key, value in wanted):
                items.append(copy.deepcopy(item))
        limit, start = int(query.get("limit", "0") or 0), int(query.get("continue", "0") or 0)
        page = items[start : start + limit] if limit else items[start:]
        more = str(start + limit) if limit and start + limit < len(items) else ""
        return {
            "kind": f"{KINDS[plural]}List",
            "apiVersion": GROUPS[plural],
            "metadata": {"resourceVersion": str(self._version), "continue": more},
            "items": page,
        }

    def _create(self, namespace: str, plural: str, body: dict[str, Any]) -> tuple[int, Any]:
        name = body["metadata"].get("name") or f"{body['metadata']['generateName']}{uuid.uuid4().hex[:5]}"
        if (plural, namespace, name) in self.objects:
            return 409, _status(409, f'{plural} "{name}" already exists')
        refused = refusal_of(plural, name, body)
        if refused is not None:
            return refused[0], _status(*refused)
        item = copy.deepcopy(body)
        item["metadata"] |= {
            "name": name,
            "uid": str(uuid.uuid4()),
            "creationTimestamp": stamp(),
            "namespace": namespace,
        }
        if plural == "jobs":
            item.setdefault("status", {})
        if plural == "pods":
            item["status"] = {"phase": "Pending", "conditions": [], "podIP": "127.0.0.1"}
            item["metadata"].setdefault("labels", {})
        self.touch(item)
        self.objects[plural, namespace, name] = item
        return 201, copy.deepcopy(item)

    def touch(self, item: dict[str, Any]) -> None:
        """Another version of an object."""
        self._version += 1
        item["metadata"]["resourceVersion"] = str(self._version)

    def delete(self, key: tuple[str, str, str]) -> None:
        """What a DELETE does: a pod that runs has its grace time, anything else is gone."""
        item = self.objects[key]
        uid = item["metadata"]["uid"]
        if key[0] == "pods":
            container = self.containers.get((key[1], key[2]))
            if (
                container is not None and item["status"]["phase"] == "Running"
            ):  # as long as its node has not said how it ended
                item["metadata"].setdefault("deletionTimestamp", stamp(later=_grace(item)))
                if item["spec"].get("nodeName") not in self.frozen:
                    container.process.terminate()
                return
        del self.objects[key]
        self._orphaned[uid] = time.monotonic()

    def _log(self, namespace: str, name: str, query: dict[str, str]) -> tuple[int, Any]:
        if ("pods", namespace, name) not in self.objects:
            return 404, _status(404, f'pods "{name}" not found')
        if self.objects["pods", namespace, name]["spec"].get("nodeName") in self.frozen:
            return 500, _status(
                500, f"Get https://node:10250/containerLogs/{namespace}/{name}/job: dial tcp: i/o timeout"
            )
        container = self.containers.get((namespace, name))
        if container is None:
            return 400, _status(
                400, f'container "{query.get("container")}" in pod "{name}" is waiting to start: ContainerCreating'
            )
        since = query.get("sinceTime")
        begin = int(datetime.fromisoformat(since.replace("Z", "+00:00")).timestamp()) * 10**9 if since else 0
        lines = [(at, line) for at, line in list(container.lines) if at >= begin]
        if query.get("tailLines"):
            lines = lines[-int(query["tailLines"]) :]
        text = "".join(
            f"{stamp(at)} {line}\n" if query.get("timestamps") == "true" else f"{line}\n" for at, line in lines
        )
        limit = int(query.get("limitBytes", "0") or 0)
        return 200, text.encode()[:limit].decode("utf-8", "ignore") if limit else text

    # controllers

    def _control(self) -> None:
        while not self._over.wait(TICK):
            with self._lock:
                for (plural, namespace, name), item in list(self.objects.items()):
                    if plural == "pods":
                        self._try(namespace, name, item)
                for (plural, namespace, _), item in list(self.objects.items()):
                    if plural == "jobs":
                        self._jobs.reconcile(namespace, item)
                self._collect()

    def _try(self, namespace: str, name: str, pod: dict[str, Any]) -> None:
        """A pod that the double cannot run says so by its state, as a node does."""
        try:
            self._kubelet(namespace, name, pod)
        except Exception as error:  # noqa: BLE001 - whatever it is, other pods go on
            pod["status"] |= {
                "phase": "Failed",
                "reason": "DoubleCannot",
                "message": f"{type(error).__name__}: {error}",
            }

    def _collect(self) -> None:
        """The garbage collector comes some time after an owner has gone, and takes what was its own."""
        now = time.monotonic()
        for uid in [uid for uid, since in self._orphaned.items() if now - since > COLLECT_SECONDS]:
            del self._orphaned[uid]
            for key, owned in list(self.objects.items()):
                owners = owned["metadata"].get("ownerReferences") or ()
                if any(owner["uid"] == uid for owner in owners) and key in self.objects:
                    self.delete(key)

    def now(self) -> str:
        """The cluster's time, as it writes it."""
        return stamp()

    def tell(self, namespace: str, target: dict[str, Any], reason: str, message: str) -> None:
        name = f"{target['metadata']['name']}.{reason}"
        self.objects["events", namespace, name] = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace, "uid": name},
            "involvedObject": {"kind": target["kind"], "name": target["metadata"]["name"]},
            "reason": reason,
            "message": message,
            "type": "Warning",
        }

    def _kubelet(self, namespace: str, name: str, pod: dict[str, Any]) -> None:
        status = pod["status"]
        if status["phase"] == "Pending":
            if not self._schedule(pod):
                return
            problem = self._problem(namespace, pod)
            if problem:
                status["containerStatuses"] = [
                    {"name": "job", "state": {"waiting": {"reason": problem[0], "message": problem[1]}}}
                ]
                return
            wanted = [volume["configMap"]["name"] for volume in pod["spec"].get("volumes", ()) if "configMap" in volume]
            missing = [config for config in wanted if ("configmaps", namespace, config) not in self.objects]
            if missing:  # a node waits for what it has to mount
                self.tell(namespace, pod, "FailedMount", f'configmap "{missing[0]}" not found')
                return
            self._start(namespace, name, pod)
        elif status["phase"] == "Running":
            container = self.containers[namespace, name]
            code = container.process.poll()
            due = pod["metadata"].get("deletionTimestamp")
            if pod["spec"].get("nodeName") in self.frozen:
                return
            if code is None and due and datetime.now(UTC) > datetime.fromisoformat(due.replace("Z", "+00:00")):
                container.end_all()  # its grace time is over
            if code is None:
                return
            container.end_all()
            if container.reader is not None:
                container.reader.join(5)
            told = Path(container.termination_log).read_text() if Path(container.termination_log).exists() else ""
            ended = {
                "exitCode": 128 - code if code < 0 else code,
                "reason": container.doomed or ("Completed" if code == 0 else "Error"),
                "finishedAt": stamp(),
                "message": told,
            }
            status["containerStatuses"] = [{"name": "job", "state": {"terminated": ended}}]
            status["phase"] = "Succeeded" if code == 0 else "Failed"
            self.touch(pod)
            self._ended[namespace, name] = time.monotonic()
        elif (
            # how it ended is to be seen for a moment, then an evicted or deleted pod is no more
            pod["metadata"].get("deletionTimestamp")
            and time.monotonic() - self._ended.get((namespace, name), 0.0) > LEAVE_SECONDS
        ):
            self.objects.pop(("pods", namespace, name), None)

    def _schedule(self, pod: dict[str, Any]) -> bool:
        if pod["spec"].get("nodeName"):
            return True
        requests = pod["spec"]["containers"][0].get("resources", {}).get("requests", {})
        selector = pod["spec"].get("nodeSelector") or {}
        reasons: list[str] = []
        for node, capacity in self.nodes.items():
            if any(key != "kubernetes.io/hostname" or value != node for key, value in selector.items()):
                reasons.append("node(s) didn't match Pod's node affinity/selector")
                continue
            short = [
                resource
                for resource, most in capacity.items()
                if int(requests.get(resource, 0)) + self._used(node, resource) > most
            ]
            if short:
                reasons += [f"Insufficient {resource}" for resource in short]
                continue
            pod["spec"]["nodeName"] = node
            pod["status"]["conditions"] = [{"type": "PodScheduled", "status": "True"}]
            return True
        counts = ", ".join(f"{reasons.count(reason)} {reason}" for reason in sorted(set(reasons)))
        message = f"0/{len(self.nodes)} nodes are available: {counts}."
        pod["status"]["conditions"] = [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
        ]
        return False

    def _used(self, node: str, resource: str) -> int:
        return sum(
            int(pod["spec"]["containers"][0].get("resources", {}).get("requests", {}).get(resource, 0))
            for (plural, _, _), pod in self.objects.items()
            if plural == "pods"
            and pod["spec"].get("nodeName") == node
            and pod["status"]["phase"] in ("Pending", "Running")
        )

    def _problem(self, namespace: str, pod: dict[str, Any]) -> tuple[str, str] | None:
        container = pod["spec"]["containers"][0]
        if container["image"] in self.absent_images:
            return "ErrImagePull", f'failed to pull image "{container["image"]}": not found'
        for source in container.get("envFrom", ()):
            if ("secrets", namespace, source["secretRef"]["name"]) not in self.objects:
                return "CreateContainerConfigError", f'secret "{source["secretRef"]["name"]}" not found'
        return None

    def _start(self, namespace: str, name: str, pod: dict[str, Any]) -> None:
        container = run_container(
            self.folder / name,
            pod,
            lambda config: files_of(self.objects["configmaps", namespace, config]),
            self.environment,
            self._port_of,
        )
        self.containers[namespace, name] = container
        pod["status"] |= {
            "phase": "Running",
            "startTime": stamp(),
            "containerStatuses": [{"name": "job", "state": {"running": {"startedAt": stamp()}}}],
        }
        self.touch(pod)

    def _port_of(self, meeting: str) -> int:
        if meeting not in self.ports:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.ports[meeting] = int(probe.getsockname()[1])
        return self.ports[meeting]


def refusal_of(plural: str, name: str, body: dict[str, Any]) -> tuple[int, str] | None:
    """Why a server does not take an object: 400 for what it cannot read, 422 for what may not be; None: it does."""
    kind = KINDS[plural]
    if plural in ("jobs", "pods", "services", "configmaps"):
        try:
            kubernetes_validate.validate(body, "1.36", strict=True)
        except kubernetes_validate.ValidationError as error:
            return 400, f"{kind} in version {body.get('apiVersion')!r} cannot be handled as a {kind}: {error.message}"
    if len(name) > 63:
        return 422, f'{kind} "{name}" is invalid: metadata.name: must be no more than 63 characters'
    pod = body["spec"]["template"] if plural == "jobs" else body if plural == "pods" else None
    if pod is None:
        return None
    if plural == "jobs" and pod["spec"].get("restartPolicy") not in ("Never", "OnFailure"):
        return 422, f'{kind} "{name}" is invalid: spec.template.spec.restartPolicy: Required value'
    for key, value in [*body["metadata"].get("labels", {}).items(), *pod["metadata"].get("labels", {}).items()]:
        if not LABEL_VALUE.fullmatch(value):
            return 422, f'{kind} "{name}" is invalid: metadata.labels: Invalid value: {value!r} of {key}'
    for container in pod["spec"]["containers"]:
        for sizes in container.get("resources", {}).values():
            for resource, quantity in sizes.items():
                if not QUANTITY.fullmatch(str(quantity)):
                    return 400, (
                        f"{kind} in version {body.get('apiVersion')!r} cannot be handled as a {kind}: quantities must match the"
                        f" regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$' ({resource}: {quantity})"
                    )
    return None


def _status(code: int, message: str) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure" if code >= 400 else "Success",
        "message": message,
        "code": code,
    }


def _grace(pod: dict[str, Any]) -> float:
    return float(pod["spec"].get("terminationGracePeriodSeconds", 30))


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if value is None:
            base.pop(key, None)
        elif isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = copy.deepcopy(value)


PATIENCE = 300.0
"""Seconds after which what is waited for is taken for lost. No measure of speed: a machine with other work may take its time."""


def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Wait for something to be true; what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"it did not come to be in {seconds:.0f} s"
        time.sleep(0.05)
    return found
