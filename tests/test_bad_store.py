"""Stores that are damaged, hostile or from another time: refused by name, on one screen, and before memory is taken for them.

Damage changes bytes. An attacker changes bytes and makes every digest and checksum right again: `resign`.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import store_tools
import tiny_libero
from google_crc32c import value as crc32c
from store_tools import assert_one_screen, edit, flip, part_of, resign, run

from vla_store import (
    Samples,
    StoreDamaged,
    StoreUnfinished,
    UnknownName,
    UnsupportedStore,
    VlaStoreError,
    cli,
    open_store,
)
from vla_store.audit import verify_store
from vla_store.format import canonical

CAMERA = "eye_in_hand_rgb"
ABSENT = 2**64 - 1
ROOM_NBYTES = 64 << 20  # what refusing may take


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad_store")
    suites = (tiny_libero.TinyFile("libero_goal", "open_the_drawer", 12, {0: 9, 2: 4}),)
    return store_tools.built(folder / "pristine.vla", [tiny_libero.write_suites(folder / "source", suites=suites)])


@pytest.fixture
def store(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "x.vla"))


@pytest.fixture
def little_room() -> Iterator[None]:
    """Nothing in the test takes memory for what a store merely claims."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < ROOM_NBYTES


def read_everything(store: Path) -> None:
    """Open, look at everything a store says, and read all rows of all fields."""
    opened = open_store(store)
    assert opened.episodes[0].length * len(opened.statistics.all) * opened.nbytes > 0
    fixed = [name for name, each in opened.fields.items() if each.kind == "fixed"]
    for name in fixed:
        opened.read(name, range(opened.rows))
    for name in opened.fields.keys() - set(fixed):
        Samples(opened, windows={name: 0}, alignment="as_stored", images="as_stored")[0]
    for episode in range(len(opened.episodes)):
        opened.attributes(episode)
        opened.source_attributes(episode)


def assert_refused(store: Path, key: str, error: type[VlaStoreError] = StoreDamaged, *says: str) -> None:
    """Reading raises, and verify names the object; both in one screen."""
    with pytest.raises(error) as caught:
        read_everything(store)
    text = str(caught.value)
    assert key in text, text
    for each in says:
        assert each in text, text
    assert_one_screen(cli.error_text(caught.value))
    if error is StoreDamaged:
        report = verify_store(store)
        assert key in [each.object for each in report.problems], report.text()
        assert len(report.text().splitlines()) <= 24


def at(store: Path, path: Path) -> str:
    return path.relative_to(store).as_posix()


def test_the_untouched_store_reads_and_verifies(store: Path) -> None:
    read_everything(store)
    assert verify_store(store).sound


# The root


def test_a_store_of_a_newer_format_is_refused_whole_and_says_what_to_do(store: Path) -> None:
    resign(store, lambda root: root.update(format_version=2))
    for command in ("info", "verify"):
        ran = run(command, store)
        assert ran.code == 1
        assert_one_screen(ran.err, "newer vla_store", "zarr.json", "format version 1 or older", "pip install --upgrade")
    with pytest.raises(UnsupportedStore):
        open_store(store)


def test_a_part_of_a_newer_format_is_refused_by_name(store: Path) -> None:
    edit(part_of(store) / "zarr.json", lambda part: part["attributes"]["vla_store"].update(format_version=2))
    resign(store)
    assert_refused(store, f"{at(store, part_of(store))}/zarr.json", UnsupportedStore, "newer vla_store")


ROOTS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[: len(data) // 2],
    "not JSON": lambda data: b"\x89HDF\r\n\x1a\n" + data,
    "not UTF-8": lambda data: data.replace(b'"fields"', b'"f\xffelds"'),
    "spelled otherwise": lambda data: json.dumps(json.loads(data), indent=2).encode(),
    "a key twice": lambda data: data.replace(b'{"attributes"', b'{"node_type":"group","attributes"', 1),
    "a changed digit": lambda data: data.replace(b'"rows":13', b'"rows":14'),
    "a trailing newline": lambda data: data + b"\n",
    "deeply nested": lambda data: b'{"vla_store":' + b"[" * 100_000,
    "a number of a million digits": lambda data: data.replace(b'"rows":13', b'"rows":' + b"9" * 1_000_000),
    "larger than a root may be": lambda data: data + b" " * (16 << 20),
}


