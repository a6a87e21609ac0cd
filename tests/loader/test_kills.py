"""How a loader ends: killed, closed, interrupted, forked, failed. Nothing hangs, nothing stays behind, and errors have names.

The numbered cases stand at the top of vla_store/loader/batches.py. With --campaign each process is killed at 50 random moments.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loader import transforms
from loader.serving import (
    children_of,
    ended_by,
    first_rows,
    goes_on,
    is_running,
    memfds,
    rings_of,
    rows_of,
    served,
    wait_until,
)

import vla_store
from vla_store.errors import MachineError, OptionError, StoreNotFound, UsageError
from vla_store.loader import pool as pool_module
from vla_store.loader.batches import Batches
from vla_store.loader.order import Order
from vla_store.loader.processes import WorkerDied
from vla_store.loader.work import TransformError

ROOT = Path(__file__).resolve().parents[2]
WITHIN_S = 5.0


@pytest.fixture(scope="module")
def store(tiny_store: Path) -> vla_store.Store:
    return vla_store.open_store(tiny_store)


@pytest.fixture(autouse=True)
def _nothing_stays_behind() -> Iterator[None]:
    """No test of this file leaves a process of its own or a ring. What other files left here before is theirs."""
    gc.collect()
    ELSEWHERE.update(workers_of(os.getpid()))
    rings = rings_of(os.getpid())
    yield
    gc.collect()
    assert wait_until(lambda: not own_workers())
    assert wait_until(lambda: rings_of(os.getpid()) <= rings)


ELSEWHERE: set[int] = set()
"""Workers of loaders that other test files still hold."""


def own_workers() -> list[int]:
    return [pid for pid in workers_of(os.getpid()) if pid not in ELSEWHERE]


def workers_of(pid: int) -> list[int]:
    return [each for each in children_of(pid) if b"vla_store.loader.worker" in command_of(each)]


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def order(rows: int, epoch: int = 0, seed: int = 0) -> list[int]:
    return Order(rows, seed, epoch).take(0, rows).tolist()


def endless(batches: Any) -> None:
    while True:
        for _ in batches:
            pass


class Script:
    """A training script as a process of its own, in a process group of its own."""

    def __init__(self, folder: Path, text: str, *arguments: object, flags: tuple[str, ...] = ()) -> None:
        path = folder / "script.py"
        path.write_text(text)
        self.process = subprocess.Popen(
            [sys.executable, *flags, str(path), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
        )

    def says(self, line: str) -> None:
        """Waits for a line of its output."""
        for found in self.process.stdout:
            if found.strip() == line:
                return
        raise AssertionError(f"it never said {line!r}: {self.process.stderr.read()}")

    def kill(self) -> tuple[list[int], set[str]]:
        """SIGKILL; the workers and rings that it had at that moment."""
        self.process.send_signal(signal.SIGSTOP)
        found = workers_of(self.process.pid), rings_of(self.process.pid)
        self.process.kill()
        self.end()
        return found

    def end(self, timeout_s: float = 60) -> tuple[int, str, str]:
        """Exit code, output and errors, once it has ended."""
        out, errors = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, out, errors


TRAINS = """
import sys
import vla_store
from vla_store.loader.batches import Batches

def main():
    samples = vla_store.Samples(sys.argv[1], windows={"agentview_rgb": [-1, 0], "actions": range(8)}, alignment="as_stored", images="as_stored")
    batches = Batches(samples, batch_size=4, workers=int(sys.argv[2]))
    print("starts", flush=True)
    while True:
        for number, batch in enumerate(batches):
            if number == 0:
                print("trains", flush=True)

if __name__ == "__main__":
    main()
