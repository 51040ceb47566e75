"""Records: typed values that cross to another process, or lie in a file between two."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Checked on arrival, and never changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")
