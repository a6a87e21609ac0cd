"""The instruction that a demonstration states of itself. Whatever has another name is kept as an attribute, and nothing more.

May import errors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vla_store.errors import SourceError

META = "ep_meta"  # robosuite's, a JSON object; RoboCasa puts the instruction into it
NAMES = (META, "language_instruction", "language", "lang", "instruction", "task_description")


def stated(said: Mapping[str, Any], warn: Callable[[str], None]) -> str | None:
    """Return the instruction among a demonstration's attributes, the first in the order of NAMES; None where there is none.

    warn: takes a line on what is passed over. Raises SourceError for a text that cannot be read.
    """
    found: dict[str, str] = {}
    for name in NAMES:
        texts = _texts(name, said[name]) if name in said else []
        if len(texts) > 1:
            warn(f"{name} states {len(texts)} instructions; the first is used")
        if texts and not texts[0].strip():
            warn(f"{name} states an empty instruction, which is passed over")
        elif texts:
            found[name] = texts[0].strip()
    first = next(iter(found), None)
    for name, text in found.items():
        if first is not None and text != found[first]:
            warn(f"{name} states another instruction than {first}, which is used")
    return None if first is None else found[first]


def _texts(name: str, value: Any) -> list[str]:
    """Return what an attribute states, as texts; none where it is no text (`language` may be an embedding)."""
    value = value.reshape(-1).tolist() if isinstance(value, np.ndarray) else value
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(each, (str, bytes)) for each in values):
        return []
    texts: list[str] = []
    for each in values:
        try:
            text = each.decode() if isinstance(each, bytes) else each
            text.encode()  # h5py hands over bytes that are not UTF-8 as surrogates
        except UnicodeError:
            raise _broken(name, each, "a text in UTF-8") from None
        texts += _of_meta(text) if name == META else [text]
    return list(dict.fromkeys(texts))


def _of_meta(text: str) -> list[str]:
    try:
        meta = json.loads(text)
        language = meta.get("lang")
        if language is None:
            return []
        language.encode()
        return [str(language)]
    except (AttributeError, RecursionError, TypeError, ValueError):
        raise _broken(META, text, 'a JSON object, with "lang" a text where it is there') from None


def _broken(name: str, value: Any, expected: str) -> SourceError:
    return SourceError(
        f"the attribute {name} is broken",
        expected=expected,
        found=ascii(value)[:120],
        hint="mend or remove it, or leave the demonstration out with --skip-bad",
    )
