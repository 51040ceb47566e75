"""Parameters of duplicate detection."""

from __future__ import annotations

from pydantic import Field

from hyperclova_core.foundation.config import Config


class DeduplicateConfig(Config):
    """Shingles are of characters without spaces: Korean spacing varies between copies of one text.

    A pair of Jaccard similarity s becomes a candidate with probability 1 - (1 - s^rows)^bands (Leskovec, Rajaraman,
    Ullman: Mining of Massive Datasets, 3.4); every candidate is verified before it counts.
    """

    shingle_characters: int = Field(9, ge=3, le=32)
    bands: int = Field(16, ge=1, le=256)
    rows: int = Field(7, ge=1, le=32)
    threshold: float = Field(
        0.75, gt=0, le=1, description="share of equal minima from which two documents are near-duplicates"
    )
    min_shingles: int = Field(16, ge=1, description="shorter documents are compared exactly only")
    max_bucket: int = Field(
        10_000, ge=2, description="a band bucket above it is a template: reported, its edges still verified"
    )

    @property
    def permutations(self) -> int:
        """Minima a signature holds."""
        return self.bands * self.rows
