"""A process for what works on the content of documents: whatever a document does to it, only that process ends.

It is forked from the worker, so that all which the worker has loaded is there, and is given batches through a pipe. Time is limited by
the kernel's own timer of processor time, whose signal ends the process in the middle of any C code; memory by a limit on its address
space. The worker looks at how it ended, and knows the reason.
"""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
import os
import resource
import select
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import IO, Any, NoReturn

import pyarrow as pa

from hyperclova_core.foundation.errors import DataError, HyperclovaError, from_dict
from hyperclova_core.foundation.stages.content_limits import ContentLimits, Reason

NO_MEMORY = 71
"""Exit code of a process that had no memory left even to say so."""
PAGE = os.sysconf("SC_PAGE_SIZE")
WALL_SECONDS, WALL_FACTOR = 600.0, 20.0
"""Time by the clock for an answer, beside that of the processor: for a process that waits for ever, on a machine however busy."""
_HEAD = struct.Struct("<QQ")
"""Bytes of the JSON, bytes of the tables."""


class TrippedError(Exception):
    """What was worked on broke a limit, or ended the process.

    Attributes:
        reason: as it is counted.
        detail: in words, without anything of the content.
        from_outside: by a signal that the system or a person sends to a process, and that need not be the content's fault.
    """

    def __init__(self, reason: Reason, detail: str, from_outside: bool = False) -> None:
        super().__init__(detail)
        self.reason: Reason = reason
        self.detail = detail
        self.from_outside = from_outside


class Answer:
    """What comes through a pipe: a JSON value, and tables."""

    def __init__(self, told: dict[str, Any], tables: list[pa.RecordBatch]) -> None:
        self.told, self.tables = told, tables


Handler = Callable[[Answer], Iterator[Answer]]


class ContentProcess:
    """One forked process that answers requests, each with one or more messages.

    Args:
        handler: called in that process with each request; what it yields comes back in order.
    """

    def __init__(self, handler: Handler, limits: ContentLimits) -> None:
        self._limits = limits
        requests, self._requests = _pipe()
        self._answers, answers = _pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self._pid = os.fork()
        if self._pid == 0:
            _serve(handler, requests, answers, limits)
        requests.close()
        answers.close()

    def ask(self, request: Answer, seconds: float) -> Iterator[Answer]:
        """The answers to a request.

        Args:
            seconds: of the processor that the process may take for it.

        Raises:
            TrippedError: it took more, or ended; this process is no more.
            HyperclovaError: as the handler raised it.
        """
        try:
            _send(self._requests, Answer({**request.told, "seconds": seconds}, request.tables))
            while True:
                try:
                    answer = _receive(self._answers, WALL_SECONDS + WALL_FACTOR * seconds, self._spent)
                except TimeoutError as error:
                    self.close()
                    raise TrippedError("too_slow", str(error)) from None
                if answer is None:
                    raise self._ended(seconds)
                if "error" in answer.told:
                    raise from_dict(answer.told["error"])
                if "tripped" in answer.told:
                    self.close()  # it may hold what it should not: the next document begins in another
                    reason, detail = answer.told["tripped"]
                    raise TrippedError(reason, detail)
                if "end" in answer.told:
                    return
                yield answer
        except BrokenPipeError:
            raise self._ended(seconds) from None

    def _ended(self, seconds: float) -> TrippedError:
        """Why the process is no more."""
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        self.close()
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            if number == signal.SIGPROF:
                return TrippedError("too_slow", f"more than {seconds:.3g} s of the processor")
            if number == signal.SIGKILL:
                return TrippedError("too_much_memory", "the system ended the process", from_outside=True)
            if number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
                return TrippedError("crashed", f"the process ended by {signal.Signals(number).name}", from_outside=True)
            return TrippedError("crashed", f"the process ended by {signal.Signals(number).name}")
        if os.WEXITSTATUS(status) == NO_MEMORY:
            return TrippedError("too_much_memory", "no more memory is to be had")
        return TrippedError("crashed", f"the process ended with {os.WEXITSTATUS(status)}")

    def _spent(self) -> int:
        """Ticks of the processor that the process has used."""
        with open(f"/proc/{self._pid}/stat") as stream:
            fields = stream.read().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._pid != 0

    def close(self) -> None:
        """End the process."""
        for stream in (self._requests, self._answers):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0


class Progress:
    """A number in memory that outlives the process which set it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, PAGE)

    def set(self, number: int) -> None:
        """Say so."""
        self._memory[:8] = struct.pack("<Q", number)

    def get(self) -> int:
        """What was said last; 0 at first."""
        return int(struct.unpack("<Q", self._memory[:8])[0])


def allow(seconds: float) -> None:
    """From here on this process may take that many seconds of the processor; 0: as many as it likes."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _pipe() -> tuple[IO[bytes], IO[bytes]]:
    reads, writes = os.pipe()
    return os.fdopen(reads, "rb", buffering=0), os.fdopen(writes, "wb")


