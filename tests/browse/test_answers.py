"""What the page of `vla-store view` is answered: exactly what the store and its samples hold, in stretches, without a browser."""

from __future__ import annotations

import json
import shutil
import struct
import urllib.parse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from own_looks import Odd
from own_sources import Own
from view_tools import put_views, view_json

from vla_store import OptionError, Samples, open_store, seconds
from vla_store.browse.answers import Answer, answer
from vla_store.browse.film import BINS, MAX_POINTS, thinned
from vla_store.browse.held import Held
from vla_store.browse.sampling import index_of
from vla_store.browse.windows import MAX_OFFSETS, default_windows, parse_windows_text, windows_text
from vla_store.builder import build_store
from vla_store.look.episodes import EpisodeFilter, filtered
from vla_store.look.pictures import to_rgb
from vla_store.sources.protocol import FieldSpec


@pytest.fixture(scope="module")
def held(tiny_store: Path) -> Held:
    return Held(open_store(tiny_store))


def ask(held: Held, name: str, **parameters: Any) -> Answer:
    return answer(held, f"/api/{name}", urllib.parse.urlencode(parameters))


def told(held: Held, name: str, **parameters: Any) -> Any:
    found = ask(held, name, **parameters)
    assert found.status == 200, found.body
    return json.loads(found.body)


def unpacked(held: Held, name: str, **parameters: Any) -> tuple[Any, memoryview]:
    found = ask(held, name, **parameters)
    assert found.status == 200, found.body
    (length,) = struct.unpack("<I", found.body[:4])
    assert (4 + length) % 8 == 0
    return json.loads(found.body[4 : 4 + length]), memoryview(found.body)[4 + length :]


# Lists


@pytest.mark.parametrize(
    "wanted",
    [
        EpisodeFilter(),
        EpisodeFilter(text="PUT both cups"),
        EpisodeFilter(suite="libero_goal"),
        EpisodeFilter(shortest=12, longest=18),
        EpisodeFilter(success=True),
        EpisodeFilter(success=False),
        EpisodeFilter(text="no such words"),
    ],
    ids=str,
)
def test_a_list_has_what_the_filter_lets_through_in_stretches_with_neighbours(
    held: Held, wanted: EpisodeFilter
) -> None:
    expected = [each.episode for each in filtered(held.store, wanted)]
    asked = {name: value for name, value in vars(wanted).items() if value is not None}
    if "success" in asked:
        asked["success"] = "yes" if asked["success"] else "no"
    found: list[int] = []
    while len(found) < len(expected):
        stretch = told(held, "episodes", start=len(found), count=3, **asked)
        assert (stretch["total"], stretch["start"]) == (len(expected), len(found))
        assert 0 < len(stretch["episodes"]) <= 3
        found += [each["episode"] for each in stretch["episodes"]]
    assert found == expected
    assert told(held, "episodes", start=len(expected) + 5, **asked)["episodes"] == []
    for number in range(len(held.store.episodes)):
        around = told(held, "episodes", at=number, count=1, **asked)
        assert around["at"] == (expected.index(number) if number in expected else None)
        assert around["previous"] == max((each for each in expected if each < number), default=None)
        assert around["next"] == min((each for each in expected if each > number), default=None)


def test_tasks_are_counted_among_what_is_listed(held: Held) -> None:
    store = held.store
    for wanted in (EpisodeFilter(), EpisodeFilter(suite="libero_10"), EpisodeFilter(shortest=15)):
        asked = {name: value for name, value in vars(wanted).items() if value is not None}
        listed = filtered(store, wanted)
        found = told(held, "tasks", **asked)["tasks"]
        assert sum(each["episodes"] for each in found) == len(listed)
        assert sum(each["steps"] for each in found) == sum(each.length for each in listed)
        for each in found:
            task = store.tasks[each["task"]]
            mine = [one for one in listed if (one.suite, one.task) == (task.suite, task.name)]
            assert (each["name"], each["episodes"]) == (task.name, len(mine))
            assert told(held, "episodes", task=each["task"], **asked)["total"] == len(mine)


