"""Canonical JSON, C(x) in the specification: one value, one spelling, so that digests of documents mean something.

UTF-8, keys sorted by code point, separators "," and ":", only JSON's mandatory escapes, integers below 2^53, no floats
(a float is written as a string, shortest round-trip), duplicate keys refused, at most 64 levels.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from vla_store.errors import StoreDamaged

MAX_INTEGER = 2**53 - 1
MAX_DEPTH = 64

_PLAIN = (str, bool, type(None))


def dumps(value: Any) -> bytes:
    """Return C(value). Raises ValueError for floats, integers of 2^53 and more, keys that are not strings, lone surrogates, deep nesting."""
    _check(value, MAX_DEPTH)
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("utf-8")


def loads(data: bytes, name: str) -> Any:
    """Return the value of a document that must be exactly C(value); `name` is for the error message.

    Raises StoreDamaged if it is not JSON, repeats a key, holds a float, or is spelled otherwise.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_no_float,
            parse_constant=_no_float,
        )
        same = dumps(value) == data
    except (ValueError, RecursionError) as error:
        raise StoreDamaged("a document is not canonical JSON", object=name, found=str(error)[:200]) from None
    if not same:
        raise StoreDamaged("a document is not canonical JSON", object=name, found="the same value in another spelling")
    return value


def sha256_hex(data: bytes | bytearray | memoryview) -> str:
    """Return the SHA-256 as 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def float_text(value: float) -> str:
    """Return a float as documents spell it: the shortest text that reads back as the same float."""
    return repr(float(value))


def _check(value: Any, levels: int) -> None:
    if isinstance(value, _PLAIN):
        return
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise ValueError("an integer does not fit in 53 bits")
    elif not levels:
        raise ValueError(f"more than {MAX_DEPTH} levels")
    elif isinstance(value, (list, tuple, dict)):
        for key in value if isinstance(value, dict) else ():
            if not isinstance(key, str):
                raise ValueError(f"key {key!r} is not a string")
        for item in value.values() if isinstance(value, dict) else value:
            if not isinstance(item, _PLAIN):  # most are: a call for each would be most of the work
                _check(item, levels - 1)
    else:
        raise ValueError(f"{type(value).__name__} has no canonical form")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice")
    return value


def _integer(text: str) -> int:
    if len(text) > 17:  # before int() spends quadratic time on a million digits
        raise ValueError("an integer does not fit in 53 bits")
    return int(text)


def _no_float(text: str) -> Any:
    raise ValueError(f"the number {text[:30]} is not an integer")
