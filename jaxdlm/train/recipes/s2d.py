"""A draft with exits (S2D, arXiv 2407.01955), by sorted fine-tuning: every exit learns to speak, with one norm and head.

loss = mean over exits e of CE(head(norm(h_e)), next token); all weights learn, starting from the draft as it is.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.core.model import Model
from jaxdlm.errors import InputError
from jaxdlm.models.params import fingerprint
from jaxdlm.speculative.drafters.s2d import FILE
from jaxdlm.train.data import causal_batch
from jaxdlm.train.export import flat
from jaxdlm.train.recipes.tiny import DRAFT_BUCKETS, pick
from jaxdlm.train.records import write_record
from jaxdlm.train.step import Budget, Recipe, muon, train
from jaxdlm.typing import Array, Float32, PyTree


def exit_logits(model: Any, params: PyTree, tokens: Array, exits: Sequence[int], first: int, count: int) -> list[Array]:
    """Logits of each exit at `count` columns from `first` on."""
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)
    x, start, logits = tokens, 0, []
    for end in exits:
        x, _ = model.part(params, x, position, jnp.ones(tokens.shape, bool), None, start, end)
        logits.append(model.exit(params, x[:, first : first + count]))
        start = end
    return logits


def sorted_loss(model: Model, params: PyTree, batch: dict[str, Any], *, exits: tuple[int, ...]) -> Float32[Array, ""]:
    """Mean over exits of Σ weight · CE(target) over the answer columns."""
    target = batch["target"]
    first = batch["tokens"].shape[1] - target.shape[1] - 1
    total = jnp.float32(0)
    for logits in exit_logits(model, params, batch["tokens"], exits, first, target.shape[1]):
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), target[..., None], axis=-1)[..., 0]
        total = total - jnp.sum(batch["weight"] * picked)
    return total / len(exits)


def recipe_of(lm: Any, exits: tuple[int, ...], steps: int, seed: int) -> Recipe:
    """Sorted fine-tuning of a loaded causal model on the benchmark."""
    return Recipe(
        name="s2d",
        model=lm.model,
        init=lambda _: jax.tree.map(lambda leaf: leaf.copy(), lm.params),  # the step donates its state; the draft stays
        loss_fn=partial(sorted_loss, exits=exits),
        batch_at=lambda seed, step: causal_batch(pick(DRAFT_BUCKETS, step), seed, step),
        optimizer=muon(jax.eval_shape(lambda: lm.params)),
        steps=steps,
        peak_lr=4e-3,
        warmup=max(1, steps // 20),
        seed=seed,
    )


def run(
    lm: Any, folder: Path, *, exits: Sequence[int] | None = None, steps: int = 300, minutes: float | None = None,
    seed: int = 0, texts: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """Trains and writes folder/{s2d.safetensors, s2d.json, curve.jsonl}; returns the record.

    exits: layers that have been run at each; default half of them, and all.
    """
    if texts is not None:
        raise InputError("s2d learns from the benchmark's own answers: leave --prompts out")
    layers = lm.config.num_layers
    exits = tuple(exits or (max(1, layers // 2), layers))
    if list(exits) != sorted(set(exits)) or exits[0] < 1 or exits[-1] != layers:
        raise InputError(f"exits={exits}: must rise to the {layers} layers of {lm.name}")
    state = train(recipe_of(lm, exits, steps, seed), folder, Budget(steps, minutes), every=min(20, steps))
    from safetensors.numpy import save_file

    notes = {"format": "jaxdlm", "method": "s2d", "draft": str(lm.name), "fingerprint": fingerprint(lm.params)}
    notes["exits"] = ",".join(map(str, exits))
    save_file(flat(state.params), str(folder / FILE), metadata=notes)
    batches = [causal_batch(pick(DRAFT_BUCKETS, step), seed + 1, step) for step in range(8)]
    measured = {
        name: [
            round(float(np.mean([_cross_entropy(lm.model, params, batch, exits, place) for batch in batches])), 4)
            for place in range(len(exits))
        ]
        for name, params in (("before", lm.params), ("after", state.params))
    }
    record = {
        "recipe": "s2d",
        "command": f"python scripts/train.py --recipe s2d --model {lm.name} --steps {int(state.step)} --output DIR",
        "draft": lm.name,
        "fingerprint": fingerprint(lm.params),
        "exits": list(exits),
        "steps": int(state.step),
        "tokens": int(state.tokens),
        "seed": seed,
        "loss_of_each_exit": measured,
    }
    write_record(folder / "s2d.json", record)
    return record


@partial(jax.jit, static_argnums=(0, 3, 4))
def _cross_entropy(model: Any, params: PyTree, batch: dict[str, Any], exits: tuple[int, ...], place: int) -> Array:
    return sorted_loss(model, params, batch, exits=exits[: place + 1]) * (place + 1) - (
        sorted_loss(model, params, batch, exits=exits[:place]) * place if place else 0.0
    )
