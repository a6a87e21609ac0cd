"""The server of `vla-store view`: who may ask, for what, and how it ends."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import store_tools
from range_server import RangeServer

from vla_store import MachineError, OptionError, StoreNotFound, open_store
from vla_store.browse import Serving, serve
from vla_store.cli import main


@pytest.fixture(scope="module")
def serving(tiny_store: Path) -> Iterator[Serving]:
    with serve(tiny_store) as found:
        yield found


class Asked:
    """An answer: its status, headers, body; `json` of it."""

    def __init__(self, serving: Serving, path: str, method: str = "GET", **headers: str) -> None:
        port = int(serving.url.rstrip("/").rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        self.status, self.headers, self.body = answer.status, answer.headers, answer.read()
        connection.close()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def test_the_page_and_all_it_loads_come_from_here_and_nothing_else_is_allowed(serving: Serving) -> None:
    page = Asked(serving, "/")

    assert page.status == 200
    policy = dict(each.strip().partition(" ")[::2] for each in page.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert {policy[each] for each in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    for path, kind in (("/page.js", "text/javascript"), ("/page.css", "text/css"), ("/icon.svg", "image/svg+xml")):
        found = Asked(serving, path)
        assert (found.status, found.headers["Content-Type"].partition(";")[0]) == (200, kind)
        assert found.headers["X-Content-Type-Options"] == "nosniff"
        assert b"http://" not in found.body.replace(b"http://www.w3.org/2000/svg", b"")
        assert b"https://" not in found.body


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/api", "/api/nothing", "/static/page.js", "/../page.js", "/page.js/", "/%2e%2e/answers.py", "/["],
)
def test_any_other_path_is_not_found(serving: Serving, path: str) -> None:
    found = Asked(serving, path)

    assert found.status == 404
    assert found.json["error"]["what"] == "there is nothing here"


def test_only_get_and_head_are_answered(serving: Serving) -> None:
    head, got = Asked(serving, "/api/store", "HEAD"), Asked(serving, "/api/store")

    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(got.body))
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        refused = Asked(serving, "/api/store", method)
        assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD"), method


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9", "[::1]:80", "127.0.0.1:8888"])
def test_any_name_of_this_machine_may_be_asked_by(serving: Serving, host: str) -> None:
    assert Asked(serving, "/api/store", Host=host).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:80", "localhost.evil.example", "", "[::1", "10.0.0.1"]
)
def test_a_name_that_was_made_to_lead_here_is_refused(serving: Serving, host: str) -> None:
    found = Asked(serving, "/api/store", Host=host)

    assert found.status == 403
    assert found.json["error"]["found"] == host
    assert "127.0.0.1" in found.json["error"]["expected"]


@pytest.mark.parametrize(
    ("path", "expected", "found"),
    [
        ("episode?episode=x", "a whole number from 0 to 9", "'x'"),
        ("episode?episode=10", "a whole number from 0 to 9", "'10'"),
        ("episode?episode=-1", "a whole number from 0 to 9", "'-1'"),
        ("episode?episode=٣", "a whole number from 0 to 9", "'٣'"),
        ("episode", "a whole number from 0 to 9", "nothing"),
        ("episode?episode=1&episode=2", "each parameter once", "'2'"),
        ("episode?episode=1&color=red", "none of this name", "'red'"),
        ("episode?episode=%ff", None, None),
        ("episodes?success=maybe", "any, yes, no", "'maybe'"),
        ("episodes?suite=libero_100", None, None),
        ("episodes?view=none", "none", None),
        ("episodes?count=501", "a whole number from 1 to 500", "'501'"),
        ("steps?episode=0&start=0&stop=99999", None, None),
        ("steps?episode=0&start=5&stop=5", None, None),
        ("sample?episode=0&step=3&windows=actions", "FIELD", "actions"),
        ("sample?episode=0&step=3&alignment=casual", "causal, as_stored", "'casual'"),
        ("sample?episode=0&step=3&view=none", "none", None),
    ],
)
def test_bad_parameters_are_told_with_what_was_expected(
    serving: Serving, path: str, expected: str | None, found: str | None
) -> None:
    from urllib.parse import quote

    answered = Asked(serving, quote(f"/api/{path}", safe="/?=&%"))

    assert answered.status == 400, answered.body
    error = answered.json["error"]
    assert error["what"]
    assert error["expected"], error
    assert expected is None or expected in error["expected"]
    assert found is None or error["found"] == found
    assert Asked(serving, "/api/store").status == 200


def test_a_port_that_is_taken_is_one_clear_error(
    serving: Serving, tiny_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = serving.url.rstrip("/").rpartition(":")[2]

    assert main(["view", str(tiny_store), "--port", port]) == 3
    store_tools.assert_one_screen(capsys.readouterr().err, f"port {port} of 127.0.0.1 is taken", "--port 0")
    with pytest.raises(MachineError, match="is taken"):
        serve(tiny_store, port=int(port))


def test_hosts_ports_and_stores_that_cannot_be_are_refused(tiny_store: Path, tmp_path: Path) -> None:
    for port in (-1, 65_536, "80"):
        with pytest.raises(OptionError, match="port is a whole number"):
            serve(tiny_store, port=port)  # type: ignore[arg-type]
    for host in ("192.0.2.1", "no.such.host.invalid"):
        with pytest.raises(OptionError, match="no such address"):
            serve(tiny_store, host=host)
    with pytest.raises(StoreNotFound):
        serve(tmp_path / "none.vla")


def test_closing_frees_the_port_and_ends_connections_that_were_kept(tiny_store: Path) -> None:
    with serve(open_store(tiny_store)) as serving:
        port = int(serving.url.rstrip("/").rpartition(":")[2])
        kept = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        kept.request("GET", "/api/store")
        assert kept.getresponse().read()
        assert serving.is_open
    assert not serving.is_open
    with pytest.raises((ConnectionError, http.client.HTTPException)):  # noqa: PT012
        kept.request("GET", "/api/store")
        kept.getresponse()
    kept.close()
    with serve(tiny_store, port=port) as again:
        assert Asked(again, "/api/store").status == 200
    with pytest.raises(ConnectionError):
        socket.create_connection(("127.0.0.1", port), timeout=10).close()


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_prints_its_address_on_one_line_and_ends_at_ctrl_c(tiny_store: Path, as_json: bool) -> None:
    command = [*store_tools.COMMAND, "view", str(tiny_store), "--port", "0", *(["--json"] if as_json else [])]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=store_tools.environment()
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        url = json.loads(line)["url"] if as_json else line.split()[0]
        port = int(url.rstrip("/").rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        connection.close()
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (0, "", "")


def test_a_store_behind_a_url_is_shown_and_its_faults_are_told_until_they_pass(
    tiny_store: Path, tmp_path: Path
) -> None:
    pytest.importorskip("aiohttp", reason="http:// needs aiohttp")
    shutil.copytree(tiny_store, tmp_path / "s.vla")
    with RangeServer(tmp_path) as web, serve(open_store(f"{web.url}/s.vla", fetcher="fsspec")) as serving:
        local = open_store(tiny_store)
        web.faults["*"] = "refused"
        broken = Asked(serving, "/api/steps?episode=2&start=0&stop=3")
        assert broken.status in (502, 503)
        assert "s.vla" in json.dumps(broken.json["error"]["places"])
        web.faults.clear()
        assert Asked(serving, "/api/episodes?text=cups").json["total"] == sum(
            "cups" in each.text for each in local.episodes
        )
        with serve(tiny_store) as near:
            for path in ("steps?episode=2&start=0&stop=3", "curves?episode=2", "sample?episode=2&step=3"):
                far, same = Asked(serving, f"/api/{path}"), Asked(near, f"/api/{path}")
                assert (far.status, far.body) == (200, same.body)
