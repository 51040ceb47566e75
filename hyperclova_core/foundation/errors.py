"""One family of errors. Each says what happened, where, why, and what to do, and carries its exit code.

Exit codes (the same for the command line, Spark applications and GPU jobs):
0 done or reused, 64 configuration, 65 data, 66 gate failed, 70 host memory, 71 device memory,
72 communication, 75 transient or preempted (retry), anything else is a bug.
"""

from __future__ import annotations

from typing import Any

from hyperclova_core.foundation.printable import printable


class HyperclovaError(Exception):
    """Base of all errors that are written for a person."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", why: str = "", remedy: str = "", code: str = "") -> None:
        """
        Args:
            code: what a service answered (`NoSuchUpload`, `400`), for code that has to tell one refusal from another: nobody reads words for that.
        """
        # a path that is no UTF-8 comes with halves of surrogate pairs, which no log and no JSON takes; any name may hold a terminal's commands
        self.what, self.where, self.why, self.remedy = (
            printable(part.encode("utf-8", "backslashreplace").decode()) for part in (what, where, why, remedy)
        )
        self.code = code
        super().__init__(self.message())

    def message(self) -> str:
        """The whole message, one line a part that is known."""
        lines = [self.what]
        for label, part in (("where", self.where), ("why", self.why), ("remedy", self.remedy)):
            if part:
                lines.append(f"  {label}: {part}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """A JSON form that crosses process borders; see `from_dict`."""
        return {
            "type": next(cls.__name__ for cls in type(self).__mro__ if cls.__name__ in _FAMILY),
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "remedy": self.remedy,
        }


class ConfigError(HyperclovaError):
    """The recipe, a flag or the environment is wrong."""

    exit_code = 64


class DataError(HyperclovaError):
    """The input cannot be used as a whole (single bad records are quarantined instead)."""

    exit_code = 65


class GateError(HyperclovaError):
    """A stage's output does not meet the thresholds of the recipe."""

    exit_code = 66


class OutOfHostMemoryError(HyperclovaError):
    """A rank ran out of host memory."""

    exit_code = 70


class OutOfDeviceMemoryError(HyperclovaError):
    """A rank ran out of accelerator memory."""

    exit_code = 71


class CommunicationError(HyperclovaError):
    """Ranks could not reach one another, or a collective timed out."""

    exit_code = 72


class TransientError(HyperclovaError):
    """Something outside failed in a way that a retry may mend."""

    exit_code = 75


class PreemptedError(TransientError):
    """A job was asked to end, and has saved where it stands: nobody's fault, and nothing is lost."""


_FAMILY: dict[str, type[HyperclovaError]] = {
    cls.__name__: cls
    for cls in (
        HyperclovaError,
        ConfigError,
        DataError,
        GateError,
        OutOfHostMemoryError,
        OutOfDeviceMemoryError,
        CommunicationError,
        TransientError,
        PreemptedError,
    )
}


def from_dict(data: dict[str, Any]) -> HyperclovaError:
    """The error that `to_dict` described, of the same class."""
    cls = _FAMILY.get(str(data.get("type")), HyperclovaError)
    parts = {key: str(data.get(key, "")) for key in ("where", "why", "remedy")}
    return cls(str(data.get("what", "unknown error")), **parts)
