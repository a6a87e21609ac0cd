"""Views that are added, removed and carried along: the right steps, no array touched, and no writer's work lost."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import store_tools
import tiny_libero
import view_tools
from manage_processes import append_in_turns
from store_tools import assert_one_screen, digests, root_of, run, skip_unless_it_creates

import vla_store
from vla_store import OptionError, Samples, StoreDamaged, StoreNotFound, UnknownName, cli, open_store
from vla_store import view_rules as rules
from vla_store.audit import verify_store
from vla_store.format import layout
from vla_store.format.canonical import loads
from vla_store.manage.append import append_store
from vla_store.manage.copy import copy_store
from vla_store.manage.merge import merge_stores
from vla_store.manage.recode import recode_store
from vla_store.manage.repair import repair_store
from vla_store.manage.views import add_view, add_views, remove_views
from vla_store.reader.parts import parts_of
from vla_store.storage import LocalStorage
from vla_store.view_rules import NewView, parse_view

FILES = (
    tiny_libero.TinyFile("libero_goal", "open_the_middle_drawer", 12, {0: 12, 2: 5, 3: 30}),
    tiny_libero.TinyFile("libero_goal", "push_the_plate", 12, {0: 3}),
    tiny_libero.TinyFile("libero_spatial", "pick_up_the_bowl", 17, {0: 9, 1: 1, 4: 22}),
)
EPISODES = tiny_libero.episodes(FILES)
FIRST_ROWS = 50  # of libero_goal
ROWS = 82


@dataclass(frozen=True)
class World:
    """source: both suites. goal.vla, spatial.vla, both.vla, two.vla (grown from goal): stores. arrays: of every episode."""

    source: Path
    folder: Path
    arrays: list[dict[str, np.ndarray]]

    @property
    def tasks(self) -> list[tuple[str, str]]:
        return [(each.file.suite, each.file.task) for each in EPISODES]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Actions stand still now and then, robots start late, some fail. Do not write into it."""
    for module in ("h5py", "zarr"):
        pytest.importorskip(module, reason=f"building needs {module}")
    folder = tmp_path_factory.mktemp("world")
    source = tiny_libero.write_suites(folder / "source", suites=FILES)
    rng = np.random.default_rng(5)
    arrays = []
    for number, each in enumerate(EPISODES):
        path, demo = source / each.file.suite / each.file.name, f"data/demo_{each.number}"
        moves = rng.random((each.steps, 1)) < 0.6
        moves[0] |= each.number == 0  # so that something is left of every task
        actions = rng.normal(size=(each.steps, 7)) * moves
        actions[:, 6] = np.where(np.cumsum(rng.random(each.steps) < 0.2) % 2, 1.0, -1.0)
        still = min(each.steps - 1, number)
        joints = np.concatenate(
            [np.full((still, 7), 0.5), 0.5 + np.cumsum(rng.random((each.steps - still, 7)), axis=0)]
        )
        joints[0] = 0.5
        rewards = np.zeros(each.steps, np.uint8)
        rewards[-1] = number % 3 != 1
        states = tiny_libero.episode_arrays(each)["states"]
        states[1:, 1:8] = joints[:-1]  # so that a build finds out that observations follow the action
        made = {"actions": actions, "states": states, "obs/joint_states": joints, "obs/gripper_states": np.zeros((each.steps, 2)), "rewards": rewards}  # fmt: skip
        for name, array in made.items():
            tiny_libero.replace(path, f"{demo}/{name}", array)
        arrays.append({name.removeprefix("obs/"): array for name, array in made.items()})
    store_tools.built(folder / "goal.vla", [source / "libero_goal"])
    store_tools.built(folder / "spatial.vla", [source / "libero_spatial"])
    store_tools.built(folder / "both.vla", [source])
    return World(source, folder, arrays)


Copy = Callable[[str], Path]


@pytest.fixture
def copy_of(world: World, tmp_path: Path) -> Copy:
    return lambda name: Path(shutil.copytree(world.folder / f"{name}.vla", tmp_path / f"{name}.vla"))


def kept_by(store: Any, name: str) -> list[list[bool]]:
    """Per episode of the store, which steps a view keeps."""
    opened = store if isinstance(store, vla_store.Store) else open_store(store)
    rows = np.zeros(opened.rows, bool)
    for start, stop in opened.views[name].kept.tolist():
        rows[start:stop] = True
    return [rows[each.start : each.start + each.length].tolist() for each in opened.episodes]


def noops_by_hand(actions: np.ndarray, threshold: float) -> list[bool]:
    kept: list[bool] = []
    last: float | None = None
    for action in actions:
        is_noop = np.linalg.norm(action[:6]) < threshold and (last is None or action[6] == last)
        kept.append(not is_noop)
        last = last if is_noop else action[6]
    return kept


