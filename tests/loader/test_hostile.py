"""A consumer that keeps, drops, hides and passes on whatever a batch gave it never sees the bytes of another batch.

Every batch is compared with an oracle, and so is everything that was kept of earlier batches, in every way there is to keep
something. With --campaign: 10,000 batches. The documented exceptions are shown at the end: there the oracle is *not* met.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import queue
import random
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loader.serving import goes_on, rows_of, wait_until

import vla_store
from vla_store.loader.batches import Batches

torch = pytest.importorskip("torch")
from vla_store.torch import Loader  # noqa: E402

WINDOWS = {"agentview_rgb": [-1, 0], "actions": range(4), "robot_states": 0}
FIELDS = tuple(WINDOWS)
HELD = "ignore:so many batches are held:RuntimeWarning"

pytestmark = goes_on

Check = Callable[[], bool]


@pytest.fixture(scope="module")
def samples(tiny_store: Path) -> vla_store.Samples:
    return vla_store.Samples(tiny_store, windows=WINDOWS, alignment="as_stored", images="as_stored")


@pytest.fixture(scope="module")
def oracle(samples: vla_store.Samples) -> dict[str, np.ndarray]:
    """Every field of every row, decoded here, one row after another."""
    made = [samples.sample(row) for row in range(len(samples))]
    return {name: np.stack([sample[name] for sample in made]) for name in FIELDS}


# --- ways to keep something of a batch ----------------------------------------------------------------------------------
# Each takes a tensor of a batch and what is in it, keeps it in its own way, and returns a check that it is unchanged.


def keep_tensor(tensor: Any, expected: np.ndarray) -> Check:
    part = tensor[1:]
    return lambda: np.array_equal(part.numpy(), expected[1:])


def keep_array(tensor: Any, expected: np.ndarray) -> Check:
    array = tensor.numpy()[::2, ..., -1]
    return lambda: np.array_equal(array, expected[::2, ..., -1])


def keep_reshaped(tensor: Any, expected: np.ndarray) -> Check:
    bits = tensor.transpose(0, 1).unsqueeze(0)[0][0]
    return lambda: np.array_equal(bits.numpy(), expected[:, 0])


def keep_storage(tensor: Any, expected: np.ndarray) -> Check:
    storage, offset, dtype = tensor.untyped_storage(), tensor.storage_offset(), tensor.dtype
    return lambda: np.array_equal(torch.empty(0, dtype=dtype).set_(storage, offset, expected.shape).numpy(), expected)


def keep_capsule(tensor: Any, expected: np.ndarray) -> Check:
    capsule = [torch.utils.dlpack.to_dlpack(tensor)]

    def check() -> bool:
        again = torch.from_dlpack(capsule.pop())  # a capsule is good for one use
        capsule.append(torch.utils.dlpack.to_dlpack(again))
        return np.array_equal(again.numpy(), expected)

    return check


def keep_dlpack_array(tensor: Any, expected: np.ndarray) -> Check:
    array = np.from_dlpack(tensor.numpy())
    return lambda: np.array_equal(array, expected)


def keep_memoryview(tensor: Any, expected: np.ndarray) -> Check:
    view = memoryview(tensor.numpy())
    return lambda: np.array_equal(np.asarray(view), expected)


def keep_subclass(tensor: Any, expected: np.ndarray) -> Check:
    array = tensor.numpy().reshape(len(expected), -1).view(np.matrix)[-1]
    return lambda: np.array_equal(np.asarray(array).reshape(-1), expected[-1].reshape(-1))


def keep_strided(tensor: Any, expected: np.ndarray) -> Check:
    array = tensor.numpy()
    strided = np.lib.stride_tricks.as_strided(array, array.shape, array.strides)
    broadcast = np.broadcast_to(strided[0], (3, *strided.shape[1:]))
    return lambda: np.array_equal(broadcast[2], expected[0])


def keep_buffer(tensor: Any, expected: np.ndarray) -> Check:
    array = np.frombuffer(tensor.numpy().reshape(-1).data, expected.dtype)
    return lambda: np.array_equal(array.reshape(expected.shape), expected)


def keep_autograd(tensor: Any, expected: np.ndarray) -> Check:
    if not tensor.dtype.is_floating_point:
        return keep_tensor(tensor, expected)
    weight = torch.ones(tensor.shape, dtype=tensor.dtype, requires_grad=True)
    loss = (weight * tensor).sum()  # the graph saves the tensor: it is the gradient of the weight
    return lambda: np.array_equal(torch.autograd.grad(loss, weight, retain_graph=True)[0].numpy(), expected)


def keep_in_an_exception(tensor: Any, expected: np.ndarray) -> Check:
    def fail(kept: Any) -> None:
        raise RuntimeError("kept with its frames")

    try:
        fail(tensor[:2])
    except RuntimeError as error:
        raised = error

    def check() -> bool:
        trace = raised.__traceback__
        while trace.tb_next is not None:
            trace = trace.tb_next
        return np.array_equal(trace.tb_frame.f_locals["kept"].numpy(), expected[:2])

    return check


def keep_in_a_cycle(tensor: Any, expected: np.ndarray) -> Check:
    class Node:
        pass

    node = Node()
    node.itself, node.kept = node, tensor[-1]
    return lambda: np.array_equal(node.kept.numpy(), expected[-1])


def keep_in_garbage(tensor: Any, expected: np.ndarray) -> Check:
    """In a cycle that nothing else refers to: it goes whenever the collector comes by, on whatever thread."""
    import weakref

    class Node:
        pass

    node = Node()
    node.itself, node.kept = [node], tensor
    found = weakref.ref(node)

    def check() -> bool:
        still = found()
        return still is None or np.array_equal(still.kept.numpy(), expected)

    return check


def keep_in_a_generator(tensor: Any, expected: np.ndarray) -> Check:
    def generator() -> Iterator[Any]:
        kept = tensor[:1]
        while True:
            yield kept.numpy()

    made = generator()
    next(made)
    return lambda: np.array_equal(next(made), expected[:1])


def keep_in_a_thread(tensor: Any, expected: np.ndarray) -> Check:
    asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def run(kept: Any) -> None:
        while asked.get():
            answers.put(np.array_equal(kept.numpy(), expected))

    threading.Thread(target=run, args=(tensor[:],), daemon=True).start()

    class Asks:
        def __call__(self) -> bool:
            asked.put(True)
            return answers.get(timeout=60)

        def __del__(self) -> None:
            asked.put(False)

    return Asks()


KEEPERS = [value for name, value in sorted(globals().items()) if name.startswith("keep_")]


# --- the consumer -------------------------------------------------------------------------------------------------------


def consume(
    loader: Any, oracle: dict[str, np.ndarray], store: vla_store.Store, batches: int, seed: int
) -> dict[str, int]:
    """Takes so many batches, in passes that it often leaves early; counts what was wrong, and what was looked at."""
    chance = random.Random(seed)
    held: list[Check] = []
    counts = {"batches": 0, "checks": 0, "corrupted": 0}

    def check(one: Check) -> None:
        counts["checks"] += 1
        counts["corrupted"] += not one()

    while counts["batches"] < batches:
        most = chance.choice([0, 1, 2, 4, 8, 16])
        leave_after = chance.choice([1, 3, 10, 1_000])
        stream = iter(loader)
        ahead = next(stream, None) if chance.random() < 0.3 else None  # a consumer one batch ahead
        for number, batch in enumerate(stream):
            for each in (ahead, batch):
                if each is None:
                    continue
                counts["batches"] += 1
                rows = rows_of(each, store)
                if max(rows) >= len(oracle[FIELDS[0]]):  # its episodes and steps are of two batches
                    check(lambda: False)
                    continue
                for name in FIELDS:
                    check(
                        lambda kept=each[name], name=name, rows=rows: np.array_equal(kept.numpy(), oracle[name][rows])
                    )
                if most:
                    name = chance.choice(FIELDS)
                    held.append(chance.choice(KEEPERS)(each[name], oracle[name][rows]))
            ahead = each = None
            if chance.random() < 0.3:
                ahead, batch = batch, None
            while len(held) > most:
                check(held.pop(chance.randrange(len(held))))
            if held and chance.random() < 0.5:
                check(chance.choice(held))
            if chance.random() < 0.05:
                gc.collect(chance.randrange(3))
            if number == leave_after or counts["batches"] >= batches:
                break
        if chance.random() < 0.3:
            stream.close()
        for one in held:
            check(one)
    stream = batch = ahead = each = None
    for one in held:
        check(one)
    held.clear()
    return counts


def everything_came_back(loader: Loader) -> bool:
    """Whether no slot is held any more."""
    gc.collect()
    pool = loader.processes.pool
    return pool is not None and pool._ring.unheld == pool._ring.slots


@pytest.mark.filterwarnings(HELD)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_hostile_consumer_never_sees_another_batchs_bytes(
    samples: vla_store.Samples, oracle: dict[str, np.ndarray], workers: int
) -> None:
    with Loader(samples, batch_size=4, workers=workers) as loader:
        counts = consume(loader, oracle, samples.store, 1_000, seed=workers)
        assert counts["corrupted"] == 0
        assert counts["checks"] > 3_000
        assert wait_until(lambda: everything_came_back(loader))


@pytest.mark.campaign
@pytest.mark.filterwarnings(HELD)
@pytest.mark.timeout(3_600)
def test_ten_thousand_batches_and_no_corrupted_view(samples: vla_store.Samples, oracle: dict[str, np.ndarray]) -> None:
    total: dict[str, int] = {}
    for seed in range(5):
        with Loader(samples, batch_size=4, workers=1 + seed % 3, seed=seed) as loader:
            counts = consume(loader, oracle, samples.store, 2_000, seed=100 + seed)
            total = {name: total.get(name, 0) + count for name, count in counts.items()}
            assert wait_until(lambda loader=loader: everything_came_back(loader))
    print(f"\nNumPy {np.__version__}: {total}")
    assert total["corrupted"] == 0
    assert total["batches"] >= 10_000


def test_the_checks_of_this_file_notice_a_ring_without_leases(
    samples: vla_store.Samples, oracle: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the oracle is worth: slots that return at once, as a finalizer on an array that is a view of another one does."""
    from vla_store.loader.ring import Ring

    def no_lease(self: Ring, slot: int, nbytes: int) -> np.ndarray:
        view = self.peek(slot, nbytes)
        self.release(slot)
        return view

    monkeypatch.setattr(Ring, "lease", no_lease)
    with Loader(samples, batch_size=4, workers=2) as loader:
        assert consume(loader, oracle, samples.store, 300, seed=1)["corrupted"] > 0


