"""A worker process: tickets in, filled slots out. Started as `python -m vla_store.loader.worker FD PARENT`.

The caller's script is not run again, and torch is not imported, unless a transform needs them. A worker ends when its parent
does, in the middle of a batch if need be: a thread watches whether the socket is closed, and whose child this is. It does not
read: it would take the interpreter from the decoding thread for every ticket. May import all that a batch needs, and no pool.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vla_store.errors import TransformError, VlaStoreError
from vla_store.loader.channel import Channel, Closed
from vla_store.loader.packing import Layout, Packed, Room, pack
from vla_store.loader.ring import RingView
from vla_store.loader.work import Job, Work
from vla_store.storage import Traffic

WATCH_S = 1.0
MAX_ROOMS = 64

# Ctrl-C, a scheduler's warning (SIGTERM, SIGUSR1, ...) and a closed terminal reach the whole process group, and are the parent's to
# answer: it may want to train on until it has saved. A worker ends with its parent. What stays as it is: what nobody can ignore,
# what a process does to itself, and what ends nobody.
AS_THEY_ARE = ("KILL STOP", "ABRT BUS FPE ILL SEGV SYS TRAP", "CHLD CONT PIPE URG WINCH XFSZ")
IGNORED = signal.valid_signals() - {
    getattr(signal, f"SIG{name}") for names in AS_THEY_ARE for name in names.split() if hasattr(signal, f"SIG{name}")
}
TERMINAL = {signal.SIGTTIN, signal.SIGTTOU}  # after a handler the system asks the terminal again, and so for ever
TIMERS = {signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF}  # which a transform's module may have set for itself

is_loading_main = False
"""Whether this process is a worker that imports the caller's script: a Loader must not start there."""


@dataclass(frozen=True)
class Start:
    """First message. work: what is pickled for the process, a Work for a worker; main: how to import the caller's script, where a
    transform lives in it; folder: where what is fetched from afar lies for a while, None where nothing is."""

    path: list[str]
    main: dict[str, Any]
    work: bytes
    folder: str | None = None


@dataclass(frozen=True)
class NewRing:
    """The ring that later tickets are for; its descriptor comes along."""

    slots: int
    slot_nbytes: int


# Those that come with every batch are tuples: they pickle in a few microseconds. A ticket is small whatever its batch, so that all
# that a worker may have at a time fit into a socket's buffer: the parent never waits for a worker to read.


class Ticket(NamedTuple):
    """Fill a slot with the batch of a job; its first bytes are the job's indices, `rows` int64."""

    number: int
    slot: int
    seed: int
    epoch: int
    position: int
    rows: int


class Answer(NamedTuple):
    """A ticket is done: its slot filled, or what making the batch raised."""

    number: int
    made: Packed | VlaStoreError
    seconds: float
    traffic: Traffic | None = None  # since the last one; of a worker whose dataset lies afar


@dataclass(frozen=True)
class Ready:
    """The worker has started. error: what made its start fail."""

    error: VlaStoreError | None


at_end: list[Callable[[], None]] = []
"""What this process does when its parent is gone."""


def main(fd: int, parent: int, serve: Callable[[Channel, Any, Start], None] | None = None) -> None:
    """Serve one parent until it goes away, as a worker, or by `serve`."""
    _ignore(IGNORED)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED)  # they came blocked
    channel = Channel(socket.socket(fileno=fd))
    # A process that a transform forks must not keep the parent waiting for a worker that is gone, nor answer in its place.
    os.register_at_fork(after_in_child=channel.close)
    os.register_at_fork(after_in_child=_heed)
    threading.Thread(target=_watch, args=(fd, parent), daemon=True).start()
    try:
        started = _start(channel)
        if started is not None:
            _ignore(IGNORED - TIMERS)  # the caller's script, which may have been imported, may answer them
            (serve or _serve)(channel, *started)
    except Closed:
        pass
    except BaseException:
        traceback.print_exc()
    _end()


def _end() -> None:
    for each in at_end:
        with contextlib.suppress(Exception):
            each()
    os._exit(0)


