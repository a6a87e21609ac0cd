"""Hints name options of commands; an exception says how Python gives them, and the command line does not."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

import pytest

from vla_store import OptionError, open_store
from vla_store.builder.options import BuildOptions
from vla_store.cli.printing import error_text
from vla_store.errors import IN_PYTHON
from vla_store.export import export_store
from vla_store.manage.views import add_views
from vla_store.sources.kinds import conventions


def test_what_is_said_of_python_exists_there() -> None:
    known = {each.name for each in fields(BuildOptions)}
    for function in (open_store, export_store, add_views):
        known |= set(inspect.signature(function).parameters)
    stated = {each.name for each in conventions()}
    for name, said in IN_PYTHON.items():
        text = said.format(name)
        inner = re.fullmatch(r'conventions=\{"(\w+)": \.\.\.\}', text)
        assert inner[1] in stated if inner else text.partition("=")[0] in known, text


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        ("replace it with --overwrite", "overwrite=True"),
        ("say it with --colour bgr or rgb; --skip-bad leaves it out", 'conventions={"colour": ...}, skip_bad=True'),
        ("raise --max-memory", "max_memory=..."),
        ("exclude=['x'] (--exclude x) leaves it out", ""),
        ("`vla-store repair x --exclude y` mends it", ""),
        ("--steps are a number", ""),
        ("nothing of the kind", ""),
    ],
)
def test_an_exception_says_it_and_the_command_line_does_not(hint: str, said: str) -> None:
    error = OptionError("no", hint=hint)
    assert str(error).partition("\n      in Python: ")[2] == said
    assert "in Python" not in error_text(error)
