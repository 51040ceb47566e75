"""The lineage graph: datasets and files as nodes, "was made from" as edges, joined on digests.

It is read from the manifests alone, so it holds where MLflow is away, and after data has passed its time to live: what
expired leaves its manifest behind. The names of the crawl's files go with the raw data (they may say who wrote it); what
stays of them is the digest of the set.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.corpora import versions
from hyperclova_core.foundation.datasets.dataset import Dataset
from hyperclova_core.foundation.datasets.manifest import (
    ATTEMPT,
    EXPIRED,
    MANIFEST,
    Manifest,
    manifest_from,
    read_manifest,
)
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.warehouse import StageResult, Warehouse

_PLACE = re.compile(r"(?:^|/)datasets/([^/]+)/([^/]+)/?$")
MODEL_PREFIX = "hyperclova-"


@dataclass
class Node:
    """A dataset, a set of source files, or a name. `state` is `here`, `expired`, `gone` or `differs`."""

    id: str
    kind: str
    label: str
    digest: str = ""
    uri: str = ""
    state: str = "here"
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Graph:
    """Nodes by id, and edges (made, from what, in which role), in the order they were found from the root."""

    root: str
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: list[tuple[str, str, str]] = field(default_factory=list)

    def inputs(self, node: str) -> list[tuple[str, str]]:
        """(input, role) of a node."""
        return [(source, role) for made, source, role in self.edges if made == node]

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "root": self.root,
            "nodes": [asdict(node) for node in self.nodes.values()],
            "edges": [{"made": made, "from": source, "role": role} for made, source, role in self.edges],
        }


def graph_of(warehouse: Warehouse, name: str, *, with_file_names: bool = True) -> Graph:
    """Everything a name stands on.

    Args:
        name: a run, a registered model (`hyperclova-SIZE`), a corpus (`NAME` or `NAME@VERSION`), `STAGE@FINGERPRINT` (its
            head is enough), a fingerprint, or a dataset's folder.
        with_file_names: False for what leaves the restricted area: counts and digests alone, for a name may say who wrote a file.

    Raises:
        DataError: nothing has that name.
    """
    builder = _Builder(warehouse, with_file_names)
    root, targets, facts = _resolve(warehouse, name)
    if len(targets) == 1 and root is None:
        return Graph(builder.dataset(targets[0][1]), builder.nodes, builder.edges)
    kind, label = root or ("name", name)
    node = Node(f"{kind}:{label}", kind, label, facts=facts)
    builder.nodes[node.id] = node
    for role, uri in targets:
        builder.edges.append((node.id, builder.dataset(uri), role))
    return Graph(node.id, builder.nodes, builder.edges)


Resolved = tuple[tuple[str, str] | None, list[tuple[str, str]], dict[str, Any]]


def _resolve(warehouse: Warehouse, name: str) -> Resolved:
    for candidate in (name, storage.absolute(name)):
        if "/" in candidate and storage.exists(storage.join(candidate, MANIFEST)):
            return None, [("", candidate)], {}
    run = warehouse.run(name)
    results = run.stage_results()
    if results:
        record = run.record()
        facts: dict[str, Any] = {
            "recipe": record.recipe_name,
            "code_version": record.code_version,
            "started_at": record.started_at,
        }
        read = {reference.uri for uri in _uris(results) for reference in _inputs(uri)}
        last = [(key, result.uri) for key, result in results.items() if result.uri not in read]
        return ("run", name), last, facts
    if name.startswith(MODEL_PREFIX):
        trained = _trained(warehouse, f"train-{name.removeprefix(MODEL_PREFIX)}")
        if trained:
            return ("model", name), [("weights", trained)], {}
    corpus, _, number = name.removeprefix("corpus/").partition("@")
    if corpus in versions.names(warehouse) and (not number or number.isdigit()):
        version = versions.version_of(warehouse, corpus, int(number)) if number else versions.current(warehouse, corpus)
        assert version is not None
        facts = {"documents": version.documents, "published_at": version.published_at, "change": version.change}
        parts: list[tuple[str, str]] = [(part.kind, part.uri) for part in version.parts]
        return ("corpus", f"{corpus}@{version.version}"), parts, facts
    found = list(_by_fingerprint(warehouse, name))
    if len(found) == 1:
        return None, [("", found[0])], {}
    raise DataError(
        f"Nothing is called {name}" if not found else f"More than one dataset is called {name}",
        where=warehouse.uri,
        why=f"{len(found)} datasets match",
        remedy="give a run, hyperclova-SIZE, a corpus, STAGE@FINGERPRINT or a dataset's folder"
        " (`hyperclova dataset list`, `hyperclova dataset refs`)",
    )


def _uris(results: dict[str, StageResult]) -> list[str]:
    return [result.uri for result in results.values()]


def _inputs(uri: str) -> list[Any]:
    with suppress(DataError):
        manifest = read_manifest(uri)
        return list(manifest.inputs.values()) if manifest else []
    return []


def _trained(warehouse: Warehouse, key: str) -> str | None:
    """The newest training of a size, by the runs that are kept."""
    found = []
    for name in storage.list_names(storage.join(warehouse.uri, "refs", "runs")):
        result = warehouse.run(name.removesuffix(".json")).stage_result(key)
        if result:
            found.append((result.ended_at, result.uri))
    return max(found)[1] if found else None


def _by_fingerprint(warehouse: Warehouse, name: str) -> Iterator[str]:
    wanted, _, head = name.rpartition("@")
    if not re.fullmatch(r"[0-9a-f]{6,32}", head):
        return
    root = storage.join(warehouse.uri, "datasets")
    for stage in [wanted] if wanted else storage.list_names(root):
        for identity in storage.list_names(storage.join(root, stage)):
            if identity.startswith(head):
                yield storage.join(root, stage, identity)


class _Builder:
    def __init__(self, warehouse: Warehouse, with_file_names: bool) -> None:
        self._warehouse, self._with_file_names = warehouse, with_file_names
        self.nodes: dict[str, Node] = {}
        self.edges: list[tuple[str, str, str]] = []

    def dataset(self, uri: str, fingerprint: str = "", digest: str = "") -> str:
        """The node of a dataset, with all it was made from."""
        place, manifest, state = self._find(uri)
        if manifest is None:
            stage = match.group(1) if (match := _PLACE.search(uri)) else uri.rstrip("/").rsplit("/", 1)[-1]
            node = Node(f"{stage}@{(fingerprint or uri)[:12]}", "dataset", stage, digest, uri, "gone")
            self.nodes.setdefault(node.id, node)
            return node.id
        identity = f"{manifest.stage}@{manifest.fingerprint[:12]}"
        if identity in self.nodes:
            return identity
        if digest and digest != manifest.digest:
            state = "differs"
        self.nodes[identity] = Node(
            identity, "dataset", manifest.stage, manifest.digest, place, state, _facts(manifest, place)
        )
        files = self._source_files(place, manifest, state)
        # an index stands on all nights before: what each of them was made of is the lineage of its own documents
        ends = manifest.stage == "history"
        for role, reference in () if ends else sorted(manifest.inputs.items()):
            if role.startswith("files:"):
                source = self._files(role.removeprefix("files:"), reference.digest, files)
            else:
                source = self.dataset(reference.uri, reference.fingerprint, reference.digest)
            self.edges.append((identity, source, role))
        return identity

    def _find(self, uri: str) -> tuple[str, Manifest | None, str]:
        """(where it is now, manifest, state); a warehouse may have moved since it was written."""
        places = [uri]
        if match := _PLACE.search(uri):
            places.append(self._warehouse.target(match.group(1), match.group(2)).uri)
        for place in places:
            manifest = read_manifest(place)
            if manifest is not None:
                return place, manifest, "here"
            with suppress(FileNotFoundError, NotADirectoryError):
                note = storage.read_json(storage.join(place, EXPIRED))
                if "manifest" in note:
                    return place, manifest_from(note["manifest"], storage.join(place, EXPIRED)), "expired"
        return uri, None, "gone"

    def _source_files(self, place: str, manifest: Manifest, state: str) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        if "files" in manifest.tables and state == "here":
            with suppress(DataError, FileNotFoundError):
                for row in Dataset(place, manifest).read("files").to_pylist():
                    found.setdefault(row["source"], []).append(row)
        return found

    def _files(self, source: str, digest: str, known: dict[str, list[dict[str, Any]]]) -> str:
        rows = known.get(source, [])
        facts: dict[str, Any] = {}
        if rows:
            facts = {
                "count": len(rows),
                "bytes": sum(row["bytes"] for row in rows),
            }
            if self._with_file_names:
                facts["files"] = [{key: row[key] for key in ("name", "bytes", "checksum")} for row in rows]
        node = Node(f"files:{source}@{digest[:12]}", "files", source, digest, facts=facts)
        self.nodes.setdefault(node.id, node)
        return node.id


def _facts(manifest: Manifest, place: str) -> dict[str, Any]:
    counters = manifest.counters
    try:
        attempt = storage.read_json(storage.join(place, ATTEMPT))
    except (FileNotFoundError, NotADirectoryError):
        attempt = {}
    facts = {
        "stage_version": manifest.stage_version,
        "fingerprint": manifest.fingerprint,
        "rows_in": counters.rows_in,
        "kept": counters.kept,
        "rejected": counters.rejected,
        "quarantined": counters.quarantined,
        "config": manifest.config,
        "made_by": attempt.get("run", ""),
        "made_at": attempt.get("committed_at", ""),
        "code_version": attempt.get("code_version", ""),
    }
    return {key: value for key, value in facts.items() if value not in ("", {}, 0)}
