"""`ModelConfig`: every number that decides what a decoder stack computes. Hashable, validated, exact in JSON."""

import functools
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from jaxdlm.argument import Kind, flag, listed, one_of, real, shown, table, text, whole
from jaxdlm.errors import InputError

ROPE_KINDS = ("default", "linear", "llama3", "proportional", "yarn")
ATTENTIONS = ("full", "causal", "block_causal", "prefix_canvas")
ACTIVATIONS = ("silu", "gelu_tanh", "relu2")
ORDERS = ("position", "storage")
DTYPES = ("float32", "bfloat16", "float16")

# What a field may be. No released model comes near these bounds; a larger number is a damaged or hostile file, refused
# before any name set or array is built from it.
LAYERS, EXPERTS, HEADS, WIDTH, HEAD_DIM, WORDS = 1024, 4096, 4096, 10**6, 65536, 4 * 10**6
POSITIONS, BLOCK = 2**30, 65536
Flag = Annotated[bool, flag]
Width = Annotated[int, whole(0, WIDTH)]
Heads = Annotated[int, whole(1, HEADS)]
Experts = Annotated[int, whole(0, EXPERTS)]
Groups = Annotated[int, whole(1, EXPERTS)]
Window = Annotated[int, whole(0, POSITIONS)]
Factor = Annotated[float, real(above=0, high=10**6)]
Id = Annotated[int, whole(0, WORDS - 1)]
Kinds = Annotated[tuple[str, ...], listed(one_of("global", "local"))]


def check_fields(config: Any) -> None:
    """Raises InputError for the first field of a dataclass that is not of the kind in its annotation."""
    for name, (kind, optional) in _kinds(config.__class__).items():
        value = getattr(config, name)
        if value is not None or not optional:
            kind(value, name)


