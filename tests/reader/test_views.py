"""Samples under views: against the rules step by step over lists, and against the slow twin over arrays with rows deleted."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reader import naive
from reader.conftest import conventional_naive
from reader.naive import assert_same_sample
from view_tools import put_views, steps_sample, tasks_of, view_json

import vla_store
from vla_store import OptionError, Samples, StoreDamaged, UnknownName, UnsupportedStore, open_store
from vla_store.format.statistics import field_statistics

PLAIN = conventional_naive()
TASKS = tasks_of(PLAIN)
ROWS = sum(map(len, PLAIN.episodes))
SOME = {"agentview_rgb": [-1, 0], "robot_states": 0, "ee_pos": [-2, 1, 1], "actions": range(6), "states": [0, 3]}

windows = st.dictionaries(
    st.sampled_from(["agentview_rgb", "eye_in_hand_rgb", "actions", "robot_states", "rewards", "ee_pos", "states"]),
    st.integers(-14, 14) | st.lists(st.integers(-14, 14), min_size=1, max_size=6) | st.just(list(range(-3, 9))),
    min_size=1,
)
options = st.fixed_dictionaries(
    {
        "alignment": st.sampled_from(["causal", "as_stored"]),
        "images": st.sampled_from(["as_stored", "upright", "rot180"]),
        "pad": st.sampled_from(["edge", "zero"]),
        "dtype": st.sampled_from([None, "float32"]),
    }
)
# Of each episode: whatever, nothing, all.
masks = st.tuples(
    *(
        st.lists(st.booleans(), min_size=len(each), max_size=len(each))
        | st.just([False] * len(each))
        | st.just([True] * len(each))
        for each in PLAIN.episodes
    )
)


@pytest.fixture(scope="module", params=["mixed_store", "parts_store"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy whose views a test may set."""
    return Path(
        shutil.copytree(request.getfixturevalue(request.param), tmp_path_factory.mktemp("views") / request.param)
    )


def anchors_of(kept: Any, *, alignment: str, keep_first: bool = False) -> list[tuple[int, int]]:
    every = PLAIN.anchors(alignment=alignment, keep_first=keep_first)
    return [(episode, step) for episode, step in every if kept[episode][step]]


def check(samples: Samples, expected: list[dict[str, Any]], indices: list[int]) -> None:
    """One by one, as a list, and as a batch."""
    for index, sample in zip(indices, expected):
        assert_same_sample(samples[index], sample)
    for found, sample in zip(samples.__getitems__(indices), expected):
        assert_same_sample(found, sample)
    if not any(samples.store.fields[window.field].is_ragged for window in samples.windows):
        batch = samples.batch(indices)
        for key in expected[0] if expected else ():
            assert np.array_equal(np.asarray(batch[key]), np.stack([np.asarray(each[key]) for each in expected])), key


