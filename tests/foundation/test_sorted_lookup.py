"""Look-ups in sorted arrays, and groups out of sorted batches however long one is."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from hyperclova_core.foundation.sorted_lookup import among
from hyperclova_core.foundation.stages.spark_frames import grouped_chunks


@given(st.lists(st.integers(-5, 5)), st.lists(st.integers(-5, 5)))
def test_it_is_what_isin_says(values: list[int], known: list[int]) -> None:
    wanted, held = np.array(values, np.int64), np.unique(np.array(known, np.int64))
    assert among(wanted, held).tolist() == np.isin(wanted, held).tolist()


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 7), st.integers(1, 9))
def test_a_group_is_never_cut(keys: list[int], batch: int, rows: int) -> None:
    ordered = np.sort(np.array(keys, np.int64))
    batches = pa.table({"key": ordered}).to_batches(max_chunksize=batch)
    chunks = [chunk.column("key").to_pylist() for chunk in grouped_chunks(iter(batches), "key", rows)]
    assert [key for chunk in chunks for key in chunk] == ordered.tolist()
    assert all(not set(one) & set(other) for at, one in enumerate(chunks) for other in chunks[at + 1 :])


def test_a_hot_key_takes_time_by_its_rows_not_by_their_square() -> None:
    def seconds(rows: int) -> float:
        table = pa.table({"key": np.zeros(rows, np.int64)})
        started = time.process_time()
        assert (
            sum(chunk.num_rows for chunk in grouped_chunks(iter(table.to_batches(max_chunksize=1024)), "key", 8192))
            == rows
        )
        return time.process_time() - started

    few, many = min(seconds(200_000) for _ in range(3)), min(seconds(1_600_000) for _ in range(3))
    assert many < 30 * max(few, 0.002), "8 × the rows; their square would be 64 ×"