@pytest.mark.parametrize("name", ROOTS)
def test_a_damaged_root_is_refused_by_name(store: Path, name: str) -> None:
    path = store / "zarr.json"
    path.write_bytes(ROOTS[name](path.read_bytes()))
    for command in ("info", "verify"):
        ran = run(command, store) if name in ("cut short", "deeply nested") else None
        if ran:
            assert ran.code == 1, ran.err
            assert "zarr.json" in ran.out + ran.err
            assert "Traceback" not in ran.err
    with pytest.raises(StoreDamaged) as caught:
        open_store(store)
    assert_one_screen(cli.error_text(caught.value))
    assert [each.object for each in verify_store(store).problems] == ["zarr.json"]


HOSTILE_ROOTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a part above the store": lambda root: root["parts"][0].update(path="../elsewhere"),
    "a part at the root of the disk": lambda root: root["parts"][0].update(path="/etc"),
    "a part around a corner": lambda root: root["parts"][0].update(path="parts/../../x"),
    "a part with a backslash": lambda root: root["parts"][0].update(path="parts\\..\\x"),
    "a part with a NUL": lambda root: root["parts"][0].update(path="parts/\0"),
    "a part of a long name": lambda root: root["parts"][0].update(path="parts/" + "x" * 5_000),
    "more rows than can be": lambda root: root["parts"][0].update(rows=2**31),
    "rows below zero": lambda root: root["parts"][0].update(rows=-1),
    "no rows": lambda root: root["parts"][0].update(rows=0),
    "more episodes than rows": lambda root: root["parts"][0].update(episodes=14),
    "the same part twice": lambda root: root["parts"].append(root["parts"][0]),
    "no parts": lambda root: root.update(parts=[]),
    "no fields": lambda root: root.update(fields={}),
    "a digest that leaves the store": lambda root: root["meta"].update(statistics="../" * 21 + "x"),
    "a shape of floats": lambda root: root["fields"]["actions"].update(shape=["7"]),
    "a huge shape": lambda root: root["fields"][CAMERA].update(shape=[65_536, 65_536, 3]),
    "a field of a bad name": lambda root: root["fields"].update({"../x": root["fields"]["actions"]}),
    "true as generation": lambda root: root.update(generation=True),
}


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("name", HOSTILE_ROOTS)
def test_a_root_that_claims_what_cannot_be_is_refused(store: Path, name: str) -> None:
    resign(store, HOSTILE_ROOTS[name])
    with pytest.raises(StoreDamaged) as caught:
        open_store(store)
    assert_one_screen(cli.error_text(caught.value), "zarr.json")
    assert "zarr.json" in [each.object for each in verify_store(store).problems]


@pytest.mark.usefixtures("little_room")
def test_a_root_of_another_number_of_rows_than_its_part_is_refused(store: Path) -> None:
    for rows in (12, 14, 2**31 - 1):
        resign(store, lambda root, rows=rows: (root["parts"][0].update(rows=rows), root.update(rows=rows)))
        with pytest.raises(VlaStoreError):
            read_everything(store)
        assert not verify_store(store).sound


def test_a_root_without_the_statistics_of_its_fields_is_named(store: Path) -> None:
    resign(store, lambda root: root["meta"].update(statistics=None))
    assert [each.what for each in verify_store(store).problems] == ["names no statistics, though its fields have some"]


def test_a_root_whose_field_is_of_another_kind_than_its_parts_is_named(store: Path) -> None:
    resign(store, lambda root: root["fields"]["actions"].update(kind="ragged-episode", shape=[None]))
    problems = [(each.object, each.what) for each in verify_store(store).problems]
    assert ("zarr.json", "field 'actions' is not what its parts make of it") in problems


# The part's document


def part_fields(part: dict[str, Any]) -> dict[str, Any]:
    return part["attributes"]["vla_store"]["fields"]


