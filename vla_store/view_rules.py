"""The rules that a view can be made by: from the numbers of one episode to which of its steps are kept.

All but `predicate` are recorded with their options, so that they can be computed again when a store grows.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vla_store import rules
from vla_store.errors import OptionError, UnknownName, whole_number
from vla_store.format.canonical import MAX_INTEGER, float_text
from vla_store.format.schema import Field, PartDocument
from vla_store.format.views import ANCHORS, KINDS, STEPS, View, check_view_name

Array = np.ndarray[Any, Any]
Mask = npt.NDArray[np.bool_]

PREDICATE = "predicate"
MAX_DESCRIPTION = 1_000
TEXT_OPTIONS = ("field", "kind", "name")  # a number is not meant, however they are spelled


@dataclass(frozen=True)
class EpisodeFacts:
    """The facts of an episode that a rule may look at. success: 1 or 0, -1 where nothing was rewarded or said. digest: of the episode's content.

    values: {field: (T, ...)} of the rule's fields, read-only; of a rule that is `if_finite` instead (T,) masks of the steps at
    which all numbers are finite. earlier: those of its fields that causal alignment reads one row earlier.
    """

    length: int
    success: int
    digest: bytes
    values: Mapping[str, Array]
    earlier: Collection[str] = ()


@dataclass(frozen=True)
class Rule:
    """A way to choose steps.

    Attributes
    ----------
    name
        Name of the rule, as stores record it.
    options
        As documents hold them: text for a number with a fraction.
    fields
        Names of the fields that it looks at; None, of a rule that is `if_finite`, for all floating fields.
    kinds
        Kinds of view that it makes sense for ("anchors", "steps"), its usual one first.
    description
        For people, one or two sentences.
    keeps
        Called with the facts of an episode; gives a (T,) bool mask of the steps that are kept.
    if_finite
        True: all that it looks at is where these fields are finite; they may then be cameras.
    """

    name: str
    options: Mapping[str, Any]
    fields: tuple[str, ...] | None
    kinds: tuple[str, ...]
    description: str
    keeps: Callable[[EpisodeFacts], Mask]
    if_finite: bool = False

    def looks_at(self, document: PartDocument) -> list[Field]:
        """Return the rule's fields in one part.

        Parameters
        ----------
        document
            Document of a part that has all of them.

        Returns
        -------
        list of Field
            In the order of `fields`; all floating fields of the part where that is None.
        """
        if self.fields is None:
            return [each for each in document.fields.values() if each.is_floating]
        return [document.fields[name] for name in self.fields]


@dataclass(frozen=True)
class NewView:
    """A view that is not computed yet.

    Attributes
    ----------
    name
        1 to 64 of A-Z a-z 0-9 _ - and dots, no dot in front.
    rule
        One of `vla_store.view_rules`.
    kind
        "anchors" or "steps"; None (the default) for the rule's usual one.

    Raises
    ------
    OptionError
        A view cannot have this name, or the rule does not make sense for this kind.
    UnknownName
        There is no such kind.
    """

    name: str
    rule: Rule
    kind: str | None = None

    def __post_init__(self) -> None:
        check_view_name(self.name)
        if self.kind is not None and self.kind not in KINDS:
            raise UnknownName.among("kind of view", self.kind, list(KINDS))
        if self.kind is not None and self.kind not in self.rule.kinds:
            raise OptionError(f"{self.rule.name} with these options is of kind {self.rule.kinds[0]!r}", found=self.kind)


def no_noops(threshold: float = rules.NOOP_THRESHOLD, field: str = "actions") -> Rule:
    """Leave out the steps that OpenVLA calls no-ops: see `vla_store.rules.noops`. threshold: of the norm of the action without
    its last number, the gripper's. field: the actions, at least two numbers a step."""
    limit = _positive("threshold", threshold)
    return Rule(
        "no_noops",
        {"field": str(field), "threshold": float_text(limit)},
        (str(field),),
        (STEPS, ANCHORS),
        "Steps whose action OpenVLA's rule calls a no-op are left out. This is not OpenVLA's data: they replay the kept actions in "
        "the simulator, where other pictures follow, and drop what fails then; here the pictures are those of the recording.",
        lambda facts: ~_noops(facts.values[field], limit, field),
    )


