"""Messages between the parent and a worker: pickles with a length in front, over a Unix socket that can also carry descriptors.

May import nothing of the package.
"""

from __future__ import annotations

import array
import pickle
import socket
import struct
from typing import Any

LENGTH = struct.Struct("<Q")
# A script that lets SIGPIPE end it, as `| head` wants, is to get the error all the same.
QUIET = getattr(socket, "MSG_NOSIGNAL", 0)


class Closed(Exception):
    """The other side is gone."""


class Channel:
    """One end of a socket pair. A message is any picklable value; `fd` travels with it."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end

    def send(self, message: Any, fd: int | None = None) -> None:
        """Send a message. Raises Closed."""
        data = pickle.dumps(message, protocol=5)
        data = LENGTH.pack(len(data)) + data
        try:
            # Not socket.send_fds, which passes no flags on.
            rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
            sent = self.socket.sendmsg([data], rights, QUIET)
            self.socket.sendall(data[sent:], QUIET)
        except OSError as error:
            raise Closed(str(error)) from None

    def offer(self, message: Any) -> bool:
        """Send a small message where that needs no waiting; return whether it was sent. Raises Closed."""
        data = pickle.dumps(message, protocol=5)
        data = LENGTH.pack(len(data)) + data
        try:
            sent = self.socket.send(data, QUIET | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            raise Closed(str(error)) from None
        if sent < len(data):  # more than a page: the rest fits in a moment
            try:
                self.socket.sendall(data[sent:], QUIET)
            except OSError as error:
                raise Closed(str(error)) from None
        return True

    def receive(self) -> tuple[Any, int | None]:
        """Return the next message, waiting for it, and the descriptor that came with it. Raises Closed."""
        # First exactly the head: a descriptor comes with the first byte of the message it belongs to.
        head, fds = self._read(LENGTH.size, with_fd=True)
        data, _ = self._read(*LENGTH.unpack(head))
        return pickle.loads(data), fds[0] if fds else None

    def close(self) -> None:
        self.socket.close()

    def _read(self, nbytes: int, with_fd: bool = False) -> tuple[bytearray, list[int]]:
        data, fds = bytearray(nbytes), []
        view = memoryview(data)
        while view:
            try:
                if with_fd:
                    part, found, _, _ = socket.recv_fds(self.socket, len(view), 1)
                    count = len(part)
                    view[:count] = part
                    fds += found
                else:
                    count = self.socket.recv_into(view)
            except OSError as error:
                raise Closed(str(error)) from None
            if not count:
                raise Closed("end of stream")
            view = view[count:]
        return data, fds
