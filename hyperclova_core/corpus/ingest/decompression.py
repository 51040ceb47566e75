"""Bytes of compressed files as streams: what breaks off is an error of one kind, and what expands without end is stopped."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from typing import IO, Any, Protocol, cast

BROKEN_STREAM = (EOFError, OSError, zlib.error, lzma.LZMAError)
FREE_BYTES = 64 << 20
"""Bytes that any file may become: below them a ratio says nothing."""
BUFFER_BYTES = 1 << 20
PACKED_BYTES = 1024
"""Of a zstd file that are decompressed at once: four bytes may become 128 KB."""
MAX_EXPANSION = 200
"""Times its own size that a compressed file may become; Korean JSON Lines become some 5 times theirs, one line over and over 1,000 times."""


class ExpandsTooMuchError(OSError):
    """A compressed file becomes more than `max_expansion` times its own size."""


class _Source(Protocol):
    """What decompresses: as many bytes as one step gives, so that of a stream which breaks off nothing is lost."""

    def read1(self, size: int = -1, /) -> bytes: ...

    def close(self) -> None: ...


class _Zstd:
    """A zstd file's bytes, frame by frame; a stream that breaks off, in a frame or before the end of its last, is an EOFError."""

    def __init__(self, path: str) -> None:
        import zstandard

        self._broken = zstandard.ZstdError
        self._file = open(path, "rb")  # noqa: SIM115 - closed by close()
        self._decompressor = zstandard.ZstdDecompressor()
        self._frame: Any = None
        self._packed = b""
        self._ready = memoryview(b"")

    def read1(self, size: int = -1, /) -> bytes:
        while not self._ready:
            if not self._packed:
                self._packed = self._file.read(PACKED_BYTES)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the file ends within a frame")
                return b""
            self._frame = self._frame or self._decompressor.decompressobj()
            try:
                self._ready = memoryview(self._frame.decompress(self._packed))
            except self._broken as error:
                raise EOFError(str(error)) from error
            self._packed = self._frame.unused_data if self._frame.eof else b""
            if self._frame.eof:
                self._frame = None
        size = len(self._ready) if size < 0 else size
        part, self._ready = bytes(self._ready[:size]), self._ready[size:]
        return part

    def close(self) -> None:
        self._file.close()


class Bounded(io.RawIOBase):
    """A stream that is stopped where it has given more than a number of bytes."""

    def __init__(self, source: _Source, limit: int, packed: int) -> None:
        self._source, self._left, self._limit, self._packed = source, limit, limit, packed

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self._source.read1(len(buffer))
        self._left -= len(part)
        if self._left < 0:
            raise ExpandsTooMuchError(f"{self._packed} bytes become more than {self._limit}")
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        self._source.close()
        super().close()


def open_stream(path: str, max_expansion: int = MAX_EXPANSION) -> IO[bytes]:
    """A file's bytes, decompressed as its name says.

    Reading raises one of BROKEN_STREAM where the stream breaks off, ExpandsTooMuchError among them.
    """
    source: _Source
    if path.endswith(".gz"):
        source = gzip.GzipFile(path, "rb")
    elif path.endswith(".bz2"):
        source = bz2.BZ2File(path, "rb")
    elif path.endswith(".zst"):
        source = _Zstd(path)
    else:
        return open(path, "rb")
    packed = os.path.getsize(path)
    bounded = Bounded(source, max(FREE_BYTES, max_expansion * packed), packed)
    return cast(IO[bytes], io.BufferedReader(bounded, BUFFER_BYTES))


def check_last_gzip_member(path: str, offset: int) -> None:
    """Read a gzip file's tail again from a member on: FastWARC takes a stream that breaks off for its end.

    Raises:
        EOFError: the last member is not whole.
    """
    with open(path, "rb") as stream:
        stream.seek(offset)
        started = False
        member = zlib.decompressobj(wbits=31)
        while block := stream.read(BUFFER_BYTES):
            while block:
                member.decompress(block, BUFFER_BYTES)
                started = True
                block = member.unused_data if member.eof else member.unconsumed_tail
                if member.eof:
                    member = zlib.decompressobj(wbits=31)
                    started = bool(block)
        if os.path.getsize(path) > offset and started:
            raise EOFError("the file ends within a compressed record")
