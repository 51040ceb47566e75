"""Shingle length and bands on the labelled pairs of development: the table of docs/deduplication.md.

    make bench-parameters        (needs the development corpora beside the checkout; a minute or two)

Prints, for each setting, the share of labelled pairs at 0.8 and more (5-character Jaccard, letters and digits) that become
candidates, and how many pairs of all development texts do, and are alike enough by their signatures. Nothing here is a test.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hyperclova_core.corpus.deduplicate.minhash.lsh_banding import _pairs
from hyperclova_core.corpus.deduplicate.minhash.signatures import Sketches, band_keys, sketch
from hyperclova_core.korean.hangul import NEITHER_LETTER_NOR_DIGIT, nfc

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETTINGS = ((5, 14, 8), (5, 20, 6), (7, 14, 8), (7, 24, 5), (9, 20, 6), (9, 28, 4))
ALIKE = 0.67


def lines(path: Path) -> list[dict[str, str]]:
    """Rows of a gzipped JSONL file."""
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def shingles(text: str) -> set[str]:
    """5-character shingles of letters and digits."""
    plain = NEITHER_LETTER_NOR_DIGIT.sub("", nfc(text).lower())
    return {plain[at : at + 5] for at in range(len(plain) - 4)}


def sketched(texts: list[str], width: int) -> tuple[npt.NDArray[np.uint16], list[bytes], npt.NDArray[np.bool_]]:
    """Signatures of 120 to 128 minima, hashes, and which have a signature."""
    column = pa.array(texts)
    parts: list[Sketches] = [
        sketch(column.slice(at, 4096), width, 128, width + 15) for at in range(0, len(texts), 4096)
    ]
    exact = [value for part in parts for value in part.exact]
    return np.concatenate([part.minima for part in parts]), exact, np.concatenate([part.signed for part in parts])


def main() -> None:
    """One line a setting."""
    if not DATA.is_dir():
        sys.exit("the development corpora are not beside this checkout")
    documents = lines(DATA / "dup" / "docs.jsonl.gz")
    row_of = {row["id"]: number for number, row in enumerate(documents)}
    texts = [row["text"] for row in documents]
    pairs = []
    for pair in lines(DATA / "dup" / "pairs.jsonl.gz"):
        one, other = (shingles(texts[row_of[pair[side]]]) for side in ("a", "b"))
        if len(one & other) >= 0.8 * len(one | other):
            pairs.append((row_of[pair["a"]], row_of[pair["b"]]))
    everything = [row["text"] for path in sorted((DATA / "corpus").glob("*.jsonl.gz")) for row in lines(path)]
    known: dict[int, tuple[object, object]] = {}
    for width, bands, rows in SETTINGS:
        if width not in known:
            known = {width: (sketched(texts, width), sketched(everything, width))}
        (minima, exact, _), (all_minima, all_exact, signed) = known[width]  # type: ignore[misc]
        keys = band_keys(minima[:, : bands * rows], bands, rows)
        found = sum(exact[a] == exact[b] or bool((keys[a] == keys[b]).any()) for a, b in pairs) / len(pairs)
        first = {value: number for number, value in reversed(list(enumerate(all_exact)))}
        forms = all_minima[[number for number in sorted(first.values()) if signed[number]]]
        flat = band_keys(forms[:, : bands * rows], bands, rows).ravel()
        nodes = np.repeat(np.arange(len(forms)), bands)
        order = np.lexsort((nodes, flat))
        left, right, _ = _pairs(flat[order], nodes[order], np.ones(len(flat), np.bool_), 32, 1 << 40)
        both = np.unique(left * (1 << 32) + right)
        alike = (forms[both >> 32] == forms[both & 0xFFFFFFFF]).mean(axis=1) >= ALIKE
        print(
            f"shingle {width}, {bands} x {rows}: {found:.3f} of {len(pairs)} pairs found;"
            f" {len(both):,} candidates, {int(alike.sum()):,} alike"
        )


if __name__ == "__main__":
    main()
