"""Worker processes: fresh interpreters, each at the other end of a socket."""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from vla_store.errors import MachineError, OptionError
from vla_store.loader.channel import Channel, Closed
from vla_store.loader.work import Work
from vla_store.loader.worker import Ready, Start

CLOSE_S = 2.0


class WorkerDied(MachineError):
    """A worker process is gone in the middle of its work."""


class Pool:
    """`workers` processes that share one Work. Closed explicitly, or with the last reference; they also end by themselves
    when this process does, because their sockets close."""

    def __init__(self, work: bytes, workers: int) -> None:
        self.pid = os.getpid()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._channels: list[Channel] = []
        message = Start([path for path in sys.path if path], _main_of(work), work)
        try:
            for _ in range(workers):
                self._spawn()
            for channel in self._channels:
                channel.send(message)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._processes)

    def pid_of(self, worker: int) -> int:
        return self._processes[worker].pid

    def send(self, worker: int, message: Any, fd: int | None = None) -> None:
        """Raises WorkerDied."""
        try:
            self._channels[worker].send(message, fd)
        except Closed:
            raise self._died(worker) from None

    def receive(self, timeout_s: float) -> list[tuple[int, Any]]:
        """Messages that have arrived, waiting for one at most so long: (worker, message). Raises WorkerDied, or what a
        worker could not start for."""
        poll = select.poll()
        numbers = {}
        for number, channel in enumerate(self._channels):
            poll.register(channel.fileno(), select.POLLIN | select.POLLHUP)
            numbers[channel.fileno()] = number
        found: list[tuple[int, Any]] = []
        for fd, _ in poll.poll(timeout_s * 1000):
            number = numbers[fd]
            try:
                message, _fd = self._channels[number].receive()
            except Closed:
                raise self._died(number) from None
            if isinstance(message, Ready):
                if message.error is not None:
                    raise message.error
                continue
            found.append((number, message))
        return found

    def close(self) -> None:
        """End all workers and wait for them. In a forked copy of the owner, do nothing to them."""
        channels, self._channels = self._channels, []
        processes, self._processes = self._processes, []
        for channel in channels:
            channel.close()
        if os.getpid() != self.pid:
            for process in processes:
                process.returncode = 0  # not our child: nothing to wait for
            return
        deadline = time.monotonic() + CLOSE_S
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _spawn(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        path = os.pathsep.join(path for path in sys.path if path)
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        # Born with SIGINT blocked, so that a Ctrl-C while it starts does not print a traceback of its own.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "vla_store.loader.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **one, "PYTHONPATH": path},
            )
        except BaseException:
            ours.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self._processes.append(process)
        self._channels.append(Channel(ours))

    def _died(self, worker: int) -> WorkerDied:
        process = self._processes[worker]
        try:
            code = process.wait(1.0)
        except subprocess.TimeoutExpired:
            code = None
        return WorkerDied(
            f"loader worker {worker} died",
            pid=process.pid,
            exit=signal.Signals(-code).name if code is not None and code < 0 else code,
            hint="SIGKILL usually means that memory ran out: use fewer workers or smaller batches"
            if code == -signal.SIGKILL
            else "its own message is above, on stderr",
        )


def pickled(work: Work) -> bytes:
    """The work as workers get it. Raises OptionError where a transform or the dataset does not pickle."""
    try:
        return pickle.dumps(work, protocol=5)
    except Exception as error:
        raise OptionError(
            "the dataset or a transform cannot be sent to worker processes",
            found=f"{type(error).__name__}: {error}"[:300],
            hint="define the transform at the top level of a module (no lambda, no local function), or use workers=0",
        ) from None


def _main_of(work: bytes) -> dict[str, Any]:
    """What a worker needs to import the caller's script under another name; only where something pickled lives in it."""
    if b"__main__" not in work:
        return {}
    from multiprocessing.spawn import get_preparation_data

    data = get_preparation_data("vla_store loader worker")
    return {key: value for key, value in data.items() if key in ("init_main_from_name", "init_main_from_path")}
