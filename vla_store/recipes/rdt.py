"""RDT-1B: what its fine-tuning loader yields, every step once.

Sources, at these commits: RDT = thu-ml/RoboticsDiffusionTransformer deb71d8; RDT-L = tj-chen-1209/RDT_libero_finetune 3e9b0e9, a
port to LIBERO; RDT-S = another, zxy6677/RoboticsDiffusionTransformer c073c0a, 5396abb and d5ad60f (S1, S2, S3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, SupportsIndex

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, SourceError, whole_number, yes_or_no
from vla_store.format.statistics import field_statistics
from vla_store.reader.selection import choose
from vla_store.reader.store import Store
from vla_store.recipes.dataset import (
    AnyStore,
    Array,
    Empty,
    Int64,
    Mask,
    Options,
    Steps,
    Unpack,
    opened,
    recipe,
)
from vla_store.recipes.item_types import RdtItem
from vla_store.recipes.needs import Needs, pictures_of
from vla_store.recipes.rdt_episodes import (
    BLOCK_ROWS,
    CAMERAS,
    CHUNK_SIZE,
    IMAGE_HISTORY_SIZE,
    RdtEpisodes,
    checked_cameras,
)
from vla_store.recipes.rdt_mapping import (
    MAPPINGS,
    ROTATIONS,
    STATE_SIZE,
    RdtMapping,
    Take,
    checked_mapping,
    needs_of,
    slots_of,
    vectors,
)
from vla_store.rules import MOVING_THRESHOLD, drop_tail, first_moving, has_length
from vla_store.types import TypeVar

NORM_FLOOR = 1e-8


Made = TypeVar("Made", default=RdtItem, covariant=True)


class RdtDataset(RdtEpisodes[Made], Generic[Made]):
    """The dataset of RDT-1B's fine-tuning, every step once: `get_item(i)` is anchor i of a selection.

    RDT's own interface: `len`, `get_item`, `get_dataset_name`. There `index` and `len` count episodes, and a step is drawn at
    random. Here they count anchors. RDT's consumer changes in two lines: the constructor, and
    `self.hdf5_dataset.get_item(index)` [RDT train/dataset.py:246].

    Under a view of kind "steps" an episode is made of the steps that it keeps: in #steps, step_id and all statistics.

    Parameters
    ----------
    mapping
        Which numbers go where in the vector of 128; must be named, because two are in use and neither is RDT's own: a key of
        MAPPINGS, or an RdtMapping.
    dataset_name
        A key of RDT's finetune_datasets.json, dataset_control_freq.json and dataset_stat.json.
    rotation
        "axis_angle" (default; what LIBERO's numbers are) or "euler_xyz" (wrong, as RDT-S has it).
    instruction
        "file_name", "source" (the file's own, as RDT-S), or {text of a task: what to give}, such as the path of a saved
        embedding, where the trainer uses those. Where the store has further instructions: "random" draws a kind, and one of it, as
        RDT's training does; the name of a kind; "first". See `vla_store.Samples`.
    cameras
        {"cam_high", "cam_right_wrist", "cam_left_wrist": field, or None where there is none}.
    skip_still_start
        RDT's rule: anchors only from one step before the first that moved (`rules.first_moving`); the frame before that step is
        masked.
    shortest
        Leave out episodes of fewer steps (RDT 128; RDT-S 32).
    tail
        The last so many steps of an episode are no anchors (S3: 63).
    state_norm
        (128,) numbers to give instead of the mapping's own.
    chunk_size, img_history_size
        action_chunk_size and img_history_size of RDT's configs/base.yaml.
    alignment
        "as_stored" is what the ports train on: an action with the observation of its own row, which published LIBERO files
        recorded *after* it. "causal" gives what was seen before the action.
    images
        "as_stored" (the ports: upside down for LIBERO), "upright", "rot180".
    transform, suites, tasks, episodes, rows, split, view, keep_first
        As `vla_store.Samples` has them.

    Returns
    -------
    dataset
        Of items, with K chunk_size, H img_history_size, all numbers float64 and every array fresh:
        meta {dataset_name, "#steps": steps of the episode, step_id, instruction}; state (1, 128); state_mean, state_std,
        state_norm (128,), over the whole episode, population std, norm the root mean square; actions (K, 128), the last one
        repeated past the end; state_indicator (128,) of 1 and 0; `<camera>` (H, height, width, 3) uint8, the first frame
        repeated before the start, and (H, 0, 0, 0) float64 where there is no camera; `<camera>_mask` (H,) bool.
        [RDT data/hdf5_vla_dataset.py:45-74 and train/dataset.py:246-311; RDT-L data/hdf5_libero_dataset.py:175, 238-313.]

    Raises
    ------
    OptionError, UnknownName
        For what cannot be.
    SourceError
        For an episode that never moves.
    """

    @recipe("rdt", alignment="as_stored", images="as_stored")
    def __init__(
        self,
        store: AnyStore,
        *,
        mapping: str | RdtMapping = "",
        dataset_name: str = "libero",
        rotation: str | None = None,
        instruction: str | Mapping[str, str] = "file_name",
        cameras: Mapping[str, str | None] | None = None,
        skip_still_start: bool = False,
        shortest: int | None = None,
        tail: int = 0,
        state_norm: npt.ArrayLike | None = None,
        chunk_size: int = CHUNK_SIZE,
        img_history_size: int = IMAGE_HISTORY_SIZE,
        transform: Callable[[RdtItem], Made] | None = None,
        **options: Unpack[Options],
    ) -> None:
        store = opened(store)
        self.mapping = chosen = checked_mapping(mapping)
        drawn = self._settle(store, rotation, dataset_name, instruction, checked_cameras(cameras, CAMERAS))
        self._skips, self._shortest = yes_or_no("skip_still_start", skip_still_start), shortest
        self._tail = whole_number("tail", tail, least=0)
        self._offsets = np.arange(1 - whole_number("img_history_size", img_history_size), 1)
        chunk = range(whole_number("chunk_size", chunk_size))
        super().__init__(
            store,
            needs=Needs(
                f"rdt, by its mapping {chosen.name!r},",
                (*pictures_of(self.unchanged), *needs_of(chosen, (*chosen.state, *chosen.action), chosen.moves_by)),
            ),
            windows={each.field: [0] for each in chosen.state}
            | {each.field: chunk for each in chosen.action}
            | dict.fromkeys(self.unchanged, self._offsets.tolist()),
            keep=self._keep if skip_still_start or shortest is not None or tail else None,
            notes=_notes(store, chosen, rotation, options["alignment"]),
            **drawn,
            transform=transform,
            **options,
        )
        self._slots, self._action_slots = slots_of(chosen.state, store), slots_of(chosen.action, store)
        self._check_instructions()
        # What stands in place of an episode's own norm.
        self._norm = None if state_norm is None else np.array(state_norm, np.float64)
        if self._norm is not None and self._norm.shape != (STATE_SIZE,):
            raise OptionError("state_norm has another shape", expected=f"({STATE_SIZE},)", found=self._norm.shape)
        if self._norm is None and chosen.norm == "action_std":
            self._norm = self._action_std() + NORM_FLOOR

    def get_item(self, index: SupportsIndex | None = None, state_only: bool = False) -> Any:
        """Return item `index`.

        Parameters
        ----------
        state_only
            {"state", "action"} (T, 128) of the whole episode that anchor `index` lies in, from where it begins to move with
            skip_still_start.

        Raises
        ------
        OptionError
            Without an index: RDT's own draws at random there, and drawing cannot give every step once.
        """
        if index is None:
            raise OptionError(
                "get_item() needs an index: without one, no dataset can give every step once, because the DataLoader's "
                "workers share nothing",
                file="train/dataset.py, VLAConsumerDataset.__getitem__",
                before="res = self.hdf5_dataset.get_item()",
                after="res = self.hdf5_dataset.get_item(index)",
                hint="`index` is the argument of __getitem__, which the DataLoader shuffles",
            )
        if not state_only:
            return self[index]
        number = self._in_range(index)
        with self._naming(number):
            rows = self._moving_rows(self.place(number)["episode"])
            takes = {"state": self.mapping.state, "action": self.mapping.action}
            return {key: self._vectors(each, rows) for key, each in takes.items()}

    def items(self, batch: dict[str, Any], empty: Empty) -> dict[str, Any]:
        episodes, steps = self._placed(batch)
        count = len(episodes)

        def in_slots(values: Any) -> Array:
            filled = np.zeros((count, STATE_SIZE))
            filled[:, self._slots] = values
            return filled

        mean, std, norm = np.stack([each.moments for each in episodes], axis=1)
        made: dict[str, Any] = {
            "meta": {
                "dataset_name": [self._name] * count,
                "#steps": [each.length for each in episodes],
                "step_id": steps,
                "instruction": self._instructions(batch, episodes),
            },
            "state": vectors(self.mapping.state, batch, self._six),
            "state_mean": in_slots(mean),
            "state_std": in_slots(std),
            "state_norm": in_slots(norm) if self._norm is None else np.tile(self._norm, (count, 1)),
            "actions": vectors(self.mapping.action, batch, self._six, empty),
            "state_indicator": in_slots(1),
        }
        history = len(self._offsets)
        frames = np.add.outer([step + each.shift for each, step in zip(episodes, steps)], self._offsets)
        is_begun = frames >= np.array([[each.begins] for each in episodes])
        seen = self._frames(batch, empty)
        for camera, field in self._cameras.items():
            if field is None:
                made[camera] = np.zeros((count, history, 0, 0, 0))
                made[f"{camera}_mask"] = np.zeros((count, history), bool)
            else:
                made[camera] = seen[camera]
                # Where no step is skipped this is min(t + 1, 2), as S3 has it; else min(t - (first_moving - 1) + 1, 2).
                made[f"{camera}_mask"] = is_begun & ~batch[f"{field}_is_pad"]
        return made

    def dataset_stat(self) -> dict[str, Any]:
        """Return the entry of RDT's configs/dataset_stat.json.

        {"dataset_name", "state_mean", "state_std", "state_min", "state_max"}, lists of 128, over all finite states of the episodes
        that have an anchor (with skip_still_start from where they begin to move); std of the non-zero entries. A mapping whose
        norm is "action_std" has that as well: its port reads it there.
        RDT computes it by asking for `get_item(i, state_only=True)` of every i, which here would count each episode T times
        [RDT data/compute_dataset_stat_hdf5.py:26-27].
        """
        made = super().dataset_stat()
        return made | ({"action_std": self._action_std().tolist()} if self.mapping.norm == "action_std" else {})

    def _keep(self, anchors: Steps) -> Mask:
        """Return which anchors the rules keep."""
        numbers, inverse = np.unique(anchors.episode, return_inverse=True)
        starts, stops = np.array([self._range(number) for number in numbers.tolist()], np.int64).T
        kept: Mask = (anchors.step >= starts[inverse]) & (anchors.step < stops[inverse])
        return kept

    def _range(self, number: int) -> tuple[int, int]:
        """Return the steps [start, stop) of an episode between which the rules have anchors."""
        rows = self._rows(number)
        if not has_length(len(rows), self._shortest):
            return 0, 0
        steps = rows - self.store.episodes[number].start
        begins = self._begins(rows) - self._source(number)[1] if self._skips else 0
        ends = drop_tail(len(rows), self._tail)
        return (int(steps[begins]), int(steps[ends - 1]) + 1) if begins < ends else (0, 0)

    def _begins(self, rows: Int64) -> int:
        """Return from which of an episode's steps RDT uses it: the one before the first that moved.

        [RDT-L data/hdf5_libero_dataset.py:175] With skip_still_start; else all of them are used.
        """
        if not self._skips:
            return 0
        qpos = np.concatenate([self.store.read(field, rows) for field in self.mapping.moves_by], axis=1)
        moving = first_moving(qpos)
        if moving is not None:
            return moving - 1
        if not self.mapping.must_move:
            return 0
        found = self.store.provenance(int(rows[0]))
        raise SourceError(
            "this episode never moves, so RDT's rule says nowhere to begin",
            store=self.store.url,
            file=found.file,
            demo=found.demo,
            episode=found.episode,
            expected=f"any of {', '.join(self.mapping.moves_by)} more than {MOVING_THRESHOLD} from its first value",
            hint="leave it out with `episodes=`, or do without skip_still_start",
        )

    def _action_std(self) -> Array:
        """Return the (128,) population std of all finite actions of the selection."""
        rows = np.concatenate([rows + part.row_start for part, rows in self._selected_rows()])
        blocks = np.split(rows, range(BLOCK_ROWS, len(rows), BLOCK_ROWS))
        actions = [self._vectors(self.mapping.action, block)[:, self._action_slots] for block in blocks]
        made = np.zeros(STATE_SIZE)
        made[self._action_slots] = field_statistics(np.concatenate(actions), [(0, len(rows))]).std
        return made


rdt = RdtDataset


def _notes(store: Store, mapping: RdtMapping, rotation: str | None, alignment: str) -> list[str]:
    notes = [f"mapping {mapping.name}: {mapping.about}"]
    if rotation == "euler_xyz":
        notes.append("rotations read as Euler angles, which they are not: as RDT-S has it")
    if alignment == "as_stored" and choose(store).has_after:
        notes.append('each action comes with what was seen after it, as the ports train; alignment="causal": before it')
    return notes


__all__ = ["CAMERAS", "MAPPINGS", "ROTATIONS", "RdtDataset", "RdtMapping", "Take", "rdt"]