# Steps


@pytest.mark.parametrize("images", ["upright", "rot180", "as_stored"])
def test_steps_are_the_pictures_and_numbers_of_the_store(held: Held, images: str) -> None:
    store = held.store
    episode = store.episodes[int(store.episodes.lengths.argmax())]
    head, body = unpacked(held, "steps", episode=episode.episode, start=2, stop=9, images=images)
    rows = range(episode.start + 2, episode.start + 9)
    samples = Samples(store, images=images, alignment="as_stored", windows=dict.fromkeys(store.fields, 0))
    batch = samples.batch(rows)

    assert head["errors"] == []
    at = 0
    for camera in head["cameras"]:
        shape = (7, camera["height"], camera["width"], 3)
        shown = np.frombuffer(body[at : at + int(np.prod(shape))], np.uint8).reshape(shape)
        assert (shown == batch[camera["name"]]).all()
        at += shown.nbytes
    assert at == len(body)
    numbers = {name for name, each in store.fields.items() if not each.is_camera}
    assert set(head["numbers"]) == numbers
    for name in numbers:
        values = batch[name].reshape(7, -1)
        texts = [[each for each in step if not each.startswith("…")] for step in head["numbers"][name]]
        read = np.array(texts).astype(values.dtype)
        assert (read == values[:, : read.shape[1]]).all(), name
        assert read.shape[1] == min(64, values.shape[1])


def test_numbers_of_any_kind_are_text_that_loses_nothing(tmp_path: Path) -> None:
    build_store([Odd(lengths={0: 3})], tmp_path / "odd.vla")
    head, body = unpacked(Held(open_store(tmp_path / "odd.vla")), "steps", episode=0, start=0, stop=3)

    assert head["numbers"]["never"] == [["nan", "nan"]] * 3
    assert head["numbers"]["stopped"] == [["False"]] * 3
    assert len(head["numbers"]["wide"][0]) == 45
    assert len(body) == sum(3 * each["height"] * each["width"] * 3 for each in head["cameras"])


def test_a_damaged_picture_is_named_with_its_step_and_the_others_are_there(tiny_store: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_store, tmp_path / "s.vla")
    shard = min(path for path in (tmp_path / "s.vla").rglob("residuals/agentview_rgb/c/**/*") if path.is_file())
    data = bytearray(shard.read_bytes())
    data[20] ^= 255
    shard.write_bytes(data)
    head, body = unpacked(Held(open_store(tmp_path / "s.vla")), "steps", episode=0, start=0, stop=4, images="as_stored")
    good = open_store(tiny_store)

    assert [(each["field"], each["step"]) for each in head["errors"]] == [("agentview_rgb", 0)]
    assert "agentview_rgb" in head["errors"][0]["error"]["places"]["object"]
    assert len(head["numbers"]["actions"]) == 4
    at = 0
    for camera in head["cameras"]:
        expected = good.read(camera["name"], range(4))
        if camera["name"] == "agentview_rgb":
            expected[0] = 0
        shown = np.frombuffer(body[at : at + expected.nbytes], np.uint8).reshape(expected.shape)
        assert (shown == expected).all()
        at += shown.nbytes


def test_a_lost_array_takes_no_other_field_with_it(tiny_store: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_store, tmp_path / "s.vla")
    for path in [*(tmp_path / "s.vla").rglob("joint_states/c/**/*")]:
        if path.is_file():
            path.unlink()
    held = Held(open_store(tmp_path / "s.vla"))
    head, _ = unpacked(held, "steps", episode=0, start=0, stop=4)
    curves, _ = unpacked(held, "curves", episode=0)

    for errors in (head["errors"], curves["errors"]):
        assert [(each["field"], each["step"]) for each in errors] == [("joint_states", None)]
        assert "joint_states" in errors[0]["error"]["places"]["object"]
    assert "joint_states" not in head["numbers"]
    assert {"actions", "ee_pos"} <= {each["field"] for each in curves["panels"]}
    assert ask(held, "sample", episode=0, step=3, windows="joint_states: 0").status == 500
    assert ask(held, "sample", episode=0, step=3, windows="actions: 0").status == 200


