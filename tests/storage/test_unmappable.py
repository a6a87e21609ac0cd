"""Storage that cannot be mapped, and processes that have no addresses left: files are read instead, and one line says so."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import store_tools

from vla_store.errors import StoreDamaged
from vla_store.storage import LocalStorage

UNMAPPABLE = Path("/sys/devices/system/cpu/online")  # a file that has a size, and that the system maps for nobody

# The C library's mmap, which answers as a network mount or a process without addresses does for shared maps of files below
# $UNMAPPED that have at least $LEAST bytes.
SHIM = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

void *mmap(void *at, size_t size, int protection, int flags, int file, off_t start) {
    char name[64], path[4096];
    struct stat found;
    const char *folder = getenv("UNMAPPED"), *least = getenv("LEAST");
    if (folder && file >= 0 && (flags & MAP_SHARED)) {
        snprintf(name, sizeof name, "/proc/self/fd/%d", file);
        ssize_t length = readlink(name, path, sizeof path - 1);
        path[length < 0 ? 0 : length] = 0;
        if (!strncmp(path, folder, strlen(folder)) && !fstat(file, &found) && found.st_size >= atol(least)) {
            errno = atol(least) ? ENOMEM : ENODEV;
            return MAP_FAILED;
        }
    }
    return (void *)syscall(SYS_mmap, at, size, protection, flags, file, start);
}
void *mmap64(void *at, size_t size, int protection, int flags, int file, off_t start) {
    return mmap(at, size, protection, flags, file, start);
}
"""

SAMPLES = """
import hashlib, pickle, sys, warnings
import numpy as np
import vla_store
from vla_store.loader.batches import Batches

WINDOWS = {"agentview_rgb": [-1, 0], "eye_in_hand_rgb": 0, "actions": range(4), "joint_states": 0}

def samples_of(store, fetcher=None):
    opened = vla_store.open_store(store, fetcher=fetcher)
    return vla_store.Samples(opened, windows=WINDOWS, alignment="causal", images="as_stored")

def digest_of(batches):
    made = hashlib.sha256()
    for field in WINDOWS:
        made.update(b"".join(np.ascontiguousarray(each[field]).tobytes() for each in batches))
    return made.hexdigest()

def digests_of(samples):
    "Of every way to read all samples: one by one, as a batch, by a copy, by worker processes."
    everything = range(len(samples))
    yield digest_of([samples[index] for index in everything])
    yield digest_of([samples.batch(np.arange(len(samples)))])
    yield digest_of([pickle.loads(pickle.dumps(samples))[index] for index in everything])
    batches = Batches(samples, batch_size=64, shuffle=False, workers=2)
    yield digest_of([{field: np.array(each[field]) for field in WINDOWS} for each in batches])
"""

READ = """
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    samples = samples_of(sys.argv[1])
    found = set(digests_of(samples))
print(*found)
print(*[each.message for each in caught], sep="\\n")
"""


def read_by_pread(store: Path) -> str:
    names: dict[str, Any] = {}
    exec(SAMPLES, names)
    samples = names["samples_of"](store, "pread")
    return str(names["digest_of"]([samples.batch(np.arange(len(samples)))]))


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler, and Linux")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", folder / "shim.so", folder / "shim.c"], check=True)
    return folder / "shim.so"


