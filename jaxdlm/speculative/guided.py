"""Classifier-free guidance of a target: the model beside itself with its prompt taken away, as one model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp

from jaxdlm import argument, struct
from jaxdlm.core.model import KV, Model, ModelOutput, Past, Tiling
from jaxdlm.errors import InputError
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, PyTree

if TYPE_CHECKING:
    from jaxdlm.models.config import ModelConfig


@struct.dataclass
class Cfg:
    """l = l_u + (scale + 1)(l - l_u), where l_u are the logits with all of the prompt but its last token read as `null`.

    scale: 0 is no guidance. null: an id; None: the target's pad.
    """

    scale: Any
    null: int | None = struct.field(pytree_node=False, default=None)

    def check(self, lm: Any) -> None:
        """Raises InputError where the target has no such id."""
        if self.null is not None and self.null >= lm.config.vocab_size:
            raise InputError(f"null={self.null}: target {lm.name} has ids up to {lm.config.vocab_size - 1}")


def cfg_of(cfg_scale: Any, null: Any) -> Cfg | None:
    """The guidance that the arguments of a method mean; None where there is none."""
    scale, null = argument.number(cfg_scale, "cfg_scale", low=0), argument.whole(0, none=True)(null, "null")
    if isinstance(scale, float | int) and scale == 0:
        argument.unused("with cfg_scale=0", null=(null, None))
        return None
    return Cfg(scale, null)


class Weights(NamedTuple):
    """Of a guided model."""

    params: PyTree
    scale: Any


@dataclass(frozen=True)
class Guided:
    """Two passes of a model for one: with the prompt and without. Keys and hidden rows of both lie side by side.

    A call without a past reads prompts. Their last token is read again behind them, as the loop does it, and by both alike.
    """

    model: Model
    null: int

    @property
    def config(self) -> "ModelConfig":
        return self.model.config

    @property
    def tiling(self) -> Tiling:
        return self.model.tiling

    def apply(
        self,
        params: Weights,
        tokens: Int32[Array, "B T"],
        position: Int32[Array, "B T"],
        valid: Bool[Array, "B T"],
        past: Past | None = None,
        *,
        mask: Bool[Array, "B T S_T"] | None = None,
    ) -> ModelOutput:
        """Runs both; see `Model.apply`."""
        outs = []
        for side in range(2):
            read = jnp.full_like(tokens, self.null) if side and past is None else tokens
            own = None if past is None else past._replace(kv=half(past.kv, side))
            outs.append(self.model.apply(params.params, read, position, valid, own, mask=mask))
        one, other = outs
        hidden = jnp.concatenate([one.hidden, other.hidden], axis=-1)
        return ModelOutput(hidden, KV((*one.kv.k, *other.kv.k), (*one.kv.v, *other.kv.v)))

    def head(
        self, params: Weights, hidden: Float[Array, "... D2"], first: Int32[Array, ""] | None = None
    ) -> Float32[Array, "... V"]:
        """The guided logits."""
        with_prompt, without = (self.model.head(params.params, part, first) for part in jnp.split(hidden, 2, axis=-1))
        return without + (jnp.asarray(params.scale, jnp.float32) + 1) * (with_prompt - without)


def half(kv: KV, side: int) -> KV:
    """The keys and values of one of the two: segments of the first, then those of the second."""
    count = len(kv.k) // 2
    part = slice(side * count, (side + 1) * count)
    return KV(kv.k[part], kv.v[part])


def guided(model: Model, params: PyTree, cfg: Cfg | None) -> tuple[Model, PyTree]:
    """(the target as it is guided, its weights)."""
    if cfg is None:
        return model, params
    null = model.config.tokens.pad if cfg.null is None else cfg.null
    return Guided(model, null), Weights(params, cfg.scale)
