"""An S3 client that keeps objects in memory and counts requests: what the store is asked, at sizes that a real one would take hours for.

It answers what our code asks of boto3's client, with its errors; faults and concurrency are the real store's tests (`object_store`).
"""

from __future__ import annotations

import datetime
import hashlib
import io
import re
import threading
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.exceptions import ClientError

from hyperclova_core.foundation.storage import multipart, s3, s3_client, s3_refusals

PAGE = 1000
BEGAN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@dataclass(frozen=True)
class _Object:
    data: bytes
    tag: str
    metadata: dict[str, str]
    changed: datetime.datetime


def refused(code: str, status: int, operation: str) -> ClientError:
    return ClientError(
        {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, operation
    )


class MemoryStore:
    """One bucket of any name. `asked` counts requests by operation."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self._objects: dict[str, _Object] = {}
        self._keys: list[str] = []
        self._lock = threading.Lock()

    def _count(self, operation: str) -> None:
        self.asked[operation] += 1

    def _found(self, key: str, operation: str) -> _Object:
        found = self._objects.get(key)
        if found is None:
            raise refused("404" if operation == "HeadObject" else "NoSuchKey", 404, operation)
        return found

    def put_object(
        self, *, Bucket: str, Key: str, Body: bytes, Metadata: dict[str, str] | None = None, IfNoneMatch: str = ""
    ) -> dict[str, Any]:
        with self._lock:
            self._count("PutObject")
            if IfNoneMatch == "*" and Key in self._objects:
                raise refused("PreconditionFailed", 412, "PutObject")
            if Key not in self._objects:
                insort(self._keys, Key)
            data = bytes(Body)
            tag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
            changed = BEGAN + datetime.timedelta(seconds=sum(self.asked.values()))
            self._objects[Key] = _Object(data, tag, Metadata or {}, changed)
            return {"ETag": tag}

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        with self._lock:
            self._count("HeadObject")
            found = self._found(Key, "HeadObject")
            return {
                "ContentLength": len(found.data),
                "ETag": found.tag,
                "Metadata": found.metadata,
                "LastModified": found.changed,
            }

    def head_bucket(self, *, Bucket: str) -> dict[str, Any]:
        return {}

    def get_object(self, *, Bucket: str, Key: str, Range: str = "", IfMatch: str = "") -> dict[str, Any]:
        with self._lock:
            self._count("GetObject")
            found = self._found(Key, "GetObject")
            if IfMatch and IfMatch != found.tag:
                raise refused("PreconditionFailed", 412, "GetObject")
            data = found.data
            if Range:
                span = re.fullmatch(r"bytes=(\d+)-(\d+)", Range)
                assert span is not None
                data = data[int(span[1]) : int(span[2]) + 1]
            return {"Body": io.BytesIO(data), "ContentLength": len(data), "ETag": found.tag}

    def delete_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:
        with self._lock:
            self._count("DeleteObject")
            self._forget(Key)
            return {}

    def delete_objects(self, *, Bucket: str, Delete: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self._count("DeleteObjects")
            assert len(Delete["Objects"]) <= PAGE
            for item in Delete["Objects"]:
                self._forget(item["Key"])
            return {}

    def _forget(self, key: str) -> None:
        if self._objects.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]

    def list_objects_v2(
        self, *, Bucket: str, Prefix: str, MaxKeys: int = PAGE, Delimiter: str = "", ContinuationToken: str = ""
    ) -> dict[str, Any]:
        with self._lock:
            self._count("ListObjectsV2")
            at = bisect_left(self._keys, ContinuationToken or Prefix)
            contents: list[dict[str, Any]] = []
            folders: dict[str, None] = {}
            while at < len(self._keys) and self._keys[at].startswith(Prefix):
                key = self._keys[at]
                if len(contents) + len(folders) >= MaxKeys:
                    return self._page(contents, folders, key)
                rest = key[len(Prefix) :]
                if Delimiter and Delimiter in rest:
                    folder = Prefix + rest.split(Delimiter)[0] + Delimiter
                    folders[folder] = None
                    at = bisect_left(self._keys, folder + "\U0010ffff")
                    continue
                found = self._objects[key]
                contents.append({"Key": key, "Size": len(found.data), "ETag": found.tag, "LastModified": found.changed})
                at += 1
            return self._page(contents, folders, "")

    @staticmethod
    def _page(contents: list[dict[str, Any]], folders: dict[str, None], following: str) -> dict[str, Any]:
        page: dict[str, Any] = {"IsTruncated": bool(following)}
        if contents:
            page["Contents"] = contents
        if folders:
            page["CommonPrefixes"] = [{"Prefix": folder} for folder in folders]
        if following:
            page["NextContinuationToken"] = following
        return page


@contextmanager
def in_memory() -> Iterator[MemoryStore]:
    """All of S3, for this process, in memory."""
    store = MemoryStore()
    with pytest.MonkeyPatch.context() as patch:
        for module in (multipart, s3, s3_client, s3_refusals):
            patch.setattr(module, "client", lambda uri="": store)
        yield store
