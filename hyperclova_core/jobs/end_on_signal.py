"""Whether somebody asked a job to end: the first thing that the launcher imports, so it imports little itself."""

from __future__ import annotations

import signal
import subprocess
import threading

KILL_SECONDS = 10.0
"""Beyond the grace time; the cluster's own is longer still (`manifests.STOP_SECONDS`)."""


class EndOnSignal:
    """Whether somebody asked the job to end, from the moment on when this is made: a container's first process ignores a signal for which it
    has no handler, and its devices would be held for the whole grace time."""

    def __init__(self) -> None:
        self.asked = False
        self._process: subprocess.Popen[bytes] | None = None
        self._seconds = 0.0
        self._timer: threading.Timer | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def pass_on_to(self, process: subprocess.Popen[bytes], grace_seconds: float) -> None:
        """End this process when asked, or at once if that was meanwhile."""
        self._process, self._seconds = process, grace_seconds + KILL_SECONDS
        if self.asked:
            self._end()

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True
        self._end()

    def _end(self) -> None:
        if self._process is None:
            return
        if self._timer is None:
            # ranks that have not met yet wait in a call that no signal ends: the cause is to be told before the cluster kills us all
            self._timer = threading.Timer(self._seconds, self._process.kill)
            self._timer.daemon = True
            self._timer.start()
        self._process.terminate()
