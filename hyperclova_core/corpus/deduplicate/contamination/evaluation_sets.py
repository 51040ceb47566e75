"""Evaluation sets: reading their items, and naming their contents."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

import pyarrow as pa

from hyperclova_core.corpus.deduplicate.config import DecontaminateConfig, EvaluationSet
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.hashing import digest128

ITEMS_SCHEMA = pa.schema([("name", pa.string()), ("text", pa.string())])


def items_of(config: DecontaminateConfig) -> pa.Table:
    """All items of all sets, named `set:id`.

    Raises:
        DataError: naming the file, the line, and what it lacks.
    """
    rows = [
        (f"{item_set.name}:{'_'.join(key.split())}", text)
        for item_set in config.sets
        for key, text in read_items(item_set)
    ]
    return pa.table([[name for name, _ in rows], [text for _, text in rows]], schema=ITEMS_SCHEMA)


def checksums(config: DecontaminateConfig) -> dict[str, str]:
    """Set → hash of its file: part of the stage's fingerprint.

    Raises:
        DataError: a file is not there.
    """
    found = {}
    for item in config.sets:
        path = storage.data_path(item.path)
        try:
            found[f"evaluation set {item.name}"] = digest128(storage.read_bytes(path))
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            raise DataError(
                f"The evaluation set {item.name} cannot be read",
                where=path,
                why=error.strerror or type(error).__name__,
                remedy="correct `deduplicate.decontaminate.sets`: without it documents would pass unchecked",
            ) from error
    return found


def read_items(item_set: EvaluationSet) -> Iterator[tuple[str, str]]:
    """(id, text) of each item of a file.

    Raises:
        DataError: naming the file, the line, and what it lacks.
    """
    path = storage.data_path(item_set.path)
    text = storage.read_bytes(path).decode("utf-8-sig")
    if path.endswith((".jsonl", ".ndjson")):
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                    yield str(row.get(item_set.id_column, number)), str(row[item_set.column])
                except (ValueError, KeyError, AttributeError) as error:
                    raise _no_item(path, number, item_set, error) from error
        return
    rows = csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    if item_set.column not in (rows.fieldnames or []):
        raise _no_item(path, 1, item_set, KeyError(item_set.column))
    for number, row in enumerate(rows, start=2):
        yield str(row.get(item_set.id_column) or number), str(row[item_set.column] or "")


def _no_item(path: str, line: int, item_set: EvaluationSet, error: Exception) -> DataError:
    return DataError(
        f"The evaluation set {item_set.name} is not as its configuration says",
        where=f"{path}:{line}",
        why=f"no `{item_set.column}`" if isinstance(error, KeyError) else str(error),
        remedy="give the column (TSV with a header line) or field (JSONL) of the item's text as `column`",
    )
