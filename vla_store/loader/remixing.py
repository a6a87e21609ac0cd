"""How a mixture goes on from a state: exactly, or, where its weights, parts or batches were changed, with a new stretch.

A stretch begins where the state stands. Each part goes on with the sample after the last one that it gave, so that nothing comes again
or is left out in its own epoch, and from there on shares are the new ones. The stretch is part of later states. May import errors and
the order of a mixture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

from vla_store.errors import OptionError, whole_number
from vla_store.loader.mixing import Mixing, Stretch


class Remixed(Protocol):
    """What of a mixture is needed here."""

    names: list[str]
    by_part: bool
    ordering: Mixing

    @property
    def identity(self) -> Mapping[str, Any]: ...

    def since(self: Any, begins: Stretch) -> Any: ...


Mixture = TypeVar("Mixture", bound=Remixed)

REWEIGH = "mixture(..., reweighed=True) lets each part go on where it stands in its own epoch, and has these shares from there on"


def continued(mixture: Mixture, state: Mapping[str, Any], reweighed: bool) -> tuple[Mixture, Mapping[str, Any]]:
    """Return the mixture that goes on from a state, and the state as it is one of that mixture.

    reweighed: whether weights and parts may be others than the state's. Raises OptionError.
    """
    own = mixture.identity
    names = "parts", "shares", "run", "begins", "given"
    if any(name not in state for name in names):
        return mixture, state  # of no mixture: what compares identities says so
    is_same = all(state[name] == own[name] for name in ("parts", "shares"))
    rows, run = mixture.ordering.epoch_rows, mixture.ordering.run
    if not is_same and not reweighed:
        raise _refused(own, state)
    if state.get("rows") != rows and not (reweighed or mixture.by_part):
        raise OptionError(
            "the state is of a mixture with another number of rows in an epoch",
            expected=rows,
            found=state.get("rows", "nothing"),
            hint=REWEIGH,
        )
    try:
        epoch, position = (whole_number(name, state.get(name), least=0) for name in ("epoch", "position"))
        is_whole = (rows - position) % mixture.ordering.whole == 0  # batches of all ranks
        if is_same and (state["run"], state.get("rows")) == (run, rows) and is_whole:
            first, at, given = state["begins"]
            return mixture.since(Stretch(first, at, tuple(given[name] for name in mixture.names))), state
        for name in mixture.names:
            if name in state["parts"] and state["parts"][name] != own["parts"][name]:
                raise OptionError(
                    "a part of the mixture is another dataset than in the state",
                    part=name,
                    expected=own["parts"][name],
                    found=state["parts"][name],
                    hint="give another name to a part that is new: it begins with its first sample",
                )
        epoch, position = _place(epoch, position, rows, mixture.ordering.whole)
        given = tuple(whole_number("given", state["given"].get(name, 0), least=0) for name in mixture.names)
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError("the state cannot be", found=f"{type(error).__name__}: {error}") from None
    made = mixture.since(Stretch(epoch, position, given))
    return made, {**state, **made.identity, "rows": rows, "epoch": epoch, "position": position}


def _place(epoch: int, position: int, rows: int, whole: int) -> tuple[int, int]:
    """Return where a stretch begins: in the same epoch, if that is long enough now, in front of whole batches."""
    left = max(0, rows - position)
    position = max(0, rows - -(-left // whole) * whole)
    return (epoch, position) if left else (epoch + 1, 0)


def _refused(own: Mapping[str, Any], state: Mapping[str, Any]) -> OptionError:
    mine, theirs = own["parts"], state["parts"]
    if mine.keys() != theirs.keys():
        return OptionError(
            "the state is of a mixture of other parts",
            expected=", ".join(mine)[:300],
            found=", ".join(theirs)[:300],
            hint=REWEIGH,
        )
    others = [name for name in mine if mine[name] != theirs[name]]
    if others:
        return OptionError(
            "a part of the mixture is another dataset than in the state",
            part=", ".join(others)[:300],
            hint="its store, selection or weights were changed: with another name, and reweighed=True, it begins with its first sample",
        )
    return OptionError(
        "the state is of a mixture with other shares",
        expected=_shares(own["shares"]),
        found=_shares(state["shares"]),
        hint=REWEIGH,
    )


def _shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {count / total:.2%}" for name, count in counts.items())[:300]