def python(code: str, *arguments: object, **more: str) -> list[str]:
    """The lines that a process prints."""
    done = subprocess.run(
        [sys.executable, "-c", SAMPLES + code, *map(str, arguments)],
        env=store_tools.environment(**more),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


# Of the tiny store's objects, those of pictures are the largest.
@pytest.mark.parametrize(("least", "reason"), [(0, "No such device"), (40_000, "Cannot allocate memory")])
def test_a_store_that_cannot_be_mapped_is_read_and_one_line_says_so(
    tiny_store: Path, shim: Path, least: int, reason: str
) -> None:
    assert sum(path.stat().st_size >= 40_000 for path in tiny_store.rglob("*") if path.is_file()) in range(1, 20)
    told = python(READ, tiny_store, LD_PRELOAD=str(shim), UNMAPPED=str(tiny_store), LEAST=str(least))
    assert told[0] == read_by_pread(tiny_store)
    assert len(told) == 2, told
    assert reason in told[1]
    assert 'fetcher="pread"' in told[1]
    assert python(READ, tiny_store, UNMAPPED=str(tiny_store), LEAST="0") == [told[0], ""]


def test_a_process_without_addresses_for_maps_reads_files(demo_store: Path) -> None:
    limit = """
import resource
samples = samples_of(sys.argv[1], "pread")
samples.batch(np.arange(256))  # what reading needs besides maps is there
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[2]), resource.RLIM_INFINITY))
expected = digest_of([samples[index] for index in range(0, len(samples), 200)])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    samples = samples_of(sys.argv[1])
    print(digest_of([samples[index] for index in range(0, len(samples), 200)]) == expected)
print(*[each.message for each in caught], sep="\\n")
"""
    largest = max(path.stat().st_size for path in demo_store.rglob("*") if path.is_file())
    told = python(limit, demo_store, largest * 3 // 4, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    assert told[0] == "True"
    assert len(told) == 2, told
    assert "Cannot allocate memory" in told[1]


def test_a_file_that_the_system_maps_for_nobody_is_read(tmp_path: Path) -> None:
    if not UNMAPPABLE.exists():
        pytest.skip("this system has no such file")
    (tmp_path / "first").write_bytes(b"0123456789")
    (tmp_path / "object").symlink_to(UNMAPPABLE)
    fetcher = LocalStorage(str(tmp_path))
    kept = fetcher.whole("first")
    with pytest.warns(UserWarning, match=r"No such device.*--fetcher pread"):
        (found,) = fetcher.read([("object", 0, 2)])
    assert bytes(found) == UNMAPPABLE.read_bytes()[:2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fetcher.whole("object") is None
        assert fetcher.whole("first") is kept
        views = fetcher.read([("first", 2, 4), ("object", 0, 1), ("first", 0, 1)])
    assert [bytes(view) for view in views] == [b"23", bytes(found[:1]), b"0"]
    assert fetcher.head("first", 3) == b"012"
    assert fetcher.size("object") == UNMAPPABLE.stat().st_size
    with pytest.raises(StoreDamaged, match="missing"):
        fetcher.size("other")


# `vla-store`, whose bench takes short turns.
QUICK = """
import sys
from vla_store import cli
from vla_store.bench import turns
turns.TURN_S, turns.LOADER_S, turns.ROUNDS = 0.01, 0.05, 2
sys.exit(cli.main())
"""


@pytest.mark.parametrize("command", ["info", "verify", "coverage", "bench"])
def test_commands_say_it_once_and_have_the_option_that_silences_it(
    tiny_store: Path, shim: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(store_tools, "COMMAND", (sys.executable, "-c", QUICK))
    more = ["--workers", "1", "--batch-size", "4"] if command == "bench" else []
    hidden = {"LD_PRELOAD": str(shim), "UNMAPPED": str(tiny_store), "LEAST": "0"}
    ran = store_tools.run(command, tiny_store, *more, "--quiet", **hidden)
    assert ran.code == 0, ran.err
    assert ran.err.count("warning: ") == 1
    assert "--fetcher pread" in store_tools.in_words(ran.err)
    assert "Warning" not in store_tools.in_words(ran.err)
    quiet = store_tools.run(command, tiny_store, *more, "--quiet", "--fetcher", "pread", **hidden)
    assert (quiet.code, quiet.err) == (0, "")


def test_a_store_is_built_where_nothing_can_be_mapped(
    tiny_source: Path, tiny_store: Path, shim: Path, tmp_path: Path
) -> None:
    pytest.importorskip("zarr", reason="building needs zarr")
    ran = store_tools.run(
        "build", tiny_source, tmp_path / "x.vla", LD_PRELOAD=str(shim), UNMAPPED=str(tmp_path), LEAST="0"
    )
    assert ran.code == 0, ran.err
    assert store_tools.digests(tmp_path / "x.vla") == store_tools.digests(tiny_store)
