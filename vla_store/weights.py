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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, UnknownName, whole_number
from vla_store.loader.facts import StepFacts, weight_fields
from vla_store.loader.weighted import called
from vla_store.reader.options import by_name
from vla_store.reader.store import Store

Floats = npt.NDArray[np.float64]
Factor = float | npt.NDArray[Any] | Callable[[StepFacts], npt.ArrayLike]
Parameters = ParamSpec("Parameters")


@dataclass(frozen=True)
class Weighting:
    """A function of weights that says what it is; times another one, a number or an array, it is their product.

    Attributes
    ----------
    text
        For people.
    function
        Called with a `StepFacts`; returns (n,) numbers.
    """

    text: str
    function: Callable[[StepFacts], npt.ArrayLike]

    __array_ufunc__ = None  # an array times this is this times the array, and no array of products

    def __call__(self, at: StepFacts) -> Floats:
        """Return the weights of these steps, (n,) float64."""
        return np.asanyarray(self.function(at), np.float64)

    def __mul__(self, other: Factor) -> Weighting:
        """Return the product with another function of weights, a number, or an array of one a sample."""
        name, factor = _factor(other)
        return Weighting(f"{self} * {name}", lambda at: self(at) * factor(at))

    def __rmul__(self, other: Factor) -> Weighting:
        """Return the same product, with the other first."""
        name, factor = _factor(other)
        return Weighting(f"{name} * {self}", lambda at: factor(at) * self(at))

    def __str__(self) -> str:
        return self.text


def _factor(other: Any) -> tuple[str, Callable[[StepFacts], npt.NDArray[Any]]]:
    """Return what a factor is, for people, and what gives its numbers. Raises OptionError for what is none."""
    if callable(other):
        name = str(getattr(other, "__name__", None) or other)
        return name, lambda at: _numbers(name, called(other, at), at)
    if isinstance(other, np.ndarray) and other.ndim:
        return "an array", lambda at: _numbers("an array", other, at)
    if isinstance(other, str):
        raise OptionError(
            "weights are not multiplied by the name of a field",
            found=repr(other)[:40],
            hint=f"by a function that takes it: lambda at: at.number({other!r})",
        )
    number = _positive("a factor of weights", other, zero=True)
    return f"{number:g}", lambda at: np.asarray(number)


def _numbers(name: str, values: npt.NDArray[Any], at: StepFacts) -> npt.NDArray[Any]:
    """Return what a factor gave. Raises OptionError for anything but one number, or one a sample."""
    if values.dtype.kind not in "biuf" or values.shape not in ((), (len(at),)):
        raise OptionError(
            "a factor of weights is a number, or one a sample",
            factor=name,
            expected=f"{len(at):,} numbers",
            found=f"{values.dtype} of shape {values.shape}",
        )
    return values


def _ready(function: Callable[Parameters, Weighting]) -> Callable[Parameters, Weighting]:
    """Decorate a function that makes weights: where it is called with facts, it was given in place of what it makes."""

    @functools.wraps(function)
    def made(*arguments: Parameters.args, **options: Parameters.kwargs) -> Weighting:
        if arguments and isinstance(arguments[0], StepFacts):
            needs = ", ".join(f"{each}=..." for each in _needed(function))
            raise OptionError(
                f"{function.__name__} makes a function of weights, and is none itself",
                hint=f"call it: weights.{function.__name__}({needs})",
            )
        return function(*arguments, **options)

    return made


def _needed(function: Callable[..., Any]) -> list[str]:
    """Return the options that have no default."""
    return [each.name for each in inspect.signature(function).parameters.values() if each.default is each.empty]


@by_name({})
@_ready
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
@_ready
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
@_ready
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


def parse_weights(text: str, store: Store) -> str | Weighting:
    """Return the weights that a text names: a field, or NAME[:option,...] of the functions here, several of them with a * between.

    Parameters
    ----------
    text
        As in "rewards", "rare_tasks", "near_changes:actions,times=3" and "rare_tasks*near_changes:actions".
    store
        The store, of whose fields those of one number a step can be weights.

    Raises
    ------
    UnknownName, OptionError
        For other names and options, and for a product with a field.
    """
    fields = weight_fields(store)
    if text in fields:
        return text
    factors = text.split("*")
    for each in factors:
        if each.strip() in fields:
            raise OptionError("a product is of functions", found=text, exists=", ".join(READY))
    return functools.reduce(operator.mul, [_parsed(each.strip(), fields) for each in factors])


def _parsed(text: str, fields: list[str]) -> Weighting:
    word, _, rest = text.partition(":")
    if word not in READY:
        raise UnknownName.among("function of weights, or field with one number a step,", word, [*READY, *fields])
    known, options = list(inspect.signature(READY[word]).parameters), dict[str, Any]()
    for number, each in enumerate(filter(None, rest.split(","))):
        key, equals, value = each.partition("=")
        if not equals and number < len(known):
            key, value = known[number], key
        if key not in known:
            raise UnknownName.among(f"option of {word}", key, known)
        if key in options:
            raise OptionError(f"{key} of {word} is given twice", found=text)
        options[key] = value if key == "field" else _number(key, value)
    for key in _needed(READY[word]):
        if key not in options:
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
