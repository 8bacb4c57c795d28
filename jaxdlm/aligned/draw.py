"""One program: a batch of answers, and what the tries learn from them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdlm.core import engine
from jaxdlm.core.carry import Status, Trace
from jaxdlm.core.compiled import compiled
from jaxdlm.core.model import KV, Model
from jaxdlm.speculative import guiding, loop
from jaxdlm.speculative import kv as store
from jaxdlm.speculative.policy import Decoding
from jaxdlm.speculative.state import Carry, Rows
from jaxdlm.typing import Array, Bool, Float32, Int32, Key, PyTree


class Ledger(NamedTuple):
    """Of each column of the answers, as `trie.Sampled` has them."""

    logp: Float32[Array, "B M"]
    unseen: Float32[Array, "B M"]


@compiled(static_argnames=("model", "prompt"))
def read_prompts(rows: Rows, model: Model, params: PyTree, prompt: int) -> KV:
    """The keys and values of the prompts, once for all batches."""
    return store.prefill(model, params, rows.tokens, prompt)


class Drawing(NamedTuple):
    """A carry of the loop, and what is noted beside it."""

    carry: Carry
    ledger: Ledger
    alike: Int32[Array, "B"]  # the first row with the same text of each row

    @property
    def rows(self) -> Rows:
        return self.carry.rows

    @property
    def loops(self) -> Int32[Array, ""]:
        return self.carry.loops


@compiled(static_argnames=("prompt", "max_new"))
def draw(
    rows: Rows, number: Int32[Array, "B"], kv: KV, decoding: Decoding, prompt: int, max_new: int
) -> tuple[Rows, Ledger]:
    """An answer for each row, with the noise of its number. The policy's guide is an `AsapGuide`."""
    policy = decoding.policy
    rows = rows._replace(key=_numbered(rows.key, number))
    trie = rows.guide
    rows = guiding.begin(policy.guide, rows, decoding.model.config.vocab_size)
    blank = jnp.zeros((rows.done.shape[0], max_new), jnp.float32)
    carry = Carry(rows, kv, policy.drafter.init(rows, prompt), Trace(None, None, None), jnp.int32(0))
    alike = _first(trie, jnp.zeros_like(trie), ~rows.done, 1)[trie, 0]

    def step(now: Drawing) -> Drawing:
        carry, logits = loop.step_and_logits(now.carry, decoding)
        carry = carry._replace(rows=_rejected(policy.guide, carry.rows, now.rows))
        logp = policy.warp.log_prob(logits[:, 0])
        return Drawing(carry, *_noted(now.ledger, now.alike, now.rows, carry.rows, logp, policy.guide))

    begin = Drawing(carry, Ledger(blank, blank), jnp.minimum(alike, trie.shape[0] - 1))
    carry, ledger, _ = engine.run_until(begin, step, jnp.iinfo(jnp.int32).max)
    return carry.rows._replace(guide=()), ledger


def _numbered(keys: Key[Array, "B"], number: Int32[Array, "B"]) -> Key[Array, "B"]:
    return jax.vmap(jax.random.fold_in)(keys, number)


def _rejected(guide: Any, rows: Rows, before: Rows) -> Rows:
    """The rows, those that have left the language done; only where the guide lets them."""
    if guide.mode != "reject":
        return rows
    left = jax.vmap(guide.left)(rows.guide) & ~before.done
    return rows._replace(done=rows.done | left, status=jnp.where(left, int(Status.INFEASIBLE), rows.status))


def _noted(
    ledger: Ledger, alike: Int32[Array, "B"], before: Rows, rows: Rows, logp: Float32[Array, "B V"], guide: Any
) -> tuple[Ledger, Int32[Array, "B"]]:
    """(the ledger with the column that was written, the first row with the same text of each row)."""
    token = store.take(rows.tokens, before.length[:, None])[:, 0]
    wrote = rows.length > before.length
    # behind the tokens of rows that go on a node is made, whichever of the rows with the same text has drawn them
    goes_on = wrote & ~rows.done
    first = _first(alike, token, goes_on, logp.shape[1])
    unseen = jax.vmap(guide.unseen)(logp, before.guide, (first < token.shape[0])[alike])
    row = jnp.arange(token.shape[0])
    column = jnp.where(wrote, before.length - before.start, ledger.logp.shape[1])
    ledger = Ledger(
        ledger.logp.at[row, column].set(logp[row, token], mode="drop"),
        ledger.unseen.at[row, column].set(unseen, mode="drop"),
    )
    return ledger, jnp.where(goes_on, first[alike, token], alike)


def _first(
    row: Int32[Array, "B"], column: Int32[Array, "B"], counts: Bool[Array, "B"], columns: int
) -> Int32[Array, "B U"]:
    """The first of the rows that count with each pair of numbers; B where there is none."""
    rows = row.shape[0]
    none = jnp.full((rows, columns), rows, jnp.int32)
    column = jnp.where(counts, column, columns)
    return none.at[row, column].min(jnp.arange(rows, dtype=jnp.int32), mode="drop")
