from __future__ import annotations

import concurrent.futures
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_files import each_demo, odd_file
from reader import naive
from reader.conftest import conventional_naive
from reader.naive import assert_same_sample

from vla_store import Batch, OptionError, Samples, UnknownName, open_store
from vla_store.builder import build_store
from vla_store.format import layout
from vla_store.format.statistics import field_statistics
from vla_store.reader import frames
from vla_store.reader.part_reader import PartReader
from vla_store.reader.parts import parts_of
from vla_store.reader.shards import EncodedShards

TINY = naive.of_tiny()
PRESETS = ["raw", "fast", "small"]
NEAR = {"agentview_rgb": [-1, 0], "eye_in_hand_rgb": [-1, 0], "robot_states": 0, "actions": range(16)}

offsets = st.integers(-60, 60) | st.sampled_from([-(10**6), 10**6, -1, 0, 1])
windows = st.dictionaries(
    st.sampled_from(
        ["agentview_rgb", "eye_in_hand_rgb", "actions", "robot_states", "rewards", "dones", "ee_pos", "states"]
    ),
    offsets | st.lists(offsets, min_size=1, max_size=6) | st.just(list(range(20))) | st.just(list(range(-40, 40))),
    min_size=1,
)
options = st.fixed_dictionaries(
    {
        "alignment": st.sampled_from(["causal", "as_stored"]),
        "images": st.sampled_from(["as_stored", "upright", "rot180"]),
        "pad": st.sampled_from(["edge", "zero"]),
        "dtype": st.sampled_from([None, "float32", "float64"]),
    }
)


def check(samples: Samples, plain: naive.Naive, windows: Any, options: dict[str, Any], indices: list[int]) -> None:
    """One by one, as a list and as a batch: what the slow twin gives."""
    anchors = plain.anchors(alignment=options["alignment"])
    assert len(samples) == len(anchors)
    expected = [plain.sample(*anchors[index], windows, **options) for index in indices]
    for index, sample in zip(indices, expected):
        assert_same_sample(samples[index], sample)
    for found, sample in zip(samples.__getitems__(indices), expected):
        assert_same_sample(found, sample)
    if "states" not in windows:  # of a width of its own in each episode
        batch = samples.batch(indices)
        for at, sample in enumerate(expected):
            assert_same_sample({key: _at(key, column, at) for key, column in batch.items()}, sample)


def _at(key: str, column: Any, at: int) -> Any:
    return int(column[at]) if key in ("episode", "step") else column[at] if key == "task" else column[at, ...]


