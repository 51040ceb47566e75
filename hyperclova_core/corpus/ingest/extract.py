"""Main content of pages with a hard time limit: the work is done in a process that is killed when it takes too long."""

from __future__ import annotations

import atexit
import functools
import json
import selectors
import subprocess
import sys
import time
from types import TracebackType


class ExtractionTimeoutError(Exception):
    """A page took longer than the limit."""


class ExtractionError(Exception):
    """The extractor died on a page."""


class Extractor:
    """One extraction process, started when first needed and again after it was killed."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Extractor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._process = None

    def extract(self, page: str) -> dict[str, str]:
        """See `extract_worker.extract`.

        Raises:
            ExtractionTimeoutError: after the limit; the process is killed.
            ExtractionError: the process ended on this page.
        """
        process = self._started()
        assert process.stdin is not None
        data = page.encode("utf-8", "replace")
        try:
            process.stdin.write(len(data).to_bytes(4, "big") + data)
            process.stdin.flush()
            deadline = time.monotonic() + self._seconds
            size = int.from_bytes(self._read(process, 4, deadline), "big")
            answer: dict[str, str] = json.loads(self._read(process, size, deadline))
        except (BrokenPipeError, EOFError) as error:
            self.close()
            raise ExtractionError("the extractor ended on this page") from error
        except ExtractionTimeoutError:
            self.close()
            raise
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hyperclova_core.corpus.ingest.extract_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
        return self._process

    def _read(self, process: subprocess.Popen[bytes], size: int, deadline: float) -> bytes:
        assert process.stdout is not None
        parts, missing = [], size
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while missing:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise ExtractionTimeoutError(f"no main content after {self._seconds:g} s")
                part = process.stdout.read(missing)
                if not part:
                    raise EOFError
                parts.append(part)
                missing -= len(part)
        return b"".join(parts)


@functools.lru_cache(maxsize=1)
def shared_extractor(seconds: float) -> Extractor:
    """The extractor of this process: pages are many and small, starting a process for each would cost the most."""
    extractor = Extractor(seconds)
    atexit.register(extractor.close)
    return extractor
