"""Makes docker/.env and docker/s3.json, once: random passwords that nobody has seen, readable by their owner alone."""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
from pathlib import Path

NAMES = (
    "POSTGRES_PASSWORD",
    "AIRFLOW_PASSWORD",
    "MLFLOW_PASSWORD",
    "S3_SECRET",
    "API_SECRET",
    "JWT_SECRET",
    "PSEUDONYM_KEY",
    "ADMIN_PASSWORD",
    "MLFLOW_ADMIN_PASSWORD",
    "MLFLOW_WRITER_PASSWORD",
    "MLFLOW_SERVER_KEY",
)


def make(folder: Path) -> bool:
    """Whether they were made now; what is there is never changed, as databases know it; names of a later version are added."""
    path = folder / ".env"
    if path.exists():
        text = path.read_text()
        known = {line.partition("=")[0] for line in text.splitlines()}
        added = "".join(f"{name}={secrets.token_hex(32)}\n" for name in NAMES if name not in known)
        if added:
            _write(path, f"{text.rstrip()}\n{added}")
        return False
    values = {name: secrets.token_hex(32) for name in NAMES}
    values["ADMIN_PASSWORD"] = secrets.token_urlsafe(12)
    values["MLFLOW_ADMIN_PASSWORD"] = secrets.token_urlsafe(12)
    values["FERNET_KEY"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    identity = {
        "name": "hyperclova",
        "credentials": [{"accessKey": "hyperclova", "secretKey": values["S3_SECRET"]}],
        "actions": ["Admin", "Read", "List", "Tagging", "Write"],
    }
    _write(folder / "s3.json", json.dumps({"identities": [identity]}))
    _write(path, "".join(f"{name}={value}\n" for name, value in values.items()))
    return True


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
