"""Objects on S3 and its kin: conditional writes, listing, ranged reads that survive faults.

Who asks is `s3_client`'s, what a refusal means `s3_refusals`'.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from typing import Any

from hyperclova_core.foundation.errors import ConfigError, DataError, TransientError
from hyperclova_core.foundation.storage.s3_client import client
from hyperclova_core.foundation.storage.s3_refusals import (
    DENIED_CODES,
    REPLACED_CODES,
    TAKEN_CODES,
    TruncatedBodyError,
    call,
    code_of,
    no_bucket,
    split,
    status_of,
)

BLOCK_BYTES = 16 << 20
WRITER_KEY = "hyperclova-writer"
DELETED_AT_ONCE = 1000
CHECKSUM_KEY = "hyperclova-checksum"


def head(uri: str) -> dict[str, Any] | None:
    """Size, entity tag and metadata of an object, or None; a missing bucket is an error, not an absence."""
    bucket, key = split(uri)
    try:
        found: dict[str, Any] = call(lambda: client(uri).head_object(Bucket=bucket, Key=key), "look at an object", uri)
    except FileNotFoundError:
        _check_bucket(uri)
        return None
    return found


def make_bucket(bucket: str) -> bool:
    """Make a bucket; False where it is there.

    Raises:
        ConfigError: the store refuses it.
        TransientError: the store does not answer.
    """
    from botocore.exceptions import ClientError

    uri = f"s3://{bucket}"

    def create() -> bool:
        try:
            client(uri).create_bucket(Bucket=bucket)
        except ClientError as error:
            if code_of(error) in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                return False
            if code_of(error) in DENIED_CODES:
                raise ConfigError(
                    "These credentials may not make a bucket",
                    where=uri,
                    why=f"the store answered {code_of(error)}",
                    remedy="use an administrator's, or have the bucket made by one",
                ) from None
            raise
        return True

    return call(create, "make a bucket", uri)


_buckets_seen: set[tuple[int, str]] = set()


def _check_bucket(uri: str) -> None:
    """HEAD says 404 for a missing object and for a missing bucket: only the second is an error."""
    bucket, _ = split(uri)
    seen = (id(client(uri)), bucket)
    if seen in _buckets_seen:
        return
    try:
        call(lambda: client(uri).head_bucket(Bucket=bucket), "look at a bucket", uri)
    except FileNotFoundError:
        raise no_bucket(uri) from None
    _buckets_seen.add(seen)


def exists(uri: str) -> bool:
    """Whether there is an object of that name, or anything below it."""
    return (not uri.endswith("/") and head(uri) is not None) or next(_pages(uri, "/", 1), None) is not None


def is_object(uri: str) -> bool:
    """Whether there is an object of exactly that name."""
    return head(uri) is not None


def size(uri: str) -> int:
    """Bytes of an object.

    Raises:
        FileNotFoundError: there is none.
    """
    found = head(uri)
    if found is None:
        raise FileNotFoundError(2, "No such object", uri)
    return int(found["ContentLength"])


def version_of(uri: str) -> str:
    """What names an object's content without reading it: the checksum it was written with, else size and entity tag."""
    found = head(uri)
    if found is None:
        raise FileNotFoundError(2, "No such object", uri)
    own = found.get("Metadata", {}).get(CHECKSUM_KEY)
    return str(own) if own else f"{found['ContentLength']}-{found['ETag'].strip(chr(34))}"


def read(uri: str, first: int | None = None, length: int | None = None, tag: str | None = None) -> bytes:
    """An object, or `length` bytes from `first`; with `tag` only of that version of it.

    Raises:
        FileNotFoundError: there is none.
        DataError: it was replaced since `tag` was seen.
    """
    bucket, key = split(uri)
    more: dict[str, str] = {}
    if first is not None and length is not None:
        more["Range"] = f"bytes={first}-{first + length - 1}"
    if tag is not None:
        more["IfMatch"] = tag

    def once() -> bytes:
        answer = client(uri).get_object(Bucket=bucket, Key=key, **more)
        body: bytes = answer["Body"].read()
        expected = int(answer["ContentLength"]) if length is None else length
        if len(body) != expected:
            raise TruncatedBodyError(f"{len(body)} of {expected} bytes came")
        return body

    try:
        return call(once, "read an object", uri)
    except DataError as error:
        if error.code in REPLACED_CODES:
            raise DataError(
                "An object was replaced while it was read",
                where=uri,
                why="its entity tag is another one now",
                remedy="let nothing write into committed datasets; run the stage again",
            ) from None
        raise


def write(uri: str, data: bytes, checksum: str | None = None) -> None:
    """Replace a small object; it is there whole or not at all."""
    bucket, key = split(uri)
    more = {"Metadata": {CHECKSUM_KEY: checksum}} if checksum else {}
    call(lambda: client(uri).put_object(Bucket=bucket, Key=key, Body=data, **more), "write an object", uri)


def create_once(uri: str, data: bytes) -> bool:
    """Create an object that must not be there; False when somebody else was first.

    After a lost reply the store may hold our own write: the object carries the writer's mark, which is read back.
    """
    bucket, key = split(uri)
    mark = uuid.uuid4().hex

    def once() -> bool:
        try:
            client(uri).put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*", Metadata={WRITER_KEY: mark})
        except Exception as error:
            if code_of(error) in TAKEN_CODES or status_of(error) == 412:
                found = client(uri).head_object(Bucket=bucket, Key=key)
                return bool(found.get("Metadata", {}).get(WRITER_KEY) == mark)
            raise
        return True

    return call(once, "create an object once", uri)


