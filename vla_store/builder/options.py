"""The options of everything that encodes: one frozen value from the command line to the plan, whose fields are the only list of them.

A function that takes options one by one is made by `takes_options`, and shows these fields as its own parameters.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from vla_store.builder.cluster import require_dask
from vla_store.errors import OptionError, UnknownOption, whole_number
from vla_store.format.canonical import float_text
from vla_store.format.codecs import PRESETS
from vla_store.format.schema import Root
from vla_store.progress import Progress, Shown, showing, told_to
from vla_store.sources.overrides import Choice, Overrides, Stated
from vla_store.types import EXECUTORS, ExecutorName, Preset

Given = TypeVar("Given")
Place = TypeVar("Place")
Made = TypeVar("Made")
Value = TypeVar("Value")
Parameters = ParamSpec("Parameters")


def _for_all(given: Stated) -> str | None:
    """Return what is said of all sources. Paths do not belong into a plan, which has what was said of each source with it."""
    value = given.get(None) if isinstance(given, Mapping) else given
    return value if isinstance(value, str) or value is None else float_text(float(value))


@dataclass(frozen=True, kw_only=True)
class EncodingOptions:
    """Options of whatever encodes.

    executor
        "threads"; "processes" (a script must then make the call below `if __name__ == "__main__":`); or "auto": processes
        where the source is large enough.
    workers
        How many run at once; default: the cores there are.
    scheduler
        Address of a dask cluster that encodes instead.
    max_memory
        Bytes that all processes together may use.
    progress
        True shows a bar: tqdm's where tqdm is installed, in a terminal or a notebook, else one of our own. Or an object that
        receives what the build reports while it works, see `Progress`.
    """

    executor: ExecutorName = "threads"
    workers: int | None = None
    scheduler: str | None = None
    max_memory: int | None = None
    progress: Shown = None

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise OptionError(f"executor cannot be {self.executor!r}", allowed=", ".join(EXECUTORS))
        for name in ("workers", "max_memory"):
            if (given := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole_number(name, given))
        if self.scheduler is None:
            return
        if self.workers is not None or self.max_memory is not None:
            raise OptionError(
                "workers and max_memory are the cluster's own affair when there is a scheduler",
                scheduler=self.scheduler,
                hint=f"dask worker {self.scheduler} --nworkers N --memory-limit SIZE",
            )
        require_dask()

    @property
    def reports(self) -> Progress:
        """The `progress` that is shown, or one that nobody sees."""
        return told_to(self.progress)


@dataclass(frozen=True, kw_only=True)
class SourceOptions(EncodingOptions):
    """Options of what reads demonstrations.

    orientation, observation
        How pictures are stored ("bottom_up", "top_down", "rot180"), and whether observations are recorded "before" or "after"
        the action of their row, where the sources do not say; for all of them, or by path of a file or folder (None: for the others).
    conventions
        {name: value, or values by path} of further conventions: "fps", the steps a second of sources that do not say it, and those
        of single kinds of sources.
    mixed
        Let sources differ in orientation and observation; each keeps its own.
    rehash
        Tell sources that changed since an unfinished build began by their sha256, which costs reading them once more; else by
        size and time of change.
    skip_bad
        Leave out demonstrations that are bad, and record them.
    require_finite
        A number that is NaN or infinite, in whatever field, makes its demonstration bad; all of them are read to know.
    exclude
        Datasets and groups to leave out, by path below a demonstration ("obs/agentview_depth"; names may have *, ? and []), or
        from the file's root ("/meta").
    rename
        {path of a dataset: name of its field}.
    scratch_size
        The most bytes that files of sources at URLs may take on this machine, in the folder for temporary files; default: what
        its disk has.
    """

    orientation: Stated = None
    observation: Stated = None
    conventions: Mapping[str, Stated] | None = None
    mixed: bool = False
    rehash: bool = False
    skip_bad: bool = False
    require_finite: bool = False
    exclude: Sequence[str] | None = None
    rename: Mapping[str, str] | None = None
    scratch_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scratch_size is not None:
            object.__setattr__(self, "scratch_size", whole_number("scratch_size", self.scratch_size))
        for name, kind in (("conventions", Mapping), ("exclude", Iterable), ("rename", Mapping)):
            given = getattr(self, name)
            if given is not None and not isinstance(given, kind):
                expected = "a list of paths" if kind is Iterable else "a dict"
                raise OptionError(f"{name} cannot be {repr(given)[:80]}", expected=expected)

    @property
    def choice(self) -> Choice:
        """The datasets that are left out and renamed, checked. Raises OptionError."""
        return Choice.of(self.exclude, self.rename)


@dataclass(frozen=True, kw_only=True)
class BuildOptions(SourceOptions):
    """Options of a build.

    preset
        "raw", "fast" or "small".
    overwrite
        Replace an existing store, and discard an unfinished build of other sources or options.
    dry_run
        Plan only; write nothing.
    staging
        For a store at a URL: a local folder for what is not there yet; default: the folder for temporary files.
    finish
        Called with the folder of the store before it gets its name, to commit one more root, which it returns. At a URL it is the
        stage, which has all but the pictures.
    """

    preset: Preset = "fast"
    overwrite: bool = False
    dry_run: bool = False
    staging: str | os.PathLike[str] | None = None
    finish: Callable[[Path], Root] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.finish is not None and not callable(self.finish):
            raise OptionError("finish is a function that takes the folder of the store", found=repr(self.finish)[:80])
        if self.preset not in tuple(PRESETS):
            raise OptionError(f"there is no preset {self.preset!r}", exists=", ".join(PRESETS))

    def recorded(self) -> dict[str, Any]:
        """Return what a plan records: the options that decide bytes."""
        given = {name: _for_all(each) for name, each in (self.conventions or {}).items()}
        stated = Overrides(conventions=tuple((n, value) for n, value in given.items() if value), choice=self.choice)
        always = {name: _for_all(getattr(self, name)) for name in ("observation", "orientation", "preset")}
        return always | stated.to_json()


@dataclass(frozen=True, kw_only=True)
class AppendOptions(SourceOptions):
    """Options of an append.

    preset
        "raw", "fast" or "small"; default: that of the store's last part.
    exclude, rename
        Default: those of the store's last part.
    staging
        A local folder for the part while it is encoded; default: beside a local store, else in the folder for temporary
        files.
    """

    preset: Preset | None = None
    staging: str | os.PathLike[str] | None = None

    def to_build(self, last: Any) -> BuildOptions:
        """Return the options of the new part.

        Parameters
        ----------
        last
            The options that the plan of the store's last part records: a mapping.

        Returns
        -------
        BuildOptions
            These options, and those of the last part where nothing else is given.

        Raises
        ------
        OptionError
            An option has a value that a build does not allow.
        """
        said: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(SourceOptions)}
        choice = Overrides.recorded(last).choice
        said["exclude"] = choice.exclude if self.exclude is None else self.exclude
        said["rename"] = dict(choice.rename) if self.rename is None else self.rename
        said["preset"] = str(last.get("preset", "fast")) if self.preset is None else self.preset
        return BuildOptions(**said)


@dataclass(frozen=True, kw_only=True)
class RecodeOptions(EncodingOptions):
    """Options of a recoding.

    preset
        "raw", "fast" or "small"; must be given.
    overwrite
        Replace an existing store, and discard an unfinished one.
    dry_run
        Plan only; write nothing.
    """

    preset: Preset
    overwrite: bool = False
    dry_run: bool = False


def takes_options(
    options: Callable[Parameters, Value],
) -> Callable[[Callable[[Given, Place, Value], Made]], Callable[Concatenate[Given, Place, Parameters], Made]]:
    """Decorate a function whose last parameter is a value of options, so that it takes them one by one, by keyword.

    The decorated function shows the options as its own parameters, and its docstring ends with those of the options'
    classes.

    Parameters
    ----------
    options
        The class of the options, a dataclass; or any callable that makes them from keywords.

    Returns
    -------
    callable
        The decorator.

    Raises
    ------
    UnknownOption
        When the decorated function is called with a keyword that is no option; the message lists those that exist.
    OptionError
        When it is called with an option by position.
    """

    def decorate(
        function: Callable[[Given, Place, Value], Made],
    ) -> Callable[Concatenate[Given, Place, Parameters], Made]:
        *places, last = inspect.signature(function).parameters.values()
        known = inspect.signature(options).parameters

        @functools.wraps(function)
        def call(*arguments: Any, **given: Any) -> Made:
            if len(arguments) > len(places):
                raise OptionError(f"{function.__name__} takes options by name", exists=", ".join(known))
            for name in given:
                if name not in known and all(each.name != name for each in places):
                    raise UnknownOption.among("option", name, list(known))
            with showing(given.get("progress")) as progress:
                given["progress"] = progress
                made = options(**{name: given.pop(name) for name in list(given) if name in known})  # type: ignore[call-arg]
                return function(*arguments, **given, **{last.name: made})

        call.__signature__ = inspect.signature(function).replace(parameters=[*places, *known.values()])  # type: ignore[attr-defined]
        kinds = list(reversed(inspect.getmro(options)[:-1])) if isinstance(options, type) else []
        call.__doc__ = "\n\n".join(
            inspect.cleandoc(each or "") for each in [function.__doc__, *(k.__doc__ for k in kinds)]
        )
        return call

    return decorate