# Curves


def test_curves_are_the_numbers_with_actions_first(held: Held) -> None:
    episode = held.store.episodes[2]
    head, body = unpacked(held, "curves", episode=2)
    curves = np.frombuffer(body, np.float32).reshape(-1, head["points"])

    assert head["points"] == head["steps"] == episode.length
    assert head["panels"][0]["field"] == "actions"
    at = 0
    done: dict[str, int] = {}
    for panel in head["panels"]:
        first = done.get(panel["field"], 0)
        rows = range(episode.start, episode.start + episode.length)
        values = held.rows([panel["field"]], rows)[panel["field"]].reshape(episode.length, -1)[
            :, first : first + len(panel["labels"])
        ]
        assert (curves[at : at + len(panel["labels"])] == values.T.astype(np.float32)).all()
        assert (panel["low"], panel["high"]) == (values.min(), values.max())
        done[panel["field"]] = first + len(panel["labels"])
        at += len(panel["labels"])
    assert at == len(curves)


def test_a_field_of_several_widths_has_curves(held: Held) -> None:
    ragged = [each.name for each in held.store.fields.values() if each.is_ragged]
    head, _ = unpacked(held, "curves", episode=0)

    assert ragged == ["states"]
    assert "states" in {each["field"] for each in head["panels"]}


def test_numbers_without_a_curve_are_named(tmp_path: Path) -> None:
    build_store(
        [Own(fields={"actions": FieldSpec("float32", (2,), "step"), "m": FieldSpec("float32", (3, 3), "step")})],
        tmp_path / "o.vla",
    )
    head, _ = unpacked(Held(open_store(tmp_path / "o.vla")), "curves", episode=0)

    assert [each["field"] for each in head["panels"]] == ["actions"]
    assert head["left_out"] == [{"text": "m", "numbers": 9}]


@given(steps=st.integers(MAX_POINTS + 1, 5_000), seed=st.integers(0, 99))
def test_a_long_curve_keeps_its_peaks_in_their_places(steps: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(steps, 2))
    values[seed, 0] = np.nan
    values[-1, 1] = np.inf
    made = thinned(values)

    assert made.shape == (2, 2 * BINS)
    bounds = np.linspace(0, steps, BINS + 1).astype(int)
    for at in (0, 7, BINS - 1):
        stretch = values[bounds[at] : bounds[at + 1]]
        stretch = np.where(np.isfinite(stretch), stretch, np.nan)
        assert (made[:, 2 * at] == np.nanmin(stretch, axis=0).astype(np.float32)).all()
        assert (made[:, 2 * at + 1] == np.nanmax(stretch, axis=0).astype(np.float32)).all()


# Samples


@pytest.mark.parametrize("alignment", ["causal", "as_stored"])
@pytest.mark.parametrize("pad", ["edge", "zero"])
def test_a_sample_is_the_one_with_this_index(held: Held, alignment: str, pad: str) -> None:
    text = "agentview_rgb: -2, 0; actions: 0..7; states: 0; ee_pos: [1]"
    windows = {"agentview_rgb": [-2, 0], "actions": range(8), "states": 0, "ee_pos": [1]}
    samples = Samples(held.store, windows=windows, alignment=alignment, images="upright", pad=pad)
    rows = samples.anchor_rows
    for number in (0, 3, 9):
        episode = held.store.episodes[number]
        for step in range(episode.length):
            head, body = unpacked(held, "sample", episode=number, step=step, windows=text, alignment=alignment, pad=pad)
            at = np.flatnonzero(rows == episode.start + step)
            if not at.size:
                assert (head["index"], step) == (None, 0)
                assert "step 0 is left out" in head["reason"]
                continue
            sample = samples[int(at[0])]
            assert (head["index"], head["count"]) == (at[0], len(samples))
            for field in head["fields"]:
                values = np.asarray(sample[field["name"]])
                assert field["shape"] == list(values.shape)
                assert field["is_pad"] == np.atleast_1d(sample[f"{field['name']}_is_pad"]).tolist()
                if field["numbers"] is not None:
                    read = np.array([[each for each in row if "…" not in each] for row in field["numbers"]], float)
                    assert (read == values.reshape(len(read), -1)[:, :64]).all()
            assert body.tobytes() == sample["agentview_rgb"].tobytes()
            assert head["task"] == sample["task"]


