"""lerobot gives what LeRobot's own data set of the exported frames gives, by another implementation over h5py; and what it says of
them is what an export writes. Against LeRobot itself: test_own_lerobot.py."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import telling_sources
from comparing import assert_same
from own_sources import Own
from recipes.conftest import Both
from store_tools import built

from vla_store import OptionError, TransformError, UnknownName, UnknownOption, open_store
from vla_store.manage.copy import copy_store
from vla_store.manage.views import add_view
from vla_store.recipes import lerobot, lerobot_meta, lerobot_train
from vla_store.view_rules import predicate

oracle = pytest.importorskip("recipes.oracle")
torch = pytest.importorskip("torch", reason="items are tensors")

AGENTVIEW, WRIST = "observation.images.agentview_rgb", "observation.images.eye_in_hand_rgb"
WINDOWS: list[dict[str, list[int]]] = [
    {},
    {"action": list(range(8)), "rewards": [0, 1]},
    {AGENTVIEW: [-1, 0], "observation.state": [-1, 0], "action": list(range(-1, 15))},
    {"action": [4, -9, 0, 0], WRIST: [3, 0, -5], "observation.state": [-2, 1]},
]


def seconds(windows: dict[str, list[int]], fps: float = 20) -> dict[str, list[float]] | None:
    return {key: [each / fps for each in offsets] for key, offsets in windows.items()} or None


def few(store: Any, **options: Any) -> Any:
    """The dataset without the features that the other implementation leaves out."""
    opened = open_store(store)
    used = {*oracle.LEROBOT.values(), "ee_states", "gripper_states"}
    return lerobot(opened, exclude=[name for name in opened.fields if name not in used], **options)


def assert_frames(both: Both, windows: dict[str, list[int]], count: int, *, keep_first: bool = False) -> None:
    """The first frame, the last and a few others, read by one, by many and as a batch."""
    dataset = few(both.store, episodes=both.episodes, delta_timestamps=seconds(windows), keep_first=keep_first)
    expected = list(oracle.lerobot(both.demos, windows, keep_first=keep_first))
    assert len(dataset) == len(expected) == dataset.num_frames == dataset.meta.total_frames
    drawn = np.random.default_rng(len(windows)).permutation(len(dataset))[:count].tolist()
    numbers = [0, -1, *drawn]
    items, batch = dataset.__getitems__(numbers), dataset.batch(numbers)
    for at, number in enumerate(numbers):
        assert_same(items[at], expected[number], f"frame {number}")
        assert all(torch.is_tensor(each) for key, each in items[at].items() if key != "task")
        assert_same({key: each[at] for key, each in batch.items()}, expected[number], f"frame {number} of a batch")
    assert_same(dataset[drawn[0]], expected[drawn[0]])


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("keep_first", [False, True])
def test_every_frame_of_short_episodes_is_as_lerobot_has_it(
    tiny: Both, windows: dict[str, list[int]], keep_first: bool
) -> None:
    assert_frames(tiny, windows, 1000, keep_first=keep_first)


@pytest.mark.parametrize("which", ["published", "regenerated"])
def test_frames_of_libero_are_as_lerobot_has_them(request: pytest.FixtureRequest, which: str) -> None:
    every: Both = request.getfixturevalue(which)
    assert_frames(Both(every.store, every.episodes[-1:], every.demos[-1:]), WINDOWS[2], 30)


def test_pictures_may_stay_bytes_and_be_changed(tiny: Both) -> None:
    windows = {AGENTVIEW: [-0.05, 0.0]}
    plain, raw = few(tiny.store, delta_timestamps=windows)[9], few(tiny.store, delta_timestamps=windows, uint8=True)[9]
    assert raw[AGENTVIEW].dtype == torch.uint8
    assert torch.equal(raw[AGENTVIEW].to(torch.float32) / 255, plain[AGENTVIEW])
    changed = few(tiny.store, image_transforms=lambda picture: picture[..., :2, :2])
    assert not changed.makes_batches
    assert changed[9][WRIST].shape == (3, 2, 2)
    assert torch.equal(changed.__getitems__([9])[0][WRIST], plain[WRIST][:, :2, :2])


def test_a_dataloader_and_the_loader_give_the_same(tiny: Both) -> None:
    from vla_store.torch import Loader

    dataset = few(tiny.store, delta_timestamps=seconds(WINDOWS[2]))
    assert len(pickle.dumps(dataset)) < 16_000
    ours = next(iter(Loader(dataset, batch_size=6, shuffle=False, workers=0)))
    for workers in (0, 1):
        options: dict[str, Any] = {"multiprocessing_context": "spawn"} if workers else {}
        theirs = next(iter(torch.utils.data.DataLoader(dataset, batch_size=6, num_workers=workers, **options)))
        assert_same(ours, theirs)


def test_it_says_of_itself_what_an_export_writes(tiny: Both, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    from vla_store.export import export_store

    export_store(tiny.store, tmp_path / "out", to="lerobot", alignment="causal", images="upright")
    meta = lerobot(tiny.store).meta
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    assert {name: list(each["shape"]) for name, each in meta.features.items()} == {
        name: each["shape"] for name, each in info["features"].items()
    }
    assert [(name, each["dtype"], each["names"]) for name, each in meta.features.items()] == [
        (name, each["dtype"], each["names"]) for name, each in info["features"].items()
    ]
    for name in ("fps", "total_episodes", "total_frames", "total_tasks", "splits", "codebase_version", "robot_type"):
        assert meta.info[name] == info[name], name
    episodes = parquet.read_table(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet").to_pydict()
    for name in meta.episodes.column_names:
        assert meta.episodes[name] == episodes[name], name
    assert meta.episodes[2]["length"] == episodes["length"][2]
    assert [each["length"] for each in meta.episodes] == episodes["length"]
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())
    assert {key: {name: value.tolist() for name, value in each.items()} for key, each in meta.stats.items()} == stats
    tasks = parquet.read_table(tmp_path / "out/meta/tasks.parquet").to_pydict()
    texts = meta.tasks if isinstance(meta.tasks, dict) else dict(meta.tasks["task_index"])
    assert texts == dict(zip(tasks["__index_level_0__"], tasks["task_index"]))
    assert meta.get_task_index(next(iter(texts))) == 0
    assert meta.get_task_index("no such text") is None


def test_statistics_of_pictures_are_of_a_part_of_many(tiny: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = lerobot(tiny.store).meta.stats[AGENTVIEW]
    monkeypatch.setattr(lerobot_meta, "PICTURES_MEASURED", 40)
    some = lerobot(tiny.store).meta.stats[AGENTVIEW]
    assert (whole["count"].item(), some["count"].item()) == (len(lerobot(tiny.store)), 40)
    assert some["mean"].shape == (3, 1, 1)
    assert np.abs(some["mean"] - whole["mean"]).max() < 0.05


@pytest.mark.parametrize("odd", [0, 1])
def test_a_view_of_steps_says_which_frames_there_are(tiny: Both, tmp_path: Path, odd: int) -> None:
    """Also where it keeps the first step, whose observation was never recorded: it is no frame, and in no window."""
    store = tmp_path / "store.vla"
    copy_store(tiny.store, store)
    every_other = predicate(lambda episode: np.arange(len(episode["actions"])) % 2 == odd, ["actions"], "every other")
    add_view(store, "every_other", every_other, kind="steps")
    windows = {"action": [-0.05, 0, 0.05], AGENTVIEW: [-0.05, 0], "observation.state": [0.05]}
    shown, plain = few(store, view="every_other", delta_timestamps=windows), few(tiny.store)
    frames = [number for number in range(len(plain)) if (int(plain[number]["frame_index"]) + 1) % 2 == odd]
    assert len(shown) == len(frames)
    items = shown.__getitems__(range(len(shown)))
    for number, item in enumerate(items):
        first, last = int(item["frame_index"]) == 0, number + 1 == len(items) or items[number + 1]["frame_index"] == 0
        around = [number - (not first), number, number + (not last)]
        for key, near in (("action", around), (AGENTVIEW, around[:2]), ("observation.state", around[2:])):
            expected = torch.stack([plain[frames[each]][key] for each in near])
            assert torch.equal(item[key], expected), (number, key)
        assert item["action_is_pad"].tolist() == [first, False, last]
        assert int(item["index"]) == number


def test_texts_of_steps_and_names_of_numbers_are_kept(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    store = built(tmp_path / "tea.vla", [telling_sources.Telling()])
    dataset = lerobot(store)
    texts = [
        telling_sources.step_text(number, step)
        for number, length in ((0, 20), (3, 7), (4, 5))
        for step in range(length)
    ]
    assert [each["task"] for each in dataset.__getitems__(range(32))] == texts
    order = list(dict.fromkeys(texts))
    assert [int(dataset[number]["task_index"]) for number in range(32)] == [order.index(text) for text in texts]
    assert dataset.meta.episodes["tasks"] == [list(dict.fromkeys(texts[a:b])) for a, b in ((0, 20), (20, 27), (27, 32))]
    assert dataset.features["action"]["names"] == ["x", "y", "z", "gripper"]
    assert dataset.fps == 20
    with pytest.warns(UserWarning, match="fps 10 was given, but the store says 20"):
        assert lerobot(store, fps=10).fps == 10
    assert lerobot(store, fps=20).fps == 20


def test_a_rate_must_be_known(tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    store = built(tmp_path / "own.vla", [Own()])
    with pytest.raises(OptionError, match="must have the steps a second"):
        lerobot(store)
    dataset = lerobot(store, fps=12.5, state=["joints"], rename={"front": "observation.image"})
    assert dataset.fps == 12.5
    assert list(dataset[3])[:3] == ["observation.image", "observation.state", "action"]
    assert dataset[3]["timestamp"] == np.float32(3 / 12.5)


@pytest.mark.parametrize(
    ("options", "error", "part"),
    [
        ({"delta_timestamps": {"actions": [0]}}, UnknownName, "did you mean 'action'"),
        ({"delta_timestamps": {"action": [0.03]}}, OptionError, "are no whole frames"),
        ({"delta_timestamps": {"action": []}}, OptionError, "delta_timestamps is a dict"),
        ({"delta_timestamps": {"action": "soon"}}, OptionError, "delta_timestamps is a dict"),
        ({"delta_timestamps": [0, 1]}, OptionError, "delta_timestamps is a dict"),
        ({"rows": [1, 2]}, OptionError, "whole episodes"),
        ({"image_transforms": "crop"}, OptionError, "image_transforms is a function"),
        ({"uint8": "no"}, OptionError, r"(?s)uint8 is True or False.*'no'"),
        ({"keep_first": "no"}, OptionError, "keep_first is True or False"),
        ({"tolerance_s": "x"}, OptionError, "tolerance_s is a finite number"),
        ({"fps": 0}, OptionError, "above 0"),
        ({"fps": "50"}, OptionError, "above 0"),
        ({"fps": True}, OptionError, "above 0"),
        ({"exclude": ["depth"]}, UnknownName, "depth"),
        ({"windows": {}}, UnknownOption, "no option .windows"),
    ],
)
def test_what_cannot_be_is_said(tiny: Both, options: dict[str, Any], error: type[Exception], part: str) -> None:
    with pytest.raises(error, match=part):
        lerobot(tiny.store, **options)


def test_a_transform_of_pictures_has_to_return_one(tiny: Both) -> None:
    with pytest.raises(TransformError, match="image_transforms `<lambda>` returns None"):
        few(tiny.store, image_transforms=lambda picture: None)[0]


# --- lerobot-train -----------------------------------------------------------------------------------------------------


def test_what_lerobot_makes_by_its_two_names_is_the_recipe(tiny: Both) -> None:
    served = lerobot_train.Served(open_store(tiny.store), images="rot180")
    meta = served.metadata("tiny", root=None, revision=None)
    windows = {"action": [0.0, 0.05]}
    full = served.dataset("tiny", root=None, delta_timestamps=windows, video_backend="none", return_uint8=True)
    assert len(full) == meta.total_frames
    assert full[0][AGENTVIEW].dtype == torch.uint8
    part = served.dataset("tiny", episodes=[1, 3], delta_timestamps=windows)
    assert part.num_episodes == 2
    assert part.meta.stats is meta.stats
    at = meta.episodes["dataset_from_index"][1]
    assert torch.equal(part[0]["action"], full[at]["action"])
    with pytest.raises(UnknownName, match="99"):
        served.dataset("tiny", episodes=[99])


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "nothing is said of the training"),
        (["--dataset.streaming=true"], "not streamed"),
        (["--dataset.root=x"], "the data set is the store"),
    ],
)
def test_the_command_says_what_it_cannot_do(
    tiny: Both, capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
) -> None:
    assert lerobot_train.main(["--store", str(tiny.store), "--", *arguments]) == 2
    assert part in capsys.readouterr().err


def test_training_needs_an_action(tiny: Both, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--store", str(tiny.store), "--exclude", "actions", "--", "--policy.type=act"]
    assert lerobot_train.main(arguments) == 2
    assert "training needs an action" in capsys.readouterr().err


def test_what_lerobot_asks_in_vain_is_said_on_one_screen(
    tiny: Both, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place of LeRobot's modules two that do what it does there; itself: test_own_lerobot.py."""
    factory = SimpleNamespace(LeRobotDatasetMetadata=None, LeRobotDataset=None)
    monkeypatch.setitem(sys.modules, "lerobot.datasets.factory", factory)
    script = SimpleNamespace(main=lambda: factory.LeRobotDataset("tiny", episodes=[99]))
    monkeypatch.setitem(sys.modules, "lerobot.scripts.lerobot_train", script)
    monkeypatch.setattr(sys, "argv", ["x"])
    assert lerobot_train.main(["--store", str(tiny.store), "--", "--dataset.episodes=[99]"]) == 2
    assert "error: there is no episode 99" in capsys.readouterr().err


def test_options_of_lerobot_stand_after_two_dashes(tiny: Both, capsys: pytest.CaptureFixture[str]) -> None:
    assert lerobot_train.main(["--store", str(tiny.store), "--policy.type=act"]) == 2
    assert "LeRobot's stand after --" in capsys.readouterr().err
