"""Guides of any order in diffusion decoding: what they forbid is not proposed, and not written together."""

from typing import Any, ClassVar

import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.argument import shown
from jaxdlm.core import compose
from jaxdlm.core.carry import Row, Update
from jaxdlm.core.compose import Traits
from jaxdlm.core.guide import Guide, read_guide
from jaxdlm.core.rule import Rule, Stage, need
from jaxdlm.errors import InputError
from jaxdlm.rules.indel import Indel
from jaxdlm.rules.insert import before_sampler, behind_writes
from jaxdlm.typing import Array, Key


@struct.dataclass
class Bend(Stage):
    """The guide's logits, in front of the sampler."""

    declares: ClassVar[Traits] = Traits(reads=("logits",), writes=("logits",))

    guide: Guide

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        return update._replace(logits=self.guide.bend(update.logits, row)), state


@struct.dataclass
class Agree(Stage):
    """Of what a step would write, what the guide lets through; the others are written later, and no row ends before."""

    declares: ClassVar[Traits] = Traits(
        reads=("token", "commit", "fill", "reopen", "halt"), writes=("commit", "fill", "halt")
    )

    guide: Guide

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "commit", rule="guided")
        assert update.token is not None
        asked = jnp.asarray(update.commit, bool) & row.pending & row.exists
        fill = row.tokens if update.fill is None else update.fill
        again = jnp.zeros_like(asked) if update.reopen is None else update.reopen
        changed = (fill != row.tokens) & row.exists & ~row.prefilled & ~row.pending & ~again
        score = jnp.zeros(asked.shape, jnp.float32) if update.score is None else update.score
        wanted = asked | changed
        allowed = self.guide.agree(wanted, jnp.where(changed, fill, update.token), score, row)
        halt = jnp.asarray(update.halt, bool) & jnp.all(allowed | ~wanted)
        fill = None if update.fill is None else jnp.where(changed & ~allowed, row.tokens, fill)
        return update._replace(commit=asked & allowed, fill=fill, halt=halt), state


def guided(policy: Any, guide: Any) -> Any:
    """The policy of diffusion decoding under a guide of any order: `repetition`, `banned`, or several of them.

    The guide bends the logits in front of the sampler, by all that is known of the row's text: the prompt, and what is
    written before, inside and behind the window, whatever the cache. Of what a step would write, columns that the guide
    does not allow together wait for a later step; the surest is written, so a row needs at most one forward per column.

    Args:
        policy: a method, or a chain that ends in one selection.
        guide: of `jaxdlm.guides`, or a list of them.

    Raises:
        InputError: no policy of diffusion decoding (methods from left to right take guide= themselves); a guide that
            reads the text from left to right, such as `grammar` (use decode(grammar=...)); a policy that moves text from
            column to column, or rewrites uniform noise.

    Examples:
        >>> import jaxdlm as jd
        >>> lm = jd.load("tiny")
        >>> policy = jd.rules.guided(jd.threshold(0.9), jd.guides.banned(["Kate"], lm))
        >>> "Kate" in jd.decode(lm, ["reverse : [ Alan , Kate ]"], policy=policy, max_new=16).text[0]
        False
    """
    if not isinstance(policy, Rule):
        raise InputError(
            f"guided({shown(policy)}): pass a policy of diffusion decoding, such as jd.threshold(); one from left to right "
            "takes guide= itself"
        )
    made, parts = read_guide(guide), list(compose.walk_rules(policy))
    if made is None or not made.any_order:
        raise InputError(
            f"guide={shown(guide)} reads a text from left to right: diffusion decoding takes repetition and banned; for a "
            "grammar use decode(grammar=...)"
        )
    if any(isinstance(part, Indel) or part.traits.noise == "uniform" for part in parts):
        raise InputError("this policy moves or rewrites the text as a whole, which no guide follows: use another")
    return behind_writes(before_sampler(policy, lambda _: Bend(made)), Agree(made))
