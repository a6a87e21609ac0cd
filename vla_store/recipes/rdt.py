"""RDT-1B: what its fine-tuning loader yields, every step once.

Sources, at these commits: RDT = thu-ml/RoboticsDiffusionTransformer deb71d8; RDT-L = tj-chen-1209/RDT_libero_finetune 3e9b0e9, a
port to LIBERO; RDT-S = another, the class `HDF5LIBERODataset`, of which several versions are public (S1, S2, S3).
"""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, SourceError, UnknownName
from vla_store.reader.selection import choose
from vla_store.reader.store import Store, open_store, parts_of
from vla_store.reader.windows import shift_of
from vla_store.recipes.dataset import SELECTION, Empty, RecipeDataset, Steps, recipe
from vla_store.recipes.gripper import MINUS_ONE_TO_ONE
from vla_store.recipes.needs import MAPPING, Needs, Range, numbers_of, pictures_of
from vla_store.recipes.rotations import six_of_axis_angle, six_of_euler_xyz
from vla_store.rules import MOVING_THRESHOLD, drop_tail, first_moving, has_length
from vla_store.storage import keep as keep_at_most
from vla_store.storage import local_path

Array = np.ndarray[Any, Any]
Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

STATE_SIZE = 128
CHUNK_SIZE = 64
IMAGE_HISTORY_SIZE = 2
NONZERO = 1e-8  # what dataset_stat.json counts as a non-zero number
NORM_FLOOR = 1e-8
MAX_EPISODES = 16_384  # held, about 1 kB each
BLOCK_ROWS = 1 << 14

# Where quantities of a single arm stand in RDT's vector [RDT configs/state_vec.py].
JOINTS, GRIPPER, EEF_POSITION, EEF_ROTATION, EEF_VELOCITY, EEF_ANGULAR_VELOCITY = 0, 10, 30, 33, 39, 42

CAMERAS: Mapping[str, str | None] = {
    "cam_high": "agentview_rgb",
    "cam_right_wrist": "eye_in_hand_rgb",
    "cam_left_wrist": None,
}
ROTATIONS: Mapping[str, Callable[[Array], Array]] = {"axis_angle": six_of_axis_angle, "euler_xyz": six_of_euler_xyz}
NORMS = ("state_rms", "action_std")


def as_it_is(values: Array) -> Array:
    return values


def fingers_to_unit(values: Array) -> Array:
    """Finger positions to 0 ... 1, by the least and greatest value that RDT-L gives [RDT-L data/hdf5_libero_dataset.py]."""
    return (values - -0.04245) / (0.05185 - -0.04245)


def gripper_to_unit(values: Array) -> Array:
    """-1 ... 1 to 0 ... 1 (1 means close)."""
    return (values + 1.0) / 2.0


def to_metres_as_s1(values: Array) -> Array:
    """By 0.012, which S1 takes for the metres of one unit; the controller's own scale is 0.05."""
    return values * 0.012


def to_centimetres_as_s2(values: Array) -> Array:
    """By 1.2: S1's metres as centimetres."""
    return values * 1.2


def to_radians(values: Array) -> Array:
    """By 0.5, the controller's own scale of a rotation."""
    return values * 0.5


@dataclass(frozen=True)
class Take:
    """Numbers [start, stop) of a field, after `convert`, stand in RDT's vector from `slot` on.

    convert: (..., stop - start) -> (..., n); a function of a module, so that it pickles. is_rotation: the 3 numbers that convert
    gives are a rotation, of which 6 are made. between: what `convert` takes them to lie between, and what the two ends mean;
    numbers that do not are refused.
    """

    field: str
    start: int
    stop: int
    slot: int
    convert: Callable[[Array], Array] = as_it_is
    is_rotation: bool = False
    between: tuple[float, float, str] | None = None


@dataclass(frozen=True)
class RdtMapping:
    """Which numbers of a store make RDT's vectors of 128.

    state, action: what is taken. moves_by: the fields by which an episode begins to move; must_move: whether one that never
    does is an error, or is used from its first step on. norm: "state_rms", of the episode's states, or "action_std", of all
    actions of the selection.
    """

    name: str
    state: tuple[Take, ...]
    action: tuple[Take, ...]
    moves_by: tuple[str, ...]
    must_move: bool = True
    norm: str = "state_rms"

    @property
    def has_rotation(self) -> bool:
        return any(each.is_rotation for each in (*self.state, *self.action))


