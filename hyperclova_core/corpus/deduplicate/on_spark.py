"""Deduplicating more documents than one process should know of: joins and aggregations in Spark, narrow columns only. It comes
to the result that `together` comes to, to the byte (a test compares them)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hyperclova_core.corpus.deduplicate.clusters.connected_components import label_components
from hyperclova_core.corpus.deduplicate.clusters.decisions import in_words
from hyperclova_core.corpus.deduplicate.clusters.number_variants import EXACT, SAID, differences
from hyperclova_core.corpus.deduplicate.clusters.survivors import split_components
from hyperclova_core.corpus.deduplicate.config import DeduplicateConfig
from hyperclova_core.corpus.deduplicate.containment.contained import contained_in, find_contained
from hyperclova_core.corpus.deduplicate.history.index_lookup import collision
from hyperclova_core.corpus.deduplicate.minhash.lsh_banding import find_candidates
from hyperclova_core.corpus.deduplicate.minhash.verify import (
    SHINGLES_SCHEMA,
    SIGNATURES_SCHEMA,
    documents_of,
    jaccard,
    shingles_in,
    shingles_of,
)
from hyperclova_core.corpus.deduplicate.report import Facts, contamination, numbers_of, pick_examples, write_report
from hyperclova_core.corpus.deduplicate.schemas import (
    CONTAINED_SCHEMA,
    DECIDED_SCHEMA,
    DOCUMENTS_SCHEMA,
    EDGES_SCHEMA,
    INCOMING,
    INCOMING_SCHEMA,
    SURVIVAL_ORDER,
    TextPlace,
)
from hyperclova_core.foundation.stages.kinds import Decisions, StageContext
from hyperclova_core.foundation.stages.spark_frames import (
    Batches,
    Written,
    grouped_chunks,
    materialized,
    matrix,
    of_table,
    over_files,
    read_columns,
    spark_schema,
)

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from hyperclova_core.corpus.deduplicate.prepared import Prepared

EXAMPLE_ROWS = 12
_RANKED = [name for name, _ in SURVIVAL_ORDER]


def decide(prepared: Prepared, config: DeduplicateConfig, context: StageContext) -> Decisions:
    """Decisions on all documents of a batch, as a Spark frame."""
    from pyspark.sql import functions as F

    from hyperclova_core.corpus.deduplicate.prepared import COLUMNS

    everything = over_files(context, prepared.sketches, read_columns(DOCUMENTS_SCHEMA), DOCUMENTS_SCHEMA)
    documents = everything.where("items is null")
    forms = _forms(documents, context)
    signatures = over_files(context, prepared.sketches, read_columns(SIGNATURES_SCHEMA), SIGNATURES_SCHEMA)
    signatures = signatures.where("signature is not null").groupBy("node").agg(F.max("signature").alias("signature"))
    candidates = find_candidates(prepared.sketches, prepared.signed, config, context)
    found = candidates.found.frame()
    templates = _templates(found, forms.frame())
    pairs = found.where("left != right").select("left", "right").distinct()
    places = {INCOMING: prepared.place}
    edges, counts = _verified(pairs, forms.frame(), signatures, places, config, context)
    if edges.rows:
        labels = label_components(edges.frame(), context, config.driver_rows)
        ranked = forms.frame().join(signatures, "node")
        members = materialized(context, split_components(labels, edges.frame(), ranked, config), "members").frame()
    else:
        members = of_table(context, pa.table({"node": pa.array([], pa.int64())})).selectExpr(
            "node", "node as anchor", "cast(null as double) as similarity"
        )
    contained = _contained(prepared, forms.frame(), members, places, config, context)

    several = forms.frame().where("copies > 1").select("node").union(members.select("node")).distinct()
    near = several.join(members, "node", "left").select(
        "node", F.coalesce("anchor", "node").alias("anchor"), F.coalesce("similarity", F.lit(1.0)).alias("similarity")
    )
    mine = _resolved(documents.join(near, "node"), config, context).frame()
    variants = mine.where("apart and survivor = doc_id").count()
    rows = everything.select("doc_id", "source", "items").join(mine.select(*INCOMING_SCHEMA.names), "doc_id", "left")
    rows = rows.join(of_table(context, contained), "doc_id", "left").withColumn("refused", F.lit(None).cast("string"))
    drop = config.containment.action == "drop"

    def say(batches: Batches) -> Batches:
        for batch in batches:
            yield from in_words(pa.Table.from_batches([batch]), drop).combine_chunks().to_batches()

    decided = materialized(context, rows.mapInArrow(say, spark_schema(DECIDED_SCHEMA)), "decisions").frame()
    hit = everything.where("items is not null").select("doc_id", "items").toArrow()
    spoiled = contamination(hit)
    facts = Facts(
        forms=forms.rows,
        signed=prepared.signed,
        templates=templates,
        compared=counts,
        boilerplate=prepared.boilerplate,
        contained=contained.num_rows,
        contamination=spoiled,
    )
    numbers, examples = _numbers(decided, facts), _examples(decided)
    return Decisions(
        decided.drop("source"),
        COLUMNS,
        {"contained": contained, "contamination": spoiled},
        write_report(numbers, pick_examples(examples, places), context),
        custom={"template_buckets": float(len(templates)), "kept_for_their_numbers": float(variants), **counts},
        info={"duplicates": numbers},
    )


def _rank() -> Column:
    """The order of survival: the smallest is the best."""
    from pyspark.sql import functions as F

    return F.struct("tier", (-F.col("length")).alias("shorter"), "invisible", "earliest", "doc_id")


def _resolved(cluster_members: DataFrame, config: DeduplicateConfig, context: StageContext) -> Written:
    """INCOMING_SCHEMA and `apart` of the documents of clusters: as `survivors.resolve_clusters` without an index.

    Args:
        cluster_members: DOCUMENTS_SCHEMA, anchor, similarity.
    """
    from pyspark.sql import functions as F

    clusters = cluster_members.groupBy("anchor").agg(
        F.min(F.struct(_rank().alias("rank"), *SAID)).alias("best"),
        F.count("*").cast("int").alias("cluster_size"),
        F.min("doc_id").alias("cluster_id"),
    )
    clusters = clusters.select(
        "anchor",
        F.col("best.rank.doc_id").alias("survivor"),
        "cluster_size",
        "cluster_id",
        *(F.col(f"best.{name}").alias(f"survivor_{name}") for name in SAID),
    )
    numbers = config.numbers
    schema = INCOMING_SCHEMA
    for field in (*(DOCUMENTS_SCHEMA.field(name) for name in (*_RANKED, "content")), pa.field("anchor", pa.int64())):
        schema = schema if field.name in schema.names else schema.append(field)
    schema = schema.append(pa.field("apart", pa.bool_()))

    def compare(batches: Batches) -> Batches:
        for batch in batches:
            rows = pa.Table.from_batches([batch])
            theirs = pa.table({name: rows.column(f"survivor_{name}") for name in SAID})
            same = rows.column("node").to_numpy() == rows.column("anchor").to_numpy()
            alike = np.where(same, 1.0, rows.column("similarity").to_numpy())
            found = differences(rows, theirs, alike, numbers)
            columns = {name: rows.column(name) for name in schema.names if name in rows.schema.names}
            columns |= {
                "reason": pa.array(found.reason, pa.string()),
                "similarity": pa.array(found.similarity),
                "apart": pa.array(found.apart),
            }
            made = pa.table([columns[name] for name in schema.names], schema=schema)
            yield from made.combine_chunks().to_batches()

    compared = cluster_members.join(clusters, "anchor").mapInArrow(compare, spark_schema(schema))
    compared = materialized(context, compared, "compared").frame()
    stays = compared.where("apart").groupBy("anchor", "content").agg(F.min(_rank()).alias("best"))
    stays = stays.select("anchor", "content", F.col("best.doc_id").alias("variant"))
    variant = F.col("variant").isNotNull()
    rows = compared.join(stays, ["anchor", "content"], "left").select(
        "doc_id",
        F.coalesce("variant", "survivor").alias("survivor"),
        "cluster_id",
        "cluster_size",
        F.when(variant, F.lit(EXACT)).otherwise(F.col("reason")).alias("reason"),
        F.when(variant, F.lit(1.0)).otherwise(F.col("similarity")).alias("similarity"),
        "apart",
    )
    return materialized(context, rows, "resolved")


def _forms(documents: DataFrame, context: StageContext) -> Written:
    """A row a form: node, copies, and of its best document tier, length, invisible, earliest, doc_id.

    Raises:
        DataError: two different forms have the same leading 64 bits.
    """
    from pyspark.sql import functions as F

    forms = documents.groupBy("node").agg(
        F.min(_rank()).alias("best"),
        F.count("*").alias("copies"),
        F.min("exact").alias("exact"),
        F.max("exact").alias("other"),
    )
    made = materialized(
        context,
        forms.select(
            "node",
            "copies",
            F.col("best.tier").alias("tier"),
            (-F.col("best.shorter")).alias("length"),
            F.col("best.invisible").alias("invisible"),
            F.col("best.earliest").alias("earliest"),
            F.col("best.doc_id").alias("doc_id"),
            (F.col("exact") != F.col("other")).alias("collided"),
        ),
        "forms",
    )
    same = made.frame().where("collided").select("doc_id").limit(1).collect()
    if same:
        raise collision(context, same[0]["doc_id"])
    return made


def _templates(found: DataFrame, forms: DataFrame) -> list[tuple[str, int]]:
    from pyspark.sql import functions as F

    largest = found.where("left = right").groupBy("left").agg(F.max("size").alias("size"))
    rows = (
        largest.join(forms, largest.left == forms.node).select("left", "size", "doc_id").orderBy(F.desc("size"), "left")
    )
    return [(row["doc_id"], row["size"]) for row in rows.collect()]


def _verified(
    pairs: DataFrame,
    forms: DataFrame,
    signatures: DataFrame,
    places: Mapping[str, TextPlace],
    config: DeduplicateConfig,
    context: StageContext,
) -> tuple[Written, dict[str, float]]:
    """Edges of EDGES_SCHEMA, and counts of what was compared."""
    from pyspark.sql import functions as F

    pairs = materialized(context, pairs, "distinct-pairs").frame()
    high = config.threshold + config.grey_zone
    estimated = materialized(context, _estimated(pairs, signatures, config), "estimated").frame()
    sure = estimated.where(F.col("similarity") >= high)
    grey = estimated.where(F.col("similarity") < high)
    nodes = grey.select(F.col("left").alias("node")).union(grey.select("right")).distinct()
    wanted = forms.select("node", "doc_id").join(nodes, "node", "left_semi")
    shingles = materialized(context, _shingles(wanted, places[INCOMING], config), "shingles")
    exact = _exact(grey, shingles.frame()).where(F.col("similarity") >= config.threshold)
    edges = materialized(context, sure.unionByName(exact), "edges")
    number, doubtful = pairs.count(), grey.count()
    counts = (
        {}
        if not number
        else {
            "pairs_compared": float(number),
            "pairs_in_grey_zone": float(doubtful),
            "texts_not_there": float(nodes.count() - shingles.rows),
            "edges": float(edges.rows),
        }
    )
    return edges, counts


_EDGES = "left long, right long, similarity double"


def _estimated(pairs: DataFrame, signatures: DataFrame, config: DeduplicateConfig) -> DataFrame:
    """(left, right, similarity) of pairs whose signatures agree well enough to be kept or looked at again."""
    left = signatures.selectExpr("node as left", "signature as left_signature")
    right = signatures.selectExpr("node as right", "signature as right_signature")
    low, width = config.threshold - config.grey_zone, config.permutations

    def compare(batches: Batches) -> Batches:
        from hyperclova_core.corpus.deduplicate.minhash.signatures import similarity

        for batch in batches:
            sides = (matrix(batch.column(f"{side}_signature"), np.uint16, width) for side in ("left", "right"))
            values = np.round(similarity(*sides), 4) if batch.num_rows else np.zeros(0)
            columns = [batch.column("left"), batch.column("right"), pa.array(values)]
            made = pa.RecordBatch.from_arrays(columns, schema=EDGES_SCHEMA)
            yield made.filter(pa.array(values >= low))

    joined = pairs.join(left, "left").join(right, "right")
    return joined.select("left", "right", "left_signature", "right_signature").mapInArrow(compare, _EDGES)


def _exact(pairs: DataFrame, shingles: DataFrame) -> DataFrame:
    """(left, right, similarity) with the Jaccard similarity of the shingles where both are known, else as it was."""
    left = shingles.selectExpr("node as left", "shingles as left_shingles")
    right = shingles.selectExpr("node as right", "shingles as right_shingles")

    def compare(batches: Batches) -> Batches:
        for batch in batches:
            values = batch.column("similarity").to_pylist()
            sides = zip(batch.column("left_shingles"), batch.column("right_shingles"), strict=True)
            for row, (one, other) in enumerate(sides):
                if one.is_valid and other.is_valid:
                    hashes = (np.frombuffer(side.as_buffer(), np.uint64) for side in (one, other))
                    values[row] = round(jaccard(*hashes), 4)
            columns = [batch.column("left"), batch.column("right"), pa.array(values, pa.float64())]
            yield pa.RecordBatch.from_arrays(columns, schema=EDGES_SCHEMA)

    joined = pairs.join(left, "left", "left").join(right, "right", "left")
    return joined.select("left", "right", "similarity", "left_shingles", "right_shingles").mapInArrow(compare, _EDGES)


def _shingles(wanted: DataFrame, place: TextPlace, config: DeduplicateConfig) -> DataFrame:
    """SHINGLES_SCHEMA of some documents (node, doc_id), a bucket file after the other."""
    from pyspark.sql import functions as F

    files, cut = [list(paths) for paths in place.files], place.boilerplate
    width, remaining = config.shingle_characters, config.boilerplate.min_remaining
    bucket = F.floor(F.conv(F.substring("doc_id", 1, 8), 16, 10).cast("long") * F.lit(len(files)) / F.lit(1 << 32))

    def read(batches: Batches) -> Batches:
        for chunk in grouped_chunks(batches, "bucket"):
            numbers = chunk.column("bucket").to_numpy()
            for number in np.unique(numbers).tolist():
                rows = chunk.filter(pa.array(numbers == number))
                known = dict(zip(rows.column("doc_id").to_pylist(), rows.column("node").to_pylist(), strict=True))
                for path in files[number]:
                    for documents in documents_of(path, list(known)):
                        yield shingles_in(documents, known, cut, width, remaining)

    placed = wanted.select("node", "doc_id", bucket.cast("long").alias("bucket"))
    ordered = placed.repartition("bucket").sortWithinPartitions("bucket", "doc_id")
    return ordered.mapInArrow(read, spark_schema(SHINGLES_SCHEMA))


def _contained(
    prepared: Prepared,
    forms: DataFrame,
    members: DataFrame,
    places: Mapping[str, TextPlace],
    config: DeduplicateConfig,
    context: StageContext,
) -> pa.Table:
    """CONTAINED_SCHEMA: survivors that lie in other survivors."""
    if config.containment.action == "off":
        return CONTAINED_SCHEMA.empty_table()
    follows = np.sort(members.where("node != anchor").select("node").toArrow().column("node").to_numpy())
    pairs = find_contained(prepared.sketches, prepared.fingerprints, follows, config, context)
    if not pairs.num_rows:
        return CONTAINED_SCHEMA.empty_table()
    ends = np.union1d(pairs.column("node").to_numpy(), pairs.column("other").to_numpy())
    wanted = of_table(context, pa.table({"node": ends}))
    rows = forms.join(wanted, "node", "left_semi").select("node", "doc_id", "length").collect()
    width = config.containment.shingle_characters
    shingles = shingles_of([(row["node"], row["doc_id"], INCOMING) for row in rows], places, config, context, width)
    facts = {row["node"]: (row["length"], row["doc_id"]) for row in rows}
    return contained_in(pairs, shingles, facts, config.containment.threshold)


def _numbers(decided: DataFrame, facts: Facts) -> dict[str, Any]:
    from pyspark.sql import functions as F

    clusters = decided.where("keep").select("cluster_size", "cluster_id").distinct()
    sizes = clusters.groupBy("cluster_size").count().collect()
    by_source = decided.groupBy("source", "reason").count().collect()
    step = F.floor(F.col("signals")["duplicate_similarity"] * 20 + F.lit(1e-9)).cast("int").alias("step")
    steps = decided.where("reason = 'near_duplicate'").groupBy(step).count().collect()
    return numbers_of(
        {row["cluster_size"]: row["count"] for row in sizes},
        [{"source": row["source"], "reason": row["reason"], "count_all": row["count"]} for row in by_source],
        {row["step"]: row["count"] for row in steps},
        facts,
    )


def _examples(decided: DataFrame) -> pa.Table:
    from pyspark.sql import functions as F

    near = decided.where("reason = 'near_duplicate'")
    rows = near.orderBy(F.col("signals")["duplicate_similarity"], "doc_id").limit(EXAMPLE_ROWS).toArrow()
    return rows.cast(DECIDED_SCHEMA)
