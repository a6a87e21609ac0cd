"""How a mixture goes on from a state: exactly, or, where its weights, parts or batches were changed, with a new stretch.

A stretch begins where the state stands. Each part goes on with the sample after the last one that it gave, so that nothing comes again
or is left out in its own epoch, and from there on shares are the new ones. The stretch is part of later states. May import errors and
the order of a mixture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from vla_store.errors import OptionError, whole_number
from vla_store.loader.mixing import MOST_PLACES, Mixing, Stretch


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


class Saved(NamedTuple):
    """What a state of a mixture holds."""

    parts: Mapping[str, Any]
    shares: Mapping[str, int]
    batches: Any
    run: int
    rows: int
    begins: Stretch
    given: Mapping[str, int]
    epoch: int
    position: int


def continued(mixture: Mixture, state: Mapping[str, Any], reweighed: bool) -> tuple[Mixture, Mapping[str, Any]]:
    """Return the mixture that goes on from a state, and the state as it is one of that mixture.

    reweighed: whether weights and parts may be others than the state's. Raises OptionError.
    """
    own = mixture.identity
    if any(name not in state for name in (*own, "given")):
        return mixture, state  # of no mixture: what compares identities says so
    saved = _read(state, mixture.names)
    rows, run = mixture.ordering.epoch_rows, mixture.ordering.run
    if not reweighed:
        _check_same(mixture, own, saved)
    is_same = (saved.parts, saved.shares, saved.batches) == (own["parts"], own["shares"], own["batches"])
    is_whole = (rows - saved.position) % mixture.ordering.whole == 0  # batches of all ranks
    if is_same and (saved.run, saved.rows) == (run, rows) and is_whole:
        return mixture.since(saved.begins), state
    for name in mixture.names:
        if name in saved.parts and saved.parts[name] != own["parts"][name]:
            raise OptionError(
                "a part of the mixture is another dataset than in the state",
                part=name,
                expected=own["parts"][name],
                found=saved.parts[name],
                hint="give another name to a part that is new: it begins with its first sample",
            )
    epoch, position = _place(saved.epoch, saved.position, rows, mixture.ordering.whole)
    made = mixture.since(Stretch(epoch, position, tuple(saved.given.get(name, 0) for name in mixture.names)))
    return made, {**state, **made.identity, "rows": rows, "epoch": epoch, "position": position}


def _read(state: Mapping[str, Any], names: Sequence[str]) -> Saved:
    """Return what a state holds. Raises OptionError where that cannot be. names: of the parts here, which the state may not all have."""
    try:
        first, at, before = state["begins"]
        before, given = _numbers("begins", before), _numbers("given", state["given"])
        parts, shares = dict(state["parts"]), _numbers("shares", state["shares"])
        if not parts.keys() == shares.keys() == before.keys() == given.keys():
            raise ValueError("parts, shares, begins and given are of different names")
        if not any(shares.values()):
            raise ValueError("all shares are 0")
        begins = Stretch(_number("begins", first), _number("begins", at), tuple(before.get(name, 0) for name in names))
        run, rows, epoch, position = (_number(name, state.get(name)) for name in ("run", "rows", "epoch", "position"))
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise OptionError("the state cannot be", found=f"{type(error).__name__}: {error}"[:300]) from None
    return Saved(parts, shares, state["batches"], run, rows, begins, given, epoch, position)


def _numbers(name: str, given: Any) -> dict[str, int]:
    return {str(key): _number(f"{name} of {key!r}", value) for key, value in dict(given).items()}


def _number(name: str, given: Any) -> int:
    try:
        return whole_number(name, given, least=0, most=MOST_PLACES)
    except OptionError as error:
        raise ValueError(f"{error.what}, and not {error.places['found']}") from None


def _check_same(mixture: Remixed, own: Mapping[str, Any], saved: Saved) -> None:
    """Raise OptionError where a state is of other parts, shares, batches or epochs."""
    if (saved.parts, saved.shares) != (own["parts"], own["shares"]):
        raise _refused(own, saved)
    if saved.batches != own["batches"]:
        raise OptionError(
            "the state is of a mixture of other batches, or with another epoch",
            expected=own["batches"],
            found=str(saved.batches)[:100],
            hint=REWEIGH,
        )
    # Of batches of one part an epoch is a whole number, of any size.
    if saved.rows != mixture.ordering.epoch_rows and not mixture.by_part:
        raise OptionError(
            "the state is of a mixture with another number of rows in an epoch",
            expected=mixture.ordering.epoch_rows,
            found=saved.rows,
            hint=REWEIGH,
        )


def _place(epoch: int, position: int, rows: int, whole: int) -> tuple[int, int]:
    """Return where a stretch begins: in the same epoch, if that is long enough now, in front of whole batches."""
    left = max(0, rows - position)
    position = max(0, rows - -(-left // whole) * whole)
    return (epoch, position) if left else (epoch + 1, 0)


def _refused(own: Mapping[str, Any], saved: Saved) -> OptionError:
    mine, theirs = own["parts"], saved.parts
    if mine.keys() != theirs.keys():
        return OptionError(
            "the state is of a mixture of other parts",
            expected=", ".join(mine)[:300],
            found=", ".join(map(str, theirs))[:300],
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
        found=_shares(saved.shares),
        hint=REWEIGH,
    )


def _shares(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{name} {count / total:.2%}" for name, count in counts.items())[:300]
