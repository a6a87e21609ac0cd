"""Worker processes: fresh interpreters, each at the other end of a socket. May import what the worker itself imports."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from vla_store.errors import OptionError, VlaStoreError, WorkerDied
from vla_store.loader import worker
from vla_store.loader.channel import Channel, Closed
from vla_store.loader.worker import Ready, Start
from vla_store.reader.store import carrying

CLOSE_S = 2.0
FETCHER = -1
HINTS: dict[int | None, str] = {
    -signal.SIGKILL: "SIGKILL usually means that memory ran out: use fewer workers or smaller batches",
    -signal.SIGBUS: "SIGBUS usually means that a file of the store was cut short while it was read: run `vla-store verify`",
}


class Processes:
    """`workers` processes that share one Work, and a fetcher where `start_fetcher` is called. Closed explicitly, or with the last
    reference; they also end by themselves when this process does, because their sockets close.

    ahead: what a fetcher gets; None where there is to be none. folder: for what is fetched from afar and not kept.
    """

    def __init__(self, work: bytes, workers: int, ahead: bytes | None = None, folder: str | None = None) -> None:
        if worker.is_loading_main:
            raise OptionError(
                "a worker imports this script for a transform in it, and the script starts a Loader again",
                hint='put what the script does under `if __name__ == "__main__":`, or the transform into a module',
            )
        self.pid = os.getpid()
        self.is_closed = False
        self._processes: list[subprocess.Popen[bytes]] = []
        self._channels: list[Channel] = []
        self._fetcher: tuple[subprocess.Popen[bytes], Channel] | None = None
        self._ahead, self._folder = ahead, folder
        self._poll = select.poll()
        self._numbers: dict[int, int] = {}
        # Sockets and not a pipe: one that is closed while another thread wakes is an error, and not another file.
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._poll.register(self._wake, select.POLLIN)
        message = Start(_absolute_path(), _main_of(work), work, folder)
        try:
            if ahead is not None:
                self.start_fetcher()  # first: the workers wait for what it brings
            for _ in range(workers):
                self._spawn("worker")
            for number in range(workers):
                self.send(number, message)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._processes)

    def pids(self) -> list[int]:
        """Return the processes of the workers."""
        return [each.pid for each in self._processes]

    @property
    def has_fetcher(self) -> bool:
        """Whether there is a fetcher, as far as is known."""
        return self._fetcher is not None

    @property
    def fetcher_pid(self) -> int | None:
        """The process of the fetcher."""
        return None if self._fetcher is None else self._fetcher[0].pid

    def start_fetcher(self) -> None:
        """Start a fetcher; there is none. That it ends is told by `receive`. Raises OSError."""
        assert self._ahead is not None
        self._spawn("fetcher")
        assert self._fetcher is not None
        with contextlib.suppress(Closed):  # `receive` tells
            self._fetcher[1].send(Start(_absolute_path(), _main_of(self._ahead), self._ahead, self._folder))

    def tell_fetcher(self, message: Any) -> bool:
        """Tell the fetcher something, without waiting; return whether it will read it, as far as is known."""
        with contextlib.suppress(Closed):  # `receive` tells
            return self._fetcher is not None and self._fetcher[1].offer(message)
        return False

    def send(self, number: int, message: Any, fd: int | None = None) -> None:
        """Raises WorkerDied, or what a worker could not start for."""
        try:
            self._channels[number].send(message, fd)
        except Closed:
            raise self._why_not_started(number) or self._died(number) from None

    def receive(self, timeout_s: float) -> list[tuple[int, Any]]:
        """Return the messages that have arrived, waiting for one at most so long, or until `wake`: (worker, message). Those of the
        fetcher come as from FETCHER; None is the last, and says that it is gone.

        Raises WorkerDied, what a worker could not start for, or Closed.
        """
        if self.is_closed:
            raise Closed("the workers were ended")
        found: list[tuple[int, Any]] = []
        ready = self._poll.poll(timeout_s * 1000)
        if not ready and timeout_s:
            # A socket stays open after its worker where another process, forked at the wrong moment, holds it too.
            for number, process in enumerate(self._processes):
                if process.poll() is not None:
                    raise self._died(number)
            if self._fetcher is not None and self._fetcher[0].poll() is not None:
                self._drop_fetcher()
                found.append((FETCHER, None))
        while ready:
            for fd, _ in ready:
                if fd not in self._numbers:
                    self._wake.recv(4096)
                    continue
                number = self._numbers[fd]
                if number == FETCHER:
                    found += self._heard_of_fetcher()
                    continue
                try:
                    message, _fd = self._channels[number].receive()
                except Closed:
                    raise self._died(number) from None
                if not isinstance(message, Ready):
                    found.append((number, message))
                elif message.error is not None:
                    raise message.error
            ready = self._poll.poll(0)
        return found

    def wake(self) -> None:
        """Let a thread that waits in `receive` come back."""
        with contextlib.suppress(OSError):  # it is full of such already, or closed
            self._waker.send(b"\0")

    def close(self) -> None:
        """End all workers and wait for them. In a forked copy of the owner, do nothing to them."""
        self.is_closed = True
        channels, self._channels = self._channels, []
        processes, self._processes = self._processes, []
        fetcher, self._fetcher = self._fetcher, None
        if fetcher is not None:
            processes.append(fetcher[0])
            channels.append(fetcher[1])
        for channel in channels:
            channel.close()
        self._wake.close()
        self._waker.close()
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
                # A process that waits for a file server which does not answer cannot end, and nobody is to wait for it.
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(CLOSE_S)

    def _heard_of_fetcher(self) -> list[tuple[int, Any]]:
        assert self._fetcher is not None
        try:
            message, _fd = self._fetcher[1].receive()
        except Closed:
            self._drop_fetcher()
            return [(FETCHER, None)]
        # One that could not start ends; what is wrong is the workers' to say.
        return [] if isinstance(message, Ready) else [(FETCHER, message)]

    def _drop_fetcher(self) -> None:
        assert self._fetcher is not None
        process, channel = self._fetcher
        self._fetcher = None
        self._poll.unregister(channel.socket.fileno())
        del self._numbers[channel.socket.fileno()]
        channel.close()
        process.kill()  # it has closed its socket, and is ending
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(CLOSE_S)

    def _spawn(self, module: str) -> None:
        from multiprocessing.spawn import get_executable

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        # -u: what a transform prints is seen even though a worker ends in the middle of things. -P: a file in the current
        # folder that is named like a module of Python's is not imported instead of that.
        flags = ["-u", "-P"] if sys.version_info >= (3, 11) else ["-u"]
        program = ["-m", f"vla_store.loader.{module}", str(theirs.fileno()), str(self.pid)]
        # Born with these blocked, until it ignores them: a Ctrl-C while it starts is no traceback of its own, and a warning no death.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, worker.IGNORED)
        try:
            process = subprocess.Popen(
                [os.fsdecode(get_executable() or sys.executable), *flags, *program],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **one, "PYTHONPATH": os.pathsep.join(_absolute_path())},
            )
            if module == "fetcher":
                self._numbers[ours.fileno()] = FETCHER
                self._fetcher = process, Channel(ours)
            else:
                self._numbers[ours.fileno()] = len(self._processes)
                self._processes.append(process)
                self._channels.append(Channel(ours))
            self._poll.register(ours.fileno(), select.POLLIN)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            # Last: a Ctrl-C that came meanwhile is raised here, and `close` must know of the worker.
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _why_not_started(self, number: int) -> VlaStoreError | None:
        """Return what a worker that has ended said of its start, where nobody has read it yet."""
        with contextlib.suppress(Closed):
            while True:
                message, _ = self._channels[number].receive()
                if isinstance(message, Ready) and message.error is not None:
                    return message.error
        return None

    def _died(self, number: int) -> WorkerDied:
        process = self._processes[number]
        try:
            code = process.wait(1.0)
        except subprocess.TimeoutExpired:
            code = None
        return WorkerDied(
            f"loader worker {number} died",
            pid=process.pid,
            exit=signal.Signals(-code).name if code is not None and code < 0 else code,
            hint=HINTS.get(code, "its own message is above, on stderr"),
        )


def pickled(work: Any) -> bytes:
    """Return a Work as workers get it. Raises OptionError where a transform or the dataset cannot be sent to them."""
    try:
        with carrying():
            made = pickle.dumps(work, protocol=5)
    except Exception as error:
        raise OptionError(
            "the dataset or a transform cannot be sent to worker processes",
            found=f"{type(error).__name__}: {error}"[:300],
            hint="define the transform at the top level of a module (no lambda, no local function), or use workers=0",
        ) from None
    main = sys.modules.get("__main__")
    is_file = os.path.isfile(getattr(main, "__file__", None) or "")
    if _names_main(made) and getattr(main, "__spec__", None) is None and not is_file:
        raise OptionError(
            "the dataset or a transform was typed in, in a notebook or at a prompt: worker processes cannot import it",
            hint="put it into a file of its own and import it from there, or use workers=0",
        )
    return made


def _main_of(work: bytes) -> dict[str, Any]:
    """Return what a worker needs to import the caller's script under another name, if something pickled lives in it."""
    if not _names_main(work):
        return {}
    from multiprocessing.spawn import get_preparation_data

    wanted = ("init_main_from_name", "init_main_from_path", "sys_argv", "dir", "orig_dir")
    data = get_preparation_data("vla_store loader worker")
    return {key: value for key, value in data.items() if key in wanted}


def _names_main(work: bytes) -> bool:
    # In a process that multiprocessing has spawned (torch's mp.spawn does), the script goes by its other name.
    return b"__main__" in work or b"__mp_main__" in work


def _absolute_path() -> list[str]:
    return [path or os.getcwd() for path in sys.path if isinstance(path, str)]
