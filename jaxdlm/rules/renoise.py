"""A canvas of uniform noise that is rewritten until it settles (DiffusionGemma; entropy bound of arXiv 2505.24857)."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.carry import Geometry, Row, Update
from jaxdlm.core.compose import NEG_ENTROPY, Traits
from jaxdlm.core.keys import column_integer
from jaxdlm.core.rule import Stage, need, times
from jaxdlm.core.temperature import scale_logits
from jaxdlm.typing import Array, Int32, Key


@struct.dataclass
class Anneal(Stage):
    """See `anneal`."""

    declares: ClassVar[Traits] = Traits(reads=("logits",), writes=("logits", "condition"))

    steps: Any
    t_min: Any
    t_max: Any

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        left = 1.0 - row.tick.astype(jnp.float32) / jnp.asarray(self.steps, jnp.float32)
        low, high = (jnp.clip(jnp.float32(t), argument.COLDEST, argument.HOTTEST) for t in (self.t_min, self.t_max))
        shaped = scale_logits(update.logits, low + (high - low) * left)
        ratio = jnp.exp(shaped)  # to the best, whose logit is 0
        return update._replace(logits=shaped, condition=ratio / jnp.sum(ratio, axis=1, keepdims=True)), state


def anneal(steps: Any = 48, t_min: Any = 0.4, t_max: Any = 0.8) -> Anneal:
    """l' = l / (t_min + (t_max - t_min)(1 - i / steps)) at forward i of a block; softmax(l') conditions the next one.

    A transform of logits: chain it before `sample(1.0, measure=neg_entropy)`. Models without self-conditioning drop
    the second part. Args: 48 forwards, 0.4, 0.8, as released with DiffusionGemma; t_min itself is never reached. A
    temperature below 1e-8 counts as that. Raises InputError for steps < 1 or temperatures <= 0 or > 1e30.
    """
    t_min, t_max = (
        argument.number(x, name, above=0, high=argument.HOTTEST) for name, x in (("t_min", t_min), ("t_max", t_max))
    )
    return Anneal(argument.steps(steps, none=False), t_min, t_max)


@struct.dataclass
class Renoise(Stage):
    """See `renoise`."""

    declares: ClassVar[Traits] = Traits(reads=("token", "commit"), writes=("fill", "commit"), noise="uniform")

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "commit", rule="renoise")
        noise = column_integer(key, row.position, update.logits.shape[1])
        accepted = jnp.asarray(update.commit, bool)
        fill = jnp.where(row.open, jnp.where(accepted, update.token, noise), row.tokens)
        return update._replace(fill=fill, commit=jnp.zeros_like(accepted)), state


def renoise() -> Renoise:
    """Turns a selection into the next canvas: what it chose is written, every other open column is a fresh random token.

    Nothing is final by it; chain `stop_when_stable` after it. Only for models whose noise is uniform.
    """
    return Renoise()


@struct.dataclass
class StopWhenStable(Stage):
    """See `stop_when_stable`. State: the last `history` arg max of the window, newest first."""

    declares: ClassVar[Traits] = Traits(
        reads=("logits", "token", "score", "commit"), writes=("token", "commit"), expects=NEG_ENTROPY
    )

    steps: Any
    kappa: Any
    history: int = struct.field(pytree_node=False, default=1)

    def init(self, window: int, vocab: int) -> Int32[Array, "H W"]:
        return jnp.full((self.history, window), -1, jnp.int32)

    def apply(self, update: Update, state: Any, row: Row, key: Key[Array, ""]) -> tuple[Update, Any]:
        need(update, "token", "score", rule="stop_when_stable")
        best = jax.lax.argmax(update.logits, 1, jnp.int32)
        past = jnp.where(row.tick == 0, -1, state)
        stable = jnp.all((past == best[None]) | ~row.open[None])
        columns = jnp.maximum(jnp.sum(row.open), 1).astype(jnp.float32)
        doubt = jnp.sum(jnp.where(row.open, -jnp.asarray(update.score), 0.0)) / columns
        last = row.tick >= jnp.asarray(self.steps, jnp.int32) - 1
        stop = (stable & (doubt < self.kappa)) | last
        token = jnp.where(stop, best, update.token)
        return update._replace(token=token, commit=row.open & stop), jnp.concatenate([best[None], past])[: self.history]

    def forwards(self, geometry: Geometry) -> Int32[Array, ""] | int:
        return times(geometry.blocks, self.steps)


def stop_when_stable(steps: Any = 48, kappa: Any = 0.005, history: int = 1) -> StopWhenStable:
    """Ends a block with its arg max once that has held for `history` forwards and the mean entropy is below kappa.

    Or at forward `steps`. Reads entropies off the score: chain it after `sample(1.0, measure=neg_entropy)`.
    Args: 48 forwards, 0.005 nats, 1, as released with DiffusionGemma. history is a shape.
    Of the two released samplers this is the one in transformers: it compares with the arg max before, not with the
    renoised canvas, and writes the arg max, not the last draw. Raises InputError for steps or history < 1, kappa < 0.
    """
    history = argument.whole(1, argument.STEPS)(history, "history")
    return StopWhenStable(argument.steps(steps, none=False), argument.nats(kappa, "kappa"), history)
