"""Attributes: every kind of value that HDF5 gives, there and back."""

from __future__ import annotations

import base64
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vla_store.errors import StoreDamaged
from vla_store.format import canonical
from vla_store.format.attributes import decode_value, empty_value, encode_attributes, encode_value
from vla_store.format.schema import NUMERIC_DTYPES


def there_and_back(value: Any) -> Any:
    return decode_value(canonical.loads(canonical.dumps(encode_value(value)), "x"))


@given(hnp.arrays(st.sampled_from(NUMERIC_DTYPES), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))
def test_an_array_of_numbers_comes_back_bit_for_bit(array: np.ndarray) -> None:
    back = there_and_back(array)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()


@given(hnp.arrays(st.sampled_from([">i2", ">i4", ">u8", ">f4", ">f8"]), hnp.array_shapes(max_dims=2, max_side=3)))
def test_big_endian_numbers_are_swapped(array: np.ndarray) -> None:
    assert encode_value(array) == encode_value(array.astype(array.dtype.newbyteorder("<")))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_is_kept_as_text(text: str) -> None:
    assert encode_value(text) == {"utf8": text}
    assert there_and_back(text) == text
    assert encode_value(text.encode()) == {"utf8": text}


@given(st.binary())
def test_any_string_of_bytes_comes_back(data: bytes) -> None:
    back = there_and_back(data)
    assert (back.encode() if isinstance(back, str) else back) == data
    surrogates = data.decode("utf-8", "surrogateescape")  # what h5py gives for a string that is not UTF-8
    assert encode_value(surrogates) == encode_value(data)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])) | st.binary(), max_size=4))
def test_an_array_of_strings_comes_back(items: list[str | bytes]) -> None:
    array = np.empty(len(items), object)
    array[:] = items
    expected = [decode_value(encode_value(item)) for item in items]
    assert there_and_back(array).tolist() == expected
    assert there_and_back(array.reshape(1, -1)).tolist() == [expected]


def test_values_are_spelled_so() -> None:
    assert encode_value(np.int64(3)) == {"base64": "AwAAAAAAAAA=", "dtype": "int64", "shape": []}
    assert encode_value(7) == {"base64": "BwAAAAAAAAA=", "dtype": "int64", "shape": []}
    assert encode_value(np.array([[1.5]])) == {"base64": "AAAAAAAA+D8=", "dtype": "float64", "shape": [1, 1]}
    assert encode_value(True) == {"base64": "AQ==", "dtype": "bool", "shape": []}
    assert encode_value(b"\xff\x00") == {"bytes": base64.b64encode(b"\xff\x00").decode()}
    assert encode_value(np.bytes_(b"abc")) == encode_value(np.str_("abc")) == {"utf8": "abc"}
    assert encode_value(np.array(["a", "b"])) == {"shape": [2], "strings": [{"utf8": "a"}, {"utf8": "b"}]}
    assert encode_value(np.array(b"a")) == {"shape": [], "strings": [{"utf8": "a"}]}
    assert empty_value("float64") == {"base64": "", "dtype": "float64", "shape": None}
    assert encode_attributes({"/": {"b": {"utf8": "é"}, "a": {"utf8": ""}}}) == (
        '{"/":{"a":{"utf8":""},"b":{"utf8":"é"}}}'.encode()
    )


def test_numbers_that_have_no_decimal_form_are_kept() -> None:
    payload = np.array([0x7FF8000000000123, 0x8000000000000000], "<u8").view("<f8")  # a NaN that says 0x123, and -0.0
    assert there_and_back(payload).tobytes() == payload.tobytes()
    assert math.isinf(there_and_back(math.inf)[()])


def test_a_list_of_strings_keeps_its_zero_bytes() -> None:
    assert there_and_back([b"a\x00", "b\x00"]).tolist() == ["a\x00", "b\x00"]
    assert there_and_back(["b\x00"]).tolist() == ["b\x00"]


def test_nothing_is_none() -> None:
    assert there_and_back_of_empty() is None


def there_and_back_of_empty() -> Any:
    return decode_value(canonical.loads(canonical.dumps(empty_value("int32")), "x"))


@pytest.mark.parametrize(
    "value",
    [
        1j,
        np.array([1j]),
        np.zeros(2, "i4,f8"),
        np.array([object()]),
        np.datetime64("2024-01-01"),
        {"a": 1},
        [1, "a", None],
        2**70,
        None,
        "\ud800",
        np.array([1, "a"], object),
        np.longdouble(1),
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", repr(value)),
)
def test_what_cannot_be_kept_losslessly_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        encode_value(value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        "text",
        [],
        {},
        {"bytes": "no base64!"},
        {"bytes": 5},
        {"dtype": "float64", "shape": [1]},
        {"base64": "AAAA", "dtype": "float64", "shape": [1]},
        {"base64": "AAAAAAAA+D8=", "dtype": "float64", "shape": [2]},
        {"base64": "AAAAAAAA+D8=", "dtype": "float64", "shape": [-1]},
        {"base64": "AAAAAAAA+D8=", "dtype": "float64", "shape": ["1"]},
        {"base64": "AAAAAAAA+D8=", "dtype": "float64", "shape": 1},
        {"base64": "AAAAAAAA+D8=", "dtype": "O", "shape": [1]},
        {"base64": "AAAAAAAA+D8=", "dtype": "f8,f8", "shape": [1]},
        {"base64": "AAAAAAAA+D8=", "dtype": None, "shape": [1]},
        {"base64": "", "dtype": "float64", "shape": [2**40, 0, 2**40]},
        {"strings": [{"utf8": "a"}], "shape": [2]},
        {"strings": [5], "shape": [1]},
        {"strings": 5, "shape": [1]},
        {"strings": [{"utf8": "a"}]},
    ],
    ids=lambda value: re.sub(" at 0x[0-9a-f]+", "", repr(value)),
)
def test_a_value_that_is_not_as_the_format_says_is_damage(value: Any) -> None:
    try:
        back = decode_value(value)
    except StoreDamaged:
        return
    assert np.size(back) == 0  # an array of huge axes that holds nothing


@given(st.dictionaries(
    st.sampled_from(["utf8", "bytes", "strings", "shape", "dtype", "base64"]),
    st.none() | st.integers(-3, 3) | st.sampled_from(["", "AAAA", "uint8", "x"]) | st.lists(st.integers(-1, 3)),
))  # fmt: skip
def test_whatever_a_value_says_it_is_read_or_damage(value: dict[str, Any]) -> None:
    try:
        decode_value(value)
    except StoreDamaged:
        return


def test_what_h5py_reads_from_a_file_is_kept(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    given = {
        "long text": "x" * 70_000,
        "text": "grüße",
        "fixed": np.bytes_(b"abc"),
        "not utf8": np.void(b"\xff").tobytes(),
        "numbers": np.arange(6, dtype=">i4").reshape(2, 3),
        "number": np.float32(1.5),
        "flag": np.bool_(True),
        "texts": np.array(["a", "bb"], object),
        "fixed texts": np.array([b"a", b"bb"]),
    }
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, value in given.items():
            file.attrs[name] = value
    with h5py.File(tmp_path / "a.h5") as file:
        kept = {name: decode_value(encode_value(file.attrs[name])) for name in given}
    assert kept["long text"] == given["long text"]
    assert (kept["text"], kept["fixed"], kept["not utf8"]) == ("grüße", "abc", b"\xff")
    assert kept["numbers"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (kept["number"], kept["flag"]) == (np.float32(1.5), np.bool_(True))
    assert kept["texts"].tolist() == kept["fixed texts"].tolist() == ["a", "bb"]