def _ignore(signals: Iterable[int]) -> None:
    # A handler that does nothing, and not SIG_IGN: a program that a transform starts would inherit that, and not end when told to.
    for each in signals:
        if signal.getsignal(each) not in (None, signal.SIG_IGN):  # not what a library in C answers, nor what nohup says
            signal.signal(each, signal.SIG_IGN if each in TERMINAL else _nothing)
            signal.siginterrupt(each, False)


def _nothing(*_: object) -> None:
    pass


def _heed() -> None:
    """In a process that a transform forked: signals are its own again."""
    for each in IGNORED:
        if signal.getsignal(each) is _nothing:
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)


def _watch(fd: int, parent: int) -> None:
    poll = select.poll()
    poll.register(fd, 0)  # nothing but the end of the connection, which is always told
    # A process that the parent forked may hold the other end of the socket open after it.
    while not poll.poll(WATCH_S * 1000):
        if os.getppid() != parent:
            break
    _end()


def _start(channel: Channel) -> tuple[Any, Start] | None:
    global is_loading_main
    message: Start = channel.receive()[0]
    sys.path[:] = message.path
    try:
        if message.main:
            from multiprocessing.spawn import prepare

            is_loading_main = True
            prepare(message.main)
            is_loading_main = False
        if message.folder is not None:
            from vla_store.storage import transient

            transient(message.folder)
        work = pickle.loads(message.work)
    except VlaStoreError as error:
        channel.send(Ready(error))
    except BaseException as error:  # a script that calls sys.exit, too
        found = "".join(traceback.format_exception_only(type(error), error)).strip()
        channel.send(Ready(TransformError("a worker could not load the dataset or a transform", found=found[-1000:])))
    else:
        channel.send(Ready(None))
        return work, message
    return None


def _serve(channel: Channel, work: Work, start: Start) -> None:
    ring: RingView | None = None
    # By slot and rows: batches of as many rows lie in a slot one like the other.
    rooms: dict[tuple[int, int], Room] = {}
    texts: dict[str, int] = {}
    layout: Layout | None = None
    ahead: Any = None  # asked for once a batch was made: it opens the store
    is_asked, told = False, Traffic()
    if start.folder is not None:  # far: while the first batch is fetched, open what it will be read with
        with contextlib.suppress(Exception):
            _ = work.ahead.is_near
    while True:
        message, fd = channel.receive()
        if isinstance(message, NewRing):
            assert fd is not None
            rooms.clear()
            ring = RingView(fd, message.slots, message.slot_nbytes)
            continue
        ticket: Ticket = message
        assert ring is not None
        began = time.perf_counter()
        key = ticket.slot, ticket.rows
        room = rooms.pop(key, None) or Room(ring.slot(ticket.slot))
        indices = room.slot[: 8 * ticket.rows].view(np.int64).copy()
        batch: Any = None
        made: Packed | VlaStoreError
        try:
            batch = work.run(Job(ticket.seed, ticket.epoch, ticket.position, indices), room.begin().empty)
            made = pack(batch, room, texts)
        except VlaStoreError as error:
            made = error
        except Exception as error:
            made = TransformError("a batch could not be made", found=repr(error)[:500])
        else:
            if len(rooms) < MAX_ROOMS:
                rooms[key] = room
            is_alike, layout = made.layout == layout, made.layout
            if is_alike:
                made = made._replace(layout=None)
        if not is_asked:
            ahead, is_asked = work.ahead, True
        since: Traffic | None = None
        if ahead is not None:
            before, told = told, ahead.traffic
            since = told - before
        channel.send(Answer(ticket.number, made, time.perf_counter() - began, since))
        # Nothing may refer to the memory of a slot that is another's now, but what nobody else has seen.
        del batch, room, made


if __name__ == "__main__":
    # Messages are pickled as values of the importable module, not of __main__.
    from vla_store.loader.worker import main as serve

    serve(int(sys.argv[1]), int(sys.argv[2]))