"""


# --- 1: the epoch is over -----------------------------------------------------------------------------------------------


def test_case_1_at_the_end_of_an_epoch_the_workers_wait_for_the_next_one(store: vla_store.Store) -> None:
    batches = Batches(first_rows(store, 40), batch_size=8, workers=2)
    found, pids = [], []
    for _ in range(3):
        found.append([row for rows in served(iter(batches)) for row in rows])
        pids.append(batches.pids())
    assert found == [order(40, epoch) for epoch in range(3)]
    assert pids[0] == pids[1] == pids[2]
    assert all(is_running(pid) for pid in pids[0])
    batches.close()


# --- 2: a sample or a transform raises ----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_case_2_an_error_comes_in_its_turn_with_its_sample_and_a_short_traceback(
    store: vla_store.Store, workers: int
) -> None:
    samples = first_rows(store, 100)
    batches = Batches(samples, batch_size=5, workers=workers, shuffle=False, transform=transforms.of_step_7_fails)
    stream = iter(batches)
    assert served(stream, 1) == [[0, 1, 2, 3, 4]]
    with pytest.raises(TransformError) as raised:
        next(stream)
    text = str(raised.value)
    assert "ZeroDivisionError: deep down" in text
    assert text.count('File "') < 15
    assert len(raised.traceback) < 15
    assert "in deeper" in text
    assert {"store", "sample", "row", "episode", "step"} <= set(raised.value.places)
    assert (raised.value.places["row"], raised.value.places["step"]) == ("7", "7")
    assert raised.value.places["store"] == store.url
    assert ended_by(stream) == "of the error that was raised before"
    assert batches.epochs.place == (0, 5)
    batches.close()


def test_case_2_the_workers_live_on_and_the_next_pass_begins_with_that_batch(store: vla_store.Store) -> None:
    batches = Batches(
        first_rows(store, 20), batch_size=5, workers=2, shuffle=False, transform=transforms.of_step_7_fails
    )
    stream = iter(batches)
    next(stream)
    pids = batches.pids()
    for _ in range(3):
        with pytest.raises(TransformError, match="deep down"):
            served(stream)
        stream = iter(batches)
    assert batches.pids() == pids
    batches.epochs.load_state_dict(batches.epochs.state_at(0, 10))
    assert served(iter(batches)) == [[10, 11, 12, 13, 14], [15, 16, 17, 18, 19]]
    batches.close()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch_transform": transforms.batch_fails}, "KeyError: 'no such thing'"),
        ({"transform": transforms.several_shapes}, "'ragged' has several widths in one batch"),
        ({"transform": transforms.other_keys}, "different keys"),
    ],
)
def test_case_2_an_error_of_a_whole_batch_names_its_samples(
    store: vla_store.Store, workers: int, options: dict[str, Any], text: str
) -> None:
    batches = Batches(first_rows(store, 20), batch_size=5, workers=workers, shuffle=False, **options)
    with pytest.raises(vla_store.VlaStoreError) as raised:
        next(iter(batches))
    assert text in str(raised.value)
    assert raised.value.places["samples"] == "0, 1, 2, 3, 4"
    batches.close()


def test_case_2_damage_is_said_as_the_store_says_it_with_the_sample(tiny_store: Path, tmp_path: Path) -> None:
    import shutil

    from vla_store.errors import StoreDamaged

    copy = Path(shutil.copytree(tiny_store, tmp_path / "copy.vla"))
    path = next(copy.glob("parts/*/*/agentview_rgb/c/0/0/0/0"))
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    batches = Batches(
        vla_store.Samples(copy, windows={"agentview_rgb": 0}, images="as_stored"),
        batch_size=8,
        workers=1,
        shuffle=False,
    )
    with pytest.raises(StoreDamaged) as raised:
        served(iter(batches))
    assert {"sample", "row", "episode", "step", "object"} <= set(raised.value.places)
    batches.close()


# --- 3: the consumer stops early ----------------------------------------------------------------------------------------


@goes_on
def test_case_3_what_workers_had_in_hand_comes_back_and_is_not_seen_again(store: vla_store.Store) -> None:
    batches = Batches(first_rows(store, 100), batch_size=5, workers=2)
    for number in range(10):
        stream = iter(batches)
        assert served(stream, 1) == [order(100)[5 * number : 5 * number + 5]]
    assert [row for rows in served(iter(batches)) for row in rows] == order(100)[50:]
    pool = batches.processes.pool
    assert wait_until(lambda: pool._collect(0.0) or not pool._out)
    assert pool._ring.unheld == pool._ring.slots
    batches.close()


# --- 4: a worker dies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [0, 1])
def test_case_4_a_killed_worker_is_an_error_with_its_name_and_the_next_pass_goes_on(
    store: vla_store.Store, victim: int
) -> None:
    batches = Batches(first_rows(store, 100), batch_size=5, workers=2)
    stream = iter(batches)
    taken = [row for rows in served(stream, 3) for row in rows]
    os.kill(batches.pids()[victim], signal.SIGKILL)
    pid = batches.pids()[victim]
    with pytest.raises(WorkerDied, match=f"loader worker {victim} died") as raised:
        taken.extend(row for batch in stream for row in rows_of(batch, store))
    assert raised.value.places == {"pid": str(pid), "exit": "SIGKILL"}
    assert "memory ran out" in raised.value.hint
    assert not own_workers()
    assert taken + [row for rows in served(iter(batches)) for row in rows] == order(100)
    batches.close()


def test_case_4_a_worker_that_leaves_by_itself_is_an_error_too(store: vla_store.Store) -> None:
    batches = Batches(first_rows(store, 100), batch_size=5, workers=1, transform=transforms.leaves_the_process)
    with pytest.raises(WorkerDied, match=r"loader worker 0 died(.|\n)*exit  7"):
        next(iter(batches))


def test_case_4_a_dead_worker_is_noticed_though_its_socket_stays_open(store: vla_store.Store) -> None:
    """A process that another thread forks between making a socket and closing its own end of it holds it for ever."""
    batches = Batches(first_rows(store, 100), batch_size=5, workers=1, transform=transforms.sleeps)
    thread = threading.Thread(target=lambda: errors.append(error_of(lambda: next(iter(batches)))))
    errors: list[BaseException | None] = []
    thread.start()
    assert wait_until(lambda: len(batches.pids()) == 1)
    pid = batches.pids()[0]
    copies = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(fd).startswith("socket:"):
                copies.append(copied_descriptor(pid, int(fd.name)))
    assert copies
    os.kill(pid, signal.SIGKILL)
    thread.join(60)
    assert isinstance(errors[0], WorkerDied)
    for fd in copies:
        os.close(fd)


def test_case_4_a_worker_that_reads_behind_the_end_of_a_file_is_said_so(tiny_store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_store, tmp_path / "cut.vla"))
    batches = Batches(
        first_rows(copy, 100, windows={"agentview_rgb": 0}, images="as_stored"), batch_size=5, workers=1, drop_last=True
    )
    assert sum(1 for _ in batches) == 20  # it has everything mapped now
    for file in copy.glob("parts/*/*/agentview_rgb/c/**/*"):
        if file.is_file():
            os.truncate(file, 0)
    with pytest.raises(WorkerDied, match=r"exit  SIGBUS(.|\n)*cut short") as raised:
        sum(1 for _ in batches)
    assert "vla-store verify" in raised.value.hint


def test_a_store_that_is_gone_when_workers_start_is_that_error(tiny_store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_store, tmp_path / "gone.vla"))
    batches = Batches(first_rows(copy, 10), batch_size=5, workers=2)
    copy.rename(tmp_path / "elsewhere.vla")
    with pytest.raises(StoreNotFound, match="no store at this path"):
        next(iter(batches))
    (tmp_path / "elsewhere.vla").rename(copy)
    assert len(list(batches)) == 2
    batches.close()


class Unending(subprocess.Popen):  # type: ignore[type-arg]
    """As a process in the middle of a read from a file server that is gone: it ends when the server says so."""

    is_answered = False

    def wait(self, timeout: float | None = None) -> int:
        if not self.is_answered:
            assert timeout is not None, "this would wait for ever"
            raise subprocess.TimeoutExpired(self.args, timeout)
        return super().wait(timeout)


def test_case_5_close_does_not_wait_for_a_worker_that_cannot_end(
    store: vla_store.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", Unending)
    batches = Batches(first_rows(store, 10), batch_size=5, workers=1)
    next(iter(batches))
    worker = batches.processes.pool.processes._processes[0]
    batches.close()
    worker.is_answered = True
    worker.wait()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_case_4_a_worker_killed_while_it_sends_is_noticed_though_it_forked(store: vla_store.Store) -> None:
    """What a transform forks has the worker's descriptors; were its socket among them, the message would never end."""
    transform = transforms.forks_and_then_sends_much
    batches = Batches(first_rows(store, 100), batch_size=5, workers=1, batch_transform=transform)
    stream = iter(batches)
    child = next(stream)["child"]
    pid, socket = batches.pids()[0], batches.processes.pool.processes._channels[0].socket
    errors: list[BaseException | None] = []
    thread = threading.Thread(target=lambda: errors.append(error_of(lambda: list(stream))), daemon=True)
    try:
        assert wait_until(lambda: waiting_nbytes(socket.fileno()) > 10_000)  # the next batch is on its way
        os.kill(pid, signal.SIGKILL)
        thread.start()
        thread.join(60)
        assert errors, "it waits for what the worker forked"
    finally:
        os.kill(child, signal.SIGKILL)
        thread.join(60)
    assert isinstance(errors[0], WorkerDied)


