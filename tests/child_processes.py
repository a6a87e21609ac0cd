"""Functions that tests run in other processes, and how they run them: with an end, whatever happens there.

A module of its own, without torch and pytest, because a fresh process imports it to find them.
"""

from __future__ import annotations

import gc
import hashlib
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

METHODS = ("fork", "spawn", "forkserver")


def in_processes(method: str, jobs: Sequence[tuple[Any, ...]], timeout_s: float = 120) -> list[Any]:
    """What each (function, *arguments) gives, each run in a process of its own, all at once.

    A process that does not answer in time, or dies, fails the test; none is left behind.
    """
    context = multiprocessing.get_context(method)
    started = []
    try:
        for job in jobs:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_answer, args=(sender, *job))
            process.start()
            sender.close()
            started.append((process, receiver))
        deadline = time.monotonic() + timeout_s
        answers = []
        for process, receiver in started:
            assert receiver.poll(max(0.0, deadline - time.monotonic())), f"{method}: no answer from {process}: it hangs"
            try:
                answers.append(receiver.recv())
            except EOFError:
                process.join()
                raise AssertionError(f"{method}: {process} died with {process.exitcode}") from None
        return answers
    finally:
        for process, receiver in started:
            receiver.close()
            process.join(5)
            process.kill()
            process.join()


def _answer(sender: Any, function: Callable[..., Any], *arguments: Any) -> None:
    try:
        answer = function(*arguments)
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    sender.send(answer)
    sender.close()


def digest_of(samples: Any, numbers: Sequence[int]) -> str:
    """Of these samples, each read alone and all as a batch, with their keys, dtypes and shapes."""
    digest = hashlib.sha256()
    for sample in [*(samples[number] for number in numbers), *samples.__getitems__(numbers)]:
        for key, value in sample.items():
            array = np.asarray(value)
            digest.update(f"{key} {array.dtype} {array.shape} ".encode() + array.tobytes())
    return digest.hexdigest()


def digest_as_old_fsspec(samples: Any, numbers: Sequence[int], thread: Any, loop: Any) -> str:
    """`digest_of` in a forked process where fsspec still has the parent's event loop, as before its version 2025.5."""
    import fsspec.asyn

    fsspec.asyn.iothread[0], fsspec.asyn.loop[0] = thread, loop
    return digest_of(samples, numbers)


def digest_and_clean_up(samples: Any, numbers: Sequence[int]) -> str:
    """`digest_of`, and then everything is freed that nobody needs any more."""
    digest = digest_of(samples, numbers) if samples is not None else ""
    del samples
    gc.collect()
    return digest


def digest_with_few_files(samples: Any, numbers: Sequence[int], most: int) -> tuple[str, int]:
    """`digest_of` where the process may open only so many files; and how many it has open afterwards."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return digest_of(samples, numbers), len(os.listdir("/proc/self/fd"))
