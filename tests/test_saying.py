"""What sources say beside their data, from the source to the sample, and through everything that is done to a store."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_libero
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from own_sources import Own
from store_tools import run
from telling_sources import EPISODES, LABELLED, SETTLED, Telling, step_text
from tiny_reader import TinyStore

import vla_store
from vla_store import OptionError, SourceError, StoreDamaged, UnknownName, open_store
from vla_store.audit import verify_store
from vla_store.builder import build_store
from vla_store.format import canonical
from vla_store.format.schema import PartDocument
from vla_store.format.texts import merged_segments, sorted_instructions, texts_made, told_of
from vla_store.loader.batches import Batches
from vla_store.loader.dataset import served
from vla_store.manage.append import append_store
from vla_store.manage.copy import copy_store
from vla_store.manage.merge import merge_stores
from vla_store.manage.recode import recode_store
from vla_store.manage.repair import repair_store
from vla_store.reader.texts import Place

ROWS = 32
GOLDEN = [[0.153742, 0.38948], [0.343462, 0.997961], [0.820642, 0.886217]]
ARRAYS = ("texts/offsets", "texts/bytes", "texts/instructions", "episodes/instructions", "index/texts")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saying") / "told.vla"
    build_store([Telling()], path)
    return path


@pytest.fixture
def copied(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "told.vla"))


def samples(store: Any, **options: Any) -> vla_store.Samples:
    return vla_store.Samples(store, **{"windows": {"actions": 0}, **options})


def part_of(store: Path) -> Path:
    (entry,) = json.loads((store / "zarr.json").read_bytes())["attributes"]["vla_store"]["parts"]
    return store / str(entry["path"])


def assert_is_told(store: vla_store.Store, at: int = 0) -> None:
    """The three episodes from `at` on say what the source said, and so do their steps."""
    for number, (demo, (instructions, segments)) in enumerate(SETTLED.items(), at):
        assert store.episodes[number].number == demo
        assert list(store.instructions(number).items()) == list(instructions.items())
        assert store.segments(number) == segments
    whole = samples(store)
    batch = whole.batch(range(len(whole)))
    for number, (episode, step) in enumerate(zip(batch["episode"].tolist(), batch["step"].tolist())):
        if at <= episode < at + len(SETTLED):
            expected = step_text(store.episodes[episode].number, step)
            assert batch["task"][number] == whole[number]["task"] == expected


# --- what is kept ---------------------------------------------------------------------------------------------------------


def test_a_store_has_what_its_source_says(pristine: Path) -> None:
    store = open_store(pristine)
    assert_is_told(store)
    assert store.instruction_kinds == ("seen", "unseen")
    assert [(each.name, each.texts) for each in store.tasks] == [("pour", ("pour the green tea",)), ("stack", ())]
    assert store.fields["actions"].names == ("x", "y", "z", "gripper")
    assert store.fields["actions"].units == ("m", "m", "m", "")
    assert store.fields["joints"].names == LABELLED["joints"].names
    assert store.fields["joints"].units == store.fields["front"].names == ()
    assert [each.fps for each in store.conventions.sources] == [20.0]
    assert verify_store(pristine).problems == []
    assert verify_store(pristine, against=[Telling()]).problems == []


def test_the_second_reader_agrees(pristine: Path) -> None:
    found = [(each["instructions"], each["segments"]) for each in TinyStore(pristine).episodes()]
    expected = [told_of(*each) for each in SETTLED.values()]
    assert found == [(each.get("instructions", {}), each.get("segments", [])) for each in expected]


def test_who_says_nothing_of_it_has_the_part_that_he_always_had(tmp_path: Path) -> None:
    build_store([Own()], tmp_path / "own.vla", preset="raw")
    build_store(
        [Telling(told={}, fields=Own().fields, lengths=Own().lengths, fps=None, file=Own().file)],
        tmp_path / "b.vla",
        preset="raw",
    )
    (part,) = (path for path in (tmp_path / "own.vla/parts").iterdir() if path.is_dir())
    assert (tmp_path / "b.vla/parts" / part.name).is_dir()
    document = json.loads((part / "zarr.json").read_bytes())["attributes"]["vla_store"]
    assert "wordings" not in document
    assert not any((part / each).exists() for each in ARRAYS)
    assert "fps" not in document["sources"][0]
    assert not {"names", "units"} & {*document["plan"], *document["fields"]["actions"]}


@pytest.mark.parametrize(
    "change",
    [
        {"told": {**EPISODES, 4: {**EPISODES[4], "segments": ((1, "grasp the mug"),)}}},
        {"told": {**EPISODES, 3: {**EPISODES[3], "instructions": {"seen": ("tea",)}}}},
        {"told": {**EPISODES, 3: {**EPISODES[3], "instructions": {"unseen": ("tea, please",)}}}},
        {"fps": 10},
        {"fps": None},
        {"fields": {**LABELLED, "actions": replace(LABELLED["actions"], units=())}},
    ],
    ids=["segment", "instruction", "kind", "rate", "no rate", "units"],
)
def test_another_word_is_another_part_and_verify_tells(change: dict[str, Any], pristine: Path, tmp_path: Path) -> None:
    build_store([Telling(**change)], tmp_path / "b.vla")
    assert part_of(tmp_path / "b.vla").name != part_of(pristine).name
    content = open_store(tmp_path / "b.vla").fingerprint == open_store(pristine).fingerprint
    assert content == ("told" not in change)  # rates and names are no content
    told = [each.what for each in verify_store(pristine, against=[Telling(**change)]).problems]
    assert len(told) == (0 if change in ({"fields": change.get("fields")},) else 1), told


def test_sources_that_differ_in_names_keep_none_and_the_store_says_so(tmp_path: Path) -> None:
    other = {**LABELLED, "actions": replace(LABELLED["actions"], names=("a", "b", "c", "d"))}
    build_store([Telling(), Telling(file="more", fields=other)], tmp_path / "x.vla")
    store = open_store(tmp_path / "x.vla")
    assert (store.fields["actions"].names, store.fields["actions"].units) == ((), ("m", "m", "m", ""))
    assert [each["warning"] for each in store.warnings] == [
        "names of actions differ between demonstrations, and are not kept"
    ]
    recode_store(tmp_path / "x.vla", tmp_path / "y.vla", preset="fast")
    assert part_of(tmp_path / "y.vla").name == part_of(tmp_path / "x.vla").name
    assert open_store(tmp_path / "y.vla").warnings == store.warnings


# --- what a source may not say --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "told",
    [
        {"instructions": {"first": ("a",)}},
        {"instructions": {"with space": ("a",)}},
        {"instructions": {3: ("a",)}},
        {"instructions": {"seen": "a text"}},
        {"instructions": {"seen": ("",)}},
        {"instructions": {"seen": ("\ud800",)}},
        {"instructions": {"seen": (3,)}},
        {"instructions": ["a"]},
        {"segments": ((2, "a"), (1, "b"))},
        {"segments": ((1, "a"), (1, "b"))},
        {"segments": ((-1, "a"),)},
        {"segments": ((20, "a"),)},
        {"segments": ((0, 3),)},
        {"segments": ((0.5, "a"),)},
        {"segments": ("a",)},
        {"segments": ((0, "\ud800"),)},
    ],
    ids=str,
)
def test_what_are_no_texts_is_refused_by_name(told: dict[str, Any], tmp_path: Path) -> None:
    bad = Telling(told={**EPISODES, 0: told})
    with pytest.raises(SourceError) as error:
        build_store([bad], tmp_path / "x.vla")
    assert error.value.places["demo"] == "demo_0"
    assert len(str(error.value).splitlines()) <= 16
    build_store([bad], tmp_path / "x.vla", skip_bad=True, overwrite=True)
    assert [each.demo for each in open_store(tmp_path / "x.vla").skipped] == ["demo_0"]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("actions", {"names": ("x", "y")}),
        ("actions", {"units": ("m",) * 5}),
        ("joints", {"names": ("", *range(5))}),
        ("front", {"names": tuple("abc")}),
        ("actions", {"names": ("a", "b", "c", "\ud800")}),
    ],
)
def test_names_that_are_not_of_the_numbers_are_refused(field: str, change: dict[str, Any], tmp_path: Path) -> None:
    fields = {**LABELLED, field: replace(LABELLED[field], **change)}
    with pytest.raises(SourceError, match="of a field are a text for each number") as error:
        build_store([Telling(fields=fields)], tmp_path / "x.vla")
    assert error.value.places["field"] == field


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), "20", 2e9, True, np.True_])
def test_a_rate_that_is_none_is_refused(fps: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="a number of steps a second"):
        build_store([Telling(fps=fps)], tmp_path / "x.vla")


# --- what is done to stores -----------------------------------------------------------------------------------------------


def test_it_survives_recoding_to_the_very_part_that_a_build_makes(pristine: Path, tmp_path: Path) -> None:
    recode_store(pristine, tmp_path / "raw.vla", preset="raw")
    build_store([Telling()], tmp_path / "built.vla", preset="raw")
    assert part_of(tmp_path / "raw.vla").name == part_of(tmp_path / "built.vla").name
    assert (tmp_path / "raw.vla/zarr.json").read_bytes() == (tmp_path / "built.vla/zarr.json").read_bytes()
    assert_is_told(open_store(tmp_path / "raw.vla"))


def test_it_survives_append_merge_and_copy_beside_a_part_that_says_other_things(copied: Path, tmp_path: Path) -> None:
    bare = {name: replace(each, names=(), units=()) for name, each in LABELLED.items()}
    other = Telling(
        file="other", told={0: {"instructions": {"short": ("tea",)}}}, lengths={0: 3}, fields=bare, fps=None
    )
    append_store([other], copied)
    copy_store(copied, tmp_path / "copied.vla")
    for path in (copied, tmp_path / "copied.vla"):
        store = open_store(path)
        assert_is_told(store)
        assert store.instructions(3) == {"short": ("tea",)}
        assert store.segments(3) == ()
        assert store.instruction_kinds == ("seen", "short", "unseen")
        assert [each.fps for each in store.conventions.sources] == [20.0, None]
        assert store.fields["actions"].names == ()
        assert verify_store(path).problems == []
        assert samples(store)[ROWS]["task"] == "other"
        every = samples(store, task="index")
        numbers = every.batch(range(len(every)))["task_index"].tolist()
        assert [every.task_texts[each] for each in numbers] == samples(store).batch(range(len(every)))["task"]
        assert {"tea", "stack it", "let go – jetzt"} <= set(every.task_texts)


def test_stores_that_say_different_things_merge(pristine: Path, tmp_path: Path) -> None:
    shutil.copytree(pristine, tmp_path / "b.vla")
    build_store([Telling(file="other", told={}, fps=5)], tmp_path / "a.vla")
    merge_stores([tmp_path / "a.vla", tmp_path / "b.vla"], tmp_path / "all.vla")
    store = open_store(tmp_path / "all.vla")
    assert_is_told(store, at=3)
    assert store.fields["actions"].names == ("x", "y", "z", "gripper")
    assert verify_store(tmp_path / "all.vla").problems == []


@pytest.mark.parametrize("array", ARRAYS)
@pytest.mark.parametrize("how", ["lost", "flipped"])
def test_what_is_lost_of_texts_is_named_and_made_again(array: str, how: str, copied: Path) -> None:
    (shard,) = (path for path in (part_of(copied) / array / "c").rglob("0") if path.is_file())
    before = shard.read_bytes()
    shard.write_bytes(bytes([before[0] ^ 1]) + before[1:]) if how == "flipped" else shard.unlink()
    named = {each.object for each in verify_store(copied).problems}
    key = shard.relative_to(copied).as_posix()
    assert key in named
    repair_store(copied, [Telling()])
    assert shard.read_bytes() == before
    assert verify_store(copied).problems == []


def test_a_lost_document_is_made_again(copied: Path) -> None:
    path = part_of(copied) / "zarr.json"
    before = path.read_bytes()
    path.unlink()
    repair_store(copied, [Telling()])
    assert path.read_bytes() == before


@pytest.mark.parametrize("lost", ["zarr.json", "steps/actions/c/0/0"])
def test_a_part_of_before_rates_were_read_is_repaired_from_files_that_say_one(lost: str, tmp_path: Path) -> None:
    """Files of LIBERO have always said it; the first versions did not ask."""
    file = tiny_libero.TinyFile("suite", "open_the_drawer", 12, {0: 5, 2: 3})
    source = tiny_libero.write_suites(tmp_path / "source", suites=(file,))
    quiet, told = tmp_path / "quiet.vla", tmp_path / "told.vla"
    path = source / file.suite / file.name
    args = tiny_libero_env_args(path)
    build_store([source], told)
    assert open_store(told).conventions.sources[0].fps == 20
    with pytest.MonkeyPatch.context() as patch:  # as it was built then
        patch.setattr("vla_store.sources.libero._rate", lambda data: None)
        build_store([source], quiet)
    assert part_of(told).name != part_of(quiet).name
    assert open_store(quiet).fingerprint == open_store(told).fingerprint
    assert verify_store(quiet, against=[source]).problems == []
    before = (part_of(quiet) / lost).read_bytes()
    (part_of(quiet) / lost).unlink()
    repair_store(quiet, [source])
    assert (part_of(quiet) / lost).read_bytes() == before
    assert args == tiny_libero_env_args(path)


def tiny_libero_env_args(path: Path) -> Any:
    import h5py

    with h5py.File(path) as file:
        return json.loads(file["data"].attrs["env_args"])["env_kwargs"]["control_freq"]


# --- which text a sample has ----------------------------------------------------------------------------------------------


def counts(dataset: vla_store.Samples, number: int, draws: int = 400) -> Counter[str]:
    np.random.seed(3)
    return Counter(dataset.batch([number] * draws)["task"])


def test_a_kind_is_drawn_evenly_and_then_one_of_its_texts(pristine: Path) -> None:
    drawn = samples(pristine, instruction="random")
    of_first, of_second, of_third = (counts(drawn, number, 1200) for number in (0, 20, 28))
    assert set(of_first) == {"stack the cups", "stack it", "pile the cups up", "put one cup on the other"}
    expected = {
        "stack the cups": 1 / 3,
        "put one cup on the other": 1 / 3,
        "stack it": 2 / 9,
        "pile the cups up": 1 / 9,
    }
    for text, share in expected.items():
        assert abs(of_first[text] / 1200 - share) < 0.06
    assert set(of_second) == {"pour the green tea", "tea, please"}
    assert abs(of_second["tea, please"] / 1200 - 0.5) < 0.06
    assert of_third == {"grasp the cup": 1200}  # that step's own, and nothing else


def test_a_kind_by_name_is_of_that_kind_alone(pristine: Path) -> None:
    drawn = samples(pristine, instruction="seen", episodes=[0, 1])
    assert set(counts(drawn, 3)) == {"stack it", "pile the cups up"}
    assert set(counts(drawn, 20)) == {"tea, please"}
    own = samples(pristine, instruction="instruction")
    assert own.batch(range(ROWS))["task"] == samples(pristine).batch(range(ROWS))["task"]


def test_a_kind_called_instruction_stands_for_the_first_text(tmp_path: Path) -> None:
    told = {0: {"instructions": {"instruction": ("a", "b")}}, 3: {}}
    build_store([Telling(told=told, lengths={0: 4, 3: 2})], tmp_path / "x.vla")
    assert set(counts(samples(tmp_path / "x.vla", instruction="random"), 0)) == {"a", "b"}
    assert set(counts(samples(tmp_path / "x.vla", instruction="instruction"), 0)) == {"a", "b"}
    assert set(counts(samples(tmp_path / "x.vla", instruction="instruction"), 5)) == {"tea"}


def test_kinds_that_episodes_lack_are_refused_at_once_by_name(pristine: Path) -> None:
    with pytest.raises(OptionError, match="no instruction of the kind 'unseen' in 2 of 3 episodes") as error:
        samples(pristine, instruction="unseen")
    assert error.value.places["episode"] == "1"
    with pytest.raises(UnknownName, match="'sen'") as unknown:
        samples(pristine, instruction="sen")
    assert "seen" in str(unknown.value)
    with pytest.raises(UnknownName):
        samples(pristine, instruction=3)
    for each in (error, unknown):
        assert len(str(each.value).splitlines()) <= 16


@pytest.mark.parametrize("options", [{}, {"task": "index"}])
def test_a_loader_draws_by_seed_epoch_and_position_alone(options: dict[str, Any], pristine: Path) -> None:
    def passes(count: int, dataset: Any, **how: Any) -> list[list[Any]]:
        with_options = {"batch_size": 8, "workers": 0, "seed": 5, **how}
        loader = Batches(dataset, **with_options)
        key = "task_index" if options else "task"
        try:
            return [[each for batch in loader for each in list(batch[key])] for _ in range(count)]
        finally:
            loader.close()

    drawn = samples(pristine, instruction="random", **options)
    one, two = passes(2, drawn)
    assert one != two
    assert passes(2, drawn, workers=2) == [one, two]
    assert passes(2, drawn, batch_size=5) == [one, two]
    assert passes(2, drawn, transform=as_it_is) == [one, two]  # sample by sample
    assert passes(1, drawn, workers=1, transform=as_it_is) == [one]
    assert passes(1, drawn, seed=6) != [one]
    by_itself = samples(pristine, instruction="random", transform=as_it_is, **options)
    assert passes(2, served(by_itself)) == [one, two]


def as_it_is(sample: dict[str, Any]) -> dict[str, Any]:
    return sample


def test_the_numbers_that_draw_stay_as_they_are() -> None:
    drawn = Place(5, 2, 10).numbers(3)
    assert drawn.round(6).tolist() == GOLDEN
    assert Place(5, 2, 11).numbers(2).tolist() == drawn[1:].tolist()
    assert Place(-1, 2, 10).numbers(1).shape == (1, 2)
    many = Place(0, 0, 0).numbers(40_000)
    assert ((many >= 0) & (many < 1)).all()
    assert np.abs(many.mean(axis=0) - 0.5).max() < 0.01
    assert abs(np.corrcoef(many.T)[0, 1]) < 0.02


def test_a_resumed_pass_draws_what_the_whole_one_drew(pristine: Path) -> None:
    torch = pytest.importorskip("torch")
    assert torch
    from vla_store.torch import Loader

    drawn = samples(pristine, instruction="random")
    with Loader(drawn, batch_size=8, seed=1, workers=0) as loader:
        whole = [each["task"] for each in loader]
    with Loader(drawn, batch_size=8, seed=1, workers=0) as loader:
        stream = iter(loader)
        next(stream)
        state = loader.state_dict()
    with Loader(drawn, batch_size=4, seed=1, workers=1) as loader:
        loader.load_state_dict(state)
        rest = [text for each in loader for text in each["task"]]
    assert rest == list(itertools.chain(*whole[1:]))


def test_far_stores_and_pickles_give_the_same_texts(pristine: Path) -> None:
    import pickle

    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.put(str(pristine), "/told.vla", recursive=True)
    try:
        near, far = samples(pristine), samples("memory://told.vla")
        assert far.batch(range(ROWS))["task"] == near.batch(range(ROWS))["task"]
        assert [far[n]["task"] for n in range(0, ROWS, 5)] == [near[n]["task"] for n in range(0, ROWS, 5)]
        again = pickle.loads(pickle.dumps(samples("memory://told.vla", instruction="random")))
        assert set(counts(again, 0)) == set(counts(samples(pristine, instruction="random"), 0))
        assert_is_told(open_store("memory://told.vla"))
    finally:
        memory.rm("/told.vla", recursive=True)


def test_damaged_texts_are_damage_and_no_crash(copied: Path) -> None:
    offsets = part_of(copied) / "texts/offsets/c/0"
    offsets.write_bytes(b"\xff" * 128 + offsets.read_bytes()[128:])
    with pytest.raises(StoreDamaged, match="texts are not as the format says"):
        samples(copied).batch(range(ROWS))
    data = part_of(copied) / "texts/bytes/c/0"
    data.write_bytes(b"\xff" * 16 + data.read_bytes()[16:])
    found = {
        each.object.rpartition("/c/")[0].rpartition("parts/")[2].partition("/")[2]
        for each in verify_store(copied).problems
    }
    assert {"texts/offsets", "texts/bytes"} <= found


# --- documents ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"wordings": {"bytes": 5, "instructions": 0, "kinds": [], "steps": False, "texts": 1}},
        {"wordings": {"bytes": 5, "instructions": 1, "kinds": [], "steps": True, "texts": 1}},
        {"wordings": {"bytes": 5, "instructions": 0, "kinds": ["a"], "steps": True, "texts": 1}},
        {"wordings": {"bytes": 5, "instructions": 2, "kinds": ["b", "a"], "steps": True, "texts": 1}},
        {"wordings": {"bytes": 5, "instructions": 2, "kinds": ["a", "a"], "steps": True, "texts": 1}},
        {"wordings": {"bytes": 5, "instructions": 1, "kinds": ["random"], "steps": True, "texts": 1}},
        {"wordings": {"bytes": 0, "instructions": 1, "kinds": ["a"], "steps": True, "texts": 1}},
        {"wordings": {"bytes": 5, "instructions": 1, "kinds": ["a"], "steps": 1, "texts": 1}},
        {"wordings": {"bytes": 5, "instructions": 1, "kinds": ["a"], "steps": True, "texts": 0}},
        {"wordings": {"bytes": 5, "kinds": ["a"], "steps": True, "texts": 1}},
        {"wordings": []},
    ],
    ids=lambda change: str(change["wordings"]),
)
def test_a_document_that_cannot_be_is_refused(change: dict[str, Any], pristine: Path) -> None:
    _assert_refused(pristine, lambda document: document.update(change))


@pytest.mark.parametrize("fps", ["20", "0.0", "-1.0", "nan", "inf", "1e10", "x", 20])
def test_a_rate_that_cannot_be_is_refused(fps: Any, pristine: Path) -> None:
    _assert_refused(pristine, lambda document: document["sources"][0].update(fps=fps))


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c", 4], "abcd", [], ["a"] * 5])
def test_names_that_cannot_be_are_refused(names: Any, pristine: Path) -> None:
    _assert_refused(pristine, lambda document: document["fields"]["actions"].update(names=names))


def _assert_refused(store: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads((part_of(store) / "zarr.json").read_bytes())
    PartDocument.from_zarr_json(canonical.dumps(value), "x")
    change(value["attributes"]["vla_store"])
    with pytest.raises(StoreDamaged):
        PartDocument.from_zarr_json(canonical.dumps(value), "x")


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
KINDS = st.dictionaries(st.sampled_from("abc"), st.lists(TEXTS.filter(bool), max_size=3).map(tuple), max_size=3)


@st.composite
def told_episodes(draw: st.DrawFn) -> Iterator[tuple[int, Any, Any]]:
    made = []
    for _ in range(draw(st.integers(1, 4))):
        steps = draw(st.integers(1, 6))
        starts = sorted(draw(st.sets(st.integers(0, steps - 1))))
        segments = [(start, draw(TEXTS)) for start in starts]
        made.append((steps, draw(KINDS), segments))
    return made  # type: ignore[return-value]


@given(told_episodes())
def test_arrays_tell_exactly_what_was_said(episodes: list[tuple[int, Any, Any]]) -> None:
    settled = [(steps, sorted_instructions(kinds), merged_segments(segments)) for steps, kinds, segments in episodes]
    made = texts_made(settled)
    assert (made is None) == (not any(kinds or segments for _, kinds, segments in settled))
    if made is None:
        return
    assert made.arrays.keys() == made.about.arrays(0, 0).keys()
    start = 0
    for number, (steps, kinds, segments) in enumerate(settled):
        assert made.instructions_of(number) == kinds
        assert made.segments_of(start, steps) == segments
        given_steps = [""] * steps
        for first, text in episodes[number][2]:
            given_steps[first:] = [text] * (steps - first)
        told = [""] * steps
        for first, text in segments:
            told[first:] = [text] * (steps - first)
        assert told == given_steps
        start += steps
    assert sorted(set(made.all())) == sorted(made.all())


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(told_episodes())
def test_any_texts_are_the_same_in_the_store_to_the_second_reader_and_recoded(
    tmp_path: Path, episodes: list[tuple[int, Any, Any]]
) -> None:
    told = {
        number: {"instructions": kinds, "segments": tuple(segments)}
        for number, (_, kinds, segments) in enumerate(episodes)
    }
    lengths = {number: steps for number, (steps, _, _) in enumerate(episodes)}
    store, again = tmp_path / "x.vla", tmp_path / "y.vla"
    source = Telling(told=told, lengths=lengths, fields={"actions": LABELLED["actions"]})
    build_store([source], store, preset="raw", overwrite=True)
    opened = open_store(store)
    expected = [(sorted_instructions(kinds), merged_segments(segments)) for _, kinds, segments in episodes]
    assert [(opened.instructions(number), opened.segments(number)) for number in range(len(episodes))] == expected
    tiny = [(each["instructions"], each["segments"]) for each in TinyStore(store).episodes()]
    assert tiny == [
        ({k: list(v) for k, v in kinds.items()}, [list(s) for s in segments]) for kinds, segments in expected
    ]
    assert verify_store(store, against=[source]).problems == []
    recode_store(store, again, preset="raw", overwrite=True)
    assert (again / "zarr.json").read_bytes() == (store / "zarr.json").read_bytes()


# --- the command line -----------------------------------------------------------------------------------------------------


def test_info_show_and_report_say_it(pristine: Path, tmp_path: Path) -> None:
    ran = run("info", pristine)
    assert ran.code == 0
    out = ran.out
    for line in (
        "20 steps a second",
        "episodes have 5 more, of the kinds seen, unseen",
        "steps of some episodes have a text of their own",
        "actions  x (m), y (m), z (m), gripper",
    ):
        assert line in out
    described = json.loads(run("info", pristine, "--json").out)
    assert described["texts"] == {"instructions": 5, "kinds": ["seen", "unseen"], "steps": True, "texts": 6}
    assert described["conventions"][0]["fps"] == 20.0
    assert described["fields"]["actions"]["units"] == ["m", "m", "m", ""]
    pytest.importorskip("jinja2")
    assert run("report", pristine, "-o", tmp_path / "x.html").code == 0
    page = (tmp_path / "x.html").read_text()
    assert "20 steps a second" in page
    assert "[3] gripper" in page
    pytest.importorskip("matplotlib")
    from vla_store.look.sheet import describe

    store = open_store(pristine)
    notes = [text for _, text in describe(store, store.episodes[0]).notes]
    assert any("seen: stack it; pile the cups up; stack it" in each for each in notes)
    assert any("from step 2 grasp the cup; from step 12 none; from step 15 let go" in each for each in notes)
    assert any(each.endswith("20 steps a second") for each in notes)


def test_a_rate_is_stated_for_files_that_do_not_say_it(tmp_path: Path) -> None:
    files = [tiny_libero.TinyFile("suite", name, 12, {0: 5}) for name in ("open_the_drawer", "close_the_drawer")]
    source = tiny_libero.write_suites(tmp_path / "source", suites=tuple(files))
    for each in files:
        tiny_libero.set_attribute(source / each.suite / each.name, "data", "env_args", "{}")
    assert run("build", source, tmp_path / "a.vla").code == 0
    with pytest.raises(OptionError, match="the rate of the selected sources is not known") as error:
        samples(tmp_path / "a.vla", windows={"actions": vla_store.seconds(0, 1)})
    assert len(str(error.value).splitlines()) <= 16
    assert run("build", source, tmp_path / "b.vla", "--fps", "12.50").code == 0
    store = open_store(tmp_path / "b.vla")
    assert [(each.fps, each.said) for each in store.conventions.sources] == [(12.5, ("fps",))] * 2
    assert store.parts[0][1].plan["options"]["conventions"] == {"fps": "12.5"}
    assert "said at build: fps" in run("info", tmp_path / "b.vla").out
    assert verify_store(tmp_path / "b.vla", against=[source]).problems == []
    recode_store(tmp_path / "b.vla", tmp_path / "c.vla", preset="fast")
    assert part_of(tmp_path / "c.vla").name == part_of(tmp_path / "b.vla").name
    one = source / files[0].suite / files[0].name
    assert run("build", source, tmp_path / "d.vla", "--fps", f"{one}=30", "--fps", "10").code == 0
    rates = {each.file: each.fps for each in open_store(tmp_path / "d.vla").conventions.sources}
    assert rates == {files[0].name: 30.0, files[1].name: 10.0}
    with pytest.raises(OptionError, match="several rates"):
        samples(tmp_path / "d.vla", windows={"actions": vla_store.seconds(0, 1)})
    chosen = samples(tmp_path / "d.vla", windows={"actions": vla_store.seconds(0, 1)}, tasks="open the drawer")
    assert chosen.windows[0].offsets == tuple(range(30))
    for wrong in ("0", "fast", "-3", "nan"):
        assert run("build", source, tmp_path / "e.vla", "--fps", wrong).code == 2
    for flag in (True, np.True_):
        with pytest.raises(OptionError, match="fps cannot be"):
            build_store([source], tmp_path / "e.vla", conventions={"fps": flag})
    build_store([source], tmp_path / "f.vla", conventions={"fps": 12.5})
    assert part_of(tmp_path / "f.vla").name == part_of(tmp_path / "b.vla").name


def test_a_stated_rate_that_the_file_contradicts_is_recorded_as_a_warning(tmp_path: Path) -> None:
    file = tiny_libero.TinyFile("suite", "open_the_drawer", 12, {0: 5})
    source = tiny_libero.write_suites(tmp_path / "source", suites=(file,))
    build_store([source], tmp_path / "x.vla", conventions={"fps": 30})
    store = open_store(tmp_path / "x.vla")
    assert store.conventions.sources[0].fps == 30
    assert [each["warning"] for each in store.warnings] == ["--fps 30.0 was given, but the file says 20.0"]
