"""`python -m vla_store.serve RECIPE STORE OPTIONS`: a recipe's items for a process of an older Python, over two pipes.

The other side writes a line of JSON for what it wants of the dataset, `[name, argument, ...]`: `["__getitem__", 5]`, `["__len__"]`,
`["norm_stats"]`. The answer is a line of JSON, `{"value": tree}` or `{"error": text}`, and after it the bytes of the tree's arrays in
turn. In a tree all but text, numbers, true, false and null is a pair of its kind and what is in it: "array" [dtype, shape], "dict",
"list", "tuple". No pickles: those of NumPy 2 do not load in NumPy 1. docs/how-to/old-python.md has the other side.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np

import vla_store
from vla_store.errors import OptionError, UnknownName, VlaStoreError

SAMPLES = "Samples"  # beside the recipes: vla_store.Samples


def main(arguments: list[str]) -> int:
    """Answer requests on stdin until it ends; the answers are all that stdout gets."""
    if len(arguments) not in (2, 3):
        print("usage: python -m vla_store.serve RECIPE STORE [OPTIONS, as JSON]", file=sys.stderr)
        return 2
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what somebody prints is no answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends who asks, and stdin with him
    with contextlib.suppress(BrokenPipeError):  # who asked has gone
        serve(lambda: dataset_of(*arguments), sys.stdin.buffer, answers)
    return 0


def dataset_of(recipe: str, store: str, options: str = "{}") -> Any:
    """Return the dataset of a recipe.

    Parameters
    ----------
    recipe
        A name in `vla_store.recipes`, or "Samples".
    store
        Where it is.
    options
        JSON. `normalize` may be an object: the options of the dataset by whose statistics the items are normalised.

    Raises
    ------
    UnknownName, OptionError
        There is no such recipe, or the options are no object of JSON; and what the recipe raises.
    """
    from vla_store import recipes

    known = {name: getattr(recipes, name) for name in recipes.__all__ if isinstance(getattr(recipes, name), type)}
    known = {name: each for name, each in known.items() if issubclass(each, vla_store.Samples)}
    known[SAMPLES] = vla_store.Samples
    if recipe not in known:
        raise UnknownName.among("recipe", recipe, sorted(known))
    try:
        given = dict(json.loads(options))
    except (ValueError, TypeError) as error:
        raise OptionError("the options are no object of JSON", found=options, reason=error) from error
    opened = vla_store.open_store(store)
    if isinstance(given.get("normalize"), dict):
        given["normalize"] = known[recipe](opened, **given["normalize"]).statistics()
    return known[recipe](opened, **given)


def serve(make: Callable[[], Any], requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer one request after the other, until there are no more. make: the dataset, at the first request."""
    dataset = None
    for line in requests:
        arrays: list[np.ndarray[Any, Any]] = []
        try:
            if dataset is None:
                dataset = make()
            name, *given = json.loads(line)
            value = getattr(dataset, name)
            answer = {"value": packed(value(*given) if callable(value) else value, arrays)}
        except Exception as error:
            arrays.clear()
            answer = {"error": str(error) if isinstance(error, VlaStoreError) else f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer).encode() + b"\n")
        for array in arrays:
            answers.write(array.data if array.size else b"")
        answers.flush()


def packed(value: Any, arrays: list[np.ndarray[Any, Any]]) -> Any:
    """Return a value as a tree of JSON, and add its arrays to `arrays`. Raises OptionError for what cannot be sent."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if callable(getattr(value, "numpy", None)):  # a tensor, of a recipe that makes those
        value = value.numpy()
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufcUS":
        arrays.append(np.ascontiguousarray(value))
        return ["array", [value.dtype.str, value.shape]]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return ["dict", {key: packed(each, arrays) for key, each in value.items()}]
    if isinstance(value, (list, tuple)):
        return ["tuple" if isinstance(value, tuple) else "list", [packed(each, arrays) for each in value]]
    raise OptionError("this cannot be sent to another process", found=type(value).__name__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