HOSTILE_PARTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "an array above the part": lambda part: part_fields(part)["actions"].update(array="steps/../../../x"),
    "an array at the root of the disk": lambda part: part_fields(part)["actions"].update(array="/etc/passwd"),
    "another field's array": lambda part: part_fields(part)["actions"].update(array="steps/robot_states"),
    "a frame of terabytes": lambda part: part_fields(part)[CAMERA].update(shape=[2**20, 2**20, 3]),
    "a frame just too large": lambda part: part_fields(part)[CAMERA].update(shape=[9_460, 9_460, 3]),
    "a step of gigabytes": lambda part: part_fields(part)["actions"].update(shape=[2**28]),
    "an axis of nothing": lambda part: part_fields(part)["actions"].update(shape=[0]),
    "a camera without channels": lambda part: part_fields(part)[CAMERA].update(shape=[16, 24]),
    "a residual without prediction": lambda part: part_fields(part)[CAMERA].update(array=f"residuals/{CAMERA}"),
    "a numeric field with a codec": lambda part: part_fields(part)["actions"].update(
        codec={"clevel": 5, "cname": "lz4", "name": "blosc"}
    ),
    "attributes below zero": lambda part: part["attributes"]["vla_store"]["sources"][0].update(attributes=[-1, 5]),
    "no sources": lambda part: part["attributes"]["vla_store"].update(sources=[]),
}


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("name", HOSTILE_PARTS)
def test_a_part_that_claims_what_cannot_be_is_refused(store: Path, name: str) -> None:
    edit(part_of(store) / "zarr.json", HOSTILE_PARTS[name])
    resign(store)
    assert_refused(store, f"{at(store, part_of(store))}/zarr.json")


@pytest.mark.usefixtures("little_room")
def test_attributes_that_reach_beyond_what_is_there_are_refused(store: Path) -> None:
    for span in ([0, 2**52], [2**52, 1], [2**53 - 1, 2**53 - 1]):
        edit(
            part_of(store) / "zarr.json",
            lambda part, span=span: part["attributes"]["vla_store"]["sources"][0].update(attributes=span),
        )
        resign(store)
        with pytest.raises(StoreDamaged):
            read_everything(store)
        assert not verify_store(store).sound


UNKNOWN: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "kind": (lambda field: field.update(kind="ragged-row"), "kind 'ragged-row'"),
    "codec": (lambda field: field.update(codec={"name": "jpegxl"}), "codec 'jpegxl'"),
    "prediction": (
        lambda field: field.update(prediction=["before"], array=f"residuals/{CAMERA}"),
        "prediction 'before'",
    ),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_a_field_of_a_newer_writer_is_refused_and_the_others_read(store: Path, what: str) -> None:
    change, says = UNKNOWN[what]
    edit(part_of(store) / "zarr.json", lambda part: change(part_fields(part)[CAMERA]))
    resign(store, lambda root: change(root["fields"][CAMERA]) if what == "kind" else None)
    opened = open_store(store)
    assert opened.read("actions", [0, 1]).shape == (2, 7)
    with pytest.raises(UnsupportedStore) as caught:
        Samples(opened, windows={CAMERA: 0}, alignment="as_stored", images="as_stored")[0]
    assert_one_screen(cli.error_text(caught.value), says, CAMERA)
    report = verify_store(store)
    assert any(says in each.what for each in report.problems), report.text()


@pytest.mark.parametrize("key", ["../../../etc/passwd", "/etc/passwd", "steps/../../x", "objects.jsonl", "a//b", ""])
def test_a_listing_with_a_key_that_leaves_the_part_is_refused(store: Path, key: str) -> None:
    part = part_of(store)
    lines = (part / "objects.jsonl").read_bytes().splitlines()
    lines.append(canonical.dumps({"key": key, "sha256": "0" * 64, "size": 1}))
    listing = b"".join(line + b"\n" for line in sorted(lines, key=lambda line: json.loads(line)["key"].encode()))
    resign(store)
    (part / "objects.jsonl").write_bytes(listing)
    rewrite_root(store, canonical.sha256_hex(listing))
    report = verify_store(store)
    assert at(store, part / "objects.jsonl") in [each.object for each in report.problems]


def rewrite_root(store: Path, listing: str) -> None:
    document = json.loads((store / "zarr.json").read_bytes())
    inner = document["attributes"]["vla_store"]
    inner["parts"][0]["listing"], inner["digest"] = listing, "0" * 64
    inner["digest"] = canonical.sha256_hex(canonical.dumps(document))
    for path in (store / "zarr.json", store / "roots/00000001.json"):
        path.write_bytes(canonical.dumps(document))


