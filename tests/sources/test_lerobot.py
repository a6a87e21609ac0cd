"""LeRobot's data sets: what is read is what pyarrow and PyAV give, what disagrees is refused by name, and one command builds each."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import lerobot_sets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lerobot_sets import FPS, IMAGE, TASKS, VIDEO, LeRobotSet, Made, edit_info, edit_table, pa, truth_of, write_lines
from store_tools import in_words

import vla_store
from vla_store.builder.journal import states_of
from vla_store.cli import main
from vla_store.errors import MachineError, SourceError
from vla_store.sources import parquet
from vla_store.sources.features import field_names
from vla_store.sources.find import find_sources
from vla_store.sources.lerobot_scan import names_of_numbers
from vla_store.sources.overrides import Choice
from vla_store.sources.protocol import EpisodeSource

FIELDS = {
    IMAGE: "front",
    VIDEO: "wrist",
    "observation.state": "state",
    "action": "actions",
    "next.reward": "next_reward",
}
FORMS = {
    "v2.0": {"version": "v2.0", "chunk": 2},
    "v2.1": {"version": "v2.1"},
    "v3.0": {},
    "one row group": {"one_group": True},
    "jpeg": {"image": lerobot_sets.jpeg},
    "av1": {"version": "v3.0", "video": {"codec": "libsvtav1", "gop": 2, "preset": "12"}},
    "long gop": {"video": {"gop": 250, "bf": "3"}},
    "open gop": {"video": {"gop": 5, "x264-params": "open-gop=1:bframes=3:scenecut=0"}},
}


@pytest.fixture(scope="module", params=FORMS)
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return LeRobotSet(tmp_path_factory.mktemp("set") / "cups", **FORMS[request.param]).write()


def sources_of(root: Path, **options: Any) -> list[EpisodeSource]:
    return find_sources(root, **options)


def test_every_span_is_what_pyarrow_and_pyav_give(root: Path) -> None:
    truths = {each.number: each for each in truth_of(root)}
    read = {}
    for source in sources_of(root):
        for episode in source.scan().episodes:
            read[episode.number] = (source, episode)
    assert sorted(read) == sorted(truths) == [0, 1, 2]

    @settings(max_examples=60)
    @given(st.data())
    def spans(data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(read)))
        key = data.draw(st.sampled_from(sorted(FIELDS)))
        source, episode = read[number]
        start = data.draw(st.integers(0, episode.steps - 1))
        stop = data.draw(st.integers(start + 1, episode.steps))
        rows = source.read(number, FIELDS[key], start, stop)
        spec = episode.fields[FIELDS[key]]
        expected = truths[number].columns[key][start:stop].astype(rows.dtype)
        assert (rows.dtype.name, rows.shape[1:]) == (spec.dtype, spec.shape)
        assert np.array_equal(rows, expected)

    spans()


def test_one_command_builds_it_and_samples_are_what_pyarrow_and_pyav_give(root: Path, tmp_path: Path) -> None:
    build_and_compare(root, tmp_path / "cups.vla")


@pytest.mark.parametrize("name", ["lerobot_v21_video", "lerobot_v30_image", "lerobot_v30_video"])
def test_sample_sets_build_with_one_command(name: str, layouts: Path, tmp_path: Path) -> None:
    build_and_compare(layouts / name, tmp_path / "store.vla", "--orientation", "rot180", "--preset", "raw")


def build_and_compare(root: Path, store: Path, *options: str) -> None:
    assert main(["build", str(root), str(store), "--quiet", *options]) == 0
    assert main(["verify", str(store), "--against", str(root), "--quiet"]) == 0
    opened = vla_store.open_store(store)
    choice = field_names(tuple(json.loads((root / "meta/info.json").read_text())["features"]), Choice())
    truths = {each.number: each for each in truth_of(root)}
    windows = dict.fromkeys(opened.fields, 0)
    samples = vla_store.Samples(opened, windows=windows, alignment="as_stored", images="as_stored", dtype=None)
    assert len(samples) == sum(len(each.text) for each in truths.values())
    for position in np.random.default_rng(0).integers(0, len(samples), 200).tolist():
        sample = samples[position]
        episode = opened.episodes[sample["episode"]]
        truth, step = truths[episode.number], sample["step"]
        assert sample["task"] == truth.text[0]
        for key, name in choice.items():
            if name in opened.fields:
                expected = truth.columns[key][step]
                assert np.array_equal(np.asarray(sample[name]).reshape(expected.shape), expected), (key, step)


def test_jpeg_is_kept_where_that_is_said(tmp_path: Path) -> None:
    root = LeRobotSet(tmp_path / "cups", image=lerobot_sets.jpeg).write()
    build_and_compare(root, tmp_path / "store.vla", "--encoded", "keep")
    info = find_sources(root, conventions={"encoded": "keep"})[0].scan()
    assert info.episodes[0].fields["front"].codec is not None
    assert info.codec == "h264"
    assert sources_of(root)[0].scan().codec == "h264-jpeg"


@pytest.mark.parametrize("odd", [0, 5, 70_000])
def test_rows_of_other_lengths_are_refused_in_whatever_batch_they_come(odd: int, tmp_path: Path) -> None:
    rows = pa.array([[1.0, 2.0]] * odd + [[3.0]] * 5, pa.list_(pa.float32()))
    lerobot_sets.pq.write_table(pa.table({"x": rows}), tmp_path / "x.parquet")
    if not odd:
        assert parquet.numbers(str(tmp_path / "x.parquet"), "x", 1, 3).tolist() == [[3], [3]]
        return
    with pytest.raises(SourceError, match="different lengths") as caught:
        parquet.numbers(str(tmp_path / "x.parquet"), "x", 0, 1)
    assert caught.value.places["row"] == str(odd)


# What is said of a set


def test_a_source_is_a_data_file_or_a_folder_of_them(tmp_path: Path) -> None:
    new, old = LeRobotSet(tmp_path / "new").write(), LeRobotSet(tmp_path / "old", "v2.1", chunk=2).write()
    assert [(each.suite, each.file) for each in sources_of(new)] == [
        ("new", "data/chunk-000/file-000.parquet"),
        ("new", "data/chunk-000/file-001.parquet"),
    ]
    assert [each.file for each in sources_of(old)] == ["data/chunk-000", "data/chunk-001"]
    assert [[each.number for each in source.scan().episodes] for source in sources_of(old)] == [[0, 1], [2]]


def test_names_rate_conventions_and_decoder_are_told(tmp_path: Path) -> None:
    root = LeRobotSet(tmp_path / "cups").write()
    info = sources_of(root)[0].scan()
    fields = info.episodes[0].fields
    assert (info.fps, info.orientation, info.observation, info.codec) == (FPS, "top_down", "before", "h264")
    assert info.decoder.startswith("PyAV ")
    assert "h264 of FFmpeg" in info.decoder
    assert fields["state"].names == ("x", "y", "z")
    assert fields["actions"].names == ("a", "b", "c", "grip")
    assert {name: each.role for name, each in fields.items()} == {
        "actions": "step",
        "front": "observation",
        "next_done": "step",
        "next_reward": "step",
        "state": "observation",
        "wrist": "observation",
    }
    assert (fields["next_done"].dtype, fields["next_done"].shape) == ("bool", ())
    assert info.warnings == ()


def test_names_of_numbers_come_from_the_slices_that_groot_says() -> None:
    modality = {"state": {"x": {"start": 0, "end": 1}, "grip": {"start": 1, "end": 3}}, "action": {}}
    told = {"names": {"motors": ["p", "q", "r"]}}
    assert names_of_numbers("observation.state", told, 3, modality) == ("x", "grip_0", "grip_1")
    assert names_of_numbers("action", told, 3, modality) == ("p", "q", "r")
    assert names_of_numbers("observation.state", {"names": ["state"]}, 8, modality) == ()


def test_names_of_fields_are_short_where_that_tells_them_apart() -> None:
    keys = (
        "action",
        "observation.state",
        "observation.images.top",
        "images.top",
        "observation.image",
        "a.b",
        "a/b",
        "é" * 70,
    )
    names = field_names(keys, Choice())
    assert names["action"] == "actions"
    assert names["observation.state"] == "state"
    assert (names["observation.images.top"], names["images.top"]) == ("observation_images_top", "images_top")
    assert names["observation.image"] == "image"
    assert len({each.lower() for each in names.values()}) == len(keys)


def test_an_episode_of_two_tasks_has_segments_and_that_of_its_first_row(tmp_path: Path) -> None:
    episodes = (Made(0, 7, [1] * 3 + [0] * 2 + [1] * 2), Made(1, 5))
    root = LeRobotSet(tmp_path / "cups", episodes=episodes, files=((0, 1),)).write()
    first, second = sources_of(root)[0].scan().episodes
    assert first.task is not None
    assert (first.task.name, first.task.text) == ("put_it_on_the_plate", TASKS[1])
    assert first.segments == ((0, TASKS[1]), (3, TASKS[0]), (5, TASKS[1]))
    assert second.segments == ()
    assert second.task is not None
    assert second.task.text == TASKS[0]


def test_tasks_of_texts_that_differ_have_names_that_differ(tmp_path: Path) -> None:
    root = LeRobotSet(tmp_path / "cups", "v2.1", episodes=(Made(0, 4, [0] * 4), Made(1, 4, [1] * 4))).write()
    lines = [{"task_index": 0, "task": "Lift it."}, {"task_index": 1, "task": "Lift it"}]
    write_lines(root / "meta/tasks.jsonl", lines)
    lossy, plain = (each.name for each in sources_of(root)[0].scan().tasks)
    assert plain == "Lift_it"
    assert re.fullmatch("Lift_it-[0-9a-f]{8}", lossy)


def test_what_is_no_field_is_kept_or_named(tmp_path: Path) -> None:
    feature = lerobot_sets.feature
    extra = {
        "building": (feature("string", (1,)), lambda number, length: pa.array([f"hall {number}"] * length)),
        "language_instruction_2": (feature("string", (1,)), lambda number, length: pa.array(["take the mug"] * length)),
        "note": (feature("string", (1,)), lambda number, length: pa.array([str(step) for step in range(length)])),
        "events": (feature("language", (1,)), lambda number, length: pa.array([[{"role": "user"}]] * length)),
        "grid": (
            feature("int16", (2, 3)),
            lambda number, length: pa.array(
                np.full((length, 2, 3), number, np.int16).tolist(), pa.list_(pa.list_(pa.int16()))
            ),
        ),
        "timestamp": (feature("float32", (1,)), lambda number, length: pa.array(np.arange(length, dtype=np.float32))),
        "annotation.human.validity": (feature("int64", (1,)), lambda number, length: pa.array([2] * length)),
    }
    root = LeRobotSet(tmp_path / "cups", extra=extra).write()
    source = sources_of(root)[0]
    info = source.scan()
    fields = info.episodes[0].fields
    assert (fields["grid"].shape, fields["grid"].dtype) == ((2, 3), "int16")
    assert source.read(1, "grid", 3, 5).tolist() == [[[1] * 3] * 2] * 2
    assert source.read(0, "timestamp", 2, 4).tolist() == [2, 3]
    assert fields["annotation_human_validity"].dtype == "int64"
    assert info.episodes[0].instructions == {"human.validity": (TASKS[2],), "language_instruction_2": ("take the mug",)}
    assert not {"building", "note", "events"} & fields.keys()
    assert info.warnings == (
        "events (language) is no numbers and no picture, and is left out (episode 0 and 1 more)",
        "note has several texts in one episode, and is left out (episode 0 and 1 more)",
    )
    assert source.attributes(1)["/"]["building"] == {"utf8": "hall 1"}
    assert json.loads(source.attributes(None)["/meta"]["info.json"]["utf8"])["robot_type"] == "so100"


def test_features_are_left_out_and_renamed_by_their_own_names(tmp_path: Path) -> None:
    root = LeRobotSet(tmp_path / "cups").write()
    options = ["--exclude", "observation.images.*", "--exclude", "next.done", "--rename", "observation.state=pose"]
    assert main(["build", str(root), str(tmp_path / "s"), "--quiet", *options]) == 0
    assert sorted(vla_store.open_store(tmp_path / "s").fields) == ["actions", "next_reward", "pose"]
    assert main(["verify", str(tmp_path / "s"), "--against", str(root), "--quiet"]) == 0


def test_a_set_that_may_be_liberos_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = LeRobotSet(tmp_path / "libero_goal").write()
    assert main(["build", str(root), str(tmp_path / "s"), "--quiet"]) == 1
    assert "--orientation rot180" in in_words(capsys.readouterr().err)
    assert not (tmp_path / "s").exists()
    assert main(["build", str(root), str(tmp_path / "s"), "--quiet", "--orientation", "rot180"]) == 0
    assert vla_store.open_store(tmp_path / "s").conventions.orientation == "rot180"


def test_a_snapshot_in_the_hubs_cache_is_called_by_its_repository(tmp_path: Path) -> None:
    root = LeRobotSet(tmp_path / "datasets--someone--cups" / "snapshots" / "0123abcd").write()
    assert sources_of(root)[0].suite == "cups"


def test_folders_of_data_sets_and_hundreds_of_episodes(tmp_path: Path) -> None:
    episodes = tuple(Made(number, 3) for number in range(300))
    LeRobotSet(tmp_path / "sets" / "many", "v2.1", episodes, has_video=False, has_image=False).write()
    LeRobotSet(tmp_path / "sets" / "few", has_video=False, has_image=False).write()
    assert main(["build", str(tmp_path / "sets"), str(tmp_path / "s"), "--quiet"]) == 0
    assert main(["verify", str(tmp_path / "s"), "--against", str(tmp_path / "sets"), "--quiet"]) == 0
    assert len(vla_store.open_store(tmp_path / "s").episodes) == 303


def test_verify_names_a_changed_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = LeRobotSet(tmp_path / "cups").write()
    assert main(["build", str(root), str(tmp_path / "s"), "--quiet"]) == 0
    path = root / "data/chunk-000/file-001.parquet"
    edit_table(path, **{"next.reward": np.zeros(9, np.float32)})
    assert main(["verify", str(tmp_path / "s"), "--against", str(root), "--quiet"]) == 1
    printed = capsys.readouterr()
    assert "cups/data/chunk-000/file-001.parquet demo_2: next_reward differs" in printed.out + printed.err


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_video_that_changes_changes_the_state_of_its_source(version: str, tmp_path: Path) -> None:
    root = LeRobotSet(tmp_path / "cups", version).write()
    before = [states_of([each]) for each in sources_of(root)]
    path = sorted(root.glob("videos/**/*.mp4"))[0]
    path.write_bytes(path.read_bytes() + b" ")
    assert [states_of([each]) == old for each, old in zip(sources_of(root), before)] == [False] + [True] * (
        len(before) - 1
    )


# What is broken


def break_episode_numbers(root: Path) -> None:
    edit_table(root / "data/chunk-000/file-000.parquet", episode_index=[1] * 7 + [0] * 12)


def break_length(root: Path) -> None:
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    edit_table(path, length=[6, 12, 9])


def break_frame_index(root: Path) -> None:
    edit_table(root / "data/chunk-000/file-000.parquet", frame_index=[*range(5), 6, 5, *range(12)])


def break_task(root: Path) -> None:
    edit_table(root / "data/chunk-000/file-001.parquet", task_index=[0] * 4 + [77] * 5)


def break_missing_file(root: Path) -> None:
    (root / "data/chunk-000/file-001.parquet").unlink()


def break_missing_video(root: Path) -> None:
    (root / f"videos/{VIDEO}/chunk-000/file-001.mp4").unlink()


def break_cut_parquet(root: Path) -> None:
    path = root / "data/chunk-000/file-001.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def break_cut_video(root: Path) -> None:
    path = root / f"videos/{VIDEO}/chunk-000/file-001.mp4"
    path.write_bytes(path.read_bytes()[:-300])


def break_short_video(root: Path) -> None:
    lerobot_sets.write_video(root / f"videos/{VIDEO}/chunk-000/file-001.mp4", lerobot_sets.frames_of(2, 8, 2))


def break_video_size(root: Path) -> None:
    frames = lerobot_sets.frames_of(2, 9, 2, height=48, width=64)
    lerobot_sets.write_video(root / f"videos/{VIDEO}/chunk-000/file-001.mp4", frames)


def break_video_rate(root: Path) -> None:
    lerobot_sets.write_video(root / f"videos/{VIDEO}/chunk-000/file-001.mp4", lerobot_sets.frames_of(2, 9, 2), fps=30)


def break_actions(root: Path) -> None:
    actions = np.zeros((9, 4), np.float32)
    actions[3, 1] = np.nan
    edit_table(root / "data/chunk-000/file-001.parquet", action=pa.array(actions.tolist(), pa.list_(pa.float32())))


def break_column(root: Path) -> None:
    edit_table(root / "data/chunk-000/file-001.parquet", **{"next.reward": None})


def break_null(root: Path) -> None:
    edit_table(root / "data/chunk-000/file-001.parquet", **{"next.reward": pa.array([None] * 9, pa.float32())})


def break_uneven(root: Path) -> None:
    actions = pa.array([[0.0] * 4] * 5 + [[0.0] * 3] * 4, pa.list_(pa.float32()))
    edit_table(root / "data/chunk-000/file-001.parquet", action=actions)


def break_picture(root: Path) -> None:
    path = root / "data/chunk-000/file-001.parquet"
    pictures = [{"bytes": lerobot_sets.png(each), "path": ""} for each in lerobot_sets.frames_of(2, 9, 1)]
    pictures[4]["bytes"] = pictures[4]["bytes"][:60]
    edit_table(path, **{IMAGE: pictures})


def break_picture_size(root: Path) -> None:
    frames = [*lerobot_sets.frames_of(2, 5, 1), *lerobot_sets.frames_of(2, 4, 1, height=16)]
    pictures = [{"bytes": lerobot_sets.png(each), "path": ""} for each in frames]
    edit_table(root / "data/chunk-000/file-001.parquet", **{IMAGE: pictures})


def break_picture_missing(root: Path) -> None:
    pictures = [{"bytes": None, "path": "images/0.png"}] * 9
    type_ = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    edit_table(root / "data/chunk-000/file-001.parquet", **{IMAGE: pa.array(pictures, type_)})


def break_unclaimed(root: Path) -> None:
    path = root / "data/chunk-000/file-001.parquet"
    table = lerobot_sets.pq.read_table(path)
    more = table.slice(0, 2)
    more = more.set_column(more.schema.get_field_index("episode_index"), "episode_index", pa.array([9, 9]))
    lerobot_sets.pq.write_table(pa.concat_tables([table, more]), path)


BROKEN = {
    break_episode_numbers: ("are another's", "first row of episode 0", "row 0 of episode 1"),
    break_length: ("another number of rows", "6 rows", "7 rows"),
    break_frame_index: ("frame_index does not count", "file-000.parquet"),
    break_task: ("a task that the metadata does not have", "meta/tasks.parquet", "77"),
    break_missing_file: ("is missing", "file-001.parquet"),
    break_missing_video: ("is missing", "file-001.mp4"),
    break_cut_parquet: ("cut short", "file-001.parquet"),
    break_cut_video: ("a video is cut short", "file-001.mp4"),
    break_short_video: ("fewer frames", "at least 9 frames", "8 frames"),
    break_video_size: ("different size", "wrist"),
    break_video_rate: ("not at the times of their rows", "10 frames a second"),
    break_actions: ("not all finite", "actions", "row"),
    break_column: ("has no column", "next.reward", "--exclude next.reward"),
    break_null: ("lacks a number", "next.reward"),
    break_uneven: ("different lengths", "action"),
    break_picture: ("PNG picture does not decode", "observation.images.front", "file-001.parquet"),
    break_picture_size: ("different size", "observation.images.front"),
    break_picture_missing: ("not in the file", "observation.images.front"),
    break_unclaimed: ("that the metadata does not have", "2 rows of episode 9"),
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda each: each.__name__)
def test_what_is_broken_is_refused_by_name_or_left_out(
    broken: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = LeRobotSet(tmp_path / "cups").write()
    broken(root)
    assert main(["build", str(root), str(tmp_path / "s"), "--quiet"]) == 1
    printed = capsys.readouterr().err
    for text in BROKEN[broken]:
        assert text in " ".join(printed.split()), printed
    assert len(printed.splitlines()) < 24
    assert not (tmp_path / "s").exists()
    assert main(["build", str(root), str(tmp_path / "s"), "--quiet", "--skip-bad", "--overwrite"]) == 0
    store = vla_store.open_store(tmp_path / "s")
    assert store.skipped
    assert 1 <= len(store.episodes) <= 3
    assert main(["verify", str(tmp_path / "s"), "--against", str(root), "--quiet"]) == 0


def test_a_folder_that_a_broken_build_leaves_is_no_store(tmp_path: Path) -> None:
    root = LeRobotSet(tmp_path / "cups").write()
    break_length(root)
    assert main(["build", str(root), str(tmp_path / "s"), "--quiet"]) == 1
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"codebase_version": "v1.6"}, "v1.6"),
        ({"features": None}, "None"),
        ({"data_path": "../{chunk_index}"}, "out of the data set"),
        ({"data_path": "{0.__class__}"}, "no template"),
        ({"video_path": None}, "None"),
        ({"fps": None}, "fps"),
        ({"fps": True}, "fps"),
    ],
)
def test_an_info_that_cannot_be_is_refused(change: dict[str, Any], found: str, tmp_path: Path) -> None:
    root = LeRobotSet(tmp_path / "cups").write()
    edit_info(root, **change)
    with pytest.raises(SourceError, match=found.replace(".", r"\.")):
        sources_of(root)[0].scan()


def test_counts_and_splits_that_are_nonsense_are_warnings(tmp_path: Path) -> None:
    root = LeRobotSet(tmp_path / "cups", info={"total_frames": 1, "splits": {"train": "0:10000"}}).write()
    first, second = (each.scan().warnings for each in sources_of(root))
    assert [each.partition(":")[2].split()[0] for each in first] == ["total_frames", "splits"]
    assert second == ()


def test_depth_videos_are_refused_by_name(tmp_path: Path) -> None:
    root = LeRobotSet(tmp_path / "cups").write()
    info = json.loads((root / "meta/info.json").read_text())
    info["features"][VIDEO]["info"] = {"video.is_depth_map": True}
    edit_info(root, **info)
    with pytest.raises(SourceError, match=f"--exclude {VIDEO}"):
        sources_of(root)[0].scan()


def test_a_file_of_a_set_is_told_from_the_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = LeRobotSet(tmp_path / "cups").write()
    for part in ("data/chunk-000/file-000.parquet", "data", "meta/info.json", f"videos/{VIDEO}/chunk-000/file-000.mp4"):
        assert main(["build", str(root / part), str(tmp_path / "s"), "--quiet"]) == 1
        assert f"hint: give {root}" in in_words(capsys.readouterr().err)
    (tmp_path / "file.parquet").write_bytes((root / "data/chunk-000/file-000.parquet").read_bytes())
    assert main(["build", str(tmp_path / "file.parquet"), str(tmp_path / "s"), "--quiet"]) == 1
    assert "give the folder that has meta/info.json" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "a" / "b").mkdir(parents=True)
    root.rename(tmp_path / "a" / "b" / "cups")
    assert main(["build", str(tmp_path / "a"), str(tmp_path / "s"), "--quiet"]) == 1
    assert f"lie deeper: give {tmp_path / 'a' / 'b' / 'cups'}" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("module", ["pyarrow", "av", "PIL"])
def test_what_is_not_installed_is_named(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = LeRobotSet(tmp_path / "cups").write()
    real = importlib.import_module

    def absent(name: str) -> Any:
        if name.partition(".")[0] == module:
            raise ModuleNotFoundError(f"no {name}", name=name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MachineError, match=r'pip install "vla-store\[lerobot\]"'):
        sources_of(root)[0].scan()
