"""Draft heads on a target's hidden states (EAGLE-2, arXiv 2406.16858; EAGLE-3, 2503.01840), trained on text it wrote itself.

A head is asked for its own drafts, so it learns from them: step 0 reads true features, step s what step s - 1 put out for the
column before, behind the true pairs up to s columns back, as at decoding. The loss is Σ_s 0.8^s CE(target, head), a mean over
the answers; EAGLE-2's adds Σ_s 0.8^s smooth-L1 to the features that the target went on to have.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.model import KV
from jaxdlm.core.readout import mask_invalid
from jaxdlm.speculative import kv as store
from jaxdlm.speculative import taps as tapping
from jaxdlm.speculative.drafters.eagle import KINDS, blank, drafting
from jaxdlm.speculative.state import Lent
from jaxdlm.train.recipes._written import Texts, finish, fitted, stored, texts_of
from jaxdlm.typing import Array, Bool, Float32

DECAY = 0.8
REGRESSION = {"eagle2": 1.0, "eagle3": 0.0}


class Step(NamedTuple):
    """What the head says at one step, [B, T]: per column p the cross entropy of the token at p + 2, whether its likeliest is
    the target's, how far its output is from the next feature, and which columns count."""

    entropy: Float32[Array, "B T"]
    right: Bool[Array, "B T"]
    distance: Float32[Array, "B T"]
    counts: Bool[Array, "B T"]


def steps_of(drafter: Any, texts: Texts, count: int) -> list[Step]:
    """`count` steps of a head with the target at hand."""
    (model, params, _), (batch, columns) = drafter.host, texts.tokens.shape
    position, valid = store.places(batch, columns)
    out, taps = tapping.apply(model, params, texts.tokens, position, valid, taps=drafter.taps)
    law = jax.nn.log_softmax(later(drafter.theirs(mask_invalid(model.head(params, out.hidden), model))))
    best = later(jnp.argmax(mask_invalid(model.head(params, out.hidden), model), axis=2))
    true = feature = drafter.feature_of(taps)
    answers = (position + 2 >= texts.first[:, None]) & (position + 2 < texts.stop[:, None])
    q, k, past, blocks, made = position[:, :, None], position[:, None, :], None, [], []
    for step in range(count):
        blocks = [k <= q - step] + [k == q - step + number for number in range(1, step)]
        own = k <= q if step == 0 else jnp.concatenate([*blocks, k == q], axis=2)
        hidden, fresh = drafter.layer(feature, later(texts.tokens), position, own, past)
        past = fresh if past is None else joined(past, fresh)
        logq = jax.nn.log_softmax(drafter.logits(hidden))
        entropy = -jnp.sum(jnp.where(law > -jnp.inf, jnp.exp(law) * jnp.where(law > -jnp.inf, logq, 0), 0), axis=2)
        right = drafter.ids(jnp.argmax(logq, axis=2)) == best
        off = jnp.abs(hidden - jax.lax.stop_gradient(later(true)))
        distance = jnp.mean(jnp.where(off < 1, 0.5 * off**2, off - 0.5), axis=2)
        made.append(Step(entropy, right, distance, answers & (position >= step)))
        feature = jnp.pad(hidden[:, :-1], [(0, 0), (1, 0), (0, 0)])
    return made


def later(x: Array) -> Array:
    """[B, T, ...]: of each column what stands in the next."""
    return jnp.concatenate([x[:, 1:], x[:, -1:]], axis=1)


def joined(past: KV, fresh: KV) -> KV:
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=2), past, fresh)


def loss(leaves: dict[str, Array], texts: Texts, key: Array, drafter: Any, ahead: int) -> Float32[Array, ""]:
    """See the module."""
    made = steps_of(dataclasses.replace(drafter, leaves=drafter.leaves | leaves), texts, ahead)
    total = jnp.float32(0)
    for step, one in enumerate(made):
        each = one.entropy + REGRESSION[drafter.recipe] * one.distance
        count = jnp.maximum(jnp.sum(one.counts, dtype=jnp.float32), 1)
        total += DECAY**step * jnp.sum(jnp.where(one.counts, each, 0)) / count
    return total


def accuracy(drafter: Any, texts: Texts, count: int) -> list[float]:
    """How often the likeliest token of the head is the target's, by step."""
    made = jax.jit(
        lambda: [(jnp.sum(one.right & one.counts), jnp.sum(one.counts)) for one in steps_of(drafter, texts, count)]
    )()
    return [round(float(right) / max(1, int(all_)), 4) for right, all_ in made]


def frequent(texts: Texts, count: int, vocab: int) -> np.ndarray:
    """int32[count]: the commonest ids of the answers, ascending; the lowest ids fill up."""
    column = np.arange(texts.tokens.shape[1])[None, :]
    inside = (column >= np.asarray(texts.first)[:, None]) & (column < np.asarray(texts.stop)[:, None])
    ids, often = np.unique(np.asarray(texts.tokens)[inside], return_counts=True)
    chosen = ids[np.argsort(-often, kind="stable")][:count]
    rest = np.setdiff1d(np.arange(vocab), chosen)[: count - len(chosen)]
    return np.sort(np.concatenate([chosen, rest])).astype(np.int32)


def run(
    lm: Any, folder: Path, *, kind: str, texts: Sequence[Any] | None = None, rows: int = 1920, canvas: int = 24,
    steps: int = 400, batch: int = 16, feed: int = 384, ahead: int = 4, words: int = 256, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Writes folder/{KIND.safetensors, KIND.json, KIND.jsonl}; returns the record.

    lm: the target. kind: "eagle2" or "eagle3". texts: None: the benchmark's training split, `rows` of it. feed: width of the
    layer's feed-forward. ahead: steps of a head on its own output (7 in the paper). words: ids that eagle3 drafts, the
    commonest of the answers (32,000 in the paper). A tenth of the prompts is held out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count, (mine, held) = texts_of(lm, texts, rows=rows, canvas=canvas, seed=seed)
    vocab = lm.config.vocab_size
    chosen = frequent(mine, min(words, vocab), vocab) if kind == "eagle3" else None
    begin = blank(KINDS[kind], lm, feed=feed, words=chosen, seed=seed)
    drafter = drafting(KINDS[kind], begin).borrow(Lent(lm.model, lm.params, KV((), ())))
    learns = {leaf: value for leaf, value in begin.leaves.items() if leaf != "ids"}
    value = functools.partial(loss, drafter=drafter, ahead=ahead)
    made, curve = fitted(value, learns, mine, held, steps=steps, batch=batch, seed=seed, rate=2e-3, clip=1.0)
    trained = begin._replace(leaves=begin.leaves | stored(made))
    right = accuracy(dataclasses.replace(drafter, leaves=trained.leaves), held, ahead)
    return finish(lm, folder, kind, trained, curve, texts=count, steps=steps, seed=seed, accuracy=right)


eagle2 = functools.partial(run, kind="eagle2")
eagle3 = functools.partial(run, kind="eagle3")
