"""Canonical JSON: one value, one spelling."""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_store.errors import StoreDamaged
from vla_store.format import canonical

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-canonical.MAX_INTEGER, canonical.MAX_INTEGER) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_a_value_reads_back_as_it_was(value: Any) -> None:
    data = canonical.dumps(value)
    assert canonical.loads(data, "x") == value
    assert canonical.dumps(canonical.loads(data, "x")) == data


@given(st.dictionaries(TEXT, st.integers(0, 9), min_size=2, max_size=6))
def test_the_order_of_insertion_leaves_no_trace(value: dict[str, int]) -> None:
    assert canonical.dumps(value) == canonical.dumps(dict(reversed(value.items())))


def test_the_spelling_is_this_and_no_other() -> None:
    # Code point order: U+FF5A before U+1F600, where UTF-16 code units would have it the other way round.
    value = {"\U0001f600": 1, "\uff5a": [True, None, -3], "a": '\x00\x08\t\n\x0c\r\x1f "\\/\x7f\u2028é'}
    spelled = '{"a":"\\u0000\\b\\t\\n\\f\\r\\u001f \\"\\\\/\x7f\u2028é","\uff5a":[true,null,-3],"\U0001f600":1}'
    assert canonical.dumps(value) == spelled.encode()


@given(VALUES, st.sampled_from(["indent", "escapes", "order", "space"]))
def test_any_other_spelling_of_the_same_value_is_refused(value: Any, change: str) -> None:
    value = {"b": value, "a": "é"}
    other = {
        "indent": lambda: json.dumps(value, ensure_ascii=False, sort_keys=True, indent=1),
        "escapes": lambda: json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":")),
        "order": lambda: json.dumps(value, ensure_ascii=False, separators=(",", ":")),
        "space": lambda: canonical.dumps(value).decode() + "\n",
    }[change]()
    with pytest.raises(StoreDamaged, match="canonical"):
        canonical.loads(other.encode("utf-8"), "x")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"nul",
        b"1.0",
        b"1e3",
        b"-0",
        b"01",
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"9007199254740992",
        b"-9007199254740992",
        b"9" * 1_000_000,
        b'{"a":1,"a":1}',
        b'{"a":1,"a":2}',
        b'"\\ud800"',
        b'"\\u0041"',
        b'"\\/"',
        b'"\n"',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf1",
        b"\xff\xfe1\x00",
        b"1 ",
        b"1\x00",
        b"[1,]",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 65 + b"]" * 65,
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_not_canonical_is_damage_and_nothing_worse(data: bytes) -> None:
    with pytest.raises(StoreDamaged) as caught:
        canonical.loads(data, "some/object")
    assert "some/object" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_repeated_key_is_called_so() -> None:
    with pytest.raises(StoreDamaged, match="twice"):
        canonical.loads(b'{"a":1,"a":1}', "x")


@given(st.binary(max_size=40))
def test_random_bytes_are_canonical_or_damage(data: bytes) -> None:
    try:
        value = canonical.loads(data, "x")
    except StoreDamaged:
        return
    assert canonical.dumps(value) == data


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        math.nan,
        2**53,
        -(2**53),
        "\ud800",
        {"\udfff": 1},
        {1: 2},
        {None: 1},
        b"bytes",
        {1, 2},
        object(),
        np.int64(1),
        np.array([1]),
        [[1.5]],
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", repr(value)),
)
def test_what_has_no_canonical_form_cannot_be_written(value: Any) -> None:
    with pytest.raises(ValueError, match=r"form|fit|key|surrogate"):
        canonical.dumps(value)


def test_the_largest_integers_and_the_deepest_document_are_let_through() -> None:
    nested: Any = 7
    for _ in range(canonical.MAX_DEPTH):
        nested = [nested]
    for value in (2**53 - 1, -(2**53) + 1, nested):
        assert canonical.loads(canonical.dumps(value), "x") == value
    with pytest.raises(ValueError, match="levels"):
        canonical.dumps([nested])


def test_sha256_hex_is_sha256_in_hex() -> None:
    assert canonical.sha256_hex(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert canonical.sha256_hex(memoryview(b"abc")) == hashlib.sha256(b"abc").hexdigest()


@given(st.floats())
def test_a_float_reads_back_from_its_text_bit_for_bit(value: float) -> None:
    back = float(canonical.float_text(value))
    assert (math.isnan(value) and math.isnan(back)) or struct.pack("<d", back) == struct.pack("<d", value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1, "1.0"),
        (0.1, "0.1"),
        (1e-4, "0.0001"),
        (1e-5, "1e-05"),
        (1e15, "1000000000000000.0"),
        (1e16, "1e+16"),
        (1.5e300, "1.5e+300"),
        (5e-324, "5e-324"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
        (np.float64(0.25), "0.25"),
    ],
)
def test_a_float_is_spelled_so(value: float, text: str) -> None:
    assert canonical.float_text(value) == text
