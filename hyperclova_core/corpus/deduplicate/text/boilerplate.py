"""Boilerplate: lines and paragraphs that many documents of one site share, cut before documents are compared.

Footers make short posts of one site look alike, and menus are no language to learn. A line counts once a document; a line
of many documents of its site is cut. A document that is little else than such lines is left whole: it is a copy or a
template, and comparison, not this, has to decide on it.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache, partial
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hyperclova_core.corpus.deduplicate.config import BoilerplateConfig
from hyperclova_core.corpus.deduplicate.text.comparison_form import placeholders, tables
from hyperclova_core.corpus.deduplicate.text.hashing import bytes_of, mixed
from hyperclova_core.corpus.deduplicate.text.normalise import normalise
from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets.document_schema import DOCUMENT_SCHEMA, content_hash
from hyperclova_core.foundation.hashing import digest_parts
from hyperclova_core.foundation.jit import compiled
from hyperclova_core.foundation.sorted_lookup import among
from hyperclova_core.foundation.stages.kinds import StageContext
from hyperclova_core.foundation.stages.spark_frames import Batches, Grouping, grouped
from hyperclova_core.foundation.stages.units import FileUnit, UnitResult

BOILERPLATE_SCHEMA = pa.schema(
    [
        ("site", pa.string()),
        ("site_id", pa.int64()),
        ("line", pa.int64()),
        ("documents", pa.int64()),
        ("share", pa.float64()),
    ]
)
_COUNTS = pa.schema([("line", pa.int64()), ("site_id", pa.int64()), ("documents", pa.int64())])
_KEYED = pa.schema([("key", pa.int64()), *_COUNTS])
"""Rows are brought together by line and site at once: a line that every site has is no hot key, nor are the sites' own counts."""
BYTES_A_LINE = 100
LINES_A_PART = 1 << 21
_BLANK_LINES = re.compile(r"\n{3,}")


def sites_of(documents: pa.RecordBatch) -> list[str]:
    """The site of each document: the host of its URL, else its source."""
    return [
        (_host(url) if url and "://" in url else None) or source
        for url, source in zip(documents.column("url").to_pylist(), documents.column("source").to_pylist(), strict=True)
    ]


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except (
        ValueError
    ):  # such as `http://[`: a crawl has addresses that are none, and their documents count for their source
        return None


@lru_cache(maxsize=65_536)
def site_number(site: str) -> int:
    """A site as a signed 64-bit number."""
    return int.from_bytes(bytes.fromhex(digest_parts("site", site))[:8], "little", signed=True)


@compiled()
def _line_hashes(
    data: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    classed: npt.NDArray[np.uint32],
    names: npt.NDArray[np.uint8],
    name_offsets: npt.NDArray[np.int64],
    name_masks: npt.NDArray[np.uint32],
    points: npt.NDArray[np.uint32],
    hashes: npt.NDArray[np.uint64],
    letters: npt.NDArray[np.int64],
    texts: npt.NDArray[np.int64],
    paragraphs: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
) -> int:
    """Lines of all texts, one after the other: hash and letters of each line's form, whose line it is, the number of its
    paragraph (lines between blank ones), and where it ends in the data. Returns their number."""
    lines, paragraph = 0, 0
    for text in range(starts.size - 1):
        position, end = starts[text], starts[text + 1]
        paragraph += 1
        while position < end:
            stop = position
            while stop < end and data[stop] != 10:
                stop += 1
            to, _, _, _ = normalise(
                data, position, stop, True, classed, names, name_offsets, name_masks, points, 0, classed, points[:0]
            )
            value = np.uint64(to) * np.uint64(0x9E3779B97F4A7C15)
            for index in range(to):
                value = mixed(value ^ np.uint64(points[index]))
            if to == 0:
                paragraph += 1
            hashes[lines] = value
            letters[lines] = to
            texts[lines] = text
            paragraphs[lines] = paragraph
            ends[lines] = stop
            lines += 1
            position = stop + 1
    return lines


class Lines:
    """The lines of a batch of texts. Arrays have one entry a line; `paragraph_hash` is that of the line's paragraph, 0 where
    the paragraph is one line."""

    def __init__(self, texts: pa.Array) -> None:
        data, starts = bytes_of(texts)
        room = int(np.count_nonzero(data[int(starts[0]) : int(starts[-1])] == 10)) + len(texts) + 1
        longest = int(np.diff(starts).max(initial=0)) + 1
        hashes, letters = np.empty(room, np.uint64), np.empty(room, np.int64)
        owners, paragraphs, ends = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int64)
        count = _line_hashes(
            data,
            starts,
            tables()[0],
            *placeholders(),
            np.empty(longest, np.uint32),
            hashes,
            letters,
            owners,
            paragraphs,
            ends,
        )
        self.hash, self.letters, self.text = hashes[:count], letters[:count], owners[:count]
        self.paragraph = paragraphs[:count]
        self.paragraph_hash = _paragraph_hashes(self.hash, self.letters, self.paragraph)


