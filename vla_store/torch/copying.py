"""Copies of batches in page-locked memory, and on a GPU."""

from __future__ import annotations

from typing import Any

import torch

from vla_store.loader.packing import walk
from vla_store.torch.tensors import tensor_of


class Copier:
    """Copies a batch into page-locked tensors and, if `moves`, from there to a GPU, on a stream of its own. One thread calls it."""

    def __init__(self, gpu: torch.device, moves: bool) -> None:
        self._gpu = gpu
        self._moves = moves
        self._stream: Any = None

    def __call__(self, batch: Any) -> Copied:
        if self._stream is None:
            torch.cuda.set_device(self._gpu)
            self._stream = torch.cuda.Stream(self._gpu)  # type: ignore[no-untyped-call]
        pinned = walk(batch, self._pin)
        if not self._moves:
            return Copied(pinned, None)
        with torch.cuda.stream(self._stream):
            # torch's allocator of page-locked memory keeps each source until this stream has passed the copy.
            moved = walk(pinned, self._move)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        return Copied(moved, event)

    def _pin(self, value: Any) -> Any:
        each = tensor_of(value)
        if not isinstance(each, torch.Tensor):
            return each
        return torch.empty(each.shape, dtype=each.dtype, device="cpu", pin_memory=True).copy_(each)

    def _move(self, value: Any) -> Any:
        return value.to(self._gpu, non_blocking=True) if isinstance(value, torch.Tensor) else value


class Copied:
    """A batch whose copy to a GPU may still be under way. event: recorded behind it; None where there was none."""

    def __init__(self, batch: Any, event: Any) -> None:
        self._batch = batch
        self._event = event

    def settled(self) -> Any:
        """Return the batch, once the current stream waits for its copy, and its memory for the current stream."""
        if self._event is not None:
            current = torch.cuda.current_stream(self._event.device)
            current.wait_event(self._event)
            walk(self._batch, lambda each: each.record_stream(current) if isinstance(each, torch.Tensor) else None)
        return self._batch
