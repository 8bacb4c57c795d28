"""Rules put into policies that are made: in front of the sampler, or behind what writes last."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxdlm import struct
from jaxdlm.core.carry import LogitsAccess, Row, Update
from jaxdlm.core.compose import Traits
from jaxdlm.core.rule import Chain, PolicyWrapper, Stepper, chain
from jaxdlm.typing import Array, Key

WRITES = {"token", "commit", "fill", "reopen"}  # fields that a text is made of


@struct.dataclass
class Preceded(PolicyWrapper):
    """A sampler that reads what `first` makes of the logits, and draws with the key that it has without it."""

    inner: Any
    first: Any

    @property
    def traits(self) -> Traits:
        own = self.inner.traits
        return own._replace(
            reads=("logits",), writes=None if own.writes is None else ("logits", *own.writes), access=LogitsAccess.WHOLE
        )

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        update, _ = self.first.apply(update, (), row, key)
        return self.inner.apply(update, state, row, key)


def before_sampler(policy: Any, first: Callable[[Any], Any]) -> Any:
    """The policy with `first(sampler)` in front of the rule that proposes tokens, also within wrappers."""
    if isinstance(policy, Chain):
        members = list(policy.rules)
        at = next(i for i, part in enumerate(members) if _touches(part, {"token"}))
        inside = isinstance(members[at], PolicyWrapper)
        new = before_sampler(members[at], first) if inside else Preceded(members[at], first(members[at]))
        return dataclasses.replace(policy, rules=(*members[:at], new, *members[at + 1 :]))
    if isinstance(policy, PolicyWrapper):
        return dataclasses.replace(policy, inner=before_sampler(policy.inner, first))
    return Preceded(policy, first(policy))


def behind_writes(policy: Any, last: Any) -> Any:
    """The policy with a rule behind all of its own that write; inside a stepper, which asks the policy for each draft."""
    if isinstance(policy, Stepper) and isinstance(policy, PolicyWrapper):
        return dataclasses.replace(policy, inner=behind_writes(policy.inner, last))
    if not isinstance(policy, Chain):
        return chain(policy, last)
    members = list(policy.rules)
    at = max(i for i, part in enumerate(members) if _touches(part, WRITES))
    return dataclasses.replace(policy, rules=(*members[: at + 1], last, *members[at + 1 :]))


def _touches(part: Any, fields: set[str]) -> bool:
    writes = part.traits.writes
    return writes is None or not fields.isdisjoint(writes)
