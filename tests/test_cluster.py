"""A build on a dask cluster: the same bytes, whoever of its workers dies or joins; what goes wrong there is said here."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import store_tools
import tiny_libero
from dask_cluster import LIMIT_S, Cluster, Signed
from kills_at_url import Bucket
from own_sources import FIELDS, Own
from s3_server import BUCKET, S3Server
from store_tools import assert_one_screen, differences, digests, run

pytest.importorskip("distributed", reason="a cluster needs distributed")
pytest.importorskip("zarr", reason="building needs zarr")

from vla_store import MachineError, cli
from vla_store.builder import build_store
from vla_store.format import predictions

# Several cameras: so there are tasks to share out.
CAMERAS = {**FIELDS, **dict.fromkeys(("above", "behind", "left", "right", "wrist"), FIELDS["front"])}
LENGTHS = {0: 30, 3: 20}


class Told:
    """What a build tells of itself; once its frames are being encoded, `flag` is there."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag
        self.steps = self.total = self.advanced = 0

    def talk(self, text: str) -> None: ...

    def begin(self, steps: int, nbytes: int, done_nbytes: int) -> None:
        self.steps, self.total, self.advanced = steps, nbytes, done_nbytes
        self.flag.touch()

    def advance(self, nbytes: int) -> None:
        self.advanced += nbytes

    def end(self) -> None: ...


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of the store of `Own(lengths=LENGTHS, fields=CAMERAS)`, built here."""
    store = tmp_path_factory.mktemp("reference") / "x.vla"
    return digests(store_tools.built(store, [Own(lengths=LENGTHS, fields=CAMERAS)]))


def test_a_cluster_gives_the_same_bytes_and_its_progress_comes_back(small_source: Path, tmp_path: Path) -> None:
    expected = digests(store_tools.built(tmp_path / "here.vla", [small_source]))
    with Cluster(tmp_path) as cluster:
        ran = run("build", small_source, tmp_path / "x.vla", "--scheduler", cluster.address, "--json")
        assert ran.code == 0, ran.err
        assert digests(tmp_path / "x.vla") == expected
        told = Told(tmp_path / "flag")
        build_store([small_source], tmp_path / "y.vla", scheduler=cluster.address, progress=told)
        assert told.advanced == told.total > 0


def test_workers_of_a_cluster_put_their_shards_into_a_bucket_themselves(
    bucket: S3Server, tmp_path: Path, reference: dict[str, str]
) -> None:
    """They are processes of their own, which find the bucket by the environment, and see nothing of the driver's stage."""
    (tmp_path / "stage").mkdir()
    with Cluster(tmp_path) as cluster:
        source = Own(lengths=LENGTHS, fields=CAMERAS)
        build_store([source], f"s3://{BUCKET}/x.vla", scheduler=cluster.address, staging=tmp_path / "stage")
    assert differences(Bucket("x.vla").digests(), reference) == []
    assert os.listdir(tmp_path / "stage") == []


def test_a_worker_that_is_killed_in_mid_build_is_replaced_by_the_others(
    tmp_path: Path, reference: dict[str, str]
) -> None:
    """The worker that reads first kills itself, once, in the middle of a shard."""
    flag = tmp_path / "deadly"
    source = Own(faulty="front", fault="die", flag=str(flag), lengths=LENGTHS, fields=CAMERAS)
    with Cluster(tmp_path) as cluster:
        build_store([source], tmp_path / "x.vla", scheduler=cluster.address, progress=Told(flag))
        assert not flag.exists()
        assert sorted(process.poll() is None for process in cluster.processes) == [False, True, True]
    assert differences(digests(tmp_path / "x.vla"), reference) == []  # nor is a half-written file of the dead one there


