"""Where restricted data lies: within the warehouse, or, by HYPERCLOVA_RESTRICTED, at an address with credentials of its own.

A manifest names its restricted folder relative to the dataset, or as `restricted://STAGE/FINGERPRINT`, which is found below that setting: an
account that trains needs to know neither the address nor its credentials, and a warehouse's manifests do not give the address away.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping

from hyperclova_core.foundation.errors import ConfigError

VARIABLE = "HYPERCLOVA_RESTRICTED"
PREFIX = f"{VARIABLE}_"
"""Of the variables that hold its credentials."""
SCHEME = "restricted://"
FOLDER = "restricted"
"""A folder of that name is its owner's alone, on disks."""


def root() -> str | None:
    """The address of HYPERCLOVA_RESTRICTED, without a slash at its end; None: restricted data lies in the warehouse.

    Raises:
        ConfigError: it is neither an s3:// address with a bucket nor an absolute path.
    """
    value = os.environ.get(VARIABLE, "").strip()
    if not value:
        return None
    if value.startswith("s3://"):
        found = "s3://" + posixpath.normpath(value.removeprefix("s3://"))
        parts = found.removeprefix("s3://").split("/")
        if parts[0] not in ("", ".", "..") and ".." not in parts:
            return found
    elif value.startswith("/"):
        return os.path.normpath(value)
    raise ConfigError(
        "No place for restricted data",
        where=VARIABLE,
        why=f"{value!r} is neither an s3:// address with a bucket nor an absolute path",
        remedy=f"set {VARIABLE}=s3://BUCKET/PREFIX or a folder of its own, the same wherever stages run",
    )


def without(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for who has no business with restricted data, such as a training."""
    return {name: value for name, value in environment.items() if name != VARIABLE and not name.startswith(PREFIX)}


def holds(uri: str) -> bool:
    """Whether an address lies below HYPERCLOVA_RESTRICTED."""
    base = root()
    return base is not None and (uri == base or uri.startswith(f"{base}/"))


def located(folder: str) -> str:
    """The address of a manifest's `restricted://` folder.

    Raises:
        ConfigError: this process is not told where restricted data lies.
    """
    base = root()
    if base is None:
        raise ConfigError(
            "Restricted data cannot be read from here",
            where=folder,
            why=f"it lies outside of the warehouse, and {VARIABLE} is not set",
            remedy=f"set {VARIABLE} and its credentials where stages run; trainings and evaluations need neither",
        )
    rest = posixpath.normpath(folder.removeprefix(SCHEME))
    if rest.startswith(("/", "..")):
        raise ConfigError("A restricted folder outside of its place", where=folder, remedy="restore the manifest")
    return f"{base}/{rest}"


def is_elsewhere(folder: str) -> bool:
    """Whether a manifest's restricted folder is one that only HYPERCLOVA_RESTRICTED finds."""
    return folder.startswith(SCHEME)
