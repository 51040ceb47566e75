"""Which steps of a training have a checkpoint: what an orchestrator asks, which has no torch."""

from __future__ import annotations

from hyperclova_core.foundation import storage

MANIFEST = "manifest.json"
"""Written last: without it a checkpoint is not there."""


def steps_in(folder: str) -> list[int]:
    """Steps of all checkpoints that have a manifest, newest first, usable or not."""
    steps = [int(name.removeprefix("step-")) for name in storage.list_names(folder) if name.startswith("step-")]
    return [step for step in sorted(steps, reverse=True) if has_manifest(folder, step)]


def has_manifest(folder: str, step: int) -> bool:
    """Whether the checkpoint of a step is complete."""
    return storage.exists(storage.join(folder, f"step-{step}", MANIFEST))
