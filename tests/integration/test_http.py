"""A store behind a web server: the same samples, no shard read whole, and clear errors where the server fails."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from comparing import assert_same, drawn_options
from range_server import RangeServer, Request
from store_tools import assert_one_screen

import vla_store
from vla_store import cli
from vla_store import view_rules as rules
from vla_store.audit import verify_store
from vla_store.errors import FetchError, MachineError, StoreDamaged, StoreNotFound
from vla_store.manage.views import add_view
from vla_store.reader.parts import parts_of
from vla_store.storage import FsspecStorage, locate, retrying
from vla_store.storage.filesystems import filesystem_of
from vla_store.storage.remote import MERGE_GAP_BYTES

CAMERA = "eye_in_hand_rgb"
WINDOWS = {"agentview_rgb": [-1, 0], CAMERA: [-1, 0], "robot_states": 0, "states": 0, "actions": range(16)}
FETCHERS = ("obstore", "fsspec")
OPTIONS = {"windows": WINDOWS, "alignment": "causal", "images": "upright", "dtype": "float32", "episodes": [0, 1]}


def both(
    server: RangeServer, fetcher: str | None = None, **options: object
) -> tuple[vla_store.Samples, vla_store.Samples]:
    """Samples over HTTP, and the same ones from the folder."""
    store = vla_store.open_store(server.url, fetcher=fetcher)
    return vla_store.Samples(store, **options), vla_store.Samples(server.folder, **options)


def shard(store: Path, camera: str = CAMERA) -> str:
    """The key of the only shard of a camera."""
    arrays = {CAMERA: "frames", "agentview_rgb": "residuals"}  # what the probe chose for this store
    (found,) = (path for path in store.glob(f"parts/*/{arrays[camera]}/{camera}/c/**/*") if path.is_file())
    return found.relative_to(store).as_posix()


def chunk_nbytes(store: Path, camera: str = CAMERA) -> np.ndarray:
    """The encoded bytes of every frame, from the shard's index as the format describes it."""
    shape = json.loads((store / shard(store, camera)).parents[4].joinpath("zarr.json").read_text())["chunk_grid"]
    rows = shape["configuration"]["chunk_shape"][0]
    data = (store / shard(store, camera)).read_bytes()
    return np.frombuffer(data[-16 * rows - 4 : -4], "<u8").reshape(rows, 2)[:, 1]


# --- the same samples --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_random_rows_and_windows_over_http_are_those_of_the_folder(served: RangeServer, seed: int) -> None:
    fetcher = FETCHERS[seed % 2]
    rng = random.Random(seed)
    local = vla_store.open_store(served.folder)
    options = drawn_options(rng, list(local.fields))
    found, expected = both(served, fetcher, **options)
    assert found.store.fetcher == fetcher
    numbers = [rng.randrange(-len(expected), len(expected)) for _ in range(6)]
    assert_same(list(found.__getitems__(numbers)), list(expected.__getitems__(numbers)))
    assert_same([found[number] for number in numbers[:2]], [expected[number] for number in numbers[:2]])
    assert not served.refused


def test_the_tables_of_a_store_over_http_are_those_of_the_folder(served: RangeServer) -> None:
    found, expected = vla_store.open_store(served.url), vla_store.open_store(served.folder)
    assert (found.fingerprint, found.digest) == (expected.fingerprint, expected.digest)
    assert list(found.episodes) == list(expected.episodes)
    assert found.tasks == expected.tasks
    assert found.conventions == expected.conventions
    assert_same(
        {name: each.mean for name, each in found.statistics.all.items()},
        {name: each.mean for name, each in expected.statistics.all.items()},
    )
    assert_same(found.split("train", fraction=0.5).episodes, expected.split("train", fraction=0.5).episodes)
    assert_same(found.attributes(2), expected.attributes(2))
    assert_same(found.source_attributes(2), expected.source_attributes(2))
    assert found.provenance(100) == expected.provenance(100)


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_a_url_with_a_space_and_a_slash_at_its_end_is_read(wide_store: Path, fetcher: str) -> None:
    with RangeServer(wide_store, prefix="/my stores/wide.vla") as server:
        found = vla_store.open_store(server.url.replace(" ", "%20") + "/", fetcher=fetcher)
        assert_same(found.read("actions", [5, 90]), vla_store.open_store(wide_store).read("actions", [5, 90]))