_ARM_POSE = (
    Take("joint_states", 0, 7, JOINTS),
    Take("gripper_states", 0, 1, GRIPPER),
    Take("ee_pos", 0, 3, EEF_POSITION),
    Take("ee_ori", 0, 3, EEF_ROTATION, is_rotation=True),
)


# The two of a gripper that opens to 8 cm; those of regenerated files pass RDT-L's least and greatest by a little.
_FINGERS = Take(
    "gripper_states", 0, 2, GRIPPER, fingers_to_unit, between=(-0.1, 0.1, "where the two fingers are, in metres")
)


def _pose_action(position: Callable[[Array], Array]) -> tuple[Take, ...]:
    return (
        Take("actions", 0, 3, EEF_POSITION, position),
        Take("actions", 3, 6, EEF_ROTATION, to_radians, is_rotation=True),
        Take("actions", 6, 7, GRIPPER, gripper_to_unit, between=MINUS_ONE_TO_ONE),
    )


MAPPINGS: Mapping[str, RdtMapping] = {
    each.name: each
    for each in (
        RdtMapping(
            "rdt_libero_finetune",
            state=(Take("joint_states", 0, 7, JOINTS), _FINGERS),
            action=(
                Take("actions", 0, 3, EEF_VELOCITY),
                Take("actions", 3, 6, EEF_ANGULAR_VELOCITY),
                Take("actions", 6, 7, GRIPPER),
            ),
            moves_by=("joint_states", "gripper_states"),
        ),
        RdtMapping(
            "hdf5_libero_s1",
            state=_ARM_POSE,
            action=_pose_action(to_metres_as_s1),
            moves_by=("joint_states",),
            must_move=False,
        ),
        RdtMapping(
            "hdf5_libero_s2",
            state=_ARM_POSE,
            action=_pose_action(to_centimetres_as_s2),
            moves_by=("joint_states",),
            must_move=False,
            norm="action_std",
        ),
    )
}

_ABOUT = {
    "rdt_libero_finetune": "RDT-L: joints and fingers; actions raw, in the slots of velocities",
    "hdf5_libero_s1": "RDT-S, version S1: joints, finger and pose; actions in the slots of a pose, position x 0.012",
    "hdf5_libero_s2": "RDT-S, versions S2 and S3: position x 1.2, and state_norm is the actions' standard deviation",
}


@recipe
def rdt(
    store: Store | str | os.PathLike[str],
    *,
    mapping: str | RdtMapping = "",
    dataset_name: str = "libero",
    alignment: str = "as_stored",
    images: str = "as_stored",
    rotation: str | None = None,
    instruction: str | Mapping[str, str] = "file_name",
    cameras: Mapping[str, str | None] | None = None,
    skip_still_start: bool = False,
    shortest: int | None = None,
    tail: int = 0,
    state_norm: npt.ArrayLike | None = None,
    chunk_size: int = CHUNK_SIZE,
    img_history_size: int = IMAGE_HISTORY_SIZE,
    transform: Callable[[Any], Any] | None = None,
    **selection: Any,
) -> RdtDataset:
    """What RDT-1B's fine-tuning takes from its dataset, every step once: `get_item(i)` is anchor i of a selection.

    store: a Store, or where one is. mapping: which numbers go where in the vector of 128; must be named, because two are in use
    and neither is RDT's own: a key of MAPPINGS, or an RdtMapping.
    dataset_name: must be a key of RDT's finetune_datasets.json, dataset_control_freq.json and dataset_stat.json.
    alignment: "as_stored" is what the ports train on: an action with the observation of its own row, which published LIBERO
        files recorded *after* it. "causal" gives what was seen before the action. images: "as_stored" (the ports: upside down
        for LIBERO), "upright", "rot180".
    rotation: "axis_angle" (default; what LIBERO's numbers are) or "euler_xyz" (wrong, as RDT-S has it).
    instruction: "file_name", "source" (the file's own, as RDT-S), or {text of a task: what to give}, such as the path of a saved
        embedding, where the trainer uses those.
    cameras: {"cam_high", "cam_right_wrist", "cam_left_wrist": field, or None where there is none}.
    skip_still_start: RDT's rule: anchors only from one step before the first that moved (`rules.first_moving`); the frame before
        that step is masked. shortest: leave out episodes of fewer steps (RDT 128; RDT-S 32). tail: the last so many steps of an
        episode are no anchors (S3: 63). All off by default.
    state_norm: (128,) numbers to give instead of the mapping's own.
    chunk_size, img_history_size: action_chunk_size and img_history_size of RDT's configs/base.yaml.
    transform: called with each item. selection: suites, tasks, episodes, rows, split, view, keep_first, as `vla_store.Samples` has
        them. Under a view of kind "steps" an episode is made of the steps that it keeps: in #steps, step_id and all statistics.

    An item, with K chunk_size, H img_history_size, all numbers float64 and every array fresh:
        meta {dataset_name, "#steps": steps of the episode, step_id, instruction}; state (1, 128); state_mean, state_std,
        state_norm (128,), over the whole episode, population std, norm the root mean square; actions (K, 128), the last one
        repeated past the end; state_indicator (128,) of 1 and 0; `<camera>` (H, height, width, 3) uint8, the first frame repeated
        before the start, and (H, 0, 0, 0) float64 where there is no camera; `<camera>_mask` (H,) bool.
    [RDT data/hdf5_vla_dataset.py:45-74 and train/dataset.py:246-311; RDT-L data/hdf5_libero_dataset.py:175, 238-313.]

    Raises OptionError, UnknownName, SourceError (an episode that never moves), and what the store raises.
    """
    return RdtDataset(
        store,
        mapping=mapping,
        dataset_name=dataset_name,
        alignment=alignment,
        images=images,
        rotation=rotation,
        instruction=instruction,
        cameras=cameras,
        skip_still_start=skip_still_start,
        shortest=shortest,
        tail=tail,
        state_norm=state_norm,
        chunk_size=chunk_size,
        img_history_size=img_history_size,
        transform=transform,
        **selection,
    )