def success() -> Rule:
    """Keep the episodes that succeeded: whose last reward is at least 1."""
    return Rule(
        "success",
        {},
        (),
        (ANCHORS, STEPS),
        "Episodes that did not succeed are left out: those whose last reward is below 1, or that have no rewards.",
        lambda facts: np.full(facts.length, facts.success == 1),
    )


def length(shortest: int | None = None, longest: int | None = None, at_most: int | None = None, seed: int = 0) -> Rule:
    """Keep the episodes of shortest to longest steps; of those with more than `at_most`, as many steps drawn by `seed`.

    RDT's pre-training: shortest=32, at_most=2048, where RDT draws anew whenever it loads an episode. Its fine-tuning: shortest=128.
    """
    given = {"shortest": shortest, "longest": longest, "at_most": at_most}
    options = {name: whole_number(name, each, 1, MAX_INTEGER) for name, each in given.items() if each is not None}
    if not options:
        raise OptionError("a rule of length needs a bound", exists=", ".join(given))
    if at_most is not None:
        options["seed"] = whole_number("seed", seed, -MAX_INTEGER, MAX_INTEGER)

    def keeps(facts: EpisodeFacts) -> Mask:
        if not rules.has_length([facts.length], shortest, longest)[0]:
            return np.zeros(facts.length, bool)
        if at_most is None:
            return np.ones(facts.length, bool)
        # Of the episode's own content, so that the draw stays whatever the store grows by.
        return rules.drawn_steps(facts.length, at_most, seed + int.from_bytes(facts.digest[:8], "big"))

    bounds = [f"fewer than {shortest} steps"] * (shortest is not None) + [f"more than {longest}"] * (
        longest is not None
    )
    said = f"Episodes of {' or '.join(bounds)} are left out." if bounds else ""
    if at_most is not None:
        said += f" Of longer ones than {at_most} steps, {at_most} are kept, drawn once (RDT draws them anew each time)."
    return Rule("length", options, (), (ANCHORS,) if at_most is not None else (ANCHORS, STEPS), said.strip(), keeps)


def still_start(
    threshold: float = rules.MOVING_THRESHOLD, fields: Sequence[str] = ("joint_states", "gripper_states")
) -> Rule:
    """Leave out the beginning of each episode in which the robot stands still, but for its last step: RDT's rule, see
    `vla_store.rules.first_moving`. fields: the positions, side by side. An episode that never moves is left out."""
    limit, names = _positive("threshold", threshold), _texts("fields", fields)

    def keeps(facts: EpisodeFacts) -> Mask:
        flat = [facts.values[name].reshape(facts.length, -1) for name in names]
        first = rules.first_moving(np.concatenate(flat, axis=1), limit)
        return np.arange(facts.length) >= (facts.length if first is None else first - 1)

    return Rule(
        "still_start",
        {"fields": list(names), "threshold": float_text(limit)},
        names,
        (ANCHORS, STEPS),
        f"Steps before the robot moves are left out: before the last one at which no number of {', '.join(names)} has gone more "
        f"than {limit:g} from its first value. RDT refuses an episode that never moves; here it is left out.",
        keeps,
    )


def finite(fields: Sequence[str] | None = None) -> Rule:
    """Leave out the steps with a number that is NaN or infinite, so that no sample has one. fields: to look at, cameras of floats
    among them (default: all). A step also goes where the observation that causal alignment pairs it with has such a number."""
    names = None if fields is None else _texts("fields", fields)

    def keeps(facts: EpisodeFacts) -> Mask:
        kept = np.ones(facts.length, bool)
        for name, mask in facts.values.items():
            kept &= mask
            if name in facts.earlier:
                kept[1:] &= mask[:-1]
        return kept

    return Rule(
        "finite",
        {} if names is None else {"fields": list(names)},
        names,
        (STEPS,),  # windows around an anchor would still have them
        "Steps with a number that is NaN or infinite are left out, and so is, where observations were recorded after the action, the "
        "step after such an observation. Windows go over the steps that are left.",
        keeps,
        if_finite=True,
    )


def drop_tail(steps: int = rules.TAIL_AS_CODED) -> Rule:
    """Leave out the last `steps` steps of each episode, as the LIBERO port of RDT does: 63 as it is coded, 64 as it is told of.
    See `vla_store.rules.drop_tail`. For comparing, not for training."""
    tail = whole_number("steps", steps, 0, MAX_INTEGER)
    return Rule(
        "drop_tail",
        {"steps": tail},
        (),
        (ANCHORS, STEPS),
        f"The last {tail} steps of each episode are left out, among them the moment of success.",
        lambda facts: np.arange(facts.length) < rules.drop_tail(facts.length, tail),
    )