def test_verify_over_http_finds_a_sound_store_sound_and_names_a_flipped_byte(wide_store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(wide_store, tmp_path / "copy.vla")
    with RangeServer(copy) as server:
        report = verify_store(server.url)
        assert (report.sound, report.rows, report.leftovers) == (True, 180, [])
        data = bytearray((copy / shard(copy)).read_bytes())
        data[1_000] ^= 1
        (copy / shard(copy)).write_bytes(data)
        assert [each.object for each in verify_store(server.url).problems] == [shard(copy)]
        assert not server.refused


# --- how much is read --------------------------------------------------------------------------------------------------


def test_opening_reads_three_documents_and_no_array(served: RangeServer) -> None:
    vla_store.open_store(served.url)
    names = [(each.method, each.key.rpartition("/")[2]) for each in served.requests]
    assert names[0] == ("GET", "zarr.json")
    assert sorted(names[1:]) == [("GET", "objects.jsonl"), ("GET", "zarr.json")]


def test_no_size_is_asked_for_by_whoever_reads(served: RangeServer) -> None:
    samples, expected = both(served, **OPTIONS)
    assert_same(list(samples.__getitems__([1, 50])), list(expected.__getitems__([1, 50])))
    assert_same(samples[70], expected[70])
    assert_same(samples.store.attributes(2), expected.store.attributes(2))
    assert (samples.store.nbytes, len(samples.store.views)) == (expected.store.nbytes, 0)
    samples.store.split("train", fraction=0.5)
    assert {each.method for each in served.requests} == {"GET"}


def test_making_samples_reads_nothing_that_grows_with_the_steps(served: RangeServer) -> None:
    store = vla_store.open_store(served.url)
    served.forget()
    vla_store.Samples(store, windows=WINDOWS, alignment="causal", images="as_stored")
    assert [each.key for each in served.requests if "/c/" in each.key] == []


def test_frames_cost_their_own_bytes_and_the_index_once(served: RangeServer) -> None:
    samples, expected = both(served, windows={CAMERA: 0}, images="as_stored")
    encoded = chunk_nbytes(served.folder)
    index_nbytes = 16 * len(encoded) + 4
    rows = [3, 30, 60, 90, 120, 150]  # none is another's neighbour, so what lies between two is not read
    assert_same(list(samples.__getitems__(rows)), list(expected.__getitems__(rows)))
    key = shard(served.folder)
    assert served.nbytes[key] == index_nbytes + encoded[rows].sum()
    assert served.nbytes[key] < (served.folder / key).stat().st_size / 10
    served.forget()
    samples.__getitems__([row + 1 for row in rows])
    assert served.nbytes[key] == encoded[[row + 1 for row in rows]].sum()
    assert [each.method for each in served.requests if each.key == key] == ["GET"] * len(rows)


def test_what_lies_between_near_frames_is_read_with_them_and_no_more(served: RangeServer) -> None:
    samples, _ = both(served, windows={"agentview_rgb": [-6, 0]}, images="as_stored")
    samples.__getitems__([20])
    encoded = chunk_nbytes(served.folder, "agentview_rgb")
    key = shard(served.folder, "agentview_rgb")
    assert encoded[15:20].sum() < MERGE_GAP_BYTES
    body = [each for each in served.requests if each.key == key and each.method == "GET"][1:]
    assert [each.range[1] - each.range[0] for each in body if each.range] == [encoded[14:21].sum()]


def test_the_bytes_of_many_samples_are_bounded_by_what_they_hold(served: RangeServer) -> None:
    samples, expected = both(served, **OPTIONS)
    order = random.Random(0).sample(range(len(samples)), 16)
    for start in (0, 8):
        numbers = order[start : start + 8]
        assert_same(list(samples.__getitems__(numbers)), list(expected.__getitems__(numbers)))
    held = 16 * 2 * sum(int(chunk_nbytes(served.folder, camera).max()) for camera in ("agentview_rgb", CAMERA))
    held += 16 * (16 * 7 + 9 + 17) * 8
    around = 64 * MERGE_GAP_BYTES  # at most what may lie between what is asked for
    tables = sum(path.stat().st_size for path in served.folder.glob("parts/*/backgrounds/*/c/**/*") if path.is_file())
    tables += 2 * (16 * 256 + 4) + 16_384
    assert sum(served.nbytes.values()) < held + around + tables
    assert not served.refused
    assert all(each.range is not None for each in served.requests if each.method == "GET")


def test_the_server_of_these_tests_refuses_a_whole_shard(served: RangeServer) -> None:
    """What the other tests rest on."""
    import fsspec

    with pytest.raises(Exception, match="500"):
        fsspec.filesystem("http").cat_file(f"{served.url}/{shard(served.folder)}")
    assert served.refused == [Request("GET", shard(served.folder), None, 500)]


# --- what is temporary -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fetcher", FETCHERS)
@pytest.mark.parametrize("fault", ["busy", "resets", "half", "breaks_off", "other_range"])
def test_what_fails_now_and_then_is_asked_for_again_and_never_a_wrong_byte(
    served: RangeServer, fault: str, fetcher: str
) -> None:
    served.faults["sometimes"] = fault
    samples, expected = both(served, fetcher, **OPTIONS)
    for start in (0, 40):
        numbers = list(range(start, start + 40, 5))
        assert_same(list(samples.__getitems__(numbers)), list(expected.__getitems__(numbers)))
    assert_same(samples[70], expected[70])
    traffic = parts_of(samples.store).fetcher.traffic
    assert traffic.retries > 0  # aiohttp makes some of them again itself
    assert traffic.waited_s > 0


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_a_request_that_stalls_is_given_up_and_made_again(
    served: RangeServer, monkeypatch: pytest.MonkeyPatch, fetcher: str
) -> None:
    samples, expected = both(served, fetcher, windows={CAMERA: 0}, images="as_stored")
    assert_same(samples[0], expected[0])
    monkeypatch.setattr(retrying, "STALL_S", 0.5)
    served.faults["sometimes"] = "hangs"
    assert_same(samples.batch([10, 60, 110, 150]), expected.batch([10, 60, 110, 150]))
    assert parts_of(samples.store).fetcher.traffic.retries > 0


def test_what_is_asked_for_is_counted(served: RangeServer) -> None:
    samples, _ = both(served, **OPTIONS)
    samples.batch_or_lists([1, 50, 70])
    traffic = parts_of(samples.store).fetcher.traffic
    assert traffic.requests == len(served.requests)
    assert traffic.nbytes == sum(served.nbytes.values())
    assert (traffic.retries, traffic.hit_nbytes) == (0, 0)


@pytest.mark.parametrize(("fault", "count"), [("missing", 1), ("refused", 1), ("busy", retrying.TRIES)])
def test_what_lasts_is_not_asked_for_again(served: RangeServer, fault: str, count: int) -> None:
    samples, _ = both(served, windows={CAMERA: 0}, images="as_stored")
    samples[5]
    served.faults[shard(served.folder)] = fault
    served.forget()
    with pytest.raises((FetchError, StoreDamaged, MachineError)):
        samples[50]
    assert len([each for each in served.requests if each.key == shard(served.folder)]) == count


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_an_answer_of_another_range_is_never_a_sample(served: RangeServer, fetcher: str) -> None:
    samples, _ = both(served, fetcher, windows={"actions": 0})
    served.faults["*"] = "other_range"
    with pytest.raises(FetchError, match="bytes that were asked for") as caught:
        samples.batch([50, 100])
    assert re.search("Content-Range|Requested", caught.value.places["found"])


def test_connections_are_many_unless_the_user_says_how_many() -> None:
    pytest.importorskip("s3fs")
    for given, expected in (({}, 100), ({"config_kwargs": {"max_pool_connections": 7}}, 7)):
        fs, _ = filesystem_of("s3://bucket/store", {"anon": True, **given})
        assert fs.config_kwargs["max_pool_connections"] == expected


# --- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_a_server_that_never_answered_is_not_waited_for(served: RangeServer, fetcher: str) -> None:
    served.stop()
    storage = locate(served.url, fetcher, None).open()
    with pytest.raises(FetchError, match="storage did not answer"):
        storage.head("zarr.json", 100)
    assert storage.traffic.retries == 0


def test_a_server_that_is_gone_is_a_fetch_error_that_names_the_object(served: RangeServer) -> None:
    samples, expected = both(served, **OPTIONS)
    assert_same(samples[5], expected[5])
    served.stop()
    with pytest.raises(FetchError, match="storage did not answer") as caught:
        samples[100]
    assert caught.value.exit_code == 3
    assert caught.value.places["object"].startswith("parts/")
    assert caught.value.places["store"] == served.url
    assert "hint: " in str(caught.value)
    with pytest.raises(FetchError):
        samples.__getitems__([1, 2, 3])
    with pytest.raises(FetchError):
        vla_store.open_store(served.url)


def test_reading_goes_on_once_the_server_answers_again(served: RangeServer) -> None:
    samples, expected = both(served, **OPTIONS)
    for fault in ("breaks_off", "half", "missing"):
        served.faults["*"] = fault
        with pytest.raises((FetchError, StoreDamaged)):
            samples.__getitems__([1, 50])
        served.faults.clear()
        assert_same(list(samples.__getitems__([1, 50])), list(expected.__getitems__([1, 50])))


def test_a_missing_shard_is_damage_that_names_it(served: RangeServer) -> None:
    samples, _ = both(served, windows={CAMERA: 0}, images="as_stored")
    served.faults[shard(served.folder)] = "missing"
    for read in (lambda: samples[5], lambda: samples.__getitems__([5, 6])):
        with pytest.raises(StoreDamaged, match="missing") as caught:
            read()
        assert caught.value.places["object"] == shard(served.folder)
        assert caught.value.exit_code == 1


def test_a_shard_that_goes_missing_after_it_was_opened_is_damage_too(served: RangeServer) -> None:
    samples, _ = both(served, windows={CAMERA: 0}, images="as_stored")
    samples[5]
    served.faults[shard(served.folder)] = "missing"
    with pytest.raises(StoreDamaged, match="missing") as caught:
        samples.__getitems__([50, 100])
    assert caught.value.places["object"] == shard(served.folder)


def test_a_server_that_ignores_ranges_is_a_fetch_error_that_says_so(served: RangeServer) -> None:
    samples, _ = both(served, windows={CAMERA: 0}, images="as_stored")
    samples[5]
    served.faults["*"] = "ignores_range"
    with pytest.raises(FetchError, match="bytes that were asked for") as caught:
        samples[50]
    assert caught.value.places["object"] == shard(served.folder)
    assert "byte ranges" in caught.value.hint
    assert str((served.folder / shard(served.folder)).stat().st_size) in caught.value.places["found"]


@pytest.mark.parametrize("fault", ["half", "breaks_off"])
def test_a_short_answer_is_a_fetch_error_and_never_a_sample(served: RangeServer, fault: str) -> None:
    samples, _ = both(served, windows={CAMERA: 0}, images="as_stored")
    samples[5]
    served.faults[shard(served.folder)] = fault
    with pytest.raises(FetchError) as caught:
        samples.__getitems__([50, 100])
    assert caught.value.places["object"] == shard(served.folder)


def test_a_shard_cut_short_is_damage_whether_it_is_open_or_not(wide_store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(wide_store, tmp_path / "copy.vla")
    with RangeServer(copy) as server:
        opened, fresh = (
            vla_store.Samples(server.url, windows={CAMERA: 0}, images="as_stored"),
            vla_store.Samples(server.url, windows={CAMERA: 0}, images="as_stored"),
        )
        opened[5]
        data = (copy / shard(copy)).read_bytes()
        (copy / shard(copy)).write_bytes(data[: len(data) // 3])
        for samples in (opened, fresh):
            with pytest.raises(StoreDamaged) as caught:
                samples[150]
            assert caught.value.places["object"] == shard(copy)


def test_an_empty_root_is_damage(wide_store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(wide_store, tmp_path / "copy.vla")
    (copy / "zarr.json").write_bytes(b"")
    with RangeServer(copy) as server, pytest.raises(StoreDamaged):
        vla_store.open_store(server.url)


def test_access_refused_is_not_called_damage(served: RangeServer) -> None:
    served.faults["zarr.json"] = "refused"
    with pytest.raises(MachineError, match="refuses access"):
        vla_store.open_store(served.url)


def test_a_server_that_never_answers_is_given_up_after_the_time_asked_for(
    served: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import aiohttp

    monkeypatch.setattr(retrying, "TRIES", 2)
    served.faults["zarr.json"] = "hangs"
    options = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=0.5)}}
    with pytest.raises(FetchError, match="did not answer"):
        vla_store.open_store(served.url, storage_options=options)
    # A store that was opened while there was time, however much a busy machine needed.
    served.faults.clear()
    patient = {"timeout": aiohttp.ClientTimeout(total=240)}
    store = vla_store.open_store(served.url, storage_options=patient)
    served.faults["*"] = "hangs"
    monkeypatch.setitem(filesystem_of(served.url, patient)[0].kwargs, "timeout", aiohttp.ClientTimeout(total=0.5))
    with pytest.raises(FetchError, match="did not answer"):
        store.read("actions", [5])


def test_a_server_that_does_not_say_how_large_a_shard_is_gets_told_what_it_lacks(served: RangeServer) -> None:
    samples, expected = both(served, windows={CAMERA: 0}, images="as_stored")
    served.faults[shard(served.folder)] = "no_length"
    assert_same(samples[5], expected[5])  # the listing says it
    assert samples.store.fetcher == "fsspec"  # obstore takes no such answer
    with pytest.raises(FetchError, match="how large") as caught:
        FsspecStorage(served.url).size(shard(served.folder))
    assert "Content-Length" in caught.value.hint


def test_a_url_without_a_store_is_no_store(served: RangeServer) -> None:
    with pytest.raises(StoreNotFound, match="no store at this URL"):
        vla_store.open_store(f"{served.url}/nothing")


def test_another_store_at_the_url_is_said_to_whoever_held_the_first(
    wide_store: Path, tiny_store: Path, tmp_path: Path
) -> None:
    import pickle

    shutil.copytree(wide_store, tmp_path / "served")
    with RangeServer(tmp_path / "served") as server:
        held = pickle.dumps(vla_store.Samples(server.url, windows={CAMERA: 0}, images="as_stored"))
        shutil.rmtree(tmp_path / "served")
        shutil.copytree(tiny_store, tmp_path / "served")
        with pytest.raises(StoreDamaged, match="another store"):
            pickle.loads(held)[0]


# --- read-only ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_views(wide_store: Path, tmp_path: Path) -> Iterator[RangeServer]:
    """The store with a view, behind a web server."""
    pytest.importorskip("aiohttp", reason="http:// needs aiohttp")
    folder = Path(shutil.copytree(wide_store, tmp_path / "wide.vla"))
    add_view(folder, "whole", rules.drop_tail(40))
    with RangeServer(folder, prefix="/stores/wide.vla") as server:
        yield server


def test_views_are_listed_and_used_over_http(with_views: RangeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["views", "list", with_views.url, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["views"]
    assert {name: each["kept_steps"] for name, each in listed.items()} == {"whole": 60}
    found, expected = both(with_views, windows={"actions": [0, 1]}, view="whole")
    assert len(found) == len(expected) == 60
    assert_same(found[40], expected[40])


@pytest.mark.parametrize(
    "command",
    [
        ["views", "add", "URL", "success"],
        [
            "views",
            "add",
            "URL",
            "drop_tail:steps=40,name=whole",
        ],  # there already: what is read-only says so all the same
        ["views", "remove", "URL", "whole"],
        ["views", "remove", "URL", "--all"],
        ["append", "SOURCE", "URL"],
        ["repair", "URL", "--from", "SOURCE"],
        ["copy", "FOLDER", "URL/copy.vla"],
    ],
    ids=" ".join,
)
def test_nothing_is_written_over_http_and_the_error_says_where_to_write(
    with_views: RangeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    before = files_of(with_views.folder)
    given = {"URL": with_views.url, "SOURCE": str(tmp_path), "FOLDER": str(with_views.folder)}
    for name, value in given.items():
        command = [each.replace(name, value) for each in command]
    assert cli.main(command) == 2
    captured = capsys.readouterr()
    assert_one_screen(captured.err, "a store at an HTTP URL is read-only", with_views.url, "s3://")
    assert captured.out == ""
    assert {request.method for request in with_views.requests} <= {"GET", "HEAD"}
    assert files_of(with_views.folder) == before


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
