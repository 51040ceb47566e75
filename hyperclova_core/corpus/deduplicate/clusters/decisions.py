"""What is decided on each document, in words: kept, or dropped for one reason, with the survivor and the similarity to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hyperclova_core.corpus.deduplicate.schemas import DECIDED_SCHEMA, INCOMING_SCHEMA

_SIGNALS = pa.map_(pa.string(), pa.float64())


def decisions_of(
    documents: pa.Table,
    clusters: pa.Table,
    contained: pa.Table,
    refused: Sequence[str | None] | None,
    drop_contained: bool,
) -> pa.Table:
    """DECIDED_SCHEMA, in the order of `documents`.

    Args:
        documents: doc_id, source, items.
        clusters: INCOMING_SCHEMA of the documents that are not alone.
        contained: CONTAINED_SCHEMA.
        refused: why a document was not looked at, a value a document; None: all were.
    """
    ids = documents.column("doc_id").combine_chunks()
    mine = clusters.take(_places(ids, clusters.column("doc_id")))
    quoted = contained.take(_places(ids, contained.column("doc_id")))
    why = pa.array(refused if refused is not None else [None] * len(ids), pa.string())
    columns = {name: mine.column(name) for name in INCOMING_SCHEMA.names if name != "doc_id"}
    columns |= {name: documents.column(name) for name in ("doc_id", "source", "items")}
    columns |= {name: quoted.column(name) for name in ("container", "share")}
    return in_words(pa.table({**columns, "refused": why}), drop_contained)


def in_words(rows: pa.Table, drop_contained: bool) -> pa.Table:
    """DECIDED_SCHEMA of rows with doc_id, source, items; survivor, cluster_id, cluster_size, reason, similarity (null where a
    document is alone); container, share (null where none holds it); refused."""
    survivor, container, items, why = (rows.column(name) for name in ("survivor", "container", "items", "refused"))
    duplicate = pc.fill_null(pc.not_equal(survivor, rows.column("doc_id")), False)
    inside = pc.and_(pc.is_valid(container), pa.scalar(drop_contained))
    no = pa.scalar("")
    reason = pc.if_else(inside, "contained", no)
    reason = pc.if_else(duplicate, pc.fill_null(rows.column("reason"), "near_duplicate"), reason)
    reason = pc.coalesce(why, reason)
    reason = pc.if_else(pc.is_valid(items), "evaluation_item", reason)
    detail = pc.if_else(inside, pc.binary_join_element_wise("in ", pc.fill_null(container, ""), ""), no)
    detail = pc.if_else(duplicate, pc.binary_join_element_wise("survivor ", pc.fill_null(survivor, ""), ""), detail)
    detail = pc.if_else(pc.is_valid(why), no, detail)
    detail = pc.if_else(pc.is_valid(items), pc.binary_join_element_wise("items ", pc.fill_null(items, ""), ""), detail)
    return pa.table(
        [
            rows.column("doc_id"),
            rows.column("source"),
            pc.equal(reason, ""),
            reason,
            detail,
            pc.coalesce(rows.column("cluster_id"), rows.column("doc_id")),
            pc.fill_null(rows.column("cluster_size"), pa.scalar(1, pa.int32())),
            _signals(duplicate, rows.column("similarity"), rows.column("share")),
        ],
        schema=DECIDED_SCHEMA,
    )


def _places(ids: pa.Array, among: pa.ChunkedArray) -> pa.Array:
    """Where each id stands in a column, null where it does not."""
    return pc.index_in(ids, value_set=among.combine_chunks())


def _signals(duplicate: pa.ChunkedArray, similarity: pa.ChunkedArray, share: pa.ChunkedArray) -> pa.Array:
    held = pc.is_valid(share).to_numpy(zero_copy_only=False)
    near = duplicate.to_numpy(zero_copy_only=False)
    values = np.round(pc.fill_null(similarity, 0.0).to_numpy(zero_copy_only=False), 4)
    shares = np.round(pc.fill_null(share, 0.0).to_numpy(zero_copy_only=False), 4)
    counts = near.astype(np.int32) + held
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    keys = np.empty(int(offsets[-1]), object)
    items = np.empty(int(offsets[-1]), np.float64)
    at = offsets[:-1]
    keys[at[held]], items[at[held]] = "contained_share", shares[held]
    last = at + held
    keys[last[near]], items[last[near]] = "duplicate_similarity", values[near]
    made = pa.MapArray.from_arrays(pa.array(offsets), pa.array(keys, pa.string()), pa.array(items))
    return made.cast(_SIGNALS)
