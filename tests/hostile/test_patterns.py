"""Every pattern that sees a document's content takes time in proportion to it, whatever the content."""

from __future__ import annotations

import ast
import importlib
import math
import pkgutil
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from hyperclova_core.corpus.ingest import markup
from hyperclova_core.korean import personal_data
from hyperclova_core.tokens.pretokens.character_classes import classify
from hyperclova_core.tokens.pretokens.rules import PreTokenizer
from tests.conftest import ROOT
from tests.hostile.adversarial_strings import strings_against

CONTENT = ("korean", "corpus", "tokens", "evaluation")
"""Packages whose patterns see what documents hold."""
SEES_NO_CONTENT = ("corpus.ingest.config", "corpus.deduplicate.text.comparison_form:_MASKED")
"""Names of files and what a recipe says; the definition that tests hold the kernel against, of which documents see the kernel."""
SMALL, LARGE, LARGEST = 1 << 14, 1 << 17, 1 << 20
SECONDS = 4.0
"""Of one pattern over one string of a megabyte: ten times what the slowest takes here."""
MEASURABLE = 0.25
"""Seconds from which on two times can be compared."""
STEEPEST = 1.3


class TooSlowError(Exception):
    """A pattern was stopped."""


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Processor seconds; Python's engine looks at signals while it matches."""

    def stop(*_: object) -> None:
        raise TooSlowError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def compiled_in(value: Any, depth: int = 3) -> Iterator[re.Pattern[Any]]:
    if isinstance(value, re.Pattern):
        yield value
    elif depth and isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from compiled_in(item, depth - 1)
    elif depth and isinstance(value, dict):
        for item in value.values():
            yield from compiled_in(item, depth - 1)
    elif depth and is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from compiled_in(getattr(value, field.name), depth - 1)


def content_patterns() -> dict[str, re.Pattern[Any]]:
    """Every compiled pattern of a module of CONTENT, by where it stands."""
    found: dict[str, re.Pattern[Any]] = {}
    for package in CONTENT:
        root = importlib.import_module(f"hyperclova_core.{package}")
        for module in pkgutil.walk_packages(root.__path__, f"hyperclova_core.{package}."):
            short = module.name.removeprefix("hyperclova_core.")
            for name, value in vars(importlib.import_module(module.name)).items():
                for number, pattern in enumerate(compiled_in(value)):
                    where = f"{short}:{name}[{number}]"
                    if pattern not in found.values() and not where.startswith(SEES_NO_CONTENT):
                        found[where] = pattern
    for name, value in vars(PreTokenizer("byte", classify("byte"), 3, ("[NAME]", "[PHONE]"))).items():
        if isinstance(value, re.Pattern):
            found[f"tokens.pretokens.rules:PreTokenizer.{name}"] = value
    return found


PATTERNS = content_patterns()


def seconds_of(pattern: re.Pattern[Any], text: str, most: float) -> float:
    subject: Any = text.encode() if isinstance(pattern.pattern, bytes) else text
    started = time.thread_time()
    try:
        with stopped_after(most):
            for _ in pattern.finditer(subject):
                pass
    except TooSlowError:
        return float("inf")
    return time.thread_time() - started


