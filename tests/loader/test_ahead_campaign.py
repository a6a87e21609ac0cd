"""Ten thousand batches through a server that fails one request in fifty in every way it knows, by two jobs on one cache, whose
fetchers, workers and parents are killed at random: every batch is the local one, nothing hangs, and the cache is sound afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from loader.serving import children_of, is_running, wait_until

import vla_store

pytest.importorskip("aiohttp", reason="http:// needs aiohttp")
ROOT = Path(__file__).resolve().parents[2]
BATCHES = int(os.environ.get("VLA_STORE_CAMPAIGN_BATCHES", "10000"))
# What storage itself allows (storage/retrying.py), by the fetcher and then by a worker, and a start on a machine under load.
LONGEST_S = 150.0
OPTIONS: dict[str, Any] = {
    "windows": {"agentview_rgb": [-1, 0], "actions": range(8)},
    "alignment": "causal",
    "images": "as_stored",
}

JOB = """
import json, os, sys, time
import numpy as np
import vla_store
from vla_store.errors import WorkerDied
from vla_store.loader.batches import Batches

def main():
    url, local, cache, cache_size, state, shuffle, count = sys.argv[1:]
    options = {options!r}
    shuffle = shuffle == "True" or shuffle
    far = Batches(vla_store.Samples(vla_store.open_store(url, cache=cache, cache_size=int(cache_size)), **options), batch_size=16, workers=2, shuffle=shuffle)
    near = Batches(vla_store.Samples(local, **options), batch_size=16, workers=0, shuffle=shuffle)
    done, longest = 0, 0.0
    if os.path.exists(state):
        found = json.loads(open(state).read())
        done, longest = found["done"], found["longest"]
        far.epochs.load_state_dict(found["state"])
    while done < int(count):
        near.epochs.load_state_dict(far.epochs.state_dict())
        mine, other = iter(far), iter(near)
        while done < int(count):
            began = time.monotonic()
            try:
                batch = next(mine, None)
            except WorkerDied:
                break
            longest = max(longest, time.monotonic() - began)
            expected = next(other, None)
            if expected is None:
                assert batch is None
                break
            assert batch is not None and batch.keys() == expected.keys()
            for name, each in expected.items():
                assert np.array_equal(batch[name], each), name
            done += 1
            with open(state + ".new", "w") as file:
                file.write(json.dumps({{"done": done, "longest": longest, "state": far.epochs.state_dict()}}))
            os.replace(state + ".new", state)
    far.close()

if __name__ == "__main__":
    main()
"""


class Job:
    """One of the jobs, started anew whenever its parent was killed."""

    def __init__(self, folder: Path, name: str, *arguments: object) -> None:
        self.state = folder / f"{name}.json"
        script = folder / "job.py"
        script.write_text(JOB.format(options=OPTIONS))
        before, after = arguments[:4], arguments[4:]
        self._command = [sys.executable, script, *before, self.state, *after]
        self._errors = folder / f"{name}.errors"
        self.starts = 0
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        with open(self._errors, "ab") as errors:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
            return subprocess.Popen(list(map(str, self._command)), stderr=errors, env=environment)

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    @property
    def told(self) -> dict[str, Any]:
        return dict(json.loads(self.state.read_text())) if self.state.exists() else {"done": 0, "longest": 0.0}

    def is_done(self) -> bool:
        """Whether it came to its end; it goes on if it was killed."""
        code = self.process.poll()
        if code == -signal.SIGKILL:
            self.process = self._start()
        elif code is not None:
            assert code == 0, self.errors[-5_000:]
        return code == 0

    def kill(self, chance: random.Random) -> None:
        """Kill its parent, or one of its fetcher and workers."""
        victims = [self.process.pid, *children_of(self.process.pid)] if self.process.poll() is None else []
        if victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(victims), signal.SIGKILL)


@pytest.mark.campaign
@pytest.mark.timeout(4 * 3600)
def test_ten_thousand_batches_through_faults_and_kills_are_the_local_ones(
    demo_stores: dict[str, Path], tmp_path: Path
) -> None:
    from vla_store.manage.cache_check import verify_cache

    if not (ROOT / "benchmarks").exists():
        pytest.skip("the server is not part of an installed wheel")
    from benchmarks.object_server import NoServer, ObjectServer, compiled

    try:
        compiled()
    except NoServer as error:
        pytest.skip(str(error))
    store = demo_stores["fast"]
    room = vla_store.open_store(store).nbytes // 6  # so that most is fetched again and again
    chance = random.Random(11)
    cache = tmp_path / "cache"
    faults = {"latency_ms": 5, "fault_rate": 0.02, "faults": "all", "stall_s": 15, "seed": 3}
    with ObjectServer(store, faults) as server:
        jobs = [
            Job(tmp_path, str(shuffle), server.url, store, cache, room, shuffle, BATCHES // 2)
            for shuffle in (True, "blocks")
        ]
        kills = 0
        while {job.is_done() for job in jobs} != {True}:
            time.sleep(chance.random() * 4)
            chance.choice(jobs).kill(chance)
            kills += 1
        counters = server.counters()
    told = [job.told for job in jobs]
    print(f"\n{kills} kills, {sum(job.starts for job in jobs) - 2} of them of parents; {told}; {counters}")
    assert [each["done"] for each in told] == [BATCHES // 2] * 2
    assert max(each["longest"] for each in told) < LONGEST_S
    assert not verify_cache(cache).problems
    assert wait_until(lambda: not any(is_running(each) for job in jobs for each in children_of(job.process.pid)))
