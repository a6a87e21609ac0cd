"""The import picture of the package: imports point one way, and nobody pays for what he does not use.

What each folder is for, and the way of one step through them: CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vla_store

PACKAGE = Path(vla_store.__file__).parent

# What each folder or module may import of this package, wherever in its text the import stands. `package` is
# vla_store/__init__.py, which is the reader's face: who imports from it imports the reader.
BELOW_READER = {"format", "storage", "text", "types", "extras", "errors"}
BELOW_TORCH = {"loader", "reader", *BELOW_READER}
BOTH_SIDES = {"reader", "builder", "sources", "publish", *BELOW_READER}
LAYERS = {
    "errors": set[str](),
    "text": set[str](),
    "types": set[str](),
    "extras": {"errors"},
    "storage": {"types", "errors"},
    "rules": set[str](),
    "view_rules": {"rules", *BELOW_READER},
    "view_steps": {"view_rules", "reader", *BELOW_READER},
    "progress": {"text", "errors"},
    "synthetic": {"errors"},
    "format": {"text", "types", "errors"},
    "publish": {"format", "storage", "errors"},
    "sources": BELOW_READER,
    "builder": {"sources", "publish", "progress", "rules", *BELOW_READER},
    "reader": BELOW_READER,
    "features": {"reader", *BELOW_READER},
    "loader": {"rules", "reader", *BELOW_READER},
    "weights": {"loader", "reader", "errors"},
    "package": {"loader", "reader", "format", "errors"},
    "torch": {"package", *BELOW_TORCH},
    "recipes": {"package", "torch", "rules", "features", *BELOW_TORCH},
    "serve": {"package", "recipes", "errors"},
    "audit": {"progress", "view_steps", "view_rules", *BOTH_SIDES},
    "manage": {"audit", "progress", "rules", "view_rules", "view_steps", *BOTH_SIDES},
    "look": {"package", "rules", "reader", *BELOW_READER},
    "browse": {"package", "look", "reader", *BELOW_READER},
    "export": {"package", "features", "progress", "sources", "reader", *BELOW_READER},
    "coverage": {"package", "rules", "loader", "reader", *BELOW_READER},
    "demo": {"package", "synthetic", "audit", "progress", *BOTH_SIDES},
    "bench": {"package", "progress", "loader", "reader", *BELOW_READER},
    "__main__": {"cli"},
    "cli": {
        "package",
        "demo",
        "bench",
        "browse",
        "audit",
        "coverage",
        "export",
        "look",
        "manage",
        "progress",
        "recipes",
        "view_rules",
        "weights",
        *BOTH_SIDES,
    },
}

# Third-party packages that may be loaded once everything in a folder or module is imported, and nothing is called yet.
COSTS = {"numpy", "google_crc32c"}
COSTS_MORE = {
    "sources",
    "export",
    "builder",
    "manage",
    "torch",
    "recipes",
}  # these may load more; see what they must not load below
ONLY_COPIES = [
    "vla_store.manage.cache",
    "vla_store.manage.cache_check",
    "vla_store.manage.copy",
    "vla_store.manage.merge",
]  # what works where nothing can be built
CLUSTER = {"dask", "distributed"}  # the extra of this name
BUILDING = {"zarr", "h5py", *CLUSTER}

# The only places whose text may import these at all.
ONLY_IN = {
    "torch": {"torch"},
    "tqdm": {"progress"},
    "zarr": {"extras", "sources"},
    "imagecodecs": {"sources"},
    "distributed": {"builder"},
    "h5py": {"sources", "synthetic", "demo", "export"},
    "pyarrow": {"sources", "export"},
    "av": {"sources", "export", "look"},
    "pandas": {"reader"},
    "shtab": {"cli"},
    "matplotlib": {"look", "coverage"},
    "numcodecs": {"format", "builder"},
    "jinja2": {"look"},
    "fsspec": {"storage"},
    "obstore": {"storage"},
}

# What opens a file, or names one; and the folders that reach a store's files through storage alone. A build renames its folder
# itself, and hashes the files that it builds from.
OPENERS = {"open", "fdopen", "read_bytes", "write_bytes", "read_text", "write_text", "memmap", "fromfile", "tofile"}
BY_STORAGE_ALONE = {"format", "reader", "audit", "manage", "builder", "publish"}
OPENERS_OF_OTHERS = {"builder/journal.py"}


def layer_of(path: Path) -> str:
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "package" if name == "__init__" else name


def modules_of(layer: str) -> list[str]:
    folder = PACKAGE / layer
    inside = pkgutil.walk_packages([str(folder)], f"vla_store.{layer}.") if folder.is_dir() else ()
    return ["vla_store" if layer == "package" else f"vla_store.{layer}", *(each.name for each in inside)]


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every absolute import in a file, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative imports hide which way they point"
            yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)


FILES = sorted(PACKAGE.rglob("*.py"))
EXISTING = sorted({layer_of(path) for path in FILES})


def test_every_folder_and_module_has_its_place_in_the_picture() -> None:
    assert set(EXISTING) <= set(LAYERS), "say in LAYERS what the new one may import"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    layer = layer_of(path)
    for line, module in imports_of(path):
        top, *rest = module.split(".")
        if top == "vla_store":
            target = rest[0] if rest and rest[0] in LAYERS else "package"
            assert target == layer or target in LAYERS[layer], f"{path}:{line}: {layer} must not import {module}"
        else:
            assert layer in ONLY_IN.get(top, {layer}), f"{path}:{line}: only {ONLY_IN[top]} may import {top}"


def opened_in(path: Path) -> Iterator[int]:
    """The lines of a file that open another one: open(...), os.open(...), path.read_bytes(...), but not storage.open()."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name) and called.id in OPENERS:
                yield node.lineno
            elif isinstance(called, ast.Attribute) and called.attr in OPENERS:
                of_os = isinstance(called.value, ast.Name) and called.value.id == "os"
                if called.attr != "open" or of_os:
                    yield node.lineno


