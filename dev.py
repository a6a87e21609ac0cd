"""One command per check, in an environment of its own. Standard library only; needs Python 3.11 or newer with pip.

    python3 dev.py demo             install into .venv, then draw, build, verify and read a small store
    python3 dev.py test [ARG ...]   install what tests need too, then run pytest: all tests on two cores, or with these arguments
    python3 dev.py check            ruff and mypy --strict
    python3 dev.py floors           tests again with the oldest dependencies, here and on Python 3.10 where it is found
    python3 dev.py ci               check, test, floors: what .ci/run runs

The environment is .venv beside this file (VLA_STORE_VENV names another folder), and is reused while nothing it was
installed from has changed. VLA_STORE_DEMOS: folder of the demonstrations that the larger tests read (default ../shared/data).
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONSTRAINTS = ["-c", "constraints.txt"]
TESTS = ["-r", "tests/requirements.txt"]

# For the floors: no torch, and nothing that asks for newer versions of what we have floors for. h5py is the oracle.
TOOLS = ["pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "psutil", "h5py"]
# Diffusion Policy's: reading has to work beside a trainer's zarr 2.
OLD_ZARR = "zarr==2.12.0"
# Three processes, for while one waits (for a process, a kill, a disk) the two others keep the cores busy. By file: the tests of one
# file share what they build. In the order of tests/conftest.py: the longest files first.
TWO_CORES = ["-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"]
# Not the docs (their pages need torch), not the wheel, not the servers of integration tests; the loader and the picture of imports are
# tried on 3.10. Nor what no version of a library decides: names of paths, kills, full disks, words on a terminal, benchmarks.
NOT_AT_FLOORS = [
    "test_docs.py",
    "test_own_robot.py",
    "test_packaging.py",
    "integration",
    "loader",
    "test_layers.py",
    "storage/test_paths.py",
    "test_resume.py",
    "test_faults.py",
    "test_disk_full.py",
    "test_cli.py",
    "test_progress.py",
    "test_printed.py",
    "test_coverage.py",
    "test_demo.py",
    "test_generate.py",
    "test_bench.py",
    "test_benchmarks.py",
    "test_training.py",
    "test_dev.py",
]
FLOOR_TESTS = ["tests", *(f"--ignore=tests/{name}" for name in NOT_AT_FLOORS)]
# What an interpreter that cannot build reads: the stores that another one built.
READING_TESTS = [
    "tests/format",
    "tests/reader",
    "tests/loader",
    "tests/recipes",
    "tests/test_golden.py",
    "tests/test_tiny_reader.py",
    "tests/test_layers.py",
]


def main(arguments: list[str]) -> int:
    if sys.version_info < (3, 11):
        print(f"dev.py needs Python 3.11 or newer; this is {sys.version.split()[0]}", file=sys.stderr)
        return 2
    commands = {"demo": demo, "test": test, "check": check, "floors": floors, "ci": ci}
    if not arguments or arguments[0] not in commands:
        print(__doc__, file=sys.stderr)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    os.chdir(HERE)
    return commands[arguments[0]](arguments[1:])


def demo(arguments: list[str]) -> int:
    return run(environment(), "-m", "vla_store", "demo", *arguments)


def test(arguments: list[str]) -> int:
    python = environment(*TESTS)
    # Compiled once, and not by each worker, nor by each of the thousand commands that tests start.
    run(python, "-m", "compileall", "-q", "vla_store")
    return run(python, "-m", "pytest", *(arguments or TWO_CORES), PYTHONDONTWRITEBYTECODE="")


def check(arguments: list[str]) -> int:
    python = environment(*TESTS)
    steps = (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"])
    return max([run(python, "-m", *step) for step in steps])


def floors(arguments: list[str]) -> int:
    """Tests with the oldest version of everything: nearly all on this Python, those of reading on Python 3.10."""
    with tempfile.TemporaryDirectory(prefix="vla_store-floors-") as folder:
        return test_floors(floor_environments(Path(folder)), Path(folder), arguments)


def floor_environments(folder: Path) -> dict[str, str]:
    """The interpreters that have the oldest dependencies, by their version of Python."""
    here = "{}.{}".format(*sys.version_info)
    made = {}
    for version, python in {here: sys.executable, "3.10": find_python(3, 10)}.items():
        if python is None:
            print(
                "floors: no Python 3.10 here (looked on PATH and in pyenv), so reading is not tried on it", flush=True
            )
            continue
        pins = folder / f"floors-{version}.txt"
        pins.write_text("".join(f"{pin}\n" for pin in lowest(version)))
        print(f"floors: Python {version} with {', '.join(lowest(version))}", flush=True)
        tools = [*TOOLS, OLD_ZARR] if version == "3.10" else TOOLS
        made[version] = make_environment(folder / version, python, [*tools, "-c", str(pins)])
    return made


def test_floors(environments: dict[str, str], folder: Path, arguments: list[str]) -> int:
    # Python 3.10 reads what this one built with the oldest libraries. Not the stores of newer ones: bytes are compared.
    stores, code = str(folder / "stores"), 0
    for version, inside in environments.items():
        tests = READING_TESTS if version == "3.10" else FLOOR_TESTS
        code = max(code, run(inside, "-m", "pytest", *tests, *(arguments or TWO_CORES), VLA_STORE_TEST_STORES=stores))
    return code


def ci(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="vla_store-ci-") as name, ThreadPoolExecutor() as pool:
        folder = Path(name)
        os.environ.setdefault("VLA_STORE_VENV", str(folder / "venv"))
        at_floors = pool.submit(floor_environments, folder)  # installed while the other core checks
        done = [check([]), test([*TWO_CORES, "--durations=12", *arguments])]
        return max([*done, test_floors(at_floors.result(), folder, [])])


def environment(*requirements: str) -> str:
    """The interpreter of the environment, once this package (editable) and the requirements are in it."""
    folder = Path(os.environ.get("VLA_STORE_VENV") or HERE / ".venv").resolve()
    return make_environment(folder, sys.executable, [*requirements, *CONSTRAINTS])


def make_environment(folder: Path, python: str, requirements: list[str]) -> str:
    inside = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    sources = [Path(name).read_bytes() for name in ("pyproject.toml", "constraints.txt", "tests/requirements.txt")]
    wanted = hashlib.sha256(repr((python, requirements, sources)).encode()).hexdigest()
    stamp = folder / f"installed-{wanted[:16]}"
    if stamp.exists():
        return str(inside)
    if not inside.exists():
        print(f"dev.py: making {folder}", flush=True)
        if subprocess.run([python, "-m", "venv", folder]).returncode:
            raise SystemExit("dev.py: no environment could be made; on Debian and Ubuntu: apt install python3-venv")
    print("dev.py: installing; takes minutes the first time", flush=True)
    if run(str(inside), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--editable", ".", *requirements):
        raise SystemExit("dev.py: pip could not install (see above); the same command tries again")
    stamp.touch()
    return str(inside)


def run(python: str, *arguments: str, **variables: str) -> int:
    print(f"dev.py: python {' '.join(arguments)}", flush=True)
    return subprocess.run([python, *arguments], env={**os.environ, **variables}, stdin=subprocess.DEVNULL).returncode


def lowest(version: str) -> list[str]:
    """`name==floor` of every dependency that pyproject.toml names for this Python, and of what building asks for."""
    import tomllib

    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    at_least = {"python_version >= '3.10'": True, "python_version >= '3.11'": version != "3.10"}
    made = {}
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["build"]]:
        asked, _, marker = requirement.partition(";")
        name, _, floor = re.sub(r"\[.*\]", "", asked).strip().partition(">=")  # a constraint has no extras
        if at_least[marker.strip()]:
            made[name] = floor
    return [f"{name}=={floor}" for name, floor in made.items()]


def find_python(major: int, minor: int) -> str | None:
    """An interpreter of that version: on PATH, or any that pyenv has."""
    name = f"python{major}.{minor}"
    root = os.environ.get("PYENV_ROOT")
    if not root and shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], capture_output=True, text=True).stdout.strip()
    candidates = [shutil.which(name)]
    candidates += sorted(
        map(str, Path(root or Path.home() / ".pyenv", "versions").glob(f"{major}.{minor}.*/bin/python"))
    )
    for candidate in filter(None, candidates):
        # pyenv's shims are on PATH even where they lead nowhere, so ask.
        asked = subprocess.run(
            [candidate, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True
        )
        if asked.stdout.split() == [str(major), str(minor)]:
            return candidate
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