BY_HAND: dict[str, tuple[str, Callable[[dict[str, np.ndarray], int], list[bool]]]] = {
    "no_noops": ("steps", lambda a, n: noops_by_hand(a["actions"], 1e-4)),
    "no_noops:threshold=1.5,kind=anchors": ("anchors", lambda a, n: noops_by_hand(a["actions"], 1.5)),
    "success": ("anchors", lambda a, n: [bool(a["rewards"][-1])] * n),
    "success:kind=steps": ("steps", lambda a, n: [bool(a["rewards"][-1])] * n),
    "length:shortest=9": ("anchors", lambda a, n: [n >= 9] * n),
    "length:shortest=5,longest=22": ("anchors", lambda a, n: [5 <= n <= 22] * n),
    "still_start": (
        "anchors",
        lambda a, n: [
            any((abs(a["joint_states"][s] - a["joint_states"][0]) > 1e-2).any() for s in range(1, min(t + 2, n)))
            for t in range(n)
        ],
    ),
    "drop_tail:steps=4": ("anchors", lambda a, n: [t < n - 4 for t in range(n)]),
}


@pytest.mark.parametrize("text", BY_HAND)
def test_a_rule_keeps_what_its_source_says_of_every_episode(world: World, copy_of: Copy, text: str) -> None:
    store = copy_of("both")
    kind, by_hand = BY_HAND[text]
    wanted = parse_view(text)
    expected = [by_hand(arrays, each.steps) for arrays, each in zip(world.arrays, EPISODES)]
    assert 0 < sum(map(sum, expected)) < ROWS
    report = add_views(store, [wanted], allow_empty=True)
    assert kept_by(store, wanted.name) == expected
    view = open_store(store).views[wanted.name]
    assert (view.kind, view.rule, view.covered_steps) == (kind, wanted.rule.name, ROWS)
    told = view_tools.view_json(kind, expected, world.tasks)
    assert [each.to_json() for each in view.counts] == told["counts"]
    assert report.changed
    assert verify_store(store).problems == []
    samples = Samples(store, windows={"actions": 0}, view=wanted.name)
    places = [(number, step) for number, mask in enumerate(expected) for step, keeps in enumerate(mask) if keeps]
    assert [(each["episode"], each["step"]) for each in samples] == places


def drawn_by_hand(digest: bytes, steps: int, at_most: int, seed: int) -> list[bool]:
    """As docs/reference/format.md says it."""
    start = int.from_bytes(digest[:8], "big") + seed
    keys = []
    for step in range(steps):
        x = (step + start) * 0x9E3779B97F4A7C15 % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        keys.append((x ^ (x >> 31), step))
    chosen = {step for _, step in sorted(keys)[:at_most]}
    return [step in chosen for step in range(steps)]


def test_steps_that_are_drawn_stay_the_same_and_are_as_many_as_asked_for(copy_of: Copy) -> None:
    one, other = copy_of("both"), copy_of("spatial")
    for store in (one, other):
        add_view(store, "drawn", rules.length(at_most=7, seed=3))
    assert [sum(mask) for mask in kept_by(one, "drawn")] == [min(7, each.steps) for each in EPISODES]
    assert kept_by(one, "drawn")[4:] == kept_by(other, "drawn")  # wherever the episode lies
    (part,) = parts_of(open_store(one))
    digest = part.digests.span(0, len(EPISODES))
    assert kept_by(one, "drawn") == [drawn_by_hand(digest[n].tobytes(), each.steps, 7, 3) for n, each in enumerate(EPISODES)]  # fmt: skip
    add_view(other, "again", rules.length(at_most=7, seed=4))
    assert kept_by(other, "again") != kept_by(other, "drawn")
    with pytest.raises(OptionError, match="of kind 'anchors'"):
        add_view(one, "x", rules.length(at_most=7), kind="steps")


def test_no_array_and_no_content_changes(copy_of: Copy) -> None:
    store = copy_of("both")
    before, root = digests(store), root_of(store)
    add_view(store, "v", rules.no_noops())
    after, made = digests(store), root_of(store)
    new = sorted(after.keys() - before.keys())
    assert [key.split("/")[0] for key in new] == ["meta", "roots"]
    assert {key for key in before if before[key] != after[key]} == {"zarr.json"}
    assert (made.generation, made.parent, made.fingerprint, made.parts) == (
        2,
        root.digest,
        root.fingerprint,
        root.parts,
    )
    assert made.meta == dataclasses.replace(root.meta, views=made.meta.views)
    checked = verify_store(store)
    assert (checked.problems, checked.leftovers) == ([], [])


