"""A whole store as one HTML page that needs nothing else: no network, no script, no font or picture of another file.

`html_page` is a pure function of what `facts.gather` found: the same store, opened under the same name, gives the same bytes.
"""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.figures import damaged_views, excluded, size_text
from vla_store.format.nonfinite import counts_text
from vla_store.look import charts
from vla_store.look.facts import (
    ACTION_WIDTH,
    ACTIONS,
    BINS,
    MAX_CHANNELS,
    PICTURE_SIDE,
    CameraFacts,
    Component,
    Convention,
    Facts,
    FieldFacts,
    Group,
    Histogram,
    TaskFacts,
    gather,
    histogram,
)
from vla_store.look.pictures import Pictures, png_bytes
from vla_store.look.style import STYLE
from vla_store.look.text import counted, escaped, number_text, percent_text
from vla_store.look.writing import name_of, write_file
from vla_store.reader import Store
from vla_store.rules import NOOP_THRESHOLD, RDT_FINETUNE_SHORTEST, RDT_SHORTEST
from vla_store.storage import output_path

MAX_LISTED = 200
MAX_WIDTHS = 24
MAX_TEXTS = 3
NBSP = "\N{NO-BREAK SPACE}"
COLOURS = ("red", "green", "blue")
ORIENTATIONS = {
    "bottom_up": "rows from the bottom, as MuJoCo renders: upside down",
    "top_down": "the true picture",
    "rot180": "turned by 180 degrees: upright, but mirrored",
}
OBSERVATIONS = {
    "after": 'row t holds what was seen <em>after</em> action t. Pair an action with what came before it: <code>alignment="causal"</code>',
    "before": "row t holds what was seen <em>before</em> action t: the pair that a policy learns",
}
_TURNED = '. Stored as recorded; this page, and <code>images="upright"</code>, turn them'
PARTS_OF_A_STORE = {
    "frames": "pictures of a camera",
    "residuals": "pictures of a camera, less a prediction",
    "backgrounds": "one picture an episode, which predictions use",
    "steps": "a number field",
    "episodes": "episodes, their digests and attributes",
    "index": "episode and step of every row",
}


@dataclass(frozen=True)
class PageWritten:
    """Where a page was written, and how large it is."""

    path: Path
    nbytes: int

    def to_json(self) -> dict[str, Any]:
        return {"nbytes": self.nbytes, "path": str(self.path)}

    def text(self) -> str:
        """The same for people."""
        return f"page           {self.path}  ({size_text(self.nbytes)}; open it in a browser)"


def write_page(store: Store, path: str | os.PathLike[str]) -> PageWritten:
    """Writes the page of a store to `path`, replacing what is there. Raises OptionError, UsageError, MachineError, and what
    reading raises."""
    made = output_path(path, (".html", ".htm"))  # before the work
    data = html_page(gather(store, name_of(store))).encode("utf-8")
    write_file(made, data)
    return PageWritten(made, len(data))


def html_page(facts: Facts) -> str:
    """The page."""
    sections = {
        "decisions": ("What was decided", _decisions(facts)),
        "left-out": ("Left out, and warnings", _left_out(facts)),
        "tasks": ("Tasks", _tasks(facts)),
        "lengths": ("Length of episodes", _lengths(facts)),
        "cameras": ("Cameras", _cameras(facts)),
        "fields": ("Numbers", _fields(facts)),
        "size": ("Size", _size(facts)),
        "sources": ("Files", _sources(facts)),
        "method": ("How these numbers were had", _method(facts)),
    }
    links = " · ".join(f'<a href="#{name}">{title}</a>' for name, (title, _) in sections.items())
    body = "".join(f'<section id="{name}"><h2>{title}</h2>{text}</section>' for name, (title, text) in sections.items())
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        # Nothing may be fetched or run, should a text of the data ever get past the escaping.
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{escaped(facts.name)}: what it holds</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{escaped(facts.name)}</h1>{_summary(facts)}<nav>{links}</nav></header><main>{body}</main>"
        "<footer>Written by <code>vla-store report</code>.</footer></body></html>\n"
    )