# The episode table


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("start", 1),
        ("length", 2**62),
        ("length", -5),
        ("length", 0),
        ("task", 7),
        ("task", -1),
        ("source", 9),
        ("attributes_start", 2**62),
        ("attributes_bytes", 2**62),
        ("attributes_bytes", -1),
    ],
)
def test_a_table_that_claims_what_cannot_be_is_refused(store: Path, column: str, value: int) -> None:
    part = part_of(store)
    columns = json.loads((part / "episodes/table/zarr.json").read_bytes())["attributes"]["columns"]
    shard = part / "episodes/table/c/0/0"
    data = bytearray(shard.read_bytes())
    struct.pack_into("<q", data, 8 * columns.index(column), value)
    shard.write_bytes(data)
    resign(store)
    with pytest.raises(VlaStoreError) as caught:
        read_everything(store)
    assert_one_screen(cli.error_text(caught.value))
    assert not verify_store(store).sound


# Shards of encoded frames


def camera_shard(store: Path) -> Path:
    return part_of(store) / f"frames/{CAMERA}/c/0/0/0/0"


def entries_of(data: bytes, chunks: int = 13) -> np.ndarray:
    return np.frombuffer(data[-(16 * chunks + 4) : -4], "<u8").reshape(chunks, 2).copy()


def with_index(body: bytes, entries: np.ndarray) -> bytes:
    packed = entries.astype("<u8").tobytes()
    return body + packed + int(crc32c(packed)).to_bytes(4, "little")


def rewrite_index(store: Path, change: Callable[[np.ndarray], object]) -> str:
    """Change the index of the camera's shard, with every checksum and digest right; the shard's key."""
    shard = camera_shard(store)
    data = shard.read_bytes()
    entries = entries_of(data)
    change(entries)
    shard.write_bytes(with_index(data[: -(16 * 13 + 4)], entries))
    resign(store)
    return at(store, shard)


def swap(entries: np.ndarray) -> None:
    entries[[2, 3]] = entries[[3, 2]]


def overlap(entries: np.ndarray) -> None:
    entries[3, 0] = entries[2, 0]


INDICES: dict[str, Callable[[np.ndarray], object]] = {
    "overlapping": overlap,
    "backward": swap,
    "past the end": lambda entries: entries.__setitem__((5, 0), 2**40),
    "a chunk of exabytes": lambda entries: entries.__setitem__((5, 1), 2**62),
    "sizes that wrap around": lambda entries: entries.__setitem__((slice(4, 6), 1), 2**63 + 5),
    "a gap": lambda entries: entries.__setitem__((slice(6, 13), 0), entries[6:13, 0] + 1),
    "an absent chunk": lambda entries: entries.__setitem__(4, ABSENT),
    "half an absent chunk": lambda entries: entries.__setitem__((4, 1), ABSENT),
    "all absent": lambda entries: entries.fill(ABSENT),
    "a chunk of nothing": lambda entries: entries.__setitem__((12, 1), 0),
}


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("name", INDICES)
def test_a_shard_index_that_cannot_be_is_refused_though_its_checksum_is_right(store: Path, name: str) -> None:
    assert_refused(store, rewrite_index(store, INDICES[name]))


def replace_chunk(store: Path, number: int, change: Callable[[bytearray], object]) -> str:
    """Change one encoded frame, with its crc32c, the index and every digest right; the shard's key."""
    shard = camera_shard(store)
    data = shard.read_bytes()
    entries = entries_of(data)
    chunks = [bytearray(data[int(start) : int(start + nbytes) - 4]) for start, nbytes in entries]
    change(chunks[number])
    sealed = [bytes(body) + int(crc32c(bytes(body))).to_bytes(4, "little") for body in chunks]
    entries[:, 1] = [len(chunk) for chunk in sealed]
    entries[:, 0] = np.cumsum(entries[:, 1]) - entries[:, 1]
    shard.write_bytes(with_index(b"".join(sealed), entries))
    resign(store)
    return at(store, shard)


def header(offset: int, value: int) -> Callable[[bytearray], object]:
    """Sets one of the sizes in a Blosc header: 4 nbytes, 8 blocksize, 12 cbytes."""
    return lambda chunk: struct.pack_into("<I", chunk, offset, value)


