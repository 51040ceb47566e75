"""The deduplicate stage: exact groups, then near-duplicates among their representatives, one survivor a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from hyperclova_core.corpus.deduplicate.config import DeduplicateConfig
from hyperclova_core.foundation.documents import TIERS
from hyperclova_core.foundation.hashing import digest128
from hyperclova_core.foundation.stages import Decisions, StageContext, corpus_stage
from hyperclova_core.korean.hangul import comparison_form

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

NARROW = pa.schema(
    [
        ("doc_id", pa.string()),
        ("tier", pa.int32()),
        ("length", pa.int64()),
        ("earliest", pa.int64()),
        ("exact", pa.string()),
        ("signature", pa.binary()),
    ]
)
_UNKNOWN_TIME = 2**62


def narrow(documents: pa.RecordBatch, config: DeduplicateConfig, context: StageContext) -> pa.RecordBatch:
    """What duplicate detection needs of each document: a hash of its comparison form, its signature, its rank."""
    from hyperclova_core.corpus.deduplicate.signatures import signatures

    forms = [comparison_form(text) for text in documents.column("text").to_pylist()]
    minima = signatures(forms, config.shingle_characters, config.permutations)
    enough = [len(form) - config.shingle_characters + 1 >= config.min_shingles for form in forms]
    published = pc.fill_null(documents.column("published_at").cast(pa.int64()), _UNKNOWN_TIME)
    return pa.RecordBatch.from_arrays(
        [
            documents.column("doc_id"),
            pa.array([TIERS.index(tier) for tier in documents.column("source_tier").to_pylist()], pa.int32()),
            pa.array([len(form) for form in forms], pa.int64()),
            published,
            pa.array([digest128(form.encode("utf-8", "surrogatepass")) for form in forms], pa.string()),
            pa.array([row.tobytes() if long else None for row, long in zip(minima, enough, strict=True)], pa.binary()),
        ],
        schema=NARROW,
    )


@corpus_stage("deduplicate", version="1", restricted=True, project=narrow, project_schema=NARROW)
def deduplicate(documents: DataFrame, config: DeduplicateConfig, context: StageContext) -> Decisions:
    """Decide for each document whether it survives; the survivor has the best (tier, length, earliest, doc_id).

    Candidates are star edges: each document of a band bucket with the smallest doc_id in it. Linear, never all pairs.
    """
    from pyspark.sql import functions as F

    rows = documents.withColumn(
        "rank", F.struct("tier", (-F.col("length")).alias("shorter"), "earliest", "doc_id")
    ).persist()
    groups = rows.groupBy("exact").agg(F.min("rank").alias("best"), F.count("*").alias("copies"))
    groups = groups.select("exact", F.col("best.doc_id").alias("representative"), "copies")
    representatives = (
        rows.join(groups, rows.doc_id == groups.representative, "left_semi").where("signature is not null").persist()
    )

    bands = _bands(representatives, config).persist()
    stars = (
        bands.groupBy("band", "key")
        .agg(F.min("doc_id").alias("left"), F.count("*").alias("size"))
        .where("size > 1")
        .persist()
    )
    candidates = (
        bands.join(stars, ["band", "key"])
        .where("doc_id != left")
        .select("left", F.col("doc_id").alias("right"))
        .distinct()
    )
    members = _clusters(_verified(candidates, representatives, config), representatives, config, context)
    templates = _templates(stars, config)

    decided = (
        rows.select("doc_id", "exact")
        .join(groups, "exact")
        .join(members, F.col("representative") == F.col("member"), "left")
    )
    survivor = F.coalesce("survivor", "representative")
    copy = F.col("doc_id") != F.col("representative")
    near = F.when(copy, F.lit(1.0)).otherwise(F.coalesce("member_similarity", F.lit(1.0)))
    decided = decided.select("doc_id", survivor.alias("survivor"), copy.alias("copy"), near.alias("similarity"))
    sizes = decided.groupBy("survivor").agg(
        F.count("*").cast("int").alias("cluster_size"), F.min("doc_id").alias("cluster_id")
    )
    decided = decided.join(sizes, "survivor")
    keep = F.col("doc_id") == F.col("survivor")
    reason = F.when(keep, F.lit("")).when(F.col("copy"), F.lit("exact_duplicate")).otherwise(F.lit("near_duplicate"))
    frame = decided.select(
        "doc_id",
        keep.alias("keep"),
        reason.alias("reason"),
        F.when(keep, F.lit("")).otherwise(F.concat(F.lit("survivor "), "survivor")).alias("detail"),
        "cluster_id",
        "cluster_size",
        F.when(keep, F.create_map().cast("map<string,double>"))
        .otherwise(F.create_map(F.lit("duplicate_similarity"), F.round("similarity", 4)))
        .alias("signals"),
    )
    return Decisions(
        frame,
        ("cluster_id", "cluster_size", "signals"),
        custom={"template_buckets": float(len(templates))},
        info={"templates": templates},
    )


def _bands(representatives: DataFrame, config: DeduplicateConfig) -> DataFrame:
    def explode(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import numpy as np

        from hyperclova_core.corpus.deduplicate.signatures import band_keys

        for batch in batches:
            if batch.num_rows == 0:
                continue
            minima = _minima(batch.column("signature"), config)
            keys = band_keys(minima, config.bands, config.rows)
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array(np.tile(np.arange(config.bands, dtype=np.int32), batch.num_rows)),
                    pa.array(keys.ravel()),
                    batch.column("doc_id").take(pa.array(np.repeat(np.arange(batch.num_rows), config.bands))),
                ],
                names=["band", "key", "doc_id"],
            )

    return representatives.select("doc_id", "signature").mapInArrow(explode, "band int, key long, doc_id string")


def _minima(column: pa.Array, config: DeduplicateConfig) -> Any:
    import numpy as np

    return np.frombuffer(b"".join(column.to_pylist()), np.uint32).reshape(len(column), config.permutations)


def _verified(candidates: DataFrame, representatives: DataFrame, config: DeduplicateConfig) -> DataFrame:
    """Candidates whose full signatures agree from the threshold on."""
    from pyspark.sql import functions as F

    left = representatives.select(F.col("doc_id").alias("left"), F.col("signature").alias("left_signature"))
    right = representatives.select(F.col("doc_id").alias("right"), F.col("signature").alias("right_signature"))

    def verify(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from hyperclova_core.corpus.deduplicate.signatures import similarity

        for batch in batches:
            if batch.num_rows == 0:
                continue
            values = similarity(
                _minima(batch.column("left_signature"), config), _minima(batch.column("right_signature"), config)
            )
            yield batch.select(["left", "right"]).filter(pa.array(values >= config.threshold))

    joined = (
        candidates.join(left, "left").join(right, "right").select("left", "right", "left_signature", "right_signature")
    )
    return joined.mapInArrow(verify, "left string, right string")


def _clusters(
    edges: DataFrame, representatives: DataFrame, config: DeduplicateConfig, context: StageContext
) -> DataFrame:
    """Members of clusters of two or more representatives, with their survivor."""
    import numpy as np
    from pyspark.sql import functions as F

    from hyperclova_core.corpus.deduplicate.components import connected_components, split_by_survivor

    assert context.engine is not None
    pairs = [(row["left"], row["right"]) for row in edges.toArrow().to_pylist()]
    components = connected_components(pairs)
    spark = context.engine.spark()
    involved = spark.createDataFrame(
        pa.table(
            {"doc_id": sorted({node for component in components for node in component})},
            schema=pa.schema([("doc_id", pa.string())]),
        )
    )
    details = (
        representatives.join(F.broadcast(involved), "doc_id", "left_semi")
        .select("doc_id", "tier", "length", "earliest", "signature")
        .toArrow()
    )
    ranks = {
        row["doc_id"]: (row["tier"], -row["length"], row["earliest"], row["doc_id"])
        for row in details.drop(["signature"]).to_pylist()
    }
    minima = {
        row["doc_id"]: np.frombuffer(row["signature"], np.uint32)
        for row in details.select(["doc_id", "signature"]).to_pylist()
    }
    members = [
        member for component in components for member in split_by_survivor(component, ranks, minima, config.threshold)
    ]
    schema = pa.schema([("member", pa.string()), ("survivor", pa.string()), ("member_similarity", pa.float64())])
    rows = [{"member": m.doc_id, "survivor": m.survivor, "member_similarity": m.similarity} for m in members]
    return spark.createDataFrame(pa.Table.from_pylist(rows, schema))


def _templates(stars: DataFrame, config: DeduplicateConfig) -> list[dict[str, Any]]:
    """Band buckets above the cap: texts so common that they are templates rather than copies."""
    from pyspark.sql import functions as F

    found = stars.where(F.col("size") > config.max_bucket).groupBy("left").agg(F.max("size").alias("size"))
    return [
        {"doc_id": row["left"], "size": row["size"]}
        for row in found.orderBy(F.desc("size"), "left").limit(20).collect()
    ]
