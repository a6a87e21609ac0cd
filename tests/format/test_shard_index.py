"""The index at the end of a shard, sound and hostile."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import google_crc32c
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_store.errors import StoreDamaged
from vla_store.format.shard_index import ABSENT, encode_index, find_index, index_nbytes, parse_index

SIZES = st.lists(st.integers(0, 2**40), min_size=1, max_size=20)


def sealed(entries: np.ndarray) -> memoryview:
    """The bytes of an index whose checksum is right, whatever it says."""
    body = np.ascontiguousarray(entries, "<u8").tobytes()
    return memoryview(body + int(google_crc32c.value(body)).to_bytes(4, "little"))


def sound(sizes: list[int], chunks: int) -> np.ndarray:
    return np.frombuffer(encode_index(sizes, chunks)[:-4], "<u8").reshape(chunks, 2).copy()


@given(SIZES, st.integers(0, 5))
def test_an_index_reads_back_as_it_was_written(sizes: list[int], unused: int) -> None:
    chunks = len(sizes) + unused
    data = encode_index(sizes, chunks)
    assert len(data) == index_nbytes(chunks) == 16 * chunks + 4
    entries = parse_index(memoryview(data), chunks, len(sizes), sum(sizes), "x")
    assert entries[: len(sizes), 1].tolist() == sizes
    assert entries[: len(sizes), 0].tolist() == [sum(sizes[:i]) for i in range(len(sizes))]
    assert (entries[len(sizes) :] == ABSENT).all()


def test_the_bytes_of_an_index_are_these() -> None:
    # Two chunks of 5 and 3 bytes, a third beyond the shape.
    expected = bytes.fromhex("0000000000000000 0500000000000000 0500000000000000 0300000000000000" + "ff" * 16)
    assert encode_index([5, 3], 3) == expected + google_crc32c.value(expected).to_bytes(4, "little")


def test_an_empty_chunk_is_none_that_is_absent() -> None:
    assert parse_index(memoryview(encode_index([0, 4], 2)), 2, 2, 4, "x")[0].tolist() == [0, 0]


HOSTILE: dict[str, Callable[[np.ndarray], None]] = {
    "overlap": lambda e: e.__setitem__((2, 0), e[2, 0] - 1),
    "gap": lambda e: e.__setitem__((2, 0), e[2, 0] + 1),
    "backward": lambda e: e.__setitem__((slice(0, 2), slice(None)), e[1::-1].copy()),
    "all at the beginning": lambda e: e.__setitem__((slice(0, 4), 0), 0),
    "past the end": lambda e: e.__setitem__((3, 1), 2**40),
    "size near 2^64": lambda e: e.__setitem__((1, 1), 2**64 - 2),
    "offset near 2^64": lambda e: e.__setitem__((1, 0), 2**64 - 2),
    "wraps around to the right total": lambda e: e.__setitem__(
        slice(0, 4), np.array([[0, 2**63], [2**63, 2**63], [0, 50], [50, 50]], np.uint64)
    ),
    "a present chunk absent": lambda e: e.__setitem__(1, ABSENT),
    "the last present chunk absent": lambda e: e.__setitem__(3, ABSENT),
    "half absent": lambda e: e.__setitem__((1, 1), ABSENT),
    "all absent": lambda e: e.__setitem__(slice(None), ABSENT),
    "a chunk beyond the shape": lambda e: e.__setitem__(4, (100, 0)),
    "too short": lambda e: e.__setitem__((3, 1), e[3, 1] - 1),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("size", [None, 25])
def test_a_hostile_index_with_a_good_checksum_is_damage(name: str, size: int | None) -> None:
    entries = sound([25, 25, 25, 25], 5)
    parse_index(sealed(entries), 5, 4, 100, "x", size)
    HOSTILE[name](entries)
    with pytest.raises(StoreDamaged) as caught:
        parse_index(sealed(entries), 5, 4, 100, "frames/a/c/0", size)
    assert "frames/a/c/0" in str(caught.value)


def test_sizes_that_wrap_around_within_a_huge_sparse_object_are_damage() -> None:
    body = 2**62
    sizes = np.full(6, body, np.uint64)
    sizes[4] = 0
    sizes[5] = body  # five times 2^62 is 2^62 once it has wrapped around
    ends = np.cumsum(sizes, dtype=np.uint64)
    with pytest.raises(StoreDamaged):
        parse_index(sealed(np.stack([ends - sizes, sizes], axis=1)), 6, 6, body, "x")


def test_every_flipped_byte_of_an_index_is_damage() -> None:
    data = encode_index([5, 3, 9], 4)
    for place in range(len(data)):
        spoilt = bytearray(data)
        spoilt[place] ^= 0x40
        with pytest.raises(StoreDamaged, match="checksum"):
            parse_index(memoryview(bytes(spoilt)), 4, 3, 17, "x")


@pytest.mark.parametrize("length", [0, 1, 3, 4, 51, 52, 53, 67, 69, 84])
def test_an_index_of_another_length_is_damage(length: int) -> None:
    data = (encode_index([5, 3, 9], 4) * 2)[:length]
    with pytest.raises(StoreDamaged):
        parse_index(memoryview(data), 4, 3, 17, "x")


def test_an_index_and_a_file_of_another_size_disagree() -> None:
    data = memoryview(encode_index([5, 3, 9], 4))
    for body_nbytes in (-20, -1, 0, 16, 18, 2**63):
        with pytest.raises(StoreDamaged):
            parse_index(data, 4, 3, body_nbytes, "x")
    for present in (0, 2, 4):
        with pytest.raises(StoreDamaged):
            parse_index(data, 4, present, 17, "x")


def test_an_absent_chunk_is_called_absent() -> None:
    entries = sound([25, 25, 25], 3)
    entries[1] = ABSENT
    with pytest.raises(StoreDamaged, match="absent") as caught:
        parse_index(sealed(entries), 3, 3, 75, "x")
    assert "chunk     1" in str(caught.value)


def test_bytes_before_an_index_without_chunks_are_damage() -> None:
    data = memoryview(encode_index([], 2))
    assert len(parse_index(data, 2, 0, 0, "x")) == 2
    with pytest.raises(StoreDamaged):
        parse_index(data, 2, 0, 5, "x")


def test_chunks_of_another_size_than_the_array_says_are_damage() -> None:
    with pytest.raises(StoreDamaged, match="size"):
        parse_index(memoryview(encode_index([8, 8, 7], 3)), 3, 3, 23, "x", 8)


@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)), min_size=1, max_size=6),
    st.integers(0, 6),
    st.integers(0, 2**63),
    st.none() | st.integers(0, 100),
)
def test_whatever_an_index_says_it_is_sound_or_damage(
    pairs: list[tuple[int, int]], present: int, body_nbytes: int, size: int | None
) -> None:
    present = min(present, len(pairs))
    entries = np.array(pairs, np.uint64).reshape(-1, 2)
    try:
        parsed = parse_index(sealed(entries), len(pairs), present, body_nbytes, "x", size)
    except StoreDamaged:
        return
    at = 0
    for offset, nbytes in parsed[:present].tolist():
        assert offset == at
        at += nbytes
    assert at == body_nbytes


# --- where only the end of a shard is there --------------------------------------------------------------------------------


@given(SIZES, st.integers(0, 5), st.data())
def test_the_index_is_found_in_the_end_of_a_shard(sizes: list[int], unused: int, data: st.DataObject) -> None:
    chunks = len(sizes) + unused
    index = encode_index(sizes, chunks)
    size = sum(sizes) + len(index)
    before = data.draw(st.binary(max_size=min(60, sum(sizes))))
    found = find_index(before + index, size)
    assert found is not None
    assert found.tolist() == sound(sizes, chunks).tolist()
    # Of less than all of it nothing is said that is wrong: where nothing is known, more is wanted.
    assert find_index(index[data.draw(st.integers(1, len(index) - 1)) :], size) is None


@given(SIZES, st.integers(0, 5), st.data())
def test_an_index_whose_bytes_changed_is_not_found(sizes: list[int], unused: int, data: st.DataObject) -> None:
    index = encode_index(sizes, len(sizes) + unused)
    at, bit = data.draw(st.integers(0, len(index) - 1)), data.draw(st.integers(0, 7))
    changed = bytearray(index)
    changed[at] ^= 1 << bit
    with contextlib.suppress(StoreDamaged):
        assert find_index(bytes(changed), sum(sizes) + len(index)) is None
