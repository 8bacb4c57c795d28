"""The embedded models: `tiny` (masked diffusion), `tiny-ar` (causal target) and `tiny-draft` (small causal draft).

`tiny` has four layers of width 128, `tiny-draft` two of 96, and `tiny-ar`, which starts as the draft and grows, eight
of 192. Squared-ReLU feed-forward, tied embeddings of unit scale and logits scaled by d^-1/2; prompts of fixed length so
that the answer starts at a fixed column. Mixture: list operations, choices, addition, and the puzzles; mostly 16
generated columns, some 32-128 so that any canvas and block length decodes.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm.errors import InputError
from jaxdlm.eval.tasks import vocab
from jaxdlm.eval.tasks.lists import OPERATIONS
from jaxdlm.models.backbone import Backbone
from jaxdlm.models.config import ModelConfig, RopeConfig, TokenIds
from jaxdlm.models.params import ParamSpec, init_params, map_specs, param_specs
from jaxdlm.train.data import Bucket, causal_batch, masked_batch
from jaxdlm.train.losses import answer_loss
from jaxdlm.train.step import Recipe, muon
from jaxdlm.trained import ASSETS
from jaxdlm.typing import Array, PyTree


def _mix(lists: float, weights: dict[str, float], **others: float) -> dict[str, float]:
    """Shares of rows: `lists` over the list operations by weight (1 unless stated), then the other tasks."""
    weight = {name: weights.get(name, 1.0) for name in OPERATIONS}
    total = sum(weight.values())
    return {name: lists * w / total for name, w in weight.items()} | others


_EARLY = {"copy": 0.5, "sort": 1.6, "gshuffle": 1.2, "rotate": 1.2, "insert_index": 1.2}
# what copies and draws at random is learned by then; places, orders and sums are not
_LATE = {"copy": 0.3, "replace_random": 0.7, "insert_random": 0.4, "remove_random": 0.3, "shuffle": 0.4}
_LATE |= {"gshuffle": 0.7, "reverse": 1.3, "sort": 1.8, "rotate": 1.8, "insert_index": 1.5, "remove_index": 1.5}
_WIDE = {"couple": 0.08, "add": 0.1, "sudoku4": 0.07, "latin4": 0.05}
SECOND_STAGE = 4200

MASKED_EARLY = (
    Bucket(32, 16, 64, 0.72, _mix(0.76, _EARLY, couple=0.08, add=0.16)),
    Bucket(32, 32, 48, 0.14, _mix(0.18, _EARLY, sudoku4=0.45, latin4=0.32, couple=0.02, add=0.03)),
    Bucket(48, 16, 48, 0.02, {"couple": 1.0}),
    Bucket(32, 64, 32, 0.04, _mix(0.7, _EARLY, **_WIDE)),
    Bucket(32, 128, 20, 0.08, _mix(0.7, _EARLY, **_WIDE)),
)
# additions get short rows of their own: inside mixed batches they are not learned in this time
MASKED_LATE = (
    Bucket(32, 16, 64, 0.66, _mix(0.84, _LATE, couple=0.08, add=0.08)),
    Bucket(32, 8, 72, 0.14, {"add": 1.0}),
    Bucket(32, 32, 48, 0.08, _mix(0.35, _LATE, sudoku4=0.6, couple=0.05)),
    Bucket(48, 16, 48, 0.02, {"couple": 1.0}),
    Bucket(32, 64, 32, 0.03, _mix(0.8, _LATE, couple=0.08, add=0.06, sudoku4=0.06)),
    Bucket(32, 128, 20, 0.07, _mix(0.8, _LATE, couple=0.08, add=0.06, sudoku4=0.06)),
)
# from left to right the random tasks are the hard ones: which items are still free is not seen but remembered
_CAUSAL = {"copy": 0.3, "reverse": 0.6, "remove_index": 0.7, "remove_random": 0.5, "rotate": 0.7, "rotate_any": 1.4}
_CAUSAL |= {"replace_random": 1.4, "insert_random": 1.4, "shuffle": 1.2, "gshuffle": 1.2, "sort": 1.4}
CAUSAL_BUCKETS = (
    Bucket(32, 16, 64, 0.80, _mix(0.86, _CAUSAL, couple=0.08, add=0.06)),
    Bucket(32, 8, 72, 0.08, {"add": 1.0}),
    Bucket(32, 32, 48, 0.10, {"sudoku4": 0.8, "latin4": 0.2}),
    Bucket(48, 16, 48, 0.02, {"couple": 1.0}),
)
DRAFT_BUCKETS = (
    Bucket(32, 16, 64, 0.88, _mix(0.78, _EARLY, couple=0.08, add=0.14)),
    Bucket(32, 32, 48, 0.10, {"sudoku4": 0.6, "latin4": 0.4}),
    Bucket(48, 16, 48, 0.02, {"couple": 1.0}),
)
SMOKE_BUCKETS = (Bucket(32, 16, 64, 1.0, {"copy": 0.6, "shuffle": 0.4}),)


BatchAt = Callable[[int, int], dict[str, np.ndarray]]


def grown(folder: Path, config: ModelConfig, seed: int) -> PyTree:
    """Weights of an exported model, in float32, spread over a model that may be deeper and wider, same function.

    Layer i becomes a run of layers, itself and copies whose outputs are zero. Of w times the width, each channel of the
    residual stream is there w times, what reads it is divided by w, and the final norm by sqrt(w), which undoes what
    the logit scale width^-1/2 makes of w equal products. New heads and feed-forward units read at random and write zero.
    """
    from safetensors.numpy import load_file

    stored = load_file(str(folder / "model.safetensors"))
    times = config.hidden_size // stored["final_norm"].shape[0]
    fresh = init_params(config, jax.random.key(seed), init="train")

    def leaf(path: str, spec: ParamSpec, new: Array) -> Array:
        value = stored[path].astype(np.float32)
        if path.startswith("segments/"):
            copies = config.num_layers // value.shape[0]
            value = np.repeat(value, copies, axis=0)
            if spec.kind == "output":
                value[np.arange(len(value)) % copies != 0] = 0
        stream = value.ndim - 1 if spec.kind == "norm" else spec.axes.index("embed")
        value = np.concatenate([value] * times, axis=stream)
        value /= {"matrix": times, "norm": times**0.5 if path == "final_norm" else 1}.get(spec.kind, 1)
        around = jnp.zeros_like(new) if spec.kind == "output" else new
        return around.at[tuple(map(slice, value.shape))].set(value)

    return jax.tree.map(leaf, map_specs(lambda path, _: path, config), param_specs(config), fresh)


def config(name: str, width: int, layers: int, heads: int = 4) -> ModelConfig:
    """Shape of an embedded model; causal unless its name is `tiny`."""
    masked = name == "tiny"
    return ModelConfig(
        family="jaxdlm",
        vocab_size=vocab.SIZE,
        num_layers=layers,
        hidden_size=width,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=width // heads,
        intermediate_size=4 * width,
        max_position=2048,
        norm_eps=1e-6,
        rope=RopeConfig(theta=10000.0),
        activation="relu2",
        gated_mlp=False,
        tie_embeddings=True,
        logit_scale=width**-0.5,
        attention="full" if masked else "causal",
        prediction="same" if masked else "next",
        noise="mask" if masked else "none",
        tokens=TokenIds(
            mask=vocab.MASK if masked else None,
            pad=vocab.PAD,
            bos=vocab.BOS,
            eos=(vocab.EOS,),
            turn_end=vocab.EOT,
            tokenizer_size=vocab.SIZE,
        ),
        param_dtype="float32",
    )


def pick(buckets: tuple[Bucket, ...], step: int) -> Bucket:
    """Bucket of a step: a low-discrepancy walk over the shares, so that every window of steps has the mixture."""
    point = (step * 0.6180339887498949) % sum(bucket.share for bucket in buckets)
    for bucket in buckets:
        point -= bucket.share
        if point < 0:
            return bucket
    return buckets[-1]


def _masked(seed: int, step: int) -> dict[str, np.ndarray]:
    return masked_batch(pick(MASKED_EARLY if step < SECOND_STAGE else MASKED_LATE, step), seed, step)


def _causal(buckets: tuple[Bucket, ...], seed: int, step: int) -> dict[str, np.ndarray]:
    return causal_batch(pick(buckets, step), seed, step)


def _smoke(seed: int, step: int) -> dict[str, np.ndarray]:
    return masked_batch(pick(SMOKE_BUCKETS, step), seed, step)


def _recipe(
    name: str, width: int, layers: int, batch_at: BatchAt, steps: int, seed: int, *,
    heads: int = 4, start: Path | None = None,
) -> Recipe:  # fmt: skip
    model = Backbone(config(name, width, layers, heads))

    def init(seed: int) -> PyTree:
        if start is not None:
            return grown(start, model.config, seed)
        return init_params(model.config, jax.random.key(seed), init="train")

    return Recipe(
        name=name,
        model=model,
        init=init,
        loss_fn=answer_loss,
        batch_at=batch_at,
        optimizer=muon(jax.eval_shape(partial(init, seed))),
        steps=steps,
        peak_lr=1e-2 if start is None else 4e-3,
        warmup=200 if start is None else 30,
        seed=seed,
    )


RECIPES: dict[str, Callable[[int], Recipe]] = {
    "tiny": lambda seed: _recipe("tiny", 128, 4, _masked, 8000, seed),
    "tiny-ar": lambda seed: _recipe(
        "tiny-ar", 192, 8, partial(_causal, CAUSAL_BUCKETS), 1200, seed, heads=8, start=ASSETS / "tiny-draft"
    ),
    "tiny-draft": lambda seed: _recipe("tiny-draft", 96, 2, partial(_causal, DRAFT_BUCKETS), 3500, seed),
    "smoke": lambda seed: _recipe("tiny", 128, 4, _smoke, 400, seed),
}


def recipe(name: str, seed: int = 0) -> Recipe:
    """The recipe of that name. Raises InputError with the known names."""
    if name not in RECIPES:
        raise InputError(f"recipe {name!r} is unknown; one of {', '.join(RECIPES)}")
    return RECIPES[name](seed)
