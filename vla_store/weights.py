"""Weights that many ask for, as functions for `vla_store.weighted`.

    from vla_store import weighted, weights
    weighted(samples, weights.near_changes("actions", times=5) * weights.rare_tasks())

Each is called with a `StepFacts` of all samples and returns a number for each; a function of your own may do the same, and takes
their place in a product. What one line of NumPy says needs none: `lambda at: np.where(at.suite == "libero_10", 3, 1)`.
"""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, UnknownName, whole_number
from vla_store.loader.facts import StepFacts
from vla_store.reader.options import by_name

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Weighting:
    """A function of weights that says what it is; times another one, it is their product.

    Attributes
    ----------
    text
        For people.
    function
        Called with a `StepFacts`; returns (n,) numbers.
    """

    text: str
    function: Callable[[StepFacts], npt.ArrayLike]

    def __call__(self, at: StepFacts) -> Floats:
        """Return the weights of these steps, (n,) float64."""
        return np.asarray(self.function(at), np.float64)

    def __mul__(self, other: Callable[[StepFacts], npt.ArrayLike]) -> Weighting:
        """Return the product with another function of weights."""
        if not callable(other):
            return NotImplemented
        name = getattr(other, "__name__", None) or str(other)
        return Weighting(f"{self} * {name}", lambda at: self(at) * np.asarray(other(at), np.float64))

    def __str__(self) -> str:
        return self.text


@by_name({})
def near_changes(field: str = "actions", index: int = -1, steps: int = 10, times: float = 5) -> Weighting:
    """Weigh the steps near a change of a number more: near the gripper's opening and closing.

    Parameters
    ----------
    field
        A numeric field.
    index
        Which of its numbers; default: the last one, which is the gripper's among LIBERO's actions.
    steps
        How many steps before and after a change are near.
    times
        Weight of these; the others have 1.

    Returns
    -------
    Weighting
        A change is where the number crosses the middle of its range in the store.

    Raises
    ------
    OptionError
        For numbers that cannot be.
    """
    whole_number("index", index, None)
    whole_number("steps", steps, 0)
    much = _positive("times", times)
    return Weighting(
        f"near_changes({field!r}, index={index}, steps={steps}, times={much:g})",
        lambda at: np.where(at.near(at.changes(field, index), steps), much, 1.0),
    )


@by_name({})
def rare_tasks(power: float = 1) -> Weighting:
    """Weigh the steps of rare tasks more: each by 1 / (samples of its task) ** power.

    Parameters
    ----------
    power
        1: all tasks have the same share of an epoch; 0: that of their steps; 0.5 lies between.

    Returns
    -------
    Weighting

    Raises
    ------
    OptionError
        `power` is no finite number of at least 0.
    """
    exponent = _positive("power", power, zero=True)

    def function(at: StepFacts) -> Floats:
        steps = np.maximum(np.bincount(at.task), 1).astype(np.float64)
        weights: Floats = (steps.max() / steps) ** exponent
        return weights[at.task]

    return Weighting(f"rare_tasks(power={exponent:g})", function)


@by_name({})
def recent(half_life: float, least: float = 0) -> Weighting:
    """Weigh the steps of recent episodes more: those of the last one have 1, those `half_life` episodes before it 1/2, and so on.

    Parameters
    ----------
    half_life
        A number of episodes. Their order is the store's, in which what `vla-store append` added comes last.
    least
        No weight is smaller.

    Returns
    -------
    Weighting

    Raises
    ------
    OptionError
        For numbers that cannot be.
    """
    half, floor = _positive("half_life", half_life), _positive("least", least, zero=True)

    def function(at: StepFacts) -> Floats:
        weights: Floats = np.maximum(np.exp2((at.episode - at.episode.max()) / half), floor)
        return weights

    return Weighting(f"recent(half_life={half:g}, least={floor:g})", function)


READY: dict[str, Callable[..., Weighting]] = {each.__name__: each for each in (near_changes, rare_tasks, recent)}


def parse_weights(text: str, fields: Collection[str]) -> str | Weighting:
    """Return the weights that a text names: a field, or NAME[:option,...] of the functions here, several of them with a * between.

    Parameters
    ----------
    text
        As in "rewards", "rare_tasks", "near_changes:actions,times=3" and "rare_tasks*near_changes:actions".
    fields
        Names of the fields that there are.

    Raises
    ------
    UnknownName, OptionError
        For other names and options, and for a product with a field.
    """
    if text in fields:
        return text
    factors = text.split("*")
    for each in factors:
        if each.strip() in fields:
            raise OptionError("a product is of functions", found=text, exists=", ".join(READY))
    return functools.reduce(operator.mul, [_parsed(each.strip(), fields) for each in factors])


def _parsed(text: str, fields: Collection[str]) -> Weighting:
    word, _, rest = text.partition(":")
    if word not in READY:
        raise UnknownName.among("function of weights, or field,", word, [*READY, *fields])
    taken = inspect.signature(READY[word]).parameters
    known, options = list(taken), dict[str, Any]()
    for number, each in enumerate(filter(None, rest.split(","))):
        key, equals, value = each.partition("=")
        if not equals and number < len(known):
            key, value = known[number], key
        if key not in known:
            raise UnknownName.among(f"option of {word}", key, known)
        options[key] = value if key == "field" else _number(key, value)
    for key, parameter in taken.items():
        if parameter.default is parameter.empty and key not in options:
            raise OptionError(f"{word} needs its {key}", found=text, hint=f"as in {word}:{key}=100")
    return READY[word](**options)


def _number(key: str, text: str) -> int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise OptionError(f"{key} is a number", found=repr(text[:40]))


def _positive(name: str, value: Any, *, zero: bool = False) -> float:
    """Return an option that is a finite number above 0, or 0 where that may be. Raises OptionError."""
    is_number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not is_number or not 0 <= value < float("inf") or (value == 0 and not zero):
        raise OptionError(f"{name} is a finite number {'of at least' if zero else 'above'} 0", found=repr(value)[:40])
    return float(value)