def _serve(handler: Handler, requests: IO[bytes], answers: IO[bytes], limits: ContentLimits) -> NoReturn:
    """The forked process: nothing of the worker's is closed, flushed or finished by it."""
    code = 1
    try:
        _let_go_of(requests.fileno(), answers.fileno())
        for number in (signal.SIGPROF, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the worker, whose end this process sees
        gc.freeze()  # what the worker has is shared as long as no collection writes to it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold documents
        _limit_memory(limits.memory_mb << 20)
        while (request := _receive(requests)) is not None:
            allow(float(request.told["seconds"]))
            for answer in _answers_of(handler, request):
                _send(answers, answer)
        code = 0
    except BrokenPipeError:
        code = 0  # the worker is no more
    except MemoryError:
        code = NO_MEMORY
    except BaseException as error:  # noqa: BLE001 - nothing may go on in the worker's code from here
        sys.stderr.write(f"The process for content: {_where(error)}\n")
    finally:
        os._exit(code)


def _answers_of(handler: Handler, request: Answer) -> Iterator[Answer]:
    try:
        yield from handler(request)
        allow(0)
        yield Answer({"end": True}, [])
    except HyperclovaError as error:
        yield Answer({"error": error.to_dict()}, [])
    except TrippedError as error:
        yield Answer({"tripped": [error.reason, error.detail]}, [])
    except (MemoryError, pa.ArrowMemoryError):
        yield Answer({"tripped": ["too_much_memory", "no more memory is to be had"]}, [])
    except (
        OSError,
        ImportError,
    ) as error:  # not of what the document holds: a file of the stage's own that is not there
        problem = DataError(
            "A stage cannot go on",
            where=_where(error),
            why=error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__,
            remedy="look at the files that the stage's configuration names",
        )
        yield Answer({"error": problem.to_dict()}, [])
    except Exception as error:  # noqa: BLE001 - a document on which a stage fails is set aside, whatever the failure
        yield Answer({"tripped": ["crashed", _where(error)]}, [])


def _where(error: BaseException) -> str:
    """An exception's type and place; its words may hold what the document holds."""
    frames = traceback.extract_tb(error.__traceback__)
    at = f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {at}"


def _let_go_of(*kept: int) -> None:
    """Close all files but these and the standard ones: a socket that stays open here is not seen to close."""
    last = 2
    for descriptor in (*sorted(kept), resource.getrlimit(resource.RLIMIT_NOFILE)[0]):
        os.closerange(last + 1, min(descriptor, 1 << 20))
        last = descriptor


def _limit_memory(more: int) -> None:
    with open("/proc/self/statm") as stream:
        now = int(stream.read().split()[0]) * PAGE
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = now + more
    resource.setrlimit(resource.RLIMIT_AS, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _send(stream: IO[bytes], answer: Answer) -> None:
    parts = []
    for table in answer.tables:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_batch(table)
        parts.append(sink.getvalue())
    told = json.dumps({**answer.told, "sizes": [part.size for part in parts]}).encode()
    stream.write(_HEAD.pack(len(told), sum(part.size for part in parts)))
    stream.write(told)
    for part in parts:
        stream.write(memoryview(part))
    stream.flush()


def _receive(stream: IO[bytes], patience: float | None = None, spent: Callable[[], int] = lambda: 0) -> Answer | None:
    """The next message; None: the other side is no more.

    Raises:
        TimeoutError: nothing came for as many seconds, in which the other side used no processor.
    """
    head = _read(stream, _HEAD.size, patience, spent)
    if len(head) < _HEAD.size:
        return None
    length, size = _HEAD.unpack(head)
    told, payload = _read(stream, length, patience, spent), _read(stream, size, patience, spent)
    if len(told) < length or len(payload) < size:
        return None
    value, tables, at = json.loads(told), [], 0
    buffer = pa.py_buffer(payload)
    for part in value.pop("sizes"):
        with pa.ipc.open_stream(buffer.slice(at, part)) as reader:
            tables.append(reader.read_next_batch())
        at += part
    return Answer(value, tables)


def _read(stream: IO[bytes], size: int, patience: float | None, spent: Callable[[], int]) -> bytearray:
    """As many bytes, or fewer where the other side is no more."""
    data = bytearray(size)
    view, at, before = memoryview(data), 0, -1
    while at < size:
        if patience is not None and not select.select([stream], [], [], patience)[0]:
            now = spent()
            if now == before:
                raise TimeoutError(f"no answer for {patience:.3g} s, and the processor was not used")
            before = now
            continue
        got = stream.readinto(view[at:])  # type: ignore[attr-defined]
        if not got:
            return bytearray(data[:at])
        at += got
    return data
