"""What a node does with a pod: its container's command becomes a process of this machine, with mounted folders mapped below ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INDEX = "batch.kubernetes.io/job-completion-index"
MARKER = "DOUBLE_CONTAINER"
OWN_FOLDERS = ("/tmp",)
"""Mounts that this machine has by itself: paths of tests lie below."""


@dataclass
class Container:
    """A running container: its process, and its lines with their times."""

    process: subprocess.Popen[str]
    lines: list[tuple[int, str]] = field(default_factory=list)
    reader: threading.Thread | None = None
    termination_log: str = ""
    doomed: str | None = None
    marker: str = ""

    def end_all(self) -> None:
        """Everything in a container ends with its first process: ranks are in sessions of their own."""
        end_group(self.process)
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with suppress(OSError):
                    if f"{MARKER}={self.marker}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                        os.kill(int(entry.name), signal.SIGKILL)


def run_container(
    root: Path,
    pod: Mapping[str, Any],
    config_maps: Callable[[str], Mapping[str, bytes]],
    surroundings: Mapping[str, str],
    port_of: Callable[[str], int],
) -> Container:
    """Start a pod's container.

    Args:
        root: the pod's folder here; config_maps: a ConfigMap's data by its name.
        surroundings: of the process, such as where it finds modules.
        port_of: the cluster's DNS: a port of this machine for a name with its port.
    """
    body = pod["spec"]["containers"][0]
    mapped: dict[str, str] = {}
    files: dict[Path, bytes] = {}
    for mount in body.get("volumeMounts", ()):
        volume = next((item for item in pod["spec"]["volumes"] if item["name"] == mount["name"]), {})
        if mount["mountPath"] in OWN_FOLDERS:
            continue
        place = root / mount["name"]
        place.mkdir(parents=True, exist_ok=True)
        if "configMap" in volume:
            for file, content in config_maps(volume["configMap"]["name"]).items():
                named = {item["key"]: item["path"] for item in volume["configMap"].get("items", ())}
                files[place / named.get(file, file)] = content
        mapped[mount["mountPath"]] = str(place)

    def local(text: str) -> str:
        for inside, outside in sorted(mapped.items(), reverse=True):
            if text == inside or text.startswith(f"{inside}/"):
                return outside + text[len(inside) :]
        return text

    for path, content in files.items():
        for inside, outside in mapped.items():  # a configuration names other mounts by their paths inside
            content = content.replace(f"={inside}/".encode(), f"={outside}/".encode())
        path.write_bytes(content)
    facts = {
        "spec.nodeName": pod["spec"].get("nodeName", ""),
        "status.podIP": "127.0.0.1",
        "metadata.name": pod["metadata"]["name"],
    }
    environment = {**os.environ, **surroundings}
    for item in body.get("env", ()):
        value = item.get("value")
        if value is None and "valueFrom" in item:
            path = item["valueFrom"]["fieldRef"]["fieldPath"]
            value = pod["metadata"]["annotations"][INDEX] if "annotations" in path else facts[path]
        environment[item["name"]] = local(str(value or ""))
    meeting = environment.get("HYPERCLOVA_RENDEZVOUS", "")
    if meeting:  # the cluster's DNS, in one line
        environment["HYPERCLOVA_RENDEZVOUS"] = f"127.0.0.1:{port_of(meeting)}"
    root.mkdir(parents=True, exist_ok=True)
    termination = root / "termination-log"
    termination.touch()
    environment["HYPERCLOVA_TERMINATION_LOG"] = str(termination)
    environment[MARKER] = marker = uuid.uuid4().hex
    words = [*body.get("command", ()), *body.get("args", ())]
    process = subprocess.Popen(
        [sys.executable if part == "python" else local(part) for part in words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        errors="replace",
        preexec_fn=_as_process_1,
        cwd=local(body["workingDir"]) if "workingDir" in body else None,
    )
    container = Container(process, termination_log=str(termination), marker=marker)
    container.reader = threading.Thread(target=_read_lines, args=(container,), daemon=True)
    container.reader.start()
    return container


def _as_process_1() -> None:
    """A container's first process has no default for signals: one that it does not handle is lost."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _read_lines(container: Container) -> None:
    assert container.process.stdout is not None
    last = 0
    for line in container.process.stdout:
        last = max(last + 1, time.time_ns())
        container.lines.append((last, line.rstrip("\n")))


def end_group(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    """A signal to all processes of a container."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return