def waiting_nbytes(fd: int) -> int:
    """Bytes that have arrived at a socket and were not read."""
    import fcntl
    import struct
    import termios

    return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4))[0]


def copied_descriptor(pid: int, fd: int) -> int:
    """Another process's descriptor as one of ours, by pidfd_getfd; its number is the same on x86-64 and arm64."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    made = libc.syscall(438, os.pidfd_open(pid), fd, 0)
    if made < 0:
        pytest.skip(f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
    return made


def error_of(call: Any) -> BaseException | None:
    try:
        call()
    except BaseException as error:
        return error
    return None


class Kill(threading.Thread):
    """Kills a worker some time after it was started."""

    def __init__(self, batches: Batches, victim: int, delay_s: float) -> None:
        super().__init__()
        self.batches, self.victim, self.delay_s = batches, victim, delay_s
        self.killed_at = 0.0

    def run(self) -> None:
        assert wait_until(lambda: len(self.batches.pids()) == 2)
        time.sleep(self.delay_s)
        self.killed_at = time.monotonic()
        os.kill(self.batches.pids()[self.victim], signal.SIGKILL)


def kill_workers_at_random_moments(store: vla_store.Store, rounds: int, seed: int) -> list[float]:
    """Seconds from each kill to its error. Some kills come while workers start, some in the middle of an epoch."""
    chance = random.Random(seed)
    samples = vla_store.Samples(
        store, windows={"agentview_rgb": [-1, 0], "actions": range(8)}, alignment="as_stored", images="as_stored"
    )
    batches = Batches(samples, batch_size=4, workers=2)
    seconds = []
    for number in range(rounds):
        kill = Kill(batches, number % 2, chance.choice([0.0, 0.3, 1.0, 2.0]) * chance.random())
        kill.start()
        with pytest.raises(WorkerDied, match=f"loader worker {number % 2} died"):
            endless(batches)
        seconds.append(time.monotonic() - kill.killed_at)
        kill.join()
        assert not own_workers()
    batches.close()
    return seconds


def test_case_4_workers_killed_at_random_moments(store: vla_store.Store) -> None:
    assert len(kill_workers_at_random_moments(store, 6, seed=1)) == 6


@pytest.mark.campaign
@pytest.mark.timeout(1_800)
def test_each_of_two_workers_killed_at_fifty_random_moments(store: vla_store.Store) -> None:
    seconds = kill_workers_at_random_moments(store, 100, seed=2)
    print(f"\nfrom SIGKILL of a worker to its error: median {np.median(seconds):.3f} s, longest {max(seconds):.3f} s")
    assert max(seconds) < WITHIN_S


# --- 5: closed, collected, or the interpreter exits ---------------------------------------------------------------------


def test_case_5_close_ends_the_workers_and_a_new_pass_starts_new_ones(store: vla_store.Store) -> None:
    batches = Batches(first_rows(store, 40), batch_size=8, workers=2)
    taken = served(iter(batches), 2)
    pids = batches.pids()
    batches.close()
    batches.close()
    assert not any(is_running(pid) for pid in pids)
    assert batches.pids() == []
    assert [row for rows in taken + served(iter(batches)) for row in rows] == order(40)
    batches.close()


@pytest.mark.parametrize(
    ("how", "why"),
    [("close", "the loader was closed"), ("iter", "a newer pass began"), ("load", "load_state_dict was called")],
)
def test_case_5_a_next_that_waits_ends_when_another_thread_closes(store: vla_store.Store, how: str, why: str) -> None:
    batches = Batches(first_rows(store, 40), batch_size=8, workers=2, transform=transforms.sleeps)
    stream = iter(batches)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(ended_by(stream)))
    thread.start()
    assert wait_until(lambda: batches.processes.pool is not None and len(batches.processes.pool._out) == 4)
    if how == "close":
        batches.close()
    elif how == "iter":
        iter(batches)
    else:
        batches.epochs.load_state_dict(batches.epochs.state_at(0, 8))
    thread.join(30)
    assert found == [why]
    batches.close()


def test_case_5_a_loader_that_nobody_refers_to_ends_its_workers_at_once(store: vla_store.Store) -> None:
    """Without the collector: there is no cycle."""
    torch_face = pytest.importorskip("vla_store.torch")
    gc.disable()
    try:
        for make in (Batches, torch_face.Loader):
            loader = make(first_rows(store, 40), batch_size=8, workers=2)
            stream = iter(loader)
            batch = next(stream)
            assert len(own_workers()) == 2
            del loader, stream
            assert not own_workers()
            assert batch["actions"].shape == (8, 7)
    finally:
        gc.enable()


ENDS = """
import sys
import vla_store
from vla_store.loader.batches import Batches

