"""The thread that copies batches elsewhere, with a stand-in for the copy; on a GPU, the copy itself."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loader import transforms
from loader.serving import ended_by, first_rows, goes_on, rows_of, served, wait_until

import vla_store
from vla_store.loader.batches import Batches
from vla_store.loader.order import Order
from vla_store.loader.processes import WorkerDied
from vla_store.loader.stream import AHEAD, BatchStream
from vla_store.loader.work import TransformError


@pytest.fixture(scope="module")
def store(tiny_store: Path) -> vla_store.Store:
    return vla_store.open_store(tiny_store)


@pytest.fixture
def batches(store: vla_store.Store) -> Any:
    """100 rows in 10 batches of two workers."""
    made = Batches(first_rows(store, 100), batch_size=10, workers=2)
    yield made
    made.close()
    assert wait_until(lambda: not staging_threads())  # one that is not waited for may still be at its last lines


def copy(batch: Any) -> Any:
    return {key: value.copy() if isinstance(value, np.ndarray) else value for key, value in batch.items()}


def staged(batches: Batches, copy: Callable[[Any], Any] = copy) -> BatchStream:
    return batches.stream(copy=copy)


def rows(stream: Any, store: vla_store.Store, count: int | None = None) -> list[int]:
    found: list[int] = []
    for number, batch in enumerate(stream, 1):
        found += rows_of(batch, store)
        if number == count:
            break
    return found


def order(epoch: int = 0) -> list[int]:
    return Order(100, 0, epoch).take(0, 100).tolist()


def staging_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name == "vla_store-staging"]


def test_copies_come_in_order_epoch_after_epoch(batches: Batches, store: vla_store.Store) -> None:
    assert [rows(staged(batches), store) for _ in range(3)] == [order(0), order(1), order(2)]
    assert not staging_threads()


def test_a_slot_is_free_as_soon_as_its_batch_is_copied(batches: Batches, store: vla_store.Store) -> None:
    stream = staged(batches)
    next(stream)
    ring = batches.processes.pool._ring
    # A third batch is taken and copied, and waits without its slot.
    assert wait_until(lambda: len(stream._source._copies) == AHEAD and ring.unheld == ring.slots)
    held = [next(stream) for _ in range(9)]  # copies: who holds them holds no slot
    assert ring.unheld == ring.slots
    assert batches.counts.copies == 0
    assert len(held) == 9
    stream.close()


def test_it_copies_no_further_ahead_than_its_queue(batches: Batches) -> None:
    counts: list[int] = []

    def counting(batch: Any) -> Any:
        counts.append(1)
        return copy(batch)

    stream = staged(batches, counting)
    next(stream)
    assert wait_until(lambda: len(counts) >= 1 + AHEAD)
    time.sleep(0.2)
    assert len(counts) <= 2 + AHEAD
    stream.close()


def test_position_counts_what_next_gave_and_not_what_was_copied(batches: Batches, store: vla_store.Store) -> None:
    stream = staged(batches)
    for number in range(1, 11):
        next(stream)
        assert batches.epochs.place == (0, 10 * number)
    assert next(stream, "over") == "over"
    assert batches.epochs.place == (1, 0)


def test_a_resumed_epoch_is_the_rest_of_it_though_copies_were_ahead(batches: Batches, store: vla_store.Store) -> None:
    stream = staged(batches)
    taken = rows(stream, store, 4)
    assert wait_until(lambda: len(stream._source._copies) == AHEAD)
    state = batches.epochs.state_dict()
    stream.close()
    fresh = Batches(batches.dataset, batch_size=10, workers=0)
    fresh.epochs.load_state_dict(state)
    assert taken + rows(staged(fresh), store) == order()


def test_the_thread_starts_with_the_first_next(batches: Batches) -> None:
    stream = staged(batches)
    assert not staging_threads()
    batches.epochs.load_state_dict(batches.epochs.state_at(4, 90))
    next(stream)
    assert batches.epochs.place == (4, 100)
    stream.close()


@goes_on
def test_an_early_stop_ends_the_thread_and_the_next_pass_goes_on(batches: Batches, store: vla_store.Store) -> None:
    for number in range(4):
        stream = staged(batches)
        assert rows(stream, store, 2) == order(0)[20 * number : 20 * number + 20]
        stream.close()
        assert not staging_threads()
        assert next(stream, "over") == "over"
    assert rows(staged(batches), store) == order(0)[80:]


def test_a_new_pass_ends_the_one_before_in_the_middle_of_a_copy(batches: Batches, store: vla_store.Store) -> None:
    going, go_on = threading.Event(), threading.Event()

    def waits(batch: Any) -> Any:
        going.set()
        assert go_on.wait(30)
        return copy(batch)

    first = staged(batches, waits)
    thread = threading.Thread(target=lambda: found.append(ended_by(first)))
    found: list[Any] = []
    thread.start()
    assert going.wait(30)
    second = staged(batches)  # before the copy is done, which it would wait for
    go_on.set()
    assert rows(second, store) == order(0)  # the first one gave nothing
    thread.join(30)
    assert found == ["a newer pass began"]


def test_a_pass_that_goes_as_garbage_waits_for_no_thread(store: vla_store.Store) -> None:
    """Whoever collects it may hold the lock that the thread waits for."""
    batches = Batches(first_rows(store, 100), batch_size=10, workers=0)
    go_on, calls, collected = threading.Event(), [], threading.Event()

    def waits(batch: Any) -> Any:
        calls.append(1)
        assert len(calls) < 2 or go_on.wait(30)
        return copy(batch)

    def collects() -> None:
        stream = staged(batches, waits)
        source = stream._source
        next(stream)
        assert wait_until(lambda: len(calls) == 2)
        with batches.processes.lock:
            go_on.set()
            assert wait_until(lambda: len(source._copies) == 1)
            time.sleep(0.1)  # until the thread wants the lock, for its third batch
            stream.itself = stream
            del stream
            gc.collect()
            collected.set()

    threading.Thread(target=collects, daemon=True).start()
    assert collected.wait(20)
    assert wait_until(lambda: not staging_threads())


def test_what_the_copy_raises_comes_after_what_was_copied_before(batches: Batches, store: vla_store.Store) -> None:
    calls = iter(range(100))

    def fails(batch: Any) -> Any:
        if next(calls) == 3:
            raise OSError("no room on the device")
        return copy(batch)

    stream = staged(batches, fails)
    time.sleep(0)
    taken = rows(stream, store, 3)
    with pytest.raises(OSError, match="no room on the device"):
        next(stream)
    assert ended_by(stream) == "of the error that was raised before"
    assert batches.epochs.place == (0, 30)
    assert taken + rows(staged(batches), store) == order()


def test_an_error_behind_staged_batches_does_not_swallow_them(store: vla_store.Store) -> None:
    """It did, and itself as well: the epoch just ended."""
    batches = Batches(
        first_rows(store, 100), batch_size=2, workers=2, shuffle=False, transform=transforms.of_step_7_fails
    )
    stream = staged(batches)
    first = rows(stream, store, 1)
    assert wait_until(lambda: len(stream._source._copies) == AHEAD)
    found = list(first)
    with pytest.raises(TransformError, match="deep down"):
        found.extend(row for batch in stream for row in rows_of(batch, store))
    assert found == [0, 1, 2, 3, 4, 5]
    assert batches.epochs.place == (0, 6)
    batches.close()


def test_a_dead_worker_is_said_after_what_was_copied_before(store: vla_store.Store) -> None:
    import os
    import signal

    # So many batches that the workers cannot have made all of them while three were taken.
    batches = Batches(first_rows(store, 100), batch_size=3, workers=2)
    stream = staged(batches)
    taken = rows(stream, store, 1)
    assert wait_until(lambda: len(stream._source._copies) == AHEAD)
    for pid in batches.pids():
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerDied):
        taken.extend(row for batch in stream for row in rows_of(batch, store))
    assert len(taken) >= 9
    assert taken + rows(staged(batches), store) == order()
    batches.close()


def test_closing_the_loader_ends_a_thread_that_waits_for_a_worker(store: vla_store.Store) -> None:
    batches = Batches(first_rows(store, 100), batch_size=10, workers=1, transform=transforms.sleeps)
    stream = staged(batches)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(ended_by(stream)))
    thread.start()
    assert wait_until(lambda: bool(staging_threads()) and batches.processes.pool is not None)
    batches.close()
    thread.join(30)
    assert found == ["the loader was closed"]
    assert wait_until(lambda: not staging_threads())


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_in_the_middle_of_a_hand_over_is_not_stuck(batches: Batches) -> None:
    stream = staged(batches)
    next(stream)
    held, may_go = threading.Event(), threading.Event()

    def hold() -> None:  # as the thread that copies does for a moment
        with stream._source._changed:
            held.set()
            may_go.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(60)
    try:
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # by default it ends the process
            stream.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        may_go.set()
        thread.join(60)
        stream.close()


def test_convert_comes_before_a_batch_counts_as_handed_out(batches: Batches, store: vla_store.Store) -> None:
    calls = iter(range(100))

    def convert(batch: Any, job: Any) -> Any:
        if next(calls) == 2:
            raise ValueError("on this side")
        return {**batch, "position": job.position}

    stream = batches.stream(convert, copy)
    assert [next(stream)["position"] for _ in range(2)] == [0, 10]
    with pytest.raises(ValueError, match="on this side"):
        next(stream)
    assert batches.epochs.place == (0, 20)
    assert rows(staged(batches), store) == order()[20:]


def test_stats_are_the_consumers_and_not_the_threads(batches: Batches, store: vla_store.Store) -> None:
    stream = staged(batches)
    next(stream)
    for _ in range(9):
        assert wait_until(lambda: bool(stream._source._copies))
        next(stream)
    assert batches.counts.batches == 10
    assert batches.counts.ready == 9
    assert sum(batches.counts.waits_s[1:]) < batches.counts.elapsed_s


def test_without_workers_the_thread_decodes(store: vla_store.Store) -> None:
    batches = Batches(first_rows(store, 100), batch_size=10, workers=0)
    assert rows(staged(batches), store) == order()
    assert served(iter(batches), 1) == [order(1)[:10]]


# --- on a GPU -----------------------------------------------------------------------------------------------------------

WINDOWS = {"agentview_rgb": [-1, 0], "actions": range(4)}


@pytest.fixture
def gpu_loader(tiny_store: Path) -> Any:
    from vla_store.torch import Loader

    made: list[Any] = []

    def make(**options: Any) -> Any:
        samples = vla_store.Samples(tiny_store, windows=WINDOWS, alignment="as_stored", images="as_stored")
        made.append(Loader(samples, **{"batch_size": 8, "workers": 2, **options}))
        return made[-1]

    yield make
    for each in made:
        each.close()


def oracle(store: Path) -> Any:
    return vla_store.Samples(store, windows=WINDOWS, alignment="as_stored", rows=None, images="as_stored").batch(
        range(137)
    )


@pytest.mark.gpu
def test_pinned_batches_are_pinned_and_right(gpu_loader: Any, tiny_store: Path, store: vla_store.Store) -> None:
    expected = oracle(tiny_store)
    loader = gpu_loader(pin_memory=True)
    batches = list(loader)
    for batch in batches:
        at = rows_of(batch, store)
        for name in WINDOWS:
            assert batch[name].is_pinned()
            assert np.array_equal(batch[name].numpy(), expected[name][at])
    assert loader.stats().copies == 0


@pytest.mark.gpu
def test_batches_on_the_device_are_right_without_synchronising(
    gpu_loader: Any, tiny_store: Path, store: vla_store.Store
) -> None:
    expected = oracle(tiny_store)
    for batch in gpu_loader(device="cuda"):
        assert batch["actions"].device.type == "cuda"
        doubled = {name: batch[name] * 2 for name in WINDOWS}
        at = rows_of({name: batch[name].cpu() for name in ("episode", "step")}, store)
        for name in WINDOWS:
            assert np.array_equal(doubled[name].cpu().numpy(), expected[name][at] * np.array(2, expected[name].dtype))


@pytest.mark.gpu
def test_a_delayed_kernel_over_a_non_blocking_copy_sees_its_batch(
    gpu_loader: Any, tiny_store: Path, store: vla_store.Store
) -> None:
    """The consumer drops the pinned tensors while the copy waits behind a long kernel; torch's allocator keeps them."""
    import torch

    expected = oracle(tiny_store)
    stream, kept = torch.cuda.Stream(), []
    for batch in gpu_loader(pin_memory=True, batch_size=4):
        at = rows_of(batch, store)
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)
            moved = {name: batch[name].to("cuda", non_blocking=True) for name in WINDOWS}
        kept.append((at, moved))
        del batch
        gc.collect()
    stream.synchronize()
    for at, moved in kept:
        for name in WINDOWS:
            assert np.array_equal(moved[name].cpu().numpy(), expected[name][at])


