"""What of far storage's failures is temporary, and how often and for how long it is asked again. Imports nothing of this package.

Owns the limits: of tries, of the time that they take together, and of the time that one of them may make no progress.
"""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

TRIES = 8
FIRST_WAIT_S, MOST_WAIT_S = 0.1, 5.0
TOTAL_S = 60.0  # nothing is asked for again later than this after it was first asked for
log = logging.getLogger("vla_store.storage")

STALL_S = 10.0  # what makes no progress for so long has failed
SLOWEST_RATE = 100_000  # bytes a second; a large answer may take longer than STALL_S

_TEMPORARY = frozenset({408, 429, 500, 502, 503, 504})
_CODES = frozenset(
    {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "ThrottlingException"}
)
_BROKEN = (ConnectionError, TimeoutError)
# The same, of what is not imported here, where readers of local stores would pay for it: of asyncio, http.client, aiohttp,
# botocore, urllib3, requests and httpx.
_BROKEN_NAMES = frozenset(
    {
        "ClientConnectionError",
        "ClientPayloadError",
        "ConnectionClosedError",
        "ConnectionError",
        "FSTimeoutError",
        "HTTPClientError",
        "IncompleteRead",
        "IncompleteReadError",
        "ProtocolError",
        "ResponseStreamingError",
        "TimeoutError",  # asyncio's, which is a class of its own in Python 3.10
    }
)
_UNREACHED_NAMES = frozenset({"ClientConnectorError", "EndpointConnectionError"})


class WrongAnswer(Exception):
    """Storage answered with other bytes than were asked for. is_temporary: where asking again may help."""

    def __init__(self, said: str, is_temporary: bool = True) -> None:
        super().__init__(said)
        self.is_temporary = is_temporary


def retried(
    ask: Callable[[list[int], int], Sequence[Any]], count: int, again: Callable[[BaseException], bool]
) -> tuple[list[Any], int]:
    """Ask for many things at once, and for those that fail temporarily again.

    At most `TRIES` times, with waits between them that double from `FIRST_WAIT_S` to `MOST_WAIT_S`, by chance up to half shorter; and
    not after `TOTAL_S`.

    Parameters
    ----------
    ask
        Given numbers of the things that are wanted, and how often they were asked for before, gives for each what was asked for, or
        the error. Each try takes at most what `within` allows.
    count
        How many things there are, from 0.
    again
        Tells of an error whether it is temporary.

    Returns
    -------
    list, int
        What was asked for, or the last error, of each; and how many requests were made again.
    """
    found: list[Any] = [None] * count
    wanted, retries, began = list(range(count)), 0, time.monotonic()
    for number in range(TRIES):
        for at, each in zip(wanted, ask(wanted, number)):
            found[at] = each
        wanted = [at for at in wanted if isinstance(found[at], BaseException) and again(found[at])]
        wait_s = min(MOST_WAIT_S, FIRST_WAIT_S * 2**number) * random.uniform(0.5, 1)
        if not wanted or number + 1 == TRIES or time.monotonic() + wait_s - began > TOTAL_S:
            break
        kind = type(found[wanted[0]]).__name__  # its text may have a signed URL in it
        log.info("%d of %d requests are made again in %.1f s: %s", len(wanted), count, wait_s, kind)
        time.sleep(wait_s)
        retries += len(wanted)
    return found, retries


async def within(asked: Sequence[Awaitable[Any]], nbytes: int) -> list[Any]:
    """Await many answers at once, and give up those of which none comes for `STALL_S`, and a second more for `SLOWEST_RATE` bytes.

    Parameters
    ----------
    asked
        What is awaited.
    nbytes
        Bytes of the largest answer.

    Returns
    -------
    list
        The answer or the error of each; TimeoutError where it was given up.
    """
    import asyncio

    tasks = [asyncio.ensure_future(each) for each in asked]
    patience_s, pending = STALL_S + nbytes / SLOWEST_RATE, set(tasks)
    while pending:
        done, pending = await asyncio.wait(pending, timeout=patience_s)
        if pending and not done:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=1)
            break
    late = TimeoutError(f"no answer within {patience_s:.0f} seconds")
    return [late if not task.done() or task.cancelled() else task.exception() or task.result() for task in tasks]


