"""Local files as objects: a small one by one request, a large one in parts, each of which is tried again by itself.

A shard of 2 GB has 128 parts: where one request in a hundred fails, 72 % of its uploads meet a fault, and would begin anew as a whole.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hyperclova_core.foundation.errors import DataError, HyperclovaError
from hyperclova_core.foundation.storage import s3
from hyperclova_core.foundation.storage.s3_client import client
from hyperclova_core.foundation.storage.s3_refusals import MISSING_CODES, TruncatedBodyError, call, code_of, split

log = logging.getLogger(__name__)

PART_BYTES = 16 << 20
MOST_PARTS = 10_000
"""Of an upload (S3's limit)."""
AT_ONCE = 4
ENDED_CODES = frozenset(["NoSuchUpload"])


def upload(path: str, uri: str, checksum: str | None = None) -> None:
    """A local file as an object; the size of what came in parts is checked in the store.

    Args:
        checksum: kept with the object.

    Raises:
        TransientError: a request did not go well in any try; no upload is left behind, where the store can still be told.
    """
    size = os.path.getsize(path)
    kept = {"Metadata": {s3.CHECKSUM_KEY: checksum}} if checksum else {}
    if size <= PART_BYTES:
        call(lambda: _put(path, uri, size, kept), "upload a file", uri)
        return
    bucket, key = split(uri)
    begun = call(
        lambda: client(uri).create_multipart_upload(Bucket=bucket, Key=key, **kept, **_sums(uri)),
        "begin an upload",
        uri,
    )
    number = str(begun["UploadId"])
    try:
        parts = _parts(path, uri, size, number)
        call(lambda: _complete(uri, number, parts, size), "complete an upload", uri)
    except BaseException:
        try:
            s3.abort_upload(uri, number)
        except HyperclovaError as error:
            log.warning("Parts of an upload stay until `dataset gc`: %s", error.message())
        raise


def part_bytes(size: int) -> int:
    """Bytes of each part but the last, so that there are not more than S3 takes."""
    return max(PART_BYTES, -(-size // MOST_PARTS))


def _sums(uri: str) -> dict[str, str]:
    """boto3 adds a checksum to each part; the store must have been told of which kind when the upload began (as s3transfer does)."""
    told = client(uri).meta.config.request_checksum_calculation
    return {"ChecksumAlgorithm": "CRC32"} if told == "when_supported" else {}


def _put(path: str, uri: str, size: int, kept: dict[str, Any]) -> None:
    bucket, key = split(uri)
    with open(path, "rb") as file:
        data = file.read()
    if len(data) != size:
        raise TruncatedBodyError(f"{len(data)} of {size} bytes are on the disk")
    # one request, whose length and checksum the store compares: it keeps all of it or none
    client(uri).put_object(Bucket=bucket, Key=key, Body=data, **kept)


def _parts(path: str, uri: str, size: int, upload_id: str) -> list[dict[str, Any]]:
    """Send all parts, some at once."""
    bucket, key = split(uri)
    length = part_bytes(size)

    def send(number: int) -> dict[str, Any]:
        with open(path, "rb") as file:
            file.seek((number - 1) * length)
            data = file.read(length)
        answer = call(
            lambda: client(uri).upload_part(
                Bucket=bucket, Key=key, UploadId=upload_id, PartNumber=number, Body=data, **_sums(uri)
            ),
            f"upload part {number}",
            uri,
        )
        sums = {name: value for name, value in answer.items() if name.startswith("Checksum") and name != "ChecksumType"}
        return {"PartNumber": number, "ETag": answer["ETag"], **sums}

    with ThreadPoolExecutor(AT_ONCE, "upload") as pool:
        futures = [pool.submit(send, number) for number in range(1, -(-size // length) + 1)]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _complete(uri: str, upload_id: str, parts: list[dict[str, Any]], size: int) -> None:
    from botocore.exceptions import ClientError

    bucket, key = split(uri)
    try:
        client(uri).complete_multipart_upload(
            Bucket=bucket, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts}
        )
    except ClientError as error:
        if code_of(error) not in ENDED_CODES:
            raise
        # the try before this one went well, and its answer was lost; else the object is not there, or not of this size
    _check_size(uri, size)


def _check_size(uri: str, size: int) -> None:
    """What arrived.

    Raises:
        TruncatedBodyError: another size.
        DataError: nothing: the parts were removed while they were sent.
    """
    from botocore.exceptions import ClientError

    bucket, key = split(uri)
    try:
        found = client(uri).head_object(Bucket=bucket, Key=key)["ContentLength"]
    except ClientError as error:
        if code_of(error) not in MISSING_CODES:
            raise
        raise DataError(
            "An upload was ended by somebody else",
            where=uri,
            why="its parts are gone, and the object is not there",
            remedy="run again; a clean-up of unfinished uploads must leave those of the last days alone",
        ) from None
    if found != size:
        raise TruncatedBodyError(f"{found} of {size} bytes arrived")
