"""What samples are asked to be: alignment, pictures, padding, names; each wrong wish is an error that says what there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vla_store.errors import OptionError, UnknownName, warn
from vla_store.reader.store import Store
from vla_store.reader.windows import Window
from vla_store.types import ALIGNMENTS, IMAGES, PADS, TASKS


def check_settings(
    alignment: str | None, images: str | None, pad: str, task: str | None, transform: Callable[..., Any] | None
) -> None:
    """Raise UnknownName or OptionError for what `Samples` cannot be asked for."""
    if alignment is not None and alignment not in ALIGNMENTS:
        raise UnknownName.among("alignment", alignment, list(ALIGNMENTS))
    if task not in TASKS:
        raise UnknownName.among("task", task, list(map(str, TASKS)))
    if pad not in PADS:
        raise UnknownName.among("pad", pad, list(PADS))
    if images is not None and images not in IMAGES:
        raise UnknownName.among("images", images, list(IMAGES))
    if transform is not None and not callable(transform):
        raise OptionError("transform is a function of a sample", found=repr(transform)[:100])


def check_names(windows: tuple[Window, ...], others: tuple[str, ...]) -> None:
    """Raise OptionError where two values of a sample would have one name. others: those beside its windows."""
    names = list(others)
    for window in windows:
        names += [window.field, f"{window.field}_is_pad"]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise OptionError(
            "two values of a sample would have the same name",
            name=twice[0],
            hint="leave one out of `windows`, or build the store with --rename PATH=NAME to have both",
        )


def warn_of_turned(store: Store, orientations: set[str]) -> None:
    """Warn of pictures that do not lie as seen, where `images` was not named."""
    turned = sorted(orientations - {"top_down"})
    if turned:
        warn(
            f"pictures of {store.url} lie {' and '.join(turned)}, and are given so, because `images` was not named: write "
            'images="upright" for the true picture, images="rot180" for what OpenVLA and openpi train on, or '
            'images="as_stored" for what is meant here'
        )


def must_align(store: Store, windows: tuple[Window, ...]) -> OptionError:
    """Return the error for windows that mix observations and actions of a source that recorded them in another order."""
    seen = [window.field for window in windows if store.fields[window.field].role == "observation"]
    done = [window.field for window in windows if store.fields[window.field].role != "observation"]
    return OptionError(
        "alignment must be named: these demonstrations recorded each observation after the action of the same row",
        observations=", ".join(seen),
        actions=", ".join(done),
        causal="what is seen before action s: observations come from row s - 1; the first step has none and is no anchor",
        as_stored="row s of every field: an action together with its own result, as LIBERO's own benchmark trains",
        hint="alignment='causal' to train a policy that acts; alignment='as_stored' to repeat figures that were so made",
    )
