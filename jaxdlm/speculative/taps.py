"""What the target's own forwards show a drafter: hidden states of chosen layers. Where none is asked for, none is computed."""

import functools
from typing import Any

import jax.numpy as jnp

from jaxdlm.core.model import KV, Layer, Layered, LayerHook, Model, ModelOutput, Past
from jaxdlm.errors import InputError
from jaxdlm.models.block import layer, layer_in_place
from jaxdlm.speculative.state import Drafter, Watches
from jaxdlm.typing import Array, Bool, Float, Int32, PyTree


def taps_of(drafter: Drafter) -> tuple[int, ...]:
    """The layers whose outputs it asks for."""
    return drafter.taps if isinstance(drafter, Watches) else ()


def check(drafter: Drafter, lm: Any) -> None:
    """Raises InputError where the target has no such layers, or none that can be read one by one."""
    taps, config = taps_of(drafter), lm.config
    if taps and (not isinstance(lm.model, Layered) or config.layer_scalar or lm.model.group > 1):
        raise InputError(
            f"the draft method reads layers of {lm.name}, which cannot be read one by one: use another method"
        )
    if any(not 0 <= tap < config.num_layers for tap in taps):
        raise InputError(
            f"the draft method reads layers {', '.join(map(str, taps))} of its target, and {lm.name} has "
            f"{config.num_layers}, from 0 on: it was made for another target"
        )


def apply(
    model: Model, params: PyTree, tokens: Int32[Array, "B T"], position: Int32[Array, "B T"], valid: Bool[Array, "B T"],
    past: Past | None = None, *, mask: Bool[Array, "B T S_T"] | None = None, taps: tuple[int, ...] = (),
) -> tuple[ModelOutput, Float[Array, "B T K D"] | None]:  # fmt: skip
    """(`model.apply`, the residual stream behind each of the K layers `taps`, counted from 0, before any norm)."""
    if not taps:
        return model.apply(params, tokens, position, valid, past, mask=mask), None
    assert isinstance(model, Layered)
    run: Any = layer if past is None or past.place is None else functools.partial(layer_in_place, past.place)

    def tapped(one: Layer, x: Array, side: Array, memory: PyTree) -> tuple[Array, Array, PyTree]:
        x, _, memory = run(one, x, (), memory)
        here = (jnp.asarray(taps, jnp.int32) == one.number)[:, None, None, None]
        return x, jnp.where(here, x[None], side), memory

    blank = jnp.zeros((len(taps), *tokens.shape, model.config.hidden_size), model.config.param_dtype)
    out = model.apply_with_hook(
        params, tokens, position, valid, past, LayerHook(tapped, blank, stored(model, past)), mask=mask
    )
    k, v = zip(*(zip(*pairs, strict=True) for pairs in out.memory), strict=True)
    return ModelOutput(out.hidden, KV(k, v)), jnp.moveaxis(out.side, 0, 2)


def stored(model: Model, past: Past | None) -> PyTree:
    """The stored keys and values as each layer's own memory."""
    if past is not None:
        return tuple(tuple(zip(k, v, strict=True)) for k, v in zip(past.kv.k, past.kv.v, strict=True))
    from jaxdlm.models.segments import segments

    return tuple((None,) * segment.period for segment in segments(model.config))