def main():
    samples = vla_store.Samples(sys.argv[1], windows={"actions": 0})
    batches = Batches(samples, batch_size=4, workers=2)
    stream = iter(batches)
    held = [next(stream), next(stream)]
    globals().update(locals())  # so that all of it lives until the interpreter ends
    print(*batches.pids())
    HOW

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize(("how", "code"), [("return", 0), ("sys.exit(3)", 3), ("raise KeyError('of the script')", 1)])
def test_case_5_a_script_that_ends_without_closing_ends_clean(
    tiny_store: Path, tmp_path: Path, how: str, code: int
) -> None:
    script = Script(tmp_path, ENDS.replace("HOW", how), tiny_store, flags=("-X", "dev", "-W", "error"))
    found, out, errors = script.end()
    assert found == code, errors
    assert not any(is_running(int(pid)) for pid in out.split())
    assert ("KeyError" in errors) if code == 1 else not errors


def test_case_5_a_next_that_waits_ends_when_a_signals_handler_closes(store: vla_store.Store) -> None:
    """A scheduler's warning is often answered so; the handler runs in the middle of `next`, in the same thread."""
    batches = Batches(first_rows(store, 100), batch_size=5, workers=2, transform=transforms.sleeps)

    def warn() -> None:
        assert wait_until(lambda: batches.processes.pool is not None and len(batches.processes.pool._out) == 4)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: batches.close())
    try:
        thread = threading.Thread(target=warn)
        thread.start()
        assert ended_by(iter(batches)) == "the loader was closed"
        thread.join(60)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert batches.epochs.place == (0, 0)


@goes_on
def test_case_5_at_exit_a_thread_that_takes_batches_ends_without_an_error(
    store: vla_store.Store,
) -> None:
    """A daemon's thread, which nobody waits for: the finalizer ends the workers under it."""
    batches = Batches(first_rows(store, 100), batch_size=5, workers=2, transform=transforms.sleeps_a_little)
    errors: list[BaseException | None] = []

    def take() -> None:
        for _ in range(10_000):
            if not served(iter(batches)):
                return

    thread = threading.Thread(target=lambda: errors.append(error_of(take)), daemon=True)
    thread.start()
    assert wait_until(lambda: batches.counts.batches > 10)
    batches.processes._finalizer()
    thread.join(60)
    assert errors == [None]
    batches.close()


# --- 6: the parent is killed --------------------------------------------------------------------------------------------


def kill_a_parent(store: Path, folder: Path, delay_s: float, *, wait_for: str) -> float:
    """Seconds until its workers and its ring are gone."""
    script = Script(folder, TRAINS, store, 2)
    script.says(wait_for)
    time.sleep(delay_s)
    workers, rings = script.kill()
    began = time.monotonic()
    if wait_for == "trains":
        assert len(workers) == 2
        assert len(rings) == 1
    assert wait_until(lambda: not any(is_running(pid) for pid in workers))
    assert wait_until(lambda: not rings & memfds())
    return time.monotonic() - began


@pytest.mark.parametrize("wait_for", ["starts", "trains"])
def test_case_6_a_killed_parent_leaves_no_process_and_no_memory(
    tiny_store: Path, tmp_path: Path, wait_for: str
) -> None:
    for delay_s in (0.0, 0.2):
        kill_a_parent(tiny_store, tmp_path, delay_s, wait_for=wait_for)


@pytest.mark.campaign
@pytest.mark.timeout(1_800)
def test_a_parent_killed_at_fifty_random_moments(tiny_store: Path, tmp_path: Path) -> None:
    chance = random.Random(3)
    seconds = [
        kill_a_parent(tiny_store, tmp_path, chance.random() * 0.8, wait_for=chance.choice(["starts", "trains"]))
        for _ in range(50)
    ]
    print(
        f"\nfrom SIGKILL of the parent until nothing is left: median {np.median(seconds):.3f} s, longest {max(seconds):.3f} s"
    )
    assert max(seconds) < WITHIN_S


FORKS = """
import os, sys, time
import vla_store
from vla_store.loader.batches import Batches

def main():
    samples = vla_store.Samples(sys.argv[1], windows={"actions": 0})
    batches = Batches(samples, batch_size=4, workers=2)
    stream = iter(batches)
    next(stream)
    child = os.fork()
    if child == 0:
        time.sleep(120)  # holds copies of the sockets
        os._exit(0)
    print(child, flush=True)
    print("forked", flush=True)
    time.sleep(120)

if __name__ == "__main__":
    main()
"""


