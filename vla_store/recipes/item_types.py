"""What the items of recipes are, for type checkers: each is a plain dict or tuple. Imports only the types of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np

if TYPE_CHECKING:
    from typing import overload

Array = np.ndarray[Any, Any]

ActItem = tuple[Array, Array, Array, Array]


class DiffusionPolicyItem(TypedDict):
    """See `vla_store.recipes.diffusion_policy`."""

    obs: dict[str, Array]
    action: Array


class _LiberoItem(TypedDict):
    obs: dict[str, Array]
    actions: Array


class LiberoItem(_LiberoItem, total=False):
    """See `vla_store.recipes.libero`."""

    task_emb: Array


class OpenPiItem(TypedDict):
    """See `vla_store.recipes.openpi`."""

    image: Array
    wrist_image: Array
    state: Array
    actions: Array
    prompt: str


class OpenVLAItem(TypedDict):
    """See `vla_store.recipes.openvla`."""

    image: Array
    action: Array
    language: str


class OpenVLAOFTItem(TypedDict):
    """See `vla_store.recipes.openvla_oft`."""

    image: Array
    wrist_image: Array
    proprio: Array
    actions: Array
    language: str


if TYPE_CHECKING:

    class RdtItem(dict[str, Any]):
        """See `vla_store.recipes.rdt`: `meta` is a dict, all else are arrays."""

        @overload
        def __getitem__(self, key: Literal["meta"], /) -> dict[str, Any]: ...  # type: ignore[overload-overlap]
        @overload
        def __getitem__(self, key: str, /) -> Array: ...
        def __getitem__(self, key: str, /) -> Any: ...

    class RdtPretrainItem(dict[str, Any]):
        """See `vla_store.recipes.rdt_pretrain`: `json_content` is a dict, `step_id` an int, all else are arrays."""

        @overload
        def __getitem__(self, key: Literal["json_content"], /) -> dict[str, Any]: ...  # type: ignore[overload-overlap]
        @overload
        def __getitem__(self, key: Literal["step_id"], /) -> int: ...  # type: ignore[overload-overlap]
        @overload
        def __getitem__(self, key: str, /) -> Array: ...
        def __getitem__(self, key: str, /) -> Any: ...

else:
    RdtItem = RdtPretrainItem = dict[str, Any]