# --- plain consumers ----------------------------------------------------------------------------------------------------


def differences(batches: list[Any], oracle: dict[str, np.ndarray], store: vla_store.Store) -> int:
    return sum(
        not np.array_equal(np.asarray(batch[name]), oracle[name][rows_of(batch, store)])
        for batch in batches
        for name in FIELDS
    )


def test_a_list_of_all_batches_of_an_epoch_is_right_and_copies_are_said_once(
    samples: vla_store.Samples, oracle: dict[str, np.ndarray]
) -> None:
    with Loader(samples, batch_size=4, workers=2) as loader:
        with pytest.warns(RuntimeWarning, match="so many batches are held") as seen:
            batches = list(loader)
        assert len(seen) == 1
        assert seen[0].filename == __file__
        assert len(batches) == len(loader)
        assert differences(batches, oracle, samples.store) == 0
        copies = loader.stats().copies
        assert 0 < copies < len(batches)
        del batches
        assert wait_until(lambda: everything_came_back(loader))
        assert all(differences([batch], oracle, samples.store) == 0 for batch in loader)  # and goes on without
        assert loader.stats().copies == copies


def test_a_view_keeps_its_batch_and_no_more(samples: vla_store.Samples, oracle: dict[str, np.ndarray]) -> None:
    with Loader(samples, batch_size=4, workers=1) as loader:
        stream = iter(loader)
        batch = next(stream)
        rows = rows_of(batch, samples.store)
        view = batch["agentview_rgb"][2, 0, 0]
        del batch
        while next(stream, None) is not None:
            assert np.array_equal(view.numpy(), oracle["agentview_rgb"][rows][2, 0, 0])
        gc.collect()
        ring = loader.processes.pool._ring
        assert ring.unheld == ring.slots - 1
        del view
        assert wait_until(lambda: everything_came_back(loader))