@dataclass(frozen=True)
class _Episode:
    """What all samples of an episode share.

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


class RdtDataset(RecipeDataset):
    """RDT's own interface over a store: `len`, `get_item`, `get_dataset_name`; made by `rdt`.

    There `index` and `len` count episodes, and a step is drawn at random. Here they count anchors. RDT's consumer changes in two
    lines: the constructor, and `self.hdf5_dataset.get_item(index)` [RDT train/dataset.py:246].
    """

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        *,
        mapping: str | RdtMapping,
        dataset_name: str,
        alignment: str,
        images: str,
        rotation: str | None,
        instruction: str | Mapping[str, str],
        cameras: Mapping[str, str | None] | None,
        skip_still_start: bool,
        shortest: int | None,
        tail: int,
        state_norm: npt.ArrayLike | None,
        chunk_size: int,
        img_history_size: int,
        transform: Callable[[Any], Any] | None,
        **selection: Any,
    ) -> None:
        opened = store if isinstance(store, Store) else open_store(store)
        self.mapping = _mapping(mapping)
        self._six = ROTATIONS[_rotation(rotation, self.mapping)]
        self._cameras = _cameras(cameras)
        _check_mapping(self.mapping)
        needs = _needs(self.mapping, self._cameras)
        needs.check(opened)
        chunk, history = _count("chunk_size", chunk_size), _count("img_history_size", img_history_size)
        tail = _count("tail", tail, least=0)
        self._name = dataset_name
        self._instruction = _checked_instruction(instruction)
        self._skips = bool(skip_still_start)
        self._shortest = shortest
        self._tail = tail
        self._offsets = np.arange(1 - history, 1)
        self.unchanged = tuple(dict.fromkeys(field for field in self._cameras.values() if field is not None))
        self._slots = _slots(self.mapping.state, opened)
        self._episodes: dict[int, _Episode] = {}
        windows: dict[str, Iterable[int]] = {each.field: [0] for each in self.mapping.state}
        windows |= {each.field: range(chunk) for each in self.mapping.action}
        windows |= {field: self._offsets.tolist() for field in self._cameras.values() if field is not None}
        for name in selection:
            if name not in SELECTION:
                raise UnknownName.among("option", name, list(SELECTION))
        has_rule = self._skips or shortest is not None or tail
        super().__init__(
            opened,
            windows=windows,
            needs=needs,
            keep=self._keep if has_rule else None,
            alignment=alignment,
            images=images,
            transform=transform,
            notes=_notes(opened, self.mapping, rotation, alignment),
            **selection,
        )
        self._check_instructions()
        self._norm = self._state_norm(state_norm)

    def get_dataset_name(self) -> str:
        """The name by which RDT's configuration knows this data."""
        return self._name

    def get_item(self, index: SupportsIndex | None = None, state_only: bool = False) -> Any:
        """Item `index`. state_only: {"state", "action"} (T, 128) of the whole episode that anchor `index` lies in, from where it
        begins to move with skip_still_start.

        Raises OptionError without an index: RDT's own draws at random there, and drawing cannot give every step once.
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
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        try:
            state, action = self._trajectory(self.place(number)["episode"])
        except Exception as error:
            raise self._named(error, number) from error
        return {"state": state, "action": action}

    def items(self, batch: dict[str, Any], empty: Empty) -> dict[str, Any]:
        """The items of a batch; see `rdt`."""
        episodes = [self._episode(number) for number in batch["episode"].tolist()]
        steps = [
            step if each.steps is None else int(np.searchsorted(each.steps, step))
            for each, step in zip(episodes, batch["step"].tolist())
        ]
        count = len(episodes)
        made: dict[str, Any] = {
            "meta": {
                "dataset_name": [self._name] * count,
                "#steps": [each.length for each in episodes],
                "step_id": steps,
                "instruction": [each.instruction for each in episodes],
            },
            "state": _vectors(self.mapping.state, batch, self._six),
        }
        moments = np.stack([each.moments for each in episodes], axis=1)
        for name, values in zip(("state_mean", "state_std", "state_norm"), moments):
            made[name] = np.zeros((count, STATE_SIZE))
            made[name][:, self._slots] = values
        if self._norm is not None:
            made["state_norm"] = np.tile(self._norm, (count, 1))
        made["actions"] = _vectors(self.mapping.action, batch, self._six, empty)
        made["state_indicator"] = np.zeros((count, STATE_SIZE))
        made["state_indicator"][:, self._slots] = 1
        history = len(self._offsets)
        frames = np.add.outer([step + each.shift for each, step in zip(episodes, steps)], self._offsets)
        is_begun = frames >= np.array([[each.begins] for each in episodes])
        seen = set[str]()
        for camera, field in self._cameras.items():
            if field is None:
                made[camera] = np.zeros((count, history, 0, 0, 0))
                made[f"{camera}_mask"] = np.zeros((count, history), bool)
            else:
                made[camera] = batch[field]
                if field in seen:
                    made[camera] = empty(batch[field].shape, batch[field].dtype)
                    made[camera][...] = batch[field]
                # Where no step is skipped this is min(t + 1, 2), as S3 has it; else min(t - (first_moving - 1) + 1, 2).
                made[f"{camera}_mask"] = is_begun & ~batch[f"{field}_is_pad"]
                seen.add(field)
        return made

    def dataset_stat(self) -> dict[str, Any]:
        """The entry of RDT's configs/dataset_stat.json: {"dataset_name", "state_mean", "state_std", "state_min", "state_max"}.

        Lists of 128, over all finite states of the episodes that have an anchor (with skip_still_start from where they begin to move);
        std of the non-zero entries. A mapping whose norm is "action_std" has that as well: its port reads it there.
        RDT computes it by asking for `get_item(i, state_only=True)` of every i, which here would count each episode T times
        [RDT data/compute_dataset_stat_hdf5.py:26-27].
        """
        count = np.zeros(STATE_SIZE, np.int64)
        nonzero, total, large, squares = (np.zeros(STATE_SIZE) for _ in range(4))
        least, most = np.full(STATE_SIZE, np.inf), np.full(STATE_SIZE, -np.inf)
        for number in self._episodes_with_anchors():
            states = self._trajectory(number)[0]
            finite = np.isfinite(states)
            states = np.where(finite, states, 0)
            is_nonzero = np.abs(states) > NONZERO
            kept = np.where(is_nonzero, states, 0)
            count += finite.sum(axis=0)
            nonzero += is_nonzero.sum(axis=0)
            total += states.sum(axis=0)
            large += kept.sum(axis=0)
            squares += (kept * kept).sum(axis=0)
            least = np.minimum(least, states.min(axis=0, where=finite, initial=np.inf))
            most = np.maximum(most, states.max(axis=0, where=finite, initial=-np.inf))
        least, most = (np.where(count, each, 0) for each in (least, most))
        nonzero, count = np.maximum(nonzero, 1), np.maximum(count, 1)
        variance = squares / nonzero - (large / count) ** 2 * (count / nonzero)
        made = {
            "dataset_name": self._name,
            "state_mean": (total / count).tolist(),
            "state_std": np.sqrt(np.maximum(variance, 0)).tolist(),
            "state_min": least.tolist(),
            "state_max": most.tolist(),
        }
        if self.mapping.norm == "action_std":
            made["action_std"] = self._action_std().tolist()
        return made

    def write_dataset_stat(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Puts `dataset_stat()` into RDT's configs/dataset_stat.json under its name, and keeps the other entries.

        The file is replaced as a whole. Raises OptionError where it holds no JSON object.
        """
        known: Any = {}
        place = local_path(path, "dataset_stat.json")
        if place.exists():
            with place.open(encoding="utf-8") as file:
                try:
                    known = json.load(file)
                except ValueError as error:
                    raise OptionError("this is no JSON", file=place, found=error) from None
            if not isinstance(known, dict):
                raise OptionError("this is no JSON object of datasets", file=place)
        entry = self.dataset_stat()
        known[self._name] = entry
        unfinished = f"{place}.{os.getpid()}.unfinished"
        with open(unfinished, "w", encoding="utf-8") as file:
            json.dump(known, file, indent=4)
        os.replace(unfinished, place)
        return entry

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_episodes": {}}

    def _keep(self, anchors: Steps) -> Mask:
        """Which anchors the rules keep."""
        numbers, inverse = np.unique(anchors.episode, return_inverse=True)
        ranges = np.array([self._range(number) for number in numbers.tolist()], np.int64)[inverse]
        kept: Mask = (anchors.step >= ranges[:, 0]) & (anchors.step < ranges[:, 1])
        return kept

    def _range(self, number: int) -> tuple[int, int]:
        """The steps [start, stop) of an episode between which the rules have anchors."""
        rows, _, shift = self._located(number)
        if not has_length(len(rows), self._shortest):
            return 0, 0
        steps = rows - self.store.episodes[number].start
        begins = self._begins(rows) - shift if self._skips else 0
        ends = drop_tail(len(rows), self._tail)
        return (int(steps[begins]), int(steps[ends - 1]) + 1) if begins < ends else (0, 0)

    def _located(self, number: int) -> tuple[Int64, Any, int]:
        """Of an episode: the store's rows that there are, its task, and its shift."""
        part, at = parts_of(self.store).of_episode(number)
        start, length, task, source = part.entries(at, at + 1)[0, :4].tolist()
        shift = shift_of("observation", part.document.sources[source].observation, self.alignment)
        rows = np.arange(part.row_start + start, part.row_start + start + length)
        kept = self._chosen.kept
        if kept is not None and kept.steps is not None:
            at_or_before = np.searchsorted(kept.steps[:, 0], rows, side="right") - 1
            rows = rows[(at_or_before >= 0) & (rows < kept.steps[at_or_before, 1])]
        return rows, part.document.tasks[task], shift

    def _begins(self, rows: Int64) -> int:
        """From which of an episode's steps RDT uses it: the one before the first that moved [RDT-L data/hdf5_libero_dataset.py:175]."""
        qpos = np.concatenate([self.store.read(field, rows) for field in self.mapping.moves_by], axis=1)
        moving = first_moving(qpos)
        if moving is not None:
            return moving - 1
        if not self.mapping.must_move:
            return 0
        place = self.store.provenance(int(rows[0]))
        raise SourceError(
            "this episode never moves, so RDT's rule says nowhere to begin",
            store=self.store.url,
            file=place.file,
            demo=place.demo,
            episode=place.episode,
            expected=f"any of {', '.join(self.mapping.moves_by)} more than {MOVING_THRESHOLD} from its first value",
            hint="leave it out with `episodes=`, or do without skip_still_start",
        )

    def _episode(self, number: int) -> _Episode:
        episode = self._episodes.get(number)
        if episode is None:
            rows, task, shift = self._located(number)
            states = self._vectors_of(self.mapping.state, rows)
            # Over all 128 columns, as the trainer has them: NumPy sums a single column in another order.
            moments = _moments(states)
            each = self.store.episodes[number]
            episode = _Episode(
                rows - each.start if len(rows) < each.length else None,
                len(rows),
                self._begins(rows) if self._skips else 0,
                shift,
                self._instruction_of(task, number),
                np.stack([moment[self._slots] for moment in moments]),
            )
            keep_at_most(self._episodes, number, episode, MAX_EPISODES)
        return episode

    def _trajectory(self, number: int) -> tuple[Array, Array]:
        """(T, 128) states and actions of an episode, from where it begins."""
        rows, _, _ = self._located(number)
        rows = rows[self._begins(rows) if self._skips else 0 :]
        return self._vectors_of(self.mapping.state, rows), self._vectors_of(self.mapping.action, rows)

    def _vectors_of(self, takes: Sequence[Take], rows: Int64) -> Array:
        values = {field: self.store.read(field, rows) for field in dict.fromkeys(each.field for each in takes)}
        return _vectors(takes, values, self._six)

    def _episodes_with_anchors(self) -> Iterator[int]:
        """The store's numbers of the episodes that have an anchor, each once."""
        found = [np.empty(0, np.int64)]
        for start in range(0, len(self), BLOCK_ROWS):
            block = np.arange(start, min(start + BLOCK_ROWS, len(self)))
            for part, _, places in self._anchors.many(block, self.store):
                found.append(np.unique(places.episode + part.episode_start))
        yield from np.unique(np.concatenate(found)).tolist()

    def _state_norm(self, given: npt.ArrayLike | None) -> Array | None:
        """What stands in place of an episode's own norm; None for that."""
        if given is not None:
            made = np.array(given, np.float64)
            if made.shape != (STATE_SIZE,):
                raise OptionError("state_norm has another shape", expected=f"({STATE_SIZE},)", found=made.shape)
            return made
        return self._action_std() + NORM_FLOOR if self.mapping.norm == "action_std" else None

    def _action_std(self) -> Array:
        """(128,) population std of all finite actions of the selection; blocks are merged by their means and squared deviations."""
        count, mean, deviation = np.zeros(STATE_SIZE, np.int64), np.zeros(STATE_SIZE), np.zeros(STATE_SIZE)
        for part, rows in self._selected_rows():
            for start in range(0, len(rows), BLOCK_ROWS):
                block = rows[start : start + BLOCK_ROWS] + part.row_start
                actions = self._vectors_of(self.mapping.action, block)
                finite = np.isfinite(actions)
                seen, new = finite.sum(axis=0), _finite_mean(actions)
                share = seen / np.maximum(count + seen, 1)
                deviation += ((actions - new) ** 2).sum(axis=0, where=finite) + (new - mean) ** 2 * count * share
                mean += (new - mean) * share
                count += seen
        return np.sqrt(deviation / np.maximum(count, 1))

    def _instruction_of(self, task: Any, number: int) -> str:
        text = self.store.episodes[number].text  # its own, where its source states one
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

    def _check_instructions(self) -> None:
        """Now, because RDT's consumer would only print the error, and go on with the next sample."""
        if self._instruction != "file_name":
            tasks = dict[Any, int]()
            for number in self._episodes_with_anchors():
                tasks.setdefault((self._located(number)[1], self.store.episodes[number].text), number)
            for (task, _), number in tasks.items():
                self._instruction_of(task, number)


