"""A web server over a folder, on 127.0.0.1, that counts what it sends and can be told to misbehave.

It serves HEAD and single byte ranges, as any static server does, and answers 500 to a GET of a shard without a Range: nobody who
reads samples needs a whole shard.
"""

from __future__ import annotations

import contextlib
import http.server
import re
import socket
import struct
import threading
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

FAULTS = (
    "missing",
    "refused",
    "ignores_range",
    "half",
    "breaks_off",
    "hangs",
    "no_length",
    "busy",
    "resets",
    "other_range",
)
SHARE = 3  # of the requests of a fault that is only "sometimes"


@dataclass(frozen=True)
class Request:
    """One request: method, key below the folder, and the range it asked for, if any, as [start, stop). by: its Authorization, or query."""

    method: str
    key: str
    range: tuple[int, int] | None
    status: int
    by: str = field(default="", compare=False)


@dataclass
class RangeServer:
    """Serves `folder` while it is entered.

    requests: every request so far. nbytes: bytes of bodies sent, by key.
    faults: {key: one of FAULTS}, looked up at each request; "*" stands for every shard, "sometimes" for every third GET of anything.
    prefix: of every path. token: what X-Token must say, where it is not empty.
    """

    folder: Path
    prefix: str = ""
    token: str = ""
    requests: list[Request] = field(default_factory=list)
    nbytes: Counter[str] = field(default_factory=Counter)
    faults: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> RangeServer:
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._turn = 0
        self._connections: set[socket.socket] = set()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}{self.prefix}"

    @property
    def refused(self) -> list[Request]:
        """Requests for a whole shard."""
        return [each for each in self.requests if each.status == 500]

    def forget(self) -> None:
        """Count from here on."""
        with self._lock:
            self.requests.clear()
            self.nbytes.clear()

    def stop(self) -> None:
        """No answer any more, also on connections that are open. May be called twice."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        # A process forked meanwhile has copies of the sockets: closing ours would leave its ends open, and it waiting.
        self._server.socket.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in list(self._connections):
            _close(connection)

    def saw(self, request: Request, sent: int) -> None:
        with self._lock:
            self.requests.append(request)
            self.nbytes[request.key] += sent

    def is_its_turn(self) -> bool:
        """Tell whether this request is one of those that fail only sometimes."""
        with self._lock:
            self._turn += 1
            return self._turn % SHARE == 0

    def opened(self, connection: socket.socket) -> None:
        self._connections.add(connection)

    def closed(self, connection: socket.socket) -> None:
        self._connections.discard(connection)

    def wait_until_stopped(self) -> None:
        self._stopping.wait(60)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, owner: RangeServer) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.owner.opened(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.owner.closed(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients come and go: that is no news."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, as real servers keep them
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body leave as one; else each answer waits for the client's delayed acknowledgement
    server: _Server

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, has_body: bool) -> None:
        owner = self.server.owner
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        key = path.removeprefix(owner.prefix).strip("/")
        file, is_shard = owner.folder / key, "/c/" in key
        fault = owner.faults.get(key) or (owner.faults.get("*") if is_shard else None)
        if fault is None and has_body and "sometimes" in owner.faults and owner.is_its_turn():
            fault = owner.faults["sometimes"]
        assert fault is None or fault in FAULTS, fault
        asked = self._range()
        if fault == "hangs":
            owner.wait_until_stopped()
            return
        if fault == "resets":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        if owner.token and self.headers.get("X-Token") != owner.token:
            fault = "refused"
        if not path.startswith(owner.prefix) or not file.is_file() or fault == "missing":
            self._send(404, key, asked, b"nothing here\n", has_body)
        elif fault == "refused":
            self._send(403, key, asked, b"not for you\n", has_body)
        elif fault == "busy":
            self._send(503, key, asked, b"slow down\n", has_body)
        elif is_shard and has_body and asked is None and fault != "no_length":
            self._send(500, key, asked, b"a whole shard? never\n", has_body)
        else:
            self._send_file(file.read_bytes(), key, asked, fault, has_body)

    def _send_file(
        self, data: bytes, key: str, asked: tuple[int, int] | None, fault: str | None, has_body: bool
    ) -> None:
        if asked is None or fault == "ignores_range":
            self._send(200, key, asked, data, has_body, fault)
        elif asked[0] >= len(data):
            self._send(416, key, asked, b"", has_body)
        else:
            start = asked[0]
            if fault == "other_range" and start:
                start -= 1
            body = data[start : start + asked[1] - asked[0]]
            said = f"bytes {start}-{start + len(body) - 1}/{len(data)}"
            self._send(206, key, asked, body[: len(body) // 2] if fault == "half" else body, has_body, fault, said)

    def _send(
        self,
        status: int,
        key: str,
        asked: tuple[int, int] | None,
        body: bytes,
        has_body: bool,
        fault: str | None = None,
        content_range: str | None = None,
    ) -> None:
        self.send_response(status)
        if content_range is not None:
            self.send_header("Content-Range", content_range)
        if fault == "no_length":
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body)))
        if status in (200, 206):
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{len(body)}"')
            self.send_header("Last-Modified", "Mon, 30 Nov 2026 00:00:00 GMT")
        self.end_headers()
        sent = body[: len(body) // 2] if fault == "breaks_off" else body
        by = self.headers.get("Authorization") or urllib.parse.urlsplit(self.path).query
        self.server.owner.saw(Request(self.command, key, asked, status, by), len(sent) if has_body else 0)
        if has_body:
            self.wfile.write(sent)
        if fault in ("breaks_off", "no_length"):
            self.close_connection = True

    def _range(self) -> tuple[int, int] | None:
        said = self.headers.get("Range") or self.headers.get("x-ms-range", "")  # as Azure's own client asks
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", said)
        return (int(asked[1]), int(asked[2]) + 1) if asked else None


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it was closed already
        connection.shutdown(socket.SHUT_RDWR)