def resized(text: str, factor: int) -> str:
    """The same string, its repeated part longer: as far as can be seen from outside."""
    middle = len(text) // 2
    return text[:middle] + text[middle - 4096 : middle] * ((factor - 1) * len(text) // 4096) + text[middle:]


@dataclass(frozen=True)
class Slowest:
    """The string of those made against a pattern that takes longest, and the seconds a megabyte of it takes; infinite: it was stopped."""

    text: str
    seconds: float
    exponent: float | None
    """Of the growth from LARGE to LARGEST, where it can be measured."""


def slowest(pattern: re.Pattern[Any]) -> Slowest:
    small: dict[str, float] = {}
    for text in dict.fromkeys(strings_against(pattern, SMALL)):
        small[text] = seconds_of(pattern, text, SECONDS / 8)
        if small[text] == math.inf:
            return Slowest(text, math.inf, None)
    worst = max(small, key=lambda text: small[text])
    largest = seconds_of(pattern, resized(worst, LARGEST // SMALL), SECONDS)
    if largest < MEASURABLE or largest == math.inf:
        return Slowest(worst, largest, None)
    middle = seconds_of(pattern, resized(worst, LARGE // SMALL), SECONDS)
    return Slowest(worst, largest, math.log(largest / middle) / math.log(LARGEST / LARGE))


@pytest.mark.parametrize("where", sorted(PATTERNS))
def test_a_pattern_is_linear(where: str, record_property: Callable[[str, object], None]) -> None:
    found = slowest(PATTERNS[where])
    assert found.seconds < SECONDS, f"{where} was stopped in a text of {found.text[:60]!r}…"
    if found.exponent is not None:
        record_property("table", f"{where}: {found.seconds:.2f} s, exponent {found.exponent:.2f}, {found.text[:24]!r}…")
        assert found.exponent < STEEPEST, f"{where}: time grows to the {found.exponent:.2f} for {found.text[:60]!r}…"


@pytest.mark.parametrize(
    "pattern",
    [
        r"^=+\s*(.*?)\s*=+\s*$",
        r"\[https?://\S+\s*([^\]]*)\]",
        r"<!--.*?-->",
        r"\{\|.*?\|\}",
        r"<ref[^>]*>.*?</ref>",
        r"\d+만\s?원",
        r"https?://[^\s<>]*?[?&](?:token|key)=(\w{6,})",
        r"(?:가|나)\s*[:：]?\s*[A-Za-z]{4,}",
    ],
)
def test_the_strings_find_what_was_not_linear(pattern: str) -> None:
    """Patterns that this project had, each of which stopped a worker or the driver."""
    assert slowest(re.compile(pattern, re.MULTILINE | re.DOTALL)).seconds == math.inf


def test_no_pattern_is_made_where_it_cannot_be_tried() -> None:
    """Patterns that see content are made where a module is loaded: one within a function would not be found above."""
    hidden = []
    for package in CONTENT:
        for path in sorted((ROOT / "hyperclova_core" / package).rglob("*.py")):
            hidden += hidden_patterns(path)
    allowed = (
        "tokens/pretokens/rules.py",
        "corpus/ingest/config.py",
        "tokens/serialize/shard_files.py",
        "korean/codepoints.py",
    )
    assert [where for where in hidden if not where.startswith(allowed)] == []


def hidden_patterns(path: Path) -> list[str]:
    """Where a function calls something of `re`."""
    functions = [part for part in ast.walk(ast.parse(path.read_text())) if isinstance(part, ast.FunctionDef)]
    calls = [call.func for function in functions for call in ast.walk(function) if isinstance(call, ast.Call)]
    return [
        f"{path.relative_to(ROOT / 'hyperclova_core')}:{call.lineno}"
        for call in calls
        if isinstance(call, ast.Attribute)
        and isinstance(call.value, ast.Name)
        and (call.value.id, call.attr) != ("re", "escape")
        if call.value.id == "re"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "=" + " " * 1000,
        "[http://" * 256,
        "<!--" * 25_000,
        "<ref>" * 25_000,
        "{|" * 50_000,
        "{{" * 50_000,
        "[[File:" * 20_000,
        "[[파일:[[a]]" * 15_000,
        "'" * 1_000_000,
        "<" * 1_000_000,
        "[http://a" + " " * 500_000,
    ],
    ids=lambda text: text[:9],
)
def test_markup_takes_no_longer_than_its_length(text: str) -> None:
    with stopped_after(SECONDS):
        markup.wikitext_to_plain(text)


@pytest.mark.parametrize(
    "text",
    [
        "http://a" * 12_500,
        "http://a?token=" * 60_000,
        "010-1234-5678 " * 7_000,
        "010-1234-5678" * 70_000,
        "1" * 1_000_000,
        "a" * 500_000 + "@",
        "a@a." * 250_000,
        "서울 가시 " * 150_000,
        "가시" + " " * 500_000 + "동 1",
        "서울 강남구 가로 " + "1" * 500_000,
        "저는" + " " * 1_000_000,
        "1:" * 500_000,
    ],
    ids=lambda text: text[:9],
)
def test_personal_data_takes_no_longer_than_its_length(text: str) -> None:
    with stopped_after(3 * SECONDS):
        personal_data.find_personal_data(text)
