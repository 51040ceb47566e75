"""Schemas of custom resources, from their projects' own definitions (repository, path and commit are in each `$comment`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema

FILES = {
    "JobSet": "jobset",
    "PodGroup": "podgroup",
    "LocalQueue": "kueue-localqueue",
    "ClusterQueue": "kueue-clusterqueue",
    "ResourceFlavor": "kueue-resourceflavor",
}


def validate(item: dict[str, Any]) -> None:
    """An object against its kind's schema, where unknown keys are refused, as with kubectl's strict validation."""
    schema = json.loads((Path(__file__).parent / f"{FILES[item['kind']]}.json").read_text())
    jsonschema.Draft202012Validator(_strict(schema)).validate(item)


def _strict(schema: Any, key: str = "") -> Any:
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _strict(part, name) for name, part in schema.items()}
    if (
        isinstance(schema.get("properties"), dict)
        and key not in ("metadata", "properties")
        and "additionalProperties" not in schema
    ):
        found["additionalProperties"] = False
    if "$defs" in found:  # the whole object is described there, version by version
        found.pop("additionalProperties", None)
    return found
