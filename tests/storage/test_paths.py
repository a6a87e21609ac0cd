"""What names stand for: one rule, in every command and every call."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import pytest
import store_tools
from fsspec.registry import known_implementations
from hypothesis import given
from hypothesis import strategies as st

import vla_store
from vla_store import bench, cli, recipes
from vla_store.demo import run_demo
from vla_store.errors import OptionError, StoreNotFound, UsageError, VlaStoreError
from vla_store.manage.append import append_store
from vla_store.manage.copy import copy_store
from vla_store.manage.merge import merge_stores
from vla_store.manage.recode import recode_store
from vla_store.manage.repair import repair_store
from vla_store.storage import is_url, local_path, output_path, place_of

# A name, and where it leads: below the home folder or the current one.
NAMES = {
    "home": ("~/s.vla", "home/s.vla"),
    "home of a file URL": ("file://~/s.vla", "home/s.vla"),
    "two colons": ("run::1/$a::b$_.vla", "here/run::1/$a::b$_.vla"),
    "file URL with two colons": ("local://a::b.vla", "here/a::b.vla"),
    "above where a link leads": ("link/../s.vla", "elsewhere/s.vla"),
    "spaces": ("my stores/./the first.vla/", "here/my stores/the first.vla"),
    "no UTF-8": (os.fsdecode(b"caf\xe9.vla"), os.fsdecode(b"here/caf\xe9.vla")),
    "a zip by its name": ("s.zip", "here/s.zip"),
    "a hyphen first": ("./-s.vla", "here/-s.vla"),
}


@dataclass(frozen=True)
class Here:
    """A current folder `here` with a link to `elsewhere/below`, and a home folder with the source `LIBERO` and its store `first.vla`."""

    root: Path

    def inside(self) -> set[str]:
        return {path.relative_to(self.root).as_posix() for path in self.root.rglob("*")}

    def make_store(self, place: str) -> None:
        shutil.copytree(self.root / "home/first.vla", self.root / place)


@pytest.fixture(scope="module")
def small_store(small_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("zarr", reason="building needs zarr")
    return store_tools.built(tmp_path_factory.mktemp("small") / "first.vla", [small_source])


@pytest.fixture
def here(small_source: Path, small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    for folder in ("here", "home", "elsewhere/below"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "here/link").symlink_to(tmp_path / "elsewhere/below")
    (tmp_path / "home/LIBERO").symlink_to(small_source)
    shutil.copytree(small_store, tmp_path / "home/first.vla")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(bench.turns, "TURN_S", 0.01)
    monkeypatch.setattr(bench.turns, "LOADER_S", 0.02)
    monkeypatch.setattr(bench.turns, "ROUNDS", 1)
    return Here(tmp_path)


def command(*arguments: str) -> None:
    assert cli.main(list(arguments)) == 0, arguments


READING: dict[str, Callable[[str], Any]] = {
    "info": lambda name: command("info", name),
    "verify": lambda name: command("verify", name, "--against", "~/LIBERO"),
    "show": lambda name: command("show", name, "-o", "~/e.png"),
    "report": lambda name: command("report", name, "--output", "~/r.html"),
    "views": lambda name: command("views", "list", name),
    "views add": lambda name: command("views", "add", name, "length:shortest=2"),
    "bench": lambda name: command("bench", name, "--workers", "1", "--batch-size", "2"),
    "coverage": lambda name: command("coverage", name, "--plot", "~/c.png", "--runs", "2"),
    "append": lambda name: command("append", "~/LIBERO", name, "--staging", "~"),
    "copy": lambda name: command("copy", name, "~/copy.vla"),
    "merge": lambda name: command("merge", name, "~/merged.vla"),
    "recode": lambda name: command("recode", name, "~/recoded.vla", "--preset", "raw"),
    "repair": lambda name: command("repair", name, "--from", "~/LIBERO"),
    "open_store": lambda name: vla_store.open_store(name),
    "by pread": lambda name: vla_store.open_store(name, fetcher="pread").episodes[0],
    "by fsspec": lambda name: vla_store.Samples(vla_store.open_store(name, fetcher="fsspec"), windows={"actions": 0})[0],
    "Samples": lambda name: vla_store.Samples(name, windows={"actions": 0})[0],
    "StepDataset": lambda name: dataset(name)[0],
    "recipes": lambda name: recipes.act(name, chunk=4)[0],
}  # fmt: skip


def dataset(name: str) -> Any:
    torch = pytest.importorskip("vla_store.torch")
    return torch.StepDataset(name, windows={"actions": 0})


# Half a second each, in which the name is looked up once: two names suffice between campaigns.
SLOW = ("show", "report", "bench", "coverage", "merge", "recode", "repair")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        pytest.param(name, how, marks=pytest.mark.campaign if in_campaigns and how in SLOW else ())
        for name, in_campaigns in {
            "home": False,
            "no UTF-8": False,
            "two colons": True,
            "above where a link leads": True,
        }.items()
        for how in READING
    ],
)
def test_every_command_and_call_reads_the_store_of_that_name(here: Here, name: str, how: str) -> None:
    if how in ("show", "coverage"):
        pytest.importorskip("matplotlib")
    given, place = NAMES[name]
    here.make_store(place)
    READING[how](given)
    assert not any(each.startswith(("here/~", "here/file:", "here/local:")) for each in here.inside())


# What writes looks its name up in one way: `build` is given all of them, the others these three between campaigns.
EVERYWHERE = ("home of a file URL", "above where a link leads", "no UTF-8")
WRITING: dict[str, Callable[[str], Any]] = {
    "build": lambda name: command("build", "~/LIBERO", name),
    "copy": lambda name: command("copy", "~/first.vla", name),
    "merge": lambda name: command("merge", "~/first.vla", name),
    "recode": lambda name: command("recode", "~/first.vla", name, "--preset", "fast"),
}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        pytest.param(name, how, marks=() if how == "build" or name in EVERYWHERE else pytest.mark.campaign)
        for name in NAMES
        for how in WRITING
    ],
)
def test_every_command_writes_the_store_of_that_name_and_nothing_else(here: Here, name: str, how: str) -> None:
    given, place = NAMES[name]
    (here.root / place).parent.mkdir(exist_ok=True)
    before = here.inside()
    WRITING[how](given)
    new = {each for each in here.inside() - before if not each.startswith(f"{place}/")}
    assert new == {place}
    assert vla_store.open_store(given).url == str(here.root / place)
    assert vla_store.open_store(given).rows == vla_store.open_store("~/first.vla").rows
    command("verify", given, "--against", "~/LIBERO")


def test_calls_take_the_same_names_as_commands(here: Here) -> None:
    from vla_store.audit import verify_store
    from vla_store.builder import build_store

    said: Any = {"orientation": {"~/LIBERO": "bottom_up"}}
    build_store("~/LIBERO", "run::1/s.vla", **said)
    store = Path("run::1/s.vla")
    assert verify_store(store, against=Path("~/LIBERO")).sound
    assert not append_store([Path("~/LIBERO")], store, staging=Path("~/stage"), **said).added
    for made in (copy_store(store, "~/c.vla"), merge_stores([store], Path("~/m.vla"))):
        assert Path(made.url).parent == here.root / "home"
    assert recode_store(store, "~/r.vla", preset="raw").store == here.root / "home/r.vla"
    assert repair_store(store, "~/LIBERO").sound
    assert sorted(os.listdir()) == ["link", "run::1"]


def test_a_lengths_file_and_a_demo_folder_are_names_too(here: Here) -> None:
    (here.root / "home/a::b.csv").write_text("length\n40\n")
    command("coverage", "--lengths", "~/a::b.csv", "--runs", "2")
    with pytest.raises(UsageError, match="new or empty"):
        run_demo("~/LIBERO")


def test_a_store_of_that_name_goes_to_worker_processes(here: Here) -> None:
    from vla_store.loader.batches import Batches

    here.make_store("here/run::1/s.vla")
    samples = vla_store.Samples("run::1/s.vla", windows={"agentview_rgb": 0}, images="as_stored")
    batch = next(iter(Batches(samples, batch_size=2, workers=1)))
    assert len(batch["agentview_rgb"]) == 2


def test_what_exists_here_is_a_path_even_if_it_looks_like_a_url(here: Here) -> None:
    for name in ("memory://s.vla", "zip::s.vla", "$RUN/s.vla", "gs//s.vla", "s3:/s.vla", "C:\\s.vla", "~nobody-here"):
        with pytest.raises(VlaStoreError):
            vla_store.open_store(name)
        here.make_store(f"here/{name}")
        assert vla_store.open_store(name).url == os.path.abspath(name)
        command("verify", name)


@pytest.mark.parametrize(
    "url",
    ["s3://bucket/x.vla", "https://host/x.vla", "memory://x", "memory://", "gs://~/x", "zip::x.zip", "nothing://x"],
)
def test_what_looks_like_a_url_is_one_and_keeps_its_text(url: str) -> None:
    assert place_of(url) == url
    assert is_url(place_of(url))
    assert place_of(url.upper().replace("ZIP", "zip")).partition(":")[0] == url.partition(":")[0]


def test_a_url_ends_without_a_slash() -> None:
    assert place_of("s3://bucket/x.vla/") == "s3://bucket/x.vla"
    assert place_of("simplecache::s3://bucket/x.vla//") == "simplecache::s3://bucket/x.vla"


MISTAKES = {
    "": "neither a path nor a URL",
    " ": "white space",
    "x.vla\n": "white space",
    " x.vla": "white space",
    "a\0b": "no path",
    "\ud800": "no path",
    "file://": "no path",
    "s3:/bucket/x.vla": "lost something",
    "http:/host/x.vla": "lost something",
    "file:/data/x.vla": "lost something",
    "://bucket": "lost something",
    "gs//bucket/x.vla": "without its colon",
    "C:\\x.vla": "Windows",
    "C:/x.vla": "Windows",
    "$HOME/x.vla": "not expanded",
    "${RUN}/x.vla": "not expanded",
    "~nobody-here/x.vla": "home folder",
    "x" * 256: "too long",
    "x/" * 3000: "too long",
}


@pytest.mark.parametrize("name", MISTAKES, ids=range(len(MISTAKES)))
def test_a_name_that_nobody_means_is_refused_before_anything_is_written(
    here: Here, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = here.inside()
    for how in (*READING.values(), *WRITING.values()):
        with pytest.raises((OptionError, AssertionError)):
            how(name)
        assert here.inside() == before
    for call in (lambda: place_of(name), lambda: local_path(name, "it"), lambda: output_path(name, (".vla",))):
        with pytest.raises(OptionError, match=MISTAKES[name]):
            call()
    capfd.readouterr()
    assert cli.main(["build", "~/LIBERO", name]) == 2
    store_tools.assert_one_screen(capfd.readouterr().err, MISTAKES[name])
    assert cli.main(["verify", "~/first.vla", "--against", name]) == 2
    assert here.inside() == before


def test_a_pathlib_path_of_a_url_is_told_from_the_url() -> None:
    with pytest.raises(OptionError, match="as text"):
        place_of(Path("s3://bucket/x.vla"))


@pytest.mark.parametrize("what", [None, 3, b"x.vla", ["x.vla"]])
def test_what_is_no_name_is_refused(what: Any) -> None:
    with pytest.raises(OptionError, match="neither a path nor a URL"):
        place_of(what)


@pytest.mark.parametrize("suffix", ["", ".partial", ".replaced"])
def test_a_name_too_long_for_its_unfinished_store_is_refused_at_once(here: Here, suffix: str) -> None:
    from vla_store.builder import build_store

    name = "x" * (256 - len(suffix))
    with pytest.raises(OptionError, match="too long"):
        build_store("~/LIBERO", name)
    assert build_store("~/LIBERO", "x" * (255 - len(".replaced"))).rows
    assert sorted(os.listdir()) == ["link", "x" * 246]


@pytest.mark.parametrize("how", ["build", "recode"])
@pytest.mark.parametrize("url", ["http://host/x.vla", "zip::x"])
def test_a_url_that_cannot_be_written_is_no_place_to_build_at(
    here: Here, how: str, url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = here.inside()
    with pytest.raises(AssertionError):
        WRITING[how](url)
    assert url.partition(":")[0] in capfd.readouterr().err
    assert here.inside() == before


@pytest.mark.parametrize("arguments", [
    ["append", "~/LIBERO", "~/first.vla", "--staging", "s3://bucket/stage"],
    ["show", "~/first.vla", "-o", "s3://bucket/e.png"],
    ["report", "~/first.vla", "-o", "memory://r.html"],
    ["coverage", "~/first.vla", "--plot", "s3://bucket/c.png"],
    ["coverage", "--lengths", "https://host/lengths.csv"],
    ["demo", "s3://bucket/demo"],
])  # fmt: skip
def test_a_url_is_refused_where_a_local_path_is_needed(
    here: Here, arguments: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    before = here.inside()
    assert cli.main(arguments) == 2
    store_tools.assert_one_screen(capfd.readouterr().err, "is a local path", "://")
    assert here.inside() == before


def test_a_chain_of_fsspec_is_a_url_once_fsspec_has_its_protocol(here: Here) -> None:
    here.make_store("here/s.vla")
    shutil.make_archive("packed", "zip", "s.vla")
    store = vla_store.open_store("zip::packed.zip")
    assert store.rows == vla_store.open_store("s.vla").rows
    command("verify", "zip::packed.zip")
    with pytest.raises(StoreNotFound, match="no store at this path"):
        vla_store.open_store("own::packed.zip")
    fsspec.register_implementation("own", "fsspec.implementations.zip.ZipFileSystem")
    try:
        assert is_url(place_of("own::packed.zip"))
    finally:
        known_implementations.pop("own")


def test_a_file_url_may_be_percent_encoded(here: Here) -> None:
    here.make_store("here/my store.vla")
    assert vla_store.open_store(Path("my store.vla").absolute().as_uri()).url == os.path.abspath("my store.vla")
    assert place_of(f"file://localhost{here.root}/new%20one.vla") == f"{here.root}/new one.vla"
    os.mkdir("as%20it stands")
    assert place_of("file://as%20it stands") == os.path.abspath("as%20it stands")


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=40))
def test_a_name_after_a_dot_and_a_slash_is_that_file_whatever_it_is(name: str) -> None:
    if len(os.fsencode(name)) < 256 and name == name.rstrip() and name not in (".", ".."):
        assert place_of(f"./{name}") == os.path.join(os.getcwd(), name)


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_a_place_stands_for_itself(name: str) -> None:
    try:
        place = place_of(name)
    except OptionError:
        return
    assert place_of(place) == place