def _finite_mean(values: Array) -> Array:
    """The mean over axis 0 of what is finite; 0 where nothing is. Where all is finite, in the order in which NumPy sums all."""
    finite = np.isfinite(values)
    if finite.all():
        return values.mean(axis=0)  # type: ignore[no-any-return]
    return np.where(finite, values, 0).sum(axis=0) / np.maximum(finite.sum(axis=0), 1)  # type: ignore[no-any-return]


def _moments(states: Array) -> tuple[Array, Array, Array]:
    """Mean, std and norm (root of the mean square) over axis 0, of what is finite."""
    if np.isfinite(states).all():
        return states.mean(axis=0), states.std(axis=0), np.sqrt((states**2).mean(axis=0))
    with np.errstate(invalid="ignore", over="ignore"):
        mean = _finite_mean(states)
        return mean, np.sqrt(_finite_mean((states - mean) ** 2)), np.sqrt(_finite_mean(states**2))


def _vectors(
    takes: Sequence[Take], values: Mapping[str, Array], six: Callable[[Array], Array], empty: Empty = np.empty
) -> Array:
    """(..., 128) float64: what is taken, zeros elsewhere."""
    made = empty((*values[takes[0].field].shape[:-1], STATE_SIZE), np.float64)
    made[...] = 0
    for take in takes:
        taken = take.convert(values[take.field][..., take.start : take.stop])
        taken = six(taken) if take.is_rotation else taken
        made[..., take.slot : take.slot + taken.shape[-1]] = taken
    return made


