"""A drafter that fills blocks in one pass from a target's hidden states (DFlash, arXiv 2602.06036), trained on its own texts.

Blocks begin at random columns a of the answers: [x_a, masks], with what the target shows of the columns before a for context, and
row i learns the target's distribution of token a + i, which the target gives with the tokens before it written:
Σ_i exp(-(i - 1) / γ) CE, γ = 7 b / 16. Several blocks of a row share one forward; none sees another.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.model import KV
from jaxdlm.core.readout import mask_invalid
from jaxdlm.speculative import kv as store
from jaxdlm.speculative import taps as tapping
from jaxdlm.speculative.drafters.dflash import DFlash, blank, drafting
from jaxdlm.speculative.state import Lent
from jaxdlm.speculative.warp import warp
from jaxdlm.train.recipes._written import Texts, finish, fitted, stored, texts_of
from jaxdlm.typing import Array, Bool, Float32, Int32


def blocks(
    drafter: DFlash, texts: Texts, anchor: Int32[Array, "B C"]
) -> tuple[Float32[Array, "B C W V"], Float32[Array, "B C W V"], Bool[Array, "B C W"]]:
    """(logits of the masks of each block, the target's there, where the text goes on so far); W: masks of a block."""
    (model, params, _), (batch, columns), width = drafter.host, texts.tokens.shape, drafter.width
    position, valid = store.places(batch, columns)
    out, taps = tapping.apply(model, params, texts.tokens, position, valid, taps=drafter.taps)
    assert taps is not None
    theirs = mask_invalid(model.head(params, out.hidden), model)
    place = jnp.arange(width, dtype=jnp.int32)[None, None, :]
    column = (anchor[:, :, None] + place).reshape(batch, -1)
    token = jnp.repeat(store.take(texts.tokens, anchor), width, axis=1)
    masked = jnp.broadcast_to(place > 0, (batch, anchor.shape[1], width)).reshape(batch, -1)
    before = position[:, None, :] < jnp.repeat(anchor, width, axis=1)[:, :, None]
    owner = np.repeat(np.arange(anchor.shape[1]), width)
    own = jnp.broadcast_to(jnp.asarray(owner[:, None] == owner[None, :])[None], (batch, len(owner), len(owner)))
    allow = jnp.concatenate([before, own], axis=2)
    mine = drafter.block(drafter.words(token, masked), column, allow, drafter.context(taps, position))
    shape = (batch, anchor.shape[1], width, -1)
    law = jnp.take_along_axis(theirs, jnp.clip(column - 1, 0, columns - 1)[:, :, None], axis=1)
    goes_on = column.reshape(shape[:3]) < texts.stop[:, None, None]
    return mine.reshape(shape)[:, :, 1:], jax.lax.stop_gradient(law.reshape(shape))[:, :, 1:], goes_on[:, :, 1:]


def loss(leaves: dict[str, Array], texts: Texts, key: Array, drafter: DFlash, count: int) -> Float32[Array, ""]:
    """See the module: `count` blocks of each row."""
    drafter = dataclasses.replace(drafter, leaves=leaves)
    mine, theirs, goes_on = blocks(drafter, texts, anchors(texts, key, count))
    law, logq = jax.nn.log_softmax(theirs), jax.nn.log_softmax(mine)
    entropy = -jnp.sum(jnp.where(law > -jnp.inf, jnp.exp(law) * jnp.where(law > -jnp.inf, logq, 0), 0), axis=3)
    decay = np.exp(-np.arange(drafter.width - 1) / (7 * drafter.width / 16)).astype(np.float32)
    weight = goes_on.astype(jnp.float32) * decay[None, None, :]
    return jnp.sum(entropy * weight) / jnp.maximum(jnp.sum(weight), 1)


def anchors(texts: Texts, key: Array, count: int) -> Int32[Array, "B C"]:
    """Random columns behind which the answer goes on: from the prompt's last to the answer's last but one."""
    span = jnp.maximum(texts.stop - texts.first, 1)
    u = jax.random.uniform(key, (texts.tokens.shape[0], count), jnp.float32)
    return texts.first[:, None] - 1 + jnp.floor(u * span.astype(jnp.float32)[:, None]).astype(jnp.int32)


def accuracy(drafter: DFlash, held: Texts, count: int = 8) -> list[float]:
    """How often the likeliest token of mask i is the target's."""
    mine, theirs, goes_on = jax.jit(lambda: blocks(drafter, held, anchors(held, jax.random.key(1), count)))()
    right = (jnp.argmax(mine, axis=3) == jnp.argmax(theirs, axis=3)) & goes_on
    return [round(float(a) / max(1, int(b)), 4) for a, b in zip(right.sum((0, 1)), goes_on.sum((0, 1)), strict=True)]


def run(
    lm: Any, folder: Path, *, texts: Sequence[Any] | None = None, rows: int = 1920, canvas: int = 24, steps: int = 600,
    batch: int = 16, count: int = 6, layers: int = 2, taps: int = 3, width: int = 8, feed: int = 384, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Writes folder/{dflash.safetensors, dflash.json, dflash.jsonl}; returns the record.

    lm: the target. texts: None: the benchmark's training split, `rows` of it. count: blocks of a text and step (paper: 512).
    layers: of the drafter (5); taps: layers of the target that it reads (5); width: of a block (16); feed: of the feed-forward. A
    tenth of the prompts is held out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, (mine, held) = texts_of(lm, texts, rows=rows, canvas=canvas, seed=seed)
    begin = blank(lm, feed=feed, layers=layers, taps=taps, width=width, seed=seed)
    drafter = drafting(begin, warp()).borrow(Lent(lm.model, lm.params, KV((), ())))
    value = functools.partial(loss, drafter=drafter, count=count)
    made, curve = fitted(value, begin.leaves, mine, held, steps=steps, batch=batch, seed=seed, rate=2e-3, clip=1.0)
    trained = begin._replace(leaves=stored(made))
    right = accuracy(dataclasses.replace(drafter, leaves=trained.leaves), held)
    return finish(lm, folder, "dflash", trained, curve, texts=written, steps=steps, seed=seed, accuracy=right)