def test_case_6_workers_end_though_a_forked_child_holds_their_sockets_open(tiny_store: Path, tmp_path: Path) -> None:
    script = Script(tmp_path, FORKS, tiny_store)
    child = int(script.process.stdout.readline())
    script.says("forked")
    os.kill(script.process.pid, signal.SIGSTOP)
    workers = workers_of(script.process.pid)
    os.kill(script.process.pid, signal.SIGKILL)
    script.process.wait()
    assert len(workers) == 2
    assert wait_until(lambda: not any(is_running(pid) for pid in workers))
    os.kill(child, signal.SIGKILL)
    script.end()


# --- 7: Ctrl-C ----------------------------------------------------------------------------------------------------------


def test_case_7_ctrl_c_ends_a_script_with_one_traceback_and_nothing_left(tiny_store: Path, tmp_path: Path) -> None:
    for delay_s in (0.0, 0.1):
        script = Script(tmp_path, TRAINS, tiny_store, 2)
        script.says("trains")
        time.sleep(delay_s)
        workers, rings = workers_of(script.process.pid), rings_of(script.process.pid)
        os.killpg(script.process.pid, signal.SIGINT)
        _, _, errors = script.end()
        assert errors.count("KeyboardInterrupt") == 1, errors  # the script's; a second traceback may lead to it
        assert errors.rstrip().endswith("KeyboardInterrupt")
        assert wait_until(lambda workers=workers: not any(is_running(pid) for pid in workers))
        assert not rings & memfds()


def test_case_7_ctrl_c_while_workers_start_prints_nothing_of_theirs(tiny_store: Path, tmp_path: Path) -> None:
    script = Script(tmp_path, TRAINS, tiny_store, 2)
    script.says("starts")
    assert wait_until(lambda: bool(workers_of(script.process.pid)))
    os.killpg(script.process.pid, signal.SIGINT)
    _, _, errors = script.end()
    assert errors.count("KeyboardInterrupt") == 1, errors


@goes_on
def test_case_7_ctrl_c_where_a_pass_begins_costs_no_batch_and_no_slot(
    store: vla_store.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Any) -> None:
        raise KeyboardInterrupt

    batches = Batches(first_rows(store, 40), batch_size=8, workers=2)
    stream = iter(batches)
    next(stream)
    with monkeypatch.context() as patched:
        patched.setattr(pool_module.WorkerPool, "cancel", interrupted)
        with pytest.raises(KeyboardInterrupt):
            iter(batches)
    assert not own_workers()
    assert [row for rows in served(iter(batches)) for row in rows] == order(40)[8:]
    batches.close()


def test_case_7_ctrl_c_in_the_moment_a_worker_is_made_leaves_no_worker(
    store: vla_store.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self.pid)
            signal.raise_signal(signal.SIGINT)

    batches = Batches(first_rows(store, 10), batch_size=5, workers=2)
    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt) as raised:
        next(iter(batches))
    assert len(started) == 1
    assert raised.traceback  # a notebook keeps it, and all that its frames refer to
    assert wait_until(lambda: not Path(f"/proc/{started[0]}").exists())


INTERRUPTED = """
import os, random, signal, sys, threading
import vla_store
from vla_store.loader.batches import Batches
from vla_store.loader.order import Order

INTERRUPTIONS = 8

def main():
    samples = vla_store.Samples(sys.argv[1], windows={"actions": 0}, rows=range(100))
    batches = Batches(samples, batch_size=5, workers=1)
    chance = random.Random(int(sys.argv[2]))
    starts = samples.store.episodes.starts
    found, stop, at_work = [], threading.Event(), threading.Event()

    def interrupt():
        # Only while workers give batches, not while they start; a few milliseconds are some batches, or some epochs.
        while at_work.wait() and not stop.wait(chance.random() * 0.01):
            at_work.clear()
            os.kill(os.getpid(), signal.SIGINT)

    def answer(number, frame):
        # Only inside the loader: what the script does with a batch is not the loader's to make whole.
        inside = frame
        while inside is not None and not inside.f_code.co_filename.endswith("stream.py"):
            inside = inside.f_back
        if inside is not None and inside.f_code.co_name == "take":
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, answer)
    thread = threading.Thread(target=interrupt)
    thread.start()
    interruptions = epoch = 0
    while interruptions < INTERRUPTIONS:  # however many of the signals struck elsewhere
        try:
            for batch in batches:
                at_work.set()
                found += (starts[batch["episode"]] + batch["step"]).tolist()
        except KeyboardInterrupt:
            interruptions += 1
        if batches.epochs.place[0] > epoch:
            assert found == Order(100, 0, epoch).take(0, 100).tolist(), (epoch, found)
            found.clear()
            epoch += 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop.set()
    at_work.set()
    thread.join()
    for batch in batches:
        found += (starts[batch["episode"]] + batch["step"]).tolist()
    assert found == Order(100, 0, epoch).take(0, 100).tolist(), (epoch, found)
    print("interrupted", interruptions)

if __name__ == "__main__":
    main()
"""


def test_case_7_after_ctrl_c_in_a_notebook_no_batch_is_lost(tiny_store: Path, tmp_path: Path) -> None:
    code, out, errors = Script(tmp_path, INTERRUPTED, tiny_store, 1).end(120)
    assert code == 0, errors
    assert out.strip() == "interrupted 8"


