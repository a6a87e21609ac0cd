"""Messages between the parent and a worker: pickles with a length in front, over a Unix socket that can also carry descriptors."""

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

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, message: Any, fd: int | None = None) -> None:
        """Raises Closed."""
        data = pickle.dumps(message, protocol=5)
        head = LENGTH.pack(len(data))
        try:
            if fd is not None:
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
                sent = self.socket.sendmsg([head], rights, QUIET)
                self.socket.sendall(head[sent:] + data, QUIET)
            else:
                self.socket.sendall(head + data, QUIET)
        except OSError as error:
            raise Closed(str(error)) from None

    def receive(self) -> tuple[Any, int | None]:
        """The next message, waiting for it, and the descriptor that came with it. Raises Closed."""
        head, fd = self._read_head()
        (length,) = LENGTH.unpack(head)
        return pickle.loads(self._read(length)), fd

    def close(self) -> None:
        self.socket.close()

    def _read_head(self) -> tuple[bytes, int | None]:
        # Exactly the head: a descriptor comes with the first byte of the message it belongs to.
        fds = array.array("i")
        head = b""
        while len(head) < LENGTH.size:
            try:
                data, ancillary, _, _ = self.socket.recvmsg(LENGTH.size - len(head), socket.CMSG_LEN(fds.itemsize))
            except OSError as error:
                raise Closed(str(error)) from None
            if not data:
                raise Closed("end of stream")
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds.frombytes(content[: fds.itemsize])
            head += data
        return head, fds[0] if fds else None

    def _read(self, nbytes: int) -> bytearray:
        data = bytearray(nbytes)
        view = memoryview(data)
        while view:
            try:
                count = self.socket.recv_into(view)
            except OSError as error:
                raise Closed(str(error)) from None
            if not count:
                raise Closed("end of stream")
            view = view[count:]
        return data
