"""What a night adds to the history index, and the documents that it brings back."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hyperclova_core.corpus.deduplicate.config import DeduplicateConfig
from hyperclova_core.corpus.deduplicate.minhash.verify import signatures_of
from hyperclova_core.corpus.deduplicate.result import Found
from hyperclova_core.corpus.deduplicate.schemas import (
    AS_SKETCHED,
    CLUSTER_MEMBERS_SCHEMA,
    FORMS_SCHEMA,
    INDEX_ORDER,
    LABELS_SCHEMA,
    MEMBERS_SCHEMA,
    TOMBSTONE,
    TextPlace,
)
from hyperclova_core.corpus.deduplicate.text.boilerplate import cut
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.document_schema import DOCUMENT_SCHEMA, bucket_of
from hyperclova_core.foundation.datasets.manifest import Table
from hyperclova_core.foundation.datasets.parquet_writer import HASHES, write_table
from hyperclova_core.foundation.stages.kinds import StageContext
from hyperclova_core.foundation.stages.spark_frames import ROWS_A_FILE


def index_tables(
    found: Found, promoted: pa.Table, forbidden: frozenset[str], sketches: list[str], context: StageContext
) -> dict[str, Table]:
    """The night's runs of the five tables of the index, as tables of its output.

    Args:
        promoted: those that could be brought back.
        forbidden: doc_ids that were removed for good.
    """
    made = {
        "members": _members(found, promoted, forbidden, context),
        "labels": _labels(found),
        "edges": found.edges,
        "forms": _forms(found, sketches, context),
    }
    tables = {f"index_{name}": _written(name, table, context) for name, table in made.items()}
    assert found.candidates.bands is not None
    tables["index_bands"] = found.candidates.bands
    return tables


def _written(name: str, table: pa.Table, context: StageContext) -> Table:
    table = table.sort_by([(column, "ascending") for column in INDEX_ORDER[name]])
    root, prefix = context.target.root(False), f"{context.attempt_path}/index/{name}"
    entries = [
        write_table(
            root, f"{prefix}/run-{start // ROWS_A_FILE:05d}.parquet", table.slice(start, ROWS_A_FILE), layout=HASHES
        )
        for start in range(0, max(1, table.num_rows), ROWS_A_FILE)
    ]
    return Table(files=tuple(entries))


def _without_text(found: Found, promoted: pa.Table) -> pa.Array:
    wanted = set(found.resolved.promoted.column("doc_id").to_pylist())
    return pa.array(sorted(wanted - set(promoted.column("doc_id").to_pylist())), pa.string())


def _members(found: Found, promoted: pa.Table, forbidden: frozenset[str], context: StageContext) -> pa.Table:
    """Incoming documents as they were resolved, old ones of which something changed, and those that are gone."""
    fresh = found.documents.filter(pa.array(found.fresh, pa.bool_()))
    count = fresh.num_rows
    ids = fresh.column("doc_id").combine_chunks()
    mine = found.resolved.incoming
    at = pc.index_in(ids, value_set=mine.column("doc_id").combine_chunks())
    cluster = pc.coalesce(mine.column("cluster_id").take(at), fresh.column("doc_id"))
    survivor = pc.coalesce(mine.column("survivor").take(at), fresh.column("doc_id"))
    incoming = {name: fresh.column(name) for name in AS_SKETCHED}
    incoming |= {"cluster_id": cluster, "published": pc.equal(survivor, fresh.column("doc_id"))}
    incoming |= {
        "removed": pa.array(np.zeros(count, np.bool_)),
        "origin": pa.array([context.fingerprint] * count, pa.string()),
    }
    changed = found.resolved.changed
    # who could not be brought back is not published: the next copy of it must not fall to a text that is nowhere
    lost = pc.is_in(changed.column("doc_id"), value_set=_without_text(found, promoted))
    published = pc.and_(changed.column("published"), pc.invert(lost))
    changed = changed.set_column(changed.schema.get_field_index("published"), "published", published)
    changed = changed.select([name for name in CLUSTER_MEMBERS_SCHEMA.names if name != "old"])
    changed = changed.append_column("removed", pa.array(np.zeros(changed.num_rows, np.bool_)))
    left = found.removed.filter(pc.invert(pc.is_in(found.removed.column("doc_id"), value_set=ids)))
    for name, value in (("removed", True), ("published", False)):
        column = pa.array([value] * left.num_rows, pa.bool_())
        left = left.set_column(left.schema.get_field_index(name), name, column)
    entombed = pc.is_in(left.column("doc_id"), value_set=pa.array(sorted(forbidden), pa.string()))
    origin = pc.if_else(entombed, pa.scalar(TOMBSTONE), left.column("origin"))
    left = left.set_column(left.schema.get_field_index("origin"), "origin", origin)
    parts = [pa.table(incoming), changed, left]
    return pa.concat_tables([part.select(MEMBERS_SCHEMA.names).cast(MEMBERS_SCHEMA) for part in parts])


def _labels(found: Found) -> pa.Table:
    """Labels that are not what they were; null where a form has no edge any more."""
    before, after = (
        dict(zip(table.column("node").to_pylist(), table.column("component").to_pylist(), strict=True))
        for table in (found.old_labels, found.labels)
    )
    changed = {node: after.get(node) for node in {*before, *after} if before.get(node) != after.get(node)}
    return pa.table([list(changed), list(changed.values())], schema=LABELS_SCHEMA)


def _forms(found: Found, sketches: list[str], context: StageContext) -> pa.Table:
    rows = pa.array(found.new_rows)
    signatures = signatures_of(sketches, found.new_nodes, context)
    at = pc.index_in(pa.array(found.new_nodes), value_set=signatures.column("node").combine_chunks())
    columns = {name: found.documents.column(name).take(rows) for name in ("node", "exact", "length", "doc_id")}
    columns["signature"] = signatures.column("signature").take(at)
    columns["origin"] = pa.array([context.fingerprint] * len(rows), pa.string())
    return pa.table([columns[name] for name in FORMS_SCHEMA.names], schema=FORMS_SCHEMA)


def promoted_documents(
    found: Found, config: DeduplicateConfig, context: StageContext
) -> tuple[pa.Table, dict[int, str]]:
    """(those that could be brought back, a file a bucket with them): documents that a night dropped, in place of one that is
    removed.

    A text that has passed its time to live cannot come back: the document is published in the index only, and counted.
    """
    promoted = found.resolved.promoted
    origins = dict(
        zip(
            found.cluster_members.column("doc_id").to_pylist(),
            found.cluster_members.column("origin").to_pylist(),
            strict=True,
        )
    )
    wanted: defaultdict[str, list[str]] = defaultdict(list)
    for doc_id in promoted.column("doc_id").to_pylist():
        wanted[origins[doc_id]].append(doc_id)
    parts = [
        part
        for name, ids in sorted(wanted.items())
        if name in found.places
        for part in _fetched(ids, found.places[name], config)
    ]
    if not parts:
        return promoted.slice(0, 0), {}
    table = pa.concat_tables(parts).sort_by("doc_id")
    at = pc.index_in(table.column("doc_id").combine_chunks(), value_set=promoted.column("doc_id").combine_chunks())
    back = promoted.take(at)
    sizes = [found.resolved.sizes[name] for name in back.column("cluster_id").to_pylist()]
    for name, values in (("cluster_id", back.column("cluster_id")), ("cluster_size", pa.array(sizes, pa.int32()))):
        table = table.set_column(DOCUMENT_SCHEMA.get_field_index(name), name, values)
    numbers = pa.array([bucket_of(doc_id, context.buckets) for doc_id in table.column("doc_id").to_pylist()])
    files = {}
    for bucket in pc.unique(numbers).to_pylist():
        part = table.filter(pc.equal(numbers, bucket)).cast(DOCUMENT_SCHEMA)
        root, path = context.target.root(True), f"{context.attempt_path}/promoted/bucket-{bucket:05d}.parquet"
        write_table(root, path, part)
        files[bucket] = storage.join(root, path)
    return back, files


def _fetched(ids: list[str], place: TextPlace, config: DeduplicateConfig) -> list[pa.Table]:
    """Documents of a night, without the lines that it cut of those it kept."""
    found = []
    buckets = {bucket_of(doc_id, len(place.files)) for doc_id in ids}
    for path in sorted(path for bucket in buckets for path in place.files[bucket]):
        if not storage.exists(path):
            continue
        wanted = pc.field("doc_id").isin(pa.array(ids, pa.string()))
        for batch in (
            storage.read_parquet(path, DOCUMENT_SCHEMA.names, filters=wanted).cast(DOCUMENT_SCHEMA).to_batches()
        ):
            if place.boilerplate is not None:
                batch = cut(batch, [place.boilerplate, config.boilerplate.min_remaining])
            found.append(pa.Table.from_batches([batch]))
    return found