def is_temporary(error: BaseException, has_answered: bool) -> bool:
    """Tell whether asking again may help.

    Parameters
    ----------
    error
        What a request ended with.
    has_answered
        Whether this storage answered before: then one that cannot be reached now may be again, else its name is wrong.

    Returns
    -------
    bool
    """
    for each in causes(error):
        if isinstance(each, WrongAnswer):
            return each.is_temporary
        if (status := _own_status(each)) is not None:
            return status in _TEMPORARY or _code(each) in _CODES
        if _code(each) in _CODES:
            return True
        names = {kind.__name__ for kind in type(each).__mro__}
        if "SSLCertVerificationError" in names or is_refusal(each):
            return False
        is_refused = isinstance(each, OSError) and each.errno == errno.ECONNREFUSED
        if is_refused or "gaierror" in names or names & _UNREACHED_NAMES:
            return has_answered and "ClientSSLError" not in names
        if isinstance(each, _BROKEN) or names & _BROKEN_NAMES:
            return True
    return False


def is_refusal(error: BaseException) -> bool:
    """Tell whether storage refuses access, or who should give credentials for it gives none."""
    if isinstance(error, PermissionError) or status_of(error) in (401, 403):
        return True
    # As gcsfs says 403, and as Azure's packages say that nobody has credentials.
    is_forbidden = isinstance(error, OSError) and str(error).startswith("Forbidden: ")
    return is_forbidden or any(kind.__name__ == "ClientAuthenticationError" for kind in type(error).__mro__)


def status_of(error: BaseException | None) -> int | None:
    """Return the HTTP status that an error stands for, or one below it: of aiohttp's, botocore's, gcsfs's or Azure's."""
    return next((status for each in causes(error) if (status := _own_status(each)) is not None), None)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Iterate over an error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__


def check_range(asked: str | None, status: int, said: str | None, length: int | None) -> None:
    """Check the range of an answer against the one that was asked for. Raises WrongAnswer.

    Parameters
    ----------
    asked
        The request's Range.
    status
        Of the answer.
    said
        Its Content-Range.
    length
        Its Content-Length; None where it has none, or one of something else.
    """
    if asked is None or status not in (200, 206) or not asked.startswith("bytes="):
        return
    first, _, last = asked.removeprefix("bytes=").partition("-")
    if not first or not last:
        return
    if status == 200:
        if first != "0" or length is None or length > int(last) + 1:  # else it is all that was asked for
            found = "all" if length is None else f"all {length}"
            raise WrongAnswer(f"{found} bytes of the object instead of a range of them", is_temporary=False)
    elif said is not None:
        extent, _, total = said.removeprefix("bytes ").strip().partition("/")
        start, _, end = extent.partition("-")
        is_cut = total.isdecimal() and end == str(int(total) - 1) and int(end) < int(last)
        is_whole = length is None or not (start + end).isdecimal() or length == int(end) + 1 - int(start)
        if start != first or not (end == last or is_cut) or not is_whole:
            raise WrongAnswer(f"Content-Range {said[:60]} of {length} bytes where {asked} was asked for")


def _own_status(error: BaseException) -> int | None:
    response = getattr(error, "response", None)
    metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
    status = getattr(error, "status", metadata.get("HTTPStatusCode"))
    if status is None:
        status = getattr(error, "status_code", None)
    if status is None and type(error).__name__ == "HttpError":
        status = getattr(error, "code", None)
    return status if isinstance(status, int) and status else None


def _code(error: BaseException) -> str | None:
    response = getattr(error, "response", None)
    said = response.get("Error") if isinstance(response, dict) else None
    return str(said.get("Code")) if isinstance(said, dict) else None