@functools.cache
def _kinds(cls: type) -> dict[str, tuple[Kind, bool]]:
    """Name -> (kind, whether it may be None) of the fields whose annotation has one."""
    kinds = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        parts = get_args(hint) if isinstance(hint, UnionType) or get_origin(hint) is Union else (hint,)
        kind = next((part.__metadata__[0] for part in parts if hasattr(part, "__metadata__")), None)
        if kind is not None:
            kinds[name] = (kind, type(None) in parts)
    return kinds


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary embedding: half-split pairing on the first `rotary_dim` channels, base `theta`.

    kind: default; linear (frequencies / factor); llama3 (long wavelengths / factor, smooth between the two
    wavelengths original_max_position / high_freq_factor and / low_freq_factor); proportional (only the first
    proportion * H / 2 frequencies turn, the exponent divides by H); yarn (arXiv 2309.00071: frequencies that turn less than
    beta_slow times within original_max_position / factor, more than beta_fast times as they are, linear in their number
    between, whose ends `truncate` makes whole; cos and sin times attention_factor). query_beta: queries at position t are
    multiplied by 1 + query_beta · ln(1 + ⌊t / original_max_position⌋), as Ministral 3 does.
    """

    theta: Annotated[float, real(above=0, high=10**15)]
    kind: Annotated[str, one_of(*ROPE_KINDS)] = "default"
    rotary_dim: Annotated[int, whole(1, HEAD_DIM)] | None = None
    factor: Factor = 1.0
    low_freq_factor: Factor = 1.0
    high_freq_factor: Factor = 4.0
    original_max_position: Annotated[int, whole(1, POSITIONS)] = 8192
    beta_fast: Factor = 32.0
    beta_slow: Factor = 1.0
    truncate: Flag = True
    attention_factor: Factor = 1.0
    query_beta: Annotated[float, real(0, 10**6)] = 0.0
    proportion: Annotated[float, real(above=0, high=1)] = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        rising = self.low_freq_factor < self.high_freq_factor  # the smooth part divides by their difference
        _require(
            self.kind != "llama3" or rising,
            f"low_freq_factor {self.low_freq_factor} must be below high_freq_factor {self.high_freq_factor}",
        )
        _require(
            self.kind != "yarn" or self.theta > 1, f"yarn divides by the logarithm of theta {self.theta}: must be > 1"
        )
        slower = self.beta_slow <= self.beta_fast
        _require(
            self.kind != "yarn" or slower, f"beta_slow {self.beta_slow} must not exceed beta_fast {self.beta_fast}"
        )


@dataclass(frozen=True, kw_only=True)
class TokenIds:
    """Special token ids. `mask` is None for models without a mask token.

    `eos` lists every id that ends a text, each once, `turn_end` among them; the first is what is written behind an end.
    """

    mask: Id | None = None
    pad: Id = 0
    bos: Id | None = None
    eos: Annotated[tuple[int, ...], listed(whole(0, WORDS - 1))] = ()
    turn_end: Id | None = None
    tokenizer_size: Annotated[int, whole(1)] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        turn = () if self.turn_end is None else (self.turn_end,)
        object.__setattr__(self, "eos", tuple(dict.fromkeys((*self.eos, *turn))))


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One decoder stack. Field by field what the forward pass reads; nothing here is a training or decoding setting."""

    family: Annotated[str, text]
    # sizes
    vocab_size: Annotated[int, whole(1, WORDS)]
    num_layers: Annotated[int, whole(1, LAYERS)]
    hidden_size: Annotated[int, whole(1, WIDTH)]
    num_heads: Heads
    num_kv_heads: Heads
    head_dim: Annotated[int, whole(1, HEAD_DIM)]
    intermediate_size: Width
    max_position: Annotated[int, whole(1, POSITIONS)]
    # norms
    norm_eps: Annotated[float, real(above=0, high=1)]
    norm_plus_one: Flag = False  # scale is 1 + w; w is kept as stored, folding would lose bits in bfloat16
    norm_scale_in_f32: Flag = False
    sandwich_norm: Flag = False
    # attention
    qkv_bias: Flag = False
    qk_norm: Flag = False
    v_norm: Flag = False
    attn_scale: Factor | None = None  # None: head_dim ** -0.5
    rope: RopeConfig
    rope_local: RopeConfig | None = None
    rope_in_f32: Flag = False
    layer_kinds: Kinds = ()  # "global" or "local" per layer; empty: all global
    sliding_window: Window = 0
    canvas_window: Window = 0  # prefix columns that a canvas sees in local layers; 0: sliding_window
    global_head_dim: Annotated[int, whole(0, HEAD_DIM)] = 0  # only where it differs from head_dim
    global_kv_heads: Annotated[int, whole(0, HEADS)] = 0
    k_eq_v_global: Flag = False
    # feed-forward
    activation: Annotated[str, one_of(*ACTIVATIONS)] = "silu"
    gated_mlp: Flag = True
    num_experts: Experts = 0
    top_k: Experts = 0
    expert_size: Width = 0
    shared_size: Width = 0
    first_dense_layers: Annotated[int, whole(0, LAYERS)] = 0
    router_score: Annotated[str, one_of("softmax", "sigmoid")] = "softmax"
    router_bias: Flag = False
    n_group: Groups = 1
    topk_group: Groups = 1
    norm_topk: Flag = False
    routed_scale: Factor = 1.0
    router_in_f32: Flag = False
    expert_capacity: Experts = 0  # experts that the tokens of a routing block share; 0: each token chooses among all
    routing_block: Annotated[int, whole(0, BLOCK)] = 0  # positions of such a block
    moe_parallel_dense: Flag = False
    # embedding and head
    tie_embeddings: Flag = False
    embed_scale: Factor | None = None
    final_softcap: Factor | None = None
    logit_scale: Factor | None = None
    layer_scalar: Flag = False
    self_conditioning: Flag = False
    # use
    attention: Annotated[str, one_of(*ATTENTIONS)] = "causal"
    order: Annotated[str, one_of(*ORDERS)] = "position"  # what precedes in causal attention: see `attention_masks`
    block_size: Annotated[int, whole(0, BLOCK)] = 0  # block of block_causal, or the canvas length
    prediction: Annotated[str, one_of("same", "next")] = "next"
    noise: Annotated[str, one_of("mask", "uniform", "none")] = "none"
    tokens: TokenIds
    param_dtype: Annotated[str, one_of(*DTYPES)] = "bfloat16"

    def __post_init__(self) -> None:
        check_fields(self)
        _check_attention(self)
        _check_experts(self)
        _check_tokens(self)

    @property
    def kinds(self) -> tuple[str, ...]:
        """ "global" or "local" for each layer."""
        return self.layer_kinds or ("global",) * self.num_layers

    @property
    def masked_canvas(self) -> bool:
        """Whether masks are read in a canvas behind a causal prefix, and nowhere else."""
        return self.attention == "prefix_canvas" and self.noise == "mask"

    @property
    def local_shapes_differ(self) -> bool:
        """True where global layers have other head shapes than local ones, so they cannot share one scan body."""
        same = self.global_head_dim in (0, self.head_dim) and self.global_kv_heads in (0, self.num_kv_heads)
        return not same or self.k_eq_v_global

    def attention_shape(self, kind: str) -> tuple[int, int]:
        """(key/value heads, head size) of a layer of this kind."""
        if kind == "global":
            return self.global_kv_heads or self.num_kv_heads, self.global_head_dim or self.head_dim
        return self.num_kv_heads, self.head_dim

    def with_canvas_window(self, columns: int) -> "ModelConfig":
        """The same stack whose canvas sees this many prefix columns in local layers. InputError where no canvas does."""
        _require(
            self.attention == "prefix_canvas" and "local" in self.layer_kinds,
            f"canvas_window={shown(columns)} means nothing: {self.family} has no canvas with local layers; leave it out",
        )
        return replace(self, canvas_window=whole(1, self.max_position)(columns, "canvas_window"))

    def in_blocks(self, length: int) -> "ModelConfig":
        """The same stack with attention blocks, or a canvas, of this length. Raises InputError where it has neither."""
        if self.attention not in ("block_causal", "prefix_canvas"):
            raise InputError(
                f"block_size={length} means nothing: {self.family} has {self.attention} attention; leave it out"
            )
        return replace(self, block_size=length)

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON values; `from_json` is its exact inverse."""
        return _plain(asdict(self))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "ModelConfig":
        """Inverse of `to_json`; an unknown or missing key, or a value of another type, is an InputError."""
        values = dict(values)
        for name, nested in (("rope", RopeConfig), ("rope_local", RopeConfig), ("tokens", TokenIds)):
            if values.get(name) is not None:
                values[name] = _inside(name, nested, table(values[name], name))
        return _build(cls, values)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


def _inside(name: str, cls: Any, values: Mapping[str, Any]) -> Any:
    try:
        return _build(cls, values)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _build(cls: Any, values: Mapping[str, Any]) -> Any:
    known = {field.name: field for field in fields(cls)}
    unknown = sorted(set(values) - set(known))
    _require(not unknown, f"{cls.__name__}: unknown key {', '.join(key[:60] for key in unknown[:8])}")
    missing = [name for name, field in known.items() if field.default is MISSING and values.get(name) is None]
    _require(not missing, f"{cls.__name__}: {', '.join(missing)} missing")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _check_attention(config: ModelConfig) -> None:
    for kind in ("global", "local"):
        kv_heads, head_dim = config.attention_shape(kind)
        _require(
            config.num_heads % kv_heads == 0, f"num_heads {config.num_heads} is no multiple of {kv_heads} kv heads"
        )
        rope = config.rope_local if kind == "local" and config.rope_local else config.rope
        rotary = head_dim if rope.rotary_dim is None else rope.rotary_dim
        _require(rotary % 2 == 0, f"rotary_dim {rotary} must be even")
        _require(0 < rotary <= head_dim, f"rotary_dim {rotary} must be in 1..head_dim {head_dim}")
    _require(
        len(config.layer_kinds) in (0, config.num_layers),
        f"layer_kinds has {len(config.layer_kinds)} entries, num_layers is {config.num_layers}",
    )
    _require("local" not in config.layer_kinds or config.sliding_window > 0, "local layers need sliding_window > 0")
    blocks = config.attention in ("block_causal", "prefix_canvas")
    _require(config.order == "position" or config.attention == "causal", "order 'storage' needs attention 'causal'")
    _require(not blocks or config.block_size > 0, f"attention {config.attention!r} needs block_size > 0")


def _check_experts(config: ModelConfig) -> None:
    if config.num_experts == 0:
        _require(config.intermediate_size > 0, "intermediate_size must be positive for a dense feed-forward")
        return
    _require(config.expert_size > 0, "num_experts > 0 needs expert_size > 0")
    _require(config.gated_mlp, "experts are gated: gated_mlp=False needs num_experts=0")
    _require(
        config.num_experts % config.n_group == 0,
        f"num_experts {config.num_experts} is no multiple of n_group {config.n_group}",
    )
    _require(
        1 <= config.topk_group <= config.n_group,
        f"topk_group {config.topk_group} must be in 1..n_group {config.n_group}",
    )
    reachable = config.topk_group * config.num_experts // config.n_group
    _require(
        1 <= config.top_k <= reachable, f"top_k {config.top_k} must be in 1..{reachable} (experts in topk_group groups)"
    )
    shared = config.expert_capacity
    _require(
        not shared or (config.router_score == "sigmoid" and config.router_bias and config.routing_block > 0),
        "expert_capacity needs sigmoid scores, a router bias and routing_block > 0",
    )
    _require(
        not shared or config.top_k <= shared <= config.num_experts,
        f"expert_capacity {shared} must be from top_k {config.top_k} to num_experts {config.num_experts}",
    )
    dense = config.first_dense_layers
    _require(
        0 <= dense <= config.num_layers, f"first_dense_layers {dense} must be in 0..num_layers {config.num_layers}"
    )
    needs_dense = dense > 0 or config.moe_parallel_dense
    _require(not needs_dense or config.intermediate_size > 0, "dense layers need intermediate_size > 0")


def _check_tokens(config: ModelConfig) -> None:
    ids = config.tokens
    _require(config.noise != "mask" or ids.mask is not None, "noise 'mask' needs tokens.mask")
    for name in ("mask", "pad", "bos", "eos", "turn_end"):
        value = getattr(ids, name)
        for number in value if isinstance(value, tuple) else () if value is None else (value,):
            _require(number < config.vocab_size, f"tokens.{name} {number} is outside 0..{config.vocab_size - 1}")