WARNED = [
    "SIGUSR1",
    "SIGUSR2",
    "SIGTERM",
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGALRM",
    "SIGVTALRM",
    "SIGPROF",
    "SIGXCPU",
    "SIGIO",
    "SIGPWR",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGCONT",
    "SIGWINCH",
    "SIGRTMIN",
    "SIGRTMAX",
]
LATE = """
import os, signal

def warned(number, frame):
    os.write(1, b"warned\\n")  # not print: the signal may find the script in the middle of its own

def main():
    for name in sys.argv[3].split(","):
        signal.signal(getattr(signal, name), warned)
"""


@pytest.mark.parametrize("wait_for", ["starts", "trains"])
def test_a_signal_to_the_whole_process_group_lets_a_script_that_answers_it_train_on(
    tiny_store: Path, tmp_path: Path, wait_for: str
) -> None:
    """Schedulers send a warning to all processes of a job, and give the script time to save; also while workers start."""
    script = Script(tmp_path, TRAINS.replace("def main():", LATE), tiny_store, 2, ",".join(WARNED))
    script.says(wait_for)
    if wait_for == "starts":
        assert wait_until(lambda: len(workers_of(script.process.pid)) == 2)
    workers = workers_of(script.process.pid)
    for name in WARNED:
        os.killpg(script.process.pid, getattr(signal, name))
        script.says("warned")
    for _ in range(3):
        script.says("trains")
    assert workers_of(script.process.pid) == workers
    script.kill()


IN_THE_BACKGROUND = """
import fcntl, os, signal, sys, termios
from vla_store.loader.batches import Batches
from vla_store.reader import open_store
from vla_store.reader.samples import Samples

def tells(batch):
    with open("/dev/tty", "wb", buffering=0) as terminal:
        terminal.write(b"from a worker")
    return batch

if __name__ == "__main__":
    master, slave = os.openpty()
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    settings = termios.tcgetattr(slave)
    settings[3] |= termios.TOSTOP
    termios.tcsetattr(slave, termios.TCSANOW, settings)
    job = os.fork()
    if job == 0:
        os.setpgid(0, 0)
        samples = Samples(open_store(sys.argv[1]), windows={"actions": 0}, rows=[0, 1])
        next(iter(Batches(samples, batch_size=2, workers=1, batch_transform=tells)))
        os._exit(0)
    assert os.waitpid(job, os.WUNTRACED)[1] == 0, "the job was stopped"
    print(os.read(master, 100).decode())
"""


def test_a_worker_of_a_background_job_may_write_to_a_terminal_that_stops_such_jobs(
    tiny_store: Path, tmp_path: Path
) -> None:
    path = tmp_path / "background.py"
    path.write_text(IN_THE_BACKGROUND)
    command = [sys.executable, str(path), str(tiny_store)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "from a worker"), done.stderr


def test_a_handler_that_is_set_after_the_workers_began_is_in_time(tiny_store: Path, tmp_path: Path) -> None:
    text = TRAINS.replace("def main():", LATE.partition("def main():")[0] + "def main():")
    text = text.replace('print("trains"', 'signal.signal(signal.SIGUSR1, warned), print("trains"')
    script = Script(tmp_path, text, tiny_store, 2)
    script.says("trains")
    workers = workers_of(script.process.pid)
    os.killpg(script.process.pid, signal.SIGUSR1)
    script.says("warned")
    script.says("trains")
    assert workers_of(script.process.pid) == workers
    script.kill()


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGXCPU"])
def test_a_signal_to_the_whole_process_group_that_ends_the_script_ends_its_workers(
    tiny_store: Path, tmp_path: Path, name: str
) -> None:
    script = Script(
        tmp_path, "import resource\nresource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n" + TRAINS, tiny_store, 2
    )
    script.says("trains")
    workers, rings = workers_of(script.process.pid), rings_of(script.process.pid)
    os.killpg(script.process.pid, getattr(signal, name))
    code, _, errors = script.end()
    assert (code, "WorkerDied" in errors) == (-getattr(signal, name), False)
    assert len(workers) == 2
    assert wait_until(lambda: not any(is_running(pid) for pid in workers))
    assert not rings & memfds()


def test_a_stopped_and_continued_process_group_trains_on(tiny_store: Path, tmp_path: Path) -> None:
    script = Script(tmp_path, TRAINS, tiny_store, 2)
    script.says("trains")
    for name in ("SIGTSTP", "SIGSTOP"):
        os.killpg(script.process.pid, getattr(signal, name))
        time.sleep(0.1)
        os.killpg(script.process.pid, signal.SIGCONT)
        for _ in range(3):
            script.says("trains")
    script.kill()


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_case_4_what_is_the_death_of_the_worker_itself_stays_it(store: vla_store.Store, name: str) -> None:
    batches = Batches(first_rows(store, 100), batch_size=5, workers=1)
    stream = iter(batches)
    next(stream)
    os.kill(batches.pids()[0], getattr(signal, name))
    with pytest.raises(WorkerDied, match=rf"exit  {name}"):
        list(stream)


def test_what_a_transform_starts_heeds_signals_as_anywhere(store: vla_store.Store) -> None:
    """A program that was told to end must end, and a forked copy of the worker too."""
    batches = Batches(first_rows(store, 4), batch_size=4, workers=1, batch_transform=transforms.starts_and_ends)
    assert next(iter(batches))["codes"] == [[-signal.SIGTERM, -signal.SIGUSR1]] * 2
    batches.close()


SCRIPT_ANSWERS = """
import os, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: sys.exit("of the script"))
"""


