"""LIBERO's own baselines: what its sequence dataset yields, from a store.

Sources, at Lifelong-Robot-Learning/LIBERO 8f1084e: the item and its windows, libero/lifelong/datasets.py:43-58 (robomimic's
SequenceDataset with seq_length 10, frame_stack 1, padding on, no mask; it casts to float32); the keys and the length,
libero/configs/data/default.yaml.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, UnknownName
from vla_store.reader.store import Store, open_store
from vla_store.recipes.dataset import Empty, RecipeDataset, recipe
from vla_store.recipes.needs import Needs, numbers_of, pictures_of
from vla_store.recipes.pictures import channels_first

SEQUENCE_LENGTH = 10
CAMERAS = ("agentview_rgb", "eye_in_hand_rgb")
LOW_DIM = ("gripper_states", "joint_states")


@recipe
def libero(
    store: Store | str | os.PathLike[str],
    *,
    sequence_length: int = SEQUENCE_LENGTH,
    cameras: tuple[str, ...] = CAMERAS,
    low_dim: tuple[str, ...] = LOW_DIM,
    task_emb: Mapping[str, npt.ArrayLike] | None = None,
    alignment: str = "as_stored",
    images: str = "as_stored",
    transform: Callable[[Any], Any] | None = None,
    **selection: Any,
) -> LiberoDataset:
    """What LIBERO's own policies (BC-RNN, BC-Transformer, BC-ViLT) take from their dataset. Every row is an anchor.

    An item, with L sequence_length: {"actions": (L, 7), "obs": {camera: (L, 3, H, W) in 0..1, low-dim: (L, n)}}, all float32.
    Observations *and* actions are of steps t .. t + L - 1; past the end the last step is repeated, and no mask says so.

    task_emb: {text of a task, or an episode's own: its embedding}, given as "task_emb", a fresh array, as LIBERO's SequenceVLDataset gives it; without
        it items have none, and that class can still put one around the dataset of a task. LIBERO interleaves tasks
        (GroupedTaskDataset): the order of a shuffling loader takes the place of that.
    alignment: "as_stored", LIBERO's own: an action with the observation of its row, which its files recorded *after* it.
        images: "as_stored", LIBERO's own: upside down, in training and in evaluation alike.
    selection: suites, tasks, episodes, rows, split, view, keep_first, as `vla_store.Samples` has them.
    LIBERO normalises nothing but pixels. Raises OptionError, UnknownName, and what the store raises.
    """
    return LiberoDataset(
        store,
        sequence_length=sequence_length,
        cameras=cameras,
        low_dim=low_dim,
        task_emb=task_emb,
        alignment=alignment,
        images=images,
        transform=transform,
        **selection,
    )


class LiberoDataset(RecipeDataset):
    """What `libero` gives."""

    def __init__(
        self,
        store: Store | str | os.PathLike[str],
        *,
        sequence_length: int,
        cameras: tuple[str, ...],
        low_dim: tuple[str, ...],
        task_emb: Mapping[str, npt.ArrayLike] | None,
        **options: Any,
    ) -> None:
        opened = store if isinstance(store, Store) else open_store(store)
        if (
            isinstance(sequence_length, bool)
            or not isinstance(sequence_length, (int, np.integer))
            or sequence_length < 1
        ):
            raise OptionError("sequence_length is a whole number, at least 1", found=repr(sequence_length)[:100])
        if "actions" in low_dim:
            raise OptionError("the actions are no observation", hint="leave 'actions' out of low_dim")
        observed = [numbers_of(name, "low_dim", ragged=True) for name in low_dim]
        needs = Needs("libero", (*(pictures_of(name, "cameras") for name in cameras), *observed, numbers_of("actions")))
        self._cameras, self._low_dim = tuple(cameras), tuple(low_dim)
        self._task_emb = None if task_emb is None else {text: np.array(each) for text, each in task_emb.items()}
        notes = []
        if options["alignment"] == "as_stored" and opened.conventions.observation != "before":
            notes.append("each action comes with what was seen after it, as LIBERO's own baselines train")
        steps = range(int(sequence_length))
        windows = dict.fromkeys(("actions", *self._cameras, *self._low_dim), steps)
        super().__init__(opened, windows=windows, needs=needs, notes=notes, **options)
        if self._task_emb is not None:
            texts = {task.text for task in opened.tasks}
            if any(task.texts for task in opened.tasks):
                texts = {each.text for each in opened.episodes}
            for text in sorted(texts - self._task_emb.keys()):
                raise UnknownName.among("embedding of task", text, list(self._task_emb), store=opened.url)

    def items(self, batch: dict[str, Any], empty: Empty) -> dict[str, Any]:
        obs = {name: channels_first(batch[name], empty) for name in self._cameras}
        obs |= {name: batch[name].astype(np.float32) for name in self._low_dim}
        items = {"actions": batch["actions"].astype(np.float32), "obs": obs}
        if self._task_emb is None:
            return items
        return items | {"task_emb": [self._task_emb[text].copy() for text in batch["task"]]}

    @property
    def n_demos(self) -> int:
        """Episodes of the selection; what LIBERO asks its datasets for, as the two that follow."""
        return len(self.selected_episodes)

    @property
    def total_num_sequences(self) -> int:
        """Anchors."""
        return len(self)

    @property
    def shape_meta(self) -> dict[str, Any]:
        """What robomimic's get_shape_metadata_from_dataset says, from which LIBERO's policies are built."""
        shapes: dict[str, list[int | None]] = {}
        for name in sorted((*self._cameras, *self._low_dim)):
            shape = list(self.store.fields[name].shape)
            shapes[name] = [shape[-1], *shape[:-1]] if name in self._cameras else shape
        return {
            "ac_dim": self.store.fields["actions"].shape[0],
            "all_shapes": shapes,
            "all_obs_keys": [*self._cameras, *self._low_dim],
            "use_images": bool(self._cameras),
        }
