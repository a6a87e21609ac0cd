"""The stand-in for object storage does what it is told: ranges, S3's listing, counters, delays, caps and every fault."""

from __future__ import annotations

import contextlib
import errno
import http.client
import itertools
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("the server uses epoll", allow_module_level=True)
if not (Path(__file__).resolve().parents[1] / "benchmarks").exists():
    pytest.skip("the tests of an installed wheel run without the checkout", allow_module_level=True)

from benchmarks import object_server
from benchmarks.object_server import FAULTS, NoServer, ObjectServer

DATA = bytes(range(256)) * 1200  # more than one piece of the cap
QUIET = {"latency_ms": 0, "sigma": 0, "cap_mb_s": 0, "fault_rate": 0, "faults": "all", "stall_s": 5, "seed": 1}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    folder = tmp_path_factory.mktemp("objects")
    for key in ("one.vla/c/0/data", "one.vla/a b <&>", "one.vla/empty", "other/x"):
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(b"" if key.endswith("empty") else DATA)
    try:
        with ObjectServer(folder) as server:
            yield server
    except NoServer as error:
        pytest.skip(str(error))


@pytest.fixture
def server(running: ObjectServer) -> ObjectServer:
    running.set(**QUIET)
    running.reset()
    return running


def ask(
    server: ObjectServer, path: str = "/one.vla/c/0/data", asked: str = "", method: str = "GET", timeout: float = 20
) -> tuple[int, dict[str, str], bytes]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)) as connection:
        connection.request(method, path, headers={"Range": f"bytes={asked}"} if asked else {})
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("0-0", 0, 1), ("7-1006", 7, 1007), ("300000-", 300_000, len(DATA)), ("-5", len(DATA) - 5, len(DATA))],
)
def test_a_range_is_those_bytes(server: ObjectServer, asked: str, start: int, stop: int) -> None:
    status, headers, body = ask(server, asked=asked)
    assert (status, body) == (206, DATA[start:stop])
    assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(DATA)}"


def test_what_lies_behind_the_end_or_nowhere_is_refused(server: ObjectServer) -> None:
    assert ask(server, asked=f"{len(DATA)}-{len(DATA) + 5}")[0] == 416
    assert ask(server, "/one.vla/nothing")[0] == ask(server, "/one.vla")[0] == ask(server, "/../secret")[0] == 404
    assert ask(server, method="PUT")[0] == 405


