"""What the tests of building, auditing and the command line share: running commands, and taking stores apart."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import vla_store
from vla_store.format import canonical
from vla_store.format.listing import ObjectEntry, encode_listing
from vla_store.format.schema import Root

COMMAND = (sys.executable, "-m", "vla_store")
LIBRARY = Path(vla_store.__file__).resolve().parents[1]


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    """The environment of a command that is to find this package."""
    path = os.pathsep.join(filter(None, [str(LIBRARY), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **more}


def run(*arguments: object, cwd: Path | None = None, timeout: float = 120, **more: str) -> Ran:
    """`vla-store ARGUMENTS` in a process of its own, without a terminal. more: environment variables."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=timeout,
        errors="surrogateescape",
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def assert_one_screen(err: str, *names: object) -> None:
    """The error of a command: a screen at most, no traceback, and everything in `names` is in it."""
    assert "Traceback" not in err, err
    lines = err.splitlines()
    assert sum(line.startswith("vla-store: error: ") for line in lines) == 1, err
    assert len(lines) <= 24, err
    # Paths, names of files and long words may be wider than a terminal; our own words are not.
    wide = [line for line in lines if len(line) > 80 and not re.search(r"/|\.hdf5", line) and len(line.split()) > 1]
    assert not [line for line in wide if max(map(len, line.split())) < 40], err
    for name in names:
        assert in_words(name) in in_words(err), f"{name!s} is not in:\n{err}"


def in_words(text: object) -> str:
    """A text on one line, however it was wrapped."""
    return " ".join(str(text).split())


def objects(folder: Path) -> dict[str, bytes]:
    """Every file below a folder: key -> bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def digests(folder: Path) -> dict[str, str]:
    """Every file below a folder: key -> sha256. For comparing stores with a message that can be read."""
    return {key: hashlib.sha256(data).hexdigest() for key, data in objects(folder).items()}


def part_of(store: Path) -> Path:
    """The folder of the only part of a store."""
    (found,) = [path for path in (store / "parts").iterdir() if path.is_dir()]
    return found


def flip(path: Path, offset: int, mask: int = 0x40) -> None:
    """Change one byte of a file, in place."""
    with open(path, "r+b") as file:
        file.seek(offset)
        (old,) = file.read(1)
        file.seek(offset)
        file.write(bytes([old ^ mask]))


def resign(store: Path, change: Callable[[dict[str, Any]], None] | None = None) -> None:
    """Make every digest of a one-part store right again, after objects of its part were changed: what damage cannot do and an
    attacker can. change: is given the root document, before it is sealed."""
    part = part_of(store)
    listed = [
        ObjectEntry(key, hashlib.sha256(data).hexdigest(), len(data))
        for key, data in objects(part).items()
        if key != "objects.jsonl"
    ]
    listing = encode_listing(listed)
    (part / "objects.jsonl").write_bytes(listing)
    document = json.loads((store / "zarr.json").read_bytes())
    inner = document["attributes"]["vla_store"]
    inner["parts"][0]["listing"] = canonical.sha256_hex(listing)
    if change:
        change(inner)
    inner["digest"] = "0" * 64
    inner["digest"] = canonical.sha256_hex(canonical.dumps(document))
    data = canonical.dumps(document)
    (store / "zarr.json").write_bytes(data)
    (store / "roots" / "00000001.json").write_bytes(data)


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a canonical document in place."""
    document = json.loads(path.read_bytes())
    change(document)
    path.write_bytes(canonical.dumps(document))


def root_of(store: Path) -> Root:
    return Root.from_bytes((store / "zarr.json").read_bytes(), "zarr.json")


def built(store: Path, sources: Sequence[Any], **options: Any) -> Path:
    """A store of these sources."""
    from vla_store.builder import build_store

    build_store(sources, store, **options)
    return store


def differences(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    """Keys that two stores do not have alike; empty when they are the same."""
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def skip_unless_it_creates() -> None:
    """Skips where fsspec is older than 2024.12, which gave its storages a way to create; such storages are refused then."""
    from fsspec.implementations.memory import MemoryFileSystem

    if "mode" not in inspect.signature(MemoryFileSystem.pipe_file).parameters:
        pytest.skip("this fsspec cannot create an object exclusively")


@contextlib.contextmanager
def batches_of(loader: Any) -> Iterator[Any]:
    """The batches of a loader of torch's that is expected to fail. An iterator that an error keeps alive would wait five seconds for
    each of its workers, in whatever test it is collected as garbage."""
    batches = iter(loader)
    try:
        yield batches
    finally:
        if loader.num_workers:
            batches._shutdown_workers()


def registered(kind: str, **methods: Any) -> str:
    """A scheme whose filesystem is fsspec's memory with other methods."""
    import fsspec
    from fsspec.implementations.memory import MemoryFileSystem

    members = {"protocol": kind, "store": MemoryFileSystem.store, "pseudo_dirs": MemoryFileSystem.pseudo_dirs}
    members["_strip_protocol"] = classmethod(
        lambda cls, path: MemoryFileSystem._strip_protocol(str(path).removeprefix(f"{kind}:"))
    )
    made = type(f"{kind.title()}FileSystem", (MemoryFileSystem,), {**members, **methods})
    fsspec.register_implementation(kind, made, clobber=True)
    return kind


class Stop(BaseException):
    """Ends a build from within, as Ctrl-C does."""


class Stopping:
    """A progress that stops the build once so many units are done; begun: what it was told of the work."""

    def __init__(self, after: int = -1) -> None:
        self.left = after
        self.begun: tuple[int, int, int] | None = None

    def talk(self, text: str) -> None: ...

    def begin(self, steps: int, nbytes: int, done_nbytes: int) -> None:
        self.begun = steps, nbytes, done_nbytes

    def advance(self, nbytes: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise Stop

    def end(self) -> None: ...
