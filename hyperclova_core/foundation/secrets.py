"""Secrets come from the environment, or from a file that only its owner can read; never from config or arguments."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import ConfigError

PSEUDONYM_VARIABLE = "HYPERCLOVA_PSEUDONYM_KEY"
MIN_KEY_CHARACTERS = 16
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s'\"]+@")


def without_credentials(text: str) -> str:
    """A text for logs, notes and messages: user and password of any address in it are left out."""
    return _CREDENTIALS.sub("", text)


def home() -> Path:
    """The folder of an installation's state: HYPERCLOVA_HOME; else `.hyperclova` of the current folder, where `make run`
    has made one; else `~/.hyperclova`."""
    if os.environ.get("HYPERCLOVA_HOME"):
        return Path(os.environ["HYPERCLOVA_HOME"])
    here = Path.cwd() / ".hyperclova"
    return here if here.is_dir() else Path.home() / ".hyperclova"


def pseudonym_key() -> bytes:
    """The key of user pseudonyms: HYPERCLOVA_PSEUDONYM_KEY, else a file below `home()`, made on first use.

    Raises:
        ConfigError: the key is too short to be one.
    """
    value = os.environ.get(PSEUDONYM_VARIABLE)
    if value is None:
        value = _kept_secret("pseudonym.key")
    if len(value) < MIN_KEY_CHARACTERS:
        raise ConfigError(
            "The pseudonym key is too short",
            where=PSEUDONYM_VARIABLE,
            why=f"it has fewer than {MIN_KEY_CHARACTERS} characters",
            remedy=f"export {PSEUDONYM_VARIABLE}=$(openssl rand -hex 32), and keep it: another key makes other pseudonyms",
        )
    return value.encode()


def pseudonym_key_id() -> str:
    """Names the key without giving it away: part of fingerprints, so another key makes another dataset."""
    return hashlib.sha256(b"hyperclova pseudonym key id" + pseudonym_key()).hexdigest()[:16]


def _kept_secret(name: str) -> str:
    path = home() / "secrets" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        storage.create_once(str(path), secrets.token_hex(32).encode())
        path.chmod(0o600)
    return path.read_text().strip()
