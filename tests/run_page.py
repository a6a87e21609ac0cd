"""Runs the code of one page of the docs, in order, in the current folder; test_docs.py starts it as a process of its own.

Standard input: JSON [{"language", "line", "page", "text", "file", "raises", "exit"}, ...]. Standard output: JSON
{"outputs": [text, ...], "failed": null or {"line", "why", "output"}}; it stops at the first block that fails. Python blocks share one namespace,
as they do for a reader who types them; commands are run by the shell.

With the argument `torch` it imports that first, which takes longer than most pages, and then runs each page in a fork of itself.
Standard input: a line of JSON a page, {"folder", "environment", "input", "output", "errors"}, the last three being files that stand for
the streams above. Standard output: a line a page, its exit code.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any


class BlockFailed(Exception):
    """Why a block is wrong. output: what it printed before."""

    def __init__(self, why: str, output: str = "") -> None:
        super().__init__(why)
        self.output = output


def main() -> None:
    namespace: dict[str, Any] = {"__name__": "page"}
    outputs: list[str] = []
    failed = None
    for block in json.load(sys.stdin):
        try:
            outputs.append(run(block, namespace))
        except BlockFailed as error:
            failed = {"line": block["line"], "why": str(error), "output": error.output}
            break
    json.dump({"outputs": outputs, "failed": failed}, sys.stdout)


def main_after_torch() -> None:
    import torch  # noqa: F401

    for line in sys.stdin:
        page = json.loads(line)
        child = os.fork()
        if child == 0:
            become(page)
            main()
            return
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def become(page: dict[str, Any]) -> None:
    """Let this process be as if it had been started for that page."""
    os.chdir(page["folder"])
    os.environ.clear()
    os.environ.update(page["environment"])
    del sys.argv[1:]
    for number, name in enumerate(("input", "output", "errors")):
        opened = os.open(page[name], os.O_RDWR | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115, what the other had read ahead is not this page's


def run(block: dict[str, Any], namespace: dict[str, Any]) -> str:
    """What the block printed. Raises BlockFailed."""
    if block["file"]:
        Path(block["file"]).write_text(block["text"], encoding="utf-8")
        return ""
    if block["language"] == "python":
        return run_python(block, namespace)
    printed = []
    for command in commands(block):
        done = subprocess.run(
            ["bash", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        printed.append(done.stdout)
        if done.returncode != block["exit"]:
            raise BlockFailed(f"`{command}` exited {done.returncode}, not {block['exit']}", done.stdout)
    return "".join(printed)


def run_python(block: dict[str, Any], namespace: dict[str, Any]) -> str:
    # Padded, so that tracebacks name the line of the page.
    text = "\n" * block["line"] + block["text"]
    printed = io.StringIO()
    try:
        code = compile(text, block["page"], "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, namespace)
    except Exception as error:
        if block["raises"] and type(error).__name__ == block["raises"]:
            return f"{printed.getvalue()}{type(error).__name__}: {error}"
        raise BlockFailed(traceback.format_exc(), printed.getvalue()) from None
    if block["raises"]:
        raise BlockFailed(f"it raised no {block['raises']}", printed.getvalue())
    return printed.getvalue()


def commands(block: dict[str, Any]) -> list[str]:
    """The commands of a block: all of a `sh` block; of a `console` block the lines after "$ ", with their continuations."""
    if block["language"] == "sh":
        return [f"set -e\n{block['text']}"]
    found: list[str] = []
    lines = iter(block["text"].splitlines())
    for line in lines:
        if line.startswith("$ "):
            command = line[2:]
            while command.endswith("\\"):
                command = command[:-1] + next(lines).removeprefix("> ").strip()
            found.append(command)
    return found


if __name__ == "__main__":
    main_after_torch() if sys.argv[1:] == ["torch"] else main()
