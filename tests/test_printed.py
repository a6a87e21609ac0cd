"""What commands print is read by people on any terminal, and by programs."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from store_tools import assert_one_screen, in_words
from tiny_libero import TinyFile, write_suites

from vla_store import OptionError, Samples, cli, mixture, open_store, weighted
from vla_store.builder import build_store
from vla_store.cli.printing import error_text, tell
from vla_store.look.info import store_json, store_text
from vla_store.progress import ProgressBar


def test_a_builds_table_says_what_was_chosen_and_what_came_out(tiny_source: Path, tmp_path: Path) -> None:
    report = build_store(tiny_source, tmp_path / "x.vla")
    lines = report.text().splitlines()
    assert lines[0].split() == ["camera", "shape", "prediction", "codec", "of", "raw"]
    assert lines[1].startswith("agentview_rgb    16x24x3  background  lz4hc")
    assert "episodes       10 (137 steps)" in lines
    assert any(
        line.startswith("fingerprint    " + (report.root.fingerprint[:16] if report.root else "?")) for line in lines
    )
    assert all(len(line) <= 80 for line in lines if not line.startswith("store"))
    described = json.loads(json.dumps(report.to_json()))
    assert described["written"] is True
    assert described["digest"] == open_store(tmp_path / "x.vla").digest
    assert described["nbytes"] == sum(path.stat().st_size for path in (tmp_path / "x.vla").rglob("*") if path.is_file())


def test_a_plans_table_says_what_would_be(tiny_source: Path, tmp_path: Path) -> None:
    report = build_store(tiny_source, tmp_path / "x.vla", dry_run=True)
    lines = report.text().splitlines()
    assert f"would write    {tmp_path}/x.vla" in lines
    assert any(line.startswith("memory         at most ") for line in lines)
    assert report.to_json()["written"] is False
    assert report.to_json()["digest"] is None


def test_a_stores_text_and_json_agree(tiny_store: Path) -> None:
    store = open_store(tiny_store)
    described = json.loads(json.dumps(store_json(store)))
    assert described["rows"] == 137
    assert described["nbytes"] == store.nbytes
    assert {name: each["episodes"] for name, each in described["suites"].items()} == {
        "libero_10": 3,
        "libero_goal": 3,
        "libero_spatial": 4,
    }
    assert sum(each["steps"] for each in described["suites"].values()) == 137
    by_task = [sum(each[name] for each in described["tasks"]) for name in ("episodes", "steps")]
    assert by_task == [10, 137]
    told = [(each["suite"], each["name"], each["instruction"]) for each in described["tasks"]]
    assert told == [(each.suite, each.name, each.instruction) for each in store.tasks]
    text = store_text(described)
    assert "rows           137 steps of 10 episodes in 1 part" in text
    assert "conventions    pictures bottom_up, observations recorded after the action" in text
    for name in store.fields:
        assert f"\n{name} " in text


def test_info_of_a_store_that_is_being_built_says_who_builds_it_and_how_far(
    tiny_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, said = tmp_path / "x.vla", []

    class Asks(ProgressBar):
        def advance(self, nbytes: int) -> None:
            super().advance(nbytes)
            assert cli.main(["info", str(store)]) == 1
            said.append(capsys.readouterr().err)

    build_store(tiny_source, store, progress=Asks(quiet=True))
    assert len(said) > 3
    for err in said:
        assert_one_screen(err, "this store is being written now", f"{store}.partial", f"{os.getpid()} on ")
    assert any(f"{share}% of the data" in said[1] for share in range(100))
    assert "100% of the data" in said[-1]
    assert cli.main(["info", str(store)]) == 0


def test_every_command_names_a_store_by_the_same_absolute_path(
    small_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    suites = sorted(map(str, small_source.iterdir()))
    written = {
        "a.vla": ("build", suites[0]),
        "b.vla": ("copy", "link/a.vla"),
        "c.vla": ("merge", "link/b.vla"),
        "d.vla": ("recode", "./link/c.vla", "--preset", "raw"),
    }
    for name, words in written.items():
        for more in ((), ("--json",)):
            shutil.rmtree(f"real/{name}", ignore_errors=True)
            assert cli.main([*words, f"./link/../link/{name}", "--quiet", *more]) == 0
            out = capsys.readouterr().out
            place = f"{tmp_path}/link/{name}"
            told = (
                json.loads(out)["store"] if more else next(x[15:] for x in out.splitlines() if x.startswith("store "))
            )
            assert told == place
    for words in (("info",), ("verify",), ("append", suites[1]), ("repair", "--from", suites[0])):
        name = "d.vla" if words[0] == "append" else "a.vla"
        assert cli.main([*words, f"link/./{name}", "--quiet"]) == 0
        assert f" {tmp_path}/link/{name}\n" in capsys.readouterr().out


@pytest.mark.parametrize("is_terminal", [True, False])
def test_notes_are_wrapped_on_a_terminal_and_one_line_in_a_log(
    is_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    monkeypatch.setattr("sys.stderr", stream)
    tell("warning", ["a thing is not quite as it should be, and this is said at length, " * 3])
    lines = stream.getvalue().splitlines()
    assert in_words(stream.getvalue()).startswith("warning: a thing is not quite")
    assert len(lines) == (3 if is_terminal else 1)
    assert not is_terminal or max(map(len, lines)) <= 80


def test_what_is_said_of_an_error_fits_a_terminal_but_paths_stay_whole() -> None:
    path = "/a folder/with spaces" + "/long" * 20
    error = OptionError(
        "it is wrong in so many words " * 4, path=path, expected="one of these " * 10, hint="do it " * 30
    )
    lines = error_text(error).splitlines()
    assert lines[0].startswith("vla-store: error: it is wrong")
    assert [line for line in lines if len(line) > 80] == [f"  path      {path}"]
    assert in_words("one of these " * 10) in in_words(error_text(error))


SINGULAR = (
    r"(?<![\d.,])1 (episodes|steps|tasks|files|parts|samples|batches|anchors|objects|rows|warnings|pieces|numbers)\b"
)


def test_one_of_a_kind_is_said_in_the_singular(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every text that tells of a store of one episode of one step."""
    source, store = tmp_path / "one", tmp_path / "x.vla"
    write_suites(source, suites=(TinyFile("libero_one", "do_it", 12, {0: 1}),))
    for words in (
        ("build", source, store, "--observation", "after", "--dry-run"),
        ("build", source, store, "--observation", "after"),
        ("info", store),
        ("views", "add", store, "no_noops"),
        ("views", "list", store, "no_noops"),
        ("verify", store, "--against", source),
        ("episodes", store),
        ("tasks", store),
        ("copy", store, tmp_path / "y.vla"),
        ("merge", store, tmp_path / "z.vla"),
        ("recode", store, tmp_path / "r.vla", "--preset", "small"),
        ("export", store, "--to", "hdf5", tmp_path / "out"),
        ("coverage", store, "--runs", "2"),
        ("info", store),
    ):
        assert cli.main(list(map(str, words))) == 0, capsys.readouterr().err
        told = "".join(capsys.readouterr())
        assert not re.search(SINGULAR, told), f"{words[0]}: {told}"
    opened = open_store(store)
    samples = Samples(opened, windows={"actions": 0}, alignment="as_stored")
    told = [opened, samples, samples.__getitems__([0]), opened.split("train", fraction=1.0), opened.episodes]
    told += [weighted(samples, [1.0]), mixture([(samples, 1)]), *opened.views.values()]
    for each in map(repr, told):
        assert not re.search(SINGULAR, each), each
