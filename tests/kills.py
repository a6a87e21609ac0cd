"""Kills builds and appends at random moments, and then lets the same call finish. Run as a script by the campaigns.

    python kills.py WHAT SOURCE FIRST STORE ROUNDS SEED

WHAT: build-threads, build-processes, append-threads. FIRST: the store that an append begins with. Each round is a fork of one
process that has imported everything, in a process group of its own, which is killed whole, up to three times; then one that nobody
kills. Prints a line of JSON a round: how many were killed, how many of those had left an unfinished state, and what the store is.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from store_tools import environment

import vla_store
from vla_store.builder import build_store
from vla_store.manage.append import append_store


def kills(
    what: str, source: Path, first: Path, store: Path, rounds: int
) -> list[tuple[int, int, int, list[str], dict[str, str]]]:
    """Run this file; what it tells of each of its rounds."""
    command = [sys.executable, __file__, what, str(source), str(first), str(store), str(rounds), what]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr[-2000:]
    told = [tuple(json.loads(line)) for line in done.stdout.splitlines()]
    assert len(told) == rounds
    return told


def main() -> None:
    importlib.import_module("zarr")  # what a build imports on its way: once, for all forks
    what, source, first, store = sys.argv[1], *map(Path, sys.argv[2:5])
    rounds, draw = int(sys.argv[5]), random.Random(sys.argv[6])
    command, _, executor = what.partition("-")

    def run() -> None:
        if command == "build":
            build_store([source], store, executor=executor, workers=2)
        else:
            append_store([source], store, executor=executor, workers=2)

    def begin() -> None:
        shutil.rmtree(store, ignore_errors=True)
        if command == "append":
            shutil.copytree(first, store)

    whole_s = min(timed(begin, run) for _ in range(3))  # the first takes longer, and kills would come when all is done
    for _ in range(rounds):
        begin()
        killed = between = sound = 0
        for _ in range(draw.choice([1, 1, 2, 3])):
            code = forked(run, draw.uniform(0, whole_s))
            killed += code == -signal.SIGKILL
            between += Path(f"{store}.partial").exists() or any(store.parent.glob(f"{store.name}.append-*"))
            if command == "append":
                sound += vla_store.open_store(store).rows > 0
            if code == 0 or (command == "build" and store.exists()):
                break
        finished = 0 if command == "build" and store.exists() else forked(run, None)
        left = [path.name for path in store.parent.iterdir() if path.name != store.name]
        print(json.dumps([killed, between, finished, left, digests(store)]), flush=True)


def timed(begin: Callable[[], None], run: Callable[[], None]) -> float:
    """Seconds that it takes with nobody to kill it."""
    begin()
    started = time.monotonic()
    assert forked(run, None) == 0
    return time.monotonic() - started


def forked(run: object, kill_after_s: float | None) -> int:
    """The exit code of a process that does it; -9 if it was killed meanwhile."""
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        code = 1
        try:
            run()  # type: ignore[operator]
            code = 0
        finally:
            os._exit(code)
    if kill_after_s is not None:
        deadline = time.monotonic() + kill_after_s
        while time.monotonic() < deadline:
            time.sleep(0.002)
        try:
            os.killpg(child, signal.SIGKILL)
        except ProcessLookupError:
            os.kill(child, signal.SIGKILL)  # it has not made its group yet
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def digests(store: Path) -> dict[str, str]:
    return {
        path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file()
    }


if __name__ == "__main__":
    main()
