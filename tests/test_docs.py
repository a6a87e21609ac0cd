"""The code of README.md and docs/ runs, prints what it shows, and no link leads nowhere.

Every fenced block of code is run in order, one process and one folder a page (pages of torch in forks of a process that has it). The folder holds what the pages speak of:
`LIBERO` (the demonstrations, a folder of suites), `layouts` (sample files of other layouts), `libero_human_lengths.csv` (of docs/data),
`libero.vla` (its `fast` store, unless the page builds it), and an S3 bucket
`my-bucket` and a web server `https://data.example.org` that both hold libero.vla. Pages are read like this:

    python            run; the blocks of a page share their names
    console           the lines after "$ " are run; the others are what they print
    sh                all of it is run
    text              not code; straight after a python block: what it prints
    json, toml, ...   not run
    <!-- not run: REASON -->     before a block of code: it is listed as skipped, with the reason
    <!-- file: NAME -->          before a block: it is written to a file, which a later command must name
    <!-- exit: CODE -->          before a console block: its commands exit with this code
    <!-- raises: NAME -->        before a python block: it raises this error; its text counts as printed

Shown output is compared word by word: white space does not count, `...` stands for anything (also for the rest of a word). Integers
are exact. Only what is measured or rounded may differ: numbers with a decimal point, and those before a unit of bytes (MB), by 2 %;
times, rates, ids and folders by anything.

`python tests/test_docs.py` writes docs/reference/cli.md anew from --help, and in README.md the table of costs from
benchmarks/results/reading.json and what is said of other formats from benchmarks/results/loaders.json.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import http.server
import importlib.util
import inspect
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import vla_store

CHECKOUT = Path(__file__).resolve().parents[1]
RUNNER = Path(__file__).with_name("run_page.py")
CLI_PAGE = CHECKOUT / "docs/reference/cli.md"
README = CHECKOUT / "README.md"
MEASURED = CHECKOUT / "benchmarks/results/reading.json"
MEASURED_LOADERS = CHECKOUT / "benchmarks/results/loaders.json"
PERFORMANCE = CHECKOUT / "docs/performance.md"
HUMAN_LENGTHS = CHECKOUT / "docs/data/libero_human_lengths.csv"

CODE = {"python", "console", "sh"}
NO_CODE = {"text", "json", "toml", "yaml", "diff"}
TIMEOUT_S = 280

# What a page may use without saying so.
PRELUDES = {
    # "yours" in the README's training loop.
    "README.md": "import torch\n"
    "class policy(torch.nn.Module):\n"
    "    def __init__(self):\n"
    "        super().__init__(); self.layer = torch.nn.Linear(9, 16 * 7)\n"
    "    def forward(self, batch):\n"
    "        assert batch['agentview_rgb'].shape[1:] == (2, 128, 128, 3), batch['agentview_rgb'].shape\n"
    "        return self.layer(batch['robot_states']).reshape(-1, 16, 7)\n"
    "policy = policy()\n",
}


@dataclass(frozen=True)
class Block:
    """A fenced block. line: of its opening fence, from 1. markers: of the comment before it. after_python: nothing but
    blank lines between it and the end of a python block."""

    page: str
    line: int
    language: str
    text: str
    markers: dict[str, str]
    after_python: bool

    @property
    def is_code(self) -> bool:
        return self.language in CODE or "file" in self.markers

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    return [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]


def linked_pages() -> list[Path]:
    return [*pages(), *(CHECKOUT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"))]


def name_of(page: Path) -> str:
    return page.relative_to(CHECKOUT).as_posix() if page.is_relative_to(CHECKOUT) else page.name


def parse(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    blocks: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    markers: dict[str, str] = {}
    after_python = False
    at = 0
    while at < len(lines):
        line = lines[at]
        opened = re.match(r"( *)(`{3,}|~{3,})\s*([\w.+-]*)\s*$", line)
        marker = re.match(r"\s*<!--\s*(not run|file|exit|raises):\s*(.+?)\s*-->\s*$", line)
        if opened:
            indent, fence, language = opened.groups()
            start = at
            at += 1
            body: list[str] = []
            while at < len(lines) and not re.match(rf" *{fence[0]}{{{len(fence)},}}\s*$", lines[at]):
                body.append(lines[at].removeprefix(indent))
                at += 1
            assert at < len(lines), f"{name_of(page)}:{start + 1}: a block that does not end"
            blocks.append(
                Block(name_of(page), start + 1, language, "".join(f"{each}\n" for each in body), markers, after_python)
            )
            after_python = language == "python" and "not run" not in markers
            markers = {}
        elif marker:
            markers[marker[1]] = marker[2]
        elif line.strip():
            assert not markers, f"{name_of(page)}:{at + 1}: a comment for a block that does not follow"
            after_python = False
        at += 1
    return blocks


def runnable(page: Path) -> list[Block]:
    return [block for block in parse(page) if block.is_code and "not run" not in block.markers]


def not_run() -> list[Block]:
    return [block for page in pages() for block in parse(page) if block.is_code and "not run" in block.markers]


# --- running a page --------------------------------------------------------------------------------------------------


class AfterTorch:
    """Runs pages in forks of a process that has imported torch already: a tenth of what all pages take."""

    def __init__(self) -> None:
        library = str(Path(vla_store.__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, [library, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, RUNNER, "torch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": path}, start_new_session=True,
        )  # fmt: skip

    def run(self, folder: Path, environment: dict[str, str], sent: str) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryDirectory() as name:
            files = {each: Path(name, each) for each in ("input", "output", "errors")}
            files["input"].write_text(sent, encoding="utf-8")
            page = {"folder": folder, "environment": environment, **files}
            self._process.stdin.write(f"{json.dumps(page, default=str)}\n")
            self._process.stdin.flush()
            answered, _, _ = select.select([self._process.stdout], [], [], TIMEOUT_S)
            if not answered:
                raise subprocess.TimeoutExpired(f"{RUNNER} torch", TIMEOUT_S)
            code = int(self._process.stdout.readline() or -1)
            out, errors = (files[each].read_text(encoding="utf-8") for each in ("output", "errors"))
        return subprocess.CompletedProcess([], code, out, errors)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@dataclass(frozen=True)
class World:
    """What pages find: the demonstrations, their store, and where both are served."""

    source: Path
    layouts: Path
    store: Path
    web: str
    s3: str
    tools: Path
    after_torch: AfterTorch | None


def run_page(page: Path, folder: Path, world: World | None) -> str:
    """Runs the page's blocks in `folder`; what is wrong, or "" """
    blocks = parse(page)
    running = [block for block in blocks if block.is_code and "not run" not in block.markers]
    text = page.read_text(encoding="utf-8")
    environment = {**os.environ, "COLUMNS": "80", "HOME": str(folder), "PYTHONHASHSEED": "0"}
    for name in ("VLA_STORE_DEMOS", "VLA_STORE_TEST_STORES", "LINES", "FORCE_COLOR"):
        environment.pop(name, None)
    library = str(Path(vla_store.__file__).resolve().parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [library, environment.get("PYTHONPATH")]))
    if world:
        (folder / "LIBERO").symlink_to(world.source, target_is_directory=True)
        (folder / "layouts").symlink_to(world.layouts, target_is_directory=True)
        (folder / HUMAN_LENGTHS.name).symlink_to(HUMAN_LENGTHS)
        if not re.search(r"vla-store build[^\n]* libero\.vla|\"libero\.vla\"\)?,? *#? *built", text):
            shutil.copytree(world.store, folder / "libero.vla")
        environment |= {
            "PATH": f"{world.tools}{os.pathsep}{environment['PATH']}",
            "AWS_ENDPOINT_URL": world.s3,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    sent = [described(block, world) for block in running]
    prelude = PRELUDES.get(name_of(page))
    if prelude:
        first = Block(name_of(page), 1, "python", prelude, {}, False)
        running, sent = [first, *running], [described(first, world), *sent]
    if world and world.after_torch and any("torch" in block.text for block in running if block.language == "python"):
        done = world.after_torch.run(folder, environment, json.dumps(sent))
    else:
        done = subprocess.run(
            [sys.executable, RUNNER], cwd=folder, env=environment, input=json.dumps(sent), text=True,
            capture_output=True, timeout=TIMEOUT_S,
        )  # fmt: skip
    if done.returncode:
        return f"{name_of(page)}: the process that ran it died with {done.returncode}\n{done.stderr}"
    result = json.loads(done.stdout)
    if result["failed"]:
        failed = result["failed"]
        return f"{name_of(page)}:{failed['line']}\n{failed['why']}\n{failed['output']}\n{done.stderr}"
    wrong = [
        f"{block.place}: this is shown:\n{shown}\nthis is printed:\n{printed}\n{reason}"
        for block, printed in zip(running, result["outputs"], strict=True)
        for shown in [shown_output(block, blocks)]
        for reason in [difference(shown, printed)]
        if reason
    ]
    return "\n".join(wrong)


def described(block: Block, world: World | None) -> dict[str, Any]:
    """A block as run_page.py takes it, with the places of the docs turned into places of this machine."""
    text = block.text.replace("https://data.example.org", world.web) if world else block.text
    return {
        "exit": int(block.markers.get("exit", 0)),
        "file": block.markers.get("file"),
        "language": block.language,
        "line": block.line,
        "page": block.page,
        "raises": block.markers.get("raises"),
        "text": text,
    }


def shown_output(block: Block, blocks: list[Block]) -> str:
    """What a page shows that a block prints, "" where it shows nothing."""
    if block.language == "console":
        lines = iter(block.text.splitlines())
        shown = []
        for line in lines:
            if line.startswith("$ "):
                while line.endswith("\\"):
                    line = next(lines)
                shown.append("...")
            else:
                shown.append(line)
        return "\n".join(shown)
    following = [each for each in blocks if each.line > block.line][:1]
    if block.language == "python" and following and following[0].language == "text" and following[0].after_python:
        return following[0].text
    return ""


def difference(shown: str, printed: str) -> str:
    """Why `shown` is not what was printed; "" where it is. `...` stands for anything, the start and the end as well."""
    rest = printed.split()
    shown = re.sub(r"(?<=\S)\.\.\.(?=\s|$)", f"{BEGUN} ...", shown)
    pieces = re.split(r"(?:^|(?<=\s))\.\.\.(?=\s|$)", shown)
    for piece in pieces:
        words = piece.split()
        at = next((at for at in range(len(rest) - len(words) + 1) if matches(words, rest[at : at + len(words)])), None)
        if at is None:
            return f"not printed (or not in this order): {piece.strip()}"
        rest = rest[at + len(words) :]
    return ""


BEGUN = "\u2026"  # a word that is shown up to here
UNITS_OF_BYTES = re.compile(r"([kMGT]i?)?B[,.;)]?$")
UNITS_OF_TIME = re.compile(r"(s|ms|us|min|left|steps/s|MB/s|samples/s|seconds)[,.;)]?$")


def matches(shown: list[str], printed: list[str]) -> bool:
    for at, (one, other) in enumerate(zip(shown, printed, strict=True)):
        in_folders = not re.fullmatch(r"[\d,./]+", one) and one.rsplit("/")[-1] == other.rsplit("/")[-1]
        if one == other or in_folders or (one.endswith(BEGUN) and other.startswith(one[: -len(BEGUN)])):
            continue
        unit = shown[at + 1] if at + 1 < len(shown) else ""
        named = shown[at - 1] if at else ""
        if not same_word(
            one,
            other,
            anything=bool(UNITS_OF_TIME.match(unit)) or named == "in",
            rounded=bool(UNITS_OF_BYTES.match(unit)),
            identity=named.startswith("fingerprint"),
        ):
            return False
    return True


def same_word(one: str, other: str, *, anything: bool, rounded: bool, identity: bool) -> bool:
    if re.fullmatch(r"[0-9a-f]{12,}", one) and re.fullmatch(r"[0-9a-f]{12,}", other):
        return one == other if identity else True
    number = r"[0-9][0-9,]*(?:\.[0-9]+)?(?:e-?[0-9]+)?"
    if re.sub(number, "#", one) != re.sub(number, "#", other):
        return anything and bool(re.search(number, one)) and bool(re.search(number, other))
    pairs = zip(re.findall(number, one), re.findall(number, other))
    return anything or all(same_number(a.replace(",", ""), b.replace(",", ""), rounded=rounded) for a, b in pairs)


def same_number(one: str, other: str, *, rounded: bool) -> bool:
    if one.isdigit() and other.isdigit() and not rounded:
        return int(one) == int(other)
    a, b = float(one), float(other)
    return abs(a - b) <= 0.02 * max(abs(a), abs(b))


# --- what pages find ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def world(demos: Path, layouts: Path, demo_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    tools = tmp_path_factory.mktemp("tools")
    for name, module in (("vla-store", "-m vla_store"), ("python", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        (tools / name).chmod(0o755)
    served = tmp_path_factory.mktemp("served")
    (served / "libero.vla").symlink_to(demo_store, target_is_directory=True)
    after_torch = AfterTorch() if importlib.util.find_spec("torch") else None
    try:
        with web_server(served) as web, s3_server(demo_store) as s3:
            yield World(demos / "libero", layouts, demo_store, web, s3, tools, after_torch)
    finally:
        if after_torch:
            after_torch.end()


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Files, and byte ranges of them: what the standard library's server lacks and a store needs."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not path.is_file():
            self.send_error(404)
            return
        size = path.stat().st_size
        start = int(wanted[1]) if wanted else 0
        stop = min(int(wanted[2]) + 1 if wanted and wanted[2] else size, size)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(max(0, stop - start)))
        self.send_header("Accept-Ranges", "bytes")
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.end_headers()
        with path.open("rb") as file:
            file.seek(start)
            self.wfile.write(file.read(max(0, stop - start)))

    def log_message(self, *arguments: Any) -> None:
        pass


@contextlib.contextmanager
def web_server(folder: Path) -> Iterator[str]:
    def handler(*arguments: Any) -> RangeHandler:
        return RangeHandler(*arguments, directory=str(folder))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@contextlib.contextmanager
def s3_server(store: Path) -> Iterator[str]:
    """A real S3 API on this machine, whose bucket my-bucket holds libero.vla."""
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        client = boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="my-bucket")
        for path in store.rglob("*"):
            if path.is_file():
                client.upload_file(str(path), "my-bucket", f"libero.vla/{path.relative_to(store).as_posix()}")
        client.close()
        yield url
    finally:
        server.stop()


# --- the tests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in pages() if runnable(page)], ids=name_of)
def test_the_code_of_a_page_runs_and_prints_what_it_shows(page: Path, world: World, tmp_path: Path) -> None:
    wrong = run_page(page, tmp_path, world)
    assert not wrong, wrong


@pytest.mark.parametrize("block", not_run(), ids=lambda block: block.place)
def test_a_block_that_does_not_run_says_why(block: Block) -> None:
    reason = block.markers["not run"]
    assert len(reason.split()) >= 3, f"{block.place}: {reason!r} is no reason"
    pytest.skip(f"{block.place} does not run: {reason}")


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_block_has_a_language_and_every_file_is_used(page: Path) -> None:
    blocks = parse(page)
    for block in blocks:
        assert block.language in CODE | NO_CODE, f"{block.place}: a block of {block.language or 'no language'}"
        assert block.is_code or not block.markers, f"{block.place}: a comment for code before a block that is none"
        if "file" in block.markers:
            later = "".join(each.text for each in blocks if each.line > block.line and each.language != "text")
            assert block.markers["file"] in later, f"{block.place}: {block.markers['file']} is never used"


@pytest.mark.parametrize("page", [page for page in linked_pages() if page.exists()], ids=name_of)
def test_no_link_of_a_page_leads_nowhere(page: Path) -> None:
    assert not dead_links(page)


def test_every_page_is_reached_from_the_readme() -> None:
    found, left = set(), [CHECKOUT / "README.md"]
    while left:
        page = left.pop()
        if page not in found and page.suffix == ".md" and page.exists():
            found.add(page)
            left += [
                (page.parent / target.partition("#")[0]).resolve() for target in links(page) if is_relative(target)
            ]
    assert not sorted(name_of(page) for page in set(pages()) - found)


def test_the_index_names_every_page_of_the_docs() -> None:
    index = CHECKOUT / "docs/index.md"
    named = {(index.parent / target.partition("#")[0]).resolve() for target in links(index) if is_relative(target)}
    below = {page for page in pages() if index.parent in page.parents} - {index, index.parent / "data/README.md"}
    assert not sorted(name_of(page) for page in below - named)


def test_commands_and_the_readme_fit_eighty_columns() -> None:
    """Prose elsewhere is wrapped by whatever shows it; Python may be as wide as in this repository."""
    wide = [
        f"{name_of(page)}:{block.line + number}: {line}"
        for page in pages()
        for block in parse(page)
        if block.is_code
        for number, line in enumerate(block.text.splitlines(), 1)
        if len(line) > (120 if block.language == "python" else 80)
    ]
    wide += [
        f"README.md:{n}"
        for n, line in enumerate((CHECKOUT / "README.md").read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 80
    ]
    assert not wide, "\n".join(wide)


def links(page: Path) -> list[str]:
    prose = re.sub(r"^( *)(```|~~~).*?^ *\2", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"`[^`\n]*`", "``", prose)
    return re.findall(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)", prose) + re.findall(
        r"^\[[^\]]+\]:\s*(\S+)", prose, re.M
    )


def is_relative(target: str) -> bool:
    return not re.match(r"[a-z][a-z0-9+.-]*:", target)


def dead_links(page: Path) -> list[str]:
    """Relative links to files, folders or headings that do not exist."""
    dead = []
    for target in filter(is_relative, links(page)):
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if not place.exists() or (anchor and place.suffix == ".md" and anchor not in anchors(place)):
            dead.append(f"{name_of(page)}: {target}")
    return dead


def anchors(page: Path) -> set[str]:
    """The anchors that headings get: lower case, spaces to dashes, other punctuation gone; repeats numbered."""
    prose = re.sub(r"^( *)(```|~~~).*?^ *\2", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found: dict[str, int] = {}
    names = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", prose))
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", prose, re.M):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        names.add(f"{slug}-{found[slug]}" if slug in found else slug)
        found[slug] = found.get(slug, 0) + 1
    return names


# --- the reference pages say what the code says --------------------------------------------------------------------------


def cli_page() -> str:
    """docs/reference/cli.md, from --help."""
    from vla_store.cli.parser import make_parser

    parser = make_parser()
    commands: dict[str, Any] = parser._subparsers._group_actions[0].choices  # type: ignore[union-attr, assignment]
    parts = [
        "# Command line",
        "",
        "<!-- Written by `python tests/test_docs.py` from --help; a test holds it current. Change vla_store/cli/ instead. -->",
        "",
        "Results go to stdout, progress and messages to stderr. Exit codes and errors: [errors](errors.md).",
        "`vla-store help COMMAND` is `vla-store COMMAND --help`, and `python -m vla_store` is `vla-store`.",
        "How-to guides: [convert](../how-to/convert.md), [inspect](../how-to/inspect.md), [bad files](../how-to/bad-files.md).",
        "",
        "```text",
        help_of(parser),
        "```",
    ]
    for name, command in commands.items():
        parts += ["", f"## vla-store {name}", "", "```text", help_of(command), "```"]
        inner = command._subparsers._group_actions[0].choices if command._subparsers else {}
        for second, each in inner.items():
            parts += ["", f"### vla-store {name} {second}", "", "```text", help_of(each), "```"]
    return "\n".join(parts) + "\n"


def help_of(parser: Any) -> str:
    os.environ["COLUMNS"] = "80"
    return str(parser.format_help().strip())


def test_the_command_line_page_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    # Interpreters differ in where they break the lines of a usage.
    assert CLI_PAGE.read_text(encoding="utf-8").split() == cli_page().split(), "run: python tests/test_docs.py"


COSTS = re.compile(r"(<!-- costs: [^\n]*-->\n).*?(<!-- end of costs -->)", re.DOTALL)
PRESETS = {"raw": "no codec", "fast": "the default", "small": "for slow disks and networks"}


def costs(result: dict[str, Any]) -> str:
    """The README's table, from what benchmarks/reading.py measured."""
    ratios, machine = result["ratios"], result["environment"]["machine"]
    rows = []
    for preset, what in PRESETS.items():
        opened, kept = (
            ratios[f"ours, {preset}, out= / {rival}"]["median"]
            for rival in ("HDF5 opened, slices only", "h5py, kept handles")
        )
        rows.append(f"| `{preset}`: {what} | {result['sizes'][preset]:.3f} | {opened:.1f} x | {kept:.2f} x |")
    more = f"\n[All figures]({PERFORMANCE.relative_to(CHECKOUT).as_posix()}).\n" if PERFORMANCE.exists() else ""
    return (
        "| preset | size | against HDF5 opened per sample | against h5py kept open |\n"
        "|---|---|---|---|\n" + "\n".join(rows) + "\n\n"
        "Size: of the HDF5's bytes. The others: how many times as many samples per\n"
        "second, in one process with all files in memory; two cameras with two frames\n"
        f"each, 64 actions, batches of {result['batch_size']}; medians of {result['rounds']} rounds on a shared server\n"
        f"({machine['cpu']}, {machine['cores']} cores). h5py with its files kept open copies uncompressed\n"
        "pictures: the rival to beat while all of them fit in your memory.\n" + more
    )


@pytest.mark.skipif(not MEASURED.exists(), reason="benchmarks/results/reading.json is not there: nothing was measured")
def test_the_costs_in_the_readme_are_the_measured_ones() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == with_costs(text, json.loads(MEASURED.read_text(encoding="utf-8"))), "run: python tests/test_docs.py"


def with_costs(text: str, result: dict[str, Any]) -> str:
    assert COSTS.search(text), "README.md has lost the place of its table of costs"
    return COSTS.sub(lambda found: found[1] + costs(result) + found[2], text)


RIVALS = re.compile(r"(<!-- rivals: [^\n]*-->\n).*?(<!-- end of rivals -->)", re.DOTALL)


def rivals(result: dict[str, Any]) -> str:
    """What README says of other formats, from what benchmarks/loaders.py measured; nothing of what could not be measured."""
    rows = {(row["contender"], row["kind"]): row for row in result["rows"]}

    def told(contender: str) -> str:
        """Its size and its two rates; "" where one is missing."""
        of = [rows.get((contender, kind)) for kind in ("step", "window")]
        if of[0] is None or of[1] is None:
            return ""
        rates = " and ".join(f"{row['samples_per_s']['median']:,.0f}" for row in of if row)
        return f"{of[1]['nbytes'] / 1e6:.1f} MB, {rates}"

    ours = "; ".join(f"`{name}` {told(f'vla_store `{name}`, Loader')}" for name in ("fast", "small"))
    video, png = told("LeRobotDataset v3, AV1"), told("LeRobotDataset v3, PNG")
    lossy = rows.get(("LeRobotDataset v3, AV1", "window"), {}).get("psnr")
    raw, lance_png, rlds_png = told("Lance, raw"), told("Lance, PNG"), told("RLDS, PNG")
    said = [
        f"Measured over {result['episodes']} LIBERO demonstrations ({result['steps']:,} steps, two cameras of 128 pixels): size, and "
        "samples a second of single steps and of windows (two frames of each camera, 64 actions), by the loader of each with "
        f"{result['workers']} workers. A store: {ours}; it has every field, the others those of the samples.",
        "- **LeRobot** is where the field shares data, with a hub and tools. "
        + (f"As AV1 video: {video}; " if video else "Its video is small; ")
        + f"but its frames are not those that were recorded{f' ({lossy:.1f} dB)' if lossy else ''}, and a random one costs the decoding "
        + ("of others." + (f" As PNG: {png}." if png else "")),
        "- **RLDS** is what OpenVLA and Octo read; but it is read as a stream, shuffled within a buffer, not by sample."
        + (f" As PNG: {rlds_png}." if rlds_png else ""),
        "- **Lance** also gives rows in any order, of tables that can be queried and changed."
        + (f" Raw pixels: {raw}." if raw else "")
        + (f" As PNG: {lance_png}." if lance_png else "")
        + " Over 20 ms of network it gave 1,754 samples/s, a store 3,556, and 12,113 while a local disk kept what was fetched.",
        "[All loaders](docs/performance.md#beside-the-loaders-that-others-use).",
    ]
    first, *items, last = (
        textwrap.fill(
            each,
            80,
            subsequent_indent="  " if each.startswith("- ") else "",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for each in said
    )
    return "\n".join([first, "", *items, "", last]) + "\n"


@pytest.mark.skipif(not MEASURED_LOADERS.exists(), reason="benchmarks/results/loaders.json is not there")
def test_what_the_readme_says_of_other_formats_is_measured() -> None:
    text = README.read_text(encoding="utf-8")
    result = json.loads(MEASURED_LOADERS.read_text(encoding="utf-8"))
    assert text == with_rivals(text, result), "run: python tests/test_docs.py"


def test_a_format_that_could_not_be_measured_is_said_without_figures() -> None:
    def row(contender: str, kind: str, rate: float) -> dict[str, Any]:
        return {
            "contender": contender,
            "kind": kind,
            "nbytes": 2_500_000,
            "psnr": None,
            "samples_per_s": {"median": rate},
        }

    ours = [
        row(f"vla_store `{name}`, Loader", kind, 9_876) for name in ("fast", "small") for kind in ("step", "window")
    ]
    lance = [row("Lance, raw", "step", 1_234), row("Lance, raw", "window", 56), row("Lance, PNG", "step", 7)]
    said = " ".join(rivals({"episodes": 13, "steps": 2_058, "workers": 2, "rows": [*ours, *lance]}).split())
    assert "`fast` 2.5 MB, 9,876 and 9,876;" in said
    assert "changed. Raw pixels: 2.5 MB, 1,234 and 56. Over" in said
    assert "Its video is small; but its frames are not those that were recorded, and" in said


def with_rivals(text: str, result: dict[str, Any]) -> str:
    assert RIVALS.search(text), "README.md has lost the place of what it says of other formats"
    return RIVALS.sub(lambda found: found[1] + rivals(result) + found[2], text)


def public_modules() -> dict[str, Any]:
    import vla_store.audit
    import vla_store.browse
    import vla_store.builder
    import vla_store.errors

    found = {"vla_store": vla_store, "vla_store.browse": vla_store.browse, "vla_store.builder": vla_store.builder}
    with contextlib.suppress(ImportError):
        import vla_store.torch

        found["vla_store.torch"] = vla_store.torch
    return found


def test_the_api_page_has_every_public_name_and_no_other() -> None:
    from vla_store import errors

    headings = set(
        re.findall(r"^#{2,4} `([\w.]+)", (CHECKOUT / "docs/reference/api.md").read_text(encoding="utf-8"), re.M)
    )
    raised = {name for name in vars(errors) if isinstance(vars(errors)[name], type)}
    public = {f"{module}.{name}" for module, found in public_modules().items() for name in found.__all__}
    public = {name for name in public if name.rpartition(".")[2] not in raised} | {"vla_store.audit.verify_store"}
    documented = {name for name in headings if name.startswith("vla_store")}
    assert documented == {name for name in public if not name.rpartition(".")[2].startswith("__")}


def test_the_api_page_names_every_parameter() -> None:
    page = (CHECKOUT / "docs/reference/api.md").read_text(encoding="utf-8")
    sections = re.split(r"^#{2,4} `", page, flags=re.M)[1:]

    for section in sections:
        dotted = re.match(r"[\w.]+", section)[0]  # type: ignore[index]
        module, _, name = dotted.rpartition(".")
        found = getattr(sys.modules.get(module), name, None)
        if callable(found) and dotted.startswith("vla_store"):
            for parameter in inspect.signature(found).parameters.values():
                if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                    assert re.search(rf"\b{parameter.name}\b", section), f"{dotted}: {parameter.name} is not described"


def test_the_errors_page_has_the_whole_tree_with_exit_codes() -> None:
    from vla_store import errors

    page = (CHECKOUT / "docs/reference/errors.md").read_text(encoding="utf-8")
    classes = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.VlaStoreError)
    ]
    for each in classes:
        row = re.search(rf"^\| `{each.__name__}` \|.*$", page, re.M)
        assert row, f"{each.__name__} is missing"
        parent = next(base for base in each.__mro__[1:])
        assert f"`{parent.__name__}`" in row[0], f"{each.__name__} stands below {parent.__name__}"
        assert each is errors.VlaStoreError or f"| {each.exit_code} |" in row[0], (
            f"{each.__name__} exits {each.exit_code}"
        )


# --- what bad-files.md quotes ------------------------------------------------------------------------------------------

BAD_FILES = CHECKOUT / "docs/how-to/bad-files.md"
LEAST_FIXED = 10  # characters that are not filled in, for a text to say something


def quoted_sentences() -> list[str]:
    """What the tables of bad-files.md quote as what a user sees: the code in their third column."""
    rows = [line.strip("|").split(" | ") for line in BAD_FILES.read_text(encoding="utf-8").splitlines()]
    return [sentence for row in rows if len(row) == 4 for sentence in re.findall(r"`([^`]+)`", row[2])]


@functools.cache
def texts_of_the_package() -> frozenset[str]:
    """The texts in the package's code, docstrings aside; \0 stands for what is filled in."""
    found = set()
    for path in Path(vla_store.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                found.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                found.add("".join(str(each.value) if isinstance(each, ast.Constant) else "\0" for each in node.values))
    return frozenset(each for each in found if len(each.replace("\0", "")) >= LEAST_FIXED)


def is_printed(sentence: str) -> bool:
    """Whether a text of the package, or its first words, filled in, are this sentence."""
    shown = ".*".join(re.escape(piece) for piece in sentence.split("..."))
    return any(
        re.match(shown, text, re.DOTALL)
        or any(re.fullmatch(start, sentence.removesuffix("...").strip()) for start in starts_of(text, sentence))
        for text in texts_of_the_package()
    )


def starts_of(text: str, sentence: str) -> Iterator[str]:
    """The first words of a text as patterns, up to each of its words, where the longest of what is fixed stands in the sentence."""
    if max(text.split("\0"), key=len)[:LEAST_FIXED] in sentence:
        for end in re.finditer(r"(?=[\s:;,]|\Z)", text):
            start = text[: end.start()]
            if len(start.replace("\0", "")) >= LEAST_FIXED:
                yield ".+?".join(re.escape(each) for each in start.split("\0"))


@pytest.mark.parametrize("sentence", quoted_sentences())
def test_a_sentence_that_bad_files_quotes_is_the_packages(sentence: str) -> None:
    assert is_printed(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "the HDF5 file is too short",
        "actions are all finite numbers",
        "the HDF5 file is truncated, or not",
        "rows ... of the ... demo",
    ],
)
def test_a_sentence_that_nothing_prints_is_found(sentence: str) -> None:
    assert not is_printed(sentence)


# --- this test itself ------------------------------------------------------------------------------------------------


def page_of(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


@pytest.mark.parametrize(
    "text",
    [
        "```python\n1 / 0\n```\n",
        "```python\nimport vla_stores\n```\n",
        "```python\nprint(1 +)\n```\n",
        "```python\nprint(1)\n```\n\n```text\n2\n```\n",
        "```python\nprint(212, 'steps')\n```\n\n```text\n213 steps\n```\n",
        "```python\nprint((2058, 128))\n```\n\n```text\n(2,059, 128)\n```\n",
        "```python\nprint('batch 38/39')\n```\n\n```text\nbatch 39/39\n```\n",
        "```python\nprint('2,058 B of 1.5')\n```\n\n```text\n2,058 B of 1.6\n```\n",
        "```console\n$ python -c 'raise SystemExit(3)'\n```\n",
        "```console\n$ echo one\ntwo\n```\n",
        "```console\n$ echo one two\ntwo\none\n```\n",
        "```sh\nfalse\ntrue\n```\n",
        "<!-- raises: ValueError -->\n```python\nprint(1)\n```\n",
        "<!-- raises: ValueError -->\n```python\n{}[1]\n```\n",
        "<!-- exit: 1 -->\n```console\n$ true\n```\n",
    ],
)
def test_a_broken_block_fails(text: str, tmp_path: Path) -> None:
    assert run_page(page_of(tmp_path, text), tmp_path, None)


@pytest.mark.parametrize(
    "text",
    [
        "```python\na = 1\n```\n\n```python\nprint(a, 'and', 1.001)\n```\n\n```text\n1 and\n1.0\n```\n",
        "```console\n$ echo /tmp/x/libero.vla took 3.1 s at 2,000 steps/s\n/data/libero.vla took 7 s at 9 steps/s\n```\n",
        "```python\nprint('205 MB (at most 1.01 GiB), 2,058 steps')\n```\n\n```text\n204 MB (at most 1.0 GiB), 2058 steps\n```\n",
        "```console\n$ printf 'a b\\nc d\\ne'\na\n...\nd e\n```\n",
        "<!-- raises: ValueError -->\n```python\nint('x')\n```\n\n```text\nValueError: invalid literal\n...\n```\n",
        "<!-- exit: 2 -->\n```console\n$ ls /nowhere-at-all\n```\n",
        "<!-- file: it.py -->\n```python\nprint(7)\n```\n\n```console\n$ python3 it.py\n7\n```\n",
        "<!-- not run: it would take a week -->\n```python\n1 / 0\n```\n",
    ],
)
def test_a_whole_block_passes(text: str, tmp_path: Path) -> None:
    assert run_page(page_of(tmp_path, text), tmp_path, None) == ""


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A heading: with `code`\n")
    text = "[a](there.md) [b](there.md#a-heading-with-code) [c](gone.md) [d](there.md#none) [e](#here) `[f](no.md)`\n# Here\n"
    assert [each.split()[1] for each in dead_links(page_of(tmp_path, text))] == ["gone.md", "there.md#none"]


def test_a_comment_without_a_block_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="does not follow"):
        parse(page_of(tmp_path, "<!-- not run: because of something -->\n\nProse.\n"))


if __name__ == "__main__":
    CLI_PAGE.parent.mkdir(parents=True, exist_ok=True)
    CLI_PAGE.write_text(cli_page(), encoding="utf-8")
    print(f"wrote {name_of(CLI_PAGE)}")
    for measured, with_figures in ((MEASURED, with_costs), (MEASURED_LOADERS, with_rivals)):
        if measured.exists():
            found = json.loads(measured.read_text(encoding="utf-8"))
            README.write_text(with_figures(README.read_text(encoding="utf-8"), found), encoding="utf-8")
            print(f"wrote README.md from {name_of(measured)}")