@pytest.mark.gpu
def test_a_delayed_kernel_that_reads_a_batch_on_the_device_sees_that_batch(
    gpu_loader: Any, tiny_store: Path, store: vla_store.Store
) -> None:
    """The consumer's stream runs late, and drops batches whose memory the copying stream could take again."""
    import torch

    expected = oracle(tiny_store)
    kept = []
    for _ in range(3):
        for batch in gpu_loader(device="cuda", batch_size=4):
            torch.cuda._sleep(20_000_000)
            kept.append(
                (batch["episode"].clone(), batch["step"].clone(), {name: batch[name].clone() for name in WINDOWS})
            )
            del batch
    torch.cuda.synchronize()
    for episode, step, clones in kept:
        at = rows_of({"episode": episode.cpu(), "step": step.cpu()}, store)
        for name in WINDOWS:
            assert np.array_equal(clones[name].cpu().numpy(), expected[name][at])


@pytest.mark.gpu
def test_the_device_is_the_one_that_is_current_where_the_pass_begins(gpu_loader: Any) -> None:
    import torch

    last = torch.cuda.device_count() - 1
    with torch.cuda.device(last):
        batch = next(iter(gpu_loader(device="cuda")))
    assert batch["actions"].device.index == last


@pytest.mark.gpu
def test_a_batch_transform_runs_on_the_device_with_a_generator(gpu_loader: Any) -> None:
    def noisy(batch: Any, generator: np.random.Generator) -> Any:
        return {**batch, "noise": generator.random(2), "pictures": batch["agentview_rgb"].float() / 255}

    loader = gpu_loader(device="cuda", batch_transform=noisy)
    first = [batch["noise"].tolist() for batch in loader]
    loader.set_epoch(0)
    assert [batch["noise"].tolist() for batch in loader] == first
    assert next(iter(loader))["pictures"].device.type == "cuda"
