"""Text of a store, made safe to show, and numbers as people read them."""

from __future__ import annotations

import html
import math
import unicodedata

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def shown(text: str) -> str:
    """`text` on one line, as what it is: line breaks and tabs become spaces; other control characters, those that turn the
    direction of writing, and halves of surrogate pairs become the replacement character."""
    return "".join(" " if c in "\n\r\t" else REPLACEMENT if _hidden(c) else c for c in text)


def escaped(text: str) -> str:
    """The same for HTML, in text and in attributes."""
    return html.escape(shown(text), quote=True)


def number_text(value: float) -> str:
    """A number with four digits at most that count: 0, 12, 0.05, 1.234e-05, 140,000; "-" for what is no number."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0:
        return "0"
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,}"
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}"
    return f"{value:.2e}".replace("e-0", "e-").replace("e+0", "e")


def percent_text(part: float, whole: float) -> str:
    """132 of 2058 -> "6.4 %", in one piece; small shares are not called nothing, nor large ones all."""
    if not whole:
        return "-"
    percent = 100 * part / whole
    text = "0" if not part else "100" if part == whole else f"{percent:.1f}"
    if text == "0.0":
        text = "< 0.1"
    elif text == "100.0":
        text = "> 99.9"
    return f"{text} %".replace(" ", "\N{NO-BREAK SPACE}")


def counted(number: int, one: str, many: str = "") -> str:
    """1, "file" -> "1 file"; 2 -> "2 files"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _hidden(character: str) -> bool:
    joins = ("\N{ZERO WIDTH JOINER}", "\N{ZERO WIDTH NON-JOINER}")  # scripts and emoji are written with them
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in joins
