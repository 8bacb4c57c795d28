"""AdaDec in the loop: where the next token is uncertain, the likeliest ones are followed for some tokens and compared.

Rows pause one by one. While any does, copies of all rows and of their caches go ahead; what they wrote is thrown away.
"""

import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import struct
from jaxdlm.core.model import KV
from jaxdlm.errors import InputError
from jaxdlm.models.params import fingerprint
from jaxdlm.speculative.ahead import OneAnswer, appended, committed, grown, guided
from jaxdlm.speculative.copies import rows_of
from jaxdlm.speculative.policy import Decoding
from jaxdlm.speculative.state import Carry, Rows
from jaxdlm.typing import Array, Bool, Float32, Int32

FILE = "adadec.json"


class Ahead(NamedTuple):
    """The candidates of all rows as rows of their own, k behind each other."""

    rows: Rows
    kv: KV
    total: Float32[Array, "R"]  # log p of the tokens behind the candidate
    count: Int32[Array, "R"]  # and how many they are
    over: Bool[Array, "R"]
    steps: Int32[Array, ""]


@struct.dataclass
class Lookahead(OneAnswer):
    """See `methods.adadec`."""

    threshold: Any
    k: int = struct.field(pytree_node=False)
    length: int = struct.field(pytree_node=False)
    official: bool = struct.field(pytree_node=False, default=False)
    made_for: str = struct.field(pytree_node=False, default="")  # fingerprint of the model of a fitted threshold

    def check(self, lm: Any) -> None:
        if self.made_for and self.made_for != fingerprint(lm.params):
            raise InputError(
                f"the threshold was fitted for another model than {lm.name}: fit one with scripts/train.py --recipe adadec "
                f"--model {lm.name}, or give it in nats"
            )

    def step(self, carry: Carry, decoding: Decoding) -> tuple[Carry, Float32[Array, "B 1 V"]]:
        """(the carry with one token more, the model's logits behind the text)."""
        rows, policy = carry.rows, decoding.policy
        logits, kv = grown(carry, decoding)
        carry = carry._replace(kv=kv)
        logp, live, nodes = guided(logits, rows, policy.guide)
        own, token = jax.lax.top_k(logp, min(self.k, logp.shape[1]))
        pause = (entropy(logp) >= self.threshold) & live & ~rows.done
        plain = (jnp.zeros_like(rows.length), jnp.zeros_like(rows.length), jnp.zeros_like(rows.length))
        pick, looked, drafted = jax.lax.cond(
            jnp.any(pause), lambda: self.compared(carry, decoding, own, token, pause), lambda: plain
        )
        best = jnp.take_along_axis(token, pick[:, None], axis=1)[:, 0]
        rows = rows._replace(step=rows.step + looked, drafted=rows.drafted + drafted)
        return committed(carry._replace(rows=rows), decoding, best, logits, live, nodes), logits

    def compared(
        self, carry: Carry, decoding: Decoding, own: Float32[Array, "B K"], token: Int32[Array, "B K"], pause: Array
    ) -> tuple[Int32[Array, "B"], Int32[Array, "B"], Int32[Array, "B"]]:
        """(the best candidate of each row that pauses, else 0; forwards that it looked ahead; tokens read there)."""
        kinds = token.shape[1]
        grouped = lambda x: x.reshape(-1, kinds)  # noqa: E731
        rows, kv = rows_of((carry.rows, carry.kv), np.repeat(np.arange(pause.shape[0]), kinds))
        mine = jnp.repeat(pause, kinds)
        rows, over = appended(rows, token.reshape(-1), decoding.policy.guide)
        zero = jnp.zeros(mine.shape, jnp.int32)
        ahead = Ahead(rows, kv, zero.astype(jnp.float32), zero, over | ~mine, jnp.int32(0))

        def further(a: Ahead) -> Ahead:
            logits, kv = grown(carry._replace(rows=a.rows, kv=a.kv), decoding)
            logp, *_ = guided(logits, a.rows, decoding.policy.guide)
            best = jnp.argmax(logp, axis=1).astype(jnp.int32)
            rows, over = appended(a.rows, best, decoding.policy.guide)
            counts = ~a.over
            added = counts
            if self.official:  # as released: until every candidate of the row is done, past the end of this one
                added = jnp.repeat(jnp.any(grouped(counts), axis=1), kinds) & (a.rows.length < a.rows.stop)
            total = a.total + jnp.where(added, jnp.max(logp, axis=1), 0.0)
            return Ahead(rows, kv, total, a.count + counts.astype(jnp.int32), a.over | over, a.steps + 1)

        end = jax.lax.while_loop(lambda a: (a.steps < self.length) & jnp.any(~a.over), further, ahead)
        score = (own + grouped(end.total)) / (grouped(end.count) + 1).astype(jnp.float32)
        pick = jnp.where(pause, jnp.argmax(score, axis=1).astype(jnp.int32), 0)
        return pick, jnp.max(grouped(end.count), axis=1), jnp.sum(grouped(end.count), axis=1, dtype=jnp.int32)


def entropy(logp: Float32[Array, "B V"]) -> Float32[Array, "B"]:
    """-sum p log p, nats."""
    p = jnp.exp(logp)
    return -jnp.sum(jnp.where(p > 0, p * jnp.where(p > 0, logp, 0.0), 0.0), axis=1)


def read_threshold(path: pathlib.Path) -> tuple[float, str]:
    """(nats, the model's fingerprint) of a file of scripts/train.py --recipe adadec."""
    try:
        stored = json.loads(path.read_text())
        threshold, made_for = stored["threshold"], stored["target_fingerprint"]
    except (ValueError, KeyError, TypeError):
        threshold, made_for = None, ""
    if not isinstance(threshold, float) or not 0 <= threshold < 1e6 or not isinstance(made_for, str):
        raise InputError(f"{path.name} holds no threshold: fit one with scripts/train.py --recipe adadec")
    return threshold, made_for
