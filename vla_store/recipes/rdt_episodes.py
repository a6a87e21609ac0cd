"""What RDT's recipes share: what all samples of an episode have in common, and what RDT's configs say of a data set."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import numpy as np

from vla_store.errors import OptionError, UnknownName
from vla_store.format.texts import FIRST, RANDOM
from vla_store.reader.kept import inside
from vla_store.reader.parts import parts_of
from vla_store.reader.store import Store
from vla_store.reader.windows import shift_of
from vla_store.recipes.dataset import Array, Empty, Int64, Item, RecipeDataset
from vla_store.recipes.needs import mapped
from vla_store.recipes.rdt_configs import FREQUENCIES, STATISTICS, names_file, put_entry, put_name
from vla_store.recipes.rdt_mapping import RdtMapping, Take, checked_rotation, vectors
from vla_store.recipes.rdt_statistics import dataset_statistics, moments
from vla_store.storage import keep as keep_at_most

CHUNK_SIZE = 64
IMAGE_HISTORY_SIZE = 2
MAX_EPISODES = 16_384  # held, about 1 kB each
BLOCK_ROWS = 1 << 14
INSTRUCTIONS = ("file_name", "source")
CAMERAS: Mapping[str, str | None] = {
    "cam_high": "agentview_rgb",
    "cam_right_wrist": "eye_in_hand_rgb",
    "cam_left_wrist": None,
}


@dataclass(frozen=True)
class Episode:
    """Values that all samples of an episode share.

    steps: its steps that there are, under a view of kind "steps"; None where there are all of them. length: how many. Among them,
    begins: the first whose frame is valid; shift: the number of a step's observation, less that of the step. moments: mean, std
    and norm of the state's slots, (3, n).
    """

    steps: Int64 | None
    length: int
    begins: int
    shift: int
    instruction: str
    moments: Array


class RdtEpisodes(RecipeDataset[Item], Generic[Item]):
    """A dataset of RDT: what `rdt` and `rdt_pretrain` share. A subclass calls `_settle` before it calls `__init__`."""

    mapping: RdtMapping
    _slots: Int64

    def _settle(
        self, store: Store, rotation: str | None, dataset_name: str, instruction: Any, cameras: Mapping[str, str | None]
    ) -> dict[str, Any]:
        """Check and keep what both recipes are given, and return what `Samples` is to know of it."""
        self._six = checked_rotation(rotation, self.mapping)
        self._cameras = cameras
        self._name, self._instruction = dataset_name, _checked_instruction(instruction, store.instruction_kinds)
        # Drawn, as Samples does it, and not of the episode alone.
        self._draws = isinstance(self._instruction, str) and self._instruction not in INSTRUCTIONS
        self._episodes: dict[int, Episode] = {}
        self.unchanged = tuple(dict.fromkeys(field for field in cameras.values() if field is not None))
        return {"instruction": self._instruction} if self._draws else {}

    def _check_instructions(self) -> None:
        """Raise now what no instruction can be found for: RDT's consumer would only print the error, and go on."""
        if self._instruction != "file_name" and not self._draws:
            for number in self._episodes_with_anchors():
                self._instruction_of(number)

    def get_dataset_name(self) -> str:
        """Return the name by which RDT's configuration knows this data."""
        return self._name

    def _placed(self, batch: dict[str, Any]) -> tuple[list[Episode], list[int]]:
        """Return of the samples of a batch their episodes, and the number of their step among those that there are."""
        episodes = [self._episode(number) for number in batch["episode"].tolist()]
        steps = [
            step if each.steps is None else int(np.searchsorted(each.steps, step))
            for each, step in zip(episodes, batch["step"].tolist())
        ]
        return episodes, steps

    def _instructions(self, batch: dict[str, Any], episodes: Sequence[Episode]) -> list[str]:
        return batch["task"] if self._draws else [each.instruction for each in episodes]

    def _frames(self, batch: dict[str, Any], empty: Empty) -> dict[str, Array]:
        """Return the frames of each camera that there is; where a field stands for two, an array for each of them."""
        made: dict[str, Array] = {}
        seen = set[str]()
        for camera, field in self._cameras.items():
            if field is None:
                continue
            made[camera] = batch[field]
            if field in seen:
                made[camera] = empty(batch[field].shape, batch[field].dtype)
                made[camera][...] = batch[field]
            seen.add(field)
        return made

    def dataset_stat(self) -> dict[str, Any]:
        """Return the entry of RDT's configs/dataset_stat.json.

        {"dataset_name", "state_mean", "state_std", "state_min", "state_max"}, lists of 128, over all finite states of the episodes
        that have an anchor; std of the non-zero entries.
        """
        made = dataset_statistics(map(self._states, self._episodes_with_anchors()))
        return {"dataset_name": self._name} | {name: each.tolist() for name, each in made.items()}

    def write_dataset_stat(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Put `dataset_stat()` into RDT's configs/dataset_stat.json under its name, keep the other entries, and return it.

        The file is replaced as a whole. Raises OptionError where it holds no JSON object.
        """
        entry = self.dataset_stat()
        put_entry(path, self._name, entry)
        return entry

    def write_configs(
        self, folder: str | os.PathLike[str], *, dataset_type: str = "pretrain", control_freq: float | None = None
    ) -> None:
        """Put the data set into RDT's configs, without which its consumer raises KeyError in a loop that never ends.

        Its name into <dataset_type>_datasets.json, its frequency into dataset_control_freq.json, its `dataset_stat()` into
        dataset_stat.json. Other entries stay; files that are not there are made.

        Parameters
        ----------
        folder
            RDT's configs.
        dataset_type
            "pretrain" or "finetune", as `main.py --dataset_type` has it, of which the default is "pretrain" also where a
            model is fine-tuned.
        control_freq
            Steps a second; default: those of the store, where all selected sources state one number.

        Raises
        ------
        OptionError, UnknownName
            For a folder that is not there, a frequency that is not known, another type, and files that are not RDT's.
        """
        listed = Path(folder) / names_file(dataset_type)
        if not Path(folder).is_dir():
            raise OptionError("there is no such folder", folder=folder, hint="the folder configs of RDT's repository")
        rates = [control_freq] if control_freq is not None else list(self._chosen.values(self.store, "fps"))
        if len(rates) != 1 or not isinstance(rates[0], (int, float)) or not rates[0] > 0:
            raise OptionError(
                "the control frequency is one number above 0",
                store=self.store.url,
                found=", ".join("not stated" if rate is None else str(rate) for rate in rates),
                hint="write_configs(folder, control_freq=20)",
            )
        rate = float(rates[0])
        put_name(listed, self._name)
        put_entry(Path(folder) / FREQUENCIES, self._name, int(rate) if rate.is_integer() else rate)
        self.write_dataset_stat(Path(folder) / STATISTICS)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_episodes": {}}

    def _begins(self, rows: Int64) -> int:
        """Return from which of an episode's steps RDT uses it."""
        return 0

    def _states(self, number: int) -> Array:
        """Return the states of an episode from where it begins, (T, 128)."""
        return self._vectors(self.mapping.state, self._moving_rows(number))

    def _moments(self, number: int) -> Array:
        """Return mean, std and norm of a whole episode, (3, 128)."""
        # Over all 128 columns, as the trainer has them: NumPy sums a single column in another order.
        return np.stack(moments(self._vectors(self.mapping.state, self._rows(number))))

    def _rows(self, number: int) -> Int64:
        """Return the store's rows that there are of an episode."""
        each, kept = self.store.episodes[number], self._chosen.kept
        rows = np.arange(each.start, each.start + each.length)
        if kept is None or kept.steps is None:
            return rows
        made: Int64 = rows[inside(kept.steps, rows)]
        return made

    def _source(self, number: int) -> tuple[Any, int]:
        """Return of an episode its task, and by how many rows its observations are read earlier or later."""
        part, at = parts_of(self.store).of_episode(number)
        entry = part.entries(at, at + 1)[0]
        task, source = int(entry["task"]), int(entry["source"])
        shift = shift_of("observation", part.document.sources[source].observation, self.alignment)
        return part.document.tasks[task], shift

    def _moving_rows(self, number: int) -> Int64:
        """Return the rows of an episode from where it begins."""
        rows = self._rows(number)
        return rows[self._begins(rows) :]

    def _episode(self, number: int) -> Episode:
        episode = self._episodes.get(number)
        if episode is None:
            rows, each = self._rows(number), self.store.episodes[number]
            episode = Episode(
                steps=rows - each.start if len(rows) < each.length else None,
                length=len(rows),
                begins=self._begins(rows),
                shift=self._source(number)[1],
                instruction="" if self._draws else self._instruction_of(number),
                moments=self._moments(number)[:, self._slots],
            )
            keep_at_most(self._episodes, number, episode, MAX_EPISODES)
        return episode

    def _vectors(self, takes: Sequence[Take], rows: Int64) -> Array:
        fields = dict.fromkeys(each.field for each in takes)
        return vectors(takes, {field: self.store.read(field, rows) for field in fields}, self._six)

    def _episodes_with_anchors(self) -> Iterator[int]:
        """Yield the store's numbers of the episodes that have an anchor, each once."""
        found = [np.empty(0, np.int64)]
        for start in range(0, len(self), BLOCK_ROWS):
            block = np.arange(start, min(start + BLOCK_ROWS, len(self)))
            for part, _, places in self._anchors.many(block, self.store):
                found.append(np.unique(places.episode + part.episode_start))
        yield from np.unique(np.concatenate(found)).tolist()

    def _instruction_of(self, number: int) -> str:
        """Return the instruction of an episode. Raises UnknownName, OptionError where there is none."""
        task, text = self._source(number)[0], self.store.episodes[number].text  # its own, where its source states one
        if isinstance(self._instruction, dict):
            if text not in self._instruction:
                raise UnknownName.among(
                    "instruction for task", text, list(self._instruction), episode=number, store=self.store.url
                )
            return self._instruction[text]
        if self._instruction == "file_name" or text != task.text:
            return text
        if task.instruction is None:
            raise OptionError(
                "the source of this task has no instruction of its own",
                store=self.store.url,
                task=task.text,
                hint='instruction="file_name", or a dict of the tasks\' texts',
            )
        return str(task.instruction)


def checked_cameras(given: Any, default: Mapping[str, str | None]) -> dict[str, str | None]:
    named = mapped("cameras", default if given is None else given, "{camera of RDT: field, or None}")
    for name in named:
        if name not in default:
            raise UnknownName.among("camera of RDT", name, list(default))
    return {name: named.get(name) for name in default}


def _checked_instruction(given: Any, kinds: Sequence[str]) -> str | dict[str, str]:
    if isinstance(given, Mapping):
        return {str(text): str(value) for text, value in given.items()}
    known = [*INSTRUCTIONS, FIRST, RANDOM, *kinds]
    if given not in known:
        raise UnknownName.among("instruction", given, [*known, "a dict"])
    return str(given)