def test_the_same_views_give_the_same_bytes_in_any_order(copy_of: Copy) -> None:
    one, other = copy_of("both"), copy_of("goal").with_name("other.vla")
    shutil.copytree(one, other)
    add_views(one, [NewView("a", rules.no_noops()), NewView("b", rules.still_start())])
    add_view(other, "b", rules.still_start())
    add_view(other, "a", rules.no_noops())
    assert root_of(one).meta == root_of(other).meta


def test_the_same_view_again_changes_nothing_and_another_of_its_name_is_refused(copy_of: Copy) -> None:
    store = copy_of("both")
    add_view(store, "v", rules.no_noops())
    before = digests(store)
    assert not add_views(store, [NewView("v", rules.no_noops())]).changed
    with pytest.raises(OptionError, match="a view of this name is there already") as caught:
        add_view(store, "v", rules.no_noops(threshold=0.5))
    assert "views remove STORE v" in str(caught.value)
    with pytest.raises(OptionError, match="two views have the same name"):
        add_views(store, [NewView("w", rules.success()), NewView("w", rules.drop_tail(2))])
    with pytest.raises(OptionError, match="no view to add"):
        add_views(store, [])
    assert digests(store) == before


def test_a_view_that_would_empty_a_task_is_refused_unless_told(copy_of: Copy) -> None:
    store = copy_of("both")
    before = digests(store)
    with pytest.raises(OptionError, match="would leave nothing of 1 task") as caught:
        add_view(store, "v", rules.drop_tail(3))
    assert "libero_goal/push_the_plate (3 steps)" in str(caught.value)
    assert digests(store) == before
    report = add_views(store, [NewView("v", rules.drop_tail(3))], allow_empty=True)
    assert report.notes == ("v: nothing is left of libero_goal/push_the_plate",)
    with pytest.raises(OptionError, match="would keep no step at all"):
        add_views(store, [NewView("w", rules.drop_tail(63))], allow_empty=True)


def test_success_says_where_it_is_constant_and_where_nobody_knows(world: World, copy_of: Copy, tmp_path: Path) -> None:
    report = add_views(copy_of("both"), [NewView("s", rules.success())], allow_empty=True)
    # drawer: 1, 0, 1; plate: 1; bowl: 0, 1, 1.
    assert any(note.startswith("s: constant in 1 of 3 tasks") for note in report.notes)
    source = tiny_libero.write_suites(tmp_path / "unknown", suites=FILES[:1])
    for number in FILES[0].lengths:
        tiny_libero.replace(source / FILES[0].suite / FILES[0].name, f"data/demo_{number}/rewards")
    store = store_tools.built(tmp_path / "unknown.vla", [source])
    with pytest.raises(OptionError, match="no step at all"):
        add_view(store, "s", rules.success())
    grown = copy_of("spatial")
    add_view(grown, "x", rules.success())
    assert any(
        "leaves nothing out" in note for note in add_views(grown, [NewView("all", rules.length(shortest=1))]).notes
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: rules.no_noops(threshold=-1), "at least 0"),
        (lambda: rules.no_noops(threshold=float("nan")), "at least 0"),
        (lambda: rules.no_noops(threshold="x"), "threshold is a number"),  # type: ignore[arg-type]
        (lambda: rules.length(), "needs a bound"),
        (lambda: rules.length(shortest=0), "whole number from 1 to"),
        (lambda: rules.length(shortest=True), "whole number"),
        (lambda: rules.length(at_most=3, seed=0.5), "seed is a whole number"),  # type: ignore[arg-type]
        (lambda: rules.still_start(fields=[]), "list of names"),
        (lambda: rules.drop_tail(-1), "whole number from 0 to"),
        (lambda: rules.predicate(3, ["actions"], "x"), "a predicate is a function"),  # type: ignore[arg-type]
        (lambda: rules.predicate(len, ["actions"], " "), "needs a description"),
        (lambda: rules.predicate(len, "", "x"), "there is no field"),
    ],
)
def test_options_that_cannot_be_are_refused(copy_of: Copy, make: Callable[[], rules.Rule], says: str) -> None:
    with pytest.raises((OptionError, UnknownName), match=says):
        add_view(copy_of("goal"), "v", make())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nonoops", "there is no rule for a view 'nonoops'"),
        ("length:short=3", "there is no option of length 'short'"),
        ("length:shortest", "needs one value"),
        ("length:shortest=3,shortest=4", "needs one value"),
        ("length:shortest=x", "whole number"),
        ("no_noops:kind=rows", "there is no kind of view 'rows'"),
        ("no_noops:name=a/b", "cannot have this name"),
        ("no_noops:threshold=1e-400x", "is a number"),
        ("predicate", "there is no rule"),
    ],
)
def test_a_rule_that_is_spelled_wrongly_is_refused(text: str, says: str) -> None:
    with pytest.raises((OptionError, UnknownName), match=says):
        parse_view(text)