def _slots(takes: Sequence[Take], store: Store) -> Int64:
    """The slots that are taken, ascending."""
    filled = np.zeros(STATE_SIZE, bool)
    for take in takes:
        width = np.shape(take.convert(np.zeros(take.stop - take.start, store.fields[take.field].dtype)))[-1]
        width = 6 if take.is_rotation else width
        if take.slot < 0 or take.slot + width > STATE_SIZE or filled[take.slot : take.slot + width].any():
            raise OptionError(
                "a mapping fills slots outside the vector, or twice", field=take.field, slots=f"{take.slot} + {width}"
            )
        filled[take.slot : take.slot + width] = True
    return np.flatnonzero(filled)


def _mapping(given: str | RdtMapping) -> RdtMapping:
    if isinstance(given, RdtMapping):
        if given.norm not in NORMS:
            raise UnknownName.among("norm", given.norm, list(NORMS))
        return given
    if given == "":
        raise OptionError(
            "mapping must be named: two mappings of LIBERO into RDT's vector are in use, and neither is RDT's own",
            **_ABOUT,
            hint='rdt(store, mapping="rdt_libero_finetune"), or an RdtMapping of your own',
        )
    if given not in MAPPINGS:
        raise UnknownName.among("mapping", given, list(MAPPINGS))
    return MAPPINGS[given]


