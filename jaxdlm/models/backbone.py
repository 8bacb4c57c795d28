"""One decoder stack for every family: a `lax.scan` per segment over stacked layers, driven by `ModelConfig` alone."""

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxdlm.core.model import KV, Features, LayerHook, LooksUp, ModelOutput, Past, Tiling, gather
from jaxdlm.errors import ConfigUnsupported
from jaxdlm.models.apart import Place, chosen, scanned, stacked, within
from jaxdlm.models.attention import Attend, Spread, choose
from jaxdlm.models.block import layer, layer_at, layer_in_place, parts
from jaxdlm.models.config import ModelConfig
from jaxdlm.models.layers import columns, mlp, product, read, rms_norm, wide_product
from jaxdlm.models.masks import Allow, attention_masks, canvas_masks
from jaxdlm.models.moe import Blocks, routing_blocks
from jaxdlm.models.parallel import grouped
from jaxdlm.models.rope import Rotation, rotation
from jaxdlm.models.segments import Segment, segments
from jaxdlm.typing import Array, Bool, Float, Float32, Int32, PyTree

# layers of a stack whose last layer is compiled apart to run for the asked columns alone: in a deeper one it is too
# small a part, and of two layers the program would hold both
SHALLOW = range(3, 9)


@dataclass(frozen=True)
class Backbone:
    """Implements `jaxdlm.core.model.Model`, `SupportsApplyAt`, `Embeds` and `Layered`, for every decoder family.

    A "prefix_canvas" model (uniform noise on a canvas behind a causal prefix) has two modes over the same weights:
    `apply` without a past is the causal prefix pass, with a past the canvas pass; `canvas` also takes the
    self-conditioning input.
    tile: ids per part when decoding reads the head in parts. stripes: devices that the head's vocabulary lies on
    (`sharding.striped`).
    group: layers whose attention reads the same input, so that it can run at the same time; 1 is the model itself,
    more are a rough form of it over the same weights, for drafting (see `jaxdlm.models.parallel`).
    attention: "auto", "xla", "cudnn" or "flash" (`attention.choose`); alone: all weights lie on one device; spread: how
    several share the heads (both from `sharding.striped`). "auto" asks for one of them before it takes its kernel.
    place: where all weights lie, if known (from there, too); kernels then read layers out of their stacks.
    """

    config: ModelConfig
    tile: int = 8192
    stripes: int = 1
    group: int = 1
    attention: str = "auto"
    alone: bool = False
    spread: Spread | None = None
    place: Place | None = None

    def apply(
        self,
        params: PyTree,
        tokens: Int32[Array, "B T"],
        position: Int32[Array, "B T"],
        valid: Bool[Array, "B T"],
        past: Past | None = None,
        *,
        mask: Bool[Array, "B T S_T"] | None = None,
    ) -> ModelOutput:
        """Runs the stack; see `Model.apply`."""
        if self.config.attention == "prefix_canvas" and past is not None:
            return self.canvas(params, tokens, position, valid, past, mask=mask)
        return self.prefix(params, tokens, position, valid, past, mask=mask)

    def prefix(
        self,
        params: PyTree,
        tokens: Int32[Array, "B T"],
        position: Int32[Array, "B T"],
        valid: Bool[Array, "B T"],
        past: Past | None = None,
        *,
        mask: Bool[Array, "B T S_T"] | None = None,
    ) -> ModelOutput:
        """The pass with the family's own mask; for "prefix_canvas" models the causal one that fills the cache."""
        allow = attention_masks(self.config, position, valid, past, mask)
        blocks = routing_blocks(self.config, position, valid)
        return self._stack(params, self.embed(params, tokens), position, allow, past, "prefix", blocks)

    def canvas(
        self,
        params: PyTree,
        tokens: Int32[Array, "B T"],
        position: Int32[Array, "B T"],
        valid: Bool[Array, "B T"],
        past: Past | None = None,
        *,
        self_cond: Float[Array, "B T V"] | None = None,
        soft: Float[Array, "B T D"] | None = None,
        mask: Bool[Array, "B T S_T"] | None = None,
    ) -> ModelOutput:
        """A canvas that sees itself whole and the prefix.

        `self_cond` are the probabilities of the step before, `soft` is what `expected_embedding` makes of them: either,
        or neither.
        """
        x = self.embed(params, tokens)
        if self.config.self_conditioning:
            x = self._condition(params, x, soft if self_cond is None else self.expected_embedding(params, self_cond))
        allow = canvas_masks(self.config, position, valid, past, mask)
        return self._stack(params, x, position, allow, past, "canvas")

    def apply_with_hook(
        self,
        params: PyTree,
        tokens: Int32[Array, "B T"],
        position: Int32[Array, "B T"],
        valid: Bool[Array, "B T"],
        past: Past | None,
        hook: LayerHook,
        *,
        mask: Bool[Array, "B T S_T"] | None = None,
    ) -> Features:
        """The pass with the family's own mask, and `hook` in place of each layer; see `Layered.apply_with_hook`."""
        config, side, memory = self.config, hook.side, []
        x, turns = self.embed(params, tokens), _rotations(config, position)
        allow, blocks = attention_masks(config, position, valid, past, mask), routing_blocks(config, position, valid)
        runs = segments(config)
        for number, segment in enumerate(runs):
            one = LayerHook(hook.run, side, hook.memory[number], hook.last if segment is runs[-1] else None)
            scalars = params["layer_scalar_prefix"] if config.layer_scalar else None
            x, side, remembered = _run(
                config,
                segment,
                params["segments"][number],
                x,
                turns,
                allow,
                one,
                scalars,
                self._attend,
                blocks,
                self.place,
            )
            memory.append(remembered)
        return Features(rms_norm(x, params["final_norm"], config), side, tuple(memory))

    def apply_at(
        self,
        params: PyTree,
        tokens: Int32[Array, "B T"],
        position: Int32[Array, "B T"],
        valid: Bool[Array, "B T"],
        at: Int32[Array, "B W"],
    ) -> Float[Array, "B W D"]:
        """See `SupportsApplyAt.apply_at`; in a shallow stack the last layer computes nothing but keys and values
        elsewhere."""
        if self.group > 1 or self.config.num_layers not in SHALLOW or self.config.expert_capacity:
            return gather(self.apply(params, tokens, position, valid).hidden, at)
        nothing = tuple((None,) * segment.period for segment in segments(self.config))
        hook = LayerHook(layer, (), nothing, functools.partial(layer_at, at))
        return self.apply_with_hook(params, tokens, position, valid, None, hook).hidden

    @property
    def _attend(self) -> Attend:
        return choose(self.attention, self.alone, self.spread)

    @property
    def tiling(self) -> Tiling:
        stripes = self.stripes if self.config.vocab_size % self.stripes == 0 else 1
        return Tiling(self.config.vocab_size, self.tile, stripes)

    def head(
        self, params: PyTree, hidden: Float[Array, "... D"], first: Int32[Array, ""] | None = None
    ) -> Float32[Array, "... V"]:
        """Logits in float32: hidden · lm_head (or embedᵀ when tied) · logit_scale, then cap · tanh(· / cap)."""
        config = self.config
        tied = "lm_head" not in params
        name, form = ("embed", "...d,vd->...v") if tied else ("lm_head", "...d,dv->...v")
        weight = params[name] if first is None else columns(params[name], 0 if tied else 1, first, self.tiling)
        logits = wide_product(form, hidden, read(weight, hidden.dtype))
        if config.logit_scale is not None:
            logits = logits * config.logit_scale
        if config.final_softcap is not None:
            logits = config.final_softcap * jnp.tanh(logits / config.final_softcap)
        return logits

    def embed(self, params: PyTree, tokens: Int32[Array, "..."]) -> Float[Array, "... D"]:
        """See `Embeds.embed`."""
        table = params["embed"]
        dtype = table.dtype
        own = isinstance(table, LooksUp)
        x = table.rows(tokens, dtype) if own else jnp.take(table, tokens, axis=0, mode="clip")
        return x if self.config.embed_scale is None else x * self._embed_scale(dtype)

    def _embed_scale(self, dtype: Any) -> Array:
        # rounded to the weight dtype first, as the released implementations do (sqrt(1152) is 34.0 in bfloat16)
        return jnp.asarray(self.config.embed_scale, dtype)

    def expected_embedding(self, params: PyTree, probabilities: Float[Array, "... V"]) -> Float[Array, "... D"]:
        """The mean embedding, scaled: p · embed · scale."""
        dtype = params["embed"].dtype
        soft = product("...v,vd->...d", probabilities.astype(dtype), read(params["embed"], dtype))
        return soft if self.config.embed_scale is None else soft * self._embed_scale(dtype)

    def _condition(self, params: PyTree, x: Array, soft: Array | None) -> Array:
        """rms(x + ffn(rms(soft))); the outer norm applies even when nothing is known yet, which is as soft = 0."""
        config, leaves = self.config, params["self_cond"]
        if soft is not None:
            x = x + mlp(leaves, rms_norm(soft.astype(x.dtype), leaves["pre_norm"], config), config)
        return rms_norm(x, None, config)

    def part(
        self,
        params: PyTree,
        x: Array,
        position: Int32[Array, "B T"],
        valid: Bool[Array, "B T"],
        past: Past | None,
        first: int,
        last: int,
    ) -> tuple[Float[Array, "B T D"], KV]:
        """Layers first .. last - 1 over hidden states x (over token ids where first = 0), before the final norm.

        For drafts with exits. Only stacks of equal layers have parts; `past` and the result hold these layers alone.
        """
        (segment,), config = segments(self.config), self.config
        if segment.period != 1 or config.layer_scalar:
            raise ConfigUnsupported(f"family {config.family}: only stacks of equal layers can be left early")
        kinds = config.layer_kinds[first:last]
        config = replace(config, num_layers=last - first, layer_kinds=kinds)
        leaves = jax.tree.map(lambda leaf: leaf[first:last], stacked(params["segments"][0]))
        x = self.embed(params, x) if first == 0 else x
        allow = attention_masks(config, position, valid, past, None)
        stored = [None] if past is None else [(past.kv.k[0][0], past.kv.v[0][0])]
        (segment,) = segments(config)
        hook = LayerHook(layer, (), stored)
        x, _, ((k, v),) = _run(
            config,
            segment,
            leaves,
            x,
            _rotations(config, position),
            allow,
            hook,
            None,
            self._attend,
            place=self.place,
        )
        return x, KV(((k,),), ((v,),))

    def exit(self, params: PyTree, x: Float[Array, "... D"]) -> Float32[Array, "... V"]:
        """Logits of hidden states that left the stack early: the final norm, then the head."""
        return self.head(params, rms_norm(x, params["final_norm"], self.config))

    def _stack(
        self, params: PyTree, x: Array, position: Array, allow: Allow, past: Past | None, mode: str,
        blocks: Blocks | None = None,
    ) -> ModelOutput:  # fmt: skip
        config = self.config
        turns = _rotations(config, position)
        keys, values = [], []
        for number, segment in enumerate(segments(config)):
            cached = None if past is None else (past.kv.k[number], past.kv.v[number])
            scalars = params[f"layer_scalar_{mode}"] if config.layer_scalar else None
            leaves = params["segments"][number]
            if self.group > 1:
                x, (k, v) = _run_grouped(config, segment, leaves, x, turns, allow, cached, self.group)
            else:
                stored = [None] * segment.period if cached is None else list(zip(*cached, strict=True))
                placed = None if past is None else past.place
                run = layer if placed is None else functools.partial(layer_in_place, placed)
                hook = LayerHook(run, (), stored)
                x, _, pairs = _run(
                    config, segment, leaves, x, turns, allow, hook, scalars, self._attend, blocks, self.place
                )
                k, v = zip(*pairs, strict=True)
            keys.append(k)
            values.append(v)
        return ModelOutput(rms_norm(x, params["final_norm"], config), KV(tuple(keys), tuple(values)))


