"""Blocks of tasks on shared threads: results in order, bounded in number, and none left at work when a task ends early."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from vla_store.builder.overlap import BLOCKS_PER_WORKER, Threads, one_by_one


@pytest.fixture
def threads() -> Iterator[Threads]:
    with contextlib.closing(Threads(3)) as made:
        yield made


class Counting:
    """Jobs that say how many of them have been made, and how many were at work at once."""

    def __init__(self, count: int, fails_at: int = -1, meets: bool = False) -> None:
        self.count, self.fails_at, self.meets = count, fails_at, meets
        self.made = self.working = self.most = self.done = 0
        self.lock = threading.Lock()
        self.first_two = threading.Barrier(2)  # they are at work at once, or this breaks

    def jobs(self) -> Iterator[Callable[[], int]]:
        for number in range(self.count):
            self.made += 1
            yield lambda number=number: self._run(number)  # type: ignore[misc]

    def _run(self, number: int) -> int:
        with self.lock:
            self.working += 1
            self.most = max(self.most, self.working)
        if number < 2 and self.meets:
            self.first_two.wait(60)
        time.sleep(0.001 * (number % 5))  # so that later ones end earlier
        with self.lock:
            self.working -= 1
            self.done += 1
        if number == self.fails_at:
            raise ValueError(f"job {number} is odd")
        return number


def test_results_come_in_the_order_of_the_jobs_whoever_runs_them(threads: Threads) -> None:
    counting = Counting(60, meets=True)
    assert list(threads.in_order(counting.jobs())) == list(range(60))
    assert 1 < counting.most <= 3
    assert list(one_by_one(Counting(9).jobs())) == list(range(9))


def test_no_more_jobs_are_made_than_there_is_room_for_until_results_are_taken(threads: Threads) -> None:
    counting = Counting(60)
    with contextlib.closing(threads.in_order(counting.jobs())) as results:
        for taken in range(1, 11):
            next(results)
            assert counting.made <= taken + 3 * BLOCKS_PER_WORKER


def test_tasks_that_share_the_threads_all_come_to_their_end() -> None:
    """Each of many begins blocks while there is room for few; none may wait for what another one holds."""
    found: dict[int, list[int]] = {}
    with contextlib.closing(Threads(2)) as threads:

        def task(number: int) -> None:
            found[number] = list(threads.in_order(Counting(40).jobs()))

        tasks = [threading.Thread(target=task, args=(number,), daemon=True) for number in range(7)]
        for each in tasks:
            each.start()
        for each in tasks:
            each.join(60)
            assert not each.is_alive()
    assert found == {number: list(range(40)) for number in range(7)}


def stop_at_seven(threads: Threads, counting: Counting) -> None:
    with contextlib.closing(threads.in_order(counting.jobs())) as results:
        for number in results:
            if number == 7:
                raise ValueError("the task is odd")


@pytest.mark.parametrize("how", ["the job raises", "the task stops"])
def test_a_task_that_ends_early_leaves_nothing_at_work_and_gives_its_room_back(threads: Threads, how: str) -> None:
    for _ in range(4):  # room that was not given back would be missed
        counting = Counting(60, fails_at=5 if how == "the job raises" else -1)
        with pytest.raises(ValueError, match="odd"):
            stop_at_seven(threads, counting)
        assert counting.working == 0
        assert counting.made < 30
        at_the_end = counting.done
        time.sleep(0.02)
        assert counting.done == at_the_end
    assert list(threads.in_order(Counting(20).jobs())) == list(range(20))


def test_an_error_while_a_job_is_made_arrives_too(threads: Threads) -> None:
    def jobs() -> Iterator[Callable[[], int]]:
        yield lambda: 1
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="gone"):
        list(threads.in_order(jobs()))
    assert list(threads.in_order(Counting(20).jobs())) == list(range(20))