def _summary(facts: Facts) -> str:
    store, whole = facts.store, facts.whole
    tiles = [
        *(
            counted(number, name).split(" ")
            for number, name in (
                (whole.steps, "step"),
                (whole.episodes, "episode"),
                (len(facts.tasks), "task"),
                (len(facts.suites), "suite"),
            )
        ),
        (size_text(store.nbytes), "in all"),
    ]
    suites = _table(
        ["suite", "tasks", "files", "episodes", "steps", "shortest", "median", "longest", "success", "no-ops"],
        [
            [
                _text(each.suite),
                f"{sum(task.task.suite == each.suite for task in facts.tasks):,}",
                f"{sum(source.suite == each.suite for source in facts.sources):,}",
                f"{each.episodes:,}",
                f"{each.steps:,}",
                *(f"{length:,}" for length in each.lengths),
                _success(each),
                _noops(each),
            ]
            for each in facts.suites
        ],
    )
    return (
        '<ul class="tiles">' + "".join(f"<li><b>{value}</b>{name}</li>" for value, name in tiles) + "</ul>"
        f'<p class="ids">content <code>{store.fingerprint[:16]}</code> · root <code>{store.digest[:16]}</code>, '
        f"generation {store.generation}</p>{suites}"
    )


def _decisions(facts: Facts) -> str:
    store = facts.store
    rows = [
        *_conventions(facts, "orientation", "Pictures", ORIENTATIONS, _TURNED),
        *_conventions(facts, "observation", "Observations", OBSERVATIONS),
        [
            "No-ops",
            "not counted" if facts.whole.noops is None else f"{_noops(facts.whole)} of {facts.whole.counted:,} steps",
            f"kept: every recorded step is in the store. Counted by OpenVLA's rule: the first {ACTION_WIDTH - 1} numbers of the action "
            f"have a norm below {NOOP_THRESHOLD:g}, and the gripper's is that of the last step that is none"
            if facts.whole.noops is not None
            else f"every recorded step is in the store; the rule needs a field <code>{ACTIONS}</code> of {ACTION_WIDTH} numbers",
        ],
        ["Success", _success_text(facts.whole), _success_meaning(facts.whole)],
        [
            "Resolution",
            _list(f"{_code(each.field.name)} {_shape(each.field.shape)} {each.field.dtype}" for each in facts.cameras)
            or "no cameras",
            "as recorded: no picture was resized, cropped or changed"
            + "".join(
                f". JPEG in {counted(files, 'file')}, decoded when the store was built, by {escaped(decoder)}"
                for decoder, files in facts.decoders
            ),
        ],
        [
            "Compression",
            _list(
                f"{_code(each.field.name)} {each.nbytes / max(1, each.raw_nbytes):.3f} of its pixels: {_coded(each)}"
                for each in facts.cameras
            )
            or "no cameras",
            "every pixel comes back; "
            + (
                "nothing is compressed"
                if facts.presets == ("raw",)
                else "the prediction was chosen by a probe of the data"
            )
            + f" (preset {escaped(' and '.join(facts.presets))})",
        ],
        _views(store),
        [
            "Numbers",
            _list(escaped(each.text) for each in store.nonfinite.values()) or "all finite, as far as it was counted",
            "NaN and infinities are kept as recorded; statistics are those of the finite values"
            + (". The view rule <code>finite</code> leaves such steps out" if store.nonfinite else ""),
        ],
        [
            "Instruction",
            _instructions(facts),
            "<code>task</code> is "
            + ("that, else " if any(each.task.texts for each in facts.tasks) else "")
            + "the text of the file's name, which evaluations use",
        ],
        [
            "Left out",
            f"{', '.join(_left_out_counts(store)) or 'nothing'}; "
            f"{counted(len(store.warnings), 'warning') if store.warnings else 'no warnings'}",
            '<a href="#left-out">listed below</a>'
            if store.skipped or store.warnings or excluded(store)
            else "all that was given is in the store",
        ],
    ]
    return _table(["", "in this store", "what it means"], rows, "prose")


