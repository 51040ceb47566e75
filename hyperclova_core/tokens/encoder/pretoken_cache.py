"""The memo: pretoken → token ids, as flat arrays that compiled code reads, that a file holds, and that all workers of a machine map.

A slot is four 64-bit words: the pretoken's first sixteen bytes (of a longer pretoken, two hashes), where its ids are, and sizes. Up to four
ids (two, where the vocabulary needs more than 16 bits) lie in the slot. A longer pretoken is compared byte by byte with its copy, so
a hit is never wrong.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hyperclova_core.foundation.errors import DataError
from hyperclova_core.foundation.jit import compiled
from hyperclova_core.tokens.pretokens.word_access import load_word

MAGIC = b"HYPERCLOVA MEMO\n"
VERSION = 1
PAGE = 4096
LONGEST_UNIT = 4096
"""Bytes of a pretoken that is remembered; a longer one is encoded each time."""
UNIT_ROOM = 5 * LONGEST_UNIT
"""Bytes of `more` that one pretoken takes at most: itself, and an id a byte; so many are kept free, for reads ahead."""
SHORT = 16
FULL_AT = 0.5
ABSENT = -1

_FIRST = np.array([(1 << 8 * min(size, 8)) - 1 for size in range(SHORT + 1)], np.uint64)
_SECOND = np.array([(1 << 8 * max(size - 8, 0)) - 1 for size in range(SHORT + 1)], np.uint64)
"""What of two words belongs to a pretoken of so many bytes."""


class Memo(NamedTuple):
    """Attributes:
    slots: shape (slots, 4): key, key, ids or place in `more`, bytes of the pretoken | number of ids << 16.
    more: token ids, four bytes each, of pretokens that have too many for a slot; before those of a longer pretoken, a copy of it.
    used: slots and bytes of `more` in use, shape (2,).
    """

    slots: npt.NDArray[np.uint64]
    more: npt.NDArray[np.uint8]
    used: npt.NDArray[np.int64]


def empty_memo(entries: int, more: int | None = None) -> Memo:
    """Room for that many pretokens, and `more` bytes of those that do not fit a slot (default: of usual ones)."""
    room = (entries * 16 if more is None else more) + 2 * UNIT_ROOM
    return Memo(
        np.zeros((int(entries / FULL_AT) + 1024, 4), np.uint64), np.zeros(room, np.uint8), np.zeros(2, np.int64)
    )


def clear(memo: Memo) -> None:
    """Forget everything."""
    memo.slots[:] = 0
    memo.used[:] = 0


def frozen(memo: Memo) -> Memo:
    """The same for reading only (compiled code is made for one kind of array)."""
    same = Memo(memo.slots.view(), memo.more.view(), memo.used.view())
    for array in same:
        array.flags.writeable = False
    return same


def nothing() -> Memo:
    """A frozen memo that knows nothing."""
    return frozen(Memo(np.zeros((1, 4), np.uint64), np.zeros(UNIT_ROOM, np.uint8), np.zeros(2, np.int64)))


def write_memo(memo: Memo, file: IO[bytes], tokenizer: str) -> None:
    """Write a memo; the same pretokens in the same order give the same bytes.

    Args:
        tokenizer: identity of the tokenizer whose ids these are.
    """
    entries, more = memo.used.tolist()
    parts = (memo.slots.view(np.uint8).data, memo.more[: more + UNIT_ROOM].data)
    shape = {"slots": len(memo.slots), "more": more + UNIT_ROOM, "entries": entries, "checksum": _checksum(*parts)}
    head = json.dumps({"version": VERSION, "tokenizer": tokenizer, **shape}, sort_keys=True).encode()
    file.write((MAGIC + head + b"\n").ljust(PAGE, b" "))
    file.write(memo.slots.view(np.uint8).data)
    file.write(memo.more[: more + UNIT_ROOM].data)


def map_memo(path: str, tokenizer: str) -> Memo:
    """Map a memo's file: it takes no memory of its own, and all processes share its pages.

    Raises:
        DataError: it is cut short, of another version, or of another tokenizer.
    """
    with Path(path).open("rb") as file:
        head = file.read(PAGE)
    facts = _facts(head, path)
    if not {"slots", "more", "entries", "version", "tokenizer", "checksum"} <= facts.keys():
        facts = {"slots": 0, "more": 0, "version": None, "tokenizer": None}
    slots = facts["slots"] * 32
    size = PAGE + slots + facts["more"]
    if facts["version"] != VERSION or facts["tokenizer"] != tokenizer or os.path.getsize(path) != size:
        raise DataError(
            "The memo does not belong to the tokenizer beside it",
            where=path,
            why="it is of another version, another tokenizer, or was cut short",
            remedy="remove the file (encoding starts cold then), or train the tokenizer again",
        )
    raw = np.asarray(np.memmap(path, np.uint8, "r"))
    if _checksum(raw[PAGE:].data) != facts["checksum"]:
        raise DataError(
            "The memo of the tokenizer is damaged",
            where=path,
            why="its checksum differs",
            remedy="remove the file (encoding starts cold then), or restore it",
        )
    used = np.array([facts["entries"], facts["more"] - UNIT_ROOM], np.int64)
    return frozen(Memo(raw[PAGE : PAGE + slots].view(np.uint64).reshape(-1, 4), raw[PAGE + slots :], used))


def _checksum(*parts: Any) -> str:
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        hasher.update(part)
    return hasher.hexdigest()


def _facts(head: bytes, path: str) -> dict[str, Any]:
    try:
        if not head.startswith(MAGIC):
            raise ValueError("its first bytes differ")
        facts: dict[str, Any] = json.loads(head[len(MAGIC) :])
        if not isinstance(facts, dict):
            raise ValueError("its head is no mapping")
    except ValueError as error:
        raise DataError(
            "Not a memo of a tokenizer",
            where=path,
            why=str(error),
            remedy="remove the file, or train the tokenizer again",
        ) from error
    return facts


@compiled(inline=True)
def _tail(data, at, end):  # type: ignore[no-untyped-def]
    """Up to eight bytes of data[at:end] as a number."""
    value = np.uint64(0)
    for number in range(min(8, end - at)):
        value |= np.uint64(data[at + number]) << np.uint64(8 * number)
    return value


@compiled()
def _hashed(data, start, end):  # type: ignore[no-untyped-def]
    """Two 64-bit hashes of a longer pretoken: multiply and fold, eight bytes at a time, the last eight twice where need be."""
    first, second = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
    at = start
    while True:
        word = load_word(data, at)
        first = (first ^ word) * np.uint64(0xFF51AFD7ED558CCD)
        first ^= first >> np.uint64(32)
        second = (second + word) * np.uint64(0xC4CEB9FE1A85EC53)
        second ^= second >> np.uint64(29)
        if at + 8 == end:
            return first, second
        at = min(at + 8, end - 8)


@compiled(inline=True)
def key_of(data, start, end):  # type: ignore[no-untyped-def]
    """The two words of a pretoken's key."""
    size = end - start
    if size > SHORT:
        return _hashed(data, start, end)
    if start + SHORT <= data.shape[0]:
        return load_word(data, start) & _FIRST[size], load_word(data, start + 8) & _SECOND[size]
    return _tail(data, start, min(end, start + 8)), _tail(data, start + 8, end)


