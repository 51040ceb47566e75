"""The deduplicate stage, as it runs: boilerplate → sketches → exact groups → candidates → verified edges → components →
clusters → survivors. With a history index the documents of earlier nights take part, as far as the night's touch them."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from hyperclova_core.corpus.deduplicate.config import DeduplicateConfig
from hyperclova_core.corpus.deduplicate.contamination.evaluation_sets import checksums, items_of
from hyperclova_core.corpus.deduplicate.prepared import COLUMNS, Prepared
from hyperclova_core.corpus.deduplicate.schemas import TextPlace
from hyperclova_core.corpus.deduplicate.sketches import make_sketches
from hyperclova_core.corpus.deduplicate.text.comparison_form import signature_version
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.dataset import Dataset
from hyperclova_core.foundation.datasets.manifest import Table
from hyperclova_core.foundation.datasets.parquet_writer import write_table
from hyperclova_core.foundation.stages.kinds import Decisions, Rewrite, StageContext, corpus_stage

HISTORY = "history"
TOMBSTONES = "tombstones"
CUT = "hyperclova_core.corpus.deduplicate.text.boilerplate:cut"


def resources(config: DeduplicateConfig) -> dict[str, str]:
    """What decides on the outcome beside the configuration: the signature's version, the evaluation sets' contents."""
    version = signature_version(config.shingle_characters, config.permutations, config.short_below)
    return {"signatures": version, **checksums(config.decontaminate)}


@corpus_stage("deduplicate", version="4", restricted=True, resources=resources)
def deduplicate(inputs: Mapping[str, Dataset], config: DeduplicateConfig, context: StageContext) -> Decisions:
    """Decide for each document whether it survives; the best of a cluster by (published, tier, length, fewest
    invisible characters, earliest, doc_id) does.

    Inputs: `documents`; `history`, a version of the index (then the index tables of this night are written too); any
    `tombstones…`, whose documents are removed.
    """
    prepared = _prepare(inputs["documents"], config, context)
    if HISTORY in inputs or prepared.dataset.table("documents").rows <= config.driver_documents:
        removed = [dataset for name, dataset in sorted(inputs.items()) if name.startswith(TOMBSTONES)]
        decisions = _together(prepared, inputs.get(HISTORY), removed, config, context)
    else:
        from hyperclova_core.corpus.deduplicate.on_spark import decide

        decisions = decide(prepared, config, context)
    decisions.tables.update(prepared.tables)
    if prepared.boilerplate.num_rows:
        (lines,) = prepared.tables["boilerplate"].files
        argument = [prepared.place.boilerplate, config.boilerplate.min_remaining]
        decisions.rewrite = Rewrite(CUT, argument, lines.checksum)
    decisions.custom["boilerplate_lines"] = float(prepared.boilerplate.num_rows)
    return decisions


def _prepare(dataset: Dataset, config: DeduplicateConfig, context: StageContext) -> Prepared:
    lines = _boilerplate(dataset, config, context)
    entry = write_table(context.target.root(False), f"{context.attempt_path}/boilerplate.parquet", lines)
    lines_path = storage.join(context.target.root(False), entry.path) if lines.num_rows else None
    items = None
    if config.decontaminate.sets:
        table = items_of(config.decontaminate)
        found = write_table(context.target.root(True), f"{context.attempt_path}/items.parquet", table)
        items = storage.join(context.target.root(True), found.path)
        context.scrap.files.append(items)
    sketches = make_sketches(dataset, config, context, lines_path, items)
    return Prepared(
        dataset,
        [sketch.path for sketch in sketches],
        sum(sketch.signed for sketch in sketches),
        sum(sketch.fingerprints for sketch in sketches),
        lines,
        TextPlace([[path] for path in dataset.files()], lines_path),
        {"boilerplate": Table(files=(entry,))},
    )


def _boilerplate(dataset: Dataset, config: DeduplicateConfig, context: StageContext) -> pa.Table:
    from hyperclova_core.corpus.deduplicate.text.boilerplate import BOILERPLATE_SCHEMA, find_boilerplate

    documents = dataset.table("documents")
    if not config.boilerplate.enabled or documents.rows < config.boilerplate.min_documents:
        return BOILERPLATE_SCHEMA.empty_table()
    text_bytes = sum(entry.text_bytes for entry in documents.files)
    return find_boilerplate(context, dataset.files(), config.boilerplate, text_bytes, config.driver_rows)


def _together(
    prepared: Prepared,
    history: Dataset | None,
    removals: list[Dataset],
    config: DeduplicateConfig,
    context: StageContext,
) -> Decisions:
    from hyperclova_core.corpus.deduplicate.history.index import open_index
    from hyperclova_core.corpus.deduplicate.history.index_update import index_tables, promoted_documents
    from hyperclova_core.corpus.deduplicate.in_memory import compare_in_memory, decided, known_facts
    from hyperclova_core.corpus.deduplicate.report import Facts, contamination, counted, pick_examples, write_report

    index = open_index(history, config, context) if history is not None else None
    forbidden = frozenset(
        doc_id for dataset in removals for doc_id in dataset.read("tombstones", ["doc_id"]).column(0).to_pylist()
    )
    found = compare_in_memory(prepared, index, forbidden, config, context)
    rows = decided(found, config)
    extras = {"contained": found.contained, "contamination": contamination(found.documents)}
    facts = Facts(
        forms=len(found.new_nodes),
        signed=prepared.signed,
        templates=[(doc_id, size) for _, size, doc_id in found.templates],
        compared=found.counts,
        boilerplate=prepared.boilerplate,
        contained=found.contained.num_rows,
        contamination=extras["contamination"],
    )
    tables: dict[str, Table] = {}
    additions: dict[int, str] = {}
    custom = {
        "template_buckets": float(len(found.templates)),
        "kept_for_their_numbers": float(found.resolved.variants),
        **found.counts,
    }
    if index is not None:
        promoted, additions = promoted_documents(found, config, context)
        tables.update(index_tables(found, promoted, forbidden, prepared.sketches, context))
        extras |= {"cluster_log": found.resolved.log, "promoted": promoted}
        facts.night = {"index_version": index.version, "index_rows": index.rows, **known_facts(found)}
        facts.night |= {"promoted": promoted.num_rows}
        custom |= {
            "new_forms": float(len(found.new_nodes)),
            "promoted": float(promoted.num_rows),
            "promotions_without_text": float(found.resolved.promoted.num_rows - promoted.num_rows),
        }
    numbers = counted(rows, facts)
    tables.update(write_report(numbers, pick_examples(rows, found.places), context))
    rows = rows.drop_columns(["source"])
    return Decisions(rows, COLUMNS, extras, tables, None, additions, custom, {"duplicates": numbers})