@pytest.mark.parametrize("field", ["agentview_rgb", "nothing"])
def test_rules_look_at_numeric_fields_that_exist(copy_of: Copy, field: str) -> None:
    with pytest.raises((OptionError, UnknownName), match=r"numeric fields only|there is no field"):
        add_view(copy_of("goal"), "v", rules.still_start(fields=["joint_states", field]))


def test_another_robot_is_told_how_to_name_the_fields_of_a_rule(copy_of: Copy) -> None:
    with pytest.raises(UnknownName, match="there is no field 'q'") as caught:
        add_view(copy_of("goal"), "v", rules.still_start(fields=["q"]))
    assert "still_start:fields=" in caught.value.hint


def test_a_rule_for_actions_refuses_a_field_that_is_none(copy_of: Copy) -> None:
    with pytest.raises(OptionError, match="are no actions") as caught:
        add_view(copy_of("goal"), "v", rules.no_noops(field="rewards"))
    assert "libero_goal/open_the_middle_drawer" in str(caught.value)


# Predicates


def fast_ones(episode: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(np.abs(episode["actions"][:, 0]) > 0.4) & (episode["states"][:, 0] > 0.3)


def test_a_predicate_keeps_what_it_says_also_of_fields_of_several_widths(world: World, copy_of: Copy) -> None:
    store = copy_of("both")
    assert open_store(store).fields["states"].is_ragged
    view = add_view(
        store, "fast", rules.predicate(fast_ones, ["actions", "states"], "x of the action above 0.4"), allow_empty=True
    )
    expected = [fast_ones(arrays).tolist() for arrays in world.arrays]
    assert kept_by(store, "fast") == expected
    assert 0 < sum(map(sum, expected)) < ROWS
    assert (view.rule, view.description) == ("predicate", "x of the action above 0.4")
    assert rules.rule_of(view) is None
    whole = add_view(
        store, "long", rules.predicate(lambda e: len(e["actions"]) > 8, ["actions"], "long"), allow_empty=True
    )
    assert [any(mask) for mask in kept_by(store, "long")] == [each.steps > 8 for each in EPISODES]
    assert whole.kind == "anchors"


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda episode: episode["actions"][:, 0], "gives a mask"),
        (lambda episode: np.ones(3, bool), "gives a mask"),
        (lambda episode: 1, "gives a mask"),
        (lambda episode: 1 / 0, "ZeroDivisionError"),
        (lambda episode: episode.__getitem__("actions").__setitem__(0, 1), "read-only"),
    ],
)
def test_a_predicate_that_fails_names_the_episode(copy_of: Copy, function: Any, says: str) -> None:
    store = copy_of("goal")
    before = digests(store)
    with pytest.raises(OptionError) as caught:
        add_view(store, "v", rules.predicate(function, ["actions"], "mine"))
    assert says in str(caught.value)
    assert "libero_goal/open_the_middle_drawer_demo.hdf5" in str(caught.value)
    assert digests(store) == before


# Removing


def test_views_are_removed_and_older_roots_keep_theirs(copy_of: Copy) -> None:
    store = copy_of("both")
    add_views(
        store, [NewView("a", rules.no_noops()), NewView("b", rules.still_start()), NewView("c", rules.drop_tail(2))]
    )
    old = open_store(store)
    handle = pickle.dumps(Samples(old, windows={"actions": range(3)}, view="a"))
    assert [each.name for each in remove_views(store, ["b"]).views] == ["b"]
    assert list(open_store(store).views) == ["a", "c"]
    with pytest.raises(UnknownName, match="there is no view 'b'"):
        remove_views(store, ["a", "b"])
    assert remove_views(store, ["a", "c"]).root.meta.views is None
    assert dict(open_store(store).views) == {}
    assert not remove_views(store, None).changed
    assert list(open_store(store, digest=old.digest).views) == ["a", "b", "c"]
    assert len(pickle.loads(handle)) == old.views["a"].steps
    assert pickle.loads(handle)[3]["actions"].shape == (3, 7)
    checked = verify_store(store)
    assert (checked.problems, checked.leftovers) == ([], [])


def test_views_whose_document_is_damaged_can_be_dropped(copy_of: Copy) -> None:
    store = copy_of("both")
    add_view(store, "a", rules.no_noops())
    store_tools.flip(store / layout.meta_key(root_of(store).meta.views or ""), 9)
    with pytest.raises(StoreDamaged):
        add_view(store, "b", rules.success())
    with pytest.raises(StoreDamaged):
        remove_views(store, ["a"])
    assert remove_views(store, None).changed
    assert dict(open_store(store).views) == {}
    add_view(store, "b", rules.still_start())
    assert list(open_store(store).views) == ["b"]


def test_there_must_be_a_store_and_nothing_is_written_where_there_is_none(tmp_path: Path) -> None:
    for call in (lambda: add_view(tmp_path / "x", "v", rules.success()), lambda: remove_views(tmp_path / "x", ["v"])):
        with pytest.raises(StoreNotFound):
            call()
    assert list(tmp_path.iterdir()) == []


