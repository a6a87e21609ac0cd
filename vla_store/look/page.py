"""A whole store as one HTML page that needs nothing else: no network, no script, no font or picture of another file.

`html_page` is a pure function of what `facts.gather` found: the same store, opened under the same name, gives the same bytes.
However many tasks and episodes it has, the page stays below some 3 MB: pictures get smaller, lists end with how to see the rest.
templates/page.html says what stands where; Jinja2, which fills it, is imported when a page is made.
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_store import __version__, rules
from vla_store.format.nonfinite import counts_text
from vla_store.look import charts, facts
from vla_store.look.facts import Facts, gather
from vla_store.look.info import damaged_views, excluded
from vla_store.look.listing import show_command
from vla_store.look.pictures import png_bytes
from vla_store.look.saying import FINGERS, rate_text, texts_json, texts_notes
from vla_store.look.thumbnails import Thumbnail, thumbnails
from vla_store.look.writing import name_of, path_outside, write_file
from vla_store.reader import Store
from vla_store.text import Report, counted, number_text, percent_text, shown, size_text

SECTIONS = {
    "decisions": "How it was recorded and converted",
    "left-out": "Left out, and warnings",
    "tasks": "Tasks",
    "episodes": "Episodes",
    "lengths": "Length of episodes",
    "cameras": "Cameras",
    "fields": "Numbers",
    "size": "Size",
    "sources": "Files",
    "method": "How these numbers were obtained",
}
# Of skipped demonstrations, warnings, suites, tasks without pictures, cameras and files each; widths of a ragged field; own texts
# of a task; episodes up to which none of the list is folded away.
LIMITS = {"MAX_LISTED": 200, "MAX_WIDTHS": 24, "MAX_TEXTS": 3, "MAX_UNFOLDED": 200}
# The pictures of all tasks, as PNG: 1.2 MB in base64. With the list of episodes, and the rest, a page is below 3 MB.
MAX_PICTURES_NBYTES = 900_000
STRIP_COLOURS = 64


@dataclass(frozen=True, repr=False)
class PageWritten(Report):
    """Where a page was written, and how large it is."""

    path: Path
    nbytes: int

    def to_json(self) -> dict[str, Any]:
        return {"nbytes": self.nbytes, "path": str(self.path)}

    def text(self) -> str:
        return f"page           {self.path}  ({size_text(self.nbytes)}; open it in a browser)"


def write_page(store: Store, path: str | os.PathLike[str]) -> PageWritten:
    """Write the page of a store.

    Parameters
    ----------
    store : Store
        What the page is about; its name on the page is the last part of its location.
    path : path
        An .html or .htm file; what is there is replaced.

    Raises
    ------
    OptionError, UsageError
        No such file can be written.
    MachineError
        The disk failed.
    DataError
        Reading the store failed; nothing is written.
    """
    made = path_outside(store, path, (".html", ".htm"))  # before the work
    data = html_page(gather(store, name_of(store))).encode("utf-8")
    write_file(made, data)
    return PageWritten(made, len(data))


def html_page(found: Facts) -> str:
    """Return the page. All text of the store is escaped, and shown without characters that hide what it is."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    page = Environment(
        loader=PackageLoader("vla_store.look"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    page.filters |= {"number": number_text, "base64": _base64, "size": size_text, "thousands": "{:,}".format}
    page.globals |= {
        **LIMITS,
        **{name: getattr(facts, name) for name in ("MAX_CHANNELS", "PICTURE_SIDE")},
        "ACTION_WIDTH": rules.POSE_ACTION_WIDTH,
        "FINGERS": FINGERS,
        "NOOP_THRESHOLD": rules.NOOP_THRESHOLD,
        "SECTIONS": SECTIONS,
        "bars": charts.bars,
        "counted": counted,
        "nonfinite": counts_text,
        "outline": charts.outline,
        "rate": rate_text,
        "show_command": show_command,
        "texts_notes": texts_notes,
        "percent": percent_text,
        "ticks": charts.ticks,
        "version": __version__,
    }
    store = found.store
    text = page.get_template("page.html").render(
        facts=found,
        damaged_views=damaged_views(store),
        excluded=excluded(store),
        further=texts_json(store),
        thumbnails=_of_tasks(found),
        strips=[Thumbnail(png_bytes(each, STRIP_COLOURS), each.shape[1], each.shape[0]) for each in found.strips],
    )
    return "\n".join(shown(line) for line in text.strip().split("\n")) + "\n"


def _of_tasks(found: Facts) -> list[list[tuple[str, Thumbnail]]]:
    """Return (camera, picture) of each task that has any, small enough for all to have room."""
    pictures = [pixels for task in found.tasks for _, pixels in task.pictures]
    made = iter(thumbnails(pictures, MAX_PICTURES_NBYTES))
    return [[(camera, next(made)) for camera, _ in task.pictures] for task in found.tasks if task.pictures]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
