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

from vla_store.errors import StoreDamaged
from vla_store.format import canonical
from vla_store.format.schema import NUMERIC_DTYPES

Attributes = dict[str, dict[str, Any]]

_FORMS = ({"utf8"}, {"bytes"}, {"shape", "strings"}, {"base64", "dtype", "shape"})


def encode_attributes(attributes: Attributes) -> bytes:
    """Return C of {path: {name: encoded value}}; `attributes` holds values already made by `encode_value`. TypeError for others."""
    if not isinstance(attributes, dict) or not all(isinstance(each, dict) for each in attributes.values()):
        raise TypeError(f"{attributes!r:.200}")
    for path, named in attributes.items():
        for name, value in named.items():
            if not isinstance(value, dict) or value.keys() not in _FORMS:
                raise TypeError(f"{name} of {path}: {value!r:.160}")
    return canonical.dumps(attributes)


def encode_value(value: Any) -> dict[str, Any]:
    """Encode one attribute as a value of a canonical document.

    Parameters
    ----------
    value
        str, bytes, or anything NumPy turns into an array of numbers or strings.

    Returns
    -------
    dict
        In one of the forms at the top of this module: "utf8" for a string that is valid UTF-8, "bytes" for any other
        string, "strings" for an array of strings, "base64" for numbers.

    Raises
    ------
    TypeError
        For other kinds, and for a string with a lone surrogate that stands for no byte.
    """
    if isinstance(value, bytes):
        try:
            return {"utf8": value.decode("utf-8")}
        except UnicodeDecodeError:
            return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:  # h5py hands over bytes that are not UTF-8 as surrogates
            try:
                return encode_value(value.encode("utf-8", "surrogateescape"))
            except UnicodeEncodeError:
                raise TypeError("a string with a lone surrogate") from None
        return {"utf8": value}
    array = np.asarray(value)
    if array.dtype.kind in "SU" and not isinstance(value, np.ndarray):
        array = np.array(value, dtype=object)  # NumPy's own strings would lose trailing zero bytes
    if array.dtype.name in NUMERIC_DTYPES:  # not long double: its bytes are the machine's
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
    """Encode HDF5's Empty: a type without a value."""
    return {"base64": "", "dtype": dtype, "shape": None}


def decode_value(value: dict[str, Any]) -> Any:
    """Return what `encode_value` was given, strings as str (bytes where they are not UTF-8), numbers as arrays; None for Empty.

    Raises StoreDamaged for anything else.
    """
    try:
        return _decode(value)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise StoreDamaged("an attribute is not as the format says", found=f"{error!r}"[:200]) from None


def _decode(value: dict[str, Any]) -> Any:
    if "utf8" in value:
        return value["utf8"]
    if "bytes" in value:
        return base64.b64decode(value["bytes"], validate=True)
    if value["shape"] is not None and not all(type(n) is int and n >= 0 for n in value["shape"]):
        raise ValueError(f"shape {value['shape']!r}")
    if "strings" in value:
        return np.array([_decode(item) for item in value["strings"]], dtype=object).reshape(value["shape"])
    if value["shape"] is None:
        return None
    if value["dtype"] not in NUMERIC_DTYPES:
        raise ValueError(f"dtype {value['dtype']!r}")
    dtype = np.dtype(value["dtype"]).newbyteorder("<")
    return np.frombuffer(base64.b64decode(value["base64"], validate=True), dtype).reshape(value["shape"])
