"""Parameters of duplicate detection."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hyperclova_core.foundation.config import NO_IDENTITY, Config


class BoilerplateConfig(Config):
    """Lines and paragraphs that many documents of one site share (the URL's host; the source where there is no URL)."""

    enabled: bool = True
    min_documents: int = Field(20, ge=2, description="documents of the site that hold it, at least")
    min_share: float = Field(0.02, ge=0, le=1, description="of the site's documents, at least")
    min_letters: int = Field(8, ge=1, description="shorter lines are cut only as part of a repeated paragraph")
    min_remaining: int = Field(
        40,
        ge=1,
        description="letters that must remain: a document that is little else is left whole, and is compared as it is",
    )


class ContainmentConfig(Config):
    """A document quoted whole inside another: found by shared winnowing fingerprints (Schleimer et al. 2003)."""

    action: Literal["off", "report", "drop"] = Field("report", description="drop: the contained document falls out")
    shingle_characters: int = Field(24, ge=8, le=64)
    window: int = Field(
        100, ge=8, description="a passage of window + shingle - 1 letters shares a fingerprint for certain"
    )
    min_letters: int = Field(400, ge=1, description="shorter documents are not looked for in others")
    threshold: float = Field(0.8, gt=0, le=1, description="share of the document's shingles that the other holds")
    max_documents: int = Field(50, ge=2, description="a fingerprint in more documents says nothing")


class NumbersConfig(Config):
    """Documents whose wording is one and whose numbers are not (weather reports, prices, laws): which of them are kept."""

    keep_sources: tuple[str, ...] = Field(
        (), description="of these sources (patterns) every document stays that differs from the survivor in any number"
    )
    min_differing: int = Field(
        2, ge=1, description="of other sources, one stays that differs in at least so many numbers"
    )
    min_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="… and in at least this share of its numbers: a page with another view count does not",
    )


class EvaluationSet(Config):
    """Items whose presence in the corpus would spoil an evaluation. TSV (one column named), or JSONL (one field)."""

    name: str = Field(min_length=1, pattern=r"^[a-z0-9_\\-]+$")
    path: str = Field(
        json_schema_extra=NO_IDENTITY, description="relative paths start at HYPERCLOVA_DATA, or at the current folder"
    )
    column: str = Field("document", description="of the item's text")
    id_column: str = Field("id", description="of the item's id; the line number where there is none")


class DecontaminateConfig(Config):
    """Documents that hold an evaluation item are dropped, and listed by item."""

    sets: tuple[EvaluationSet, ...] = ()
    ngram: int = Field(
        13, ge=2, description="eojeols in a row that an item and a document share (Brown et al. 2020, C)"
    )
    min_letters: int = Field(
        20, ge=8, description="an item (or n-gram) of so many letters is looked for inside documents"
    )
    min_letters_whole: int = Field(
        8, ge=1, description="a shorter item, from so many letters on, counts only where it is the whole document"
    )


class DeduplicateConfig(Config):
    """Shingles are of characters without spaces: Korean spacing varies between copies of one text.

    A pair of Jaccard similarity s becomes a candidate with probability 1 - (1 - s^rows)^bands (Leskovec, Rajaraman,
    Ullman: Mining of Massive Datasets, 3.4); every candidate is verified before it counts. How the values were chosen:
    docs/deduplication.md.
    """

    shingle_characters: int = Field(5, ge=3, le=32)
    bands: int = Field(20, ge=1, le=256)
    rows: int = Field(6, ge=1, le=32)
    threshold: float = Field(
        0.7, gt=0, le=1, description="Jaccard similarity from which two documents are near-duplicates"
    )
    grey_zone: float = Field(
        0.1, ge=0, le=1, description="an estimate so near the threshold is replaced by the exact similarity"
    )
    representative: float = Field(
        0.5,
        gt=0,
        le=1,
        description="similarity to its cluster's best document from which one that a chain led there stays",
    )
    min_shingles: int = Field(16, ge=1, description="shorter documents are compared exactly only")
    pair_bucket: int = Field(32, ge=2, description="documents that share a band: up to so many, all pairs are verified")
    max_bucket: int = Field(10_000, ge=2, description="a band shared by more documents is a template, and is reported")
    driver_rows: int = Field(
        16_000_000,
        ge=0,
        json_schema_extra=NO_IDENTITY,
        description="up to so many narrow rows (some 20 bytes each) are sorted in the driver, more in Spark; the result is the same",
    )
    driver_documents: int = Field(
        4_000_000,
        ge=0,
        json_schema_extra=NO_IDENTITY,
        description="up to so many documents, what is known of them (150 bytes each) is held in the driver; the result is the same",
    )
    boilerplate: BoilerplateConfig = BoilerplateConfig()
    numbers: NumbersConfig = NumbersConfig()
    containment: ContainmentConfig = ContainmentConfig()
    decontaminate: DecontaminateConfig = DecontaminateConfig()

    @property
    def permutations(self) -> int:
        """Minima a signature holds."""
        return self.bands * self.rows

    @property
    def short_below(self) -> int:
        """Letters of the form from which a document has a signature."""
        return self.shingle_characters + self.min_shingles - 1
