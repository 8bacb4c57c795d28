"""A draft-and-target policy: a drafter, the acceptance rule, and the distribution that the target is sampled from."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxdlm import struct
from jaxdlm.core.guide import Guide, joined
from jaxdlm.core.model import Model
from jaxdlm.speculative import verify
from jaxdlm.speculative.guided import Cfg
from jaxdlm.speculative.warp import Warp
from jaxdlm.typing import PyTree


class DraftInfo(NamedTuple):
    """Facts of a draft model, or of a table in its place, that must agree with its target."""

    name: str
    vocab_size: int
    max_position: int
    vocabulary: int  # hash of the tokenizer's words with their ids; 0 without a tokenizer
    instead: str = "use a draft that was trained with the target's tokenizer"  # what else to do


@struct.dataclass
class Speculation:
    """The policy of an autoregressive target, as `decode` takes it; made by the factories of `jaxdlm.speculative`.

    slots: rows decoded at a time; finished ones make room for the next prompts (0: all prompts at once). placed: the
    target's new keys stand in their own columns while they are read (`Past.place`), so that it makes no difference to any
    bit how many tokens a forward reads; set by `decode`. cfg: classifier-free guidance of the target.
    """

    drafter: Any
    warp: Warp
    acceptance: verify.Acceptance = struct.field(pytree_node=False, default=verify.greedy)
    draft: DraftInfo | None = struct.field(pytree_node=False, default=None)
    slots: int = struct.field(pytree_node=False, default=0)
    placed: bool = struct.field(pytree_node=False, default=False)
    cfg: Cfg | None = None

    @property
    def acceptance_reads_logits(self) -> bool:
        """Only the best token matters, so nothing is normalised."""
        return self.acceptance is verify.greedy and (self.warp.greedy or not self.warp.shared)

    @property
    def guide(self) -> Guide | None:
        """Bends the logits of target and draft before everything else."""
        return self.warp.guide

    def guided(self, guide: Guide | None) -> "Speculation":
        """The policy with one more guide, of target and draft alike."""

        def one(part: Any) -> Any:
            return part.replace(guide=joined(part.guide, guide)) if isinstance(part, Warp) else part

        more: Speculation = jax.tree.map(one, self, is_leaf=lambda part: isinstance(part, Warp))
        return more


@struct.dataclass
class Decoding:
    """A policy on its target: all that the loop needs beside the rows. As `core.rule.Decoding`, which has columns to
    write in any order and chooses its cache."""

    model: Model = struct.field(pytree_node=False)
    params: PyTree
    policy: Speculation


class Unloaded(NamedTuple):
    """A policy whose draft model is a name: `build(lm)` makes it once the model is loaded."""

    name: str
    build: Callable[[Any], Speculation]
