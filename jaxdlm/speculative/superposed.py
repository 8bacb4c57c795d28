"""Superposed decoding in the loop: k texts of a prompt go on by one forward, which reads the mean of their last embeddings.

The k texts are k rows and share one stream of keys and values, which is never reordered. What is left is a beam search over
the few likeliest tokens of the one distribution, each text's own n-grams weighed in.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxdlm import struct
from jaxdlm.core.model import KV, LooksUp
from jaxdlm.core.readout import proposable
from jaxdlm.speculative import guiding
from jaxdlm.speculative import kv as store
from jaxdlm.speculative.ahead import grown
from jaxdlm.speculative.beam import BeamSearch, BeamState, Offers
from jaxdlm.speculative.ngrams import NGrams
from jaxdlm.speculative.policy import Decoding
from jaxdlm.speculative.prompted import Prompted, Weights
from jaxdlm.speculative.state import Carry, Rows
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, PyTree


@struct.dataclass
class Smoothing:
    """n-grams that weigh in: log-score (1 - alpha) log p + alpha log(sum_g mixture[g] share_g)."""

    grams: NGrams
    alpha: Any
    mixture: Any  # [O], of n-grams of 2 .. O + 1 tokens
    penalty: Any  # nats, of a text whose candidates the n-grams do not know
    first: bool = struct.field(pytree_node=False, default=True)  # also of the first token

    @property
    def orders(self) -> int:
        return self.mixture.shape[0]

    def score(self, logp: Float32[Array, "R M"], share: Float32[Array, "R O M"]) -> Float32[Array, "R M"]:
        """Of each text's candidates, by log p and the shares of its n-grams."""
        chance = jnp.sum(self.mixture[None, :, None] * share, axis=1)
        known = (chance > 0) & (logp > -jnp.inf)
        own = jnp.where(logp > -jnp.inf, (1 - self.alpha) * logp, -jnp.inf)
        both = jnp.where(known, own + self.alpha * jnp.log(jnp.where(known, chance, 1.0)), -jnp.inf)
        return jnp.where(jnp.any(known, axis=1, keepdims=True), both, own - self.penalty)


@struct.dataclass
class Superposed(BeamSearch):
    """See `methods.superposed`. State of each text, `BeamState.own`: nodes of the n-grams that end it."""

    tau: Any = 0.06
    smoothing: Smoothing | None = None
    likely: int = struct.field(pytree_node=False, default=9)  # tokens that a text may go on with

    @property
    def streams(self) -> int:
        return 1

    @property
    def considered(self) -> int | None:
        return None

    def init(self, carry: Carry, decoding: Decoding, prompt: int, columns: int) -> BeamState:
        """All texts are the prompt, so that only the first of them counts."""
        state = super().init(carry, decoding, prompt, columns)
        total = jnp.where(state.total < 0, -jnp.inf, 0.0)
        return state._replace(total=total, own=self.suffixes(carry.rows))

    def suffixes(self, rows: Rows) -> PyTree:
        if self.smoothing is None:
            return ()
        of_text = functools.partial(self.smoothing.grams.suffixes, orders=self.smoothing.orders)
        return jax.vmap(of_text)(rows.tokens, rows.length)

    def read(self, carry: Carry, decoding: Decoding) -> tuple[Float32[Array, "G 1 V"], KV]:
        """(the logits behind the mean embedding of each prompt's texts, the cache with it)."""
        rows, vocab = carry.rows, decoding.model.config.vocab_size
        last = store.take(rows.tokens, rows.length[:, None] - 1).reshape(-1, self.width)
        x = mean_embedding(decoding.params["embed"], last, weights(carry.drafter.total.reshape(-1, self.width)))
        stream = jax.tree.map(lambda leaf: leaf[:: self.width], rows)
        row = jnp.arange(last.shape[0], dtype=jnp.int32)
        stream = stream._replace(tokens=stream.tokens.at[row, stream.length - 1].set(vocab + row))
        mixed = Decoding(Prompted(decoding.model), Weights(decoding.params, x), decoding.policy)
        return grown(carry._replace(rows=stream), mixed)

    def offers(
        self, rows: Rows, state: BeamState, logits: Float32[Array, "G 1 V"], nodes: guiding.Nodes
    ) -> tuple[Offers, Bool[Array, "R"]]:
        """(the likeliest tokens of each text, rows whose logits are not finite)."""
        each = functools.partial(jnp.repeat, repeats=self.width, axis=0)
        bad = each(~proposable(jnp.max(logits, axis=2)))
        total = each(jax.nn.logsumexp(logits[:, 0], axis=1, keepdims=True))
        count = min(self.likely, logits.shape[2])
        if nodes.guide is None:
            best, token = jax.tree.map(each, jax.lax.top_k(logits[:, 0], count))
            plain = best
        else:
            bent, live = nodes.transform(each(logits), nodes.root())
            best, token = jax.lax.top_k(jnp.where(live, bent[:, 0], -jnp.inf), count)
            plain = jnp.take_along_axis(each(logits[:, 0]), token, axis=1)
        logp = log_share(best / self.tau)
        return Offers(self.smoothed(rows, state.own, logp, token), plain - total, token), bad

    def smoothed(
        self, rows: Rows, suffixes: PyTree, logp: Float32[Array, "R M"], token: Int32[Array, "R M"]
    ) -> Float32[Array, "R M"]:
        if self.smoothing is None:
            return logp
        score = self.smoothing.score(logp, jax.vmap(self.smoothing.grams.share)(suffixes, token))
        return score if self.smoothing.first else jnp.where((rows.length == rows.start)[:, None], logp, score)

    def advanced(self, own: PyTree, token: Int32[Array, "R"]) -> PyTree:
        return own if self.smoothing is None else jax.vmap(self.smoothing.grams.after)(own, token)


def weights(total: Float32[Array, "G K"]) -> Float32[Array, "G K"]:
    """softmax of the texts' scores; 0 of texts that do not count."""
    total = total - jnp.max(total, axis=1, keepdims=True)
    share = jnp.where(total > -jnp.inf, jnp.exp(total), 0.0)
    return share / jnp.sum(share, axis=1, keepdims=True)


def mean_embedding(table: Any, token: Int32[Array, "G K"], weight: Float32[Array, "G K"]) -> Float[Array, "G D"]:
    """sum_k weight_k E[token_k], as the first and what the others add to it, so that of equal tokens it is theirs to the bit."""
    dtype = table.dtype
    rows = table.rows(token, dtype) if isinstance(table, LooksUp) else jnp.take(table, token, axis=0, mode="clip")
    rows = rows.astype(jnp.float32)
    first = rows[:, 0]
    return (first + jnp.sum(weight[:, :, None] * (rows - first[:, None]), axis=1)).astype(dtype)


def log_share(scores: Float32[Array, "R M"]) -> Float32[Array, "R M"]:
    """log softmax, -inf throughout where all is -inf."""
    best = jnp.max(scores, axis=1, keepdims=True)
    own = jnp.where(best > -jnp.inf, scores - best, -jnp.inf)
    return own - jnp.log(jnp.maximum(jnp.sum(jnp.exp(own), axis=1, keepdims=True), 1.0))