@pytest.mark.parametrize("path", [path for path in FILES if layer_of(path) in BY_STORAGE_ALONE], ids=str)
def test_a_stores_files_are_opened_by_storage_alone(path: Path) -> None:
    if path.relative_to(PACKAGE).as_posix() not in OPENERS_OF_OTHERS:
        assert list(opened_in(path)) == [], f"{path}: vla_store.storage opens files"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nobody_imports_what_another_module_keeps_to_itself(path: Path) -> None:
    for line, module in imports_of(path):
        name = module.rpartition(".")[2]
        is_private = name.startswith("_") and not name.startswith("__")
        assert not (module.startswith("vla_store.") and is_private), f"{path}:{line}: {module}"


def test_every_error_that_can_reach_a_caller_stands_in_the_tree() -> None:
    tree = {node.name for node in ast.parse((PACKAGE / "errors.py").read_text()).body if isinstance(node, ast.ClassDef)}
    elsewhere = {
        node.name
        for path in FILES
        if path.name != "errors.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and tree & {each.id for each in node.bases if isinstance(each, ast.Name)}
    }
    assert elsewhere == {"ObjectMissing", "ViewsLost"}, (
        "a caller catches these as StoreDamaged; others belong into the tree"
    )
    assert tree <= set(vla_store.__all__)


def test_builder_and_reader_never_import_each_other() -> None:
    assert "reader" not in LAYERS["builder"]
    assert "builder" not in LAYERS["reader"]


def test_only_the_libero_source_knows_how_libero_names_its_demos() -> None:
    folders = (PACKAGE / "builder", PACKAGE / "sources")
    inside = {path.name for folder in folders for path in folder.rglob("*.py") if "demo_" in path.read_text()}
    assert inside == {"libero.py"}


LOADED = """
import importlib, json, sys
def third_party():
    return {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names) - {"vla_store", "__mp_main__"}
before = third_party() | {"cython_runtime"}  # what Cython leaves in sys.modules is part of who was compiled with it
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(sorted(name for name in third_party() - before if not name.startswith("_cython_"))))
"""


@pytest.mark.parametrize("layer", [layer for layer in EXISTING if layer not in COSTS_MORE])
def test_importing_costs_numpy_and_little_more(layer: str) -> None:
    assert loaded_by(layer) <= COSTS


def test_copying_and_merging_stores_costs_numpy_and_little_more() -> None:
    assert set(json.loads(in_a_bare_process(LOADED, *ONLY_COPIES))) <= COSTS


@pytest.mark.parametrize("layer", ["builder", "manage"])
def test_building_loads_neither_torch_nor_dask(layer: str) -> None:
    pytest.importorskip("h5py")
    assert not loaded_by(layer) & {"torch", *CLUSTER}


@pytest.mark.parametrize("layer", [layer for layer in EXISTING if layer in ("torch", "recipes")])
def test_training_loads_nothing_that_only_building_needs(layer: str) -> None:
    pytest.importorskip("torch")
    assert not loaded_by(layer) & BUILDING


READ_WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("zarr", "dask", "distributed", "h5py", "torch"):
            raise ModuleNotFoundError(f"{name} is not here", name=name)
sys.meta_path.insert(0, Absent())
import vla_store
samples = vla_store.Samples(vla_store.open_store(sys.argv[1]), windows={"agentview_rgb": [-1, 0], "actions": range(4)}, alignment="causal", images="upright")
sample = samples[3]
print(sample["agentview_rgb"].shape, sample["actions"].shape)
"""


def test_reading_a_local_store_loads_nothing_that_speaks_to_a_network(tiny_store: Path) -> None:
    code = (
        "print(sorted(sys.modules.keys() & {'asyncio', 'concurrent.futures', 'http.client', 'ssl', 'urllib.request'}))"
    )
    assert in_a_bare_process(f"{READ_WITHOUT}\n{code}", str(tiny_store)).split("\n")[1] == "[]"


def test_reading_needs_neither_zarr_dask_h5py_nor_torch(tiny_store: Path) -> None:
    assert in_a_bare_process(READ_WITHOUT, str(tiny_store)).split("\n")[0] == "(2, 16, 24, 3) (4, 7)"


def loaded_by(layer: str) -> set[str]:
    return set(json.loads(in_a_bare_process(LOADED, *modules_of(layer))))


def in_a_bare_process(code: str, *arguments: str) -> str:
    path = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r})\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", path + code, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
