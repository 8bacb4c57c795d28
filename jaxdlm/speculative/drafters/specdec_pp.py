"""Drafts whose length a trained head decides, row by row and round by round (SpecDec++, arXiv 2405.19715)."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import struct
from jaxdlm.core.model import Model
from jaxdlm.errors import InputError
from jaxdlm.models.params import fingerprint
from jaxdlm.registry import drafter
from jaxdlm.speculative.drafters.model import DraftModel, DraftState
from jaxdlm.speculative.guiding import nodes_of
from jaxdlm.speculative.state import Proposal, Rows, Verdict
from jaxdlm.speculative.tree import Tree
from jaxdlm.speculative.warp import Warp
from jaxdlm.trained import ASSETS
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, Key

FILE = "specdec_pp.safetensors"


class Head(NamedTuple):
    """D residual blocks and a linear layer over the draft's hidden states of size d; row 1 of `out` means accepted."""

    w: Float32[Array, "N d d"]  # [block, in, out]
    b: Float32[Array, "N d"]
    out: Float32[Array, "d 2"]
    bias: Float32[Array, "2"]


def acceptance(head: Head, hidden: Float[Array, "... d"]) -> Float32[Array, "..."]:
    """softmax(out · e)[1] with e ← e + silu(W e + b) for each block: P(the token read there is accepted)."""
    e = hidden.astype(jnp.float32)
    spread = lambda bias: bias.reshape((1,) * (e.ndim - 1) + (-1,))  # noqa: E731
    for w, b in zip(head.w, head.b, strict=True):
        e = e + jax.nn.silu(e @ w + spread(b))
    logits = e @ head.out + spread(head.bias)
    return jax.nn.sigmoid(logits[..., 1] - logits[..., 0])


def _example(target: Any, draft: Any, sampling: Warp) -> "SpecDecPP":
    """With a head that knows nothing: every token is accepted with probability 1/2."""
    size = draft.config.hidden_size
    head = Head(jnp.zeros((1, size, size)), jnp.zeros((1, size)), jnp.zeros((size, 2)), jnp.zeros(2))
    return SpecDecPP(DraftModel(draft.params, sampling, draft.model, depth=4), head, jnp.float32(0.8))


@drafter(_example)
@struct.dataclass
class SpecDecPP:
    """A chain of up to `base.depth` tokens; a row stops once 1 - Π P(accepted) > threshold, or at end of text.

    The head reads the hidden state of a token in the forward that already draws the next one, so that one is submitted
    too: whether a token is valid never depends on the token itself, which keeps the distribution of the target.
    """

    base: DraftModel
    head: Head
    threshold: Any
    least: int = struct.field(pytree_node=False, default=2)
    ends: tuple[int, ...] = struct.field(pytree_node=False, default=())

    @property
    def tree(self) -> Tree:
        return self.base.tree

    @property
    def forwards(self) -> int:
        return self.base.depth

    @property
    def model(self) -> Model:
        return self.base.model

    def init(self, rows: Rows, prompt: int) -> DraftState:
        return self.base.init(rows, prompt)

    def observe(self, state: DraftState, rows: Rows, proposal: Proposal, verdict: Verdict) -> DraftState:
        return self.base.observe(state, rows, proposal, verdict)

    def propose(self, state: DraftState, rows: Rows, key: Key[Array, "B"]) -> tuple[Proposal, DraftState]:
        hidden, kv = self.base.catch_up(state.kv, rows)
        guide = nodes_of(self.base.warp.guide, rows.guide)
        token, logq, states = self.base.choose(hidden[:, -1:], rows, key, jnp.int32(0), guide, guide.root())
        sure = jnp.ones(token.shape[0], jnp.float32)  # Π P(accepted) of the tokens read so far
        live = ~rows.done & ~self.final(token) & self.goes_on(sure, 1)

        def deeper(carry: Any, level: Array) -> tuple[Any, Any]:
            # once every row has stopped, the rest of the chain costs nothing
            return jax.lax.cond(jnp.any(carry[3]), self.draft, self.idle, carry, rows, key, level)

        levels = jnp.arange(1, self.base.depth, dtype=jnp.int32)
        (kv, *_), (tokens, logqs, valid) = jax.lax.scan(deeper, (kv, token, sure, live, logq, states), levels)
        nodes = jnp.concatenate([token[None], tokens])[:, :, 0].T
        valid = jnp.concatenate([jnp.ones_like(live)[None], valid]).T
        log_probs = None if logq is None else jnp.moveaxis(jnp.concatenate([logq[None], logqs])[:, :, 0], 0, 1)
        forwards = jnp.sum(valid, axis=1, dtype=jnp.int32)
        return Proposal(nodes, valid, log_probs, self.tree, forwards), DraftState(kv)

    def draft(self, carry: Any, rows: Rows, key: Key[Array, "B"], level: Int32[Array, ""]) -> tuple[Any, Any]:
        """One more token for the rows that go on."""
        kv, token, sure, live, _, states = carry
        hidden, kv = self.base.extend(kv, rows, token, level)
        guide = nodes_of(self.base.warp.guide, rows.guide)
        new, logq, states = self.base.choose(hidden, rows, key, level, guide, states)
        sure = jnp.where(live, sure * acceptance(self.head, hidden[:, 0]), sure)
        on = live & ~self.final(new) & self.goes_on(sure, level + 1)
        return (kv, new, sure, on, logq, states), (new, logq, live)

    def idle(self, carry: Any, rows: Rows, key: Key[Array, "B"], level: Int32[Array, ""]) -> tuple[Any, Any]:
        """No row goes on."""
        return carry, (carry[1], carry[4], carry[3])

    def goes_on(self, sure: Float32[Array, "B"], count: Int32[Array, ""] | int) -> Bool[Array, "B"]:
        return (1 - sure <= self.threshold) | (jnp.asarray(count, jnp.int32) < self.least)

    def final(self, token: Int32[Array, "B 1"]) -> Bool[Array, "B"]:
        if not self.ends:
            return jnp.zeros(token.shape[0], bool)
        return jnp.isin(token[:, 0], jnp.asarray(self.ends, jnp.int32))


def read_head(path: pathlib.Path, draft: Any) -> Head:
    """A head from its safetensors file. Raises InputError where it is missing, damaged, or trained for another draft."""
    from jaxdlm.checkpoint.safetensors import read_safetensors

    if not path.is_file():
        raise InputError(f"{path} is no file: train a head with scripts/train.py --recipe specdec_pp")
    stored, notes = read_safetensors(path)
    if set(stored) != set(Head._fields):
        raise InputError(f"{path} holds {sorted(stored)}: a head has {', '.join(Head._fields)}")
    if notes.get("fingerprint") != fingerprint(draft.params):
        raise InputError(
            f"the head in {path.name} was trained for another draft than {draft.name}: train one with "
            f"scripts/train.py --recipe specdec_pp --draft {draft.name}"
        )
    return Head(*(jnp.asarray(np.asarray(stored[name], np.float32)) for name in Head._fields))


def shipped_head(draft: Any) -> Head:
    """The head of an embedded draft."""
    path = ASSETS / str(draft.name) / FILE
    if not path.is_file():
        raise InputError(f"no head is shipped for draft {draft.name!r}: pass head=FILE, see docs/training.md")
    return read_head(path, draft)