CHUNKS: dict[str, Callable[[bytearray], object]] = {
    "a frame of gigabytes": header(4, 2**31 - 64),
    "a frame of 4 GiB": header(4, 2**32 - 1),
    "a frame of one byte more": header(4, 16 * 24 * 3 + 1),
    "a frame of nothing": header(4, 0),
    "blocks of gigabytes": header(8, 2**31 - 64),
    "blocks of nothing": header(8, 0),
    "more compressed bytes than there are": header(12, 2**30),
    "no header": lambda chunk: chunk.__delitem__(slice(3, None)),
    "nothing at all": lambda chunk: chunk.clear(),
    "another version of Blosc": lambda chunk: chunk.__setitem__(0, 99),
    "an unknown inner codec": lambda chunk: chunk.__setitem__(2, 0xE0),
    "bytes at the end": lambda chunk: chunk.extend(b"more"),
    "a body of rubbish": lambda chunk: chunk.__setitem__(slice(16, None), bytes(len(chunk) - 16)),
}


@pytest.mark.usefixtures("little_room")
@pytest.mark.parametrize("name", CHUNKS)
def test_an_encoded_frame_that_lies_about_itself_is_refused(store: Path, name: str) -> None:
    key = replace_chunk(store, 3, CHUNKS[name])
    with pytest.raises(StoreDamaged) as caught:
        open_store(store).read(CAMERA, [3])
    assert_one_screen(cli.error_text(caught.value), key)
    assert key in [each.object for each in verify_store(store).problems]


# Plain damage to shards


def test_any_flipped_byte_of_an_encoded_frame_makes_its_read_raise(store: Path) -> None:
    shard = camera_shard(store)
    start, nbytes = (int(n) for n in entries_of(shard.read_bytes())[3])
    places = sorted({*range(24), *range(24, nbytes - 8, 13), *range(nbytes - 8, nbytes)})
    for offset in (start + place for place in places):
        flip(shard, offset, 1 << offset % 8)
        with pytest.raises(StoreDamaged) as caught:
            open_store(store).read(CAMERA, [3])
        assert caught.value.places["object"] == at(store, shard)
        flip(shard, offset, 1 << offset % 8)
    read_everything(store)


def test_any_flipped_byte_of_an_index_makes_reads_raise(store: Path) -> None:
    shard = camera_shard(store)
    size = shard.stat().st_size
    for offset in range(size - (16 * 13 + 4), size, 3):
        flip(shard, offset)
        with pytest.raises(StoreDamaged) as caught:
            open_store(store).read(CAMERA, [3])
        assert caught.value.places["object"] == at(store, shard)
        flip(shard, offset)


def test_a_flipped_byte_of_a_background_makes_its_read_raise(store: Path) -> None:
    (shard,) = [path for path in (part_of(store) / "backgrounds").rglob("c/0/*/*/*") if path.is_file()]
    camera = shard.relative_to(part_of(store)).parts[1]
    flip(shard, 100)
    with pytest.raises(StoreDamaged) as caught:
        open_store(store).read(camera, [0])
    assert_one_screen(cli.error_text(caught.value), at(store, shard))
    assert open_store(store).read(camera, [12]).shape == (1, 16, 24, 3)  # the other episode's is sound


