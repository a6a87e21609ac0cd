"""Demonstrations that a build left out, as a store's document of them names each. Imports nothing of the package."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


def storable(text: str) -> str:
    """Return a text as a document can hold it: bytes of a name that are not UTF-8 (lone surrogates, in Python) are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class Skipped:
    """A demonstration that a build left out, and why.

    Bytes of a text that are not UTF-8 (lone surrogates, in Python) are spelled out, so that a document can hold it.

    Attributes
    ----------
    suite
        Name of its suite.
    file
        Its source file within the folder of the suite.
    demo
        Name of its group in that file; None for a whole file.
    reason
        Why it was left out.
    """

    suite: str
    file: str
    demo: str | None
    reason: str

    def __post_init__(self) -> None:
        for name in ("suite", "file", "demo", "reason"):
            if (text := getattr(self, name)) is not None:
                object.__setattr__(self, name, storable(text))

    @property
    def place(self) -> str:
        """Which demonstration or file it is, in words."""
        return f"{self.suite}/{self.file}" + (f" {self.demo}" if self.demo else "")

    def to_json(self) -> dict[str, Any]:
        """Return what the store's document of left-out demonstrations says of it."""
        return {"demo": self.demo, "file": self.file, "reason": self.reason, "suite": self.suite}
