"""What a read notices by itself. `vla-store verify` notices the rest."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import store_tools

from vla_store import Samples, StoreDamaged, open_store
from vla_store.format.shard_index import ABSENT, ENTRY_BYTES, encode_index, index_nbytes
from vla_store.reader.part import Part
from vla_store.reader.parts import parts_of

CAMERAS = {"agentview_rgb": "residuals", "eye_in_hand_rgb": "frames"}
KINDS = ["mmap", "pread", "fsspec"]


def shard_of(store: Path, array: str) -> Path:
    (found,) = (path for path in store.glob(f"parts/*/{array}/c/**/0") if path.is_file())
    return found


def read_everything(store: Path, kind: str, *fields: str) -> None:
    samples = Samples(
        open_store(store, fetcher=kind), windows=dict.fromkeys(fields, 0), alignment="as_stored", images="as_stored"
    )
    samples.batch(range(len(samples)))


def assert_damage(store: Path, kind: str, *fields: str, match: str) -> None:
    for read in (
        lambda: read_everything(store, kind, *fields),
        lambda: [
            each["step"]
            for each in Samples(open_store(store, fetcher=kind), windows=dict.fromkeys(fields, 0), images="as_stored")
        ],
    ):
        with pytest.raises(StoreDamaged, match=match) as caught:
            read()
        assert len(str(caught.value).splitlines()) <= 24


def missing(path: Path) -> None:
    path.unlink()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x55
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [missing, cut_short, flipped])
def test_whatever_read_notices_damage_names_the_store_and_the_command_that_mends_it(
    copied_store: Path, damage: Callable[[Path], None]
) -> None:
    noticed: dict[str, StoreDamaged] = {}
    for path in sorted(each for each in copied_store.rglob("*") if each.is_file()):
        data = path.read_bytes()
        damage(path)
        try:
            read_everything(copied_store, "pread", *CAMERAS, "actions", "joint_states")
        except StoreDamaged as error:
            noticed[path.relative_to(copied_store).as_posix()] = error
        path.write_bytes(data)
    for key, error in noticed.items():
        assert error.places["store"] == str(copied_store), key
        assert f"vla-store repair {copied_store} --from SOURCE" in error.hint, key
    assert "zarr.json" in noticed
    assert any("/index/" in each for each in noticed)
    assert any("/frames/" in each for each in noticed)


def test_what_a_command_says_of_damage_is_what_mends_it(copied_store: Path, tiny_source: Path) -> None:
    pytest.importorskip("zarr", reason="what repairs, builds")
    path = shard_of(copied_store, "frames/eye_in_hand_rgb")
    data = path.read_bytes()
    flipped(path)
    ran = store_tools.run("verify", copied_store)
    assert ran.code == 1
    assert ran.out.rstrip().endswith(f"to mend it: vla-store repair {copied_store} --from SOURCE")
    assert store_tools.run("repair", copied_store, "--from", tiny_source).code == 0
    assert path.read_bytes() == data


def test_the_hint_of_a_store_with_a_space_in_its_name_can_be_pasted() -> None:
    damaged = StoreDamaged("an object is missing").at(store="/disk/my stores/s.vla")
    assert "vla-store repair '/disk/my stores/s.vla' --from SOURCE" in damaged.hint
    assert pickle.loads(pickle.dumps(damaged)).hint == damaged.hint
    assert StoreDamaged("not a vla_store", hint="a store is a folder").at(store="x").hint == "a store is a folder"


def entries_of(data: bytes, chunks: int) -> np.ndarray:
    return np.frombuffer(data[-index_nbytes(chunks) : -4], "<u8").reshape(chunks, 2).copy()


def with_entries(data: bytes, entries: np.ndarray) -> bytes:
    body = entries.astype("<u8").tobytes()
    sealed = encode_index([], 0)  # only for its checksum's length
    assert len(sealed) == 4
    from google_crc32c import value

    return data[: -len(body) - 4] + body + int(value(body)).to_bytes(4, "little")


@pytest.mark.parametrize("camera", CAMERAS)
def test_any_flipped_byte_of_an_encoded_frame_makes_its_read_raise(copied_store: Path, camera: str) -> None:
    path = shard_of(copied_store, f"{CAMERAS[camera]}/{camera}")
    data = path.read_bytes()
    entries = entries_of(data, 137)
    rng = np.random.default_rng(0)
    for at in rng.integers(0, int(entries[:137].sum(axis=1).max()), 40).tolist():
        path.write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
        row = int(np.flatnonzero((entries[:, 0] <= at) & (at < entries[:, 0] + entries[:, 1]))[0])
        store = open_store(copied_store)
        with pytest.raises(StoreDamaged, match=rf"(?s){camera}/c/0.*row +{row}\b"):
            store.read(camera, [row])
        others = [other for other in (row - 1, row + 1) if 0 <= other < 137]
        store.read(camera, others)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_byte_of_a_background_makes_its_first_use_raise(copied_store: Path, kind: str) -> None:
    path = shard_of(copied_store, "backgrounds/agentview_rgb")
    data = path.read_bytes()
    path.write_bytes(data[:2_000] + bytes([data[2_000] ^ 8]) + data[2_001:])
    assert_damage(copied_store, kind, "agentview_rgb", match=r"(?s)background.*backgrounds/agentview_rgb.*episode +1")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("array", ["residuals/agentview_rgb", "frames/eye_in_hand_rgb", "steps/actions", "index/steps"])
@pytest.mark.parametrize("cut", [1, 300, 10**9])
def test_a_shard_cut_short_is_damage_that_names_it(copied_store: Path, kind: str, array: str, cut: int) -> None:
    path = shard_of(copied_store, array)
    path.write_bytes(path.read_bytes()[:-cut])
    field = array.split("/")[1] if "index" not in array else "actions"
    assert_damage(copied_store, kind, field, match=array)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "array", ["residuals/agentview_rgb", "backgrounds/agentview_rgb", "steps/actions", "index/steps", "episodes/table"]
)
def test_a_missing_shard_is_damage_that_names_it(copied_store: Path, kind: str, array: str) -> None:
    shard_of(copied_store, array).unlink()
    field = array.split("/")[1] if array.split("/")[1] in ("agentview_rgb", "actions") else "actions"
    assert_damage(copied_store, kind, field, match=rf"(?s)missing.*{array}/c/0")


def _absent(entries: np.ndarray) -> None:
    entries[70] = ABSENT


def _overlapping(entries: np.ndarray) -> None:
    entries[70, 0] -= 1


def _backward(entries: np.ndarray) -> None:
    entries[[70, 71]] = entries[[71, 70]]


def _past_the_file(entries: np.ndarray) -> None:
    entries[136, 1] += 1 << 40


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spoil", [_absent, _overlapping, _backward, _past_the_file])
def test_an_index_that_cannot_be_is_refused(copied_store: Path, kind: str, spoil: Callable[[np.ndarray], None]) -> None:
    path = shard_of(copied_store, "frames/eye_in_hand_rgb")
    data = path.read_bytes()
    entries = entries_of(data, 137)
    spoil(entries)
    path.write_bytes(with_entries(data, entries))
    assert_damage(copied_store, kind, "eye_in_hand_rgb", match="frames/eye_in_hand_rgb/c/0")


def test_a_chunk_larger_than_any_frame_encodes_to_is_refused_before_it_is_read(copied_store: Path) -> None:
    path = shard_of(copied_store, "frames/eye_in_hand_rgb")
    data = path.read_bytes()
    entries = entries_of(data, 137)
    body = data[: -index_nbytes(137)] + bytes(50_000_000)
    entries[136, 1] += 50_000_000
    path.write_bytes(with_entries(body + bytes(index_nbytes(137)), entries))
    for kind in KINDS:
        assert_damage(copied_store, kind, "eye_in_hand_rgb", match="more bytes than it can need")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("array", "dtype", "at", "wrong"),
    [
        ("index/steps", "<i4", 2 * 60, 10),  # an episode that is not there
        ("index/steps", "<i4", 2 * 60, -1),
        ("index/steps", "<i4", 2 * 60, 2),  # another episode
        ("index/steps", "<i4", 2 * 60 + 1, 10**9),  # a step beyond its episode
        ("index/steps", "<i4", 2 * 60 + 1, -1),
        ("episodes/table", "<i8", 3 * 10 + 0, 10**15),  # start
        ("episodes/table", "<i8", 3 * 10 + 0, -5),
        ("episodes/table", "<i8", 3 * 10 + 1, 10**15),  # length
        ("episodes/table", "<i8", 3 * 10 + 1, 0),
        ("episodes/table", "<i8", 3 * 10 + 2, 99),  # task
        ("episodes/table", "<i8", 3 * 10 + 2, -1),
        ("episodes/table", "<i8", 3 * 10 + 3, 99),  # source
    ],
)
def test_an_index_and_a_table_that_contradict_each_other_are_refused(
    copied_store: Path, kind: str, array: str, dtype: str, at: int, wrong: int
) -> None:
    path = shard_of(copied_store, array)
    data = bytearray(path.read_bytes())
    numbers = np.frombuffer(data, dtype, len(data) // 16 * 2 if dtype == "<i8" else len(data) // 4)
    numbers[at] = wrong
    path.write_bytes(data)
    for alignment in ("as_stored", "causal"):
        samples = Samples(open_store(copied_store, fetcher=kind), windows={"actions": range(3)}, alignment=alignment)
        with pytest.raises(StoreDamaged, match=r"contradict each other|in order|cannot be"):
            samples.batch(range(len(samples)))
        with pytest.raises(StoreDamaged, match=r"contradict each other|in order|cannot be"):
            [samples[index] for index in range(len(samples))]


@pytest.mark.parametrize(("column", "wrong"), [(8, 10**12), (8, -1), (9, 10**12), (9, -3)])
def test_a_table_that_puts_a_ragged_field_elsewhere_is_refused(copied_store: Path, column: int, wrong: int) -> None:
    path = shard_of(copied_store, "episodes/table")
    data = bytearray(path.read_bytes())
    np.frombuffer(data, "<i8", 100).reshape(10, 10)[4, column] = wrong
    path.write_bytes(data)
    assert_damage(copied_store, "mmap", "states", match=r"(?s)'states' where it is not.*episode +4")


def test_attributes_outside_their_array_are_refused(copied_store: Path) -> None:
    path = shard_of(copied_store, "episodes/table")
    data = path.read_bytes()
    for episode, match in (
        (4, "attributes lie outside"),
        (9, "episodes/attributes"),
    ):  # the last one says where they end
        spoilt = bytearray(data)
        np.frombuffer(spoilt, "<i8", 100).reshape(10, 10)[episode, 7] = 10**15
        path.write_bytes(spoilt)
        with pytest.raises(StoreDamaged, match=match):
            open_store(copied_store).attributes(episode)


def test_a_blosc_header_that_claims_gigabytes_is_refused(copied_store: Path) -> None:
    from google_crc32c import value

    path = shard_of(copied_store, "frames/eye_in_hand_rgb")
    data = bytearray(path.read_bytes())
    start, nbytes = (int(x) for x in entries_of(bytes(data), 137)[5])
    data[start + 4 : start + 8] = (2**31).to_bytes(4, "little")
    body = bytes(data[start : start + nbytes - 4])
    data[start + nbytes - 4 : start + nbytes] = int(value(body)).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(StoreDamaged, match=r"(?s)row +5.*Blosc header"):
        open_store(copied_store).read("eye_in_hand_rgb", [5])


def test_the_sizes_that_tests_rely_on_are_those_of_the_store(tiny_store: Path) -> None:
    part = parts_of(open_store(tiny_store))[0]
    assert isinstance(part, Part)
    assert (part.rows, part.episodes, len(part.document.columns)) == (137, 10, 10)
    assert ENTRY_BYTES == 16