@pytest.mark.parametrize(
    "words",
    [b"\r\n\r\n", b"GET\r\n\r\n", b"GET  \r\n\r\n", b"x" * 20_000, b"GET /%zz%4 HTTP/1.1\r\nRange: bytes=-\r\n\r\n"],
)
def test_what_is_no_request_ends_no_more_than_its_connection(server: ObjectServer, words: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(words)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100)[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 404")
    assert ask(server)[2] == DATA


def test_an_object_comes_whole_by_its_escaped_name_and_empty(server: ObjectServer) -> None:
    assert ask(server, "/one.vla/a%20b%20%3C%26%3E")[2] == ask(server, "/bucket/one.vla/c/0/data")[2] == DATA
    assert ask(server, "/one.vla/empty")[::2] == (200, b"")
    status, headers, body = ask(server, method="HEAD")
    assert (status, headers["Content-Length"], body) == (200, str(len(DATA)), b"")


def test_a_connection_answers_one_request_after_another(server: ObjectServer) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
        for at in range(50):
            connection.request("GET", "/other/x", headers={"Range": f"bytes={at}-{at + 9}"})
            assert connection.getresponse().read() == DATA[at : at + 10]
    counted = server.counters()
    assert (counted["get"], counted["nbytes"], counted["accepted"]) == (50, 500, 2)  # with the one that asks


def test_s3fs_lists_and_reads_without_keys(server: ObjectServer) -> None:
    s3fs = pytest.importorskip("s3fs")
    fs = s3fs.S3FileSystem(**server.s3_options, skip_instance_cache=True)
    keys = ["bucket/one.vla/a b <&>", "bucket/one.vla/c/0/data", "bucket/one.vla/empty"]
    assert sorted(fs.find("bucket/one.vla")) == keys
    assert sorted(fs.ls("bucket/one.vla", detail=False)) == [keys[0], "bucket/one.vla/c", keys[2]]
    assert fs.cat_ranges([keys[1], keys[0]], [3, 0], [9, 2]) == [DATA[3:9], DATA[:2]]
    assert fs.info(keys[1])["size"] == len(DATA)


def test_a_listing_goes_on_where_a_page_ended(server: ObjectServer) -> None:
    pages, token = [], ""
    for _ in range(4):
        words = ask(server, f"/bucket?list-type=2&prefix=one.vla/&max-keys=1&continuation-token={token}")[2].decode()
        pages.append(words.partition("<Key>")[2].partition("</Key>")[0])
        token = words.partition("<NextContinuationToken>")[2].partition("</NextContinuationToken>")[0]
        if not token:
            break
        token = token.replace("&#60;", "%3C").replace("&#38;", "%26").replace("&#62;", "%3E").replace(" ", "%20")
    assert pages == ["one.vla/a b &#60;&#38;&#62;", "one.vla/c/0/data", "one.vla/empty"]


def test_every_request_is_counted_by_kind_until_a_reset(server: ObjectServer) -> None:
    ask(server)
    ask(server, method="HEAD")
    ask(server, "/bucket?list-type=2")
    ask(server, "/nothing", method="HEAD")
    counted = server.reset()
    assert [counted[kind] for kind in ("requests", "get", "head", "list", "missing")] == [4, 1, 2, 1, 1]
    assert counted["nbytes"] > len(DATA)
    assert counted["most_connections"] >= 1 == counted["most_in_flight"]
    assert counted["cpu_s"] > 0
    assert server.counters()["requests"] == 0


def test_an_answer_takes_at_least_the_delay_and_what_the_cap_asks(server: ObjectServer) -> None:
    def took() -> float:
        start = time.monotonic()
        assert ask(server)[2] == DATA
        return time.monotonic() - start

    server.set(latency_ms=30)
    assert took() >= 0.03
    server.set(cap_mb_s=5)
    assert took() >= 0.03 + len(DATA) / 5e6


def test_delays_with_a_tail_differ_and_repeat_by_their_seed(server: ObjectServer) -> None:
    def taken() -> list[float]:
        server.set(latency_ms=4, sigma=1.5, seed=7)
        times = [time.monotonic()]
        for _ in range(8):
            ask(server, asked="0-9")
            times.append(time.monotonic())
        return [stop - start for start, stop in itertools.pairwise(times)]

    first, again = taken(), taken()
    assert max(first) > 2 * min(first)
    # The same draws: each is at least that delay, and what comes on top hits the two independently.
    floor = [min(a, b) for a, b in zip(first, again)]
    assert max(floor) > 2 * min(floor)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_each_kind_is_what_it_is_called(server: ObjectServer, fault: str) -> None:
    server.set(fault_rate=1, faults=fault, stall_s=0.2)
    start = time.monotonic()
    if fault == "reset":
        with pytest.raises(ConnectionResetError):
            ask(server)
    elif fault == "truncated":
        with pytest.raises(http.client.IncompleteRead) as cut:
            ask(server, asked="0-99")
        assert cut.value.partial == DATA[:50]
    else:
        status, headers, body = ask(server, asked="5-104")
        if fault == "wrong-range":
            assert (status, body, headers["Content-Range"]) == (206, DATA[4:104], f"bytes 4-103/{len(DATA)}")
        elif fault == "stall":
            assert (status, body) == (206, DATA[5:105])
            assert time.monotonic() - start >= 0.2
        else:
            assert status == 503
            assert ("Retry-After" in headers) == (fault == "503-retry-after")
    assert server.counters()["faults"] == {name: int(name == fault) for name in FAULTS}
    server.set(fault_rate=0)
    assert ask(server)[2] == DATA


def test_faults_come_at_their_rate_and_repeat_by_their_seed(server: ObjectServer) -> None:
    def drawn() -> list[int]:
        server.set(fault_rate=0.25, faults="503,503-retry-after", seed=3)
        return [ask(server, asked="0-9")[0] for _ in range(80)]

    first = drawn()
    assert first == drawn()
    assert 8 <= first.count(503) <= 34


def test_what_it_does_not_know_it_refuses(server: ObjectServer, tmp_path: Path) -> None:
    for wrong in ({"latency_ms": "soon"}, {"faults": "earthquake"}, {"colour": 1}):
        with pytest.raises(NoServer, match=next(iter(wrong))), ObjectServer(tmp_path, wrong):
            pass
    with pytest.raises(NoServer, match="No such file"), ObjectServer(tmp_path / "nowhere"):
        pass


def test_it_ends_with_the_process_that_started_it(server: ObjectServer) -> None:
    program = f"""
import os, sys
from pathlib import Path
from benchmarks.object_server import ObjectServer
server = ObjectServer(Path({str(server.folder)!r})).__enter__()
print(server.port, flush=True)
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(object_server.__file__).parents[1],
    )
    stop, code = time.monotonic() + 20, 0
    while code != errno.ECONNREFUSED and time.monotonic() < stop:
        with socket.socket() as door:
            code = door.connect_ex(("127.0.0.1", int(done.stdout)))
    assert code == errno.ECONNREFUSED


def test_tls_serves_the_same_under_a_certificate_of_its_own(server: ObjectServer) -> None:
    pytest.importorskip("cryptography")
    try:
        with ObjectServer(server.folder, {"latency_ms": 1}, is_tls=True) as other:
            trust = ssl.create_default_context(cafile=str(other.certificate))
            connection = http.client.HTTPSConnection("127.0.0.1", other.port, timeout=20, context=trust)
            for _ in range(2):
                connection.request("GET", "/other/x")
                assert connection.getresponse().read() == DATA
            connection.close()
            assert other.counters()["get"] == 2
    except NoServer as error:
        pytest.skip(str(error))


def test_the_command_serves_and_says_where(server: ObjectServer) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.object_server",
        str(server.folder),
        "--latency-ms",
        "1",
        "--cap-mb-s",
        "0",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(object_server.__file__).parents[1], env=os.environ
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
        connection.request("GET", "/__counters")
        assert json.load(connection.getresponse())["requests"] == 0
        connection.close()
        process.terminate()
