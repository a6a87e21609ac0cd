"""Numbers, tables and foreign text as people read them: the one place where counts, sizes, times and shares are worded.

Pure functions from values to text. Imports nothing of this package.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

WIDTH = 80
"""Columns that a text for a terminal may have."""
MAX_LINES = 20


class Report:
    """What a function did, as its command prints it: a base for values that have a `text`, which Python shows of them too."""

    def text(self) -> str:
        """Return it for people: what the command prints on stdout."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return it for programs: values that JSON can hold."""
        raise NotImplementedError

    def told(self) -> Iterable[tuple[str, Sequence[str]]]:
        """Yield what the command says of it besides, on stderr: the kind of a line ("note", "warning"), and the lines of this kind."""
        return ()

    def __repr__(self) -> str:
        """Return the screen of the command."""
        return printable("\n".join([*(line for kind, items in self.told() for line in told(kind, items)), self.text()]))


def told(kind: str, items: Sequence[str]) -> list[str]:
    """Return lines of one kind, a screen at most."""
    more = [f"... and {len(items) - MAX_LINES} more (the store records all)"] if len(items) > MAX_LINES else []
    return [f"{kind}: {item}" for item in [*items[:MAX_LINES], *more]]


def counted(number: int, one: str, many: str = "") -> str:
    """Return a count with its noun: "1 file", "2,000 files".

    Parameters
    ----------
    number
        The count.
    one
        The noun in the singular.
    many
        Its plural; default `one` with an s.

    Returns
    -------
    str
        The count, with a comma between thousands, and the noun.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def size_text(nbytes: float) -> str:
    """Return a size with three digits and a unit: 1234567 -> "1.23 MB"."""
    if nbytes < 1000:
        return f"{nbytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        nbytes /= 1000
        if nbytes < 999.5:  # else three digits would be 1e+03
            return f"{nbytes:.3g} {unit}"
    nbytes /= 1000
    return f"{nbytes:,.3g} TB" if nbytes < 999.5 else f"{nbytes:,.0f} TB"


def encoding_text(codec: str) -> str:
    """Return what pictures were encoded in, for the word that a store records of it: "av1" -> "AV1 video"."""
    names = {"av1": "AV1 video", "h264": "H.264 video", "hevc": "H.265 video", "jpeg": "JPEG", "vp9": "VP9 video"}
    return " and ".join(names.get(each, each) for each in codec.split("-"))


def duration_text(seconds: float) -> str:
    """Return a time as minutes and seconds, from one hour on with hours: "0:07", "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def percent_text(part: float, whole: float) -> str:
    """Return a share in percent: 132 of 2058 -> "6.4 %".

    The space does not break. A small share is never called nothing, nor a large one all. Of nothing it is "-".
    """
    if not whole:
        return "-"
    percent = 100 * part / whole
    text = "0" if not part else "100" if part == whole else f"{percent:.1f}"
    text = {"0.0": "< 0.1", "100.0": "> 99.9"}.get(text, text)
    return f"{text} %".replace(" ", "\N{NO-BREAK SPACE}")


def number_text(value: float) -> str:
    """Return a number with at most four significant digits: "0", "12", "0.05", "1.23e-5", "140,000"; NaN is "-"."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}"
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}"
    return f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return columns padded to their widest cell; the first is left-aligned, the others are right-aligned."""
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    lines = []
    for first, *others in [head, *rows]:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:]))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def wrapped(text: str, start: str = "", indent: str = "") -> str:
    """Return a text in lines that a terminal need not wrap: the first after `start`, the others after `indent`.

    Words stay whole, however long: a path is there to be copied.
    """
    return textwrap.fill(
        text, WIDTH, initial_indent=start, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def cut(text: str, width: int) -> str:
    """Return a text of at most `width` characters: of a longer one beginning and end, by which long names differ, with ... between.

    Words stay whole where there are some.
    """
    if len(text) <= width:
        return text
    end = (width - 3) // 2
    first, last = text[: width - 3 - end], text[len(text) - end :]
    if " " in first.strip() and " " in last.strip():
        first, last = first.rpartition(" ")[0] + " ", " " + last.partition(" ")[2]
    return f"{first}...{last}"


def shown(text: str) -> str:
    """Return foreign text on one line, without characters that hide what it is.

    Line breaks and tabs become spaces. Other control characters, those that turn the direction of writing, and halves of
    surrogate pairs become the replacement character.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(" " if c in "\n\r\t" else "\N{REPLACEMENT CHARACTER}" if _hidden(c) else c for c in text)


def printable(text: str) -> str:
    """Return a text of several lines as a terminal may get it: with each line as `shown`, and a path's bytes that are no UTF-8 as \\udcXX."""
    named = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "\n".join(map(shown, named.split("\n")))


def _hidden(character: str) -> bool:
    import unicodedata

    joins = ("\N{ZERO WIDTH JOINER}", "\N{ZERO WIDTH NON-JOINER}")  # scripts and emoji are written with them
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in joins