def predicate(function: Callable[[dict[str, Array]], Any], fields: Sequence[str], description: str) -> Rule:
    """Keep the steps that a function of your own chooses.

    function: called once an episode with {field: (T, ...)} of `fields`, which are numeric; gives a (T,) mask of bool, or one bool
    for the whole episode. description: what it does; recorded, because the function itself is not: when the store grows, the
    view covers the old steps only.
    """
    names = _texts("fields", fields)
    if not callable(function):
        raise OptionError("a predicate is a function", found=type(function).__name__)
    if not isinstance(description, str) or not description.strip() or len(description) > MAX_DESCRIPTION:
        raise OptionError(
            f"a predicate needs a description of 1 to {MAX_DESCRIPTION} characters",
            hint="say what it keeps: the function itself cannot be recorded",
        )

    def keeps(facts: EpisodeFacts) -> Mask:
        made = np.asarray(function(dict(facts.values)))
        if made.dtype != bool or made.shape not in ((), (facts.length,)):
            raise OptionError(
                "a predicate gives a mask, or one bool",
                expected=f"bool of shape ({facts.length},) or ()",
                found=f"{made.dtype} of shape {made.shape}",
            )
        return np.broadcast_to(made, (facts.length,)).copy()

    return Rule(PREDICATE, {"fields": list(names)}, names, (ANCHORS, STEPS), description.strip(), keeps)


RULES: Mapping[str, Callable[..., Rule]] = {
    "drop_tail": drop_tail,
    "finite": finite,
    "length": length,
    "no_noops": no_noops,
    "still_start": still_start,
    "success": success,
}


def rule_of(view: View) -> Rule | None:
    """Return the rule that a view was made by, to compute it again.

    Parameters
    ----------
    view
        A view of a store.

    Returns
    -------
    Rule or None
        None for a predicate, and for a rule, an option or a kind that this version does not know.
    """
    made = RULES.get(view.rule)
    if made is None:
        return None
    options = {name: value if name in TEXT_OPTIONS else _number(value) for name, value in view.options.items()}
    try:
        rule = made(**options)
    except (OptionError, TypeError):
        return None
    return rule if dict(rule.options) == dict(view.options) and view.kind in rule.kinds else None


def parse_view(text: str) -> NewView:
    """Return the view that RULE[:option=value,...] names, as in "length:shortest=128,name=rdt".

    Options are those of the functions here, `name` (default: the rule's) and `kind`; several fields are joined by "+".
    Raises UnknownName, OptionError.
    """
    word, _, rest = text.partition(":")
    if word not in RULES:
        raise UnknownName.among("rule for a view", word, [*RULES], hint="predicates of your own: from Python, add_view")
    known = [*inspect.signature(RULES[word]).parameters, "kind", "name"]
    options: dict[str, Any] = {}
    for each in filter(None, rest.split(",")):
        key, _, value = each.partition("=")
        if key not in known:
            raise UnknownName.among(f"option of {word}", key, known)
        if not value or key in options:
            raise OptionError(f"option {key!r} needs one value", found=text, hint=f"as in {word}:{key}=VALUE")
        options[key] = value.split("+") if key == "fields" else value if key in TEXT_OPTIONS else _number(value)
    name, kind = options.pop("name", word), options.pop("kind", None)
    return NewView(name, RULES[word](**options), kind)


def _noops(actions: Array, threshold: float, field: str) -> Mask:
    try:
        return rules.noops(actions, threshold)
    except ValueError as error:
        raise OptionError(f"{field!r} are no actions: {error}") from None


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise OptionError(f"{name} is a number", found=repr(value)[:100])
    if not 0 <= value < float("inf"):
        raise OptionError(f"{name} is a finite number of at least 0", found=value)
    return float(value)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    listed = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Iterable) else ()
    if not listed or not all(isinstance(each, str) for each in listed):
        raise OptionError(f"{name} is a list of names of fields", found=repr(value)[:100])
    return listed


def _number(value: Any) -> Any:
    """Return a number that was written as text as that number; anything else as it is."""
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return value