def test_a_shard_cut_short_is_named(store: Path) -> None:
    for array in (f"frames/{CAMERA}", "steps/actions", "index/steps", "episodes/table", "episodes/attributes"):
        (shard,) = [path for path in (part_of(store) / array / "c").rglob("*") if path.is_file()]
        whole = shard.read_bytes()
        for left in (0, 3, 10, len(whole) // 2, len(whole) - 1):
            shard.write_bytes(whole[:left])
            assert_refused(store, at(store, shard))
        shard.write_bytes(whole)


def test_a_missing_shard_is_named(store: Path) -> None:
    for array in (f"frames/{CAMERA}", "steps/actions", "index/steps", "episodes/table", "episodes/attributes"):
        (shard,) = [path for path in (part_of(store) / array / "c").rglob("*") if path.is_file()]
        shard.rename(store.parent / "aside")
        assert_refused(store, at(store, shard), StoreDamaged, "missing")
        (store.parent / "aside").rename(shard)


def test_a_flipped_number_is_found_by_verify_always(store: Path) -> None:
    shard = part_of(store) / "steps/actions/c/0/0"
    for offset in (0, 7, 13 * 7 * 8 - 1):
        flip(shard, offset)
        assert [each.object for each in verify_store(store).problems] == [at(store, shard)]
        flip(shard, offset)


def test_a_folder_where_an_object_should_be_is_an_error_on_one_screen(store: Path) -> None:
    shard = part_of(store) / "steps/actions/c/0/0"
    shard.unlink()
    shard.mkdir()
    for command in ("verify", "info"):
        ran = run(command, store)
        assert "Traceback" not in ran.err
        assert ran.code in (0, 1, 3) if command == "info" else ran.code in (1, 3)


# What is no store


def test_what_is_no_store_is_called_what_it_is(tmp_path: Path, tiny_source: Path) -> None:
    file = next(tiny_source.glob("*/*.hdf5"))
    (tmp_path / "zarr").mkdir()
    (tmp_path / "zarr/zarr.json").write_text('{"attributes":{},"node_type":"group","zarr_format":3}')
    (tmp_path / "zarr2").mkdir()
    (tmp_path / "zarr2/.zgroup").write_text('{"zarr_format": 2}')
    (tmp_path / "empty").mkdir()
    cases = [
        (file, 1, "an HDF5 file"),
        (tiny_source, 2, "not a vla_store"),
        (tmp_path / "zarr", 1, "not a vla_store"),
        (tmp_path / "zarr2", 1, "Zarr of version 2"),
        (tmp_path / "empty", 2, "not a vla_store"),
        (tmp_path / "nothing", 2, "no store at this path"),
    ]
    for path, code, says in cases:
        ran = run("info", path)
        assert ran.code == code, ran.err
        assert_one_screen(ran.err, says, path)


@pytest.mark.parametrize("command", [
    "verify {}", "show {} -o e.png", "report {} -o r.html", "bench {}", "coverage {}", "views list {}",
    "views add {} no_noops", "views remove {} --all", "copy {} new.vla", "merge {} new.vla", "append {} {}",
    "recode {} new.vla --preset raw", "repair {} --from {}",
])  # fmt: skip
def test_every_command_says_what_is_no_store_and_what_to_do(
    command: str, tmp_path: Path, tiny_source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.hdf5").write_bytes(next(tiny_source.glob("*/*.hdf5")).read_bytes())
    Path("LIBERO").symlink_to(tiny_source)
    shutil.make_archive("x", "zip", ".", "x.hdf5")
    Path("unfinished.vla.partial").mkdir()
    before = set(os.listdir())
    for name, says in (
        ("x.hdf5", f"build {tmp_path}/x.hdf5 STORE"),
        ("LIBERO", f"build {tmp_path}/LIBERO STORE"),
        ("x.zip", f"zip::{tmp_path}/x.zip"),
        ("unfinished.vla", "run the same `vla-store build` command again"),
        ("nowhere.vla", "`vla-store build` makes one"),
    ):
        assert cli.main(command.format(name, name).split()) in (1, 2)
        err = " ".join(capsys.readouterr().err.split())
        assert says in err, err
        assert set(os.listdir()) == before


def test_an_unfinished_build_is_called_one(store: Path) -> None:
    partial = store.with_name(f"{store.name}.partial")
    store.rename(partial)
    (partial / "zarr.json").unlink()
    for path in (store, partial):
        with pytest.raises(StoreUnfinished):
            open_store(path)
        ran = run("info", path)
        assert ran.code == 1
        assert_one_screen(ran.err, "unfinished", "it resumes")


def test_unknown_names_list_what_exists(store: Path) -> None:
    opened = open_store(store)
    for call, says in (
        (lambda: opened.read("action", [0]), "actions"),
        (lambda: opened.read("actions", [13]), "0 to 12"),
        (lambda: Samples(opened, windows={"agentview": 0}, alignment="as_stored"), "agentview_rgb"),
        (
            lambda: Samples(opened, windows={"actions": 0}, suites=["libero_spatial"], alignment="as_stored"),
            "libero_goal",
        ),
    ):
        with pytest.raises(UnknownName) as caught:
            call()
        assert says in str(caught.value)
    assert os.listdir(store)
