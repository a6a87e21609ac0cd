"""Every error that this library raises, as one tree, ordered by what the caller can do about it. Imports nothing of it.

    VlaStoreError
      UsageError          change the call                              exit code 2
        OptionError         (also a ValueError) an argument is wrong
        UnknownName         (also a KeyError) a name does not exist; lists those that do
          UnknownOption       (also a TypeError) that name is an option of a call
        SourceNotFound      (also a FileNotFoundError)
        StoreNotFound       (also a FileNotFoundError)
        DestinationExists   (also a FileExistsError)
      DataError           repair or replace the data                   exit code 1
        SourceError         the demonstrations
        StoreDamaged        the store: rebuild or restore the object named
        StoreUnfinished     resume the build
        UnsupportedStore    upgrade vla_store, or leave that field out
      MachineError        (also an OSError) free, permit, retry        exit code 3
        FetchError          storage did not answer, or not with what was asked
        WorkerDied          a Loader's worker is gone: look at the memory, and make a new pass
      TransformError      correct the transform, or the class of the dataset  exit code 1

A message fits one screen: what failed, where, what was expected and found, and the next move.
"""

from __future__ import annotations

import contextlib
import errno
import math
import numbers
import operator
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np


class VlaStoreError(Exception):
    """Base class of all errors of vla_store.

    what: one line that says what failed.
    hint: one line that says what to do, printed after a blank line.
    places: labelled facts in the order to print them (file, demo, expected, found, ...).
    """

    exit_code = 1

    def __init__(self, what: str, *, hint: str = "", **places: Any) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.places = {label: str(value) for label, value in places.items() if value is not None}

    def __str__(self) -> str:
        width = max((len(label) for label in self.places), default=0)
        lines = [self.what]
        for label, value in self.places.items():
            indent = "\n" + " " * (width + 4)
            lines.append(f"  {label:<{width}}  {indent.join(value.splitlines() or [''])}")
        if self.hint:
            lines += ["", f"hint: {self.hint}"]
            said = _in_python(self.hint)
            if said:
                lines.append(f"      in Python: {', '.join(said)}")
        return "\n".join(lines)

    def at(self, **places: Any) -> VlaStoreError:
        """Add labelled facts in front, for a caller that knows them, and return this error."""
        outer = {label: str(value) for label, value in places.items() if value is not None}
        self.places = outer | self.places
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments do not survive the default pickling of exceptions, and errors cross processes here.
        return (_restore, (type(self), self.what, self.hint, self.places))


IN_PYTHON = {
    **{
        name: f"{name}=True"
        for name in ("allow_empty", "mixed", "overwrite", "rehash", "require_finite", "skip_bad", "video")
    },
    **dict.fromkeys(("colour", "encoded", "dct"), 'conventions={{"{}": ...}}'),
    "fps": 'conventions={{"fps": ...}}',
    "exclude": "exclude=[...]",
    "rename": "rename={{...}}",
    **{
        name: f"{name}=..."
        for name in ("alignment", "cache", "cache_size", "images", "max_memory", "observation", "orientation")
    },
    **{name: f"{name}=..." for name in ("scratch_size", "state", "workers")},
}
"""How options of commands that hints name are given in Python, by name."""


def _in_python(hint: str) -> list[str]:
    """Return how Python says the options of commands that a hint names, other than in whole commands and where it says so itself."""
    import re

    alone = re.sub("`[^`]*`", "", hint)
    names = dict.fromkeys(each.replace("-", "_") for each in re.findall(r"(?<!\S)[(]?--([a-z][a-z-]*[a-z])", alone))
    return [
        IN_PYTHON[name].format(name)
        for name in names
        if name in IN_PYTHON and not re.search(rf"\b{name}(=| \(--|['\"]?: )", hint)
    ]


def _restore(cls: type[VlaStoreError], what: str, hint: str, places: dict[str, str]) -> VlaStoreError:
    error = cls.__new__(cls, what)  # not by the call: a class of somebody else's may take other arguments
    error.args, error.what, error.hint, error.places = (what,), what, hint, places
    return error


class UsageError(VlaStoreError):
    """The call is wrong: arguments, names or paths."""

    exit_code = 2


