"""A worker process: tickets in, filled slots out. Started as `python -m vla_store.loader.worker FD PARENT`.

The caller's script is not run again, and torch is not imported, unless a transform needs them. A worker ends when its parent
does, in the middle of a batch if need be: a thread watches the socket, and whose child this is.
"""

from __future__ import annotations

import os
import pickle
import queue
import select
import signal
import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vla_store.errors import VlaStoreError
from vla_store.loader.channel import Channel, Closed
from vla_store.loader.packing import Packed, carve, pack
from vla_store.loader.ring import RingView
from vla_store.loader.work import Job, TransformError, Work

WATCH_S = 1.0

# Ctrl-C, a scheduler's warning and a closed terminal reach the whole process group, and are the parent's to answer: it may want
# to train on until it has saved. A worker ends with its parent.
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

is_loading_main = False
"""Whether this process is a worker that imports the caller's script: a Loader must not start there."""


@dataclass(frozen=True)
class Start:
    """First message. work: a pickled Work; main: how to import the caller's script, where a transform lives in it."""

    path: list[str]
    main: dict[str, Any]
    work: bytes


@dataclass(frozen=True)
class NewRing:
    """The ring that later tickets are for; its descriptor comes along."""

    slots: int
    slot_nbytes: int


# Those that come with every batch are tuples, and hold bytes instead of arrays: they pickle in a few microseconds.


class Ticket(NamedTuple):
    """Fill a slot with the batch of a job. indices: as bytes of int64."""

    number: int
    slot: int
    seed: int
    epoch: int
    position: int
    indices: bytes

    @classmethod
    def of(cls, number: int, slot: int, job: Job) -> Ticket:
        return cls(number, slot, job.seed, job.epoch, job.position, job.indices.tobytes())

    @property
    def job(self) -> Job:
        return Job(self.seed, self.epoch, self.position, np.frombuffer(self.indices, np.int64))


class Filled(NamedTuple):
    """A ticket is done. packed.tree is None where it is that of the worker's batch before."""

    number: int
    packed: Packed
    seconds: float


class Failed(NamedTuple):
    """A ticket could not be done."""

    number: int
    error: VlaStoreError


@dataclass(frozen=True)
class Ready:
    """The worker has started. error: what made its start fail."""

    error: VlaStoreError | None


Inbox = queue.SimpleQueue[tuple[Any, "int | None"]]


def main(fd: int, parent: int) -> None:
    """Serve one parent until it goes away."""
    for each in IGNORED:
        signal.signal(each, signal.SIG_IGN)
    channel = Channel(socket.socket(fileno=fd))
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(channel, inbox, parent), daemon=True).start()
    try:
        work = _start(channel, inbox)
        if work is not None:
            _serve(channel, inbox, work)
    except Closed:
        pass
    os._exit(0)


def _listen(channel: Channel, inbox: Inbox, parent: int) -> None:
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    try:
        while True:
            # A process that the parent forked may hold the other end of the socket open after it.
            while not poll.poll(WATCH_S * 1000):
                if os.getppid() != parent:
                    os._exit(0)
            inbox.put(channel.receive())
    except Closed:
        pass
    except BaseException:
        traceback.print_exc()
    os._exit(0)


def _start(channel: Channel, inbox: Inbox) -> Work | None:
    global is_loading_main
    message: Start = inbox.get()[0]
    sys.path[:] = message.path
    try:
        if message.main:
            from multiprocessing.spawn import prepare

            is_loading_main = True
            prepare(message.main)
            is_loading_main = False
        work: Work = pickle.loads(message.work)
    except VlaStoreError as error:
        channel.send(Ready(error))
    except BaseException as error:  # a script that calls sys.exit, too
        found = "".join(traceback.format_exception_only(type(error), error)).strip()
        channel.send(Ready(TransformError("a worker could not load the dataset or a transform", found=found[-1000:])))
    else:
        channel.send(Ready(None))
        return work
    return None


def _serve(channel: Channel, inbox: Inbox, work: Work) -> None:
    ring: RingView | None = None
    texts: dict[str, int] = {}
    tree: Any = None
    columns = work.columns
    while True:
        message, fd = inbox.get()
        if isinstance(message, NewRing):
            assert fd is not None
            ring = RingView(fd, message.slots, message.slot_nbytes)
            continue
        ticket: Ticket = message
        assert ring is not None
        began = time.perf_counter()
        slot, carved = ring.slot(ticket.slot), None
        try:
            job = ticket.job
            carved = carve(slot, columns, len(job.indices)) if columns else None
            packed = pack(work.run(job, carved.arrays if carved else None), slot, texts, carved)
        except VlaStoreError as error:
            channel.send(Failed(ticket.number, error))
        except Exception as error:
            channel.send(Failed(ticket.number, TransformError("a batch could not be made", found=repr(error)[:500])))
        else:
            tree, is_same = packed.tree, packed.tree == tree
            filled = packed._replace(tree=None) if is_same else packed
            channel.send(Filled(ticket.number, filled, time.perf_counter() - began))
        # Nothing may refer to the memory of a slot that is another's now.
        del slot, carved


if __name__ == "__main__":
    # Messages are pickled as values of the importable module, not of __main__.
    from vla_store.loader.worker import main as serve

    serve(int(sys.argv[1]), int(sys.argv[2]))