def test_damaged_numbers_are_not_made_a_view_of(copy_of: Copy) -> None:
    store = copy_of("both")
    store_tools.flip(next(store.glob("parts/*/steps/actions/c/0/0")), 8)
    with pytest.raises(StoreDamaged, match="no root can be made over it"):
        add_view(store, "v", rules.no_noops())
    add_view(store, "v", rules.still_start())  # which does not look at them


# Growing


RULES = [
    NewView("moving", rules.no_noops(threshold=1.0)),
    NewView("started", rules.still_start()),
    NewView("good", rules.success(), "steps"),
    NewView("drawn", rules.length(at_most=8)),
]


def mine(store: Path, name: str = "mine") -> None:
    add_view(store, name, rules.predicate(lambda e: e["actions"][:, 0] > 0, ["actions"], "to the right"), kind="steps")


def test_an_append_computes_known_rules_for_what_is_new_in_the_same_commit(world: World, copy_of: Copy) -> None:
    grown, whole = copy_of("goal"), copy_of("both")
    for store in (grown, whole):
        add_views(store, RULES, allow_empty=True)
    old = open_store(grown)
    report = append_store(world.source / "libero_spatial", grown)
    assert (report.root.generation, report.notes) == (3, ())
    assert root_of(grown).meta == root_of(whole).meta
    for each in RULES:
        assert kept_by(grown, each.name) == kept_by(whole, each.name)
        assert old.views[each.name].covered_steps == FIRST_ROWS
    assert verify_store(grown).problems == []
    assert len(Samples(grown, windows={"actions": 0}, view="moving")) == open_store(whole).views["moving"].steps
    assert len(Samples(old, windows={"actions": 0}, view="moving")) == old.views["moving"].steps


def test_a_predicate_covers_what_was_there_when_it_was_made_and_says_so(world: World, copy_of: Copy) -> None:
    store = copy_of("goal")
    mine(store)
    before = open_store(store).views["mine"]
    report = append_store(world.source / "libero_spatial", store)
    assert report.notes == (
        f"view 'mine' cannot be computed again: it covers {FIRST_ROWS} of {ROWS} steps, and not the new",
    )
    view = open_store(store).views["mine"]
    assert (view.covered.tolist(), view.kept.tolist()) == ([[0, FIRST_ROWS]], before.kept.tolist())
    assert view.counts == before.counts
    assert verify_store(store).problems == []
    with pytest.warns(UserWarning, match=f"tells of {FIRST_ROWS} of the store's {ROWS} steps"):
        samples = Samples(store, windows={"actions": [-1, 0]}, view="mine")
    assert len(samples) == before.steps
    # The function is at hand: remove it and add it again.
    remove_views(store, "mine")
    mine(store)
    assert open_store(store).views["mine"].covered_steps == ROWS


def test_a_view_called_as_a_word_of_another_s_note_has_its_own(world: World, copy_of: Copy, tmp_path: Path) -> None:
    store = copy_of("goal")
    add_view(store, "a_rule", rules.no_noops())
    predicate = rules.predicate(lambda values: True, ["actions"], "all")
    add_view(store, "actions", predicate)
    more = shutil.copytree(world.source / "libero_spatial", tmp_path / "libero_spatial")
    for path in more.iterdir():
        with h5py.File(path, "r+") as file:
            for demo in file["data"].values():
                narrow = demo["actions"][:, :1]
                del demo["actions"]
                demo["actions"] = narrow
    notes = append_store(more, store).notes
    assert len(notes) == 2
    assert notes[0].startswith("view 'a_rule' could not be computed for all that is new: 'actions' are no actions")
    assert notes[1].startswith("view 'actions' cannot be computed again")


def test_a_view_that_leaves_nothing_of_what_is_new_does_not_stop_an_append(world: World, copy_of: Copy) -> None:
    store = copy_of("spatial")
    add_view(store, "long", rules.length(shortest=9))
    report = append_store([world.source / "libero_goal" / FILES[1].name], store)
    assert report.notes == ("view 'long' keeps nothing of libero_goal/push_the_plate",)
    assert verify_store(store).problems == []


def test_what_a_newer_version_made_stays_as_it_is(world: World, copy_of: Copy) -> None:
    store = copy_of("goal")
    add_view(store, "v", rules.no_noops())
    key = layout.meta_key(root_of(store).meta.views or "")
    document = loads((store / key).read_bytes(), key)
    document["views"]["v"] |= {"rule": "no_blur", "options": {"x": "1"}, "kind": "weights"}
    remove_views(store, None)
    (store / "roots/00000002.json").unlink()
    (store / "roots/00000003.json").unlink()
    view_tools.put_views(store, None, document)
    report = append_store(world.source / "libero_spatial", store)
    assert "cannot be computed again" in report.notes[0]
    view = open_store(store).views["v"]
    assert (view.kind, view.rule, view.covered_steps) == ("weights", "no_blur", FIRST_ROWS)
    assert verify_store(store).problems == []


