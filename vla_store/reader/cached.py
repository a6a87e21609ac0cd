"""`functools.cached_property` without its lock, which a fork would copy as it is held. Imports nothing of this package."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from functools import cached_property as cached_property
else:

    class cached_property(functools.cached_property):
        """Compute a value at its first use, and keep it; two threads at once may both compute it, and get equal values."""

        def __get__(self, owner: Any, kind: type | None = None) -> Any:
            if owner is None:
                return self
            value = owner.__dict__[self.attrname] = self.func(owner)
            return value