def download(uri: str, path: str) -> None:
    """An object as a local file, range by range, each with its own retries, all of one version of the object."""
    with Reader(uri) as reader, open(path, "wb") as file:
        while block := reader.read(BLOCK_BYTES):
            file.write(block)


def names(uri: str) -> list[str]:
    """Names directly below a prefix, hidden ones left out."""
    prefix = _prefix(uri)
    found: set[str] = set()
    for page in _pages(uri, "/"):
        found.update(item["Key"][len(prefix) :] for item in page.get("Contents", []))
        found.update(item["Prefix"][len(prefix) :].rstrip("/") for item in page.get("CommonPrefixes", []))
    return sorted(name for name in found if name and not name.startswith("."))


def objects(uri: str) -> Iterator[tuple[str, int, float]]:
    """(address, bytes, seconds since 1970 of the last change) of all objects below a prefix."""
    bucket, _ = split(uri)
    for page in _pages(uri, ""):
        for item in page.get("Contents", []):
            yield f"s3://{bucket}/{item['Key']}", int(item["Size"]), item["LastModified"].timestamp()


def versions(uri: str) -> Iterator[tuple[str, int, str]]:
    """(address, bytes, what names its content: size and entity tag) of all objects below a prefix, by its listing alone."""
    bucket, _ = split(uri)
    for page in _pages(uri, ""):
        for item in page.get("Contents", []):
            size = int(item["Size"])
            yield f"s3://{bucket}/{item['Key']}", size, f"{size}-{item['ETag'].strip(chr(34))}"


def unfinished_uploads(uri: str) -> Iterator[tuple[str, str, float]]:
    """(address, upload id, seconds since 1970 of its begin) of multipart uploads below a prefix that were never ended:
    no reader sees them, but they are stored."""
    bucket, _ = split(uri)
    arguments: dict[str, Any] = {"Bucket": bucket, "Prefix": _prefix(uri)}
    while True:
        page = call(lambda: client(uri).list_multipart_uploads(**arguments), "list unfinished uploads", uri)
        for item in page.get("Uploads", []):
            yield f"s3://{bucket}/{item['Key']}", str(item["UploadId"]), item["Initiated"].timestamp()
        if not page.get("IsTruncated"):
            return
        arguments.update(KeyMarker=page["NextKeyMarker"], UploadIdMarker=page["NextUploadIdMarker"])


def abort_upload(uri: str, upload: str) -> None:
    """Drop the parts of an upload; one that has ended meanwhile is fine."""
    bucket, key = split(uri)
    try:
        call(
            lambda: client(uri).abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload), "abort an upload", uri
        )
    except (FileNotFoundError, DataError) as error:
        if isinstance(error, DataError) and error.code != "NoSuchUpload":
            raise


def remove(uri: str) -> None:
    """Delete an object; absent is fine."""
    bucket, key = split(uri)
    call(lambda: client(uri).delete_object(Bucket=bucket, Key=key), "delete an object", uri)


def remove_all(uris: list[str]) -> None:
    """Delete objects of one bucket (and all of them restricted, or none), a thousand a request.

    Raises:
        TransientError: some could not be deleted.
    """
    for start in range(0, len(uris), DELETED_AT_ONCE):
        part = [split(uri) for uri in uris[start : start + DELETED_AT_ONCE]]
        request = {"Objects": [{"Key": key} for _, key in part], "Quiet": True}

        def once(uri: str = uris[start], bucket: str = part[0][0], request: dict[str, Any] = request) -> None:
            failed = client(uri).delete_objects(Bucket=bucket, Delete=request).get("Errors") or []
            if failed:
                raise TransientError(
                    "Objects could not be deleted",
                    where=f"s3://{bucket}/{failed[0].get('Key')}",
                    why=f"{len(failed)} of {len(request['Objects'])}: {failed[0].get('Code')} {failed[0].get('Message')}",
                    remedy="look at what this user may do in the bucket, then run again",
                )

        call(once, "delete objects", uris[start])


def _prefix(uri: str) -> str:
    key = split(uri)[1]
    return f"{key.rstrip('/')}/" if key else ""


def _pages(uri: str, delimiter: str, limit: int = 1000) -> Iterator[dict[str, Any]]:
    bucket, _ = split(uri)
    arguments: dict[str, Any] = {"Bucket": bucket, "Prefix": _prefix(uri), "MaxKeys": limit}
    if delimiter:
        arguments["Delimiter"] = delimiter
    while True:
        page = call(lambda: client(uri).list_objects_v2(**arguments), "list objects", uri)
        if page.get("Contents") or page.get("CommonPrefixes"):
            yield page
        if limit == 1 or not page.get("IsTruncated"):
            return
        arguments["ContinuationToken"] = page["NextContinuationToken"]


class Reader(io.RawIOBase):
    """A seekable file over ranged reads of one version of an object: pyarrow reads Parquet columns through it."""

    def __init__(self, uri: str) -> None:
        found = head(uri)
        if found is None:
            raise FileNotFoundError(2, "No such object", uri)
        self._uri, self._size, self._tag, self._position = uri, int(found["ContentLength"]), found["ETag"], 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position."""
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def read(self, length: int = -1) -> bytes:
        """Up to `length` bytes, fewer only at the end."""
        left = max(0, self._size - self._position)
        length = left if length is None or length < 0 else min(length, left)
        if length == 0:
            return b""
        data = read(self._uri, self._position, length, self._tag)
        self._position += length
        return data

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def size(self) -> int:
        """Bytes of the object."""
        return self._size
