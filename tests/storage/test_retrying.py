"""What of far storage's failures is temporary, and how often it is asked again."""

from __future__ import annotations

import asyncio
import errno
import ssl
import time
from typing import Any

import pytest

from vla_store.storage import retrying
from vla_store.storage.retrying import WrongAnswer, check_range, is_refusal, is_temporary, retried, within


class Answered(Exception):
    """As aiohttp's and botocore's are."""

    def __init__(self, status: int | None = None, code: str | None = None) -> None:
        super().__init__(status)
        if status is not None:
            self.status = status
        if code is not None:
            self.response = {"Error": {"Code": code}}


class ClientPayloadError(Exception):
    """Called as aiohttp's."""


class ClientConnectorError(OSError):
    """Called as aiohttp's."""


class HttpResponseError(Exception):
    """Called as Azure's."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status_code = status


class HttpError(Exception):
    """Called as gcsfs's."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class ClientAuthenticationError(Exception):
    """Called as Azure's, where nobody has credentials."""


def caused_by(error: BaseException) -> BaseException:
    outer = FileNotFoundError("all that fsspec says")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    "error",
    [
        *map(Answered, (408, 429, 500, 502, 503, 504)),
        Answered(code="SlowDown"),
        caused_by(Answered(503)),
        HttpResponseError(503),
        HttpError(429),
        ConnectionResetError(),
        TimeoutError(),
        asyncio.TimeoutError(),
        ClientPayloadError(),
        WrongAnswer("short"),
    ],
    ids=repr,
)
def test_what_passes_is_temporary(error: BaseException) -> None:
    assert is_temporary(error, False)


@pytest.mark.parametrize(
    "error",
    [
        *map(Answered, (400, 401, 403, 404, 410, 412, 416)),
        Answered(code="NoSuchKey"),
        caused_by(Answered(404)),
        FileNotFoundError(),
        PermissionError(),
        HttpResponseError(403),
        HttpError(401),
        OSError("Forbidden: all that gcsfs says of 403"),
        ClientAuthenticationError(),
        ValueError(),
        ssl.SSLCertVerificationError(),
        WrongAnswer("all of it", is_temporary=False),
    ],
    ids=repr,
)
def test_what_lasts_is_not(error: BaseException) -> None:
    assert not is_temporary(error, True)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Answered(403), True),
        (Answered(404), False),
        (HttpResponseError(401), True),
        (HttpError(403), True),
        (PermissionError(), True),
        (OSError("Forbidden: gs://bucket"), True),
        (ClientAuthenticationError(), True),
        (OSError("a disk"), False),
    ],
    ids=repr,
)
def test_what_refuses_access_is_told_from_what_fails(error: BaseException, expected: bool) -> None:
    assert is_refusal(error) == expected


@pytest.mark.parametrize("error", [OSError(errno.ECONNREFUSED, "refused"), ClientConnectorError()], ids=repr)
def test_storage_that_cannot_be_reached_may_come_back_if_it_was_there(error: BaseException) -> None:
    assert is_temporary(error, True)
    assert not is_temporary(error, False)


def test_only_what_failed_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_WAIT_S", 0.0)
    asked: list[list[int]] = []

    def ask(wanted: list[int], before: int) -> list[Any]:
        assert before == len(asked)
        asked.append(wanted)
        return [TimeoutError() if each >= 2 * len(asked) else ValueError() if each == 1 else each for each in wanted]

    found, retries = retried(ask, 5, lambda error: is_temporary(error, True))
    assert asked == [[0, 1, 2, 3, 4], [2, 3, 4], [4]]
    assert (found[0], found[2:], retries) == (0, [2, 3, 4], 4)
    assert isinstance(found[1], ValueError)


def test_tries_end_by_their_number_and_by_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, waits = [0.0], list[float]()

    def sleep(wait_s: float) -> None:
        waits.append(wait_s)
        now[0] += wait_s

    def ask(wanted: list[int], before: int) -> list[Any]:
        now[0] += took_s
        return [TimeoutError()]

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    took_s = 0.0
    _, retries = retried(ask, 1, lambda error: True)
    assert (retries, len(waits)) == (retrying.TRIES - 1, retrying.TRIES - 1)
    assert all(0.05 * 2**number <= wait_s <= 0.1 * 2**number for number, wait_s in enumerate(waits[:6]))
    assert max(waits) <= retrying.MOST_WAIT_S
    now[0], took_s = 0.0, retrying.STALL_S
    retried(ask, 1, lambda error: True)
    assert now[0] <= retrying.TOTAL_S + retrying.STALL_S


def test_what_makes_no_progress_is_given_up_and_the_rest_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "STALL_S", 0.2)

    async def answer(wait_s: float) -> bytes:
        await asyncio.sleep(wait_s)
        if not wait_s:
            raise ValueError
        return b"bytes"

    async def ask() -> list[Any]:
        return await within([answer(wait_s) for wait_s in (0.001, 0, 600, 0.01)], 5)

    first, second, third, fourth = asyncio.run(ask())
    assert first == fourth == b"bytes"
    assert isinstance(second, ValueError)
    assert isinstance(third, TimeoutError)


@pytest.mark.parametrize(
    ("asked", "status", "said", "length"),
    [
        ("bytes=5-9", 206, "bytes 5-9/100", 5),
        ("bytes=5-9", 206, "bytes 5-9/*", 5),
        ("bytes=5-9", 206, None, 5),
        ("bytes=0-99", 206, "bytes 0-49/50", 50),
        ("bytes=0-99", 200, None, 50),
        ("bytes=5-9", 503, None, 50),
        (None, 200, None, 50),
        ("bytes=-5", 206, "bytes 95-99/100", 5),
    ],
)
def test_an_answer_of_the_range_that_was_asked_for_is_taken(
    asked: str | None, status: int, said: str | None, length: int
) -> None:
    check_range(asked, status, said, length)


@pytest.mark.parametrize(
    ("asked", "status", "said", "length", "is_lasting"),
    [
        ("bytes=5-9", 206, "bytes 4-8/100", 5, False),
        ("bytes=5-9", 206, "bytes 5-10/100", 6, False),
        ("bytes=5-9", 206, "bytes 5-8/100", 4, False),
        ("bytes=5-9", 206, "nonsense", 5, False),
        ("bytes=0-99", 206, "bytes 0-49/50", 25, False),
        ("bytes=5-9", 200, None, 10, True),
        ("bytes=0-9", 200, None, 100, True),
        ("bytes=0-9", 200, None, None, True),
    ],
)
def test_an_answer_of_another_range_is_an_error(
    asked: str, status: int, said: str | None, length: int | None, is_lasting: bool
) -> None:
    with pytest.raises(WrongAnswer) as caught:
        check_range(asked, status, said, length)
    assert caught.value.is_temporary is not is_lasting
