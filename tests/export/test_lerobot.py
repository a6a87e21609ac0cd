"""A store leaves as LeRobot's data set: every number, picture, text and bound, by pyarrow and PyAV alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from export import expected, oracle
from own_sources import FIELDS, Own
from store_tools import built

from vla_store import OptionError
from vla_store.builder import FieldSpec
from vla_store.export import export_store, lerobot, parquet
from vla_store.types import LEROBOT_VERSIONS

for module in ("PIL", "av", "pyarrow"):
    pytest.importorskip(module, reason=f"what leaves is read back with {module}")

pq = pytest.importorskip("pyarrow.parquet")

NAMES = {
    "agentview_rgb": "observation.images.agentview_rgb",
    "eye_in_hand_rgb": "observation.images.eye_in_hand_rgb",
    "state": "observation.state",
    "joint_states": "observation.joint_states",
    "actions": "action",
    "rewards": "rewards",
}
STATISTICS = {"min", "max", "mean", "std", "count", "q01", "q10", "q50", "q90", "q99"}


def written(store: Path, folder: Path, **options: Any) -> Path:
    export_store(store, folder / "out", **({"to": "lerobot", "alignment": "causal"} | options))
    return folder / "out"


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.parametrize("version", LEROBOT_VERSIONS)
@pytest.mark.parametrize("images", ["as_stored", "upright", "rot180"])
def test_every_row_is_what_was_seen_and_then_done(tiny_store: Path, tmp_path: Path, version: str, images: str) -> None:
    out = written(tiny_store, tmp_path, version=version, images=images)
    pairs = expected.causal(images=images)
    found = oracle.lerobot(out)
    expected.assert_rows(found, [rows for _, rows in pairs], NAMES)
    for each, (episode, rows) in zip(found, pairs):
        steps = np.arange(len(rows["actions"]))
        assert np.array_equal(each["timestamp"], (steps / 20).astype(np.float32))
        assert each["task"] == [episode.file.task.split("SCENE2_")[-1].replace("_", " ")] * len(steps)
    assert np.array_equal(
        np.concatenate([each["index"] for each in found]), np.arange(sum(len(e["index"]) for e in found))
    )


def test_metadata_of_v3_are_what_its_loader_needs(tiny_store: Path, tmp_path: Path) -> None:
    out = written(tiny_store, tmp_path)
    info = read_json(out / "meta/info.json")
    assert (info["codebase_version"], info["fps"], info["total_episodes"], info["total_frames"]) == ("v3.0", 20, 9, 127)
    assert info["features"]["observation.images.agentview_rgb"] == {
        "dtype": "image",
        "shape": [16, 24, 3],
        "names": ["height", "width", "channels"],
    }
    assert info["features"]["observation.state"]["names"][6:] == ["gripper_states.0", "gripper_states.1"]
    assert info["features"]["rewards"]["shape"] == [1]
    statistics = read_json(out / "meta/stats.json")
    assert set(statistics) == set(info["features"])
    assert all(set(each) == STATISTICS for each in statistics.values())
    assert np.shape(statistics["observation.images.agentview_rgb"]["q99"]) == (3, 1, 1)
    actions = np.concatenate([rows["actions"] for _, rows in expected.causal()])
    assert np.allclose(statistics["action"]["q90"], np.quantile(actions, 0.9, axis=0))

    episodes = pq.read_table(out / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [each["length"] for each in episodes] == [len(rows["actions"]) for _, rows in expected.causal()]
    assert [each["dataset_from_index"] for each in episodes[1:]] == [each["dataset_to_index"] for each in episodes[:-1]]
    assert set(episodes[0]) >= {f"stats/action/{name}" for name in STATISTICS} | {"tasks", "data/file_index"}
    assert np.shape(episodes[0]["stats/observation.images.agentview_rgb/mean"]) == (3, 1, 1)

    file = pq.ParquetFile(out / "data/chunk-000/file-000.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [e["length"] for e in episodes]
    hugging = json.loads(file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
    assert hugging["observation.images.agentview_rgb"] == {"_type": "Image"}
    assert (hugging["action"]["length"], str(file.schema_arrow.field("action").type)) == (
        7,
        "fixed_size_list<element: float>[7]",
    )
    assert b"pandas" in pq.read_schema(out / "meta/tasks.parquet").metadata


def test_metadata_of_v21_are_what_its_loader_needs(tiny_store: Path, tmp_path: Path) -> None:
    out = written(tiny_store, tmp_path, version="v2.1", modality=True)
    info = read_json(out / "meta/info.json")
    assert (info["codebase_version"], info["total_chunks"], info["total_videos"]) == ("v2.1", 1, 0)
    assert sorted(path.name for path in (out / "data/chunk-000").iterdir()) == [
        f"episode_{n:06d}.parquet" for n in range(9)
    ]
    listed = [json.loads(line) for line in (out / "meta/episodes.jsonl").read_text().splitlines()]
    measured = [json.loads(line) for line in (out / "meta/episodes_stats.jsonl").read_text().splitlines()]
    assert [each["length"] for each in listed] == [each["stats"]["action"]["count"][0] for each in measured]
    assert set(measured[0]["stats"]["action"]) == {"min", "max", "mean", "std", "count"}
    modality = read_json(out / "meta/modality.json")
    assert modality["state"]["gripper_states"] == {"start": 6, "end": 8, "original_key": "observation.state"}
    assert modality["action"]["actions"] == {"start": 0, "end": 7, "original_key": "action"}
    assert modality["video"]["agentview_rgb"] == {"original_key": "observation.images.agentview_rgb"}


def test_statistics_of_a_grey_camera_are_of_three_channels_in_v21(tmp_path: Path) -> None:
    store = built(tmp_path / "own.vla", [Own(fields=FIELDS | {"front": FieldSpec("uint8", (8, 9, 1), "observation")})])
    for version, channels in (("v2.1", 3), ("v3.0", 1)):  # lerobot 0.3.3 refuses others
        export_store(store, tmp_path / version, to="lerobot", fps=10, version=version)
        assert oracle.lerobot(tmp_path / version)[0]["observation.images.front"].shape == (20, 8, 9)
        if version == "v2.1":
            line = (tmp_path / version / "meta/episodes_stats.jsonl").read_text().splitlines()[0]
            found = json.loads(line)["stats"]
        else:
            found = read_json(tmp_path / version / "meta/stats.json")
        assert np.shape(found["observation.images.front"]["mean"]) == (channels, 1, 1)


def test_a_new_file_begins_where_the_last_would_be_too_large(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "DATA_MB", 0)
    monkeypatch.setattr(parquet, "CHUNK", 4)
    out = written(tiny_store, tmp_path)
    paths = sorted(path.relative_to(out / "data").as_posix() for path in (out / "data").rglob("*.parquet"))
    assert paths == [f"chunk-{n // 4:03d}/file-{n % 4:03d}.parquet" for n in range(9)]
    episodes = pq.read_table(out / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(each["data/chunk_index"], each["data/file_index"]) for each in episodes] == [
        divmod(n, 4) for n in range(9)
    ]
    expected.assert_rows(oracle.lerobot(out), [rows for _, rows in expected.causal()], NAMES)


@pytest.mark.parametrize("version", LEROBOT_VERSIONS)
def test_pictures_too_large_for_one_row_group_are_in_several(
    tiny_store: Path, tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lerobot, "GROUP_NBYTES", 5000)
    out = written(tiny_store, tmp_path, version=version)
    first = pq.ParquetFile(min((out / "data").rglob("*.parquet")))
    assert first.num_row_groups > (9 if version == "v3.0" else 1)
    expected.assert_rows(oracle.lerobot(out), [rows for _, rows in expected.causal()], NAMES)


def test_statistics_of_episodes_are_written_as_they_come(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lerobot, "BUFFERED", 1)
    out = written(tiny_store, tmp_path)
    file = pq.ParquetFile(out / "meta/episodes/chunk-000/file-000.parquet")
    assert (file.num_row_groups, file.metadata.num_rows) == (9, 9)


@pytest.mark.parametrize("version", LEROBOT_VERSIONS)
def test_a_video_has_a_frame_for_every_step(tmp_path: Path, version: str) -> None:
    av = pytest.importorskip("av")
    smooth = FIELDS | {"front": FieldSpec("uint8", (64, 96, 3), "observation")}
    store = built(tmp_path / "own.vla", [Own(fields=smooth)])
    report = export_store(store, tmp_path / "out", to="lerobot", version=version, video=True, fps=12.5)
    assert any("grey levels" in line for line in report.unequal)
    info = read_json(tmp_path / "out/meta/info.json")
    front = info["features"]["observation.images.front"]
    assert (front["dtype"], front["info"]["video.fps"], info["fps"]) == ("video", 12.5, 12.5)
    counts, steps = [], []
    for path in sorted((tmp_path / "out/videos").rglob("*.mp4")):
        with av.open(str(path)) as container:
            frames = list(container.decode(video=0))
            counts.append(len(frames))
            steps += [round(frame.time * 12.5, 3) for frame in frames]
            assert (frames[0].height, frames[0].width) == (64, 96)
    assert counts == ([27] if version == "v3.0" else [20, 7])
    assert steps == ([*range(27)] if version == "v3.0" else [*range(20), *range(7)])
    assert "observation.images.front" not in oracle.lerobot(tmp_path / "out")[0]
    if version == "v3.0":
        row = pq.read_table(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet").to_pylist()[1]
        at = [
            row[f"videos/observation.images.front/{name}"] for name in ("from_timestamp", "to_timestamp", "file_index")
        ]
        assert at == [20 / 12.5, 27 / 12.5, 0]


def test_a_camera_of_an_odd_size_is_no_video(tmp_path: Path) -> None:
    store = built(tmp_path / "own.vla", [Own(fields=FIELDS | {"front": FieldSpec("uint8", (9, 12, 3), "observation")})])
    with pytest.raises(OptionError, match="cannot be a video"):
        export_store(store, tmp_path / "out", to="lerobot", video=True, fps=10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.vla"]


def test_the_rate_is_asked_for_where_nothing_says_it(tmp_path: Path) -> None:
    store = built(tmp_path / "own.vla", [Own()])
    with pytest.raises(OptionError, match="--fps"):
        export_store(store, tmp_path / "out", to="lerobot")
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(OptionError, match="fps"):
            export_store(store, tmp_path / "out", to="lerobot", fps=wrong)


def test_modality_needs_a_state(tmp_path: Path) -> None:
    store = built(tmp_path / "own.vla", [Own()])
    with pytest.raises(OptionError, match="--state"):
        export_store(store, tmp_path / "out", to="lerobot", fps=10, modality=True)
    given = {"state": ["joints"], "rename": {"state": "pose", "actions": "command"}}
    export_store(store, tmp_path / "out", to="lerobot", fps=10, modality=True, **given)
    modality = read_json(tmp_path / "out/meta/modality.json")
    assert modality["state"] == {"joints": {"start": 0, "end": 6, "original_key": "pose"}}
    assert modality["action"] == {"actions": {"start": 0, "end": 4, "original_key": "command"}}


def test_numbers_of_every_kind_keep_their_values(tmp_path: Path) -> None:
    kinds = {
        f"of_{dtype}": FieldSpec(dtype, shape, "step")
        for dtype, shape in (
            ("int8", ()),
            ("uint16", (3,)),
            ("int64", (1,)),
            ("float16", (2,)),
            ("uint32", ()),
            ("float64", ()),
        )
    }
    depth = FieldSpec("float32", (8, 9, 1), "observation")
    source = Own(fields=FIELDS | kinds | {"depth": depth, "grid": FieldSpec("float32", (3, 2), "step")})
    store = built(tmp_path / "own.vla", [source])
    for to in ("lerobot", "rlds"):
        export_store(store, tmp_path / to, to=to, **({"fps": 10} if to == "lerobot" else {}))
    found = {"lerobot": oracle.lerobot(tmp_path / "lerobot"), "rlds": oracle.rlds(tmp_path / "rlds")}
    for to, point in (("lerobot", "."), ("rlds", "/")):
        for number, each in zip((0, 3), found[to]):
            steps = source.lengths[number]
            for name, spec in {**kinds, "grid": source.fields["grid"], f"observation{point}depth": depth}.items():
                wanted = source.read(number, name.rpartition(point)[2], 0, steps)
                wanted = wanted.astype(np.float32) if wanted.dtype.kind == "f" else wanted
                assert np.array_equal(each[name].reshape(wanted.shape), wanted), (to, name, spec)
