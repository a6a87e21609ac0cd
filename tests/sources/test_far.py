"""Sources at URLs: the same store as of local files, in scratch space that has a bound and is given back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import store_tools
from range_server import RangeServer
from store_tools import assert_one_screen, digests

pytest.importorskip("h5py", reason="reading a source needs h5py")

from vla_store import MachineError, SourceError, SourceNotFound, cli
from vla_store.audit import verify_store
from vla_store.builder import build_store
from vla_store.manage.append import append_store
from vla_store.sources.far import far_files
from vla_store.sources.find import find_sources


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def far(tiny_source: Path) -> Iterator[str]:
    """`tiny_source` at a URL, in the memory of this process."""
    fs = fsspec.filesystem("memory")
    fs.put(f"{tiny_source}/", "/lab/LIBERO/", recursive=True)
    yield "memory://lab/LIBERO"
    fs.rm("/lab", recursive=True)


def is_named(name: str) -> bool:
    return name.endswith(".hdf5")


def urls(source: Path, far: str) -> list[str]:
    return [f"{far}/{path.relative_to(source).as_posix()}" for path in source.rglob("*.hdf5")]


@pytest.mark.parametrize("form", ["folder", "files", "suites/*", "*/*.hdf5"])
def test_a_source_at_a_url_gives_the_store_of_the_local_files(
    far: str, scratch: Path, tiny_source: Path, tiny_store: Path, tmp_path: Path, form: str
) -> None:
    given = {
        "folder": [far],
        "files": urls(tiny_source, far),
        "suites/*": [f"{far}/libero_*"],
        "*/*.hdf5": [f"{far}/*/*.hdf5"],
    }
    build_store(given[form], tmp_path / "x.vla", workers=2)
    assert digests(tmp_path / "x.vla") == digests(tiny_store)
    assert os.listdir(scratch) == []


class Watching:
    """A progress that sees how much of the scratch space is taken, and what was said."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.most, self.said = scratch, 0, list[str]()

    def talk(self, text: str) -> None:
        self.said.append(text)
        self.look()

    def begin(self, steps: int, nbytes: int, done_nbytes: int) -> None: ...

    def advance(self, nbytes: int) -> None:
        self.look()

    def end(self) -> None: ...

    def look(self) -> None:
        self.most = max(self.most, sum(path.stat().st_size for path in self.scratch.rglob("*.hdf5")))


def test_the_scratch_space_has_the_bound_that_is_given_and_its_size_is_said(
    far: str, scratch: Path, tiny_source: Path, tiny_store: Path, tmp_path: Path
) -> None:
    limit = max(path.stat().st_size for path in tiny_source.rglob("*.hdf5")) + 100
    watching = Watching(scratch)
    build_store([far], tmp_path / "x.vla", workers=1, scratch_size=limit, progress=watching)
    assert digests(tmp_path / "x.vla") == digests(tiny_store)
    assert 0 < watching.most <= limit
    assert "fetching 4 files, 554 kB, to " in watching.said[0]


def test_one_file_of_a_web_server_is_a_source(scratch: Path, tiny_source: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="http:// needs aiohttp")
    suite = next(path for path in sorted(tiny_source.iterdir()) if path.is_dir())
    (file,) = list(suite.iterdir())[:1]
    with RangeServer(suite, prefix=f"/{suite.name}") as server:
        build_store([f"{server.url}/{file.name}"], tmp_path / "x.vla", workers=1)
    assert digests(tmp_path / "x.vla") == digests(store_tools.built(tmp_path / "y.vla", [file]))
    assert os.listdir(scratch) == []


def test_a_store_is_verified_against_a_url_and_appended_to_from_one(
    far: str, scratch: Path, tiny_source: Path, tiny_store: Path, tmp_path: Path
) -> None:
    assert verify_store(tiny_store, against=[far]).sound
    first, *others = sorted(path for path in tiny_source.iterdir() if path.is_dir())
    store = store_tools.built(tmp_path / "x.vla", [first])
    there = store_tools.built(tmp_path / "y.vla", [first])
    append_store([f"{far}/{others[0].name}"], store)
    append_store([others[0]], there)
    assert digests(store) == digests(there)
    assert os.listdir(scratch) == []


@pytest.mark.parametrize("url", ["memory://lab/nothing", "memory://lab/LIBERO/*.h5", "memory://lab/LIBERO/x/y.hdf5"])
def test_a_url_without_a_source_is_wrong_use(far: str, scratch: Path, url: str) -> None:
    with pytest.raises(SourceNotFound) as caught:
        find_sources([url])
    assert_one_screen(cli.error_text(caught.value), "no source at this URL", url, "check the URL")


def test_too_little_space_is_said_with_what_is_needed(far: str, scratch: Path, tmp_path: Path) -> None:
    with pytest.raises(MachineError) as caught:
        build_store([far], tmp_path / "x.vla", scratch_size=1000)
    assert_one_screen(cli.error_text(caught.value), "no space for a source", "1 kB (--scratch-size)", "TMPDIR", far)
    assert not (tmp_path / "x.vla.partial").exists()


def test_a_bad_file_is_called_by_its_url(far: str, scratch: Path, tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/lab/LIBERO/libero_goal/torn_demo.hdf5", b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(SourceError) as caught:
        build_store([far], tmp_path / "x.vla")
    assert caught.value.places["file"] == f"{far}/libero_goal/torn_demo.hdf5"


def test_a_file_that_changes_after_it_was_listed_is_refused(far: str, scratch: Path, tiny_source: Path) -> None:
    file, *_ = far_files(far, is_named, None)
    fsspec.filesystem("memory").pipe_file(file.url.removeprefix("memory:/"), b"another file")
    with pytest.raises(SourceError, match="a source changed while it was being read"):
        file.reading(lambda: None)


def test_a_file_that_is_evicted_while_it_is_read_is_fetched_again(far: str, scratch: Path) -> None:
    (source, *_) = find_sources([far])
    info = source.scan()
    expected = source.read(info.episodes[0].number, "actions", 0, 1)
    for path in scratch.rglob("*.hdf5"):
        path.unlink()
    assert (source.read(info.episodes[0].number, "actions", 0, 1) == expected).all()
    del source
