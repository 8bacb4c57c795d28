"""A small masked diffusion model that answers a command with a chunk of motion (`jaxdlm.eval.motion`), all tokens at once."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxdlm._load import LM
from jaxdlm.eval import motion
from jaxdlm.models.backbone import Backbone
from jaxdlm.models.config import ModelConfig, RopeConfig, TokenIds
from jaxdlm.models.params import init_params
from jaxdlm.train.data import hide
from jaxdlm.train.losses import answer_loss
from jaxdlm.train.step import Budget, Recipe, muon, train
from jaxdlm.typing import PyTree

COMMAND, CANVAS, ROWS = 1 + 2 * motion.JOINTS, motion.BEAST.bases * motion.JOINTS, 64


def config(width: int = 64, layers: int = 2) -> ModelConfig:
    """As the embedded models, for levels and styles in the place of words; no token ends an answer."""
    return ModelConfig(
        family="jaxdlm", vocab_size=motion.SIZE, num_layers=layers, hidden_size=width, num_heads=4, num_kv_heads=4,
        head_dim=width // 4, intermediate_size=4 * width, max_position=64, norm_eps=1e-6, rope=RopeConfig(theta=10000.0),
        activation="relu2", gated_mlp=False, tie_embeddings=True, logit_scale=width**-0.5, attention="full",
        prediction="same", noise="mask", tokens=TokenIds(mask=motion.MASK, pad=motion.PAD, eos=(), tokenizer_size=motion.SIZE),
        param_dtype="float32",
    )  # fmt: skip


def batch(seed: int, step: int) -> dict[str, np.ndarray]:
    """Commands and their chunks, l of the columns hidden; a pure function of (seed, step)."""
    rng = np.random.default_rng([seed, step])
    made = motion.problems(rng, ROWS)
    target = np.asarray(motion.encode(jnp.asarray(made.actions)))
    hidden = hide(target, rng, blocks=False)
    weight = hidden / hidden.sum(1, keepdims=True) / ROWS
    tokens = np.concatenate([made.command, np.where(hidden, motion.MASK, target)], axis=1)
    return {"tokens": tokens.astype(np.int32), "target": target, "weight": weight.astype(np.float32)}


def recipe(steps: int = 3000, seed: int = 0, width: int = 64, layers: int = 2) -> Recipe:
    """Muon on cross-entropy of the hidden levels."""
    model = Backbone(config(width, layers))

    def init(seed: int) -> PyTree:
        return init_params(model.config, jax.random.key(seed), init="train")

    return Recipe(
        name="beast", model=model, init=init, loss_fn=answer_loss, batch_at=batch,
        optimizer=muon(jax.eval_shape(partial(init, seed))), steps=steps, peak_lr=1e-2, warmup=100, seed=seed,
    )  # fmt: skip


def trained(folder: Path, *, steps: int = 3000, minutes: float | None = None, seed: int = 0) -> tuple[LM, int]:
    """(the model, steps made): as `jaxdlm.decode` takes it."""
    chosen = recipe(steps, seed)
    state = train(chosen, folder, Budget(steps, minutes), resume=True)
    return LM(chosen.model, state.params, None, "beast"), int(state.step)
