"""Fetching ahead: what is fetched when, that it is given up again, and that nothing depends on who fetches."""

from __future__ import annotations

import logging
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loader.far_storage import far_store, reads
from loader.serving import children_of, goes_on, is_running, served, wait_until

import vla_store
from vla_store.loader import ahead as ahead_module
from vla_store.loader.batches import Batches
from vla_store.loader.dataset import served as dataset_of
from vla_store.loader.groups import GROUP_SAMPLES, groups_of
from vla_store.loader.order import Blocks, Order, Sharding
from vla_store.loader.plan import Jobs, Plan
from vla_store.loader.scratch import Scratch

ROOT = Path(__file__).resolve().parents[2]
OPTIONS: dict[str, Any] = {
    "windows": {"agentview_rgb": [-1, 0], "actions": range(8)},
    "alignment": "causal",
    "images": "as_stored",
}


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine under load is not late."""
    monkeypatch.setattr(ahead_module, "LATE_S", 60.0)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def near(tiny_store: Path) -> vla_store.Samples:
    return vla_store.Samples(tiny_store, **OPTIONS)


@pytest.fixture
def far(tiny_store: Path, journal: Path) -> vla_store.Samples:
    return vla_store.Samples(far_store(tiny_store, journal), **OPTIONS)


@pytest.fixture
def batches(far: vla_store.Samples) -> Iterator[Batches]:
    made = Batches(far, batch_size=4, workers=2)
    yield made
    made.close()


def assert_alike(found: Any, expected: Any) -> int:
    """Both give the same batches; how many."""
    count = 0
    for mine, other in zip(found, expected, strict=True):
        assert mine.keys() == other.keys()
        for name, each in other.items():
            assert np.array_equal(mine[name], each), name
        count += 1
    return count


def near_batches(near: vla_store.Samples, **options: Any) -> Batches:
    return Batches(near, **{"batch_size": 4, "workers": 0, **options})


def fetcher_of(batches: Batches) -> int:
    pool = batches.processes.pool
    assert pool is not None
    pid = pool.processes.fetcher_pid
    assert pid is not None
    return pid


def is_heard_of(batches: Batches) -> bool:
    """Whether the fetcher that runs has brought anything, as far as has been heard by now."""
    pool: Any = batches.processes.pool
    pool._collect(0.05)
    return pool._ahead._failures == 0


def folder_of(batches: Batches) -> Path:
    pool = batches.processes.pool
    assert pool is not None
    assert pool._scratch is not None
    assert pool._scratch.path is not None
    return Path(pool._scratch.path)


# --- what is fetched, and when ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, False, Blocks(4, 8)])
def test_batches_of_a_far_store_are_those_of_the_near_one_for_two_epochs(
    near: vla_store.Samples, far: vla_store.Samples, journal: Path, shuffle: Any
) -> None:
    batches = Batches(far, batch_size=4, workers=2, shuffle=shuffle)
    local = near_batches(near, shuffle=shuffle)
    for _ in range(2):
        assert assert_alike(batches, local) == len(local)
    pid = fetcher_of(batches)
    batches.close()
    assert {each.pid for each in reads(journal) if each.frames} == {pid}
    assert not is_running(pid)


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("shuffle", [True, False, Blocks(16, 256), Blocks(5, 3)])
def test_groups_bring_all_of_a_batch_before_it_is_near_and_no_block_twice_in_a_pool(
    shuffle: Any, world_size: int
) -> None:
    order = Order(10_007, 3, 1, shuffle)
    sharding = Sharding(order.rows, 64, world_size)
    plan = Plan(order, sharding, world_size - 1, 640 * world_size, sharding.batches(640 * world_size))
    jobs, here, count = Jobs(plan), set[int](), 0
    by_pool: dict[int, list[int]] = {}
    for group in groups_of(plan):
        here.update(group.indices.tolist())
        assert len(group.indices) <= GROUP_SAMPLES + 64 * (shuffle.rows if isinstance(shuffle, Blocks) else 1)
        while jobs.given < group.batches:
            job = next(jobs)
            assert here.issuperset(job.indices.tolist())
            assert group.until >= job.end
        by_pool.setdefault(group.until, []).extend(group.indices.tolist())
        count += len(group.indices)
    assert jobs.given == plan.count
    assert next(jobs, None) is None
    assert all(len(each) == len(set(each)) for each in by_pool.values())
    if shuffle is True:
        assert count == sum(len(job.indices) for job in plan.jobs())


def test_what_is_left_of_a_plan_gives_the_same_batches() -> None:
    sharding = Sharding(1_003, 10, 4)
    plan = Plan(Order(1_003, 0, 0), sharding, 2, 0, sharding.batches(0))
    jobs = [job.indices.tolist() for job in plan.jobs()]
    for done in range(plan.count + 1):
        assert [job.indices.tolist() for job in plan.after(done).jobs()] == jobs[done:]


@pytest.mark.parametrize("is_cached", [False, True])
def test_what_was_fetched_stays_in_a_cache_and_is_given_up_without_one(
    near: vla_store.Samples, tiny_store: Path, journal: Path, is_cached: bool
) -> None:
    cache = journal / "cache" if is_cached else ""
    far = vla_store.Samples(far_store(tiny_store, journal, cache=cache), **OPTIONS)
    batches = Batches(far, batch_size=4, workers=2)
    assert_alike(batches, near_batches(near))
    before = len(reads(journal))
    for _ in batches:
        pass
    batches.close()
    assert any(each.frames for each in reads(journal)[:before])
    assert any(each.frames for each in reads(journal)[before:]) != is_cached


def test_a_near_dataset_has_no_fetcher_and_no_folder(near: vla_store.Samples) -> None:
    batches = Batches(near, batch_size=4, workers=1)
    next(iter(batches))
    pool = batches.processes.pool
    assert pool is not None
    assert (pool._ahead, pool._scratch, pool.processes.fetcher_pid) == (None, None, None)
    batches.close()


def test_subsets_and_datasets_of_torch_are_fetched_ahead_by_their_own_numbers(
    far: vla_store.Samples, near: vla_store.Samples
) -> None:
    data = pytest.importorskip("torch.utils.data")
    from vla_store.torch import StepDataset

    dataset = StepDataset(far.store, **OPTIONS)
    rows = [5, 3, 3, 40, 17]
    subset = dataset_of(data.Subset(dataset, rows))
    assert subset is not None
    ahead: Any = subset.ahead  # type: ignore[attr-defined]
    found = ahead.fetch(np.arange(len(rows)), False)
    assert found
    assert found == far.ahead.fetch(np.array(rows), False)  # type: ignore[union-attr]
    dataset.transform = len
    one_by_one = dataset_of(dataset)
    assert one_by_one is not None
    assert one_by_one.ahead is not None  # type: ignore[attr-defined]
    assert near.ahead is None


def test_statistics_tell_of_storage_only_where_it_is_far(batches: Batches, near: vla_store.Samples) -> None:
    for _ in batches:
        pass
    found = batches.counts.copy()
    assert found.requests > 0
    assert found.hit_nbytes > 0
    assert found.fetched_nbytes > 0
    assert "storage: " in found.summary()
    local = near_batches(near, workers=1)
    next(iter(local))
    assert local.counts.requests == 0
    assert "storage" not in local.counts.summary()
    local.close()


# --- nothing depends on it ----------------------------------------------------------------------------------------------


def test_a_fetcher_that_is_killed_is_replaced_and_the_epoch_is_whole(
    batches: Batches, near: vla_store.Samples, caplog: pytest.LogCaptureFixture
) -> None:
    local, pids = near_batches(near), set[int]()
    with caplog.at_level(logging.WARNING, "vla_store"):
        for number, (mine, other) in enumerate(zip(batches, local, strict=True)):
            assert np.array_equal(mine["agentview_rgb"], other["agentview_rgb"])
            if number in (0, 9):
                assert wait_until(lambda: is_heard_of(batches))
                pids.add(fetcher_of(batches))
                os.kill(fetcher_of(batches), signal.SIGKILL)
                assert wait_until(lambda: not is_heard_of(batches))
    assert len(pids) == 2
    assert fetcher_of(batches) not in pids
    assert caplog.text.count("the process that fetches ahead died") == 2


@pytest.mark.parametrize("what", ["fails", "dies"])
def test_a_fetcher_that_cannot_fetch_is_said_and_the_epoch_is_whole(
    batches: Batches, near: vla_store.Samples, journal: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    (journal / "misbehave").write_text(what)
    local = near_batches(near)
    with caplog.at_level(logging.WARNING, "vla_store"):
        assert_alike(batches, local)
    lines = [each.message for each in caplog.records]
    if what == "fails":
        assert len(lines) == 1
        assert "fetching ahead failed" in lines[0]
        assert "storage did not answer" in lines[0]
    else:
        assert 1 <= len(lines) <= ahead_module.MAX_FAILURES
    (journal / "misbehave").unlink()
    assert_alike(batches, local)
    assert fetcher_of(batches) in {each.pid for each in reads(journal)}


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_fetcher_that_is_late_is_not_waited_for(
    batches: Batches, near: vla_store.Samples, journal: Path, monkeypatch: pytest.MonkeyPatch, is_stopped: bool
) -> None:
    monkeypatch.setattr(ahead_module, "LATE_S", 0.05)
    local = near_batches(near)
    if not is_stopped:
        (journal / "misbehave").write_text("hangs")
    stream = iter(batches)
    first = next(stream)
    if is_stopped:
        os.kill(fetcher_of(batches), signal.SIGSTOP)
    others = iter(local)
    assert np.array_equal(first["agentview_rgb"], next(others)["agentview_rgb"])
    assert_alike(stream, others)
    for _ in range(5):  # passes that it hears nothing of
        assert_alike(batches, local)


def test_an_error_of_the_store_is_raised_by_the_batch_that_has_it(tiny_store: Path, tmp_path: Path) -> None:
    import shutil

    from vla_store.errors import StoreDamaged

    copy = Path(shutil.copytree(tiny_store, tmp_path / "copy.vla"))
    for path in copy.glob("parts/*/*/agentview_rgb/c/0/0/0/0"):
        path.unlink()
    batches = Batches(vla_store.Samples(far_store(copy, tmp_path), **OPTIONS), batch_size=4, workers=1)
    with pytest.raises(StoreDamaged) as raised:
        for _ in batches:
            pass
    assert {"sample", "row", "object"} <= set(raised.value.places)
    batches.close()


# --- passes -------------------------------------------------------------------------------------------------------------


@goes_on
def test_a_pass_that_is_left_goes_on_and_set_epoch_and_states_begin_elsewhere(
    batches: Batches, near: vla_store.Samples
) -> None:
    local = near_batches(near)
    for count in (1, 3):
        assert served(iter(batches), count) == served(iter(local), count)
    state = batches.epochs.state_dict()
    assert_alike(batches, local)
    for each in (batches, local):
        each.epochs.set_epoch(7)
    assert served(iter(batches), 2) == served(iter(local), 2)
    for each in (batches, local):
        each.epochs.load_state_dict(state)
    assert_alike(batches, local)
    batches.close()
    assert_alike(batches, local)


@goes_on
def test_a_forked_copy_has_a_fetcher_and_a_folder_of_its_own(batches: Batches, near: vla_store.Samples) -> None:
    stream = iter(batches)
    next(stream)
    folder, pid = folder_of(batches), fetcher_of(batches)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            again = iter(batches)
            next(again)
            is_own = folder_of(batches) != folder and fetcher_of(batches) != pid
            batches.close()
            code = 0 if is_own and folder.is_dir() else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert folder.is_dir()
    assert is_running(pid)
    assert sum(1 for _ in stream) == len(batches) - 1


# --- the folder ---------------------------------------------------------------------------------------------------------


def test_the_folder_is_gone_with_the_loader(batches: Batches) -> None:
    next(iter(batches))
    folder = folder_of(batches)
    assert folder.stat().st_mode & 0o777 == 0o700
    batches.close()
    assert not folder.exists()


def test_a_folder_whose_owner_is_gone_is_removed_by_the_next_one_and_that_of_who_lives_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vla_store.loader.scratch._places", lambda: [str(tmp_path)])
    living, dead = Scratch(), Scratch()
    assert living.path is not None
    assert dead.path is not None
    (Path(dead.path) / "data").write_text("left behind")
    os.close(dead._lock)
    other = Scratch()
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted(
        Path(str(each.path)).name for each in (living, other)
    )
    for each in (living, other):
        each.close()
    assert not list(tmp_path.iterdir())


TRAINS = """
import sys
sys.path[:0] = {path!r}
import vla_store
from loader.far_storage import far_store
from vla_store.loader.batches import Batches

