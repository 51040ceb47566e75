"""Enrich: threads rebuilt, categories named, popularity and reliability as percentiles within a source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.stages.kinds import Decisions, StageContext, corpus_stage
from hyperclova_core.foundation.stages.percent_ranks import with_percent_rank

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


class EnrichConfig(Config):
    """What counts how much. Weights apply to ln(1 + value) of a document's own evidence."""

    categories: dict[str, str] = Field(default_factory=dict, description="source → category where a document has none")
    popularity_weights: dict[str, float] = Field(
        default_factory=lambda: {
            "views": 0.25,
            "likes": 1.0,
            "votes": 1.0,
            "sympathy": 1.0,
            "comments": 0.5,
            "shares": 1.0,
            "dislikes": -0.5,
        }
    )
    accepted_weight: float = Field(2.0, description="of an accepted answer, for reliability")
    activity_weight: float = Field(1.0, description="of ln(documents by the same user), for reliability")
    agreement_weight: float = Field(1.0, description="of (likes - dislikes) / (likes + dislikes + 1), for reliability")


@corpus_stage(
    "enrich",
    version="1",
    columns=("doc_id", "source", "source_id", "user_id", "thread_id", "published_at", "category", "signals"),
)
def enrich(documents: DataFrame, config: EnrichConfig, context: StageContext) -> Decisions:
    """Set `turn`, `category`, `popularity`, `reliability`; drops nothing. A document without evidence has null."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    def evidence(name: str) -> Column:
        return F.greatest(F.coalesce(F.col("signals")[name], F.lit(0.0)), F.lit(0.0))

    known = F.array_intersect(
        F.map_keys("signals"), F.array(*(F.lit(name) for name in sorted(config.popularity_weights)))
    )
    terms = [F.lit(weight) * F.log1p(evidence(name)) for name, weight in sorted(config.popularity_weights.items())]
    popularity_raw = F.lit(0.0)
    for term in terms:
        popularity_raw = popularity_raw + term
    likes, dislikes = evidence("likes") + evidence("sympathy"), evidence("dislikes")

    def alone(name: str) -> Column:
        """A key for rows that have none: what is not known of them is no group, and would be the largest one of all."""
        return F.when(F.col(name).isNull(), F.col("doc_id"))

    by_user = Window.partitionBy("source", "user_id", alone("user_id"))
    activity = F.when(F.col("user_id").isNull(), F.lit(0.0)).otherwise(F.log(F.count("*").over(by_user).cast("double")))
    reliability_raw = (
        config.accepted_weight * evidence("accepted")
        + config.activity_weight * activity
        + config.agreement_weight * (likes - dislikes) / (likes + dislikes + F.lit(1.0))
    )
    has_reliability = (
        F.col("user_id").isNotNull() | F.col("signals")["accepted"].isNotNull() | F.col("signals")["likes"].isNotNull()
    )
    rows = documents.withColumn("popularity_raw", F.when(F.size(known) > 0, F.round(popularity_raw, 9)))
    rows = rows.withColumn("reliability_raw", F.when(has_reliability, F.round(reliability_raw, 9)))
    for name in ("popularity", "reliability"):
        rows = with_percent_rank(rows, "source", (f"{name}_raw",), name, context).withColumn(name, F.round(name, 6))
    in_thread = Window.partitionBy("source", "thread_id", alone("thread_id")).orderBy(
        F.col("published_at").asc_nulls_last(), "source_id", "doc_id"
    )
    turn = F.when(F.col("thread_id").isNotNull(), F.row_number().over(in_thread) - 1).cast("int")
    category = F.col("category")
    if config.categories:
        pairs = [F.lit(part) for pair in sorted(config.categories.items()) for part in pair]
        category = F.coalesce(category, F.create_map(*pairs)[F.col("source")])
    frame = rows.select(
        "doc_id",
        F.lit(True).alias("keep"),
        F.lit("").alias("reason"),
        F.lit("").alias("detail"),
        turn.alias("turn"),
        category.alias("category"),
        "popularity",
        "reliability",
    )
    return Decisions(frame, ("turn", "category", "popularity", "reliability"))