def test_a_consumer_one_batch_ahead_is_never_copied_for(
    samples: vla_store.Samples, oracle: dict[str, np.ndarray]
) -> None:
    with Loader(samples, batch_size=4, workers=2) as loader:
        stream = iter(loader)
        current = next(stream)
        wrong = 0
        for following in stream:
            wrong += differences([current, following], oracle, samples.store)
            current = following
        assert wrong == 0
        assert loader.stats().copies == 0


def test_slots_come_back_without_the_collector(samples: vla_store.Samples) -> None:
    """Nothing between the ring and the consumer is a cycle: one would hold slots until the collector comes by."""
    gc.disable()
    try:
        with Loader(samples, batch_size=4, workers=2) as loader:
            for _ in range(3):
                assert sum(1 for _ in loader) == len(loader)
            assert loader.stats().copies == 0
            ring = loader.processes.pool._ring
            assert ring.unheld == ring.slots
    finally:
        gc.enable()


def test_batches_outlive_the_loader_and_its_workers(samples: vla_store.Samples, oracle: dict[str, np.ndarray]) -> None:
    loader = Loader(samples, batch_size=4, workers=2)
    stream = iter(loader)
    batches = [next(stream) for _ in range(4)]
    loader.close()
    del loader, stream
    gc.collect()
    assert differences(batches, oracle, samples.store) == 0