# Several writers


@pytest.mark.parametrize("seed", range(2))
def test_of_two_views_and_an_append_at_once_none_is_lost(world: World, copy_of: Copy, seed: int) -> None:
    """Each stops before each of its calls to storage until it is its turn, in a drawn order."""
    store = copy_of("goal")
    answers = append_in_turns([world.source / "libero_spatial", "no_noops", "still_start"], store, seed)
    assert [answer["error"] for answer in answers] == ["", "", ""]
    opened = open_store(store)
    assert (opened.generation, opened.rows, list(opened.views)) == (4, ROWS, ["no_noops", "still_start"])
    assert [each.covered_steps for each in opened.views.values()] == [ROWS, ROWS]
    whole = copy_of("both")
    add_views(whole, [parse_view("no_noops"), parse_view("still_start")])
    assert kept_by(store, "no_noops") == kept_by(whole, "no_noops")
    checked = verify_store(store)
    assert (checked.problems, [key for key in checked.leftovers if not key.startswith("meta/")]) == ([], [])


def test_of_many_threads_at_once_none_is_lost(copy_of: Copy) -> None:
    store = copy_of("both")
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            add_view(store, f"v{number}", rules.drop_tail(number % 3))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert errors == []
    assert list(open_store(store).views) == [f"v{number}" for number in range(6)]
    assert root_of(store).generation == 7


def test_a_commit_whose_reply_was_lost_is_recognised(copy_of: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    store = copy_of("both")
    real = LocalStorage.create

    def create(self: LocalStorage, key: str, data: bytes) -> bool:
        real(self, key, data)
        if key == "roots/00000002.json":
            raise OSError("no reply")
        return True

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "create", lambda self, key, data: create(self, key, data) if "probe" not in key else real(self, key, data))  # fmt: skip
        report = add_views(store, [NewView("v", rules.success())], allow_empty=True)
    assert (report.changed, report.root.generation, list(open_store(store).views)) == (True, 2, ["v"])


def test_a_store_in_memory_takes_views(copy_of: Copy) -> None:
    fsspec = pytest.importorskip("fsspec")
    skip_unless_it_creates()
    memory = fsspec.filesystem("memory")
    store = copy_of("both")
    for key, data in store_tools.objects(store).items():
        memory.pipe_file(f"/views.vla/{key}", data)
    try:
        add_view("memory://views.vla", "v", rules.no_noops())
        there = open_store("memory://views.vla")
        add_view(store, "v", rules.no_noops())
        assert there.digest == open_store(store).digest
        assert len(Samples(there, windows={"actions": range(3)}, view="v")) == there.views["v"].steps
    finally:
        memory.rm("/views.vla", recursive=True)


# Merge, copy, recode, repair


@pytest.mark.parametrize("inside", [True, False])
def test_a_merge_computes_known_rules_and_keeps_predicates_where_they_are(
    copy_of: Copy, tmp_path: Path, inside: bool
) -> None:
    goal, spatial, whole = copy_of("goal"), copy_of("spatial"), copy_of("both")
    add_views(goal, [NewView("moving", rules.no_noops()), NewView("started", rules.still_start())])
    add_view(spatial, "moving", rules.no_noops())
    mine(spatial)
    for store in (goal, spatial):
        mine(store, "all")
    add_views(whole, [NewView("moving", rules.no_noops()), NewView("started", rules.still_start())])
    mine(whole, "all")
    target = tmp_path if inside else tmp_path / "merged.vla"
    report = merge_stores([goal, spatial], target)
    assert report.notes == (
        f"view 'mine' cannot be computed again: it covers {ROWS - FIRST_ROWS} of {ROWS} steps, and not the new",
    )
    for name in ("moving", "started", "all"):
        assert kept_by(target, name) == kept_by(whole, name)
        assert open_store(target).views[name].covered_steps == ROWS
    view = open_store(target).views["mine"]
    assert view.covered.tolist() == [[FIRST_ROWS, ROWS]]
    assert (view.kept - FIRST_ROWS).tolist() == open_store(spatial).views["mine"].kept.tolist()
    assert verify_store(target).problems == []
    with pytest.warns(UserWarning, match="tells of"):
        samples = Samples(target, windows={"actions": [0, 1]}, view="mine")
    assert {each["episode"] for each in samples} <= {4, 5, 6}


