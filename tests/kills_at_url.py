"""Kills builds and appends to a bucket at random moments, and lets the same calls finish. Run as a script by the campaigns.

    python kills_at_url.py WHAT PREFIX ROUNDS SEED FIRST SOURCE...

WHAT: build-threads, build-processes; or append-two: two appenders at once, of one SOURCE each, to what is copied from the folder
FIRST. PREFIX: in the bucket. The folder for temporary files must be empty: stages lie in it. Each round is a fork of one process
that has imported everything, in a process group of its own, which is killed whole. Prints a line of JSON a round: how many were
killed, how many of those left something unfinished, how the last ones ended, what is left that should not be, and the objects'
digests: of every moment after a kill at which there was a store to see, and at the end.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kills import forked
from s3_server import BUCKET, KEYS
from store_tools import environment

from vla_store.builder import build_store
from vla_store.manage.append import append_store

Digests = dict[str, str]


class Round(NamedTuple):
    """What became of one round; see above."""

    killed: int
    between: int
    finished: list[int]
    left: list[str]
    seen: list[Digests]
    found: Digests


def kills_at_url(
    what: str, prefix: str, rounds: int, first: Path, sources: Sequence[Path], scratch: Path, **more: str
) -> list[Round]:
    """Run this file; what it tells of each of its rounds. more: how the bucket is found."""
    scratch.mkdir()
    command = [sys.executable, __file__, what, prefix, str(rounds), what, str(first), *map(str, sources)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(**{**os.environ, **more, "TMPDIR": str(scratch)})
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = [Round(*json.loads(line)) for line in done.stdout.splitlines()]
    assert len(told) == rounds
    return told


def main() -> None:
    for module in ("zarr", "s3fs"):  # what a build imports on its way: once, for all forks
        importlib.import_module(module)
    what, prefix, rounds, draw, first = (
        sys.argv[1],
        sys.argv[2],
        int(sys.argv[3]),
        random.Random(sys.argv[4]),
        sys.argv[5],
    )
    sources = list(map(Path, sys.argv[6:]))
    bucket, url = Bucket(prefix), f"s3://{BUCKET}/{prefix}"
    command, _, executor = what.partition("-")

    def begin() -> None:
        bucket.clear()
        if command == "append":
            bucket.upload(Path(first))

    def build() -> None:
        build_store(sources, url, executor=executor, workers=2)

    def append(source: Path) -> Callable[[], None]:
        return lambda: (append_store([source], url, workers=2), None)[1]

    calls = [build] if command == "build" else [append(each) for each in sources]
    whole_s = []
    for _ in range(2):  # the first takes longer, and kills would come when all is done
        begin()
        started = time.monotonic()
        for call in calls:
            assert forked(call, None) == 0
        whole_s.append(time.monotonic() - started)
    for _ in range(rounds):
        begin()
        moments = [[draw.uniform(0, min(whole_s)) for _ in range(draw.choice([1, 1, 2, 3]))] for _ in calls]
        told = race(calls, moments, bucket) if command == "append" else one(build, moments[0], bucket)
        killed, between, finished, seen = told
        left = [*os.listdir(tempfile.gettempdir()), *bucket.uploads()]
        print(json.dumps(Round(killed, between, finished, left, seen, bucket.digests())), flush=True)


def one(call: Callable[[], None], moments: list[float], bucket: Bucket) -> tuple[int, int, list[int], list[Digests]]:
    """Kill it at each of these moments after its start, and then let it finish."""
    killed = between = 0
    seen = []
    for moment in moments:
        code = forked(call, moment)
        killed += code == -signal.SIGKILL
        between += bool(os.listdir(tempfile.gettempdir()))
        if bucket.has_store():
            seen.append(bucket.digests())
        if code == 0 or is_over(bucket):
            break
    return killed, between, [0 if is_over(bucket) else forked(call, None)], seen


def is_over(bucket: Bucket) -> bool:
    return bucket.has_store() and not os.listdir(tempfile.gettempdir())


def race(
    calls: list[Callable[[], None]], moments: list[list[float]], bucket: Bucket
) -> tuple[int, int, list[int], list[Digests]]:
    """Begin all at once; kill each at its moments, and begin it again, until it has ended by itself."""
    killed = between = 0
    finished: dict[int, int] = {}
    running: dict[int, tuple[int, float | None]] = {}
    while len(finished) < len(calls):
        for number, call in enumerate(calls):
            if number in finished:
                continue
            if number not in running:
                kill_at = time.monotonic() + moments[number].pop() if moments[number] else None
                running[number] = (started(call), kill_at)
            child, kill_at = running[number]
            if kill_at is not None and time.monotonic() > kill_at:
                os.killpg(child, signal.SIGKILL)
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                del running[number]
                code = os.waitstatus_to_exitcode(status)
                killed += code == -signal.SIGKILL
                between += code == -signal.SIGKILL and bool(os.listdir(tempfile.gettempdir()))
                if code != -signal.SIGKILL:
                    finished[number] = code
        time.sleep(0.002)
    return killed, between, list(finished.values()), []


def started(call: Callable[[], None]) -> int:
    """A process that does it, in a group of its own."""
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):  # it has made its group itself
            os.setpgid(child, child)
        return child
    os.setpgid(0, 0)
    code = 1
    try:
        call()
        code = 0
    finally:
        os._exit(code)


class Bucket:
    """What lies below a prefix, by boto3, which knows nothing of what fsspec remembers."""

    def __init__(self, prefix: str) -> None:
        import boto3

        self.prefix = prefix
        self.client: Any = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], **KEYS)

    def keys(self) -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{self.prefix}/")
        return [each["Key"] for page in pages for each in page.get("Contents", ())]

    def clear(self) -> None:
        for key in self.keys():
            self.client.delete_object(Bucket=BUCKET, Key=key)

    def upload(self, folder: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                key = f"{self.prefix}/{path.relative_to(folder).as_posix()}"
                self.client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())

    def has_store(self) -> bool:
        return f"{self.prefix}/zarr.json" in self.keys()

    def digests(self) -> Digests:
        return {
            key.removeprefix(f"{self.prefix}/"): hashlib.sha256(
                self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            ).hexdigest()
            for key in self.keys()
        }

    def uploads(self) -> list[str]:
        """Uploads of large objects that nobody finished."""
        found = self.client.list_multipart_uploads(Bucket=BUCKET, Prefix=f"{self.prefix}/")
        return [each["Key"] for each in found.get("Uploads", ())]


if __name__ == "__main__":
    main()
