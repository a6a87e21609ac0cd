"""A worker process: tickets in, filled slots out. Started as `python -m vla_store.loader.worker FD`.

The caller's script is not run again, and torch is not imported, unless a transform needs them. A worker ends when its parent
does, in the middle of a batch if need be: a thread watches the socket.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

from vla_store.errors import VlaStoreError
from vla_store.loader.channel import Channel, Closed
from vla_store.loader.packing import Packed, carve, pack
from vla_store.loader.ring import RingView
from vla_store.loader.work import Job, TransformError, Work


@dataclass(frozen=True)
class Start:
    """First message. work: a pickled Work; main: path or module name of the caller's script, where a transform lives in it."""

    path: list[str]
    main: dict[str, Any]
    work: bytes


@dataclass(frozen=True)
class NewRing:
    """The ring that later tickets are for; its descriptor comes along."""

    number: int
    slots: int
    slot_nbytes: int


@dataclass(frozen=True)
class Ticket:
    """Fill a slot with a batch."""

    number: int
    slot: int
    job: Job


@dataclass(frozen=True)
class Filled:
    """A ticket is done."""

    number: int
    packed: Packed
    seconds: float


@dataclass(frozen=True)
class Failed:
    """A ticket could not be done."""

    number: int
    error: VlaStoreError


@dataclass(frozen=True)
class Ready:
    """The worker has started. error: what made its start fail."""

    error: VlaStoreError | None


def main(fd: int) -> None:
    """Serve one parent until it says stop or goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    channel = Channel(socket.socket(fileno=fd))
    inbox: queue.SimpleQueue[tuple[Any, int | None]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, inbox), daemon=True).start()
    try:
        work = _start(channel, inbox)
        if work is not None:
            _serve(channel, inbox, work)
    except Closed:
        pass
    os._exit(0)


def _listen(channel: Channel, inbox: queue.SimpleQueue[tuple[Any, int | None]]) -> None:
    try:
        while True:
            inbox.put(channel.receive())
    except Closed:
        os._exit(0)


def _start(channel: Channel, inbox: queue.SimpleQueue[tuple[Any, int | None]]) -> Work | None:
    message: Start = inbox.get()[0]
    sys.path[:] = message.path
    try:
        if message.main:
            from multiprocessing.spawn import prepare

            prepare(message.main)
        work: Work = pickle.loads(message.work)
    except Exception as error:
        channel.send(
            Ready(TransformError("a worker could not load the dataset or a transform", found=repr(error)[:500]))
        )
        return None
    channel.send(Ready(None))
    return work


def _serve(channel: Channel, inbox: queue.SimpleQueue[tuple[Any, int | None]], work: Work) -> None:
    rings: dict[int, RingView] = {}
    current = -1
    texts: dict[str, int] = {}
    while True:
        message, fd = inbox.get()
        if message is None:
            return
        if isinstance(message, NewRing):
            assert fd is not None
            rings = {message.number: RingView(fd, message.slots, message.slot_nbytes)}
            current = message.number
            continue
        ticket: Ticket = message
        began = time.perf_counter()
        slot = rings[current].slot(ticket.slot)
        try:
            columns = work.columns
            out = carve(slot, columns, len(ticket.job.indices)) if columns else None
            packed = pack(work.run(ticket.job, out), slot, texts)
        except VlaStoreError as error:
            channel.send(Failed(ticket.number, error))
        except Exception as error:
            channel.send(Failed(ticket.number, TransformError("a batch could not be made", found=repr(error)[:500])))
        else:
            channel.send(Filled(ticket.number, packed, time.perf_counter() - began))


if __name__ == "__main__":
    # Messages are pickled as values of the importable module, not of __main__.
    from vla_store.loader.worker import main as serve

    serve(int(sys.argv[1]))