@settings(max_examples=40)
@given(masks, windows, options, st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_windows_over_kept_steps_are_those_of_lists_of_them(
    store: Path, kept: Any, windows: Any, options: dict[str, Any], drawn: list[int]
) -> None:
    put_views(store, {"some": view_json("steps", kept, TASKS)})
    anchors = anchors_of(kept, alignment=options["alignment"])
    if not anchors:
        with pytest.raises(OptionError, match="selection is empty"):
            Samples(store, windows=windows, view="some", **options)
        return
    samples = Samples(store, windows=windows, view="some", **options)
    assert len(samples) == len(anchors)
    indices = [number % len(anchors) for number in drawn]
    check(samples, [steps_sample(PLAIN, *anchors[at], kept[anchors[at][0]], windows, **options) for at in indices], indices)  # fmt: skip


@settings(max_examples=25)
@given(masks, windows, options, st.lists(st.integers(0, 10**6), min_size=1, max_size=5), st.booleans())
def test_windows_around_kept_anchors_see_every_step(
    store: Path, kept: Any, windows: Any, options: dict[str, Any], drawn: list[int], keep_first: bool
) -> None:
    put_views(store, {"some": view_json("anchors", kept, TASKS)})
    keep_first = keep_first and options["alignment"] == "causal"
    anchors = anchors_of(kept, alignment=options["alignment"], keep_first=keep_first)
    if not anchors:
        with pytest.raises(OptionError, match="selection is empty"):
            Samples(store, windows=windows, view="some", keep_first=keep_first, **options)
        return
    samples = Samples(store, windows=windows, view="some", keep_first=keep_first, **options)
    assert [(each["episode"], each["step"]) for each in samples] == anchors
    indices = [number % len(anchors) for number in drawn]
    check(samples, [PLAIN.sample(*anchors[at], windows, **options) for at in indices], indices)


@settings(max_examples=20)
@given(masks, windows, options)
def test_where_rows_hold_what_belongs_together_it_is_as_if_the_other_rows_were_deleted(
    store: Path, kept: Any, windows: Any, options: dict[str, Any]
) -> None:
    # As they are stored, and causally for sources that observe before the action.
    put_views(store, {"some": view_json("steps", kept, TASKS)})
    before = [at for at, each in enumerate(PLAIN.episodes) if each.observation == "before"]
    if options["alignment"] == "as_stored":
        before = list(range(len(PLAIN.episodes)))
    whole = [at for at in before if any(kept[at])]
    if not whole:
        return
    shorter = naive.Naive(
        [
            dataclasses.replace(
                PLAIN.episodes[at], arrays={k: v[np.array(kept[at])] for k, v in PLAIN.episodes[at].arrays.items()}
            )
            for at in whole
        ]
    )
    samples = Samples(store, windows=windows, view="some", episodes=whole, **options)
    anchors = shorter.anchors(alignment=options["alignment"])
    assert len(samples) == len(anchors)
    for found, (number, time) in zip(samples.__getitems__(range(len(anchors))), anchors):
        expected = shorter.sample(number, time, windows, **options)
        assert_same_sample(
            found, expected | {"episode": whole[number], "step": int(np.flatnonzero(kept[whole[number]])[time])}
        )


@pytest.mark.parametrize("kind", ["anchors", "steps"])
@given(windows, options, st.lists(st.integers(0, 10**6), min_size=1, max_size=5), st.booleans())
@settings(max_examples=20)
def test_a_view_that_keeps_every_step_changes_nothing(
    store: Path, kind: str, windows: Any, options: dict[str, Any], drawn: list[int], keep_first: bool
) -> None:
    put_views(store, {"all": view_json(kind, [[True] * len(each) for each in PLAIN.episodes], TASKS)})
    options = {**options, "keep_first": keep_first and options["alignment"] == "causal"}
    whole, viewed = Samples(store, windows=windows, **options), Samples(store, windows=windows, view="all", **options)
    assert len(whole) == len(viewed)
    assert whole.identity == viewed.identity
    indices = [number % len(whole) for number in drawn]
    check(viewed, [whole[index] for index in indices], indices)


def test_a_window_over_the_first_kept_steps_repeats_the_first_of_them_and_says_so(store: Path) -> None:
    """By hand: the first episode (9 steps, observed after the action) without steps 0, 3, 4 and 8."""
    mask = [False, True, True, False, False, True, True, True, False]
    put_views(store, {"v": view_json("steps", [mask, *([False] * len(each) for each in PLAIN.episodes[1:])], TASKS)})
    samples = Samples(store, windows={"ee_pos": [-1, 0, 1], "actions": range(3)}, view="v", alignment="causal")
    stored = open_store(store)
    rows = {name: stored.read(name, range(9)) for name in ("ee_pos", "actions")}
    assert [each["step"] for each in samples] == [1, 2, 5, 6, 7]
    first, third, last = samples[0], samples[2], samples[4]
    # Before step 1 comes what row 0 recorded, although step 0 is not there.
    assert np.array_equal(first["ee_pos"], rows["ee_pos"][[0, 0, 1]])
    assert first["ee_pos_is_pad"].tolist() == [True, False, False]
    assert np.array_equal(first["actions"], rows["actions"][[1, 2, 5]])
    # Before step 5 comes what row 4 recorded: step 4 is not there, but that is what was seen.
    assert np.array_equal(third["ee_pos"], rows["ee_pos"][[1, 4, 5]])
    assert np.array_equal(third["actions"], rows["actions"][[5, 6, 7]])
    # After the last kept step, 7, comes what its own row recorded; and no action.
    assert np.array_equal(last["ee_pos"], rows["ee_pos"][[5, 6, 7]])
    assert last["ee_pos_is_pad"].tolist() == [False, False, False]
    assert np.array_equal(last["actions"], rows["actions"][[7, 7, 7]])
    assert last["actions_is_pad"].tolist() == [False, True, True]


def random_masks(seed: int, share: float = 0.6) -> list[list[bool]]:
    rng = np.random.default_rng(seed)
    return [(rng.random(len(each)) < share).tolist() for each in PLAIN.episodes]


@pytest.mark.parametrize("kind", ["anchors", "steps"])
def test_views_and_other_selections_select_what_all_of_them_do(store: Path, kind: str) -> None:
    kept = random_masks(1)
    put_views(store, {"some": view_json(kind, kept, TASKS)})
    opened = open_store(store)
    train = set(opened.split("train", fraction=0.5).episodes.tolist())
    for selection, has in (
        ({"suites": ["suite_0", "suite_2"]}, lambda e, s: PLAIN.episodes[e].suite in ("suite_0", "suite_2")),
        ({"episodes": [0, 3, 4, 7]}, lambda e, s: e in (0, 3, 4, 7)),
        ({"split": opened.split("train", fraction=0.5)}, lambda e, s: e in train),
        ({"tasks": "do thing 1"}, lambda e, s: PLAIN.episodes[e].suite == "suite_1"),
    ):
        samples = Samples(opened, windows={"actions": 0}, view="some", alignment="causal", **selection)
        found = [(each["episode"], each["step"]) for each in samples]
        assert found == [each for each in anchors_of(kept, alignment="causal") if has(*each)]
        assert found, selection
    rows = np.random.default_rng(2).permutation(ROWS).tolist()
    samples = Samples(opened, windows={"actions": 0}, view="some", rows=rows)
    flat = [keeps for mask in kept for keeps in mask]
    places = [(number, step) for number, each in enumerate(PLAIN.episodes) for step in range(len(each))]
    assert [(each["episode"], each["step"]) for each in samples] == [places[row] for row in rows if flat[row]]


@given(masks, masks, st.sampled_from(["anchors", "steps"]), st.sampled_from(["anchors", "steps"]))
@settings(max_examples=25)
def test_several_views_keep_what_all_of_them_keep(store: Path, one: Any, other: Any, kind: str, second: str) -> None:
    put_views(store, {"a": view_json(kind, one, TASKS), "b": view_json(second, other, TASKS)})
    both = [[x and y for x, y in zip(*masks)] for masks in zip(one, other)]
    anchors = anchors_of(both, alignment="as_stored")
    if not anchors:
        return
    steps = {"steps anchors": one, "anchors steps": other, "steps steps": both}.get(f"{kind} {second}")
    samples = Samples(store, windows={"actions": range(-2, 3)}, view=["a", "b"])
    assert len(samples) == len(anchors)
    for index in (0, len(anchors) // 2, len(anchors) - 1):
        episode, step = anchors[index]
        if steps is None:
            expected = PLAIN.sample(episode, step, {"actions": range(-2, 3)})
        else:
            expected = steps_sample(PLAIN, episode, step, steps[episode], {"actions": range(-2, 3)})
        assert_same_sample(samples[index], expected)


@pytest.mark.parametrize("kind", ["anchors", "steps"])
def test_statistics_of_a_view_are_those_of_the_steps_it_keeps(store: Path, kind: str) -> None:
    kept = random_masks(3)
    put_views(store, {"some": view_json(kind, kept, TASKS)})
    found = Samples(store, windows={"actions": 0, "ee_pos": 0}, view="some", alignment="causal").statistics()
    rows, spans = [], []
    for mask, episode in zip(kept, PLAIN.episodes):
        if any(mask):
            spans.append((len(rows), len(rows) + sum(mask)))
            rows += list(episode.arrays["actions"][np.array(mask)])
    assert found["actions"].to_json() == field_statistics(np.stack(rows), spans).to_json()


@pytest.mark.parametrize("kind", ["anchors", "steps"])
def test_samples_with_a_view_pickle_and_say_which_it_is(store: Path, kind: str) -> None:
    kept = random_masks(4)
    put_views(store, {"some": view_json(kind, kept, TASKS)})
    samples = Samples(store, windows=SOME, view="some", alignment="causal", images="as_stored")
    _ = samples[0]
    there = pickle.loads(pickle.dumps(samples))
    for index in (0, 1, len(samples) - 1):
        assert_same_sample(there[index], samples[index])
    assert f"some ({kind}: predicate(fields=actions); {sum(map(sum, kept))} of {ROWS} steps)" in repr(samples)
    assert "view='some'" in repr(samples)


def test_samples_of_a_steps_view_are_fresh_and_writable(store: Path) -> None:
    put_views(store, {"some": view_json("steps", random_masks(5), TASKS)})
    samples = Samples(store, windows=SOME, view="some", alignment="causal", images="as_stored")
    before = samples[3]
    for value in samples[3].values():
        if isinstance(value, np.ndarray):
            value[...] = 1
    assert_same_sample(samples[3], before)


def test_torch_samples_and_batches_of_a_view_are_the_same(store: Path) -> None:
    torch = pytest.importorskip("torch")
    from vla_store.torch import Loader, StepDataset, collate

    put_views(store, {"some": view_json("steps", random_masks(6), TASKS)})
    chosen: dict[str, Any] = {
        "windows": {k: v for k, v in SOME.items() if k != "states"},
        "alignment": "causal",
        "images": "upright",
    }
    samples = Samples(store, view="some", **chosen)
    dataset = StepDataset(store, view="some", **chosen)
    whole = samples.batch(range(len(samples)))
    assert len(dataset) == len(samples)
    for key, value in dataset[2].items():
        assert np.array_equal(np.asarray(value), np.asarray(whole[key][2])), key
    seen: list[tuple[int, int]] = []
    plain = torch.utils.data.DataLoader(dataset, batch_size=5, num_workers=0, collate_fn=collate)
    for batches in (plain, Loader(dataset, batch_size=5, shuffle=True, workers=1)):
        seen = []
        for batch in batches:
            for at, place in enumerate(zip(batch["episode"].tolist(), batch["step"].tolist())):
                number = int(np.flatnonzero((whole["episode"] == place[0]) & (whole["step"] == place[1]))[0])
                seen.append(place)
                for key in chosen["windows"]:
                    assert np.array_equal(batch[key][at].numpy(), whole[key][number]), key
                    assert np.array_equal(batch[f"{key}_is_pad"][at].numpy(), whole[f"{key}_is_pad"][number]), key
        assert sorted(seen) == list(zip(whole["episode"].tolist(), whole["step"].tolist()))


def test_a_state_of_another_view_is_refused(store: Path) -> None:
    pytest.importorskip("torch")
    from vla_store.torch import Loader, StepDataset

    first, second = random_masks(7), random_masks(7)
    first[0][:3], second[0][:3] = [True, False, True], [True, True, False]
    put_views(store, {"a": view_json("anchors", first, TASKS), "b": view_json("anchors", second, TASKS)})
    loaders = [Loader(StepDataset(store, windows={"actions": 0}, view=name), batch_size=4, workers=0) for name in "ab"]
    assert len(loaders[0].dataset) == len(loaders[1].dataset)
    with pytest.raises(OptionError, match="another selection"):
        loaders[1].load_state_dict(loaders[0].state_dict())


# What a store says of its views


def test_a_store_lists_its_views_by_name_with_counts(store: Path) -> None:
    kept = random_masks(8)
    put_views(store, {"b": view_json("steps", kept, TASKS), "a": view_json("anchors", kept, TASKS)})
    views = open_store(store).views
    assert list(views) == ["a", "b"]
    view = views["b"]
    assert (view.kind, view.rule, view.steps, view.covered_steps) == ("steps", "predicate", sum(map(sum, kept)), ROWS)
    assert [(each.suite, each.kept_steps) for each in view.counts] == [
        (f"suite_{n}", sum(sum(mask) for mask, task in zip(kept, TASKS) if task[0] == f"suite_{n}")) for n in range(4)
    ]
    assert repr(view) == f"View('b', steps: predicate(fields=actions): {view.steps} of {ROWS} steps)"
    with pytest.raises(TypeError):
        views["c"] = view  # type: ignore[index]


def test_a_store_without_views_has_none(store: Path) -> None:
    put_views(store, None)
    assert dict(open_store(store).views) == {}
    with pytest.raises(UnknownName, match="there is no view 'x'") as caught:
        Samples(store, windows={"actions": 0}, view="x")
    assert "exists  none" in str(caught.value)


@pytest.mark.parametrize("view", [3, None, ["all", 3], "al", b"all"])
def test_a_view_that_does_not_exist_is_refused_and_those_that_do_are_listed(store: Path, view: Any) -> None:
    put_views(store, {"all": view_json("anchors", [[True] * len(each) for each in PLAIN.episodes], TASKS)})
    if view is None:
        assert len(Samples(store, windows={"actions": 0}, view=view)) == ROWS
        return
    with pytest.raises((UnknownName, OptionError), match=r"there is no view|view is a name, or a View") as caught:
        Samples(store, windows={"actions": 0}, view=view)
    assert re.search(r"(exists|views) +all", str(caught.value))


def test_an_empty_list_of_views_is_refused(store: Path) -> None:
    with pytest.raises(OptionError, match="names no view"):
        Samples(store, windows={"actions": 0}, view=[])


def test_rows_that_a_view_does_not_tell_of_are_left_out_and_a_warning_says_how_many(store: Path) -> None:
    first = [[True] * len(each) if at < 2 else [False] * len(each) for at, each in enumerate(PLAIN.episodes)]
    rows = sum(map(sum, first))
    told = view_json("steps", first[:2], TASKS[:2])
    put_views(store, {"old": told})
    with pytest.warns(UserWarning, match=rf"view 'old' tells of {rows} of the store's {ROWS} steps"):
        samples = Samples(store, windows={"actions": 0}, view="old")
    assert len(samples) == rows
    assert f"{ROWS - rows} it does not tell of" in repr(samples)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(pickle.dumps(samples))  # the warning is of who asked


def test_a_view_of_a_kind_of_a_newer_version_is_refused_at_its_use_and_the_others_work(store: Path) -> None:
    every = [[True] * len(each) for each in PLAIN.episodes]
    put_views(store, {"new": view_json("weights", every, TASKS), "old": view_json("anchors", every, TASKS)})
    assert len(Samples(store, windows={"actions": 0}, view="old")) == ROWS
    with pytest.raises(UnsupportedStore, match="view 'new' is of a kind 'weights'"):
        Samples(store, windows={"actions": 0}, view="new")


GOOD = view_json("steps", random_masks(9), TASKS)


def spoilt(change: Any) -> dict[str, Any]:
    document = {"views": {"v": copy.deepcopy(GOOD)}}
    change(document["views"]["v"], document)
    return document


HOSTILE: dict[str, Any] = {
    "no views": lambda view, document: document["views"].clear(),
    "another key": lambda view, document: document.update(more=1),
    "views are a list": lambda view, document: document.update(views=[view]),
    "a view is a number": lambda view, document: document["views"].update(v=7),
    "a name that is a path": lambda view, document: document["views"].update({"../x": view}),
    "a name beyond end": lambda view, document: document["views"].update({"x" * 65: view}),
    "too many": lambda view, document: document["views"].update({f"v{n}": view for n in range(256)}),
    "a key more": lambda view, document: view.update(more=1),
    "a key less": lambda view, document: view.pop("rule"),
    "kind is a number": lambda view, document: view.update(kind=1),
    "options are a list": lambda view, document: view.update(options=[]),
    "kept is a text": lambda view, document: view.update(kept="0 5"),
    "kept is odd": lambda view, document: view.update(kept=[*view["kept"], 1]),
    "kept has a zero": lambda view, document: view.update(kept=[0, 3, 0, 2]),
    "kept is negative": lambda view, document: view.update(kept=[-1, 3]),
    "kept holds true": lambda view, document: view.update(kept=[True, 3]),
    "kept goes beyond the rows": lambda view, document: view.update(kept=[0, ROWS + 1]),
    "kept sums to more than 64 bits": lambda view, document: view.update(kept=[2**53 - 1] * 4096),
    "kept is not covered": lambda view, document: (
        view.update(covered=[1, ROWS - 1], kept=[0, sum(view["kept"][1::2])]),
        view["counts"][0].update(steps=view["counts"][0]["steps"] - 1),
    ),
    "covered is less than what is counted": lambda view, document: view.update(covered=[0, 3]),
    "covered goes beyond the rows": lambda view, document: view.update(covered=[0, 2**52]),
    "counts are no list": lambda view, document: view.update(counts=5),
    "counts are texts": lambda view, document: view.update(counts=["x"]),
    "counts of a task twice": lambda view, document: view["counts"].append(view["counts"][0]),
    "counts sum to something else": lambda view, document: view["counts"].pop(),
    "a count is negative": lambda view, document: view["counts"][0].update(kept_steps=-1),
    "a count is true": lambda view, document: view["counts"][0].update(kept_episodes=True),
    "a count has another key": lambda view, document: view["counts"][0].update(x=1),
    "a task is a number": lambda view, document: view["counts"][0].update(task=1),
    "more episodes than steps": lambda view, document: view["counts"][0].update(episodes=10**6),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_document_of_views_is_damage_that_is_named(store: Path, name: str) -> None:
    document = spoilt(HOSTILE[name])
    root = put_views(store, None, document)
    opened = open_store(store)
    assert len(Samples(opened, windows={"actions": 0})) == ROWS  # who does not ask for views does not mind
    with pytest.raises(StoreDamaged, match="views are not as the format says") as caught:
        opened.views  # noqa: B018
    assert f"meta/{root.meta.views}.json" in str(caught.value)
    assert len(str(caught.value).splitlines()) < 12
    with pytest.raises(StoreDamaged):
        Samples(opened, windows={"actions": 0}, view="v")


def test_the_document_that_those_were_made_from_is_good(store: Path) -> None:
    put_views(store, None, spoilt(lambda view, document: None))
    assert len(Samples(store, windows={"actions": 0}, view="v")) == sum(each["kept_steps"] for each in GOOD["counts"])


def test_views_can_be_imported_from_the_package() -> None:
    assert vla_store.View.__doc__


def test_a_view_is_given_by_its_name_or_as_the_store_has_it(parts_store: Path, tmp_path: Path) -> None:
    store = tmp_path / "x.vla"
    shutil.copytree(parts_store, store)
    masks = [[at % 2 == 0 for at in range(len(each))] for each in PLAIN.episodes]
    other = [[at % 3 == 0 for at in range(len(each))] for each in PLAIN.episodes]
    put_views(store, {"even": view_json("steps", masks, TASKS), "third": view_json("anchors", other, TASKS)})
    opened = open_store(store)
    view = opened.views["even"]

    def digest(given: Any) -> str:
        return str(Samples(opened, windows={"actions": 0}, view=given, alignment="as_stored").identity["selection"])

    assert digest(view) == digest([view]) == digest("even") == digest({"even": view}) == digest(iter([view]))
    assert digest([view, opened.views["third"]]) == digest(("even", "third")) == digest({"even", "third"})
    assert "even (steps" in repr(Samples(opened, windows={"actions": 0}, view=view, alignment="as_stored"))
    put_views(store, {"even": view_json("steps", other, TASKS)})
    again = open_store(store)
    with pytest.raises(OptionError, match="is not the one that the store has") as raised:
        Samples(again, windows={"actions": 0}, view=view, alignment="as_stored")
    assert "give its name" in str(raised.value)
    with pytest.raises(UnknownName, match="no view 'third'"):
        Samples(again, windows={"actions": 0}, view=opened.views["third"], alignment="as_stored")
