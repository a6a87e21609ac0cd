"""How a place that a user names is opened: the registry of storages, and the handle that travels.

Owns the schemes. Imports errors, and what else is in storage.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vla_store.errors import OptionError, UnknownName, parse_size, whole_number
from vla_store.storage.base import Storage
from vla_store.storage.local import LocalStorage
from vla_store.storage.obstore import ObstoreStorage, open_remote
from vla_store.storage.paths import is_url, local_path, place_of
from vla_store.storage.remote import FsspecStorage
from vla_store.types import Fetcher

Opener = Callable[..., Storage]

_READ = (("mapped", False),)
_SCHEMES: dict[str, Opener] = {}


def register(scheme: str, opener: Opener) -> None:
    """Open URLs of a scheme by `opener`, in place of fsspec.

    Parameters
    ----------
    scheme
        What stands before `://`, in small letters.
    opener
        Called as ``opener(url, **storage_options)``; gives a `Storage`. A function or class at the top of a module, so that a
        `Location` can travel to other processes.
    """
    _SCHEMES[scheme] = opener


class Location(NamedTuple):
    """Where a store lies and what opens it; small, and pickles.

    Attributes
    ----------
    url
        An absolute path, or a URL.
    opener
        Called with the URL and `options` as keyword arguments; gives a `Storage`.
    options
        Pairs of names and values.
    cache
        Folder that keeps what was fetched, and the most bytes it may take (None: what the disk has); None for no cache.
    """

    url: str
    opener: Opener
    options: tuple[tuple[str, Any], ...] = ()
    cache: tuple[str, int | None] | None = None

    @property
    def is_local(self) -> bool:
        """True where the store lies at a path of this machine."""
        return not is_url(self.url)

    def after(self, storage: Storage | None) -> Location:
        """Return the location for another process, with what a storage that it opened found out of its files.

        Parameters
        ----------
        storage
            The storage that was opened; None where none was.

        Returns
        -------
        Location
            One that reads files, where `storage` could not map them into memory; else this one.
        """
        is_unmappable = isinstance(storage, LocalStorage) and not storage.mapped
        return self._replace(options=_READ) if is_unmappable else self

    def open(self, connect: bool = True) -> Storage:
        """Open the storage.

        Parameters
        ----------
        connect
            Find out now whether the place can be reached; otherwise the first thing that is asked does. Whoever finds all near never
            asks, and never imports what asking needs.

        Returns
        -------
        Storage

        Raises
        ------
        Whatever the opener raises; OptionError for a folder that cannot be a cache.
        """
        storage = self.opener(self.url, **dict(self.options))
        if connect:
            storage.connect()
        if self.cache is None and (storage.is_near or _transient is None):
            return storage
        from vla_store.storage.mirrored import mirrored  # not for whoever reads local files

        return mirrored(storage, self.cache, _transient)


def transient(folder: str) -> None:
    """Let all far storage that this process opens from now on keep in this folder what is fetched ahead, until it is released.

    Parameters
    ----------
    folder
        A folder for nothing else, which whoever made it removes.
    """
    global _transient
    _transient = folder


_transient: str | None = None

_FETCHERS: dict[Fetcher, tuple[Opener, tuple[tuple[str, Any], ...]]] = {
    "mmap": (LocalStorage, ()),
    "pread": (LocalStorage, _READ),
    "fsspec": (FsspecStorage, ()),
    "obstore": (ObstoreStorage, ()),
}


def locate(
    url: str | os.PathLike[str],
    fetcher: Fetcher | None = None,
    options: Mapping[str, Any] | None = None,
    cache: str | os.PathLike[str] | None = None,
    cache_size: str | int | None = None,
) -> Location:
    """Return the location that a user asked for.

    Parameters
    ----------
    url
        A path or URL, as `place_of` takes it.
    fetcher
        "mmap" (default for paths), "pread", "fsspec" or "obstore" (for URLs of no registered scheme: obstore where it is installed
        and can read this URL with these options, else fsspec).
    options
        What the storage takes besides the URL.
    cache
        Folder of this machine that keeps what is fetched, for URLs and for paths on a network. Default: VLA_STORE_CACHE of the
        environment, for URLs; "" for none.
    cache_size
        The most bytes that all of that folder may take, as a number or as in "200GB". Default: VLA_STORE_CACHE_SIZE of the environment,
        else what the disk has, but for a little.

    Raises
    ------
    OptionError, UnknownName
        Where these do not go together.
    """
    place = place_of(url)
    if options is not None and not isinstance(options, Mapping):
        raise OptionError("storage_options is a mapping of names to values", found=repr(options)[:100])
    given = tuple(sorted((options or {}).items()))
    if fetcher is not None and fetcher not in _FETCHERS:
        raise UnknownName.among("fetcher", fetcher, list(_FETCHERS))
    if is_url(place):
        if fetcher not in (None, "fsspec", "obstore"):
            raise OptionError(
                f"fetcher={fetcher!r} reads local files only", store=place, hint="leave `fetcher` out for a URL"
            )
        named = _FETCHERS[fetcher][0] if fetcher else _SCHEMES.get(place.partition("://")[0])
        opener: Opener = named or open_remote
        return Location(place, opener, given, _cache(cache, cache_size, os.environ))
    if fetcher == "obstore":
        raise OptionError("fetcher='obstore' reads URLs only", store=place, hint="leave `fetcher` out for a path")
    opener, own = _FETCHERS[fetcher or "mmap"]
    if given and fetcher != "fsspec":
        raise OptionError(
            "storage_options are for URLs and fetcher='fsspec'", store=place, found=", ".join(name for name, _ in given)
        )
    kept = _cache(cache, cache_size, {})
    if kept and opener is LocalStorage:
        own = _READ  # maps of a network file system are what the cache is to stand for
    return Location(place, opener, own or given, kept)


def _cache(
    folder: str | os.PathLike[str] | None, size: str | int | None, environment: Mapping[str, str]
) -> tuple[str, int | None] | None:
    folder = environment.get("VLA_STORE_CACHE") if folder is None else folder
    size = environment.get("VLA_STORE_CACHE_SIZE") if size is None else size
    if folder is None or folder == "":
        return None
    nbytes = parse_size(size) if isinstance(size, str) and size else size or None
    if nbytes is not None:
        whole_number("cache_size", nbytes)
    return str(local_path(folder, "a cache")), nbytes


def open_storage(url: str | os.PathLike[str]) -> Storage:
    """Open the place of a store to manage: its objects may change meanwhile, so local files are read, not mapped, and no cache is asked.

    Parameters
    ----------
    url
        A path or URL, as `place_of` takes it.

    Returns
    -------
    Storage

    Raises
    ------
    OptionError, StoreNotFound, FetchError
        For what is neither a path nor a URL, and for a URL that cannot be opened.
    """
    location = locate(url, cache="")
    return LocalStorage(location.url, mapped=False) if location.is_local else location.open()