def _left_out_counts(store: Store) -> list[str]:
    found = (
        (len(store.skipped), "demonstration or file", "demonstrations or files"),
        (len(excluded(store)), "path of --exclude", "paths of --exclude"),
    )
    return [counted(*each) for each in found if each[0]]


def _views(store: Store) -> list[str]:
    damage = damaged_views(store)
    if damage is not None:
        where = escaped(damage.places.get("object", ""))
        return ["Views", f"<strong>damaged</strong>: {escaped(damage.what)} (<code>{where}</code>)", _text(damage.hint)]
    return [
        "Views",
        _list(
            f"{_code(each.name)} {escaped(each.text)}: {_of(each.steps, each.covered_steps, 'steps')}"
            for each in store.views.values()
        )
        or "none",
        _list(f"{_code(each.name)} {_text(each.description)}" for each in store.views.values())
        or "named choices of steps (<code>vla-store views</code>); the arrays hold every step all the same",
    ]


def _conventions(
    facts: Facts, name: str, title: str, meanings: Mapping[str, str], more: str = ""
) -> Iterator[list[str]]:
    """A row for each orientation, or each observation, that the sources have. more: what is true of all of them."""
    for value in sorted({getattr(each, name) for each in facts.conventions}):
        files = _files([each for each in facts.conventions if getattr(each, name) == value])
        yield [
            title,
            f"<code>{escaped(value)}</code>: {files}{_said(facts, name, value)}",
            meanings.get(value, "") + more,
        ]


def _said(facts: Facts, name: str, value: str) -> str:
    """Whether this was said when the store was built; of how many files, where the others told it themselves."""
    of, files = facts.stated.get((name, value), 0), sum(c.files for c in facts.conventions if getattr(c, name) == value)
    return "" if not of else "; said at build" if of == files else f"; said at build of {of} of them"


def _coded(camera: CameraFacts) -> str:
    """background, lz4hc 9; what parts differ in stands side by side."""
    return " or ".join(
        escaped(f"{'no prediction' if p == 'none' else p}, {'no codec' if c == 'none' else c.replace(' ', NBSP)}")
        for p, c in camera.coded
    )


def _files(found: Sequence[Convention]) -> str:
    return f"{counted(sum(c.files for c in found), 'file')}, {counted(sum(c.episodes for c in found), 'episode')}"


def _instructions(facts: Facts) -> str:
    given = [each for each in facts.tasks if each.task.instruction is not None]
    differ = sum(each.task.instruction != each.task.text for each in given)
    if any(each.task.texts for each in facts.tasks):
        return "episodes that state a text of their own have that one"
    if not given:
        return "the files have none of their own"
    own = (
        "the file's own"
        if len(given) == len(facts.tasks)
        else f"the file's own, where it has one ({len(given):,} of {len(facts.tasks):,} tasks),"
    )
    return f"{own} differs from it for {differ:,} of {counted(len(given), 'task')}" if differ else f"{own} is the same"


def _success_text(whole: Group) -> str:
    if whole.unknown == whole.episodes:
        return "not known"
    parts = [f"{whole.succeeded:,} of {counted(whole.episodes, 'episode')}"]
    if whole.failed:
        parts.append(f"{whole.failed:,} without")
    if whole.unknown:
        parts.append(f"{whole.unknown:,} not known")
    return ", ".join(parts)


def _success_meaning(whole: Group) -> str:
    if whole.unknown == whole.episodes:
        return "no rewards were recorded"
    constant = whole.episodes in (whole.succeeded, whole.failed)
    return "the last reward is 1 or more" + (". The same for all, so it tells no episodes apart" if constant else "")


