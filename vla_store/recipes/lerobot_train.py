"""`lerobot-train`, unchanged, on a store:

    python -m vla_store.recipes.lerobot_train --store libero.vla -- --policy.type=act ...

LeRobot's `make_dataset` makes its data set by two names of its own module, `LeRobotDatasetMetadata` and `LeRobotDataset`, be it
0.4 or 0.6, training set or held-out side. Here these give what the recipe gives; all else is LeRobot's.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from vla_store.errors import OptionError, VlaStoreError
from vla_store.features.lerobot import NAMING
from vla_store.reader.store import open_store
from vla_store.recipes.lerobot import LeRobotDataset, lerobot
from vla_store.types import ALIGNMENTS, IMAGES

REPO_ID = "--dataset.repo_id"
USAGE = "python -m vla_store.recipes.lerobot_train --store STORE [options] -- [what lerobot-train takes]"


class Served:
    """What stands for LeRobot's data set: the recipe's, of one store.

    Parameters
    ----------
    store, options
        As the recipe takes them.
    """

    def __init__(self, store: Any, **options: Any) -> None:
        self._options = options
        self.full: LeRobotDataset = lerobot(store, **options)

    def metadata(self, repo_id: str, *ignored: Any, **also_ignored: Any) -> Any:
        """Stand for LeRobotDatasetMetadata."""
        return self.full.meta

    def dataset(
        self,
        repo_id: str,
        *ignored: Any,
        episodes: Sequence[int] | None = None,
        delta_timestamps: Mapping[str, Sequence[float]] | None = None,
        image_transforms: Any = None,
        return_uint8: bool = False,
        tolerance_s: float = 1e-4,
        **also_ignored: Any,
    ) -> LeRobotDataset:
        """Stand for LeRobotDataset. Of chosen episodes the frames are counted from 0; statistics stay those of all, as LeRobot's."""
        options = {
            **self._options,
            "delta_timestamps": delta_timestamps,
            "image_transforms": image_transforms,
            "uint8": return_uint8,
            "tolerance_s": tolerance_s,
        }
        if episodes is not None:
            options["episodes"] = self.full.store_episodes(episodes)
        made: LeRobotDataset = lerobot(self.full.store, **options)
        made.meta.stats = self.full.meta.stats
        return made

    def install(self) -> None:
        """Let LeRobot's `make_dataset` give this. Raises OptionError where there is no LeRobot, or one of other names."""
        try:
            factory = importlib.import_module("lerobot.datasets.factory")
        except ImportError as error:
            raise OptionError(
                "lerobot cannot be imported here",
                found=f"{type(error).__name__}: {error}",
                python=sys.executable,
                hint="pip install lerobot (0.4 or later); 0.6 wants lerobot[training]",
            ) from error
        names = {"LeRobotDatasetMetadata": self.metadata, "LeRobotDataset": self.dataset}
        absent = [name for name in names if not hasattr(factory, name)]
        if absent:
            raise OptionError(
                "this lerobot makes data sets in another way", missing=", ".join(absent), file=factory.__file__
            )
        for name, made in names.items():
            setattr(factory, name, made)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and return the status to exit with."""
    given = list(sys.argv[1:] if argv is None else argv)
    at = given.index("--") if "--" in given else len(given)
    (own, unknown), theirs = _parser().parse_known_args(given[:at]), given[at + 1 :]
    try:
        _check(unknown, theirs)
        served = Served(open_store(own.store), **_options(own))
        _check_action(served.full, own.exclude or ())
        served.install()
        print(served.full, flush=True)
        if not any(each.partition("=")[0] == REPO_ID for each in theirs):
            theirs = [f"{REPO_ID}={PurePosixPath(served.full.repo_id).stem}", *theirs]
        sys.argv = ["lerobot-train", *theirs]
        importlib.import_module("lerobot.scripts.lerobot_train").main()
    except VlaStoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m vla_store.recipes.lerobot_train",
        usage=USAGE,
        description="Run lerobot-train, unchanged, on a store.",
    )
    add = parser.add_argument
    add("--store", required=True, help="the store, a folder or a URL")
    add("--alignment", choices=ALIGNMENTS, default="causal", help="as the recipe takes it (default: causal)")
    add("--images", choices=IMAGES, default="upright", help="how pictures lie (default: upright)")
    add("--suite", action="append", metavar="NAME", help="only this suite (may be repeated, as all of the selection)")
    add("--task", action="append", metavar="TASK", help="only this task, by its name or its text")
    add("--split", choices=("train", "val"), help="only this side of the store's split")
    add(
        "--view",
        action="append",
        metavar="NAME",
        help="only the steps that this view keeps, which must be of kind steps",
    )
    add("--fps", type=float, metavar="N", help="frames a second (default: what the store says; 20 for LIBERO)")
    add("--state", metavar="FIELD,FIELD", help="fields that stand side by side as observation.state")
    add("--rename", action="append", metavar="FIELD=NAME", help="the name of a field in LeRobot")
    add("--exclude", action="append", metavar="FIELD", help="leave out a field (may be repeated)")
    return parser


def _options(own: argparse.Namespace) -> dict[str, Any]:
    """Return the recipe's options. Raises OptionError."""
    options: dict[str, Any] = {"alignment": own.alignment, "images": own.images, "fps": own.fps}
    options |= {"suites": own.suite, "tasks": own.task, "split": own.split, "view": own.view}
    options |= {"exclude": own.exclude or (), "rename": _renamed(own.rename or ())}
    options["state"] = None if own.state is None else [each for each in own.state.split(",") if each]
    return options


def _renamed(given: Sequence[str]) -> dict[str, str]:
    made = dict(text.partition("=")[::2] for text in given)
    if not all(made.values()) or len(made) < len(given):
        raise OptionError("--rename is FIELD=NAME, once for each FIELD", found=", ".join(given))
    return made


def _check(unknown: Sequence[str], theirs: Sequence[str]) -> None:
    """Refuse what is no option, and what LeRobot would do in another way than from a store. Raises OptionError."""
    if unknown:
        raise OptionError(
            "no option of the store", found=" ".join(unknown), usage=USAGE, hint="LeRobot's stand after --"
        )
    for each in theirs:
        name, _, value = each.partition("=")
        if name == "--dataset.streaming" and value.lower() not in ("false", "0"):
            raise OptionError(
                "a store is not streamed: any frame of it is read as it comes", found=each, hint="leave it out"
            )
        if name == "--dataset.root":
            raise OptionError(
                "the data set is the store, and lies in no folder of LeRobot's", found=each, hint="leave it out"
            )
    if not theirs:
        raise OptionError(
            "nothing is said of the training",
            usage=USAGE,
            hint="-- --policy.type=act --policy.push_to_hub=false --output_dir=OUT --steps=100000",
        )


def _check_action(dataset: LeRobotDataset, excluded: Sequence[str]) -> None:
    """Raise OptionError where there is nothing that a policy could learn to do."""
    if not any(name.startswith(NAMING.action) for name in dataset.features):  # as LeRobot finds it
        raise OptionError(
            "training needs an action, and this data set has none",
            features=", ".join(dataset.features),
            excluded=", ".join(excluded) or None,
            hint=f"--rename FIELD={NAMING.action} says which field it is" + ("; or exclude others" if excluded else ""),
        )


if __name__ == "__main__":
    sys.exit(main())
