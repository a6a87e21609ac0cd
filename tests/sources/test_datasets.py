"""Datasets that are no row a step are kept as attributes, names that clash are made distinct, and the caller has the last word."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import odd_files
import pytest
import wild_sources
from odd_files import assert_equals_h5py, each_demo, odd_file
from store_tools import in_words

import vla_store
from vla_store.audit import verify_store
from vla_store.builder import build_store
from vla_store.cli import main
from vla_store.errors import OptionError, SourceError
from vla_store.format.attributes import decode_value
from vla_store.manage.append import append_store
from vla_store.manage.recode import recode_store
from vla_store.manage.repair import repair_store
from vla_store.sources.datasets import Described, aside, field_name, field_names
from vla_store.sources.find import find_sources
from vla_store.sources.overrides import Choice


def at(folder: Path) -> Path:
    return folder / odd_files.FILE.suite / odd_files.FILE.name


def built(folder: Path, change: Callable[[h5py.File], Any], **options: Any) -> vla_store.Store:
    build_store(odd_file(folder, change), folder / "s.vla", **options)
    return vla_store.open_store(folder / "s.vla")


def on_each(path: str, value: Callable[[h5py.Group], Any]) -> Callable[[h5py.File], None]:
    """Puts a dataset into every demonstration."""

    def change(file: h5py.File) -> None:
        for demo in each_demo(file):
            demo.create_dataset(path, data=value(demo))

    return change


def steps(demo: h5py.Group) -> int:
    return len(demo["actions"])


NOT_STEPS: dict[str, Callable[[h5py.Group], Any]] = {
    "numbers of the demonstrations it was made of": lambda demo: np.arange(4),
    "one row": lambda demo: np.full((1, 7), steps(demo), np.float32),
    "a number": lambda demo: 3.5,
    "a flag": lambda demo: np.bool_(True),
    "nothing": lambda demo: h5py.Empty("f8"),
    "no width": lambda demo: np.zeros((steps(demo), 0)),
    "no rows": lambda demo: np.zeros((0, 3), np.int16),
    "a text": lambda demo: "grüße",
    "a text of bytes": lambda demo: np.bytes_(b"\xff\x00\xfe"),
    "texts": lambda demo: ["a", "", "b"],
    "a text for each step": lambda demo: np.array([b"pick"] * steps(demo)),
    "a table of one length": lambda demo: np.arange(40.0).reshape(20, 2).astype(">f8"),
    "tables of several lengths": lambda demo: np.arange(steps(demo) // 3),
    "a matrix": lambda demo: np.eye(3, dtype=np.float16),
}


def stored(store: vla_store.Store, episode: int, path: str) -> Any:
    above, _, name = f"/data/demo_{store.episodes[episode].number}/{path}".rpartition("/")
    return store.attributes(episode)[above][name]


@pytest.mark.parametrize("place", ["extra", "initial_state/robot/joints"])
def test_what_has_no_row_a_step_is_an_attribute_bit_for_bit(tmp_path: Path, place: str) -> None:
    paths = {f"{place} {what}": value for what, value in NOT_STEPS.items()}

    def change(file: h5py.File) -> None:
        for path, value in paths.items():
            on_each(path, value)(file)

    store = built(tmp_path, change)
    assert sorted(each["warning"] for each in store.warnings) == sorted(
        f"dataset {path} has no row a step, and is kept as an attribute of its episode (demo_0 and 2 more)"
        for path in paths
    )
    assert_equals_h5py(tmp_path / "s.vla", at(tmp_path), without=tuple(paths))
    with h5py.File(at(tmp_path)) as file:
        for (number, demo), path in itertools.product(enumerate(each_demo(file)), paths):
            assert_same_value(demo[path], stored(store, number, path), path)


def assert_same_value(dataset: h5py.Dataset, found: Any, path: str) -> None:
    expected = dataset[()]
    if isinstance(expected, h5py.Empty):
        assert found is None, path
    elif isinstance(expected, bytes):
        assert (found.encode() if isinstance(found, str) else found) == expected, path
    elif dataset.dtype.kind in "OS":
        assert [each.encode() for each in found.tolist()] == expected.tolist(), path
    else:
        expected = np.asarray(expected)
        assert (found.dtype.name, found.shape) == (expected.dtype.name, expected.shape), path
        assert found.tobytes() == expected.astype(expected.dtype.newbyteorder("<")).tobytes(), path


@pytest.mark.parametrize("path", ["extra", "obs/ee_pos"])
def test_a_change_of_what_is_kept_is_found_against_the_source(tmp_path: Path, path: str) -> None:
    source = tmp_path / "source"

    def change(file: h5py.File) -> None:
        for demo in each_demo(file):
            demo.pop(path, None)
            demo[path] = np.arange(4)

    odd_file(source, change)
    build_store(source, tmp_path / "s.vla")
    with h5py.File(at(source), "r+") as file:
        file[f"data/demo_1/{path}"][2] = 9
    problems = verify_store(tmp_path / "s.vla", against=source).problems
    assert ["demo_1: attributes differ" in each.what for each in problems] == [True]


def test_as_many_rows_as_steps_by_chance_make_no_field(tmp_path: Path) -> None:
    store = built(tmp_path, on_each("extra", lambda demo: np.arange(9)))  # demo 4 has nine steps
    assert "extra" not in store.fields
    assert [stored(store, episode, "extra").tolist() for episode in range(3)] == [list(range(9))] * 3
    assert_equals_h5py(tmp_path / "s.vla", at(tmp_path), without=("extra",))


@pytest.mark.parametrize(
    ("path", "rows"),
    [
        ("obs/more", lambda count: np.zeros((count + 1, 3))),
        ("obs/less", lambda count: np.zeros((count - 1, 3))),
        ("sound", lambda count: np.zeros(count * 100, np.int16)),
        ("obs/camera", lambda count: np.zeros((1, 16, 24, 3), np.uint8)),
        ("next_obs/camera", lambda count: np.zeros((count - 1, 16, 24, 3), np.uint8)),
    ],
)
def test_what_goes_along_with_the_steps_and_has_not_as_many_rows_is_refused(
    tmp_path: Path, path: str, rows: Callable[[int], Any]
) -> None:
    file = odd_file(tmp_path, on_each(path, lambda demo: rows(steps(demo))))
    with pytest.raises(SourceError, match="different lengths") as raised:
        build_store(file, tmp_path / "s.vla")
    assert f"--exclude {path}" in raised.value.hint
    build_store(file, tmp_path / "s.vla", exclude=[path])
    assert_equals_h5py(tmp_path / "s.vla", at(tmp_path), without=(path,))


def test_of_one_demonstration_nothing_that_may_be_steps_is_an_attribute(tmp_path: Path) -> None:
    def one(file: h5py.File) -> None:
        for name in ("demo_1", "demo_4"):
            del file["data"][name]
        file["data/demo_0/few"] = np.arange(11)
        file["data/demo_0/many"] = np.arange(12)

    path = odd_file(tmp_path, one)
    with pytest.raises(SourceError, match="different lengths") as raised:
        build_store(path, tmp_path / "s.vla")
    assert raised.value.places["dataset"] == "many"
    build_store(path, tmp_path / "s.vla", exclude="many")
    assert stored(vla_store.open_store(tmp_path / "s.vla"), 0, "few").tolist() == list(range(11))


def test_a_field_of_most_demonstrations_is_no_attribute_where_rows_are_missing(tmp_path: Path) -> None:
    def shorten(file: h5py.File) -> None:
        rows = file["data/demo_1/obs/ee_pos"][:-2]
        del file["data/demo_1/obs/ee_pos"]
        file["data/demo_1/obs/ee_pos"] = rows

    path = odd_file(tmp_path, shorten)
    with pytest.raises(SourceError, match="different lengths"):
        build_store(path, tmp_path / "s.vla")
    report = build_store(path, tmp_path / "s.vla", skip_bad=True)
    assert [each.demo for each in report.skipped] == ["demo_1"]
    assert "ee_pos" in vla_store.open_store(tmp_path / "s.vla").fields


@pytest.mark.parametrize(
    "value",
    [
        lambda demo: np.zeros(steps(demo), [("a", "f8")]),
        lambda demo: np.zeros(3, np.complex128),
        lambda demo: np.zeros(2, np.longdouble),
    ],
    ids=["compound", "complex", "long double"],
)
def test_what_no_attribute_can_hold_is_refused_with_a_way_out(
    tmp_path: Path, value: Callable[[h5py.Group], Any]
) -> None:
    path = odd_file(tmp_path, on_each("extra", value))
    with pytest.raises(SourceError, match="wrong dtype") as raised:
        build_store(path, tmp_path / "s.vla")
    assert "--exclude extra" in raised.value.hint
    build_store(path, tmp_path / "s.vla", exclude=["extra"])
    assert_equals_h5py(tmp_path / "s.vla", at(tmp_path), without=("extra",))


def test_references_and_lists_of_several_lengths_are_refused_too(tmp_path: Path) -> None:
    def references(file: h5py.File) -> None:
        for demo in each_demo(file):
            demo.create_dataset("extra", data=demo.ref, dtype=h5py.ref_dtype)
            made = demo.create_dataset("lists", (2,), h5py.vlen_dtype(np.float64))
            made[0], made[1] = [1.0], [1.0, 2.0]

    path = odd_file(tmp_path, references)
    for name, left_out in (("extra", ["lists"]), ("lists", ["extra"])):
        with pytest.raises(SourceError, match="wrong dtype") as raised:
            build_store(path, tmp_path / "s.vla", exclude=left_out)
        assert f"--exclude {name}" in raised.value.hint


def test_attributes_stay_small(tmp_path: Path) -> None:
    path = odd_file(tmp_path, on_each("volume", lambda demo: np.zeros((1, 5 << 20))))
    with pytest.raises(SourceError, match="too large to be kept as attributes") as raised:
        build_store(path, tmp_path / "s.vla")
    assert "--exclude volume" in raised.value.hint


def test_a_dataset_of_an_attributes_name_is_refused_with_the_option(tmp_path: Path) -> None:
    path = odd_file(tmp_path, on_each("num_samples", lambda demo: 3))
    with pytest.raises(SourceError, match="the name of one") as raised:
        build_store(path, tmp_path / "s.vla")
    assert "--exclude num_samples" in raised.value.hint
    build_store(path, tmp_path / "s.vla", exclude=["num_samples"])


CLASHES: dict[str, dict[str, str]] = {
    "a path with obs and one without": {"obs/actions": "obs__actions"},
    "states of two kinds": {"obs/states": "obs__states", "next_obs/states": "next_obs__states"},
    "a slash and two underscores": {"obs/a/b": "a__b", "obs/a__b": "obs__a__b"},
    "case": {"obs/EE": "EE", "obs/ee": "obs__ee"},
    "case of a known name": {"obs/Actions": "obs__Actions"},
    "actions in capitals": {"ACTIONS": "ACTIONS-1ba13aa6"},
    "letters that names have not": {"obs/robot0:eef pos": "robot0_eef_pos", "obs/grüße": "gr__e"},
    "two of them": {"obs/a:b": "a_b", "obs/a;b": "obs__a_b"},
    "a name of the format": {"obs/attributes": "obs__attributes"},
    "underscores first": {"__private": "private"},
    "a long name": {f"obs/{'x' * 80}": "x" * 64},
}


@pytest.mark.parametrize("name", CLASHES)
def test_names_that_clash_are_made_distinct_by_their_path_and_said(tmp_path: Path, name: str) -> None:
    def change(file: h5py.File) -> None:
        for width, path in enumerate(CLASHES[name], 2):
            for demo in each_demo(file):
                demo[path] = np.full((steps(demo), width), width, np.float32)

    store = built(tmp_path, change)
    assert set(CLASHES[name].values()) <= set(store.fields)
    assert_equals_h5py(tmp_path / "s.vla", at(tmp_path), fields=CLASHES[name])
    said = [each["warning"] for each in store.warnings]
    unusual = {path: field for path, field in CLASHES[name].items() if field != field_name(path)}
    assert len(said) == len(unusual)
    for path, field in unusual.items():
        assert any(f"dataset {path} is the field {field!r}" in each and "demo_0 and 2 more" in each for each in said)


def test_names_are_distinct_whatever_the_paths_are() -> None:
    paths = ["obs/a:b", "obs/a;b", "obs/a,b", "a:b", "obs__a_b", "obs/a_b", "A:B", f"obs/{'x' * 90}", f"obs/{'x' * 91}"]
    names = field_names(dict.fromkeys(paths, False), Choice())
    assert len({name.lower() for name in names.values()}) == len(paths)
    assert names == field_names(dict.fromkeys(reversed(paths), False), Choice())


def test_what_is_excluded_is_not_there(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        on_each("initial_state/robot/joints", lambda demo: np.zeros((1, 7)))(file)
        on_each("obs/ee_depth", lambda demo: np.zeros((steps(demo), 2)))(file)
        on_each("obs/eye_depth", lambda demo: np.zeros((steps(demo), 2)))(file)
        file["meta/version"] = 3
        file["data/notes"] = "none"
        file["data/demo_0/initial_state"].attrs["a"] = 1

    path = odd_file(tmp_path, change)
    with pytest.raises(SourceError, match="more than demonstrations") as raised:
        build_store(path, tmp_path / "s.vla")
    assert "--exclude /data/notes" in raised.value.hint
    left_out = ["initial_state", "obs/*_depth", "/meta", "/data/notes"]
    build_store(path, tmp_path / "s.vla", exclude=left_out)
    store = vla_store.open_store(tmp_path / "s.vla")
    gone = ("initial_state/robot/joints", "obs/ee_depth", "obs/eye_depth")
    assert_equals_h5py(tmp_path / "s.vla", path, without=gone)
    assert not any(field_name(each) in store.fields for each in gone)
    assert not any("initial_state" in each for each in store.attributes(0))
    assert not store.warnings
    assert store.parts[0][1].plan["options"]["exclude"] == sorted(left_out)


def test_a_renamed_dataset_has_its_name_everywhere(tmp_path: Path) -> None:
    store = built(tmp_path, lambda file: None, rename={"obs/ee_pos": "position", "obs/agentview_rgb": "front"})
    assert {"position", "front"} <= set(store.fields)
    assert not {"ee_pos", "agentview_rgb"} & set(store.fields)
    assert set(store.cameras) == {"eye_in_hand_rgb", "front"}
    assert_equals_h5py(
        tmp_path / "s.vla", at(tmp_path), fields={"obs/ee_pos": "position", "obs/agentview_rgb": "front"}
    )


def test_two_datasets_may_change_their_names(tmp_path: Path) -> None:
    names = {"obs/ee_pos": "ee_ori", "obs/ee_ori": "ee_pos"}
    built(tmp_path, lambda file: None, rename=names)
    assert_equals_h5py(tmp_path / "s.vla", at(tmp_path), fields=names)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"exclude": ["obs/agentview_depth"]}, ("--exclude names what no demonstration has", "obs/agentview_rgb")),
        ({"rename": {"ee_pos": "position"}}, ("--rename names what no demonstration has", "obs/ee_pos")),
        ({"exclude": ["/meta"]}, ("--exclude names what no demonstration has",)),
        ({"exclude": ["actions"]}, ("actions cannot be left out",)),
        ({"exclude": ["act*"]}, ("actions cannot be left out",)),
        ({"exclude": [""]}, ("exclude is a path",)),
        ({"rename": {"obs/ee_pos": "a b"}}, ("cannot be a field's",)),
        ({"rename": {"obs/ee_pos": "attributes"}}, ("cannot be a field's",)),
        ({"rename": {"actions": "act"}}, ("actions keep their name",)),
        ({"rename": {"obs/ee_pos": "Actions"}}, ("actions keep their name",)),
        ({"rename": {"obs/ee_pos": "p", "obs/ee_ori": "P"}}, ("two datasets cannot have one name",)),
    ],
)
def test_what_cannot_be_chosen_is_refused(tmp_path: Path, options: dict[str, Any], says: tuple[str, ...]) -> None:
    with pytest.raises(OptionError) as raised:
        build_store(odd_file(tmp_path), tmp_path / "s.vla", **options)
    assert all(each in str(raised.value) for each in says)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"exclude": ["obs"]}, ("without a camera", "every camera is left out by --exclude")),
        ({"exclude": ["obs/*_rgb"]}, ("without a camera", "every camera is left out by --exclude")),
        ({"exclude": ["/data/demo_1/actions"]}, ("leaves out the actions",)),
        ({"exclude": ["/data"]}, ("none that --exclude leaves",)),
        ({"rename": {"obs/ee_pos": "ee_ori"}}, ("a name that another dataset has", "rename obs/ee_ori as well")),
        ({"rename": {"obs/ee_pos": "Rewards"}}, ("a name that another dataset has", "rename rewards as well")),
    ],
)
def test_what_leaves_no_demonstration_is_refused(
    tmp_path: Path, options: dict[str, Any], says: tuple[str, ...]
) -> None:
    with pytest.raises(SourceError) as raised:
        build_store(odd_file(tmp_path), tmp_path / "s.vla", **options)
    assert all(each in str(raised.value) for each in says)


def _odd(file: h5py.File) -> None:
    on_each("obs/extra", lambda demo: np.zeros((steps(demo) + 1, 3)))(file)
    on_each("src_demo_inds", lambda demo: np.arange(4))(file)
    on_each("obs/actions", lambda demo: np.zeros((steps(demo), 3)))(file)


CHOICE: dict[str, Any] = {"exclude": ["obs/extra"], "rename": {"obs/ee_pos": "position", "obs/actions": "seen"}}


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_every_executor_makes_the_same_part(tmp_path: Path, executor: str) -> None:
    path = odd_file(tmp_path, _odd)
    build_store(path, tmp_path / "s.vla", executor=executor, workers=2, **CHOICE)
    assert_equals_h5py(
        tmp_path / "s.vla",
        path,
        fields={"obs/ee_pos": "position", "obs/actions": "seen"},
        without=("obs/extra", "src_demo_inds"),
    )


def test_what_was_chosen_is_recorded_and_used_again(tmp_path: Path) -> None:
    source = tmp_path / "source"
    path = odd_file(source, _odd)
    store = tmp_path / "s.vla"
    build_store(source, store, **CHOICE)
    assert verify_store(store, against=source).problems == []

    recoded = recode_store(store, tmp_path / "r.vla", preset="fast")
    assert recoded.part_id == vla_store.open_store(store).parts[0][0].path.rpartition("/")[2]

    shard = next(store.glob("parts/*/steps/position/c/0/0"))
    before = shard.read_bytes()
    shard.unlink()
    repair_store(store, [source])
    assert shard.read_bytes() == before

    other = tmp_path / "other" / "libero_more" / "push_the_plate_demo.hdf5"
    other.parent.mkdir(parents=True)
    other.write_bytes(path.read_bytes())
    append_store(other, store)
    opened = vla_store.open_store(store)
    assert len(opened.episodes) == 6
    assert {"position", "seen"} <= set(opened.fields)
    assert verify_store(store, against=[source, other]).problems == []


def test_an_append_may_name_nothing_new_of_what_the_store_leaves_out(tmp_path: Path) -> None:
    source = odd_file(tmp_path / "source", on_each("obs/extra", lambda demo: np.zeros((steps(demo), 3))))
    build_store(source, tmp_path / "s.vla", exclude=["obs/extra"])
    plain = tmp_path / "plain" / "libero_more" / "push_the_plate_demo.hdf5"
    plain.parent.mkdir(parents=True)
    plain.write_bytes(odd_file(tmp_path / "p").read_bytes())
    with pytest.raises(OptionError, match="names what no demonstration has"):
        append_store(plain, tmp_path / "s.vla", exclude=["obs/other"])
    append_store(plain, tmp_path / "s.vla")
    assert len(vla_store.open_store(tmp_path / "s.vla").episodes) == 6


def test_an_ordinary_part_keeps_its_name(tmp_path: Path) -> None:
    (part,) = built(tmp_path, lambda file: None).parts
    assert sorted(part[1].plan["options"]) == ["observation", "orientation", "preset"]


def test_the_command_line_says_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, store = odd_file(tmp_path, _odd), tmp_path / "s.vla"
    options = ["--exclude", "obs/extra", "--rename", "obs/ee_pos=position", "--rename", "obs/actions=seen"]
    assert main(["build", *options, str(path), str(store)]) == 0
    assert "warning: pick_up_the_odd_bowl_demo.hdf5: dataset src_demo_inds has no row a step" in " ".join(
        capsys.readouterr().err.split()
    )
    assert {"position", "seen"} <= set(vla_store.open_store(store).fields)
    assert main(["info", str(store)]) == 0
    assert "left out of all demonstrations (--exclude): obs/extra\n" in capsys.readouterr().out
    assert main(["report", str(store), "-o", str(tmp_path / "s.html")]) == 0
    assert "by <code>--exclude</code>: <code>obs/extra</code>" in (tmp_path / "s.html").read_text()
    assert main(["build", "--rename", "position", str(path), str(tmp_path / "t.vla")]) == 2
    assert "--rename is PATH=NAME" in in_words(capsys.readouterr().err)
    assert main(["build", "--exclude", "obs/extras", str(path), str(tmp_path / "t.vla")]) != 0


def test_an_episode_a_file_is_treated_alike(demos: Path, tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="JPEG pictures need Pillow")
    paths = wild_sources.cosmos_episodes(demos, tmp_path)
    for path in paths:
        with h5py.File(path, "r+") as file:
            file["seed"], file["goal"], file["depth"] = 3, np.zeros((2, 3)), np.zeros(wild_sources.STEPS + 1)
            file["robot:state"] = np.zeros((wild_sources.STEPS, 2))
    given = {"orientation": "top_down", "observation": "before"}
    with pytest.raises(SourceError, match="different lengths"):
        build_store(paths, tmp_path / "s.vla", **given)
    build_store(paths, tmp_path / "s.vla", exclude=["depth"], **given)
    store = vla_store.open_store(tmp_path / "s.vla")
    assert set(store.attributes(0)["/"]) == {"seed", "goal"}
    assert "robot_state" in store.fields
    assert verify_store(tmp_path / "s.vla", against=paths).problems == []
    (source, *_) = find_sources(paths[:1], choice=Choice.of(["depth"], None), **given)
    assert decode_value(source.attributes(0)["/"]["seed"]) == 3


def _numbers(*shape: int) -> Described:
    return Described(shape, np.dtype("f8"), 8 * int(np.prod(shape)), False, False)


def test_what_is_no_field_is_judged_by_all_demonstrations_of_a_file() -> None:
    def demos(*pairs: tuple[int, int]) -> list[dict[str, Described]]:
        return [{"actions": _numbers(count, 7), "x": _numbers(rows, 2)} for count, rows in pairs]

    assert aside(demos((9, 9), (5, 5), (7, 6))) == {}  # a field; the third is bad
    assert aside(demos((9, 9), (5, 4))) == {}  # as many as not: a field
    assert aside(demos((9, 4), (5, 4), (4, 4))) == {"x": True}  # one length, and one of them by chance
    assert aside(demos((9, 1), (5, 2))) == {"x": True}  # few
    assert aside(demos((9, 10), (5, 6))) == {"x": False}  # goes along
    assert aside(demos((9, 8), (9, 8))) == {"x": False}  # may go along


def test_a_slip_of_the_pen_is_said_before_what_it_was_to_leave_out(tmp_path: Path) -> None:
    path = odd_file(tmp_path, on_each("obs/depth", lambda demo: np.zeros((steps(demo) + 1, 3))))
    with pytest.raises(OptionError, match="--exclude names what no demonstration has") as raised:
        build_store(path, tmp_path / "s.vla", exclude=["obs/dept"])
    assert "obs/depth" in raised.value.places["exists"]


def test_filter_lists_can_be_left_out(tmp_path: Path) -> None:
    def masks(file: h5py.File) -> None:
        file["mask/train"], file["mask/odd"] = np.array([b"demo_0"]), np.arange(3)

    path = odd_file(tmp_path, masks)
    with pytest.raises(SourceError, match="not a list of names"):
        build_store(path, tmp_path / "s.vla")
    build_store(path, tmp_path / "s.vla", exclude=["/mask/odd"])
    assert set(vla_store.open_store(tmp_path / "s.vla").source_attributes(0)["/mask"]) == {"train"}
    build_store(path, tmp_path / "t.vla", exclude=["/mask"])
    assert "/mask" not in vla_store.open_store(tmp_path / "t.vla").source_attributes(0)


def test_a_whole_demonstration_can_be_left_out(tmp_path: Path) -> None:
    source = tmp_path / "source"
    odd_file(source)
    build_store(source, tmp_path / "s.vla", exclude=["/data/demo_1"])
    assert [each.number for each in vla_store.open_store(tmp_path / "s.vla").episodes] == [0, 4]
    assert verify_store(tmp_path / "s.vla", against=source).problems == []


def test_a_path_below_a_demonstration_leaves_nothing_else_out(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        on_each("mask", lambda demo: np.zeros((steps(demo), 2)))(file)
        file["mask/train"] = np.array([b"demo_0"])

    store = built(tmp_path, change, exclude=["mask"])
    assert "mask" not in store.fields
    assert set(store.source_attributes(0)["/mask"]) == {"train"}


def test_a_store_recoded_from_unlike_parts_is_what_its_sources_are(tmp_path: Path) -> None:
    """What was left out of one part is not what was left out of another; each source keeps its own, twice over."""

    def more(file: h5py.File) -> None:
        on_each("more", lambda demo: np.arange(steps(demo)))(file)
        on_each("extra", lambda demo: np.arange(4))(file)

    folder = tmp_path / "source"
    files: list[Path] = []
    for number, change in enumerate((on_each("extra", lambda demo: np.arange(4)), more, more)):
        path = odd_file(folder, change)
        files.append(path.rename(path.with_name(f"task_{number}_demo.hdf5")))
    build_store(files[0], tmp_path / "s.vla")
    append_store(files[1], tmp_path / "s.vla", exclude=["more"])
    append_store(files[2], tmp_path / "s.vla", exclude=["more", "extra"], rename={"obs/ee_pos": "ee_pos"})
    recode_store(tmp_path / "s.vla", tmp_path / "once.vla", preset="small")
    recode_store(tmp_path / "once.vla", tmp_path / "twice.vla", preset="fast")
    for name in ("s.vla", "once.vla", "twice.vla"):
        for number, without in enumerate((("extra",), ("extra", "more"), ("extra", "more"))):
            assert_equals_h5py(tmp_path / name, files[number], without=without)
    (victim,) = (tmp_path / "twice.vla").glob("parts/*/steps/actions/c/0/0")
    whole = victim.read_bytes()
    victim.unlink()
    repair_store(tmp_path / "twice.vla", folder)
    assert victim.read_bytes() == whole


@pytest.mark.parametrize("path", ["step", "episode", "obs/task"])
def test_a_dataset_called_as_what_every_sample_has_is_read_under_another_name(tmp_path: Path, path: str) -> None:
    phases = on_each(path, lambda demo: np.arange(steps(demo)) // 4)
    store = built(tmp_path / "a", phases)
    with pytest.raises(OptionError, match="the same name") as raised:
        vla_store.Samples(store, alignment="as_stored", images="as_stored")
    assert "--rename PATH=NAME" in raised.value.hint
    built(tmp_path / "b", phases, rename={path: "phase"})
    assert_equals_h5py(tmp_path / "b" / "s.vla", at(tmp_path / "b"), fields={path: "phase"})


@pytest.mark.parametrize("options", [{"skip_bad": True}, {"exclude": ["/data/demo_1"]}])
def test_counts_of_a_file_are_right_though_a_demonstration_is_left_out(tmp_path: Path, options: dict[str, Any]) -> None:
    def change(file: h5py.File) -> None:
        file["data/demo_1/actions"][3, 0] = np.nan
        assert (file["data"].attrs["num_demos"], file["data"].attrs["total"]) == (3, 49)

    store = built(tmp_path, change, **options)
    assert [each.number for each in store.episodes] == [0, 4]
    assert not store.warnings


def test_a_new_name_for_what_is_no_field_is_said_to_name_nothing(tmp_path: Path) -> None:
    store = built(tmp_path, on_each("extra", lambda demo: np.arange(4)), rename={"extra": "more"})
    assert ["--rename extra names no field" in each["warning"] for each in store.warnings] == [False, True]
    assert stored(store, 0, "extra").tolist() == [0, 1, 2, 3]
    assert_equals_h5py(tmp_path / "s.vla", at(tmp_path), without=("extra",))


def test_what_an_older_root_left_out_is_restored_beside_a_file_that_came_later(tmp_path: Path) -> None:
    def change(file: h5py.File) -> None:
        file["data/demo_1/actions"][3, 0] = np.nan

    first = odd_file(tmp_path / "source", change)
    store = tmp_path / "s.vla"
    build_store(first, store, skip_bad=True)
    documents = {path: path.read_bytes() for path in store.glob("meta/*.json")}
    second = Path(shutil.copy(first, first.with_name("second_demo.hdf5")))
    append_store(second, store, skip_bad=True)
    for path in documents:
        path.unlink()
    repair_store(store, first.parent)
    assert {path: path.read_bytes() for path in documents} == documents


def test_a_broken_file_is_left_out_though_datasets_are_excluded(tmp_path: Path) -> None:
    path = odd_file(tmp_path / "odd", lambda file: None)
    path.with_name("broken_demo.hdf5").write_bytes(b"no HDF5")
    report = build_store(path.parent, tmp_path / "s.vla", skip_bad=True, exclude=["obs/ee_pos"])
    assert [each.file for each in report.skipped] == ["broken_demo.hdf5"]
