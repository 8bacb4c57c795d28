"""One row, made by hand: rules are called on it directly, without model or loop."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import Row, chain
from jaxdlm.core.carry import Draft
from jaxdlm.models.config import TokenIds

IDS = TokenIds(mask=7, pad=0, eos=(6,))


def row(open_columns, *, tick: int = 0, blocks: int = 1, tokens=None, given=None, exists=None) -> Row:
    """A window where `open_columns` (bools) may be written."""
    can = np.asarray(open_columns, bool)
    window = len(can)
    column = jnp.arange(window, dtype=jnp.int32)
    tokens = np.where(can, IDS.mask, 1) if tokens is None else np.asarray(tokens)
    full = np.ones(window, bool)
    return Row(
        tokens=jnp.asarray(tokens, jnp.int32), open=jnp.asarray(can), pending=jnp.asarray(can), active=jnp.asarray(full),
        given=jnp.asarray(~full if given is None else np.asarray(given)), column=column, position=column + 3,
        exists=jnp.asarray(full if exists is None else np.asarray(exists)), step=jnp.int32(tick), tick=jnp.int32(tick),
        block=jnp.int32(0), blocks=blocks, ids=IDS,
    )  # fmt: skip


def logits(confidence, vocab: int = 5, token: int = 2):
    """Rows [W, V] whose best token has exactly these probabilities, the others sharing the rest."""
    p = np.asarray(confidence, np.float64)[:, None]
    rows = np.repeat((1 - p) / (vocab - 1), vocab, axis=1)
    rows[:, token] = p[:, 0]
    return jnp.asarray(np.log(rows), jnp.float32)


def apply(rule, raw, view: Row, state=None, key=0) -> Draft:
    """The draft that one rule, or a chain of them, makes of logits."""
    rule = chain(rule)
    state = rule.init(raw.shape[0], raw.shape[1]) if state is None else state
    return rule.apply(Draft(raw), state, view, jax.random.key(key))[0]


def scored(rule, score, view: Row, state=None, key=0):
    """What a selection rule commits, given log-probabilities (or other scores)."""
    score = jnp.asarray(score, jnp.float32)
    draft = Draft(jnp.zeros((score.shape[0], 5)), token=jnp.full(score.shape, 2, jnp.int32), score=score)
    state = rule.init(score.shape[0], 5) if state is None else state
    draft, kept = rule.apply(draft, state, view, jax.random.key(key))
    return np.asarray(draft.commit), kept
