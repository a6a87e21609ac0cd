"""LIBERO's own baselines: what its sequence dataset yields, from a store.

Sources, at Lifelong-Robot-Learning/LIBERO 8f1084e: the item and its windows, libero/lifelong/datasets.py:43-58 (robomimic's
SequenceDataset with seq_length 10, frame_stack 1, padding on, no mask; it casts to float32); the keys and the length,
libero/configs/data/default.yaml.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic

import numpy as np
import numpy.typing as npt

from vla_store.errors import OptionError, UnknownName, whole_number
from vla_store.recipes.conversions import channels_first
from vla_store.recipes.dataset import AnyStore, Empty, Options, RecipeDataset, Unpack, opened, recipe
from vla_store.recipes.item_types import LiberoItem
from vla_store.recipes.needs import Needs, listed, mapped, numbers_of, pictures_of
from vla_store.types import TypeVar

SEQUENCE_LENGTH = 10
CAMERAS = ("agentview_rgb", "eye_in_hand_rgb")
LOW_DIM = ("gripper_states", "joint_states")


Made = TypeVar("Made", default=LiberoItem, covariant=True)


class LiberoDataset(RecipeDataset[Made], Generic[Made]):
    """The dataset of LIBERO's own policies (BC-RNN, BC-Transformer, BC-ViLT): every row is an anchor.

    LIBERO normalises nothing but pixels. It interleaves tasks (GroupedTaskDataset): the order of a shuffling loader takes the
    place of that.

    Parameters
    ----------
    sequence_length
        L, how many steps an item has.
    cameras, low_dim
        Fields that are observed.
    task_emb
        {text of a task, or an episode's own: its embedding}, given as "task_emb", a fresh array, as LIBERO's SequenceVLDataset
        gives it; without it items have none, and that class can still put one around the dataset of a task.
    alignment
        "as_stored", LIBERO's own: an action with the observation of its row, which its files recorded *after* it.
    images
        "as_stored", LIBERO's own: upside down, in training and in evaluation alike.
    transform, suites, tasks, episodes, rows, split, view, keep_first
        As `vla_store.Samples` has them.

    Returns
    -------
    dataset
        Of items {"actions": (L, 7), "obs": {camera: (L, 3, H, W) in 0..1, low-dim: (L, n)}}, all float32. Observations *and*
        actions are of steps t .. t + L - 1; past the end the last step is repeated, and no mask says so.
    """

    @recipe("libero", alignment="as_stored", images="as_stored")
    def __init__(
        self,
        store: AnyStore,
        *,
        sequence_length: int = SEQUENCE_LENGTH,
        cameras: tuple[str, ...] = CAMERAS,
        low_dim: tuple[str, ...] = LOW_DIM,
        task_emb: Mapping[str, npt.ArrayLike] | None = None,
        transform: Callable[[LiberoItem], Made] | None = None,
        **options: Unpack[Options],
    ) -> None:
        store = opened(store)
        steps = range(whole_number("sequence_length", sequence_length))
        self._cameras, self._low_dim = listed("cameras", cameras, least=0), listed("low_dim", low_dim, least=0)
        if "actions" in low_dim:
            raise OptionError("the actions are no observation", hint="leave 'actions' out of low_dim")
        given = None if task_emb is None else mapped("task_emb", task_emb, "{text of a task: its embedding}")
        self._embeddings = None if given is None else {text: np.array(each) for text, each in given.items()}
        fields = (*pictures_of(cameras), *numbers_of(low_dim, "low_dim", ragged=True), *numbers_of(["actions"]))
        notes = []
        if options["alignment"] == "as_stored" and store.conventions.observation != "before":
            notes.append("each action comes with what was seen after it, as LIBERO's own baselines train")
        windows = dict.fromkeys(("actions", *cameras, *low_dim), steps)
        super().__init__(
            store, needs=Needs("libero", fields), windows=windows, notes=notes, transform=transform, **options
        )
        if self._embeddings is not None:
            texts = {task.text for task in store.tasks}
            if any(task.texts for task in store.tasks):
                texts = {each.text for each in store.episodes}
            for text in sorted(texts - self._embeddings.keys()):
                raise UnknownName.among("embedding of task", text, list(self._embeddings), store=store.url)

    def items(self, batch: dict[str, Any], empty: Empty) -> dict[str, Any]:
        obs = {name: channels_first(batch[name], empty) for name in self._cameras}
        obs |= {name: batch[name].astype(np.float32) for name in self._low_dim}
        items = {"actions": batch["actions"].astype(np.float32), "obs": obs}
        if self._embeddings is None:
            return items
        return items | {"task_emb": [self._embeddings[text].copy() for text in batch["task"]]}

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
        """Shapes as robomimic's get_shape_metadata_from_dataset gives them, from which LIBERO's policies are built."""
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


libero = LiberoDataset
