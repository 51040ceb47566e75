"""Retries with jittered back-off, for a remote store whose answers are sometimes late, broken or 'slow down'.

The wait before try n is drawn evenly from 0 to min(cap, base * 2^n) seconds ("full jitter": Brooker, "Exponential
Backoff and Jitter", AWS Architecture Blog, 2015), so that many workers do not come back in step.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable
from typing import TypeVar

from hyperclova_core.foundation.errors import TransientError

log = logging.getLogger(__name__)

BASE_SECONDS = 0.2
CAP_SECONDS = 20.0
TRIES_VARIABLE = "HYPERCLOVA_S3_TRIES"
DEFAULT_TRIES = 8

Result = TypeVar("Result")


def tries() -> int:
    """How often an operation is tried: HYPERCLOVA_S3_TRIES, else 8 (about half a minute of waiting on the average)."""
    return max(1, int(os.environ.get(TRIES_VARIABLE, DEFAULT_TRIES)))


def with_retries(
    operation: Callable[[], Result], what: str, where: str, reason_to_retry: Callable[[Exception], str | None]
) -> Result:
    """The operation's result; its error is raised at once unless `reason_to_retry` knows it as one that may pass.

    Raises:
        TransientError: the last try failed as well.
    """
    limit = tries()
    for attempt in range(1, limit + 1):
        try:
            return operation()
        except Exception as error:
            reason = reason_to_retry(error)
            if reason is None:
                raise
            if attempt == limit:
                raise TransientError(
                    f"The object store did not answer: {what}",
                    where=where,
                    why=f"{reason}, in {limit} tries",
                    remedy="try again later; finished work is kept and taken over"
                    f" ({TRIES_VARIABLE} sets the number of tries)",
                ) from None
            wait = random.uniform(0, min(CAP_SECONDS, BASE_SECONDS * 2**attempt))  # noqa: S311 - no secret
            log.info("%s %s: %s; try %d of %d in %.1f s", what, where, reason, attempt + 1, limit, wait)
            time.sleep(wait)
    raise AssertionError("unreachable")
