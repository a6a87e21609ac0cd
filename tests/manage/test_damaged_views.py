"""A store whose views are damaged: samples that name none do not mind, and every command names the object and says what to do."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import store_tools
from comparing import assert_same
from store_tools import assert_one_screen, digests, root_of

from vla_store import Samples, StoreDamaged, UnsupportedStore, cli, open_store
from vla_store.audit import verify_store
from vla_store.format import layout
from vla_store.format.canonical import dumps, sha256_hex
from vla_store.manage.copy import copy_store
from vla_store.manage.repair import repair_store
from vla_store.manage.views import remove_views

# Two parts, six views, one of them by a predicate; of generation 3, where generation 2 had them of one part.
GOLDEN = Path(__file__).parents[1] / "golden/version-1"
SOURCE = GOLDEN / "source"
WINDOWS = {"ee_states": [0, 1], "agentview_rgb": 0}


@pytest.fixture(scope="module", autouse=True)
def _writing() -> None:
    for module in ("h5py", "zarr"):
        pytest.importorskip(module, reason=f"building needs {module}")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "views.vla", tmp_path / "views.vla"))


def assert_said(err: str, *names: str) -> None:
    """One screen that says all of these, wherever its lines break."""
    assert_one_screen(err)
    said = " ".join(err.split())
    assert [name for name in names if name not in said] == []


def key_of(store: Path) -> str:
    return layout.meta_key(root_of(store).meta.views or "")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])


# What storage does to a document: its bytes are no longer those it is named by.
LOST: dict[str, Callable[[Path], None]] = {
    "cut short": cut_short,
    "a flipped byte": lambda path: store_tools.flip(path, 90),
    "missing": lambda path: path.unlink(),
}


def written(store: Path, change: Callable[[dict[str, Any]], Any] | bytes) -> None:
    """What a writer did: another document of views, every digest right."""
    root, path = root_of(store), store / key_of(store)
    data = change if isinstance(change, bytes) else b""
    if not isinstance(change, bytes):
        document = json.loads(path.read_bytes())
        change(document)
        data = dumps(document)
    path.unlink()
    made = dataclasses.replace(root, meta=dataclasses.replace(root.meta, views=sha256_hex(data))).sealed()
    (store / layout.meta_key(sha256_hex(data))).write_bytes(data)
    for key in (layout.root_key(root.generation), layout.ROOT_KEY):
        (store / key).write_bytes(made.to_bytes())


WRITTEN: dict[str, Any] = {
    "no JSON": b'{"views":{',
    "a key less": lambda document: document["views"]["drawn"].pop("rule"),
    "a run beyond the rows": lambda document: document["views"]["moving"]["kept"].__setitem__(-1, 10**6),
    "a key of a newer version": lambda document: document["views"]["drawn"].update(weights=[1]),
    "a document of a newer version": lambda document: document.update(version=2),
}


SOME = ["missing", "a run beyond the rows"]
each_damage = pytest.mark.parametrize("damaged", [*LOST, *WRITTEN], indirect=True)
some_damage = pytest.mark.parametrize("damaged", SOME, indirect=True)


@pytest.fixture
def damaged(request: pytest.FixtureRequest, store: Path) -> tuple[Path, str]:
    """A store, and the key of its damaged document."""
    if request.param in LOST:
        LOST[request.param](store / key_of(store))
    else:
        written(store, WRITTEN[request.param])
    return store, key_of(store)


@each_damage
def test_damaged_views_stop_only_samples_that_name_one(
    damaged: tuple[Path, str],
) -> None:
    store, key = damaged
    opened = open_store(store)
    found, expected = (
        Samples(opened, windows=WINDOWS, images="as_stored"),
        Samples(GOLDEN / "views.vla", windows=WINDOWS, images="as_stored"),
    )
    assert len(found) == 71
    for number in range(0, 71, 7):
        assert_same(found[number], expected[number])
    assert opened.nbytes > 100_000
    for use in (lambda: opened.views, lambda: Samples(opened, windows=WINDOWS, view="drawn", images="as_stored")):
        with pytest.raises(StoreDamaged) as caught:
            use()
        assert caught.value.places["object"] == key
        assert caught.value.places["store"] == str(store)
        assert "samples that name no view are not touched" in caught.value.hint
        assert "views remove STORE --all" in caught.value.hint


@some_damage
@pytest.mark.parametrize("command", ["info", "report"])
def test_a_store_is_shown_all_the_same_and_the_command_fails(
    damaged: tuple[Path, str], capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    store, key = damaged
    page = tmp_path / "page.html"
    assert cli.main([command, str(store), *(["-o", str(page)] if command == "report" else [])]) == 1
    captured = capsys.readouterr()
    shown = captured.out if command == "info" else page.read_text(encoding="utf-8")
    assert "218234481a52a01e" in shown  # the fingerprint
    assert "damaged" in shown.lower()
    assert_said(captured.err, key, str(store), "samples that name no view are not touched", "views remove STORE --all")


@some_damage
def test_info_tells_programs_what_is_damaged(damaged: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    store, key = damaged
    assert cli.main(["info", str(store), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["views"], told["views_damaged"]["object"]) == (71, {}, key)


@each_damage
def test_verify_checks_everything_else_and_says_what_to_do(
    damaged: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    store, key = damaged
    report = verify_store(store)
    assert {each.object for each in report.problems} == {key}
    assert report.fingerprint == root_of(store).fingerprint  # of the data, all of which was read
    assert report.damaged_views == {key: [3]}
    assert cli.main(["verify", str(store)]) == 1
    out = capsys.readouterr().out
    assert len(out.splitlines()) < 24
    assert "vla-store views remove STORE --all" in out


@some_damage
@pytest.mark.parametrize(
    "command",
    [
        ["views", "list", "STORE"],
        ["views", "add", "STORE", "success:name=new"],
        ["views", "remove", "STORE", "drawn"],
        ["append", "SOURCE", "STORE", "--observation", "after"],
        ["merge", "STORE", "NEW"],
        ["recode", "STORE", "NEW", "--preset", "raw"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_whatever_needs_the_views_stops_before_any_work(
    damaged: tuple[Path, str], capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str]
) -> None:
    store, key = damaged
    before = digests(store)
    source = tmp_path / "more" / "suite_c"
    shutil.copytree(SOURCE / "suite_b", source)
    given = {"STORE": str(store), "SOURCE": str(source), "NEW": str(tmp_path / "new.vla")}
    assert cli.main([given.get(each, each) for each in command]) == 1
    captured = capsys.readouterr()
    assert_said(captured.err, key, str(store), "views remove STORE --all")
    assert captured.out == ""
    assert "100%" not in captured.err  # nothing was built for it
    assert digests(store) == before
    assert not (tmp_path / "new.vla").exists()


@pytest.mark.parametrize("what", LOST)
def test_lost_views_that_an_older_root_tells_of_are_made_again(store: Path, what: str) -> None:
    expected, key = digests(store), key_of(store)
    LOST[what](store / key)
    report = repair_store(store, SOURCE)
    assert (report.repaired, report.sound) == ((key,), True)
    assert digests(store) == expected


@pytest.mark.parametrize("what", WRITTEN)
def test_views_that_were_written_wrongly_are_not_repaired_and_say_what_to_do(store: Path, what: str) -> None:
    written(store, WRITTEN[what])
    array = next(store.glob("parts/*/steps/actions/c/0/0"))
    expected = array.read_bytes()
    array.unlink()
    with pytest.raises(StoreDamaged, match="views are not as the format says") as caught:
        repair_store(store, SOURCE)
    assert caught.value.places["object"] == key_of(store)
    assert "upgrade" in caught.value.hint
    assert array.read_bytes() == expected  # what can be repaired was


@pytest.mark.parametrize("what", LOST)
def test_a_copy_of_lost_views_is_refused_before_any_part_is_sent(
    store: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, what: str
) -> None:
    key = key_of(store)
    LOST[what](store / key)
    assert cli.main(["copy", str(store), str(tmp_path / "new.vla")]) == 1
    assert_said(capsys.readouterr().err, key, "views remove STORE --all")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["views.vla"]


@pytest.mark.parametrize("what", WRITTEN)
def test_views_that_cannot_be_read_but_are_whole_are_copied_and_a_note_says_so(
    store: Path, tmp_path: Path, what: str
) -> None:
    written(store, WRITTEN[what])
    report = copy_store(store, tmp_path / "new.vla")
    assert [note.split()[0] for note in report.notes] == [key_of(store)]
    assert digests(tmp_path / "new.vla") == digests(store)


def test_a_store_whose_damaged_views_were_dropped_grows_and_copies(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = key_of(store)
    cut_short(store / key)
    remove_views(store, None)
    assert cli.main(["info", str(store)]) == 0
    capsys.readouterr()
    assert cli.main(["copy", str(store), str(tmp_path / "new.vla")]) == 0
    captured = capsys.readouterr()
    assert f"note: {key} is damaged and was not copied: views of generation 3, which is superseded" in captured.err
    for each in (store, tmp_path / "new.vla"):
        report = verify_store(each)
        assert {problem.object for problem in report.problems} == {key}
        assert "missed only by handles and digests of older roots" in report.text()
        assert "views remove" not in report.text()
    repair_store(tmp_path / "new.vla", SOURCE)  # generation 2 tells of them
    assert digests(tmp_path / "new.vla")[key] == hashlib.sha256((GOLDEN / "views.vla" / key).read_bytes()).hexdigest()


def test_a_view_of_a_newer_kind_is_no_damage_and_is_refused_at_its_use(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(store, lambda document: document["views"]["drawn"].update(kind="weights"))
    assert verify_store(store).sound
    assert cli.main(["info", str(store)]) == 0
    assert "weights" in capsys.readouterr().out
    opened = open_store(store)
    assert len(Samples(opened, windows=WINDOWS, view="moving", images="as_stored")) == opened.views["moving"].steps
    with pytest.raises(UnsupportedStore, match="'drawn'"):
        Samples(opened, windows=WINDOWS, view="drawn", images="as_stored")
