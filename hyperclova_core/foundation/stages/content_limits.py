"""What the content of documents may cost at most; what costs more is quarantined."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from hyperclova_core.foundation.config import Config

Reason = Literal["too_slow", "too_much_memory", "too_much_output", "crashed"]
REMEDIES: dict[Reason, str] = {
    "too_slow": "raise `limits.seconds_per_mb` if it is what it should be",
    "too_much_memory": "raise `limits.memory_mb` if it is what it should be",
    "too_much_output": "raise `limits.growth` if it is what it should be",
    "crashed": "look at it: a program that reads it ends, or the stage has a fault",
}


class ContentLimits(Config):
    """Limits for whatever works on documents' content. Seconds are of the processor: a loaded machine gives the same result."""

    seconds: float = Field(5.0, gt=0, description="for a batch of documents, whatever its size")
    seconds_per_mb: float = Field(10.0, gt=0, description="and for each megabyte of it")
    record_seconds: float = Field(30.0, gt=0, description="for one record of a file that is read")
    memory_mb: int = Field(4096, ge=64, description="beyond what the process has when it begins")
    growth: float = Field(20.0, gt=0, description="times its size that a batch may become (and 64 MB)")

    def batch_seconds(self, size: int) -> float:
        """Seconds for `size` bytes."""
        return self.seconds + self.seconds_per_mb * size / 1e6

    def batch_bytes(self, size: int) -> int:
        """Bytes that may come of `size` bytes."""
        return int(self.growth * size) + (64 << 20)