@compiled(inline=True)
def slot_of(first, second, slots):  # type: ignore[no-untyped-def]
    """Where the search for a key begins."""
    mixed = first * np.uint64(0x9E3779B97F4A7C15) ^ (second * np.uint64(0xC2B2AE3D27D4EB4F) + (second >> np.uint64(31)))
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    return ((mixed >> np.uint64(32)) * np.uint64(slots)) >> np.uint64(32)


@compiled(inline=True)
def find(slots, more, data, start, end, first, second, at):  # type: ignore[no-untyped-def]
    """The slot of a pretoken in a memo's arrays, or -1; `at` is where the search for it begins."""
    size = np.uint64(end - start)
    while True:
        sizes = slots[at, 3]
        if sizes == 0:
            return np.int64(ABSENT)
        same = slots[at, 0] == first and slots[at, 1] == second and sizes & np.uint64(0xFFFF) == size
        if same and (size <= SHORT or _same(more, data, start, end, slots[at, 2])):
            return np.int64(at)
        at += np.uint64(1)
        if at == np.uint64(slots.shape[0]):
            at = np.uint64(0)


@compiled()
def _same(more, data, start, end, value):  # type: ignore[no-untyped-def]
    """Whether a longer pretoken is the one whose copy lies at a place."""
    at, copy = start, np.int64(value)
    while True:
        if load_word(data, at) != load_word(more, copy + at - start):
            return False
        if at + 8 == end:
            return True
        at = min(at + 8, end - 8)


@compiled()
def has_room(memo):  # type: ignore[no-untyped-def]
    """Whether one more pretoken fits, whatever its length."""
    return memo.used[0] < FULL_AT * memo.slots.shape[0] and memo.used[1] + 2 * UNIT_ROOM <= memo.more.shape[0]


@compiled()
def insert(memo, data, start, end, first, second, tokens, count, inline, bits):  # type: ignore[no-untyped-def]
    """Remember the ids of a pretoken that is not there and fits; its slot.

    Args:
        inline: ids that lie in a slot; bits: of each of them.
    """
    slots = memo.slots
    at = slot_of(first, second, slots.shape[0])
    while slots[at, 3] != 0:
        at += np.uint64(1)
        if at == np.uint64(slots.shape[0]):
            at = np.uint64(0)
    size = end - start
    value = np.uint64(0)
    if size <= SHORT and count <= inline:
        for number in range(count):
            value |= np.uint64(tokens[number]) << np.uint64(bits * number)
    else:
        place = memo.used[1]
        value = np.uint64(place)
        if size > SHORT:
            for number in range(size):
                memo.more[place + number] = data[start + number]
            place += size
        for number in range(count):
            token = np.uint32(tokens[number])
            for byte in range(4):
                memo.more[place + byte] = (token >> np.uint32(8 * byte)) & np.uint32(0xFF)
            place += 4
        memo.used[1] = place
    slots[at, 0], slots[at, 1], slots[at, 2] = first, second, value
    slots[at, 3] = np.uint64(size) | np.uint64(count) << np.uint64(16)
    memo.used[0] += 1
    return np.int64(at)
