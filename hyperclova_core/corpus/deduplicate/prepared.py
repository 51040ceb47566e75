"""What a comparison is given: its documents, the history it is held against, what was removed."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa

from hyperclova_core.corpus.deduplicate.schemas import DOCUMENTS_SCHEMA, TextPlace
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.dataset import Dataset
from hyperclova_core.foundation.datasets.manifest import Table

COLUMNS = ("cluster_id", "cluster_size", "signals")


@dataclass
class Prepared:
    """What deduplication starts from.

    Attributes:
        sketches: a file a bucket, of SKETCH_SCHEMA.
        signed, fingerprints: how many signatures and fingerprints they hold.
        boilerplate: the lines that are cut.
        place: where the texts lie.
        tables: tables of the output that are written already.
    """

    dataset: Dataset
    sketches: list[str]
    signed: int
    fingerprints: int
    boilerplate: pa.Table
    place: TextPlace
    tables: dict[str, Table] = field(default_factory=dict)

    def table(self) -> pa.Table:
        """DOCUMENTS_SCHEMA of all documents, sorted by doc_id."""
        parts = [storage.read_parquet(path, DOCUMENTS_SCHEMA.names).cast(DOCUMENTS_SCHEMA) for path in self.sketches]
        return pa.concat_tables(parts).combine_chunks()
