"""Names that users give: each is resolved to an absolute local path or a URL, by one rule for all commands and calls.

    ~, ~user          are expanded, also after file:// and local://, which say that a path follows
    what exists here  is a local path, whatever its name looks like
    NAME://...        is a URL; and so is NAME::..., where fsspec has a protocol NAME: a chain
    all else          is a local path

Names that nobody means (an empty one, a URL that lost a slash, a variable that no shell expanded) are refused, unless they exist:
as something to write, each would become a folder of that name without a word. Imports errors only, and asks fsspec for its protocols.
"""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

from vla_store.errors import OptionError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

_FILE = re.compile(r"(?:file|local)://(?:localhost(?=/))?", re.IGNORECASE)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_CHAIN = re.compile(r"([A-Za-z][A-Za-z0-9+._-]*)::")
_PROTOCOL_FIRST = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)//")
_MISTAKES = (
    (re.compile(r"[A-Za-z]:[\\/]"), "a path of Windows", "give the path that this system has for it"),
    (re.compile(r"[A-Za-z0-9+.-]*:/"), "a URL that lost something", "a URL begins with NAME:// and is given as text"),
    (re.compile(r"\$\{?\w"), "a variable that was not expanded", "write it out, or let the shell expand it"),
    (re.compile(r"\s"), "a name with white space before it", "give the name alone"),
)


def place_of(given: str | os.PathLike[str]) -> str:
    """Return the absolute path or the URL that a name stands for, by the rules at the top of this module.

    Parameters
    ----------
    given
        A path or URL, as text or a path object.

    Returns
    -------
    str
        An absolute path, or a URL with its scheme in lower case and no slash at its end.

    Raises
    ------
    OptionError
        For what can be neither.
    """
    text = os.fspath(given) if isinstance(given, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text:
        raise OptionError(
            "this is neither a path nor a URL",
            found=repr(given),
            hint="an empty name comes of a variable without a value; . is the current folder" if text == "" else "",
        )
    said = _FILE.match(text)
    path = _home(text[said.end() :] if said else text)
    if said and "%" in path and not os.path.lexists(path):
        from urllib.parse import unquote

        path = unquote(path, errors="surrogateescape")
    _check_possible(path)
    if not said and not os.path.lexists(path):
        if _is_url(text):
            scheme, separator, rest = text.partition(":")
            return scheme.lower() + separator + (rest if rest.endswith("://") or rest == "//" else rest.rstrip("/"))
        _refuse_mistakes(text)
    return _absolute(path)


def is_url(place: str) -> bool:
    """Tell a URL from a path.

    Parameters
    ----------
    place
        What `place_of` gave.

    Returns
    -------
    bool
        True for a URL.
    """
    return not os.path.isabs(place)


def local_path(given: str | os.PathLike[str], what: str) -> Path:
    """Return the absolute path that a name stands for.

    Parameters
    ----------
    given
        A path, as text or a path object.
    what
        What it is, for the error message; "a table of lengths", say.

    Returns
    -------
    Path

    Raises
    ------
    OptionError
        As `place_of` does, and also for a URL.
    """
    from pathlib import Path  # not for whoever imports only to read: it costs milliseconds

    place = place_of(given)
    if is_url(place):
        raise OptionError(f"{what} is a local path", found=place)
    return Path(place)


def output_path(given: str | os.PathLike[str], suffixes: tuple[str, ...]) -> Path:
    """Return the path of a file to write, if one of that kind can be written there.

    Parameters
    ----------
    given
        A path, as text or a path object.
    suffixes
        Endings that the name may have, in lower case and with their dot. Capital letters in the name are allowed.

    Returns
    -------
    Path

    Raises
    ------
    OptionError
        For what is no local path, or has another ending.
    UsageError
        Where there is a folder of this name, or no folder to write to.
    """
    made = local_path(given, "what is written")
    if made.suffix.lower() not in suffixes:
        raise OptionError(
            "not a name that can be written to", expected=f"a name that ends in {' or '.join(suffixes)}", found=made
        )
    if made.is_dir():
        raise UsageError("there is a folder of this name", path=made, hint="choose another name")
    if not made.parent.is_dir():
        import shlex

        raise UsageError(
            "the folder to write to does not exist", path=made.parent, hint=f"mkdir -p {shlex.quote(str(made.parent))}"
        )
    return made


def check_length(path: str | os.PathLike[str]) -> None:
    """Refuse a path that is too long for the file system.

    Parameters
    ----------
    path
        A path of this machine.

    Raises
    ------
    OptionError
        Where it is too long.
    """
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            name = os.path.basename(path)
            raise OptionError(
                "the name is too long for the file system",
                name=name[:60] + "..." * (len(name) > 60),
                length=f"{len(os.fsencode(name))} bytes, of {len(os.fsencode(path))} with its folders",
                hint="choose a shorter name",
            ) from None


def _home(text: str) -> str:
    if not text.startswith("~"):
        return text
    path = os.path.expanduser(text)
    if path == text and not os.path.lexists(text):
        raise OptionError(
            "there is no such home folder", found=text, hint=f"write ./{text} if the name itself begins with ~"
        )
    return path


def _check_possible(path: str) -> None:
    try:
        is_possible = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        is_possible = False
    if not path or not is_possible:
        raise OptionError("this can be no path", found=repr(path)[:100])


def _is_url(text: str) -> bool:
    chain = _CHAIN.match(text)
    return bool(_URL.match(text)) or bool(chain and _is_protocol(chain[1]))


def _is_protocol(name: str) -> bool:
    from fsspec.registry import known_implementations, registry

    return name in known_implementations or name in registry


def _refuse_mistakes(text: str) -> None:
    if text != text.rstrip():
        raise OptionError("this name ends with white space", found=repr(text), hint="give the name alone")
    for mistake, what, hint in _MISTAKES:
        if mistake.match(text) and not os.path.lexists(text.partition("/")[0] or "/"):
            raise _mistake(text, what, hint)
    named = _PROTOCOL_FIRST.match(text)
    if named and _is_protocol(named[1]) and not os.path.lexists(named[1]):
        raise _mistake(text, "a URL without its colon", f"{named[1]}:{text[len(named[1]) :]}")


def _mistake(text: str, what: str, hint: str) -> OptionError:
    return OptionError(
        f"this looks like {what}", found=repr(text), hint=f"{hint}; if it is meant as it stands, write ./{text}"
    )


def _absolute(path: str) -> str:
    # `..` after a link is the folder above the place where the link leads, which the text does not tell.
    parts = path.split("/")
    if ".." in parts:
        last = len(parts) - parts[::-1].index("..")
        path = os.path.join(os.path.realpath("/".join(parts[:last])), *parts[last:])
    path = os.path.abspath(path)
    check_length(path)
    return path
