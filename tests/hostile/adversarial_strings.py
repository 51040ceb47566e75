"""Strings that make a pattern work as hard as it can, made from the pattern itself: something to repeat, and an end that does not fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

MOST_SEEDS = 16
ENDS = ("", "\x00")


def strings_against(pattern: re.Pattern[str], size: int) -> Iterator[str]:
    """Strings of about `size` characters."""
    for seed in seeds_of(pattern):
        for end in ENDS:
            yield (seed * (size // len(seed) + 1))[:size] + end
    shortest = _sample(re._parser.parse(pattern.pattern, pattern.flags), 0, 0)  # type: ignore[attr-defined]
    for pumped in _pumped(re._parser.parse(pattern.pattern, pattern.flags), size):  # type: ignore[attr-defined]
        for end in ENDS:
            yield pumped + end
        yield (pumped[: size // 2] + shortest)[:size]


def seeds_of(pattern: re.Pattern[str]) -> list[str]:
    """Short strings whose repetition concerns the pattern: what it matches, cut short, and what each of its repeats matches."""
    tree = re._parser.parse(pattern.pattern, pattern.flags)  # type: ignore[attr-defined]
    found: dict[str, None] = {}
    for choice in range(3):
        for extra in (0, 1, 3):
            sample = _sample(tree, choice, extra)
            for cut in {len(sample), len(sample) - 1, len(sample) // 2, 1}:
                if sample[:cut]:
                    found[sample[:cut]] = None
    for part in _repeats(tree):
        for choice in range(3):
            if sample := _sample(part, choice, 0):
                found[sample] = None
    return list(found)[:MOST_SEEDS]


def _pumped(tree: Any, size: int) -> Iterator[str]:
    """What comes before each repeat, then that repeat's own matter, `size` characters of it."""
    for at, (name, argument) in enumerate(tree):
        if name in _REPEATS:
            _, _, inner = argument
            before = _sample(list(tree)[:at], 0, 0)
            for choice in range(3):
                if matter := _sample(inner, choice, 0):
                    yield (before + matter * (size // len(matter) + 1))[:size]
        for inner in _within(name, argument):
            yield from _pumped(inner, size)


_REPEATS = (re._constants.MAX_REPEAT, re._constants.MIN_REPEAT, re._constants.POSSESSIVE_REPEAT)  # type: ignore[attr-defined]


def _within(name: Any, argument: Any) -> list[Any]:
    code = re._constants  # type: ignore[attr-defined]
    if name in _REPEATS:
        return [argument[2]]
    if name is code.SUBPATTERN:
        return [argument[3]]
    if name is code.BRANCH:
        return list(argument[1])
    if name is code.ATOMIC_GROUP:
        return [argument]
    return []


def _repeats(tree: Any) -> Iterator[Any]:
    for name, argument in tree:
        if name in _REPEATS:
            yield argument[2]
        for inner in _within(name, argument):
            yield from _repeats(inner)


def _sample(tree: Any, choice: int, extra: int) -> str:
    """A string that the tree would match, if nothing around it did object; `choice` picks among alternatives, `extra` goes on repeating."""
    code = re._constants  # type: ignore[attr-defined]
    parts: list[str] = []
    for name, argument in tree:
        if name is code.LITERAL:
            parts.append(chr(argument))
        elif name is code.NOT_LITERAL:
            parts.append("a" if argument != ord("a") else "b")
        elif name is code.ANY:
            parts.append("a")
        elif name is code.IN:
            parts.append(_of_class(argument, choice))
        elif name in _REPEATS:
            least, most, inner = argument
            parts.append(_sample(inner, choice, extra) * min(max(least, min(extra, 3)), most if most < 200 else 200))
        elif name is code.GROUPREF:
            parts.append(parts[-1] if parts else "")
        elif name is code.BRANCH:
            parts.append(_sample(argument[1][choice % len(argument[1])], choice, extra))
        else:
            parts += [_sample(inner, choice, extra) for inner in _within(name, argument)]
    return "".join(parts)


_CANDIDATES = "a1 가-._=&?#[{<|@:/\n\u3131\ud55c!~A%"


def _of_class(items: Any, choice: int) -> str:
    """A character of a class; of those that fit, the one with that number."""
    compiled = re.compile(_source(items))
    first = [chr(low) for low in _own(items)]
    fitting = [sign for sign in [*first, *_CANDIDATES] if compiled.fullmatch(sign)]
    return fitting[choice % len(fitting)] if fitting else "a"


def _own(items: Any) -> list[int]:
    code = re._constants  # type: ignore[attr-defined]
    return [
        argument if name is code.LITERAL else argument[0]
        for name, argument in items
        if name in (code.LITERAL, code.RANGE)
    ]


def _source(items: Any) -> str:
    """A class's pattern again."""
    code = re._constants  # type: ignore[attr-defined]
    shapes = {
        code.CATEGORY_DIGIT: r"\d",
        code.CATEGORY_NOT_DIGIT: r"\D",
        code.CATEGORY_SPACE: r"\s",
        code.CATEGORY_NOT_SPACE: r"\S",
        code.CATEGORY_WORD: r"\w",
        code.CATEGORY_NOT_WORD: r"\W",
    }
    parts = []
    for name, argument in items:
        if name is code.NEGATE:
            parts.insert(0, "^")
        elif name is code.LITERAL:
            parts.append(re.escape(chr(argument)))
        elif name is code.RANGE:
            parts.append(f"{re.escape(chr(argument[0]))}-{re.escape(chr(argument[1]))}")
        else:
            parts.append(shapes[argument])
    return "[" + "".join(parts) + "]"
