"""Libraries that an extra of this package installs, imported where they are first used. Imports errors alone."""

from __future__ import annotations

import importlib
import re
import sys
from typing import Any

from vla_store.errors import MachineError

OLDEST_ZARR = (3, 0, 8)  # as pyproject.toml's extra `build` has it

_CALLED = {"PIL": "Pillow", "av": "PyAV", "rerun": "rerun-sdk"}  # by people, where not as they are imported


def needed(module: str, extra: str) -> Any:
    """Import a module. Raises MachineError that names the extra which installs it, where it is not there."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise MachineError(
            f"this needs {_CALLED.get(name, name)}, which is not installed here",
            python=f"{sys.version.split()[0]} at {sys.executable}",
            hint=f'pip install "vla-store[{extra}]"',
        ) from error


def zarr_python() -> Any:
    """Import zarr. Raises MachineError where that is a zarr 2, which reading leaves in peace: a trainer may need it."""
    import zarr

    if tuple(map(int, re.findall(r"\d+", zarr.__version__)[:3])) < OLDEST_ZARR:
        raise MachineError(
            f"building needs zarr {'.'.join(map(str, OLDEST_ZARR))} or newer",
            found=zarr.__version__,
            python=f"{sys.version.split()[0]} at {sys.executable}",
            hint='pip install "vla-store[build]", in an environment of its own if a trainer here needs its zarr 2; '
            "stores can be read here as it is",
        )
    return zarr
