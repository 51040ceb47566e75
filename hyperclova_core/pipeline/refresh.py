"""The nightly refresh: what has landed since the last night, as an increment of the published corpus."""

from __future__ import annotations

import logging

from hyperclova_core.corpus.ingest.config import find_files
from hyperclova_core.foundation.corpora.versions import CorpusVersion, Part, current, publish
from hyperclova_core.foundation.warehouse import Beside, RunFolder, Warehouse
from hyperclova_core.pipeline.finish import finish_run
from hyperclova_core.pipeline.graph import CORPUS_STAGES
from hyperclova_core.pipeline.history import first_version
from hyperclova_core.pipeline.recipe import Recipe
from hyperclova_core.pipeline.run import prepare_run
from hyperclova_core.pipeline.stage_requests import recipe_of

log = logging.getLogger(__name__)


def prepare_refresh(warehouse: Warehouse, run_id: str, recipe: Recipe) -> RunFolder | None:
    """Record a night's run, or None (with a word in the log) when nothing is new."""
    before = current(warehouse, recipe.name)
    known = set(before.files if before else ())
    new = [file for file in find_files(recipe.refresh.sources) if file.checksum not in known]
    if not new:
        log.info(
            "Nothing new has landed since version %s of the corpus (%s)",
            before.version if before else 0,
            before.published_at if before else "never published",
        )
        return None
    log.info("%d new files, %d bytes", len(new), sum(file.bytes for file in new))
    history = before.history if before else ""
    return prepare_run(
        warehouse,
        run_id,
        recipe,
        sizes=(),
        kind="refresh",
        only_files=tuple(sorted({file.checksum for file in new})),
        beside=Beside(
            history or first_version(warehouse, recipe.deduplicate).uri,
            tuple(part.uri for part in before.parts if part.kind == "tombstones") if before else (),
        ),
    )


def publish_refresh(warehouse: Warehouse, run: RunFolder) -> CorpusVersion:
    """Add the night's increment to the published corpus, with the index that knows its documents; a retry gets the version
    that has it.

    Raises:
        DataError: another night was published since this one was compared.
    """
    recipe = recipe_of(run)
    selected = run.dataset("select")
    results = {key: run.stage_result(key) for key in CORPUS_STAGES}
    drops = {key: result.dropped for key, result in results.items() if result is not None}
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
    record = run.record()
    history = (record.beside.history, run.dataset("history").uri)
    version = publish(warehouse, recipe.name, part, f"night {run.name}", list(record.only_files or ()), history)
    finish_run(warehouse, run)
    log.info(
        "Published version %d of the corpus: %d documents, %d bytes", version.version, version.documents, version.bytes
    )
    return version
