"""A recipe's items over two pipes, by the file that docs/how-to/old-python.md gives to a trainer on an older Python.

VLA_STORE_OLD_PYTHON names a Python 3.8 or 3.9 with a NumPy of its own, which then reads; default: this one.
"""

from __future__ import annotations

import ast
import gc
import importlib.util
import io
import json
import os
import pickle
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import vla_store
from vla_store import recipes, serve

PAGE = Path(__file__).resolve().parents[1] / "docs/how-to/old-python.md"
OLD_PYTHON = os.environ.get("VLA_STORE_OLD_PYTHON", sys.executable)

if not PAGE.exists():
    pytest.skip("the tests of an installed wheel run without the checkout", allow_module_level=True)

CLIENT = re.findall(r"<!-- file: store_dataset.py -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]

# What an item is: kinds, keys, dtypes, shapes and all bytes.
DIGEST = """
import hashlib

def fed(tree, made):
    if isinstance(tree, dict):
        for key in tree:
            made.update(key.encode())
            fed(tree[key], made)
    elif isinstance(tree, (list, tuple)):
        made.update(type(tree).__name__.encode())
        for each in tree:
            fed(each, made)
    elif hasattr(tree, "dtype"):
        made.update("{}{}".format(tree.dtype.str, tree.shape).encode() + tree.tobytes())
    else:
        made.update(repr(tree).encode())

def digest(dataset):
    made = hashlib.sha256()
    for index in range(0, len(dataset), 7):
        fed(dataset[index], made)
    return made.hexdigest()
"""


@pytest.fixture
def client(tmp_path: Path) -> ModuleType:
    """The file, imported."""
    path = tmp_path / "store_dataset.py"
    path.write_text(CLIENT)
    spec = importlib.util.spec_from_file_location("store_dataset", path)
    assert spec is not None
    made = importlib.util.module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(made)
    return made


def end(dataset: Any) -> None:
    """Close the pipes, which ends the process on the other side."""
    dataset.process.stdin.close()
    dataset.process.stdout.close()
    assert dataset.process.wait(30) == 0


def test_an_older_python_can_run_the_file() -> None:
    ast.parse(CLIENT, feature_version=(3, 6))


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("act", {"chunk": 20}),
        ("libero", {}),
        ("diffusion_policy", {}),
        ("Samples", {"windows": {"actions": [0, 1]}, "alignment": "as_stored"}),
    ],
)
def test_items_are_those_of_the_recipe_to_the_bit(recipe: str, options: Any, tiny_store: Path, tmp_path: Path) -> None:
    scope: dict[str, Any] = {}
    exec(DIGEST, scope)
    dataset = getattr(recipes, recipe, vla_store.Samples)(tiny_store, **options)
    (tmp_path / "store_dataset.py").write_text(CLIENT)
    script = f"""{DIGEST}
from store_dataset import StoreDataset
dataset = StoreDataset({sys.executable!r}, {recipe!r}, {str(tiny_store)!r}, **{options!r})
print(len(dataset), digest(dataset))
"""
    done = subprocess.run([OLD_PYTHON, "-c", script], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.stdout.split() == [str(len(dataset)), scope["digest"](dataset)], done.stderr


@pytest.mark.filterwarnings("ignore:'.*standard deviation is below")
def test_what_else_the_dataset_has_can_be_asked_for(tiny_store: Path, client: ModuleType) -> None:
    train = {"episodes": [3, 4]}
    dataset = client.StoreDataset(sys.executable, "act", str(tiny_store), episodes=[5], normalize=train)
    assert dataset[0][0].flags.writeable
    expected = recipes.act(tiny_store, episodes=[5], normalize=recipes.act(tiny_store, **train).statistics())
    found = dataset.ask("norm_stats")
    assert all(np.array_equal(each, found[key]) for key, each in expected.norm_stats().items())
    assert np.array_equal(dataset[2][2], expected[2][2])
    with pytest.raises(IndexError):
        dataset[len(expected)]
    end(dataset)


def test_arrays_without_elements_and_kinds_of_trees_come_through(client: ModuleType) -> None:
    value = {"none": np.zeros((2, 0, 0, 0)), "deep": ([np.float32(3), True, None], "x", np.arange(4).reshape(2, 2).T)}
    answers = io.BytesIO()
    serve.serve(lambda: SimpleNamespace(value=value), io.BytesIO(b'["value"]\n'), answers)
    line, _, rest = answers.getvalue().partition(b"\n")
    dataset = client.StoreDataset.__new__(client.StoreDataset)
    dataset.process = SimpleNamespace(stdout=io.BytesIO(rest))
    found = dataset.value(json.loads(line)["value"])
    assert (found["none"].shape, found["none"].dtype) == ((2, 0, 0, 0), np.float64)
    (three, *others), text, square = found["deep"]
    assert (type(found["deep"]), three[()], three.dtype, others, text) == (tuple, 3, np.float32, [True, None], "x")
    assert square.tolist() == [[0, 2], [1, 3]]


def test_tensors_come_as_arrays(tiny_store: Path, client: ModuleType) -> None:
    pytest.importorskip("torch")
    dataset = client.StoreDataset(sys.executable, "lerobot", str(tiny_store))
    found, expected = dataset[3], recipes.lerobot(tiny_store)[3]
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key] == value if key == "task" else np.array_equal(found[key], value.numpy())
    end(dataset)


