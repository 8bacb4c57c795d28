"""Which rules may follow which in a chain, by the fields of the update that each declares to read and to write."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxdlm.core.carry import LogitsAccess
from jaxdlm.errors import InputError

MAKERS = {
    "token": "sample(...)",
    "score": "sample(...)",
    "commit": "a selection such as select_above(0.9)",
}
LOG_PROB, NEG_ENTROPY = "a log-probability", "a negative entropy"  # kinds of score that rules compare with numbers
WHOLE = (  # what a chain of a part and a method is told
    "a method such as jd.threshold(0.9) is a whole policy with parts of its own; pass it alone, or chain parts: "
    "jd.chain(jd.rules.sample(), jd.rules.select_above(0.9))"
)
REWRITE = {"fill", "reopen"}  # fields that change what is written
DECIDE = {"commit", "fill", "halt"}  # fields that bring a row to its end


def name(rule: Any) -> str:
    """A rule's name in messages: that of its class in lower case, which is mostly that of its factory."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(rule).__name__).lower()


class Traits(NamedTuple):
    """All that a rule says of itself, from which chains, caches, models and loops are matched with it.

    reads, writes: fields of the update; None: not declared, so `chain` cannot check. A field in both is changed, one
    that is only written is replaced. makes, expects: the kind of score that the rule makes, or compares with a number.
    view: "block" (the window is the row's block) or "canvas" (all generated columns). uncond: whether it asks for the
    logits without the prompt. noise: what open columns hold in the models that it is for, "mask" or "uniform". access: how
    much of the logits it reads, None: all of them where it reads "logits" or declares nothing. A hint: a wrong one costs
    time, never correctness. made_for: the model that its weights were trained for. temperature: of its draws, None: it
    draws nothing at a temperature. official: whether it was asked to do as released code does, to the forward. versions:
    of each row, side by side in a forward. blind: whether it asks for logits of columns that have not seen their own token.
    attention: last layers whose attention it asks for.
    """

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] | None = None
    makes: str | None = None
    expects: str | None = None
    view: str = "block"
    uncond: bool = False
    noise: str = "mask"
    access: LogitsAccess | None = None
    made_for: str | None = None
    temperature: Any = None
    official: bool = False
    versions: int = 1
    blind: bool = False
    attention: int = 0

    @property
    def logits_access(self) -> LogitsAccess:
        """`access`, or what follows from the fields."""
        if self.access is not None:
            return self.access
        return LogitsAccess.WHOLE if self.writes is None or "logits" in self.reads else LogitsAccess.NOTHING


def walk_rules(policy: Any) -> Iterator[Any]:
    """The policy and every rule inside it: members of chains, and the policies inside wrappers."""
    yield policy
    for member in policy.members:
        yield from walk_rules(member)


def rewrites(policy: Any) -> bool:
    """Whether a policy may change columns that are written, within the block at work; unknown counts as yes."""
    fields = [part.traits.writes for part in walk_rules(policy)]
    return any(each is None or not REWRITE.isdisjoint(each) for each in fields)


def moves(policy: Any) -> bool:
    """Whether a policy may change the length of a row's canvas, so that text moves from column to column."""
    return any("stop" in (part.traits.writes or ()) for part in walk_rules(policy))


def official(policy: Any) -> bool:
    """Whether a policy, or a rule inside it, was asked to do as released code does, to the forward."""
    return any(part.traits.official for part in walk_rules(policy))


def order(rules: Sequence[Any]) -> None:
    """Raises InputError for neighbours that contradict each other, in a chain that others may still be added to.

    A rule that declares nothing (`writes` None) is not checked.
    """
    written: dict[str, str] = {}
    scale: tuple[str, str] | None = None
    trusted = False
    for index, rule in enumerate(rules):
        traits, own = rule.traits, name(rule)
        trusted = trusted or traits.writes is None
        for field in traits.writes or ():
            if written.get(field) == own and field not in traits.reads:
                raise InputError(f"the chain has {own} twice: {WHOLE}")
            if field in written and field not in traits.reads:
                raise InputError(f"{own} overwrites the {field} of {written[field]}: leave one of the two out")
            if field == "logits" and "token" in written:
                raise InputError(f"{own} changes logits that {written['token']} has already read: put it before it")
        for field in traits.reads:
            later = next((other for other in rules[index + 1 :] if field in (other.traits.writes or ())), None)
            if field in MAKERS and field not in written and not trusted and later is not None:
                raise InputError(f"{own} needs the {field} of {name(later)}: put {name(later)} before it")
        if scale is not None and traits.expects not in (None, scale[0]):
            raise InputError(
                f"{own} compares {traits.expects}, and the score of {scale[1]} is {scale[0]}: choose its measure"
            )
        written |= dict.fromkeys(traits.writes or (), own)
        if "score" in (traits.writes or ()):
            scale = None if traits.makes is None else (traits.makes, own)


def complete(policy: Any, what: str = "the policy") -> None:
    """Raises InputError for a policy that lacks a field which one of its rules needs, or that never writes a column."""
    written: set[str] = set()
    for rule in policy.stages:
        traits = rule.traits
        if traits.writes is None:
            return
        for field in traits.reads:
            if field in MAKERS and field not in written:
                raise InputError(f"{name(rule)} needs update.{field}: put {MAKERS[field]} before it in the chain")
        written |= set(traits.writes)
    if not written & DECIDE:
        raise InputError(f"{what} writes no column: end the chain with a selection such as select_above(0.9)")
