"""Transforms are called here, and what they give is looked at: a sample, or the slip by which there is none."""

from __future__ import annotations

import functools
import types
from collections.abc import Awaitable, Callable, ItemsView, Iterator, KeysView, Set, ValuesView
from typing import Any

from vla_store.errors import TransformError

# What no sample is, and how people come by it.
FORGOTTEN = "did you forget `return`? What changes a sample in place has to return it as well"
NO_SAMPLES: tuple[tuple[tuple[Any, ...], str, str], ...] = (
    ((type(None),), "None", FORGOTTEN),
    ((types.GeneratorType,), "a generator", "it has a `yield`: let it `return` one sample"),
    ((Awaitable, types.AsyncGeneratorType), "what has to be awaited", "it is an `async def`: write `def`"),
    ((Iterator,), "an iterator", "return what it gives, as in list(...)"),
    ((bool,), "a bool", "return the sample, and not whether something holds of it"),
    ((KeysView, ItemsView, ValuesView), "a view of a dict", "return the dict"),
    ((Set,), "a set, which has no order", "return a dict, a list or a tuple"),
    ((type(...), type(NotImplemented)), "a placeholder", "its body is not written yet"),
    ((BaseException,), "an exception", "write `raise` where it says `return`"),
    (
        (types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial, type),
        "something to be called",
        "call it, and return what it gives",
    ),
)


def transformed(transform: Callable[..., Any], value: Any, what: str = "transform", **options: Any) -> Any:
    """Return what a transform makes of a sample or a batch. Raises TransformError where that is none."""
    return a_sample(transform(value, **options), what, transform)


def a_sample(made: Any, what: str, maker: Any = None) -> Any:
    """Return `made`, which a `what` (which is `maker`) returned. Raises TransformError where it cannot be a sample or a batch."""
    if type(made) is dict:
        return made
    for kinds, found, hint in NO_SAMPLES:
        if isinstance(made, kinds):
            who = what if maker is None else f"{what} `{name_of(maker)}`"
            raise TransformError(f"{who} returns {found}", found=repr(made)[:100], hint=hint)
    return made


def name_of(function: Any) -> str:
    """Return a function or a callable as a user knows it."""
    if isinstance(function, functools.partial):
        return name_of(function.func)
    named = function if hasattr(function, "__qualname__") else type(function)
    return str(named.__qualname__).rpartition("<locals>.")[2]