def test_the_python_that_is_shown_gives_the_sample(held: Held) -> None:
    for text in ("actions: 0..15; agentview_rgb: -1, 0", "actions: -3..2", "actions: 0", "actions: [4]"):
        head, _ = unpacked(held, "sample", episode=1, step=4, windows=text)
        sample = eval(head["call"], {"Samples": Samples, "store": held.store})
        assert list(np.shape(sample["actions"])) == next(
            each["shape"] for each in head["fields"] if each["name"] == "actions"
        )
        assert (sample["episode"], sample["step"]) == (1, 4)


@pytest.mark.parametrize("kind", ["anchors", "steps"])
@pytest.mark.parametrize("alignment", ["causal", "as_stored"])
def test_every_anchor_of_a_view_is_found_and_nothing_else(
    tiny_store: Path, tmp_path: Path, kind: str, alignment: str
) -> None:
    shutil.copytree(tiny_store, tmp_path / "s.vla")
    episodes = list(open_store(tiny_store).episodes)
    random = np.random.default_rng(7)
    masks = [(random.random(each.length) < 0.5).tolist() for each in episodes]
    masks[3] = [False] * episodes[3].length
    put_views(tmp_path / "s.vla", {"some": view_json(kind, masks, [(each.suite, each.task) for each in episodes])})
    held = Held(open_store(tmp_path / "s.vla"))
    samples = held.samples(windows={"actions": 0}, alignment=alignment, view="some")
    rows = samples.anchor_rows.tolist()
    for episode in episodes:
        for step in range(episode.length):
            row = episode.start + step
            assert index_of(samples, episode, step) == (rows.index(row) if row in rows else None)
    head, _ = unpacked(held, "sample", episode=3, step=2, view="some", alignment=alignment, windows="actions: 0")
    assert head["reason"] == "view some leaves this step out"
    assert told(held, "episodes", view="some")["total"] == sum(map(any, masks))


def test_a_range_of_colours_holds_all_through_an_episode(tmp_path: Path) -> None:
    build_store([Odd(lengths={0: 30})], tmp_path / "odd.vla")
    held = Held(open_store(tmp_path / "odd.vla"))
    episode = held.store.episodes[0]
    shown = held.range_of("depth_mm", episode)
    assert shown is not None
    for start in (0, 20):
        head, body = unpacked(held, "steps", episode=0, start=start, stop=start + 2, images="as_stored")
        assert head["cameras"][0]["name"] == "depth_mm"
        frames = held.store.read("depth_mm", range(start, start + 2))
        assert body[: 2 * 12 * 16 * 3].tobytes() == to_rgb(frames, shown).tobytes()
    described = {each["name"]: each["range"] for each in told(held, "episode", episode=0)["cameras"]}
    assert described["depth_mm"].startswith("colours from ")
    assert described["grey"] == ""


# Windows as text

TIMES = st.floats(-99, 99).map(lambda value: value + 0.0)
OFFSETS = st.one_of(
    st.builds(lambda start, fps: seconds(start, start + 1, fps=fps), TIMES, st.none() | st.floats(0.1, 99)),
    st.builds(seconds, st.lists(TIMES, min_size=1, max_size=4)),
    st.integers(-99, 99),
    st.lists(st.integers(-99, 99), min_size=1, max_size=9),
    st.builds(lambda start, count: list(range(start, start + count)), st.integers(-50, 50), st.integers(1, 60)),
)


