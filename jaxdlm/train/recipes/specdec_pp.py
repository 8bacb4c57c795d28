"""The acceptance head of a draft (SpecDec++, arXiv 2405.19715), trained on what its target accepts.

The target writes an answer X; the draft proposes Y_i behind every prefix of it, accepted with p_i = min(1, p / q). The
draft then reads a mixture Z of both (X_i with probability r), and at every Y_i the head learns p_i. Both distributions
are the ones of inference (released code: always temperature 1); at temperature 0, p_i says whether the two best tokens
agree.
"""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdlm import _decode, layout
from jaxdlm._load import load
from jaxdlm.core.loop import mask_invalid
from jaxdlm.core.model import Model
from jaxdlm.methods.autoregressive import autoregressive
from jaxdlm.models.params import fingerprint
from jaxdlm.speculative.drafters.specdec_pp import FILE, Head, acceptance
from jaxdlm.speculative.warp import Warp, draw, warp
from jaxdlm.train import prompts as sources
from jaxdlm.train.batches import filled
from jaxdlm.train.records import write_curve, write_record
from jaxdlm.typing import Array, Float32, Int32, PyTree


class Seen(NamedTuple):
    """One row per draft token: the draft's hidden state where it reads it, and the chance that it is accepted."""

    hidden: Float32[Array, "N d"]
    p: Float32[Array, "N"]
    prompt: Int32[Array, "N"]


def logits_of(model: Model, params: PyTree, tokens: Int32[Array, "B L"]) -> tuple[Array, Array]:
    """(hidden, logits) of whole rows that are padded on the right."""
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)
    hidden = model.apply(params, tokens, position, jnp.ones(tokens.shape, bool)).hidden
    return hidden, mask_invalid(model.head(params, hidden), model)


@partial(jax.jit, static_argnames=("target", "draft"))
def label(
    tokens: Int32[Array, "B L"], keys: Array, target: Model, target_params: PyTree, draft: Model, draft_params: PyTree,
    sampling: Warp, mixing: float,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """(hidden, p, whether the column holds a draft token) at every column of rows that the target wrote.

    Column j holds Y_j with probability 1 - mixing, and Y_j is proposed behind x_<j.
    """
    log_p = sampling.log_prob(logits_of(target, target_params, tokens)[1])
    log_q = sampling.log_prob(logits_of(draft, draft_params, tokens)[1])

    def propose(log_q: Array, key: Array) -> Array:
        noise = jax.random.split(key, log_q.shape[0])
        return jax.vmap(draw)(log_q, noise)

    y = jax.vmap(propose)(log_q, keys)
    pick = lambda log_probs: jnp.take_along_axis(log_probs, y[..., None], axis=-1)[..., 0]  # noqa: E731
    accept = jnp.exp(jnp.minimum(0.0, pick(log_p) - pick(log_q)))
    # what was said behind x_<j belongs to column j
    y, accept = (jnp.roll(leaf, 1, axis=1) for leaf in (y, accept))
    own = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1), tokens.shape[1:]))(keys) < mixing
    hidden, _ = logits_of(draft, draft_params, jnp.where(own, tokens, y))
    return hidden, accept, ~own