def test_a_process_that_got_it_starts_one_of_its_own(tiny_store: Path, client: ModuleType) -> None:
    dataset = client.StoreDataset(sys.executable, "libero", str(tiny_store))
    sys.modules["store_dataset"] = client
    other = pickle.loads(pickle.dumps(dataset))
    del sys.modules["store_dataset"]
    assert np.array_equal(other[0]["actions"], dataset[0]["actions"])
    assert other.process.pid != dataset.process.pid
    end(dataset)
    end(other)


def test_an_interrupt_leaves_nothing_for_the_next_index(tiny_store: Path, client: ModuleType) -> None:
    dataset = client.StoreDataset(sys.executable, "libero", str(tiny_store))
    expected = [dataset[index]["actions"] for index in (0, 1)]
    before = dataset.process

    def interrupt(number: int, frame: Any) -> None:
        os.kill(before.pid, signal.SIGCONT)
        raise TimeoutError("mine")

    was = signal.signal(signal.SIGALRM, interrupt)
    os.kill(before.pid, signal.SIGSTOP)  # so the request is written, and its answer is not read
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(TimeoutError, match="mine"):
            dataset[0]
    finally:
        signal.signal(signal.SIGALRM, was)
    assert not np.array_equal(*expected)
    assert np.array_equal(dataset[1]["actions"], expected[1])
    assert before.returncode is not None
    dataset.process.kill()
    dataset.process.wait()
    with pytest.raises(RuntimeError, match="this process ended"):
        dataset[0]
    assert np.array_equal(dataset[0]["actions"], expected[0])
    end(dataset)


def test_threads_get_what_they_asked_for(tiny_store: Path, client: ModuleType) -> None:
    dataset = client.StoreDataset(sys.executable, "libero", str(tiny_store))
    indices = [*range(10)] * 4
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda index: dataset[index]["actions"], indices))
    assert all(np.array_equal(each, dataset[index]["actions"]) for index, each in zip(indices, found))
    end(dataset)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of those that could not begin
def test_what_goes_wrong_is_said_on_the_side_that_asks(tiny_store: Path, tmp_path: Path, client: ModuleType) -> None:
    for arguments, options, match in (
        (("acct", str(tiny_store)), {}, "did you mean 'act'"),
        (("rlds_batch", str(tiny_store)), {}, "no recipe"),
        (("act", str(tmp_path / "x.vla")), {}, "no store at this path"),
        (("act", str(tiny_store)), {"chnk": 3}, "chunk"),
    ):
        with pytest.raises(RuntimeError, match=match):
            client.StoreDataset(sys.executable, *arguments, **options)
    gc.collect()
    dataset = client.StoreDataset(sys.executable, "libero", str(tiny_store))
    for request, match in (
        (("nothing",), "AttributeError"),
        (("__getitem__", 10**9), "IndexError"),
        (("store",), "cannot be sent"),
    ):
        with pytest.raises(RuntimeError, match=match):
            dataset.ask(*request)
    assert dataset[1]["actions"].shape == (10, 7)
    end(dataset)
    wrong = subprocess.run([sys.executable, "-m", "vla_store.serve", "act"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stderr.partition(":")[0]) == (2, "usage")
