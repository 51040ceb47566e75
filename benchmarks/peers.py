"""The environment of what we compare with: apart from ours, made on first use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".venv-peers"


def peer() -> str:
    """The interpreter of the peers' environment, with all that benchmarks/peers.txt names."""
    python, needs = PEERS / "bin" / "python", ROOT / "benchmarks" / "peers.txt"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
    marker = PEERS / "peers.txt"
    if not marker.exists() or marker.read_bytes() != needs.read_bytes():
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--requirement", str(needs)], check=True)
        marker.write_bytes(needs.read_bytes())
    return str(python)