def test_views_of_one_name_that_differ_are_not_merged(copy_of: Copy, tmp_path: Path) -> None:
    goal, spatial = copy_of("goal"), copy_of("spatial")
    add_view(goal, "v", rules.no_noops())
    add_view(spatial, "v", rules.no_noops(threshold=0.5))
    with pytest.raises(OptionError, match="two stores call different views 'v'") as caught:
        merge_stores([goal, spatial], tmp_path / "merged.vla")
    assert str(goal) in str(caught.value)
    assert str(spatial) in str(caught.value)
    assert not (tmp_path / "merged.vla").exists()


def test_a_copy_has_the_views_of_every_root(copy_of: Copy, tmp_path: Path) -> None:
    store = copy_of("both")
    add_view(store, "a", rules.no_noops())
    old = root_of(store).digest
    add_view(store, "b", rules.success(), allow_empty=True)
    remove_views(store, "a")
    copy_store(store, tmp_path / "copy.vla")
    assert digests(tmp_path / "copy.vla") == digests(store)
    assert list(open_store(tmp_path / "copy.vla", digest=old).views) == ["a"]
    assert list(open_store(tmp_path / "copy.vla").views) == ["b"]


def test_a_recoded_store_has_its_views_of_the_same_steps(world: World, copy_of: Copy, tmp_path: Path) -> None:
    store = copy_of("spatial")
    append_store(world.source / "libero_goal", store)  # which sorts before it
    add_views(store, RULES, allow_empty=True)
    mine(store)
    before = open_store(store)
    report = recode_store(store, tmp_path / "new.vla", preset="raw")
    after = open_store(tmp_path / "new.vla")
    assert report.root is not None
    assert report.root.digest == after.digest
    assert [each.suite for each in after.episodes] != [each.suite for each in before.episodes]
    key = lambda each: (each.suite, each.file, each.number)  # noqa: E731
    for name in ("moving", "started", "good", "drawn", "mine"):
        old = dict(zip(map(key, before.episodes), kept_by(before, name)))
        assert dict(zip(map(key, after.episodes), kept_by(after, name))) == old
        assert (after.views[name].text, after.views[name].counts) == (
            before.views[name].text,
            before.views[name].counts,
        )
    assert verify_store(tmp_path / "new.vla").problems == []


def test_a_lost_document_of_views_is_restored_from_another_root(world: World, copy_of: Copy) -> None:
    store = copy_of("goal")
    add_views(store, RULES, allow_empty=True)
    mine(store)
    append_store(world.source / "libero_spatial", store)
    remove_views(store, "mine")
    expected = digests(store)
    documents = sorted(key for key in expected if key.startswith("meta/") and b'"views"' in (store / key).read_bytes())
    assert len(documents) == 4
    for key in documents:
        (store / key).unlink()
        assert repair_store(store, world.source).repaired == (key,)
        assert digests(store) == expected


def test_lost_views_that_no_other_root_has_are_dropped_and_the_store_goes_on(world: World, copy_of: Copy) -> None:
    store = copy_of("both")
    mine(store)
    (store / layout.meta_key(root_of(store).meta.views or "")).unlink()
    assert len(Samples(store, windows={"actions": 0})) == ROWS
    with pytest.raises(StoreDamaged, match="a document of views cannot be restored") as caught:
        repair_store(store, world.source)
    assert "views remove STORE --all" in str(caught.value)
    remove_views(store, None)
    assert dict(open_store(store).views) == {}


@pytest.mark.parametrize("lost", [(2,), (3,), (2, 3), (1, 2, 3, 4)])
def test_roots_that_were_lost_are_made_again_though_views_came_and_went(
    world: World, copy_of: Copy, lost: tuple[int, ...]
) -> None:
    store = copy_of("goal")
    add_view(store, "a", rules.no_noops())
    append_store(world.source / "libero_spatial", store)
    mine(store)
    remove_views(store, "a")
    expected = digests(store)
    for generation in lost:
        (store / layout.root_key(generation)).unlink()
    report = repair_store(store, world.source)
    assert (report.sound, len(report.repaired)) == (True, len(lost))
    assert digests(store) == expected


# Verify


