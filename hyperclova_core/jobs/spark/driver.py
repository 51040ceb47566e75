"""A stage's driver on a cluster, followed by its name: adopted by a second try, its lines shown once, its end explained."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from hyperclova_core.foundation.errors import ConfigError, TransientError
from hyperclova_core.jobs.backend import JobStatus
from hyperclova_core.jobs.kubernetes.api import Api, NotThereError
from hyperclova_core.jobs.kubernetes.rank_logs import RankLogs
from hyperclova_core.jobs.kubernetes.state import ended_of, is_dead, moment, why_waiting
from hyperclova_core.jobs.spark.pods import FINGERPRINT_ANNOTATION, SparkClusterConfig

log = logging.getLogger(__name__)

GONE_SECONDS = 120.0
GIVE_UP, LONGEST_PAUSE = 60, 60.0
"""About an hour of a cluster that does not answer."""


class SparkDriver:
    """The driver's pod of one stage of one run."""

    def __init__(
        self,
        api: Api,
        config: SparkClusterConfig,
        name: str,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api, self._config, self.name, self._sleep, self._now = api, config, name, sleep, now

    def pod(self) -> dict[str, Any] | None:
        """The pod as it is, or None."""
        try:
            return self._api.get("Pod", self._config.namespace, self.name)
        except NotThereError:
            return None

    def adopt(self, fingerprint: str) -> bool:
        """Whether an earlier try's driver runs and does the same; one that has ended is removed, so that another can have its name.

        Raises:
            ConfigError: a driver of that name runs, and does something else.
            TransientError: one that has ended does not go away.
        """
        pod = self.pod()
        if pod is None:
            return False
        ending = pod["metadata"].get("deletionTimestamp")
        if ended_of(pod) is None and _phase(pod) != "Succeeded" and not ending:
            theirs = (pod["metadata"].get("annotations") or {}).get(FINGERPRINT_ANNOTATION, "")
            if theirs == fingerprint:
                return True
            raise ConfigError(
                "Another driver of this name runs",
                where=f"{self._config.namespace}/{self.name}",
                why=f"it makes {theirs[:12] or 'something unknown'}, not {fingerprint[:12]}: its inputs or settings were others",
                remedy="wait for it, or delete the pod",
            )
        self.cancel()
        self._await_gone()
        return False

    def _await_gone(self) -> None:
        waited = 0.0
        while (pod := self.pod()) is not None:
            if waited > GONE_SECONDS or is_dead(pod, self._now()):
                raise TransientError(
                    "An earlier driver does not go away",
                    where=f"{self._config.namespace}/{self.name}",
                    why="it was deleted and is still there: its node may not answer",
                    remedy="look at its node, or delete the pod by hand",
                )
            self._sleep(1.0)
            waited += 1.0

    def wait(self, on_line: Callable[[str], None], poll_seconds: float = 5.0) -> JobStatus:
        """Follow the driver to its end, giving each line it prints to `on_line`; a driver that cannot begin is ended, with the reason."""
        logs = RankLogs(self._api, self._config.namespace, [self.name], labelled=False)
        told, failures = "", 0
        while True:
            try:
                pod = self.pod()
                failures = 0
            except (
                TransientError
            ) as error:  # the driver runs on: an upgrade of the cluster's control plane takes its time
                failures += 1
                if failures >= GIVE_UP:
                    raise
                on_line(f"Cannot follow the driver ({failures}): {error.why}")
                self._sleep(min(poll_seconds * failures, LONGEST_PAUSE))
                continue
            for line in logs.read():
                on_line(line)
            if pod is None:
                cause = {"what": "The driver is gone", "why": "somebody deleted its pod, or its node was removed"}
                return JobStatus("failed", 72, cause)
            status = self._ended(pod)
            if status is not None:
                for line in logs.read():
                    on_line(line)
                return status
            if _phase(pod) == "Pending":
                words, hopeless = self._waiting(pod)
                if words != told:
                    on_line(f"Waiting: {words}")
                    told = words
                if hopeless:
                    self.cancel()
                    cause = {
                        "type": "ConfigError",
                        "what": "The driver's pod cannot begin",
                        "where": f"{self._config.namespace}/{self.name}",
                        "why": words,
                        "remedy": "correct spark_cluster in the recipe, or what the cluster lacks",
                    }
                    return JobStatus("failed", 64, cause)
            self._sleep(poll_seconds)

    def _ended(self, pod: Mapping[str, Any]) -> JobStatus | None:
        if _phase(pod) == "Succeeded":
            return JobStatus("succeeded", 0)
        if is_dead(pod, self._now()):
            node = (pod.get("spec") or {}).get("nodeName", "")
            cause = {"what": "The driver's node does not answer", "where": f"node {node}"}
            return JobStatus("failed", 72, cause, bad_nodes=(node,))
        ended = ended_of(pod)
        if ended is None or _phase(pod) == "Running":
            return None
        return JobStatus("failed", ended.code or 1, ended.cause, failed_pod=self.name)

    def _waiting(self, pod: Mapping[str, Any]) -> tuple[str, bool]:
        events = self._api.find("Event", self._config.namespace, fields=f"involvedObject.name={self.name}")
        words, hopeless = why_waiting([pod], events, self._now())
        made = moment(pod["metadata"].get("creationTimestamp"))
        late = made is not None and (self._now() - made).total_seconds() > self._config.start_seconds
        return words, hopeless or late

    def cancel(self) -> None:
        """End the driver: its executors, Service and ConfigMaps are its own, and go with it."""
        self._api.delete("Pod", self._config.namespace, self.name)


def _phase(pod: Mapping[str, Any]) -> str:
    return str((pod.get("status") or {}).get("phase") or "Pending")
