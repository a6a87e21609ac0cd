"""`vla-store show -o FILE.rrd`: read again by rerun's own reader, every pixel, number and text is that of the store."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import store_tools
from own_looks import Odd
from own_sources import Own
from telling_sources import Telling

from vla_store import MachineError, Samples, open_store
from vla_store.builder import build_store
from vla_store.cli import error_text, main
from vla_store.look import recording
from vla_store.look.recording import write_recording
from vla_store.sources.protocol import FieldSpec

Array = np.ndarray[Any, Any]
rerun = pytest.importorskip("rerun")


def read_again(path: Path) -> dict[str, dict[str, list[Any]]]:
    """{entity: {column: values}}, with the columns of clocks, in the order of steps; of what has no clock its one value."""
    try:
        from rerun.chunk import RrdReader as reader
    except ImportError:
        where = pytest.importorskip("rerun.experimental", reason="rerun's SDK reads no recordings here")
        reader = getattr(where, "RrdReader", None) or pytest.skip(
            "rerun's SDK before 0.36 reads recordings another way"
        )
    found: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for chunk in reader(str(path)).stream():
        batch = chunk.to_record_batch()
        for name in batch.schema.names:
            found[chunk.entity_path][name] += batch.column(name).to_pylist()
    for columns in found.values():
        order = np.argsort(columns["step"], kind="stable") if columns.get("step") else [0]
        for name, values in columns.items():
            if len(values) == len(order):
                columns[name] = [values[at] for at in order]
    return {entity: dict(columns) for entity, columns in found.items()}


def pixels_of(columns: dict[str, list[Any]], archetype: str, dtype: str) -> Array:
    (layout,) = columns[f"{archetype}:format"][0]
    buffers = [np.frombuffer(bytes(each[0]), dtype) for each in columns[f"{archetype}:buffer"]]
    return np.stack(buffers).reshape(len(buffers), layout["height"], layout["width"], -1)


@pytest.mark.parametrize("images", ["upright", "as_stored", "rot180"])
def test_every_pixel_and_number_comes_back(tiny_store: Path, tmp_path: Path, images: str) -> None:
    store = open_store(tiny_store)
    episode = store.episodes[3]
    written = write_recording(store, episode, tmp_path / "e.rrd", images=images)
    told = read_again(written.path)
    rows = range(episode.start, episode.start + episode.length)

    samples = Samples(store, windows=dict.fromkeys(store.cameras, 0), rows=rows, images=images)
    assert len(store.cameras) == 2
    for name in store.cameras:
        seen = pixels_of(told[f"/cameras/{name}"], "Image", "uint8")
        assert (seen == np.stack([samples[row][name] for row in range(len(rows))])).all()
    numbers = {name for name, field in store.fields.items() if not field.is_camera and field.kind == "fixed"}
    assert set(written.fields) == numbers
    assert {"actions", "joint_states", "rewards"} <= numbers
    for name in numbers:
        expected = store.read(name, rows).reshape(len(rows), -1)
        assert np.array_equal(np.array(told[f"/{name}"]["Scalars:scalars"], float), expected)
        assert told[f"/{name}"]["step"] == list(range(len(rows)))
    assert set(written.left_out) == set(store.fields) - numbers - set(store.cameras)
    assert told["/instruction"]["TextDocument:text"] == [[episode.text]]
    assert f"episode {episode.episode} of" in told["/about"]["TextDocument:text"][0][0]


def test_cameras_of_any_kind_come_back_bit_for_bit(tmp_path: Path) -> None:
    fields = {
        "grey": FieldSpec("uint8", (9, 40, 1), "observation"),
        "alpha": FieldSpec("uint8", (6, 10, 4), "observation"),
        "pair": FieldSpec("uint8", (6, 10, 2), "observation"),
        "depth_mm": FieldSpec("uint16", (12, 16, 1), "observation"),
        "range": FieldSpec("float32", (12, 16, 1), "observation"),
    }
    build_store([Odd(fields=fields)], tmp_path / "odd.vla")
    store = open_store(tmp_path / "odd.vla")
    told = read_again(write_recording(store, store.episodes[0], tmp_path / "e.rrd").path)
    samples = Samples(store, windows=dict.fromkeys(fields, 0), images="upright")
    frames = {name: np.stack([samples[row][name] for row in range(20)]) for name in fields}

    kinds = {"grey": "Image", "alpha": "Image", "depth_mm": "DepthImage", "range": "DepthImage"}
    for name, kind in kinds.items():
        seen = pixels_of(told[f"/cameras/{name}"], kind, fields[name].dtype)
        assert seen.tobytes() == frames[name].tobytes(), name  # with what is no number
    tensors = [np.array(each[0]["buffer"]).astype(np.uint8) for each in told["/cameras/pair"]["Tensor:data"]]
    assert (np.stack(tensors).reshape(20, 6, 10, 2) == frames["pair"]).all()


def test_names_units_texts_and_both_clocks_are_those_of_the_source(tmp_path: Path) -> None:
    build_store([Telling(fps=12.5)], tmp_path / "told.vla")
    store = open_store(tmp_path / "told.vla")
    written = write_recording(store, store.episodes[0], tmp_path / "e.rrd")
    told = read_again(written.path)

    assert told["/actions"]["SeriesLines:names"] == [["x (m) [0]", "y (m) [1]", "z (m) [2]", "gripper [3]"]]
    assert told["/joints"]["SeriesLines:names"] == [[f"joint_{n} [{n}]" for n in range(6)]]
    assert told["/segment"]["step"] == [2, 12, 15]
    assert told["/segment"]["TextDocument:text"] == [["grasp the cup"], [""], ["let go – jetzt"]]
    for entity in ("/actions", "/cameras/front"):
        times = [each.total_seconds() for each in told[entity]["time"]]
        assert np.allclose(times, np.arange(20) / 12.5, atol=1e-6)
    assert written.to_json()["fps_is_assumed"] is False


def test_a_rate_that_no_source_states_is_assumed_and_said(tmp_path: Path) -> None:
    build_store([Own()], tmp_path / "own.vla")
    store = open_store(tmp_path / "own.vla")
    written = write_recording(store, store.episodes[1], tmp_path / "e.rrd")
    told = read_again(written.path)

    assert "at 20 steps a second, which is assumed" in written.text()
    assert "assumed" in told["/about"]["TextDocument:text"][0][0]
    assert [each.total_seconds() for each in told["/actions"]["time"]] == [step / 20 for step in range(7)]


def test_odd_stores_have_a_recording(tmp_path: Path) -> None:
    build_store([Odd(lengths={0: 1, 5: 40})], tmp_path / "odd.vla")
    store = open_store(tmp_path / "odd.vla")
    for number, steps in ((0, 1), (1, 40)):
        written = write_recording(store, store.episodes[number], tmp_path / "e.rrd")
        told = read_again(written.path)
        assert written.left_out == ("wide",)
        assert np.isnan(np.array(told["/never"]["Scalars:scalars"], float)).all()
        assert told["/stopped"]["Scalars:scalars"] == [[0.0]] * steps


def test_integers_that_a_float_cannot_hold_are_left_out_and_named(tmp_path: Path) -> None:
    fields = {"stamp": FieldSpec("int64", (), "step"), "count": FieldSpec("int64", (), "step")}

    class Late(Own):
        def read(self, number: int, field: str, start: int, stop: int) -> Array:
            return np.arange(start, stop) + (2**60 + 1 if field == "stamp" else 0)

    build_store([Late(fields=fields)], tmp_path / "own.vla", workers=1)
    store = open_store(tmp_path / "own.vla")
    written = write_recording(store, store.episodes[0], tmp_path / "e.rrd")

    assert (written.fields, written.left_out) == (("count",), ("stamp",))
    assert "left out       stamp" in written.text()


def test_every_name_that_a_field_may_have_is_an_entity(tmp_path: Path) -> None:
    names = ["arm-left", "-0_x-", "9", "Z_", "cameras", "instruction"]
    fields = {name: FieldSpec("float32", (2,), "observation") for name in names} | {
        "-cam-1": FieldSpec("uint8", (8, 12, 3), "observation")
    }
    build_store([Own(fields=fields)], tmp_path / "own.vla")
    store = open_store(tmp_path / "own.vla")
    told = read_again(write_recording(store, store.episodes[0], tmp_path / "e.rrd").path)

    for name in names:
        assert np.array_equal(np.array(told[f"/{name}"]["Scalars:scalars"]), store.read(name, range(20)))
    assert len(told["/cameras/-cam-1"]["Image:buffer"]) == 20
    assert ["stack the cups"] in told["/instruction"]["TextDocument:text"]


def test_the_command_writes_a_recording_and_says_that_it_is_exact(
    tiny_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(tiny_store), "-o", str(tmp_path / "e.rrd"), "--episode", "3"]) == 0
    out, err = capsys.readouterr()
    assert not err
    assert "exact          yes: every pixel and number" in out
    assert main(["show", str(tiny_store), "-o", str(tmp_path / "e.rrd"), "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert described["lossy"] is False
    assert described["nbytes"] == (tmp_path / "e.rrd").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["e.rrd"]


@pytest.mark.parametrize("found", ["0.26.1", "0.3.0", ""])
def test_an_older_sdk_is_refused_with_the_version_that_is_needed(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerun, "__version__", found)
    with pytest.raises(MachineError) as caught:
        recording.sdk()
    store_tools.assert_one_screen(
        error_text(caught.value), "rerun-sdk 0.26.2 or newer", 'pip install "vla-store[rerun]"'
    )


@pytest.mark.parametrize("found", ["0.26.2", "0.41.0", "1.0.0", "0.42.0-alpha.1"])
def test_a_newer_sdk_is_used(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerun, "__version__", found)
    assert recording.sdk() is rerun
