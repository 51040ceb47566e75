"""Look-ups in sorted arrays: no table is built a batch, as `np.isin` and `pyarrow.compute.is_in` do."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def among(values: npt.NDArray[Any], known: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which values `known` holds, shape of `values`; `known` is sorted. log2(len(known)) steps a value."""
    if not len(known):
        return np.zeros(len(values), np.bool_)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    found: npt.NDArray[np.bool_] = known[places] == values
    return found
