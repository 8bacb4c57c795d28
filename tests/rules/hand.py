"""One row, made by hand: rules are called on it directly, without model or loop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm import Row, chain
from jaxdlm.core.carry import Text, Update
from jaxdlm.models.config import TokenIds

IDS = TokenIds(mask=7, pad=0, eos=(6,))


def row(open_columns, *, tick: int = 0, blocks: int = 1, tokens=None, prefilled=None, exists=None) -> Row:
    """A window where `open_columns` (bools) may be written."""
    can = np.asarray(open_columns, bool)
    window = len(can)
    column = np.arange(window, dtype=np.int32)
    tokens = np.where(can, IDS.mask, 1) if tokens is None else np.asarray(tokens)
    full = np.ones(window, bool)
    return Row(
        tokens=tokens.astype(np.int32), open=can, pending=can, active=full,
        prefilled=~full if prefilled is None else np.asarray(prefilled), column=column, position=column + 3,
        exists=full if exists is None else np.asarray(exists), step=np.int32(tick), tick=np.int32(tick),
        block=np.int32(0), blocks=blocks, ids=IDS, text=behind([1] * 3, tokens.astype(np.int32), ~can),
    )  # fmt: skip


def behind(prompt, tokens, known) -> Text:
    """A window that is the whole canvas, behind a prompt."""
    text = np.concatenate([np.asarray(prompt, np.int32), tokens])
    return Text(text, np.concatenate([np.ones(len(prompt), bool), known]), np.int32(len(prompt)))


def logits(confidence, vocab: int = 5, token: int = 2):
    """Rows [W, V] whose best token has exactly these probabilities, the others sharing the rest."""
    p = np.asarray(confidence, np.float64)[:, None]
    rows = np.repeat((1 - p) / (vocab - 1), vocab, axis=1)
    rows[:, token] = p[:, 0]
    return np.log(rows).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("blocks", "ids", "shifted"))
def _call(rule, update, state, view, key, **static):
    update, state = rule.apply(Update(**update), state, Row(**view, **static), key)
    return update._replace(status=jnp.int32(update.status)), state


def call(rule, update: Update, state, view: Row, key=0):
    """(update, state) as `rule.apply` makes them in the loop: one program."""
    arrays, key = view._asdict(), jax.random.key(key) if isinstance(key, int) else key
    static = {name: arrays.pop(name) for name in ("blocks", "ids", "shifted")}
    set_ = {name: x for name, x in update._asdict().items() if x is not Update._field_defaults.get(name)}
    return _call(rule, set_, state, arrays, key, **static)


def apply(rule, raw, view: Row, state=None, key=0) -> Update:
    """The update that one rule, or a chain of them, makes of logits."""
    rule = chain(rule)
    state = rule.init(raw.shape[0], raw.shape[1]) if state is None else state
    return call(rule, Update(raw), state, view, key)[0]


def scored(rule, score, view: Row, state=None, key=0):
    """What a selection rule commits, given log-probabilities (or other scores)."""
    score = np.asarray(score, np.float32)
    update = Update(np.zeros((len(score), 5), np.float32), token=np.full(len(score), 2, np.int32), score=score)
    state = rule.init(score.shape[0], 5) if state is None else state
    update, kept = call(rule, update, state, view, key)
    return np.asarray(update.commit), kept
