"""What the tests share: the unpacked demonstrations, tiny sources, and stores built from both.

VLA_STORE_DEMOS        folder with the demonstrations, packed (unpack.py and manifest.json) or already unpacked (libero/
                       and variants/); default: shared/data beside the checkout. Tests that need it are skipped without it.
VLA_STORE_TEST_STORES  folder in which the sources and stores made here are kept and found again, so that an interpreter
                       that cannot build (Python 3.10) reads what another one built. Default: a temporary folder.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import make_stores
import psutil
import pytest
from hypothesis import HealthCheck, settings
from s3_server import S3Server

HERE = Path(__file__).resolve().parent

# Beside a trainer's zarr 2 stores are read, and what builds is skipped as without a zarr.
if any(each.version.startswith("2.") for each in metadata.distributions(name="zarr")):
    sys.modules["zarr"] = None  # type: ignore[assignment]

settings.register_profile(
    "vla_store",
    deadline=None,  # the machines that run this are shared: slow is no failure
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile("vla_store")

# A build waits for its disk some two hundred times, the tests build some thousand stores, and none of these has to outlive a power
# cut: they lie in memory where there is plenty. PYTEST_DEBUG_TEMPROOT and --basetemp name another place.
IN_MEMORY, ROOM_NBYTES = Path("/dev/shm"), 6 << 30


def lie_in_memory() -> None:
    """Let this session's folder be made in memory, and remove those that killed sessions left there.

    Not where stores are kept in a folder of their own: tests link their files, which has to be on the same disk.
    """
    if {"PYTEST_DEBUG_TEMPROOT", "VLA_STORE_TEST_STORES"} & set(os.environ) or not os.access(IN_MEMORY, os.W_OK):
        return
    folder = IN_MEMORY / f"vla{os.getuid()}"  # short: some texts are broken by the length of a path
    for lock in folder.glob("pytest-of-*/pytest-*/.lock"):
        with contextlib.suppress(OSError, ValueError):
            if not psutil.pid_exists(int(lock.read_text())):
                shutil.rmtree(lock.parent)
    if min(shutil.disk_usage(IN_MEMORY).free, psutil.virtual_memory().available) > ROOM_NBYTES:
        folder.mkdir(mode=0o700, exist_ok=True)
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)


lie_in_memory()


# A shell that starts something in the background lets it ignore Ctrl-C, nohup lets it ignore the end of a terminal, and so would
# every process that a test starts and signals.
for name, handler in (
    ("SIGINT", signal.default_int_handler),
    ("SIGQUIT", signal.SIG_DFL),
    ("SIGHUP", signal.SIG_DFL),
):
    if signal.getsignal(getattr(signal, name)) == signal.SIG_IGN:
        signal.signal(getattr(signal, name), handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--campaign", action="store_true", help="run the long campaigns too")


# What takes longest begins first: begun last, it would keep one core busy while the other has nothing left.
LONGEST = (
    "test_docs.py",
    "loader/test_kills.py",
    "test_benchmarks.py",
    "loader/test_ahead.py",
    "storage/test_unmappable.py",
    "sources/test_skip_bad.py",
    "test_bench.py",
    "test_resume.py",
    "storage/test_paths.py",
    "test_bad_input.py",
    "manage/test_repair.py",
    "sources/test_datasets.py",
    "test_bad_store.py",
    "integration/test_ecosystem.py",
    "integration/test_loader_ranks.py",
    "integration/test_processes.py",
    "integration/test_workers.py",
    "integration/test_memory.py",
    "builder/test_memory.py",
    "builder/test_executors.py",
    "loader/test_hostile.py",
    "loader/test_staging.py",
    "test_torch.py",
    "test_training.py",
    "test_packaging.py",
    "test_cluster.py",
    "test_faults.py",
    "test_disk_full.py",
    "test_zarr_unaided.py",
    "export/test_proof.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    tests = Counter(item.path for item in items)
    # The others by their number of tests, so that the last of all are short.
    items.sort(key=lambda item: (place.get(os.path.relpath(item.path, HERE), len(LONGEST)), -tests[item.path]))
    for item in items:
        if "campaign" in item.keywords and not config.getoption("--campaign"):
            item.add_marker(pytest.mark.skip(reason="a long campaign: give --campaign"))
        if "gpu" in item.keywords and not _has_cuda():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _has_cuda() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


@pytest.fixture(scope="session")
def demos(kept: Path) -> Path:
    """The unpacked demonstrations: libero/ (5 suites, 6 files, 13 demos, 2,058 steps) and variants/. Do not write into it."""
    found = make_stores.demos(kept / "demos")
    if found is None:
        pytest.skip(f"the demonstrations are not at {make_stores.demos_place()}: set VLA_STORE_DEMOS")
    return found


@pytest.fixture(scope="session")
def layouts(kept: Path) -> Path:
    """Sample files of other layouts: lerobot_v30_image/, rlds/, aloha_jpeg/, ... Do not write into it."""
    found = make_stores.layouts(kept / "layouts")
    if found is None:
        pytest.skip(f"the sample files are not at {make_stores.demos_place() / 'layouts'}: set VLA_STORE_DEMOS")
    return found


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the sources and stores that this session makes, or found ready. Workers of pytest-xdist share it."""
    given, folder = os.environ.get("VLA_STORE_TEST_STORES"), tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the session's own, which ends with it
    folder = Path(given).resolve() if given else folder / "kept"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def tiny_source(kept: Path) -> Path:
    """A folder of suites of tiny files; see tiny_libero. Do not write into it: copy it."""
    if not (kept / "tiny_source").exists():
        pytest.importorskip("h5py", reason="writing a source needs h5py")
    return make_stores.tiny_source(kept)


