"""One attempt writes at a time: whoever begins last has the folder, and one that others believe dead ends before it writes.

A node that is cut off from its cluster, but not from the store, may train on while the next attempt has begun elsewhere; so may a
second machine that was given the same training by mistake.
"""

from __future__ import annotations

import uuid
from typing import Any

import torch.distributed as dist

from hyperclova_core.foundation import storage
from hyperclova_core.foundation.errors import PreemptedError
from hyperclova_core.foundation.warehouse import now

FILE = "attempt.json"
NAME_LETTERS = 12


class Fence:
    """An attempt's hold of a folder of checkpoints, for all its ranks together.

    Attributes:
        attempt: what names it, in its checkpoints' manifests and files: two attempts never write to one file.
    """

    def __init__(self, folder: str) -> None:
        told: list[Any] = [uuid.uuid4().hex[:NAME_LETTERS] if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(told, src=0)
        self.folder, self.attempt = folder, str(told[0])
        self._path = storage.join(folder, FILE)
        if dist.get_rank() == 0:
            storage.make_folder(folder)
            storage.write_json(self._path, {"attempt": self.attempt, "began_at": now()})
        dist.barrier()

    def check(self) -> None:
        """Before something is written or deleted, by all ranks together; a read of a few bytes by the first.

        Raises:
            PreemptedError: on all ranks, when another attempt has begun.
        """
        told: list[Any] = [self._holder() if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(told, src=0)
        if told[0] is not None:
            raise PreemptedError(
                "Another attempt of this training has begun",
                where=self._path,
                why=f"it began at {told[0]}; two would write over one another",
                remedy="nothing, if this one was given up as lost; else see who started the other",
            )

    def _holder(self) -> str | None:
        """When another attempt began that holds the folder now; None: this one holds it."""
        if not storage.exists(self._path):
            return None
        held = storage.read_json(self._path)
        return None if held.get("attempt") == self.attempt else str(held.get("began_at", "an unknown time"))
