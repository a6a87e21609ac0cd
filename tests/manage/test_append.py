"""A store that grows: the same content as one build, whoever else appends, reads or dies meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import store_tools
import tiny_libero
from crashing import calls_of, crashes
from kills import kills
from kills_at_url import Round, kills_at_url
from manage_processes import append_in_turns
from own_sources import RETOLD, Own, Retold
from s3_server import S3Server
from store_tools import (
    assert_one_screen,
    differences,
    digests,
    environment,
    registered,
    root_of,
    run,
    skip_unless_it_creates,
)

import vla_store
from vla_store import DestinationExists, FetchError, OptionError, StoreDamaged, StoreNotFound, cli
from vla_store.audit import verify_store
from vla_store.manage import roots
from vla_store.manage.append import append_store
from vla_store.storage import FsspecStorage, LocalStorage, open_storage

Copy = Callable[[str], Path]


def only_the_store(folder: Path) -> bool:
    """Whether nothing but stores lies in a folder: no stage, no unfinished build."""
    return all(path.suffix == ".vla" for path in folder.iterdir())


def third(folder: Path, **options: Any) -> Path:
    """One more suite, which sorts after the halves."""
    file = tiny_libero.TinyFile("libero_z", "push_the_plate", options.pop("width", 17), {0: 6})
    return tiny_libero.write_suites(folder, suites=[file], **options) / "libero_z"


def test_append_gives_the_content_of_one_build(halves: Any, made: Path, copy_of: Copy, tmp_path: Path) -> None:
    store = copy_of("first")
    report = append_store([halves.second], store)
    grown, whole = root_of(store), root_of(made / "both.vla")
    assert report.added
    assert (grown.generation, grown.parent, len(grown.parts)) == (2, root_of(made / "first.vla").digest, 2)
    assert (grown.fingerprint, grown.meta, grown.fields) == (whole.fingerprint, whole.meta, whole.fields)
    checked = verify_store(store, against=[halves.source])
    assert (checked.problems, checked.leftovers, checked.compared_episodes) == ([], [], 4)
    assert only_the_store(tmp_path)
    one, other = vla_store.open_store(store), vla_store.open_store(made / "both.vla")
    for name in ("actions", "agentview_rgb", "rewards"):
        assert one.read(name, range(one.rows)).tobytes() == other.read(name, range(one.rows)).tobytes()


def test_a_field_whose_width_differs_between_parts_becomes_ragged(made: Path, copy_of: Copy, halves: Any) -> None:
    assert root_of(made / "first.vla").fields["states"].kind == "fixed"
    assert root_of(made / "two.vla").fields["states"].kind == "ragged-episode"
    assert root_of(made / "two.vla").fields["actions"].kind == "fixed"
    assert '"states"' not in (made / "two.vla/meta" / f"{root_of(made / 'two.vla').meta.statistics}.json").read_text()
    assert verify_store(made / "two.vla", against=[halves.source]).sound


def test_parts_of_different_presets_have_the_content_of_one_build(halves: Any, made: Path, copy_of: Copy) -> None:
    store = copy_of("first")
    append_store(halves.second, store, preset="raw")
    assert root_of(store).fingerprint == root_of(made / "both.vla").fingerprint
    assert verify_store(store, against=[halves.source]).sound


def test_the_command_says_what_was_added_and_that_it_was_there_already(halves: Any, copy_of: Copy) -> None:
    store = copy_of("first")
    ran = run("append", halves.second, store, "--json")
    assert ran.code == 0, ran.err
    told = json.loads(ran.out)
    assert (told["rows"], told["generation"], told["added"]["rows"]) == (27, 2, 10)
    before = digests(store)
    again = run("append", halves.second, store, "--json")
    assert (again.code, json.loads(again.out)["added"]) == (0, None)
    assert "already" in again.err
    assert digests(store) == before


# Old handles


def test_readers_of_the_old_root_keep_the_old_store(halves: Any, copy_of: Copy) -> None:
    store = copy_of("first")
    opened = vla_store.open_store(store)
    samples = vla_store.Samples(
        opened, windows={"actions": range(3), "agentview_rgb": 0}, alignment="as_stored", images="as_stored"
    )
    unopened = pickle.dumps(vla_store.Samples(vla_store.open_store(store), windows={"actions": 0}))
    expected = [samples[row] for row in range(len(samples))]
    digest = opened.digest
    append_store([halves.second], store)
    assert (opened.rows, len(samples), len(pickle.loads(unopened))) == (17, 17, 17)
    for row, sample in enumerate(pickle.loads(pickle.dumps(samples))[row] for row in range(17)):
        assert all((sample[key] == value).all() for key, value in expected[row].items() if hasattr(value, "all"))
    assert vla_store.open_store(store).rows == 27
    assert vla_store.open_store(store, digest=digest).rows == 17


def test_workers_that_live_through_an_append_see_one_store_in_all_epochs(halves: Any, copy_of: Copy) -> None:
    torch = pytest.importorskip("torch")
    from vla_store.torch import StepDataset, collate

    store = copy_of("first")
    dataset = StepDataset(store, windows={"actions": 0})
    for persistent in (True, False):  # those that live on, and those that are started after it from a pickle
        loader = torch.utils.data.DataLoader(
            dataset,
            batch_size=4,
            num_workers=1,
            multiprocessing_context="spawn",
            persistent_workers=persistent,
            collate_fn=collate,
        )
        first = torch.cat([batch["actions"] for batch in loader])
        if persistent:
            append_store([halves.second], store)
        second = torch.cat([batch["actions"] for batch in loader])
        assert len(first) == 17
        assert torch.equal(first, second)
    assert len(StepDataset(store, windows={"actions": 0})) == 27


# Two at once


@pytest.mark.parametrize("seed", range(4))
def test_of_two_appenders_at_once_both_parts_are_in_the_store(
    halves: Any, copy_of: Copy, tmp_path: Path, seed: int
) -> None:
    """Each stops before each of its calls to storage until it is its turn, in a drawn order."""
    store = copy_of("first")
    answers = append_in_turns([halves.second, third(tmp_path / "more")], store, seed)
    assert [answer["error"] for answer in answers] == ["", ""]
    root = root_of(store)
    assert root.generation == 3
    assert {(part.rows) for part in root.parts} == {17, 10, 6}
    assert len(root.parts) == 3
    checked = verify_store(store, against=[halves.source, tmp_path / "more"])
    assert (checked.problems, checked.leftovers) == ([], [])


def test_of_two_commands_at_once_both_parts_are_in_the_store(halves: Any, copy_of: Copy, tmp_path: Path) -> None:
    store = copy_of("first")
    sources = [halves.second, third(tmp_path / "more")]
    processes = [
        subprocess.Popen(
            [*store_tools.COMMAND, "append", str(source), str(store), "--quiet"],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for source in sources
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert sorted(part.rows for part in root_of(store).parts) == [6, 10, 17]
    assert verify_store(store, against=[halves.source, tmp_path / "more"]).sound


def test_a_writer_that_was_overtaken_adds_to_the_newer_root_and_never_takes_it_back(
    halves: Any, copy_of: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other = copy_of("first"), third(tmp_path / "more")
    real = LocalStorage.write
    did = []

    def write(self: LocalStorage, key: str, data: bytes) -> None:
        if key == "zarr.json" and self.folder == store and not did:
            did.append(1)
            append_store([other], store)  # commits root 3 after our root 2 and before our zarr.json
        real(self, key, data)

    monkeypatch.setattr(LocalStorage, "write", write)
    append_store([halves.second], store)
    assert (root_of(store).generation, [part.rows for part in root_of(store).parts]) == (3, [17, 10, 6])


# Replies that are lost


@pytest.mark.parametrize("where", ["local", "memory"])
def test_a_commit_whose_reply_was_lost_is_recognised(
    halves: Any, copy_of: Copy, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    store: Any = copy_of("first")
    kind: Any = LocalStorage
    if where == "memory":
        skip_unless_it_creates()
        store, kind = in_memory(store), FsspecStorage
    real = kind.create

    def create(self: Any, key: str, data: bytes) -> bool:
        created = bool(real(self, key, data))
        if key == "roots/00000002.json":
            raise FetchError("storage did not answer")
        return created

    monkeypatch.setattr(kind, "create", create)
    report = append_store([halves.second], store)
    assert (report.added, report.root.generation) == (True, 2)
    assert vla_store.open_store(store).rows == 27


def test_the_same_command_after_a_commit_nobody_was_told_of_recognises_its_part(
    halves: Any, copy_of: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The root was created, then the process lost its storage: the caller was told an error, and zarr.json is old."""
    store = copy_of("first")
    with monkeypatch.context() as patch:

        def heal(place: Any, committed: Any) -> Any:
            raise FetchError("storage did not answer")

        patch.setattr(roots, "heal", heal)
        with pytest.raises(FetchError):
            append_store([halves.second], store)
    assert (root_of(store).generation, (store / "roots/00000002.json").exists()) == (1, True)
    checked = verify_store(store)
    assert (checked.problems, checked.leftovers, checked.rows) == (
        [],
        [],
        27,
    )  # nothing that is committed is a left-over
    report = append_store([halves.second], store)
    assert (report.added, report.root.generation, root_of(store).rows) == (False, 2, 27)
    assert only_the_store(tmp_path)