def spoilt(store: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    """Change the views of a store and make every digest right again; the key of their document."""
    key = layout.meta_key(root_of(store).meta.views or "")
    document = loads((store / key).read_bytes(), key)
    change(document["views"]["v"])
    (store / key).unlink()
    root = dataclasses.replace(root_of(store), generation=1, parent=None)
    for path in (store / "roots").iterdir():
        path.unlink()
    (store / layout.root_key(1)).write_bytes(root.sealed().to_bytes())
    made = view_tools.put_views(store, None, document)
    return layout.meta_key(made.meta.views or "")


def uncover_the_last_step(view: dict[str, Any]) -> None:
    view["covered"][1] -= 1
    view["counts"][2]["steps"] -= 1
    if sum(view["kept"]) == ROWS:
        view["counts"][2]["kept_steps"] -= 1
        view["kept"][-1] -= 1
        if not view["kept"][-1]:
            del view["kept"][-2:]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda view: view["kept"].__setitem__(slice(0, 3), [view["kept"][0] + 1, view["kept"][1], view["kept"][2] - 1]), "does not keep what its rule keeps"),
        (lambda view: view["options"].update(threshold="3.0"), "does not keep what its rule keeps"),
        (lambda view: view.update(rule="success", options={}), "does not keep what its rule keeps"),
        (lambda view: (view["counts"][0].update(task="x")), "counts its tasks wrongly"),
        (lambda view: (view["counts"][0].update(kept_episodes=1)), "counts its tasks wrongly"),
        (lambda view: uncover_the_last_step(view), "covers a part of an episode"),
        (lambda view: view["kept"].append(3), "views are not as the format says"),
    ],
    ids=range(7),
)  # fmt: skip
def test_wrong_views_under_right_digests_are_found(copy_of: Copy, change: Any, says: str) -> None:
    store = copy_of("both")
    add_view(store, "v", rules.no_noops(threshold=1.0))
    key = spoilt(store, lambda view: None)
    assert verify_store(store).problems == []
    key = spoilt(store, change)
    problems = verify_store(store).problems
    assert {each.object for each in problems} == {key}
    assert any(says in each.what for each in problems), problems


@pytest.mark.parametrize("field", ["nothing", "agentview_rgb"])
def test_a_view_whose_rule_looks_at_no_field_of_the_store_is_not_checked_by_it(copy_of: Copy, field: str) -> None:
    store = copy_of("both")
    add_view(store, "v", rules.no_noops(threshold=1.0))
    spoilt(store, lambda view: view["options"].update(field=field))
    assert verify_store(store).problems == []


def test_a_views_document_that_is_lost_or_changed_is_named(copy_of: Copy) -> None:
    store = copy_of("both")
    add_view(store, "v", rules.no_noops())
    key = layout.meta_key(root_of(store).meta.views or "")
    store_tools.flip(store / key, 12)
    assert [each.object for each in verify_store(store).problems] == [key]
    (store / key).unlink()
    assert [each.object for each in verify_store(store).problems] == [key]


# The command line


def test_the_commands_add_list_and_remove(copy_of: Copy, capsys: pytest.CaptureFixture[str]) -> None:
    store = copy_of("both")

    def run(*arguments: object) -> store_tools.Ran:
        code = cli.main([str(each) for each in arguments])
        return store_tools.Ran(code, *capsys.readouterr())

    added = run("views", "add", store, "no_noops", "length:shortest=9,name=long", "--json", "--allow-empty")
    assert added.code == 0, added.err
    told = json.loads(added.out)
    assert (told["generation"], told["rows"], list(told["views"])) == (2, ROWS, ["no_noops", "long"])
    listed = run("views", "list", store)
    assert listed.code == 0
    assert "length(shortest=9)" in listed.out
    one = run("views", "list", store, "no_noops")
    assert "This is not OpenVLA's data" in " ".join(one.out.split())
    assert "libero_goal/open_the_middle_drawer" in one.out
    assert json.loads(run("views", "list", store, "--json").out)["views"] == told["views"] | {}
    described = json.loads(run("info", store, "--json").out)
    assert described["views"] == told["views"]
    assert "no_noops(field=actions" in run("info", store).out
    again = run("views", "add", store, "no_noops")
    assert (again.code, "already" in again.err) == (0, True)
    refused = run("views", "add", store, "drop_tail:steps=3,name=x")
    assert refused.code == 2
    assert_one_screen(refused.err, "--allow-empty", "push_the_plate")
    for wrong in (
        ["remove", store],
        ["remove", store, "a", "--all"],
        ["remove", store, "nothing"],
        ["list", store, "x"],
    ):
        ended = run("views", *wrong)
        assert ended.code == 2, wrong
        assert_one_screen(ended.err)
    removed = run("views", "remove", store, "no_noops", "--json")
    assert (removed.code, json.loads(removed.out)["removed"]) == (0, ["no_noops"])
    assert run("views", "remove", store, "--all").code == 0
    assert run("views", "list", store).out == "no views\n"


def test_build_records_views_at_once(world: World, tmp_path: Path) -> None:
    made = run("build", world.source, tmp_path / "x.vla", "--view", "no_noops", "--view", "still_start:name=late", "--json")  # fmt: skip
    assert made.code == 0, made.err
    assert list(open_store(tmp_path / "x.vla").views) == ["late", "no_noops"]
    assert json.loads(made.out)["digest"] == open_store(tmp_path / "x.vla").digest
    wrong = run("build", world.source, tmp_path / "y.vla", "--view", "nonoops")
    assert wrong.code == 2
    assert not (tmp_path / "y.vla").exists()
