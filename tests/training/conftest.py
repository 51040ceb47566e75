"""Shards and forking ranks, once for all tests of training."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.training.cases import write_shards
from tests.training.forked_ranks import Ranks


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two shards of learnable text."""
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """What starts ranks quickly."""
    started = Ranks()
    yield started
    started.close()
