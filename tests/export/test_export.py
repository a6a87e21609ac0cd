"""`vla-store export`: the folder is whole or is not there, errors fit a screen, and what is not equal is said."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import store_tools
from export import expected, oracle
from own_sources import FIELDS, Own
from store_tools import assert_one_screen, built, in_words, run

from vla_store import DestinationExists, MachineError, OptionError, StoreDamaged, UnknownName, open_store
from vla_store.builder import EpisodeInfo, SourceInfo
from vla_store.export import export, export_store, growing
from vla_store.sources.protocol import Array

for module in ("PIL", "av", "pyarrow"):
    pytest.importorskip(module, reason=f"what leaves is read back with {module}")

WAYS: dict[str, dict[str, Any]] = {
    "lerobot": {"to": "lerobot", "fps": 20},
    "lerobot v2.1": {"to": "lerobot", "fps": 20, "version": "v2.1"},
    "rlds": {"to": "rlds"},
    "hdf5": {"to": "hdf5"},
}
LARGE = replace(FIELDS["front"], shape=(128, 128, 3))
READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {"lerobot": oracle.lerobot, "rlds": oracle.rlds}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    return built(tmp_path / "own.vla", [Own()])


# --- the command -------------------------------------------------------------------------------------------------------


def test_the_command_writes_and_says_what_is_not_equal(tiny_store: Path, tmp_path: Path) -> None:
    done = run(
        "export", tiny_store, "--to", "lerobot", tmp_path / "out", "--alignment", "causal", "--images", "upright",
        "--rename", "agentview_rgb=image", "--rename", "state=state", "--exclude", "robot_states", "--suite", "libero_spatial",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "LeRobot v3.0, PNG in parquet, 20 frames a second" in done.out
    for said in ("float64 became float32", "left out, as asked: robot_states", "states", "attributes"):
        assert said in done.out
    names = json.loads((tmp_path / "out/meta/info.json").read_text())["features"]
    assert {"image", "state"} <= set(names)
    assert "observation.robot_states" not in names
    record = json.loads((tmp_path / "out/meta/vla_store.json").read_text())
    assert (record["images"], record["alignment"], record["selection"]) == (
        "upright",
        "causal",
        {"suites": ["libero_spatial"]},
    )
    assert {each["suite"] for each in record["episodes"]} == {"libero_spatial"}


def test_episodes_are_named_by_number_range_and_place(tiny_store: Path, tmp_path: Path) -> None:
    done = run(
        "export", tiny_store, "--to", "rlds", tmp_path / "out", "--alignment", "as_stored", "--json",
        "--episode", "0:2", "--episode", "-1", "--episode", "libero_goal/open_the_middle_drawer/2",
    )  # fmt: skip
    assert json.loads(done.out)["episodes"] == 4, done.err


def test_alignment_is_asked_for_where_it_matters(tiny_store: Path, tmp_path: Path) -> None:
    done = run("export", tiny_store, "--to", "rlds", tmp_path / "out")
    assert done.code == 2
    assert_one_screen(done.err, "alignment must be named", "--alignment causal")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--rename", "x"], "FIELD=NAME"),
        (["--rename", "nope=x"], "there is no field 'nope'"),
        (["--suite", "nope"], "there is no suite 'nope'"),
        (["--view", "nope"], "there is no view 'nope'"),
        (["--episode", "7:7", "--episode", "99"], "there is no episode 99"),
        (["--episode", "0:99999999999999"], "there is no episode"),
        (["--episode", "5:5"], "the selection is empty"),
        (["--state", "nope"], "there is no field 'nope'"),
        (["--fps", "10"], "no use for --fps"),
        (["--video"], "no use for --video"),
    ],
)
def test_wrong_use_is_told_in_a_screen(tiny_store: Path, tmp_path: Path, words: list[str], says: str) -> None:
    done = run("export", tiny_store, "--to", "rlds", tmp_path / "out", "--alignment", "causal", *words)
    assert done.code == 2
    assert says in in_words(done.err)
    assert len(done.err.splitlines()) < 12
    assert list(tmp_path.iterdir()) == []


def test_names_of_options_are_checked(own: Path, tmp_path: Path) -> None:
    for given in ({"to": "zarr"}, {"to": "rlds", "images": "left"}, {"to": "rlds", "alignment": "x"}):
        with pytest.raises(UnknownName):
            export_store(own, tmp_path / "out", **given)
    with pytest.raises(UnknownName):
        export_store(own, tmp_path / "out", to="lerobot", fps=1, version="v9")
    with pytest.raises(UnknownName, match="no field 'nope'"):
        export_store(own, tmp_path / "out", to="rlds", exclude="nope")


# --- the folder --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_a_folder_that_is_there_is_not_touched(own: Path, tmp_path: Path, way: str) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(DestinationExists):
        export_store(own, tmp_path / "out", **WAYS[way])
    assert list((tmp_path / "out").iterdir()) == []


def test_a_partial_folder_of_somebody_else_is_not_touched(own: Path, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial/thesis.tex").write_text("all of it")
    with pytest.raises(DestinationExists, match="nothing was touched"):
        export_store(own, tmp_path / "out", to="rlds")
    assert (tmp_path / "out.partial/thesis.tex").read_text() == "all of it"


def test_two_exports_do_not_write_one_folder(own: Path, tmp_path: Path) -> None:
    with growing.growing(tmp_path / "out"), pytest.raises(DestinationExists, match="another export"):
        export_store(own, tmp_path / "out", to="rlds")
    assert (tmp_path / "out").exists()


def test_a_url_is_no_folder_to_write(own: Path) -> None:
    with pytest.raises(OptionError, match="local path"):
        export_store(own, "s3://bucket/out", to="rlds")


@pytest.mark.parametrize("way", WAYS)
def test_what_a_killed_export_left_is_replaced(own: Path, tmp_path: Path, way: str) -> None:
    code = (
        "import os, signal, sys\n"
        "from vla_store.export import export, export_store\n"
        "advance = lambda self, nbytes: os.kill(os.getpid(), signal.SIGKILL)\n"
        "bar = type('Bar', (), {'begin': lambda *_: None, 'advance': advance, 'end': lambda _: None})()\n"
        f"export_store(sys.argv[1], sys.argv[2], progress=bar, **{WAYS[way]!r})\n"
    )
    command = [sys.executable, "-c", code, str(own), str(tmp_path / "out")]
    done = subprocess.run(command, env=store_tools.environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.partial").exists()
    export_store(own, tmp_path / "out", **WAYS[way])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "own.vla"]
    if way in READERS:
        assert [len(each["action"]) for each in READERS[way](tmp_path / "out")] == [20, 7]


@pytest.mark.parametrize("way", WAYS)
def test_a_full_disk_leaves_nothing(disk: Callable[[str], Path], tmp_path: Path, way: str) -> None:
    large = FIELDS | {"front": replace(FIELDS["front"], shape=(64, 64, 3))}
    store = built(tmp_path / "own.vla", [Own(lengths={0: 300, 1: 300}, fields=large)])
    point = disk("64k")
    with pytest.raises(MachineError) as caught:
        export_store(store, point / "out", **WAYS[way])
    assert_one_screen(f"vla-store: error: {caught.value}", "No space left")
    assert "resumes" not in caught.value.hint
    assert list(point.iterdir()) == []
    disk("64m")
    export_store(store, point / "out", **WAYS[way])
    assert (point / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("way", [*WAYS, "video", "video v2.1"])
def test_a_disk_of_any_size_has_all_or_nothing(disk: Callable[[str], Path], tmp_path: Path, way: str) -> None:
    store = built(tmp_path / "own.vla", [Noisy(lengths={0: 12, 1: 9}, fields=FIELDS | {"front": LARGE})])
    version = "v2.1" if way.endswith("v2.1") else "v3.0"
    given = WAYS.get(way, {"to": "lerobot", "fps": 10, "video": True, "version": version})
    point, whole = disk("64m"), 0
    need = export_store(store, point / "out", **given).nbytes // 1024 + 80
    for room in range(4, need, max(4, need // 20)):
        shutil.rmtree(point / "out", ignore_errors=True)
        disk(f"{room}k")
        failed: MachineError | None = None
        try:
            export_store(store, point / "out", **given)
            whole += 1
        except MachineError as error:
            failed = error
        if failed:
            assert "No space left" in str(failed), f"{room} kB"
            assert list(point.iterdir()) == [], f"{room} kB"
        disk("64m")
    assert whole < 10


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_a_disk_that_videos_fill_leaves_nothing(disk: Callable[[str], Path], tmp_path: Path, version: str) -> None:
    store = built(tmp_path / "own.vla", [Noisy(lengths={0: 60, 1: 60}, fields=FIELDS | {"front": LARGE})])
    point = disk("200k")
    with pytest.raises(MachineError) as caught:
        export_store(store, point / "out", to="lerobot", fps=10, video=True, version=version)
    assert_one_screen(f"vla-store: error: {caught.value}", "No space left")
    assert list(point.iterdir()) == []


@dataclass(frozen=True)
class Noisy(Own):
    """Pictures that no codec makes small."""

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        rows = super().read(number, field, start, stop)
        if field == "front":
            rows = np.stack(
                [np.random.default_rng(step).integers(0, 256, rows.shape[1:]) for step in range(start, stop)]
            )
        return rows.astype(self.fields[field].dtype)


def test_a_store_that_is_damaged_leaves_nothing(tmp_path: Path) -> None:
    store = built(tmp_path / "own.vla", [Own()])
    shard = next(path for path in sorted(store.rglob("*")) if path.is_file() and "/front/c/" in path.as_posix())
    for offset in range(0, 400, 40):
        store_tools.flip(shard, offset)
    with pytest.raises(StoreDamaged):
        export_store(store, tmp_path / "out", to="rlds")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.vla"]


def test_ctrl_c_leaves_nothing(tiny_store: Path, tmp_path: Path) -> None:
    class Bar:
        def begin(self, *_: int) -> None: ...
        def end(self) -> None: ...
        def advance(self, nbytes: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_store(tiny_store, tmp_path / "out", to="rlds", alignment="causal", progress=Bar())
    assert list(tmp_path.iterdir()) == []


# --- what is in it -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hostile(Own):
    """Texts of any kind, numbers that are not finite, episodes of one step."""

    def scan(self) -> SourceInfo:
        info = super().scan()
        texts = ('say "cheese"\nand\twait', "öffne die Tür \N{SNOWMAN}", "{braces} %s \\n", " ", "a/b")
        return SourceInfo(
            **{
                **vars(info),
                "episodes": tuple(
                    EpisodeInfo(each.number, each.steps, each.fields, text=text if text.strip() else "x")
                    for each, text in zip(info.episodes, texts)
                ),
            }
        )

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        rows = super().read(number, field, start, stop)
        if field == "joints":
            rows[:, 1] = np.nan
            rows[::2, 2] = np.inf
        return rows


@dataclass(frozen=True)
class Wide(Own):
    """joints of the size of a clock, or of what no float32 holds."""

    first: float = 0.0

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        rows = super().read(number, field, start, stop)
        if field == "joints":
            rows[:, 0] = self.first + 0.02 * np.arange(start, stop)
        return rows


@pytest.mark.parametrize("to", READERS)
def test_what_float32_loses_of_a_clock_is_said(tmp_path: Path, to: str) -> None:
    store = built(tmp_path / "own.vla", [Wide(first=1.7e9)])
    report = export_store(store, tmp_path / "out", **WAYS[to])
    assert any("'joints', component 0 loses 100% of the differences" in line for line in report.unequal)
    assert not any("dtype=" in line for line in report.unequal)


def test_what_float32_cannot_hold_is_refused(tmp_path: Path) -> None:
    store = built(tmp_path / "own.vla", [Wide(first=1e300)])
    with pytest.raises(OptionError, match="--exclude"):
        export_store(store, tmp_path / "out", to="rlds")
    export_store(store, tmp_path / "out", to="rlds", exclude=["joints"])


@pytest.mark.parametrize("missing", ["pyarrow", "av"])
def test_a_library_that_is_not_installed_is_named(
    own: Path, tmp_path: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MachineError, match=r"vla-store\[lerobot\]"):
        export_store(own, tmp_path / "out", to="lerobot", fps=10, video=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.vla"]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_killed_at_any_moment_nothing_looks_whole(tiny_store: Path, tmp_path: Path, way: str) -> None:
    alignment = {} if way == "hdf5" else {"alignment": "causal"}
    code = f"import sys; from vla_store.export import export_store; print('ready', flush=True); export_store(sys.argv[1], sys.argv[2], **{WAYS[way] | alignment!r})"
    command = [sys.executable, "-c", code, str(tiny_store), str(tmp_path / "out")]
    began = time.monotonic()
    whole = export_store(tiny_store, tmp_path / "whole/out", **WAYS[way], **alignment)
    took, killed = time.monotonic() - began, 0
    for number in range(10):
        with subprocess.Popen(command, env=store_tools.environment(), stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(took * 2 * number / 10)
            process.kill()
        if (tmp_path / "out").exists():
            found = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
            assert found == whole.nbytes
            shutil.rmtree(tmp_path / "out")
        else:
            killed += 1
    assert killed
    export_store(tiny_store, tmp_path / "out", **WAYS[way], **alignment)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


@pytest.mark.parametrize("way", READERS)
def test_texts_and_numbers_of_any_kind_come_through(tmp_path: Path, way: str) -> None:
    source = Hostile(lengths={0: 1, 1: 1, 2: 5, 3: 1, 4: 2})
    store = built(tmp_path / "own.vla", [source])
    export_store(store, tmp_path / "out", **WAYS[way])
    found = READERS[way](tmp_path / "out")
    opened = open_store(store)
    point = "." if way == "lerobot" else "/"
    for number, (each, episode) in enumerate(zip(found, opened.episodes)):
        assert each["task"] == [episode.text] * episode.length
        wanted = source.read(number, "joints", 0, episode.length).astype(np.float32)
        assert np.array_equal(each[f"observation{point}joints"], wanted, equal_nan=True)
    if way == "lerobot":
        text = (tmp_path / "out/meta/stats.json").read_text()
        assert "NaN" not in text
        assert "Infinity" not in text


def test_stores_of_several_conventions_each_keep_their_rows(tmp_path: Path) -> None:
    after = Own(suite="kitchen", file="after", observation="after", lengths={0: 6})
    before = Own(suite="pantry", file="before", lengths={0: 5})
    store = built(tmp_path / "own.vla", [after, before], mixed=True)
    report = export_store(store, tmp_path / "out", to="rlds", alignment="causal")
    found = oracle.rlds(tmp_path / "out")
    assert [len(each["action"]) for each in found] == [5, 5]
    wanted = [after.read(0, "joints", 0, 5), before.read(0, "joints", 0, 5)]
    for each, rows in zip(found, wanted):
        assert np.array_equal(each["observation/joints"], rows.astype(np.float32))
    assert report.steps == 10


def test_memory_holds_a_few_steps_of_pixels(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vla_store.features import frames

    monkeypatch.setattr(frames, "SLICE_NBYTES", 2000)
    sizes: list[int] = []
    encoded = export._encoded
    monkeypatch.setattr(export, "_encoded", lambda pool, rows: sizes.append(len(rows)) or encoded(pool, rows))
    export_store(own, tmp_path / "out", to="rlds")
    assert (max(sizes), sum(sizes)) == (5, 27)
    assert [len(each["action"]) for each in oracle.rlds(tmp_path / "out")] == [20, 7]


def test_progress_reaches_its_end(own: Path, tmp_path: Path) -> None:
    told: list[int] = []

    class Bar:
        def begin(self, steps: int, nbytes: int, done_nbytes: int) -> None:
            told.append(nbytes)

        def advance(self, nbytes: int) -> None:
            told[0] -= nbytes

        def end(self) -> None:
            told.append(-1)

    export_store(own, tmp_path / "out", to="rlds", progress=Bar())
    assert told == [0, -1]


def test_a_store_at_a_url_is_exported_alike(tiny_store: Path, tmp_path: Path) -> None:
    import fsspec

    place = "memory://export/tiny.vla"
    fsspec.filesystem("memory").put(str(tiny_store), "/export/tiny.vla", recursive=True)
    for name, url in (("far", place), ("near", str(tiny_store))):
        export_store(url, tmp_path / name, to="rlds", alignment="causal", state=[])
    far, near = (oracle.rlds(tmp_path / name) for name in ("far", "near"))
    assert len(far) == len(near) == len(expected.causal())
    for one, other in zip(far, near):
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_the_export_of_one_side_of_a_split(tiny_store: Path, tmp_path: Path) -> None:
    counts = {}
    for side in ("train", "val"):
        report = export_store(
            tiny_store, tmp_path / side, to="hdf5", split=open_store(tiny_store).split(side, fraction=0.5)
        )
        counts[side] = report.episodes
    assert sum(counts.values()) == 10


def test_sigint_from_a_terminal_ends_the_command_and_leaves_nothing(tiny_store: Path, tmp_path: Path) -> None:
    command = [
        *store_tools.COMMAND,
        "export",
        str(tiny_store),
        "--to",
        "lerobot",
        str(tmp_path / "out"),
        "--alignment",
        "causal",
    ]
    process = subprocess.Popen(command, env=store_tools.environment(), stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 30
    while not (tmp_path / "out.partial" / growing.MARK).exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)  # to none, where it was quicker
    _, err = process.communicate(timeout=30)
    assert process.returncode in (0, 130), err  # 0: it was quicker
    assert sorted(path.name for path in tmp_path.iterdir()) in ([], ["out"])
    assert (process.returncode == 0) == (tmp_path / "out").exists()
