"""Sketches: what is compared instead of texts. One task a bucket file reads the texts once and leaves a narrow table; a task
that has ended is taken over by the next attempt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from hyperclova_core.corpus.deduplicate.config import DeduplicateConfig
from hyperclova_core.corpus.deduplicate.schemas import READ, SKETCH_SCHEMA, UNKNOWN_TIME
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.dataset import Dataset
from hyperclova_core.foundation.datasets.document_schema import TIERS
from hyperclova_core.foundation.datasets.manifest import file_checksum
from hyperclova_core.foundation.datasets.parquet_writer import HASHES, TableWriter, abandoned_on_error
from hyperclova_core.foundation.stages.kinds import StageContext
from hyperclova_core.foundation.stages.units import BucketUnit, UnitResult
from hyperclova_core.foundation.stages.work_units import run_units

BATCH_ROWS = 1024
INVISIBLE = r"[\p{Cf}\p{Co}\x{FFFD}]"
"""Characters that nobody sees, or that stand where one was lost: zero-width and soft-hyphen (format), private use, U+FFFD."""


@dataclass(frozen=True)
class SketchFile:
    """A file of sketches, with how many signatures and fingerprints it holds."""

    path: str
    signed: int
    fingerprints: int


def make_sketches(
    dataset: Dataset, config: DeduplicateConfig, context: StageContext, boilerplate: str | None, items: str | None
) -> list[SketchFile]:
    """The sketch file of each bucket, in order.

    Args:
        boilerplate: the table of lines that are cut first; None: none.
        items: the table of evaluation items to look for; None: none.
    """
    entries = dataset.table("documents").files
    marks = [file_checksum(path) if path else None for path in (boilerplate, items)]
    units = [
        BucketUnit(identity={"checksum": entry.checksum, "beside": marks}, path=path, bucket=entry.bucket or 0)
        for entry, path in zip(entries, dataset.files(), strict=True)
    ]
    work = partial(_sketch_unit, config=config, context=context.for_workers(), boilerplate=boilerplate, items=items)
    results, _ = run_units(context, work, units, "sketches", _Sketched)
    made = [SketchFile(result.files[0], result.signed, result.fingerprints) for result in results]
    context.scrap.files.extend(sketch.path for sketch in made)
    return made


class _Sketched(UnitResult):
    """How many signatures and fingerprints the unit's file holds."""

    signed: int
    fingerprints: int


def _sketch_unit(
    unit: BucketUnit,
    *,
    config: DeduplicateConfig,
    context: StageContext,
    boilerplate: str | None,
    items: str | None,
) -> _Sketched:
    root, path = context.target.root(True), f"{context.attempt_path}/sketches/bucket-{unit.bucket:05d}.parquet"
    writer = TableWriter(root, path, SKETCH_SCHEMA, layout=HASHES)
    signed = fingerprints = 0
    with abandoned_on_error(writer), storage.open_parquet(unit.path) as file:
        for documents in file.iter_batches(batch_size=BATCH_ROWS, columns=READ):
            for part in in_pieces(documents):
                made = sketch_batch(part, config, boilerplate, items)
                signed += made.num_rows - made.column("signature").null_count
                fingerprints += int(pc.sum(pc.binary_length(made.column("fingerprints"))).as_py() or 0) // 8
                writer.write(made)
        writer.close()
    return _Sketched(files=(storage.join(root, path),), signed=signed, fingerprints=fingerprints)


def in_pieces(documents: pa.RecordBatch, limit: int = 64 << 20) -> Iterator[pa.RecordBatch]:
    """A batch cut so that no piece (but a single large document) holds more than `limit` bytes of text."""
    ends = np.cumsum(pc.binary_length(documents.column("text")).to_numpy(zero_copy_only=False).astype(np.int64))
    start = 0
    while start < documents.num_rows:
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + limit, side="right")))
        yield documents.slice(start, stop - start)
        start = stop


def sketch_batch(
    documents: pa.RecordBatch, config: DeduplicateConfig, boilerplate: str | None = None, items: str | None = None
) -> pa.RecordBatch:
    """SKETCH_SCHEMA of a batch that has the columns `READ`."""
    from hyperclova_core.corpus.deduplicate.containment.winnowing import winnowed
    from hyperclova_core.corpus.deduplicate.contamination.decontaminate import items_in, load_items
    from hyperclova_core.corpus.deduplicate.minhash.signatures import sketch
    from hyperclova_core.corpus.deduplicate.text.boilerplate import without_boilerplate
    from hyperclova_core.corpus.deduplicate.text.hashing import shingle_hashes
    from hyperclova_core.foundation.stages.spark_frames import binary_rows

    texts = documents.column("text")
    found: list[str | None] = [None] * len(texts)
    if items is not None:
        wanted = config.decontaminate
        loaded = load_items(items, wanted.ngram, wanted.min_letters, wanted.min_letters_whole)
        found = [" ".join(names) or None for names in items_in(texts, loaded)]
    if boilerplate is not None:
        texts, _ = without_boilerplate(documents, boilerplate, config.boilerplate.min_remaining)
    made = sketch(texts, config.shingle_characters, config.permutations, config.short_below)
    seen = documents.column("text")  # as they would be published, invisible characters and all
    fingerprints: list[bytes | None] = [None] * len(texts)
    quoted = config.containment
    if quoted.action != "off":
        for row in np.flatnonzero(made.signed):
            points = made.points[made.offsets[row] : made.offsets[row + 1]]
            if len(points) >= quoted.shingle_characters + quoted.window:
                fingerprints[row] = winnowed(shingle_hashes(points, quoted.shingle_characters), quoted.window).tobytes()
    unsigned = pa.array(~made.signed)
    published = pc.fill_null(documents.column("published_at").cast(pa.int64()), UNKNOWN_TIME)
    return pa.RecordBatch.from_arrays(
        [
            documents.column("doc_id"),
            documents.column("source"),
            pa.array(np.frombuffer(b"".join(made.exact), "<i8")[::2].copy()),
            pa.array(made.exact, pa.binary()),
            pa.array(made.content),
            pa.array(made.wording),
            _ragged(made.numbers, made.number_counts),
            pa.array([TIERS.index(tier) for tier in documents.column("source_tier").to_pylist()], pa.int32()),
            pa.array(made.length),
            pc.count_substring_regex(seen, INVISIBLE).cast(pa.int32()),
            published,
            pc.if_else(unsigned, pa.scalar(None, pa.binary()), binary_rows(made.minima)),
            pa.array(fingerprints, pa.binary()),
            pa.array(found, pa.string()),
        ],
        schema=SKETCH_SCHEMA,
    )


def _ragged(values: npt.NDArray[np.uint32], counts: npt.NDArray[np.int64]) -> pa.Array:
    """The first `counts` values of each row, as bytes."""
    offsets = np.concatenate([[0], np.cumsum(4 * counts)]).astype(np.int32)
    held = values[np.arange(values.shape[1])[None, :] < counts[:, None]]
    return pa.BinaryArray.from_buffers(
        pa.binary(), len(counts), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(held.tobytes())]
    )
