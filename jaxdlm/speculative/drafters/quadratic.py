"""Drafts of a model of two modes in the forward that verifies: masks behind every draft token (self-speculation, quadratic)."""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdlm import struct
from jaxdlm.core.model import Model, ModelOutput, Past
from jaxdlm.registry import drafter
from jaxdlm.speculative.causal import Causal, TwoModes
from jaxdlm.speculative.drafters._borrowing import Borrowing
from jaxdlm.speculative.drafters.self_draft import check_modes
from jaxdlm.speculative.state import Lent, Proposal, Rows, Seen, Verdict
from jaxdlm.speculative.tree import Tree
from jaxdlm.speculative.warp import Warp, drawn
from jaxdlm.typing import Array, Bool, Int32, Key, PyTree


class Drafts(NamedTuple):
    """What the last round's masks say of the columns behind the last token; `there`: whether there was such a round."""

    token: Int32[Array, "B W"]
    there: Bool[Array, "B"]


@dataclass(frozen=True)
class Groups(Causal):
    """The model from left to right, where masks of one group see each other besides what is above them.

    width: W; a verifying forward reads the root, W - 1 drafts, then W groups of W masks. It runs as a canvas whose mask says all.
    """

    width: int

    @functools.cached_property
    def together(self) -> np.ndarray:
        """bool[T, T]: masks of one group."""
        count = self.width
        group = np.concatenate([np.full(count, -1), np.repeat(np.arange(count), count)])
        return (group[:, None] == group[None, :]) & (group >= 0)[:, None]

    def apply(
        self, params: PyTree, tokens: Int32[Array, "B T"], position: Int32[Array, "B T"], valid: Bool[Array, "B T"],
        past: Past | None = None, *, mask: Bool[Array, "B T S_T"] | None = None,
    ) -> ModelOutput:  # fmt: skip
        """See `Model.apply`; with a mask, the forward over groups."""
        if mask is None:
            return super().apply(params, tokens, position, valid, past)
        more = jnp.pad(jnp.asarray(self.together), [(0, 0), (mask.shape[2] - tokens.shape[1], 0)])
        return self.model.canvas(params, tokens, position, valid, past, mask=mask | more[None])


@drafter(lambda target, draft, sampling: Quadratic(sampling, width=3))
@struct.dataclass
class Quadratic(Borrowing):
    """`width` - 1 drafts, and behind the last token and each of them W masks that see the text so far and each other.

    The masks behind the last draft that stays have been read with all of the text, so that their laws are the next round's
    drafts: one forward per round, of W (W + 1) tokens. The first mask is superseded by the target's own next token.
    """

    model: ClassVar[None] = None
    taps: ClassVar[tuple[int, ...]] = ()

    warp: Warp
    width: int = struct.field(pytree_node=False, default=16)
    lent: Lent | None = None

    @property
    def tree(self) -> Tree:
        return _tree(self.width)

    @property
    def forwards(self) -> int:
        return 0

    def check(self, lm: Any) -> None:
        check_modes(lm, self.width)

    def target(self, model: Model, params: PyTree) -> tuple[Model, PyTree]:
        turns = isinstance(model, TwoModes) and model.config.masked_canvas
        return (Groups(model, self.width) if isinstance(model, TwoModes) and turns else model), params

    def init(self, rows: Rows, prompt: int) -> Drafts:
        """No drafts yet: the first round has the masks behind the last token alone."""
        batch = rows.done.shape[0]
        return Drafts(jnp.zeros((batch, self.width - 1), jnp.int32), jnp.zeros(batch, bool))

    def begin(self, state: Drafts, rows: Rows, seen: Seen) -> Drafts:
        return state

    def observe(self, state: Drafts, rows: Rows, proposal: Proposal, verdict: Verdict) -> Drafts:
        return state

    def propose(self, state: Drafts, rows: Rows, key: Key[Array, "B"]) -> tuple[Proposal, Drafts]:
        batch, count = state.there.shape[0], self.width
        masks = jnp.full((batch, count * count), self.host.model.config.tokens.mask, jnp.int32)
        first = np.arange(count * count) < count  # masks behind the last token
        there = state.there[:, None]
        valid = jnp.concatenate(
            [
                jnp.broadcast_to(there, state.token.shape),
                jnp.asarray(first)[None] | jnp.broadcast_to(there, masks.shape),
            ],
            1,
        )
        return Proposal(jnp.concatenate([state.token, masks], axis=1), valid, None, self.tree), state

    def watch(self, state: Drafts, rows: Rows, proposal: Proposal, verdict: Verdict, seen: Seen) -> Drafts:
        """Drafts by the masks, but for the first, behind the last token that stays."""
        count = self.width
        number = jnp.arange(1, count, dtype=jnp.int32)[None, :]
        row = count + verdict.count[:, None] * count + number
        logits = jnp.take_along_axis(seen.logits, row[:, :, None], axis=1)
        if self.warp.greedy:
            token = jnp.argmax(logits, axis=2).astype(jnp.int32)
        else:
            position = rows.length[:, None] + verdict.count[:, None] + number
            token = drawn(self.warp, self.warp.log_prob(logits), rows, position)
        return Drafts(token, jnp.ones_like(state.there))


@functools.lru_cache(maxsize=32)
def _tree(width: int) -> Tree:
    """A chain of drafts, then a chain of masks behind the root and behind each draft, so that depths are columns."""
    parent = list(range(-1, width - 2))
    for group in range(width):
        first = len(parent)
        parent += [group - 1, *range(first, first + width - 1)]
    return Tree(tuple(parent))
