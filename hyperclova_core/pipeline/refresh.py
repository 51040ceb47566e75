"""The nightly refresh: what has landed since the last night, as an increment of the published corpus."""

from __future__ import annotations

import logging
from typing import Any

from hyperclova_core.corpus.ingest.config import find_files
from hyperclova_core.foundation.hashing import fingerprint
from hyperclova_core.foundation.warehouse import RunFolder, Warehouse, now
from hyperclova_core.pipeline.graph import CORPUS_STAGES
from hyperclova_core.pipeline.recipe import Recipe
from hyperclova_core.pipeline.run import finish_run, prepare_run, recipe_of

log = logging.getLogger(__name__)


def corpus_reference(recipe: str) -> str:
    """The name under which a recipe's corpus is published."""
    return f"corpus/{recipe}"


def published(warehouse: Warehouse, recipe: str) -> dict[str, Any]:
    """The published version: number, increments (one a night), and the checksums of all files they came from."""
    return warehouse.reference(corpus_reference(recipe)) or {"version": 0, "digest": "", "increments": [], "files": []}


def prepare_refresh(warehouse: Warehouse, run_id: str, recipe: Recipe) -> RunFolder | None:
    """Record a night's run, or None (with a word in the log) when nothing is new."""
    before = published(warehouse, recipe.name)
    known = set(before["files"])
    new = [file for file in find_files(recipe.refresh.sources) if file["checksum"] not in known]
    if not new:
        log.info(
            "Nothing new has landed since version %s of the corpus (%s)",
            before["version"],
            before.get("published_at", "never published"),
        )
        return None
    log.info("%d new files, %d bytes", len(new), sum(file["bytes"] for file in new))
    return prepare_run(
        warehouse,
        run_id,
        recipe,
        sizes=(),
        kind="refresh",
        only_files=tuple(sorted({file["checksum"] for file in new})),
    )


def publish_refresh(warehouse: Warehouse, run: RunFolder) -> dict[str, Any]:
    """Add the night's increment to the published corpus; a retry publishes the same version again.

    The night's own near-duplicates are removed; those of earlier nights need the history index.
    """
    recipe = recipe_of(run)
    before = published(warehouse, recipe.name)
    selected = run.dataset("select")
    increments = [item for item in before["increments"] if item["run"] != run.name]
    counters = {key: run.stage_result(key) for key in CORPUS_STAGES}
    drops = {
        key: sum(result["counters"]["rejected"].values()) + sum(result["counters"]["quarantined"].values())
        for key, result in counters.items()
        if result is not None
    }
    manifest = selected.manifest
    increments.append(
        {
            "run": run.name,
            "uri": selected.uri,
            "digest": manifest.digest,
            "documents": manifest.counters.kept,
            "bytes": manifest.counters.text_bytes_kept,
            "drops": drops,
        }
    )
    version = {
        "version": len(increments),
        "digest": fingerprint([item["digest"] for item in increments]),
        "increments": increments,
        "documents": sum(item["documents"] for item in increments),
        "bytes": sum(item["bytes"] for item in increments),
        "drops": sum(sum(item["drops"].values()) for item in increments),
        "files": sorted({*before["files"], *run.record()["only_files"]}),
        "published_at": now(),
    }
    warehouse.set_reference(corpus_reference(recipe.name), version)
    finish_run(warehouse, run)
    log.info(
        "Published version %d of the corpus: %d documents, %d bytes",
        version["version"],
        version["documents"],
        version["bytes"],
    )
    return version
