"""`functools.cached_property` without its lock, which a fork would copy as it is held. Imports nothing of this package."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from functools import cached_property as cached_property
else:

    class cached_property(functools.cached_property):
        """Compute a value at its first use, and keep it; where two threads do so at once, both get the value that was kept first."""

        def __get__(self, owner: Any, kind: type | None = None) -> Any:
            if owner is None:
                return self
            return owner.__dict__.setdefault(self.attrname, self.func(owner))