def collect(
    target: Any, draft: Any, texts: Sequence[Any], *, canvas: int, temperature: float, mixing: float, seed: int,
    batch: int = 64,
) -> Seen:  # fmt: skip
    """Labels of all prompts; the prompt's own columns and those behind the target's end of text are left out."""
    sampling, parts = warp(temperature), []
    for start, count, chunk in filled(texts, batch):
        policy = autoregressive(temperature)
        out = _decode.decode(target, chunk, policy, max_new=canvas, seed=seed, ids=range(start, start + batch))
        rows, _ = layout.lay_out_rows(target, chunk, max_new=canvas, seed=seed, ids=None, raw=False)
        tokens, first = np.asarray(rows.tokens), np.asarray(rows.start)
        column = np.arange(tokens.shape[1])[None, :] - first[:, None]
        answer = np.take_along_axis(out.tokens, np.clip(column, 0, canvas - 1), axis=1)
        inside = (column >= 0) & (column < canvas)
        tokens = np.where(inside, answer, tokens)
        # the prompt is read as it is: it is never mixed, and carries no label
        ended = np.cumsum(inside & np.isin(tokens, draft.config.tokens.eos), axis=1)
        counted = inside & ((ended == 0) | ((ended == 1) & np.isin(tokens, draft.config.tokens.eos)))
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), start), batch)
        hidden, p, drafted = jax.device_get(
            label(
                jnp.asarray(tokens), keys, target.model, target.params, draft.model, draft.params, sampling, jnp.float32(mixing)
            )
        )  # fmt: skip
        chosen = counted & drafted
        chosen[count:] = False
        number = np.broadcast_to(start + np.arange(batch, dtype=np.int32)[:, None], chosen.shape)
        parts.append(Seen(hidden[chosen], p[chosen], number[chosen]))
    return Seen(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def init_head(size: int, blocks: int, seed: int) -> Head:
    """Uniform in ±1/sqrt(d), as torch.nn.Linear starts."""
    shapes = ((blocks, size, size), (blocks, size), (size, 2), (2,))
    keys = jax.random.split(jax.random.key(seed), 4)
    bound = 1 / math.sqrt(size)
    draws = [jax.random.uniform(k, s, jnp.float32, -bound, bound) for k, s in zip(keys, shapes, strict=True)]
    return Head(*draws)


def loss(head: Head, seen: Seen, rejection: float) -> Float32[Array, ""]:
    """Σ w (1 - p) (-log(1 - P)) + p (-log P), over Σ w (1 - p) + p; w: weight of rejections."""
    say = jnp.clip(acceptance(head, seen.hidden), 1e-7, 1 - 1e-7)
    refuse, accept = rejection * (1 - seen.p), seen.p
    return -jnp.sum(refuse * jnp.log1p(-say) + accept * jnp.log(say)) / jnp.sum(refuse + accept)


def divergence(head: Head, seen: Seen) -> float:
    """Mean KL(p ‖ P) of the two-way choice, nats: the paper's measure."""
    say = np.clip(np.asarray(acceptance(head, jnp.asarray(seen.hidden)), np.float64), 1e-7, 1 - 1e-7)
    p = np.clip(np.asarray(seen.p, np.float64), 0, 1)
    terms = [np.where(a > 0, a * np.log(np.maximum(a, 1e-30) / b), 0.0) for a, b in ((p, say), (1 - p, 1 - say))]
    return round(float(np.mean(terms[0] + terms[1])), 5)


def fit(
    seen: Seen, held: Seen, *, blocks: int, rejection: float, steps: int, seed: int, batch: int = 2048
) -> tuple[Head, list[dict[str, Any]]]:
    """(head, curve): AdamW at 1e-3 with a cosine to zero; the point of least held-out loss is kept."""
    optimizer = optax.adamw(optax.cosine_decay_schedule(1e-3, steps), weight_decay=1e-2)
    every = max(1, steps // 30)

    @jax.jit
    def some(head: Head, opt: Any, key: Array, seen: Seen, held: Seen) -> tuple[Head, Any, Array, Array]:
        def one(carry: Any, key: Array) -> tuple[Any, Array]:
            head, opt = carry
            index = jax.random.randint(key, (batch,), 0, seen.p.shape[0])
            value, grads = jax.value_and_grad(loss)(head, jax.tree.map(lambda x: x[index], seen), rejection)
            with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
                updates, opt = optimizer.update(grads, opt, head)
            return (optax.apply_updates(head, updates), opt), value

        (head, opt), values = jax.lax.scan(one, (head, opt), jax.random.split(key, every))
        return head, opt, jnp.mean(values), loss(head, held, rejection)

    head = init_head(seen.hidden.shape[1], blocks, seed)
    opt, best = optimizer.init(head), head
    curve: list[dict[str, Any]] = []
    seen, held = (jax.tree.map(jnp.asarray, side) for side in (seen, held))
    for count in range(every, steps + 1, every):
        key = jax.random.fold_in(jax.random.key(seed), count)
        head, opt, at_train, at_held = some(head, opt, key, seen, held)
        row = {"step": count, "loss": round(float(at_train), 5), "held": round(float(at_held), 5)}
        if not curve or row["held"] < min(old["held"] for old in curve):
            best = head
        curve.append(row)
    return best, curve


def save(head: Head, path: Path, draft: Any, target: Any) -> None:
    """specdec_pp.safetensors; its metadata bind it to the draft's weights."""
    from safetensors.numpy import save_file

    arrays = {name: np.asarray(leaf, np.float32) for name, leaf in head._asdict().items()}
    named = {"format": "jaxdlm", "method": "specdec_pp", "draft": str(draft.name), "target": str(target.name)}
    save_file(arrays, str(path), metadata=named | {"fingerprint": fingerprint(draft.params)})


def run(
    lm: Any, folder: Path, *, draft: Any = "tiny-draft", texts: Sequence[Any] | None = None, rows: int = 2400,
    canvas: int = 24, blocks: int = 1, rejection: float = 6.0, mixing: float = 0.15, temperature: float = 0.0,
    steps: int = 300, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Collects, fits and writes folder/{specdec_pp.safetensors, specdec_pp.json, curve.jsonl}; returns the record.

    lm: the target. rejection 6 and mixing 0.15 as in the paper; its 3 blocks learn the few rejections of the embedded
    pair by heart, so there is one. texts: None: the benchmark's training split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draft = load(draft) if isinstance(draft, str) else draft
    if texts is None:
        texts = [example.prompt for example in sources.benchmark(rows, seed, canvas=canvas)]
    seen = collect(lm, draft, texts, canvas=canvas, temperature=temperature, mixing=mixing, seed=seed)
    held = seen.prompt % 10 == 9  # by prompt, so that no answer stands on both sides
    sides = [Seen(*(field[mask] for field in seen)) for mask in (~held, held)]
    head, curve = fit(*sides, blocks=blocks, rejection=rejection, steps=steps, seed=seed)
    save(head, folder / FILE, draft, lm)
    write_curve(folder / "curve.jsonl", curve)
    rate = float(np.mean(sides[0].p))
    record = {
        "recipe": "specdec_pp",
        "command": "python scripts/train.py --recipe specdec_pp --model tiny-ar --draft tiny-draft --output DIR",
        "target": lm.name,
        "draft": draft.name,
        "fingerprint": fingerprint(draft.params),
        "target_fingerprint": fingerprint(lm.params),
        "tokens": len(seen.p),
        "accepted": round(rate, 4),
        "blocks": blocks,
        "steps": steps,
        "seed": seed,
        "parameters": int(sum(leaf.size for leaf in head)),
        "held_out_loss": min(row["held"] for row in curve),
        # what no head can beat that does not look: the best constant
        "held_out_loss_of_the_best_constant": round(_constant_loss(sides[1], rejection), 5),
        "held_out_kl": divergence(head, sides[1]),
    }
    write_record(folder / "specdec_pp.json", record)
    return record


def _constant_loss(seen: Seen, rejection: float) -> float:
    accept, refuse = float(np.sum(seen.p)), rejection * float(np.sum(1 - seen.p))
    say = accept / (accept + refuse)
    return -(say * math.log(say) + (1 - say) * math.log(1 - say))


def constant(rate: float, like: Head) -> Head:
    """A head that says `rate` whatever it reads: what a trained one has to beat."""
    zero = jax.tree.map(jnp.zeros_like, like)
    return zero._replace(bias=jnp.asarray([0.0, math.log(rate / (1 - rate))], jnp.float32))
