"""The nightly refresh: what has landed since the last night, as an increment of the published corpus."""

from __future__ import annotations

import logging

from hyperclova_core.corpus.ingest.config import find_files
from hyperclova_core.foundation.growing import CorpusVersion, Part, current, publish
from hyperclova_core.foundation.warehouse import RunFolder, Warehouse
from hyperclova_core.pipeline.graph import CORPUS_STAGES
from hyperclova_core.pipeline.recipe import Recipe
from hyperclova_core.pipeline.run import finish_run, prepare_run, recipe_of

log = logging.getLogger(__name__)


def prepare_refresh(warehouse: Warehouse, run_id: str, recipe: Recipe) -> RunFolder | None:
    """Record a night's run, or None (with a word in the log) when nothing is new."""
    before = current(warehouse, recipe.name)
    known = set(before.files if before else ())
    new = [file for file in find_files(recipe.refresh.sources) if file["checksum"] not in known]
    if not new:
        log.info(
            "Nothing new has landed since version %s of the corpus (%s)",
            before.version if before else 0,
            before.published_at if before else "never published",
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


def publish_refresh(warehouse: Warehouse, run: RunFolder) -> CorpusVersion:
    """Add the night's increment to the published corpus; a retry gets the version that has it.

    The night's own near-duplicates are removed; those of earlier nights need the history index.
    """
    recipe = recipe_of(run)
    selected = run.dataset("select")
    results = {key: run.stage_result(key) for key in CORPUS_STAGES}
    drops = {
        key: sum(result["counters"]["rejected"].values()) + sum(result["counters"]["quarantined"].values())
        for key, result in results.items()
        if result is not None
    }
    counters = selected.manifest.counters
    part = Part(
        kind="increment",
        uri=selected.uri,
        digest=selected.manifest.digest,
        documents=counters.kept,
        bytes=counters.text_bytes_kept,
        run=run.name,
        drops=drops,
    )
    version = publish(warehouse, recipe.name, part, f"night {run.name}", run.record()["only_files"])
    finish_run(warehouse, run)
    log.info(
        "Published version %d of the corpus: %d documents, %d bytes", version.version, version.documents, version.bytes
    )
    return version