@compiled(allocates=True)
def _paragraph_hashes(
    hashes: npt.NDArray[np.uint64], letters: npt.NDArray[np.int64], paragraphs: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    out = np.zeros(hashes.size, np.uint64)
    first = 0
    for index in range(1, hashes.size + 1):
        if index < hashes.size and paragraphs[index] == paragraphs[first]:
            continue
        value, said = np.uint64(0xA0761D6478BD642F), 0
        for line in range(first, index):
            if letters[line]:
                value = mixed(value ^ hashes[line])
                said += 1
        if said > 1:
            for line in range(first, index):
                out[line] = value
        first = index
    return out


def count_lines(
    context: StageContext, paths: list[str], config: BoilerplateConfig, text_bytes: int, limit: int
) -> pa.Table:
    """(site_id, line, documents) of lines and paragraphs that enough documents hold, counted once a document; `line` 0
    counts the documents of a site."""
    rows = text_bytes // BYTES_A_LINE
    grouping = Grouping("lines", _explode, _KEYED, _added_up, _COUNTS, ("key", "line", "site_id"), config)
    return grouped(context, paths, grouping, rows, limit, max(1, -(-rows // LINES_A_PART))).table()


def _explode(path: str, config: BoilerplateConfig) -> Batches:
    totals: Counter[int] = Counter()
    with storage.open_parquet(path) as file:
        for documents in file.iter_batches(batch_size=4096, columns=["text", "url", "source"]):
            sites = np.array([site_number(site) for site in sites_of(documents)], np.int64)
            totals.update(sites.tolist())
            yield _counted(documents.column("text"), sites, config)
    # a site's documents are counted as its line 0
    sites = np.array(sorted(totals), np.int64)
    yield _keyed(np.zeros(len(sites), np.uint64), sites, np.array([totals[site] for site in sites.tolist()], np.int64))


def _keyed(
    lines: npt.NDArray[np.uint64], sites: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> pa.RecordBatch:
    columns = (_key(sites, lines).view(np.int64), lines.view(np.int64), sites, counts)
    return pa.RecordBatch.from_arrays([pa.array(values) for values in columns], schema=_KEYED)


def _added_up(chunk: pa.Table, part: int, config: BoilerplateConfig) -> pa.RecordBatch:
    sites, lines = chunk.column("site_id").to_numpy(), chunk.column("line").to_numpy()
    first = np.flatnonzero(np.append(True, (sites[1:] != sites[:-1]) | (lines[1:] != lines[:-1]))[: len(sites)])
    sums = np.add.reduceat(chunk.column("documents").to_numpy(), first) if len(first) else np.zeros(0, np.int64)
    enough = sums >= config.min_documents
    columns = [pa.array(values[first][enough]) for values in (lines, sites)]
    return pa.RecordBatch.from_arrays([*columns, pa.array(sums[enough])], schema=_COUNTS)


def _sorted_pairs(
    one: npt.NDArray[np.int64], other: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
    order = np.lexsort((other, one))
    return one[order], other[order]


def _counted(texts: pa.Array, sites: npt.NDArray[np.int64], config: BoilerplateConfig) -> pa.RecordBatch:
    lines = Lines(texts)
    long = lines.letters >= config.min_letters
    block = (lines.paragraph_hash != 0) & np.append(True, np.diff(lines.paragraph) != 0)[: len(lines.paragraph)]
    owners = np.concatenate([lines.text[long], lines.text[block]])
    values = np.concatenate([lines.hash[long], lines.paragraph_hash[block]])
    owners, values = _sorted_pairs(owners, values)
    once = np.append(True, (owners[1:] != owners[:-1]) | (values[1:] != values[:-1]))[: len(owners)]
    where, values = _sorted_pairs(sites[owners[once]], values[once])
    first = np.flatnonzero(np.append(True, (where[1:] != where[:-1]) | (values[1:] != values[:-1]))[: len(where)])
    counts = np.diff(np.append(first, len(where)))
    return _keyed(values[first], where[first], counts.astype(np.int64))


def find_boilerplate(
    context: StageContext, paths: list[str], config: BoilerplateConfig, text_bytes: int, limit: int
) -> pa.Table:
    """Lines and paragraphs to cut, a row each, sorted by site and line; no text of them is kept.

    Args:
        text_bytes: of all documents.
        limit: rows that may be sorted in this process.
    """
    counted = count_lines(context, paths, config, text_bytes, limit)
    values = {name: counted.column(name).to_numpy() for name in _COUNTS.names}
    whole = values["line"] == 0
    totals = dict(zip(values["site_id"][whole].tolist(), values["documents"][whole].tolist(), strict=True))
    of_site = np.array([totals.get(site, 0) for site in values["site_id"].tolist()], np.int64)
    share = values["documents"] / np.maximum(of_site, 1)
    chosen = ~whole & (share >= config.min_share)
    if not chosen.any():
        return BOILERPLATE_SCHEMA.empty_table()
    wanted = sorted(set(values["site_id"][chosen].tolist()))
    assert context.engine is not None
    work = partial(_names_unit, wanted=wanted)
    found = context.engine.map_units(work, [FileUnit(path=path) for path in paths], _Names)
    names = {number: name for result in found for number, name in result.names.items()}
    lines = values["line"][chosen]
    table = pa.table(
        {
            "site": [names[site] for site in values["site_id"][chosen].tolist()],
            "site_id": values["site_id"][chosen],
            "line": lines,
            "documents": values["documents"][chosen],
            "share": np.round(share[chosen], 4),
        }
    )
    return (
        table.select(BOILERPLATE_SCHEMA.names)
        .cast(BOILERPLATE_SCHEMA)
        .sort_by([("site", "ascending"), ("line", "ascending")])
    )


class _Names(UnitResult):
    """Number of a site → its name."""

    names: dict[int, str]


def _names_unit(unit: FileUnit, *, wanted: list[int]) -> _Names:
    numbers, names = set(wanted), {}
    with storage.open_parquet(unit.path) as file:
        for documents in file.iter_batches(batch_size=8192, columns=["url", "source"]):
            for site in set(sites_of(documents)):
                if site_number(site) in numbers:
                    names[site_number(site)] = site
    return _Names(names=names)


@lru_cache(maxsize=8)
def _keys(path: str) -> npt.NDArray[np.uint64]:
    table = storage.read_parquet(path, ["site_id", "line"])
    return np.unique(_key(table.column("site_id").to_numpy(), table.column("line").to_numpy().view(np.uint64)))


def _key(sites: npt.NDArray[np.int64], lines: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        return (sites.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) ^ lines


def without_boilerplate(
    documents: pa.RecordBatch, path: str, min_remaining: int
) -> tuple[pa.Array, npt.NDArray[np.int64]]:
    """Texts without the lines that the table at `path` names, and the bytes cut of each."""
    texts = documents.column("text")
    cut = np.zeros(len(texts), np.int64)
    keys = _keys(path)
    sites = np.array([site_number(site) for site in sites_of(documents)], np.int64)
    lines = Lines(texts)
    if not len(lines.text):
        return texts, cut
    owner = sites[lines.text]
    found = among(_key(owner, lines.hash), keys) | (
        (lines.paragraph_hash != 0) & among(_key(owner, lines.paragraph_hash), keys)
    )
    hits = np.unique(lines.text[found])
    if not len(hits):
        return texts, cut
    remaining = np.bincount(lines.text[~found], lines.letters[~found].astype(np.float64), len(texts))
    first = np.searchsorted(lines.text, np.arange(len(texts) + 1))
    new: list[str] = texts.to_pylist()
    for row in hits[remaining[hits] >= min_remaining].tolist():
        goes = found[first[row] : first[row + 1]]
        kept = [line for line, cut_out in zip(new[row].split("\n"), goes, strict=False) if not cut_out]
        before, new[row] = new[row], _BLANK_LINES.sub("\n\n", "\n".join(kept)).strip()
        cut[row] = len(before.encode()) - len(new[row].encode())
    return pa.array(new, texts.type), cut


def cut(documents: pa.RecordBatch, argument: list[object]) -> pa.RecordBatch:
    """Documents without boilerplate, with the bytes cut as the signal `boilerplate_bytes`: the stage's rewrite."""
    path, min_remaining = str(argument[0]), int(str(argument[1]))
    texts, lost = without_boilerplate(documents, path, min_remaining)
    if not lost.any():
        return documents
    columns = dict(zip(documents.schema.names, documents.columns, strict=True))
    signals = [
        sorted({**dict(old or []), "boilerplate_bytes": float(bytes_cut)}.items()) if bytes_cut else old
        for old, bytes_cut in zip(documents.column("signals").to_pylist(), lost.tolist(), strict=True)
    ]
    columns["text"] = texts
    columns["content_hash"] = pa.array([content_hash(text) for text in texts.to_pylist()], pa.string())
    columns["signals"] = pa.array(signals, DOCUMENT_SCHEMA.field("signals").type)
    return pa.RecordBatch.from_arrays([columns[name] for name in DOCUMENT_SCHEMA.names], schema=DOCUMENT_SCHEMA)
