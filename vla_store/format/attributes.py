"""HDF5 attributes as values of a canonical document, losslessly, and back.

One object {path: {name: value}} an episode and one a source. A value is one of
    {"dtype", "shape", "base64"}   numbers, little-endian, C order; shape null with base64 "" for HDF5's Empty
    {"utf8": text}                 a string that is valid UTF-8
    {"bytes": base64}              any other string
    {"strings": [value, ...], "shape"}   an array of strings
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from vla_store.format import canonical

Attributes = dict[str, dict[str, Any]]


def encode_attributes(attributes: Attributes) -> bytes:
    """C of {path: {name: encoded value}}; `attributes` holds values already made by `encode_value`."""
    return canonical.dumps(attributes)


def encode_value(value: Any) -> dict[str, Any]:
    """One attribute: str, bytes, or anything NumPy turns into an array of numbers or strings. TypeError for other kinds."""
    if isinstance(value, bytes):
        try:
            return {"utf8": value.decode("utf-8")}
        except UnicodeDecodeError:
            return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:  # h5py hands over bytes that are not UTF-8 as surrogates
            return encode_value(value.encode("utf-8", "surrogateescape"))
        return {"utf8": value}
    array = np.asarray(value)
    if array.dtype.kind in "biuf":
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        return {
            "base64": base64.b64encode(little.tobytes()).decode(),
            "dtype": array.dtype.name,
            "shape": list(array.shape),
        }
    if array.dtype.kind in "SUO" and all(isinstance(item, (str, bytes)) for item in array.reshape(-1).tolist()):
        return {"shape": list(array.shape), "strings": [encode_value(item) for item in array.reshape(-1).tolist()]}
    raise TypeError(f"a value of type {array.dtype}")


def empty_value(dtype: str) -> dict[str, Any]:
    """HDF5's Empty: a type without a value."""
    return {"base64": "", "dtype": dtype, "shape": None}


def decode_value(value: dict[str, Any]) -> Any:
    """What `encode_value` was given, strings as str (bytes where they are not UTF-8), numbers as arrays; None for Empty."""
    if "utf8" in value:
        return value["utf8"]
    if "bytes" in value:
        return base64.b64decode(value["bytes"])
    if "strings" in value:
        return np.array([decode_value(item) for item in value["strings"]], dtype=object).reshape(value["shape"])
    if value["shape"] is None:
        return None
    dtype = np.dtype(value["dtype"]).newbyteorder("<")
    return np.frombuffer(base64.b64decode(value["base64"]), dtype).reshape(value["shape"])