def _rotations(config: ModelConfig, position: Array) -> dict[str, Rotation]:
    local = config.rope_local or config.rope
    return {
        kind: rotation(rope, config.attention_shape(kind)[1], position)
        for kind, rope in (("global", config.rope), ("local", local))
        if kind in config.kinds
    }


def _run(
    config: ModelConfig,
    segment: Segment,
    leaves: tuple[dict[str, Any], ...],
    x: Array,
    turns: dict[str, Rotation],
    allow: Allow,
    hook: LayerHook,
    scalars: Array | None,
    attend: Attend,
    blocks: Blocks | None = None,
    place: Place | None = None,
) -> tuple[Array, PyTree, PyTree]:
    """One segment: scan over its repeats, the body runs the layers of one period.

    With `hook.last` for its last layer, the last round stands behind the scan, and nothing is remembered.
    """
    kinds = [tuple(config.kinds[layer] for layer in segment.layers(p)) for p in range(segment.period)]
    local = tuple(jnp.asarray([kind == "local" for kind in column]) for column in kinds)
    numbers = tuple(jnp.asarray(segment.layers(p), jnp.int32) for p in range(segment.period))
    if scalars is not None:
        scalars = scalars[segment.start : segment.stop].reshape(segment.repeats, segment.period)

    def body(carry: tuple[Array, PyTree], round_: Any, last: Any = hook.run) -> tuple[tuple[Array, PyTree], Any]:
        x, side = carry
        sliced, local, numbers, memory, scalar, number = round_
        memories = []
        for p, shape in enumerate(segment.shapes):
            turn, seen = _select(set(kinds[p]), local[p], turns, allow)
            own = within(sliced[p] | chosen(leaves[p], number), leaves[p], number, place)
            one = parts(config, shape, own, numbers[p], turn, seen, attend, blocks)
            run = last if p == segment.period - 1 else hook.run
            x, side, remembered = run(one, x, side, memory[p])
            if scalar is not None:
                x = x * scalar[p].astype(x.dtype)
            memories.append(remembered)
        return (x, side), tuple(memories)

    counted = jnp.arange(segment.repeats, dtype=jnp.int32)
    rounds = (tuple(map(scanned, leaves)), local, numbers, tuple(hook.memory), scalars, counted)
    if hook.last is None:
        (x, side), memories = jax.lax.scan(body, (x, hook.side), rounds, length=segment.repeats)
        return x, side, memories

    def numbered(carry: tuple[Array, PyTree], number: Array) -> tuple[tuple[Array, PyTree], None]:
        # by number, since a scan over all rounds but one would copy them
        return body(carry, jax.tree.map(lambda leaf: leaf[number], rounds))[0], None

    carry, _ = jax.lax.scan(numbered, (x, hook.side), counted[:-1])
    (x, side), _ = body(carry, jax.tree.map(lambda leaf: leaf[-1], rounds), hook.last)
    return x, side, None