def test_a_handler_of_the_script_is_not_a_worker_s_that_imports_it(tiny_store: Path, tmp_path: Path) -> None:
    text = TRAINS.replace("batch_size=4", "batch_size=4, transform=transform")
    text = SCRIPT_ANSWERS + "def transform(sample): return sample\n" + text
    text = text.replace(
        "    print(", "    signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b'warned\\n'))\n    print(", 1
    )
    script = Script(tmp_path, text, tiny_store, 2)
    # Batches come in order, so both workers have loaded the script then: while they do, it may answer for itself.
    for _ in range(3):
        script.says("trains")
    os.killpg(script.process.pid, signal.SIGUSR1)
    script.says("warned")
    for _ in range(3):
        script.says("trains")
    script.kill()


# --- 8: the process forks -----------------------------------------------------------------------------------------------


def in_a_fork(call: Any) -> str:
    """What a forked copy of this process says that the call gave."""
    answer, say = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            text = repr(call())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(say, text.encode())
        os._exit(0)
    os.close(say)
    with os.fdopen(answer) as file:
        found = file.read()
    assert os.waitpid(child, 0)[1] == 0
    return found


@goes_on
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_case_8_in_a_forked_process_the_pass_raises_and_a_new_one_works(store: vla_store.Store) -> None:
    batches = Batches(first_rows(store, 40), batch_size=8, workers=2)
    stream = iter(batches)
    taken = served(stream, 2)
    pids = batches.pids()
    assert "began in another process" in in_a_fork(lambda: next(stream))
    child = in_a_fork(lambda: (served(iter(batches)), batches.close()))
    rows = order(40)
    assert child == repr(([rows[at : at + 8] for at in range(16, 40, 8)], None))
    assert in_a_fork(batches.close) == "None"
    taken += served(stream)  # the parent's pass is untouched
    assert [row for each in taken for row in each] == order(40)
    assert batches.pids() == pids
    batches.close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_case_8_a_fork_while_a_thread_waits_for_a_batch_is_not_stuck(store: vla_store.Store) -> None:
    batches = Batches(first_rows(store, 16), batch_size=8, workers=1, transform=transforms.sleeps)
    stream = iter(batches)
    thread = threading.Thread(target=lambda: error_of(lambda: next(stream)))
    thread.start()
    assert wait_until(lambda: batches.processes.pool is not None and len(batches.processes.pool._out) == 2)
    assert in_a_fork(lambda: (iter(batches) is not None, batches.close())) == "(True, None)"
    batches.close()
    thread.join(30)
    assert not thread.is_alive()


def test_a_pass_of_another_process_says_what_to_do() -> None:
    error = UsageError("this pass over the loader began in another process", hint="call iter(loader) in this one")
    assert "hint: call iter(loader)" in str(error)


# --- transforms that cannot be --------------------------------------------------------------------------------------------


def test_a_transform_that_does_not_pickle_fails_when_the_loader_is_made(store: vla_store.Store) -> None:
    samples = first_rows(store, 10)
    with pytest.raises(OptionError, match="top level of a module"):
        Batches(samples, batch_size=5, transform=lambda sample: sample)
    with pytest.raises(OptionError, match="cannot be sent to worker processes"):
        Batches(samples, batch_size=5, batch_transform=threading.Lock().acquire)
    assert len(Batches(samples, batch_size=5, workers=0, transform=lambda sample: sample)) == 2


MAIN = """
import sys
import vla_store
from vla_store.loader.batches import Batches

print("imported as", __name__, flush=True)

def transform(sample):
    return {"step": sample["step"], "name": __name__}

def main():
    samples = vla_store.Samples(sys.argv[1], windows={"actions": 0}, rows=range(4))
    for batch in Batches(samples, batch_size=4, workers=1, transform=TRANSFORM):
        print(batch["step"].tolist(), batch.get("name"))

GUARD
"""
GUARDED = 'if __name__ == "__main__":\n    main()'


def test_a_transform_that_lives_in_the_script_is_imported_from_it_under_another_name(
    tiny_store: Path, tmp_path: Path
) -> None:
    text = MAIN.replace("TRANSFORM", "transform").replace("GUARD", GUARDED)
    code, out, errors = Script(tmp_path, text, tiny_store).end()
    assert code == 0, errors
    assert out.splitlines()[:2] == ["imported as __main__", "imported as __mp_main__"]
    assert "['__mp_main__', '__mp_main__', '__mp_main__', '__mp_main__']" in out


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_transform_of_the_script_is_found_by_workers_of_a_spawned_process(
    tiny_store: Path, tmp_path: Path, method: str
) -> None:
    """As torch.multiprocessing.spawn starts ranks: there the script is not called __main__."""
    guard = f"""if __name__ == "__main__":
    import multiprocessing
    process = multiprocessing.get_context({method!r}).Process(target=main)
    process.start()
    process.join()
    raise SystemExit(process.exitcode)"""
    text = MAIN.replace("TRANSFORM", "transform").replace("GUARD", guard)
    code, out, errors = Script(tmp_path, text, tiny_store).end()
    assert code == 0, errors
    assert "['__mp_main__', '__mp_main__', '__mp_main__', '__mp_main__']" in out


def test_the_script_is_not_run_again_where_no_transform_lives_in_it(tiny_store: Path, tmp_path: Path) -> None:
    text = MAIN.replace("TRANSFORM", "None").replace("GUARD", "main()")
    code, out, errors = Script(tmp_path, text, tiny_store).end()
    assert code == 0, errors
    assert out.splitlines()[0] == "imported as __main__"
    assert "__mp_main__" not in out


