"""What a source says of itself is put in order, and what it gives is held to it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from own_sources import FIELDS, WRONG, Own, Wrong, drawn

from vla_store.builder import EpisodeInfo, EpisodeSource, FieldSpec
from vla_store.errors import SourceError
from vla_store.format import canonical
from vla_store.sources.libero import LiberoFile
from vla_store.sources.protocol import name_of, read_rows, reason_of


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32"), "<f4", ">f4"])
def test_a_dtype_may_be_spelled_in_any_way_numpy_knows(dtype: object) -> None:
    assert FieldSpec(dtype, (3,), "step").dtype == "float32"  # type: ignore[arg-type]


def test_source_info_when_it_is_recorded_then_every_value_can_be() -> None:
    info = replace(Own().scan(), nbytes=np.int64(5), warnings=["a file of \udcff bytes"])
    assert json.loads(canonical.dumps([info.nbytes, list(info.warnings)])) == [5, ["a file of \\udcff bytes"]]


def test_numpys_integers_become_pythons_own() -> None:
    spec = FieldSpec("uint8", np.array([4, 5]), "step")  # type: ignore[arg-type]
    episode = EpisodeInfo(np.int64(3), np.uint16(7), {}, np.True_)
    numbers = [*spec.shape, episode.number, episode.steps, episode.success]
    assert numbers == [4, 5, 3, 7, 1]
    assert {type(number) for number in numbers} == {int}


@pytest.mark.parametrize("flag", [True, np.True_])
def test_a_flag_is_a_success_and_no_number(flag: Any) -> None:
    assert type(EpisodeInfo(0, 1, {}, flag).success) is int
    for given in ((flag, 1), (0, flag)):
        with pytest.raises(TypeError, match="no whole number"):
            EpisodeInfo(*given, {})
    with pytest.raises(TypeError, match="no whole number"):
        FieldSpec("float32", (flag,), "step")


@pytest.mark.parametrize(
    ("dtype", "shape", "role", "camera"),
    [
        ("uint8", (8, 8, 3), "observation", True),
        ("uint16", (8, 8, 1), "observation", True),
        ("float32", (8, 8, 4), "observation", True),
        ("uint8", (8, 8, 5), "observation", False),
        ("uint8", (8, 8), "observation", False),
        ("float64", (8, 8, 3), "observation", True),
        ("bool", (8, 9, 1), "observation", True),
        ("float32", (7, 8, 3), "observation", False),  # matrices, or a cloud of points
        ("uint16", (1, 2, 3), "observation", True),
        ("uint8", (8, 8, 3), "step", False),
        ("uint8", (2, 8, 8, 3), "observation", False),
    ],
)
def test_a_camera_is_an_observation_of_pictures(dtype: str, shape: tuple[int, ...], role: str, camera: bool) -> None:
    assert FieldSpec(dtype, shape, role).is_camera is camera


def test_both_kinds_of_sources_keep_the_protocol() -> None:
    assert isinstance(Own(), EpisodeSource)
    assert isinstance(LiberoFile("x.hdf5", "suite"), EpisodeSource)
    assert not isinstance("x.hdf5", EpisodeSource)


def read(source: Own, field: str = "joints", start: int = 2, stop: int = 5) -> np.ndarray:
    spec = FIELDS[field]
    return read_rows(source, 0, field, spec.dtype, spec.shape, start, stop)


def test_rows_come_as_the_source_gave_them() -> None:
    assert np.array_equal(read(Own()), drawn("joints", 0, 2, 5, FIELDS["joints"]))


@pytest.mark.parametrize(
    ("how", "field"),
    [(how, field) for how in WRONG for field in ("joints", "front") if (how, field) != ("channels first", "joints")],
)
def test_rows_that_are_not_what_the_scan_promised_are_refused(how: str, field: str) -> None:
    with pytest.raises(SourceError) as caught:
        read(Wrong(faulty=field, how=how), field)
    places = caught.value.places
    assert (places["field"], places["demo"], places["file"]) == (field, "0", "Wrong")
    assert places["expected"] == f"{(3, *FIELDS[field].shape)} of {FIELDS[field].dtype} for steps 2 to 5"


class Strided(Own):
    def read(self, number: int, field: str, start: int, stop: int) -> np.ndarray:
        rows = super().read(number, field, start, stop)
        return rows[:, ::-1].astype(rows.dtype.newbyteorder(">"))


def test_rows_of_any_memory_layout_become_contiguous_and_little_endian() -> None:
    rows = read(Strided())
    assert rows.flags.c_contiguous
    assert rows.dtype == np.dtype("<f8")
    assert np.array_equal(rows, drawn("joints", 0, 2, 5, FIELDS["joints"])[:, ::-1])


def test_a_reason_names_the_dataset_and_no_path() -> None:
    error = SourceError("it is wrong", file="/home/me/x.hdf5", demo="demo_3", dataset="obs/a", row=4, found="/home/me")
    assert reason_of(error) == "it is wrong (dataset obs/a, row 4)"
    assert reason_of(SourceError("it is wrong")) == "it is wrong"


def test_a_source_is_called_by_its_path_or_its_type() -> None:
    assert name_of(LiberoFile("a/b.hdf5", "suite")) == "a/b.hdf5"
    assert name_of(Own()) == "Own"
