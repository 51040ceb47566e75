"""Connected components of the verified edges: in the driver while they are few, else by alternating large-star and small-star
(Kiveris et al. 2014, "Connected Components in MapReduce and Beyond") over DataFrames. Both label a node with the smallest
node of its component, so which one ran cannot be seen in the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hyperclova_core.corpus.deduplicate.schemas import LABELS_SCHEMA
from hyperclova_core.foundation.errors import HyperclovaError
from hyperclova_core.foundation.stages.kinds import StageContext
from hyperclova_core.foundation.stages.spark_frames import materialized, of_table

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

MOST_ROUNDS = 60


def label_components(edges: DataFrame, context: StageContext, driver_edges: int) -> DataFrame:
    """(node, component) of every node that has an edge; `edges` has left, right."""
    pairs = edges.select("left", "right")
    head = pairs.limit(driver_edges + 1).toArrow()
    if head.num_rows <= driver_edges:
        nodes, labels = components_of(head.column("left").to_numpy(), head.column("right").to_numpy())
        return of_table(context, pa.table([nodes, labels], schema=LABELS_SCHEMA))
    return stars(pairs, context)


def components_of(
    left: npt.NDArray[np.int64], right: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(nodes, the smallest node of each one's component), nodes ascending."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes, index = np.unique(np.concatenate([left, right]), return_inverse=True)
    if not len(nodes):
        return nodes, nodes
    ones = np.ones(len(left), np.int8)
    graph = coo_array((ones, (index[: len(left)], index[len(left) :])), shape=(len(nodes), len(nodes)))
    _, numbers = connected_components(graph, directed=False)
    first = np.full(int(numbers.max()) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, numbers, nodes)
    return nodes, first[numbers]


def stars(pairs: DataFrame, context: StageContext) -> DataFrame:
    """Components of any number of edges: every round is written down, so no plan grows, and a lost executor costs a round.

    Raises:
        HyperclovaError: no end after `MOST_ROUNDS` rounds (log² of the nodes suffice in theory, a handful in practice).
    """
    from pyspark.sql import functions as F

    ends = pairs.select(F.greatest("left", "right").alias("u"), F.least("left", "right").alias("v"))
    current = materialized(context, ends.where("u != v").distinct(), "components/round-000").frame()
    before: tuple[int, int] | None = None
    for number in range(1, MOST_ROUNDS + 1):
        current = materialized(context, _small_star(_large_star(current)), f"components/round-{number:03d}").frame()
        state = current.agg(F.count("*"), F.sum(F.xxhash64("u", "v").cast("decimal(38,0)"))).collect()[0]
        now = (int(state[0]), int(state[1] or 0))
        if now == before:
            roots = current.select("v").distinct()
            return current.selectExpr("u as node", "v as component").union(
                roots.selectExpr("v as node", "v as component")
            )
        before = now
    raise HyperclovaError(
        "Connected components did not settle",
        where=context.target.uri,
        why=f"{MOST_ROUNDS} rounds",
        remedy="this is a bug",
    )


def _large_star(edges: DataFrame) -> DataFrame:
    """Each node links its larger neighbours to the smallest node around it."""
    from pyspark.sql import functions as F

    both = edges.union(edges.selectExpr("v as u", "u as v"))
    smallest = both.groupBy("u").agg(F.least(F.min("v"), F.col("u")).alias("m"))
    return both.where("v > u").join(smallest, "u").select(F.col("v").alias("u"), F.col("m").alias("v")).distinct()


def _small_star(edges: DataFrame) -> DataFrame:
    """Each node links its smaller neighbours, and itself, to the smallest of them."""
    from pyspark.sql import functions as F

    down = edges.select(F.greatest("u", "v").alias("u"), F.least("u", "v").alias("v")).where("u != v")
    smallest = down.groupBy("u").agg(F.min("v").alias("m"))
    linked = down.join(smallest, "u").select(F.col("v").alias("u"), F.col("m").alias("v"))
    return linked.union(smallest.selectExpr("u", "m as v")).where("u != v").distinct()
