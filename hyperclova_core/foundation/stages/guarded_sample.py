"""What gates look for in a sample, in a process for content: the driver of a run must not hang on a document."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pyarrow as pa

from hyperclova_core.foundation.stages.content_limits import ContentLimits
from hyperclova_core.foundation.stages.content_process import Answer, ContentProcess, TrippedError

Counter = Callable[[list[str]], list[int]]
"""Texts → finds in each."""
PART_ROWS = 256


def counted(counter: Counter, texts: pa.Array, limits: ContentLimits = ContentLimits()) -> list[int]:  # noqa: B008 - a value
    """Finds in each text; one on which the counter breaks a limit has one: it cannot be said that it has none."""

    def work(request: Answer) -> Iterator[Answer]:
        yield Answer({"counts": counter(request.tables[0].column(0).to_pylist())}, [])

    found: list[int] = []
    process: ContentProcess | None = None

    def ask(part: pa.Array) -> list[int]:
        nonlocal process
        if process is None or not process.alive:
            process = ContentProcess(work, limits)
        request = Answer({}, [pa.RecordBatch.from_arrays([part], ["text"])])
        (answer,) = process.ask(request, limits.batch_seconds(part.nbytes))
        counts: list[int] = answer.told["counts"]
        return counts

    try:
        for first in range(0, len(texts), PART_ROWS):
            part = texts.slice(first, PART_ROWS)
            try:
                found += ask(part)
            except TrippedError:
                for at in range(len(part)):
                    try:
                        found += ask(part.slice(at, 1))
                    except TrippedError:
                        found.append(1)
    finally:
        if process is not None:
            process.close()
    return found


def matches(pattern: str, texts: list[str]) -> list[int]:
    """1 for each text that a pattern of the recipe is found in."""
    compiled = re.compile(pattern)
    return [int(compiled.search(text) is not None) for text in texts]