@pytest.fixture(scope="session")
def small_source(kept: Path) -> Path:
    """Two files of `tiny_source`, five demos of 67 steps in all: a build takes half the time. Do not write into it: copy it."""
    if not (kept / "small_source").exists():
        pytest.importorskip("h5py", reason="writing a source needs h5py")
    return make_stores.tiny_source(kept, "small_source", make_stores.SUITES[1:3])


@pytest.fixture(scope="session")
def tiny_stores(kept: Path) -> dict[str, Path]:
    """A store of `tiny_source` by preset. Do not write into them: copy them."""
    for preset in make_stores.PRESETS:
        skip_unless_ready(kept / f"tiny-{preset}.vla")
    return {preset: make_stores.tiny_store(kept, preset) for preset in make_stores.PRESETS}


@pytest.fixture(scope="session")
def tiny_store(kept: Path) -> Path:
    """The `fast` store of `tiny_source`."""
    skip_unless_ready(kept / "tiny-fast.vla")
    return make_stores.tiny_store(kept, "fast")


@pytest.fixture(scope="session")
def demo_stores(kept: Path, demos: Path) -> dict[str, Path]:
    """A store of the LIBERO demonstrations by preset."""
    for preset in make_stores.PRESETS:
        skip_unless_ready(kept / f"demos-{preset}.vla")
    return {preset: make_stores.demo_store(kept, demos, preset) for preset in make_stores.PRESETS}


@pytest.fixture(scope="session")
def demo_store(kept: Path, demos: Path) -> Path:
    """The `fast` store of the LIBERO demonstrations."""
    skip_unless_ready(kept / "demos-fast.vla")
    return make_stores.demo_store(kept, demos, "fast")


def skip_unless_ready(store: Path) -> None:
    """Skips where the store is not there and this interpreter cannot build."""
    if not store.exists():
        for module in ("h5py", "zarr"):
            pytest.importorskip(module, reason=f"building needs {module}")


@pytest.fixture(scope="module")
def bucket() -> Iterator[S3Server]:
    """An S3 server, which programs find by the environment."""
    for module in ("moto", "s3fs", "boto3"):
        pytest.importorskip(module, reason=f"s3:// needs {module}")
    from s3fs import S3FileSystem

    with S3Server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        # fsspec keeps instances by their arguments, and this server is none of them.
        S3FileSystem.clear_instance_cache()
        yield server
        S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> None:
    """What stood before a file's first test is no garbage: 400,000 objects of pytest and the libraries, at which each collection of
    garbage (many tests ask for one, to see what stays behind) would look for a fifth of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks of an outer launcher must not reach the tests."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """disk("48k") is a file system of that size, the same one each time; skips where mounting is not permitted."""
    point = tmp_path / "disk"
    point.mkdir()
    mounted: list[Path] = []

    def sized(size: str) -> Path:
        options = f"remount,size={size}" if mounted else f"size={size}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", point], capture_output=True, text=True)
        if done.returncode and not mounted:
            pytest.skip(f"mounting a file system is not permitted here: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        mounted.append(point)
        return point

    yield sized
    if mounted:
        # Lazy: a map that waits for the garbage collector still holds it.
        subprocess.run(["umount", "--lazy", point], check=True)
