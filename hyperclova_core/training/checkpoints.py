"""Checkpoints: complete when `step-N/manifest.json` exists, invisible before. `latest` files are never trusted."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.datasets import file_checksum
from hyperclova_core.foundation.errors import DataError


def save_checkpoint(engine: Any, folder: str, identity: str, state: dict[str, Any]) -> None:
    """Save on all ranks, then make the checkpoint complete on rank 0.

    Args:
        identity: of the model and its layout; another run's checkpoint is refused by it.
        state: what training needs to go on: `step`, `consumed_samples`, the last losses.
    """
    name = f"step-{state['step']}"
    engine.save_checkpoint(folder, tag=name, client_state=state, save_latest=False)
    dist.barrier()
    if dist.get_rank() == 0:
        base = storage.join(folder, name)
        files = [path for path in storage.list_files(base) if not path.endswith("/manifest.json")]
        record = {
            **state,
            "identity": identity,
            "files": {path.removeprefix(f"{base}/"): [storage.size(path), file_checksum(path)] for path in files},
        }
        storage.write_json(storage.join(base, "manifest.json"), record)
    dist.barrier()


def complete_checkpoints(folder: str) -> list[dict[str, Any]]:
    """Manifests of all complete and undamaged checkpoints, newest first, each with its `name`."""
    found = []
    for name in storage.list_names(folder):
        path = storage.join(folder, name, "manifest.json")
        if name.startswith("step-") and storage.exists(path):
            record = storage.read_json(path)
            base = storage.join(folder, name)
            sizes = {file: size for file, (size, _) in record["files"].items()}
            if all(
                storage.exists(storage.join(base, file)) and storage.size(storage.join(base, file)) == size
                for file, size in sizes.items()
            ):
                found.append({**record, "name": name})
    return sorted(found, key=lambda record: -int(record["step"]))


def load_newest(engine: Any, folder: str, identity: str) -> dict[str, Any] | None:
    """Load the newest complete checkpoint; its manifest, or None where there is none.

    Raises:
        DataError: the checkpoint is of another model or layout, or loads nothing.
    """
    records = complete_checkpoints(folder)
    if not records:
        return None
    record = records[0]
    if record["identity"] != identity:
        raise DataError(
            "The checkpoint is of another training",
            where=storage.join(folder, record["name"]),
            why="model, layout, data or schedule differ",
            remedy="give another output folder, or remove the checkpoints",
        )
    path, _ = engine.load_checkpoint(folder, tag=record["name"])
    if path is None:
        raise DataError(
            "The checkpoint could not be loaded",
            where=storage.join(folder, record["name"]),
            why="DeepSpeed found nothing in it",
            remedy="remove it: the one before is taken next",
        )
    return record
