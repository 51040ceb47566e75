"""Compiled functions that are kept on disk, and made again when a file of their folder, or one that it imports, has changed.

Numba keeps a function's machine code until the function's own file changes. What it calls in other files is compiled into it, so
after an update of one of those the old code would go on working on the new layout of the data, and corrupt memory.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba

PACKAGE = Path(__file__).resolve().parents[1]
_IMPORT = re.compile(rb"^\s*from hyperclova_core\.([\w.]+) import (\([^)]*\)|[^\n]*)", re.MULTILINE)


def _imported(path: Path) -> tuple[bytes, tuple[Path, ...]]:
    """A file's bytes, and the files of this package that it imports from."""
    content = path.read_bytes()
    found = []
    for name, names in sorted(set(_IMPORT.findall(content))):
        module = PACKAGE.joinpath(*name.decode().split("."))
        files = [module.with_suffix(".py"), *(module / f"{part}.py" for part in re.findall(r"\w+", names.decode()))]
        found += [file for file in files if file.is_file()]
    return content, tuple(found)


@lru_cache(maxsize=64)
def _stamp(path: Path) -> str:
    """Hash of a file, its neighbours, and all that they import of this package: what may have been compiled into its functions."""
    contents: dict[Path, bytes] = {}
    left = [Path(__file__).resolve(), *(file.resolve() for file in path.parent.glob("*.py"))]
    while left:
        file = left.pop()
        if file not in contents:
            contents[file], imported = _imported(file)
            left += imported
    hasher = hashlib.blake2b(digest_size=16)
    for file, content in sorted(contents.items()):
        hasher.update(file.name.encode() + b"\0" + content)
    return hasher.hexdigest()


def compiled(inline: bool = False, allocates: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function on first use, without the interpreter's lock.

    Args:
        inline: its body is put into its callers.
        allocates: it makes or returns arrays. Otherwise those it is given are not counted as in use by each call: their owners hold them, and
            to count them took a seventh of the time of encoding new words.
    """

    def declare(function: Callable[..., Any]) -> Any:
        options = {"cache": True, "nogil": True, "_nrt": allocates, "inline": "always" if inline else "never"}
        made = numba.njit(**options)(function)
        cache = getattr(made, "_cache", None)
        if cache is None:  # NUMBA_DISABLE_JIT: the function itself
            return made
        files = cache._cache_file
        # with the version, which is compared before anything else of the file is read: what was kept of other code may name types
        # that are there no more, and could not even be loaded
        files._version = f"{files._version} {_stamp(Path(function.__code__.co_filename))}"
        return made

    return declare
