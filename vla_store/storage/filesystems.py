"""Filesystems of fsspec's: one of a URL for each process, asked for ranges beside each other.

The only module that makes them; `paths` asks fsspec for names, and who reads waits in its event loop. Owns fsspec's peculiarities: instances
shared between users, forks, listings that are kept, limits that are too low, answers that nobody checks. Imports errors, `paths`
and `retrying`.
"""

from __future__ import annotations

import contextlib
from typing import Any

from vla_store.errors import FetchError, OptionError, StoreNotFound
from vla_store.storage.paths import is_url
from vla_store.storage.retrying import STALL_S, WrongAnswer, check_range, status_of, within

CONNECTIONS = 100  # at one time; botocore has 10 by itself, aiohttp 100


async def asked_at_once(fs: Any, paths: list[str], starts: list[int], stops: list[int]) -> list[Any]:
    ask = _from_s3 if hasattr(fs, "_call_s3") else _from_azure if hasattr(fs, "service_client") else _from_any
    most = max(stop - start for start, stop in zip(starts, stops))
    return await within([ask(fs, *each) for each in zip(paths, starts, stops)], most)


async def _from_any(fs: Any, path: str, start: int, stop: int) -> bytes:
    return await fs._cat_file(path, start=start, end=stop)  # type: ignore[no-any-return]


async def _from_s3(fs: Any, path: str, start: int, stop: int) -> bytes:
    # As s3fs reads, which does not look at the range of the answer.
    bucket, key, version = fs.split_path(path)
    asked = f"bytes={start}-{stop - 1}"
    given = {"VersionId": version} if version else {}
    answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, Range=asked, **given)
    with contextlib.closing(answer["Body"]) as body:
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 206)
        check_range(asked, status, answer.get("ContentRange"), answer.get("ContentLength"))
        return bytes(await body.read())


async def _from_azure(fs: Any, path: str, start: int, stop: int) -> bytes:
    # As adlfs reads, but that its client would ask again by itself, after 15 seconds and more.
    container, key, version = fs.split_path(path)
    async with fs.service_client.get_blob_client(container=container, blob=key) as blob:
        try:
            answer = await blob.download_blob(offset=start, length=stop - start, version_id=version, retry_total=0)
        except Exception as error:
            if status_of(error) != 404:
                raise
            raise FileNotFoundError(path) from error
        return bytes(await answer.readall())


async def _check_answer(response: Any) -> None:
    """Look at an answer of aiohttp's before its body is read."""
    try:
        check_range(
            response.request_info.headers.get("Range"),
            response.status,
            response.headers.get("Content-Range"),
            None if "Content-Encoding" in response.headers else response.content_length,
        )
    except WrongAnswer:
        response.close()
        raise


def with_limits(url: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return options of fsspec's with connections enough and time-outs, where the user has not named his own."""
    protocol = url.partition("://")[0].lower()
    if protocol in ("s3", "s3a"):
        return options | {"config_kwargs": {"max_pool_connections": CONNECTIONS} | (options.get("config_kwargs") or {})}
    if protocol in ("http", "https"):
        with contextlib.suppress(ImportError):  # which fsspec says
            import aiohttp

            patience = aiohttp.ClientTimeout(total=None, sock_connect=STALL_S, sock_read=STALL_S)
            own = {"timeout": patience, "raise_for_status": _check_answer}
            return options | {"client_kwargs": own | (options.get("client_kwargs") or {})}
    return options


def connected(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    """Return fsspec's filesystem of a URL for this process, and the root in it. Raises what `filesystem_of` raises."""
    # After a fork the event loop of fsspec's instances belongs to a thread that is not here.
    _forget_the_parents_loop()
    fs, root = filesystem_of(url, options)
    _CONNECTED[id(fs)] = fs
    # fsspec shares instances, and answers sizes from listings that somebody made before.
    fs.invalidate_cache()
    return fs, root


def filesystem_of(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    """Return fsspec's filesystem of a URL, and the root in it. Raises OptionError, StoreNotFound, FetchError."""
    import fsspec

    try:
        if not is_url(url):
            return fsspec.filesystem("file", **options), url  # as it stands: fsspec would take `::` in it for a chain
        fs, root = fsspec.core.url_to_fs(url, **with_limits(url, options))
    except ImportError as error:
        protocol = url.partition("://")[0].rpartition("::")[2].lower()
        extra = {"s3": "s3", "s3a": "s3", "http": "http", "https": "http"}.get(protocol)
        raise OptionError(
            f"this URL needs another package: {error}",
            store=url,
            hint=f'pip install "vla-store[{extra}]"' if extra else "install the package that is named above with pip",
        ) from error
    except ValueError as error:
        if fsspec.utils.get_protocol(url.rpartition("::")[2]) in fsspec.available_protocols():
            raise OptionError(
                f"this URL cannot be opened with these options: {str(error) or type(error).__name__}",
                store=url,
                hint="check storage_options, and what the environment says of this storage",
            ) from error
        raise OptionError(
            f"fsspec does not know this URL: {error}",
            store=url,
            hint=f"check what stands before ://; if a local path is called so, write ./{url}",
        ) from error
    except FileNotFoundError as error:  # of a chain: what it would read from
        raise StoreNotFound("no store at this URL", store=url, found=error, hint="check the URL") from error
    except Exception as error:
        raise FetchError(
            "fsspec cannot open this URL", store=url, found=text_of(error), hint=hint_for(error)
        ) from error
    return fs, str(root).rstrip("/")


def hint_for(error: BaseException) -> str:
    """Return what a user may do where storage failed like this."""
    return _WITHOUT_CREDENTIALS if "Credentials" in type(error).__name__ else "try again; then the network"


_WITHOUT_CREDENTIALS = (
    "give the storage's credentials (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile); a public bucket "
    "needs none: FSSPEC_S3_ANON=true in the environment, or storage_options={'anon': True}"
)

# Instances of fsspec's, kept for good. A forked process that freed one of its parent's would close the connections in it,
# and so take them out of the epoll that both processes share: the parent would wait for ever for its next answer.
_CONNECTED: dict[int, Any] = {}


def _forget_the_parents_loop() -> None:
    """Make fsspec start an event loop in a forked process: before 2025.5 it waits for ever for the parent's."""
    import fsspec.asyn

    thread = fsspec.asyn.iothread[0]
    if thread is not None and not thread.is_alive():
        fsspec.asyn.reset_lock()


def is_past_the_end(error: BaseException) -> bool:
    """Tell whether storage refused a range because the object ends before it begins."""
    return status_of(error) == 416 or "not satisfiable" in str(error)


def text_of(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def creates_itself(fs: Any) -> bool:
    """Tell whether a filesystem of fsspec's has its own way to create an object. The inherited one looks whether there is one and
    then writes, and of two writers at once both would be told that they were first."""
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    fs = innermost(fs)
    if isinstance(fs, AsyncFileSystem):
        return type(fs)._pipe_file is not AsyncFileSystem._pipe_file
    return type(fs).pipe_file is not AbstractFileSystem.pipe_file


def protocols_of(fs: Any) -> tuple[str, ...]:
    protocol = innermost(fs).protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def innermost(fs: Any) -> Any:
    """Return the filesystem that caches and the like of fsspec's stand before."""
    from fsspec import AbstractFileSystem

    while isinstance(inner := getattr(fs, "fs", None), AbstractFileSystem):
        fs = inner
    return fs
