"""The server: `answers` over HTTP, on this machine unless another address is named."""

from __future__ import annotations

import contextlib
import errno
import http.server
import ipaddress
import os
import socket
import socketserver
import sys
import threading
import traceback
import urllib.parse
from types import TracebackType
from typing import Any

from vla_store.browse.answers import JSON, Answer, answer, failed
from vla_store.browse.held import Held
from vla_store.browse.queries import json_bytes
from vla_store.errors import MachineError, OptionError, whole_number
from vla_store.reader import Store, open_store

HOST = "127.0.0.1"
PORT = 8421
AT_ONCE = 4  # answers in the making, each of which may hold some megabytes
IDLE_S = 60.0  # after which a connection that asks for nothing is closed
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def serve(store: Store | str | os.PathLike[str], *, host: str = HOST, port: int = 0) -> Serving:
    """Serve the page of a store, in threads of this process, until `close` is called.

    Parameters
    ----------
    store : Store, str or path
        The store, or where it is.
    host : str
        Address to listen at. What is not this machine's own (127.0.0.1, ::1, localhost) lets everybody who reaches it read the store.
    port : int
        0 for one that is free.

    Returns
    -------
    Serving
        Its `url` is to be opened in a browser. A context manager, which closes it.

    Raises
    ------
    MachineError
        The port is taken, or must not be listened at.
    OptionError
        For a host or port that cannot be.
    StoreNotFound, StoreUnfinished, StoreDamaged, UnsupportedStore, FetchError
        Where a store that is named is opened.
    """
    port = whole_number("port", port, 0, 65_535)
    return Serving(store if isinstance(store, Store) else open_store(store), host, port)


class Serving:
    """A store that is being served; made by `serve`.

    Attributes
    ----------
    store
        The store.
    url
        Address of its page.
    """

    def __init__(self, store: Store, host: str, port: int) -> None:
        self.store = store
        self._server = _listening(Held(store), host, port)
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Serving:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Serving({self.store.url!r} at {self.url})"

    @property
    def is_for_this_machine(self) -> bool:
        """True where other machines cannot reach it."""
        return self._server.is_for_this_machine

    @property
    def is_open(self) -> bool:
        """True until it is closed."""
        return self._thread.is_alive()

    def wait(self) -> None:
        """Return when it was closed, by another thread."""
        self._thread.join()

    def close(self) -> None:
        """Stop, and free the port."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True  # a browser keeps connections open, and nobody waits for those
    request_queue_size = 64
    held: Held
    is_for_this_machine = True

    def __init__(self, *arguments: Any) -> None:
        self.turn = threading.Semaphore(AT_ONCE)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Free the port, and end the connections that browsers keep: what is closed answers nobody."""
        super().server_close()
        with self._lock:
            for each in self._open:
                with contextlib.suppress(OSError):  # its browser was faster
                    each.shutdown(socket.SHUT_RDWR)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(
            self
        )  # HTTPServer's asks for the name of the address, which may take seconds
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a browser that goes away is no error
            traceback.print_exc()


class _Server6(_Server):
    address_family = socket.AF_INET6


def _listening(held: Held, host: str, port: int) -> _Server:
    kind = _Server6 if ":" in host else _Server
    try:
        server = kind((host, port), _Handler)
    except OSError as error:
        raise _cannot_listen(error, host, port) from None
    server.held = held
    server.is_for_this_machine = _is_this_machine(host)
    return server


def _cannot_listen(error: OSError, host: str, port: int) -> MachineError | OptionError:
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return OptionError(
            "this machine has no such address",
            host=host,
            expected=f"{HOST}, or an address of this machine",
            found=error.strerror,
        )
    if error.errno == errno.EADDRINUSE:
        return MachineError(
            f"port {port} of {host} is taken by another program",
            hint="--port 0 (in Python port=0) takes one that is free",
        )
    return MachineError(
        f"{error.strerror or error} while listening at port {port} of {host}", hint="choose another --port"
    )


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    server: _Server

    def version_string(self) -> str:
        return "vla_store"

    def do_GET(self) -> None:
        self._send(self._answer(), has_body=True)

    def do_HEAD(self) -> None:
        self._send(self._answer(), has_body=False)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer as all else here, where the request could not be read, or is of a method that there is not."""
        self.close_connection = True
        code = 405 if code == 501 else code  # of other methods nothing is known, as of these
        text = message or self.responses.get(code, ("this cannot be answered",))[0]
        self._send(Answer(code, JSON, json_bytes({"error": {"what": text}})), has_body=self.command != "HEAD")

    def _answer(self) -> Answer:
        if self.server.is_for_this_machine and not self._is_asked_by_name():
            # A page of somebody else's, whose name was made to lead here, would be allowed to read what is answered.
            return Answer(403, JSON, json_bytes({"error": _other_name(self.headers.get("Host", ""))}))
        path, _, query = self.path.partition("?")
        with self.server.turn if path.startswith("/api/") else contextlib.nullcontext():
            try:
                return answer(self.server.held, urllib.parse.unquote(path), query)
            except Exception as error:  # a fault of ours: told, and the server goes on
                traceback.print_exc()
                return failed(MachineError(f"{type(error).__name__} while answering", found=str(error)[:500]))

    def _is_asked_by_name(self) -> bool:
        """Return whether the address that the browser shows is one of this machine itself, at whatever port: it may be forwarded."""
        try:
            name = urllib.parse.urlsplit(f"//{self.headers.get('Host', '')}").hostname
        except ValueError:
            return False
        return _is_this_machine(name or "")

    def _send(self, made: Answer, has_body: bool) -> None:
        self.send_response(made.status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", made.kind)
        self.send_header("Content-Length", str(len(made.body)))
        if made.status == 405:
            self.send_header("Allow", "GET, HEAD")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if has_body:
            self.wfile.write(made.body)


def _other_name(host: str) -> dict[str, Any]:
    return {
        "what": "this server answers only at an address of its own machine",
        "expected": "127.0.0.1, localhost or [::1], at any port",
        "found": host[:200],
        "hint": "--host ADDRESS lets other machines ask, by any name",
    }
