"""Select: documents bucketed by quality, popularity, reliability and cluster size; the least of each source left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from hyperclova_core.foundation.config import Config
from hyperclova_core.foundation.stages.kinds import Decisions, StageContext, corpus_stage
from hyperclova_core.foundation.stages.percent_ranks import with_group_size, with_percent_rank

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


class SelectConfig(Config):
    """A document's score is the weighted mean of what is known of it; sources are ranked within themselves."""

    quality_weight: float = Field(1.0, gt=0)
    popularity_weight: float = Field(0.5, ge=0)
    reliability_weight: float = Field(0.5, ge=0)
    min_percentile: float = Field(0.0, ge=0, lt=1, description="documents of a source below it are left out")
    min_source_documents: int = Field(50, ge=1, description="sources with fewer documents are kept whole")
    high_from: float = Field(2 / 3, gt=0, le=1)
    middle_from: float = Field(1 / 3, gt=0, le=1)


@corpus_stage(
    "select", version="1", columns=("doc_id", "source", "popularity", "reliability", "signals", "cluster_size")
)
def select(documents: DataFrame, config: SelectConfig, context: StageContext) -> Decisions:
    """Set `quality` (percentile within source of the filter's `quality_raw`) and the signal `selection_bucket` 0, 1, 2.

    A text that many published (a middle-sized cluster) is a little more worth keeping than one that nobody copied
    (FineWeb2's removal rates by cluster size): ln(cluster_size), at most ln 16, adds up to a tenth.
    """
    from pyspark.sql import functions as F

    raw = F.round(F.coalesce(F.col("signals")["quality_raw"], F.lit(0.0)), 9)
    rows = with_percent_rank(documents.withColumn("quality_raw", raw), "source", ("quality_raw",), "quality", context)
    rows = rows.withColumn("quality", F.round("quality", 6))
    copies = (
        0.1
        * F.least(F.log(F.coalesce(F.col("cluster_size"), F.lit(1)).cast("double")), F.log(F.lit(16.0)))
        / F.log(F.lit(16.0))
    )
    total, weights = config.quality_weight * F.col("quality") + copies, F.lit(config.quality_weight)
    for name, weight in (("popularity", config.popularity_weight), ("reliability", config.reliability_weight)):
        total = total + F.when(F.col(name).isNotNull(), F.lit(weight) * F.col(name)).otherwise(F.lit(0.0))
        weights = weights + F.when(F.col(name).isNotNull(), F.lit(weight)).otherwise(F.lit(0.0))
    rows = rows.withColumn("score", F.round(total / weights, 9))
    rows = with_percent_rank(rows, "source", ("score", "doc_id"), "percentile", context)
    rows = with_group_size(rows, "source", "among", context)
    keep = (F.col("percentile") >= config.min_percentile) | (F.col("among") < config.min_source_documents)
    bucket = (
        F.when(F.col("percentile") >= config.high_from, 2.0)
        .when(F.col("percentile") >= config.middle_from, 1.0)
        .otherwise(0.0)
    )
    frame = rows.select(
        "doc_id",
        keep.alias("keep"),
        F.when(keep, F.lit("")).otherwise(F.lit("below_selection_percentile")).alias("reason"),
        F.when(keep, F.lit(""))
        .otherwise(F.concat(F.lit("percentile "), F.round("percentile", 4).cast("string")))
        .alias("detail"),
        "quality",
        F.create_map(F.lit("selection_bucket"), bucket, F.lit("selection_score"), F.col("score")).alias("signals"),
    )
    return Decisions(frame, ("quality", "signals"))
