"""Kinds of source: which of them has a path, and what a caller may state of its sources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from own_sources import Own, drawn

from vla_store import OptionError, SourceError, UnknownName, open_store
from vla_store.audit import verify_store
from vla_store.cli import main
from vla_store.manage.recode import recode_store
from vla_store.manage.repair import repair_store
from vla_store.sources import Claim, Convention, Overrides, SourceKind, register, unregister
from vla_store.sources.find import find_sources
from vla_store.sources.kinds import conventions, kind_of
from vla_store.sources.libero import LiberoFile
from vla_store.sources.overrides import NO_OVERRIDES
from vla_store.sources.protocol import Array

GAIN = Convention("gain", ("one", "two"), "what actions are multiplied by")


@dataclass(frozen=True)
class Folder(Own):
    path: str = ""
    overrides: Overrides = NO_OVERRIDES

    def overridden(self, overrides: Overrides) -> Folder:
        return replace(self, overrides=overrides)

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        rows = super().read(number, field, start, stop)
        return rows * np.float32(2) if field == "actions" and ("gain", "two") in self.overrides.conventions else rows


@dataclass(frozen=True)
class Kind(SourceKind):
    name: str = "folders"
    surely: Claim = Claim.LAYOUT
    conventions: tuple[Convention, ...] = (GAIN,)

    def claim(self, path: Path) -> Claim:
        return self.surely if path.is_dir() and path.name.startswith("x") else Claim.NONE

    def open(self, path: Path, *, skip_bad: bool) -> list[Folder]:
        return [Folder(file=path.name, path=str(path), suite=self.name)]


@pytest.fixture
def kind() -> Iterator[SourceKind]:
    made = register(Kind())
    yield made
    unregister(made)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("x1", "x2", "suite"):
        (tmp_path / name).mkdir()
    (tmp_path / "suite/task_demo.hdf5").touch()
    return tmp_path


def test_folders_of_a_kind_lie_beside_folders_of_files(kind: SourceKind, folder: Path) -> None:
    found = find_sources(folder)
    assert [type(each) for each in found] == [LiberoFile, Folder, Folder]
    assert [type(each) for each in find_sources([folder / "x1"])] == [Folder]


def test_the_surest_kind_has_a_path(kind: SourceKind, folder: Path) -> None:
    surer = register(Kind("surer", Claim.MARK, ()))
    (found,) = find_sources(folder / "x1")
    unregister(surer)
    assert found.suite == "surer"  # type: ignore[attr-defined]


def test_two_kinds_that_claim_a_path_alike_are_named(kind: SourceKind, folder: Path) -> None:
    other = register(Kind("other"))
    try:
        with pytest.raises(SourceError, match="may be of several kinds") as caught:
            find_sources(folder / "x1")
    finally:
        unregister(other)
    assert "folders, other" in str(caught.value)


@pytest.mark.parametrize(
    "convention",
    [Convention("gain", ("half",), ""), Convention("orientation", ("up",), ""), Convention("of-arm", ("a",), "")],
)
def test_register_when_a_convention_means_something_else_or_is_no_option_then_it_is_refused(
    kind: SourceKind, convention: Convention
) -> None:
    with pytest.raises(OptionError, match="cannot have a convention of this name") as caught:
        register(Kind("other", Claim.MARK, (convention,)))
    assert caught.value.places["found"] == convention.name
    assert kind_of(Path(__file__)).name == "LIBERO"  # type: ignore[union-attr]


def test_conventions_when_two_kinds_share_one_then_it_is_one_option(kind: SourceKind, tmp_path: Path) -> None:
    other = register(Kind("other"))
    try:
        assert conventions().count(GAIN) == 1
        assert main(["build", "--gain", "one", str(tmp_path / "absent"), str(tmp_path / "x.vla")]) == 2
    finally:
        unregister(other)


def test_a_convention_of_a_kind_is_stated_for_all_or_by_path(kind: SourceKind, folder: Path) -> None:
    stated = {None: "one", folder / "x2": "two"}
    libero, first, second = find_sources(folder, orientation="rot180", conventions={"gain": stated})
    assert libero.overrides == Overrides("rot180")  # type: ignore[attr-defined]
    assert first.overrides == Overrides("rot180", conventions=(("gain", "one"),))  # type: ignore[attr-defined]
    assert second.overrides == Overrides("rot180", conventions=(("gain", "two"),), by_path=("gain",))  # type: ignore[attr-defined]


def test_overrides_are_recorded_and_read_back() -> None:
    stated = Overrides("rot180", "before", (("gain", "two"),), ("gain",))
    entry = {"orientation": "rot180", "observation": "before", "said": ["gain"], **stated.to_json()}
    assert Overrides.recorded({"orientation": None, "conventions": {"gain": "one"}}, entry) == stated


def test_a_convention_that_no_kind_has_is_refused(folder: Path) -> None:
    with pytest.raises(UnknownName, match="there is no convention 'gain'"):
        find_sources(folder, conventions={"gain": "one"})


def test_a_value_that_a_convention_has_not_is_refused(kind: SourceKind, folder: Path) -> None:
    with pytest.raises(OptionError, match="gain cannot be 'three'"):
        find_sources(folder, conventions={"gain": "three"})


@pytest.mark.parametrize("said", ["two", "{folder}/x2=two"])
def test_a_convention_of_a_kind_is_stated_on_the_command_line_and_recorded(
    kind: SourceKind, folder: Path, said: str
) -> None:
    store, again = folder / "s.vla", folder / "t.vla"
    given = [str(folder / "x1"), str(folder / "x2")]
    assert main(["build", "--quiet", *given, str(store), "--gain", said.format(folder=folder)]) == 0
    actions = open_store(store).read("actions", [0, 27])
    plain = drawn("actions", 0, 0, 1, Own().fields["actions"])
    assert np.array_equal(actions, np.concatenate([plain * (2 if said == "two" else 1), plain * 2]))
    assert verify_store(store, against=given).sound
    recode_store(store, again, preset="fast")
    assert open_store(again).digest == open_store(store).digest
    next(store.glob("parts/*/steps/actions/c/0/0")).unlink()
    assert repair_store(store, given).sound
