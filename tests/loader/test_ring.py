"""The ring: leases, memory that is asked for first, and nothing left behind."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from loader.serving import memfds, rings_of

from vla_store.errors import MachineError
from vla_store.loader import ring as ring_module
from vla_store.loader.ring import Ring, available_nbytes


@pytest.fixture
def ring() -> Ring:
    return Ring(4, 10_000)


def test_a_slot_is_free_then_busy_then_leased_then_free(ring: Ring) -> None:
    slots = [ring.acquire() for _ in range(4)]
    assert sorted(slots) == [0, 1, 2, 3]
    assert ring.acquire() is None
    assert ring.unheld == 4
    lease = ring.lease(2, 5_000)
    assert ring.unheld == 3
    assert lease.nbytes == 5_000
    del lease
    assert ring.acquire() == 2
    ring.release(2)
    assert ring.unheld == 4


def test_the_slot_that_came_back_last_is_used_first(ring: Ring) -> None:
    """Its memory may still be in the processor's cache."""
    first, second = ring.acquire(), ring.acquire()
    lease = ring.lease(first, 10)
    ring.release(second)
    del lease
    assert ring.acquire() == first
    assert ring.acquire() == second


def test_every_view_keeps_the_lease_and_the_last_one_gives_the_slot_back(ring: Ring) -> None:
    lease = ring.lease(ring.acquire(), 8_000)
    views = [lease[10:], lease[8:16].view(np.int64), lease.reshape(80, 100).T[3], np.asarray(memoryview(lease))]
    del lease
    for _ in range(len(views)):
        assert ring.unheld == 3
        views.pop()
    assert ring.unheld == 4


def test_views_of_a_lease_refer_to_the_lease_and_not_past_it(ring: Ring) -> None:
    """NumPy lets a view of a view refer to the base of the base, as long as that is an array."""
    lease = ring.lease(ring.acquire(), 8_000)
    assert not isinstance(lease.base, np.ndarray)
    assert lease[3:][5:].reshape(2, -1)[0].base is lease


def test_memory_of_a_lease_outlives_the_ring(ring: Ring) -> None:
    lease = ring.lease(ring.acquire(), 100)
    lease[:] = 7
    ring.close()
    del ring
    gc.collect()
    assert (lease == 7).all()


def test_a_slot_comes_back_without_python_code_that_a_ctrl_c_could_find(ring: Ring) -> None:
    """KeyboardInterrupt raised in a finalizer is printed and dropped: the training would go on."""
    lease = ring.lease(ring.acquire(), 100)
    called: list[str] = []
    sys.setprofile(lambda frame, event, _: called.append(frame.f_code.co_name) if event == "call" else None)
    try:
        del lease
    finally:
        sys.setprofile(None)
    assert ring.unheld == 4
    assert called == []


def test_a_ring_has_no_name_in_any_folder_and_leaves_nothing() -> None:
    ring = Ring(3, 4_096)
    assert os.fstat(ring.fd).st_nlink == 0
    name = name_of(ring)
    assert name in memfds()
    ring.close()
    del ring
    gc.collect()
    assert name not in memfds()


def name_of(ring: Ring) -> str:
    return Path(f"/proc/self/fd/{ring.fd}").readlink().name.removeprefix("memfd:").split()[0]


def test_all_memory_is_backed_before_use(ring: Ring) -> None:
    text = Path("/proc/self/smaps").read_text(errors="surrogateescape").split(f"memfd:{name_of(ring)}")[1]
    sizes = {name: int(re.search(rf"^{name}: +(\d+) kB$", text, re.MULTILINE)[1]) for name in ("Size", "Rss")}
    assert sizes == {"Size": 4 * 12, "Rss": 4 * 12}


def test_too_little_memory_is_an_error_with_numbers_and_what_to_change() -> None:
    with pytest.raises(MachineError) as raised:
        Ring(9, 1 << 44)
    text = str(raised.value)
    assert "needed     150994944 MiB: 9 batches of 16777216 MiB" in text
    assert "available  " in text
    assert "smaller batch_size or fewer workers" in text


def test_a_ring_that_was_interrupted_in_its_making_leaves_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = rings_of(os.getpid())
    monkeypatch.setattr(ring_module, "_touch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Ring(3, 4_096)
    gc.collect()
    assert rings_of(os.getpid()) <= before


LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
from vla_store.loader.ring import Ring
try:
    Ring(3, 1 << 20)
except Exception as error:
    print(type(error).__name__, "|", str(error).replace(chr(10), " | "))
"""


def test_memory_that_the_system_refuses_is_the_same_error() -> None:
    done = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True)
    assert "MachineError | not enough memory for the loader's batches" in done.stdout, done.stderr
    assert "File too large" in done.stdout


MIB = 1 << 20


def cgroup(folder: Path, limit: str, used: int, cache: int) -> tuple[Path, str, str, str]:
    folder.mkdir(parents=True)
    (folder / "memory.max").write_text(limit + "\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\nactive_file {cache // 2}\ninactive_file {cache - cache // 2}\n")
    return folder, "memory.max", "memory.current", ""


def test_the_tightest_cgroup_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [cgroup(tmp_path / "a", f"{90 * MIB}", 50 * MIB, 0), cgroup(tmp_path / "b", f"{60 * MIB}", 50 * MIB, 0)]
    monkeypatch.setattr(ring_module, "_cgroups", lambda: groups)
    assert available_nbytes() == 10 * MIB
    with pytest.raises(MachineError, match="available  10 MiB"):
        Ring(3, 5 * MIB)


def test_the_page_cache_of_a_cgroup_counts_as_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that has read a store is full of it; that is no reason not to start."""
    monkeypatch.setattr(ring_module, "_cgroups", lambda: [cgroup(tmp_path / "a", f"{60 * MIB}", 59 * MIB, 40 * MIB)])
    assert available_nbytes() == 41 * MIB


def test_a_cgroup_without_a_limit_or_without_files_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring_module, "_cgroups", list)
    unlimited = available_nbytes()
    groups = [cgroup(tmp_path / "a", "max", 5, 5), (tmp_path / "absent", "memory.max", "memory.current", "")]
    monkeypatch.setattr(ring_module, "_cgroups", lambda: groups)
    assert unlimited is not None
    assert abs(available_nbytes() - unlimited) < 4 << 30


def test_the_cgroups_of_this_process_are_found() -> None:
    assert all(folder.is_relative_to("/sys/fs/cgroup") for folder, *_ in ring_module._cgroups())
