"""Sources whose stores are hard to show: odd cameras, odd actions, hostile names. For the tests of show and report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from own_sources import Own

from vla_store.builder import FieldSpec, SourceInfo
from vla_store.sources.protocol import Array

# Two lines, markup that would run, mathematics for matplotlib, writing that turns around, and no end.
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">& </title></style> $\\frac{1}{0}$ \n"
    "\N{RIGHT-TO-LEFT OVERRIDE}evil\x1b[31m \N{CJK UNIFIED IDEOGRAPH-676F}" + "W" * 300
)

ODD_FIELDS: Mapping[str, FieldSpec] = {
    "actions": FieldSpec("float32", (14,), "step"),
    "grey": FieldSpec("uint8", (9, 40, 1), "observation"),
    "tall": FieldSpec("uint8", (64, 10, 4), "observation"),
    "depth_mm": FieldSpec("uint16", (12, 16, 1), "observation"),
    "range": FieldSpec("float32", (12, 16, 1), "observation"),
    "wide": FieldSpec("float32", (5, 9), "step"),
    "never": FieldSpec("float64", (2,), "step"),
    "stopped": FieldSpec("bool", (), "step"),
}


@dataclass(frozen=True)
class Odd(Own):
    """Every kind of camera; numbers that are not finite; a text of one's choice for the task."""

    fields: Mapping[str, FieldSpec] = field(default_factory=lambda: dict(ODD_FIELDS))
    text: str = HOSTILE
    orientation: str = "bottom_up"

    def scan(self) -> SourceInfo:
        found = super().scan()
        return dataclasses.replace(found, text=self.text, instruction=f"{self.text}!", warnings=(self.text,))

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        spec = self.fields[field]
        steps = np.arange(start, stop).reshape(-1, *[1] * len(spec.shape))
        if field == "never":
            return np.full((stop - start, 2), np.nan)
        if field == "stopped":
            return np.zeros(stop - start, bool)
        places = np.arange(int(np.prod(spec.shape))).reshape(spec.shape)
        made: Any = (places + steps) % 251
        if field == "range":
            made = made.astype(np.float32) / 100
            made[:, 0, 0] = np.nan
            made[:, 1, 1] = np.inf
        return np.ascontiguousarray(made, spec.dtype)


@dataclass(frozen=True)
class Halves(Own):
    """Actions of seven numbers; a camera whose picture is red in its upper half and blue below, green at its left edge,
    stored as `orientation` says. decoder: what its pictures were decoded by, if they were JPEG."""

    decoder: str = ""

    fields: Mapping[str, FieldSpec] = field(
        default_factory=lambda: {
            "actions": FieldSpec("float64", (7,), "step"),
            "front": FieldSpec("uint8", (32, 48, 3), "observation"),
        }
    )

    def scan(self) -> SourceInfo:
        return dataclasses.replace(super().scan(), codec="jpeg" if self.decoder else "", decoder=self.decoder)

    def read(self, number: int, field: str, start: int, stop: int) -> Array:
        if field == "actions":
            made = np.zeros((stop - start, 7))
            made[:, 0] = np.arange(start, stop) % 3  # every third step is a no-op
            made[:, 6] = -1.0
            return made
        return np.repeat(self.stored()[None], stop - start, axis=0)

    def stored(self) -> Array:
        picture = np.zeros((32, 48, 3), np.uint8)
        picture[:16, :, 0] = picture[16:, :, 2] = 255
        picture[:, :8] = (0, 255, 0)
        turned = {"top_down": picture, "bottom_up": picture[::-1], "rot180": picture[:, ::-1]}
        return np.ascontiguousarray(turned[self.orientation])
