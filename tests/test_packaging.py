"""The wheel: built from this checkout, installed where the checkout is out of reach, and used there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]

if not (CHECKOUT / "vla_store" / "__init__.py").exists():
    pytest.skip(
        "the tests run away from the checkout, so there is nothing to build a wheel of", allow_module_level=True
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="a wheel is built with hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    # Without build isolation: no network.
    run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, CHECKOUT])
    [made] = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def away(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel in it: the dependencies are this interpreter's, the checkout is not on any path."""
    folder = tmp_path_factory.mktemp("away")
    run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"])
    inside = {
        name: folder / "venv" / sysconfig.get_path(name, vars={"base": "", "platbase": ""}).lstrip(os.sep)
        for name in ("purelib", "scripts")
    }
    python = inside["scripts"] / "python"
    run([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel])
    # A plain path and not a .pth in its place: the editable install's own .pth file must not be obeyed.
    (inside["purelib"] / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return folder


def test_the_wheel_holds_the_package_its_types_and_its_licence_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    sources = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "vla_store").rglob("*.py")}
    templates = {f"vla_store/look/templates/{name}" for name in ("charts.html", "page.html", "style.css")}
    shown = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "vla_store/browse/static").iterdir()}
    assert {path.rpartition("/")[2] for path in shown} >= {"page.html", "page.js", "page.css"}
    layouts = {str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "vla_store/sources/layouts").glob("*.toml")}
    assert len(layouts) >= 5
    assert sources | templates | shown | layouts | {"vla_store/py.typed"} == {
        name for name in names if name.startswith("vla_store/")
    }
    assert {name.partition("/")[0] for name in names} == {"vla_store", f"{wheel.name.rsplit('-', 3)[0]}.dist-info"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_asks_for_no_torch_and_pins_nothing(wheel: Path) -> None:
    metadata = metadata_of(wheel)
    required = metadata.get_all("Requires-Dist") or []
    assert metadata["License-Expression"] == "Apache-2.0"
    assert not [each for each in required if re.match(r"torch|lightning|accelerate", each)]
    assert not [each for each in required if re.search(r"[<~]|==", each.partition(";")[0])]


def test_only_interpreters_that_can_build_are_asked_for_what_building_needs(wheel: Path) -> None:
    for each in metadata_of(wheel).get_all("Requires-Dist") or []:
        if re.match(r"zarr|h5py", each):
            assert re.search(r"python_version >= ['\"]3\.11['\"]", each), each


def test_the_wheel_runs_where_the_checkout_is_out_of_reach(away: Path) -> None:
    inside = run(
        [python_of(away), "-c", "import vla_store; print(vla_store.__file__, vla_store.__version__)"], cwd=away
    )
    assert inside.startswith(str(away))
    version = run([python_of(away).with_name("vla-store"), "--version"], cwd=away)
    assert version.split() == ["vla-store", inside.split()[-1]]


def test_the_demo_runs_from_the_wheel_and_its_store_can_be_read(away: Path) -> None:
    for module in ("h5py", "zarr"):
        pytest.importorskip(module, reason=f"building needs {module}")
    command = python_of(away).with_name("vla-store")
    assert "bit for bit" in run([command, "demo", "shown"], cwd=away)
    assert "drawn_goal" in run([command, "info", "shown/demo.vla"], cwd=away)
    read = (
        "import vla_store\n"
        "samples = vla_store.Samples('shown/demo.vla', windows={'agentview_rgb': [-1, 0], 'actions': range(8)}, alignment='causal', images='upright')\n"
        "print(*(array.shape for array in samples.batch([0, 5])['agentview_rgb']))\n"
    )
    assert run([python_of(away), "-c", read], cwd=away) == "(2, 128, 128, 3) (2, 128, 128, 3)\n"


def test_the_page_of_a_store_is_served_from_the_wheel(away: Path, tiny_stores: dict[str, Path]) -> None:
    read = (
        "import urllib.request, vla_store.browse\n"
        f"with vla_store.browse.serve({str(tiny_stores['fast'])!r}) as serving:\n"
        "    for name in ('', 'page.js', 'page.css', 'api/store'):\n"
        "        print(urllib.request.urlopen(serving.url + name).status)\n"
    )
    assert run([python_of(away), "-c", read], cwd=away).split() == ["200"] * 4


def test_the_tests_pass_against_the_wheel(away: Path, kept: Path, tiny_stores: dict[str, Path]) -> None:
    """Those of reading, copied to where there is no checkout: what they import is the wheel."""
    elsewhere = away / "elsewhere"
    shutil.copytree(CHECKOUT / "tests", elsewhere / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(CHECKOUT / "pyproject.toml", elsewhere)
    where = "import vla_store; print(vla_store.__file__)"
    assert run([python_of(away), "-c", where], cwd=elsewhere).startswith(str(away / "venv"))
    chosen = ("tests/reader/test_samples.py", "tests/storage/test_reading.py", "tests/test_golden.py")
    told = run(
        [python_of(away), "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen],
        cwd=elsewhere,
        VLA_STORE_TEST_STORES=str(kept),
    )
    assert re.search(r"[0-9]{2,} passed", told)


def python_of(away: Path) -> Path:
    return away / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as packed:
        [name] = [name for name in packed.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(packed.read(name).decode())


def run(command: list[str | Path], cwd: Path | None = None, **more: str) -> str:
    """stdout of a command that must succeed, in an environment without a PYTHONPATH."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more
    done = subprocess.run(
        command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