def test_batches_of_a_pass_that_was_left_stay_right_while_the_next_one_runs(
    samples: vla_store.Samples, oracle: dict[str, np.ndarray]
) -> None:
    with Loader(samples, batch_size=4, workers=2) as loader:
        kept = [next(iter(loader)) for _ in range(4)]
        for batch in loader:
            assert differences([batch, *kept], oracle, samples.store) == 0


def test_slots_of_passes_that_were_left_come_back(samples: vla_store.Samples) -> None:
    with Loader(samples, batch_size=4, workers=2) as loader:
        for _ in range(40):
            next(iter(loader))
        loader.set_epoch(9)
        assert sum(1 for _ in loader) == len(loader)
        assert loader.stats().copies == 0
        assert wait_until(lambda: everything_came_back(loader))


def test_a_pass_that_follows_at_once_on_one_that_was_left_is_whole(samples: vla_store.Samples) -> None:
    with Loader(samples, batch_size=2, workers=1) as loader:
        for _ in range(10):
            next(iter(loader))
            loader.set_epoch(0)
            assert sum(1 for _ in loader) == len(loader)


def test_batches_may_be_written_to(samples: vla_store.Samples, oracle: dict[str, np.ndarray]) -> None:
    with Loader(samples, batch_size=4, workers=2) as loader:
        for _ in range(2):
            for batch in loader:
                assert differences([batch], oracle, samples.store) == 0
                for name in FIELDS:
                    batch[name].zero_()


def test_batches_are_right_in_many_threads(samples: vla_store.Samples, oracle: dict[str, np.ndarray]) -> None:
    wrong: list[int] = []
    work: queue.Queue[Any] = queue.Queue(4)

    def run() -> None:
        while (batch := work.get()) is not None:
            wrong.append(differences([batch], oracle, samples.store))
            del batch

    threads = [threading.Thread(target=run) for _ in range(3)]
    for each in threads:
        each.start()
    with Loader(samples, batch_size=4, workers=2) as loader, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for _ in range(4):
            for batch in loader:
                work.put(batch)
    for _ in threads:
        work.put(None)
    for each in threads:
        each.join()
    assert len(wrong) == 4 * len(loader)
    assert sum(wrong) == 0


