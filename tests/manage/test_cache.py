"""`vla-store cache`: what is in a cache, whether it is sound, what may go, a store brought into it; and --cache of other commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp", reason="http:// needs aiohttp")

from loader.serving import wait_until
from range_server import RangeServer
from store_tools import COMMAND, assert_one_screen, environment, in_words

import vla_store
from vla_store import cli
from vla_store.errors import StoreDamaged
from vla_store.format.listing import parse_listing
from vla_store.manage.cache_check import SEALED
from vla_store.manage.views import add_view
from vla_store.storage import Contents
from vla_store.storage.cache import CacheFolder, Entry
from vla_store.storage.mirror import DATA, PAGE, Mirror, layout_of
from vla_store.view_rules import no_noops

CAMERA = "eye_in_hand_rgb"


@pytest.fixture(scope="module")
def served(tiny_store: Path) -> Iterator[RangeServer]:
    with RangeServer(tiny_store, prefix="/stores/tiny.vla") as server:
        yield server


@pytest.fixture(autouse=True)
def _nothing_of_the_machine(monkeypatch: pytest.MonkeyPatch, served: RangeServer) -> None:
    for name in ("VLA_STORE_CACHE", "VLA_STORE_CACHE_SIZE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    served.forget()
    served.faults.clear()


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """`vla-store ARGUMENTS` -> exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([*map(str, arguments)])
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture(scope="module")
def filled(served: RangeServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with all of the store. Do not write into it."""
    folder = tmp_path_factory.mktemp("filled") / "cache"
    assert cli.main(["cache", "fill", served.url, "--cache", str(folder), "--quiet"]) == 0
    return folder


@pytest.fixture
def cache(filled: Path, tmp_path: Path) -> Path:
    return shutil.copytree(filled, tmp_path / "cache")


def only(cache: Path) -> Entry:
    (entry,) = CacheFolder(cache).entries()
    return entry


def opened(cache: Path) -> tuple[Mirror, dict[str, tuple[int, int]]]:
    """The mirror, and where each object of the part lies in its data: (offset, size)."""
    entry = only(cache)
    listing = entry.listing()
    sizes = {each.key: each.size for each in parse_listing(listing, "")}
    contents = Contents("", entry.folder.name, sizes, listing)
    return Mirror(entry.folder, contents), {key: (at, sizes[key]) for key, at in layout_of(contents)[0].items()}


def shard_of(places: dict[str, tuple[int, int]], camera: str) -> str:
    (key,) = (each for each in places if f"/{camera}/c/" in each and each.startswith(("frames/", "residuals/")))
    return key


def damage(cache: Path, at: int) -> None:
    with open(only(cache).folder / DATA, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x55]))


def forget(cache: Path, start: int, stop: int) -> None:
    """Let the pages that lie wholly in [start, stop) of the data be absent."""
    mirror, _ = opened(cache)
    mirror.drop(-(-start // PAGE), stop // PAGE)


def requested(server: RangeServer) -> int:
    return sum(server.nbytes.values())


# --- fill --------------------------------------------------------------------------------------------------------------


def test_a_filled_cache_has_every_byte_of_the_store(filled: Path, tiny_store: Path) -> None:
    mirror, places = opened(filled)
    (part,) = (tiny_store / "parts").glob("*/")
    for key, (offset, size) in places.items():
        assert bytes(mirror.data[offset : offset + size]) == (part / key).read_bytes(), key
        assert mirror.has_all(offset, size)


def test_a_store_in_the_cache_is_read_without_the_server(served: RangeServer, cache: Path, tiny_store: Path) -> None:
    options: Any = {"windows": {CAMERA: [-1, 0], "actions": range(4)}, "alignment": "causal", "images": "upright"}
    found = vla_store.Samples(vla_store.open_store(served.url, cache=cache), **options)
    expected = vla_store.Samples(tiny_store, **options)
    served.forget()
    assert all((found[row][CAMERA] == expected[row][CAMERA]).all() for row in range(0, len(expected), 7))
    assert not served.requests


def test_one_field_is_brought_and_then_only_the_rest(
    served: RangeServer, command: Any, tmp_path: Path, tiny_store: Path
) -> None:
    arguments = ("cache", "fill", served.url, "--cache", tmp_path / "c")
    code, out, _ = command(*arguments, "--field", "actions", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["fetched_nbytes"] == told["nbytes"]
    mirror, places = opened(tmp_path / "c")
    here = {key for key, (offset, size) in places.items() if mirror.has_all(offset, size) and size}
    assert any(key.startswith("steps/actions/c/") for key in here)
    assert any(key.startswith("episodes/table/c/") for key in here)
    assert not [key for key in here if CAMERA in key or "ee_pos" in key]
    code, out, _ = command(*arguments)
    assert code == 0
    everything = sum(size for _, size in places.values())
    assert requested(served) < 1.3 * everything  # each byte once, and what says where they are
    served.forget()
    code, out, _ = command(*arguments, "--json")
    assert (code, json.loads(out)["fetched_nbytes"]) == (0, 0)
    assert requested(served) < 0.3 * everything


def test_a_fill_that_failed_goes_on_with_what_is_absent(served: RangeServer, command: Any, tmp_path: Path) -> None:
    arguments = ("cache", "fill", served.url, "--cache", tmp_path / "c")
    listing = next(each for each in (served.folder / "parts").glob("*/objects.jsonl"))
    shard = next(each.key for each in parse_listing(listing.read_bytes(), "") if f"/{CAMERA}/c/" in each.key)
    served.faults[f"parts/{listing.parent.name}/{shard}"] = "missing"
    code, _, err = command(*arguments)
    assert code == 1
    assert_one_screen(err, shard)
    served.faults.clear()
    before = requested(served)
    assert command(*arguments)[0] == 0
    assert command("cache", "verify", "--cache", tmp_path / "c")[0] == 0
    assert before < requested(served)


def test_a_fill_that_was_killed_goes_on(served: RangeServer, command: Any, tmp_path: Path) -> None:
    cache = tmp_path / "c"
    (part,) = (served.folder / "parts").glob("*/")
    (shard,) = (
        path.relative_to(served.folder).as_posix() for path in part.glob(f"*/{CAMERA}/c/0/**/0") if path.is_file()
    )
    served.faults[shard] = "hangs"
    filling = subprocess.Popen([*COMMAND, "cache", "fill", served.url, "--cache", str(cache)], env=environment())
    assert wait_until(
        lambda: any("/c/" in each.key for each in served.requests)
    )  # with which the other one was asked for
    filling.kill()
    filling.wait()
    served.faults.clear()
    assert command("cache", "verify", "--cache", cache)[0] == 0
    assert command("cache", "fill", served.url, "--cache", cache)[0] == 0
    mirror, places = opened(cache)
    assert all(mirror.has_all(*place) for place in places.values())
    assert command("cache", "verify", "--cache", cache)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "names"),
    [
        (["--cache-size", "20kB"], 2, ["does not fit into a cache of 20 kB", "needed", "--field"]),
        (["--cache-size", "much"], 2, ["not a size: 'much'"]),
        (["--field", "action"], 2, ["did you mean 'actions'?"]),
    ],
)
def test_a_fill_that_cannot_be_is_refused_before_anything_is_fetched(
    served: RangeServer, command: Any, tmp_path: Path, arguments: list[str], code: int, names: list[str]
) -> None:
    found, _, err = command("cache", "fill", served.url, "--cache", tmp_path / "c", *arguments)
    assert found == code
    assert all(name in in_words(err) for name in names), err
    assert not [each for each in served.requests if "/c/" in each.key]


def test_a_fill_makes_room_where_nobody_uses_what_is_there(
    served: RangeServer, command: Any, cache: Path, tiny_stores: dict[str, Path]
) -> None:
    size = only(cache).nbytes
    other = tiny_stores["raw"]
    needed = sum(path.stat().st_size for path in other.rglob("*") if path.is_file())
    with RangeServer(other) as server:
        code, _, err = command(
            "cache", "fill", server.url, "--cache", cache, "--cache-size", needed + size // 2, "--quiet"
        )
    assert code == 0, err
    assert [each.about["url"] for each in CacheFolder(cache).entries()] == [server.url]


# --- verify ------------------------------------------------------------------------------------------------------------


def test_a_sound_cache_is_sound(command: Any, filled: Path) -> None:
    code, out, _ = command("cache", "verify", "--cache", filled)
    assert code == 0
    assert out.startswith("sound  ")
    assert "not checked" not in out


def test_a_damaged_frame_is_dropped_alone_and_fetched_again(
    served: RangeServer, command: Any, cache: Path, tiny_store: Path
) -> None:
    _, places = opened(cache)
    offset, size = places[shard_of(places, CAMERA)]
    damage(cache, offset + size // 3)
    code, out, _ = command("cache", "verify", "--cache", cache, "--json")
    report = json.loads(out)
    assert (code, report["sound"]) == (1, False)
    (problem,) = report["problems"]
    assert problem["store"] == served.url
    assert problem["object"].endswith(shard_of(places, CAMERA))
    assert 0 < report["dropped_nbytes"] <= 4 * PAGE
    code, out, _ = command("cache", "verify", "--cache", cache)
    assert code == 0
    served.forget()
    assert command("cache", "fill", served.url, "--cache", cache)[0] == 0
    mirror, _ = opened(cache)
    (part,) = (tiny_store / "parts").glob("*/")
    assert bytes(mirror.data[offset : offset + size]) == (part / shard_of(places, CAMERA)).read_bytes()


def test_every_byte_of_an_object_counts(command: Any, cache: Path) -> None:
    _, places = opened(cache)
    keys = [next(key for key in places if key.startswith(start)) for start in ("steps/actions/c/", "episodes/table/c/")]
    keys.append(shard_of(places, "agentview_rgb"))
    for key in keys:
        damage(cache, places[key][0] + places[key][1] - 1)  # of a shard, this is its index
    code, out, _ = command("cache", "verify", "--cache", cache, "--json")
    assert code == 1
    assert {each["object"].split("/", 2)[2] for each in json.loads(out)["problems"]} == set(keys)
    assert command("cache", "verify", "--cache", cache)[0] == 0  # nothing damaged is left


@pytest.mark.parametrize("camera", [CAMERA, "agentview_rgb"])
def test_frames_of_a_shard_that_is_partly_there_are_checked(command: Any, cache: Path, camera: str) -> None:
    _, places = opened(cache)
    offset, size = places[shard_of(places, camera)]
    forget(cache, offset, offset + size // 2)
    code, out, _ = command("cache", "verify", "--cache", cache, "--json")
    assert (code, json.loads(out)["unchecked_nbytes"]) == (0, 0)
    damage(cache, offset + size * 2 // 3)
    code, out, _ = command("cache", "verify", "--cache", cache)
    assert code == 1
    assert f"{shard_of(places, camera)}: 1 frame of it without" in out
    assert command("cache", "verify", "--cache", cache)[0] == 0


def test_the_index_of_a_shard_that_is_partly_there_is_checked(command: Any, cache: Path) -> None:
    _, places = opened(cache)
    offset, size = places[shard_of(places, CAMERA)]
    forget(cache, offset, offset + size // 2)
    damage(cache, offset + size - 10)
    code, out, _ = command("cache", "verify", "--cache", cache)
    assert code == 1
    assert "the index of a shard does not have its checksum" in out
    assert command("cache", "verify", "--cache", cache)[0] == 0


def test_what_cannot_be_checked_yet_is_said(command: Any, cache: Path) -> None:
    _, places = opened(cache)
    key = max((each for each in places if not each.startswith(SEALED)), key=lambda each: places[each][1])
    offset, size = places[key]
    assert size > PAGE
    forget(cache, offset, offset + PAGE)
    code, out, _ = command("cache", "verify", "--cache", cache)
    assert code == 0
    assert "not checked" in out


@pytest.mark.parametrize("what", ["objects.jsonl", "data"])
def test_a_mirror_that_is_none_is_removed(command: Any, cache: Path, what: str) -> None:
    with open(only(cache).folder / what, "ab") as file:
        file.write(b"x")
    code, out, _ = command("cache", "verify", "--cache", cache, "--json")
    assert code == 1
    assert "removed" in json.loads(out)["problems"][0]["what"]
    assert not CacheFolder(cache).entries()
    assert command("cache", "verify", "--cache", cache)[0] == 0


# --- damage that a reader meets ------------------------------------------------------------------------------------------

OPTIONS: Any = {"windows": {CAMERA: [-1, 0], "agentview_rgb": 0}, "alignment": "causal", "images": "upright"}


def place_in(places: dict[str, tuple[int, int]], what: str) -> int:
    """Where a byte of a frame, of a shard's index or of a background lies."""
    if what == "background":
        return places[next(key for key in places if key.startswith("backgrounds/agentview_rgb/c/"))][0] + 300
    offset, size = places[shard_of(places, CAMERA)]
    return offset + (size // 3 if what == "frame" else size - 10)


@pytest.mark.parametrize("is_whole", [True, False])
@pytest.mark.parametrize("what", ["frame", "index", "background"])
def test_damaged_bytes_of_the_cache_are_fetched_again_by_who_meets_them(
    served: RangeServer, command: Any, cache: Path, tiny_store: Path, what: str, is_whole: bool
) -> None:
    _, places = opened(cache)
    damage(cache, place_in(places, what))
    if not is_whole:
        offset, size = places[shard_of(places, CAMERA)]
        forget(cache, offset + size // 2, offset + size // 2 + 2 * PAGE)
    expected = vla_store.Samples(tiny_store, **OPTIONS)
    found = vla_store.Samples(vla_store.open_store(served.url, cache=cache), **OPTIONS)
    everything = range(len(expected))
    with pytest.warns(RuntimeWarning, match="has damaged bytes of"):
        batch = found.batch(everything)
    right = expected.batch(everything)
    assert all((batch[name] == right[name]).all() for name in (CAMERA, "agentview_rgb"))
    assert command("cache", "verify", "--cache", cache)[0] == 0


@pytest.mark.parametrize("what", ["frame", "index", "background"])
def test_damage_of_the_store_itself_is_said_and_not_fetched_for_ever(
    cache: Path, tiny_store: Path, tmp_path: Path, what: str
) -> None:
    _, places = opened(cache)
    damage(cache, place_in(places, what))
    shutil.copytree(tiny_store, tmp_path / "served")
    (key,) = (key for key, (offset, size) in places.items() if offset <= place_in(places, what) < offset + size)
    (part,) = (tmp_path / "served" / "parts").glob("*/")
    data = bytearray((part / key).read_bytes())
    data[place_in(places, what) - places[key][0]] ^= 0x55
    (part / key).write_bytes(data)
    with RangeServer(tmp_path / "served") as server:
        samples = vla_store.Samples(vla_store.open_store(server.url, cache=cache), **OPTIONS)
        with pytest.warns(RuntimeWarning, match="has damaged bytes of"), pytest.raises(StoreDamaged, match=key):
            samples.batch(range(len(samples)))
        server.forget()
        with pytest.raises(StoreDamaged, match=key):
            samples.batch(range(len(samples)))
        assert not server.requests


# --- list and prune ----------------------------------------------------------------------------------------------------

HOLDS = """
import sys, time
from vla_store.storage import Contents
from vla_store.storage.mirror import Mirror
from vla_store.format.listing import parse_listing
from pathlib import Path
folder = Path(sys.argv[1])
listing = (folder / "objects.jsonl").read_bytes()
mirror = Mirror(folder, Contents("", folder.name, {each.key: each.size for each in parse_listing(listing, "")}, listing))
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def held(cache: Path) -> Iterator[int]:
    """Another process has the mirror open; its number."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(only(cache).folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    with holder:
        assert holder.stdout.readline() == b"open\n"
        yield holder.pid
        holder.stdin.close()


def test_the_list_says_what_is_there_and_who_uses_it(served: RangeServer, command: Any, cache: Path, held: int) -> None:
    code, out, _ = command("cache", "list", "--cache", cache, "--json")
    assert code == 0
    (entry,) = json.loads(out)["entries"]
    assert (entry["store"], entry["nbytes"], entry["users"], entry["is_used"]) == (
        served.url,
        entry["all_nbytes"],
        [held],
        True,
    )
    assert time.time() - entry["used"] < 3_600
    _, out, _ = command("cache", "list", "--cache", cache)
    assert served.url in out
    assert str(held) in out.splitlines()[-1]


def test_what_is_in_use_is_not_removed(command: Any, cache: Path, held: int) -> None:
    code, out, _ = command("cache", "prune", "--cache", cache)
    assert code == 0
    assert f"in use by {held}" in out
    assert "freed          0 B" in out
    assert only(cache)


def test_what_nobody_uses_goes_the_oldest_first(command: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):  # two more, as of other stores
        if number:
            shutil.copytree(only_named(cache, 0), cache / f"{number:064x}")
        os.utime(only_named(cache, number) / "about.json", (number, number))
    sizes = [each.nbytes for each in CacheFolder(cache).entries()]
    monkeypatch.setenv("VLA_STORE_CACHE", str(cache))
    assert command("cache", "prune", "--to", sum(sizes))[0] == 0
    assert len(CacheFolder(cache).entries()) == 3
    _, out, _ = command("cache", "prune", "--to", sizes[2] + 1, "--json")
    report = json.loads(out)
    assert (len(report["removed"]), report["freed_nbytes"], report["left_nbytes"]) == (2, sum(sizes[:2]), sizes[2])
    assert [each.used for each in CacheFolder(cache).entries()] == [2]
    _, out, _ = command("cache", "prune")
    assert not CacheFolder(cache).entries()
    assert not [each.name for each in cache.iterdir() if each.name.endswith(".tmp")]


def only_named(cache: Path, number: int) -> Path:
    """The first mirror, or a copy of it."""
    copies = [each.folder for each in CacheFolder(cache).entries()]
    return cache / f"{number:064x}" if number else next(each for each in copies if not each.name.startswith("0" * 60))


# --- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["list", "verify", "prune"])
def test_where_there_is_no_cache_the_commands_say_so(command: Any, tmp_path: Path, name: str) -> None:
    code, _, err = command("cache", name)
    assert code == 2
    assert_one_screen(err, "no cache is named", "VLA_STORE_CACHE")
    code, _, err = command("cache", name, "--cache", tmp_path / "nothing")
    assert code == 2
    assert_one_screen(err, "there is no cache in this folder", "no such folder")
    (tmp_path / "thesis.tex").write_text("mine")
    code, _, err = command("cache", name, "--cache", tmp_path)
    assert code == 2
    assert_one_screen(err, "there is no cache in this folder", "other things")
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_fill_needs_a_cache_that_can_be_one(
    served: RangeServer, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = command("cache", "fill", served.url)
    assert code == 2
    assert_one_screen(err, "no cache is named")
    (tmp_path / "thesis.tex").write_text("mine")
    code, _, err = command("cache", "fill", served.url, "--cache", tmp_path)
    assert code == 2
    assert_one_screen(err, "this folder holds other things", "thesis.tex")
    code, _, err = command("cache", "fill", served.url, "--cache", tmp_path / "thesis.tex" / "c")
    assert code == 3
    assert_one_screen(err, "making the cache")
    monkeypatch.setattr("vla_store.storage.cache.file_system_of", lambda path: "nfs4")
    code, _, err = command("cache", "fill", served.url, "--cache", tmp_path / "c")
    assert code == 2
    assert_one_screen(err, "this is a network file system", "nfs4")


# --- other commands ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["option", "environment"])
def test_commands_that_read_keep_what_they_fetched(
    served: RangeServer, command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    given = ["--cache", tmp_path / "c", "--cache-size", "1GB"] if how == "option" else []
    if how == "environment":
        monkeypatch.setenv("VLA_STORE_CACHE", str(tmp_path / "c"))
        monkeypatch.setenv("VLA_STORE_CACHE_SIZE", "1GB")
    assert command("coverage", served.url, "--runs", 1, *given)[0] == 0
    first = [each for each in served.requests if "/c/" in each.key]
    assert only(tmp_path / "c").about["url"] == served.url
    served.forget()
    assert command("coverage", served.url, "--runs", 1, *given)[0] == 0
    assert first
    assert not [each for each in served.requests if "/c/" in each.key]


def test_verify_looks_at_the_store_and_not_at_what_was_kept_of_it(
    served: RangeServer, command: Any, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, places = opened(cache)
    for key in (shard_of(places, CAMERA), next(key for key in places if key.startswith("steps/actions/c/"))):
        damage(cache, places[key][0] + 100)
    monkeypatch.setenv("VLA_STORE_CACHE", str(cache))
    code, out, _ = command("verify", served.url)
    assert (code, out.split()[0]) == (0, "sound")


def test_a_store_at_a_url_grows_whether_there_is_a_cache_or_not(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(f"{tiny_store}/", "/grows.vla/", recursive=True)
    monkeypatch.setenv("VLA_STORE_CACHE", str(tmp_path / "c"))
    try:
        add_view("memory://grows.vla", "moving", no_noops())
        assert list(vla_store.open_store("memory://grows.vla").views) == ["moving"]
    finally:
        memory.rm("/grows.vla", recursive=True)
