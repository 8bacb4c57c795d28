"""Which rules make sense one after the other, told from what each says that it reads and writes of the draft."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jaxdlm.core.carry import Reach
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
    """What a rule is called in messages: the name of its factory, as a rule."""
    return getattr(rule, "called", None) or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(rule).__name__).lower()


class Said(NamedTuple):
    reads: tuple[str, ...]
    writes: tuple[str, ...] | None
    makes: str | None
    expects: str | None


def parts(policy: Any) -> Iterator[Any]:
    """The rules of a policy: members of chains, and hosts."""
    yield policy
    for inner in (*getattr(policy, "rules", ()), *([policy.host] if hasattr(policy, "host") else [])):
        yield from parts(inner)


def says(rule: Any) -> Said:
    """What a rule declares; one that is no `Stage` may declare nothing."""
    reads, writes = getattr(rule, "reads", ()), getattr(rule, "writes", None)
    return Said(reads, writes, getattr(rule, "makes", None), getattr(rule, "expects", None))


def reach(rule: Any) -> Reach:
    """How much of the logits a rule wants; everything, where it does not say."""
    return getattr(rule, "reach", Reach.WHOLE)


def rewrites(policy: Any) -> bool:
    """Whether a policy may change columns that are written, within the block at work; unknown counts as yes."""
    fields = [says(part).writes for part in parts(policy)]
    return any(each is None or not REWRITE.isdisjoint(each) for each in fields)


def official(policy: Any) -> bool:
    """Whether a policy was asked to do as released code does, to the forward."""
    return any(getattr(part, "official", False) for part in parts(policy))


def order(rules: Sequence[Any]) -> None:
    """Raises InputError for neighbours that contradict each other, whatever else the chain may still get.

    A rule that says nothing of itself (`writes` None) is trusted.
    """
    written: dict[str, str] = {}
    scale: tuple[str, str] | None = None
    trusted = False
    for index, rule in enumerate(rules):
        said, own = says(rule), name(rule)
        trusted = trusted or said.writes is None
        for field in said.writes or ():
            if written.get(field) == own and field not in said.reads:
                raise InputError(f"the chain has {own} twice: {WHOLE}")
            if field in written and field not in said.reads:
                raise InputError(f"{own} overwrites the {field} of {written[field]}: leave one of the two out")
            if field == "logits" and "token" in written:
                raise InputError(f"{own} changes logits that {written['token']} has already read: put it before it")
        for field in said.reads:
            later = next((other for other in rules[index + 1 :] if field in (says(other).writes or ())), None)
            if field in MAKERS and field not in written and not trusted and later is not None:
                raise InputError(f"{own} needs the {field} of {name(later)}: put {name(later)} before it")
        if scale is not None and said.expects not in (None, scale[0]):
            raise InputError(
                f"{own} compares {said.expects}, and the score of {scale[1]} is {scale[0]}: choose its measure"
            )
        written |= dict.fromkeys(said.writes or (), own)
        if "score" in (said.writes or ()):
            scale = None if said.makes is None else (said.makes, own)


def complete(policy: Any, what: str = "the policy") -> None:
    """Raises InputError for a policy that lacks a field which one of its rules needs, or that never writes a column."""
    rules = getattr(policy, "rules", (policy,))
    written: set[str] = set()
    for rule in rules:
        said = says(rule)
        if said.writes is None:
            return
        for field in said.reads:
            if field in MAKERS and field not in written:
                raise InputError(f"{name(rule)} needs draft.{field}: put {MAKERS[field]} before it in the chain")
        written |= set(said.writes)
    if not written & DECIDE:
        raise InputError(f"{what} writes no column: end the chain with a selection such as select_above(0.9)")
