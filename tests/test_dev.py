"""dev.py and .ci/run: the commands that README and CI name are the ones there are."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]

if not (CHECKOUT / "dev.py").exists():
    pytest.skip("the tests run away from the checkout", allow_module_level=True)
if sys.version_info < (3, 11):
    pytest.skip("dev.py needs Python 3.11", allow_module_level=True)


def dev(name: str) -> object:
    return runpy.run_path(str(CHECKOUT / "dev.py"))[name]


def test_ci_and_the_pages_name_commands_that_exist() -> None:
    said = subprocess.run([sys.executable, CHECKOUT / "dev.py"], capture_output=True, text=True).stderr
    there = set(re.findall(r"python3 dev\.py (\w+)", said))
    for page in ("README.md", "CONTRIBUTING.md", "tests/requirements.txt", "pyproject.toml"):
        named = set(re.findall(r"python3 dev\.py (\w+)", (CHECKOUT / page).read_text()))
        assert named, page
        assert named <= there, page
    assert '"$python" dev.py ci' in (CHECKOUT / ".ci" / "run").read_text()


def test_a_command_that_does_not_exist_is_wrong_use() -> None:
    done = subprocess.run([sys.executable, CHECKOUT / "dev.py", "tset"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "python3 dev.py test" in done.stderr


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.13"])
def test_every_dependency_has_one_floor_and_no_ceiling(version: str) -> None:
    pins = dev("lowest")(version)  # type: ignore[operator]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", pin) for pin in pins)
    names = [pin.partition("==")[0] for pin in pins]
    assert len(set(names)) == len(names)
    assert {"numpy", "numcodecs", "google-crc32c", "fsspec", "jinja2"} <= set(names)
    assert ({"zarr", "h5py"} <= set(names)) == (version != "3.10")


@pytest.mark.parametrize("given", [[], ["tests/reader", "-k", "window"]], ids=["none", "some"])
def test_all_tests_run_on_two_cores_and_named_ones_as_they_are_named(
    given: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script = runpy.run_path(str(CHECKOUT / "dev.py"))
    ran: list[tuple[str, ...]] = []
    scope = script["test"].__globals__
    monkeypatch.setitem(scope, "environment", lambda *requirements: "python")
    monkeypatch.setitem(scope, "run", lambda python, *arguments, **variables: ran.append(arguments) or 0)
    script["test"](given)
    tests = ("-m", "pytest", *(given or ["-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"]))
    assert ran == [("-m", "compileall", "-q", "vla_store"), tests]
    assert "pytest-xdist" in script["TOOLS"]


def test_the_files_that_begin_first_are_there(pytestconfig: pytest.Config) -> None:
    conftest = pytestconfig.pluginmanager.get_plugin(str(CHECKOUT / "tests/conftest.py"))
    assert [name for name in conftest.LONGEST if not (CHECKOUT / "tests" / name).exists()] == []


def test_an_interpreter_that_is_not_here_is_not_found() -> None:
    assert dev("find_python")(3, 99) is None  # type: ignore[operator]
