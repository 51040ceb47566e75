"""Who asks the store: boto3's clients, one for the warehouse and one for what is restricted.

Credentials, region and endpoint come from boto3's own chain (environment, profile, web identity, instance); nothing of them is ever put into a
message. What lies below HYPERCLOVA_RESTRICTED is asked for with its own credentials, where there are some:

  HYPERCLOVA_RESTRICTED_ACCESS_KEY_ID, …_SECRET_ACCESS_KEY, …_SESSION_TOKEN     a key
  HYPERCLOVA_RESTRICTED_PROFILE                                                 or a profile of AWS's files: a role, another endpoint
  HYPERCLOVA_RESTRICTED_ENDPOINT_URL                                            where it is in another store

boto3's retries are off: `retries` does them, over whole operations.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from hyperclova_core.foundation.errors import ConfigError
from hyperclova_core.foundation.storage import restricted

CONNECT_SECONDS, READ_SECONDS = 10, 60
TIMEOUT_VARIABLE = "HYPERCLOVA_S3_TIMEOUT"
OWN = tuple(
    restricted.PREFIX + name
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "ENDPOINT_URL")
)

_clients: dict[tuple[int, bool], Any] = {}
_lock = threading.Lock()


def is_own(uri: str) -> bool:
    """Whether an address is asked for with the credentials of restricted data."""
    return restricted.holds(uri) and any(os.environ.get(name) for name in OWN)


def client(uri: str = "") -> Any:
    """The process's client for an address; a forked worker makes its own.

    Raises:
        ConfigError: half a key is set, or a profile that is not there.
    """
    with _lock:
        name = (os.getpid(), is_own(uri))
        if name not in _clients:
            for other in [known for known in _clients if known[0] != name[0]]:
                del _clients[other]
            _clients[name] = _made(name[1])
        return _clients[name]


def _made(own: bool) -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ProfileNotFound

    settings = Config(
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=float(os.environ.get(TIMEOUT_VARIABLE, READ_SECONDS)),
        max_pool_connections=16,
        s3={"addressing_style": os.environ.get("HYPERCLOVA_S3_ADDRESSING", "auto")},
    )
    if not own:
        return boto3.session.Session().client("s3", config=settings)
    key, secret, token, profile, endpoint = (os.environ.get(name) or None for name in OWN)
    if bool(key) != bool(secret):
        raise ConfigError(
            "Half a key for restricted data",
            where=OWN[0] if key else OWN[1],
            why=f"it is set without {OWN[1] if key else OWN[0]}",
            remedy="set both, or neither and a profile",
        )
    try:
        session = boto3.session.Session(key, secret, token, profile_name=profile)
        return session.client("s3", config=settings, endpoint_url=endpoint)
    except ProfileNotFound as error:
        raise ConfigError(
            "There is no such profile", where=OWN[3], why=str(error), remedy="name one of ~/.aws/config"
        ) from None


def forget_clients() -> None:
    """Make the next operation build a client anew: settings of the environment have changed."""
    with _lock:
        _clients.clear()
