"""Whether ranks get on: a watch that ends a job whose ranks hang, with the stacks of all in the log, and a look at slow ranks."""

from __future__ import annotations

import faulthandler
import json
import logging
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from hyperclova_core.foundation.errors import CommunicationError

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
TOLD_SECONDS = 2.0
LATE_SECONDS = TOLD_SECONDS + 3.0
"""A rank that moves tells where it is so often; one that has not for so long is silent."""
LAST_SECONDS = 20.0
"""After the watch should have ended a rank, the interpreter's own clock does, which needs no lock and writes nothing."""
NOTICE_SECONDS = 8.0
"""A rank that found out that it hangs waits so long for others to find out, too: one that ends at once breaks their connections, and they would say
nothing but that. On a busy machine they are seconds apart."""
ASKING_RANKS = 8
"""So many ranks look where all others are; a thousand that did would keep the store from answering."""
SLOW = 1.5
SLOW_SECONDS = 0.2
"""A rank that takes so many times the median is told of, where that is so many seconds between two rows of metrics."""


class Watchdog:
    """Ends this rank when nothing has moved for a time: stacks of all threads to the log, then `ended` with the cause.

    Each rank tells the store where it is; the one that hangs names who is behind or silent.
    """

    def __init__(self, seconds: float, ended: Callable[[CommunicationError], None], store: Any = None) -> None:
        # a connection of its own: the ranks' is locked while one waits in it
        self._seconds, self._ended, self._store = seconds, ended, store.clone() if store is not None else None
        self._rank = dist.get_rank() if dist.is_initialized() else 0
        self._world = dist.get_world_size() if dist.is_initialized() else 1
        self._place, self._moved = "start", time.monotonic()
        self._silent: set[int] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> Watchdog:
        """Begin; `moved` of this module speaks to it from now on."""
        global _WATCH
        _WATCH = self
        self.moved("start")
        self._thread.start()
        return self

    def moved(self, place: str) -> None:
        """Training got to a place, such as `step 12`."""
        self._place, self._moved = place, time.monotonic()
        # a rank that holds the interpreter's lock, or cannot even write why it ends, is ended by this one
        faulthandler.dump_traceback_later(self._seconds + LAST_SECONDS, file=sys.stderr, exit=True)

    def stop(self) -> None:
        """End the watch."""
        global _WATCH
        _WATCH = None
        self._over.set()
        faulthandler.cancel_dump_traceback_later()

    def _run(self) -> None:
        told = -TOLD_SECONDS
        while not self._over.wait(LOOK_SECONDS):
            now = time.monotonic()
            if now - self._moved > self._seconds:
                self._end()
                return
            if self._store is not None and now - told >= TOLD_SECONDS:
                told = now
                self._tell()

    def _tell(self) -> None:
        if self._store is None:
            return
        try:
            self._store.set(f"place/{self._rank}", json.dumps({"place": self._place, "time": time.time()}))
        except RuntimeError:  # the first rank, which holds the store, is gone: torchrun ends us
            self._store = None

    def _end(self) -> None:
        place = self._place
        sys.stderr.write(
            f"rank {self._rank}: no progress for {self._seconds:.0f} s since {place}; stacks of all threads:\n"
        )
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        sys.stderr.flush()
        others = self._others()
        self._let_others_notice()
        self._ended(
            CommunicationError(
                "A rank hangs",
                where=f"rank {self._rank}, since {place}",
                why=f"no progress for {self._seconds:.0f} s; {others}",
                remedy="see the stacks of all ranks in the log; the rank that is behind or silent is the one to look at."
                " A step that takes longer by itself needs a larger hang_seconds",
            )
        )

    def _let_others_notice(self) -> None:
        """Until the first ranks that are not silent have written their stacks, too."""
        until = time.monotonic() + NOTICE_SECONDS
        try:
            if self._store is None:
                return
            self._store.set(f"hangs/{self._rank}", "1")
            expected = [f"hangs/{rank}" for rank in range(min(self._world, ASKING_RANKS)) if rank not in self._silent]
            while time.monotonic() < until and not all(self._store.check([key]) for key in expected):
                time.sleep(LOOK_SECONDS / 4)
            time.sleep(LOOK_SECONDS)  # what the last of them waits for in between
        except RuntimeError:  # the first rank is gone, which holds the store: there is nobody to wait for
            return

    def _others(self) -> str:
        if self._store is None:
            return "the other ranks cannot be asked"
        if self._rank >= ASKING_RANKS:
            self._tell()
            return f"the first {ASKING_RANKS} ranks say where the others are"
        self._tell()
        time.sleep(2 * LOOK_SECONDS)  # all notice at about the same time: let them tell
        found, silent = [], []
        for rank in range(self._world):
            key = f"place/{rank}"
            try:
                told = json.loads(self._store.get(key)) if self._store.check([key]) else None
            except RuntimeError:
                return "the first rank, which the others ask, is gone"
            if told is None or time.time() - told["time"] > LATE_SECONDS:
                self._silent.add(rank)
                silent.append(f"rank {rank} is silent" + (f" since {told['place']}" if told else ""))
            else:
                found.append(f"rank {rank} at {told['place']}")
        return "; ".join([*silent, *found])


_WATCH: Watchdog | None = None


def moved(place: str) -> None:
    """Something that takes long (a file verified, a parameter loaded) got on: the watch, if there is one, begins anew."""
    if _WATCH is not None:
        _WATCH.moved(place)


def store_of_ranks() -> Any:
    """The key-value store that the ranks met in."""
    return dist.distributed_c10d._get_default_store()


def slow_ranks(busy: float) -> tuple[float, list[int]]:
    """Compare this rank's seconds of work with those of all; every rank calls it.

    Returns:
        The slowest as a multiple of the median, and the ranks over `SLOW`.
    """
    world = dist.get_world_size()
    own = torch.tensor([busy], dtype=torch.float64, device="cuda" if torch.cuda.is_available() else "cpu")
    every = [torch.zeros_like(own) for _ in range(world)]
    dist.all_gather(every, own)
    times = [float(value) for value in every]
    middle = max(statistics.median_low(times), 1e-9)
    return max(times) / middle, [
        rank for rank, seconds in enumerate(times) if seconds > max(SLOW * middle, middle + SLOW_SECONDS)
    ]