@pytest.mark.parametrize("preset", PRESETS)
@given(windows, options, st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_samples_are_those_of_the_slow_twin(
    tiny_stores: dict[str, Path], preset: str, windows: Any, options: dict[str, Any], drawn: list[int]
) -> None:
    samples = Samples(open_store(tiny_stores[preset]), windows=windows, **options)
    check(samples, TINY, windows, options, [number % len(samples) for number in drawn])


@pytest.mark.parametrize("store", ["mixed_store", "parts_store"])
@given(windows, options, st.lists(st.integers(0, 10**6), min_size=1, max_size=6))
@settings(max_examples=40)
def test_sources_of_every_convention_may_be_in_one_batch_in_one_part_or_several(
    request: pytest.FixtureRequest, store: str, windows: Any, options: dict[str, Any], drawn: list[int]
) -> None:
    samples = Samples(open_store(request.getfixturevalue(store)), windows=windows, **options)
    check(samples, conventional_naive(), windows, options, [number % len(samples) for number in drawn])


@pytest.mark.parametrize("preset", PRESETS)
def test_samples_of_the_demonstrations_are_those_that_h5py_gives(
    demo_stores: dict[str, Path], demos: Path, preset: str
) -> None:
    pytest.importorskip("h5py", reason="the slow twin reads HDF5")
    plain, rng = naive.of_hdf5(demos / "libero"), np.random.default_rng(PRESETS.index(preset))
    store = open_store(demo_stores[preset])
    cases = [
        ({**NEAR, "actions": range(64)}, {"alignment": "causal", "images": "upright", "dtype": "float32"}),
        ({"agentview_rgb": [500, -3, -3, 0], "eye_in_hand_rgb": 1, "actions": [9, 3, -900]}, {"alignment": "as_stored", "images": "as_stored"}),
        ({"agentview_rgb": 0, "rewards": range(400), "dones": [-2, -1]}, {"alignment": "causal", "images": "upright", "pad": "zero"}),
        ({"eye_in_hand_rgb": [-2, -1], "states": [-7, 0], "joint_states": [2]}, {"alignment": "causal", "images": "rot180"}),
    ]  # fmt: skip
    for windows, chosen in cases:
        samples = Samples(store, windows=windows, **chosen)
        check(samples, plain, windows, chosen, [0, len(samples) - 1, *rng.integers(0, len(samples), 14).tolist()])


def test_the_union_of_all_samples_is_every_step_once(demo_store: Path) -> None:
    store = open_store(demo_store)
    samples = Samples(store, windows={"actions": 0})
    seen = [(sample["episode"], sample["step"]) for sample in samples]
    assert seen == [(each.episode, step) for each in store.episodes for step in range(each.length)]
    assert len(seen) == store.rows == 2_058
    assert np.array_equal(samples.batch(range(len(samples)))["actions"], store.read("actions", range(store.rows)))


@pytest.mark.parametrize("keep_first", [False, True])
@pytest.mark.parametrize("store", ["tiny_store", "mixed_store", "parts_store", "demo_store"])
def test_causal_anchors_are_every_step_once_but_first_ones_without_an_observation(
    request: pytest.FixtureRequest, store: str, keep_first: bool
) -> None:
    opened = open_store(request.getfixturevalue(store))
    after = {(each.suite, each.file) for each in opened.conventions.sources if each.observation == "after"}
    expected = [
        (each.episode, step)
        for each in opened.episodes
        for step in range(each.length)
        if keep_first or step > 0 or (each.suite, each.file) not in after
    ]
    samples = Samples(opened, windows={"actions": 0}, alignment="causal", keep_first=keep_first)
    assert [(sample["episode"], sample["step"]) for sample in samples] == expected
    batch = samples.batch(np.arange(len(samples)))
    assert list(zip(batch["episode"].tolist(), batch["step"].tolist())) == expected


def test_the_first_causal_anchors_repeat_the_first_observation_and_say_so(tiny_store: Path) -> None:
    samples = Samples(tiny_store, windows={"ee_pos": [-1, 0], "actions": 0}, alignment="causal", keep_first=True)
    first, second, third = samples[0], samples[1], samples[2]
    rows = open_store(tiny_store).read("ee_pos", [0, 1])
    assert [first["step"], second["step"], third["step"]] == [0, 1, 2]
    assert first["ee_pos_is_pad"].tolist() == [True, True]
    assert second["ee_pos_is_pad"].tolist() == [True, False]
    assert third["ee_pos_is_pad"].tolist() == [False, False]
    assert np.array_equal(first["ee_pos"], rows[[0, 0]])
    assert np.array_equal(second["ee_pos"], rows[[0, 0]])
    assert np.array_equal(third["ee_pos"], rows[[0, 1]])


def test_windows_that_mix_observations_and_actions_must_name_an_alignment(tiny_store: Path) -> None:
    with pytest.raises(OptionError, match="alignment must be named") as caught:
        Samples(tiny_store, windows=NEAR)
    text = str(caught.value)
    assert "causal " in text
    assert "as_stored " in text
    assert "agentview_rgb, eye_in_hand_rgb, robot_states" in text
    assert len(text.splitlines()) < 24


def test_windows_that_do_not_mix_them_need_no_alignment(tiny_store: Path, mixed_store: Path) -> None:
    assert Samples(tiny_store, windows={"agentview_rgb": 0}, images="as_stored").alignment == "as_stored"
    assert Samples(tiny_store, windows={"actions": 0, "rewards": 0}).alignment == "as_stored"
    before = Samples(mixed_store, windows=NEAR, suites="suite_1", images="as_stored")  # recorded before the action
    assert len(before) == 16


def test_default_windows_are_every_fixed_field_at_the_anchor(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    sample = Samples(store, alignment="causal", images="as_stored")[0]
    fixed = [name for name, field in store.fields.items() if field.kind == "fixed"]
    assert [key for key in sample if key in store.fields] == fixed
    assert sample["agentview_rgb"].shape == (16, 24, 3)
    assert sample["rewards"].shape == ()
    assert sample["rewards_is_pad"].shape == ()
    assert "states" not in sample


def test_negative_numbers_count_from_the_end_and_numpy_numbers_are_numbers(tiny_store: Path) -> None:
    samples = Samples(tiny_store, windows={"actions": 0})
    last = samples[len(samples) - 1]
    assert_same_sample(samples[-1], last)
    assert_same_sample(samples[np.int64(len(samples) - 1)], last)
    assert_same_sample(samples[np.uint8(3)], samples[3])
    assert_same_sample(samples.__getitems__([-1])[0], last)
    assert_same_sample(samples.__getitems__(np.array([3], np.uint16))[0], samples[3])


@pytest.mark.parametrize("index", [137, -138, 10**12])
def test_a_sample_past_either_end_is_an_index_error(tiny_store: Path, index: int) -> None:
    samples = Samples(tiny_store, windows={"actions": 0})
    assert len(samples) == 137
    with pytest.raises(IndexError, match=f"sample {index} of 137"):
        samples[index]
    with pytest.raises(IndexError, match=f"sample {index} of 137"):
        samples.batch([0, index])
    with pytest.raises(IndexError, match=f"sample {2**64 - 1} of 137"):
        samples.batch(np.array([2**64 - 1], np.uint64))


def test_an_index_that_is_no_whole_number_is_refused(tiny_store: Path) -> None:
    samples = Samples(tiny_store, windows={"actions": 0})
    for index in (1.0, [1, 2], np.array([1, 2]), None):
        with pytest.raises(TypeError, match=r"one whole number.*dataset.batch\(\[1, 2, 3\]\) is for many"):
            samples[index]  # type: ignore[index]
    with pytest.raises(OptionError, match="whole numbers"):
        samples.batch([0.5])
    with pytest.raises(OptionError, match="whole numbers"):
        samples.batch([[0]])


def test_arrays_are_fresh_and_writable(tiny_store: Path) -> None:
    samples = Samples(tiny_store, windows=NEAR, alignment="causal", images="as_stored")
    first = samples[5]
    arrays = [value for value in first.values() if isinstance(value, np.ndarray)]
    assert len(arrays) == 8
    for value in arrays:
        value[...] = 1
    batch = samples.batch([5, 5, 6])
    kept = {key: np.copy(value) for key, value in batch.items()}
    again = samples.batch([5, 5, 6])
    for value in again.values():
        if isinstance(value, np.ndarray):
            value[...] = 0
    assert all(np.array_equal(batch[key], kept[key]) for key in kept)
    assert_same_sample(samples[5], naive.of_tiny().sample(0, 6, NEAR, alignment="causal"))


def test_the_samples_of_one_list_do_not_share_memory(tiny_store: Path) -> None:
    samples = Samples(tiny_store, windows=NEAR, alignment="causal", images="as_stored")
    one, same, other = samples.__getitems__([5, 5, 6])
    one["agentview_rgb"][...] = 0
    one["actions"][...] = 0
    assert_same_sample(same, samples[5])
    assert_same_sample(other, samples[6])


def test_out_is_filled_and_returned(tiny_stores: dict[str, Path]) -> None:
    for preset in PRESETS:
        samples = Samples(tiny_stores[preset], windows=NEAR, alignment="causal", dtype="float32", images="upright")
        out = samples.allocate(4)
        for array in out.values():
            array[...] = 1
        indices = [7, 120, 7, 64]
        made = samples.batch(indices, out=out)
        expected = samples.batch(indices)
        assert set(out) == set(made) - {"task"}
        for name, array in out.items():
            assert made[name] is array
            assert np.array_equal(array, expected[name])
            assert array.dtype == expected[name].dtype


def test_out_may_name_some_arrays_only(tiny_store: Path) -> None:
    samples = Samples(tiny_store, windows=NEAR, alignment="causal", images="as_stored")
    actions = np.empty((2, 16, 7))
    made = samples.batch([1, 2], out={"actions": actions})
    assert made["actions"] is actions
    assert np.array_equal(actions, samples.batch([1, 2])["actions"])


def test_an_out_that_does_not_fit_is_refused_with_what_would(tiny_store: Path) -> None:
    samples = Samples(tiny_store, windows=NEAR, alignment="causal", images="as_stored")
    fit = np.zeros((2, 16, 7))
    for wrong in (fit[:1], fit.astype("float32"), np.empty((2, 7, 16)).transpose(0, 2, 1)):
        with pytest.raises(OptionError, match=r"(?s)out does not fit.*actions.*\(2, 16, 7\) float64"):
            samples.batch([1, 2], out={"actions": wrong})
    with pytest.raises(UnknownName, match="action"):
        samples.batch([1, 2], out={"action": fit})


def test_an_out_that_cannot_be_written_or_is_no_array_is_refused(tiny_store: Path) -> None:
    samples = Samples(tiny_store, windows={"actions": 0})
    locked = np.empty((2, 7))
    locked.flags.writeable = False
    for wrong, found in ((locked, "read-only"), ([[0.0] * 7] * 2, "list")):
        with pytest.raises(OptionError, match=rf"(?s)out does not fit.*actions.*{found}"):
            samples.batch([1, 2], out={"actions": wrong})  # type: ignore[dict-item]


@pytest.mark.parametrize("selection", [{}, {"suites": ["libero_goal", "libero_10"]}, {"rows": [3, 4]}])
def test_an_empty_batch_is_a_batch(tiny_store: Path, selection: dict[str, Any]) -> None:
    windows = {**NEAR, "states": [0, 1]}
    batch = Samples(tiny_store, windows=windows, alignment="causal", images="as_stored", **selection).batch([])
    assert batch["actions"].shape == (0, 16, 7)
    assert batch["states"] == batch["task"] == []


@pytest.mark.parametrize("fetcher", ["mmap", "pread"])
@pytest.mark.parametrize("offsets", [0, [-1, 0], [5, -60, 0, 0]])
def test_one_sample_reads_each_field_once_and_all_of_them_together(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch, fetcher: str, offsets: Any
) -> None:
    store = open_store(tiny_store, fetcher=fetcher)
    samples = Samples(
        store, windows={"states": 0, "actions": offsets, "agentview_rgb": offsets}, images="upright", alignment="causal"
    )
    storage, asked = parts_of(store).fetcher, list[Any]()
    read = storage.read
    expected = [samples.__getitems__([index])[0] for index in (0, 7, 30)]  # and tables and shards are open
    monkeypatch.setattr(storage, "read", lambda ranges: (ranges and asked.append(ranges)) or read(ranges))
    for index, sample in zip((0, 7, 30), expected):
        assert_same_sample(samples[index], sample)
    assert len(asked) == (3 if fetcher == "pread" else 0)


def test_a_background_at_hand_when_located_is_not_fetched_again(
    tiny_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "BACKGROUNDS_NBYTES", 1)
    store = open_store(tiny_store, fetcher="pread")
    samples = Samples(store, windows={"agentview_rgb": 0}, images="as_stored")
    first, second, third = store.episodes.starts[:3].tolist()
    expected = samples.batch([second, third, first])
    samples.batch([first])
    located = samples.locate([second, third, first])
    data = samples.fetch(located)
    monkeypatch.setattr(parts_of(store).fetcher, "read", None)
    assert np.array_equal(samples.assemble(located, data)["agentview_rgb"], expected["agentview_rgb"])


def test_zeros_for_padding_read_no_picture(tiny_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = Samples(tiny_store, windows={"agentview_rgb": [-60, 0]}, pad="zero", images="upright")
    expected, asked = Samples(tiny_store, windows={"agentview_rgb": 0}, images="upright"), list[int]()
    located = EncodedShards.locate
    pictures = [expected[index]["agentview_rgb"] for index in range(4)]
    monkeypatch.setattr(EncodedShards, "locate", lambda shards, rows: asked.extend(rows) or located(shards, rows))
    for index, picture in enumerate(pictures):
        for sample in (samples[index], samples.__getitems__([index])[0]):
            assert not sample["agentview_rgb"][0].any()
            assert np.array_equal(sample["agentview_rgb"][1], picture)
    assert asked == [0, 0, 1, 1, 2, 2, 3, 3]


def test_data_of_another_batch_is_refused(tiny_store: Path) -> None:
    samples = Samples(open_store(tiny_store, fetcher="pread"), windows={"agentview_rgb": 0}, images="as_stored")
    located = samples.locate([1, 2])
    for data in ([], samples.fetch(samples.locate([1]))):
        with pytest.raises(OptionError, match="what `fetch` gives"):
            samples.assemble(located, data)


def test_a_ragged_field_is_read_as_wide_as_its_episode_and_refused_in_a_batch_of_several(tiny_store: Path) -> None:
    samples = Samples(tiny_store, windows={"states": [0, 1]})
    rows = {each.suite: each.start for each in samples.store.episodes}
    narrow, wide = rows["libero_goal"], rows["libero_10"]
    assert samples[narrow]["states"].shape == (2, 12)
    assert samples[wide]["states"].shape == (2, 17)
    assert samples.batch([wide, wide + 1])["states"].shape == (2, 2, 17)
    with pytest.raises(OptionError, match=r"(?s)'states' has several widths.*12, 17"):
        samples.batch([wide, narrow])
    listed = samples.__getitems__([wide, narrow])
    assert [sample["states"].shape for sample in listed] == [(2, 17), (2, 12)]


def test_a_transform_is_called_with_each_sample_and_its_result_is_the_sample(tiny_store: Path) -> None:
    plain = Samples(tiny_store, windows={"actions": 0})
    samples = Samples(tiny_store, windows={"actions": 0}, transform=lambda sample: sample["actions"].sum())
    assert samples[3] == plain[3]["actions"].sum()
    assert samples.__getitems__([3, 4]) == [plain[3]["actions"].sum(), plain[4]["actions"].sum()]
    with pytest.raises(OptionError, match="transform"):
        samples.batch([3])


def test_dtype_converts_floating_fields_and_no_others(tiny_store: Path) -> None:
    sample = Samples(tiny_store, alignment="causal", dtype=np.float32, images="as_stored")[0]
    assert {sample[name].dtype.name for name in ("actions", "ee_pos", "robot_states")} == {"float32"}
    assert sample["agentview_rgb"].dtype == sample["rewards"].dtype == np.uint8


@pytest.mark.parametrize(
    ("option", "value", "exists"),
    [
        ("alignment", "causual", "causal, as_stored"),
        ("pad", "reflect", "edge, zero"),
        ("images", "flipped", "as_stored, upright, rot180"),
        ("dtype", "int32", "float16, float32, float64"),
        ("dtype", "float33", "float16, float32, float64"),
        ("windows", {"action": 0}, "actions, agentview_rgb"),
        ("transform", "normalise", "transform is a function"),
    ],
)
def test_an_unknown_option_is_an_error_that_lists_what_exists(
    tiny_store: Path, option: str, value: Any, exists: str
) -> None:
    with pytest.raises((UnknownName, OptionError), match=exists):
        Samples(tiny_store, **{"windows": {"actions": 0}, option: value})


def test_an_option_that_does_not_exist_is_an_error(tiny_store: Path) -> None:
    with pytest.raises(UnknownName, match="suite") as raised:
        Samples(tiny_store, suite="libero_10")
    assert isinstance(raised.value, TypeError)


def test_keep_first_without_causal_alignment_is_refused(tiny_store: Path) -> None:
    with pytest.raises(OptionError, match="causal"):
        Samples(tiny_store, windows={"actions": 0}, keep_first=True)


def test_samples_pickle_small_and_are_the_same_afterwards(tiny_store: Path, demo_store: Path) -> None:
    for store in (tiny_store, demo_store):
        samples = Samples(store, windows={**NEAR, "actions": range(64)}, alignment="causal", images="upright")
        expected = [samples[0], samples[-1], *samples.__getitems__([5, 3])]  # everything lazy has been made
        data = pickle.dumps(samples)
        assert len(data) < 8_000
        copy = pickle.loads(data)
        for found, sample in zip([copy[0], copy[-1], *copy.__getitems__([5, 3])], expected):
            assert_same_sample(found, sample)
        assert repr(copy) == repr(samples)


def test_threads_may_share_samples(tiny_stores: dict[str, Path]) -> None:
    for preset in PRESETS:
        samples = Samples(tiny_stores[preset], windows=NEAR, alignment="causal", images="rot180")
        fresh = pickle.loads(pickle.dumps(samples))
        indices = list(range(len(samples))) * 3
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            for index, sample in zip(indices, pool.map(fresh.__getitem__, indices)):
                assert_same_sample(sample, samples[index])


def test_statistics_are_of_the_selected_rows(tiny_store: Path) -> None:
    windows = {"actions": range(3), "ee_pos": 0, "rewards": 0, "agentview_rgb": 0, "states": 0}
    store = open_store(tiny_store)
    samples = Samples(store, windows=windows, alignment="causal", suites="libero_goal", images="as_stored")
    spans, rows = [], []
    for each in store.episodes:
        if each.suite == "libero_goal":
            spans.append((len(rows), len(rows) + each.length))
            rows += range(each.start, each.start + each.length)
    found = samples.statistics()
    assert list(found) == ["actions", "ee_pos", "rewards"]
    for name, statistics in found.items():
        expected = field_statistics(store.read(name, rows), spans)
        assert statistics.to_json() == expected.to_json()
        assert statistics.to_json() == store.statistics.suites["libero_goal"][name].to_json()


def test_statistics_of_everything_are_those_of_the_store(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    whole = Samples(store, windows={"actions": 0}).statistics()["actions"]
    selected = Samples(store, windows={"actions": 0}, rows=range(store.rows)).statistics()["actions"]
    assert whole.to_json() == selected.to_json() == store.statistics.all["actions"].to_json()
    assert whole.min.shape == (7,)


def test_the_repr_says_what_one_trains_on(tiny_store: Path) -> None:
    samples = Samples(
        tiny_store, windows=NEAR, alignment="causal", images="upright", suites=["libero_spatial"], dtype="float32"
    )
    text = repr(samples)
    assert "65 anchors (4 steps without a recorded observation are no anchors)" in text
    for part in (
        "suites=[libero_spatial]",
        "actions range(0, 16)",
        "agentview_rgb [-1, 0]",
        "robot_states 0",
        "causal",
    ):
        assert part in text
    assert "images     upright (stored bottom_up)" in text
    assert "float32" in text
    assert str(tiny_store) in text


def test_a_list_of_samples_is_a_view_of_the_batch_and_knows_whether_it_was_seen(tiny_store: Path) -> None:
    samples = Samples(tiny_store, windows=NEAR, alignment="causal", images="as_stored")
    batch = samples.__getitems__([1, 2, 3])
    assert isinstance(batch, Batch)
    assert len(batch) == 3
    assert batch.is_untouched
    assert [sample["step"] for sample in batch[1:]] == [3, 4]
    assert not batch.is_untouched
    assert batch[-1] is batch[2]
    batch[0]["actions"][...] = 7
    assert (batch.arrays["actions"][0] == 7).all()


# --- the task: its text, its number, or neither ---------------------------------------------------------------------------


def test_the_number_of_a_task_is_that_of_its_text(tiny_store: Path) -> None:
    options = {"windows": {"actions": range(2)}}
    texts, numbers = Samples(tiny_store, **options), Samples(tiny_store, task="index", **options)
    assert list(numbers[0]) == ["actions", "actions_is_pad", "task_index", "episode", "step"]
    assert len(set(numbers.task_texts)) == len(numbers.task_texts) == 4
    for index in (0, 60, -1):
        assert type(numbers[index]["task_index"]) is int
        assert numbers.task_texts[numbers[index]["task_index"]] == texts[index]["task"]
    batch = numbers.batch(range(len(numbers)))
    assert batch["task_index"].dtype == np.int64
    assert [numbers.task_texts[number] for number in batch["task_index"]] == texts.batch(range(len(texts)))["task"]
    assert type(numbers.__getitems__([3])[0]["task_index"]) is int
    assert "task       its number in task_texts" in repr(numbers)


def test_numbers_of_tasks_are_the_same_for_every_selection_and_after_pickling(tiny_store: Path) -> None:
    options = {"windows": {"actions": 0}, "task": "index"}
    whole = Samples(tiny_store, **options)
    last = pickle.loads(pickle.dumps(Samples(tiny_store, rows=[136], **options)))
    assert last.task_texts == whole.task_texts
    assert last[0]["task_index"] == whole[-1]["task_index"] != whole[0]["task_index"]


def test_a_task_that_is_left_out_is_not_there(tiny_store: Path) -> None:
    samples = Samples(tiny_store, windows={"actions": 0}, task=None)
    assert list(samples[0]) == list(samples.batch([0])) == ["actions", "actions_is_pad", "episode", "step"]
    assert len(samples.__getitems__([1, 2])) == 2
    assert "task       left out" in repr(samples)


def test_the_number_is_filled_where_it_is_told(tiny_store: Path) -> None:
    samples = Samples(tiny_store, windows={"actions": 0}, task="index")
    out = samples.allocate(2)
    assert samples.batch([0, 136], out)["task_index"] is out["task_index"]
    assert out["task_index"].tolist() == [samples[0]["task_index"], samples[136]["task_index"]]


@pytest.mark.parametrize("task", ["number", "", 0, True])
def test_a_task_that_cannot_be_is_refused(tiny_store: Path, task: Any) -> None:
    with pytest.raises(UnknownName, match="exists  text, index, None"):
        Samples(tiny_store, task=task)


def test_the_number_of_a_text_that_an_episode_has_of_its_own_is_of_that_text(tmp_path: Path) -> None:
    pytest.importorskip("zarr", reason="building needs zarr")

    def state(file: Any) -> None:
        for demo, text in zip(each_demo(file), ("open it", "close it", "open it")):
            demo.attrs["lang"] = text

    build_store([odd_file(tmp_path, state)], tmp_path / "own.vla")
    samples = Samples(tmp_path / "own.vla", windows={"actions": 0}, task="index")
    texts = Samples(tmp_path / "own.vla", windows={"actions": 0})
    found = [samples.task_texts[number] for number in samples.batch(range(len(samples)))["task_index"]]
    assert found == texts.batch(range(len(texts)))["task"]
    assert set(found) == {"open it", "close it"}
    assert [samples.task_texts[samples[at]["task_index"]] for at in range(len(samples))] == found


@pytest.mark.parametrize("kind", ["mixed_store", "parts_store"])
@pytest.mark.parametrize(
    ("chosen", "lie"),
    [
        ({}, "bottom_up and rot180"),
        ({"suites": "suite_0"}, "bottom_up"),
        ({"suites": ["suite_2", "suite_3"]}, "rot180"),
        ({"rows": [20, 14, 20]}, "bottom_up"),  # of suite_1 and suite_0
        ({"rows": range(29, 46)}, "bottom_up and rot180"),  # from the last of suite_1 to the first of suite_3
    ],
    ids=str,
)
def test_pictures_that_lie_otherwise_than_seen_warn_once_where_images_was_not_named(
    request: pytest.FixtureRequest, kind: str, chosen: dict[str, Any], lie: str
) -> None:
    store = open_store(request.getfixturevalue(kind))
    with pytest.warns(UserWarning, match=f"lie {lie}, and are given so") as caught:
        samples = Samples(store, windows={"agentview_rgb": 0, "actions": [0, 1]}, alignment="causal", **chosen)
    assert len(caught) == 1
    text = str(caught[0].message)
    assert all(f'images="{name}"' in text for name in ("upright", "as_stored", "rot180"))
    assert store.url in text
    assert caught[0].filename == __file__
    again = pickle.loads(pickle.dumps(samples))  # in a worker: a warning would be an error here
    expected = Samples(
        store, windows={"agentview_rgb": 0, "actions": [0, 1]}, alignment="causal", images="as_stored", **chosen
    )
    assert np.array_equal(again[0]["agentview_rgb"], expected[0]["agentview_rgb"])
    assert repr(samples) == repr(expected)


@pytest.mark.parametrize("kind", ["mixed_store", "parts_store"])
@pytest.mark.parametrize("chosen", [{"suites": "suite_2"}, {"episodes": [5, 6]}, {"rows": [31, 30, 39]}], ids=str)
def test_nothing_is_said_where_pictures_lie_as_seen(
    request: pytest.FixtureRequest, kind: str, chosen: dict[str, Any]
) -> None:
    Samples(request.getfixturevalue(kind), windows={"agentview_rgb": 0}, **chosen)


def test_nothing_is_said_where_no_pictures_are_asked_for(tiny_store: Path) -> None:
    Samples(tiny_store, windows={"actions": 0, "rewards": 0})


def test_one_sample_of_numbers_in_several_shards_is_read_without_a_batch(
    tiny_source: Path, tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("zarr", reason="building needs zarr")
    given = {"actions": range(-3, 16), "robot_states": 0, "dones": [5, -2], "states": [0, 1]}
    whole = Samples(tiny_store, windows=given, alignment="causal")
    expected = [whole[index] for index in range(len(whole))]
    monkeypatch.setattr(layout, "NUMERIC_SHARD_BYTES", 1)  # one chunk a shard, so 64 rows
    build_store(tiny_source, tmp_path / "cut.vla")
    cut = Samples(tmp_path / "cut.vla", windows=given, alignment="causal")
    assert len(list((tmp_path / "cut.vla").glob("parts/*/steps/actions/c/*/*"))) == 3
    for found, sample in zip(cut.__getitems__(range(len(cut))), expected):
        assert_same_sample(found, sample)
    monkeypatch.setattr(PartReader, "choose", None)
    for index, sample in enumerate(expected):
        assert_same_sample(cut[index], sample)