def _rotation(given: str | None, mapping: RdtMapping) -> str:
    if given is not None and given not in ROTATIONS:
        raise UnknownName.among("rotation", given, list(ROTATIONS))
    if given is not None and not mapping.has_rotation:
        raise OptionError("this mapping turns no rotation into 6 numbers", mapping=mapping.name, rotation=given)
    return given or "axis_angle"


def _cameras(given: Mapping[str, str | None] | None) -> dict[str, str | None]:
    if given is None:
        return dict(CAMERAS)
    for name in given:
        if name not in CAMERAS:
            raise UnknownName.among("camera of RDT", name, list(CAMERAS))
    return {name: given.get(name) for name in CAMERAS}


def _check_mapping(mapping: RdtMapping) -> None:
    if not mapping.state or not mapping.action:
        raise OptionError("a mapping takes something for the state and for the action", mapping=mapping.name)
    both = {each.field for each in mapping.state} & {each.field for each in mapping.action}
    if both:
        raise OptionError("a field is of the state or of the action, not both", field=sorted(both)[0])


def _needs(mapping: RdtMapping, cameras: Mapping[str, str | None]) -> Needs:
    """What a mapping takes: those that come with this package are of LIBERO's fields, as wide as these are."""
    is_known = any(mapping == each for each in MAPPINGS.values())
    takes = (*mapping.state, *mapping.action)
    found = [pictures_of(field, "cameras") for field in cameras.values() if field is not None]
    for field in dict.fromkeys((*mapping.moves_by, *(each.field for each in takes))):
        own = [each for each in takes if each.field == field]
        ranges = [
            Range(number, *each.between) for each in own if each.between for number in range(each.start, each.stop)
        ]
        need = numbers_of(field, MAPPING, at_least=max((each.stop for each in own), default=1), ranges=ranges)
        found.append(need if is_known else replace(need, width=None))
    return Needs(f"rdt, by its mapping {mapping.name!r},", tuple(found))


def _checked_instruction(given: Any) -> str | dict[str, str]:
    if isinstance(given, Mapping):
        return {str(text): str(value) for text, value in given.items()}
    if given not in ("file_name", "source"):
        raise UnknownName.among("instruction", given, ["file_name", "source", "a dict"])
    return str(given)


def _count(name: str, given: Any, least: int = 1) -> int:
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or given < least:
        raise OptionError(f"{name} is a whole number, at least {least}", found=repr(given)[:100])
    return int(given)


def _notes(store: Store, mapping: RdtMapping, rotation: str | None, alignment: str) -> list[str]:
    notes = [f"mapping {mapping.name}: {_ABOUT.get(mapping.name, 'given by the caller')}"]
    if rotation == "euler_xyz":
        notes.append("rotations read as Euler angles, which they are not: as RDT-S has it")
    if alignment == "as_stored" and choose(store).has_after:
        notes.append('each action comes with what was seen after it, as the ports train; alignment="causal": before it')
    return notes


__all__ = ["CAMERAS", "MAPPINGS", "ROTATIONS", "RdtDataset", "RdtMapping", "Take", "rdt"]