def _run_grouped(
    config: ModelConfig,
    segment: Segment,
    leaves: tuple[dict[str, Any], ...],
    x: Array,
    turns: dict[str, Rotation],
    allow: Allow,
    past: tuple[Any, Any] | None,
    group: int,
) -> tuple[Array, tuple[Any, Any]]:
    """One segment of equal layers with their attention in groups."""
    kinds = [config.kinds[number] for number in segment.layers(0)]
    local = jnp.asarray([kind == "local" for kind in kinds])
    stored = None if past is None else (past[0][0], past[1][0])
    see = lambda is_local: _select(set(kinds), is_local, turns, allow)  # noqa: E731
    x, (k, v) = grouped(config, segment.shapes[0], stacked(leaves[0]), local, x, see, stored, group)
    return x, ((k,), (v,))


def _select(
    kinds: set[str], is_local: Array, turns: dict[str, Rotation], allow: Allow
) -> tuple[Rotation, Bool[Array, "B T S"]]:
    """Rotation and mask of a layer: fixed where all repeats are of one kind, else chosen by the scanned flag."""
    masks = {"global": allow.global_, "local": allow.local_}
    if len(kinds) == 1:
        (kind,) = kinds
        return turns[kind], masks[kind]
    turn = jax.tree.map(lambda a, b: jnp.where(is_local, a, b), turns["local"], turns["global"])
    return turn, jnp.where(is_local, allow.local_, allow.global_)
