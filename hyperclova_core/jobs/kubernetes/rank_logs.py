"""All ranks' lines as they come: none lost, none twice, across readers that end and begin again; bounded in memory.

Kubernetes gives a log from a second on, with the time of each line to the nanosecond. A reader remembers, a pod, the time of the last
line it gave and how many lines had that time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from hyperclova_core.foundation.errors import ConfigError, TransientError
from hyperclova_core.jobs.kubernetes.api import Api, NotThereError
from hyperclova_core.jobs.kubernetes.manifests import CONTAINER

READ_BYTES, MOST_BYTES = 1 << 18, 1 << 25
LINE_CHARACTERS = 4000
AT_ONCE = 8
"""Pods whose logs are asked for at the same time."""
_INDEXED = re.compile(r"-(\d+)-[a-z0-9]{5}$")
_STAMP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)")
_RANK = re.compile(r"^\[(?:rank )?\d+\]")


class RankLogs:
    """Lines of a job's pods. See `JobLogs`.

    Args:
        cursors: of an earlier reader, see `cursors`.
        labelled: whether lines say which pod they are of.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        pods: Sequence[str],
        cursors: Mapping[str, Any] | None = None,
        labelled: bool = True,
    ) -> None:
        self._api, self._namespace, self._labels = api, namespace, labelled
        self.pods: Sequence[str] = list(pods)
        self.unread: dict[str, str] = {}
        """Pods whose log could not be read, with why: their node may not answer."""
        self._cursors: dict[str, dict[str, Any]] = {name: dict(cursor) for name, cursor in (cursors or {}).items()}

    @property
    def cursors(self) -> dict[str, Any]:
        """Where each pod's log was read to, for a reader that goes on: plain JSON."""
        return {name: dict(cursor) for name, cursor in self._cursors.items()}

    def read(self) -> Iterator[str]:
        """What is new, pod by pod, each line with its rank in front; every line given is marked as given."""
        for start in range(0, len(self.pods), AT_ONCE):
            some = self.pods[start : start + AT_ONCE]
            with ThreadPoolExecutor(len(some)) as threads:  # a node that does not answer holds up its own pods alone
                texts = list(threads.map(lambda pod: self._text(pod, READ_BYTES), some))
            for place, (pod, text) in enumerate(zip(some, texts, strict=True), start):
                yield from self._read_pod(pod, number_of(pod, place), text)

    def _text(self, pod: str, most: int) -> str | None:
        """What is new of a pod's log, `most` bytes of it; None where nothing can be read."""
        cursor = self._cursors.get(pod)
        since = f"{cursor['time'][:19]}Z" if cursor else None
        try:
            return self._api.pod_log(self._namespace, pod, CONTAINER, since, most)
        except NotThereError:
            return None
        except (TransientError, ConfigError) as error:
            self.unread[pod] = error.why
            return None

    def _read_pod(self, pod: str, number: int, text: str | None) -> Iterator[str]:
        most = READ_BYTES
        while text is not None:
            cursor = self._cursors.get(pod, {"time": "", "count": 0})
            full = len(text.encode()) >= most
            lines = text.split("\n")
            if full or text and not text.endswith("\n"):
                lines = lines[:-1]  # cut in the middle, or still being written
            given = False
            at_mark = 0
            times = [time for time in (utc(line.partition(" ")[0]) for line in lines) if time]
            if cursor["time"] and times and times[0] > cursor["time"]:
                # the line of the cursor is in what was asked for, unless the node has begun a new file meanwhile
                yield f"[pod {number}] (lines are missing here: the node has rotated its log; the pod's own files have them all)"
            for line in lines:
                stamp, _, words = line.partition(" ")
                time = utc(stamp)
                if not time or time < cursor["time"]:
                    continue
                if time == cursor["time"]:
                    at_mark += 1
                    if at_mark <= cursor["count"]:
                        continue
                current = self._cursors.get(pod, cursor)
                count = current["count"] + 1 if current["time"] == time else 1
                self._cursors[pod] = {"time": time, "count": count}
                given = True
                yield _labelled(words[:LINE_CHARACTERS], number) if self._labels else words[:LINE_CHARACTERS]
            if not full:
                return
            if not given:  # all that was read is known: more in one second than a read takes
                if most >= MOST_BYTES:
                    return
                most *= 4
            text = self._text(pod, most)


def number_of(pod: str, place: int) -> int:
    """A pod's number in its job, which a Job's controller writes into the name (JOB-NUMBER-RANDOM): pods before it may be gone."""
    found = _INDEXED.search(pod)
    return int(found[1]) if found else place


def utc(stamp: str) -> str:
    """A line's time in UTC to the nanosecond, so that times compare as text: nodes write them with the offset of their own zone."""
    found = _STAMP.fullmatch(stamp)
    if not found:
        return ""
    whole, fraction, offset = found.groups()
    moment = datetime.fromisoformat(f"{whole}{'+00:00' if offset == 'Z' else offset}").astimezone(UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{(fraction or '0').ljust(9, '0')[:9]}"


def _labelled(words: str, number: int) -> str:
    """torchrun says which rank a line is of; a line of the launcher's own is the pod's."""
    return words if _RANK.match(words) else f"[pod {number}] {words}"
