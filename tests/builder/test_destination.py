"""Where a store may be written, and that nothing else is ever touched."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_tools import objects

from vla_store.builder.destination import check_destination, destination_of, is_store, replace_store
from vla_store.errors import DestinationExists, OptionError

STORE = '{"attributes":{"vla_store":{}},"node_type":"group","zarr_format":3}'


def make_store(path: Path, mark: str = "") -> Path:
    path.mkdir(parents=True)
    (path / "zarr.json").write_text(STORE)
    (path / "mark").write_text(mark)
    return path


def check(store: Path, *sources: Path, overwrite: bool = False) -> None:
    target, partial = destination_of(store)
    check_destination(target, partial, sources, overwrite=overwrite)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "LIBERO/suite").mkdir(parents=True)
    (tmp_path / "LIBERO/suite/a.hdf5").write_bytes(b"")
    return tmp_path / "LIBERO"


def test_a_place_that_is_free_is_fine(source: Path, tmp_path: Path) -> None:
    for place in (tmp_path / "x.vla", tmp_path / "not/yet/there/x.vla", source / "x.vla", source / "suite/x.vla"):
        check(place, source)
        check(place, source, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["LIBERO"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("place", ["LIBERO", "LIBERO/", "LIBERO/suite", "LIBERO/suite/a.hdf5", ".", "LIBERO/../LIBERO"])
def test_a_source_or_what_holds_one_is_never_the_store(
    source: Path, tmp_path: Path, overwrite: bool, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for given in (source, source / "suite", source / "suite/a.hdf5"):
        with pytest.raises(DestinationExists, match="nothing was touched"):
            check(Path(place), given, overwrite=overwrite)
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(DestinationExists, match="nothing was touched"):
        check(tmp_path / "link", source, overwrite=overwrite)


@pytest.mark.parametrize("suffix", [".partial", ".replaced"])
def test_a_source_named_like_the_builds_own_folders_is_safe(tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"x.vla{suffix}" / "suite"
    source.mkdir(parents=True)
    for given in (source, source.parent):
        with pytest.raises(DestinationExists, match="nothing was touched"):
            check(tmp_path / "x.vla", given, overwrite=True)


def test_a_store_is_replaced_only_when_that_is_asked_for(source: Path, tmp_path: Path) -> None:
    make_store(tmp_path / "x.vla")
    with pytest.raises(DestinationExists, match="STORE exists"):
        check(tmp_path / "x.vla", source)
    check(tmp_path / "x.vla", source, overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_store_is_never_replaced(source: Path, tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("thesis")
    for place in ("folder", "file"):
        with pytest.raises(DestinationExists, match="exists and is not a store"):
            check(tmp_path / place, source, overwrite=overwrite)


def test_a_folder_with_more_than_a_builds_leavings_is_no_unfinished_build(source: Path, tmp_path: Path) -> None:
    partial = tmp_path / "x.vla.partial"
    partial.mkdir()
    check(tmp_path / "x.vla", source)
    for name in ("parts", "meta", "roots"):
        (partial / name).mkdir()
    for name in ("build.lock", "zarr.json.0123abcd.tmp"):
        (partial / name).touch()
    check(tmp_path / "x.vla", source)
    (partial / "notes.txt").touch()
    with pytest.raises(DestinationExists, match="place of the unfinished build is taken"):
        check(tmp_path / "x.vla", source, overwrite=True)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_store_that_is_called_like_an_unfinished_build_is_none(source: Path, tmp_path: Path, overwrite: bool) -> None:
    partial = tmp_path / "x.vla.partial"
    partial.mkdir()
    (partial / "zarr.json").write_text(STORE)
    with pytest.raises(DestinationExists, match="place of the unfinished build is taken; nothing was touched"):
        check(tmp_path / "x.vla", source, overwrite=overwrite)
    (partial / "build.lock").touch()  # killed between its root and its name
    check(tmp_path / "x.vla", source, overwrite=overwrite)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_an_unfinished_build_is_a_folder_of_its_own(source: Path, tmp_path: Path, kind: str) -> None:
    if kind == "file":
        (tmp_path / "x.vla.partial").touch()
    else:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "x.vla.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DestinationExists, match="place of the unfinished build is taken"):
        check(tmp_path / "x.vla", source)


def test_a_url_and_a_place_below_a_file_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="local path"):
        destination_of("s3://a/b")
    with pytest.raises(DestinationExists, match="below a file"):
        check(source / "suite/a.hdf5/x.vla", tmp_path / "other")


def test_the_root_of_the_file_system_is_refused_like_any_folder(source: Path) -> None:
    with pytest.raises(DestinationExists, match="holds one; nothing was touched"):
        check(Path("/"), source)
    with pytest.raises(DestinationExists, match="exists and is not a store"):
        check(Path("/"))


def test_a_link_is_followed_to_the_disk_it_names(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "x.vla").symlink_to("disk/y.vla")
    assert destination_of(tmp_path / "x.vla") == (tmp_path / "disk/y.vla", tmp_path / "disk/y.vla.partial")
    assert destination_of(tmp_path / "z.vla/") == (tmp_path / "z.vla", tmp_path / "z.vla.partial")


@pytest.mark.parametrize(
    ("content", "whether"),
    [
        (STORE, True),
        ('{"attributes":{"vla_store":{"format_version":99}}}', True),
        ('{"attributes":{}}', False),
        ('{"attributes":[]}', False),
        ("[]", False),
        ("", False),
    ],
)
def test_a_store_is_known_by_its_root(tmp_path: Path, content: str, whether: bool) -> None:
    (tmp_path / "zarr.json").write_text(content)
    assert is_store(tmp_path) is whether
    (tmp_path / "roots").mkdir()
    (tmp_path / "roots/00000001.json").write_text(STORE)
    assert is_store(tmp_path)  # damaged, but a store


def test_the_commit_is_a_rename_that_puts_the_old_store_aside_first(tmp_path: Path) -> None:
    make_store(tmp_path / "x.vla.partial", "new")
    replace_store(tmp_path / "x.vla.partial", tmp_path / "x.vla", overwrite=False)
    assert (tmp_path / "x.vla/mark").read_text() == "new"
    make_store(tmp_path / "x.vla.partial", "newer")
    with pytest.raises(DestinationExists, match="appeared"):
        replace_store(tmp_path / "x.vla.partial", tmp_path / "x.vla", overwrite=False)
    replace_store(tmp_path / "x.vla.partial", tmp_path / "x.vla", overwrite=True)
    assert objects(tmp_path) == {"x.vla/zarr.json": STORE.encode(), "x.vla/mark": b"newer"}


def test_a_replacement_that_was_stopped_half_way_is_finished(tmp_path: Path) -> None:
    make_store(tmp_path / "x.vla.replaced", "old")
    make_store(tmp_path / "x.vla.partial", "new")
    replace_store(tmp_path / "x.vla.partial", tmp_path / "x.vla", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["x.vla"]


def test_a_folder_of_ones_own_named_replaced_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "x.vla.replaced").mkdir()
    with pytest.raises(DestinationExists, match="is taken; nothing was touched"):
        check(tmp_path / "x.vla", source, overwrite=True)


def test_a_store_that_holds_a_source_is_not_replaced(tmp_path: Path) -> None:
    source = make_store(tmp_path / "x.vla") / "LIBERO"
    source.mkdir()
    with pytest.raises(DestinationExists, match="holds one; nothing was touched"):
        check(tmp_path / "x.vla", source, overwrite=True)
