"""One episode as a file of any kind that shows it: a picture, a film, or a recording for a viewer. The ending says which."""

from __future__ import annotations

import os
from typing import Literal, SupportsIndex

from vla_store.errors import OptionError
from vla_store.look import film, recording, sheet
from vla_store.look.writing import Written
from vla_store.reader import Store
from vla_store.reader.values import Episode
from vla_store.storage import output_path
from vla_store.types import Images

ENDINGS = (*sheet.ENDINGS, *film.ENDINGS, *recording.ENDINGS)


def write_episode(
    store: Store | str | os.PathLike[str],
    episode: Episode | SupportsIndex | str,
    path: str | os.PathLike[str],
    *,
    steps: int | Literal["events"] | None = None,
    images: Images = "upright",
) -> Written:
    """Show an episode in a file, replacing what is there.

    Parameters
    ----------
    store
        An open store, or where one is.
    episode
        One of `store.episodes`, its number (negative ones count from the end), or "suite/file/demo".
    path
        What to write: a picture (.png, .svg, .pdf) as by `write_sheet`, a film (.mp4, .gif) as by `write_film`, a recording (.rrd)
        as by `write_recording`.
    steps
        Of a picture alone: how many pictures of each camera, 8 by default, or "events".
    images
        "upright", "as_stored" or "rot180", as for `Samples`.

    Returns
    -------
    Written
        Where it was written, and what it shows.

    Raises
    ------
    OptionError
        For what names no episode, a path with another ending, steps of what is no picture, or what `write_sheet` refuses.
    UsageError
        Where there is no folder to write to.
    MachineError
        Where a library is missing, which the error names, or the disk fails.
    """
    ending = output_path(path, ENDINGS).suffix.lower()
    if ending in sheet.ENDINGS:
        return sheet.write_sheet(store, episode, path, steps=sheet.STEPS if steps is None else steps, images=images)
    if steps is not None:
        raise OptionError(
            "only a picture has chosen steps: films and recordings show them all",
            path=os.fspath(path),
            expected=f"steps (--steps) with a name that ends in {' or '.join(sheet.ENDINGS)}",
            found=steps,
        )
    if ending in film.ENDINGS:
        return film.write_film(store, episode, path, images=images)
    return recording.write_recording(store, episode, path, images=images)


def parsed_steps(text: str | None) -> int | Literal["events"] | None:
    """Return what `--steps` says. Raises OptionError."""
    if text is None or text == sheet.EVENTS:
        return None if text is None else sheet.EVENTS
    try:
        return int(text)
    except ValueError:
        raise OptionError(
            "steps (--steps) are a number or events", expected=f"1 to {sheet.MAX_STEPS}, or events", found=text
        ) from None
