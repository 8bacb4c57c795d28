"""Transfer Q* in the loop: each of the likeliest tokens is followed to the end of the answer, and the reward of that counts.

Copies of all rows and of their caches go ahead, a rollout each; what they wrote is thrown away.
"""

from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import rewards, struct
from jaxdlm.core.keys import column_gumbel, sample_keys
from jaxdlm.core.model import KV, Model
from jaxdlm.core.select import select_rows
from jaxdlm.core.temperature import divisor_of, is_cold, scale_logits
from jaxdlm.rewards import Likelihood, Reward
from jaxdlm.speculative import kv as store
from jaxdlm.speculative import loop
from jaxdlm.speculative.ahead import OneAnswer, appended, committed, grown, guided
from jaxdlm.speculative.copies import rows_of
from jaxdlm.speculative.policy import Decoding
from jaxdlm.speculative.state import Carry, Rows
from jaxdlm.typing import Array, Bool, Float32, Int32, Key, PyTree


class Rolling(NamedTuple):
    """Rollouts under way: rows of their own, those of a candidate behind each other."""

    rows: Rows
    kv: KV
    over: Bool[Array, "R"]
    steps: Int32[Array, ""]
    read: Int32[Array, "R"]  # tokens behind the candidate


@struct.dataclass
class Baseline:
    """The model of the rollouts, where it is not the target."""

    params: PyTree
    model: Model = struct.field(pytree_node=False)


@struct.dataclass
class Indirect:
    """The reward that the baseline was aligned with, and how strongly. official: weights that do not add up to 1."""

    reward: Any
    beta: Any
    official: bool = struct.field(pytree_node=False, default=False)