def _left_out(facts: Facts) -> str:
    skipped = [
        [_text(each.suite), _text(each.file), _text(each.demo or "whole file"), _text(each.reason)]
        for each in facts.store.skipped
    ]
    warnings = [[_text(each["suite"]), _text(each["file"]), _text(each["warning"])] for each in facts.store.warnings]
    paths = ", ".join(_code(each) for each in excluded(facts.store))
    if not skipped and not warnings and not paths:
        return "<p>Nothing was left out, and no file was warned of.</p>"
    said = f"<p>Left out of all demonstrations, by <code>--exclude</code>: {paths}.</p>" if paths else ""
    return (
        said
        + (
            f"<h3>Left out: {len(skipped):,}</h3>" + _table(["suite", "file", "demo", "why"], skipped, "words")
            if skipped
            else ""
        )
        + (
            f"<h3>Warnings: {len(warnings):,}</h3>" + _table(["suite", "file", "warning"], warnings, "words")
            if warnings
            else ""
        )
    )


def _tasks(facts: Facts) -> str:
    shown = [each for each in facts.tasks if each.pictures]
    others = [each for each in facts.tasks if not each.pictures]
    text = ""
    if shown:
        cameras = len(shown[0].pictures)
        more = f", of {cameras} of {len(facts.cameras)} cameras" if cameras < len(facts.cameras) else ""
        text = f"<p>The middle step of each task's first episode, upright{more}.</p>"
        text += f'<div class="tasks">{"".join(_task(each) for each in shown)}</div>'
    if others:
        if shown:
            text += f"<p>{counted(len(others), 'more task')}, without pictures:</p>"
        text += _table(
            ["suite", "task", "episodes", "steps", "no-ops"],
            [
                [
                    _text(e.task.suite),
                    _text(e.task.text),
                    f"{e.group.episodes:,}",
                    f"{e.group.steps:,}",
                    _noops(e.group),
                ]
                for e in others
            ],
            limit=len(others),
        )
    return text


def _task(facts: TaskFacts) -> str:
    pictures = "".join(_picture(camera, picture) for camera, picture in facts.pictures)
    own = facts.task.instruction
    said = f'<p class="own">in the file: “{_text(own)}”</p>' if own is not None and own != facts.task.text else ""
    if facts.task.texts:
        texts = "; ".join(f"“{_text(each)}”" for each in facts.task.texts[:MAX_TEXTS])
        more = f" and {len(facts.task.texts) - MAX_TEXTS:,} more" if len(facts.task.texts) > MAX_TEXTS else ""
        said += f'<p class="own">its episodes say: {texts}{more}</p>'
    group = facts.group
    notes = [counted(group.episodes, "episode"), counted(group.steps, "step")]
    if group.noops is not None:
        notes.append(f"no-ops {percent_text(group.noops, group.counted)}")
    if group.failed:
        notes.append(f"{group.failed:,} without success")
    return (
        f'<figure class="task"><div class="pictures">{pictures}</div><figcaption><b>{_text(facts.task.text)}</b>{said}'
        f'<p class="notes">{_text(facts.task.suite)} · {" · ".join(notes)} · row {facts.shown_row:,}</p></figcaption></figure>'
    )


def _picture(camera: str, picture: Pictures) -> str:
    height, width = picture.shape[:2]
    tiny = ' class="tiny"' if max(height, width) < PICTURE_SIDE // 2 else ""
    data = base64.b64encode(png_bytes(picture)).decode("ascii")
    name = escaped(camera)
    return (
        f'<img{tiny} src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{name}" title="{name}">'
    )