def test_who_holds_everything_waits_for_nothing(samples: vla_store.Samples) -> None:
    """One worker and a ring whose every slot could be held: batches are copied, never awaited for ever."""
    held = []
    with Loader(samples, batch_size=1, workers=1) as loader, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for _ in range(3):
            held += list(loader)
    assert len(held) == 3 * len(samples)


def test_numpy_batches_are_leased_as_well(samples: vla_store.Samples, oracle: dict[str, np.ndarray]) -> None:
    batches = Batches(samples, batch_size=4, workers=2)
    kept: list[Any] = []
    for _ in range(3):
        for batch in batches:
            rows = rows_of(batch, samples.store)
            kept.append((batch["agentview_rgb"][0][1], oracle["agentview_rgb"][rows][0][1]))
            kept = kept[-3:]
            assert all(np.array_equal(view, expected) for view, expected in kept)
    batches.close()


# --- the documented exceptions: whoever does these must copy first ------------------------------------------------------


def overwritten(loader: Loader, before: bytes, look: Callable[[], bytes]) -> bool:
    """Whether memory that nothing holds any more is reused, within some epochs."""
    for _ in range(20):
        for batch in loader:
            del batch
            if look() != before:
                return True
    return False


def test_a_raw_pointer_keeps_nothing(samples: vla_store.Samples) -> None:
    with Loader(samples, batch_size=4, workers=2) as loader:
        batch = next(iter(loader))
        pointer, nbytes = batch["actions"].data_ptr(), batch["actions"].nbytes
        before = ctypes.string_at(pointer, nbytes)
        del batch
        assert overwritten(loader, before, lambda: ctypes.string_at(pointer, nbytes))


def test_an_array_taken_before_its_tensor_moved_to_shared_memory_keeps_nothing(
    samples: vla_store.Samples,
) -> None:
    """share_memory_ (and a torch queue, which calls it) gives the tensor other memory behind the array's back."""
    with Loader(samples, batch_size=4, workers=2) as loader:
        batch = next(iter(loader))
        tensor = batch["actions"]
        array = tensor.numpy()
        tensor.share_memory_()
        before = array.tobytes()
        del batch
        assert overwritten(loader, before, array.tobytes)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_batch_that_a_forked_process_has_is_the_parents_to_reuse(samples: vla_store.Samples) -> None:
    with Loader(samples, batch_size=4, workers=2) as loader:
        batch = next(iter(loader))
        before = batch["actions"].numpy().tobytes()
        ask, tell = os.pipe()
        answer, say = os.pipe()
        child = os.fork()
        if child == 0:  # holds the batch for as long as it lives, and looks at it when told
            with contextlib.suppress(BaseException):
                os.read(ask, 1)
                os.write(say, b"same" if batch["actions"].numpy().tobytes() == before else b"other")
            os._exit(0)
        pointer, nbytes = batch["actions"].data_ptr(), batch["actions"].nbytes
        del batch
        assert overwritten(loader, before, lambda: ctypes.string_at(pointer, nbytes))
        os.write(tell, b"x")
        assert os.read(answer, 10) == b"other"
        os.waitpid(child, 0)
        for fd in (ask, tell, answer, say):
            os.close(fd)


@pytest.mark.gpu
def test_memory_that_the_user_page_locked_is_read_by_streams_nobody_knows_of(samples: vla_store.Samples) -> None:
    """A copy that a stream still has to make sees what the slot holds by then."""
    with Loader(samples, batch_size=4, workers=2) as loader:
        batch = next(iter(loader))
        tensor = batch["actions"]
        before = tensor.clone()
        assert torch.cuda.cudart().cudaHostRegister(tensor.data_ptr(), tensor.nbytes, 0) == 0
        try:
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                torch.cuda._sleep(2_000_000_000)
                moved = tensor.to("cuda", non_blocking=True)
            pointer, nbytes = tensor.data_ptr(), tensor.nbytes
            del batch, tensor
            overwritten(loader, ctypes.string_at(pointer, nbytes), lambda: ctypes.string_at(pointer, nbytes))
            stream.synchronize()
            assert not torch.equal(moved.cpu(), before)
        finally:
            torch.cuda.cudart().cudaHostUnregister(pointer)
