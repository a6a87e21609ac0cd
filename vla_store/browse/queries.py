"""What a request asks for: its parameters, each checked; and answers of two forms, JSON and JSON with bytes behind it."""

from __future__ import annotations

import json
import re
import struct
import urllib.parse
from collections.abc import Sequence
from typing import Any

import numpy as np

from vla_store.errors import DataError, FetchError, OptionError, UsageError, VlaStoreError
from vla_store.text import shown

MAX_PARAMETERS = 40
MAX_SHOWN = 100
_ALIGNMENT = 8  # of the bytes behind JSON, so that a page can read numbers in place


class Query:
    """The parameters of a request: each is taken once by who knows it, and what nobody took is refused by `finish`.

    Parameters
    ----------
    text
        The query of an address, as "episode=3&step=7". A parameter without a value counts as not given.
    """

    def __init__(self, text: str) -> None:
        try:
            pairs = urllib.parse.parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_PARAMETERS, errors="strict")
        except ValueError:  # too many, or no UTF-8
            raise OptionError(
                "the parameters cannot be read",
                expected=f"at most {MAX_PARAMETERS} of the form name=value, in UTF-8",
                found=repr(text[:MAX_SHOWN]),
            ) from None
        self._given: dict[str, str] = {}
        for name, value in pairs:
            if name in self._given:
                raise OptionError(
                    f"{name!r} is given twice", expected="each parameter once", found=repr(value[:MAX_SHOWN])
                )
            self._given[name] = value

    def text(self, name: str) -> str | None:
        """Return a text; None where it is not given, or empty."""
        return self._given.pop(name, "") or None

    def choice(self, name: str, among: Sequence[str], default: str) -> str:
        """Return one of `among`. Raises OptionError."""
        found = self.text(name)
        if found is None:
            return default
        if found not in among:
            raise OptionError(f"{name} is not as expected", expected=", ".join(among), found=repr(found[:MAX_SHOWN]))
        return found

    def number(self, name: str, least: int, most: int, default: int | None = None) -> int:
        """Return a whole number from `least` to `most`; `default` where it is not given. Raises OptionError."""
        found = self.optional_number(name, least, most)
        if found is None:
            found = default
        if found is None:
            raise OptionError(f"{name} is not given", expected=_numbers(least, most), found="nothing")
        return found

    def optional_number(self, name: str, least: int, most: int) -> int | None:
        """Return a whole number from `least` to `most`; None where it is not given. Raises OptionError."""
        found = self.text(name)
        if found is None:
            return None
        value = int(found) if re.fullmatch(r"[0-9]{1,15}", found) else None
        if value is None or not least <= value <= most:
            raise OptionError(
                f"{name} is not as expected", expected=_numbers(least, most), found=repr(found[:MAX_SHOWN])
            )
        return value

    def finish(self) -> None:
        """Raise OptionError for parameters that nobody took."""
        if self._given:
            name, value = next(iter(self._given.items()))
            raise OptionError(
                f"there is no parameter {name[:MAX_SHOWN]!r} here",
                expected="none of this name",
                found=repr(value[:MAX_SHOWN]),
            )


def _numbers(least: int, most: int) -> str:
    return (
        f"a whole number from {least:,} to {most:,}" if most < 10**15 - 1 else f"a whole number of at least {least:,}"
    )


def json_bytes(value: Any) -> bytes:
    """Return JSON in ASCII, which has no number that JSON does not know."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode("ascii")


def packed(head: dict[str, Any], pieces: Sequence[np.ndarray[Any, Any] | bytes]) -> bytes:
    """Return JSON with bytes behind it: the length of the JSON as four bytes, little-endian; the JSON, with spaces up to a multiple of
    eight of all; and the pieces, one behind the other, as the JSON says."""
    text = json_bytes(head)
    text += b" " * (-(4 + len(text)) % _ALIGNMENT)
    data = [each if isinstance(each, bytes) else np.ascontiguousarray(each).tobytes() for each in pieces]
    return b"".join([struct.pack("<I", len(text)), text, *data])


def error_json(error: VlaStoreError) -> dict[str, Any]:
    """Return an error for the page: what, where, expected, found and what to do, as text that is safe to show."""
    places = {label: "\n".join(map(shown, value.splitlines())) for label, value in error.places.items()}
    return {
        "what": shown(error.what),
        "expected": places.pop("expected", places.get("exists")),
        "found": places.pop("found", None),
        "places": places,
        "hint": shown(error.hint),
        "kind": type(error).__name__,
    }


def status_of(error: VlaStoreError) -> int:
    """Return the HTTP status of an error: whose fault it is."""
    if isinstance(error, UsageError):
        return 400
    return 502 if isinstance(error, FetchError) else 500 if isinstance(error, DataError) else 503
