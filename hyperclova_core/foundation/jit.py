"""Compiled functions that are kept on disk, and made again when any file of their folder has changed.

Numba keeps a function's machine code until the function's own file changes. What it calls in other files is compiled into it, so
after an update of one of those the old code would go on working on the new layout of the data, and corrupt memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba


@lru_cache(maxsize=64)
def _stamp(folder: Path) -> str:
    """Hash of all Python files of a folder, and of this one."""
    hasher = hashlib.blake2b(digest_size=16)
    for path in sorted({*folder.glob("*.py"), Path(__file__)}):
        hasher.update(path.name.encode() + b"\0" + path.read_bytes())
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
        files._source_stamp = (files._source_stamp, _stamp(Path(function.__code__.co_filename).parent))
        return made

    return declare