def test_a_script_without_a_guard_is_told_so(tiny_store: Path, tmp_path: Path) -> None:
    text = MAIN.replace("TRANSFORM", "transform").replace("GUARD", "main()")
    code, _, errors = Script(tmp_path, text, tiny_store).end()
    assert code == 1
    assert 'put what the script does under `if __name__ == "__main__":`' in errors
    assert errors.count("Traceback") == 1


def test_a_transform_that_was_typed_in_is_refused_when_the_loader_is_made(tiny_store: Path) -> None:
    text = MAIN.replace("TRANSFORM", "transform").replace("GUARD", "main()")
    for arguments, stdin in ((["-c", text, str(tiny_store)], None), (["-", str(tiny_store)], text)):
        done = subprocess.run(
            [sys.executable, *arguments], input=stdin, capture_output=True, text=True, cwd=ROOT, timeout=60
        )
        assert "typed in, in a notebook or at a prompt" in done.stderr, done.stderr


def test_a_dataset_that_workers_cannot_load_is_an_error_that_says_why(store: vla_store.Store, monkeypatch: Any) -> None:
    monkeypatch.setattr(transforms, "only_here", transforms.nothing, raising=False)
    transforms.nothing.__qualname__ = "only_here"
    try:
        batches = Batches(first_rows(store, 10), batch_size=5, workers=2, transform=transforms.nothing)
    finally:
        transforms.nothing.__qualname__ = "nothing"
    with pytest.raises(TransformError, match=r"could not load(.|\n)*AttributeError(.|\n)*only_here"):
        next(iter(batches))
    assert not own_workers()


def test_why_a_worker_could_not_start_is_said_though_it_has_gone_meanwhile(
    store: vla_store.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends as soon as it has said why, and the parent may come with the ring only after that."""

    class Late(pool_module.Ring):  # type: ignore[misc,name-defined]
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            assert wait_until(lambda: not any(is_running(pid) for pid in own_workers()), 60)

    monkeypatch.setattr(pool_module, "Ring", Late)
    monkeypatch.setattr(transforms, "only_here", transforms.nothing, raising=False)
    monkeypatch.setattr(transforms.nothing, "__qualname__", "only_here")
    batches = Batches(first_rows(store, 10), batch_size=5, workers=2, transform=transforms.nothing)
    with pytest.raises(TransformError, match=r"could not load(.|\n)*AttributeError(.|\n)*only_here"):
        next(iter(batches))


SILENT = """
import signal, sys
import vla_store
from vla_store.loader.batches import Batches
from vla_store.loader.processes import Processes, WorkerDied

signal.signal(signal.SIGPIPE, signal.SIG_DFL)
samples = vla_store.Samples(sys.argv[1], windows={"actions": 0}, rows=range(100))
batches = Batches(samples, batch_size=5, workers=1)
next(iter(batches))
pool = batches.processes.pool.processes
pool._processes[0].kill()
pool._processes[0].wait()
try:
    pool.send(0, "a ticket")
except WorkerDied as error:
    print(error.what)
"""


def test_a_dead_worker_is_an_error_also_where_a_broken_pipe_would_end_the_script(
    tiny_store: Path, tmp_path: Path
) -> None:
    code, out, errors = Script(tmp_path, SILENT, tiny_store).end()
    assert (code, out.strip()) == (0, "loader worker 0 died"), errors


def test_a_file_in_the_current_folder_is_not_taken_for_a_module_of_pythons(tiny_store: Path, tmp_path: Path) -> None:
    if sys.version_info < (3, 11):
        pytest.skip("Python 3.10 has no -P")
    (tmp_path / "queue.py").write_text("raise SystemExit('the wrong queue')\n")
    inner = tmp_path / "inner"
    inner.mkdir()
    path = inner / "script.py"
    path.write_text(MAIN.replace("TRANSFORM", "None").replace("GUARD", GUARDED))
    done = subprocess.run(
        [sys.executable, path, tiny_store],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


def test_what_a_transform_prints_is_seen(tiny_store: Path, tmp_path: Path) -> None:
    text = MAIN.replace("TRANSFORM", "transforms.prints").replace("GUARD", GUARDED)
    code, out, errors = Script(tmp_path, "from loader import transforms\n" + text, tiny_store).end()
    assert code == 0, errors
    assert out.count("seen by who looks at stdout") == 4


# --- memory, and patience -----------------------------------------------------------------------------------------------


def test_too_little_memory_is_an_error_and_no_worker_stays(
    store: vla_store.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vla_store.loader.ring.available_nbytes", lambda: 10_000)
    samples = vla_store.Samples(store, windows={"agentview_rgb": 0}, images="as_stored")
    batches = Batches(samples, batch_size=64, workers=2)
    with pytest.raises(MachineError, match="smaller batch_size or fewer workers"):
        next(iter(batches))
    assert not own_workers()
    monkeypatch.undo()
    assert sum(len(rows) for rows in served(iter(batches))) == len(samples)
    batches.close()


def test_a_worker_that_is_long_silent_is_named_in_the_log(
    store: vla_store.Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool_module, "LOOK_UP_S", 0.05)
    monkeypatch.setattr(pool_module, "PATIENCE_S", 0.2)
    batches = Batches(first_rows(store, 10), batch_size=5, workers=1, transform=transforms.sleeps)
    thread = threading.Thread(target=lambda: error_of(lambda: next(iter(batches))))
    with caplog.at_level(logging.WARNING, "vla_store"):
        thread.start()
        assert wait_until(lambda: "worker 0 has been silent" in caplog.text)
    batches.close()
    thread.join(30)
