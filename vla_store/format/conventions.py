"""The check that sources agree in how their pictures lie and in when their observations were recorded. Imports `errors`."""

from __future__ import annotations

from collections.abc import Iterable

from vla_store.errors import OptionError

MIXED = (
    "build them into stores of their own; or keep them apart in one store with --mixed (mixed=True): each source keeps its "
    'own, and images="upright" and alignment="causal" then hold for every sample'
)

# A source's name for messages, its orientation, and its observation.
Named = tuple[str, str, str]


def check_alike(sources: Iterable[Named], beside: Iterable[Named] = ()) -> None:
    """Raise OptionError, naming two sources and what each says, where not all sources say the same.

    beside: sources that are together already, whatever they say: with those, the others must only say nothing new.
    """
    sources, beside = list(sources), list(beside)
    said: dict[tuple[str, str], list[str]] = {}
    for name, *convention in (*beside, *sources):
        said.setdefault((convention[0], convention[1]), []).append(name)
    there = {(orientation, observation) for _, orientation, observation in beside}
    new = [each for each in said if each not in there]
    if len(said) < 2 or not new:
        return
    known = next((each for each in said if each in there), None)
    # The odd one out is named second.
    first, second = (known, new[0]) if known else sorted(said, key=lambda each: -len(said[each]))[:2]
    differ = [word for word, a, b in zip(("orientation", "observation"), first, second) if a != b]
    raise OptionError(
        f"sources that differ in {' and '.join(differ)}",
        first=_text(said[first][0], first, len(said[first])),
        second=_text(said[second][0], second, len(said[second])),
        hint=MIXED,
    )


def _text(name: str, convention: tuple[str, str], count: int) -> str:
    others = f" (and {count - 1} more like it)" if count > 1 else ""
    return f"{name}{others}\npictures {convention[0]}, observations recorded {convention[1]} the action"