class OptionError(UsageError, ValueError):
    """An argument has an invalid value."""


class UnknownName(UsageError, KeyError):
    """A field, suite, task or other name does not exist; the message lists those that do."""

    @classmethod
    def among(cls, kind: str, name: object, known: list[str], **places: Any) -> UnknownName:
        """Return the error for `name`: it lists at most twenty of the names that exist, and the one that was probably meant."""
        shown = ", ".join(known[:20]) + (f", ... ({len(known)} in all)" if len(known) > 20 else "")
        import difflib  # here: reading a store without a slip does not pay for it

        near = [each for each in known if each.casefold() == str(name).casefold()]
        near = near or difflib.get_close_matches(str(name), known, 1, cutoff=0.75)  # less is another word, not a slip
        hint = "; ".join(filter(None, [f"did you mean {near[0]!r}?" if near else "", places.pop("hint", "")]))
        return cls(f"there is no {kind} {name!r}", hint=hint, **places, exists=shown or "none")


class UnknownOption(UnknownName, TypeError):
    """A call does not take this option."""


class SourceNotFound(UsageError, FileNotFoundError):
    """A path of demonstrations does not exist."""


class StoreNotFound(UsageError, FileNotFoundError):
    """There is no store at this location."""


class DestinationExists(UsageError, FileExistsError):
    """There is something already at the location to write to."""


class DataError(VlaStoreError):
    """The demonstrations or the store are bad."""

    exit_code = 1


class SourceError(DataError):
    """A demonstration file is damaged, or its content is not as expected."""


class StoreDamaged(DataError):
    """An object of the store is missing, cut short, changed or inconsistent. Where nothing else is said, the hint says how to mend
    it, and names the store where that is known."""

    def __init__(self, what: str, *, hint: str = "", **places: Any) -> None:
        super().__init__(what, hint=hint or _MEND.format("STORE"), **places)
        self._name()

    def at(self, **places: Any) -> VlaStoreError:
        super().at(**places)
        return self._name()

    def _name(self) -> VlaStoreError:
        if self.hint == _MEND.format("STORE"):
            import shlex

            self.hint = _MEND.format(shlex.quote(self.places.get("store", "STORE")))
        return self


_MEND = (
    "`vla-store verify {0}` names all damage; `vla-store repair {0} --from SOURCE` makes what is damaged again from what the store was "
    "built from, or copy those objects from a copy of the store"
)


class StoreUnfinished(DataError):
    """There is an unfinished build where a store was expected."""


class UnsupportedStore(DataError):
    """The store has a newer format version, or a kind, role, codec or prediction that this version does not know."""


class MachineError(VlaStoreError, OSError):
    """The disk, a permission, the memory or the network failed."""

    exit_code = 3


class FetchError(MachineError):
    """The storage did not give bytes that should be there."""


class WorkerDied(MachineError):
    """A worker process of a Loader ended unexpectedly."""


class TransformError(VlaStoreError):
    """A transform or a dataset raised while making a sample. The message names the sample and ends with the traceback."""


def machine_error(error: OSError | MemoryError, doing: str, path: object = None) -> MachineError:
    """Return a `MachineError` that explains an error of the operating system."""
    if isinstance(error, MemoryError):
        return MachineError(
            f"out of memory while {doing}",
            path=path,
            hint="free some memory; a build needs less with a smaller --max-memory or fewer --workers",
        )
    hints = {
        errno.ENOSPC: "free some space or choose another disk, then run the same command again: it resumes",
        errno.EDQUOT: "free some of your quota, then run the same command again: it resumes",
        errno.EACCES: "check the permissions of the folder",
        errno.EPERM: "check the permissions of the folder",
        errno.EROFS: "the file system is mounted read-only: choose another destination",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
        errno.ENFILE: "the machine has too many files open: end what needs them not",
        errno.EIO: "the disk or the network storage failed (`dmesg` says more): copy the data elsewhere, then run the same command again",
        errno.ESTALE: "the network storage lost the file: mount it again, then run the same command again",
        errno.ENOTCONN: "the network storage is gone: mount it again, then run the same command again",
        errno.ETIMEDOUT: "the network storage does not answer: run the same command again when it does",
        errno.ENOMEM: "free some memory, or raise its limit (ulimit -v), then run the same command again",
        errno.ENAMETOOLONG: "choose a shorter name",
    }
    reason = error.strerror or str(error)
    return MachineError(
        f"{reason} while {doing}",
        path=path if path is not None else error.filename,
        hint=hints.get(error.errno or 0, ""),
    )


