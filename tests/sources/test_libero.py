"""LIBERO's HDF5 files are read as h5py reads them, whatever their layout; what they do not say is found out or asked for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tiny_libero
from hypothesis import given
from hypothesis import strategies as st

from vla_store.errors import SourceError
from vla_store.format.attributes import decode_value
from vla_store.sources.datasets import field_name
from vla_store.sources.libero import LiberoFile, task_text
from vla_store.sources.overrides import Overrides
from vla_store.sources.protocol import close_files

FILE = tiny_libero.SUITES[2]  # demos 0 (33 steps) and 1 (12 steps)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tiny_libero.victim(tiny_libero.write_suites(tmp_path, suites=(FILE,)))


def source(path: Path, *, skip_bad: bool = False, **stated: str) -> LiberoFile:
    return LiberoFile(str(path), path.parent.name, Overrides(**stated), skip_bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("actions", "actions"),
        ("obs/agentview_rgb", "agentview_rgb"),
        ("obs/a/b", "a__b"),
        ("next_obs/ee_pos", "next_obs__ee_pos"),
        ("a/obs/b", "a__obs__b"),
    ],
)
def test_a_fields_name_is_its_path_without_obs(path: str, name: str) -> None:
    assert field_name(path) == name


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("open_the_middle_drawer_of_the_cabinet", "open the middle drawer of the cabinet"),
        ("KITCHEN_SCENE1_put_the_black_bowl_on_the_plate", "put the black bowl on the plate"),
        ("KITCHEN_SCENE10_close_the_top_drawer", "close the top drawer"),
        ("LIVING_ROOM_SCENE2_put_both_the_cups", "put both the cups"),
    ],
)
def test_the_text_of_a_task_is_the_one_evaluations_use(task: str, text: str) -> None:
    assert task_text(task) == text


def test_a_published_file_says_everything_of_itself(path: Path) -> None:
    info = source(path).scan()
    assert (info.suite, info.file, info.task) == (FILE.suite, FILE.name, FILE.task)
    assert info.text == "pick up the bowl and place it on the plate"
    assert info.instruction == "pick the bowl and place it on the plate"
    assert (info.orientation, info.observation) == ("bottom_up", "after")
    assert info.nbytes == path.stat().st_size
    assert [(each.number, each.steps, each.success) for each in info.episodes] == [(0, 33, 1), (1, 12, 1)]
    assert (info.warnings, info.skipped) == ((), ())


def test_fields_have_the_files_dtypes_shapes_and_roles(path: Path) -> None:
    fields = source(path).scan().episodes[0].fields
    observed = {name for name, spec in fields.items() if spec.role == "observation"}
    with h5py.File(path) as file:
        demo = file["data/demo_0"]
        assert observed == {*demo["obs"], "robot_states"}
        assert fields.keys() - observed == {"actions", "states", "rewards", "dones"}
        for name in fields:
            dataset = demo[name] if name in demo else demo["obs"][name]
            assert (fields[name].dtype, fields[name].shape) == (dataset.dtype.name, dataset.shape[1:])
    assert [name for name, spec in fields.items() if spec.ragged] == ["states"]
    assert sorted(name for name, spec in fields.items() if spec.is_camera) == list(tiny_libero.CAMERAS)


@pytest.mark.parametrize("observation", ["after", "before"])
def test_the_order_of_observation_and_action_is_measured(tmp_path: Path, observation: str) -> None:
    path = tiny_libero.victim(tiny_libero.write_suites(tmp_path, suites=(FILE,), observation=observation))
    assert source(path).scan().observation == observation
    assert source(path, observation="before").scan().observation == "before"  # who is told need not look


def test_a_robot_that_stands_still_leaves_the_order_open(path: Path) -> None:
    for number in FILE.lengths:
        for name in ("states", "obs/joint_states"):
            tiny_libero.replace(
                path, f"data/demo_{number}/{name}", 0 * tiny_libero.read(path, f"data/demo_{number}/{name}")
            )
    with pytest.raises(SourceError, match="before or after the action"):
        source(path).scan()


def everywhere(path: Path, name: str, of: Callable[[int], Any]) -> None:
    """Puts another dataset into each demonstration. of: the number of its steps."""
    for number, steps in FILE.lengths.items():
        tiny_libero.replace(path, f"data/demo_{number}/{name}", of(steps))


@pytest.mark.parametrize("name", ["states", "obs/joint_states"])
@pytest.mark.parametrize("how", ["texts", "fewer rows"])
def test_observation_when_joints_cannot_be_compared_then_it_is_asked_for(path: Path, name: str, how: str) -> None:
    odd = {"texts": lambda steps: np.full((steps, 8), b"text"), "fewer rows": lambda steps: np.zeros((steps // 3, 7))}
    everywhere(path, name, odd[how])
    with pytest.raises(SourceError, match="nothing says whether observations") as caught:
        source(path).scan()
    assert caught.value.places["found"] == "no such datasets"
    assert source(path, observation="after").scan().observation == "after"


@pytest.mark.parametrize("observation", ["after", "before"])
def test_observation_when_joints_are_unsigned_then_differences_do_not_wrap_around(path: Path, observation: str) -> None:
    joints = np.random.default_rng(0).integers(
        10, 200, (40, 7)
    )  # where the wrong row is taken, half the differences are below 0
    shift = {"after": 0, "before": 1}[observation]
    everywhere(path, "states", lambda steps: np.pad(joints[:steps], ((0, 0), (1, 4))).astype("u1"))
    everywhere(path, "obs/joint_states", lambda steps: (joints[1 - shift :][:steps] - 1).astype("u1"))
    assert source(path).scan().observation == observation


@pytest.mark.parametrize("rewards", [b"1", "1", True, 1.0], ids=repr)
def test_success_when_rewards_are_no_numbers_then_it_is_not_known(path: Path, rewards: Any) -> None:
    everywhere(path, "rewards", lambda steps: [rewards] * steps)
    known = not isinstance(rewards, (bytes, str))
    assert [each.success for each in source(path).scan().episodes] == [1 if known else -1] * 2


def virtual(file: h5py.File, name: str, of: str, source: str = ".") -> None:
    layout = h5py.VirtualLayout((12, 3), "f8")
    layout[:] = h5py.VirtualSource(source, of, (12, 3))
    file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize("made_of", ["itself", "each other", "another file", "outside storage"])
def test_a_virtual_dataset_when_its_data_is_not_there_then_it_is_refused(path: Path, made_of: str) -> None:
    """HDF5 crashes on one that is made of itself, and reads zeros where what it is made of is made of what is not there."""
    at = "data/demo_1/obs/ee_pos"
    with h5py.File(path, "r+") as file:
        del file[at]
        if made_of == "itself":
            virtual(file, at, at)
        else:
            virtual(file, at, "data/demo_1/obs/other")
        if made_of == "each other":
            virtual(file, "data/demo_1/obs/other", at)
        elif made_of == "another file":
            virtual(file, "data/demo_1/obs/other", "x", "absent.hdf5")
        elif made_of == "outside storage":
            file.create_dataset(
                "data/demo_1/obs/other", (12, 3), "f8", external=[("absent.raw", 0, h5py.h5f.UNLIMITED)]
            )
    with pytest.raises(SourceError, match="what a file names lies in another file") as caught:
        source(path).scan()
    assert caught.value.places["dataset"] == "obs/ee_pos"
    assert [each.demo for each in source(path, skip_bad=True).scan().skipped] == ["demo_1"]


@pytest.mark.parametrize("name", ["data", "mask"])
@pytest.mark.parametrize(
    "link", [h5py.SoftLink("/nowhere"), h5py.ExternalLink("nowhere.hdf5", "/data")], ids=["soft", "external"]
)
def test_a_link_to_nowhere_when_it_is_a_group_of_the_layout_then_it_is_named(path: Path, name: str, link: Any) -> None:
    with h5py.File(path, "r+") as file:
        file.pop(name, None)
        file[name] = link
    with pytest.raises(
        SourceError, match="no demonstrations in the file" if name == "data" else "/mask is not a group"
    ):
        source(path).scan()


def test_an_instruction_when_it_is_empty_then_it_is_broken(path: Path) -> None:
    tiny_libero.set_attribute(path, "data", "problem_info", '{"language_instruction": "\\" "}')
    with pytest.raises(SourceError, match="problem_info is broken") as caught:
        source(path).scan()
    assert "take the instruction from the file name" in caught.value.hint


@pytest.mark.parametrize("name", ["language", "macros_image_convention", "problem_info", "num_demos", "when"])
def test_an_attribute_of_a_type_that_nobody_reads_when_it_is_read_then_the_file_is_named(path: Path, name: str) -> None:
    with h5py.File(path, "r+") as file:
        data = file["data"]
        data.attrs.pop(name, None)
        h5py.h5a.create(data.id, name.encode(), h5py.h5t.UNIX_D32LE, h5py.h5s.create(h5py.h5s.SCALAR))
    look = partial(source(path).attributes, None) if name == "when" else source(path).scan
    with pytest.raises(SourceError) as caught:
        look()
    assert caught.value.places["file"] == str(path)


@pytest.mark.parametrize(("convention", "orientation"), [("opengl", "bottom_up"), (b"opencv", "top_down")])
def test_the_orientation_is_the_one_the_file_names(path: Path, convention: object, orientation: str) -> None:
    tiny_libero.set_attribute(path, "data", "macros_image_convention", convention)
    assert source(path).scan().orientation == orientation


@pytest.mark.parametrize(
    ("stored", "instruction"),
    [
        ('{"language_instruction": "a b"}', "a b"),
        ('{"language_instruction": ["a ", "b"]}', "a b"),
        ('{"language_instruction": "\\"a b\\" "}', "a b"),
    ],
)
def test_an_instruction_is_joined_and_stripped_of_quotes(path: Path, stored: str, instruction: str) -> None:
    tiny_libero.set_attribute(path, "data", "problem_info", stored)
    assert source(path).scan().instruction == instruction


def test_demos_are_in_the_order_of_their_numbers(tiny_source: Path) -> None:
    path = next((tiny_source / "libero_10").glob("*.hdf5"))
    assert [each.number for each in source(path).scan().episodes] == [0, 2, 10]


LAYOUTS = {
    "contiguous": {},
    "chunked": {"chunks": (5, 2)},
    "compressed": {"chunks": (4, 7), "compression": "gzip"},
    "shuffled and checked": {"chunks": (33, 1), "shuffle": True, "fletcher32": True},
    "with room to grow": {"chunks": (8, 7), "maxshape": (None, 7)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["<f8", ">f8", "<f4", ">f4"])
def test_any_layout_of_a_dataset_reads_as_h5py_reads_it(path: Path, layout: str, dtype: str) -> None:
    rows = tiny_libero.read(path, "data/demo_0/actions").astype(dtype)
    tiny_libero.replace(path, "data/demo_0/actions", rows, **LAYOUTS[layout])
    for start, stop in ((0, 33), (0, 1), (32, 33), (7, 20)):
        assert np.array_equal(source(path).read(0, "actions", start, stop), rows[start:stop])
    close_files()


@given(spans=st.lists(st.tuples(st.integers(0, 32), st.integers(1, 33)), min_size=1, max_size=8))
def test_any_span_of_any_field_reads_as_h5py_reads_it(tiny_source: Path, spans: list[tuple[int, int]]) -> None:
    path = tiny_libero.victim(tiny_source)
    with h5py.File(path) as file:
        for start, count in spans:
            for name in ("actions", "obs/agentview_rgb", "dones", "states"):
                stop = min(33, start + count)
                assert np.array_equal(
                    source(path).read(0, field_name(name), start, stop), file[f"data/demo_0/{name}"][start:stop]
                )


def test_a_user_block_before_the_file_and_numbers_numpy_has_not_are_read_right(tmp_path: Path) -> None:
    path = tmp_path / "suite" / "x_demo.hdf5"
    path.parent.mkdir()
    odd = h5py.h5t.NATIVE_INT32.copy()
    odd.set_precision(24)
    with h5py.File(path, "w", userblock_size=1024) as file:
        demo = file.create_group("data/demo_0")
        demo["actions"] = np.arange(21.0).reshape(3, 7)
        demo["flags"] = np.array([True, False, True])
        demo["obs/eye_rgb"] = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
        space = h5py.h5s.create_simple((3,))
        dataset = h5py.Dataset(h5py.h5d.create(demo.id, b"odd", odd, space))
        dataset[...] = np.array([1, -2, 3])
    reading = source(path, orientation="top_down", observation="before")
    assert reading.scan().episodes[0].fields.keys() == {"actions", "flags", "eye_rgb", "odd"}
    assert np.array_equal(reading.read(0, "actions", 1, 3), np.arange(21.0).reshape(3, 7)[1:])
    assert reading.read(0, "flags", 0, 3).tolist() == [True, False, True]
    assert reading.read(0, "odd", 0, 3).tolist() == [1, -2, 3]


def test_a_dataset_under_two_names_is_two_fields(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        for number in FILE.lengths:
            file[f"data/demo_{number}/obs/again"] = file[f"data/demo_{number}/obs/ee_pos"]
            file[f"data/demo_{number}/obs/linked"] = h5py.SoftLink(f"/data/demo_{number}/obs/ee_pos")
    fields = source(path).scan().episodes[1].fields
    assert {"ee_pos", "again", "linked"} <= fields.keys()
    rows = tiny_libero.read(path, "data/demo_1/obs/ee_pos")
    for name in ("ee_pos", "again", "linked"):
        assert np.array_equal(source(path).read(1, name, 0, 12), rows)


def test_every_attribute_of_every_object_is_kept_by_path(path: Path) -> None:
    tiny_libero.set_attribute(path, "/", "version", "1.4")
    tiny_libero.set_attribute(path, "data/demo_0/obs", "cameras", np.array([1, 2], ">i4"))
    of_file = source(path).attributes(None)
    assert of_file.keys() == {"/", "/data"}
    assert decode_value(of_file["/"]["version"]) == "1.4"
    of_demo = source(path).attributes(0)
    with h5py.File(path) as file:
        paths = {"/data/demo_0"}
        file["data/demo_0"].visit(lambda name: paths.add(f"/data/demo_0/{name}"))
        assert of_demo.keys() == paths
        assert of_file["/data"].keys() == file["data"].attrs.keys()
        for name, value in file["data/demo_0"].attrs.items():
            assert np.array_equal(decode_value(of_demo["/data/demo_0"][name]), value)
    assert decode_value(of_demo["/data/demo_0/obs"]["cameras"]).tolist() == [1, 2]
    assert of_demo["/data/demo_0/actions"] == {}


def test_what_is_left_out_is_said_with_its_reason(path: Path) -> None:
    tiny_libero.replace(path, "data/demo_1/obs/ee_pos", np.zeros((3, 3)))
    info = source(path, skip_bad=True).scan()
    assert [each.number for each in info.episodes] == [0]
    (skipped,) = info.skipped
    assert skipped.to_json() == {
        "demo": "demo_1",
        "file": FILE.name,
        "reason": "datasets of one demonstration have different lengths (dataset obs/ee_pos)",
        "suite": FILE.suite,
    }


def test_the_regenerated_demos_are_read_by_their_own_rules(demos: Path) -> None:
    path = next((demos / "variants/no_noops_256").glob("*/*.hdf5"))
    with pytest.raises(SourceError, match="orientation"):
        source(path).scan()
    info = source(path, orientation="bottom_up").scan()
    assert [(each.number, each.steps) for each in info.episodes] == [(3, 118), (10, 121)]
    assert (info.observation, info.instruction) == ("before", None)
    assert info.episodes[0].fields["agentview_rgb"].shape == (256, 256, 3)


def test_the_depth_demos_have_cameras_of_floats(demos: Path) -> None:
    path = next((demos / "variants/depth").glob("*/*.hdf5"))
    fields = source(path).scan().episodes[0].fields
    depth = {
        name: (spec.dtype, spec.shape) for name, spec in fields.items() if spec.is_camera and spec.dtype != "uint8"
    }
    assert set(depth.values()) == {("float32", (128, 128, 1))}
    assert len(depth) == 2


def test_nothing_stays_open_once_the_files_are_let_go(path: Path) -> None:
    source(path).read(0, "actions", 0, 1)
    close_files()
    with h5py.File(path, "r+") as file:
        file.attrs["written"] = 1


def test_a_convention_that_contradicts_the_file_is_taken_and_noted(tiny_source: Path) -> None:
    path = next(iter(sorted(tiny_source.rglob("*.hdf5"))))
    told = source(path, orientation="rot180").scan()
    assert told.orientation == "rot180"
    assert any("--orientation rot180 was given" in text for text in told.warnings)
    assert not any("--orientation" in text for text in source(path, orientation="bottom_up").scan().warnings)