@struct.dataclass
class ValueSearch(OneAnswer):
    """See `methods.transfer_q`."""

    rereads: ClassVar[str] = "transfer_q"

    reward: Any  # None: the target's own likelihood
    weight: Any
    temperature: Any
    k: int = struct.field(pytree_node=False)
    length: int = struct.field(pytree_node=False)
    rollouts: int = struct.field(pytree_node=False, default=1)
    baseline: Baseline | None = None
    indirect: Indirect | None = None

    def check(self, lm: Any) -> None:
        rewards.check(self.reward, lm)
        if self.indirect is not None:
            rewards.check(self.indirect.reward, lm)

    def init(self, carry: Carry, decoding: Decoding, prompt: int, columns: int) -> PyTree:
        """The baseline's keys and values; () where the target's serve."""
        if self.baseline is None:
            return ()
        return store.prefill(self.baseline.model, self.baseline.params, carry.rows.tokens, prompt)

    def step(self, carry: Carry, decoding: Decoding) -> tuple[Carry, Float32[Array, "B 1 V"]]:
        """(the carry with one token more, the model's logits behind the text)."""
        rows, guide = carry.rows, decoding.policy.guide
        logits, kv = grown(carry, decoding)
        carry = carry._replace(kv=kv)
        logp, live, nodes = guided(logits, rows, guide)
        own, token = jax.lax.top_k(logp, min(self.k, logp.shape[1]))
        behind, by = carry, decoding
        if self.baseline is not None:
            by = Decoding(self.baseline.model, self.baseline.params, decoding.policy)
            behind = carry._replace(kv=carry.drafter)
            behind = behind._replace(kv=grown(behind, by)[1])
            carry = carry._replace(drafter=behind.kv)
        earns = Likelihood(decoding.params, decoding.model) if self.reward is None else self.reward
        value, forwards, read = self.values(behind, by, token, earns)
        score = own + jnp.where(own > -jnp.inf, self.weight * value, 0.0)
        pick = chosen(score, self.temperature, loop.stage_keys(rows, loop.ACCEPT))
        best = jnp.take_along_axis(token, pick[:, None], axis=1)[:, 0]
        if self.baseline is None:
            rows = rows._replace(step=rows.step + forwards)
        else:  # which also read the last token
            rows = rows._replace(draft_step=rows.draft_step + jnp.where(rows.done, 0, forwards + 1))
        rows = rows._replace(drafted=rows.drafted + read)
        live &= jnp.isfinite(jnp.max(score, axis=1))
        return committed(carry._replace(rows=rows), decoding, best, logits, live, nodes), logits

    def values(
        self, carry: Carry, decoding: Decoding, token: Int32[Array, "B K"], earns: Reward
    ) -> tuple[Float32[Array, "B K"], Int32[Array, "B"], Int32[Array, "B"]]:
        """(the value of each candidate, forwards of its row's rollouts, tokens that they read)."""
        batch, kinds = token.shape
        each = kinds * self.rollouts
        rows, kv = rows_of((carry.rows, carry.kv), np.repeat(np.arange(batch), each))
        # a row's i-th rollout of every candidate draws the same noise, so that candidates differ in nothing else
        sample = jnp.tile(jnp.arange(self.rollouts, dtype=jnp.int32), batch * kinds)
        rows = rows._replace(key=sample_keys(rows.key, sample))
        idle = rows.done
        rows, over = appended(rows, jnp.repeat(token.reshape(-1), self.rollouts), decoding.policy.guide)
        start = Rolling(rows, kv, over | idle, jnp.int32(0), jnp.zeros(idle.shape, jnp.int32))

        def further(a: Rolling) -> Rolling:
            logits, kv = grown(carry._replace(rows=a.rows, kv=a.kv), decoding)
            logp, live, _ = guided(logits, a.rows, decoding.policy.guide)
            if self.rollouts > 1:
                logp = logp + noise(loop.stage_keys(a.rows, loop.DRAFT), logp.shape[1])
            rows, over = appended(a.rows, jnp.argmax(logp, axis=1).astype(jnp.int32), decoding.policy.guide)
            going = ~a.over & live
            return Rolling(
                select_rows(going, rows, a.rows), kv, ~going | over, a.steps + 1, a.read + going.astype(jnp.int32)
            )

        end = jax.lax.while_loop(lambda a: (a.steps < self.length) & jnp.any(~a.over), further, start)
        grouped = lambda x: x.reshape(batch, each)  # noqa: E731
        read = grouped(end.read)
        return self.value(end.rows, token.shape, earns), jnp.max(read, axis=1), jnp.sum(read, axis=1, dtype=jnp.int32)

    def value(self, rows: Rows, shape: tuple[int, int], earns: Reward) -> Float32[Array, "B K"]:
        """The mean reward of the rollouts of each candidate; of an indirect one by weights exp((r - r_BL) / beta)."""
        each = lambda reward: reward(rows.tokens, rows.start, rows.length).reshape(*shape, self.rollouts)  # noqa: E731
        own = each(earns).astype(jnp.float32)
        if self.indirect is None:
            return jnp.mean(own, axis=2)
        lead = (own - each(self.indirect.reward)) / self.indirect.beta
        if self.indirect.official:
            return jnp.mean(jnp.exp(lead) * own, axis=2)
        return jnp.sum(jax.nn.softmax(lead, axis=2) * own, axis=2)


def noise(keys: Key[Array, "R"], size: int) -> Float32[Array, "R N"]:
    """Standard Gumbel noise."""
    return jax.vmap(lambda key: column_gumbel(key, jnp.zeros(1, jnp.int32), size)[0])(keys)


def chosen(score: Float32[Array, "B K"], temperature: Any, keys: Key[Array, "B"]) -> Int32[Array, "B"]:
    """The best candidate, or one drawn by softmax(score / temperature); of equals the likelier one."""
    drawn = scale_logits(score, divisor_of(temperature)) + noise(keys, score.shape[1])
    return jnp.argmax(jnp.where(is_cold(temperature), score, drawn), axis=1).astype(jnp.int32)