def test_workers_that_join_late_get_their_share(tmp_path: Path, reference: dict[str, str]) -> None:
    """The build begins before there is any worker; the first one goes on only when the second one reads too."""
    book = tmp_path / "book"
    book.mkdir()
    flag = tmp_path / "flag"
    source = Signed(lengths=LENGTHS, fields=CAMERAS, flag=str(flag), book=str(book), readers=2)
    failed: list[BaseException] = []

    def build(address: str) -> None:
        try:
            build_store([source], tmp_path / "x.vla", scheduler=address, progress=Told(flag))
        except BaseException as error:
            failed.append(error)

    with Cluster(tmp_path, workers=0) as cluster:
        building = threading.Thread(target=build, args=(cluster.address,))
        building.start()
        for readers in (0, 1):
            deadline = time.monotonic() + LIMIT_S
            while len(os.listdir(book)) < readers and time.monotonic() < deadline and not failed:
                time.sleep(0.05)
            cluster.add_worker()
        building.join()
    assert failed == []
    assert len(os.listdir(book)) == 2
    assert differences(digests(tmp_path / "x.vla"), reference) == []


def test_when_nobody_is_left_the_build_says_so_and_resumes_elsewhere(
    tmp_path: Path, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vla_store.builder import cluster as clusters

    monkeypatch.setattr(clusters, "LOST_S", 2)
    flag = tmp_path / "deadly"
    source = Own(faulty="front", fault="die", flag=str(flag), lengths=LENGTHS, fields=CAMERAS)
    with Cluster(tmp_path, workers=1) as cluster, pytest.raises(MachineError) as caught:
        build_store([source], tmp_path / "x.vla", scheduler=cluster.address, progress=Told(flag))
    assert_one_screen(cli.error_text(caught.value), "nobody is left in the cluster", cluster.address, "it resumes")
    build_store([replace(source, fault="")], tmp_path / "x.vla")
    assert differences(digests(tmp_path / "x.vla"), reference) == []


def test_what_is_wrong_with_a_file_comes_back_with_file_and_demo(tmp_path: Path) -> None:
    """One picture that neither probe nor background looks at has a wrong checksum: only the worker that encodes it can see."""
    import h5py

    file = tiny_libero.TinyFile("libero_goal", "open_the_middle_drawer", 12, {0: 150, 4: 150})
    source = tiny_libero.write_suites(tmp_path / "LIBERO", suites=[file])
    (path,) = source.rglob("*.hdf5")
    looked_at = {row - 150 for row in predictions.probe_rows(300)} | set(predictions.background_rows(150))
    unseen = next(row for row in range(1, 150) if row not in looked_at)
    with h5py.File(path, "r+") as hdf5:
        name = "data/demo_4/obs/agentview_rgb"
        pixels = np.asarray(hdf5[name])
        del hdf5[name]
        made = hdf5.create_dataset(name, data=pixels, chunks=(1, *pixels.shape[1:]), fletcher32=True)
        at = made.id.get_chunk_info(unseen).byte_offset
    store_tools.flip(path, at + 5)
    with Cluster(tmp_path, workers=1) as cluster:
        ran = run("build", source, tmp_path / "x.vla", "--scheduler", cluster.address)
    assert ran.code == 1, ran.err
    assert_one_screen(ran.err, path, "demo_4", "agentview_rgb")
    assert not (tmp_path / "x.vla").exists()


def test_an_own_source_s_error_comes_back_too(tmp_path: Path) -> None:
    flag = tmp_path / "odd"
    broken = Own(faulty="front", fault="raise", flag=str(flag))
    with Cluster(tmp_path, workers=1) as cluster, pytest.raises(Exception, match="the gripper's log is odd"):
        build_store([broken], tmp_path / "y.vla", scheduler=cluster.address, progress=Told(flag))


def test_a_cluster_without_dask_names_the_extra_before_any_work(
    small_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MachineError) as caught:
        build_store([small_source], tmp_path / "x.vla", scheduler="tcp://127.0.0.1:1")
    assert_one_screen(cli.error_text(caught.value), "a cluster needs dask", 'pip install "vla-store[cluster]"')
    assert not (tmp_path / "x.vla.partial").exists()


def test_a_cluster_without_workers_is_not_waited_for_without_end(
    small_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vla_store.builder import cluster as clusters

    monkeypatch.setattr(clusters, "WORKERS_S", 0.5)
    with Cluster(tmp_path, workers=0) as cluster, pytest.raises(MachineError) as caught:
        build_store([small_source], tmp_path / "x.vla", scheduler=cluster.address)
    text = cli.error_text(caught.value)
    assert_one_screen(text, "the scheduler has no workers", f"dask worker {cluster.address}")
    shutil.rmtree(tmp_path / "x.vla.partial")