def main():
    samples = vla_store.Samples(far_store(sys.argv[1], sys.argv[2]), **{options!r})
    batches = Batches(samples, batch_size=4, workers=2)
    print("starts", flush=True)
    while True:
        for number, batch in enumerate(batches):
            if number == 5:
                print(batches.processes.pool._scratch.path, flush=True)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("is_alone", [False, True])
def test_of_a_killed_parent_no_process_and_no_folder_is_left(tiny_store: Path, tmp_path: Path, is_alone: bool) -> None:
    """is_alone: the fetcher is killed before, and cannot remove the folder: the next Loader of this machine does."""
    script = tmp_path / "script.py"
    script.write_text(TRAINS.format(path=[str(ROOT), str(ROOT / "tests")], options=OPTIONS))
    process = subprocess.Popen([sys.executable, script, tiny_store, tmp_path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "starts\n"
    folder = Path(process.stdout.readline().strip())
    assert folder.is_dir()
    process.send_signal(signal.SIGSTOP)
    children = children_of(process.pid)
    assert len(children) == 3
    if is_alone:
        fetcher = next(pid for pid in children if b"fetcher" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(fetcher, signal.SIGKILL)
    process.kill()
    process.communicate()
    assert wait_until(lambda: not any(map(is_running, children)))
    if is_alone:
        assert folder.is_dir()
        Scratch().close()
    assert wait_until(lambda: not folder.exists())


def test_without_a_place_for_a_folder_workers_read_for_themselves(
    batches: Batches, near: vla_store.Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vla_store.loader.scratch._places", list)
    assert_alike(batches, near_batches(near))
    assert batches.counts.hit_nbytes == 0


def test_a_line_on_a_terminal_says_how_full_the_cache_is_and_goes(
    tiny_store: Path, journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vla_store.loader.filling.LEAST_S", 0.0)
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        far = vla_store.Samples(far_store(tiny_store, journal, cache=journal / "cache"), **OPTIONS)
        batches = Batches(far, batch_size=4, workers=1)
        for _ in batches:
            pass
        batches.close()
        said = ""
        while (
            not said.endswith(" \r") and select.select([ours], [], [], 10.0)[0]
        ):  # the kernel may hand it over in pieces
            said += os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "the cache fills: " in said
    assert said.endswith(" \r")
    assert said.split("\r")[-2].strip() == ""


# --- mixtures -----------------------------------------------------------------------------------------------------------


class Sized:
    """As many samples as it says, which nobody reads."""

    def __init__(self, rows: int) -> None:
        self.rows, self.identity = rows, {"rows": rows}

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> Any:
        return {"index": index}

    def batch(self, indices: Any, *, empty: Any = np.empty) -> Any:
        return {"index": np.array(indices)}

    def where(self, index: int | None = None) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("shuffle", [True, Blocks(5, 3)])
def test_groups_of_a_mixture_bring_whole_blocks_of_each_part_once_in_its_pool(shuffle: Any, world_size: int) -> None:
    parts = [(Sized(3_001), 6), (Sized(1_003), 3), (Sized(400), 1)]
    mixture = vla_store.mixture(parts, names=["a", "b", "c"], epoch=6_000)
    order, sharding = mixture.epoch_order(3, 2, shuffle), Sharding(6_000, 64, world_size)
    plan = Plan(order, sharding, 0, 640 * world_size, sharding.batches(640 * world_size))
    jobs, here, wanted, count = Jobs(plan), dict[int, int](), 0, 0
    for group in groups_of(plan):
        here.update(dict.fromkeys(group.indices.tolist(), group.until))
        count += len(group.indices)
        while jobs.given < group.batches:
            job = next(jobs)
            wanted += len(job.indices)
            for index in job.indices.tolist():  # there, and not given up yet
                assert here[index] >= job.position
    assert jobs.given == plan.count
    assert next(jobs, None) is None
    if shuffle is True:
        assert count == wanted
    elif world_size == 1:
        assert count < 1.5 * wanted  # pools that were begun, or that no rank takes whole


@pytest.mark.parametrize("shuffle", [True, Blocks(4, 8)])
def test_batches_of_a_mixture_of_far_stores_are_those_of_the_near_ones(
    near: vla_store.Samples, far: vla_store.Samples, tiny_store: Path, journal: Path, shuffle: Any
) -> None:
    other = vla_store.Samples(far_store(tiny_store, journal), suites=near.store.suites[0], **OPTIONS)
    own = vla_store.Samples(near.store, suites=near.store.suites[0], **OPTIONS)
    names = ["far", "near", "other"]
    mixtures = [
        vla_store.mixture([(one, 3), (near, 1), (two, 2)], names=names) for one, two in ((far, other), (near, own))
    ]
    batches = Batches(mixtures[0], batch_size=4, workers=2, shuffle=shuffle)
    assert assert_alike(batches, near_batches(mixtures[1], shuffle=shuffle)) > 50
    assert batches.counts.requests > 0
    pid = fetcher_of(batches)
    batches.close()
    asked = {each.pid for each in reads(journal) if each.frames}
    assert asked - {os.getpid()} == {pid}  # this process looks how large a sample is
