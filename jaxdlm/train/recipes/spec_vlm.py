"""A draft head for prompts that begin with an image (SpecVLM, arXiv 2509.11815), with ways to read it and a gate between them.

Online: the target reads the texts in the step that learns from it, and nothing is stored. Loss: 0.1 CE(target, head) plus
smooth-L1 to the features that the target went on to have, means over the answers. The gate chooses with Gumbel noise, and
passes its gradient on as softmax would. Where no images are at hand, the first half of each prompt is sent as one.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxdlm.core.model import KV
from jaxdlm.core.readout import mask_invalid
from jaxdlm.speculative import kv as store
from jaxdlm.speculative import taps as tapping
from jaxdlm.speculative.drafters.eagle import KINDS, blank, drafting
from jaxdlm.speculative.state import Lent, Rows
from jaxdlm.speculative.visual import BRANCHES, Compressor, Visual
from jaxdlm.train.recipes._written import Texts, finish, fitted, stored, texts_of
from jaxdlm.train.recipes.eagle import Step, later
from jaxdlm.typing import Array, Float32

LOGITS, FEATURES = 0.1, 1.0
EMPTY = KV((), ())


def step_of(drafter: Any, texts: Texts, key: Array, noise: Array | None = None) -> Step:
    """What the head says behind prompts whose first half it reads as an image. noise: on the gate."""
    (model, params, _), (batch, columns) = drafter.host, texts.tokens.shape
    position, valid = store.places(batch, columns)
    out, taps = tapping.apply(model, params, texts.tokens, position, valid, taps=drafter.taps)
    logits = later(mask_invalid(model.head(params, out.hidden), model))
    law, true = jax.nn.log_softmax(logits), drafter.feature_of(taps)
    count = texts.first // 2
    image = Visual(model.embed(params, texts.tokens), count)
    hidden, *_ = drafter.read(true, rows_of(texts, key), later(texts.tokens), image, noise)
    logq = jax.nn.log_softmax(drafter.logits(hidden))
    entropy = -jnp.sum(jnp.where(law > -jnp.inf, jnp.exp(law) * jnp.where(law > -jnp.inf, logq, 0), 0), axis=2)
    off = jnp.abs(hidden - jax.lax.stop_gradient(later(true)))
    distance = jnp.mean(jnp.where(off < 1, 0.5 * off**2, off - 0.5), axis=2)
    right = jnp.argmax(logq, axis=2) == jnp.argmax(logits, axis=2)
    answers = (position + 2 >= texts.first[:, None]) & (position + 2 < texts.stop[:, None])
    return Step(entropy, right, distance, answers & (position >= count[:, None]))


def rows_of(texts: Texts, key: Array) -> Rows:
    """The texts as rows whose prompts end where the answers begin: of these the gate reads the words behind the image."""
    batch = texts.tokens.shape[0]
    zero = jnp.zeros(batch, jnp.int32)
    keys = jax.random.split(key, batch)
    return Rows(texts.tokens, texts.first, texts.first, texts.stop, keys, zero > 0, *[zero] * 5)


def loss(leaves: dict[str, Array], texts: Texts, key: Array, drafter: Any) -> Float32[Array, ""]:
    """See the module."""
    choice, rest = jax.random.split(key)
    noise = jax.random.gumbel(choice, (texts.tokens.shape[0], len(BRANCHES)), jnp.float32)
    one = step_of(drafter.replace(leaves=leaves), texts, rest, noise)
    each = LOGITS * one.entropy + FEATURES * one.distance
    return jnp.sum(jnp.where(one.counts, each, 0)) / jnp.maximum(jnp.sum(one.counts, dtype=jnp.float32), 1)


def accuracy(drafter: Any, texts: Texts) -> dict[str, float]:
    """How often the likeliest token of the head is the target's, by the way that it reads the image."""

    @jax.jit
    def counts(compressor: Compressor) -> tuple[Array, Array]:
        one = step_of(drafter.replace(compressor=compressor), texts, jax.random.key(0))
        return jnp.sum(one.right & one.counts), jnp.sum(one.counts)

    made = {}
    for number, name in enumerate((*BRANCHES, "gate")):
        right, every = counts(Compressor(jnp.int32(number)))
        made[name] = round(float(right) / max(1, int(every)), 4)
    return made


def run(
    lm: Any, folder: Path, *, texts: Sequence[Any] | None = None, rows: int = 1920, canvas: int = 24, steps: int = 400,
    batch: int = 16, feed: int = 384, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Writes folder/{spec_vlm.safetensors, spec_vlm.json, spec_vlm.jsonl}, a head for `eagle2`; returns the record.

    lm: the target. texts: None: the benchmark's training split, `rows` of it. feed: width of the layer's feed-forward. A tenth
    of the prompts is held out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count, (mine, held) = texts_of(lm, texts, rows=rows, canvas=canvas, seed=seed)
    begin = blank(KINDS["eagle2"], lm, feed=feed, seed=seed, visual=True)
    drafter = drafting(KINDS["eagle2"], begin, compressor=Compressor(jnp.int32(len(BRANCHES))))
    drafter = drafter.borrow(Lent(lm.model, lm.params, EMPTY))
    value = functools.partial(loss, drafter=drafter)
    made, curve = fitted(value, begin.leaves, mine, held, steps=steps, batch=batch, seed=seed, rate=2e-3, clip=1.0)
    trained = begin._replace(leaves=stored(made))
    right = accuracy(drafter.replace(leaves=trained.leaves), held)
    return finish(
        lm, folder, "spec_vlm", trained, curve, texts=count, steps=steps, seed=seed, accuracy=right, method="eagle2"
    )  # fmt: skip
