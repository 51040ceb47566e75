"""Counts of what went in and what became of it, gathered where the rows pass, so that no second pass is needed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from hyperclova_core.foundation.datasets.manifest import Counters


class Tally:
    """Mergeable counters of one unit or stage."""

    def __init__(self) -> None:
        self.rows_in = self.fan_out = self.kept = self.text_bytes_in = self.text_bytes_kept = 0
        self.rejected: Counter[str] = Counter()
        self.quarantined: Counter[str] = Counter()
        self.by_source: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.rejected_bytes: Counter[str] = Counter()
        self.quarantined_bytes: Counter[str] = Counter()
        self.custom: Counter[str] = Counter()

    def see_in(self, documents: pa.RecordBatch) -> None:
        """Documents that came in."""
        self.rows_in += documents.num_rows
        self.text_bytes_in += _text_bytes(documents)
        self._by_source(documents, "in")

    def see_kept(self, documents: pa.RecordBatch) -> None:
        """Documents that go on."""
        self.kept += documents.num_rows
        self.text_bytes_kept += _text_bytes(documents)
        self._by_source(documents, "kept")

    def see_rejected(self, documents: pa.RecordBatch, reasons: Iterable[str]) -> None:
        """Documents that fall out, one reason each."""
        reasons = list(reasons)
        self.rejected.update(reasons)
        if reasons:
            lengths = pc.binary_length(documents.column("text")).to_pylist()
            for reason, length in zip(reasons, lengths, strict=True):
                self.rejected_bytes[reason] += length
        self._by_source(documents, "rejected")

    def see_quarantined(self, source: str, reason: str, raw_bytes: int, rows: int = 1) -> None:
        """Records that cannot be read."""
        self.quarantined[reason] += rows
        self.quarantined_bytes[reason] += raw_bytes
        self.by_source[source]["quarantined"] += rows

    def see_all_quarantined(self, rows: pa.RecordBatch) -> None:
        """Rows of QUARANTINE_SCHEMA."""
        for row in rows.select(["source", "reason", "raw_bytes"]).to_pylist():
            self.see_quarantined(row["source"], row["reason"], row["raw_bytes"])

    def _by_source(self, documents: pa.RecordBatch, what: str) -> None:
        if documents.num_rows:
            for item in pc.value_counts(documents.column("source")).to_pylist():
                self.by_source[item["values"]][what] += item["counts"]

    def merge(self, other: Counters) -> None:
        """Add the counts of another tally."""
        for name in ("rows_in", "fan_out", "kept", "text_bytes_in", "text_bytes_kept"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.rejected.update(other.rejected)
        self.quarantined.update(other.quarantined)
        self.rejected_bytes.update(other.rejected_bytes)
        self.quarantined_bytes.update(other.quarantined_bytes)
        self.custom.update(other.custom)
        for source, counts in other.by_source.items():
            self.by_source[source].update(counts)

    def counters(self) -> Counters:
        """The manifest's form, keys sorted."""
        return Counters(
            rows_in=self.rows_in,
            fan_out=self.fan_out,
            kept=self.kept,
            rejected=dict(sorted(self.rejected.items())),
            quarantined=dict(sorted(self.quarantined.items())),
            text_bytes_in=self.text_bytes_in,
            text_bytes_kept=self.text_bytes_kept,
            rejected_bytes=dict(sorted(self.rejected_bytes.items())),
            quarantined_bytes=dict(sorted(self.quarantined_bytes.items())),
            by_source={source: dict(sorted(counts.items())) for source, counts in sorted(self.by_source.items())},
            custom=dict(sorted(self.custom.items())),
        )


def _text_bytes(documents: pa.RecordBatch) -> int:
    if documents.num_rows == 0:
        return 0
    return int(pc.sum(pc.binary_length(documents.column("text"))).as_py() or 0)