def test_a_create_that_fails_before_storage_did_it_is_an_error_and_the_store_as_it_was(
    halves: Any, copy_of: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = copy_of("first")
    before = digests(store)
    real = LocalStorage.create

    def create(self: LocalStorage, key: str, data: bytes) -> bool:
        if "probe" not in key:
            raise FetchError("storage did not answer")
        return real(self, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStorage, "create", create)
        with pytest.raises(FetchError):
            append_store([halves.second], store)
    assert {key: digests(store)[key] for key in before} == before
    assert verify_store(store).sound
    assert append_store([halves.second], store).added
    assert verify_store(store, against=[halves.source]).leftovers == []


# Killed


@pytest.fixture(scope="module")
def calls(halves: Any, made: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many calls that change the disk an append makes."""
    return calls_of(tmp_path_factory.mktemp("calls") / "x.vla", halves.second, made / "first.vla")


def check_crashes(halves: Any, made: Path, folder: Path, numbers: list[int]) -> None:
    expected = digests(made / "two.vla")
    seen = 0
    told = crashes(folder / "x.vla", numbers, halves.second, made / "first.vla")
    for number, (killed, _), (rows, sound), again in told:
        assert killed == -signal.SIGKILL, f"call {number} was never made"
        assert (sound, rows in (17, 27)) == (True, True), f"killed at call {number}"
        assert again[0] == 0, f"killed at call {number}, the same append said: {again[1]}"
        found = digests(folder / f"x.vla-{number}")
        assert found == expected, f"killed at call {number}"  # what was half-written is swept, too
        assert not list(folder.glob("x.vla.append-*")), f"killed at call {number}"
        shutil.rmtree(folder / f"x.vla-{number}")
        seen += 1
    assert seen == len(numbers)


def test_an_append_killed_at_any_of_its_stages_leaves_the_old_store_and_the_same_command_finishes(
    halves: Any, made: Path, tmp_path: Path, calls: int
) -> None:
    through = range(6, calls - 40, max(1, (calls - 40) // 4))
    commit = range(calls - 36, calls + 1, 5)  # the move, the documents, the root, zarr.json, the stage's end
    check_crashes(halves, made, tmp_path, [*through, *commit])


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_appends_killed_at_fifty_random_calls_leave_the_old_store_and_finish(
    halves: Any, made: Path, tmp_path: Path, calls: int
) -> None:
    draw = random.Random("append")
    check_crashes(halves, made, tmp_path, sorted(draw.sample(range(1, calls + 1), 50)))


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_fifty_appends_killed_at_random_moments_leave_the_old_store_and_finish(
    halves: Any, made: Path, tmp_path: Path
) -> None:
    expected = digests(made / "two.vla")
    told = kills("append-threads", halves.second, made / "first.vla", tmp_path / "x.vla", 50)
    for killed, _, finished, left, found in told:
        assert (finished, left) == (0, []), f"killed {killed} times"
        assert found == expected, f"killed {killed} times"  # nothing half-written of a dead writer either
    assert sum(between > 0 for _, between, *_ in told) > 10
    print(f"append: 50 appends, {sum(each[0] for each in told)} kills, of which", end=" ")
    print(f"{sum(each[1] for each in told)} left a part half-built; every one finished to the identical store")


def test_a_stage_of_sources_that_have_changed_since_is_begun_anew(
    halves: Any, copy_of: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = copy_of("first")
    source = Path(shutil.copytree(halves.second, tmp_path / "more" / "libero_spatial"))

    def move(*arguments: Any) -> None:
        raise FetchError("stopped")

    for changed in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr("vla_store.manage.append._move", move)
            with pytest.raises(FetchError):
                append_store([source], store)
        if not changed:
            (path,) = source.iterdir()
            actions = tiny_libero.read(path, "data/demo_0/actions")
            tiny_libero.replace(path, "data/demo_0/actions", actions / 2)
    append_store([source], store)
    assert verify_store(store, against=[halves.first, source]).sound
    shutil.rmtree(tmp_path / "more")
    assert only_the_store(tmp_path)


def test_a_left_over_part_that_was_removed_is_built_again(
    halves: Any, copy_of: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An append is killed before its commit, and its part removed as the left-over that verify calls it."""
    store = copy_of("first")

    def commit(*arguments: Any) -> None:
        raise FetchError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(roots, "commit", commit)
        with pytest.raises(FetchError):
            append_store([halves.second], store)
    leftovers = verify_store(store).leftovers
    assert len({key.split("/")[1] for key in leftovers}) == 1
    shutil.rmtree(store / "parts" / leftovers[0].split("/")[1])
    append_store([halves.second], store)
    assert verify_store(store, against=[halves.source]).sound


def test_the_part_is_copied_where_the_stage_lies_on_another_disk_and_a_broken_copy_goes_on(
    halves: Any, made: Path, copy_of: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = copy_of("first")

    def adopt(*arguments: Any) -> bool:
        return False

    real = LocalStorage.stream
    begun = itertools.count(1)

    @contextlib.contextmanager
    def stream(self: LocalStorage, key: str) -> Iterator[Any]:
        if self.folder == store and next(begun) == 6:
            raise OSError(28, "No space left on device")
        with real(self, key) as file:
            yield file

    monkeypatch.setattr(LocalStorage, "adopt", adopt)
    monkeypatch.setattr(LocalStorage, "stream", stream)
    with pytest.raises(vla_store.MachineError, match="No space left"):
        append_store([halves.second], store, staging=tmp_path / "stage.vla")
    assert verify_store(store).sound
    append_store([halves.second], store, staging=tmp_path / "stage.vla")
    assert digests(store) == digests(made / "two.vla")


# Refused


def refused(error: type[Exception], sources: Any, store: Any, *names: str) -> None:
    with pytest.raises(error) as caught:
        append_store(sources, store)
    assert_one_screen(cli.error_text(caught.value), *names)


def test_a_file_that_is_there_already_is_refused(halves: Any, copy_of: Copy) -> None:
    store = copy_of("first")
    before = digests(store)
    refused(OptionError, [halves.source], store, "a file is in the store already", "open_the_middle_drawer_demo.hdf5")
    with pytest.raises(OptionError, match="already"):
        append_store([halves.first], store, preset="small")
    assert digests(store) == before


@pytest.mark.parametrize("options", [{"height": 8}, {"depth": True}])
def test_cameras_that_do_not_fit_are_refused_before_anything_is_built(
    copy_of: Copy, tmp_path: Path, options: dict[str, Any]
) -> None:
    store = copy_of("first")
    before = digests(store)
    names = (
        ["the parts have different fields", "agentview_depth", "--exclude"]
        if "depth" in options
        else ["do not fit", "_rgb"]
    )
    refused(OptionError, [third(tmp_path / "more", **options)], store, *names)
    assert digests(store) == before
    shutil.rmtree(tmp_path / "more")
    assert only_the_store(tmp_path)


def test_a_damaged_store_is_not_appended_to(halves: Any, copy_of: Copy) -> None:
    """A root over damaged numbers would keep their statistics when they are repaired."""
    store = copy_of("first")
    (shard,) = store.glob("parts/*/steps/actions/c/0/0")
    store_tools.flip(shard, 20)
    refused(StoreDamaged, [halves.second], store, "steps/actions/c/0/0", "vla-store repair")
    assert root_of(store).generation == 1
    store_tools.flip(shard, 20)
    assert append_store([halves.second], store).added
    assert verify_store(store, against=[halves.source]).leftovers == []


def test_there_must_be_a_store(halves: Any, tmp_path: Path) -> None:
    refused(StoreNotFound, [halves.second], tmp_path / "no.vla", "no store at this path", "no.vla")
    assert list(tmp_path.iterdir()) == []


def test_another_part_where_the_new_one_belongs_stops_the_writer(halves: Any, made: Path, copy_of: Copy) -> None:
    store = copy_of("first")
    part = root_of(made / "two.vla").parts[1].path
    shutil.copytree(made / "two.vla" / part, store / part)
    with open(store / part / "objects.jsonl", "ab") as file:
        file.write(b"{}\n")
    before = digests(store)
    refused(DestinationExists, [halves.second], store, "another part lies where the new one belongs", part)
    assert digests(store) == before


def in_memory(store: Path) -> str:
    """The store, put into fsspec's memory."""
    import fsspec

    url = f"memory://{store.parent.name}-{store.name}"
    fsspec.filesystem("memory").put(str(store), url.removeprefix("memory:/"), recursive=True)
    return url


def test_a_store_in_memory_grows(halves: Any, made: Path, copy_of: Copy, tmp_path: Path) -> None:
    skip_unless_it_creates()
    url = in_memory(copy_of("first"))
    append_store([halves.second], url, staging=tmp_path)
    assert vla_store.open_store(url).digest == root_of(made / "two.vla").digest
    checked = verify_store(url, against=[halves.source])
    assert (checked.problems, checked.leftovers) == ([], [])


def test_storage_that_ignores_that_an_object_is_only_to_be_created_is_refused(halves: Any, copy_of: Copy) -> None:
    def pipe_file(self: Any, path: str, value: bytes, **options: Any) -> None:
        self.open(path, "wb", data=value)

    url = in_memory(copy_of("first")).replace("memory", registered("careless", pipe_file=pipe_file))
    before = verify_store(url)
    refused(OptionError, [halves.second], url, "cannot create an object exclusively", "it replaces an object")
    assert verify_store(url) == before


def test_storage_that_looks_first_and_writes_then_is_refused(halves: Any, copy_of: Copy) -> None:
    """fsspec's own way for storages that have none: of two appenders at once, one would be lost."""
    from fsspec import AbstractFileSystem

    kind = registered("slow", pipe_file=AbstractFileSystem.pipe_file)
    url = in_memory(copy_of("first")).replace("memory", kind)
    before = verify_store(url)
    refused(OptionError, [halves.second], url, "cannot create an object exclusively", "looks first and writes then")
    assert verify_store(url) == before


def test_a_file_system_without_hard_links_is_refused(
    halves: Any, copy_of: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = copy_of("first")
    before = digests(store)

    def link(*arguments: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    refused(OptionError, [halves.second], store, "cannot create an object exclusively", "no hard links")
    assert digests(store) == before


# S3


def test_a_store_in_a_bucket_grows(halves: Any, made: Path, bucket: Any, tmp_path: Path) -> None:
    skip_unless_it_creates()
    url = bucket.upload(made / "first.vla", "grown.vla")
    old = vla_store.open_store(url)
    ran = run("append", halves.second, url, "--staging", tmp_path)
    assert ran.code == 0, ran.err
    assert (old.rows, vla_store.open_store(url).digest) == (17, root_of(made / "two.vla").digest)
    assert len(old.read("actions", range(17))) == 17
    checked = verify_store(url, against=[halves.source])
    assert (checked.problems, checked.leftovers) == ([], [])
    assert list(tmp_path.iterdir()) == []


def test_a_bucket_holds_the_first_of_two_objects_that_are_created(bucket: Any, made: Path) -> None:
    skip_unless_it_creates()
    place = open_storage("s3://robots/created")
    assert place.create("roots/00000002.json", b"ours")
    assert not place.create("roots/00000002.json", b"theirs")
    assert place.get("roots/00000002.json") == b"ours"


def test_of_two_appenders_to_a_bucket_at_once_both_parts_are_in_the_store(
    halves: Any, made: Path, bucket: Any, tmp_path: Path
) -> None:
    skip_unless_it_creates()
    url = bucket.upload(made / "first.vla", "twice.vla")
    sources = [halves.second, third(tmp_path / "more")]
    failed: list[BaseException] = []

    def append(source: Path) -> None:
        try:
            append_store([source], url, staging=tmp_path / "stage")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=append, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(part.rows for part in vla_store.open_store(url)._root.parts) == [6, 10, 17]
    assert verify_store(url, against=[halves.source, tmp_path / "more"]).sound


@pytest.mark.parametrize("how", RETOLD)
def test_a_source_that_says_something_else_of_the_same_data_is_not_taken_for_what_is_there(
    tmp_path: Path, how: str
) -> None:
    store = store_tools.built(tmp_path / "own.vla", [Own()])
    before = digests(store)
    again = append_store(Own(), store)
    assert not again.added
    with pytest.raises(OptionError, match="a file is in the store already"):
        append_store(Retold(how=how), store)
    assert digests(store) == before


def raced(bucket: S3Server, halves: Any, made: Path, folder: Path, rounds: int) -> list[Round]:
    """Two appends at once to a copy of first.vla in a bucket, of one file each, which are killed; what became of them."""
    sources = sorted((halves.second, tiny_libero.write_suites(folder / "third", suites=THIRD) / THIRD[0].suite))
    expected = []
    for number, order in enumerate((sources, sources[::-1])):
        store = Path(shutil.copytree(made / "first.vla", folder / f"{number}.vla"))
        for each in order:
            append_store([each], store)
        expected.append(digests(store))
    told = kills_at_url(
        "append-two", "raced.vla", rounds, made / "first.vla", sources, folder / "temporary", **bucket.environment
    )
    for each in told:
        assert (each.finished, each.left) == ([0, 0], []), each.killed
        assert each.found in expected, [differences(each.found, other) for other in expected]
    return told


THIRD = [tiny_libero.TinyFile("libero_object", "pick_up_the_cup", 17, {0: 9, 1: 3})]


def test_two_appends_to_a_bucket_that_race_and_are_killed_leave_both_parts_and_nothing_else(
    bucket: S3Server, halves: Any, made: Path, tmp_path: Path
) -> None:
    assert len(raced(bucket, halves, made, tmp_path, 2)) == 2


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_fifty_races_of_two_appends_to_a_bucket_that_are_killed_leave_both_parts_and_nothing_else(
    bucket: S3Server, halves: Any, made: Path, tmp_path: Path
) -> None:
    told = raced(bucket, halves, made, tmp_path, 50)
    assert sum(each.between for each in told) > 25
    print(f"append: 50 races of two, {sum(each.killed for each in told)} kills, of which", end=" ")
    print(f"{sum(each.between for each in told)} left a part half-built; both parts were there each time, and no more")
