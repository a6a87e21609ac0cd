"""The listing of a part."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_store.errors import StoreDamaged
from vla_store.format.listing import ObjectEntry, encode_listing, parse_listing

DIGEST = hashlib.sha256(b"x").hexdigest()
KEYS = st.lists(st.text("abcXYZ019._-", min_size=1, max_size=5), min_size=1, max_size=3).map("/".join)
KEYS = KEYS.filter(lambda key: not {"", ".", ".."} & set(key.split("/")))


@given(st.dictionaries(KEYS, st.integers(0, 2**53 - 1), max_size=12))
def test_a_listing_reads_back_sorted_by_the_bytes_of_its_keys(sizes: dict[str, int]) -> None:
    entries = [ObjectEntry(key, hashlib.sha256(key.encode()).hexdigest(), size) for key, size in sizes.items()]
    assert parse_listing(encode_listing(entries), "x") == sorted(entries, key=lambda entry: entry.key.encode())
    assert encode_listing(reversed(entries)) == encode_listing(entries)


def test_the_bytes_of_a_listing_are_these() -> None:
    made = encode_listing([ObjectEntry("b/zarr.json", DIGEST, 1), ObjectEntry("a", DIGEST, 0)])
    line = '{"key":"%s","sha256":"' + DIGEST + '","size":%d}\n'
    assert made.decode() == line % ("a", 0) + line % ("b/zarr.json", 1)
    assert encode_listing([]) == b""


def line(key: str = '"a"', sha256: str = f'"{DIGEST}"', size: str = "1", more: str = "") -> bytes:
    return f'{{"key":{key},{more}"sha256":{sha256},"size":{size}}}\n'.encode()


def test_the_line_that_is_spoilt_below_is_sound() -> None:
    assert parse_listing(line(), "x") == [ObjectEntry("a", DIGEST, 1)]


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        line()[:-1],
        line() + b"\n",
        line() + line(),
        line('"b"') + line('"a"'),
        line('"../a"'),
        line('"/a"'),
        line('"a\\u0000"'),
        line('"objects.jsonl"'),
        line("1"),
        line("null"),
        line(sha256="1"),
        line(sha256="null"),
        line(sha256=f'"{DIGEST[:-1]}"'),
        line(sha256=f'"{DIGEST.upper()}"'),
        line(size="-1"),
        line(size="true"),
        line(size="1.0"),
        line(size='"1"'),
        line(size="9007199254740992"),
        line(more='"more":1,'),
        line().replace(b":", b": "),
        b"[]\n",
        b"null\n",
        b"{}\n",
        b"\xff\n",
    ],
    ids=repr,
)
def test_a_listing_that_is_not_as_the_format_says_is_damage(data: bytes) -> None:
    with pytest.raises(StoreDamaged) as caught:
        parse_listing(data, "parts/p/objects.jsonl")
    assert "parts/p/objects.jsonl" in str(caught.value)


@given(st.binary(max_size=60))
def test_random_bytes_are_a_listing_or_damage(data: bytes) -> None:
    try:
        entries = parse_listing(data, "x")
    except StoreDamaged:
        return
    assert encode_listing(entries) == data