def _lengths(facts: Facts) -> str:
    low, span = int(facts.lengths.min()), int(np.ptp(facts.lengths)) + 1
    width = -(-span // min(BINS, max(5, len(facts.lengths))))  # of a bin, in whole steps
    bins = -(-span // width)

    def drawn(lengths: npt.NDArray[np.int64]) -> Histogram:
        found = histogram(lengths.astype(np.float64), low, low + bins * width, bins)
        assert found is not None
        return found

    shortest, median, longest = facts.whole.lengths
    label = f"episodes by length, from {shortest} to {longest} steps"
    below = [
        f"{counted(int((facts.lengths < bound).sum()), 'episode has', 'episodes have')} fewer than {bound}, "
        f"which RDT's {what} leaves out"
        for bound, what in ((RDT_SHORTEST, "pre-training"), (RDT_FINETUNE_SHORTEST, "fine-tuning"))
    ]
    suites = [
        [_text(group.suite), f"{group.episodes:,}", charts.sparkline(drawn(lengths), f"lengths in {group.suite}", 300)]
        for group, lengths in zip(facts.suites, facts.suite_lengths)
    ]
    return (
        f"{charts.with_axes(drawn(facts.lengths), label, 'steps', 'episodes')}"
        f"<p>Shortest {shortest:,}, median {median:,}, longest {longest:,} steps. {'; '.join(below)}.</p>"
        + (_table(["suite", "episodes", "lengths, on the same axis"], suites, "lengths") if len(suites) > 1 else "")
    )


def _cameras(facts: Facts) -> str:
    if not facts.cameras:
        return "<p>This store has no cameras.</p>"
    rows = [
        [
            _code(each.field.name),
            _shape(each.field.shape),
            each.field.dtype,
            " / ".join(escaped(p) for p, _ in each.coded),
            " / ".join(escaped(c) for _, c in each.coded),
            size_text(each.raw_nbytes),
            size_text(each.nbytes),
            f"{each.nbytes / max(1, each.raw_nbytes):.3f}",
            _pixel_values(each),
        ]
        for each in facts.cameras
    ]
    head = ["camera", "shape", "dtype", "prediction", "codec", "pixels", "stored", "share", "values of its pixels"]
    return _table(head, rows)


def _pixel_values(camera: CameraFacts) -> str:
    drawn = camera.channels
    if not drawn:
        return "no finite value"
    coloured = camera.field.dtype == "uint8" and len(drawn) >= 3
    kinds = COLOURS if coloured else ("plain",) * len(drawn)
    low, high = number_text(drawn[0].low), number_text(drawn[0].high)
    chart = charts.overlaid(drawn[: len(kinds)], kinds, f"values of the pixels of {camera.field.name}, {low} to {high}")
    ends = f'<div class="ends" style="width:300px"><span>{low}</span><span>{high}</span></div>'
    has_more = math.prod(n or 1 for n in camera.field.shape[2:]) > MAX_CHANNELS
    return f"{chart}{ends}{f'<small>the first {MAX_CHANNELS} channels</small>' if has_more else ''}"


def _fields(facts: Facts) -> str:
    rows = [row for each in facts.fields for row in _components(each)]
    ragged = [
        f"<p>{_code(each.field.name)} has a width of its own in each episode, {escaped(each.field.dtype)}: "
        + ", ".join(
            f"{width:,} in {counted(episodes, 'episode')}" for width, episodes in list(each.widths.items())[:MAX_WIDTHS]
        )
        + (f", and {len(each.widths) - MAX_WIDTHS:,} other widths" if len(each.widths) > MAX_WIDTHS else "")
        + ".</p>"
        for each in facts.ragged
    ]
    head = ["field", "", "values", "min", "1 %", "mean", "99 %", "max", "std"]
    return (_table(head, rows, "numbers", limit=len(rows)) if rows else "") + "".join(ragged)


def _components(facts: FieldFacts) -> Iterator[list[str]]:
    field = facts.field
    for number, each in enumerate(facts.components):
        name = f"{_code(field.name)} <small>{escaped(field.dtype)}, {escaped(field.role)}</small>" if not number else ""
        yield [name, escaped(each.index), _values(field.name, each), *_moments(each)]
    if facts.left_out:
        yield ["", f"… {facts.left_out:,} more", "", "", "", "", "", "", ""]


def _values(name: str, component: Component) -> str:
    counts = counts_text(component.nan, component.infinite)
    bad = f" <small>{counts}</small>" if counts else ""
    if component.histogram is None:
        return f"<small>no finite value</small>{bad}"
    if len(component.histogram.counts) == 1:
        return f"<small>always {number_text(component.histogram.low)}</small>{bad}"
    drawn: Histogram = component.histogram
    label = f"{name}{component.index}, from {number_text(drawn.low)} to {number_text(drawn.high)}"
    return charts.sparkline(drawn, label) + bad


def _moments(component: Component) -> list[str]:
    if component.statistics is None:
        return ["-"] * 6
    return [number_text(component.statistics[key]) for key in ("min", "q01", "mean", "q99", "max", "std")]


def _size(facts: Facts) -> str:
    total = sum(nbytes for _, nbytes in facts.array_nbytes)
    rows = [
        [
            _code(name) if name else "everything else",
            PARTS_OF_A_STORE.get(name.partition("/")[0], "") if name else "roots, documents, listings",
            size_text(nbytes),
            percent_text(nbytes, total),
            charts.bar(nbytes / max(1, total), f"{name or 'everything else'}: {size_text(nbytes)}"),
        ]
        for name, nbytes in facts.array_nbytes
    ]
    return _table(["array", "holds", "bytes", "of all", ""], rows, "sizes", limit=len(rows))


def _sources(facts: Facts) -> str:
    rows = [
        [
            _text(e.suite),
            _text(e.file),
            f"{e.episodes:,}",
            f"{e.steps:,}",
            escaped(e.orientation),
            escaped(e.observation),
        ]
        for e in facts.sources
    ]
    return _table(["suite", "file", "episodes", "steps", "pictures", "observations"], rows, "files")


def _method(facts: Facts) -> str:
    sampled = max((each.sampled_rows for each in facts.fields), default=0)
    frames = max((each.sampled_frames for each in facts.cameras), default=0)
    rows = facts.store.rows
    noops = (
        "No-ops were not counted."
        if facts.whole.noops is None
        else f"No-ops were counted over {_of(facts.whole.counted, rows, 'steps')}"
        + (
            "."
            if facts.noop_episodes == facts.whole.episodes
            else f": {facts.noop_episodes:,} whole episodes, evenly spread, of {facts.whole.episodes:,}."
        )
    )
    fewer = [each.field.name for each in facts.fields if each.sampled_rows < sampled]
    return (
        "<ul><li>Counts of episodes and steps, lengths, success, widths and bytes are exact: from the store's tables and listings.</li>"
        "<li>Minimum, maximum, mean, standard deviation and quantiles are the store's own statistics, which the build took over all steps.</li>"
        f"<li>Histograms of numbers are of {_of(sampled, rows, 'steps')}"
        + ("" if sampled == rows else ", in runs evenly spread over the store")
        + (f"; of fewer for {', '.join(map(_code, fewer[:8]))}, whose rows are large" if fewer else "")
        + f".</li><li>{noops}</li>"
        f"<li>Histograms of pixels are of {_of(frames, rows, 'frames')} of each camera at most, evenly spread. No other pixels were read than "
        "these and those of the tasks' pictures. <code>vla-store verify</code> reads them all.</li></ul>"
    )


def _of(part: int, whole: int, what: str) -> str:
    return f"all {whole:,} {what}" if part == whole else f"{part:,} of {whole:,} {what}"


def _success(group: Group) -> str:
    return "-" if group.unknown == group.episodes else f"{group.succeeded:,} of {group.episodes:,}"


def _noops(group: Group) -> str:
    return "-" if group.noops is None else f"{group.noops:,} ({percent_text(group.noops, group.counted)})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "", limit: int = MAX_LISTED) -> str:
    """A table of cells that are HTML already."""
    cells = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows[:limit])
    more = (
        f"<p>… and {len(rows) - limit:,} more: <code>vla-store info --json</code> lists all.</p>"
        if len(rows) > limit
        else ""
    )
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table></div>{more}'


def _list(items: Iterable[str]) -> str:
    return "<br>".join(items)


def _text(text: str) -> str:
    """Text of the data: the direction in which it is written stays its own affair."""
    return f"<bdi>{escaped(text)}</bdi>"


def _code(text: str) -> str:
    return f"<code>{escaped(text)}</code>"


def _shape(shape: Sequence[int | None]) -> str:
    return " × ".join(map(str, shape))