@given(
    windows=st.dictionaries(st.sampled_from(["actions", "a.b", "obs/x", "camera: left", "x y"]), OFFSETS, min_size=1)
)
def test_windows_are_read_as_they_are_written(windows: dict[str, Any]) -> None:
    assert parse_windows_text(windows_text(windows)) == windows


@pytest.mark.parametrize(
    "text",
    [
        "",
        ";",
        "actions",
        "actions:",
        ": 1",
        "a: x",
        "a: 1..",
        "a: 3..1",
        "a: 1,,2",
        "a: 1; a: 2",
        "a: [1",
        f"a: 0..{MAX_OFFSETS}",
        "a: seconds(0)",
        "a: seconds()",
        "a: seconds([])",
        "a: seconds(0, 1, 2)",
        "a: seconds(0, x)",
        "a: seconds(0, 1) 2",
    ],
)
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_windows_text(text)
    assert caught.value.places["expected"]


@pytest.mark.parametrize(
    "text", ["a: seconds(0, nan)", "a: seconds(inf, 1)", "a: seconds(0, 1, fps=0)", "a: seconds([0], fps=-1)"]
)
def test_seconds_that_are_none_are_refused_in_pythons_words(text: str) -> None:
    with pytest.raises(OptionError, match=r"numbers|a number above 0"):
        parse_windows_text(text)


def test_a_window_in_seconds_is_that_of_python(held: Held) -> None:
    said = "actions: seconds(0, 0.35, fps=20); robot_states: seconds([-0.1, 0], fps=20)"
    head, _ = unpacked(held, "sample", episode=1, step=4, windows=said)
    assert {each["name"]: each["offsets"] for each in head["fields"]} == {
        "actions": list(range(7)),
        "robot_states": [-2, 0],
    }
    sample = eval(head["call"], {"Samples": Samples, "store": held.store, "seconds": seconds})
    assert (sample["actions"].shape[0], sample["episode"], sample["step"]) == (7, 1, 4)


@pytest.mark.parametrize("rate", ["", ", fps=20"])
def test_a_window_of_too_many_seconds_is_refused_before_it_is_made(
    rate: str, tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(open_store(tiny_store))
    monkeypatch.setattr(held, "samples", lambda **options: pytest.fail("its offsets were made"))
    refused = ask(held, "sample", episode=1, step=4, windows=f"actions: 0; joint_states: seconds(0, 49_999{rate})")
    assert refused.status == 400
    assert "'joint_states' has more offsets" in json.loads(refused.body)["error"]["what"]


def test_every_store_has_windows_to_begin_with(tmp_path: Path, tiny_store: Path) -> None:
    assert windows_text(default_windows(open_store(tiny_store))) == (
        "agentview_rgb: -1, 0; eye_in_hand_rgb: -1, 0; actions: 0..15"
    )
    from vla_store.sources.protocol import FieldSpec

    build_store([Own(fields={"joints": FieldSpec("float64", (6,), "observation")})], tmp_path / "bare.vla")
    bare = Held(open_store(tmp_path / "bare.vla"))
    assert windows_text(default_windows(bare.store)) == "joints: 0"
    head, _ = unpacked(bare, "sample", episode=0, step=0)
    assert head["index"] == 0


def test_what_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    from vla_store.sources.protocol import FieldSpec

    fields = {"wide": FieldSpec("uint8", (1_000, 1_000, 3), "observation")}
    build_store([Own(lengths={0: 30}, fields=fields)], tmp_path / "wide.vla", preset="raw")
    held = Held(open_store(tmp_path / "wide.vla"))

    assert told(held, "store")["block"] == 2
    for name, asked in (("steps", {"start": 0, "stop": 20}), ("sample", {"step": 0, "windows": "wide: 0..29"})):
        refused = ask(held, name, episode=0, **asked)
        assert refused.status == 400
        assert "more pictures" in json.loads(refused.body)["error"]["what"]
