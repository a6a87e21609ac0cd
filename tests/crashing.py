"""Kills a build or an append just after its n-th call that changed the disk, and then lets the same call finish. Run as a script.

    python crashing.py STORE NUMBER... -- SOURCE [FIRST]

Each is a fork of one process that has imported everything, so that none costs an interpreter. FIRST: the store that an append begins
with; without one it is a build. Of each NUMBER the store is left as STORE-NUMBER, and a line of JSON is printed; number 0 is not killed.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from store_tools import environment

from vla_store.audit import verify_store
from vla_store.builder import build_store
from vla_store.manage.append import append_store

CALLS = ("replace", "rename", "fsync", "unlink", "rmdir", "mkdir", "link")
Ended = tuple[int, Any]  # its exit status, and the number of its calls, or the error that it ended with


def crashes(store: Path, numbers: Sequence[int], *sources: Path) -> Iterator[list[Any]]:
    """Run this file; what it tells of each number: that number, how the first one ended, what was there then, how the second ended.

    What was there: of a build whether the store was; of an append its rows, and whether it was sound. Who was done is not run again.
    """
    command = [sys.executable, __file__, str(store), *map(str, numbers), "--", *map(str, sources)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
    assert process.returncode == 0


def calls_of(store: Path, *sources: Path) -> int:
    """How many calls that change the disk it makes."""
    ((_, (code, count), *_),) = crashes(store, [0], *sources)
    assert code == 0, count
    return int(count)


def counted(number: int) -> Callable[[], int]:
    """Count what changes the disk from here on, and kill this process after one; 0: none. Returns what tells how many there were."""
    count, lock = 0, threading.Lock()

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            # One that failed changed nothing: of two threads that make a folder, one does.
            done = real(*arguments, **options)
            with lock:
                count += 1
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)
            return done

        return call

    for name in CALLS:
        setattr(os, name, counting(getattr(os, name)))
    return lambda: count


def forked(act: Callable[[], Any], number: int) -> Ended:
    """Act in a fork of this process, which kills itself after that many calls."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            count = counted(number)
            act()
            os.write(writing, json.dumps(count()).encode())
            os._exit(0)
        except BaseException as error:
            os.write(writing, json.dumps(repr(error)).encode())
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), json.loads(said) if said else None


def main() -> None:
    importlib.import_module("zarr")  # what a build imports on its way
    split = sys.argv.index("--")
    store, *numbers = sys.argv[1:split]
    source, *first = sys.argv[split + 1 :]
    act = functools.partial(append_store if first else build_store, [source], store, workers=2)
    for number in map(int, numbers):
        shutil.rmtree(store, ignore_errors=True)
        if first:
            shutil.copytree(first[0], store)
        ended = forked(act, number)
        seen: Any
        if first:
            between = verify_store(store)
            seen, is_done = (between.rows, between.sound), not ended[0]
        else:
            seen = is_done = os.path.exists(store)
        again = (0, None) if is_done else forked(act, 0)
        if os.path.exists(store):
            os.rename(store, f"{store}-{number}")
        print(json.dumps([number, ended, seen, again]), flush=True)


if __name__ == "__main__":
    main()