@contextlib.contextmanager
def machine_errors(doing: str, path: object = None) -> Iterator[None]:
    """Raise errors of the operating system in this block as `machine_error` words them.

    Errors of vla_store pass as they are.

    Parameters
    ----------
    doing
        What the block does, as it reads after "while": "appending to /data/libero.vla".
    path
        Path that the message names; default: the one that the system's error names.

    Raises
    ------
    MachineError
        In place of an OSError or a MemoryError, with a hint for those that are known.
    """
    try:
        yield
    except VlaStoreError:
        raise
    except (OSError, MemoryError) as error:
        raise machine_error(error, doing, path) from error


def parse_size(text: str) -> int:
    """Return the bytes of "1GiB", "500 MB", "2g".

    Parameters
    ----------
    text
        A number with a unit.

    Returns
    -------
    int

    Raises
    ------
    OptionError
        For what is no size.
    """
    import re  # these two are not for whoever imports only to read
    from decimal import Decimal

    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if not match or match[2] == "i":
        raise OptionError(f"not a size: {text!r}", expected="a number with a unit, as in 1GiB or 800MB")
    return int(Decimal(match[1]) * _UNITS[match[2]])


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def whole_number(name: str, given: Any, least: int | None = 1, most: int | None = None) -> int:
    """Return an option that is a whole number, NumPy's or Python's.

    Parameters
    ----------
    name
        Name of the option, for the message.
    given
        Value of the option.
    least, most
        Bounds, both included; None for no bound. Default: at least 1.

    Returns
    -------
    int
        The value as Python's int.

    Raises
    ------
    OptionError
        The value is no whole number (a bool is none), or out of bounds.
    """
    try:
        value = index_of(given)
    except TypeError:
        value = None
    if value is None or (least is not None and value < least) or (most is not None and value > most):
        bound = "" if least is None else f" of at least {least}" if most is None else f" from {least:,} to {most:,}"
        raise OptionError(f"{name} is a whole number{bound}", found=repr(given)[:100])
    return value


def index_of(given: Any) -> int:
    """Return a whole number, NumPy's or Python's, as Python's int. Raises TypeError for others: a bool, also NumPy's, is none."""
    if isinstance(given, (bool, np.bool_)):  # NumPy before 2 takes its own bool for 0 or 1
        raise TypeError(f"a bool is no whole number: {given!r}")
    return operator.index(given)


def finite_number(name: str, given: Any, least: float = -math.inf, most: float = math.inf) -> float:
    """Return an option that is a number, NumPy's or Python's; a bool, a NaN and an infinity are none.

    Parameters
    ----------
    name
        Name of the option, for the message.
    given
        Value of the option.
    least, most
        Bounds, both included.

    Raises
    ------
    OptionError
        The value is no such number, or out of bounds.
    """
    try:
        value = math.nan if isinstance(given, bool) or not isinstance(given, numbers.Real) else float(given)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value) or not least <= value <= most:
        bound = (
            f" from {least:g} to {most:g}"
            if math.isfinite(most)
            else f", {least:g} or more"
            if math.isfinite(least)
            else ""
        )
        raise OptionError(f"{name} is a finite number{bound}", found=repr(given)[:100])
    return value


def yes_or_no(name: str, given: Any) -> bool:
    """Return an option that is a bool, NumPy's or Python's. Raises OptionError for others: a text "no" would be taken for True."""
    if not isinstance(given, (bool, np.bool_)):
        raise OptionError(f"{name} is True or False", found=repr(given)[:100])
    return bool(given)


def several(given: Any) -> list[Any]:
    """Return what was given where one or several may be, as a list: a text, a path or what cannot be iterated is one; None is nothing."""
    is_one = isinstance(given, (str, bytes, os.PathLike)) or not isinstance(given, Iterable)
    return [] if given is None else [given] if is_one else list(given)


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn, at the line outside this package that led to it."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level)
